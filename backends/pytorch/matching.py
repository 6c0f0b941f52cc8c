"""A checkpoint's tensors held against what a model wants: names, prefixes, ties, shapes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gradvis.backends.given import listed
from gradvis.notes import note
from gradvis.objective import NotFiniteError

_FIRST = ("state_dict", "model_state_dict", "model")  # which of several states that fit is meant
# What data parallelism, compilation, sharding and activation checkpointing put into names.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

Tensors = dict[str, Tensor]


def matched(
    states: Mapping[str, Any], wanted: Mapping[str, Tensor], names: Mapping[str, list[str]], source: str
) -> Tensors:
    """The values of the model's own names.

    Args:
        states: The states of a checkpoint by their place in it.
        wanted: The model's tensors by their first names.
        names: All the names of each.
        source: What messages call the checkpoint.

    Raises:
        ValueError: If none fits: which names miss, which shapes differ; or if several do.
    """
    fits = {where: _Fit(tensors, wanted, names) for where, tensors in states.items()}
    good = {where: fit for where, fit in fits.items() if not fit.wrong}
    if not good:
        best = max(fits.values(), key=lambda fit: (len(fit.values), len(fit.tensors)))
        raise ValueError(
            f"{source} does not fit the model: {best.wrong}; give the objective of the network that it was saved from"
        )
    chosen = first(good)
    if chosen is None:
        raise ValueError(f"several states of {source} fit the model ({listed(good)}); give one as key (--key)")
    if len(good) > 1:
        note(f"{len(good)} states of the checkpoint fit the model ({listed(good)}): {chosen} is read; --key chooses")
    good[chosen].tell_left_over()
    return good[chosen].values


class _Fit:
    """One state of a checkpoint held against what a model wants.

    Attributes:
        tensors: The state, by names without wrappers.
        values: By the model's names.
        wrong: Why it does not fit; empty if it does.
    """

    def __init__(self, tensors: Tensors, wanted: Mapping[str, Tensor], names: Mapping[str, list[str]]) -> None:
        unwrapped = {bare(name): value for name, value in tensors.items()}
        self.tensors = unwrapped if len(unwrapped) == len(tensors) else tensors
        self.wanted = wanted
        self.names = {name: [bare(other) for other in others] for name, others in names.items()}
        self.prefixes = self._prefixes() if self._missing("") else [""]
        self.prefix = self.prefixes[0] if self.prefixes else ""
        self.values = {name: there[0] for name in wanted if (there := self._there(name, self.prefix))}
        self.wrong = self._wrong()

    def _there(self, name: str, prefix: str) -> list[Tensor]:
        return [self.tensors[prefix + other] for other in self.names[name] if prefix + other in self.tensors]

    def _missing(self, prefix: str) -> list[str]:
        return [name for name in self.wanted if not self._there(name, prefix)]

    def _prefixes(self) -> list[str]:
        """What stands before the model's names where all of them are there, with their shapes if any has these."""
        ends = tuple(f".{other}" for other in next(iter(self.names.values())))
        starts = {name.removesuffix(end) + "." for end in ends for name in self.tensors if name.endswith(end)}
        whole = sorted(prefix for prefix in starts if not self._missing(prefix))
        return [prefix for prefix in whole if self._has_shapes(prefix)] or whole

    def _has_shapes(self, prefix: str) -> bool:
        return all(self._there(name, prefix)[0].shape == value.shape for name, value in self.wanted.items())

    def _left_over(self) -> list[str]:
        used = {self.prefix + other for others in self.names.values() for other in others}
        return [name for name in self.tensors if name not in used]

    def _wrong(self) -> str:
        if len(self.prefixes) > 1:
            return f"its names fit under several prefixes ({listed(self.prefixes)}), give one as key (--key)"
        missing, other = self._missing(self.prefix), self._left_over()
        parts = [
            f"{len(missing)} missing ({listed(missing)})" if missing else "",
            f"{len(other)} left over ({listed(other)})" if other and missing else "",
            "; ".join([*filter(None, map(self._differs, self.values))][:3]),
        ]
        return "; ".join(filter(None, parts))

    def _differs(self, name: str) -> str:
        """How a value is none for its name."""
        value, wanted = self.values[name], self.wanted[name]
        if value.shape != wanted.shape:
            return f"{name} is {tuple(value.shape)}, not {tuple(wanted.shape)}"
        if wanted.is_floating_point() and not value.is_floating_point():
            return f"{name} is {_short(value.dtype)}, not {_short(wanted.dtype)}"
        for one, other in pairwise(self._there(name, self.prefix)):
            if not torch.equal(one, other):
                return f"{' and '.join(self.names[name])} are one tensor in the model, but two in the checkpoint"
        return ""

    def tell_left_over(self) -> None:
        """What the model does not have is not read; that is said."""
        if other := self._left_over():
            note(f"{len(other)} tensors of the checkpoint are not in the model and are left out ({listed(other)})")


def check_finite(found: Tensors, wanted: Mapping[str, Tensor], source: str) -> None:
    """See that weights are numbers; buffers may hold infinities: masks do.

    Raises:
        NotFiniteError: If not.
    """
    bad = [name for name, value in found.items() if _broken(value, isinstance(wanted[name], nn.Parameter))]
    if bad:
        raise NotFiniteError(
            f"finite weights were wanted, but in {source} {bad[0]} holds NaN or inf ({len(bad)} of {len(found)} "
            "tensors do); give a checkpoint from before training diverged"
        )


def _broken(value: Tensor, parameter: bool) -> bool:
    if not value.is_floating_point():
        return False
    value = value.float() if value.itemsize == 1 else value  # eight bits have no isfinite
    return bool((~value.isfinite()).any() if parameter else value.isnan().any())


def all_names(model: nn.Module) -> dict[str, list[str]]:
    """Every name of each parameter and buffer, by the first."""
    by_identity: dict[int, list[str]] = {}
    for walk in (model.named_parameters, model.named_buffers):
        for name, value in walk(remove_duplicate=False):
            by_identity.setdefault(id(value), []).append(name)
    return {names[0]: names for names in by_identity.values()}


def first(states: Mapping[str, Any]) -> str | None:
    """The only one, the one on top, or the one with the customary name."""
    if len(states) == 1 or "" in states:
        return next(iter(states)) if len(states) == 1 else ""
    return next((where for last in _FIRST for where in states if where.rpartition(".")[2] == last), None)


def bare(name: str) -> str:
    """A name without what wrappers put into it.

    >>> bare("module._orig_mod.fc.weight")
    'fc.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
