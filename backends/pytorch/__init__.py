"""Objectives of PyTorch modules."""

from gradvis.backends.pytorch.checkpoints import objective_name, save_checkpoint
from gradvis.backends.pytorch.objective import TorchObjective

objective = TorchObjective

__all__ = ["TorchObjective", "objective", "objective_name", "save_checkpoint"]
