"""`gradvis-spectrum` as users type it: alone, on ranks, killed, checked, and given the wrong thing."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gradvis
from gradvis.cli.door import enter
from gradvis.cli.main import program
from tests.launch import mpirun, started, until

SPECTRUM = Path(sys.executable).with_name("gradvis-spectrum")
QUICK = ("--plot", "none", "--threads", "1")
FEW = ("model.pt", "--probes", "3", "--steps", "12", "--top", "2", *QUICK)

NET = '''
"""A small network on drawn data."""
import os, time
import numpy as np, torch
import gradvis

class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))

    def forward(self, inputs):
        time.sleep(float(os.environ.get("SLOWLY", "0")))
        return super().forward(inputs)

def pair(samples=41):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(samples, 6))
    return inputs, (inputs @ rng.normal(size=(6, 3))).argmax(1)

def objective():
    return gradvis.objective(Net().double(), pair(), "cross_entropy", batch_size=16)

def hidden():
    return gradvis.objective(
        Net().double(), pair(),
        batch_loss=lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1]), weight=len,
    )
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    sys.modules.pop("net", None)  # another file's
    sys.path.insert(0, str(tmp_path))
    try:
        import net
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("net", None)
    torch.manual_seed(0)
    gradvis.save_checkpoint(tmp_path / "model.pt", net.Net().double(), objective="net.py:objective")
    yield tmp_path
    sys.modules.pop("net", None)  # so that the next file finds its own


@pytest.fixture
def command(capsys, monkeypatch, folder):
    """The command in this process: its status, and what it printed."""

    def call(*arguments, verb="spectrum"):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["gradvis", verb, *arguments])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                enter(program, "gradvis", [verb, *arguments])
        finally:
            signal.signal(signal.SIGTERM, handler)
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return call


def dense(folder):
    """Of the float64 model, by autograd alone."""
    content = torch.load(folder / "model.pt", weights_only=True)
    state = next(value for value in content.values() if isinstance(value, dict) and "0.weight" in value)
    shapes = {name: value.shape for name, value in state.items()}
    flat = torch.cat([value.reshape(-1) for value in state.values()])
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(41, 6))
    targets = torch.tensor((inputs @ rng.normal(size=(6, 3))).argmax(1))

    def loss(theta):
        parts = dict(zip(shapes, theta.split([shape.numel() for shape in shapes.values()]), strict=True))
        w = {name: part.view(shapes[name]) for name, part in parts.items()}
        inner = torch.tanh(torch.tensor(inputs) @ w["0.weight"].T + w["0.bias"])
        return torch.nn.functional.cross_entropy(inner @ w["2.weight"].T + w["2.bias"], targets)

    return torch.autograd.functional.hessian(loss, flat).numpy()


def test_its_numbers_are_those_of_the_dense_hessian(folder, command):
    code, out, err = command("model.pt", "--probes", "100", "--top", "3", "--which", "both", "--check", *QUICK)

    assert code == 0, err
    values = np.linalg.eigvalsh(dense(folder))
    found = gradvis.open(folder / "model.spectrum.zarr")
    np.testing.assert_allclose(found.pairs.values, values[[-1, -2, -3, 2, 1, 0]], atol=1e-8 * values.max())
    np.testing.assert_allclose(found.trace, values.sum(), rtol=1e-8)
    np.testing.assert_allclose(found.frobenius, np.linalg.norm(values), rtol=1e-8)
    assert "Hessian of 53 parameters at a loss of" in out
    assert f"trace {values.sum():.4g} +- 0" in out
    assert "FAIL" not in out
    assert out.count("pass") >= 6 * 4 - 3
    assert found.about["command"].startswith("gradvis spectrum model.pt --probes 100")


def test_a_check_that_fails_ends_with_status_1(folder, command, monkeypatch):
    command(*FEW)
    whole = gradvis.backends.pytorch.TorchObjective.hvp
    monkeypatch.setattr(
        gradvis.backends.pytorch.TorchObjective,
        "hvp",
        lambda self, theta, vectors, operator="hessian": 1.1 * whole(self, theta, vectors, operator),
    )
    code, out, err = command(*FEW, "--check", "--fresh")

    assert code == 1
    assert "FAIL" in out
    assert "checks failed: see the table" in err.splitlines()[-1]


def test_a_block_is_a_block_of_the_hessian(folder, command):
    code, _, err = command("model.pt", "--parameters", "2.*", "--probes", "30", "--top", "2", *QUICK)

    assert code == 0, err
    values = np.linalg.eigvalsh(dense(folder)[35:, 35:])
    found = gradvis.open(folder / "model.spectrum.zarr")
    assert found.d == 18
    np.testing.assert_allclose(found.pairs.values, values[[-1, -2]], atol=1e-8)
    np.testing.assert_allclose(found.trace, values.sum(), rtol=1e-8)


@pytest.mark.parametrize("operator", ["ggn", "fisher"])
def test_other_operators_have_no_negative_eigenvalues(folder, command, operator):
    code, out, err = command(*FEW, "--operator", operator, "--probes", "60")

    assert code == 0, err
    found = gradvis.open(folder / "model.spectrum.zarr")
    assert found.nodes.min() > -1e-10
    assert found.trace > 0
    assert {"ggn": "Gauss-Newton matrix of", "fisher": "empirical Fisher matrix of"}[operator] in out


def test_a_loss_that_hides_its_outputs_has_no_gauss_newton_matrix(folder, command):
    code, _, err = command(*FEW, "--objective", "net.py:hidden", "--operator", "ggn")

    assert code == 2
    assert "outputs" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_change_no_number(folder, command, ranks):
    command(*FEW, "--out", "alone.zarr")
    done = mpirun(ranks, SPECTRUM, *FEW, "--out", "ranks.zarr", cwd=folder, timeout=240)
    assert done.returncode == 0, done.stderr

    alone, found = (gradvis.open(folder / f"{name}.zarr") for name in ("alone", "ranks"))
    norm = alone.frobenius
    np.testing.assert_allclose(found.trace, alone.trace, atol=1e-10 * norm)
    np.testing.assert_allclose(found.nodes, alone.nodes, atol=1e-9 * norm)
    np.testing.assert_allclose(found.pairs.values, alone.pairs.values, atol=1e-9 * norm)
    assert done.stdout.count("trace") == 1


def test_a_killed_job_goes_on_with_the_missing_probes(folder, command):
    wanted = ("model.pt", "--probes", "12", "--steps", "12", "--top", "2", *QUICK, "--out", "run.zarr")
    with started(SPECTRUM, *wanted, "--quiet", cwd=folder, env={"SLOWLY": "0.02"}) as (process, _, err):
        until(lambda: len(list((folder / "run.zarr" / "residual").glob("c*"))) >= 5, timeout=120)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        assert "the same command goes on with" in err.read_text()
    done = gradvis.open(folder / "run.zarr").done
    assert 5 <= done.sum() < 12

    code, _, err = command(*wanted)
    command(*wanted[:-1], "whole.zarr")

    assert code == 0, err
    part, whole = (gradvis.open(folder / f"{name}.zarr") for name in ("run", "whole"))
    np.testing.assert_array_equal(part.nodes, whole.nodes)


@pytest.mark.parametrize("kind", ["top", "ends", "gradient"])
def test_a_surface_lies_on_a_hessian_plane(folder, command, kind):
    code, out, err = command(
        "model.pt", "--plane", "hessian", "--directions", kind, "--resolution", "5", *QUICK, verb="surface"
    )

    assert code == 0, err
    surface = gradvis.open(folder / "model.surface.zarr")
    vectors = np.linalg.eigh(dense(folder))[1]
    sharpest = surface.plane.directions[1 if kind == "gradient" else 0]
    assert abs(sharpest @ vectors[:, -1]) == pytest.approx(1, abs=1e-6)
    assert surface.dataset["alpha"].values[-1] == surface.plane.about["span"] == surface.dataset["beta"].values[-1]
    assert "lowest on the grid" in out
    assert ("along the gradient and eigenvectors" if kind == "gradient" else "along eigenvectors") in surface.methods()


def test_a_path_is_dropped_on_a_hessian_plane(folder, command):
    code, _, err = command("model.pt", "--plane", "hessian", *QUICK, verb="trajectory")

    assert code == 0, err
    assert gradvis.open(next(folder.glob("*.trajectory.zarr"))).plane.about["kind"] == "hessian"


def test_the_picture_lies_beside_the_result(folder, command):
    code, out, err = command(*FEW[:-4], "--threads", "1", "--plot", "png,html")

    assert code == 0, err
    assert (folder / "model.spectrum.png").stat().st_size > 10_000
    assert (folder / "model.spectrum.html").stat().st_size > 10_000
    assert "model.spectrum.png" in out


def test_a_dry_run_computes_nothing(folder, command):
    code, out, _ = command(*FEW, "--dry-run")

    assert code == 0
    assert "36 products on 1 rank x 1 thread: about" in out
    assert not (folder / "model.spectrum.zarr").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("model.pt", "--probes", "0"), "--probes"),
        (("model.pt", "--tol", "0"), "--tol"),
        (("model.pt", "--operator", "jacobian"), "--operator"),
        (("model.pt", "--parameters", "layer9.*"), "layer9"),
        (("missing.pt",), "missing.pt"),
    ],
)
def test_mistakes_are_one_line(command, arguments, words):
    code, _, err = command(*arguments, *QUICK)

    assert code == 2
    (line,) = [line for line in err.splitlines() if "error:" in line]
    assert words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--directions", "top"), "--directions belongs to --plane hessian"),
        (("--plane", "hessian", "--directions", "ends", "--dims", "3"), "--directions ends are two"),
        (("--plane", "hessian", "--through", "model.pt"), "--through names checkpoints"),
        (("--plane", "hessian", "--normalize", "filter"), "--normalize belongs to random planes"),
    ],
)
def test_planes_and_their_options_fit(command, arguments, words):
    code, _, err = command("model.pt", *arguments, *QUICK, verb="surface")

    assert code == 2
    assert words in err


def test_a_spectrum_has_no_plane_to_use_again(command):
    command(*FEW)
    code, _, err = command("model.pt", "--plane", "model.spectrum.zarr", *QUICK, verb="surface")

    assert code == 2
    assert "is a spectrum; give --plane hessian" in err
