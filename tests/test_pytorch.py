"""What is PyTorch's alone: layers, loaders, weighted losses, state dicts. The laws are in tests/contract."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import gradvis
from gradvis.backends.pytorch.layers import parameter_space

SAMPLES = 23


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SAMPLES, 6, generator=generator), torch.randint(0, 4, (SAMPLES,), generator=generator)


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))


def loss_of(data, model=None, loss="cross_entropy", **options):
    objective = gradvis.objective(model or net(), data, loss, **options)
    return objective.measure(objective.parameters())


# ---------------------------------------------------------------------------------------------- layers


def test_kinds_and_filters_come_from_the_layers():
    model = nn.ModuleDict({
        "dense": nn.Linear(3, 4),
        "conv1": nn.Conv1d(2, 4, 3, groups=2),
        "conv2": nn.Conv2d(2, 4, 3),
        "conv3": nn.Conv3d(2, 4, 3),
        "batch": nn.BatchNorm2d(4),
        "layer": nn.LayerNorm((4, 5)),
        "group": nn.GroupNorm(2, 4),
        "up": nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False),
    })
    space = parameter_space(model)

    kinds = {block.name: block.kind for block in space}
    assert {name for name, kind in kinds.items() if kind == "norm"} == {
        f"{layer}.{leaf}" for layer in ("batch", "layer", "group") for leaf in ("weight", "bias")
    }
    assert {name for name, kind in kinds.items() if kind == "bias"} == {
        f"{layer}.bias" for layer in ("dense", "conv1", "conv2", "conv3")
    }
    theta = np.arange(float(space.d))
    filters = {name: len(space[f"{name}.weight"].filters(theta)) for name in ("dense", "conv1", "conv2", "conv3", "up")}
    assert filters == {"dense": 4, "conv1": 4, "conv2": 4, "conv3": 4, "up": 6}
    weight = space.split(theta)["conv2.weight"]
    np.testing.assert_array_equal(space["conv2.weight"].filters(theta), weight.reshape(4, -1))
    up = space.split(theta)["up.weight"]  # (in, out / groups, ...): output 4 is the second of the second group
    np.testing.assert_array_equal(space["up.weight"].filters(theta)[4], up[2:, 1].ravel())


def test_the_vector_is_torchs_own_order():
    model = net()
    expected = nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    objective = gradvis.objective(model, (torch.zeros(2, 6), torch.zeros(2, dtype=torch.long)), "cross_entropy")
    np.testing.assert_array_equal(objective.parameters(), expected)


class Odd(nn.Module):
    """A tied, a frozen and an unused parameter."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.tied = nn.Linear(6, 6, bias=False)
        self.tied.weight = self.first.weight
        self.head = nn.Linear(6, 4)
        self.head.bias.requires_grad_(False)
        self.unused = nn.Linear(2, 2)

    def forward(self, inputs):
        return self.head(self.tied(torch.tanh(self.first(inputs))))


def test_tied_weights_count_once_frozen_ones_are_left_out_unused_ones_are_allowed(pair):
    objective = gradvis.objective(Odd(), pair, "cross_entropy")
    assert [block.name for block in objective.space] == [
        "first.weight", "head.weight", "unused.weight", "unused.bias",
    ]  # fmt: skip
    gradient = objective.gradient(objective.parameters())
    assert not gradient[objective.space["unused.weight"].slice].any()
    assert gradient[objective.space["first.weight"].slice].any()
    asked = gradvis.objective(Odd(), pair, "cross_entropy", include_frozen=True)
    assert "head.bias" in [block.name for block in asked.space]


def test_a_model_without_free_parameters_is_refused(pair):
    model = net().requires_grad_(False)
    with pytest.raises(ValueError, match="all of its parameters are frozen; pass include_frozen=True"):
        gradvis.objective(model, pair, "cross_entropy")
    with pytest.raises(ValueError, match="it has no parameters"):
        gradvis.objective(nn.Flatten(), pair, "cross_entropy")


# ---------------------------------------------------------------------------------------------- data


class Numbered(Dataset):
    def __init__(self, pair):
        self.pair, self.reads = pair, 0

    def __len__(self):
        return len(self.pair[0])

    def __getitem__(self, index):
        self.reads += 1
        return self.pair[0][index], self.pair[1][index]


class Stream(IterableDataset):
    def __init__(self, pair):
        self.pair = pair

    def __iter__(self):
        return iter(list(zip(*self.pair, strict=True)))

    def __len__(self):  # what is streamed must say how long it is
        return len(self.pair[0])


def forms(pair):
    inputs, targets = pair
    return {
        "numpy": (inputs.numpy(), targets.numpy()),
        "own dataset": Numbered(pair),
        "shuffling loader that drops the last": DataLoader(TensorDataset(*pair), 8, shuffle=True, drop_last=True),
        "loader with a collate function": DataLoader(
            range(SAMPLES), 8, True, collate_fn=lambda at: (inputs[at], targets[at])
        ),
        "loader of a stream": DataLoader(Stream(pair), batch_size=5),
    }


FORMS = list(forms((torch.zeros(SAMPLES, 6), torch.zeros(SAMPLES, dtype=torch.long))))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_data_in_every_form_gives_the_mean_over_all_samples(pair, form, kept):
    model = net()
    outputs = model(pair[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective = gradvis.objective(
            model, forms(pair)[form], "cross_entropy", metrics=["accuracy"], data_budget=None if kept else 0
        )
    assert objective.streamed is not kept
    found = objective.measure(objective.parameters())
    np.testing.assert_allclose(found["loss"], F.cross_entropy(outputs, pair[1]).item(), rtol=1e-6)
    np.testing.assert_allclose(found["accuracy"], (outputs.argmax(1) == pair[1]).double().mean().item())
    each = F.cross_entropy(outputs, pair[1], reduction="none").detach().numpy()
    np.testing.assert_allclose(found["loss_stderr"], each.std(ddof=1) / np.sqrt(SAMPLES), rtol=1e-5)


def test_streaming_loads_each_batch_once_for_all_points_and_keeping_loads_none(pair):
    data = Numbered(pair)
    streamed = gradvis.objective(net(), DataLoader(data, 8), "cross_entropy", data_budget=0)
    plane = gradvis.random_plane(streamed)
    data.reads = 0
    coords = np.random.default_rng(0).normal(size=(7, 2))
    by_batch = streamed.evaluate(plane, coords)
    assert data.reads == SAMPLES
    kept = gradvis.objective(net(), DataLoader(data, 8), "cross_entropy", micro_batch=8)
    data.reads = 0
    np.testing.assert_allclose(kept.evaluate(plane, coords), by_batch, rtol=1e-6)
    assert data.reads == 0


def test_a_fingerprint_does_not_depend_on_how_data_is_batched_or_kept(pair):
    prints = {
        gradvis.objective(net(), data, "cross_entropy", data_budget=budget).fingerprint()["data"]
        for data in (pair, DataLoader(TensorDataset(*pair), 8), DataLoader(TensorDataset(*pair), 8, shuffle=True))
        for budget in (None, 0)
    }
    assert len(prints) == 1
    other = pair[0].clone()
    other[3, 3] += 1e-6
    assert gradvis.objective(net(), (other, pair[1]), "cross_entropy").fingerprint()["data"] not in prints
    relabelled = pair[1].clone()
    relabelled[-1] = (relabelled[-1] + 1) % 4
    for budget in (None, 0):
        objective = gradvis.objective(net(), (pair[0], relabelled), "cross_entropy", batch_size=8, data_budget=budget)
        assert objective.fingerprint()["data"] not in prints


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (lambda x, y: [(x, y, y)], "each batch must be .inputs, targets."),
        (lambda x, y: [x], "each batch must be .inputs, targets."),
    ],
)
def test_batches_that_are_no_pairs_are_refused(pair, data, match):
    with pytest.raises(ValueError, match=match):
        gradvis.objective(net(), data(*pair), "cross_entropy")


# ---------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("micro", [3, 8, 23])
@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.3, 2.0])),
        nn.CrossEntropyLoss(ignore_index=2),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.3, 2.0]), ignore_index=1, label_smoothing=0.1),
        F.cross_entropy,
    ],
    ids=["plain", "weights", "ignored", "all", "function"],
)
def test_cross_entropy_of_any_kind_is_torchs_own_over_the_whole_set(pair, criterion, micro):
    model = net()
    expected = criterion(model(pair[0]), pair[1]).item()
    np.testing.assert_allclose(loss_of(pair, model, criterion, micro_batch=micro)["loss"], expected, rtol=1e-6)


# ---------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "nested", "module.", "_orig_mod.", "safetensors"])
def test_a_state_is_found_under_any_key_and_prefix(pair, tmp_path, wrap):
    model, path = net(), tmp_path / "model.pt"
    state = model.state_dict()
    if wrap == "safetensors":
        from safetensors.torch import save_file

        path = tmp_path / "model.safetensors"
        save_file(state, path)
    elif wrap.endswith("."):
        torch.save({f"{wrap}{name}": value for name, value in state.items()}, path)
    else:
        nested = {"bare": state, "state_dict": {"state_dict": state, "epoch": 3}}
        torch.save(nested.get(wrap, {"training": {"net": state, "lr": 0.1}}), path)
    torch.manual_seed(9)
    other = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    objective = gradvis.objective(other, pair, "cross_entropy")

    expected = gradvis.objective(model, pair, "cross_entropy")
    np.testing.assert_array_equal(objective.read(path), expected.parameters())
    assert objective.at(path).measure(objective.read(path)) == expected.measure(expected.parameters())
    assert not np.allclose(objective.parameters(), expected.parameters())  # the model was not touched


def test_a_checkpoint_of_another_architecture_says_what_differs(pair):
    objective = gradvis.objective(net(), pair, "cross_entropy")
    with pytest.raises(ValueError, match=r"does not fit the model: 2 missing .*2 left over"):
        objective.read(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)))
    with pytest.raises(ValueError, match=r"0.weight is \(7, 6\), not \(5, 6\)"):
        objective.read(nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4)))


def test_a_pickle_is_not_run(pair, tmp_path):
    torch.save(net(), tmp_path / "whole.pt")
    objective = gradvis.objective(net(), pair, "cross_entropy")
    with pytest.raises(ValueError, match="loads without running code was wanted"):
        objective.read(tmp_path / "whole.pt")


def test_an_objective_is_named_as_a_file_and_a_function(tmp_path):
    with pytest.raises(ValueError, match="FILE.py:NAME, but 'lenet' came"):
        gradvis.save_checkpoint(tmp_path / "model.pt", net(), objective="lenet")
    assert not (tmp_path / "model.pt").exists()
