"""What kind each variable of a Keras model is, and which axes count its filters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from gradvis.space import Axes, Block, Kind, ParameterSpace, Shape, is_scale, told

_KERAS = keras.layers
_NORMS = (
    _KERAS.BatchNormalization,
    _KERAS.LayerNormalization,
    _KERAS.GroupNormalization,
    _KERAS.RMSNormalization,
    _KERAS.PReLU,  # its slopes are scales
)
_TRANSPOSED = (_KERAS.Conv1DTranspose, _KERAS.Conv2DTranspose, _KERAS.Conv3DTranspose)
_DEPTHWISE = (_KERAS.DepthwiseConv1D, _KERAS.DepthwiseConv2D, _KERAS.SeparableConv1D, _KERAS.SeparableConv2D)

Place = tuple[str, Any, Any]
"""A variable's name, the variable, and the layer that computes with it (None in a tf.Module)."""


def moved_variables(model: Any, include_frozen: bool = False) -> list[Any]:
    """The variables of the flat vector, in its order; a variable that two layers share counts once.

    Args:
        model: A built `keras.Model`, or a `tf.Module`; Keras layers in a module belong to it.
        include_frozen: Whether variables of layers with `trainable=False` belong to it too.

    Raises:
        ValueError: If the model is not built, if no variable is left to move, or if one is not real.
    """
    weights = weights_of(model)
    if not weights or not getattr(model, "built", True):
        raise ValueError("a built model was wanted, but this one has no variables yet; call it on one batch first")
    # a frozen layer still tells its parameters from its statistics, but only by this list
    owned = {id(v) for layer in _layers(model) for v in layer._trainable_variables}
    moved = [v for v in weights if v.trainable or (include_frozen and id(v) in owned)]
    if not moved:
        raise ValueError(
            "a model with trainable variables was wanted, but all of its layers are frozen; pass include_frozen=True"
        )
    if odd := [v for v in moved if not tf.as_dtype(v.dtype).is_floating]:
        kind = tf.as_dtype(odd[0].dtype).name
        raise ValueError(
            f"real floating-point parameters were wanted, but {names_of(model)[id(odd[0])]} is {kind}; keep real and "
            "imaginary parts in variables of their own, and give trainable=False to what is no parameter"
        )
    return moved


def parameter_space(model: Any, variables: list[Any], filters: Mapping[str, Axes] | None = None) -> ParameterSpace:
    """A block for each variable, named as `names_of` does it.

    A filter is the part of a weight that makes one output (Li et al. 2018, section 4). Keras stores what
    makes one output along the last axis: a column of a dense layer or of a gate, one unit of one head.
    Other layers have others: the axis before the last one (transposed convolutions), both of them
    (depthwise ones), the axes that an einsum's equation keeps (EinsumDense, and so every attention), an
    entry of an embedding.

    A variable of a layer that is not Keras' own is judged by its name and shape:

    - `bias`, `bias_...` and `..._bias` are biases.
    - One number, one dimension, or a shape such as (c, 1, 1) or (1, 1, 1, c) is a scale, kind `norm`.
    - Two dimensions under a name with `embed`: a filter is a row. Under one that ends in `kernel` or begins with
      `lora_`: a filter is a column.
    - Three dimensions: a class token (1, 1, e) is one filter, position embeddings (1, n, e) are n, a stack of
      experts (experts, in, out) has one for each column of each expert.
    - For all others the last axis counts filters, and `Block.guessed` is set.

    Args:
        model: Its layers say what each variable is.
        variables: Those of the flat vector, in its order.
        filters: A better answer than these rules: globs of names of weights, and the axes of their shape
            that count filters; `()` for an array that is one filter. The first glob that fits counts.

    Raises:
        ValueError: If a glob of `filters` fits no weight or names an axis that is not there.
    """
    places = {id(variable): (name, variable, layer) for name, variable, layer in _places(model)}
    return ParameterSpace(told([_block(*places[id(v)]) for v in variables], filters or {}))


def names_of(model: Any) -> dict[int, str]:
    """A name of its own for every weight, by its id: its place in the model, such as `encoder/dense/kernel`.

    Keras numbers layers that are given no name by what the process made before. Such a number is left out, and names
    that come again in one model are counted: `dense`, `dense#2`. So the names are the same in every process, and
    for a model and its file.

    Args:
        model: A `keras.Model`, or a `tf.Module`, whose names are its attributes: `layers/0/w`.
    """
    return {id(variable): name for name, variable, _ in _places(model)}


def weights_of(model: Any) -> list[Any]:
    """Every parameter and statistic, as `get_weights` orders them; a module's own variables, then its layers'."""
    if isinstance(model, keras.Layer):
        return list(model.weights)
    inner = [v for _, layer in _parts(model) for v in layer.weights]
    return list({id(v): v for v in (*model.variables, *inner)}.values())


def _parts(module: Any) -> list[tuple[str, Any]]:
    """The Keras layers that are attributes of a module or of its submodules, which TensorFlow does not look into."""
    if not isinstance(module, tf.Module):
        return []
    found = module._flatten(predicate=lambda leaf: isinstance(leaf, keras.Layer), with_path=True)
    return [("/".join(map(str, path)), layer) for path, layer in found]


def _layers(model: Any) -> list[Any]:
    tops = [model] if isinstance(model, keras.Layer) else [layer for _, layer in _parts(model)]
    return [layer for top in tops for layer in top._flatten_layers()]


# ------------------------------------------------------------------------------------------------ names


def _places(model: Any) -> list[Place]:
    """Each weight once, as the layer has it that knows its filters, or else the first one."""
    found: dict[int, Place] = {}
    for name, variable, layer in _all_places(model):
        if id(variable) not in found or _knows(layer, variable) > _knows(found[id(variable)][2], variable):
            found[id(variable)] = name, variable, layer
    return [found[id(variable)] for variable in weights_of(model)]


def _all_places(model: Any) -> Iterator[Place]:
    if isinstance(model, keras.Layer):
        yield from _walk(model, "")
    elif isinstance(model, tf.Module):
        for path, variable in model._flatten(predicate=lambda leaf: isinstance(leaf, tf.Variable), with_path=True):
            yield "/".join(map(str, path)), variable, None
        for path, layer in _parts(model):
            yield from _walk(layer, f"{path}/")
    else:  # what TensorFlow loads has no attributes to go by
        names = _counted(variable.name.partition(":")[0] for variable in model.variables)
        yield from ((name, variable, None) for name, variable in zip(names, model.variables, strict=True))


def _walk(layer: Any, prefix: str) -> Iterator[Place]:
    """A layer's variables, then those of the layers in it."""
    own = [*layer._trainable_variables, *layer._non_trainable_variables]
    for name, variable in zip(_counted(_bare(v.name, v) for v in own), own, strict=True):
        yield prefix + name, variable, layer
    for name, inner in zip(_counted(_bare(each.name, each) for each in layer._layers), layer._layers, strict=True):
        yield from _walk(inner, f"{prefix}{name}/")


def _bare(name: str, thing: Any) -> str:
    """A name without the number that Keras appends to those that it makes from a class."""
    stem, kind = re.sub(r"_\d+$", "", name), type(thing).__name__.replace("_", "").lower()
    made = {kind, f"forward{kind}", f"backward{kind}"}  # the latter by Bidirectional
    return stem if stem.replace("_", "") in made else name


def _counted(names: Iterable[str]) -> list[str]:
    """The names, those that come again with a number.

    >>> _counted(["dense", "norm", "dense"])
    ['dense', 'norm', 'dense#2']
    """
    count: Counter[str] = Counter()
    made = []
    for name in names:
        count[name] += 1
        made.append(name if count[name] == 1 else f"{name}#{count[name]}")
    return made


# ---------------------------------------------------------------------------------------------- filters


def _block(name: str, variable: Any, layer: Any) -> Block:
    shape, leaf = tuple(variable.shape), name.rpartition("/")[2]
    known = _layer_axes(layer, leaf, shape)
    kind = _kind(layer, leaf, shape, known is None)
    if kind != "weight":
        return Block(name, shape, kind)
    known = _raw_axes(leaf, shape) if known is None else known
    axes = (-1,) if known is None else known
    return Block(name, shape, kind, shape, tuple(axis % len(shape) for axis in axes), guessed=known is None)


def _knows(layer: Any, variable: Any) -> bool:
    return isinstance(layer, _NORMS) or _layer_axes(layer, variable.name, tuple(variable.shape)) is not None


def _kind(layer: Any, leaf: str, shape: Shape, is_raw: bool) -> Kind:
    """Li et al. 2018 hold every one-dimensional tensor still; so does whatever is not a weight here."""
    if isinstance(layer, _NORMS):
        return "norm"
    if leaf == "bias" or leaf.startswith("bias_") or leaf.endswith("_bias"):
        return "bias"
    if is_raw and is_scale(shape):
        return "bias" if "bias" in leaf else "norm"
    return "weight"


def _layer_axes(layer: Any, leaf: str, shape: Shape) -> Shape | None:
    """The axes that count filters, or nothing where the layer does not say."""
    if len(shape) < 2 or not _is_keras(layer):
        return None
    match layer:
        case _ if isinstance(layer, _TRANSPOSED) and leaf == "kernel":  # stored (..., out, in)
            return (-2,)
        case _ if isinstance(layer, _DEPTHWISE) and leaf in {"kernel", "depthwise_kernel"}:  # (..., in, multiplier)
            return (-2, -1)
        case _KERAS.EinsumDense() if leaf == "kernel":
            return _kept(layer.equation)
        case _KERAS.EinsumDense() if leaf == "lora_kernel_a":  # its last axis is the rank
            return (*(axis for axis in _kept(layer.equation) if axis < len(shape) - 1), -1)
        case _KERAS.Embedding() if leaf in {"embeddings", "lora_embeddings_a"}:
            return (0,)
    return (-1,) if leaf.endswith(("kernel", "embeddings")) or leaf.startswith("lora_") else None


def _is_keras(layer: Any) -> bool:
    """Whether its class is one of Keras' own layers, or made of one; a wrapper knows less than what it wraps."""
    return not isinstance(layer, _KERAS.Wrapper) and any(
        each.__module__.startswith("keras.src.layers.") and each is not keras.Layer for each in type(layer).__mro__
    )


def _kept(equation: str) -> Shape:
    """The axes of the second operand that are axes of the outcome too.

    >>> _kept("abc,cde->abde")
    (1, 2)
    """
    operands, outcome = equation.split("->")
    return tuple(axis for axis, letter in enumerate(operands.split(",")[1].strip()) if letter in outcome)


def _raw_axes(leaf: str, shape: Shape) -> Shape | None:
    if len(shape) == 3:
        return (0, 1) if shape[0] == 1 else (0, 2)
    if len(shape) == 2 and "embed" in leaf:
        return (0,)
    return (-1,) if leaf.endswith("kernel") or leaf.startswith("lora_") else None


# ---------------------------------------------------------------------------------- what the layers are


def batch_norms(model: Any) -> list[Any]:
    """Its layers whose statistics come from the batches."""
    return [layer for layer in _layers(model) if isinstance(layer, _KERAS.BatchNormalization)]


def has_batch_norm(model: Any) -> bool:
    """Whether running statistics belong to a state of it."""
    return bool(batch_norms(model))


def compute_dtype(model: Any) -> str:
    """What the layers with weights compute in; several where a policy mixes them."""
    kinds = {layer.compute_dtype for layer in _layers(model) if layer._trainable_variables}
    return "+".join(
        sorted(kinds | {tf.as_dtype(v.dtype).name for v in weights_of(model) if isinstance(v, tf.Variable)})
    )


def last_activation(model: Any) -> str:
    """The name of the activation of the last layer, or nothing."""
    last = model.layers[-1] if getattr(model, "layers", None) else None
    if isinstance(last, (_KERAS.Softmax,)):
        return "softmax"
    return str(getattr(getattr(last, "activation", None), "__name__", ""))
