"""Leaves the random generators and the precision flag of the process as they were found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf


@contextmanager
def untouched(device: str) -> Iterator[None]:
    """Inside: IEEE float32 on one device; afterwards, also after an exception: everything as found.

    Keras variables need no putting back: a `keras.StatelessScope` never writes to them. Python's and NumPy's
    generators do, for tracing runs the user's own Python code.
    """
    precision = tf.config.experimental
    python, numpy, tf32 = random.getstate(), np.random.get_state(), precision.tensor_float_32_execution_enabled()  # noqa: NPY002 - it is the user's, to be put back
    try:
        precision.enable_tensor_float_32_execution(False)
        with tf.device(device):
            yield
    finally:
        precision.enable_tensor_float_32_execution(tf32)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def device_name(wanted: str | None) -> str:
    """TensorFlow's name for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ValueError: If this machine has no such device.
    """
    kind, _, number = (wanted or "auto").partition(":")
    gpus: list[Any] = tf.config.list_logical_devices("GPU")
    if kind == "cpu" or (kind == "auto" and not gpus):
        return "/CPU:0"
    if kind in {"auto", "cuda"} and int(number or 0) < len(gpus):
        return f"/GPU:{int(number or 0)}"
    found = ["cpu", *(f"cuda:{index}" for index in range(len(gpus)))]
    raise ValueError(
        f"device must be auto or one of {', '.join(found)}, which TensorFlow sees here, but {wanted!r} came"
    )
