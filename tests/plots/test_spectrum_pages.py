"""Pages, films and tables of spectra have their numbers."""

import csv
import json

import numpy as np
import pytest
import xarray
from PIL import Image

from gradvis import plots
from gradvis.plots import film_spectra
from gradvis.plots.eigen_axis import axis
from gradvis.plots.spectra import parts
from tests.plots.trial_spectrum import NODES, VALUES, WEIGHTS, layer, spectrum


def traces(page, name):
    return [trace for trace in page.data if trace.name == name]


def test_a_page_has_the_density_with_its_band_and_says_the_numbers(tmp_path):
    result = spectrum()
    page = result.plot(tmp_path / "a.html")
    (line,) = traces(page, "density")
    x, error = np.asarray(line.customdata).T
    truth = result.density(x)
    drawn = truth > 1e-3 * truth.max()
    np.testing.assert_allclose(np.asarray(line.y)[drawn], truth[drawn])
    np.testing.assert_allclose(error, result.density_stderr(x))
    np.testing.assert_allclose(line.x, axis([parts(result)]).draw(x))
    assert "3 probes" in line.hovertemplate
    (band,) = traces(page, "± 1 standard error")
    half = len(band.x) // 2
    np.testing.assert_allclose(band.x[:half], line.x)
    floor = np.min(line.y)
    np.testing.assert_allclose(band.y[:half], (truth - error).clip(floor))
    np.testing.assert_allclose(band.y[half:][::-1], (truth + error).clip(floor))
    assert page.layout.yaxis.type == "log"
    assert "share within" in page.layout.annotations[0].text.replace("<br>", " ")


def test_marks_on_a_page_stand_at_the_eigenvalues(tmp_path):
    page = spectrum().plot(tmp_path / "a.html")
    draw = axis([parts(spectrum())]).draw
    (there,), (open_,) = traces(page, "converged eigenvalue"), traces(page, "not converged")
    np.testing.assert_allclose(there.x, draw(np.array([40.0, -0.5])))
    np.testing.assert_allclose(open_.x, draw(np.array([0.03])))
    assert np.asarray(there.customdata).tolist() == [[40.0, 1e-6], [-0.5, 1e-7]]
    assert (there.marker.symbol, open_.marker.symbol) == ("triangle-up", "triangle-up-open")
    assert list(there.text) == ["largest 40", "smallest −0.5"]


@pytest.mark.parametrize("log", [None, False])
def test_buttons_turn_the_axis_of_eigenvalues(log, tmp_path):
    page = spectrum().plot(tmp_path / "a.html", log=log)
    (menu,) = page.layout.updatemenus
    linear, symmetric = menu.buttons
    assert (linear.label, symmetric.label, menu.active) == ("linear", "symmetric log", int(log is None))
    shown = (linear, symmetric)[menu.active]
    places, moved = shown.args
    assert len(places["x"]) == len(page.data)
    for trace, x in zip(page.data, places["x"], strict=True):
        np.testing.assert_allclose(trace.x, x, rtol=1e-6, atol=1e-9)
    assert list(page.layout.xaxis.range) == list(moved["xaxis.range"])
    (line,) = traces(page, "density")
    at = page.data.index(line)
    np.testing.assert_allclose(linear.args[0]["x"][at], np.asarray(line.customdata)[:, 0], rtol=1e-6)
    assert linear.args[1]["xaxis.title.text"] == "eigenvalue"
    assert "symmetric-log axis" in symmetric.args[1]["xaxis.title.text"]
    assert "0" in symmetric.args[1]["xaxis.ticktext"]


def test_a_cumulative_page_has_the_steps(tmp_path):
    result = spectrum()
    (line,) = traces(result.plot(tmp_path / "a.html", kind="cumulative"), "cumulative")
    assert line.line.shape == "hv"
    np.testing.assert_allclose(line.y, result.cumulative(np.asarray(line.customdata)[:, 0]))


def test_a_page_of_layers_has_a_panel_each_over_the_same_eigenvalues(tmp_path):
    layers = [layer("a.*"), layer("b.*", 0.1), layer("c.*", 10.0)]
    page = plots.plot_many(layers, tmp_path / "a.html")
    lines = traces(page, "density")
    assert [line.xaxis for line in lines] == ["x", "x2", "x3"]
    for line, each in zip(lines, layers, strict=True):
        x = np.asarray(line.customdata)[:, 0]
        truth = each.density(x)
        drawn = truth > 1e-3 * truth.max()
        np.testing.assert_allclose(np.asarray(line.y)[drawn], truth[drawn])
    ranges = [page.layout[name].range for name in ("xaxis", "xaxis2", "xaxis3")]
    assert ranges[0] == ranges[1] == ranges[2]
    assert len({page.layout[name].range for name in ("yaxis", "yaxis2", "yaxis3")}) == 3
    assert [note.text for note in page.layout.annotations][:3] == ["a.*", "b.*", "c.*"]
    shared = plots.plot_many(layers, tmp_path / "a.html", share_scale=True)
    assert len({shared.layout[name].range for name in ("yaxis", "yaxis2", "yaxis3")}) == 1


def test_a_page_of_ridges_has_them_in_order(tmp_path):
    spectra = [spectrum(i * NODES, values=i * VALUES, name=f"<{i}>.pt") for i in (1, 2, 4)]
    page = plots.plot_many(spectra, tmp_path / "a.html", kind="ridge")
    crests = [trace for trace in page.data if trace.fill == "tonexty"]
    for base, crest, each in zip((2, 1, 0), crests, spectra, strict=True):
        assert min(crest.y) == base
        x, y = np.asarray(crest.customdata).T
        np.testing.assert_allclose(y, each.density(x))
    assert list(page.layout.yaxis.ticktext) == [f"&lt;{i}&gt;.pt" for i in (1, 2, 4)]
    assert max(max(crest.y) - min(crest.y) for crest in crests) == pytest.approx(1.7)


def test_cumulative_spectra_of_a_page_stand_together(tmp_path):
    page = plots.plot_many([layer("a.*"), layer("b.*", 0.1)], tmp_path / "a.html", kind="cumulative")
    assert [trace.name for trace in page.data] == ["a.*", "b.*"]
    assert len({trace.line.color for trace in page.data}) == 2


def test_a_film_shows_one_spectrum_after_the_other_on_the_same_axes(tmp_path):
    spectra = [spectrum(i * NODES, values=i * VALUES, name=f"{i}.pt") for i in (1, 2)]
    drawing = film_spectra.draw(spectra, ["1", "2"], "density", None, "column")
    (ax,) = drawing.figure.axes
    limits = []
    for number, each in enumerate(spectra):
        drawing.show(number)
        (line,) = [line for line in ax.lines if line.get_gid() == "density"]
        x, y = line.get_data()
        high = y > ax.get_ylim()[0]
        np.testing.assert_allclose(y[high], each.density(x)[high])
        assert ax.get_title(loc="right") == ["1", "2"][number]
        limits.append((ax.get_xlim(), ax.get_ylim()))
    assert limits[0] == limits[1]
    plots.plot_many(spectra, tmp_path / "a.gif", size="column")
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 2


def test_csv_has_every_node_and_pair(tmp_path):
    result = spectrum()
    plots.export(result, tmp_path / "a.csv")
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    nodes = [row for row in rows if row["kind"] == "node"]
    there = np.isfinite(NODES)
    assert [float(row["eigenvalue"]) for row in nodes] == NODES[there].tolist()
    assert [float(row["weight"]) for row in nodes] == WEIGHTS[there].tolist()
    assert [(row["probe"], row["step"]) for row in nodes][3:5] == [("1", "4"), ("2", "1")]
    pairs = [row for row in rows if row["kind"] == "pair"]
    assert [(float(row["eigenvalue"]), float(row["residual"]), row["converged"]) for row in pairs] == [
        (40.0, 1e-6, "1"), (0.03, 0.2, "0"), (-0.5, 1e-7, "1"),
    ]  # fmt: skip
    assert len(rows) == there.sum() + 3


def test_netcdf_has_the_dataset_the_pairs_and_the_estimates(tmp_path):
    nodes, weights = NODES.copy(), WEIGHTS.copy()
    nodes[1], weights[1] = np.nan, np.nan
    result = spectrum(nodes, weights)
    plots.export(result, tmp_path / "a.nc")
    with xarray.open_dataset(tmp_path / "a.nc") as found:
        np.testing.assert_array_equal(found["node"], nodes)
        np.testing.assert_array_equal(found["weight"], weights)
        assert found["pair_values"].values.tolist() == [40.0, 0.03, -0.5]
        assert found["pair_converged"].values.tolist() == [1, 0, 1]
        assert found["done"].values.tolist() == [1, 0, 1]
        assert float(found["trace"]) == result.trace
        assert json.loads(found.attrs["gradvis"])["seed"] == 3
    assert "pair_values" not in result.dataset, "the result is only read"


def test_tables_without_pairs_have_the_nodes(tmp_path):
    bare = spectrum(top=0)
    for name in ("a.csv", "a.nc"):
        plots.export(bare, tmp_path / name)
    assert "pair" not in (tmp_path / "a.csv").read_text()
    with xarray.open_dataset(tmp_path / "a.nc") as found:
        assert "pair_values" not in found
    with pytest.raises(
        ValueError, match="a .vtk holds what lies in space, but a spectrum came; write a .csv or an .nc"
    ):
        plots.export(bare, tmp_path / "a.vtk")


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "html"])
@pytest.mark.parametrize("kind", ["density", "cumulative"])
def test_every_form_is_written(suffix, kind, tmp_path):
    spectrum().plot(tmp_path / f"a.{suffix}", kind=kind, size="column")
    head = (tmp_path / f"a.{suffix}").read_bytes()[:300]
    assert {"png": b"PNG", "svg": b"<svg", "pdf": b"%PDF", "html": b"<!doctype html>"}[suffix] in head
