"""States in a torch checkpoint: under any key and prefix, of tied weights, as `save_checkpoint` writes them."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from torch import nn

import gradvis
from gradvis.backends.pytorch import Checkpoint, objective_name
from gradvis.backends.pytorch.checkpoints import fitting, read_tensors
from gradvis.notes import Note
from tests.torch_states import Tied, assert_gives, net


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


def test_a_folder_that_is_not_there_is_told_by_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model.pt"):
        gradvis.save_checkpoint(tmp_path / "gone" / "model.pt", net())
    with pytest.raises(ValueError, match=r"a checkpoint was wanted, but there is no file .*gone"):
        read_tensors(tmp_path / "gone")
