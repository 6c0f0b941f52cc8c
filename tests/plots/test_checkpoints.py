"""Planes between checkpoints: where these lie, what they are called, and their own losses."""

import numpy as np
import pytest

from gradvis import plots
from gradvis.landmarks import Landmark
from gradvis.plots.caption import axis_label, caption
from gradvis.plots.view import central, view
from gradvis.plots.words import shortened
from tests.plots.trial import ABOUT, ALPHA, BETA, bowl, trial

BETWEEN = {**ABOUT, "plane": {"kind": "between", "checkpoints": ["a.pt", "b.pt", "c.pt"]}}


def landmark(name, coords, own, plane=None, off=0.0):
    return Landmark(name, coords, off, {"loss": own}, {"loss": own if plane is None else plane})


@pytest.fixture
def surface():
    made = trial(bowl)
    made.about = BETWEEN
    made.checkpoints = (
        landmark("a.pt", (1e-12, 0.0), 0.8),
        landmark("b.pt", (1.0, 0.0), 0.4, bowl(1, 0)),
        landmark("far.pt", (3.0, 0.0), 0.4),
        landmark("c.pt", (0.0, 1.0), 5.8, 5.8 * 1.009),
    )
    return made


def test_own_loss_and_that_of_the_plane_are_told_where_they_differ_by_over_one_percent(surface):
    texts = [mark.text for mark in view(surface, "loss").marks]
    assert texts == ["a.pt 0.8", "b.pt 0.4, 0.8 on the plane", "c.pt 5.8", "minimum 0.05"]
    surface.checkpoints = (landmark("d.pt", (0.0, 1.0), 1.0, 1.011), landmark("e.pt", (1.0, 0.0), np.nan, 2.0))
    texts = [mark.text for mark in view(surface, "loss").marks if mark.name]
    assert texts == ["d.pt 1, 1.011 on the plane", "e.pt 2 on the plane"]


def test_a_checkpoint_at_the_centre_stands_for_it_and_one_outside_is_left_out(surface):
    kinds = [mark.kind for mark in view(surface, "loss").marks]
    assert kinds == ["checkpoint"] * 3 + ["minimum"]
    surface.checkpoints = surface.checkpoints[1:]
    assert "centre" in [mark.kind for mark in view(surface, "loss").marks]


def test_a_checkpoint_at_the_edge_is_kept_though_its_projection_is_rounded(surface):
    surface.checkpoints = (landmark("b.pt", (1.0 + 1e-9, 0.0), 0.4),)
    assert view(surface, "loss").marks[0].name == "b.pt"


def test_contours_have_marks_and_names_at_their_places(surface):
    left, right = plots.plot(surface).axes[:2]
    marks = [tuple(line.get_xydata()[0]) for line in left.lines]
    assert marks == [(1e-12, 0), (1, 0), (0, 1), (0.5, 0)]
    names = {text.get_text(): text.xy for text in left.texts if hasattr(text, "xy")}
    assert names == {"a.pt": (1e-12, 0), "b.pt": (1, 0), "c.pt": (0, 1)}
    assert [text.get_text().strip() for text in right.texts] == ["a.pt", "b.pt", "c.pt"]
    heights = [float(line.get_data_3d()[2][0]) for line in right.lines]
    np.testing.assert_allclose(10 ** np.array(heights), [0.8, 0.8, 5.8 * 1.009, 0.05])


def test_pages_have_names_and_say_own_losses(surface, tmp_path):
    page = plots.plot(surface, tmp_path / "run.html")
    pins = [trace for trace in page.data if trace.type == "scatter3d" and trace.visible is not False]
    assert [pin.text[1] for pin in pins] == ["a.pt", "b.pt", "c.pt", ""]
    assert "loss 0.4, 0.8 on the plane" in pins[1].hovertemplate


def test_curves_and_volumes_have_them_too(tmp_path):
    line = trial(lambda a: a**2 + 1, axes=(ALPHA,))
    line.checkpoints = (landmark("b.pt", (1.0,), 1.5, 2.0, off=0.25),)
    ax = plots.plot(line).axes[0]
    assert [text.get_text() for text in ax.texts] == ["b.pt"]
    assert "b.pt 1.5, 2 on the plane" in [text.get_text() for text in ax.get_legend().get_texts()]
    page = plots.plot(line, tmp_path / "run.html")
    (mark,) = [trace for trace in page.data if trace.text == ("b.pt",)]
    assert (mark.x, mark.y) == ((1.0,), (2.0,))
    assert "0.25 off the plane" in mark.hovertemplate
    volume = trial(lambda a, b, c: a + b + c, axes=(ALPHA, BETA, BETA))
    volume.checkpoints = (landmark("o.pt", (0.0, 0.0, 0.0), 0.0), landmark("z.pt", (0.5, 0.25, 1.0), 1.0))
    slices = {dim: central(volume, dim)[0].checkpoints for dim in ("alpha", "gamma")}
    assert [[each.name for each in found] for found in slices.values()] == [["o.pt"], ["o.pt"]]
    assert slices["gamma"][0].coords == (0.0, 0.0)
    (spot,) = [trace for trace in plots.plot(volume, tmp_path / "run.html").data if trace.text == ("z.pt",)]
    assert (spot.x, spot.y, spot.z) == ((0.5,), (0.25,), (1.0,))


def test_a_slice_through_a_checkpoint_drops_its_coordinate():
    volume = trial(lambda a, b, c: a + b + c, axes=(ALPHA, BETA, np.array([0.25, 1.0])))
    volume.checkpoints = (landmark("z.pt", (0.5, 0.75, 0.25), 1.0),)
    assert central(volume, "gamma")[0].checkpoints[0].coords == (0.5, 0.75)
    assert central(volume, "alpha")[0].checkpoints == ()


def test_axes_and_captions_say_between_what():
    assert axis_label(BETWEEN, "beta") == "β · from a.pt to c.pt"
    assert axis_label(BETWEEN, "alpha", short=True) == "α · to b.pt"
    assert caption(BETWEEN).startswith("Loss surface between a.pt, b.pt and c.pt: cross entropy, mean over 1797")
    two = {"plane": {"kind": "between", "checkpoints": ["a.pt", "b.pt"]}}
    assert caption(two, k=1) == "Loss curve between a.pt and b.pt."


def test_captions_say_the_share_of_the_samples():
    about = {"objective": {"loss": "mse", "samples": 500, "subset": {"of": 1797, "seed": 0}}}
    assert caption(about) == "Loss surface: mse, mean over 500 of 1797 samples."
    assert caption({"plane": {"kind": "random"}}, k=1) == "Loss curve along a random direction."
    assert caption({"plane": {"kind": "hessian"}}, k=3) == "Loss volume along Hessian directions."


@pytest.mark.parametrize("most", [14, 18, 28])
def test_long_names_keep_their_ends(most):
    name = "a-very-long-name-of-a-checkpoint-001.pt"
    short = shortened(name, most)
    assert len(short) <= most
    first, last = short.split("…")
    assert name.startswith(first)
    assert name.endswith(last)
    assert shortened("short.pt", most) == "short.pt"
