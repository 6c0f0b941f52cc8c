"""What keeps pictures of paths readable: names at their ends, short legends, lines that fit, an eye that sees them."""

import numpy as np
import pytest

from gradvis import plots
from gradvis.landmarks import Landmark
from gradvis.plots import film
from gradvis.plots.interactive_parts import CAMERA
from gradvis.plots.marks import handles, rows_of
from gradvis.plots.paths import best_eye, hidden
from gradvis.plots.scale import Scale
from gradvis.plots.static import SIZES, Picture, blank, wrap
from gradvis.plots.view import view
from tests.plots.trial import COORDS, ground, tilted, track, trajectory, trial

RUNS = (track(name="sgd"), track(coords=[*COORDS[:-1], [-0.8, -1.0]], name="adam"))


def landmark(name, *coords):
    return Landmark(name, tuple(coords), 0.0, {"loss": 1.0}, {"loss": 1.0})


def labels(rows):
    return [[entry.get_label().strip() for entry in row] for row in rows]


def test_a_checkpoint_at_an_end_of_a_path_is_not_marked_again():
    surface = ground(track())
    (x0, y0), (x1, y1) = COORDS[[0, -1]]
    surface.checkpoints = (
        landmark("start.pt", x0 + 0.0019, y0 - 0.0029),
        landmark("end.pt", x1 - 0.0019, y1),
        landmark("beside.pt", x1 - 0.0021, y1),
        landmark("above.pt", x1, y1 + 0.0031),
    )
    marks = view(surface, "loss").marks
    assert [mark.name for mark in marks if mark.kind == "checkpoint"] == ["beside.pt", "above.pt"]


def test_each_of_several_runs_has_its_name_at_its_end():
    ends = [mark for mark in view(ground(*RUNS), "loss").marks if mark.kind == "end"]
    assert [(mark.name, mark.coords) for mark in ends] == [("sgd", (0.5, -0.25)), ("adam", (-0.8, -1.0))]
    ax = plots.plot(trajectory(*RUNS), ground=ground()).axes[0]
    written = {text.get_text(): (text.xy, text.get_color()) for text in ax.texts if hasattr(text, "xy")}
    assert written == {"sgd": ((0.5, -0.25), "#0072b2"), "adam": ((-0.8, -1.0), "#d55e00")}
    assert not any(mark.name for mark in view(ground(track()), "loss").marks), "of one run the title tells"


def test_a_page_has_the_names_on_pins_at_the_ends(tmp_path):
    figure = plots.plot(trajectory(*RUNS), tmp_path / "run.html", ground=ground())
    pins = {trace.text[-1]: trace for trace in figure.data if trace.visible and trace.text}
    for name, place in (("sgd", (0.5, -0.25)), ("adam", (-0.8, -1.0))):
        assert (pins[name].x[-1], pins[name].y[-1]) == place
        assert pins[name].z[1] > pins[name].z[0]


def test_legends_have_runs_in_a_row_and_the_rest_below():
    entries = handles(view(ground(*RUNS), "loss"))
    told = labels(rows_of(entries))
    assert told[0][:2] == ["sgd", "adam"]
    assert not any(told[0][2:])
    assert {"start", "end"} <= set(told[1])
    assert labels(rows_of(entries, letters=1))[:3] == [["sgd"], ["adam"], ["centre 0.8"]], (
        "a line each where it is narrow"
    )
    assert rows_of(handles(view(ground(track()), "loss"))) == [], "one run needs no name"


def test_legends_are_drawn_row_by_row():
    figure = plots.plot(trajectory(*RUNS), ground=ground())
    figure.canvas.draw()
    texts = figure.axes[0].get_legend().get_texts()
    heights = {text.get_text(): round(text.get_window_extent().y0) for text in texts}
    assert abs(heights["sgd"] - heights["adam"]) <= 2
    assert abs(heights["start"] - heights["end"]) <= 2
    assert heights["sgd"] > heights["start"] + 10


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("word", ["WWW", "ill", "1797"])
def test_captions_fit_the_width_of_the_figure(size, word):
    text = " ".join([word] * 90 + ["100 %", "gradvis 0.1.0."])
    lines = wrap(text, SIZES[size])
    figure, _ = blank(4, SIZES[size], text)
    figure.set_dpi(300)  # as it is saved
    reach = figure.texts[0].get_window_extent(figure.canvas.get_renderer()).x1 / figure.bbox.width
    assert 0.85 < reach < 1
    assert " ".join(lines).replace("\N{NO-BREAK SPACE}", " ") == text
    assert wrap("", SIZES[size]) == []


def wall(front):
    """A path on the floor before or behind a high wall along alpha."""
    floor = track(lambda a, b: 1 + 0 * a, coords=np.array([[-0.9, -front], [0.0, -0.8 * front], [0.9, -front]]))
    return ground(floor, f=lambda a, b: 1 + 9 * np.maximum(front * b, 0))


def test_points_behind_a_sheet_are_hidden():
    seen, scale = view(wall(1), "loss"), Scale(False, 0.0, 15.0)
    points = np.array([[0.0, -1.0, 2.0], [0.0, -1.0, 14.9], [0.0, 1.4, 14.9]])
    assert hidden(points, seen, scale, np.array([0.0, 3.0, 5.0])).tolist() == [True, False, False]
    assert hidden(points, seen, scale, np.array([0.0, -3.0, 5.0])).tolist() == [False, False, False]
    eyes = [(0, 1, 0.5), (0, -1, 0.5), (0, -1, 0.6)]
    assert best_eye(seen, "loss", scale, eyes, tall=0.7) == 1


@pytest.mark.parametrize(("front", "side"), [(1, -1), (-1, 1)], ids=["usual", "turned"])
def test_the_eye_looks_from_where_the_path_is_seen(tmp_path, front, side):
    page = plots.plot(wall(front), tmp_path / "run.html")
    assert np.sign(page.layout.scene.camera.eye.y) == side
    assert page.layout.scene.camera.eye.x > 0, "the first of corners that see as much"
    azimuth = np.radians(plots.plot(wall(front), kind="surface").axes[0].azim)
    assert np.sign(np.sin(azimuth)) == side
    assert np.cos(azimuth) > 0


def test_without_a_path_the_eye_is_where_it_was(tmp_path):
    page = plots.plot(trial(tilted), tmp_path / "run.html")
    assert page.layout.scene.camera.eye.to_plotly_json() == CAMERA["eye"]
    assert plots.plot(trial(tilted), kind="surface").axes[0].azim == -60


def test_the_legend_of_a_page_stands_above_its_field(tmp_path):
    runs = [track(name=f"run {i}") for i in range(6)]
    for result, entries in ((trajectory(), 4), (trajectory(*runs), 8)):
        figure = plots.plot(result, tmp_path / "run.html", ground=ground())
        told = [
            each for each in figure.data if each.visible and each.type == "scatter3d" and each.showlegend is not False
        ]
        assert len(told) == entries
        assert (1 - figure.layout.scene.domain.y[1]) * 591 > 19 * entries, "pixels, of a page 757 high"


def test_films_draw_each_frame_once(tmp_path, monkeypatch):
    monkeypatch.setattr(film, "_DPI", 50)
    drawn, draw = [], Picture.draw
    monkeypatch.setattr(Picture, "draw", lambda figure, renderer: (drawn.append(1), draw(figure, renderer)))
    plots.plot(trajectory(), tmp_path / "run.gif", ground=ground(), size="column")
    assert len(drawn) <= 5 + 2 + 1, "five moments, the last one held, and once for the layout"


def test_the_curves_of_a_page_are_those_of_the_metric_on_its_ground(tmp_path):
    run = track()
    run.own["accuracy"], run.plane["accuracy"] = np.linspace(0.1, 0.9, 5), np.linspace(0.2, 0.8, 5)
    surface = trial(tilted, accuracy=lambda a, b: (a + 1) / 2)
    surface.tracks = (run,)
    for metric in ("loss", "accuracy"):
        figure = plots.plot(surface, tmp_path / "run.html", metric=metric)
        true, plane, _ = [each for each in figure.data if each.visible and each.type == "scatter"]
        np.testing.assert_array_equal([true.y, plane.y], [run.own[metric], run.plane[metric]])
