import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gradvis import plots
from tests.plots.trial import ABOUT, ALPHA, BETA, bowl, tilted, trial


def diverging():
    surface = trial(bowl)
    surface.dataset["loss"].values[4, 7:] = np.nan, np.inf
    return surface


def contour_lines(ax):
    """The contour lines of an axes as (level, vertices)."""
    (lines,) = [each for each in ax.collections if hasattr(each, "levels") and not each.filled]
    paths = zip(lines.levels, lines.get_paths(), strict=True)
    return [(level, path.vertices) for level, path in paths if len(path.vertices)]


def labels(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def hatches(figure):
    return [patch for patch in figure.axes[0].patches if patch.get_hatch()]


def test_contour_lies_where_the_values_are():
    figure = plots.plot(trial(tilted))
    found = contour_lines(figure.axes[0])
    assert len(found) > 4
    for level, vertices in found:
        np.testing.assert_allclose(tilted(*vertices.T), level, atol=1e-9)


def test_filled_bands_lie_where_the_values_are():
    figure = plots.plot(trial(tilted), kind="contour")
    (filled,) = [each for each in figure.axes[0].collections if getattr(each, "filled", False)]
    for low, high, path in zip(filled.levels, filled.levels[1:], filled.get_paths(), strict=False):
        values = tilted(*path.vertices.T)
        assert low - 1e-9 <= values.min()
        assert values.max() <= high + 1e-9
    assert (filled.levels[0], filled.levels[-1]) == (-16, 16)


def test_log_contour_lies_where_the_values_are():
    surface = trial(lambda a, b: 10 ** (a + 2 * b))
    for level, vertices in contour_lines(plots.plot(surface).axes[0]):
        np.testing.assert_allclose(vertices @ [1, 2], level, atol=1e-9)


def test_relief_lies_where_the_values_are():
    figure = plots.plot(trial(tilted), kind="surface")
    (sheet,) = figure.axes[0].collections
    corners = np.reshape(sheet._faces, (-1, 3))
    np.testing.assert_allclose(tilted(corners[:, 0], corners[:, 1]), corners[:, 2], atol=1e-12)
    assert len(sheet._faces) == 4 * 8


def test_axes_are_named_and_not_swapped():
    left, right = plots.plot(trial(tilted)).axes[:2]
    for ax in (left, right):
        assert ax.get_xlabel().startswith("α · random direction 1")
        assert ax.get_ylabel().startswith("β · random direction 2")
        np.testing.assert_allclose(ax.get_xlim(), (-1, 1), atol=0.1)
        np.testing.assert_allclose(ax.get_ylim(), (-1.5, 1.5), atol=0.1)
    assert left.child_axes[0].get_ylabel() == "cross entropy (mean per sample)"


def test_marks_stand_at_their_places():
    left, right = plots.plot(trial(bowl)).axes[:2]
    assert [tuple(line.get_xydata()[0]) for line in left.lines] == [(0, 0), (0.5, 0)]
    marks = [[float(each[0]) for each in line.get_data_3d()] for line in right.lines]
    np.testing.assert_allclose(marks, [[0, 0, np.log10(0.8)], [0.5, 0, np.log10(0.05)]])
    assert labels(left.figure) == ["centre 0.8", "minimum 0.05"]


def test_diverged_points_are_hatched_and_only_then():
    figure = plots.plot(diverging())
    assert len(hatches(figure)) == 1
    assert labels(figure)[-1] == "diverged"
    figure = plots.plot(trial(bowl))
    assert not hatches(figure)
    assert "diverged" not in labels(figure)
    line = plots.plot(trial(lambda a: np.where(a > 0.4, np.nan, a**2), axes=(ALPHA,)))
    (span,) = hatches(line)
    assert (span.get_x(), span.get_x() + span.get_width()) == (0.25, 1)


def test_hatch_is_seen_where_the_loss_diverged_and_nowhere_else():
    figure = plots.plot(diverging(), kind="contour")
    (filled,) = [each for each in figure.axes[0].collections if getattr(each, "filled", False)]
    covered = [path.contains_point((0.95, 1.45)) for path in filled.get_paths()]
    assert not any(covered)
    assert any(path.contains_point((-0.95, 1.45)) for path in filled.get_paths())


def test_missing_points_are_drawn_and_said():
    done = np.zeros((5, 9), bool)
    done[::2, ::2] = True
    figure = plots.plot(trial(bowl, done=done))
    assert "33\u00a0% computed" in " ".join(text.get_text() for text in figure.texts)
    assert not hatches(figure)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_files_are_written_whole(tmp_path, suffix):
    path = tmp_path / f"run{suffix}"
    path.write_text("old")
    figure = plots.plot(trial(bowl), path)
    assert isinstance(figure, Figure)
    assert path.stat().st_size > 5000
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    first = path.read_bytes()
    plots.plot(trial(bowl), path)
    assert path.read_bytes() == first, "the same surface gives the same bytes"


def test_a_failed_write_leaves_the_old_picture_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "run.png"
    path.write_text("old")

    def fail(self, file, **options):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.plot(trial(bowl), path)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["run.png"]


def test_pdf_has_real_fonts_and_no_caption(tmp_path):
    with matplotlib.rc_context({"pdf.compression": 0}):
        plots.plot(trial(bowl), tmp_path / "run.pdf")
    text = (tmp_path / "run.pdf").read_bytes()
    assert b"/CIDFontType2" in text
    assert b"/Type3" not in text


def test_caption_is_in_png_and_notebook_but_not_in_pdf_and_svg(tmp_path):
    for name, there in (("run.png", True), ("run.pdf", False), ("run.svg", False), (None, True)):
        figure = plots.plot(trial(bowl), name and tmp_path / name)
        assert ("seed 7" in " ".join(text.get_text() for text in figure.texts)) is there
    svg = (tmp_path / "run.svg").read_text()
    assert "seed 7" not in svg
    assert ">α · random direction 1, filter-normalised<" in svg, "text stays text"


@pytest.mark.parametrize(("size", "width"), [("column", 3.5), ("page", 7.2), ("slide", 12.0)])
@pytest.mark.parametrize("kind", ["contour", "surface", "both"])
def test_sizes_and_nothing_is_cut_off(size, width, kind, tmp_path):
    figure = plots.plot(trial(bowl), tmp_path / "run.png", kind=kind, size=size)
    assert figure.get_figwidth() == width
    pixels = np.asarray(Image.open(tmp_path / "run.png").convert("L"))
    assert pixels.shape[1] == pytest.approx(300 * width, abs=1)
    edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    assert all((edge == 255).all() for edge in edges), "something touches the edge of the figure"
    small = [text.get_fontsize() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]
    assert min(small) >= 6


def test_users_axes_are_drawn_into():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plots.plot(trial(tilted), ax=right) is figure
    assert not left.has_data()
    for level, vertices in contour_lines(right):
        np.testing.assert_allclose(tilted(*vertices.T), level, atol=1e-9)
    solid = figure.add_subplot(projection="3d")
    plots.plot(trial(tilted), ax=solid, kind="surface")
    assert len(solid.collections) == 1
    with pytest.raises(ValueError, match="one ax came"):
        plots.plot(trial(tilted), ax=left, kind="both")
    with pytest.raises(ValueError, match="a surface needs an ax with projection='3d', but Axes came"):
        plots.plot(trial(tilted), ax=left, kind="surface")
    with pytest.raises(ValueError, match="a contour needs a flat ax, but Axes3D came"):
        plots.plot(trial(tilted), ax=solid)


def test_volume_is_its_three_central_slices():
    axes = (ALPHA, BETA, np.linspace(-2, 2, 7))
    figure = plots.plot(trial(lambda a, b, c: a + 10 * b + 100 * c, axes=axes))
    assert len(figure.axes) == 3
    for ax, (p, q), title in zip(figure.axes, ((1, 10), (1, 100), (10, 100)), "γβα", strict=True):
        assert ax.get_legend().get_title().get_text() == f"{title} = 0"
        for level, vertices in contour_lines(ax):
            np.testing.assert_allclose(vertices @ [p, q], level, atol=1e-9)


@pytest.mark.parametrize(
    "f",
    [
        lambda a, b: 2.3 + 0 * a,
        lambda a, b: 0 * a,
        lambda a, b: 2.3 + 1e-9 * a,
        lambda a, b: -1e20 * b + a,
        lambda a, b: np.where(a > 0.9, 1e20, 1 + a),
        lambda a, b: np.nan * a,
        lambda a, b: np.where((a == 0) & (b == 0), 1.0, np.inf),
        lambda a, b: np.maximum(a, 0),
        lambda a, b: 10 ** (150 * a),
    ],
    ids=["constant", "zero", "tiny", "huge", "outlier", "diverged", "single", "plateau", "decades"],
)
@pytest.mark.filterwarnings("error")
def test_awkward_surfaces_are_drawn(f, tmp_path):
    surface = trial(f)
    plots.plot(surface, tmp_path / "run.png")
    plots.plot(surface, tmp_path / "run.html")
    assert (tmp_path / "run.png").stat().st_size > 10_000
    assert (tmp_path / "run.html").stat().st_size > 1_000_000


@pytest.mark.filterwarnings("error")
def test_names_are_no_markup(tmp_path):
    surface = trial(bowl)
    surface.about = {**ABOUT, "name": r"a$\b$<b>_{x}"}
    plots.plot(surface, tmp_path / "run.png")
    plots.plot(surface, tmp_path / "run.html")
    assert "<title>Loss surface of a$\\b$&lt;b&gt;_{x}</title>" in (tmp_path / "run.html").read_text()


def test_nothing_of_the_users_is_changed(tmp_path):
    code = """
import sys, matplotlib
from tests.plots.trial import trial, bowl
from gradvis import plots
# Reading the backend would choose one.
settings = lambda: {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}
before = settings()
surface = trial(bowl)
kept = surface.dataset.copy(deep=True)
for name in ("run.png", "run.pdf", "run.svg", "run.html"):
    plots.plot(surface, sys.argv[1] + "/" + name)
assert settings() == before
assert matplotlib.get_backend(auto_select=False) is None
assert "matplotlib.pyplot" not in sys.modules
assert surface.dataset.identical(kept)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_a_notebook_shows_the_figure():
    assert plots.plot(trial(bowl))._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"path": "run.pgn"},
            r"suffix of a picture must be one of .png, .svg, .pdf, .html, .gif, .mp4, but '.pgn' came.*'.png'",
        ),
        ({"path": "run"}, "suffix of a picture must be one of"),
        ({"kind": "contuor"}, "kind must be one of contour, surface, both, but 'contuor' came; did you mean 'contour'"),
        ({"metric": 3}, "metric must be one of loss, but 3 came"),
        ({"kind": ""}, "kind must be one of contour, surface, both, but '' came"),
        ({"path": "run.gif", "kind": "contour"}, "a film turns a 3-D surface, but kind='contour' came"),
        ({"size": "poster"}, "size must be one of column, page, slide"),
        ({"metric": "lose"}, "metric must be one of loss, but 'lose' came; did you mean 'loss'"),
        ({"path": "no/such/run.png"}, "needs the folder no/such, which does not exist"),
        ({"path": "run.html", "ax": 1}, "an ax is for .png, .svg or .pdf, but .html came"),
        ({"log": True}, "values above zero, but the smallest is -16"),
    ],
)
def test_errors_say_what_to_do(options, message):
    with pytest.raises(ValueError, match=message):
        plots.plot(trial(tilted), **options)


def test_one_point_an_axis_is_refused():
    with pytest.raises(ValueError, match=r"a contour needs two points along each axis, but the grid is \(5, 1\)"):
        plots.plot(trial(tilted, axes=(ALPHA, BETA[:1])))


def test_a_folder_that_refuses_is_one_line(tmp_path):
    (tmp_path / "run.png").mkdir()
    with pytest.raises(OSError, match=r"^cannot write .*run\.png: Is a directory$"):
        plots.plot(trial(bowl), tmp_path / "run.png")


def test_contour_labels_lie_within_the_axes_and_off_the_marks():
    for f in (bowl, tilted, lambda a, b: a * b + a**3):
        figure = plots.plot(trial(f), kind="contour")
        ax = figure.axes[0]
        figure.draw_without_rendering()
        inside = ax.get_window_extent()
        boxes = [text.get_window_extent() for text in ax.texts]
        assert boxes
        for box in boxes:
            assert inside.x0 < box.x0 < box.x1 < inside.x1
            assert inside.y0 < box.y0 < box.y1 < inside.y1
        for line in ax.lines:
            place = ax.transData.transform(line.get_xydata()[0])
            assert not any(box.contains(*place) for box in boxes)


@pytest.mark.parametrize(("library", "path"), [("matplotlib", "run.png"), ("plotly", "run.html")])
def test_a_missing_library_is_one_line(library, path):
    code = f"""
import sys
sys.modules[{library!r}] = None
from tests.plots.trial import trial, bowl
from gradvis import plots
try:
    plots.plot(trial(bowl), {path!r})
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f'this picture needs {library}, which is not here; pip install "gradvis[plot]"\n'
