"""`gradvis-plot` with spectra: one, several, in every form, and given the wrong thing."""

import numpy as np
import pytest

import gradvis
from gradvis.backends.analytic import Quadratic
from gradvis.cli.door import enter
from gradvis.cli.plot import plot
from gradvis.plane import Plane
from gradvis.schedule import Serial
from gradvis.surface import loss_surface


def result(name, scale=1.0):
    """The spectrum of a quadratic."""
    objective = Quadratic(scale * np.arange(1.0, 9.0), minimum=np.full(8, 0.3))
    gradvis.hessian_spectrum(
        objective, probes=3, steps=4, top=2, out=f"{name}.spectrum.zarr", scheduler=Serial(),
        provenance={"name": f"{name}.pt"},
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result("a")
    result("b", 3.0)
    return tmp_path


@pytest.fixture
def command(capsys):
    """Run the command; status, standard output and standard error come back."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            enter(plot, "gradvis-plot", list(arguments))
        return end.value.code, *capsys.readouterr()

    return run


def test_a_spectrum_becomes_a_picture_and_a_page_beside_you(folder, command):
    assert command("a.spectrum.zarr") == (0, "a.spectrum.png\na.spectrum.html\n", "")
    assert "Spectral density of the Hessian of a.pt" in (folder / "a.spectrum.html").read_text()


def test_several_spectra_come_in_one_figure_under_the_names_of_their_files(folder, command):
    both = ("a.spectrum.zarr", "b.spectrum.zarr")
    assert command(*both, "--plot", "svg") == (0, "spectra.svg\n", "")
    drawn = (folder / "spectra.svg").read_text()
    assert ">a</text>" in drawn.replace("\n", "")
    assert command(*both, "--kind", "ridge", "-o", "r.svg", "--linear")[0] == 0


def test_tables_of_a_spectrum_are_written(folder, command):
    assert command("a.spectrum.zarr", "--plot", "csv,nc")[:2] == (0, "a.spectrum.csv\na.spectrum.nc\n")
    lines = (folder / "a.spectrum.csv").read_text().splitlines()
    assert lines[0] == "kind,probe,step,eigenvalue,weight,residual,converged"
    found = gradvis.open("a.spectrum.zarr")
    assert len(lines) == 1 + np.isfinite(found.nodes).sum() + len(found.pairs.values)
    assert float(lines[1].split(",")[3]) == found.nodes[0, 0]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["a.spectrum.zarr", "--kind", "contour"], "the kind of a spectrum must be one of density, cumulative, but"),
        (["a.spectrum.zarr", "--kind", "ridge"], "kind 'ridge' shows several spectra, but one came"),
        (["a.spectrum.zarr", "--metric", "loss"], "a spectrum has no metrics, but 'loss' came"),
        (["a.spectrum.zarr", "-o", "a.vtk"], "a .vtk holds what lies in space, but a spectrum came"),
        (["a.spectrum.zarr", "-o", "a.gif"], "a .gif shows several spectra one after the other, but one came"),
        (["a.spectrum.zarr", "b.spectrum.zarr", "-o", "a.csv"], "a .csv holds one result, but 2 came"),
        (["a.spectrum.zarr", "s.zarr"], "drawn together if all are surfaces or all are spectra"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, line, folder, command):
    objective = Quadratic(np.ones(2))
    loss_surface(objective, Plane(np.zeros(2), np.eye(2)[:1]), resolution=3, out="s.zarr", scheduler=Serial())
    status, said, error = command(*arguments)
    assert (status, said, error.count("\n")) == (2, "", 1)
    assert line in error


def test_a_spectrum_that_was_stopped_is_drawn_as_far_as_it_is(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)

    class Stopped(Quadratic):
        calls = 0

        def hvp(self, theta, vectors, operator="hessian"):
            Stopped.calls += 1
            if Stopped.calls > 6:
                raise OSError("stopped")
            return super().hvp(theta, vectors, operator)

    with pytest.raises(Exception, match="stopped"):
        gradvis.hessian_spectrum(
            Stopped(np.arange(1.0, 51.0)), probes=10, steps=4, out="h.spectrum.zarr", scheduler=Serial()
        )
    there = gradvis.open("h.spectrum.zarr").done
    assert 0 < there.sum() < 10
    assert command("h.spectrum.zarr", "--plot", "html")[0] == 0
    assert f"{there.sum()} of 10 probes computed" in (tmp_path / "h.spectrum.html").read_text()
