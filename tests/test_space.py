import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradvis import Block, ParameterSpace


def test_blocks_lie_one_after_the_other():
    space = ParameterSpace([Block("a", (2, 3)), Block("b", (), kind="bias"), Block("c", (4,), kind="norm")])

    assert space.d == 11
    assert [(block.name, block.slice.start, block.slice.stop) for block in space] == [
        ("a", 0, 6),
        ("b", 6, 7),
        ("c", 7, 11),
    ]
    parts = space.split(np.arange(11.0))
    assert parts["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert parts["b"].shape == ()
    assert space["c"].kind == "norm"


def test_filters_are_what_each_filter_axis_counts():
    grouped = Block("transposed", (4, 3, 2), view=(2, 2, 3, 2), filter_axes=(0, 2))  # 2 groups, 3 outputs each
    values = np.arange(24.0)

    rows = grouped.filters(values)

    expected = [values.reshape(2, 2, 3, 2)[group, :, out].ravel() for group in range(2) for out in range(3)]
    np.testing.assert_array_equal(rows, expected)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_flatten_undoes_filters(shape, data):
    axes = data.draw(st.lists(st.sampled_from(range(len(shape))), unique=True, min_size=1))
    block = Block("any", tuple(shape), filter_axes=tuple(axes), start=0)
    values = np.arange(float(block.size))

    np.testing.assert_array_equal(block.flatten(block.filters(values)), values)


def test_names_must_differ():
    with pytest.raises(ValueError, match="name of its own"):
        ParameterSpace([Block("a", (1,)), Block("a", (2,))])


def test_a_view_must_hold_the_block():
    with pytest.raises(ValueError, match="does not hold"):
        Block("a", (2, 3), view=(2, 2))


def test_patterns_that_match_nothing_name_what_there_is():
    with pytest.raises(ValueError, match="no parameter matches 'b\\*'; there are \\['a'\\]"):
        ParameterSpace([Block("a", (1,))]).matching("b*")


def test_vectors_of_another_length_are_refused():
    with pytest.raises(ValueError, match="a vector of 3 parameters was wanted"):
        ParameterSpace([Block("a", (3,))]).check(np.zeros(4))
