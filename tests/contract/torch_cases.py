"""Torch modules for the contract suite; the references use a deep copy of the module and plain autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import gradvis
from gradvis.objective import Objective
from tests.contract.cases import BATCH, CLASSES, SAMPLES, Network, common_state


class Dense(Network):
    pattern = "0.*"
    operators = ("hessian", "ggn", "fisher")
    loss = "cross_entropy"

    def __init__(self, dtype: str = "float64") -> None:
        self.dtype = dtype
        self.labelled(4)
        self.model = self.build(1)
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, 0.5)

    def build(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.layers().train()

    def layers(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(4, 5), nn.Tanh(), nn.LayerNorm(5), nn.Dropout(0.5), nn.Linear(5, CLASSES),
        )  # fmt: skip

    def objective(self, **options: Any) -> Objective:
        standard = {
            "loss": self.loss, "metrics": list(self.metrics), "batch_size": BATCH, "micro_batch": BATCH,
            "dtype": self.dtype,
        }  # fmt: skip
        return gradvis.objective(self.model, (self.inputs, self.targets), **{**standard, **options})

    def twin(self, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        twin = copy.deepcopy(self.model)
        twin.load_state_dict(self.model.state_dict() if state is None else state)
        return twin.to(torch.float64).eval()

    def moved(self, module: nn.Module) -> dict[str, nn.Parameter]:
        return {name: value for name, value in module.named_parameters() if value.requires_grad}

    def logits(self, twin: nn.Module, theta: Tensor) -> Tensor:
        moved = self.moved(twin)
        pieces = theta.split([value.numel() for value in moved.values()])
        values = {name: piece.view(value.shape) for (name, value), piece in zip(moved.items(), pieces, strict=True)}
        return torch.func.functional_call(twin, values, (torch.tensor(self.inputs),))

    def per_sample(self, logits: Tensor) -> Tensor:
        return logits.logsumexp(1) - logits.gather(1, torch.tensor(self.targets)[:, None])[:, 0]

    def values(self, theta: np.ndarray, state: Mapping[str, Tensor] | None = None) -> Mapping[str, np.ndarray]:
        logits = self.logits(self.twin(state), torch.tensor(theta, dtype=torch.float64)).detach()
        hits = logits.numpy().argmax(1) == self.targets
        return {"loss": self.per_sample(logits).numpy(), "accuracy": hits.astype(float)}

    def mean(self) -> Callable[[Tensor], Tensor]:
        twin = self.twin()
        return lambda theta: self.per_sample(self.logits(twin, theta)).mean()

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        return torch.func.grad(self.mean())(torch.tensor(theta)).detach().numpy()

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """Not by `torch.func.hessian`: for LayerNorm its result is not even symmetric (seen with torch 2.13)."""
        return torch.autograd.functional.hessian(self.mean(), torch.tensor(theta)).numpy()

    def dense(self, operator: str, theta: np.ndarray) -> np.ndarray:
        """J' H J (Schraudolph 2002), and the mean of g g' over samples."""
        if operator == "hessian":
            return self.hessian(theta)
        twin, at = self.twin(), torch.tensor(theta)
        with sdpa_kernel(SDPBackend.MATH):
            logits = self.logits(twin, at).detach()
            slopes = torch.autograd.functional.jacobian(lambda at: self.per_sample(self.logits(twin, at)), at)
            inner = torch.autograd.functional.jacobian(lambda at: self.logits(twin, at), at).flatten(0, 1)
        if operator == "fisher":
            return (slopes.T @ slopes / SAMPLES).numpy()
        outer = torch.autograd.functional.hessian(lambda logits: self.per_sample(logits).mean(), logits)
        return (inner.T @ outer.reshape(len(inner), -1) @ inner).numpy()

    def elsewhere(self) -> tuple[Any, np.ndarray, Mapping[str, np.ndarray]]:
        other = self.build(3)
        for buffer in other.buffers():
            buffer += 1
        state = other.state_dict()
        theta = torch.cat([value.detach().reshape(-1) for value in self.moved(other).values()]).double().numpy()
        return state, theta, self.values(theta, state)

    def snapshot(self) -> dict[str, Any]:
        return {
            **common_state(),
            "torch": torch.get_rng_state().numpy().tobytes(),
            "tensors": {name: value.numpy().tobytes() for name, value in self.model.state_dict().items()},
            "identities": [id(value) for value in (*self.model.parameters(), *self.model.buffers())],
            "modes": [layer.training for layer in self.model.modules()],
            "wanted": [value.requires_grad for value in self.model.parameters()],
            "grads": [None if p.grad is None else p.grad.numpy().tobytes() for p in self.model.parameters()],
            "threads": torch.get_num_threads(),
            "recording": torch.is_grad_enabled(),
            "precision": (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32),
            "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
            "dtype": torch.get_default_dtype(),
        }

    def borrow(self, other: Network) -> None:
        self.model.double().load_state_dict(other.model.state_dict())

    def losing(self, fails: Callable[[int], bool]) -> Callable[[Any, Any], Any]:
        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            if fails(len(outputs)):
                raise ArithmeticError("no loss today")
            return (outputs**2).sum(1)

        return loss

    def move(self, part: str) -> None:
        tensors = list(self.model.parameters() if part == "parameters" else self.model.buffers())
        with torch.no_grad():
            next(tensor for tensor in tensors if tensor.is_floating_point()).add_(1)


class _Net(nn.Module):
    """Batch norm, one weight under two names, a frozen layer and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.frozen, self.unused = nn.Linear(2, 4).requires_grad_(False), nn.Linear(3, 2)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(4, CLASSES)
        self.norm.running_mean += 0.3
        self.norm.running_var *= 2.5
        self.drop.eval()  # modes differ from layer to layer: each must come back

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.last(self.drop(self.frozen(torch.tanh(self.second(torch.tanh(self.first(x)))))))


class Conv(Dense):
    """Targets are probabilities."""

    pattern = "*weight"

    def __init__(self, dtype: str = "float64") -> None:
        super().__init__(dtype)
        self.labelled(1, 5, 5)
        self.classes, self.targets = self.targets, np.eye(CLASSES)[self.targets]

    def build(self, seed: int) -> nn.Module:
        model = super().build(seed)
        model.drop.eval()
        return model

    def layers(self) -> nn.Module:
        return _Net()

    def per_sample(self, logits: Tensor) -> Tensor:
        return logits.logsumexp(1) - (logits * torch.tensor(self.targets)).sum(1)

    def values(self, theta: np.ndarray, state: Mapping[str, Tensor] | None = None) -> Mapping[str, np.ndarray]:
        logits = self.logits(self.twin(state), torch.tensor(theta, dtype=torch.float64)).detach()
        hits = logits.numpy().argmax(1) == self.classes
        return {"loss": self.per_sample(logits).numpy(), "accuracy": hits.astype(float)}


class _Everything(nn.Module):
    """What makes trouble, in one: shared, frozen and unused weights, too; inputs are (b, 3, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.batch_norm = nn.Embedding(2, 2), nn.BatchNorm1d(2)
        self.attention = nn.MultiheadAttention(2, 2, dropout=0.3, batch_first=True)
        self.layer_norm, self.group_norm = nn.LayerNorm((3, 2)), nn.GroupNorm(1, 2)
        self.lstm = nn.LSTM(2, 2, batch_first=True)
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.frozen, self.unused = nn.Linear(2, 4).requires_grad_(False), nn.Linear(3, 2)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(4, CLASSES)
        self.batch_norm.running_mean += 0.3
        self.batch_norm.running_var *= 2.5

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.embedding((x[..., 0] > 0).long())
        x = self.batch_norm(x.mT).mT
        x = self.layer_norm(x + self.attention(x, x, x, need_weights=False)[0])
        x = self.group_norm(self.lstm(x)[0].mT).mean(2)
        return self.last(self.drop(self.frozen(torch.tanh(self.second(torch.tanh(self.first(x)))))))


class Everything(Dense):
    pattern = "lstm.*"

    def __init__(self, dtype: str = "float64") -> None:
        super().__init__(dtype)
        self.labelled(3, 2)

    def layers(self) -> nn.Module:
        return _Everything()

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        at = torch.tensor(theta, requires_grad=True)
        return torch.autograd.grad(self.mean()(at), at, materialize_grads=True)[0].numpy()

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        with sdpa_kernel(SDPBackend.MATH):
            return super().hessian(theta)


class Regression(Dense):
    """Several outputs a sample: each mean is over them, then over samples."""

    pattern = "*.bias"
    loss = "mse"
    metrics = ("mae",)

    def __init__(self, dtype: str = "float64") -> None:
        super().__init__(dtype)
        self.targets = np.random.default_rng(6).normal(size=(SAMPLES, CLASSES))

    def per_sample(self, logits: Tensor) -> Tensor:
        return F.mse_loss(logits, torch.tensor(self.targets), reduction="none").mean(1)

    def values(self, theta: np.ndarray, state: Mapping[str, Tensor] | None = None) -> Mapping[str, np.ndarray]:
        logits = self.logits(self.twin(state), torch.tensor(theta, dtype=torch.float64)).detach()
        return {"loss": self.per_sample(logits).numpy(), "mae": np.abs(logits.numpy() - self.targets).mean(1)}
