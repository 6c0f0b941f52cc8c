"""Pictures of trajectories, and of surfaces that know their path."""

import csv
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import xarray
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from PIL import Image

from gradvis import plots
from gradvis.plots import film
from gradvis.plots.palette import LINES
from gradvis.plots.words import shortened
from tests.plots.trial import ALPHA, BETA, COORDS, PCA, bowl, ground, tilted, track, trajectory, trial


def paths(ax):
    """The paths in flat axes, (t, 2) each."""
    lines = [each for each in ax.collections if type(each) is LineCollection]
    return [np.concatenate([each.get_segments()[0][:1], np.array(each.get_segments())[:, 1]]) for each in lines]


def entries(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def markers(ax, shape):
    """Where marks of a shape stand."""
    return [tuple(place) for line in ax.lines if line.get_marker() == shape for place in line.get_xydata()]


def curve(ax, dashes):
    """The curves of a stroke, as steps and values."""
    return [line.get_xydata() for line in ax.lines if line.get_linestyle() == dashes and len(line.get_xdata()) > 2]


def test_the_path_lies_on_its_ground_with_start_end_and_drops():
    run = track(rates=[0.1, 0.1, 0.01, 0.01, 0.01])
    ax = plots.plot(trajectory(run), ground=ground()).axes[0]
    (found,) = paths(ax)
    np.testing.assert_array_equal(found, COORDS)
    assert markers(ax, "o") == [tuple(COORDS[0])]
    assert markers(ax, "s") == [tuple(COORDS[-1])]
    assert markers(ax, "d") == [tuple(COORDS[2])]
    assert "learning rate 0.1 → 0.01" in entries(ax)


def test_steps_are_colours_from_dark_to_light_with_a_key():
    figure = plots.plot(trajectory(), ground=ground())
    (line,) = [each for each in figure.axes[0].collections if type(each) is LineCollection]
    np.testing.assert_array_equal(line.get_array(), [10, 20, 30, 40])
    tones = line.cmap(line.norm([0, 10, 20, 30, 40]))[:, :3] @ [0.3, 0.59, 0.11]
    assert (np.diff(tones) > 0.05).all()
    strip = figure.axes[3]
    assert strip.get_xlabel() == "step, the colour of the path"
    shades = strip.collections[0]
    np.testing.assert_allclose(shades.get_array().ravel()[[0, -1]], [0, 40], atol=0.1)
    assert shades.norm.vmax == 40


def test_arrows_point_along_the_path():
    ax = plots.plot(trajectory()).axes[0]
    heads = [patch for patch in ax.patches if isinstance(patch, FancyArrowPatch)]
    assert len(heads) == 5
    for head in heads:
        (x0, y0), (x1, y1) = head._posA_posB
        assert np.dot([x1 - x0, y1 - y0], COORDS[-1] - COORDS[0]) > 0


def test_beside_it_are_true_loss_plane_loss_and_distance():
    run = track()
    losses, distances = plots.plot(trajectory(run), ground=ground()).axes[1:3]
    (true,), (plane,) = curve(losses, "-"), curve(losses, "--")
    np.testing.assert_array_equal(true, np.column_stack([run.steps, run.own["loss"]]))
    np.testing.assert_array_equal(plane, np.column_stack([run.steps, run.plane["loss"]]))
    assert entries(losses) == ["true loss", "on the plane"]
    (shade,) = losses.collections
    assert {tuple(place) for place in true} <= {tuple(place) for place in shade.get_paths()[0].vertices}
    np.testing.assert_array_equal(curve(distances, "-"), [np.column_stack([run.steps, run.off_plane])])
    assert distances.get_ylim()[0] == 0
    assert distances.get_xlim() == losses.get_xlim()


def test_losses_over_two_decades_are_logarithmic_unless_one_says():
    wide = track(own=[100, 10, 1, 0.5, 0.01])
    assert plots.plot(trajectory(wide)).axes[1].get_yscale() == "log"
    assert plots.plot(trajectory(wide), log=False).axes[1].get_yscale() == "linear"
    assert plots.plot(trajectory(track(own=[2, 1, 1, 1, 0]))).axes[1].get_yscale() == "linear"
    with pytest.raises(ValueError, match="a logarithmic scale needs values above zero, but the smallest is 0"):
        plots.plot(trajectory(track(own=[2, 1, 1, 1, 0])), log=True)


def test_a_run_that_diverged_has_crosses_where_it_did():
    losses = plots.plot(trajectory(track(own=[2, 1, np.inf, np.nan, np.nan]))).axes[1]
    assert [x for x, _ in markers(losses, "x")] == [20, 30, 40]
    assert "diverged" in entries(losses)
    part = trajectory(track(own=[2, 1, np.nan, np.nan, np.nan]), about={**PCA, "complete": False})
    assert not markers(plots.plot(part).axes[1], "x"), "not measured yet"


def test_several_runs_have_their_colours_and_names():
    runs = [track(name="sgd"), track(coords=COORDS[::-1], name="a-very-long-name-of-an-optimizer-2026")]
    figure = plots.plot(trajectory(*runs), ground=ground())
    ax = figure.axes[0]
    for run, (found, line) in enumerate(zip(paths(ax), ax.collections[-4::2], strict=True)):
        np.testing.assert_array_equal(found, runs[run].coords)
        assert to_hex(line.get_color()[0]) == LINES[run]
    assert {"sgd", shortened("a-very-long-name-of-an-optimizer-2026", 28), "start", "end"} <= set(entries(ax))
    solid = [to_hex(line.get_color()) for line in figure.axes[1].lines if len(line.get_xdata()) == 5]
    assert solid == [LINES[0], LINES[0], LINES[1], LINES[1]]
    assert len(figure.axes) == 3, "no key of steps"


def test_without_ground_the_path_has_equal_axes():
    ax = plots.plot(trajectory(track(coords=COORDS * [1, 0.01]))).axes[0]
    np.testing.assert_array_equal(paths(ax)[0], COORDS * [1, 0.01])
    assert ax.get_aspect() == 1
    assert 0.499 <= np.ptp(ax.get_ylim()) / np.ptp(ax.get_xlim()) <= 1
    assert ax.get_xlabel().startswith("PC 1, 83")
    assert ax.get_ylabel().startswith("PC 2, 10")


def test_a_path_that_leaves_its_ground_is_seen_whole_and_told(tmp_path):
    run = track(coords=[*COORDS[:-1], [4.0, 0.0]])
    figure = plots.plot(trajectory(run), tmp_path / "run.png", ground=ground())
    low, high = figure.axes[0].get_xlim()
    assert (low, high > 4) == (-1, True)
    assert "1 checkpoint lies outside of the surface" in " ".join(figure.texts[0].get_text().split())


def test_a_line_shows_the_checkpoints_own_values_over_their_coordinate():
    run = track(lambda a: 1 + a**2, coords=np.array([[-0.9], [0.1], [0.5]]), own=[4, 2, 1])
    line = trial(lambda a: 1 + a**2, axes=(ALPHA,))
    figure = plots.plot(trajectory(run), ground=line)
    ax = figure.axes[0]
    wanted = [[-0.9, 4], [0.1, 2], [0.5, 1]]
    assert any(np.array_equal(each.get_offsets(), wanted) for each in ax.collections if len(each.get_offsets()) == 3)
    assert any(np.array_equal(each.get_xydata(), np.column_stack([ALPHA, 1 + ALPHA**2])) for each in ax.lines)
    assert markers(ax, "o") == [(-0.9, 4)]
    assert ax.get_ylim()[1] > 4
    line.tracks = (run,)
    assert markers(plots.plot(line).axes[0], "s") == [(0.5, 1)]


def test_a_volume_is_three_views_of_the_path():
    places = np.column_stack([COORDS, COORDS[:, 0] ** 2])
    volume = trial(lambda a, b, c: a + b + c, axes=(ALPHA, BETA, BETA))
    run = track(lambda a, b, c: a + b + c, coords=places)
    for options in ({}, {"ground": volume}):
        axes = plots.plot(trajectory(run), **options).axes[:3]
        for ax, kept in zip(axes, ([0, 1], [0, 2], [1, 2]), strict=True):
            np.testing.assert_array_equal(paths(ax)[0], places[:, kept])
    with pytest.raises(ValueError, match="a path of 3 dimensions is 3 panels, but one ax came"):
        plots.plot(trajectory(run), ax=Figure().subplots())


def test_a_surface_shows_its_path_flat_and_in_space():
    left, right = plots.plot(ground(track(tilted), f=tilted)).axes[:2]
    np.testing.assert_array_equal(paths(left)[0], COORDS)
    x, y, z = (line := max(right.lines, key=lambda line: len(line.get_data_3d()[0]))).get_data_3d()
    np.testing.assert_allclose([x[0], y[0], x[-1], y[-1]], [*COORDS[0], *COORDS[-1]])
    lift = z - tilted(np.asarray(x), np.asarray(y))
    assert (lift > 0).all()
    assert lift.max() < 0.02 * 32
    assert line.get_alpha() < 1, "the whole path, faint"


def test_what_a_surface_hides_of_a_path_is_faint():
    """A ridge between the path and the eye, which looks from negative beta."""
    ridge = ground(track(lambda a, b: 0 * a, coords=np.array([[-0.9, 1.0], [0.9, 1.0]])), f=lambda a, b: 9.0 * (b == 0))
    figure = plots.plot(ridge, kind="surface")
    ax = figure.axes[0]
    (front,) = [line for line in ax.lines if type(line).__name__ == "_Front"]
    for azimuth, share in ((-90, 0.0), (90, 1.0)):
        ax.view_init(elev=10, azim=azimuth)
        figure.canvas.draw()
        seen = np.isfinite(np.asarray(front.get_data_3d()[0], float)).mean()
        assert abs(seen - share) < 0.1


def test_the_surface_of_a_trajectory_is_that_of_its_ground_with_the_path():
    left, right = plots.plot(trajectory(), ground=ground(), kind="both").axes[:2]
    assert len(paths(left)) == 1
    assert hasattr(right, "plot_surface")
    assert left.get_xlabel().startswith("PC 1")


def test_several_surfaces_have_their_paths():
    figure = plots.plot_many([ground(track()), ground(track(coords=COORDS[::-1]))])
    found = [paths(ax)[0] for ax in figure.axes[:2]]
    np.testing.assert_array_equal(found[0], found[1][::-1])


def test_a_users_axes_get_the_path_and_its_key():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plots.plot(trajectory(), ax=right, ground=ground()) is figure
    assert not left.has_data()
    assert len(paths(right)) == 1
    assert "step" in [ax.get_xlabel() for ax in figure.axes]
    with pytest.raises(ValueError, match="a path needs a flat ax, but Axes3D came"):
        plots.plot(trajectory(), ax=figure.add_subplot(projection="3d"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "surface"}, "kind='surface' shows a path on its ground, but no ground came; give one"),
        ({"metric": "lose"}, "metric must be one of loss, but 'lose' came; did you mean 'loss'"),
        (
            {"ground": trial(lambda a: a, axes=(ALPHA,))},
            "of 2 dimensions needs a ground of as many, but one of 1 came",
        ),
        ({"path": "run.html", "metric": "lose"}, "metric must be one of loss, but 'lose' came"),
    ],
)
def test_errors_say_what_to_do(options, message):
    with pytest.raises(ValueError, match=message):
        plots.plot(trajectory(), **options)


def test_a_surface_takes_no_ground():
    with pytest.raises(ValueError, match="a ground is for a trajectory, but a surface came"):
        plots.plot(trial(bowl), ground=trial(bowl))


@pytest.mark.parametrize(
    "run",
    [
        track(coords=COORDS[:1]),
        track(coords=COORDS[:2]),
        track(coords=np.random.default_rng(0).normal(size=(1000, 2)).cumsum(0) * 0.02),
        track(own=[np.nan] * 5),
        track(own=[2, 1, 1e20, np.inf, np.nan]),
        track(coords=COORDS * 1e-6),
        track(coords=COORDS * 1e3),
        track(coords=COORDS * 0),
        track(coords=[*COORDS[:-1], [np.nan, np.nan]]),
    ],
    ids=["one", "two", "thousand", "unmeasured", "blow-up", "tiny", "large", "still", "lost"],
)
@pytest.mark.filterwarnings("error")
def test_awkward_paths_are_drawn(run, tmp_path):
    plots.plot(trajectory(run), tmp_path / "run.png", ground=ground())
    plots.plot(trajectory(run), tmp_path / "bare.html")
    assert (tmp_path / "run.png").stat().st_size > 10_000


def test_a_film_grows_the_path_and_its_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(film, "_DPI", 50)
    figure = plots.plot(trajectory(), tmp_path / "run.gif", ground=ground(), size="column")
    with Image.open(tmp_path / "run.gif") as found:
        assert found.n_frames == 5, "a checkpoint a frame; the last one stands"
        frames = []
        for index in range(5):
            found.seek(index)
            frames.append(np.asarray(found.convert("L"), float))
    assert all(np.abs(one - two).max() > 100 for one, two in pairwise(frames))
    np.testing.assert_array_equal(paths(figure.axes[0])[0], COORDS, "whole at the end")


def test_a_path_is_drawn_as_far_as_a_step():
    from gradvis.plots.static_path import draw

    drawing = draw(trajectory(track(rates=[1, 1, 1, 0.1, 0.1])), ground(), None, None, None, None, "page", False)
    for grow in drawing.grow:
        grow(20.0)
    ax, losses, distances = drawing.figure.axes[:3]
    np.testing.assert_array_equal(paths(ax)[0], COORDS[:3])
    assert markers(ax, "d") == [], "the rate has not fallen yet"
    assert [len(each) for each in (*curve(losses, "-"), *curve(losses, "--"), *curve(distances, "-"))] == [3, 3, 3]


def test_films_stop_at_so_many_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(film, "_STOPS", 3)
    monkeypatch.setattr(film, "_DPI", 50)
    run = track(coords=np.linspace([-1, -1], [1, 1], 200))
    plots.plot(trajectory(run), tmp_path / "run.gif", size="column")
    with Image.open(tmp_path / "run.gif") as found:
        assert found.n_frames == 3


def test_tables_have_a_line_a_checkpoint_that_reads_back_exactly(tmp_path):
    runs = [track(rates=[0.1] * 4 + [0.01]), track(lambda a, b: np.exp(a) / 3 + b, coords=COORDS[:2] / 3, name="adam")]
    plots.export(trajectory(*runs), tmp_path / "run.csv")
    with open(tmp_path / "run.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["run", "step", "label", "alpha", "beta", "off_plane", "loss", "plane_loss", "learning_rate"]
    assert list(rows[0]) == names
    assert [row["label"] for row in rows] == [*runs[0].labels, *runs[1].labels]
    for name, values in (
        ("alpha", [run.coords[:, 0] for run in runs]),
        ("beta", [run.coords[:, 1] for run in runs]),
        ("step", [run.steps for run in runs]),
        ("off_plane", [run.off_plane for run in runs]),
        ("loss", [run.own["loss"] for run in runs]),
        ("plane_loss", [run.plane["loss"] for run in runs]),
        ("learning_rate", [runs[0].learning_rate, [np.nan, np.nan]]),
    ):
        np.testing.assert_array_equal([float(row[name]) for row in rows], np.concatenate(values))
    plots.export(trajectory(*runs), tmp_path / "run.nc")
    with xarray.open_dataset(tmp_path / "run.nc") as found:
        assert found["run"].values.tolist() == ["sgd"] * 5 + ["adam"] * 2
        np.testing.assert_array_equal(found["plane_loss"], np.concatenate([run.plane["loss"] for run in runs]))
        assert '"pca"' in found.attrs["gradvis"]


def test_vtk_is_a_polyline_a_run(tmp_path):
    runs = [track(), track(coords=COORDS[:2] / 3, name="adam")]
    plots.export(trajectory(*runs), tmp_path / "run.vtk")
    lines = (tmp_path / "run.vtk").read_text().splitlines()
    assert lines[2:4] == ["ASCII", "DATASET POLYDATA"]
    at = lines.index("POINTS 7 double")
    end = lines.index("LINES 2 9")
    points = np.array(" ".join(lines[at + 1 : end]).split(), float).reshape(7, 3)
    np.testing.assert_array_equal(points, np.pad(np.concatenate([run.coords for run in runs]), ((0, 0), (0, 1))))
    assert lines[end + 1 : end + 4] == ["5 0 1 2 3 4", "2 5 6", "POINT_DATA 7"]
    assert lines[end + 4 : end + 7] == ["SCALARS run int 1", "LOOKUP_TABLE default", "0 0 0 0 0 1 1"]
    losses = lines.index("SCALARS plane_loss double 1")
    np.testing.assert_array_equal(
        np.array(lines[losses + 2].split(), float), np.concatenate([run.plane["loss"] for run in runs])
    )


def test_the_same_trajectory_gives_the_same_bytes(tmp_path):
    for name in ("a.svg", "b.svg"):
        plots.plot(trajectory(), tmp_path / name, ground=ground())
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert matplotlib.rcParams["svg.hashsalt"] is None, "settings are as they were"
