"""What a network's loss looks like, how training moved through it, and how curved it is.

objective = gradvis.objective(model, data=(inputs, targets), loss="cross_entropy", metrics=["accuracy"])
surface = gradvis.loss_surface(objective, gradvis.random_plane(objective), out="run.surface.zarr")
surface.plot("run.png")
"""

__version__ = "0.1.0"

from gradvis.between import plane_between
from gradvis.directions import random_plane
from gradvis.eigenpairs import hessian_eigenpairs, hessian_plane
from gradvis.frameworks import objective, record, save_checkpoint
from gradvis.objective import Objective
from gradvis.plane import Plane
from gradvis.recording import Recording
from gradvis.results import open  # noqa: A004 - the contract's name
from gradvis.schedule import TaskError
from gradvis.space import Block, ParameterSpace
from gradvis.spectrum import Spectrum, hessian_spectrum
from gradvis.surface import Surface, loss_surface
from gradvis.trajectory import Trajectory, principal_plane, project_trajectory

__all__ = [
    "Block",
    "Objective",
    "ParameterSpace",
    "Plane",
    "Recording",
    "Spectrum",
    "Surface",
    "TaskError",
    "Trajectory",
    "hessian_eigenpairs",
    "hessian_plane",
    "hessian_spectrum",
    "loss_surface",
    "objective",
    "open",
    "plane_between",
    "principal_plane",
    "project_trajectory",
    "random_plane",
    "record",
    "save_checkpoint",
]
