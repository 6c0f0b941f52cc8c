"""The loss of a torch module as a function of one flat vector; the module itself is never changed.

Parameters go in through `torch.func.functional_call`: they are views of one flat buffer, so that
a point of a plane is formed in place, once, and no state_dict is copied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradvis.arrays import Values, Vector
from gradvis.backends.columns import in_words, table
from gradvis.backends.given import check_dtype, check_shard
from gradvis.backends.policies import check_divisible, chosen_policy, on_plane
from gradvis.backends.pytorch.batch import piece, placed
from gradvis.backends.pytorch.compute import Compiled, find_device, free_memory, images_last
from gradvis.backends.pytorch.criterion import Criterion
from gradvis.backends.pytorch.data import divisible, is_pair, load, sample_count
from gradvis.backends.pytorch.derivatives import Derivatives
from gradvis.backends.pytorch.first import first_look, functional
from gradvis.backends.pytorch.guard import generators_kept
from gradvis.backends.pytorch.layers import batch_norms, mixes_batch, own_dtype, parameter_space
from gradvis.backends.pytorch.norms import put
from gradvis.backends.pytorch.operators import Chosen
from gradvis.backends.pytorch.passes import Walk, one_by_one, recalibrated, together
from gradvis.backends.pytorch.state import State
from gradvis.backends.pytorch.ways import first_way
from gradvis.backends.room import DATA_SHARE, POINTS, TOGETHER, fastest, pays_together, sizes_near
from gradvis.backends.room import micro_batch as fitting
from gradvis.objective import Reader
from gradvis.plane import Plane
from gradvis.provenance import digest

_WIDE = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}  # points, whatever the forward
_ROWS, _COLUMNS = np.array([(0, 0), (0, 1), (0, 2), (2, 2), (1, 2), (1, 1)]).T  # where `summarise` finds its six sums


class TorchObjective(Derivatives):
    """A loss and metrics of a `torch.nn.Module` on fixed data.

    Args:
        model: Evaluated in evaluation mode, and found again as it was.
        data: See `gradvis.objective`.
        loss: A name, a torch function or loss module, or `f(outputs, targets)`.
        batch_loss: Instead of `loss`: `f(model, batch)`, returning per-item values, `(sum, count)` of the
            batch or, for standard errors, of each sample, or a mean together with `weight`.
        weight: Over how many items `batch_loss` took the mean of a batch, `f(batch)`.
        unit: What the mean of the loss goes over, in words (`token`, `pixel`), where that is not the sample.
        metrics: More of what `loss` can be, or `accuracy` and `error`; all come from one forward pass.
        batch_size: For data that has no batches of its own.
        micro_batch: How many samples go through the network at once; by a fixed rule where not given.
        batch_norm: `eval`: running statistics as stored. `batch`: those of each batch; the batches are
            then part of the function, and are never cut. `recalibrate`: at every point one pass over the data
            makes new ones (see `backends.pytorch.norms`); for surfaces only. Where not given, `eval`; on
            planes through several checkpoints `recalibrate`.
        device: `cpu`, `cuda`, `cuda:N`, `mps`, or `auto`: an accelerator if there is one; the model's own
            where not given.
        dtype: `float32`, `float64`, or `bfloat16` (autocast of the forward pass); the model's own, at
            least float32, where not given.
        threads: Of each operation on a CPU, during calls; torch's own setting where not given.
        compile: Whether the forward pass of `evaluate` goes through `torch.compile`.
        samples: How many of the data's samples to take, a fixed subset of them.
        filters: Which axes count the filters of a weight, by globs of names: see `layers.parameter_space`.
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
        unit: str | None = None,
        metrics: Any = (),
        batch_size: int | None = None,
        micro_batch: int | None = None,
        batch_norm: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        compile: bool = False,  # noqa: A002 - the contract's name
        samples: int | None = None,
        filters: Mapping[str, int | tuple[int, ...]] | None = None,
        include_frozen: bool = False,
        data_budget: int | None = None,
        local: tuple[int, int] = (0, 1),
    ) -> None:
        check_dtype(dtype)
        self._model, self._threads, self._amp, self._unit = model, threads, dtype == "bfloat16", unit
        self.space, self._include_frozen = parameter_space(model, include_frozen, filters), include_frozen
        self._norms = [layer for layer in batch_norms(model) if layer.running_mean is not None]
        self._mixes = mixes_batch(model)
        self._asked, self._policy = batch_norm, chosen_policy(batch_norm, bool(self._norms), self._mixes)
        place = find_device(device, local[0]) if device is not None else next(model.parameters()).device
        self._state = State(model, self.space, place, _WIDE.get(dtype or "", own_dtype(model)))
        self._criterion = Criterion(
            loss, batch_loss, weight, metrics, dtype=self._state.dtype, amp=self._amp, device=place
        )
        self._room = free_memory(place, local[1]) // DATA_SHARE
        budget = self._room if data_budget is None else data_budget
        with generators_kept(), torch.inference_mode(False):
            join = self._criterion.sees_outputs and not self._batches_count
            put = partial(placed, device=place, dtype=self._state.dtype, pairs=self._criterion.sees_outputs)
            self._data = load(data, put, batch_size, budget, join, samples)
            self._settle(micro_batch, compile)
        self.streamed = self._data.kept is None
        self._chosen = Chosen(first_way(model))
        self._placed: tuple[Plane, Tensor, list[Tensor]] | None = None

    @property
    def _batches_count(self) -> bool:
        """Whether the batches are part of the function, so that none may be cut."""
        return self._mixes or self._policy == "batch"

    @property
    def _sizes_count(self) -> bool:
        """Whether it matters how many samples each batch has."""
        return self._batches_count or self._policy == "recalibrate"

    def _settle(self, micro: int | None, compile_it: bool) -> None:
        """Two samples go through once; what they tell, and fixed rules, say how the rest is computed.

        Raises:
            ValueError: If batches that cannot be cut should be compiled for.
        """
        _, batch = next(iter(next(self._data.chunks())))
        sees = self._criterion.sees_outputs
        cuttable = sees and divisible(batch)
        pair = cuttable and is_pair(batch)
        if compile_it and not pair:
            raise ValueError("compile needs batches that are pairs of tensors, cut to one size; these are not")
        batch = self._data.place(piece(batch, 0, 2) if cuttable else batch)  # a copy: the model may write to it
        # Compiled kernels are faster on contiguous images, torch's own on channels-last ones.
        self._look = first_look(self._state, self._criterion, batch, self._threads, free=pair and not compile_it)
        if sees:
            self._data = self._data.checked(self._criterion.check)
        self._compiled, self.metrics = Compiled(self._model) if compile_it else None, self._look.metrics
        if self._look.images:
            self._data = self._data.laid_out(images_last)
        if cuttable and not self._batches_count:
            rule = fitting(self._look.sample_bytes, on_cpu=self._state.device.type == "cpu")
            self._data = replace(self._data, micro=self._even(micro or rule))
        self._most = POINTS if self._look.together and not self._batches_count else 1
        self.points = self._most if pays_together(self.space.d, self._data.samples()) else 1

    @property
    def about(self) -> dict[str, Any]:
        return {
            "backend": "torch",
            "model": type(self._model).__name__,
            "loss": self._criterion.name,
            "metrics": list(self._criterion.names),
            "dtype": "bfloat16" if self._amp else str(self._state.dtype).removeprefix("torch."),
            **self._data.about(),
            "unit": self._unit or self._look.unit,
            "batch_norm": self._policy,
            **({"batches": in_words(self._data.lengths() or []) or None} if self._sizes_count else {}),
            "include_frozen": self._include_frozen,
            "compile": self._compiled is not None,
        }

    @property
    def how(self) -> dict[str, Any]:
        return {
            "device": str(self._state.device),
            "threads": self._threads or torch.get_num_threads(),
            "micro_batch": self._data.micro,
            "points": self.points,
            "channels_last": self._look.images,
            "product": self._chosen.way,
            "product_micro_batch": self._product_micro(TOGETHER),
        }

    def again(self, how: Mapping[str, Any]) -> TorchObjective:
        other = copy.copy(self)
        if how.get("micro_batch") and self._data.micro is not None:
            other._data = replace(self._data, micro=how["micro_batch"])
        other.points = how.get("points", self.points)
        other._chosen = self._chosen.again(how)
        return other

    def tune(self, plane: Plane) -> Mapping[str, Any]:
        """See `Objective.tune`; times some sizes of micro-batches, and of groups of points where those are had."""
        if self._data.micro is None or self._compiled is not None:
            return self.how
        micros = sizes_near(self._data.micro)
        ways = [{"micro_batch": micro, "points": points} for micro in micros for points in {1, self._most}]
        best = fastest(ways, lambda way: self.again(way).evaluate(plane, np.zeros((self._most, plane.k))))
        return self.again(best).how

    def on(self, plane: Plane) -> TorchObjective:
        """See `Objective.on`, and `policies.on_plane`."""
        here, policy = on_plane(self, plane, free=bool(self._norms) and self._asked is None)
        return here if policy is None else here._under(policy)

    def stored(self) -> TorchObjective:
        return self._under("eval") if self._norms else self

    def _under(self, policy: str) -> TorchObjective:
        other = copy.copy(self)
        other._policy = policy
        return other

    def memory(self, k: int) -> int:
        points = (k + 2) * self.space.d * self._state.dtype.itemsize
        return points + self._data.nbytes() + (self._data.micro or 1) * self._look.sample_bytes

    def fingerprint(self) -> dict[str, str]:
        with generators_kept():
            return {**self._state.fingerprint(), "data": self._data.digest(), **self._batching()}

    def _batching(self) -> dict[str, str]:
        """A digest of how many samples each batch has, where that matters and `about` cannot tell it."""
        if not self._sizes_count or self._data.lengths() is not None:
            return {}
        return {"batches": digest(np.array([sample_count(batch) for batch in self._data.whole()]))}

    def parameters(self) -> Vector:
        return self._state.vector(self._state.tensors())

    def read(self, checkpoint: Any) -> Vector:
        return self._state.vector(self._state.of(checkpoint))

    def reader(self, checkpoint: Any) -> Reader:
        return self._state.reader(checkpoint)

    def at(self, checkpoint: Any) -> TorchObjective:
        other = copy.copy(self)
        other._state = replace(self._state, checkpoint=self._state.of(checkpoint))
        return other

    def shard(self, index: int, count: int) -> TorchObjective:
        check_shard(index, count)
        check_divisible(self._policy)
        other = copy.copy(self)
        other._counts = self._count() if self._counts is None else self._counts
        other._data = self._data.shard(index, count)
        return other

    def evaluate(self, plane: Plane, coords: Values) -> Values:
        """See `Objective.evaluate`; every point of a loaded batch is evaluated before the next is loaded."""
        where = np.asarray(coords, np.float64).reshape(len(coords), plane.k).tolist()
        origin, steps = self._place_plane(plane)
        size = len(where), len(self._criterion.names), 3, 3

        def compute() -> Tensor:
            flat = torch.empty_like(origin)
            sums = torch.zeros(size, dtype=self._criterion.sum_dtype, device=flat.device)

            def run(model: nn.Module, reset: Callable[[], None]) -> Tensor:
                self._add_up(model, Walk(flat, origin, steps, where, reset), sums)
                return sums

            return self._inside(flat, run)

        with torch.no_grad():
            sums = self._with_room(compute)
        found: Values = sums.cpu().numpy()
        return table(found[..., _ROWS, _COLUMNS], self._criterion.names, self.metrics)

    def _add_up(self, model: nn.Module, walk: Walk, sums: Tensor) -> None:
        """The sums of each point, by the way that was chosen."""
        if self.points > 1:
            measure_at = functional(model, self.space, self._criterion)
            together(walk, self._data.chunks(), measure_at, sums, self.points)
            return
        forward = None if self._compiled is None else partial(self._compiled, size=self._data.micro or 1)
        measure = partial(self._criterion.sums, model, forward=forward)
        if self._policy == "recalibrate":
            # Not through the compiled pass, which fills short batches up.
            found = recalibrated(walk, self._data, partial(self._criterion.sums, model), self._norms)
            one_by_one(walk, self._data.chunks(), measure, sums, lambda point: put(self._norms, found[point]))
            return
        with self._batch_statistics():
            one_by_one(walk, self._data.chunks(), measure, sums, lambda _: None)

    def _place_plane(self, plane: Plane) -> tuple[Tensor, list[Tensor]]:
        """Origin and directions on the device; they stay there until another plane comes."""
        if self._placed is None or self._placed[0] is not plane:
            origin = self._state.flat(self.space.check(plane.origin))
            self._placed = plane, origin, [self._state.flat(direction) for direction in plane.directions]
        return self._placed[1], self._placed[2]
