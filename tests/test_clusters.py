"""The how-to for clusters: its scripts are shell, and the options in them exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from gradvis.cli.info import info
from gradvis.cli.surface import surface

PAGE = (Path(__file__).parent.parent / "notebooks" / "howto" / "clusters.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)
SCRIPTS = [block for block in BLOCKS if "#SBATCH" in block]
COMMANDS = {"gradvis-surface": surface, "gradvis info": info}


def uses(text):
    """The options given to a command of ours, by command."""
    for line in text.replace("\\\n", " ").splitlines():
        for name in COMMANDS:
            if found := re.search(rf"\b{name}\b(?!\.)([^`&|#]*)", line):
                yield name, [word.partition("=")[0] for word in shlex.split(found[1]) if word.startswith("-")]


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_block_is_shell(block):
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_option_of_ours_exists(block):
    for name, options in uses(block):
        known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert set(options) <= known, name


@pytest.mark.parametrize("option", ["--dry-run", "--threads", "--compile", "--out", "--json"])
def test_options_of_ours_in_the_text_exist_too(option):
    assert f"`{option}" in PAGE
    assert any(option in parameter.opts for command in COMMANDS.values() for parameter in command.params)


def test_scripts_for_each_kind_of_node_are_there_and_end_in_time():
    assert len(SCRIPTS) == 5
    used = [use for script in SCRIPTS for use in uses(script)]
    assert [name for name, _ in used] == ["gradvis-surface"] * 5
    assert ("gradvis-surface", ["--device"]) in used
    assert all(re.search(r"^#SBATCH --signal=(B:)?TERM@\d+$", script, re.M) for script in SCRIPTS)


def test_the_script_around_mpirun_passes_the_signal_on(tmp_path):
    """Run with a launcher and a Slurm that only say what they were told."""
    (script,) = [script for script in SCRIPTS if "mpirun" in script]
    for name, body in {
        "mpirun": "trap 'echo told; exit 1' TERM; touch started; while :; do sleep 0.05; done",
        "scontrol": 'echo "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(script)
    wait = "bash job.sh & while [ ! -e started ]; do sleep 0.05; done; kill -TERM $!; wait $!; echo status $?"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}

    done = subprocess.run(
        ["bash", "-c", wait], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30, check=False
    )

    assert done.stdout == "told\nrequeue 7\nstatus 143\n", done
