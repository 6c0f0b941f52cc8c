"""Volumes on pages: shells of equal value and slices."""

import numpy as np
import pytest

from gradvis import plots
from gradvis.plots.interactive_volume import shells
from gradvis.plots.scale import scale
from tests.plots.trial import ALPHA, BETA, trial

AXES = (ALPHA, BETA, np.linspace(-2, 2, 7))


def tilted(a, b, c):
    return a + 10 * b + 100 * c


@pytest.fixture
def page(tmp_path):
    return tmp_path / "run.html"


def test_the_volume_has_the_values_at_their_places(page):
    solid, centre, minimum = plots.plot(trial(tilted, axes=AXES), page).data
    np.testing.assert_allclose(solid.value, tilted(solid.x, solid.y, solid.z))
    assert solid.value.size == 5 * 9 * 7
    assert (centre.x, centre.y, centre.z, centre.name) == ((0,), (0,), (0,), "centre 0")
    assert (minimum.x, minimum.y, minimum.z) == ((-1,), (-1.5,), (-2,))


def test_shells_are_even_in_the_logarithm_where_the_scale_is_logarithmic(page):
    surface = trial(lambda a, b, c: 10 ** (a + b + c), axes=AXES)
    solid = plots.plot(surface, page).data[0]
    np.testing.assert_allclose(solid.value, solid.x + solid.y + solid.z, atol=1e-12)
    np.testing.assert_allclose(shells(scale(surface.dataset["loss"].values)), np.linspace(-4.5, 4.5, 9)[1:-1])
    assert (solid.isomin, solid.isomax, solid.surface.count) == pytest.approx((-3.375, 0, 4))


def test_the_slider_peels_shells_and_says_their_values(page):
    figure = plots.plot(trial(lambda a, b, c: 10 ** (a + b + c), axes=AXES), page)
    (slider,) = figure.layout.sliders
    assert len(slider.steps) == 7
    assert slider.steps[3].label == "1"
    assert slider.active == 3
    for count, step in enumerate(slider.steps, 1):
        change, traces = step.args
        assert list(traces) == [0]
        assert change["surface.count"] == count
        assert 10 ** change["isomax"] == pytest.approx(float(step.label), rel=1e-3)


def test_slices_lie_nearest_to_zero(page):
    axes = (ALPHA, BETA, np.array([-1.0, 0.25, 2.0]))
    figure = plots.plot(trial(tilted, axes=axes), page)
    shown = {button.label: button.args[0] for button in figure.layout.updatemenus[0].buttons}
    assert shown["slices"]["slices.z.locations"] == [[0.25]]
    assert shown["slices"]["slices.x.locations"] == [[0.0]]
    assert (shown["slices"]["isomin"], shown["slices"]["isomax"]) == (-116, 216), "no holes"
    assert shown["shells"]["isomax"] == figure.data[0].isomax
    assert (shown["slices"]["surface.show"], shown["shells"]["surface.show"]) == (False, True)


@pytest.mark.filterwarnings("error")
def test_a_constant_volume_is_drawn(page):
    figure = plots.plot(trial(lambda a, b, c: 2.0 + 0 * a, axes=AXES), page)
    assert (figure.data[0].value == 2).all()
    assert not figure.layout.sliders
