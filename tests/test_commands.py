"""The commands as users run them: alone, under mpirun, killed, resumed, and given the wrong thing."""

import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gradvis
from gradvis.cli.door import enter
from gradvis.cli.main import program
from tests.launch import descendants, mpirun, run, started, until

SURFACE = Path(sys.executable).with_name("gradvis-surface")
GRADVIS = Path(sys.executable).with_name("gradvis")

NET = '''
"""A network with batch norm on drawn images; what happens to it is told by the environment."""
import os, signal, time
import numpy as np, torch
import gradvis

class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(
            torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(),
            torch.nn.Linear(144, 10),
        )

def criterion(outputs, targets):
    criterion.calls += 1
    fate, _, after = os.environ.get("FATE", "").partition(":")
    if fate and criterion.calls > int(after) and os.environ.get("PMI_RANK", "0") in os.environ.get("ON", "0"):
        if fate == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "raise":
            raise RuntimeError("no such luck")
    time.sleep(float(os.environ.get("SLOWLY", "0")))
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

criterion.calls = 0

def objective(samples="203"):
    rng = np.random.default_rng(0)
    images, classes = rng.random((int(samples), 1, 8, 8), np.float32), rng.integers(0, 10, int(samples))
    return gradvis.objective(Net(), (images, classes), criterion, metrics=["accuracy"])

def other():
    return 42
'''


FEW = ("model.pt", "--resolution", "9", "--threads", "1", "--plot", "none")


def filled(place):
    """A folder with the network and its checkpoint, the same each time."""
    (place / "net.py").write_text(NET)
    sys.modules.pop("net", None)  # another file's
    sys.path.insert(0, str(place))
    try:
        import net
    finally:
        sys.path.remove(str(place))
        sys.modules.pop("net", None)
    torch.manual_seed(0)
    gradvis.save_checkpoint(place / "model.pt", net.Net(), objective="net.py:objective")
    return place


@pytest.fixture
def folder(tmp_path):
    return filled(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one process gives that nothing disturbs."""
    place = filled(tmp_path_factory.mktemp("whole"))
    done = run(SURFACE, *FEW, "--out", "whole.zarr", cwd=place, timeout=120)
    assert done.returncode == 0, done.stderr
    return losses(place / "whole.zarr")


def losses(path):
    surface = gradvis.open(path)
    return {name: surface.dataset[name].values for name in (*surface.about["metrics"], "center")}


def assert_same_bits(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].tobytes() == two[name].tobytes(), name


def ours(stderr, name="gradvis-surface: "):
    return [line for line in stderr.splitlines() if line.startswith(name)]


@pytest.mark.slow
def test_any_number_of_ranks_gives_the_same_bits(folder, whole):
    for ranks in (1, 2, 5):
        done = mpirun(ranks, SURFACE, *FEW, "--out", f"{ranks}.zarr", cwd=folder, timeout=240)
        assert done.returncode == 0, done.stderr

    assert len(np.unique(whole["loss"])) > 70
    for ranks in (1, 2, 5):
        assert_same_bits(losses(folder / f"{ranks}.zarr"), whole)


@pytest.mark.parametrize("victim", ["0", "1"])
def test_a_killed_rank_loses_little_and_the_same_command_goes_on(folder, whole, victim):
    command = (SURFACE, *FEW, "--out", "run.zarr")
    fate = {"FATE": "die:25", "ON": victim, "SLOWLY": "0.01"}
    killed = mpirun(2, *command, cwd=folder, env=fate, timeout=120)
    assert killed.returncode not in {0, 1, 2}
    partial = gradvis.open(folder / "run.zarr")
    assert 0 < partial.done.sum() < 81
    before = partial.dataset["loss"].values[partial.done]

    resumed = mpirun(2, *command, cwd=folder, timeout=120)
    assert resumed.returncode == 0, resumed.stderr

    assert_same_bits(losses(folder / "run.zarr"), whole)
    assert losses(folder / "run.zarr")["loss"][partial.done].tobytes() == before.tobytes()


def test_a_killed_launcher_loses_little(folder):
    command = (SURFACE, *FEW, "--out", "run.zarr")
    with started(Path(sys.executable).with_name("mpirun"), "-n", "2", *command, cwd=folder, env={"SLOWLY": "0.15"}) as (
        launcher, _, _,
    ):  # fmt: skip
        until(lambda: len(list((folder / "run.zarr" / "loss").glob("c*"))) > 5, timeout=120)
        ranks = descendants(launcher.pid)
        launcher.kill()
        launcher.wait(10)
        until(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks), timeout=30)
    assert 0 < gradvis.open(folder / "run.zarr").done.sum() < 81
    assert mpirun(2, *command, cwd=folder, timeout=120).returncode == 0
    assert gradvis.open(folder / "run.zarr").about["complete"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_its_status_and_it_can_be_gone_on_with(folder, number):
    command = (SURFACE, *FEW, "--out", "run.zarr")
    with started(*command, cwd=folder, env={"SLOWLY": "0.15"}) as (process, _, err):
        until(lambda: len(list((folder / "run.zarr" / "loss").glob("c*"))) > 5, timeout=120)
        process.send_signal(number)
        assert process.wait(20) == 128 + number
        assert len(ours(err.read_text())) == 1
    assert run(*command, cwd=folder, timeout=120).returncode == 0


def test_a_loss_that_raises_ends_every_rank_with_one_line(folder):
    fate = {"FATE": "raise:25", "ON": "1"}
    done = mpirun(2, SURFACE, *FEW, cwd=folder, env=fate, timeout=120)
    assert done.returncode == 1
    (line,) = ours(done.stderr)
    assert "error: task" in line
    assert "failed on rank 1 (host " in line
    assert "RuntimeError: no such luck" in line
    assert "Traceback" not in done.stderr


def test_the_default_result_and_its_pictures_lie_in_this_folder(folder):
    done = run(SURFACE, "model.pt", "--resolution", "9", "--span=-1:1,-0.5:0.5", cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    surface = gradvis.open(folder / "model.surface.zarr")
    assert surface.dataset["beta"].values[[0, -1]].tolist() == [-0.5, 0.5]
    assert surface.about["command"].startswith("gradvis-surface model.pt")
    assert (folder / "model.surface.png").stat().st_size > 10_000
    assert "model.surface.html" in done.stdout
    assert "model.pt names its objective: net.py:objective" in done.stderr
    assert "81 points on 1 rank x 1 thread: about" in done.stderr


def command(capsys, monkeypatch, folder, *arguments):
    """The command in this process: its status, and what it printed."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["gradvis", *arguments])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            enter(program, "gradvis", list(arguments))
    finally:
        signal.signal(signal.SIGTERM, handler)
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_a_dry_run_says_what_it_would_take_and_leaves_nothing(folder, capsys, monkeypatch):
    before = sorted(folder.iterdir())
    status, out, _ = command(capsys, monkeypatch, folder, "surface", "model.pt", "--dry-run", "--threads", "1")
    assert status == 0
    assert out.startswith("2601 points on 1 rank x 1 thread: about")
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


def test_options_of_the_command_have_the_last_word(folder, capsys, monkeypatch):
    arguments = ("surface", *FEW, "--dims", "1", "--span", "-1:1", "--dtype", "float64", "--metrics", "error",
                 "--objective-arg", "samples=50", "--objective", "net.py:objective", "--micro-batch", "16")  # fmt: skip
    status, _, err = command(capsys, monkeypatch, folder, *arguments)
    assert status == 0, err
    about = gradvis.open(folder / "model.surface.zarr").about
    assert about["objective"]["dtype"] == "float64"
    assert about["objective"]["samples"] == 50
    assert about["metrics"] == ["loss", "loss_stderr", "error", "error_stderr"]
    assert about["how"]["micro_batch"] == 13  # 50 in four pieces of nearly one length


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["absent.pt"], "there is no file absent.pt"),
        (["net.py", "--objective", "net.py:objective"], "loads without running code was wanted, but net.py is not one"),
        (["model.pt", "--objective", "absent.py:objective"], "the objective's file absent.py is not there"),
        (["model.pt", "--objective", "net.py:absent"], "must have a function absent"),
        (["model.pt", "--objective", "net.py:other"], "must return an Objective"),
        (["model.pt", "--objective", "no_such_module:f"], "cannot be imported"),
        (["model.pt", "--objective", "net.py"], "FILE.py:NAME"),
        (["model.pt", "--span", "1:2:3"], "--span takes 1.0 or -1:1"),
        (["model.pt", "--span", "0"], "span must run from a number up to a larger one"),
        (["model.pt", "--resolution", "many"], "--resolution takes a whole number"),
        (["model.pt", "--resolution", "1"], "at least 2, but 1 came"),
        (["model.pt", "--plot", "bmp"], "--plot takes png"),
        (["model.pt", "--device", "cuda:7"], "a device that is there was wanted"),
        (["model.pt", "--metrics", "acuracy"], "did you mean 'accuracy'?"),
        (["model.pt", "--dims", "4"], "--dims"),
        (["model.pt", "--no-such-option"], "--no-such-option"),
        ([], "MODEL"),
        (["model.pt", "--out", "absent/run.zarr", "--resolution", "3"], "absent"),
    ],
)
def test_mistakes_give_status_2_and_one_line(folder, capsys, monkeypatch, arguments, line):
    status, _, err = command(capsys, monkeypatch, folder, "surface", *arguments)
    assert status == 2
    assert line in ours(err, "gradvis: error: ")[0]
    assert len(ours(err, "gradvis: ")) == 1


def test_mistakes_give_one_line_on_several_ranks_too(folder):
    for arguments in (["absent.pt"], ["model.pt", "--dims", "4"]):
        done = mpirun(3, SURFACE, *arguments, cwd=folder, timeout=60)
        assert done.returncode == 2, done.stderr
        assert len(ours(done.stderr)) == 1, done.stderr


def test_another_result_is_refused_and_fresh_keeps_it(folder, capsys, monkeypatch):
    assert command(capsys, monkeypatch, folder, "surface", *FEW, "--quiet")[0] == 0
    status, _, err = command(capsys, monkeypatch, folder, "surface", *FEW, "--quiet", "--seed", "1")
    assert status == 2
    assert "seed is 0 there and 1 here" in err
    assert command(capsys, monkeypatch, folder, "surface", *FEW, "--quiet", "--seed", "1", "--fresh")[0] == 0
    assert len(list(folder.glob("*.zarr"))) == 2


@pytest.mark.parametrize("name", ["/etc/evil.py:f", "../evil.py:f", "folder/evil.py:f", "os:getcwd"])
def test_a_checkpoint_can_name_only_a_file_of_this_folder(folder, capsys, monkeypatch, name):
    content = torch.load(folder / "model.pt", weights_only=True)
    torch.save({**content, "gradvis": {"objective": name}}, folder / "evil.pt")
    status, _, err = command(capsys, monkeypatch, folder, "surface", "evil.pt")
    assert status == 2
    assert "may only mean a .py file of the current folder" in err


def test_a_checkpoint_that_names_nothing_says_what_to_do(folder, capsys, monkeypatch):
    torch.save(torch.load(folder / "model.pt", weights_only=True)["state_dict"], folder / "bare.pt")
    status, _, err = command(capsys, monkeypatch, folder, "surface", "bare.pt")
    assert status == 2
    assert "--objective FILE.py:NAME" in err


def test_ranks_with_different_data_are_told_apart(folder):
    source = NET.replace('samples="203"', 'samples=str(200 + int(os.environ["PMI_RANK"]))')
    (folder / "net.py").write_text(source)
    done = mpirun(2, SURFACE, *FEW, cwd=folder, timeout=60)
    assert done.returncode == 2
    assert "all ranks must work on the same data" in ours(done.stderr)[0]


@pytest.mark.parametrize("arguments", [["--help"], ["surface", "-h"], ["--version"], ["surface", "--version"]])
def test_help_and_version_answer(folder, capsys, monkeypatch, arguments):
    status, out, _ = command(capsys, monkeypatch, folder, *arguments)
    assert status == 0
    assert gradvis.__version__ in out or "Usage" in out


@pytest.mark.slow
def test_the_demo_ends_with_its_pictures(tmp_path):
    done = run(GRADVIS, "demo", cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stderr
    pictures = ("model.surface.png", "model.surface.html", "run.trajectory.png", "run.trajectory.html")
    for name in ("model.pt", *pictures):
        assert (tmp_path / "gradvis-demo" / name).is_file()
    surface = gradvis.open(tmp_path / "gradvis-demo" / "model.surface.zarr")
    assert surface.done.all()
    assert surface.dataset["loss"].shape == (51, 51)
    assert surface.center["accuracy"] > 0.97
    assert surface.about["ranks"] == 2
    trajectory = gradvis.open(tmp_path / "gradvis-demo" / "run.trajectory.zarr")
    assert trajectory.about["ranks"] == 2
    assert trajectory.dataset["loss"].values[0] > 2 > 0.1 > trajectory.dataset["loss"].values[-1]
    [track] = gradvis.open(tmp_path / "gradvis-demo" / "run.surface.zarr").tracks
    np.testing.assert_array_equal(track.coords, trajectory.dataset["coordinates"])
    assert "Try next" in done.stdout
