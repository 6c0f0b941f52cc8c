import re
from html.parser import HTMLParser

import numpy as np
import pytest

from gradvis import plots
from tests.plots.trial import ALPHA, BETA, bowl, tilted, trial


@pytest.fixture
def page(tmp_path):
    return tmp_path / "run.html"


def shown(figure, kind="surface"):
    """The visible traces of a kind."""
    return [trace for trace in figure.data if trace.type == kind and trace.visible is not False]


def click(figure, menu, label):
    """What a button's click does in the browser: Plotly.update(data, layout)."""
    (button,) = [each for each in figure.layout.updatemenus[menu].buttons if each.label == label]
    data, layout = button.args
    for trace, visible in zip(figure.data, data["visible"], strict=True):
        trace.visible = visible
    return layout


def test_surface_lies_where_the_values_are(page):
    (sheet,) = shown(plots.plot(trial(tilted), page))
    x, y = np.meshgrid(sheet.x, sheet.y)  # plotly: a row for each y
    np.testing.assert_array_equal(sheet.x, ALPHA)
    np.testing.assert_array_equal(sheet.y, BETA)
    np.testing.assert_allclose(sheet.z, tilted(x, y))


def test_log_surface_has_logarithms_and_says_true_values(page):
    (sheet,) = shown(plots.plot(trial(bowl), page))
    x, y = np.meshgrid(ALPHA, BETA)
    np.testing.assert_allclose(sheet.z, np.log10(bowl(x, y)))
    assert sheet.hoverinfo == "text"
    assert sheet.hovertext[7][1] == f"α -0.5<br>β 1.125<br>loss {bowl(-0.5, 1.125):.6g}"
    ticks = dict(zip(sheet.colorbar.ticktext, sheet.colorbar.tickvals, strict=True))
    assert ticks["10"] == 1
    assert (sheet.cmin, sheet.cmax) == (np.log10(0.05), np.log10(bowl(-1, 1.5)))


def test_scale_switch(page):
    figure = plots.plot(trial(bowl), page)
    menu = figure.layout.updatemenus[0]
    assert (menu.visible, menu.active, [each.label for each in menu.buttons]) == (True, 1, ["linear", "log"])
    layout = click(figure, 0, "linear")
    (sheet,) = shown(figure)
    assert sheet.z.max() == bowl(-1, 1.5)
    assert layout["scene.zaxis.range"][1] == bowl(-1, 1.5)
    assert len(shown(figure, "scatter3d")) == 2


@pytest.mark.parametrize("f", [tilted, lambda a, b: 100 * np.maximum(b, 0), lambda a, b: 2 + 0 * a])
def test_no_log_switch_where_it_cannot_be(page, f):
    figure = plots.plot(trial(f), page)
    assert not figure.layout.updatemenus[0].visible
    assert [each.label for each in figure.layout.updatemenus[0].buttons] == ["linear"]


def test_metric_switch_brings_its_own_scale(page):
    figure = plots.plot(trial(bowl, accuracy=lambda a, b: (b > 0) * 1.0), page)
    scales, metrics = figure.layout.updatemenus
    assert [each.label for each in metrics.buttons] == ["loss", "accuracy"]
    assert (metrics.active, scales.active) == (0, 1)
    layout = click(figure, 1, "accuracy")
    (sheet,) = shown(figure)
    assert sheet.name == "accuracy"
    assert sheet.z.max() == 1
    assert layout["updatemenus[0].visible"] is False
    assert layout["scene.zaxis.title.text"] == "accuracy"
    layout = click(figure, 1, "loss")
    assert [button["label"] for button in layout["updatemenus[0].buttons"]] == ["linear", "log"]
    assert layout["updatemenus[0].active"] == 1


def test_metric_and_log_choose_what_comes_first(page):
    figure = plots.plot(trial(bowl, accuracy=lambda a, b: 1 + a), page, metric="accuracy", log=False)
    assert [sheet.name for sheet in shown(figure)] == ["accuracy"]
    assert figure.layout.updatemenus[1].active == 1
    (sheet,) = shown(plots.plot(trial(bowl), page, log=False))
    assert sheet.z.max() == bowl(-1, 1.5)


def test_marks_and_diverged_points(page):
    surface = trial(bowl)
    surface.dataset["loss"].values[4, 0] = np.inf
    figure = plots.plot(surface, page, log=False)
    centre, minimum, diverged = shown(figure, "scatter3d")
    assert (centre.x[0], centre.y[0], centre.z[0], centre.name) == (0, 0, 0.8, "centre 0.8")
    assert (minimum.x[0], minimum.y[0], minimum.z[0], minimum.name) == (0.5, 0, 0.05, "minimum 0.05")
    assert (diverged.x[0], diverged.y[0], diverged.name) == (1, -1.5, "diverged")
    assert np.isnan(shown(figure)[0].z[0][4])
    assert "diverged" not in [trace.name for trace in plots.plot(trial(bowl), page).data]


def test_page_is_self_contained_and_talks_to_nobody(page):
    plots.plot(trial(bowl), page)
    text = page.read_text()

    class Loads(HTMLParser):
        found = ()

        def handle_starttag(self, tag, attrs):
            names = dict(attrs)
            self.found += tuple(names[key] for key in ("src", "href") if key in names)

    parser = Loads()
    parser.feed(text)
    assert parser.found == ()
    assert len(text) > 3_000_000, "plotly.js is inside"
    assert re.search(r'"showSendToCloud":\s*false', text), "no button uploads the data"
    assert [each.name for each in page.parent.iterdir()] == ["run.html"]


def test_title_and_caption(page):
    figure = plots.plot(trial(bowl), page)
    assert figure.layout.title.text == "Loss surface of model.pt"
    assert "seed 7" in figure.layout.annotations[0].text
    assert figure.layout.scene.xaxis.title.text.startswith("α · random direction 1")
    assert figure.layout.scene.yaxis.title.text.startswith("β · random direction 2")


def test_contour_is_seen_from_above(page):
    figure = plots.plot(trial(tilted), page, kind="contour")
    assert figure.layout.scene.camera.projection.type == "orthographic"
    eye, up = figure.layout.scene.camera.eye, figure.layout.scene.camera.up
    assert ((eye.x, eye.y), up.y) == ((0, 0), 1)
