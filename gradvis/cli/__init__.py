"""The commands: arguments to one job to an exit status."""

from gradvis.cli.main import main, surface

__all__ = ["main", "surface"]
