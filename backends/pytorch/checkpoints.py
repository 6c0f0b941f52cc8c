"""Checkpoints of torch models: tensors in, nothing run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradvis.backends.formats import check_named
from gradvis.backends.given import listed
from gradvis.backends.pytorch.matching import Tensors, all_names, bare, check_finite, first, matched
from gradvis.backends.pytorch.reading import foreign, load, plain_file, read
from gradvis.backends.recorded import tell_left_out
from gradvis.recording import Recorded

_MARK = "gradvis"
_DEEPEST = 6


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, and which of its states is meant; `Objective.read` and `at` take it like a path.

    Attributes:
        source: A path, a module, or a mapping of tensors under any keys.
        key: Where the state lies in it, as `model_ema`, `training.G`, or the prefix of its names; None
            for the one that fits.
    """

    source: Any
    key: str | None = None


def save_checkpoint(path: str | os.PathLike[str], model: nn.Module, objective: str | None = None, **extra: Any) -> None:
    """Write a model's tensors, and the name of its objective, so that `gradvis-surface PATH` needs nothing else.

    Args:
        path: The file, `.pt`. An earlier file stays as it is until the new one is whole.
        model: Its `state_dict` is stored, parameters and buffers.
        objective: `FILE.py:NAME`, a function that returns the Objective; FILE.py lies in the folder
            from which the command is run.
        **extra: Tensors, numbers and strings to store beside it, such as `step=100`.

    Raises:
        ValueError: If the objective is not named as FILE.py:NAME, or something could not be read back.
    """
    check_named(objective)
    if taken := {"state_dict", _MARK} & set(extra):
        raise ValueError(f"{min(taken)} is what gradvis.save_checkpoint writes itself; give the extra another name")
    if Path(path).suffix == ".safetensors":
        raise ValueError(f"gradvis.save_checkpoint writes .pt files, but {path} came; name it .pt")
    content = {"state_dict": _copied(model.state_dict()), _MARK: {"objective": objective}, **extra}
    partial = Path(f"{os.fspath(path)}.partial")
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
        _check_loads(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _check_loads(partial: Path) -> None:
    try:
        load(partial, "meta")
    except ValueError as error:
        raise ValueError(
            "tensors, numbers and strings may be stored beside a model, for they load without running code, but "
            f"something else came ({foreign(error.__cause__) or error}); leave it out"
        ) from error


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """On the CPU, each in a storage of its own; what is tied stays tied."""
    made: dict[Any, Tensor] = {}

    def copy(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        place = value.device, value.data_ptr(), value.dtype, value.shape, value.stride()
        return made.setdefault(place, value.detach().cpu().clone())

    return {name: copy(value) for name, value in state.items()}


def objective_name(path: str | os.PathLike[str]) -> str | None:
    """The objective that a checkpoint names, or None.

    Raises:
        ValueError: If it is no checkpoint.
    """
    file = plain_file(Path(path))
    content = load(file, "meta") if file else None
    mark = content.get(_MARK) if isinstance(content, Mapping) else None
    name = mark.get("objective") if isinstance(mark, Mapping) else None
    return name if isinstance(name, str) else None


def read_tensors(checkpoint: Any, key: str | None = None) -> Tensors:
    """The named tensors of a checkpoint, where no model says which of several are meant.

    Args:
        checkpoint: A path, a module, a mapping of tensors under any keys, or a `Checkpoint`.
        key: See `Checkpoint`.

    Raises:
        ValueError: If there are none, or several states and no key.
    """
    found = _states(checkpoint, key)
    chosen = first(found)
    if chosen is None:
        raise ValueError(f"one state was wanted, but there are several ({listed(found)}); give one as key (--key)")
    return {bare(name): value for name, value in found[chosen].items()}


def fitting(model: nn.Module, checkpoint: Any, mapped: bool = False) -> Tensors:
    """A checkpoint's values of the model's parameters and buffers, each by its first name in the model.

    Wrappers' prefixes are looked through; of tied weights one name is enough; a prefix that all names
    share, and no other, is removed. A buffer that no state_dict has stays as the model has it.

    Args:
        model: Says which names and shapes are wanted; it is not touched.
        checkpoint: A path, a module, a mapping of tensors under any keys, a `Checkpoint`, or a recorded step.
        mapped: Leave in the file what a file can be read from in parts, and unchecked whether it is finite.

    Raises:
        ValueError: If it is of another architecture, if several states in it fit, or if weights are not finite.
    """
    own: Tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    wanted = _wanted(model, own, checkpoint)
    found = matched(_states(checkpoint, mapped=mapped), wanted, all_names(model), source := _called(checkpoint))
    if not mapped:
        check_finite(found, wanted, source)
    return {name: found.get(name, value) for name, value in own.items()}


def places(model: nn.Module, recorded: Recorded) -> dict[str, str]:
    """What a recording calls the model's parameters and buffers, by the model's names; nothing is read.

    Raises:
        ValueError: If it is of another architecture.
    """
    recording = recorded.recording
    parts = {**recording.blocks, **recording.buffers}
    stored = {n: torch.empty(p.shape, dtype=getattr(torch, p.dtype), device="meta") for n, p in parts.items()}
    own: Tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = matched({"": stored}, _wanted(model, own, recorded), all_names(model), _called(recorded))
    called = {id(value): name for name, value in stored.items()}
    return {name: called[id(value)] for name, value in found.items()}


def _wanted(model: nn.Module, own: Tensors, checkpoint: Any) -> Tensors:
    """What a checkpoint must have: parameters and the buffers of a state_dict, but for what was not recorded."""
    stored, names = model.state_dict(), all_names(model)
    wanted = {
        name: value
        for name, value in own.items()
        if isinstance(value, nn.Parameter) or any(other in stored for other in names[name])
    }
    if not isinstance(checkpoint, Recorded) or not (left_out := checkpoint.recording.about.get("left_out")):
        return wanted
    ends = [f".{name}" for name in left_out]
    missing = {n for n in wanted if any(end.endswith(f".{bare(other)}") for other in names[n] for end in ends)}
    tell_left_out(checkpoint.recording, missing)
    return {name: value for name, value in wanted.items() if name not in missing}


def _states(checkpoint: Any, key: str | None = None, mapped: bool = False) -> dict[str, Tensors]:
    """Every mapping of tensors in a checkpoint, by its place, dotted; those of the key if one is given.

    Raises:
        ValueError: If there are none.
    """
    if isinstance(checkpoint, Checkpoint):
        return _states(checkpoint.source, key or checkpoint.key, mapped)
    if isinstance(checkpoint, Recorded):
        return {"": {name: torch.from_numpy(value) for name, value in checkpoint.tensors().items()}}
    content = read(Path(checkpoint), mapped) if isinstance(checkpoint, (str, os.PathLike)) else checkpoint
    found = dict(_walk(content, "", 0))
    if not found:
        raise ValueError(
            f"a checkpoint with named tensors was wanted, but {checkpoint!s:.80} holds none; save "
            "model.state_dict(), or use gradvis.save_checkpoint"
        )
    return _under(found, key) if key else found


def _called(checkpoint: Any) -> str:
    source = checkpoint.source if isinstance(checkpoint, Checkpoint) else checkpoint
    return f"the checkpoint {source}" if isinstance(source, (str, os.PathLike, Recorded)) else "the checkpoint"


def _walk(content: Any, where: str, depth: int) -> Iterator[tuple[str, Tensors]]:
    content = content.state_dict() if isinstance(content, nn.Module) else content
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return
    own = {str(name): value for name, value in content.items() if is_plain(value)}
    if own:
        yield where, own
    for name, value in content.items():
        yield from _walk(value, f"{where}.{name}".lstrip("."), depth + 1)


def is_plain(value: Any) -> bool:
    """Whether it is a tensor whose numbers lie there one by one."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _under(states: dict[str, Tensors], key: str) -> dict[str, Tensors]:
    """The states at a key, under it, or whose names begin with it.

    Raises:
        ValueError: If there are none.
    """
    at = {where: state for where, state in states.items() if f".{where}".endswith(f".{key}")}
    below = {where: state for where, state in states.items() if f".{where}.".find(f".{key}.") >= 0}
    named = {f"{where}.{key}".lstrip("."): _beginning(state, where, key) for where, state in states.items()}
    found = at or below or {where: state for where, state in named.items() if state}
    if not found:
        near = get_close_matches(key, states, 1)
        hint = f"did you mean {near[0]}" if near else "give one of these, or none"
        raise ValueError(f"a state {key} was wanted, but the checkpoint has {listed([*states])}; {hint}")
    return found


def _beginning(state: Tensors, where: str, key: str) -> Tensors:
    """The tensors whose names begin with a key, relative to the state or to the whole checkpoint, less it."""
    prefix = f"{key.removeprefix(f'{where}.')}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
