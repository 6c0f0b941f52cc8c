"""Pages of trajectories: the path on its surface, the curves beside it, and the slider over the steps."""

import json

import numpy as np
import pytest

from gradvis import plots
from gradvis.plots.paths import laid
from gradvis.plots.scale import scale
from gradvis.plots.view import view
from tests.plots.test_interactive import click, shown
from tests.plots.trial import ALPHA, BETA, COORDS, bowl, ground, track, trajectory, trial


@pytest.fixture
def page(tmp_path):
    return tmp_path / "run.html"


def at_step(figure, index):
    """The x of the traces of a frame, by trace."""
    frame = figure.frames[index]
    return {place: list(data.x or ()) for place, data in zip(frame.traces, frame.data, strict=True)}


def test_the_path_lies_on_the_surface_with_what_is_known_of_each_checkpoint(page):
    run = track(rates=[0.1, 0.1, 0.1, 0.01, 0.01])
    figure = plots.plot(trajectory(run), page, ground=ground())
    line, dots = [trace for trace in shown(figure, "scatter3d") if trace.legendgroup == "run 0"]
    seen = view(ground(run), "loss")
    points, at = laid(run, "loss", seen, scale(seen.values))
    for axis, wanted in zip("xyz", points.T, strict=True):
        np.testing.assert_allclose(line[axis], wanted)
        np.testing.assert_allclose(dots[axis], wanted[at])
    own = 2 * bowl(*COORDS[3])
    assert dots.hovertext[3] == (
        f"sgd<br>sgd-3.pt<br>step 30<br>true loss {own:.4g}<br>loss on the plane {own / 2:.4g}<br>"
        "off the plane 0.75<br>learning rate 0.01<br>α 0.25<br>β −0.3"
    )
    assert figure.layout.title.text == "Training path of model.pt"
    assert "true loss is that of the checkpoint itself" in figure.layout.annotations[0].text.replace("<br>", " ")


def test_the_slider_shows_every_path_up_to_a_step_and_copies_no_surface(page):
    runs = [track(), track(coords=COORDS[::-1][:3], steps=[0, 15, 40], name="adam")]
    figure = plots.plot(trajectory(*runs), page, ground=ground())
    assert [step.label for step in figure.layout.sliders[0].steps] == ["0", "10", "15", "20", "30", "40"]
    assert figure.layout.sliders[0].active == 5
    paths = {i for i, trace in enumerate(figure.data) if trace.type == "scatter3d" and trace.legendgroup}
    for index, counts in enumerate([(1, 1), (2, 1), (2, 2), (3, 2), (4, 2), (5, 3)]):
        found = at_step(figure, index)
        assert set(found) == paths, "those of all metrics and scales, and nothing else"
        for place, x in found.items():
            trace = figure.data[place]
            run = int(trace.legendgroup[-1])
            if trace.mode == "markers":
                np.testing.assert_allclose(x, runs[run].coords[: counts[run], 0])
            else:
                np.testing.assert_allclose(x[-1], runs[run].coords[counts[run] - 1, 0])
                np.testing.assert_allclose(x, trace.x[: len(x)], rtol=1e-5, atol=1e-6)


def test_frames_of_a_long_run_are_few_and_small(page):
    long = track(coords=np.random.default_rng(0).normal(size=(1000, 2)).cumsum(0) * 0.02)
    figure = plots.plot(trajectory(long), page, ground=ground())
    assert len(figure.frames) <= 60
    assert len(json.dumps(figure.to_dict()["frames"])) < 1_500_000


def test_beside_the_surface_are_the_losses_and_the_distance_of_the_metric_that_is_shown(page):
    run = track()
    figure = plots.plot(trajectory(run), page, ground=ground())
    true, plane, off = shown(figure, "scatter")
    np.testing.assert_array_equal(true.y, run.own["loss"])
    np.testing.assert_array_equal(plane.y, run.plane["loss"])
    np.testing.assert_array_equal(off.y, run.off_plane)
    assert (true.line.dash, plane.line.dash, off.yaxis) == ("solid", "dash", "y3")
    assert figure.layout.yaxis2.type == "log"
    layout = click(figure, 0, "linear")
    assert layout["yaxis2.type"] == "linear"
    assert len(shown(figure, "scatter")) == 3
    assert len(shown(figure)) == 1


def test_a_surface_that_knows_its_path_has_the_same_page(page):
    figure = plots.plot(ground(track()), page)
    assert len(figure.frames) == 5
    assert figure.layout.title.text == "Loss surface of model.pt"
    assert not plots.plot(trial(bowl), page).frames
    assert '"auto_play"' not in page.read_text()


def test_without_ground_the_path_is_flat_beside_its_curves(page):
    runs = [track(), track(coords=COORDS[::-1], name="adam")]
    figure = plots.plot(trajectory(*runs), page)
    paths = [trace for trace in figure.data if trace.meta == "path"]
    for run, trace in zip(runs, paths, strict=True):
        np.testing.assert_array_equal(np.column_stack([trace.x, trace.y]), run.coords)
    assert figure.layout.yaxis.scaleanchor == "x"
    assert [list(data.x) for data in figure.frames[1].data] == [[-0.9, -0.4], [0.5, 0.25]]
    assert len([trace for trace in figure.data if trace.yaxis == "y2" and len(trace.x) == 5]) == 4


def test_metrics_of_a_flat_page_are_chosen_with_their_scale(page):
    run = track(own=[100, 10, 1, 1, 0.1])
    run.own["accuracy"], run.plane["accuracy"] = np.linspace(0, 1, 5), np.linspace(0, 1, 5)
    result = trajectory(run)
    result.metrics = ("loss", "accuracy")
    figure = plots.plot(result, page)
    assert figure.layout.yaxis2.type == "log"
    layout = click(figure, 1, "accuracy")
    assert (layout["yaxis2.type"], layout["yaxis2.title.text"]) == ("linear", "accuracy")
    true = next(trace for trace in shown(figure, "scatter") if trace.name == "true accuracy")
    np.testing.assert_array_equal(true.y, np.linspace(0, 1, 5))
    assert "path" in [trace.meta for trace in shown(figure, "scatter")], "the path stays"
    assert plots.plot(result, page, metric="accuracy").layout.yaxis2.type == "linear"


def test_lines_and_volumes_have_pages_too(page):
    line = track(lambda a: 1 + a**2, coords=COORDS[:, :1])
    figure = plots.plot(trajectory(line), page, ground=trial(lambda a: 1 + a**2, axes=(ALPHA,)))
    places = [trace for trace in figure.data if trace.legendgroup == "run 0" and trace.yaxis is None]
    np.testing.assert_array_equal(places[0].y, line.own["loss"])
    assert any(np.array_equal(trace.y, 1 + ALPHA**2) for trace in figure.data)
    coords = np.column_stack([COORDS, COORDS[:, 0]])
    volume = track(lambda a, b, c: 9 + a + b + c, coords=coords)
    below = trial(lambda a, b, c: 9 + a + b + c, axes=(ALPHA, BETA, BETA))
    figure = plots.plot(trajectory(volume), page, ground=below)
    (path,) = [trace for trace in figure.data if trace.meta == "path"]
    np.testing.assert_array_equal(np.column_stack([path.x, path.y, path.z]), coords)
    assert "isosurface" in [trace.type for trace in figure.data]
    assert list(figure.frames[2].data[0].x) == coords[:3, 0].tolist()


def test_several_surfaces_on_a_page_have_their_paths(page):
    surfaces = [ground(track()), ground(track(coords=COORDS[::-1]))]
    for kind, trace in ((None, "scatter3d"), ("contour", "scatter")):
        figure = plots.plot_many(surfaces, page, kind=kind)
        starts = [each.x[0] for each in figure.data if each.type == trace and each.legendgroup == "run 0"]
        assert {starts[0], starts[-1]} == {-0.9, 0.5}
