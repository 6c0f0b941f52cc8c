"""Checkpoints of torch models in every form: the tensors come out as they went in, or one line says why not."""

import argparse
import collections
import datetime
import json
import pathlib
import random
import re
import tempfile
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import gradvis
from gradvis.backends.pytorch import Checkpoint, objective_name
from gradvis.backends.pytorch.checkpoints import fitting, read_tensors
from gradvis.notes import Note


def net(seed=0, width=5):
    """With batch norm, whose statistics are not those of a new one."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 4))
    model(torch.randn(20, 6))
    return model


class Tied(nn.Module):
    """One weight under two names, and a mask that no state_dict has."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.full((3,), -torch.inf), persistent=False)


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


def assert_gives(checkpoint, state, model=None):
    """Every parameter and buffer bit for bit, and the model as it was."""
    model = model or net(seed=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = fitting(model, checkpoint)
    assert found.keys() == {**dict(model.named_parameters()), **dict(model.named_buffers())}.keys()
    for name, value in found.items():
        expected = state.get(name, model.state_dict(keep_vars=True).get(name))
        if expected is not None:
            assert value.dtype == expected.dtype, name
            assert torch.equal(value, expected), name
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".tar", ""])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_of_torch_gives_its_tensors(state, tmp_path, suffix, zipped):
    path = tmp_path / f"model{suffix}"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert_gives(path, state)
    assert_gives(str(path), state)
    assert objective_name(path) is None


def test_a_path_of_any_kind_is_read(state, tmp_path):
    class Place:
        def __fspath__(self):
            return str(tmp_path / "model.safetensors")

    save_file(state, tmp_path / "model.safetensors")
    assert_gives(Place(), state)
    assert objective_name(Place()) is None


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


# ------------------------------------------------------------------------------------------------ companions

COMPANIONS = {
    "namespace": argparse.Namespace(lr=0.1, path=pathlib.Path("data")),
    "numpy scalar": np.float64(0.25),
    "numpy integer": np.int32(3),
    "numpy array": np.arange(6.0).reshape(2, 3),
    "numpy texts": np.array(["a", "bc"]),
    "numpy dtype": np.dtype("float32"),
    "random state": np.random.RandomState(0).get_state(),
    "path": pathlib.Path("runs") / "a",
    "windows path": pathlib.PureWindowsPath("c:/runs"),
    "ordered": collections.OrderedDict(a=1),
    "counter": collections.Counter("aab"),
    "default": collections.defaultdict(list, a=[1]),
    "plain": {"a": [1, 2.0, (None, True, "x", b"y", {1})], 2: 3},
    "date": datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
    "torch": {"dtype": torch.bfloat16, "size": torch.Size([1]), "device": torch.device("cpu")},
}


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


# ------------------------------------------------------------------------------------------------ keys and prefixes


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        lambda state: {"training": {"net": {"weights": state}}, "lr": 0.1},
        lambda state: {"state": {"model": state, "optim": {"0.weight": {"exp_avg": torch.ones(5, 6)}}}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
        lambda state: {name.replace(".", "._orig_mod.", 1): value for name, value in state.items()},
        lambda state: {f"_fsdp_wrapped_module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
        lambda state: {"state_dict": {f"net.backbone.{name}": value for name, value in state.items()}},
        lambda state: {"state_dict": {f"model.module.{name}": value for name, value in state.items()}},
    ],
)
def test_a_state_is_found_under_any_key_and_prefix(state, tmp_path, wrap):
    torch.save(wrap(state), tmp_path / "model.ckpt")
    assert_gives(tmp_path / "model.ckpt", state)
    assert_gives(wrap(state), state)


def test_a_wrapped_model_takes_a_bare_state_and_one_named_module_its_own(state):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = net(seed=3)

    expected = {f"module.{name}": value for name, value in state.items()}
    assert_gives(state, expected, Outer())
    assert_gives(expected, expected, Outer())


def test_a_module_is_a_checkpoint(trained, state):
    assert_gives(trained, state)
    assert_gives({"model": trained}, state)


def test_the_average_of_a_swa_model_is_read(trained, state):
    average = torch.optim.swa_utils.AveragedModel(trained)
    with pytest.warns(Note, match=r"1 tensors of the checkpoint are not in the model .*n_averaged"):
        assert_gives(average.state_dict(), state)


@pytest.mark.parametrize(
    ("key", "which"),
    [("model", 1), ("model_ema", 2), ("training.G", 3), ("G", 3), ("D", 4), ("training", None), ("teacher", 5)],
)
def test_a_key_chooses_among_several_states(tmp_path, key, which):
    states = {seed: net(seed).state_dict() for seed in range(1, 7)}
    named = {
        f"{name}.{key}": value for name, at in (("teacher", 5), ("student", 6)) for key, value in states[at].items()
    }
    content = {"model": states[1], "model_ema": states[2], "training": {"G": states[3], "D": states[4]}, "pair": named}
    torch.save(content, tmp_path / "all.pt")
    chosen = Checkpoint(tmp_path / "all.pt", key)
    if which is None:
        with pytest.raises(ValueError, match=r"several states .* \(training.G, training.D\); give one as key"):
            fitting(net(), chosen)
    else:
        assert_gives(chosen, states[which])
        one = read_tensors(tmp_path / "all.pt", key)
        assert all(torch.equal(one[name], value) for name, value in states[which].items())


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict", "model"])
def test_of_several_the_customary_one_is_read_and_said(state, name):
    content = {"ema": net(9).state_dict(), name: state}
    with pytest.warns(Note, match=rf"2 states of the checkpoint fit the model \(ema, {name}\): {name} is read"):
        assert_gives(content, state)


def test_several_states_without_a_customary_name_need_a_key(state):
    with pytest.raises(ValueError, match=r"several states of the checkpoint fit the model \(G, D\); give one as key"):
        fitting(net(), {"G": state, "D": net(7).state_dict()})
    two = {f"{name}.{key}": value for name in ("G", "D") for key, value in state.items()}
    with pytest.raises(ValueError, match=r"names fit under several prefixes \(D, G\), give one as key"):
        fitting(net(), {"state_dict": two})


def test_only_the_state_that_fits_counts(state):
    assert_gives({"G": state, "D": net(width=9).state_dict()}, state)
    small = {f"student.{key}": value for key, value in state.items()}
    large = {f"teacher.{key}": value for key, value in net(width=9).state_dict().items()}
    with pytest.warns(Note, match=r"9 tensors .*teacher"):
        assert_gives({**large, **small}, state)


def test_an_unknown_key_names_the_nearest(state):
    with pytest.raises(ValueError, match=r"a state model_emma was wanted, .* did you mean model_ema"):
        fitting(net(), Checkpoint({"model": state, "model_ema": state}, "model_emma"))


# ------------------------------------------------------------------------------------------------ what does not fit


def test_another_architecture_says_which_names_miss_are_left_over_and_differ(state):
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(8), nn.Linear(5, 4))
    words = r"2 missing \(2.weight, 2.bias\); 2 left over \(3.weight, 3.bias\); 1.weight is \(5,\), not \(8,\)"
    with pytest.raises(ValueError, match=f"^the checkpoint does not fit the model: {words}; .*; give the objective of"):
        fitting(model, state)


def test_what_the_model_does_not_have_is_said_once(state):
    more = {**state, "4.weight": torch.ones(2), "4.bias": torch.ones(2)}
    with pytest.warns(Note, match=r"^2 tensors of the checkpoint are not .* \(4.weight, 4.bias\)$") as told:
        assert_gives(more, state)
    assert len(told) == 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_are_named(state, bad):
    state = {name: value.clone() for name, value in state.items()}
    state["1.bias"][2] = state["3.weight"][0, 0] = bad
    with pytest.raises(ValueError, match=r"finite weights .* 1.bias holds NaN or inf \(2 of 9 tensors do\)"):
        fitting(net(), state)


def test_a_mask_may_be_infinite_but_a_statistic_not_nan(state):
    state = {name: value.clone() for name, value in state.items()}
    state["1.running_var"][0] = torch.inf
    assert_gives(state, state)
    state["1.running_var"][0] = torch.nan
    with pytest.raises(ValueError, match="1.running_var holds NaN"):
        fitting(net(), state)


def test_quantised_weights_are_no_weights(state):
    state = {**state, "3.weight": state["3.weight"].to(torch.int8)}
    with pytest.raises(ValueError, match=r"3.weight is int8, not float32"):
        fitting(net(), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
def test_a_state_of_another_precision_is_read(state, dtype):
    low = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    found = fitting(net(), low)
    assert all(torch.equal(found[name].float(), value.float()) for name, value in low.items())
    if dtype.itemsize > 1:
        objective = gradvis.objective(net(), (torch.randn(8, 6), torch.arange(8) % 4), "cross_entropy")
        expected = torch.cat([low[block.name].float().flatten() for block in objective.space]).numpy()
        np.testing.assert_array_equal(objective.read(low), expected)


@pytest.mark.parametrize("kept", ["embed.weight", "head.weight", "both"])
def test_of_tied_weights_one_name_is_enough(kept):
    trained, model = Tied(), Tied()
    stored = {name: value for name, value in trained.state_dict().items() if kept in {name, "both"}}
    assert_gives(stored, trained.state_dict(), model)
    assert torch.equal(fitting(model, stored)["mask"], model.mask)


def test_tied_weights_that_differ_are_refused():
    stored = {name: value.clone() for name, value in Tied().state_dict().items()}
    stored["head.weight"][0] += 1
    with pytest.raises(ValueError, match="embed.weight and head.weight are one tensor in the model, but two in the"):
        fitting(Tied(), stored)


# ------------------------------------------------------------------------------------------------ saving


def test_what_is_saved_comes_back_with_the_name_of_its_objective(trained, tmp_path):
    path = tmp_path / "model.pt"
    gradvis.save_checkpoint(path, trained.bfloat16(), objective="net.py:objective", step=3, lr=0.1, note="x")
    assert_gives(path, trained.state_dict())
    assert trained.state_dict()["0.weight"].dtype == torch.bfloat16
    assert objective_name(path) == "net.py:objective"
    content = torch.load(path, weights_only=True)
    assert (content["step"], content["lr"], content["note"]) == (3, 0.1, "x")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_tied_weights_are_stored_once(tmp_path):
    gradvis.save_checkpoint(tmp_path / "model.pt", Tied())
    one, two = torch.load(tmp_path / "model.pt", weights_only=True)["state_dict"].values()
    assert one.data_ptr() == two.data_ptr()
    assert one.untyped_storage().nbytes() == 7 * 3 * 4


def test_a_part_of_a_large_storage_is_stored_alone(tmp_path):
    model = nn.Linear(3, 2)
    model.weight = nn.Parameter(torch.randn(1000, 3)[:2])
    gradvis.save_checkpoint(tmp_path / "model.pt", model)
    assert (tmp_path / "model.pt").stat().st_size < 5000
    assert torch.equal(read_tensors(tmp_path / "model.pt")["weight"], model.weight)


def test_what_could_not_be_read_back_is_not_saved(trained, state, tmp_path):
    path = tmp_path / "model.pt"
    gradvis.save_checkpoint(path, trained)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"something else came \(a pickle that makes a random.Random\); leave"):
        gradvis.save_checkpoint(path, net(5), generator=random.Random(0))
    with pytest.raises(Exception, match="pickle"):
        gradvis.save_checkpoint(path, net(5), function=lambda: 0)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("model.pt", {"objective": "lenet"}, "named as FILE.py:NAME, but 'lenet' came"),
        ("model.pt", {"objective": "a/lenet.py:f"}, "only a .py file of the folder .* give lenet.py:f"),
        ("model.pt", {"state_dict": 3}, "state_dict is what gradvis.save_checkpoint writes itself"),
        ("model.safetensors", {}, "writes .pt files"),
    ],
)
def test_a_checkpoint_that_no_command_could_use_is_not_saved(tmp_path, name, options, words):
    with pytest.raises(ValueError, match=words):
        gradvis.save_checkpoint(tmp_path / name, net(), **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_told_by_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model.pt"):
        gradvis.save_checkpoint(tmp_path / "gone" / "model.pt", net())
    with pytest.raises(ValueError, match=r"a checkpoint was wanted, but there is no file .*gone"):
        read_tensors(tmp_path / "gone")


# ------------------------------------------------------------------------------------------------ damage

FUZZ = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def originals():
    """The bytes of a checkpoint by its form."""
    state, found = net(seed=1).state_dict(), {}
    folder = pathlib.Path(tempfile.mkdtemp())
    torch.save({"state_dict": state, "with": COMPANIONS["namespace"]}, folder / "a.pt")
    torch.save({"state_dict": state}, folder / "b.bin", _use_new_zipfile_serialization=False)
    save_file(state, folder / "c.safetensors")
    for file in folder.iterdir():
        found[file.suffix] = file.read_bytes()
        file.unlink()
    folder.rmdir()
    return found


ORIGINALS = originals()


def assert_one_line_or_success(path):
    for ask in (lambda: fitting(net(), path), lambda: objective_name(path), lambda: read_tensors(path)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ask()
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("suffix", sorted(ORIGINALS))
@given(at=st.floats(0, 1))
@FUZZ
def test_a_file_cut_anywhere_is_refused_in_one_line(tmp_path, suffix, at):
    content = ORIGINALS[suffix]
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content[: int(at * (len(content) - 1))])
    with pytest.raises(ValueError, match=r"was wanted, but .*cut"):
        fitting(net(), path)
    assert_one_line_or_success(path)


@pytest.mark.parametrize("suffix", sorted(ORIGINALS))
@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4))
@FUZZ
def test_flipped_bytes_give_a_result_or_one_line(tmp_path, suffix, flips):
    content = bytearray(ORIGINALS[suffix])
    for at, mask in flips:
        content[int(at * (len(content) - 1))] ^= mask
    path = tmp_path / f"flipped{suffix}"
    path.write_bytes(content)
    assert_one_line_or_success(path)


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.safetensors", "a", "a.safetensors.index.json"])
@given(content=st.binary(max_size=200))
@FUZZ
def test_random_bytes_under_any_name_give_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert_one_line_or_success(tmp_path / name)
    if len(list(tmp_path.iterdir())) == 1:
        assert_one_line_or_success(tmp_path)


TEXT = st.text("ab./~\0é", max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(content=JSON | st.fixed_dictionaries({"weight_map": JSON}))
@FUZZ
def test_any_json_as_an_index_gives_one_line(tmp_path, content):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"weight_map|names the shard|holds none"):
        fitting(net(), path)
    assert_one_line_or_success(path)
