"""The framework of a model makes what the user asks for: an Objective, a recording, a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from os import PathLike
from types import ModuleType
from typing import Any

from gradvis.objective import Objective

_BACKENDS = {
    "torch": "gradvis.backends.pytorch",
    "keras": "gradvis.backends.tf",
    "tensorflow": "gradvis.backends.tf",
}
_OVERRIDES: ContextVar[tuple[dict[str, Any], set[str]]] = ContextVar("gradvis_overrides")


@contextmanager
def overridden(options: Mapping[str, Any]) -> Iterator[set[str]]:
    """Inside, `objective` takes these options in place of those it is called with: the command line has the last word.

    Yields:
        The names of the options that no call has taken yet.
    """
    unused = set(options)
    token = _OVERRIDES.set((dict(options), unused))
    try:
        yield unused
    finally:
        _OVERRIDES.reset(token)


def objective(model: Any, data: Any = None, loss: Any = None, **options: Any) -> Objective:
    """The loss of a model on data as a function of its parameters.

    Args:
        model: A `torch.nn.Module`, a `keras.Model`, or a `tf.Module` with a `batch_loss`. It is never changed.
        data: A pair of arrays (inputs, targets), a Dataset, a DataLoader, a finite iterable of batches, or the path
            of a file with `inputs` and `targets` (.npz, .safetensors; .pt for torch), which must not be written to
            meanwhile.
        loss: A name (`cross_entropy`, `mse`, ...), or `f(outputs, targets)` that returns per-sample
            values (b, ...) or the mean of its batch; a compiled Keras model brings its own.
        **options: `metrics`, `batch_loss`, `batch_size`, `device`, `dtype` and more: see
            `gradvis.backends.pytorch.TorchObjective` and `gradvis.backends.tf.KerasObjective`.

    Raises:
        TypeError: If the model is of no framework that gradvis knows.
        ValueError: If an option or the data does not fit, or Keras does not run on TensorFlow.
    """
    given, unused = _OVERRIDES.get(({}, set()))
    unused.clear()
    made: Objective = _backend(model).objective(model, **{"data": data, "loss": loss, **options, **given})
    return made


def record(model: Any, optimizer: Any = None, *, out: str | PathLike[str], **options: Any) -> Any:
    """Record training: parameters, buffers, loss, learning rate and gradient norms of every n-th step.

    Args:
        model: A `torch.nn.Module`, a `keras.Model` or a `tf.Module`.
        optimizer: Its optimizer, whose steps are counted; without one, `save` records.
        out: The recording, a folder.
        **options: `every_n_steps`, `objective`, `parameters`, `disk_budget` and more: see
            `gradvis.backends.pytorch.record` and `gradvis.backends.tf.record`.

    Returns:
        A `Recorder`, a context manager; `log(loss=...)`, before or after the step, tells it what a hook cannot see.
    """
    return _backend(model).record(model, optimizer, out=out, **options)


def save_checkpoint(path: str | PathLike[str], model: Any, objective: str | None = None, **extra: Any) -> None:
    """Write a model so that `gradvis-surface PATH` needs nothing else.

    Args:
        path: The file: `.pt`; of a Keras model `.keras`, or `.weights.h5` for its weights alone.
        model: A `torch.nn.Module` or a `keras.Model`.
        objective: `FILE.py:NAME`, a function without arguments that returns the Objective; FILE.py lies
            in the folder from which commands are run.
        **extra: Numbers and strings to store beside it, such as `step=100`; beside a torch module tensors too.
    """
    _backend(model).save_checkpoint(path, model, objective, **extra)


def _backend(model: Any) -> ModuleType:
    """By the model's type; never imports a framework that the user has not imported.

    Raises:
        ModuleNotFoundError: If a package of the backend is not installed.
        TypeError: If the model is of none that gradvis knows.
        ValueError: If it runs on a framework that it cannot be computed with: Keras has several.
    """
    for kind in type(model).__mro__:
        framework = kind.__module__.partition(".")[0]
        if framework in _BACKENDS and framework in sys.modules:
            try:
                return import_module(_BACKENDS[framework])
            except ModuleNotFoundError:
                raise
            except ImportError as error:
                raise ValueError(str(error)) from error
    came = f"the class {model.__name__} came; call it" if isinstance(model, type) else f"{type(model).__name__} came"
    raise TypeError(f"model must be a torch.nn.Module or a keras.Model, but {came}")
