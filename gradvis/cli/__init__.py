"""The commands: arguments to one job to an exit status."""

from gradvis.cli.main import main, plot, spectrum, surface, trajectory

__all__ = ["main", "plot", "spectrum", "surface", "trajectory"]
