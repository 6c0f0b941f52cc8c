"""The loss of a torch module as a function of one flat vector; the module itself is never changed.

Parameters go in through `torch.func.functional_call`: they are views of one flat buffer, so that
a point of a plane is formed in place, once, and no state_dict is copied.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from gradvis.backends.pytorch.checkpoints import matched, read_tensors
from gradvis.backends.pytorch.compute import (
    Compiled,
    activation_bytes,
    call,
    channels_last,
    find_device,
    free_memory,
    micro_batch,
)
from gradvis.backends.pytorch.data import even, is_pair, load, sample_count, transfer
from gradvis.backends.pytorch.guard import seed_forward, untouched
from gradvis.backends.pytorch.layers import convolves_images, has_batch_norm, parameter_space
from gradvis.backends.pytorch.losses import LOSSES, Term, batch_sum, moments, term
from torch import Tensor, nn

from gradvis.arrays import Matrix, Values, Vector
from gradvis.objective import Objective, summarise
from gradvis.plane import Plane

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
_DATA_SHARE = 4  # a quarter of the free memory may hold data

T = TypeVar("T")


class TorchObjective(Objective):
    """A loss and metrics of a `torch.nn.Module` on fixed data.

    Args:
        model: Evaluated in evaluation mode, and found again as it was.
        data: See `gradvis.objective`.
        loss: A name, a torch function or loss module, or `f(outputs, targets)`.
        batch_loss: Instead of `loss`: `f(model, batch)`, returning per-item values, `(sum, count)`, or a
            mean together with `weight`.
        weight: Over how many items `batch_loss` took the mean of a batch, `f(batch)`.
        metrics: More of what `loss` can be, or `accuracy` and `error`; all come from one forward pass.
        batch_size: For data that has no batches of its own.
        micro_batch: How many samples go through the network at once; by a fixed rule where not given.
        batch_norm: `eval`: running statistics as stored.
        device: `cpu`, `cuda`, `cuda:N`, `mps`, or `auto`: an accelerator if there is one; the model's own
            where not given.
        dtype: `float32`, `float64`, or `bfloat16` (autocast of the forward pass); the model's own, at
            least float32, where not given.
        threads: Of each operation on a CPU, during calls; torch's own setting where not given.
        compile: Whether the forward pass of `evaluate` goes through `torch.compile`.
        include_frozen: Whether parameters that need no gradient are moved too.
        data_budget: Bytes of data kept on the device; this rank's share of a quarter of its free memory
            where not given.
        local: Which rank of this machine this is, and of how many: it picks its accelerator, and its
            share of memory.

    Raises:
        ValueError: If an option or the data does not fit; the message says what was wanted.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss: Any = None,
        *,
        batch_loss: Callable[[nn.Module, Any], Any] | None = None,
        weight: Callable[[Any], float] | None = None,
        metrics: Any = (),
        batch_size: int | None = None,
        micro_batch: int | None = None,
        batch_norm: str = "eval",
        device: str | torch.device | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        compile: bool = False,  # noqa: A002 - the contract's name
        include_frozen: bool = False,
        data_budget: int | None = None,
        local: tuple[int, int] = (0, 1),
    ) -> None:
        if (loss is None) == (batch_loss is None):
            raise ValueError("either loss or batch_loss was wanted, and not both; loss='cross_entropy', say")
        if batch_norm != "eval":
            raise ValueError(f"batch_norm must be 'eval', the stored statistics, but {batch_norm!r} came")
        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, but {dtype!r} came")
        self._model, self._batch_loss, self._weight = model, batch_loss, weight
        self.space, self._include_frozen = parameter_space(model, include_frozen), include_frozen
        self._state: Mapping[str, Tensor] | None = None
        self._units: Tensor | None = None
        self._device = find_device(device, local[0]) if device else next(model.parameters()).device
        self._dtype, self._amp = _DTYPES.get(dtype or "", _own_dtype(model)), dtype == "bfloat16"
        self._sum_dtype = torch.float32 if self._device.type == "mps" else torch.float64
        self._threads = threads
        self._compiled: Compiled | None = None
        self._placed: tuple[Plane, Tensor, list[Tensor]] | None = None
        self._loss_name, self._terms = self._read_terms(loss, metrics)
        budget = free_memory(self._device, local[1]) // _DATA_SHARE if data_budget is None else data_budget
        self._data = load(data, self._place, batch_size, budget, join=batch_loss is None)
        self.streamed = self._data.kept is None
        self._settle(micro_batch, compile)

    def _read_terms(self, loss: Any, metrics: Any) -> tuple[str, dict[str, Term]]:
        metrics = [metrics] if isinstance(metrics, str) or callable(metrics) else list(metrics)
        if self._batch_loss is None:
            name, first = term(loss, LOSSES)
            return name, {"loss": first, **dict(term(metric) for metric in metrics)}
        if metrics:
            raise ValueError("metrics are computed from the outputs, which batch_loss hides; leave one of them out")
        return getattr(self._batch_loss, "__name__", "batch_loss"), {}

    def _place(self, batch: Any) -> Any:
        moved = transfer(batch, self._device, self._dtype)
        if self._batch_loss is not None:
            return moved
        if not isinstance(moved, (tuple, list)) or len(moved) != 2:
            raise ValueError(
                f"each batch must be (inputs, targets), but a {type(batch).__name__} came; "
                "for other batches pass batch_loss=f(model, batch)"
            )
        return moved[0], _labels(moved[1])

    def _settle(self, micro: int | None, compile_it: bool) -> None:
        """Two samples go through once, which tells the columns, the layout that works and what a sample costs.

        Raises:
            ValueError: If batches that cannot be cut should be compiled for.
        """
        _, batch = next(iter(next(self._data.chunks())))
        pair = is_pair(batch)
        batch = (batch[0][:2], batch[1][:2]) if pair else batch
        size = sample_count(batch)
        with activation_bytes(size) as cost:
            sums = self._probe(batch)
        self.metrics = tuple(
            column
            for name, each in zip(self._terms or ["loss"], sums[:, 0, 0].tolist(), strict=True)
            for column in ((name, f"{name}_stderr") if each else (name,))
        )
        self._sample_bytes = cost()
        self._unit = "sample" if sums[0, 0, 0] == sums[0, 0, 1] else "unit"  # of a token, a pixel, a class weight
        self._images = self._batch_loss is None and convolves_images(self._model) and self._takes_channels_last(batch)
        if self._images:
            self._data = self._data.laid_out(_images_last)
        if pair:
            self._cut(micro or micro_batch(self._sample_bytes, self._device))
        if compile_it and self._data.micro is None:
            raise ValueError("compile needs batches that are pairs of tensors, cut to one size; these are not")
        self._compile = compile_it

    def _cut(self, micro: int) -> None:
        """Micro-batches of nearly one length, at most `micro`."""
        kept = self._data.kept
        if kept is not None and len(kept) == 1 and len(kept[0][0]) > micro:
            micro = even(len(kept[0][0]), micro)
        self._data = self._data.with_micro(micro)

    def _probe(self, batch: Any) -> Tensor:
        with torch.no_grad():
            flat = self._flat()
            sums: Tensor = self._inside(self._views(flat), lambda model: self._sums(model, 0, batch))
        return sums

    def _takes_channels_last(self, batch: Any) -> bool:
        """Code such as x.view(len(x), -1) takes only contiguous images."""
        try:
            self._probe(_images_last(batch))
        except RuntimeError:
            return False
        return True

    # ------------------------------------------------------------------ what it is

    @property
    def about(self) -> dict[str, Any]:
        return {
            "backend": "torch",
            "model": type(self._model).__name__,
            "loss": self._loss_name,
            "metrics": [name for name in self.metrics if not name.endswith("_stderr")],
            "dtype": "bfloat16" if self._amp else str(self._dtype).removeprefix("torch."),
            "samples": self._data.samples(),
            "unit": self._unit,
            "batch_norm": "eval" if has_batch_norm(self._model) else None,
            "include_frozen": self._include_frozen,
        }

    @property
    def how(self) -> dict[str, Any]:
        return {
            "device": str(self._device),
            "threads": self._threads or torch.get_num_threads(),
            "micro_batch": self._data.micro,
            "channels_last": self._images,
            "compile": self._compile,
        }

    def again(self, how: Mapping[str, Any]) -> TorchObjective:
        other = copy.copy(self)
        if how.get("micro_batch") and self._data.micro is not None:
            other._compiled = None
            other._data = self._data.with_micro(how["micro_batch"])
        return other

    def memory(self, k: int) -> int:
        points = (k + 2) * self.space.d * self._dtype.itemsize
        return points + self._data.nbytes() + (self._data.micro or 1) * self._sample_bytes

    def fingerprint(self) -> dict[str, str]:
        state = self._tensors()
        fixed = [name for name in state if name not in {block.name for block in self.space}]
        return {
            "parameters": _digest([block.name for block in self.space], state),
            "buffers": _digest(fixed, state),
            "data": self._data.digest(),
        }

    # ------------------------------------------------------------------ states

    def _tensors(self) -> Mapping[str, Tensor]:
        """Every parameter and buffer by its first name, as it stands now or as the checkpoint has it."""
        if self._state is not None:
            return self._state
        return {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}

    def _vector(self, tensors: Mapping[str, Tensor]) -> Vector:
        parts = [tensors[block.name].detach().to("cpu", self._dtype).reshape(-1) for block in self.space]
        return np.asarray(torch.cat(parts).numpy())

    def parameters(self) -> Vector:
        return self._vector(self._tensors())

    def _matched(self, checkpoint: Any) -> dict[str, Tensor]:
        wanted = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        absent = {name: value for name, value in wanted.items() if name not in self._model.state_dict()}
        return matched({**absent, **read_tensors(checkpoint)}, wanted)

    def read(self, checkpoint: Any) -> Vector:
        return self._vector(self._matched(checkpoint))

    def at(self, checkpoint: Any) -> TorchObjective:
        other = copy.copy(self)
        other._state = {name: value.detach().clone() for name, value in self._matched(checkpoint).items()}
        return other

    def shard(self, index: int, count: int) -> TorchObjective:
        if not 0 <= index < count:
            raise ValueError(f"a shard is numbered 0 to {count - 1}, but {index} came")
        other = copy.copy(self)
        other._units = self._count_units() if self._units is None else self._units
        other._data = self._data.shard(index, count)
        return other

    # ------------------------------------------------------------------ computing

    def _flat(self, theta: Vector | None = None) -> Tensor:
        return torch.tensor(self.parameters() if theta is None else theta, dtype=self._dtype, device=self._device)

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        return {block.name: flat[block.slice].view(block.shape) for block in self.space}

    def _inside(self, views: Mapping[str, Tensor], run: Callable[[nn.Module], T]) -> T:
        """Call `run` with the model while it has these parameters, and copies of the buffers to write to."""
        rest = {
            name: value.detach().to(self._device, self._dtype if value.is_floating_point() else None, copy=True)
            for name, value in self._tensors().items()
            if name not in views
        }
        with untouched(self._model, self._threads):
            host = _Host(self._model)
            state = {f"model.{name}": value for name, value in {**rest, **views}.items()}
            result: T = torch.func.functional_call(host, state, (run,))
        return result

    def _sums(self, model: nn.Module, index: int, batch: Any, forward: Any = None) -> Tensor:
        """Moments of every term over one micro-batch, (q, 3, 3)."""
        seed_forward(index)
        amp = torch.autocast(self._device.type, torch.bfloat16) if self._amp else nullcontext()
        with amp:
            if self._batch_loss is not None:
                return self._batch_sums(self._batch_loss(model, batch), batch)[None]
            inputs, targets = batch
            outputs = call(forward or model, inputs)
        outputs = outputs.to(self._dtype) if self._amp else outputs
        size = sample_count(batch)
        sums = [moments(*each(outputs, targets), size, self._sum_dtype) for each in self._terms.values()]
        return torch.stack(sums)

    def _batch_sums(self, result: Any, batch: Any) -> Tensor:
        if isinstance(result, tuple):
            total, units = result
            return batch_sum(total, units, self._sum_dtype)
        if result.ndim:
            return moments(result, None, len(result), self._sum_dtype)
        if self._weight is None:
            raise ValueError("batch_loss returned a mean; say over how many items with weight=f(batch)")
        return batch_sum(result * self._weight(batch), self._weight(batch), self._sum_dtype)

    def evaluate(self, plane: Plane, coords: Values) -> Values:
        """See `Objective.evaluate`; every point of a loaded batch is evaluated before the next is loaded."""
        where = np.asarray(coords, np.float64).reshape(len(coords), plane.k).tolist()
        origin, steps = self._place_plane(plane)
        flat = torch.empty_like(origin)

        def run(model: nn.Module) -> Tensor:
            forward = self._forward(model)
            sums = torch.zeros(len(where), len(self._terms) or 1, 3, 3, dtype=self._sum_dtype, device=self._device)
            for chunk in self._data.chunks():
                for point, at in enumerate(where):
                    _form(flat, origin, steps, at)
                    for index, batch in chunk:
                        sums[point] += self._sums(model, index, batch, forward)
            return sums

        with torch.no_grad():
            sums = self._inside(self._views(flat), run).cpu().numpy()
        return self._columns(sums)

    def _place_plane(self, plane: Plane) -> tuple[Tensor, list[Tensor]]:
        """Origin and directions on the device; they stay there until another plane comes."""
        if self._placed is None or self._placed[0] is not plane:
            origin = self._flat(self.space.check(plane.origin))
            self._placed = plane, origin, [self._flat(direction) for direction in plane.directions]
        return self._placed[1], self._placed[2]

    def _forward(self, model: nn.Module) -> Any:
        if not self._compile:
            return None
        if self._compiled is None:
            self._compiled = Compiled(model, self._data.micro or 1)
        return self._compiled

    def _columns(self, sums: Values) -> Values:
        rows, columns = np.array([(0, 0), (0, 1), (0, 2), (2, 2), (1, 2), (1, 1)]).T
        means, spreads = summarise(sums[..., rows, columns])
        found = []
        for index, name in enumerate(self._terms or ["loss"]):
            found.append(means[:, index])
            if f"{name}_stderr" in self.metrics:
                found.append(spreads[:, index])
        return np.stack(found, axis=1)

    def _batches(self) -> Iterable[tuple[int, Any]]:
        return (numbered for chunk in self._data.chunks() for numbered in chunk)

    def _count_units(self) -> Tensor:
        """Over how many samples, tokens or pixels the whole mean goes."""
        with torch.no_grad():
            return self._inside(
                self._views(self._flat()),
                lambda model: sum((self._sums(model, *each)[0, 0, 1] for each in self._batches()), torch.zeros(())),
            )

    def _accumulate(self, theta: Vector, rows: int, product: Callable[[Tensor, Tensor], Tensor]) -> Matrix:
        """Sum `product(loss over a micro-batch, theta)` over them all, (rows, d), and divide by the units."""
        flat = self._flat(self.space.check(theta)).requires_grad_()

        def run(model: nn.Module) -> tuple[Tensor, Tensor]:
            total, units = torch.zeros(rows, self.space.d, dtype=self._dtype, device=self._device), torch.zeros(())
            for index, batch in self._batches():
                sums = self._sums(model, index, batch)[0]
                units = units + sums[0, 1].detach().cpu()
                total += product(sums[0, 2], flat)
            return total, units

        with torch.enable_grad():
            total, units = self._inside(self._views(flat), run)
        mean: Matrix = (total / (units if self._units is None else self._units).item()).cpu().numpy()
        return mean

    def gradient(self, theta: Vector) -> Vector:
        return self._accumulate(theta, 1, lambda loss, flat: _grad(loss, flat)[None])[0]

    def hvp(self, theta: Vector, vectors: Matrix, operator: str = "hessian") -> Matrix:
        """See `Objective.hvp`; the graph of the first gradient is kept for all vectors (Pearlmutter 1994).

        Raises:
            ValueError: If the operator is another.
        """
        if operator != "hessian":
            raise ValueError(f"operator must be 'hessian', but {operator!r} came")
        along = torch.as_tensor(np.asarray(vectors), dtype=self._dtype, device=self._device)

        def product(loss: Tensor, flat: Tensor) -> Tensor:
            first = _grad(loss, flat, create_graph=True)
            return torch.stack([_grad(first, flat, vector, retain_graph=True) for vector in along])

        return self._accumulate(theta, len(along), product)


class _Host(nn.Module):
    """Lets a whole loop run inside one `functional_call`, which swaps parameters once instead of once a batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[nn.Module], T]) -> T:
        return run(self.model)


def _form(flat: Tensor, origin: Tensor, steps: list[Tensor], at: list[float]) -> None:
    """Set flat to origin + sum of at_i steps_i, in place."""
    flat.copy_(origin)
    for step, length in zip(steps, at, strict=True):
        flat.add_(step, alpha=length)


def _grad(value: Tensor, flat: Tensor, along: Tensor | None = None, **options: bool) -> Tensor:
    """The derivative; zero where the value does not depend on flat."""
    if not value.requires_grad:
        return torch.zeros_like(flat)
    return torch.autograd.grad(value, flat, along, materialize_grads=True, allow_unused=True, **options)[0]


def _labels(targets: Any) -> Any:
    """Classes as torch wants them: int64."""
    small = isinstance(targets, Tensor) and not targets.is_floating_point() and not targets.is_complex()
    return targets.long() if small else targets


def _images_last(batch: Any) -> Any:
    return channels_last(batch[0]), batch[1]


def _own_dtype(model: nn.Module) -> torch.dtype:
    wide = any(value.dtype == torch.float64 for value in model.parameters())
    return torch.float64 if wide else torch.float32


def _digest(names: list[str], tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for name in names:
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
