"""Networks that come as programs: loading one can run code, so each needs the user's trust.

TorchScript and exports are wrapped so that they compute like any other module: `functional_call` cannot reach
into TorchScript, and an export may take batches of one size only.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradvis.backends.pytorch.reading import archive_kind, foreign, load, plain_file
from gradvis.notes import note

_EXPORT = "a torch.export archive"
# Operators whose last arguments say whether they train: which one.
_TRAINING = {"aten.batch_norm.default": 5, "aten.dropout.default": 2, "aten.feature_dropout.default": 2}
_ANY_SIZE = 1 << 16  # no micro-batch is longer


def program_kind(path: str | os.PathLike[str]) -> str | None:
    """What makes a file more than tensors, in words; None for a checkpoint, a folder of shards, or a damaged file.

    Raises:
        ValueError: If there is no such file.
    """
    file = plain_file(Path(path))
    if file is None:
        return None
    if kind := archive_kind(file):
        return kind
    try:
        load(file, "meta")
    except ValueError as error:
        return foreign(error.__cause__)
    return None


def load_program(path: str | os.PathLike[str], trust: bool, key: str | None = None) -> nn.Module:
    """The network that a file holds: a pickled module, TorchScript, or an export.

    Args:
        path: The file.
        trust: Whether code of the file may run. Nothing is loaded without.
        key: Where a pickle has the module, if it has several.

    Raises:
        ValueError: If there is no trust, or the file holds no network that gradvis can compute with.
    """
    content = load_trusted(path, trust)
    modules = {"": content} if isinstance(content, nn.Module) else dict(_modules(content))
    if key is not None and not isinstance(content, nn.Module):
        modules = {name: module for name, module in modules.items() if name == key}
    module = modules.get("model") or next(iter(modules.values()), None)
    if module is None:
        came = f"a {type(content).__name__} without {'one' if key is None else f'one under {key}'}"
        raise ValueError(f"a network was wanted, but {path} holds {came}; give --objective FILE.py:NAME for it")
    if next(module.parameters(), None) is None:
        raise ValueError(
            f"a network with parameters was wanted, but {path} holds none that can be moved (a frozen TorchScript "
            "keeps its weights as constants); save it before torch.jit.freeze"
        )
    return module


def load_trusted(path: str | os.PathLike[str], trust: bool) -> Any:
    """All that a file holds, its code run.

    Args:
        path: The file.
        trust: Whether that is allowed.

    Raises:
        ValueError: If it is not, or the file cannot be loaded; the line says what was missing.
    """
    file = plain_file(Path(path)) or Path(path)
    if not trust:
        raise ValueError(f"loading {path} can run code, for it is {program_kind(path)}; if you trust it, give --trust")
    kind = archive_kind(file)
    with file.open("rb"):
        pass
    try:
        with _current_folder(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of TorchScript
            content = _loaded(file, kind)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}, {kind or 'a pickle'}, could not be loaded ({type(error).__name__}: {reason:.300}); run "
            "the command where its classes can be imported, or save model.state_dict() and give --objective"
        ) from error
    if kind is None:
        return content
    program = exported(content) if kind == _EXPORT else Script(content)
    if any(name.endswith("running_mean") for name, _ in program.named_buffers()):
        note(f"{path} is {kind}: its batch norm uses the stored statistics, whatever batch_norm says")
    return program


def _loaded(file: Path, kind: str | None) -> Any:
    if kind is None:
        return torch.load(file, map_location="cpu", weights_only=False)
    return torch.export.load(file) if kind == _EXPORT else torch.jit.load(file, map_location="cpu")


def _modules(content: Any) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(content, Mapping):
        yield from ((str(name), value) for name, value in content.items() if isinstance(value, nn.Module))


@contextmanager
def _current_folder() -> Iterator[None]:
    """Inside, modules of the current folder can be imported, as `python` allows and a command does not."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


class Script(nn.Module):
    """A TorchScript network with parameters that `functional_call` can replace.

    The tree of modules is rebuilt with copies of the tensors, under the same names. A call writes what these are at
    the moment into the script's own tensors, in place, so that derivatives of first and second order flow through.

    Args:
        script: Loaded for this alone: its tensors are written to.
    """

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        parameters: dict[str, Tensor] = dict(script.named_parameters())
        if parameters:  # a frozen script has no modes either
            script.eval()
        for value in parameters.values():
            value.requires_grad_(False)
        self._script = [script]  # in a list: no submodule, so that its tensors are in no state_dict twice
        self._inner = {**parameters, **dict(script.named_buffers())}
        for name, value in self._inner.items():
            _put(self, name, value.detach().clone(), name in parameters)
        self.train(False)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The script's outputs with the parameters and buffers that stand here now."""
        # Its optimiser rewrites the graph after the first calls, and with it the last bits of what it computes.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            outer = {**dict(self.named_parameters()), **dict(self.named_buffers())}
            self._follow(next(iter(outer.values())))
            for name, value in self._inner.items():
                value.detach_().copy_(outer[name])
            return self._script[0](*inputs, **named)

    def _follow(self, like: Tensor) -> None:
        """To the device and floating type of a tensor."""
        inner = next(iter(self._inner.values()))
        if (inner.device, inner.dtype) != (like.device, like.dtype):
            for value in self._inner.values():
                value.detach_()
            script = self._script[0].to(like.device, like.dtype)
            self._inner = {**dict(script.named_parameters()), **dict(script.named_buffers())}


def _put(root: nn.Module, name: str, value: Tensor, parameter: bool) -> None:
    """Set a tensor at a dotted name, with plain modules on the way."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    if parameter:
        root.register_parameter(leaf, nn.Parameter(value))
    else:
        root.register_buffer(leaf, value)


def exported(program: torch.export.ExportedProgram) -> nn.Module:
    """The module of an export, for batches of any size.

    Args:
        program: Exported in evaluation mode.

    Raises:
        ValueError: If it was exported in training mode, which cannot be switched.
    """
    for node in program.graph.nodes:
        at = _TRAINING.get(str(node.target))
        if at is not None and node.args[at] is True:
            raise ValueError(
                f"an export in evaluation mode was wanted, but it was exported in training mode ({node.name} trains) "
                "and has no .eval(); export model.eval()"
            )
    module = program.module()
    fewest, most = _sizes(program)
    return module if fewest <= 1 and most >= _ANY_SIZE else _Sized(module, fewest, most)


def _sizes(program: torch.export.ExportedProgram) -> tuple[int, int]:
    """The shortest and the longest batch that an export takes."""
    named = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs = [named.get(str(name)) for name in program.graph_signature.user_inputs]
    first = next((value for value in inputs if isinstance(value, Tensor) and value.ndim), None)
    size = 1 if first is None else first.shape[0]
    if isinstance(size, int):
        return size, size
    limits = program.range_constraints.get(size.node.expr)
    return (int(limits.lower), int(min(limits.upper, _ANY_SIZE))) if limits else (1, _ANY_SIZE)


class _Sized(nn.Module):
    """A network that takes batches of some sizes only: longer ones are cut, a short rest is filled up.

    Its tensors and their names are those of the network itself.
    """

    def __init__(self, model: nn.Module, fewest: int, most: int) -> None:
        super().__init__()
        self._parameters, self._buffers, self._modules = model._parameters, model._buffers, model._modules
        self.run, self.fewest, self.most = [model], fewest, most

    def forward(self, *inputs: Tensor) -> Tensor:
        """The outputs, (b, ...), of inputs, (b, ...) each."""
        pieces = zip(*(each.split(self.most) for each in inputs), strict=True)
        return torch.cat([self._piece(piece) for piece in pieces])

    def _piece(self, inputs: tuple[Tensor, ...]) -> Tensor:
        count = len(inputs[0])
        missing = max(self.fewest - count, 0)
        filled = [torch.cat([each, each[:1].expand(missing, *each.shape[1:])]) if missing else each for each in inputs]
        return self.run[0](*filled)[:count]
