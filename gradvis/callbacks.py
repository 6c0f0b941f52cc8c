"""Callbacks that record training as `gradvis.record` does, for those who do not write the loop themselves.

    trainer = lightning.Trainer(callbacks=[gradvis.callbacks.LightningCallback(out="run.recording")])
    trainer = transformers.Trainer(..., callbacks=[gradvis.callbacks.TransformersCallback(out="run.recording")])
    model.fit(..., callbacks=[gradvis.callbacks.KerasCallback(out="run.recording")])

No framework is imported before its callback is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "KerasCallback": "gradvis.backends.tf.callbacks",
    "LightningCallback": "gradvis.backends.pytorch.callbacks",
    "TransformersCallback": "gradvis.backends.pytorch.callbacks",
}

__all__ = ["KerasCallback", "LightningCallback", "TransformersCallback"]  # noqa: F822 - made when they are asked for


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
