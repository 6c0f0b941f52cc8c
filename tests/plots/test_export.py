"""Numbers for other programs read back exactly; films turn about."""

import csv
import json
from itertools import pairwise

import numpy as np
import pytest
import xarray
from PIL import Image

from gradvis import plots
from gradvis.plots import film
from tests.plots.trial import ABOUT, ALPHA, BETA, bowl, trial

GAMMA = np.linspace(-2, 2, 7)


def odd():
    """Values that no short text holds, holes, and a metric more."""
    surface = trial(lambda a, b: np.exp(a) / 3 + b / 7, accuracy=lambda a, b: 1 / (2 + a))
    surface.dataset["loss"].values[0, 0], surface.dataset["loss"].values[1, 2] = np.nan, np.inf
    surface.done[0, 0] = False
    surface.dataset["center"] = xarray.DataArray([1.0, 2.0, 3.0], dims="metric", attrs={"metrics": ["a", "b", "c"]})
    surface.dataset.attrs["gradvis"] = ABOUT
    return surface


def vtk(path):
    """Coordinates and fields of a legacy file, read by the words of the format."""
    lines = path.read_text().splitlines()
    assert lines[0] == "# vtk DataFile Version 3.0"
    assert lines[2:4] == ["ASCII", "DATASET RECTILINEAR_GRID"]
    words = iter(" ".join(lines[4:]).split())
    axes, fields, size = {}, {}, None
    for word in words:
        if word == "DIMENSIONS":
            shape = tuple(int(next(words)) for _ in range(3))
        elif word.endswith("_COORDINATES"):
            count, kind = int(next(words)), next(words)
            assert kind == "double"
            axes[word[0]] = np.array([float(next(words)) for _ in range(count)])
        elif word == "POINT_DATA":
            size = int(next(words))
        else:
            assert word == "SCALARS"
            name, kind, parts = next(words), next(words), next(words)
            assert (parts, next(words), next(words)) == ("1", "LOOKUP_TABLE", "default")
            values = [float(next(words)) for _ in range(size)]
            fields[name] = (kind, np.reshape(values, shape[::-1]).transpose())  # x runs fastest
    return axes, fields


def test_vtk_reads_back_exactly(tmp_path):
    surface = odd()
    plots.export(surface, tmp_path / "run.vtk")
    axes, fields = vtk(tmp_path / "run.vtk")
    for name, points in zip("XYZ", (ALPHA, BETA, [0.0]), strict=True):
        np.testing.assert_array_equal(axes[name], points)
    assert {name: kind for name, (kind, _) in fields.items()} == {
        "loss": "double", "accuracy": "double", "loss_stderr": "double", "done": "int",
    }  # fmt: skip
    for name in ("loss", "accuracy", "loss_stderr"):
        np.testing.assert_array_equal(fields[name][1][:, :, 0], surface.dataset[name].values)
    np.testing.assert_array_equal(fields["done"][1][:, :, 0], surface.done)


@pytest.mark.parametrize("axes", [(ALPHA,), (ALPHA, BETA, GAMMA)])
def test_vtk_of_lines_and_volumes(axes, tmp_path):
    surface = trial(lambda *at: sum(10.0**i * place for i, place in enumerate(at)), axes=axes)
    plots.export(surface, tmp_path / "run.vtk")
    values = vtk(tmp_path / "run.vtk")[1]["loss"][1]
    np.testing.assert_array_equal(values.reshape(surface.done.shape), surface.dataset["loss"].values)


def test_csv_reads_back_exactly(tmp_path):
    surface = odd()
    plots.export(surface, tmp_path / "run.csv")
    with open(tmp_path / "run.csv", newline="") as file:
        names, *rows = csv.reader(file)
    assert names == ["alpha", "beta", "loss", "accuracy", "loss_stderr", "done"]
    columns = np.array(rows, float).T
    np.testing.assert_array_equal(columns[:2], np.reshape(np.meshgrid(ALPHA, BETA, indexing="ij"), (2, -1)))
    for name, column in zip(names[2:5], columns[2:], strict=False):
        np.testing.assert_array_equal(column, surface.dataset[name].values.ravel())
    np.testing.assert_array_equal(columns[5], surface.done.ravel())


def test_netcdf_opens_with_xarray_and_has_everything(tmp_path):
    surface = odd()
    before = surface.dataset.copy(deep=True)
    plots.export(surface, tmp_path / "run.nc")
    with xarray.open_dataset(tmp_path / "run.nc") as found:
        for name in ("loss", "accuracy", "loss_stderr", "center", "alpha", "beta"):
            np.testing.assert_array_equal(found[name].values, surface.dataset[name].values)
        assert found["loss"].dims == ("alpha", "beta")
        np.testing.assert_array_equal(found["done"].values, surface.done)
        assert json.loads(found.attrs["gradvis"]) == ABOUT
        assert json.loads(found["center"].attrs["metrics"]) == ["a", "b", "c"]
    assert surface.dataset.identical(before), "the result is only read"
    assert surface.dataset.attrs == before.attrs


def test_only_known_suffixes_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"an export must be one of .vtk, .csv, .nc, but '.cvs' came.*'.csv'"):
        plots.export(odd(), tmp_path / "run.cvs")
    plots.export(odd(), tmp_path / "run.csv")
    assert [each.name for each in tmp_path.iterdir()] == ["run.csv"]


def test_a_film_turns_about_once(tmp_path, monkeypatch):
    monkeypatch.setattr(film, "_FRAMES", 4)
    figure = plots.plot(trial(bowl), tmp_path / "run.gif", size="column")
    with Image.open(tmp_path / "run.gif") as found:
        assert found.n_frames == 4
        frames = []
        for index in range(4):
            found.seek(index)
            frames.append(np.asarray(found.convert("L"), float))
    assert all(np.abs(one - two).max() > 100 for one, two in pairwise(frames))
    assert figure.axes[0].azim == -60, "as it was"
    assert [each.name for each in tmp_path.iterdir()] == ["run.gif"]


def test_films_are_refused_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"a film turns the 3-D surface of a plane, but this is no plane"):
        plots.plot(trial(lambda a: a, axes=(ALPHA,)), tmp_path / "run.gif")
    monkeypatch.setattr(film.FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    with pytest.raises(ValueError, match=r"an .mp4 needs the program ffmpeg, which is not here; install it, or"):
        plots.plot(trial(bowl), tmp_path / "run.mp4")
    assert not list(tmp_path.iterdir())
