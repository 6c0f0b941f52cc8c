"""What kind each parameter of a torch module is, and which axes count its filters."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList

from gradvis.space import Axes, Block, Kind, ParameterSpace, Shape, is_scale, told

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_REAL = "keep real and imaginary parts in parameters of their own, and what is no parameter in buffers"
_ROWS = (nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, _ConvNd)


def parameter_space(
    model: nn.Module, include_frozen: bool = False, filters: Mapping[str, Axes] | None = None
) -> ParameterSpace:
    """The blocks of a module, by their first name in `model.named_parameters()`.

    A filter is the part of a weight that makes one output (Li et al. 2018, section 4): a row of a dense
    layer, a row of each gate and of each head, an entry of an embedding. A tied weight counts once, as
    the layer of its first name has it. Of a weight that is computed from others (weight norm, spectral
    norm and other parametrisations, pruning), the stored array has the filters of the weight; the
    lengths that weight norm keeps beside it are like the scales of a norm.

    A parameter that belongs to no layer known here is judged by its name and shape:

    - `bias`, `bias_...` and `..._bias` are biases.
    - One number, one dimension, or a shape such as (c, 1, 1) or (1, 1, 1, c) is a scale, kind `norm`.
    - Two dimensions under a name `lora_...`: a filter is a row.
    - Three dimensions: each of the first two axes counts filters. A class token (1, 1, e) is one filter,
      position embeddings (1, n, e) are n, a stack of experts (experts, out, in) has one for each row of
      each expert. If the module has `is_transposed` set, as transformers has it for experts stored
      (experts, in, out), a filter is a column.
    - For all others axis 0 counts filters, and `Block.guessed` is set.

    Args:
        model: Its layers say what each parameter is.
        include_frozen: Whether parameters that need no gradient belong to the vector too.
        filters: A better answer than these rules: globs of names of weights, and the axes of their shape
            that count filters; `()` for an array that is one filter. The first glob that fits counts.

    Raises:
        ValueError: If it is TorchScript, if no parameter is left to move, if one is not real or has no shape yet, or
            if a glob
            of `filters` fits no weight or names an axis that is not there.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            "a network in Python was wanted, but a TorchScript module came; give gradvis-surface its file with --trust"
        )
    parameters = dict(model.named_parameters())
    if lazy := [name for name, value in chain(parameters.items(), model.named_buffers()) if is_lazy(value)]:
        raise ValueError(
            f"an initialised model was wanted, but {lazy[0]} has no shape yet; call the model once on a batch first"
        )
    moved = [name for name, value in parameters.items() if include_frozen or value.requires_grad]
    if not moved:
        came = "all of its parameters are frozen; pass include_frozen=True" if parameters else "it has no parameters"
        raise ValueError(f"a model with trainable parameters was wanted, but {came}")
    if odd := [name for name in moved if not parameters[name].is_floating_point()]:
        kind = str(parameters[odd[0]].dtype).removeprefix("torch.")
        raise ValueError(f"real floating-point parameters were wanted, but {odd[0]} is {kind}; {_REAL}")
    return ParameterSpace(told([_block(model, name) for name in moved], filters or {}))


def _block(model: nn.Module, name: str) -> Block:
    layer, leaf, is_length = _user(model, name)
    shape = tuple(model.get_parameter(name).shape)
    known = _layer_filters(layer, leaf, shape) if len(shape) > 1 else None
    kind = "norm" if is_length else _kind(layer, leaf, shape, known is None)
    if kind != "weight":
        return Block(name, shape, kind)
    known = known or _raw_filters(layer, name, shape)
    view, filter_axes = known or (shape, (0,))
    return Block(name, shape, kind, view, filter_axes, guessed=known is None)


def _user(model: nn.Module, name: str) -> tuple[nn.Module, str, bool]:
    """The layer that computes with a parameter, the name it has there, and whether it is a length (weight norm)."""
    path, _, leaf = name.rpartition(".")
    layer = model.get_submodule(path)
    if isinstance(layer, ParametrizationList):
        above, _, weight = path.rpartition(".")
        user = model.get_submodule(above.rpartition(".")[0])
        if isinstance(layer[0], _WeightNorm):
            return user, weight, leaf == "original0"
        return user, weight if leaf == "original" else leaf, False  # several others: it is not known what each is
    for ending in ("_g", "_v", "_orig"):  # torch's older hooks: the weight itself is then a plain attribute
        weight = leaf.removesuffix(ending)
        if weight != leaf and weight in vars(layer):
            return layer, weight, ending == "_g"
    return layer, leaf, False


def _kind(layer: nn.Module, leaf: str, shape: Shape, is_raw: bool) -> Kind:
    """Li et al. 2018 hold every one-dimensional tensor still; so does whatever is not a weight here."""
    if isinstance(layer, _NORMS):
        return "norm"
    if leaf == "bias" or leaf.startswith("bias_") or leaf.endswith("_bias"):
        return "bias"
    if is_raw and is_scale(shape):
        return "bias" if "bias" in leaf else "norm"
    return "weight"


def _layer_filters(layer: nn.Module, leaf: str, shape: Shape) -> tuple[Shape, Shape] | None:
    """The view and its axes that count filters, or nothing where the layer does not say."""
    match layer:
        case _ConvTransposeNd() if leaf == "weight":  # stored (in, out / groups, ...)
            return (layer.groups, shape[0] // layer.groups, *shape[1:]), (0, 2)
        case _ if isinstance(layer, _ROWS) and leaf == "weight":
            return shape, (0,)
        case nn.MultiheadAttention() if leaf == "in_proj_weight":  # (q, k, v), head, unit
            return (3, layer.num_heads, shape[0] // layer.num_heads // 3, *shape[1:]), (0, 1, 2)
        case nn.MultiheadAttention() if leaf.endswith("_proj_weight"):
            return (layer.num_heads, shape[0] // layer.num_heads, *shape[1:]), (0, 1)
        case nn.RNNBase() | nn.RNNCellBase() if leaf.startswith(("weight_ih", "weight_hh")):  # gate, unit
            return (shape[0] // layer.hidden_size, layer.hidden_size, *shape[1:]), (0, 1)
        case nn.RNNBase() if leaf.startswith("weight_hr"):
            return shape, (0,)
        case _ if leaf == "weight" and _is_conv1d(layer):  # stored (in, out)
            return shape, (1,)
    return None


def _is_conv1d(layer: nn.Module) -> bool:
    """Whether it is the dense layer of GPT-2, found without an import of transformers."""
    ancestors = {(each.__module__, each.__name__) for each in type(layer).__mro__}
    return ("transformers.pytorch_utils", "Conv1D") in ancestors


def _raw_filters(layer: nn.Module, name: str, shape: Shape) -> tuple[Shape, Shape] | None:
    if len(shape) == 3:
        return shape, (0, 2) if getattr(layer, "is_transposed", False) else (0, 1)
    if len(shape) == 2 and any(part.startswith("lora_") for part in name.split(".")):
        return shape, (0,)
    return None


def convolves_images(model: nn.Module) -> bool:
    """Whether it has a two-dimensional convolution, so that channels-last inputs pay."""
    return any(isinstance(layer, _ConvNd) and len(layer.kernel_size) == 2 for layer in model.modules())


def batch_norms(model: nn.Module) -> list[_NormBase]:
    """Its layers whose statistics come from the batches: batch norms, and instance norms that keep running ones."""
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, _BatchNorm) or (isinstance(layer, _NormBase) and layer.running_mean is not None)
    ]


def has_batch_norm(model: nn.Module) -> bool:
    """Whether running statistics belong to a state of it."""
    return any(layer.running_mean is not None for layer in batch_norms(model))


def mixes_batch(model: nn.Module) -> bool:
    """Whether the samples of a batch see each other in evaluation too: a batch norm without running statistics."""
    return any(layer.running_mean is None for layer in batch_norms(model))


def own_dtype(model: nn.Module) -> torch.dtype:
    """The widest of its parameters', float32 at least."""
    wide = any(value.dtype == torch.float64 for value in model.parameters())
    return torch.float64 if wide else torch.float32
