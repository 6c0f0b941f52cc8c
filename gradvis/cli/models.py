"""What MODEL is: a checkpoint that names its objective, a network of its own, or weights; and for which framework."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradvis.backends.formats import exists, is_keras
from gradvis.cli.runtime import take_tensorflow
from gradvis.frameworks import objective
from gradvis.objective import Objective
from gradvis.recording import Recorded


def check_file(model: str) -> None:
    """See that there is a checkpoint.

    Raises:
        ValueError: If not.
    """
    if not exists(model):
        raise ValueError(f"a checkpoint was wanted, but there is no file {model}; give the path of one")
    if (Path(model) / "zarr.json").is_file():
        raise ValueError(
            f"a checkpoint was wanted, but {model} is a result; gradvis-plot draws it, and --plane {model} takes "
            "its plane for another model"
        )
    if is_keras(model):
        take_tensorflow()


def result_of(model: str, kind: str) -> Path:
    """Where the result of a model goes unless told: into this folder, named after its file.

    >>> result_of("runs/net.weights.h5", "surface").name
    'net.surface.zarr'
    """
    return Path(f"{Path(model).stem.removesuffix('.weights')}.{kind}.zarr")


def of_program(model: str, options: Mapping[str, Any], key: str | None, trust: bool) -> Objective | None:
    """The objective of a network that a file holds itself; None if the file holds tensors, or names its objective.

    Raises:
        ValueError: If there is no trust, or data or loss are missing.
    """
    if is_keras(model):
        return _of_keras(model, options, key, trust)
    from gradvis.backends.pytorch import load_program, program_kind  # a framework is imported when a file asks for it

    kind = program_kind(model)
    if kind is None:
        return None
    if trust:
        _needs(model, kind, options, "data", "loss")
    network = load_program(model, trust, key)
    return objective(network, **options).at(network)


def _of_keras(model: str, options: Mapping[str, Any], key: str | None, trust: bool) -> Objective | None:
    from gradvis.backends.tf import load_program, needs_trust, objective_name, program_kind

    kind = program_kind(model)
    if kind is None or objective_name(model):
        return None
    if trust or not needs_trust(model):
        _needs(model, kind, options, "data")
    network = load_program(model, trust, key, compiled="loss" not in options)
    if getattr(network, "loss", None) is None:
        _needs(model, kind, options, "loss")
    return objective(network, **options).at(network)


def _needs(model: str, kind: str, options: Mapping[str, Any], *names: str) -> None:
    """See that options are there that a network without them needs.

    Raises:
        ValueError: If not.
    """
    values = {"data": "--data FILE", "loss": "--loss NAME"}
    if missing := [values[name] for name in names if name not in options]:
        has = f"neither {' nor '.join(names)}" if len(names) > 1 else f"no {names[0]}"
        raise ValueError(f"{model} is {kind}, which has {has}; give {' and '.join(missing)}, or --objective")


def checkpoint(model: str, made: Objective, key: str | None, trust: bool) -> Any:
    """What `Objective.at` takes for MODEL.

    Raises:
        ValueError: If a key is given where there are none.
    """
    framework = made.about.get("backend")
    if framework == "torch":
        from gradvis.backends.pytorch import Checkpoint, load_trusted, program_kind

        source = load_trusted(model, trust) if trust and program_kind(model) else model
        return Checkpoint(source, key)
    if key is None:
        return model
    if framework == "keras":
        from gradvis.backends import tf

        return tf.Checkpoint(model, key)
    raise ValueError(f"--key chooses a state in a PyTorch checkpoint, but {model} is none; leave it out")


def named_inside(model: Any) -> str:
    """Only a file of the current folder: nothing else that a checkpoint names is run.

    Raises:
        ValueError: If it names none, or another.
    """
    if isinstance(model, Recorded):
        name, keeper = model.recording.objective, "record with gradvis.record"
    else:
        name, keeper = _name_in(model), "save with gradvis.save_checkpoint"
    if name is None:
        raise ValueError(
            f"{model} names no objective; give --objective FILE.py:NAME, a function that returns "
            f"gradvis.objective(model, data=..., loss=...), or {keeper}(..., objective=...)"
        )
    file = name.partition(":")[0]
    if Path(file).name != file or not file.endswith(".py"):
        raise ValueError(
            f"{model} names the objective {name!r}, but a name inside a checkpoint may only mean a .py file of the "
            f"current folder; if you trust it, give --objective {name}"
        )
    return name


def _name_in(model: str) -> str | None:
    if is_keras(model):
        from gradvis.backends.tf import objective_name as keras_name

        return keras_name(model)
    from gradvis.backends.pytorch import objective_name

    return objective_name(model)
