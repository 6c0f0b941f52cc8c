"""From MODEL and options to an Objective: every way that the contract names, and every mistake on it."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gradvis
from gradvis.cli.arguments import typed
from gradvis.cli.find import ObjectiveError, find_objective

NET = """
import os
from pathlib import Path
from typing import Literal

import gradvis, torch
import neighbour

class Net(torch.nn.Sequential):
    def __init__(self, width=5):
        super().__init__(torch.nn.Linear(3, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 2))

def data(samples=20):
    inputs = torch.linspace(-1, 1, 3 * samples).reshape(samples, 3) ** 2
    return inputs, torch.arange(samples) % 2

SEEN = {}

def objective(samples: int = 20, **seen):
    SEEN.update(seen)
    return gradvis.objective(Net(), data(samples), "cross_entropy")

def strict(path: Path, mode: Literal["train", "test"] = "test", rate=0.5):
    return objective()

def wrong():
    return 42

def broken():
    return {}["absent"]

def refused():
    return gradvis.objective(Net(), data(), "cross_entropi")

def unreadable():
    raise ValueError("no\\nsuch file")

def ends():
    raise SystemExit(0)

def unoptioned():
    from gradvis.backends.analytic import Quadratic
    import numpy as np
    return Quadratic(np.eye(2))

number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "findnet.py").write_text(NET)
    (tmp_path / "neighbour.py").write_text("value = 1\n")
    monkeypatch.chdir(tmp_path)
    modules, path = dict(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        if name.partition(" ")[0] in {"findnet", "neighbour", "json", "package"} or name.startswith("package."):
            del sys.modules[name]


pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::gradvis.notes.Note"),
]


def net(seed=1, width=5):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))
    model(torch.randn(20, 3))
    return model


def data(samples=20):
    return torch.linspace(-1, 1, 3 * samples).reshape(samples, 3) ** 2, torch.arange(samples) % 2


def assert_is(objective, model, samples=20):
    expected = gradvis.objective(model, data(samples), "cross_entropy")
    np.testing.assert_array_equal(objective.parameters(), expected.parameters())
    assert objective.measure(objective.parameters()) == expected.measure(expected.parameters())


def find(model="model.pt", named="findnet.py:objective", arguments=None, options=None, **more):
    return find_objective(model, named, arguments or {}, options or {}, **more)


@pytest.fixture
def saved(folder):
    gradvis.save_checkpoint("model.pt", net(), objective="findnet.py:objective")
    return folder


# ------------------------------------------------------------------------------------------------ the four ways


def test_a_named_function_makes_the_objective_at_the_checkpoint(saved):
    made, source = find()
    assert source == "findnet.py:objective"
    assert_is(made, net())
    assert_is(find(str(saved / "model.pt"), str(saved / "findnet.py") + ":objective")[0], net())


def test_a_module_of_the_current_folder_can_be_named(saved):
    (saved / "package").mkdir()
    (saved / "package" / "__init__.py").touch()
    (saved / "package" / "inner.py").write_text("from findnet import objective\n")
    assert_is(find(named="package.inner:objective")[0], net())


def test_the_checkpoint_names_its_objective(saved):
    made, source = find(named=None)
    assert source == "findnet.py:objective"
    assert_is(made, net())


def test_a_key_chooses_the_state_and_a_prefix_is_one(folder):
    torch.save({"model": net(1).state_dict(), "model_ema": net(2).state_dict()}, "both.pt")
    assert_is(find("both.pt", key="model_ema")[0], net(2))
    assert_is(find("both.pt", key="model")[0], net(1))


def test_a_program_brings_its_network_and_options_bring_the_rest(folder):
    torch.save(net(), "whole.pt")
    made, source = find("whole.pt", None, options={"data": data(), "loss": "cross_entropy"}, trust=True)
    assert source == "whole.pt"
    assert_is(made, net())
    torch.jit.script(net()).save("script.pt")
    made, _ = find("script.pt", None, options={"data": data(), "loss": "cross_entropy"}, trust=True)
    assert made.measure(made.parameters()) == pytest.approx(
        gradvis.objective(net(), data(), "cross_entropy").measure(made.parameters()), rel=1e-6
    )


def test_a_program_gives_its_tensors_to_a_named_objective(folder):
    torch.save({"model": net(), "args": Path}, "whole.pt")
    assert_is(find("whole.pt", trust=True)[0], net())
    torch.jit.script(net()).save("script.pt")
    assert_is(find("script.pt", trust=True)[0], net())
    torch.save({"G": net(3), "D": net(4)}, "pair.pt")
    assert_is(find("pair.pt", key="D", trust=True)[0], net(4))


@pytest.mark.parametrize("named", [None, "findnet.py:objective"])
def test_a_program_without_trust_is_refused_and_not_run(folder, named):
    torch.save(net(), "whole.pt")
    with pytest.raises(
        ValueError, match=r"whole.pt .*is a pickle that makes a torch.nn.*; if you trust it, give --trust"
    ):
        find("whole.pt", named)


def test_a_program_without_data_or_loss_says_which(folder):
    torch.save(net(), "whole.pt")
    for options, words in (({}, "--data FILE and --loss NAME"), ({"loss": "mse"}, "--data FILE, or --objective")):
        with pytest.raises(ValueError, match=rf"has neither data nor loss; give {words}"):
            find("whole.pt", None, options=options, trust=True)


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("absent.py:objective", "the objective's file absent.py is not there; run the command from its folder"),
        ("findnet.py:objectiv", "must have a function objectiv, but it has none; did you mean objective?"),
        ("findnet.py:zzz", "must have a function zzz, but it has none; name one that returns"),
        ("findnet.py:number", "must have a function number, but that is a int"),
        ("findnet.py", "named as FILE.py:NAME or package.module:NAME, but 'findnet.py' came"),
        ("findnet.py:", "named as FILE.py:NAME"),
        ("findnet.py:wrong", "findnet.py:wrong must return an Objective, .* but it returned a int"),
        ("findnet.py:refused", "cross_entropi"),
        ("no_such_package.inner:f", "module no_such_package.inner cannot be imported"),
    ],
)
def test_a_wrong_name_is_one_line_of_status_2(saved, named, words):
    with pytest.raises(ValueError, match=words):
        find(named=named)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("findnet.py:broken", r"^findnet.py:broken raised KeyError: 'absent', at findnet.py:{line}$"),
        ("findnet.py:unreadable", r"^findnet.py:unreadable raised ValueError: no such file, at findnet.py:{line}$"),
        ("findnet.py:ends", r"^findnet.py:ends raised SystemExit: 0, at findnet.py:{line}$"),
    ],
)
def test_what_the_users_function_raises_is_told_with_its_place(saved, named, words):
    lines = NET.splitlines()
    line = lines.index(f"def {named.partition(':')[2]}():") + 2
    with pytest.raises(ObjectiveError, match=words.format(line=line)):
        find(named=named)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\ndef f(:\n", r"^bad.py raised SyntaxError: .*, at bad.py:2$"),
        (
            "\nimport no_such_thing\n",
            r"^bad.py raised ModuleNotFoundError: No module named 'no_such_thing', at bad.py:2$",
        ),
        ("import torch\ntorch.ones(2) @ torch.ones(3)\n", r"^bad.py raised RuntimeError: .*, at bad.py:2$"),
        ("import json\njson.loads('x')\n", r"^bad.py raised JSONDecodeError: .*, at bad.py:2$"),
        ("import sys\nsys.exit()\n", r"^bad.py raised SystemExit: no message, at bad.py:2$"),
        ("import neighbour\nneighbour.absent\n", r"^bad.py raised AttributeError: .*, at bad.py:2$"),
    ],
)
def test_a_file_that_cannot_be_run_is_told_with_its_place(saved, source, words):
    (saved / "bad.py").write_text(source)
    with pytest.raises(ObjectiveError, match=words):
        find(named="bad.py:objective")
    assert "bad" not in sys.modules


def test_a_module_whose_import_fails_inside_is_no_missing_module(saved):
    (saved / "package").mkdir()
    (saved / "package" / "__init__.py").write_text("import no_such_thing\n")
    with pytest.raises(ObjectiveError, match=r"No module named 'no_such_thing', at package/__init__.py:1"):
        find(named="package:objective")


def test_options_that_nothing_takes_are_named(saved):
    with pytest.raises(
        ValueError, match="--loss, --micro-batch can be given only where findnet.py:wrong calls|must return"
    ):
        find(named="findnet.py:wrong", options={"loss": "mse", "micro_batch": 3})
    gradvis.save_checkpoint("model.pt", net())
    with pytest.raises(ValueError, match="model.pt names no objective; give --objective FILE.py:NAME"):
        find(named=None)


def test_keras_files_and_what_is_not_there_say_what_to_do(saved):
    for name in ("net.keras", "net.weights.h5"):
        (saved / name).write_bytes(b"x")
        with pytest.raises(ValueError, match=f"a Keras file was wanted, but .*{name} is none, or it is damaged"):
            find(name, None)
    with pytest.raises(ValueError, match="there is no file gone.pt; give the path of one"):
        find("gone.pt")


def test_a_key_where_there_is_none_to_choose_is_refused(saved):
    with pytest.raises(ValueError, match="--key chooses a state in a PyTorch checkpoint"):
        find(named="findnet.py:unoptioned", key="model")


# ------------------------------------------------------------------------------------------------ modules


def test_a_file_called_as_another_module_takes_nobodys_place(saved):
    import json

    for name in ("json", "statistics", "torch"):
        (saved / f"{name}.py").write_text(f"import torch, json\nassert json.loads('3') == 3\n{NET}")
        before = sys.modules.get(name)
        assert_is(find(named=f"{name}.py:objective")[0], net())
        assert sys.modules.get(name) is before
    assert json is sys.modules["json"]


def test_neighbours_share_the_module_of_the_file_and_come_last_afterwards(saved):
    (saved / "neighbour.py").write_text("def net():\n    import findnet\n    return findnet\n")
    find()
    import findnet
    import neighbour

    assert neighbour.net() is findnet
    assert sys.path[-1] == str(saved)
    assert str(saved) not in sys.path[:-1]


def test_two_files_of_one_name_are_two_modules(saved):
    other = saved / "other"
    other.mkdir()
    (other / "findnet.py").write_text(NET.replace("samples: int = 20", "samples: int = 8"))
    (other / "neighbour.py").touch()
    assert_is(find()[0], net(), 20)
    assert_is(find(named="other/findnet.py:objective")[0], net(), 8)
    assert_is(find()[0], net(), 20)


# ------------------------------------------------------------------------------------------------ arguments


def test_arguments_come_as_the_function_says(saved):
    made, _ = find(arguments={"samples": "8", "note": "plain text", "sizes": "[1, 2]", "on": "true"})
    assert_is(made, net(), 8)
    assert sys.modules["findnet"].SEEN == {"note": "plain text", "sizes": [1, 2], "on": True}


GIVEN = {"whole": "1", "real": "2", "flag": "no", "text": "3", "place": "a/b", "maybe": "none", "among": "x"}
TYPED = {"whole": 1, "real": 2.0, "flag": False, "text": "3", "place": Path("a/b"), "maybe": None, "among": "x"}


def test_texts_become_what_annotations_and_defaults_say():
    def annotated(whole: int, real: float, flag: bool, text: str, place: Path, maybe: int | None, among, default=3,
                  ratio=0.5, off=False, word="x", items=(1, 2), unknown=None, either: int | str = 0): ...  # fmt: skip

    more = {
        "default": "4",
        "ratio": "1",
        "off": "True",
        "word": "7",
        "items": "[3]",
        "unknown": '{"a": 1}',
        "either": "z",
    }
    wanted = {"default": 4, "ratio": 1.0, "off": True, "word": "7", "items": [3], "unknown": {"a": 1}, "either": "z"}
    found = typed("f.py:f", annotated, GIVEN | more)
    assert found == TYPED | wanted
    assert [type(value) for value in found.values()] == [type(value) for value in (TYPED | wanted).values()]
    assert typed("f.py:f", annotated, GIVEN | {"maybe": "5", "either": "5"})["maybe"] == 5


def test_annotations_that_cannot_be_looked_up_are_taken_by_their_names():
    """`if TYPE_CHECKING:` imports what one of them needs."""
    scope = {}
    code = "from __future__ import annotations\ndef f(data: Elsewhere, text: str, on: bool, where: Path): ..."
    exec(code, scope)
    found = typed("f.py:f", scope["f"], {"data": "[1]", "text": "3", "on": "no", "where": "a"})
    assert found == {"data": [1], "text": "3", "on": False, "where": Path("a")}


@pytest.mark.parametrize(
    ("named", "arguments", "words"),
    [
        ("objective", {"samples": "many"}, "--objective-arg samples takes int, but 'many' came"),
        ("strict", {"path": "a", "mode": "tset"}, r"mode takes Literal\['train', 'test'\], but 'tset' came"),
        ("strict", {"path": "a", "rate": "x"}, "rate takes float, but 'x' came"),
        ("strict", {}, r"findnet.py:strict takes path: .*Path, mode: .* but missing a required argument: 'path'"),
        ("strict", {"path": "a", "pth": "b"}, "takes path: .* but got an unexpected keyword argument 'pth'"),
        ("wrong", {"a": "1"}, "findnet.py:wrong takes no arguments, but got an unexpected keyword argument 'a'"),
    ],
)
def test_wrong_arguments_name_what_the_function_takes(saved, named, arguments, words):
    with pytest.raises(ValueError, match=words):
        find(named=f"findnet.py:{named}", arguments=arguments)
