"""What is PyTorch's alone: layers, data in every form, losses in every form. The laws are in tests/contract."""

import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import gradvis
from gradvis.backends.pytorch import TorchObjective
from gradvis.backends.pytorch.compute import find_device, micro_batch
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
    batches = [(inputs[i : i + 8], targets[i : i + 8]) for i in range(0, SAMPLES, 8)]
    return {
        "numpy": (inputs.numpy(), targets.numpy()),
        "float64 and int32": (inputs.double().numpy(), targets.numpy().astype(np.int32)),
        "read-only": (np.frombuffer(inputs.numpy().tobytes(), np.float32).reshape(inputs.shape), targets),
        "dataset": TensorDataset(*pair),
        "own dataset": Numbered(pair),
        "stream": Stream(pair),
        "loader": DataLoader(TensorDataset(*pair), batch_size=8),
        "shuffling loader that drops the last": DataLoader(TensorDataset(*pair), 8, shuffle=True, drop_last=True),
        "loader that drops the last": DataLoader(TensorDataset(*pair), 8, drop_last=True),
        "loader with a collate function": DataLoader(
            range(SAMPLES), 8, True, collate_fn=lambda at: (inputs[at], targets[at])
        ),
        "loader of a stream": DataLoader(Stream(pair), batch_size=5),
        "batches": batches,
        "generator": iter(batches),
        "lists": [[batch[0], batch[1]] for batch in batches],
    }


FORMS = list(forms((torch.zeros(SAMPLES, 6), torch.zeros(SAMPLES, dtype=torch.long))))


@pytest.mark.parametrize(
    ("form", "kept"), [(form, kept) for form in FORMS for kept in (True, False) if kept or form != "generator"]
)
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


def test_an_iterator_that_does_not_fit_is_refused(pair):
    with pytest.raises(ValueError, match="an iterator can be read only once"):
        gradvis.objective(net(), iter([pair]), "cross_entropy", data_budget=10)


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
        (lambda x, y: (x, y[:5]), "inputs and targets of one length"),
        (lambda x, y: (x[:0], y[:0]), "at least 1"),
        (lambda x, y: [], "at least one batch"),
        (lambda x, y: [(x, y, y)], "each batch must be .inputs, targets."),
        (lambda x, y: [x], "each batch must be .inputs, targets."),
    ],
)
def test_data_that_is_none_is_refused(pair, data, match):
    with pytest.raises(ValueError, match=match):
        gradvis.objective(net(), data(*pair), "cross_entropy")


def test_data_of_no_known_form_is_refused():
    with pytest.raises(TypeError, match="data must be a pair of arrays, a Dataset, a DataLoader or batches, but int"):
        gradvis.objective(net(), 3, "cross_entropy")


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


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("mse", F.mse_loss),
        ("mae", F.l1_loss),
        ("huber", F.huber_loss),
        ("smooth_l1", F.smooth_l1_loss),
        ("binary_cross_entropy", F.binary_cross_entropy_with_logits),
    ],
)
def test_losses_by_name_are_torchs_own(pair, name, function):
    model, targets = net(), torch.rand(SAMPLES, 4, generator=torch.Generator().manual_seed(3))
    expected = function(model(pair[0]), targets).item()
    found = loss_of((pair[0], targets), model, name, micro_batch=8, metrics=[name])
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(found[name], expected, rtol=1e-6)


def test_integer_targets_do_for_regression_and_single_logits(pair):
    torch.manual_seed(0)
    model, targets = nn.Linear(6, 1), (torch.arange(SAMPLES) % 2)[:, None]
    outputs, wanted = model(pair[0]), targets.float()
    found = loss_of((pair[0], targets), model, "binary_cross_entropy", metrics=["mse", "accuracy"])
    np.testing.assert_allclose(found["loss"], F.binary_cross_entropy_with_logits(outputs, wanted).item(), rtol=1e-6)
    np.testing.assert_allclose(found["mse"], F.mse_loss(outputs, wanted).item(), rtol=1e-6)
    np.testing.assert_allclose(found["accuracy"], ((outputs > 0) == (targets > 0)).double().mean().item())


def test_tokens_are_the_unit_and_ignored_ones_do_not_count():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 9))
    tokens = torch.randint(0, 9, (SAMPLES, 7))
    targets = tokens.roll(1, 1).masked_fill(torch.rand(SAMPLES, 7) < 0.4, -100)
    swap = nn.Sequential(model, nn.Unflatten(2, (9, 1)))  # to (b, t, 9, 1), for the transpose below

    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = swap

        def forward(self, inputs):
            return self.body(inputs).squeeze(-1).transpose(1, 2)

    language = Language()
    expected = F.cross_entropy(language(tokens), targets).item()
    objective = gradvis.objective(language, (tokens, targets), "cross_entropy", micro_batch=4)
    np.testing.assert_allclose(objective.measure(objective.parameters())["loss"], expected, rtol=1e-6)
    assert objective.about["unit"] == "unit"


@pytest.mark.parametrize("loss", ["nll", nn.NLLLoss(), nn.NLLLoss(ignore_index=2)], ids=["name", "module", "index"])
def test_log_likelihoods_leave_ignored_samples_out(pair, loss):
    targets = pair[1].clone()
    targets[::3] = 2 if isinstance(loss, nn.Module) and loss.ignore_index == 2 else -100
    model = nn.Sequential(net(), nn.LogSoftmax(1))
    expected = F.nll_loss(model(pair[0]), targets, ignore_index=int(targets[0])).item()
    np.testing.assert_allclose(loss_of((pair[0], targets), model, loss, micro_batch=8)["loss"], expected, rtol=1e-6)


def test_shapes_that_would_be_broadcast_are_refused(pair):
    with pytest.raises(ValueError, match=r"mse wants outputs and targets of one shape, but \(1, 4\) and \(1,\) came"):
        gradvis.objective(net(), (pair[0], pair[1].float()), "mse")


def test_a_loss_that_returns_a_mean_is_weighted_by_its_batch_and_has_no_standard_error(pair):
    model = net()
    objective = gradvis.objective(model, pair, lambda o, t: F.cross_entropy(o, t), micro_batch=8)
    assert objective.metrics == ("loss",)
    expected = F.cross_entropy(model(pair[0]), pair[1]).item()
    np.testing.assert_allclose(objective.measure(objective.parameters())["loss"], expected, rtol=1e-6)


def test_metrics_may_be_callables_and_several(pair):
    def confidence(outputs, targets):
        return outputs.softmax(1).max(1).values

    model = net()
    found = loss_of(pair, model, metrics=["accuracy", "error", confidence], micro_batch=5)
    np.testing.assert_allclose(found["accuracy"] + found["error"], 1)
    np.testing.assert_allclose(found["confidence"], confidence(model(pair[0]), None).mean().item(), rtol=1e-6)
    assert found["confidence_stderr"] > 0


@pytest.mark.parametrize(
    "batch_loss",
    [
        lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"], reduction="none"),
        lambda model, batch: (F.cross_entropy(model(batch["x"]), batch["y"], reduction="sum"), len(batch["y"])),
        lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
    ],
    ids=["values", "sum and count", "mean and weight"],
)
def test_batch_losses_of_each_form(pair, batch_loss):
    batches = [{"x": pair[0][i : i + 8], "y": pair[1][i : i + 8]} for i in range(0, SAMPLES, 8)]
    model = net()
    objective = gradvis.objective(model, batches, batch_loss=batch_loss, weight=lambda batch: len(batch["y"]))
    theta = objective.parameters()
    expected = F.cross_entropy(model(pair[0]), pair[1])
    np.testing.assert_allclose(objective.measure(theta)["loss"], expected.item(), rtol=1e-6)
    own = torch.cat([part.ravel() for part in torch.autograd.grad(expected, list(model.parameters()))])
    np.testing.assert_allclose(objective.gradient(theta), own.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "one of loss and batch_loss was wanted, but neither came"),
        ({"loss": "cross_entropi"}, "did you mean 'cross_entropy'"),
        ({"loss": "accuracy"}, "no loss"),
        ({"loss": "mse", "batch_loss": lambda m, b: 0}, "one of loss and batch_loss was wanted, but both came"),
        ({"batch_loss": lambda m, b: 0, "metrics": ["accuracy"]}, "which batch_loss hides"),
        ({"batch_loss": lambda m, b: m(b[0]).mean()}, "say over how many items with weight"),
        ({"loss": lambda o, t: o[:1]}, "returns one value a sample"),
        ({"loss": "cross_entropy", "dtype": "float16"}, "dtype must be one of float32, float64, bfloat16"),
        ({"loss": "cross_entropy", "batch_norm": "train"}, "batch_norm must be one of eval, batch"),
        ({"loss": "cross_entropy", "device": "cuda:9"}, "try --device cpu|device that is there"),
    ],
)
def test_options_that_do_not_fit_are_refused(pair, options, match):
    with pytest.raises(ValueError, match=match):
        gradvis.objective(net(), pair, **options)


def test_probabilities_are_no_logits(pair):
    with pytest.raises(ValueError, match="takes logits, but the model gives probabilities"):
        gradvis.objective(nn.Sequential(net(), nn.Softmax(1)), pair, "cross_entropy")


def test_metrics_of_one_name_are_refused(pair):
    with pytest.raises(ValueError, match="every metric needs a name of its own"):
        gradvis.objective(net(), pair, "cross_entropy", metrics=[lambda o, t: o[:, 0], lambda o, t: o[:, 1]])


def test_a_loss_is_a_name_or_callable(pair):
    with pytest.raises(TypeError, match="a loss is a name or a callable"):
        gradvis.objective(net(), pair, 3)


# ---------------------------------------------------------------------------------------------- computing


class Viewing(nn.Module):
    """As in many a tutorial: `view` takes only contiguous images."""

    def __init__(self, flatten):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.flatten = nn.Conv2d(1, 3, 3), nn.Linear(108, 4), flatten

    def forward(self, images):
        hidden = F.relu(self.conv(images))
        return self.head(hidden.flatten(1) if self.flatten else hidden.view(len(hidden), -1))


def test_channels_last_is_used_where_the_code_allows_it():
    images, classes = torch.randn(SAMPLES, 1, 8, 8), torch.arange(SAMPLES) % 4
    values = []
    for flatten in (True, False):
        objective = TorchObjective(Viewing(flatten), (images, classes), "cross_entropy")
        assert objective.how["channels_last"] is flatten
        values.append(objective.measure(objective.parameters())["loss"])
    np.testing.assert_allclose(*values, rtol=1e-6)


def test_the_forward_pass_runs_once_a_micro_batch_for_all_metrics(pair):
    model, calls = net(), []
    objective = gradvis.objective(model, pair, "cross_entropy", metrics=["accuracy", "error"], micro_batch=8)
    objective = objective.again({"points": 1})
    model.register_forward_hook(lambda *_: calls.append(1))
    objective.evaluate(gradvis.random_plane(objective), np.zeros((5, 2)))
    assert len(calls) == 5 * 3


def test_points_are_formed_in_float32_for_a_bfloat16_model(pair):
    objective = gradvis.objective(net().bfloat16(), pair, "cross_entropy")
    assert objective.parameters().dtype == np.float32
    plane = gradvis.random_plane(objective)
    coords = np.array([[0.0, 0.0], [1e-3, 0.0], [2e-3, 0.0]])
    losses = objective.evaluate(plane, coords)[:, 0]
    assert len(set(losses)) == 3  # in bfloat16 such steps are lost
    second = losses[0] - 2 * losses[1] + losses[2]
    assert abs(second) < 0.05 * abs(losses[1] - losses[0])


def test_bfloat16_is_autocast_of_the_forward_pass(pair):
    full, half = (loss_of(pair, dtype=dtype)["loss"] for dtype in ("float32", "bfloat16"))
    assert full != half
    np.testing.assert_allclose(full, half, rtol=1e-2)


def test_ranks_take_accelerators_in_turn(monkeypatch):
    """Without one here: only the choice is tested."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    assert [str(find_device("auto", rank)) for rank in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert str(find_device("cuda:1", 0)) == "cuda:1"


def test_micro_batches_follow_the_rule_alone():
    cpu = torch.device("cpu")
    assert [micro_batch(size, cpu) for size in (0, 85_000, 10**9)] == [1 << 16, 512, 16]


def test_values_do_not_depend_on_the_micro_batch_beyond_rounding(pair):
    found = [loss_of(pair, micro_batch=micro)["loss"] for micro in (1, 4, 100)]
    np.testing.assert_allclose(found, found[0], rtol=1e-6)


def test_an_earlier_runs_micro_batch_is_taken_over_with_its_bits(pair):
    earlier, now = (gradvis.objective(net(), pair, "cross_entropy", micro_batch=micro) for micro in (2, 100))
    again = now.again(earlier.how)
    theta = earlier.parameters()
    assert again.how == earlier.how != now.how
    assert again.measure(theta) == earlier.measure(theta)


class Noisy(nn.Module):
    """Draws random numbers in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, inputs):
        return self.body(inputs + torch.randn_like(inputs) + float(np.random.normal()))


def test_stochastic_forwards_are_seeded_and_the_generators_left_alone(pair):
    objective = gradvis.objective(Noisy(), pair, "cross_entropy", micro_batch=8)
    torch.manual_seed(5)
    np.random.seed(5)
    one = objective.measure(objective.parameters())
    after = torch.rand(1), np.random.rand()
    two = objective.measure(objective.parameters())
    torch.manual_seed(5)
    np.random.seed(5)
    assert one == two
    assert after == (torch.rand(1), np.random.rand())


@pytest.fixture
def settings():
    """Reads torch's process-wide settings, none of them the default here."""
    cudnn = torch.backends.cudnn

    def read():
        flags = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
        return torch.get_num_threads(), torch.get_float32_matmul_precision(), *flags

    threads, precision, *flags = read()
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("high")
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = True, False, True
    yield read
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = flags


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_is_ieee_float32_on_its_own_threads_and_puts_the_settings_back(pair, settings, fails):
    seen, failing = [], []

    def loss(outputs, targets):
        seen.append(settings())
        if failing:
            raise ArithmeticError
        return F.cross_entropy(outputs, targets, reduction="none")

    objective = gradvis.objective(net(), pair, loss, threads=3)
    theta, before = objective.parameters(), settings()
    failing += [1] * fails
    for ask in (objective.measure, objective.gradient, lambda theta: objective.hvp(theta, theta[None])):
        with pytest.raises(ArithmeticError) if fails else nullcontext():
            ask(theta)
        assert settings() == before == (2, "high", True, False, True)
    assert set(seen) == {(3, "highest", False, True, False)}


class Counter(nn.Module):
    """Writes to a buffer in evaluation mode too, and has a frozen layer."""

    def __init__(self):
        super().__init__()
        self.body = net()
        self.body[0].requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs):
        self.calls += 1
        return self.body(inputs) * self.calls


def test_what_a_model_writes_to_its_buffers_is_gone_after_the_call(pair):
    model = Counter()
    objective = gradvis.objective(model, pair, "cross_entropy")
    theta = objective.parameters()
    one = objective.measure(theta)
    objective.gradient(theta)
    assert objective.measure(theta) == one
    assert model.calls == 0


def test_what_is_frozen_is_in_the_fingerprint_and_comes_with_a_checkpoint(pair):
    model, other = Counter(), Counter()
    objective = gradvis.objective(model, pair, "cross_entropy")
    before = objective.fingerprint()
    with torch.no_grad():
        other.body[0].weight.mul_(3)
    expected = gradvis.objective(other, pair, "cross_entropy")

    there = objective.at(other.state_dict())

    theta = objective.parameters()
    assert there.measure(theta) == expected.measure(theta) != objective.measure(theta)
    assert there.fingerprint() == expected.fingerprint()
    assert {part for part in before if before[part] != there.fingerprint()[part]} == {"buffers"}


def test_a_checkpoint_is_read_once_and_for_all(pair):
    """What training does to the tensors afterwards does not reach the objective."""
    objective, state = gradvis.objective(net(), pair, "cross_entropy"), net().state_dict()
    there = objective.at(state)
    before = there.measure(there.parameters())
    for value in state.values():
        value.add_(1)
    assert there.measure(there.parameters()) == before


@pytest.mark.slow
def test_compiled_values_are_the_same_within_rounding(pair):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    data = torch.randn(SAMPLES, 1, 8, 8), torch.arange(SAMPLES) % 4
    plain, compiled = (
        gradvis.objective(model, data, "cross_entropy", metrics=["accuracy"], compile=compile_it, micro_batch=8)
        for compile_it in (False, True)
    )
    plane = gradvis.random_plane(plain)
    coords = np.random.default_rng(0).normal(size=(3, 2))
    np.testing.assert_allclose(compiled.evaluate(plane, coords), plain.evaluate(plane, coords), rtol=1e-5)


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
