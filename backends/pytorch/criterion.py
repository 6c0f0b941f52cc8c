"""What is measured on a batch: the loss and the metrics, from one forward pass, as sums over samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradvis.backends.pytorch.compute import call
from gradvis.backends.pytorch.data import sample_count, transfer, versions
from gradvis.backends.pytorch.guard import seed_forward
from gradvis.backends.pytorch.losses import (
    LOSSES,
    METRICS,
    Term,
    batch_sum,
    check_mean,
    check_targets,
    known_name,
    moments,
    term,
)
from gradvis.backends.rows import describe


class Criterion:
    """Loss and metrics of a batch.

    Args:
        loss: See `TorchObjective`; so are `batch_loss`, `weight` and `metrics`.
        batch_loss: Instead of it.
        weight: With it.
        metrics: More.
        dtype: Of the forward pass, and of the outputs that losses see.
        amp: Whether the forward pass runs in bfloat16 where autocast says so.
        device: Where.

    Raises:
        ValueError: If there is not exactly one loss, or a name is unknown.

    Attributes:
        name: Of the loss.
        names: Of the loss, as `loss`, and of the metrics.
    """

    def __init__(
        self,
        loss: Any,
        batch_loss: Callable[[nn.Module, Any], Any] | None,
        weight: Callable[[Any], float] | None,
        metrics: Any,
        *,
        dtype: torch.dtype,
        amp: bool,
        device: torch.device,
    ) -> None:
        if (loss is None) == (batch_loss is None):
            raise ValueError(
                f"one of loss and batch_loss was wanted, but {'neither' if loss is None else 'both'} came; give "
                "loss='cross_entropy', say"
            )
        metrics = [metrics] if isinstance(metrics, str) or callable(metrics) else list(metrics)
        if batch_loss is not None and metrics:
            raise ValueError("metrics are computed from the outputs, which batch_loss hides; leave one of them out")
        self._batch_loss, self._weight = batch_loss, weight
        self._dtype, self._amp, self._device = dtype, amp, device
        self.sum_dtype = torch.float32 if device.type == "mps" else torch.float64
        self._loss, self._metrics = loss, metrics
        self._seen: Tensor | None = None  # the outputs for one sample
        self._copies = False  # set by the first batch if the model writes to its inputs
        self._terms: dict[str, Term] = {}
        if batch_loss is None:
            self.name, first = term(loss, LOSSES)
            named = [("loss", first), *map(term, metrics)]
            self._terms = dict(named)
            if len(self._terms) < len(named):
                came = ", ".join(name for name, _ in named)
                raise ValueError(f"every metric needs a name of its own, but {came} came; name each once")
        else:
            self.name = getattr(batch_loss, "__name__", "batch_loss")
        self.names = tuple(self._terms) or ("loss",)

    @property
    def sees_outputs(self) -> bool:
        """Whether batches are (inputs, targets), so that they can be cut and put together."""
        return self._batch_loss is None

    def sums(
        self, model: nn.Module, index: int, batch: Any, forward: Callable[..., Any] | None = None, first: bool = False
    ) -> Tensor:
        """Moments of every term over one micro-batch, (q, 3, 3); see `losses.moments`.

        Args:
            model: With the parameters to measure at.
            index: The number of the micro-batch: random forwards are seeded with it.
            batch: On the device.
            forward: Runs in place of the model.
            first: Whether to see that the outputs are what the loss takes.
        """
        seed_forward(index, self._device)
        if self._copies:
            batch = transfer(batch, self._device, self._dtype)
        before = versions(batch)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._amp):
            if self._batch_loss is not None:
                sums = self._hidden(self._batch_loss(model, batch), batch)[None]
            elif first:
                outputs = _first(model, batch[0])
            else:
                outputs = call(forward or model, batch[0])
        self._copies = self._copies or versions(batch) != before
        if self._batch_loss is not None:
            return sums
        if first:
            self._check(outputs, batch)
        return self.terms(outputs, batch)

    def terms(self, outputs: Tensor, batch: Any) -> Tensor:
        """Moments of every term, (q, 3, 3), from the outputs for a batch."""
        if self._amp:
            outputs = outputs.to(self._dtype)
        size = sample_count(batch)
        return torch.stack([moments(*each(outputs, batch[1]), size, self.sum_dtype) for each in self._terms.values()])

    @property
    def is_plain(self) -> bool:
        """Whether every term is one of ours by name, in full precision: a function of outputs and targets alone."""
        return not self._amp and all(known_name(each) in METRICS for each in (self._loss, *self._metrics))

    def check(self, batch: Any) -> None:
        """See that the targets of a batch fit the outputs that were seen first.

        Raises:
            ValueError: If they do not.
        """
        if self._seen is not None:
            check_targets(self._loss, self._seen, batch[1], sample_count(batch[0]))

    def _check(self, outputs: Any, batch: Any) -> None:
        """See that a loss can be made of them; cross entropy takes logits, and a mean is no sum.

        Raises:
            ValueError: If they are no tensor, or probabilities, or the loss adds its samples up.
        """
        if not isinstance(outputs, Tensor):
            raise ValueError(
                f"a model that returns one tensor was wanted, but it returns a {type(outputs).__name__}; "
                "pass batch_loss=f(model, batch)"
            )
        self._seen = outputs[:1].detach().clone()
        self.check(batch)
        if callable(self._loss) and not isinstance(self._loss, nn.Module):
            check_mean(self._loss, outputs, batch[1])
        if known_name(self._loss) not in {"cross_entropy", "CrossEntropyLoss"}:
            return
        sums = outputs.float().sum(1)
        if (
            outputs.shape[1] > 1
            and bool((outputs >= 0).all())
            and torch.allclose(sums, torch.ones_like(sums), atol=1e-2)
        ):
            raise ValueError(
                "cross_entropy takes logits, but the model gives probabilities; leave its last softmax out, or "
                "pass a loss that takes probabilities"
            )

    def _hidden(self, result: Any, batch: Any) -> Tensor:
        """The moments of what a batch_loss returned, (3, 3).

        Raises:
            ValueError: If it is a mean and nothing says over how many items.
        """
        if isinstance(result, tuple):
            total, units = result
            if isinstance(total, Tensor) and total.ndim:  # of each sample
                return moments(total, torch.as_tensor(units), len(total), self.sum_dtype)
            return batch_sum(torch.as_tensor(total), units, self.sum_dtype)
        if not isinstance(result, Tensor) or result.ndim:
            return moments(result, None, len(result) if isinstance(result, Tensor) else 0, self.sum_dtype)
        if self._weight is None:
            raise ValueError("batch_loss returned a mean; say over how many items with weight=f(batch)")
        return batch_sum(result * self._weight(batch), self._weight(batch), self.sum_dtype)


def _first(model: nn.Module, inputs: Any) -> Any:
    """The outputs for the first inputs.

    Raises:
        ValueError: If the model cannot take them.
    """
    try:
        return call(model, inputs)
    except (RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"inputs that the model takes were wanted, but {describe(inputs)} came ({reason}); give the shape and "
            "dtype that its forward asks for"
        ) from error
