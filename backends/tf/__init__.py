"""Objectives of Keras models, computed by TensorFlow."""

from __future__ import annotations

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"gradvis computes Keras models with TensorFlow, but Keras runs on {keras.backend.backend()!r}; "
        "set KERAS_BACKEND=tensorflow before Keras is imported"
    )

from gradvis.backends.tf.objective import KerasObjective

objective = KerasObjective

__all__ = ["KerasObjective", "objective"]
