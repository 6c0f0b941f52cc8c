"""What kind each parameter of a torch module is, and which axes count its filters."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from gradvis.space import Block, Kind, ParameterSpace

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_space(model: nn.Module, include_frozen: bool = False) -> ParameterSpace:
    """The blocks of a module, by their first name in `model.named_parameters()`; a tied weight counts once.

    Args:
        model: Its layers say what each parameter is.
        include_frozen: Whether parameters that need no gradient belong to the vector too.

    Raises:
        ValueError: If no parameter is left to move, or one is not real.
    """
    parameters = dict(model.named_parameters())
    moved = [name for name, value in parameters.items() if include_frozen or value.requires_grad]
    if not moved:
        came = "all of its parameters are frozen; pass include_frozen=True" if parameters else "it has no parameters"
        raise ValueError(f"a model with trainable parameters was wanted, but {came}")
    if odd := [name for name in moved if not parameters[name].is_floating_point()]:
        raise ValueError(f"real floating-point parameters were wanted, but {odd[0]} is {parameters[odd[0]].dtype}")
    return ParameterSpace(_block(model, name) for name in moved)


def _block(model: nn.Module, name: str) -> Block:
    path, _, leaf = name.rpartition(".")
    layer = model.get_submodule(path)
    shape = tuple(layer.get_parameter(leaf).shape)
    view, filter_axes = _filters(layer, leaf, shape)
    return Block(name, shape, _kind(layer, leaf, shape), view, filter_axes)


def _kind(layer: nn.Module, leaf: str, shape: tuple[int, ...]) -> Kind:
    """Li et al. 2018 hold every one-dimensional tensor still; so does whatever is not a weight here."""
    if isinstance(layer, _NORMS):
        return "norm"
    if len(shape) > 1:
        return "weight"
    return "bias" if "bias" in leaf else "norm"


def _filters(layer: nn.Module, leaf: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A filter is what makes one output: axis 0, but for transposed convolutions, stored (in, out / groups, ...)."""
    if isinstance(layer, _ConvTransposeNd) and leaf == "weight":
        return (layer.groups, shape[0] // layer.groups, *shape[1:]), (0, 2)
    return shape or (1,), (0,)


def convolves_images(model: nn.Module) -> bool:
    """Whether it has a two-dimensional convolution, so that channels-last inputs pay."""
    return any(isinstance(layer, _ConvNd) and len(layer.kernel_size) == 2 for layer in model.modules())


def has_batch_norm(model: nn.Module) -> bool:
    """Whether running statistics belong to a state of it."""
    return any(isinstance(layer, _NormBase) and layer.track_running_stats for layer in model.modules())


def own_dtype(model: nn.Module) -> torch.dtype:
    """The widest of its parameters', float32 at least."""
    wide = any(value.dtype == torch.float64 for value in model.parameters())
    return torch.float64 if wide else torch.float32
