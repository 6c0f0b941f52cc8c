"""Curves, on paper and on pages: what is drawn is what was given."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from gradvis import plots
from gradvis.plots.scale import limits, scale_of_curves
from gradvis.plots.view import companion, intervals, view
from tests.plots.trial import ALPHA, trial

X = np.linspace(-1, 1, 41)


def parabola(a):
    return (a - 0.5) ** 2 + 0.5


def falling(a):
    return 0.75 - a / 4


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def named(figure, name):
    (trace,) = [each for each in figure.data if each.name == name and each.mode != "none"]
    return trace


def line_with_holes():
    """Computed but for X[3:6], diverged at X[10] and from X[35] on; X[9] stays beside X[10]."""
    surface = trial(parabola, axes=(X,))
    surface.done[3:6] = False
    for name in ("loss", "loss_stderr"):
        surface.dataset[name].values[3:6] = np.nan
    surface.dataset["loss"].values[10], surface.dataset["loss"].values[35:] = np.inf, np.nan
    surface.dataset["loss"].values[12] = np.nan
    return surface


def test_a_curve_is_its_values_with_a_band_of_one_standard_error():
    surface = trial(parabola, axes=(X,))
    surface.dataset["loss_stderr"].values[:] = 0.01 + 0.1 * (X > 0)
    ax = plots.plot(surface).axes[0]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.stack([X, parabola(X)], axis=1))
    (band,) = ax.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.round(12)}
    for sign in (-1, 1):
        edge = parabola(X) + sign * surface.dataset["loss_stderr"].values
        assert {tuple(corner) for corner in np.stack([X, edge], axis=1).round(12)} <= corners
    assert legend(ax) == ["± 1 standard error", "centre 0.75", "minimum 0.5"]
    low, high = ax.get_ylim()
    assert low < 0.5 - 0.11
    assert high > parabola(-1) + 0.01


def test_without_standard_errors_there_is_no_band():
    surface = trial(parabola, axes=(X,))
    surface.dataset = surface.dataset.drop_vars("loss_stderr")
    ax = plots.plot(surface).axes[0]
    assert not ax.collections
    assert legend(ax) == ["centre 0.75", "minimum 0.5"]


def test_accuracy_has_an_axis_on_the_right_unless_a_metric_is_asked_for():
    surface = trial(parabola, axes=(X,), perplexity=lambda a: np.exp(a), accuracy=falling)
    left, right = plots.plot(surface).axes
    np.testing.assert_array_equal(right.lines[0].get_ydata(), falling(X))
    np.testing.assert_array_equal(left.lines[0].get_ydata(), parabola(X))
    assert (right.get_ylabel(), right.get_ylim()) == ("accuracy", (-0.05, 1.05))
    assert legend(left)[:2] == ["cross entropy", "accuracy"]
    assert len(plots.plot(surface, metric="loss").axes) == 1
    assert len(plots.plot(surface, ax=Figure().subplots()).axes) == 1, "nothing is added to axes of the user's"


def test_the_companion_is_accuracy_or_the_first_bounded_metric():
    bounded = {"f1": falling, "recall": falling}
    assert companion(trial(parabola, axes=(X,), **bounded)) == "f1"
    assert companion(trial(parabola, axes=(X,), **bounded, accuracy=falling)) == "accuracy"
    assert companion(trial(parabola, axes=(X,), norm=lambda a: 3 * falling(a))) is None
    assert companion(trial(parabola, axes=(X,), gain=lambda a: falling(a) - 0.6)) is None


def test_gaps_stay_gaps_and_a_lonely_point_is_a_dot():
    surface = line_with_holes()
    ax = plots.plot(surface).axes[0]
    heights = ax.lines[0].get_ydata()
    gaps = [3, 4, 5, 10, 12, *range(35, 41)]
    assert np.flatnonzero(np.isnan(heights)).tolist() == gaps
    assert ax.lines[0].get_markevery() == [11]
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches if patch.get_hatch()]
    middle = (X[1:] + X[:-1]) / 2
    np.testing.assert_allclose(spans, [(middle[9], middle[10]), (middle[11], middle[12]), (middle[34], 1)])
    assert legend(ax)[-1] == "diverged"
    assert "92" in " ".join(text.get_text() for text in ax.figure.texts), "37 of 41 are computed"


def test_a_huge_value_leaves_the_axes_and_does_not_flatten_the_rest():
    surface = trial(lambda a: np.where(a > 0.93, 1e30, parabola(a)), axes=(X,))
    ax = plots.plot(surface, log=False).axes[0]
    assert ax.lines[0].get_ydata()[-1] == 1e30
    assert ax.get_ylim()[1] < 10
    assert np.abs(ax.collections[0].get_paths()[0].vertices[:, 1]).max() < 30, "what is filled is cut near the axes"


def test_log_axes_have_limits_of_the_values_not_of_wide_errors():
    surface = trial(lambda a: 10 ** (2 * a), axes=(X,))
    found = scale_of_curves([view(surface, "loss")])
    assert found.log
    assert found.low == pytest.approx(0.005), "half the value, for 0.01 - 0.1 has no place on a logarithmic axis"
    assert found.high == pytest.approx(100.1)
    ax = plots.plot(surface).axes[0]
    assert ax.get_yscale() == "log"
    np.testing.assert_allclose(ax.get_ylim(), limits(found))


def test_intervals_reach_half_way_to_the_neighbours():
    assert intervals(ALPHA, np.array([True, False, True, True, False])) == [(-1, -0.75), (-0.25, 0.75)]


def test_a_page_has_the_curve_its_band_and_the_second_axis(tmp_path):
    figure = plots.plot(trial(parabola, axes=(X,), accuracy=falling), tmp_path / "run.html")
    np.testing.assert_array_equal(named(figure, "loss").y, parabola(X))
    band = named(figure, "loss ± 1 standard error")
    np.testing.assert_allclose(np.array(band.y[:41], float), parabola(X) - 0.1)
    np.testing.assert_allclose(np.array(band.y[41:82], float), parabola(X[::-1]) + 0.1)
    accuracy = named(figure, "accuracy")
    np.testing.assert_array_equal(accuracy.y, falling(X))
    assert accuracy.yaxis == "y2"
    assert figure.layout.yaxis2.title.text == "accuracy"
    assert named(figure, "minimum 0.5").x == (0.5,)
    assert [button.label for button in figure.layout.updatemenus[0].buttons] == ["linear", "log"]
    logarithmic = figure.layout.updatemenus[0].buttons[1].args[0]
    assert logarithmic["yaxis.type"] == "log"
    assert 10 ** logarithmic["yaxis.range"][1] == pytest.approx((2.85 / 0.4) ** 0.04 * 2.85)


def test_a_page_shows_gaps_and_where_it_diverged(tmp_path):
    figure = plots.plot(line_with_holes(), tmp_path / "run.html")
    loss = named(figure, "loss")
    assert np.isnan(np.array(loss.y, float)).sum() == 11
    assert [i for i, size in enumerate(loss.marker.size) if size] == [11]
    assert loss.connectgaps is False
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes][-1] == pytest.approx((X[34:36].mean(), 1))


def test_several_curves_share_axes_and_have_names(tmp_path):
    surfaces = [trial(lambda a, c=c: c * parabola(a), axes=(X,)) for c in (1, 2, 3)]
    surfaces[1].dataset["loss"].values[-2:] = np.nan
    figure = plots.plot_many(surfaces, titles=["one", "two", "three"])
    (ax,) = figure.axes
    curves = [line for line in ax.lines if len(line.get_xdata()) == 41]
    for curve, surface in zip(curves, surfaces, strict=True):
        np.testing.assert_array_equal(curve.get_ydata(), surface.dataset["loss"].values)
    assert len({curve.get_color() for curve in curves}) == 3
    assert legend(ax) == ["one", "two", "three", "± 1 standard error", "minimum", "diverged"]
    (crosses,) = [line for line in ax.lines if line.get_marker() == "x" and len(line.get_xdata())]
    np.testing.assert_array_equal(crosses.get_xdata(), X[-2:])
    assert len(ax.collections) == 3
    page = plots.plot_many(surfaces, tmp_path / "run.html", titles=["one", "two", "three"])
    np.testing.assert_array_equal(named(page, "three").y, 3 * parabola(X))
