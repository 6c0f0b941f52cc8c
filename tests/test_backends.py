"""What both backends share: it knows no framework, and says what it says for either."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

from gradvis import Plane
from gradvis.backends.given import check_shard
from gradvis.backends.operators import check, check_vectors
from gradvis.backends.policies import check_derivable, check_divisible, chosen_policy, on_plane, whole_batches
from gradvis.backends.reading import read
from gradvis.backends.room import fastest, with_room
from gradvis.backends.rows import Digest, Rows, rows_of
from gradvis.notes import Note
from tests.test_house import FRAMEWORKS, ROOT, imported

HOMES = sorted((ROOT / "backends").glob("*.py"))


@pytest.mark.parametrize("path", HOMES, ids=lambda path: path.stem)
def test_a_home_of_both_backends_imports_no_framework(path: Path):
    assert not {name.split(".")[0] for name in imported(path)} & FRAMEWORKS
    assert not [name for name in imported(path) if name.startswith(("gradvis.backends.tf", "gradvis.backends.pytorch"))]


@pytest.mark.parametrize("path", HOMES, ids=lambda path: path.stem)
def test_examples_are_true(path: Path):
    home = "gradvis.backends" if path.stem == "__init__" else f"gradvis.backends.{path.stem}"
    assert doctest.testmod(importlib.import_module(home)).failed == 0


# ---------------------------------------------------------------------- room


class FullError(Exception):
    """What a framework raises."""


def hungry(room: int, micro: int | None):
    """A computation that needs memory for its micro-batch, and what it went through."""
    went, now = [], [micro]

    def compute():
        went.append(now[0])
        if now[0] is None or now[0] > room:
            raise FullError
        return f"by {now[0]}"

    return compute, lambda: now[0], lambda half: now.__setitem__(0, half), went


def test_a_computation_without_room_goes_on_with_half_as_many_samples():
    compute, size, halve, went = hungry(6, 23)

    with pytest.warns(Note) as notes:
        found = with_room(compute, "gpu 3", size, halve, FullError, lambda: went.append("emptied"))

    assert found == "by 5"
    assert went == [23, "emptied", 11, "emptied", 5]
    assert [str(each.message) for each in notes] == [
        "gpu 3 ran out of memory: going on with 11 samples at once in place of 23",
        "gpu 3 ran out of memory: going on with 5 samples at once in place of 11",
    ]


@pytest.mark.filterwarnings("ignore::gradvis.notes.Note")
@pytest.mark.parametrize(
    ("micro", "said"), [(4, "one sample at a time"), (None, "batches that cannot be cut; pass smaller ones")]
)
def test_a_computation_that_cannot_be_smaller_is_given_up(micro, said):
    compute, size, halve, went = hungry(0, micro)

    with pytest.raises(RuntimeError, match=f"^gpu has not the memory for {said}$"):
        with_room(compute, "gpu", size, halve, FullError)
    assert went == ([None] if micro is None else [4, 2, 1])


def test_what_is_no_lack_of_room_is_raised_as_it_is():
    def compute():
        raise KeyError("weights")

    with pytest.raises(KeyError, match="weights"):
        with_room(compute, "gpu", lambda: 8, lambda half: None, FullError)


def test_each_way_is_warmed_up_before_it_is_timed():
    went = []

    assert fastest(["a", "b"], went.append, times=2) in {"a", "b"}
    assert went == ["a"] * 3 + ["b"] * 3


# ---------------------------------------------------------------------- batch norm


class Standing:
    """Something that stands somewhere."""

    def __init__(self, *theta):
        self.theta = np.array(theta)

    def parameters(self):
        return self.theta

    def at(self, checkpoint):
        return Standing(*checkpoint)


def pinned(*origin, **about):
    return Plane(np.array(origin), np.eye(2), about, {"early": (1.0, 2.0), "late": (3.0, 4.0)})


@pytest.mark.parametrize(
    ("plane", "free", "state", "policy"),
    [
        (pinned(0.0, 0.0), True, [0, 0], None),
        (pinned(3.0, 4.0), True, [3, 4], None),
        (pinned(3.0, 4.0, kind="pca"), True, [3, 4], "recalibrate"),
        (pinned(0.0, 0.0, kind="between"), True, [0, 0], "recalibrate"),
        (pinned(3.0, 4.0, kind="pca"), False, [3, 4], None),
        (pinned(7.0, 7.0), False, [0, 0], None),
    ],
)
def test_a_plane_asks_for_a_state_and_a_policy(plane, free, state, policy):
    here, wanted = on_plane(Standing(0.0, 0.0), plane, free)

    assert (here.theta.tolist(), wanted) == (state, policy)


def test_a_plane_of_unknown_parameters_is_recalibrated_and_says_so():
    with pytest.warns(Note, match="pinned at other parameters than the model's: batch norm is recalibrated"):
        here, policy = on_plane(Standing(0.0, 0.0), pinned(7.0, 7.0), free=True)

    assert (here.theta.tolist(), policy) == ([0, 0], "recalibrate")


@pytest.mark.parametrize(("given", "stored", "mixes"), [("eval", False, True), ("recalibrate", False, True)])
def test_statistics_that_nobody_keeps_are_no_policy(given, stored, mixes):
    with pytest.raises(ValueError, match=f"batch_norm='{given}' needs running statistics.*take 'batch'"):
        chosen_policy(given, stored, mixes)


@pytest.mark.parametrize("refuse", [check_derivable, check_divisible])
def test_only_recalibrated_statistics_have_no_derivatives_and_no_shards(refuse):
    assert [refuse(policy) for policy in (None, "eval", "batch")] == [None] * 3
    with pytest.raises(ValueError, match="batch_norm='recalibrate'"):
        refuse("recalibrate")


def test_a_whole_batch_without_room_is_told():
    said = pytest.raises(RuntimeError, match="^gpu has not the memory for a whole batch.*smaller batch_size$")
    with said, whole_batches("gpu", FullError):
        raise FullError


@pytest.mark.parametrize("vectors", [np.ones(3), np.ones((2, 4)), np.ones((1, 1, 3))])
def test_vectors_are_rows(vectors):
    with pytest.raises(ValueError, match=r"vectors of shape \(r, 3\) were wanted, but .* came"):
        check_vectors(vectors, 3)


@pytest.mark.parametrize(
    ("operator", "sees_outputs", "per_sample", "said"),
    [
        ("jacobian", True, True, "operator must be one of hessian, ggn, fisher, but 'jacobian' came"),
        ("ggn", False, True, "operator='ggn' needs the model's outputs, but batch_loss hides them"),
        ("fisher", False, True, "operator='fisher' needs the model's outputs, but batch_loss hides them"),
        ("fisher", True, False, "operator='fisher' needs the loss of each sample"),
    ],
)
def test_an_operator_that_a_loss_has_not_is_refused(operator, sees_outputs, per_sample, said):
    with pytest.raises(ValueError, match=said):
        check(operator, sees_outputs, per_sample)


def test_each_loss_has_a_hessian_and_the_operators_that_it_can():
    assert [check("hessian", False, False), check("ggn", True, False), check("fisher", True, True)] == [None] * 3


# ---------------------------------------------------------------------- data


@pytest.mark.parametrize("index", [-1, 3])
def test_a_shard_has_a_number_below_their_count(index):
    assert [check_shard(each, 3) for each in range(3)] == [None] * 3
    with pytest.raises(ValueError, match=f"a shard is numbered 0 to 2, but {index} came"):
        check_shard(index, 3)


def test_rows_are_the_chosen_samples_of_every_array_and_none_of_none():
    inputs, targets = np.arange(20).reshape(10, 2), {"a": np.arange(10), "b": np.arange(10) * 2}
    rows = rows_of((inputs, targets, None), 3, mapped=False)
    some = Rows(rows.arrays, 3, chosen=np.array([1, 4, 5, 9]))

    assert (rows.length, len(rows), rows.nbytes) == (10, 4, 10 * (16 + 8 + 8))
    assert [len(batch[0]) for batch in rows] == [3, 3, 3, 1]
    assert (some.length, len(some), some.nbytes) == (4, 2, 4 * 32)
    assert [(x.tolist(), y["b"].tolist(), w) for x, y, w in some] == [
        ([[2, 3], [8, 9], [10, 11]], [2, 8, 10], None),
        ([[18, 19]], [18], None),
    ]
    assert [len(batch[0]) for batch in some.cut(2)] == [2, 2]
    assert some.cut(None) is some


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ((np.ones(3), np.ones(4)), "inputs and targets of one length, at least 1, were wanted, but 3 and 4 came"),
        (((np.ones(3), np.ones(2)), np.ones(3)), "but 2 or 3 and 3 came"),
        ((np.ones(0), np.ones(0)), "but 0 and 0 came"),
        ((np.ones(3), np.float64(1)), "but 3 and 0 came"),
        ((np.ones(3), np.ones(3), np.ones(2)), "inputs, targets and sample weights .* but 3 and 3 and 2 came"),
    ],
)
def test_arrays_of_several_lengths_are_refused(arrays, said):
    with pytest.raises(ValueError, match=said):
        rows_of(arrays, 2, mapped=False)


def test_more_batches_than_said_are_refused():
    class Liar(list):
        def __len__(self):
            return 2

    with pytest.raises(ValueError, match="but Liar gives more than the 2 batches of its __len__; mend that"):
        list(read(Liar([1, 2, 3]), "Liar"))


def test_a_digest_is_of_the_numbers_however_they_are_batched():
    def content(leaf):
        return None if leaf is None else (f" {leaf.dtype}", leaf.tobytes())

    def told(*batches):
        found = Digest(content)
        for batch in batches:
            found.add(batch)
        return found.told()

    numbers = np.arange(6)
    assert told((numbers, None)) == told((numbers[:2], None), (numbers[2:], None)) == told((numbers,))
    assert told((numbers,)) != told((numbers[::-1].copy(),))
    assert told((numbers,)) != told((numbers.view(np.float64),))  # the same bytes, of another kind
    assert told((numbers, numbers)) != told(([numbers], numbers))
