"""Every mistake that a user can make ends with one line that helps, on one rank and on several."""

import json
import re
import shutil
import signal
import sys
import warnings
from pathlib import Path

import click
import numpy as np
import pytest
import torch

import gradvis
from gradvis.cli.door import enter
from gradvis.cli.main import plot_command, program, surface_command
from gradvis.notes import note
from tests.launch import LAUNCHERS, mpirun, run

COMMANDS = {"gradvis-surface": surface_command, "gradvis-plot": plot_command, "gradvis": program}
SURFACE = Path(sys.executable).with_name("gradvis-surface")

NET = """
import numpy as np, torch
import gradvis

class Net(torch.nn.Sequential):
    def __init__(self, width=5, softmax=False):
        ends = [torch.nn.Softmax(1)] if softmax else []
        super().__init__(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 3), *ends)

def data(samples=24):
    return torch.linspace(-1, 1, 4 * samples).reshape(samples, 4) ** 2, torch.arange(samples) % 3

def objective(samples: int = 24, width: int = 5):
    return gradvis.objective(Net(width), data(samples), "cross_entropy", metrics=["accuracy"])

def made(loss="cross_entropy", inputs=None, targets=None, softmax=False, **options):
    own = data()
    pair = own[0] if inputs is None else inputs, own[1] if targets is None else targets
    return gradvis.objective(Net(softmax=softmax), pair, loss, **options)

def own(outputs, targets):
    return FACTOR * torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

def raises(outputs, targets):
    raise RuntimeError("no such luck")

FACTOR = 1
nothing = lambda: None
network = lambda: Net()
absent = lambda: {}["absent"]
probabilities = lambda: made(softmax=True)
unlucky = lambda: made(raises)
plain_number = lambda: made(lambda outputs, targets: 3.0)
other_length = lambda: made(lambda outputs, targets: torch.ones(7))
no_loss = lambda: made(None)
a_class = lambda: made(torch.nn.CrossEntropyLoss)
summed = lambda: made(torch.nn.CrossEntropyLoss(reduction="sum"))
twice = lambda: made(metrics=["accuracy", "accuracy"])
one_hot = lambda: made(targets=torch.nn.functional.one_hot(data()[1]))
words = lambda: made(inputs=np.array(["a"] * 24))
changing = lambda: made(own)
"""


def write_files():
    """What users have in a folder: checkpoints whole and broken, data that fits and does not."""
    import net

    state, (inputs, targets) = net.Net().state_dict(), (part.numpy() for part in net.data())
    gradvis.save_checkpoint("model.pt", net.Net(), objective="net.py:objective")
    gradvis.save_checkpoint("wide.pt", net.Net(9), objective="net.py:objective")
    whole = Path("model.pt").read_bytes()
    Path("cut.pt").write_bytes(whole[: len(whole) // 2])
    Path("notes.txt").write_text("hello\n")
    for name, content in {
        "bare.pt": state,
        "pickle.pt": net.Net(),
        "list.pt": [1, 2],
        "other.pt": {"fc.weight": torch.ones(3, 4)},
        "two.pt": {"a": state, "b": state},
        "nan.pt": state | {"0.bias": torch.full((5,), torch.nan)},
    }.items():
        torch.save(content, name)
    for name, more in {
        "good": {},
        "wide": {"inputs": np.ones((24, 7), "float32")},
        "integers": {"inputs": np.ones((24, 4), "int64")},
        "short": {"targets": targets[:5]},
        "empty": {"inputs": inputs[:0], "targets": targets[:0]},
        "ones": {"targets": targets + 1},
        "floats": {"targets": targets.astype("float32")},
        "not_a_number": {"inputs": inputs * np.nan},
    }.items():
        np.savez(f"{name}.npz", **{"inputs": inputs, "targets": targets, **more})
    np.savez("names.npz", x=inputs, y=targets)


def change(path, **values):
    """Let a result say something else of itself."""
    metadata = json.loads((Path(path) / "zarr.json").read_bytes())
    metadata["attributes"]["gradvis"].update(values)
    (Path(path) / "zarr.json").write_text(json.dumps(metadata))


def write_results():
    """Results beside a whole one: of another kind, another version, damaged."""
    for name, values in {"newer": {"format": 99}, "kind": {"kind": "game"}, "said": {"identity": None}}.items():
        change(shutil.copytree("done.zarr", f"{name}.zarr"), **values)
    cut = shutil.copytree("done.zarr", "cut.zarr") / Path("zarr.json")
    cut.write_bytes(cut.read_bytes()[:100])
    for name, array in {"torn": "loss", "centre": "center", "plane": "plane/origin"}.items():
        next((shutil.copytree("done.zarr", f"{name}.zarr") / Path(array)).glob("c.*")).unlink()
    Path("folder.zarr").mkdir()
    Path("folder.zarr", "thesis.tex").touch()
    Path("file.zarr").touch()


FEW = ("--resolution", "3", "--plot", "none", "--quiet", "--threads", "1")


def called(name, *words):
    """The status of a command in this process."""
    arguments = [str(word) for word in words]
    handler, argv = signal.getsignal(signal.SIGTERM), sys.argv
    sys.argv = [name, *arguments]
    try:
        with pytest.raises(SystemExit) as ended:
            enter(COMMANDS[name], name, arguments)
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    return ended.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("mistakes")
    (place / "net.py").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(str(place))
        torch.manual_seed(0)
        write_files()
        assert called("gradvis-surface", "model.pt", *FEW, "--out", "done.zarr") == 0
        write_results()
        yield place
    sys.modules.pop("net", None)


@pytest.fixture
def command(folder, capsys, monkeypatch):
    """Run a command in the folder: its status, its output, its lines on standard error."""
    monkeypatch.chdir(folder)

    def run(name, *words):
        status = called(name, *words)
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


# What comes after `gradvis-surface model.pt`, and what the line must say. A word with a dot in front takes its place.
SURFACES = {
    "a missing file": (["absent.pt"], "there is no file absent.pt; give the path of one"),
    "a text": (["notes.txt"], "but notes.txt is not one, or it is damaged; save model.state_dict()"),
    "a truncated file": (["cut.pt"], r"but cut.pt is not one, or it is damaged \(.*central directory\); save"),
    "data in place of a model": (["good.npz"], r"good.npz is not one, or it is damaged \(file in archive"),
    "a result in place of a model": (["done.zarr"], "but done.zarr is a result; gradvis-plot draws it, and --plane"),
    "no tensors": (["list.pt", "--objective", "net.py:objective"], "but list.pt holds none; save model.state_dict"),
    "no objective": (["bare.pt"], "bare.pt names no objective; give --objective FILE.py:NAME"),
    "a pickle": (["pickle.pt"], "pickle.pt can run code, .* a pickle that makes a net.Net; .* give --trust"),
    "a program without data": (["pickle.pt", "--trust"], "neither data nor loss; give --data FILE and --loss NAME"),
    "another architecture": (
        ["other.pt", "--objective", "net.py:objective"],
        r"other.pt does not fit the model: 4 missing \(0.weight, .*\); 1 left over \(fc.weight\); give the objective",
    ),
    "other shapes": (["wide.pt"], r"wide.pt does not fit the model: 0.weight is \(9, 4\), not \(5, 4\); 0.bias is"),
    "two states": (["two.pt", "--objective", "net.py:objective"], r"two.pt fit the model \(a, b\); give one as key"),
    "a key that is not there": (["model.pt", "--key", "ema"], "a state ema was wanted, .* has state_dict; give one"),
    "NaN weights": (["nan.pt", "--objective", "net.py:objective"], r"in the checkpoint nan.pt 0.bias holds NaN"),
    "two models": (["model.pt", "wide.pt"], r"unexpected extra argument \(wide.pt\); gradvis-surface --help says"),
    "an argument without =": (["model.pt", "--objective-arg", "width"], "takes KEY=VALUE, but 'width' came; give one"),
    "an argument without a name": (["model.pt", "--objective-arg", "=9"], "takes KEY=VALUE, but '=9' came; give one"),
    "an unknown argument": (["model.pt", "--objective-arg", "wdth=3"], "takes samples: int = 24, width: int = 5, but"),
    "an argument of another kind": (["model.pt", "--objective-arg", "width=x"], "width takes int, but 'x' came"),
    "no samples in the code": (["model.pt", "--objective-arg", "samples=0"], "at least 1, were wanted, but 0 and 0"),
    "an empty objective": (["model.pt", "--objective", ""], "named as FILE.py:NAME .* but '' came; NAME is the fun"),
    "a file without a name": (["model.pt", "--objective", "net.py"], "but 'net.py' came; NAME is the function"),
    "a misspelt function": (["model.pt", "--objective", "net.py:objectve"], "it has none; did you mean objective"),
    "a misspelt file": (["model.pt", "--objective", "nt.py:objective"], "file nt.py is not there; run the command"),
    "a file that is no module": (["model.pt", "--objective", "notes.txt:f"], "cannot be imported .* name a .py file"),
    "a function of the network": (["model.pt", "--objective", "net.py:network"], "but it returned a Net$"),
    "no return": (["model.pt", "--objective", "net.py:nothing"], "must return an Objective, .* it returned nothing$"),
    "probabilities": (["model.pt", "--objective", "net.py:probabilities"], "takes logits, but .* probabilities; leave"),
    "a loss that is a number": (["model.pt", "--objective", "net.py:plain_number"], "a tensor, .* a float came; let"),
    "a loss of another length": (["model.pt", "--objective", "net.py:other_length"], r"but shape \(7,\) came; reduce"),
    "no loss": (["model.pt", "--objective", "net.py:no_loss"], "one of loss and batch_loss .* neither came; give"),
    "a class as loss": (["model.pt", "--objective", "net.py:a_class"], "the class CrossEntropyLoss came; call it$"),
    "a sum": (["model.pt", "--objective", "net.py:summed"], "has reduction='sum'; give it reduction='mean'"),
    "a metric twice": (["model.pt", "--objective", "net.py:twice"], "loss, accuracy, accuracy came; name each once"),
    "one-hot targets": (["model.pt", "--objective", "net.py:one_hot"], r"int64 \(2, 3\) came; one-hot targets become"),
    "texts as inputs": (["model.pt", "--objective", "net.py:words"], "dtype <U1 came; make it floats or integers"),
    "inputs of another shape": (["model.pt", "--data", "wide.npz"], r"float32 \(2, 7\) came .*; give the shape and dt"),
    "inputs of another kind": (["model.pt", "--data", "integers.npz"], r"int64 \(2, 4\) came .*; give the shape and"),
    "other names": (["model.pt", "--data", "names.npz"], "has no inputs and no targets, but x, y; save both under"),
    "inputs and targets apart": (["model.pt", "--data", "short.npz"], "of one length, .* but 24 and 5 came"),
    "no samples": (["model.pt", "--data", "empty.npz"], "of one length, at least 1, were wanted, but 0 and 0 came"),
    "targets out of range": (["model.pt", "--data", "ones.npz"], "wants classes 0 to 2, .* hold 3; subtract 1 from"),
    "targets that are floats": (["model.pt", "--data", "floats.npz"], "classes as integers, but float32 .* take targ"),
    "no data": (["model.pt", "--data", "absent.npz"], "a data file was wanted, but absent.npz is not there"),
    "data of another kind": (["model.pt", "--data", "notes.txt"], "ends in .npz, .* 'notes.txt' came; numpy.savez"),
    "data that is a network": (["model.pt", "--data", "pickle.pt"], "cannot be read .* a pickle that makes a net.Net"),
    "more samples than there are": (["model.pt", "--samples", "25"], "from 1 to 24, as many as the data has, but 25"),
    "zero samples": (["model.pt", "--samples", "0"], "'--samples': 0 is not in the range x>=1; gradvis-surface --help"),
    "half a sample": (["model.pt", "--samples", "2.5"], "'2.5' is not a valid whole number; gradvis-surface --help"),
    "an unknown loss": (["model.pt", "--loss", "crossentropy"], "did you mean 'cross_entropy'?"),
    "a loss that is none": (["model.pt", "--loss", "accuracy"], "no loss or metric by name; there are cross_entropy"),
    "a loss that does not fit": (["model.pt", "--loss", "mse"], "mse wants outputs and targets of one shape, but"),
    "an unknown metric": (["model.pt", "--metrics", "acuracy"], "did you mean 'accuracy'?"),
    "an unknown policy": (["model.pt", "--batch-norm", "train"], "'train' is not one of 'eval', 'batch', 'recalibrat"),
    "an unknown device": (["model.pt", "--device", "gpu"], "gpu is not .*; try --device cpu"),
    "an unknown option": (["model.pt", "--no-such"], "No such option '--no-such'; gradvis-surface --help says"),
    "a misspelt option": (["model.pt", "--resolutoin", "3"], r"No such option .* Did you mean '--resolution'\?$"),
    "an option without its value": (["model.pt", "--resolution"], "requires an argument; gradvis-surface --help"),
    "no point": (["model.pt", "--resolution", "0"], "at least 2, but 0 came; give the points an axis has"),
    "one point": (["model.pt", "--resolution", "1"], "at least 2, but 1 came; give the points"),
    "half a point": (["model.pt", "--resolution", "2.5"], "--resolution takes a whole number, .* but '2.5' came"),
    "no resolution": (["model.pt", "--resolution", ""], "--resolution takes a whole number, .* but '' came"),
    "more points than memory": (["model.pt", "--resolution", "1" + "0" * 24], "at most 1000000, but 10+ came; give"),
    "three resolutions": (["model.pt", "--resolution", "3,3,3"], "one for each of the 2 dimensions, but 3 came"),
    "no extent": (["model.pt", "--span", "0"], "up to a larger one, but it runs from 0 to 0$"),
    "a span backwards": (["model.pt", "--span", "1:-1"], "up to a larger one, but it runs from 1 to -1$"),
    "a span that is no number": (["model.pt", "--span", "nan"], "but it runs from nan to nan$"),
    "a span without end": (["model.pt", "--span", "inf"], "but it runs from -inf to inf$"),
    "a span too wide": (["model.pt", "--span", "1e308"], r"but it runs from -1e\+308 to 1e\+308$"),
    "a span too narrow": (["model.pt", "--span", "1:1.0000000000000003", *FEW], "no room for 3 numbers; make it wider"),
    "a span of three": (["model.pt", "--span", "1:2:3"], "takes 1.0 or -1:1, .* but '1:2:3' came; gradvis-surface"),
    "half a span": (["model.pt", "--span", "1:"], "takes 1.0 or -1:1, .* but '1:' came"),
    "no span": (["model.pt", "--span", ""], "takes 1.0 or -1:1, .* but '' came"),
    "an unknown picture": (["model.pt", "--plot", "bmp"], "--plot takes png, .* or none, but bmp came"),
    "a misspelt plane": (["model.pt", "--plane", "betwen"], "a RESULT.zarr, but betwen came; did you mean between?"),
    "a plane of one": (["model.pt", "--plane", "between"], "one to three more checkpoints, but 0 came; give each with"),
    "a plane of five": (
        ["model.pt", "--plane", "between", *["--through", "nan.pt"] * 4],
        "one to three more checkpoints, but 4 came",
    ),
    "a plane of other dimensions": (
        ["model.pt", "--plane", "between", "--through", "nan.pt", "--dims", "2"],
        "has --dims 1, but 2 came; leave it out",
    ),
    "a plane through another architecture": (
        ["model.pt", "--plane", "between", "--through", "wide.pt"],
        "the checkpoint wide.pt does not fit the model: 0.weight is",
    ),
    "a plane through one twice": (
        ["model.pt", "--plane", "between", "--through", "model.pt"],
        "checkpoints that differ were wanted, but .* two of them are the same, or three lie on a line; leave one out",
    ),
    "through without between": (["model.pt", "--through", "wide.pt"], "--plane between or pca; give one of these"),
    "normalised between": (
        ["model.pt", "--plane", "between", "--through", "wide.pt", "--normalize", "layer"],
        "--normalize belongs to random planes; leave it out",
    ),
    "a result's plane that is not there": (["model.pt", "--plane", "no.zarr"], "no result at no.zarr; give the path"),
    "a result's plane of other dimensions": (
        ["model.pt", "--plane", "done.zarr", "--dims", "3"],
        "the plane of done.zarr has --dims 2, but 3 came; leave it out",
    ),
    "a result's plane of another architecture": (
        ["wide.pt", "--objective-arg", "width=9", "--plane", "done.zarr"],
        "has points of 43 parameters, but MODEL has 75; take a result of the same architecture",
    ),
    "a damaged result's plane": (["model.pt", "--plane", "plane.zarr"], "plane.zarr is damaged .*; compute it anew"),
    "another seed": (["model.pt", *FEW, "--out", "done.zarr", "--seed", "1"], "seed is 0 there and 1 here; give"),
    "other data": (["model.pt", *FEW, "--out", "done.zarr", "--data", "good.npz", "--samples", "9"], "data differs"),
    "another model": (
        ["wide.pt", "--objective-arg", "width=9", *FEW, "--out", "done.zarr"],
        "done.zarr holds another result: .* give another --out, or --fresh",
    ),
    "another loss": (["model.pt", *FEW, "--out", "done.zarr", "--loss", "nll"], "cross_entropy there and nll here"),
    "a newer result": (["model.pt", *FEW, "--out", "newer.zarr"], r"newer gradvis \(format 99, this one reads 1\)"),
    "another kind of result": (["model.pt", *FEW, "--out", "kind.zarr"], "a game there and a surface here; give"),
    "a result that says nothing": (["model.pt", *FEW, "--out", "said.zarr"], "does not say its identity.; compute it"),
    "a result cut short": (["model.pt", *FEW, "--out", "cut.zarr"], "zarr.json is cut off .*; compute it anew"),
    "a torn result": (["model.pt", *FEW, "--out", "torn.zarr"], "damaged .a part of loss is missing.; compute"),
    "a result without its centre": (["model.pt", *FEW, "--out", "centre.zarr"], "a part of center is missing.; compu"),
    "a folder of the user's": (["model.pt", *FEW, "--out", "folder.zarr"], "but not a gradvis result .*; give another"),
    "a file of the user's": (["model.pt", *FEW, "--out", "file.zarr", "--fresh"], "a file, not a result folder; give"),
    "a file in place of a folder": (["model.pt", *FEW, "--out", "notes.txt/run.zarr"], "no folder .*notes.txt to put"),
    "no place at all": (["model.pt", *FEW, "--out", ""], "is a folder, but not a gradvis result .*; give another path"),
}  # fmt: skip

PLOTS = {
    "nothing": ([], "Missing argument 'RESULT...'; gradvis-plot --help says what it takes"),
    "a model": (["model.pt"], "model.pt is a file, not a result folder; give another path"),
    "a newer result": (["newer.zarr"], "newer.zarr was written by a newer gradvis"),
    "a result of another kind": (["kind.zarr"], "holds a game, which this version of gradvis cannot open; update"),
    "a torn result": (["torn.zarr"], "torn.zarr is damaged .*; compute it anew with --fresh, which moves it aside"),
    "a result without its centre": (["centre.zarr"], "centre.zarr is damaged .*; compute it anew"),
    "a result cut short": (["cut.zarr"], "cut.zarr is damaged .*; compute it anew"),
}

OTHERS = {
    "a misspelt verb": (["srface"], r"No such command 'srface'. Did you mean 'surface'\?$"),
    "an option of no verb": (["info", "--yaml"], "No such option '--yaml'; gradvis info --help says what it takes"),
    "no model": (["surface"], "Missing argument 'MODEL'; gradvis surface --help says what it takes"),
}

ALL = [
    pytest.param(name, *case, id=f"{name}: {words}")
    for name, cases in (("gradvis-surface", SURFACES), ("gradvis-plot", PLOTS), ("gradvis", OTHERS))
    for words, case in cases.items()
]


def there():
    return sorted(path.name for path in Path().iterdir() if path.name != "__pycache__")


@pytest.mark.parametrize(("name", "arguments", "words"), ALL)
def test_a_mistake_gives_status_2_and_one_line_that_helps(command, name, arguments, words):
    before = there()

    status, out, lines = command(name, *(["--quiet"] if name == "gradvis-surface" else []), *arguments)

    assert (status, out, len(lines)) == (2, "", 1), lines
    assert lines[0].startswith(f"{name}: error: ")
    assert re.search(words, lines[0]), lines[0]
    assert there() == before


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("absent", r"net.py:absent raised KeyError: 'absent', at net.py:\d+$"),
        ("unlucky", r"net.py:unlucky raised RuntimeError: no such luck, at net.py:\d+$"),
    ],
)
def test_what_the_users_code_raises_is_status_1_with_its_place(command, named, words):
    status, _, lines = command("gradvis-surface", "model.pt", "--objective", f"net.py:{named}")
    assert (status, len(lines)) == (1, 1)
    assert re.search(words, lines[0])


def test_a_program_without_a_verb_shows_its_verbs(command):
    status, out, lines = command("gradvis")
    assert (status, out, lines[0]) == (2, "", "Usage: gradvis [OPTIONS] COMMAND [ARGS]...")
    assert any(line.startswith("  surface") for line in lines)


def test_a_path_that_the_system_refuses_is_status_1_and_named(command):
    name = "x" * 300 + ".zarr"
    status, _, lines = command("gradvis-surface", "model.pt", *FEW, "--out", name)
    assert (status, len(lines)) == (1, 1)
    assert lines[0].endswith(f"{name}: File name too long; see that the path is right and may be read or written")


def test_other_code_of_the_same_loss_is_told_by_its_value(command, folder):
    arguments = ("model.pt", *FEW, "--out", "code.zarr", "--objective", "net.py:changing")
    assert command("gradvis-surface", *arguments)[0] == 0
    (folder / "net.py").write_text(NET.replace("FACTOR = 1\n", "FACTOR = 2\n"))
    try:
        status, _, lines = command("gradvis-surface", *arguments)
    finally:
        (folder / "net.py").write_text(NET)
        shutil.rmtree("code.zarr")
    assert (status, len(lines)) == (2, 1)
    assert "so the code of the loss or the model has changed; give another --out, or --fresh" in lines[0]


def test_a_span_that_begins_with_a_minus_is_a_value(command):
    status, _, lines = command("gradvis-surface", "model.pt", *FEW, "--span", "-1:2,-0.5:0.5", "--out", "minus.zarr")
    ends = [gradvis.open("minus.zarr").dataset[name].values[[0, -1]].tolist() for name in ("alpha", "beta")]
    shutil.rmtree("minus.zarr")
    assert (status, lines, ends) == (0, [], [[-1.0, 2.0], [-0.5, 0.5]])


def test_an_even_resolution_says_once_that_it_has_no_centre(command):
    words = ("--resolution", "4", "--plot", "none", "--threads", "1", "--out", "even.zarr")
    status, _, lines = command("gradvis-surface", "model.pt", *words)
    center = gradvis.open("even.zarr").center["loss"]
    shutil.rmtree("even.zarr")
    notes = [line for line in lines if line.startswith("gradvis-surface: note: ")]
    assert (status, len(notes)) == (0, 1)
    assert "= 0 (4 points from -1 to 1" in notes[0]
    assert "centre is stored in any case" in notes[0]
    assert center == pytest.approx(gradvis.open("done.zarr").center["loss"], rel=1e-6)


def test_a_loss_that_is_no_number_says_where_to_look(command):
    status, out, _ = command("gradvis-surface", "model.pt", *FEW, "--data", "not_a_number.npz", "--out", "nans.zarr")
    shutil.rmtree("nans.zarr")
    assert status == 0
    assert out.startswith(
        "loss at the centre nan\nthe loss at the centre is no number: look for NaN or inf in the data"
    )
    assert "9 points of 9 diverged" in out


def test_the_error_of_one_sample_is_left_out(command):
    _, out, _ = command("gradvis-surface", "model.pt", *FEW, "--samples", "1", "--out", "one.zarr")
    shutil.rmtree("one.zarr")
    assert re.match(r"loss at the centre \d\.\d+, lowest", out)


def test_a_process_of_its_own_says_the_same(folder):
    done = run(SURFACE, "wide.pt", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "Traceback" not in done.stderr


TOGETHER = [
    (2, ["cut.pt"], "cut.pt is not one, or it is damaged"),
    (2, ["model.pt", *FEW, "--out", "done.zarr", "--seed", "1"], "seed is 0 there and 1 here"),
    (2, ["model.pt", *FEW, "--objective", "net.py:probabilities"], "cross_entropy takes logits"),
    (1, ["model.pt", *FEW, "--objective", "net.py:unlucky"], "RuntimeError: no such luck"),
]


@pytest.mark.parametrize(("status", "arguments", "words"), TOGETHER, ids=["file", "result", "model", "code"])
def test_on_several_ranks_the_line_comes_once(folder, status, arguments, words):
    launcher = LAUNCHERS[len(words) % 2]
    done = mpirun(2, SURFACE, *arguments, cwd=folder, launcher=launcher, timeout=40)
    assert done.returncode == status, done.stderr
    assert done.stderr.count(words) == 1, done.stderr
    assert done.stderr.count("gradvis-surface: error: ") == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_a_note_is_said_once_whoever_changes_the_filters_meanwhile(capsys):
    def twice():
        for _ in range(2):
            note("a fact")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="0"):
        enter(click.Command("try", callback=twice), "try", [])
    signal.signal(signal.SIGTERM, handler)
    assert capsys.readouterr().err == "try: note: a fact\n"
