"""Losses and metrics as Keras has them: objects, functions and names, with the means that their reductions say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import keras
import tensorflow as tf

from gradvis.backends.given import each
from gradvis.backends.tf.batch import Tensor
from gradvis.backends.tf.losses import LOSSES, METRICS, Term

_CLASSES = {"categorical_crossentropy", "categorical_focal_crossentropy", "sparse_categorical_crossentropy"}
_BINARY = {"binary_crossentropy", "binary_focal_crossentropy"}
_PROBABILITIES = {"kl_divergence", "categorical_generalized_cross_entropy"}
_BY_SHAPE = {"accuracy", "acc", "crossentropy", "ce"}  # names that Keras reads by the shapes of outputs and targets


def term(what: Any, metric: bool = False, compiled: bool = False) -> Term:
    """The term of a loss or metric given by name, Keras object or callable.

    Args:
        what: A name of ours or of Keras', `f(outputs, targets)`, or one of Keras' own, which take the targets first.
        metric: Whether it is one, and no loss.
        compiled: Whether names and functions mean what they mean to `keras.Model.compile`.

    Raises:
        ValueError: If the name is unknown, or it is no mean over samples.
        TypeError: If it cannot be called.
    """
    if isinstance(what, str):
        return _by_name(what, metric, compiled)
    if isinstance(what, (keras.losses.Loss, keras.metrics.Metric)):
        return _of_object(what)
    if not callable(what) or isinstance(what, type):
        came = f"the class {what.__name__} came; call it" if isinstance(what, type) else f"a {type(what).__name__} came"
        raise TypeError(f"a loss is a name or a callable f(outputs, targets), but {came}")
    name = getattr(what, "__name__", type(what).__name__)
    if compiled or str(getattr(what, "__module__", "")).partition(".")[0] == "keras":
        return of_function(what, name, metric)
    return Term(name, what, nested=True)


def _by_name(name: str, metric: bool, compiled: bool) -> Term:
    """The term of that name, of ours or of Keras'.

    Raises:
        ValueError: If neither has one, or it is no mean over samples.
    """
    known = METRICS if metric else LOSSES
    if compiled and name in _BY_SHAPE:
        takes = "" if name in {"accuracy", "acc"} else "probabilities"
        return Term(name, _by_shape(name), takes, by_weight=metric)
    if name in known and not compiled:
        return known[name]
    for get in (keras.metrics.get, keras.losses.get) if metric else (keras.losses.get,):
        try:
            found = get(name)
        except ValueError:
            continue
        function = callable(found) and not isinstance(found, (keras.losses.Loss, keras.metrics.Metric))
        return replace(of_function(found, name, metric) if function else _of_object(found), name=name)
    near = get_close_matches(name, known, 1, 0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
    raise ValueError(
        f"{name!r} is no loss or metric by name; {hint} Keras' own names and a callable f(outputs, targets) work too"
    )


def _of_object(what: Any) -> Term:
    return of_loss(what) if isinstance(what, keras.losses.Loss) else of_metric(what)


def of_loss(loss: keras.losses.Loss) -> Term:
    """A Keras loss without its reduction, which says what the mean divides by.

    Keras' `sum_over_batch_size` divides the weighted sum by the number of values, `mean_with_sample_weight` by
    their weight.

    Raises:
        ValueError: If its reduction is no mean.
    """
    if loss.reduction == "sum":
        raise ValueError(
            f"gradvis draws means, but {type(loss).__name__} has reduction='sum'; give it "
            "reduction='sum_over_batch_size', or pass a function that returns per-sample values"
        )
    name = getattr(getattr(loss, "fn", None), "__name__", "")
    takes, targets = _wants(name, getattr(loss, "from_logits", None))
    return Term(
        loss.name,
        lambda outputs, given: loss.call(_like(given, outputs), outputs),
        takes, targets, getattr(loss, "ignore_class", None),
        by_weight=loss.reduction == "mean_with_sample_weight",
    )  # fmt: skip


def of_metric(metric: keras.metrics.Metric) -> Term:
    """A Keras metric that is the mean of a function; it divides by the sample weights, as Keras does.

    Raises:
        ValueError: If it is no such mean.
    """
    mean = keras.metrics.MeanMetricWrapper
    if not isinstance(metric, mean) or type(metric).update_state is not mean.update_state:
        raise ValueError(
            f"a metric that is a mean over samples was wanted, but {type(metric).__name__} is none; take one such as "
            "accuracy, or pass f(outputs, targets)"
        )
    function, options = metric._fn, metric._fn_kwargs
    name = getattr(function, "__name__", "")
    takes, targets = _wants(name, options.get("from_logits"))

    def values(outputs: Any, given: Any) -> Tensor:
        narrow = name.endswith("top_k_categorical_accuracy")  # TensorFlow has it for float32 alone
        return function(given, tf.cast(outputs, tf.float32) if narrow else outputs, **options)

    return Term(metric.name, values, takes, targets)


def of_function(function: Callable[[Any, Any], Any], name: str, metric: bool) -> Term:
    """A function as Keras takes it, of targets and outputs; a metric divides by weights, a loss by their number."""
    takes, targets = _wants(getattr(function, "__name__", ""), False)
    return Term(
        name, lambda outputs, given: function(*_one_rank(_like(given, outputs), outputs)), takes, targets,
        by_weight=metric,
    )  # fmt: skip


def _wants(function: str, from_logits: bool | None) -> tuple[str, str]:
    """What outputs and targets must be for a function of Keras' by its name."""
    targets = "shares" if function in _BINARY else "classes" if function.startswith("sparse_categorical_cross") else ""
    if function in _PROBABILITIES:
        return "probabilities", targets
    if function in _CLASSES | _BINARY:
        return "logits" if from_logits else "probabilities", targets
    return "", targets


def _like(targets: Any, outputs: Any) -> Any:
    """Targets in the dtype of the outputs, as Keras casts them before it calls a loss."""
    dtype = tf.nest.flatten(outputs)[0].dtype
    return each(lambda leaf: tf.cast(leaf, dtype) if leaf.dtype != tf.string else leaf, targets)


def _one_rank(targets: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """An axis of length 1 that only one of them has comes or goes, as Keras does it for functions."""
    if targets.shape.rank == outputs.shape.rank + 1 and targets.shape[-1] == 1:
        return (targets, outputs[..., None]) if outputs.shape.rank == 1 else (tf.squeeze(targets, -1), outputs)
    if outputs.shape.rank == targets.shape.rank + 1 and outputs.shape[-1] == 1:
        return (targets[..., None], outputs) if targets.shape.rank == 1 else (targets, tf.squeeze(outputs, -1))
    return targets, outputs


def _by_shape(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Accuracy or cross entropy of the kind that Keras picks by the shapes (`keras.Model.compile`, metrics)."""
    kind = "accuracy" if name.startswith("acc") else "crossentropy"

    def values(outputs: Tensor, targets: Tensor) -> Tensor:
        sparse = targets.shape.rank < outputs.shape.rank or (targets.shape[-1] == 1 and outputs.shape[-1] > 1)
        prefix = "binary" if outputs.shape[-1] == 1 else "sparse_categorical" if sparse else "categorical"
        module = keras.metrics if kind == "accuracy" else keras.losses
        return getattr(module, f"{prefix}_{kind}")(*_one_rank(_like(targets, outputs), outputs))

    return values
