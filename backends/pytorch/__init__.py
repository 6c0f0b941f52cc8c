"""Objectives of PyTorch modules."""

from gradvis.backends.pytorch.checkpoints import Checkpoint, objective_name, save_checkpoint
from gradvis.backends.pytorch.objective import TorchObjective
from gradvis.backends.pytorch.programs import load_program, load_trusted, program_kind
from gradvis.backends.pytorch.record import record

objective = TorchObjective

__all__ = [
    "Checkpoint",
    "TorchObjective",
    "load_program",
    "load_trusted",
    "objective",
    "objective_name",
    "program_kind",
    "record",
    "save_checkpoint",
]
