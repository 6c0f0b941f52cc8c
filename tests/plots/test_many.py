"""Several results in one figure."""

import numpy as np
import pytest

from gradvis import plots
from gradvis.plots.many import captions
from tests.plots.test_static import contour_lines
from tests.plots.trial import ABOUT, ALPHA, BETA, bowl, trial

TITLES = ["first", "second", "third"]


def three():
    return [trial(lambda a, b, c=c: c * (bowl(a, b) + 0.1)) for c in (1, 4, 9)]


def filled(ax):
    (found,) = [each for each in ax.collections if getattr(each, "filled", False)]
    return found


def panels(figure):
    return [ax for ax in figure.axes if ax.get_legend()]


def test_each_panel_has_its_values_its_scale_and_its_bar():
    figure = plots.plot_many(three(), titles=TITLES, log=False)
    assert [ax.get_legend().get_title().get_text() for ax in panels(figure)] == TITLES
    for ax, c in zip(panels(figure), (1, 4, 9), strict=True):
        assert len(ax.child_axes) == 1, "a colour bar"
        assert filled(ax).levels[[0, -1]] == pytest.approx(np.array([0.15, bowl(-1, 1.5) + 0.1]) * c)
        for level, vertices in contour_lines(ax):
            near = c * (bowl(*vertices.T) + 0.1)
            assert np.median(np.abs(near - level)) < 0.35 * c, "as near as a grid of 5 by 9 is"


def test_a_shared_scale_has_one_bar_and_the_same_levels_everywhere():
    figure = plots.plot_many(three(), titles=TITLES, share_scale=True)
    low, high = np.log10([0.15, 9 * (bowl(-1, 1.5) + 0.1)])
    for ax in panels(figure):
        assert not ax.child_axes
        assert filled(ax).levels[[0, -1]] == pytest.approx([low, high])
        assert (filled(ax).norm.vmin, filled(ax).norm.vmax) == pytest.approx((low, high))
    assert len({tuple(filled(ax).levels) for ax in panels(figure)}) == 1
    (bar,) = [ax for ax in figure.axes if ax not in panels(figure)]
    assert bar.get_ylabel() == "cross entropy (mean per sample)"


@pytest.mark.parametrize(("share", "tops"), [(False, [1, 4, 9]), (True, [9, 9, 9])])
def test_surfaces_stand_in_boxes_of_their_own_or_of_one_height(share, tops):
    figure = plots.plot_many(three(), titles=TITLES, kind="surface", share_scale=share, log=False)
    for ax, top in zip(figure.axes, tops, strict=True):
        assert ax.get_zlim()[1] == pytest.approx(top * (bowl(-1, 1.5) + 0.1), rel=0.02)
        assert ax.get_legend().get_title().get_text().endswith(" · cross entropy")


def test_pages_have_a_field_each_with_the_values_given(tmp_path):
    page = plots.plot_many(three(), tmp_path / "run.html", titles=TITLES, log=False)
    sheets = [trace for trace in page.data if trace.type == "surface"]
    x, y = np.meshgrid(ALPHA, BETA)
    for sheet, c in zip(sheets, (1, 4, 9), strict=True):
        np.testing.assert_allclose(sheet.z, c * (bowl(x, y) + 0.1))
    assert len({sheet.scene for sheet in sheets}) == 3
    assert [note.text for note in page.layout.annotations][:3] == TITLES
    shared = plots.plot_many(three(), tmp_path / "run.html", kind="contour", share_scale=True, log=False)
    fields = [trace for trace in shared.data if trace.type == "contour"]
    for field in fields:
        assert (field.zmin, field.zmax) == pytest.approx((0.15, 9 * (bowl(-1, 1.5) + 0.1)))
    assert [field.showscale for field in fields] == [True, False, False]
    np.testing.assert_allclose(fields[2].z, 9 * (bowl(x, y) + 0.1))


def test_volumes_have_a_row_of_slices_each(tmp_path):
    axes = (ALPHA, BETA, np.linspace(-2, 2, 7))
    surfaces = [trial(lambda a, b, g, c=c: c * (a + 10 * b + 100 * g), axes=axes) for c in (1, 2)]
    found = panels(plots.plot_many(surfaces, titles=["x", "y"]))
    assert [ax.get_legend().get_title().get_text() for ax in found] == [
        f"{name}, {letter} = 0" for name in "xy" for letter in "γβα"
    ]
    for ax, (p, q) in zip(found[3:], ((2, 20), (2, 200), (20, 200)), strict=True):
        for level, vertices in contour_lines(ax):
            np.testing.assert_allclose(vertices @ [p, q], level, atol=1e-9)
    page = plots.plot_many(surfaces, tmp_path / "run.html")
    first, second = [trace for trace in page.data if trace.type == "isosurface"]
    np.testing.assert_allclose(second.value, 2 * first.value)


def test_captions_are_said_once_where_they_hold_for_all():
    one, two, other = three()
    other.about = {**ABOUT, "plane": {**ABOUT["plane"], "seed": 8}, "name": "c.pt"}
    two.about = {**ABOUT, "name": "b.pt"}
    assert captions([one, two], ["a", "b"], True).startswith("All share one scale. Loss surface along random")
    text = captions([one, two, other], ["a", "b", "c"], False)
    assert text.startswith("Each has its own scale. a, b: Loss surface along")
    assert text.count("seed 7") == text.count("c: Loss surface") == text.count("seed 8") == 1


@pytest.mark.parametrize("count", [1, 2, 4, 5])
@pytest.mark.parametrize("size", ["column", "page"])
def test_any_number_is_drawn(count, size, tmp_path):
    plots.plot_many([trial(bowl)] * count, tmp_path / "run.png", size=size)
    assert (tmp_path / "run.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("surfaces", "options", "message"),
    [
        ([], {}, "all lines, all planes or all volumes, but none came"),
        ([trial(bowl), trial(abs, axes=(ALPHA,))], {}, "all volumes, but results of 1 and 2 dimensions came"),
        ([trial(bowl)] * 2, {"titles": ["a"]}, "titles takes one for each of the 2 results, but 1 came"),
        ([trial(bowl)] * 2, {"kind": "both"}, "take kind 'contour' or 'surface', but 'both' came"),
        ([trial(bowl)] * 2, {"path": "run.gif"}, "a .gif shows one result, but 2 came"),
        ([trial(bowl)] * 9, {"path": "run.html"}, "at most 8 3-D surfaces, but 9 came; use kind='contour'"),
        ([trial(bowl)] * 2, {"metric": "los"}, "metric must be one of loss, but 'los' came; did you mean 'loss'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(surfaces, options, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_many(surfaces, **options)
