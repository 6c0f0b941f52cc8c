"""The scheduler over MPI: `world()` is the one of this job."""

if __name__ != "gradvis.mpi":
    raise ImportError("import gradvis.mpi: `import mpi` would make a second copy of every class")

from gradvis.mpi.launch import world

__all__ = ["world"]
