"""The loss of a torch module as a function of one flat vector; the module itself is never changed.

Parameters go in through `torch.func.functional_call`: they are views of one flat buffer, so that
a point of a plane is formed in place, once, and no state_dict is copied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradvis.arrays import Matrix, Values, Vector
from gradvis.backends.pytorch.compute import (
    Compiled,
    activation_bytes,
    derivative,
    find_device,
    form,
    free_memory,
    images_last,
)
from gradvis.backends.pytorch.compute import (
    micro_batch as fitting,
)
from gradvis.backends.pytorch.criterion import Criterion
from gradvis.backends.pytorch.data import even, is_pair, labels, load, sample_count, transfer
from gradvis.backends.pytorch.guard import generators_kept
from gradvis.backends.pytorch.layers import convolves_images, has_batch_norm, own_dtype, parameter_space
from gradvis.backends.pytorch.state import Run, State
from gradvis.objective import Objective, summarise
from gradvis.plane import Plane

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
_DATA_SHARE = 4  # a quarter of the free memory may hold data


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
        if batch_norm != "eval":
            raise ValueError(f"batch_norm must be 'eval', the stored statistics, but {batch_norm!r} came")
        if dtype is not None and dtype not in _DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, but {dtype!r} came")
        self._model, self._threads, self._amp = model, threads, dtype == "bfloat16"
        self.space, self._include_frozen = parameter_space(model, include_frozen), include_frozen
        place = find_device(device, local[0]) if device else next(model.parameters()).device
        self._state = State(model, self.space, place, _DTYPES.get(dtype or "", own_dtype(model)))
        self._criterion = Criterion(
            loss, batch_loss, weight, metrics, dtype=self._state.dtype, amp=self._amp, device=place
        )
        budget = free_memory(place, local[1]) // _DATA_SHARE if data_budget is None else data_budget
        with generators_kept(), torch.inference_mode(False):
            self._data = load(data, self._place, batch_size, budget, join=self._criterion.sees_outputs)
            self._settle(micro_batch, compile)
        self.streamed = self._data.kept is None
        self._units: float | None = None
        self._compiled: Compiled | None = None
        self._placed: tuple[Plane, Tensor, list[Tensor]] | None = None

    def _place(self, batch: Any) -> Any:
        """To the device, in the dtype; classes as torch wants them.

        Raises:
            ValueError: If a loss of outputs and targets could not tell them apart in it.
        """
        moved = transfer(batch, self._state.device, self._state.dtype)
        if not self._criterion.sees_outputs:
            return moved
        if not isinstance(moved, (tuple, list)) or len(moved) != 2:
            raise ValueError(
                f"each batch must be (inputs, targets), but a {type(batch).__name__} came; "
                "for other batches pass batch_loss=f(model, batch)"
            )
        return moved[0], labels(moved[1])

    def _settle(self, micro: int | None, compile_it: bool) -> None:
        """Two samples go through once, which tells the columns, the layout that works and what a sample costs.

        Raises:
            ValueError: If batches that cannot be cut should be compiled for.
        """
        _, batch = next(iter(next(self._data.chunks())))
        pair = is_pair(batch) and self._criterion.sees_outputs
        batch = self._place((batch[0][:2], batch[1][:2]) if pair else batch)  # a copy: the model may write to it
        with activation_bytes(sample_count(batch)) as cost:
            sums = self._probe(batch)
        self._sample_bytes = cost()
        self._unit = "sample" if sums[0, 0, 0] == sums[0, 0, 1] else "unit"  # a token, a pixel, a class weight
        self.metrics = tuple(
            column
            for name, samples in zip(self._criterion.names, sums[:, 0, 0].tolist(), strict=True)
            for column in ((name, f"{name}_stderr") if samples else (name,))
        )
        # Compiled kernels are faster on contiguous images, torch's own on channels-last ones.
        wanted = pair and not compile_it and convolves_images(self._model)
        self._images = wanted and self._takes_channels_last(batch)
        if self._images:
            self._data = self._data.laid_out(images_last)
        if pair:
            self._data = replace(self._data, micro=self._even(micro or fitting(self._sample_bytes, self._state.device)))
        elif compile_it:
            raise ValueError("compile needs batches that are pairs of tensors, cut to one size; these are not")
        self._compile = compile_it

    def _even(self, micro: int) -> int:
        """Pieces of nearly one length where all the data lies together."""
        kept = self._data.kept
        together = kept is not None and len(kept) == 1
        return even(sample_count(kept[0]), micro) if together else micro  # type: ignore[index]

    def _probe(self, batch: Any) -> Tensor:
        with torch.no_grad():
            return self._inside(self._state.flat(), lambda model, _: self._criterion.sums(model, 0, batch, first=True))

    def _takes_channels_last(self, batch: Any) -> bool:
        """Code such as x.view(len(x), -1) takes only contiguous images."""
        try:
            self._probe(images_last(batch))
        except RuntimeError:
            return False
        return True

    def _inside(self, flat: Tensor, run: Run[Tensor]) -> Tensor:
        return self._state.inside(flat, run, self._threads)

    @property
    def about(self) -> dict[str, Any]:
        return {
            "backend": "torch",
            "model": type(self._model).__name__,
            "loss": self._criterion.name,
            "metrics": list(self._criterion.names),
            "dtype": "bfloat16" if self._amp else str(self._state.dtype).removeprefix("torch."),
            "samples": self._data.samples(),
            "unit": self._unit,
            "batch_norm": "eval" if has_batch_norm(self._model) else None,
            "include_frozen": self._include_frozen,
            "compile": self._compile,
        }

    @property
    def how(self) -> dict[str, Any]:
        return {
            "device": str(self._state.device),
            "threads": self._threads or torch.get_num_threads(),
            "micro_batch": self._data.micro,
            "channels_last": self._images,
        }

    def again(self, how: Mapping[str, Any]) -> TorchObjective:
        other = copy.copy(self)
        if how.get("micro_batch") and self._data.micro is not None:
            other._compiled, other._data = None, replace(self._data, micro=how["micro_batch"])
        return other

    def memory(self, k: int) -> int:
        points = (k + 2) * self.space.d * self._state.dtype.itemsize
        return points + self._data.nbytes() + (self._data.micro or 1) * self._sample_bytes

    def fingerprint(self) -> dict[str, str]:
        with generators_kept():
            return {**self._state.fingerprint(), "data": self._data.digest()}

    def parameters(self) -> Vector:
        return self._state.vector(self._state.tensors())

    def read(self, checkpoint: Any) -> Vector:
        return self._state.vector(self._state.of(checkpoint))

    def at(self, checkpoint: Any) -> TorchObjective:
        other = copy.copy(self)
        other._state = replace(self._state, checkpoint=self._state.of(checkpoint))
        return other

    def shard(self, index: int, count: int) -> TorchObjective:
        if not 0 <= index < count:
            raise ValueError(f"a shard is numbered 0 to {count - 1}, but {index} came")
        other = copy.copy(self)
        other._units = self._count_units() if self._units is None else self._units
        other._data = self._data.shard(index, count)
        return other

    def evaluate(self, plane: Plane, coords: Values) -> Values:
        """See `Objective.evaluate`; every point of a loaded batch is evaluated before the next is loaded."""
        where = np.asarray(coords, np.float64).reshape(len(coords), plane.k).tolist()
        origin, steps = self._place_plane(plane)
        flat = torch.empty_like(origin)
        size = len(where), len(self._criterion.names), 3, 3

        def run(model: nn.Module, reset: Callable[[], None]) -> Tensor:
            forward = self._forward(model)
            sums = torch.zeros(size, dtype=self._criterion.sum_dtype, device=flat.device)
            for chunk in self._data.chunks():
                for point, at in enumerate(where):
                    form(flat, origin, steps, at)
                    reset()
                    for index, batch in chunk:
                        sums[point] += self._criterion.sums(model, index, batch, forward)
            return sums

        with torch.no_grad():
            sums = self._inside(flat, run)
        return self._columns(sums.cpu().numpy())

    def _place_plane(self, plane: Plane) -> tuple[Tensor, list[Tensor]]:
        """Origin and directions on the device; they stay there until another plane comes."""
        if self._placed is None or self._placed[0] is not plane:
            origin = self._state.flat(self.space.check(plane.origin))
            self._placed = plane, origin, [self._state.flat(direction) for direction in plane.directions]
        return self._placed[1], self._placed[2]

    def _forward(self, model: nn.Module) -> Compiled | None:
        if self._compile and self._compiled is None:
            self._compiled = Compiled(model, self._data.micro or 1)
        return self._compiled

    def _columns(self, sums: Values) -> Values:
        """From moments, (n, terms, 3, 3), to metrics and standard errors, (n, q)."""
        rows, columns = np.array([(0, 0), (0, 1), (0, 2), (2, 2), (1, 2), (1, 1)]).T
        means, spreads = summarise(sums[..., rows, columns])
        names = [name for term in self._criterion.names for name in (term, f"{term}_stderr")]
        both = np.stack([means, spreads], axis=-1).reshape(len(sums), len(names))
        return both[:, [names.index(name) for name in self.metrics]]

    def _batches(self) -> Iterator[tuple[int, Any]]:
        return (numbered for chunk in self._data.chunks() for numbered in chunk)

    def _count_units(self) -> float:
        """Over how many samples, tokens or pixels the whole mean goes."""

        def run(model: nn.Module, _: Callable[[], None]) -> Tensor:
            return torch.stack([self._criterion.sums(model, *each)[0, 0, 1] for each in self._batches()]).sum()

        with torch.no_grad():
            return float(self._inside(self._state.flat(), run))

    def _accumulate(self, theta: Vector, rows: int, product: Callable[[Tensor, Tensor], Tensor]) -> Matrix:
        """Sum `product(loss over a micro-batch, theta)` over them all, (rows, d), and divide by the units."""
        self.space.check(theta)
        units = 0.0

        def run(model: nn.Module, _: Callable[[], None]) -> Tensor:
            nonlocal units
            total = torch.zeros(rows, self.space.d, dtype=flat.dtype, device=flat.device)
            for index, batch in self._batches():
                sums = self._criterion.sums(model, index, batch)[0]
                units += float(sums[0, 1].detach())
                total += product(sums[0, 2], flat)
            return total

        with torch.inference_mode(False), torch.enable_grad():
            flat = self._state.flat(theta).requires_grad_()
            total = self._inside(flat, run)
        mean: Matrix = (total / (units if self._units is None else self._units)).cpu().numpy()
        return mean

    def gradient(self, theta: Vector) -> Vector:
        return self._accumulate(theta, 1, lambda loss, flat: derivative(loss, flat)[None])[0]

    def hvp(self, theta: Vector, vectors: Matrix, operator: str = "hessian") -> Matrix:
        """See `Objective.hvp`; the graph of the first gradient is kept for all vectors (Pearlmutter 1994).

        Raises:
            ValueError: If the operator is another.
        """
        if operator != "hessian":
            raise ValueError(f"operator must be 'hessian', but {operator!r} came")
        along = torch.as_tensor(np.asarray(vectors), dtype=self._state.dtype, device=self._state.device)

        def product(loss: Tensor, flat: Tensor) -> Tensor:
            first = derivative(loss, flat, create_graph=True)
            return torch.stack([derivative(first, flat, vector, retain_graph=True) for vector in along])

        return self._accumulate(theta, len(along), product)
