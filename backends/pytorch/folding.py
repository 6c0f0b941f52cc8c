"""What products by forward mode write out differently, because torch's own derivatives there are slow, or raise.

Batch normalisation by stored statistics is a product and a sum for each channel. Done to the weights of the linear
layer before it, and not to that layer's much larger outputs, it costs next to nothing in every derivative.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

_LAYERS = {F.linear: 2, torch.conv1d: 3, torch.conv2d: 4, torch.conv3d: 5}
"""Linear functions of inputs, weight and bias, and the dimensions of a batch whose second one counts the channels."""
_KNOWN = {Tensor.dim, Tensor.ndim.__get__}  # type: ignore[attr-defined]


class Forward(TorchFunctionMode):
    """Inside, some operations are written out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _LAYERS:
            return _later(func, *_now(args), **_now(kwargs))
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func is F.mse_loss and kwargs.get("reduction") == "mean":  # raises, torch 2.13
            return func(*args, **{**kwargs, "reduction": "none"}).mean()
        return func(*args, **kwargs)


class _Later(Tensor):
    """The output of a layer, not computed before something asks for it: batch normalisation asks for another."""

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    run: Any
    found: Tensor | None

    def plain(self) -> Tensor:
        if self.found is None:
            self.found = self.run(self.inputs, self.weight, self.bias)
        return self.found

    def scaled(self, scale: Tensor, shift: Tensor) -> Tensor:
        """The output with each channel multiplied and moved, both (channels,)."""
        weight = self.weight * scale.view(-1, *[1] * (self.weight.ndim - 1))
        bias = shift if self.bias is None else self.bias * scale + shift
        result: Tensor = self.run(self.inputs, weight, bias)
        return result

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _KNOWN:
            return super().__torch_function__(func, types, args, kwargs)
        return func(*_now(args), **_now(kwargs or {}))


def _now(values: Any) -> Any:
    return tree_map_only(_Later, _Later.plain, values)


def _later(func: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **more: Any) -> Tensor:
    if inputs.ndim != _LAYERS[func]:
        result: Tensor = func(inputs, weight, bias, *rest, **more)
        return result
    # Nothing is in it: whatever would look past `__torch_function__` raises.
    output = torch.empty([0] * inputs.ndim, device="meta").as_subclass(_Later)
    output.inputs, output.weight, output.bias, output.found = inputs, weight, bias, None
    output.run = lambda inputs, weight, bias: func(inputs, weight, bias, *rest, **more)
    return output


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    scale = (running_var + eps).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - running_mean * scale
    if isinstance(x, _Later) and x.found is None:  # else it may have been written to
        return x.scaled(scale, shift)
    channels = (-1, *[1] * (x.ndim - 2))
    return x * scale.view(channels) + shift.view(channels)
