"""The commands: arguments to one job to an exit status."""

from gradvis.cli.main import main, plot, surface, trajectory

__all__ = ["main", "plot", "surface", "trajectory"]
