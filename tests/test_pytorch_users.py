"""What users do to PyTorch objectives that must change no number and nothing of theirs, or is refused in a sentence."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler, SubsetRandomSampler, TensorDataset

import gradvis
from tests.test_pytorch import loss_of, net, pair

__all__ = ["pair"]  # a fixture


class InPlace(nn.Module):
    """Writes to its inputs."""

    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, inputs):
        inputs -= 0.5
        return self.body(inputs)


def test_a_model_that_writes_to_its_inputs_changes_neither_data_nor_values(pair):
    inputs = pair[0].clone()
    expected = F.cross_entropy(InPlace()(pair[0].clone()), pair[1]).item()
    objective = gradvis.objective(InPlace(), (inputs, pair[1]), "cross_entropy")
    for _ in range(3):
        np.testing.assert_allclose(objective.measure(objective.parameters())["loss"], expected, rtol=1e-6)
    assert torch.equal(inputs, pair[0])


def test_inference_mode_and_no_grad_around_a_call_change_nothing(pair):
    plain = gradvis.objective(net(), pair, "cross_entropy")
    theta, vector = plain.parameters(), np.ones((1, plain.space.d), np.float32)
    expected = plain.gradient(theta), plain.hvp(theta, vector), plain.measure(theta)
    assert np.abs(expected[1]).max() > 1e-3
    for around in (torch.inference_mode, torch.no_grad):
        with around():
            objective = gradvis.objective(plain._model, pair, "cross_entropy")
            found = objective.gradient(theta), objective.hvp(theta, vector), objective.measure(theta)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
        assert found[2] == expected[2]
        np.testing.assert_array_equal(objective.gradient(theta), expected[0])


def test_autocast_around_a_call_changes_nothing(pair):
    objective = gradvis.objective(net(), pair, "cross_entropy")
    expected = objective.measure(objective.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert objective.measure(objective.parameters()) == expected


@pytest.mark.parametrize("criterion", [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), nn.BCEWithLogitsLoss()])
def test_loss_modules_do_not_broadcast_either(pair, criterion):
    with pytest.raises(ValueError, match="of one shape, but"):
        gradvis.objective(nn.Linear(6, 1), (pair[0], pair[1].float()), criterion)


def test_a_loss_module_that_divides_a_sum_by_the_batch_is_refused(pair):
    with pytest.raises(ValueError, match="gradvis draws means, but .* has reduction="):
        gradvis.objective(net(), pair, nn.KLDivLoss(reduction="batchmean"))


def test_class_weights_follow_the_dtype(pair):
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.3, 2.0]))
    model = net()
    found = loss_of(pair, model, criterion, dtype="float64")["loss"]
    np.testing.assert_allclose(found, criterion(model(pair[0]), pair[1]).item(), rtol=1e-6)
    assert criterion.weight.dtype == torch.float32


def test_a_subset_sampler_means_its_samples_and_an_unknown_one_is_refused(pair):
    model, dataset = net(), TensorDataset(*pair)
    expected = F.cross_entropy(model(pair[0][:10]), pair[1][:10]).item()
    subset = DataLoader(dataset, 4, sampler=SubsetRandomSampler(range(10)))
    np.testing.assert_allclose(loss_of(subset, model)["loss"], expected, rtol=1e-6)

    class Own(Sampler):
        def __iter__(self):
            return iter([3, 1])

        def __len__(self):
            return 2

    for options in ({"sampler": Own(), "batch_size": 4}, {"batch_sampler": BatchSampler(Own(), 2, drop_last=True)}):
        with pytest.raises(ValueError, match="its sampler is a (Own|BatchSampler); pass the dataset"):
            loss_of(DataLoader(dataset, **options), model)


def test_a_stream_is_read_to_its_last_batch(pair):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(list(zip(*pair, strict=True)))

    model = net()
    expected = F.cross_entropy(model(pair[0]), pair[1]).item()
    np.testing.assert_allclose(loss_of(DataLoader(Stream(), 5, drop_last=True), model)["loss"], expected, rtol=1e-6)


class Counter(nn.Module):
    """Counts its forward passes in a buffer, in evaluation mode too, and lets the count change the outputs."""

    def __init__(self):
        super().__init__()
        self.body = net()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, inputs):
        self.count += 1
        return self.body(inputs) * self.count


def test_buffers_that_a_forward_pass_writes_to_start_anew_at_every_point(pair):
    objective = gradvis.objective(Counter(), pair, "cross_entropy", micro_batch=8)
    plane = gradvis.random_plane(objective)
    losses = objective.evaluate(plane, np.zeros((3, 2)))[:, 0]
    assert len(set(losses)) == 1
    assert objective._model.count == 0


@pytest.mark.parametrize("budget", [None, 0])
def test_loaders_draw_from_the_users_generators_without_a_trace(pair, budget):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    objective = gradvis.objective(
        net_without_seed(), DataLoader(TensorDataset(*pair), 8), "cross_entropy", data_budget=budget
    )
    objective.fingerprint()
    gradvis.loss_surface(objective, gradvis.random_plane(objective), resolution=2)
    assert torch.equal(torch.get_rng_state(), before)


def net_without_seed():
    with torch.random.fork_rng():
        return net()


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()

    def forward(self, inputs):
        return self.body(inputs), inputs


def test_a_model_of_two_outputs_is_refused(pair):
    with pytest.raises(ValueError, match="returns a tuple; pass batch_loss"):
        gradvis.objective(Twice(), pair, "cross_entropy")


@pytest.mark.parametrize("content", [b"", b"text, not tensors", b"PK\x03\x04 cut off"])
def test_files_that_hold_no_tensors_are_refused(pair, tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    objective = gradvis.objective(net(), pair, "cross_entropy")
    with pytest.raises(ValueError, match=r"loads without running code was wanted, but .*model.pt is not one, or"):
        objective.read(tmp_path / "model.pt")
