"""The commands on Keras models, as users run them: what they say, that they are quiet, and on several ranks.

TensorFlow takes seconds to import, so that one process runs many commands and tells of each.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import gradvis
from gradvis.cli import runtime
from tests.launch import PYTHON, mpirun, run

BIN = Path(sys.executable).parent

NET = """
import keras, numpy as np
from keras import layers
from sklearn.datasets import load_digits
import gradvis

def network():
    return keras.Sequential([
        keras.Input((8, 8, 1)), layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="norm"),
        layers.ReLU(), layers.Flatten(), layers.Dense(10, name="out"),
    ])

def digits():
    images, classes = load_digits(return_X_y=True)
    return images[:203].reshape(-1, 8, 8, 1).astype("float32") / 16, classes[:203]

def objective():
    keras.layers.Dense(1)(np.ones((3, 1)))  # it may compute before, too
    return gradvis.objective(network(), digits(), "cross_entropy", metrics=["accuracy"])

def chatty():
    keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten()]).predict(digits()[0])
    return objective()
"""
WRITE = """
import keras, numpy as np, tensorflow as tf
import gradvis, gradvis.callbacks, net
keras.utils.set_random_seed(0)
images, classes = net.digits()
np.savez("digits.npz", inputs=images, targets=classes)
model = net.network()
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
recorded = gradvis.callbacks.KerasCallback("net.py:objective", out="run.recording", every_n_steps=2)
for epoch in range(3):
    model.fit(images, classes, verbose=0, callbacks=[recorded] if epoch == 0 else [])
    model.save_weights(f"ep{epoch}.weights.h5")
model.save("model.keras")
model.save("whole.h5")
model.export("exported", verbose=False)
tf.train.Checkpoint(model=model).save("ck/ckpt")
gradvis.save_checkpoint("named.weights.h5", model, objective="net.py:objective")
code = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Lambda(lambda x: x, (8, 8, 1)), *model.layers])
code.save("code.keras")
model.compile("adam")
model.save("bare.keras")
print(model.evaluate(images, classes, verbose=0) if model.loss else "")
"""
MANY = """
import contextlib, io, json, sys
from gradvis.cli.door import enter
from gradvis.cli.main import program

def called(words):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["gradvis", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            enter(program, "gradvis", list(words))
        except SystemExit as end:
            return end.code, out.getvalue(), err.getvalue()

found = [called(line.split()) for line in sys.argv[1:]]
import tensorflow as tf
facts = {"torch": "torch" in sys.modules, "threads": tf.config.threading.get_intra_op_parallelism_threads()}
try:
    tf.raw_ops.RandomUniform(shape=[1], dtype=tf.float32, seed=0, seed2=0)
    facts["same bits"] = False
except tf.errors.OpError:  # without seeds it cannot give the same bits
    facts["same bits"] = True
print(json.dumps({"found": found, **facts}))
"""
FEW = "--resolution 3 --plot none --quiet --fresh"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained network, its data and its files."""
    found = tmp_path_factory.mktemp("keras")
    (found / "net.py").write_text(NET)
    done = run(PYTHON, "-c", WRITE, cwd=found, timeout=120, env={"TF_CPP_MIN_LOG_LEVEL": "3"})
    assert done.returncode == 0, done.stderr
    return found


@pytest.fixture(scope="module")
def many(folder):
    """What many commands gave, by their words, and what the process then told of itself."""
    lines = [
        "surface model.keras --data digits.npz --resolution 3 --dry-run",
        f"surface model.keras --data digits.npz {FEW}",
        f"surface whole.h5 --data digits.npz --loss cross_entropy {FEW}",
        f"surface exported --trust --data digits.npz --loss cross_entropy {FEW}",
        f"surface exported --objective net.py:objective {FEW}",
        f"surface named.weights.h5 {FEW}",
        f"surface ck --objective net.py:chatty --key model {FEW}",
        f"surface ck/ckpt-1 --objective net.py:objective --out prefix.surface.zarr {FEW}",
        "trajectory ep0.weights.h5 ep1.weights.h5 ep2.weights.h5 --objective net.py:objective --plot none --quiet",
        "spectrum model.keras --data digits.npz --probes 2 --steps 4 --top 1 --plot none --quiet",
        f"surface model.keras {FEW}",
        f"surface bare.keras --data digits.npz {FEW}",
        f"surface exported --data digits.npz --loss cross_entropy {FEW}",
        f"surface code.keras --data digits.npz --loss cross_entropy {FEW}",
        f"surface ep0.weights.h5 {FEW}",
        f"surface model.keras --data digits.npz --key model {FEW}",
        f"surface model.keras --objective net.py:objective --key model {FEW}",
        f"surface gone.keras {FEW}",
        "surface named.weights.h5 --resolution 5 --plot none --out 1.surface.zarr",
        "trajectory run.recording --plot none --quiet --out 1.trajectory.zarr",
    ]
    done = run(PYTHON, "-c", MANY, *lines, cwd=folder, timeout=240, env={"KERAS_BACKEND": "jax"})
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return (
        {line.replace(f" {FEW}", ""): each for line, each in zip(lines, told["found"], strict=True)},
        told,
        done.stderr,
    )


def center(path):
    return gradvis.open(path).center["loss"]


@pytest.mark.slow
def test_every_form_of_a_model_gives_its_loss(folder, many):
    found, *_ = many
    statuses = [status for status, *_ in found.values()]
    assert statuses == [0] * 10 + [2] * 8 + [0] * 2, found
    losses = [center(folder / f"{name}.surface.zarr") for name in ("model", "whole", "exported", "named", "ck")]
    assert losses[0] == pytest.approx(center(folder / "prefix.surface.zarr"), rel=1e-6)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
    trajectory = gradvis.open(folder / f"{folder.name}.trajectory.zarr")
    assert trajectory.dataset["loss"].values[-1] == pytest.approx(losses[0], rel=1e-5)
    assert trajectory.dataset["loss"].values[0] > trajectory.dataset["loss"].values[-1]
    spectrum = gradvis.open(folder / "model.spectrum.zarr")
    assert spectrum.about["objective"]["backend"] == "keras"


@pytest.mark.slow
def test_nothing_but_lines_of_ours_reaches_the_terminal(many):
    found, told, stderr = many
    assert stderr == ""
    assert told["torch"] is False
    assert told["threads"] == 1
    assert told["same bits"] is True
    said = [err.splitlines() for _, _, err in found.values()]
    assert said[0] == [
        "gradvis: note: Keras runs on TensorFlow here, not on jax as KERAS_BACKEND says: gradvis computes with "
        "TensorFlow",
        "model.keras is its own network",
    ]
    assert said[1:10] == [[]] * 9
    assert all(len(lines) == 1 and lines[0].startswith("gradvis: error: ") for lines in said[10:18]), said[10:]
    assert not any("█" in out or "step" in out for _, out, _ in list(found.values())[:8])  # progress bars of Keras


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("surface model.keras", "model.keras is a Keras model, which has no data; give --data FILE, or --objective"),
        ("surface bare.keras --data digits.npz", "bare.keras is a Keras model, which has no loss; give --loss NAME"),
        (
            "surface exported --data digits.npz --loss cross_entropy",
            "it is a SavedModel; if you trust it, give --trust",
        ),
        ("surface code.keras --data digits.npz --loss cross_entropy", "a Lambda layer; if you trust it, give --trust"),
        ("surface ep0.weights.h5", "ep0.weights.h5 names no objective; give --objective FILE.py:NAME"),
        ("surface model.keras --data digits.npz --key model", "--key chooses a state in a file of several"),
        ("surface model.keras --objective net.py:objective --key model", "--key chooses a state in a file of tf.train"),
        ("surface gone.keras", "there is no file gone.keras; give the path of one"),
    ],
)
def test_a_mistake_is_one_line_that_helps(many, words, line):
    status, out, err = many[0][words]
    assert (status, out) == (2, "")
    assert line in err


@pytest.mark.slow
def test_any_number_of_ranks_gives_the_same_bits(folder, many):
    words = ("named.weights.h5", "--resolution", "5", "--plot", "none")
    alone = many[0][f"surface {' '.join(words)} --out 1.surface.zarr"][2]
    both = mpirun(2, BIN / "gradvis-surface", *words, "--out", "2.surface.zarr", cwd=folder, timeout=120)
    assert both.returncode == 0, both.stderr
    one, two = (gradvis.open(folder / f"{ranks}.surface.zarr") for ranks in (1, 2))
    assert (one.about["ranks"], two.about["ranks"]) == (1, 2)
    for name in ("loss", "loss_stderr", "accuracy"):
        np.testing.assert_array_equal(one.dataset[name], two.dataset[name])
    for said in (alone, both.stderr):
        lines = said.splitlines()
        assert lines[0] == "named.weights.h5 names its objective: net.py:objective, found in this folder"
        assert all(line.startswith("25 points on") or "points/s]" in line for line in lines[1:]), said


@pytest.mark.slow
@pytest.mark.usefixtures("many")
def test_a_recording_gives_the_same_bits_on_any_number_of_ranks(folder):
    words = ("run.recording", "--plot", "none", "--quiet", "--out", "2.trajectory.zarr")
    done = mpirun(2, BIN / "gradvis-trajectory", *words, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    one, two = (gradvis.open(folder / f"{ranks}.trajectory.zarr") for ranks in (1, 2))
    assert (one.about["ranks"], two.about["ranks"]) == (1, 2)
    np.testing.assert_array_equal(one.plane.directions, two.plane.directions)
    for name in one.dataset.variables:
        np.testing.assert_array_equal(one.dataset[name], two.dataset[name])


@pytest.mark.slow
def test_keras_on_another_framework_is_one_sentence(folder):
    (folder / "other.py").write_text(f"import os\nos.environ['KERAS_BACKEND'] = 'torch'\n{NET}")
    code = (
        "import other, gradvis\n"
        "try:\n    other.objective()\nexcept ValueError as error:\n    print(error)\n"
        "import sys\nfrom gradvis.cli.main import surface\n"
        "import gradvis.cli.models as models\nmodels.is_keras = lambda path: False\n"
        "sys.argv = ['gradvis-surface', 'net.py', '--objective', 'other.py:objective', '--quiet']\nsurface()"
    )
    done = run(PYTHON, "-c", code, cwd=folder, timeout=120)
    wanted = "gradvis computes Keras models with TensorFlow, but Keras runs on 'torch'; set KERAS_BACKEND=tensorflow"
    assert done.stdout.startswith(wanted)
    assert done.returncode == 2
    assert done.stderr.startswith(f"gradvis-surface: error: {wanted}")
    assert len(done.stderr.splitlines()) == 1


def test_a_torch_job_does_not_import_tensorflow(tmp_path):
    code = """
import sys, torch, gradvis
from gradvis.cli.main import surface
open("small.py", "w").write('''
import torch, gradvis
def objective():
    return gradvis.objective(torch.nn.Linear(2, 1), (torch.ones(3, 2), torch.ones(3, 1)), "mse")
''')
gradvis.save_checkpoint("small.pt", torch.nn.Linear(2, 1), objective="small.py:objective")
sys.argv = ["gradvis-surface", "small.pt", "--resolution", "3", "--plot", "none", "--quiet"]
try:
    surface()
finally:
    print({"tensorflow", "keras"} & set(sys.modules))
"""
    done = run(PYTHON, "-c", code, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("set()\n")
    assert done.stderr == ""


# ------------------------------------------------------------------------------------------------ what is settled


@pytest.fixture
def noisy(tmp_path, monkeypatch):
    """A module that writes to the file of standard error while it is imported."""
    (tmp_path / "noisy.py").write_text(
        "import os\nos.write(2, b'noise')\nlevel = os.environ.get('TF_CPP_MIN_LOG_LEVEL')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    yield "noisy"
    sys.modules.pop("noisy", None)
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, runtime._Finder)]


def test_what_an_import_writes_is_dropped_and_what_follows_is_done_once(noisy, capfd, monkeypatch):
    seen = []
    sys.meta_path.insert(0, runtime._Finder({noisy: seen.append}, silent=True))
    sys.meta_path.insert(0, runtime._Finder({noisy: seen.append}))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "")
    assert importlib.util.find_spec(noisy) is not None  # to ask for it is not to import it
    assert seen == []
    module = importlib.import_module(noisy)
    os.write(2, b"kept")
    assert seen == [module, module]
    assert module.level == "3"
    assert capfd.readouterr().err == "kept"


def test_who_wants_to_hear_tensorflow_does(monkeypatch):
    before = list(sys.meta_path)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    with runtime.quiet():
        assert sys.meta_path == before
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    with runtime.quiet():
        assert len(sys.meta_path) == len(before) + 1
        runtime.settle(2, 0, True)
        runtime.settle(3, 0, True)
        assert len(sys.meta_path) <= len(before) + 2
    assert sys.meta_path == before
    assert "TF_CPP_MIN_LOG_LEVEL" not in os.environ


class Fake:
    """TensorFlow as far as it is settled."""

    def __init__(self, gpus, started=False):
        self.calls, self.gpus, self.started = [], gpus, started
        self.config = self.threading = self.experimental = self

    def __getattr__(self, name):
        def call(*given):
            if self.started:
                raise RuntimeError("it has begun")
            self.calls.append((name, *given))

        return call

    def list_physical_devices(self, kind):
        return self.gpus


@pytest.mark.parametrize(("rank", "gpu"), [(0, "a"), (1, "b"), (2, "a")])
def test_a_rank_takes_its_threads_and_its_device_with_memory_growth(monkeypatch, rank, gpu):
    fake = Fake(["a", "b"])
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    runtime.settle(3, rank, True)
    growth = [("set_memory_growth", name, True) for name in ("a", "b")]
    assert fake.calls == [
        ("set_intra_op_parallelism_threads", 3), ("set_inter_op_parallelism_threads", 3), *growth,
        ("set_visible_devices", [gpu], "GPU"),
    ]  # fmt: skip
    fake.calls.clear()
    runtime.settle(3, rank, False)
    assert fake.calls[2:] == growth
    fake.started = True
    runtime.settle(3, rank, True)  # the user's file has computed with it already


def test_commands_take_operations_of_the_same_bits_unless_told_not_to(monkeypatch):
    fake = Fake([])
    fake.random = fake
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    runtime.same_bits()
    assert fake.calls == [("set_seed", 0), ("enable_op_determinism",)]
    fake.calls.clear()
    monkeypatch.setenv("TF_DETERMINISTIC_OPS", "0")
    runtime.same_bits()
    assert fake.calls == []


def test_what_tensorflow_needs_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs tensorflow and keras; install with: .*gradvis\[tensorflow\]"):
        runtime.take_tensorflow()


@pytest.mark.slow
def test_the_demo_for_tensorflow_ends_with_its_pictures(tmp_path):
    done = run(BIN / "gradvis", "demo", "--framework", "tensorflow", cwd=tmp_path, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "oneDNN" not in done.stderr
    made = tmp_path / "gradvis-demo-tensorflow"
    for name in ("model.surface.png", "model.surface.html", "run.trajectory.png", "run.trajectory.html"):
        assert (made / name).is_file()
    surface = gradvis.open(made / "model.surface.zarr")
    assert surface.center["accuracy"] > 0.97
    assert surface.about["ranks"] == 2
    trajectory = gradvis.open(made / "run.trajectory.zarr")
    assert trajectory.dataset["loss"].values[0] > 2 > 0.1 > trajectory.dataset["loss"].values[-1]
    assert "Try next" in done.stdout
