"""Both ways of every operator, against dense matrices made from the model alone; which way is gone, what is said."""

import copy
import doctest
import warnings
from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gradvis.backends.pytorch import ways
from gradvis.backends.pytorch.ways import DOUBLE, FORWARD
from gradvis.notes import Note
from tests.contract.torch_cases import _Net
from tests.test_products import KINDS, WRITTEN_OUT, differs, made, objective_of

pytestmark = pytest.mark.filterwarnings("ignore::gradvis.notes.Note", "ignore::FutureWarning")

N, T, WORDS = 7, 3, 4


def rows_of(objective, r=3, seed=3):
    return np.random.default_rng(seed).normal(size=(r, objective.space.d))


def test_the_example_in_the_rule_holds():
    assert doctest.testmod(ways).failed == 0


# ---------------------------------------------------------------------------------------------- two ways


@pytest.mark.parametrize("operator", ["hessian", "ggn", "fisher"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WRITTEN_OUT])
def test_both_ways_give_the_same_through_each_kind_of_layer(kind, operator):
    model, inputs, targets = made(kind)
    objective = objective_of(model, inputs, targets)
    theta, vectors = objective.parameters(), rows_of(objective)

    there, back = (objective.again({"product": way}) for way in (FORWARD, DOUBLE))
    wanted = back.hvp(theta, vectors, operator)

    assert differs(there.hvp(theta, vectors, operator), wanted) <= 1e-10
    assert np.linalg.norm(wanted) > 1e-3
    assert back.how["product"] == DOUBLE
    assert there.how["product"] == (DOUBLE if kind == "embedding" else FORWARD)


def test_padding_has_no_gradient_by_decree_so_its_products_go_by_double_backward():
    model, inputs, targets = made("embedding")
    assert (inputs == 0).any()
    objective = objective_of(model, inputs, targets)
    plain = objective_of(Bare(model), inputs, targets)  # the same by the function: no layer tells it
    theta, vectors = objective.parameters(), rows_of(objective)

    with pytest.warns(Note, match="double backward, as forward mode gives other numbers"):
        found = plain.hvp(theta, vectors)

    assert objective.how["product"] == plain.how["product"] == DOUBLE
    np.testing.assert_array_equal(found, objective.hvp(theta, vectors))
    assert differs(found @ vectors.T, vectors @ found.T) <= 1e-12


class Bare(nn.Module):
    """An embedding without its layer."""

    def __init__(self, net):
        super().__init__()
        self.weight, self.last = net.layer.weight, net.last

    def forward(self, x):
        return self.last(F.embedding(x, self.weight, padding_idx=0).flatten(1))


class Cube(torch.autograd.Function):
    """Differentiable as often as one likes, in reverse mode alone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, slope):
        return 3 * slope * ctx.saved_tensors[0] ** 2


@pytest.mark.parametrize("operator", ["hessian", "ggn", "fisher"])
def test_what_forward_mode_cannot_do_goes_by_double_backward_and_that_is_said_once(operator):
    model, inputs, targets = made("conv1d")
    theta = objective_of(model, inputs, targets).parameters()
    model.run = lambda layer, x: Cube.apply(layer(x))
    objective = objective_of(model, inputs, targets)
    vectors = rows_of(objective)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = [objective.hvp(theta, vectors, operator) for _ in range(2)]

    notes = [str(each.message) for each in said if each.category is Note]
    assert notes == ["products go by double backward, as forward mode raises RuntimeError for this model"]
    assert not [each for each in said if each.category is not Note]
    assert found[0].tobytes() == found[1].tobytes()
    model.run = lambda layer, x: layer(x) ** 3
    assert differs(found[0], objective_of(model, inputs, targets).hvp(theta, vectors, operator)) <= 1e-12


def test_a_scripted_model_goes_by_double_backward_in_silence():
    plain = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))
    inputs, targets = np.random.default_rng(0).normal(size=(N, 4)), np.arange(N) % 3
    scripted = ways.Script(torch.jit.script(copy.deepcopy(plain)))
    objective, wanted = (objective_of(each, inputs, targets) for each in (scripted, plain))
    theta, vectors = wanted.parameters(), rows_of(wanted)

    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        for operator in ("hessian", "ggn", "fisher"):
            assert differs(objective.hvp(theta, vectors, operator), wanted.hvp(theta, vectors, operator)) <= 1e-12

    assert (objective.how["product"], wanted.how["product"]) == (DOUBLE, FORWARD)


def test_a_random_forward_keeps_the_micro_batches_of_its_values():
    model, inputs, targets = made("conv1d")
    model.run = lambda layer, x: F.dropout(layer(x), 0.5, training=True)
    objective = objective_of(model, inputs, targets, micro_batch=5).again({"product_micro_batch": 1})
    theta, vectors = objective.parameters(), rows_of(objective, 1)
    step = 1e-5 * vectors[0]

    found = objective.hvp(theta, vectors)[0]

    assert (objective.how["product"], objective.how["product_micro_batch"]) == (DOUBLE, 5)
    assert differs((objective.gradient(theta + step) - objective.gradient(theta - step)) / 2e-5, found) <= 1e-7


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("operator", ["hessian", "ggn", "fisher"])
def test_a_second_call_gives_the_same_bits_and_generators_stay(operator):
    objective = objective_of(*made("lstm"), dtype="float32")
    theta, vectors = objective.parameters(), rows_of(objective)
    before = torch.get_rng_state()

    first, second = (objective.hvp(theta, vectors, operator) for _ in range(2))

    assert first.tobytes() == second.tobytes()
    assert first.dtype == np.float32
    assert torch.equal(torch.get_rng_state(), before)
    wide = objective_of(*made("lstm")).hvp(theta.astype(np.float64), vectors, operator)
    assert differs(first, wide) <= 1e-5


# ---------------------------------------------------------------------------------------------- how


def test_how_products_were_made_is_told_and_made_so_again():
    model, inputs, targets = made("conv2d")
    objective = objective_of(model, inputs, targets, micro_batch=5)
    other = objective.again({"product": DOUBLE, "product_micro_batch": 2})
    theta, vectors = objective.parameters(), rows_of(objective, 10)

    assert {key: objective.how[key] for key in ("product", "product_micro_batch")} == {
        "product": FORWARD, "product_micro_batch": 5,
    }  # fmt: skip
    assert objective.again(other.how).how == other.how != objective.how
    for earlier in (other, objective):
        for r in (1, 4, 10):
            found = objective.again(earlier.how).hvp(theta, vectors[:r])
            assert found.tobytes() == earlier.hvp(theta, vectors[:r]).tobytes()


def test_the_rule_gives_fewer_vectors_more_samples_and_never_more_than_the_memory_takes():
    cpu = torch.device("cpu")

    assert [ways.samples_at_once(85_000, r, cpu, 1 << 30) for r in (1, 10)] == [256, 64]
    assert ways.samples_at_once(10**9, 10, cpu, 1 << 37) == 2
    assert ways.samples_at_once(10**9, 10, cpu, 0) == 1


def test_fewer_vectors_go_with_more_samples_as_told():
    model, inputs, targets = made("conv1d")
    lengths = []
    model.run = lambda layer, x: lengths.append(len(x)) or layer(x)
    objective = objective_of(model, inputs, targets, micro_batch=5).again({"product_micro_batch": 1})
    theta = objective.parameters()
    objective.hvp(theta, rows_of(objective, 1))  # what is seen before the first product is not counted

    for r, wanted in ((10, [1] * 5), (4, [2, 2, 1]), (1, [5])):
        lengths.clear()
        objective.hvp(theta, rows_of(objective, r))
        assert lengths == wanted


def test_tuning_gives_a_way_of_products_that_again_takes(monkeypatch):
    objective = objective_of(*made("conv2d"), micro_batch=5)
    theta = objective.parameters()
    tried = []
    room = import_module("gradvis.backends.pytorch.derivatives")
    monkeypatch.setattr(
        room, "fastest", lambda ways, run: tried.extend(ways) or min(ways, key=lambda way: run(way)[0, 0])
    )

    how = objective.tune_products(theta, 2)

    assert objective.again(how).how == how
    assert {way["product"] for way in tried} == {FORWARD, DOUBLE}
    assert {1, 2, 5} <= {way["product_micro_batch"] for way in tried}
    assert set(how) == set(objective.how)
    part = objective.restrict("last.*")
    assert part.tune_products(part.parameters(), 2) == how


@pytest.mark.parametrize("frozen", [False, True])
def test_unused_and_frozen_and_tied_parameters_are_as_they_are(frozen):
    model = _Net()
    rng = np.random.default_rng(0)
    data = rng.normal(size=(N, 1, 5, 5)), rng.integers(0, 3, N)
    objective = objective_of(model, *data, include_frozen=frozen)
    vectors = rows_of(objective)

    found = objective.hvp(objective.parameters(), vectors)

    unused = [block.slice for block in objective.space if block.name.startswith("unused")]
    assert len(unused) == 2
    assert all((found[:, part] == 0).all() for part in unused)
    assert objective.how["product"] == FORWARD
    assert ("frozen.weight" in [block.name for block in objective.space]) is frozen
    assert differs(found, objective.again({"product": DOUBLE}).hvp(objective.parameters(), vectors)) <= 1e-10


def test_batch_norm_by_the_statistics_of_each_batch_goes_both_ways():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    objective = objective_of(model, *made("conv2d")[1:], batch_norm="batch")
    theta, vectors = objective.parameters(), rows_of(objective)

    for operator in ("hessian", "ggn", "fisher"):
        back = objective.again({"product": DOUBLE}).hvp(theta, vectors, operator)
        assert differs(objective.hvp(theta, vectors, operator), back) <= 1e-10

    assert (objective.how["product"], objective.how["product_micro_batch"]) == (FORWARD, None)
