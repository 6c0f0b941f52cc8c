"""Networks that come as programs compute what their source computes, and are not loaded without trust."""

import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import gradvis
from gradvis.backends.pytorch import load_program, program_kind
from gradvis.notes import Note

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::gradvis.notes.Note"),
]
INPUTS = torch.randn(23, 1, 8, 8, generator=torch.Generator().manual_seed(1))
DATA = INPUTS, torch.arange(23) % 4


def net(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)), nn.Tanh(), nn.Flatten(), nn.Linear(108, 8),
        nn.Dropout(0.5), nn.Linear(8, 4),
    )  # fmt: skip
    model(torch.randn(50, 1, 8, 8))
    return model


def export(model, path, size, **options):
    torch.export.save(torch.export.export(model, (INPUTS[:size],), **options), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One network in every form."""
    place, model = tmp_path_factory.mktemp("programs"), net()
    training = torch.jit.script(model)
    training.save(str(place / "script.pt"))
    model.eval()
    torch.jit.trace(model, INPUTS[:2]).save(str(place / "trace.pt"))
    torch.jit.freeze(torch.jit.script(model)).save(str(place / "frozen.pt"))
    export(model, place / "four.pt2", 4)
    export(model, place / "one.pt2", 1)
    export(model, place / "some.pt2", 4, dynamic_shapes=({0: torch.export.Dim("b", min=2, max=9)},))
    export(model, place / "any.pt2", 4, dynamic_shapes=({0: torch.export.Dim("b", max=1 << 20)},))
    export(model.train(), place / "training.pt2", 4, dynamic_shapes=({0: torch.export.Dim("b", max=64)},))
    torch.save(model, place / "whole.pt")
    torch.save(model, place / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"model": model, "epoch": 3}, place / "within.pt")
    torch.save({"G": net(5), "D": model}, place / "several.pt")
    return place


PROGRAMS = ["script.pt", "trace.pt", "four.pt2", "one.pt2", "some.pt2", "any.pt2"]
PICKLES = ["whole.pt", "legacy.pt", "within.pt"]


def objective(model, **options):
    return gradvis.objective(model, DATA, "cross_entropy", metrics=["accuracy"], **options)


@pytest.mark.parametrize("name", [*PROGRAMS, *PICKLES])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_program_has_the_loss_gradient_and_curvature_of_its_source(folder, name, dtype):
    program, source = objective(load_program(folder / name, trust=True), dtype=dtype), objective(net(), dtype=dtype)
    close = {"rtol": 1e-4, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-14}
    assert [block.name for block in program.space] == [block.name for block in source.space]
    np.testing.assert_array_equal(program.parameters(), source.parameters())

    theta, vectors = source.parameters(), np.random.default_rng(0).normal(size=(2, source.space.d))
    plane, coords = gradvis.random_plane(source), np.array([[0.0, 0.0], [0.5, -1.0], [1.0, 0.3]])
    np.testing.assert_allclose(program.evaluate(plane, coords), source.evaluate(plane, coords), **close)
    np.testing.assert_allclose(program.gradient(theta), source.gradient(theta), **close)
    np.testing.assert_allclose(program.hvp(theta, vectors), source.hvp(theta, vectors), **close)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_takes_checkpoints_and_gives_the_same_bits_again(folder, name):
    program, other = objective(load_program(folder / name, trust=True)), net(7)
    before = program.measure(program.parameters())
    moved = program.at(other)
    expected = objective(other)
    values = moved.measure(moved.parameters())
    np.testing.assert_array_equal(moved.parameters(), expected.parameters())
    assert values == pytest.approx(expected.measure(expected.parameters()), rel=1e-5)  # with the buffers of the other
    assert abs(values["loss"] - before["loss"]) > 1e-3
    program.hvp(program.parameters(), program.parameters()[None])
    for _ in range(3):
        assert program.measure(program.parameters()) == before
        assert moved.measure(moved.parameters()) == values


def test_the_batches_of_an_export_are_cut_and_filled_to_its_size(folder):
    source = net().eval()
    for name in ("four.pt2", "some.pt2", "one.pt2"):
        program = load_program(folder / name, trust=True)
        for count in (1, 2, 4, 5, 23):
            torch.testing.assert_close(program(INPUTS[:count]), source(INPUTS[:count]))


def test_a_program_says_that_its_batch_norm_is_fixed(folder):
    with pytest.warns(Note, match=r"script.pt is a TorchScript program: its batch norm uses the stored statistics"):
        load_program(folder / "script.pt", trust=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        load_program(folder / "whole.pt", trust=True)


def test_a_key_chooses_among_pickled_modules(folder):
    for key, seed in (("G", 5), ("D", 0)):
        chosen = load_program(folder / "several.pt", trust=True, key=key)
        assert torch.equal(chosen[5].weight, net(seed)[5].weight)
    with pytest.raises(ValueError, match="holds a dict without one under E"):
        load_program(folder / "several.pt", trust=True, key="E")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("script.pt", "a TorchScript program"), ("trace.pt", "a TorchScript program"),
        ("frozen.pt", "a TorchScript program"), ("any.pt2", "a torch.export archive"),
        ("whole.pt", "a pickle that makes a torch.nn.modules.container.Sequential"),
        ("legacy.pt", "a pickle that makes a torch.nn.modules.container.Sequential"),
    ],
)  # fmt: skip
def test_nothing_is_loaded_without_trust(folder, monkeypatch, name, kind):
    for module, function in ((torch.jit, "load"), (torch.export, "load")):
        monkeypatch.setattr(module, function, lambda *_, **__: pytest.fail("loaded"))
    assert program_kind(folder / name) == kind
    with pytest.raises(ValueError, match=rf"loading \S*{name} can run code, for it is {kind}; .* give --trust"):
        load_program(folder / name, trust=False)
    with pytest.raises(ValueError, match=rf"{name} is {kind}; if you trust it, give --trust"):
        objective(net()).read(folder / name)


def test_tensors_and_damaged_files_are_no_programs(tmp_path):
    gradvis.save_checkpoint(tmp_path / "model.pt", net())
    (tmp_path / "noise.pt").write_bytes(b"noise")
    (tmp_path / "noise.pt2").write_bytes(b"PK\x03\x04noise")
    for name in ("model.pt", "noise.pt", "noise.pt2"):
        assert program_kind(tmp_path / name) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("frozen.pt", "holds none that can be moved .* save it before torch.jit.freeze"),
        (
            "training.pt2",
            r"exported in training mode \(batch_norm trains\) and has no .eval\(\); export model.eval\(\)",
        ),
    ],
)
def test_what_cannot_be_computed_with_is_one_line(folder, name, words):
    with pytest.raises(ValueError, match=words):
        load_program(folder / name, trust=True)


def test_a_pickle_without_a_network_and_one_without_its_class_say_so(tmp_path, monkeypatch):
    torch.save({"weights": torch.ones(2)}, tmp_path / "tensors.pt")
    with pytest.raises(ValueError, match="holds a dict without one; give --objective"):
        load_program(tmp_path / "tensors.pt", trust=True)
    (tmp_path / "elsewhere_net.py").write_text("from torch import nn\nclass Own(nn.Linear): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(__import__("elsewhere_net").Own(2, 2), tmp_path / "own.pt")
    monkeypatch.undo()
    del sys.modules["elsewhere_net"]
    with pytest.raises(
        ValueError, match=r"own.pt, a pickle, could not be loaded \(ModuleNotFoundError: .*elsewhere_net"
    ):
        load_program(tmp_path / "own.pt", trust=True)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert type(load_program("own.pt", trust=True)).__name__ == "Own"  # the command's folder is looked in
    assert sys.path == path
    del sys.modules["elsewhere_net"]
