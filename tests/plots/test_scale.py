import numpy as np
import pytest

from gradvis.plots.scale import scale


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([0.05, 1, 5.01], True),
        ([0.05, 1, 5.0], False),
        ([0.0, 1, 5000], False),
        ([-1.0, 1, 5000], False),
        ([0.05, np.nan, 6.0], True),
        ([2.0, 2.0, 2.0], False),
    ],
)
def test_log_if_all_above_zero_and_over_a_hundredfold(values, log):
    assert scale(np.array(values, float)).log is log


def test_log_can_be_asked_for_and_refused():
    assert scale(np.array([1.0, 2.0]), log=True).log
    assert not scale(np.array([1.0, 2000.0]), log=False).log
    with pytest.raises(ValueError, match="values above zero, but the smallest is 0"):
        scale(np.array([0.0, 2.0]), log=True)


def test_range_is_that_of_the_values():
    x = np.linspace(-1, 1, 51)
    values = x[:, None] ** 2 + 3 * x**2
    found = scale(values)
    assert (found.low, found.high, found.extend) == (values.min(), values.max(), "neither")
    found = scale(values + 0.01)
    assert found.log
    assert (found.low, found.high) == (0.01, 4.01)


@pytest.mark.parametrize("lowest", [1.0, 0.001], ids=["linear", "log"])
def test_one_huge_value_does_not_flatten_the_rest(lowest):
    values = np.linspace(lowest, 10, 1000)
    values[7] = 1e20
    found = scale(values, log=lowest < 0.01)
    assert found.extend == "max"
    assert 10 < found.high < 1000
    rest = found.draw(np.array([lowest, 10.0]))
    top = found.draw(1e20)
    assert (rest[1] - rest[0]) / (top - rest[0]) > 0.6
    assert top == found.draw(found.high)


def test_a_narrow_minimum_is_kept():
    values = np.random.default_rng(0).uniform(90, 100, 1000)
    values[3] = 1.0
    assert scale(values).low == 1.0


def test_levels_are_round_within_and_labelled_apart():
    found = scale(np.array([0.07, 30.0]))
    assert found.levels(10) == [0.1, 0.2, 0.5, 1, 2, 5, 10, 20]
    assert found.texts(found.levels(10)) == ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20"]
    found = scale(np.array([-2.2, 4.1]))
    assert found.texts(found.levels(10)) == ["−2", "−1", "0", "1", "2", "3", "4"]
    wide = scale(np.array([1e-3, 1e20]))
    assert 4 <= len(wide.levels(10)) <= 10


@pytest.mark.parametrize("spread", [1e-1, 1e-3, 1e-5, 1e-7, 1e-10])
@pytest.mark.parametrize("at", [2.302585, -7.0, 1e6])
def test_levels_of_small_ranges_stay_apart(at, spread):
    values = at + spread * abs(at) * np.linspace(0, 1, 101)
    found = scale(values, log=False)
    levels = found.levels(10)
    texts = found.texts(levels)
    assert 4 <= len(levels) <= 12
    assert len(set(texts)) == len(texts)
    assert max(map(len, texts)) <= 8
    assert all(values.min() <= level <= values.max() for level in levels)
    drawn = np.float32(found.draw(values))
    assert len(np.unique(drawn)) > 90, "browsers draw in float32"
    if found.offset:
        counted = [float(text.replace("−", "-")) * found.unit + found.offset for text in texts]
        np.testing.assert_allclose(counted, levels, atol=0.02 * np.ptp(values))


def test_constant_surface_has_one_band_and_no_level():
    found = scale(np.full(9, 2.3))
    assert found.levels(10) == []
    low, high = found.bands()
    assert low < 2.3 < high
    assert len(scale(np.zeros(4)).bands()) == 2


def test_nothing_finite_still_has_a_range():
    low, high = scale(np.full(4, np.nan)).bands()
    assert low < high
