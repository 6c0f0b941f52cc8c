"""Data files: the same numbers whatever kind they are of, kept or mapped, and one line for what is no data."""

import ctypes
import os
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import gradvis
from gradvis.backends.pytorch import files as torch_files
from gradvis.backends.tf import files as keras_files
from gradvis.notes import Note
from tests.contract.data_forms import KINDS, PAIR, SAMPLES, X, Y, end_to_end, forget_room

READ = {"torch": torch_files.read_data, "keras": keras_files.read_data}


@pytest.fixture(params=KINDS)
def name(request):
    return request.param


@pytest.fixture
def kind(name):
    return KINDS[name]


def written(folder, name, inputs=X, targets=Y, foreign=True):
    """A file of each kind that a framework reads, without compression."""
    np.savez(folder / "stored.npz", inputs=inputs, targets=targets)
    if foreign:
        by_column = np.asfortranarray(inputs.astype(">f8"))
        np.savez(folder / "foreign.npz", inputs=by_column, targets=targets.astype(">i2"))
    save_file({"inputs": inputs, "targets": targets}, folder / "data.safetensors", {"made": "today"})
    if name == "torch":
        torch.save({"inputs": torch.tensor(inputs), "targets": torch.tensor(targets)}, folder / "data.pt")
    return sorted(folder.iterdir())


def samples_of(kind, batches, micro=None):
    return end_to_end([batch for _, batch in kind.numbered(batches, micro)])


@pytest.mark.parametrize("room", [64 << 20, 100, 0])
def test_a_data_file_of_every_kind_holds_the_same_numbers_kept_or_mapped(name, kind, tmp_path, monkeypatch, room):
    forget_room(monkeypatch, room)
    digest = kind.told(kind.open(PAIR))[0]
    for path in written(tmp_path, name):
        batches = kind.open(str(path), batch_size=8)
        assert (batches.kept is None) == (room < 1000)
        for micro in (None, 5):
            for found, wanted in zip(samples_of(kind, batches, micro), PAIR, strict=True):
                np.testing.assert_array_equal(found, wanted)
        assert kind.told(batches)[1] == [8, 8, 5]
        assert batches.about() == {"samples": SAMPLES}
        assert path.name == "foreign.npz" or kind.told(batches)[0] == digest  # its targets are of another kind


def network(name):
    """One dense layer of known weights."""
    kernel = np.random.default_rng(1).normal(size=(6, 4)).astype("float32")
    if name == "torch":
        model = torch.nn.Linear(6, 4, bias=False)
        model.weight.data = torch.tensor(kernel.T.copy())
        return model, kernel
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, use_bias=False)])
    model.set_weights([kernel])
    return model, kernel


def test_loss_and_gradient_on_a_mapped_file_are_those_of_the_arrays(name, tmp_path, monkeypatch):
    forget_room(monkeypatch, 100)
    model, kernel = network(name)
    logits = X.astype(float) @ kernel
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slope = X.T.astype(float) @ (chances - np.eye(4)[Y]) / SAMPLES
    np.savez(tmp_path / "data.npz", inputs=X, targets=Y)
    mapped = gradvis.objective(model, str(tmp_path / "data.npz"), "cross_entropy", micro_batch=5)
    theta = mapped.parameters()
    assert mapped.streamed
    assert mapped.measure(theta)["loss"] == pytest.approx(-np.log(chances[range(SAMPLES), Y]).mean(), rel=1e-6)
    wanted = slope.T if name == "torch" else slope
    np.testing.assert_allclose(mapped.gradient(theta).reshape(wanted.shape), wanted, atol=1e-6)
    assert mapped.fingerprint()["data"] == KINDS[name].told(KINDS[name].open(PAIR))[0]


def test_writing_to_what_came_from_a_file_never_reaches_it(name, tmp_path):
    for path in written(tmp_path, name):
        before = path.read_bytes()
        (inputs, targets), mapped = READ[name](path)
        assert mapped
        inputs[:] = 7
        targets[:] = 1
        assert path.read_bytes() == before


def own_megabytes():
    """Memory of this process that it shares with no file, without what it has no use for."""
    ctypes.CDLL(None).malloc_trim(0)
    rows = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return int(rows["Anonymous"].split()[0]) >> 10


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="only Linux tells what memory is shared")
def test_a_file_larger_than_the_room_takes_no_memory_of_its_own(name, kind, tmp_path, monkeypatch):
    megabytes, most = 32, 0
    inputs, targets = np.ones((megabytes, 1 << 18), "float32"), np.zeros(megabytes, "float32")
    forget_room(monkeypatch, 4 << 20)
    for path in written(tmp_path, name, inputs, targets, foreign=False):
        before = own_megabytes()
        for _, batch in kind.each(kind.open(path, 1 << 40, 4)):
            assert float(batch[0][0, 0]) == 1
            most = max(most, own_megabytes() - before)
    assert most < megabytes / 2


def test_a_compressed_file_is_read_whole_and_says_so_once(kind, tmp_path):
    np.savez_compressed(tmp_path / "data.npz", inputs=X, targets=Y)
    with pytest.warns(Note, match=r"^data.npz is compressed, so each rank reads a copy of its own; numpy.sav") as said:
        batches = kind.open(tmp_path / "data.npz")
    assert len(said) == 1
    for found, wanted in zip(samples_of(kind, batches), PAIR, strict=True):
        np.testing.assert_array_equal(found, wanted)


# ---------------------------------------------------------------------------------------------- no data


def wrong_files(folder):
    np.savez(folder / "names.npz", x_train=X, targets=Y)
    np.savez(folder / "objects.npz", inputs=np.array([{}, {}], object), targets=Y[:2])
    np.savez(folder / "lengths.npz", inputs=X, targets=Y[:4])
    np.savez(folder / "empty.npz", inputs=X[:0], targets=Y[:0])
    np.savez(folder / "single.npz", inputs=np.float32(1), targets=np.float32(1))
    save_file({"inputs": X}, folder / "names.safetensors")
    save_file({"inputs": X, "targets": Y}, folder / "cut.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "cut.safetensors").read_bytes()[:-8])
    (folder / "random.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{not json at all")
    (folder / "text.npz").write_text("1,2")
    (folder / "table.csv").write_text("1,2")
    (folder / "folder.npz").mkdir()


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("none.npz", "a data file was wanted, but .*none.npz is not there$"),
        ("folder.npz", "is a folder$"),
        ("table.csv", "a data file ends in .npz, .safetensors, .pt, but '.*table.csv' came"),
        ("names.npz", "names.npz has no inputs, but targets, x_train; save both under these names"),
        ("names.safetensors", "has no targets, but inputs; save both"),
        ("objects.npz", "holds Python objects under inputs; save numbers"),
        ("lengths.npz", "inputs and targets of one length, at least 1, were wanted, but 21 and 4 came"),
        ("empty.npz", "at least 1, were wanted, but 0 and 0 came"),
        ("single.npz", "at least 1, were wanted, but 0 and 0 came"),
        ("text.npz", r"a .npz file with inputs and targets was wanted, but .*text.npz cannot be read \(File is not a"),
        ("cut.safetensors", "cannot be read .*; it may be cut short or damaged"),
        ("random.safetensors", "cannot be read .*; it may be cut short or damaged"),
    ],
)
def test_a_file_without_data_is_refused_in_one_line(kind, tmp_path, file, words):
    wrong_files(tmp_path)
    with pytest.raises(ValueError, match=words) as error:
        kind.open(tmp_path / file)
    assert "\n" not in str(error.value)


def read_or_refuse(kind, path):
    """Whatever is in it: numbers, or one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            batches = kind.open(path)
            kind.told(batches)
        except ValueError as error:
            return str(error)
        return batches


def test_a_damaged_file_is_read_or_refused(name, kind, tmp_path):
    written(tmp_path, name)
    np.savez_compressed(tmp_path / "compressed.npz", inputs=X, targets=Y)
    draw, trial = np.random.default_rng(1), tmp_path / "trials"
    trial.mkdir()
    for path in (tmp_path / each for each in ("stored.npz", "compressed.npz", "data.safetensors", "data.pt")):
        for number in range(60 if path.exists() else 0):
            content, cut_short = bytearray(path.read_bytes()), number % 2 == 1
            if cut_short:
                del content[draw.integers(len(content)) :]
            for at in [] if cut_short else draw.integers(0, min(600, len(content)), 3):
                content[at] ^= draw.integers(1, 256)
            (trial / f"{number}-{path.name}").write_bytes(content)
            found = read_or_refuse(kind, trial / f"{number}-{path.name}")
            assert "\n" not in found if isinstance(found, str) else not cut_short


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_random_bytes_are_no_data(kind, tmp_path, suffix):
    draw = np.random.default_rng(2)
    for number, head in enumerate([b"", b"PK\x03\x04", b"\x80\x02", b"\x08" + bytes(7)] * 8):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(head + draw.bytes(draw.integers(0, 200)))
        found = read_or_refuse(kind, path)
        assert isinstance(found, str)
        assert "\n" not in found
