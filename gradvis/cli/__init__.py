"""The commands: arguments to one job to an exit status."""

from gradvis.cli.main import main, plot, surface

__all__ = ["main", "plot", "surface"]
