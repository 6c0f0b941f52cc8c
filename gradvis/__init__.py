"""What a network's loss looks like, how training moved through it, and how curved it is.

objective = gradvis.objective(model, data=(inputs, targets), loss="cross_entropy", metrics=["accuracy"])
surface = gradvis.loss_surface(objective, gradvis.random_plane(objective), out="run.surface.zarr")
surface.plot("run.png")
"""

__version__ = "0.1.0"

from gradvis.between import plane_between
from gradvis.directions import random_plane
from gradvis.objective import Objective, objective, save_checkpoint
from gradvis.plane import Plane
from gradvis.results import open  # noqa: A004 - the contract's name
from gradvis.schedule import TaskError
from gradvis.space import Block, ParameterSpace
from gradvis.surface import Surface, loss_surface

__all__ = [
    "Block",
    "Objective",
    "ParameterSpace",
    "Plane",
    "Surface",
    "TaskError",
    "loss_surface",
    "objective",
    "open",
    "plane_between",
    "random_plane",
    "save_checkpoint",
]
