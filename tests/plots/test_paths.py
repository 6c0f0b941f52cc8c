"""Paths of training as numbers: drops of the learning rate, direction of travel, how they lie on a surface."""

import numpy as np
import pytest

from gradvis.plots.caption import axis_label
from gradvis.plots.caption_path import caption, subject
from gradvis.plots.interactive_path import thinned
from gradvis.plots.paths import LIFT, arrows, diverged, drops, drops_told, laid, moments, reached
from gradvis.plots.scale import Scale, scale
from gradvis.plots.view import central, view
from tests.plots.trial import ALPHA, BETA, COORDS, PCA, bowl, ground, tilted, track, trajectory, trial


def test_the_learning_rate_drops_where_it_halves():
    run = track(coords=COORDS[[0, 1, 2, 3, 4, 4]], rates=[0.1, 0.051, 0.05, 0.025, 0.05, 0.0])
    assert drops(run).tolist() == [3]
    assert drops(track(rates=[0.1, 0.05, 0.05, 0.005, np.nan])).tolist() == [1, 3]
    assert drops(track(coords=np.zeros((1000, 2)), rates=0.99 ** np.arange(1000))).size == 0, "a slow decay"
    assert drops(track()).size == 0


def test_the_legend_tells_the_rates_while_they_are_few():
    assert drops_told([track(rates=[0.1, 0.01, 0.01, 0.001, 0.001])]) == "learning rate 0.1 → 0.01 → 0.001"
    many = track(rates=[16, 8, 4, 2, 1])
    assert drops_told([many]) == "learning rate 16 → … → 1 (4 drops)"
    assert drops_told([track(), many]) == "learning rate falls"
    assert drops_told([track(rates=[1, 1, 1, 1, 1])]) == ""


def test_arrows_stand_evenly_and_point_ahead():
    points = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0]])
    strokes = arrows(points, 4)
    np.testing.assert_allclose([head for _, head in strokes], [[0.5, 0], [1.5, 0], [2.5, 0], [3, 0.5]])
    directions = [(head - tail) / np.linalg.norm(head - tail) for tail, head in strokes]
    np.testing.assert_allclose(directions, [[1, 0], [1, 0], [1, 0], [0, 1]], atol=1e-9)
    assert arrows(np.zeros((4, 2))) == []
    assert arrows(np.zeros((1, 2))) == []


def test_moments_are_all_steps_or_so_many_with_the_last():
    runs = [track(steps=[0, 10, 20, 30, 40]), track(steps=[5, 10, 15, 20, 45])]
    assert moments(runs, 60).tolist() == [0, 5, 10, 15, 20, 30, 40, 45]
    few = moments(runs, 3)
    assert len(few) == 3
    assert (few[0], few[-1]) == (0, 45)
    assert [reached(runs[1], step) for step in (0, 5, 14, 100)] == [0, 1, 2, 5]


def test_what_is_not_finite_diverged_unless_nothing_was_measured():
    assert diverged(track(own=[1, np.inf, np.nan, 1, 1]), "loss").tolist() == [False, True, True, False, False]
    assert not diverged(track(own=[np.nan] * 5), "loss").any()
    assert not diverged(track(), "accuracy").any()


def test_a_path_lies_on_its_surface_slightly_lifted():
    run = track(tilted)
    heights = Scale(False, -20.0, 20.0)
    points, at = laid(run, "loss", view(ground(run, f=tilted), "loss"), heights)
    low, high = heights.bands()[[0, -1]]
    np.testing.assert_allclose(points[at, :2], COORDS)
    np.testing.assert_allclose(points[:, 2], tilted(*points[:, :2].T) + LIFT * (high - low), atol=1e-9)
    assert len(points) > 100, "between checkpoints too"


def test_a_path_goes_through_the_values_of_the_plane_but_not_below_its_surface():
    run = track(lambda a, b: tilted(a, b) + np.where(a < 0, 1.5, -1.5))
    heights = Scale(False, -20.0, 20.0)
    points, at = laid(run, "loss", view(ground(run, f=tilted), "loss"), heights)
    above = points[at, 2] - LIFT * np.ptp(heights.bands()[[0, -1]]) - tilted(*COORDS.T)
    np.testing.assert_allclose(above, [1.5, 1.5, 0, 0, 0], atol=1e-9)


def test_beside_its_surface_a_path_keeps_its_own_heights():
    run = track(tilted, coords=np.array([[-3.0, 0.0], [-2.0, 1.0]]))
    heights = Scale(False, -20.0, 20.0)
    points, _ = laid(run, "loss", view(ground(run, f=tilted), "loss"), heights)
    lift = LIFT * np.ptp(heights.bands()[[0, -1]])
    np.testing.assert_allclose(points[:, 2] - lift, tilted(*points[:, :2].T), atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_paths_of_any_length_are_laid(count):
    places = np.linspace([-1, -1], [1, 1], count)
    seen = view(ground(track(coords=places)), "loss")
    points, at = laid(seen.tracks[0], "loss", seen, scale(seen.values))
    assert np.isfinite(points).all()
    np.testing.assert_allclose(points[at, :2], places)


def test_pages_take_some_points_of_long_paths_with_the_ends_and_drops():
    rates = np.where(np.arange(5000) < 3333, 0.1, 0.01)
    (short,) = thinned([track(coords=np.random.default_rng(0).normal(size=(5000, 2)), rates=rates)])
    assert len(short.labels) <= 201
    assert (short.labels[0], short.labels[-1]) == ("sgd-0.pt", "sgd-4999.pt")
    assert short.labels[int(drops(short)[0])] == "sgd-3333.pt"
    assert short.steps.shape == short.own["loss"].shape == short.plane["loss"].shape == short.off_plane.shape
    run = track()
    assert thinned([run]) == (run,)


def test_ends_are_marked_and_stand_for_a_centre_that_is_there():
    run = track(coords=[*COORDS[:-1], [0.0, 1e-9]])
    marks = view(ground(run), "loss").marks
    assert [mark.kind for mark in marks] == ["start", "end", "minimum"]
    assert marks[0].coords == tuple(COORDS[0])
    start = bowl(*COORDS[0])
    assert (marks[0].value, marks[0].text) == (start, f"start {2 * start:.4g}, {start:.4g} on the plane")
    assert "centre" in [mark.kind for mark in view(ground(track()), "loss").marks]
    assert view(ground(track(coords=COORDS[:1])), "loss").marks[0].kind == "end"


def test_ends_skip_places_that_are_not_finite_and_outside_the_surface():
    run = track(coords=[*COORDS[:-1], [np.nan, 0.0]])
    assert view(ground(run), "loss").marks[1].coords == tuple(COORDS[-2])
    far = track(coords=[*COORDS[:-1], [9.0, 0.0]])
    assert [mark.kind for mark in view(ground(far), "loss").marks][:2] == ["start", "centre"]


def test_slices_see_the_path_along_the_axis_that_is_gone():
    volume = trial(lambda a, b, c: a + b + c, axes=(ALPHA, BETA, BETA))
    places = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    volume.tracks = (track(lambda a, b, c: a + b + c, coords=places),)
    for dim, kept in (("alpha", [1, 2]), ("beta", [0, 2]), ("gamma", [0, 1])):
        np.testing.assert_array_equal(central(volume, dim)[0].tracks[0].coords, places[:, kept])


def test_axes_carry_the_explained_variance_beside_that_of_a_random_walk():
    said = axis_label(PCA, "alpha").replace("\N{NO-BREAK SPACE}", " ")
    assert said == "PC 1, 83 % of the variance (random walk: 61 %)"
    assert axis_label(PCA, "beta", short=True).replace("\N{NO-BREAK SPACE}", " ") == "PC 2, 10 %"
    plane = {**PCA["plane"], "anchored": True, "components": [1, 3]}
    said = axis_label({"plane": plane}, "beta").replace("\N{NO-BREAK SPACE}", " ")
    assert said == "PC 3, 10 % of the variance about the last checkpoint\n(random walk: 15 %)"
    assert axis_label({"plane": {"kind": "pca"}}, "beta") == "β · principal direction 2"


def test_captions_say_the_plane_the_checkpoints_and_the_policies():
    assert caption(trajectory()) == (
        "Training path of model.pt on the plane of principal directions 1 and 2 (centred over time), 5 checkpoints: "
        "cross entropy, mean over 1797 samples, float32, batch norm with its stored statistics; true loss is that of "
        "the checkpoint itself, up to 3 off the plane, with its own batch-norm statistics; gradvis 0.1.0."
    )
    two = trajectory(track(), track(name="adam"), about={"plane": {"kind": "between", "checkpoints": ["a", "b", "c"]}})
    assert caption(two, 2) == (
        "Training paths of sgd and adam on the plane through a, b and c, 5 checkpoints each: true loss is that of the "
        "checkpoint itself, up to 3 off the plane; 2 checkpoints lie outside of the surface."
    )
    assert subject(trajectory(about={})) == "Training path of sgd"
    anchored = {"plane": {"kind": "pca", "components": [2], "anchored": True}, "complete": False}
    said = caption(trajectory(track(lambda a: a**2, coords=COORDS[:, :1]), about=anchored))
    assert said.startswith("Training path of sgd on the line of principal direction 2 (variance about the last checkpo")
    assert said.endswith("; not all of it measured yet.")
