"""What kind each variable of a Keras model is, and which axes count its filters."""

from __future__ import annotations

from typing import Any

import keras

from gradvis.space import Block, Kind, ParameterSpace

_NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
)


def moved_variables(model: Any, include_frozen: bool = False) -> list[Any]:
    """The variables of the flat vector, in its order; a variable that two layers share counts once.

    Args:
        model: Built.
        include_frozen: Whether variables of layers with `trainable=False` belong to it too.

    Raises:
        ValueError: If the model is not built, or no variable is left to move.
    """
    if not model.built or not model.weights:
        raise ValueError("a built model was wanted, but this one has no variables yet; call it on one batch first")
    # a frozen layer still tells its parameters from its statistics, but only by this list
    owned = {id(v) for layer in model._flatten_layers() for v in layer._trainable_variables}
    moved = [v for v in model.weights if id(v) in owned] if include_frozen else list(model.trainable_variables)
    if not moved:
        raise ValueError(
            "a model with trainable variables was wanted, but all of its layers are frozen; pass include_frozen=True"
        )
    return moved


def parameter_space(model: Any, variables: list[Any]) -> ParameterSpace:
    """A block for each variable, named by its path without the model's own name, such as `dense/kernel`."""
    owners = {id(v): layer for layer in model._flatten_layers() for v in layer._trainable_variables}
    names = names_of(model)
    return ParameterSpace(_block(names[id(v)], v, owners[id(v)]) for v in variables)


def names_of(model: Any) -> dict[int, str]:
    """A name of its own for every weight, by its id."""
    names: dict[int, str] = {}
    for variable in model.weights:
        name = first = variable.path.removeprefix(f"{model.name}/")
        count = 1
        while name in names.values():
            count += 1
            name = f"{first}#{count}"
        names[id(variable)] = name
    return names


def _block(name: str, variable: Any, layer: Any) -> Block:
    shape = tuple(variable.shape)
    last = max(len(shape) - 1, 0)  # Keras stores what makes one output along the last axis
    return Block(name, shape, _kind(variable, layer), shape or (1,), (last,))


def _kind(variable: Any, layer: Any) -> Kind:
    """Li et al. 2018 hold every one-dimensional tensor still; so does whatever is not a weight here."""
    if isinstance(layer, _NORMS):
        return "norm"
    if variable.name == "bias":
        return "bias"
    return "weight" if len(variable.shape) > 1 else "norm"


def has_batch_norm(model: Any) -> bool:
    """Whether running statistics belong to a state of it."""
    return any(isinstance(layer, keras.layers.BatchNormalization) for layer in model._flatten_layers())


def compute_dtype(model: Any) -> str:
    """What the layers with weights compute in; several where a policy mixes them."""
    return "+".join(sorted({layer.compute_dtype for layer in model._flatten_layers() if layer._trainable_variables}))


def last_activation(model: Any) -> str:
    """The name of the activation of the last layer, or nothing."""
    last = model.layers[-1] if model.layers else None
    if isinstance(last, (keras.layers.Softmax,)):
        return "softmax"
    return str(getattr(getattr(last, "activation", None), "__name__", ""))
