"""`gradvis-trajectory` as users type it, with its neighbours: what it leaves, and what it says of mistakes."""

from __future__ import annotations

import shutil
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gradvis
from gradvis.cli.door import enter
from gradvis.cli.main import program
from gradvis.notes import Note
from gradvis.trajectory import Trajectory
from tests.launch import mpirun

TRAJECTORY = Path(sys.executable).with_name("gradvis-trajectory")
QUICK = ("--plot", "none", "--threads", "1")

NET = '''
"""A network with batch norm on drawn data."""
import numpy as np, torch
import gradvis

class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Tanh(), torch.nn.Linear(5, 3))

def pair(samples=40):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(samples, 6)).astype("float32")
    return inputs, (inputs @ rng.normal(size=(6, 3))).argmax(1)

def objective(samples: int = 40):
    return gradvis.objective(Net(), pair(samples), "cross_entropy", metrics=["accuracy"])

def number():
    return 42
'''


def imported(folder):
    sys.path.insert(0, str(folder))
    try:
        import net
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("net", None)
    return net


def train(net, folder, name, optimizer):
    """Twelve steps, every second one saved and recorded."""
    (folder / name).mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = net.Net()
    inputs, targets = map(torch.tensor, net.pair())
    made = optimizer(model.parameters())
    with gradvis.record(
        model, made, out=folder / f"{name}.recording", every_n_steps=2, objective="net.py:objective"
    ) as recorder:
        for step in range(13):
            if step % 2 == 0:
                gradvis.save_checkpoint(folder / name / f"ckpt-{step}.pt", model, objective="net.py:objective")
            if step < 12:
                loss = F.cross_entropy(model(inputs), targets)
                made.zero_grad()
                loss.backward()
                made.step()
                recorder.log(loss=loss)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    (folder / "net.py").write_text(NET)
    net = imported(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        train(net, folder, "sgd", lambda parameters: torch.optim.SGD(parameters, 0.5))
        train(net, folder, "adam", lambda parameters: torch.optim.Adam(parameters, 0.05))
    for name in ("nan", "odd", "never"):
        shutil.copytree(folder / "sgd", folder / name)
    bad = net.Net()
    torch.nn.init.constant_(bad[0].bias, float("nan"))
    gradvis.save_checkpoint(folder / "nan" / "ckpt-14.pt", bad, objective="net.py:objective")
    for path in (folder / "never").iterdir():
        gradvis.save_checkpoint(path, bad, objective="net.py:objective")
    torch.save({**net.Net().state_dict(), "3.weight": torch.zeros(4, 5)}, folder / "odd" / "ckpt-5.pt")
    torch.save(net.Net().state_dict(), folder / "bare.pt")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    """The current folder, with links to what was trained."""
    for path in trained.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ask(folder, capsys, monkeypatch):
    """A command line in this process, its globs spelled out as by a shell: status, what it printed, what it told."""

    def run(line):
        words = [word for each in line.split() for word in (sorted(map(str, Path().glob(each))) or [each])]
        monkeypatch.setattr(sys, "argv", ["gradvis", *words])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                enter(program, "gradvis", words)
        finally:
            signal.signal(signal.SIGTERM, handler)
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


@pytest.fixture
def done(ask):
    """The same for a command that must succeed."""

    def run(line):
        status, out, err = ask(line)
        assert status == 0, err
        return out, err

    return run


QUIETLY = " ".join((*QUICK, "--quiet"))


def values(path):
    return {name: each.values.tobytes() for name, each in gradvis.open(path).dataset.variables.items()}


# ---------------------------------------------------------------------- what it leaves


def test_checkpoints_as_a_shell_lists_them_are_one_run_in_their_order(folder, done):
    out, err = done(f"trajectory sgd/ckpt-*.pt {' '.join(QUICK)}")

    found = gradvis.open("sgd.trajectory.zarr")
    assert found.dataset["step"].values.tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert found.tracks[0].labels[-2:] == ("ckpt-10.pt", "ckpt-12.pt")
    net = imported(folder)
    for row, step in enumerate(range(0, 13, 2)):
        model = net.Net()
        model.load_state_dict(torch.load(f"sgd/ckpt-{step}.pt")["state_dict"])
        inputs, targets = map(torch.tensor, net.pair())
        wanted = F.cross_entropy(model.double().eval()(inputs.double()), targets).item()
        assert found.dataset["loss"].values[row] == pytest.approx(wanted, rel=1e-6)
    assert "names its objective: net.py:objective, found in this folder" in err
    assert "sgd: 7 checkpoints, ckpt-0.pt to ckpt-12.pt" in err
    assert "14 measurements on 1 rank x 1 thread: about" in err
    assert "component 1: " in out
    assert "% of the variance (a random walk has 63.1 %)" in out
    assert 'gradvis.open("sgd.trajectory.zarr")' in out
    assert found.about["command"].startswith("gradvis trajectory sgd/ckpt-0.pt")


def test_a_folder_a_glob_and_a_recording_are_the_same_run(done):
    done(f"trajectory sgd/*.pt {QUIETLY} --out files.zarr")
    done(f"trajectory sgd {QUIETLY} --out folder.zarr")
    done(f"trajectory sgd.recording {QUIETLY} --out recording.zarr")

    assert values("files.zarr") == values("folder.zarr")
    recorded = values("recording.zarr")
    rates = recorded.pop("learning_rate")
    assert np.frombuffer(rates).tolist() == [0.5] * 7
    assert recorded == {name: each for name, each in values("files.zarr").items() if name != "learning_rate"}


def test_globs_one_after_the_other_are_each_in_their_order(done):
    _, err = done(f"trajectory sgd/*.pt adam/*.pt {' '.join(QUICK)} --out both.zarr")

    labels = gradvis.open("both.zarr").tracks[0].labels
    assert labels == tuple(f"{name}/ckpt-{step}.pt" for name in ("sgd", "adam") for step in range(0, 13, 2))
    assert "14 checkpoints, sgd/ckpt-0.pt to adam/ckpt-12.pt" in err


def test_several_recordings_lie_on_one_plane_with_its_surface(done):
    done(f"trajectory sgd.recording adam.recording --surface --resolution 3 {QUIETLY}")

    found, ground = gradvis.open("trajectories.trajectory.zarr"), gradvis.open("trajectories.surface.zarr")
    assert [track.name for track in found.tracks] == [track.name for track in ground.tracks] == ["sgd", "adam"]
    np.testing.assert_array_equal(found.plane.directions, ground.plane.directions)
    coords = found.dataset["coordinates"].values
    for name, column in (("alpha", 0), ("beta", 1)):
        low, high = coords[:, column].min(), coords[:, column].max()
        extent = 0.2 * (high - low)
        np.testing.assert_allclose(ground.dataset[name].values[[0, -1]], [low - extent, high + extent], rtol=1e-9)
    assert ground.about["name"] == found.about["name"] == "trajectories"


def test_margin_and_span_and_resolution_are_those_of_the_surface(done):
    base = f"trajectory sgd --surface {QUIETLY}"
    done(f"{base} --resolution 3,2 --margin 0 --out a.trajectory.zarr")
    done(f"{base} --resolution 2 --span -1:2,-0.5:0.5 --out b.trajectory.zarr")

    coords = gradvis.open("a.trajectory.zarr").dataset["coordinates"].values
    alpha, beta = (gradvis.open("a.surface.zarr").dataset[name].values for name in ("alpha", "beta"))
    assert (len(alpha), len(beta)) == (3, 2)
    np.testing.assert_allclose(alpha[[0, -1]], [coords[:, 0].min(), coords[:, 0].max()], rtol=1e-9, atol=1e-12)
    other = gradvis.open("b.surface.zarr").dataset
    assert other["alpha"].values.tolist() == [-1, 2]
    assert other["beta"].values.tolist() == [-0.5, 0.5]


def test_components_anchored_and_every_reach_the_plane(done):
    done(f"trajectory sgd --components 3 --components 1 --anchored --every 2 {QUIETLY}")

    found = gradvis.open("sgd.trajectory.zarr")
    assert found.plane.about["components"] == [3, 1]
    assert found.plane.about["anchored"] is True
    assert found.dataset["step"].values.tolist() == [0, 4, 8, 12]


def test_a_plane_goes_through_the_ends_of_runs_and_more(done):
    line = "trajectory sgd adam --plane between --through sgd/ckpt-0.pt --through adam/ckpt-4.pt"
    done(f"{line} --surface --resolution 2,3,2 {QUIETLY} --out minima.trajectory.zarr")

    found = gradvis.open("minima.trajectory.zarr")
    sgd, adam = found.tracks
    corners = [sgd.coords[-1], adam.coords[-1], sgd.coords[0], adam.coords[2]]
    np.testing.assert_allclose(corners, np.vstack([np.zeros(3), np.eye(3)]), atol=1e-6)
    assert gradvis.open("minima.surface.zarr").dataset["loss"].shape == (2, 3, 2)


def test_a_plane_is_used_again(done):
    done(f"trajectory sgd --surface --resolution 2 {QUIETLY}")
    for number, result in enumerate(("sgd.trajectory.zarr", "sgd.surface.zarr")):
        done(f"trajectory adam --plane {result} {QUIETLY} --out again{number}.zarr")
    done(f"surface adam/ckpt-12.pt --plane sgd.trajectory.zarr --resolution 2 {QUIETLY}")

    plane = gradvis.open("sgd.trajectory.zarr").plane
    for name in ("again0.zarr", "again1.zarr", "ckpt-12.surface.zarr"):
        np.testing.assert_array_equal(gradvis.open(name).plane.directions, plane.directions)
    one, two = (values(f"again{number}.zarr") for number in (0, 1))
    assert one == two
    span = gradvis.open("ckpt-12.surface.zarr").dataset["alpha"].values
    np.testing.assert_array_equal(span, gradvis.open("sgd.surface.zarr").dataset["alpha"].values)


def test_a_random_plane_is_pinned_at_the_last_checkpoint(done):
    done(f"trajectory nan --plane random {QUIETLY}")

    found = gradvis.open("nan.trajectory.zarr")
    np.testing.assert_allclose(found.dataset["coordinates"].values[-1], 0, atol=1e-9)
    assert found.dataset["off_plane"].values[-1] == pytest.approx(0, abs=1e-9)
    assert found.dataset["off_plane"].values[0] > 0.1
    assert found.about["objective"]["batch_norm"] == "eval"


def test_surfaces_know_principal_planes_and_recordings(done):
    done(f"surface sgd/ckpt-12.pt --plane pca --through sgd/ckpt-0.pt --through sgd/ckpt-6.pt --resolution 2 {QUIETLY}")
    done(f"surface sgd/ckpt-12.pt --plane pca --through sgd.recording --dims 1 --resolution 3 {QUIETLY} --out b.zarr")
    done(f"surface adam.recording --resolution 3 {QUIETLY}")
    done(f"surface adam/ckpt-12.pt --resolution 3 {QUIETLY} --out model.zarr")

    assert gradvis.open("ckpt-12.surface.zarr").plane.about["checkpoints"] == 3
    assert gradvis.open("b.zarr").plane.about["kind"] == "pca"
    assert gradvis.open("b.zarr").plane.k == 1
    assert values("adam.surface.zarr") == values("model.zarr")


def test_pictures_lie_beside_the_result(folder, done):
    out, _ = done("trajectory sgd --surface --resolution 3 --plot png --quiet --threads 1")

    assert "sgd.trajectory.png" in out
    assert (folder / "sgd.trajectory.png").stat().st_size > 10_000
    done("plot sgd.surface.zarr --plot png")
    assert (folder / "sgd.surface.png").stat().st_size > 10_000


def test_plot_finds_the_surface_under_the_path(done, monkeypatch):
    drawn = []
    monkeypatch.setattr(Trajectory, "plot", lambda result, file, **options: drawn.append((file, options.get("ground"))))
    done(f"trajectory sgd --surface --resolution 3 {QUIETLY} --plot png")
    done(f"trajectory sgd --plane random {QUIETLY} --out other.trajectory.zarr")
    shutil.copytree("sgd.surface.zarr", "other.surface.zarr")
    done("plot sgd.trajectory.zarr/ --plot svg")
    done("plot other.trajectory.zarr --plot png")

    wanted = gradvis.open("sgd.surface.zarr").dataset["loss"].values
    assert [str(file) for file, _ in drawn] == ["sgd.trajectory.png", "sgd.trajectory.svg", "other.trajectory.png"]
    for _, ground in drawn[:2]:
        np.testing.assert_array_equal(ground.dataset["loss"], wanted)
    assert drawn[2][1] is None  # it lies on another plane


def test_a_dry_run_says_what_it_would_take_and_leaves_nothing(folder, done):
    before = sorted(path.name for path in folder.iterdir())

    out, _ = done("trajectory sgd adam --surface --resolution 5 --dry-run --threads 1")

    assert out.splitlines()[0].startswith("28 measurements on 1 rank x 1 thread: about")
    assert out.splitlines()[1].startswith("25 points on 1 rank x 1 thread: about")
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == before


def test_a_training_that_diverged_is_drawn_without_its_end(done):
    _, err = done(f"trajectory nan {' '.join(QUICK)}")

    [line] = [line for line in err.splitlines() if "NaN" in line]
    assert line == "gradvis: note: ckpt-14.pt of nan holds NaN or inf and is left out; 7 checkpoints remain"
    assert gradvis.open("nan.trajectory.zarr").tracks[0].labels[-1] == "ckpt-12.pt"


def test_the_same_command_keeps_a_result_another_is_refused_and_fresh_moves_it(folder, ask, done):
    done(f"trajectory sgd {QUIETLY}")
    before = values("sgd.trajectory.zarr")
    done(f"trajectory sgd {QUIETLY}")
    assert values("sgd.trajectory.zarr") == before

    for more, said in (("--every 2", "checkpoints is 7 there and 4 here"), ("--samples 20", "samples is")):
        status, _, err = ask(f"trajectory sgd {more} {QUIETLY}")
        assert status == 2
        assert said in err
        assert "give another --out, or --fresh to move it aside" in err
    done(f"trajectory sgd --every 2 {QUIETLY} --fresh")
    assert len(list(folder.glob("sgd.trajectory*.zarr"))) == 2


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "Missing argument 'CKPT...'"),
        ("absent", "there is no file absent"),
        ("absent/*.pt", "there is no file absent/*.pt"),
        ("empty", "checkpoints were wanted, but empty has none (.pt, .pth"),
        ("net.py", "a file of tensors that loads without running code was wanted, but net.py is not one"),
        ("bare.pt sgd/ckpt-2.pt", "bare.pt names no objective; give --objective FILE.py:NAME"),
        ("sgd --objective net.py:number", "net.py:number must return an Objective"),
        ("sgd --objective absent.py:f", "the objective's file absent.py is not there"),
        ("--components 0 sgd", "--components takes one to three different numbers from 1, but 0 came"),
        ("sgd --components 1,1", "one to three different numbers from 1, but 1, 1 came"),
        ("sgd --components 1,2,3,4", "one to three different numbers"),
        ("sgd --components -1", "from 1, but -1 came"),
        ("sgd --components one", "--components takes whole numbers such as 1,2, but 'one' came"),
        ("sgd/ckpt-0.pt sgd/ckpt-2.pt sgd/ckpt-4.pt --components 5", "path of 3 checkpoints spans 2 dimensions"),
        ("sgd/ckpt-0.pt", "spans 0 dimensions; give more checkpoints"),
        ("sgd --every 0", "Invalid value for '--every'"),
        ("sgd --margin -1", "--margin belongs to the surface; give --surface too"),
        ("sgd --surface --margin -1", "margin is a share of the path's extent, 0 or more, but -1 came"),
        ("sgd --surface --margin wide", "Invalid value for '--margin'"),
        ("sgd --span -1:1", "--span belongs to the surface; give --surface too"),
        ("sgd --resolution 5", "--resolution belongs to the surface"),
        ("sgd --surface --resolution 1", "at least 2, but 1 came"),
        ("sgd --surface --resolution 3,3,3", "one for each of the 2 dimensions, but 3 came"),
        ("sgd --surface --span 1:-1", "span must run from a number up to a larger one"),
        ("sgd --plane foo", "--plane takes pca, between, random, hessian or a RESULT.zarr, but foo came"),
        ("sgd --plane foo.zarr", "there is no result at foo.zarr"),
        ("sgd --plane sgd.recording", "--plane takes pca, between, random, hessian or a RESULT.zarr"),
        ("sgd --plane between", "two to four checkpoints, but 1 came"),
        ("sgd --plane random --components 1,3", "--components and --anchored belong to --plane pca"),
        ("sgd --through sgd/ckpt-0.pt", "--through names checkpoints for --plane between"),
        ("sgd adam --plane between --surface --resolution 3,3", "one for each of the 1 dimensions, but 2 came"),
        ("sgd --plot bmp", "--plot takes png"),
        ("sgd --componets 1,2", "--componets"),
        ("sgd --out absent/run.zarr", "to put run.zarr in; make it, or give another --out"),
        ("sgd --key model", "model"),
        ("odd", "odd/ckpt-5.pt does not fit the model: 3.weight is (4, 5), not (3, 5)"),
        ("never", "finite weights were wanted"),
    ],
)
def test_mistakes_give_status_2_and_one_line(ask, line, said):
    status, _, err = ask(f"trajectory {line} {QUIETLY}" if line else "trajectory")

    [told] = [each for each in err.splitlines() if each.startswith("gradvis: ")]
    assert status == 2
    assert told.startswith("gradvis: error: ")
    assert said in told
    assert "Traceback" not in err


def test_no_mistake_leaves_anything_behind(folder, ask):
    before = sorted(path.name for path in folder.iterdir())

    for line in ("sgd --components 9", "odd", "never", "sgd/ckpt-0.pt", "sgd --plane between"):
        assert ask(f"trajectory {line} {QUIETLY}")[0] == 2

    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == before


# ---------------------------------------------------------------------- ranks


def test_any_number_of_ranks_gives_the_same_bits(folder, done):
    words = ("sgd.recording", "adam", "--surface", "--resolution", "4", *QUICK)
    made = mpirun(3, TRAJECTORY, *words, "--out", "3.trajectory.zarr", cwd=folder, timeout=200)
    assert made.returncode == 0, made.stderr
    done(f"trajectory {' '.join(words)} --out 1.trajectory.zarr")

    assert values("1.trajectory.zarr") == values("3.trajectory.zarr")
    assert values("1.surface.zarr") == values("3.surface.zarr")
    one, three = (gradvis.open(f"{ranks}.trajectory.zarr").plane for ranks in (1, 3))
    assert one.directions.tobytes() == three.directions.tobytes()
    assert [gradvis.open(f"{ranks}.trajectory.zarr").about["ranks"] for ranks in (1, 3)] == [1, 3]
