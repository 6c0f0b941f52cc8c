"""Files of torch in every form: the tensors come out as they went in, and nothing of a file runs."""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import re
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import gradvis
from gradvis.backends.pytorch import objective_name
from gradvis.backends.pytorch.checkpoints import fitting
from gradvis.notes import Note
from tests.torch_states import COMPANIONS, assert_gives, net


@pytest.fixture
def trained():
    return net(seed=1)


@pytest.fixture
def state(trained):
    return trained.state_dict()


@pytest.fixture(autouse=True)
def notes_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        yield


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".tar", ""])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_torch_gives_its_tensors(state, tmp_path, suffix, zipped):
    path = tmp_path / f"model{suffix}"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert_gives(path, state)
    assert_gives(str(path), state)
    assert objective_name(path) is None


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("by", ["folder", "index"])
def test_shards_are_put_together(state, tmp_path, kind, by):
    files = {name: f"part-{number % 2}.{kind}" for number, name in enumerate(state)}
    for file in set(files.values()):
        part = {name: value for name, value in state.items() if files[name] == file}
        (save_file if kind == "safetensors" else torch.save)(part, tmp_path / file)
    stem = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    index = tmp_path / f"{stem}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))
    assert_gives(index if by == "index" else tmp_path, state)
    assert objective_name(tmp_path) is None


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"0.weight": "gone.safetensors"}, "names the shard 'gone.safetensors', but no such file lies beside it"),
        ({"0.weight": "../part.safetensors"}, "names the shard '../part.safetensors'"),
        ({"other": "part.safetensors"}, "places other in part.safetensors, but it is not there"),
        ({"0.weight": 3}, "an index with a weight_map"),
        ([], "an index with a weight_map"),
        ({}, "holds none"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(state, tmp_path, weight_map, words):
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        save_file(state, folder / "part.safetensors")
    index = tmp_path / "sub" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=re.escape(words)):
        fitting(net(), index)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "epoch=3.ckpt", "weights.pt"])
def test_a_folder_with_one_checkpoint_is_that_checkpoint(state, tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    assert_gives(tmp_path, state)


def test_a_trainers_folder_is_its_model_and_not_its_optimizer(state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    torch.save({"state": {}}, tmp_path / "optimizer.pt")
    assert_gives(tmp_path, state)


def test_a_folder_names_its_objective_too(trained, tmp_path):
    gradvis.save_checkpoint(tmp_path / "only.pt", trained, objective="net.py:objective")
    assert objective_name(tmp_path) == "net.py:objective"


def test_a_folder_without_a_checkpoint_says_what_was_looked_for(state, tmp_path):
    with pytest.raises(ValueError, match=r"model.safetensors, .* or a single .pt, .*, but there is none of these"):
        fitting(net(), tmp_path)
    for name in ("a.pt", "b.pt"):
        torch.save(state, tmp_path / name)
    with pytest.raises(ValueError, match=r"there is 2 \(a.pt, b.pt\); give one file"):
        fitting(net(), tmp_path)


@pytest.mark.parametrize("given", [".", "__0_0.distcp"])
def test_a_distributed_checkpoint_says_how_it_is_converted(state, tmp_path, given):
    import torch.distributed.checkpoint as dcp

    folder = tmp_path / "step"
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    with pytest.raises(ValueError, match=r"dcp_to_torch \S*step step.pt$"):
        fitting(net(), folder / given)
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(folder, tmp_path / "step.pt")  # what the line says works
    assert_gives(tmp_path / "step.pt", state)


@pytest.mark.parametrize("name", COMPANIONS)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_harmless_companion_does_not_keep_the_tensors_from_loading(state, tmp_path, name, zipped):
    content = {"state_dict": state, "with": COMPANIONS[name]}
    torch.save(content, tmp_path / "model.ckpt", _use_new_zipfile_serialization=zipped)
    assert_gives(tmp_path / "model.ckpt", state)


@pytest.mark.parametrize("old", ["pathlib", "pathlib._local"])
def test_paths_and_arrays_of_other_versions_and_systems_load(state, tmp_path, old):
    torch.save({"state_dict": state, "array": np.ones(3), "path": pathlib.PurePosixPath("a")}, tmp_path / "model.pt")
    raw = tmp_path / "raw.pt"
    torch.save(
        {"state_dict": state, "array": np.ones(3), "path": pathlib.PurePosixPath("a")},
        raw,
        _use_new_zipfile_serialization=False,
    )
    content = raw.read_bytes()
    assert b"cpathlib\nPurePosixPath\n" in content
    content = content.replace(b"cpathlib\nPurePosixPath\n", f"c{old}\nWindowsPath\n".encode())
    raw.write_bytes(content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert_gives(raw, state)


def test_the_users_own_list_of_safe_classes_is_as_found(state, tmp_path):
    torch.save({"state_dict": state, "with": argparse.Namespace(a=1)}, tmp_path / "model.pt")
    with torch.serialization.safe_globals([argparse.Namespace, random.Random]):
        before = list(torch.serialization.get_safe_globals())
        fitting(net(), tmp_path / "model.pt")
        after = torch.serialization.get_safe_globals()
        assert sorted(map(str, after)) == sorted(map(str, before))


class Evil:
    ran = False

    def __reduce__(self):
        return (setattr, (Evil, "ran", True))


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_of_a_pickle_runs(state, tmp_path, zipped):
    torch.save({"state_dict": state, "with": Evil()}, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"is a pickle that makes a \S*setattr; if you trust it, give --trust"):
        fitting(net(), tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="give --trust"):
        objective_name(tmp_path / "evil.pt")
    assert not Evil.ran
