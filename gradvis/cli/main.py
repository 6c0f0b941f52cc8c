"""One program with verbs, and each verb as a command of its own."""

import click

import gradvis
from gradvis.cli.demo import demo as demo_command
from gradvis.cli.door import enter
from gradvis.cli.info import info as info_command
from gradvis.cli.plot import plot as plot_command
from gradvis.cli.spectrum import spectrum as spectrum_command
from gradvis.cli.surface import surface as surface_command
from gradvis.cli.trajectory import trajectory as trajectory_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(gradvis.__version__, message="%(prog)s %(version)s")
def program() -> None:
    """What a neural network's loss looks like, how training moved through it, and how curved it is."""


for command in (surface_command, trajectory_command, spectrum_command, plot_command, info_command, demo_command):
    program.add_command(command)


def main() -> None:
    """`gradvis VERB ...`."""
    enter(program, "gradvis")


def surface() -> None:
    """`gradvis-surface MODEL ...`."""
    enter(surface_command, "gradvis-surface")


def trajectory() -> None:
    """`gradvis-trajectory CKPT... ...`."""
    enter(trajectory_command, "gradvis-trajectory")


def spectrum() -> None:
    """`gradvis-spectrum MODEL ...`."""
    enter(spectrum_command, "gradvis-spectrum")


def plot() -> None:
    """`gradvis-plot RESULT... ...`."""
    enter(plot_command, "gradvis-plot")
