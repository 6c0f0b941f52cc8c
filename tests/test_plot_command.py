"""`gradvis-plot` as users run it: any result again, in any form, and given the wrong thing."""

import sys

import numpy as np
import pytest
import xarray

import gradvis
from gradvis.backends.analytic import Quadratic
from gradvis.cli.door import enter
from gradvis.cli.plot import plot
from gradvis.plane import Plane
from gradvis.schedule import Serial
from gradvis.surface import loss_surface
from tests.launch import mpirun

SCRIPT = 'from gradvis.cli.door import enter; from gradvis.cli.plot import plot; enter(plot, "gradvis-plot")'


def result(path, k=2, **options):
    """A surface of a quadratic on the first k axes."""
    objective = Quadratic(np.arange(1.0, 6.0), minimum=np.full(5, 0.3))
    plane = Plane(objective.parameters() + 0.25, np.eye(5)[:k], {"kind": "custom"})
    return loss_surface(objective, plane, resolution=5, out=path, scheduler=Serial(), **options)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result("run.surface.zarr")
    return tmp_path


@pytest.fixture
def command(capsys):
    """Run the command; status, standard output and standard error come back."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            enter(plot, "gradvis-plot", [str(argument) for argument in arguments])
        return end.value.code, *capsys.readouterr()

    return run


def made(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".zarr"))


def test_a_result_becomes_a_picture_and_a_page_beside_you(folder, command):
    assert command("run.surface.zarr/") == (0, "run.surface.png\nrun.surface.html\n", "")
    assert made(folder) == ["run.surface.html", "run.surface.png"]


def test_plot_names_the_suffixes(folder, command):
    status, said, _ = command("run.surface.zarr", "--plot", "svg,csv", "--plot", "vtk")
    assert (status, said.split()) == (0, ["run.surface.svg", "run.surface.csv", "run.surface.vtk"])
    assert made(folder) == ["run.surface.csv", "run.surface.svg", "run.surface.vtk"]


def test_out_names_one_file(folder, command):
    (folder / "figures").mkdir()
    assert command("run.surface.zarr", "-o", "figures/a.nc") == (0, "figures/a.nc\n", "")
    whole = gradvis.open("run.surface.zarr").dataset
    with xarray.open_dataset("figures/a.nc") as found:
        np.testing.assert_array_equal(found["loss"].values, whole["loss"].values)
        np.testing.assert_array_equal(found["center"].values, whole["center"].values)


def test_options_reach_the_picture(folder, command, monkeypatch):
    seen = {}
    monkeypatch.setattr(gradvis.Surface, "plot", lambda surface, path, **options: seen.update(options, path=path))
    command("run.surface.zarr", "-o", "a.png", "--kind", "contour", "--metric", "loss", "--linear", "--size", "slide")
    assert {name: seen[name] for name in ("kind", "metric", "log", "size")} == {
        "kind": "contour", "metric": "loss", "log": False, "size": "slide",
    }  # fmt: skip
    command("run.surface.zarr", "-o", "a.png", "--log")
    assert (seen["log"], seen["kind"], seen["metric"]) == (True, None, None)


def test_several_results_come_in_one_figure(folder, command, monkeypatch):
    result("other.surface.zarr")
    seen = {}

    def note_down(surfaces, file, **options):
        seen.update(options, n=len(surfaces), file=file)

    monkeypatch.setattr(sys.modules[plot.callback.__module__], "plot_many", note_down)
    assert command("run.surface.zarr", "other.surface.zarr", "--share-scale", "--plot", "png")[0] == 0
    assert (seen["titles"], seen["share_scale"], seen["n"]) == (["run", "other"], True, 2)
    assert str(seen["file"]) == "surfaces.png"


@pytest.mark.parametrize("k", [1, 2, 3])
def test_several_are_drawn_in_every_dimension(k, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        result(f"{name}.surface.zarr", k)
    assert command("a.surface.zarr", "b.surface.zarr", "--share-scale") == (0, "surfaces.png\nsurfaces.html\n", "")
    assert all(path.stat().st_size > 10_000 for path in tmp_path.glob("surfaces.*"))


def test_an_unfinished_result_is_drawn_as_far_as_it_is(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Stopped(Quadratic):
        calls = 0

        def evaluate(self, plane, coords):
            Stopped.calls += 1
            if Stopped.calls > 9:
                raise OSError("stopped")
            return super().evaluate(plane, coords)

    objective = Stopped(np.arange(1.0, 6.0), minimum=np.full(5, 0.3))
    with pytest.raises(Exception, match="stopped"):
        loss_surface(objective, Plane(objective.parameters(), np.eye(5)[:2]), out="half.zarr", resolution=5)
    assert command("half.zarr", "--plot", "svg,html") == (0, "half.svg\nhalf.html\n", "")
    assert 0 < gradvis.open("half.zarr").done.mean() < 1
    assert " % computed" in (tmp_path / "half.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["none.zarr"], "there is no result at none.zarr"),
        (["file.zarr"], "file.zarr is a file, not a result folder"),
        (["."], "is a folder, but not a gradvis result"),
        (["run.surface.zarr", "--kind", "contuor"], "but 'contuor' came; did you mean 'contour'?"),
        (["run.surface.zarr", "--metric", "los"], "metric must be one of loss, but 'los' came; did you mean 'loss'?"),
        (["run.surface.zarr", "--size", "pag"], "size must be one of column, page, slide, but 'pag' came"),
        (["run.surface.zarr", "-o", "a.pgn"], "the suffix of --out must be one of"),
        (["run.surface.zarr", "--plot", "pngg"], "--plot must be one of"),
        (["run.surface.zarr", "-o", "a.png", "--plot", "svg"], "both were given; leave one of them out"),
        (["run.surface.zarr", "-o", "no/a.png"], "needs the folder no, which does not exist; make it first"),
        (["run.surface.zarr", "line.zarr"], "results that are all lines, all planes or all volumes"),
        (["run.surface.zarr", "run.surface.zarr", "-o", "a.csv"], "a .csv holds one result, but 2 came"),
        (["line.zarr", "-o", "a.gif"], "a film turns the 3-D surface of a plane, but this is no plane"),
        ([], "Missing argument 'RESULT...'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_status_2(arguments, line, folder, command):
    (folder / "file.zarr").write_text("x")
    result("line.zarr", 1)
    status, said, error = command(*arguments)
    assert (status, said) == (2, "")
    assert error.count("\n") == 1
    assert error.startswith("gradvis-plot: error: ")
    assert line in error
    assert made(folder) == []


def test_log_of_what_is_not_positive_is_refused(folder, command):
    objective = Quadratic(np.ones(2), minimum=np.zeros(2))
    loss_surface(objective, Plane(np.zeros(2), np.eye(2)), resolution=5, out="zero.zarr", scheduler=Serial())
    status, _, error = command("zero.zarr", "--log", "--plot", "png")
    assert (status, error.count("\n")) == (2, 1)
    assert "a logarithmic scale needs values above zero, but the smallest is 0" in error


def test_a_folder_that_may_not_be_written_is_status_1(folder, command, monkeypatch):
    def refuse(part, target):
        raise PermissionError(13, "Permission denied", str(part), None, str(target))

    monkeypatch.setattr("gradvis.plots.os.replace", refuse)
    status, _, error = command("run.surface.zarr", "-o", "a.csv")
    assert (status, error) == (1, "gradvis-plot: error: cannot write a.csv: Permission denied\n")
    assert made(folder) == []


def test_help_is_plain(command):
    status, said, _ = command("-h")
    assert status == 0
    assert said.startswith("Usage: gradvis-plot [OPTIONS] RESULT...")
    assert "Raises" not in said


def test_under_mpirun_the_root_alone_draws(folder):
    done = mpirun(2, sys.executable, "-c", SCRIPT, "run.surface.zarr", "--plot", "svg", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "run.surface.svg\n")
    done = mpirun(2, sys.executable, "-c", SCRIPT, "none.zarr", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.count("gradvis-plot: error: there is no result at none.zarr") == 1
