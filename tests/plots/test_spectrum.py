"""Pictures of spectra show what is in them."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from gradvis import plots
from gradvis.plots.eigen_axis import Axis, axis
from gradvis.plots.spectra import curve, parts, titles
from gradvis.plots.static_spectrum import draw_many
from tests.plots.trial import bowl, trial
from tests.plots.trial_spectrum import NODES, VALUES, WEIGHTS, layer, spectrum


def of(ax, gid):
    """What is drawn under a name."""
    return next((each for each in (*ax.lines, *ax.collections, *ax.texts) if each.get_gid() == gid), None)


def said(figure):
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")


def keys(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_line_is_the_density_and_the_band_its_standard_error():
    result = spectrum()
    (ax,) = result.plot().axes
    x, y = of(ax, "density").get_data()
    truth, error = result.density(x), result.density_stderr(x)
    low = ax.get_ylim()[0]
    np.testing.assert_allclose(np.where(truth > low, y, 0), np.where(truth > low, truth, 0))
    assert truth.max() == y.max(), "nothing is cut above"
    band = of(ax, "band").get_paths()[0].vertices
    there = (error > 1e-3 * truth) & (truth > low)
    assert there.sum() > 20
    for place, height, off in zip(x[there], truth[there], error[there], strict=True):
        edges = band[band[:, 0] == place, 1]
        assert edges.max() == pytest.approx(height + off)
        assert height - off < low or edges.min() == pytest.approx(height - off)


def test_no_eigenvalue_falls_between_the_points_of_the_line():
    rng = np.random.default_rng(0)
    bulk = np.sort(rng.uniform(0, 1, (20, 98)), axis=1)
    nodes = np.hstack([bulk, np.tile([50.0, 100.0], (20, 1))])
    result = spectrum(nodes, np.full((20, 100), 0.01), np.array([100.0, 50.0]), np.ones(2, bool))
    seen = curve(result, "density", axis([parts(result)]))
    for value in (50.0, 100.0):
        place = int(np.flatnonzero(seen.x == value)[0])
        assert seen.y[place] == pytest.approx(result.density(np.array([value]))[0])
        beside = (np.abs(seen.x - value) < 2.0) & (np.abs(seen.x - value) > 0.6)
        assert seen.y[place] > 0
        assert seen.y[beside].size >= 2, "with feet beside it"
        assert seen.y[beside].max() < 0.5 * seen.y[place]


def test_the_axis_of_densities_is_logarithmic_and_marks_have_a_lane_below():
    result = spectrum()
    (ax,) = result.plot().axes
    low, high = ax.get_ylim()
    seen = result.density(np.array([-0.5, 0.02, 40.0]))
    assert ax.get_yscale() == "log"
    assert low < seen.min() < seen.max() <= high
    assert "share of eigenvalues per unit" in ax.get_ylabel()
    inverse = ax.transData.inverted()
    bottom = inverse.transform(of(ax, "density").get_clip_box().p0)[1]
    assert low < bottom < seen.min()


def test_eigenvalues_are_marked_open_where_they_have_not_converged():
    (ax,) = spectrum().plot().axes
    there, open_ = of(ax, "converged eigenvalue"), of(ax, "not converged")
    assert there.get_xdata().tolist() == [40.0, -0.5]
    assert open_.get_xdata().tolist() == [0.03]
    assert open_.get_markerfacecolor() == "white" != there.get_markerfacecolor()
    assert {"converged eigenvalue", "not converged", "± 1 standard error"} <= set(keys(ax))


@pytest.mark.parametrize(("which", "names"), [("both", ["largest", "smallest"]), ("largest", ["largest"])])
def test_the_ends_that_are_known_are_told_in_numbers(which, names):
    (ax,) = spectrum(which=which).plot().axes
    assert [text.get_text() for text in ax.texts] == [
        f"{name} {value}" for name, value in (("largest", "40"), ("smallest", "−0.5")) if name in names
    ]
    assert of(ax, "largest").xy == (40.0, 0.0)


def test_without_eigenpairs_the_density_stands_alone():
    for about in ({"top": 0}, {"reorthogonalise": "none"}):
        (ax,) = spectrum(**about).plot().axes
        assert all(len(line.get_xdata()) == 0 for line in ax.lines if line.get_gid() != "density")
        assert not ax.texts


def test_the_cumulative_spectrum_jumps_at_the_nodes():
    result = spectrum()
    (ax,) = result.plot(kind="cumulative").axes
    line = of(ax, "cumulative")
    assert line.get_drawstyle() == "steps-post"
    x, y = line.get_data()
    assert x[0] < -0.5
    assert x[-1] > 40.0
    assert set(NODES[np.isfinite(NODES)]) <= set(x)
    np.testing.assert_allclose(y, [WEIGHTS[place >= NODES].sum() / 3 for place in x])
    assert ax.get_yscale() == "linear"


@pytest.mark.parametrize(("log", "scale"), [(None, "symlog"), (True, "symlog"), (False, "linear")])
def test_the_axis_of_eigenvalues_is_the_one_asked_for(log, scale):
    (ax,) = spectrum().plot(log=log).axes
    assert ax.get_xscale() == scale
    assert ("symmetric-log axis" in ax.get_xlabel()) == (scale == "symlog")
    low, high = ax.get_xlim()
    assert low < -0.5
    assert high > 40.0


def test_a_narrow_spectrum_has_a_linear_axis():
    nodes = np.linspace(1.0, 3.0, 12).reshape(3, 4)
    (ax,) = spectrum(nodes, np.full((3, 4), 0.25), np.array([3.0]), np.array([True])).plot().axes
    assert (ax.get_xscale(), ax.get_xlabel()) == ("linear", "eigenvalue")


def test_what_lies_in_the_linear_part_is_told():
    result = spectrum()
    (ax,) = result.plot().axes
    across = axis([parts(result)])
    assert 0.02 <= across.threshold <= 0.1
    (text,) = [each for each in keys(ax) if "within" in each]
    share = WEIGHTS[np.abs(NODES) <= across.threshold].sum() / 3
    assert text.replace("\N{NO-BREAK SPACE}", " ") == f"share within ±{across.threshold:g}: {100 * share:.0f} %"


def test_places_on_paper_are_those_of_matplotlib():
    (ax,) = spectrum().plot().axes
    across = axis([parts(spectrum())])
    x = np.array([-0.4, -0.001, 0.0, 0.007, 0.5, 33.0])
    pixels = ax.transData.transform(np.column_stack([x, np.ones(6)]))[:, 0]
    ours = across.draw(x)
    np.testing.assert_allclose(np.diff(pixels) / np.ptp(pixels), np.diff(ours) / np.ptp(ours), rtol=1e-9)
    np.testing.assert_allclose(across.undraw(ours), x, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6])
def test_the_rule_of_the_axis_knows_no_unit(scale):
    first = axis([parts(spectrum())])
    other = axis([(scale * NODES, WEIGHTS)])
    assert other.log
    assert (other.threshold / scale, other.low / scale) == pytest.approx((first.threshold, first.low))


@pytest.mark.parametrize("nodes", [np.zeros((2, 1)), np.full((2, 1), 3.0), np.array([[np.nan], [0.0]])])
@pytest.mark.parametrize("log", [None, True, False])
def test_spectra_of_one_eigenvalue_are_drawn(nodes, log):
    result = spectrum(nodes, np.isfinite(nodes) * 1.0, np.empty(0), np.empty(0, bool), top=0)
    (ax,) = result.plot(log=log).axes
    low, high = ax.get_xlim()
    assert low < np.nanmax(nodes) < high
    assert np.isfinite(ax.get_ylim()).all()


def test_an_unfinished_spectrum_is_drawn_from_the_probes_that_are_there(tmp_path):
    nodes, weights = NODES.copy(), WEIGHTS.copy()
    nodes[1], weights[1] = np.nan, np.nan
    half = spectrum(nodes, weights)
    figure = half.plot(tmp_path / "a.png")
    assert "2 of 3 probes computed" in said(figure)
    whole = spectrum(NODES[[0, 2]], WEIGHTS[[0, 2]])
    lines = [of(each.axes[0], "density").get_data() for each in (figure, whole.plot())]
    np.testing.assert_array_equal(*lines)


def test_one_probe_has_no_band(tmp_path):
    figure = spectrum(NODES[:1], WEIGHTS[:1]).plot(tmp_path / "a.png")
    assert of(figure.axes[0], "band") is None
    assert "± 1 standard error" not in keys(figure.axes[0])
    assert "trace 155.9, Frobenius norm" in said(figure)


def test_a_picture_goes_into_axes_of_yours():
    ax = Figure().add_subplot()
    assert spectrum().plot(ax=ax) is ax.get_figure()
    assert of(ax, "density") is not None


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"kind": "contour"}, "the kind of a spectrum must be one of density, cumulative, but 'contour' came"),
        ({"kind": "densty"}, "but 'densty' came; did you mean 'density'?"),
        ({"kind": "ridge"}, "kind 'ridge' shows several spectra, but one came"),
        ({"metric": "loss"}, "a spectrum has no metrics, but 'loss' came; leave it out"),
        ({"path": "a.gif"}, "a .gif shows several spectra one after the other, but one came; save as .png or .html"),
        ({"path": "a.html", "ax": 1}, "an ax is for .png, .svg or .pdf, but .html came"),
        ({"ground": spectrum()}, "a ground is for a trajectory, but a spectrum came"),
        ({"size": "pag"}, "size must be one of column, page, slide, but 'pag' came"),
    ],
)
def test_what_a_spectrum_cannot_show_is_refused(options, line):
    with pytest.raises(ValueError, match="^[^\n]*$") as error:
        spectrum().plot(**options)
    assert line in str(error.value)


def test_a_spectrum_without_a_probe_is_refused():
    with pytest.raises(ValueError, match="needs at least one finished probe, but this spectrum has none yet"):
        spectrum(np.full((2, 3), np.nan), np.full((2, 3), np.nan)).plot()


def test_ticks_are_evenly_spaced_and_include_zero():
    across = Axis(True, 1e-4, -0.05, 300.0)
    for most in (3, 5, 9, 20):
        levels = across.ticks(most)
        assert 0.0 in levels
        assert len(levels) <= most + 1
        steps = np.diff(across.draw(np.array(levels)))
        np.testing.assert_allclose(steps, steps[0])


def test_names_are_the_blocks_where_they_differ_else_the_models():
    assert titles([layer("a.*"), layer("b.*")]) == ["a.*", "b.*"]
    assert titles([layer("a.*"), spectrum()]) == ["a.*", "all parameters"]
    assert titles([spectrum(name="x.pt"), spectrum(name="y.pt")]) == ["x.pt", "y.pt"]
    assert titles([spectrum(), spectrum()]) == ["result 1", "result 2"]
    assert titles([layer("a.*"), layer("b.*")], ["1", "2"]) == ["1", "2"]


def test_the_panels_of_layers_share_the_eigenvalues_and_have_their_own_heights():
    layers = [layer("conv.*"), layer("fc.*", 0.1)]
    figure = plots.plot_many(layers)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["conv.*", "fc.*"]
    for ax, each in zip(figure.axes, layers, strict=True):
        x, y = of(ax, "density").get_data()
        np.testing.assert_allclose(y[y > ax.get_ylim()[0]], each.density(x)[y > ax.get_ylim()[0]])
        assert of(ax, "converged eigenvalue").get_xdata().tolist() == [each.pairs.values[0], each.pairs.values[2]]
    limits = [(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes]
    assert limits[0][0] == limits[1][0]
    assert limits[0][1] != limits[1][1]
    shared = plots.plot_many(layers, share_scale=True)
    assert len({ax.get_ylim() for ax in shared.axes}) == 1


def test_cumulative_spectra_stand_together():
    layers = [layer("conv.*"), layer("fc.*", 0.1)]
    (ax,) = plots.plot_many(layers, kind="cumulative").axes
    assert keys(ax) == ["conv.*", "fc.*"]
    for line, each in zip([each for each in ax.lines if len(each.get_xdata())], layers, strict=True):
        np.testing.assert_allclose(line.get_ydata(), each.cumulative(line.get_xdata()))
    assert len({line.get_color() for line in ax.lines}) == 2


def test_a_ridge_has_a_row_for_each_checkpoint_the_first_on_top():
    spectra = [spectrum(i * NODES, values=i * VALUES, name=f"{i}.pt") for i in (1, 2, 4)]
    (ax,) = plots.plot_many(spectra, kind="ridge").axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["1.pt", "2.pt", "4.pt"]
    assert ax.get_yticks().tolist() == [2, 1, 0]
    ridges = [line for line in ax.lines if line.get_gid() == "ridge"]
    densities = [each.density(line.get_xdata()) for each, line in zip(spectra, ridges, strict=True)]
    top = max(each.max() for each in densities)
    first = ridges[0].get_ydata() - 2
    place = int(np.argmax(np.where(first < 1.5, first, 0)))
    scale = (1.7 - first[place]) / np.log10(top / densities[0][place])
    for base, line, density in zip((2, 1, 0), ridges, densities, strict=True):
        heights = line.get_ydata() - base
        assert np.nanmin(heights) == 0
        assert line.get_color() != "white"  # an outlier is a line and nothing else
        drawn = heights > 0
        decades = np.log10(top / density[drawn])  # below the highest of all, which is 1.7 rows high
        np.testing.assert_allclose(decades * scale, 1.7 - heights[drawn], atol=1e-9)
    marks = [line for line in ax.lines if line.get_gid() == "converged eigenvalue" and len(line.get_xdata())]
    assert [line.get_xdata().tolist() for line in marks] == [[40.0 * i, -0.5 * i] for i in (1, 2, 4)]
    assert [set(line.get_ydata()) for line in marks] == [{2.0}, {1.0}, {0.0}]


def test_what_several_spectra_cannot_show_is_refused():
    with pytest.raises(ValueError, match="one of density, cumulative, ridge, but 'surface' came"):
        plots.plot_many([spectrum(), spectrum()], kind="surface")
    with pytest.raises(ValueError, match="spectra share a figure with spectra alone, but another result came"):
        plots.plot_many([spectrum(), trial(bowl)])
    with pytest.raises(ValueError, match="titles takes one for each of the 2 results, but 1 came"):
        plots.plot_many([spectrum(), spectrum()], titles=["a"])
    with pytest.raises(ValueError, match="one spectrum after the other, but kind 'ridge' came; take kind 'density'"):
        plots.plot_many([spectrum(), spectrum()], "a.gif", kind="ridge")


@pytest.mark.parametrize("size", ["column", "page"])
@pytest.mark.parametrize("kind", ["density", "cumulative", "ridge"])
def test_nothing_is_cut_off(kind, size):
    layers = [layer("conv.*"), layer("fc1.*", 0.1), layer("fc2.*", 10)]
    figure = draw_many(layers, ["conv.*", "fc1.*", "fc2.*"], kind, None, size, False, with_caption=True)
    box = figure.bbox.padded(3)
    below = figure.texts[0].get_window_extent().y1
    for ax in figure.axes:
        inner = ax.get_tightbbox()
        assert box.x0 <= inner.x0 < inner.x1 <= box.x1, "left or right"
        assert below < inner.y0 < inner.y1 <= box.y1, "over the caption or above"
