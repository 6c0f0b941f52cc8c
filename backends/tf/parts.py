"""Which loss and which metrics belong to which output of a model: as they were given, or as it was compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from gradvis.backends.rows import describe
from gradvis.backends.tf.batch import is_array
from gradvis.backends.tf.keras_losses import term
from gradvis.backends.tf.losses import Term
from gradvis.notes import note


@dataclass(frozen=True)
class Part:
    """A term of one output.

    Attributes:
        term: What is computed.
        outputs: The names of all outputs; none for a model that is taken to have one.
        output: The name of this one; None for the only one, or all at once.
        factor: What a loss is multiplied by before those of several outputs are added.
    """

    term: Term
    outputs: tuple[str, ...] = ()
    output: str | None = None
    factor: float = 1.0

    @property
    def column(self) -> str:
        """Its name, after that of its output, as Keras has it."""
        return self.term.name if self.output is None else f"{self.output}_{self.term.name}"

    def take(self, outputs: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
        """What belongs to its output.

        Raises:
            ValueError: If nothing says what does.
        """
        if self.term.nested:
            if not isinstance(weights := _only(weights), (tf.Tensor, type(None))):
                raise ValueError(
                    f"{self.term.name} takes all outputs at once, so one array of sample weights was wanted, but "
                    f"{describe(weights)} came; give one weight a sample"
                )
            return outputs, targets, weights
        if self.output is not None:
            single = weights is None or is_array(weights)
            return self._of(outputs), self._of(targets), weights if single else self._of(weights)
        found = _only(outputs), _only(targets), _only(weights)
        if not all(isinstance(part, tf.Tensor) for part in found[:2]):
            raise ValueError(
                f"a model that returns one tensor, and targets to match, were wanted for {self.term.name}, but "
                f"{describe(outputs)} and {describe(targets)} came; give a dict of losses by the names of the outputs, "
                "or pass batch_loss=f(model, batch)"
            )
        return found

    def _of(self, nest: Any) -> Any:
        """Its own part of a dict by the names of the outputs, or a list in their order.

        Raises:
            ValueError: If there is none.
        """
        if isinstance(nest, Mapping) and self.output in nest:
            return nest[self.output]
        if isinstance(nest, (list, tuple)) and len(nest) == len(self.outputs):
            return nest[self.outputs.index(str(self.output))]
        raise ValueError(
            f"a part for each output was wanted, {', '.join(self.outputs)}, but {describe(nest)} came; give a dict by "
            "their names, or a list in their order"
        )


def _only(nest: Any) -> Any:
    """What a dict or list of one thing holds."""
    while isinstance(nest, (Mapping, list, tuple)) and len(nest) == 1:
        (nest,) = nest.values() if isinstance(nest, Mapping) else nest
    return nest


def losses_of(model: Any, loss: Any) -> list[Part]:
    """The loss of each output.

    Args:
        model: Brings its compiled loss and its weights where none is given.
        loss: One, or for several outputs a dict by their names or a list in their order.

    Raises:
        ValueError: If there is none.
    """
    compiled, factors = loss is None, None
    if compiled:
        loss = getattr(model, "loss", None)
        factors = getattr(getattr(model, "_compile_loss", None), "_user_loss_weights", None)
        if loss is None:
            raise ValueError(
                "a loss was wanted, and the model brings none: it was not compiled with one; pass "
                "loss='cross_entropy', say"
            )
    names = output_names(model, loss)
    found = [
        Part(made, names if output else (), output, 1.0 if factor is None else float(factor))
        for output, each, factor in zip(names or [None], _spread(loss, names), _spread(factors, names), strict=True)
        if each is not None
        for made in [term(each, compiled=compiled)]
    ]
    if not found:
        raise ValueError("a loss was wanted, but each of the outputs has None; give one for at least one of them")
    return [replace(found[0], outputs=(), output=None)] if found[0].term.nested else found


def output_names(model: Any, loss: Any = None) -> tuple[str, ...]:
    """The names of several outputs: those of the model, or of a dict of losses; none for a single one."""
    known = getattr(model, "output_names", None) or ()
    if not known and isinstance(loss, (Mapping, list, tuple)):
        known = tuple(loss) if isinstance(loss, Mapping) else [f"output_{at + 1}" for at in range(len(loss))]
    return tuple(known) if len(known) > 1 else ()


def _spread(given: Any, names: Sequence[str]) -> list[Any]:
    """What was given for each of the outputs, in their order; None where nothing was.

    Raises:
        ValueError: If it was given for others.
    """
    if not names:
        return [_only(given)]
    if not isinstance(given, (Mapping, list, tuple)):
        return [given] * len(names)
    if isinstance(given, Mapping) and set(given) <= set(names):
        return [given.get(name) for name in names]
    if isinstance(given, (list, tuple)) and len(given) == len(names):
        return list(given)
    came = ", ".join(map(str, given)) if isinstance(given, Mapping) else f"{len(given)} in a list"
    raise ValueError(
        f"one for each output was wanted, {', '.join(names)}, but {came} came; name them like the outputs, or give a "
        "list in their order"
    )


def metrics_of(model: Any, metrics: Any, names: tuple[str, ...]) -> list[tuple[str, Part]]:
    """Metrics and their columns, of every output, or of those that a dict names.

    Args:
        model: Brings those it was compiled with where None are given.
        metrics: One or several.
        names: Of its outputs, where it has several.

    Raises:
        ValueError: If one is no mean over samples, or of no output.
    """
    if metrics is None:
        return _compiled_metrics(model, names)
    if isinstance(metrics, (str, Mapping)) or callable(metrics):
        metrics = [metrics]
    found: list[Part] = []
    for what in metrics:
        for output, each in zip(names or [None], _spread(what, names), strict=True):
            those = each if isinstance(each, (list, tuple)) else [] if each is None else [each]
            terms = [term(one, metric=True) for one in those]
            found += [_part(made, names, output) for made in terms if not made.nested or output in (None, *names[:1])]
    return [(part.column, part) for part in found]


def _part(made: Term, names: tuple[str, ...], output: str | None) -> Part:
    return Part(made) if made.nested or output is None else Part(made, names, output)


def _compiled_metrics(model: Any, names: tuple[str, ...]) -> list[tuple[str, Part]]:
    """Those of `compile` that are means over samples, by the names that `evaluate` gives them."""
    kept = getattr(model, "_compile_metrics", None)
    found: dict[str, Part] = {}
    for attribute, weighted in (("_user_metrics", False), ("_user_weighted_metrics", True)):
        given = getattr(kept, attribute, None) or None
        for output, those in zip(names or [None], _spread(given, names) if names else [given], strict=True):
            for made in filter(None, map(_mean_of, tf.nest.flatten(those))):
                part = _part(replace(made, weighted=weighted), names, output)
                found[f"weighted_{part.column}" if part.column in found else part.column] = part
    return list(found.items())


def _mean_of(what: Any) -> Term | None:
    """The term of a compiled metric; None of one that is no mean over samples, which a note tells."""
    if what is None:
        return None
    try:
        return term(what, metric=True, compiled=True)
    except ValueError:
        name = what if isinstance(what, str) else getattr(what, "name", type(what).__name__)
        note(f"the compiled metric {name!r} is left out, for it is no mean over samples; metrics=[...] names others")
        return None


def ends_linear(model: Any) -> dict[str, bool]:
    """Whether the last layer before an output is known to have no activation, by the output's name ("" for one)."""
    if not isinstance(model, (keras.Sequential, keras.Model)) or not getattr(model, "outputs", None):
        return {}
    names = output_names(model) or ("",)
    return {name: _linear(output) for name, output in zip(names, model.outputs, strict=False)}


_PASSING = (keras.layers.Reshape, keras.layers.Flatten, keras.layers.Permute, keras.layers.Dropout)
_WEIGHING = (
    keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D,
)  # fmt: skip


def _linear(output: Any) -> bool:
    layer, _, _ = output._keras_history
    while isinstance(layer, _PASSING) or _is_identity(layer):
        layer, _, _ = layer.input._keras_history
    if isinstance(layer, keras.Model):
        return bool(getattr(layer, "outputs", None)) and len(layer.outputs) == 1 and _linear(layer.outputs[0])
    return isinstance(layer, _WEIGHING) and layer.activation is keras.activations.linear


def _is_identity(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.linear
