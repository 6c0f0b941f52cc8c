"""Objectives of Keras models and TensorFlow modules, computed by TensorFlow."""

from __future__ import annotations

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"gradvis computes Keras models with TensorFlow, but Keras runs on {keras.backend.backend()!r}; "
        "set KERAS_BACKEND=tensorflow before Keras is imported"
    )

from gradvis.backends.tf.checkpoints import Checkpoint
from gradvis.backends.tf.objective import KerasObjective
from gradvis.backends.tf.programs import load_program, needs_trust, program_kind
from gradvis.backends.tf.record import record
from gradvis.backends.tf.saving import objective_name, save_checkpoint

objective = KerasObjective

__all__ = [
    "Checkpoint",
    "KerasObjective",
    "load_program",
    "needs_trust",
    "objective",
    "objective_name",
    "program_kind",
    "record",
    "save_checkpoint",
]
