"""The how-to for other people's models: its pages run as they are, and their numbers are plain PyTorch's."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

import gradvis
from gradvis.cli.door import enter
from gradvis.cli.main import program

PAGE = (Path(__file__).parent.parent / "notebooks" / "howto" / "models.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)


def typed(line):
    """What the shell would run, in this process; its exit status."""
    command, *words = shlex.split(line)
    try:
        if command == "python":
            runpy.run_path(words[0], run_name="__main__")
            return 0
        enter(program.commands[command.removeprefix("gradvis-")], command, words)
    except SystemExit as end:
        return end.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder after all the blocks, from top to bottom."""
    place = tmp_path_factory.mktemp("howto")
    before, path, modules = Path.cwd(), list(sys.path), set(sys.modules)
    os.chdir(place)
    sys.path.insert(0, str(place))
    try:
        for language, block in BLOCKS:
            if language == "python":
                (place / re.match(r"# (\w+\.py)\n", block)[1]).write_text(block)
            else:
                statuses = {line: typed(line) for line in block.splitlines()}
                assert set(statuses.values()) == {0}, statuses
        yield place
    finally:
        os.chdir(before)
        sys.path[:] = path
        for name in {re.match(r"# (\w+)\.py\n", block)[1] for kind, block in BLOCKS if kind == "python"} - modules:
            sys.modules.pop(name, None)


def center(folder, name):
    return gradvis.open(folder / f"{name}.surface.zarr").center["loss"]


def page(folder, name):
    return runpy.run_path(str(folder / f"{name}.py"))


def state(folder, file):
    return torch.load(folder / file, weights_only=True)["state_dict"]


def test_every_block_is_a_file_or_a_command_of_ours():
    assert {language for language, _ in BLOCKS} == {"python", "sh"}
    firsts = {line.split()[0] for language, block in BLOCKS if language == "sh" for line in block.splitlines()}
    assert firsts == {"python", "gradvis-surface", "gradvis-plot"}


@pytest.mark.slow
def test_the_loss_of_a_hugging_face_model_is_the_mean_over_its_tokens(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "gpt2").eval()
    texts = page(folder, "hf")["texts"]()
    chosen = np.sort(np.random.default_rng(0).choice(len(texts), 16, replace=False))
    with torch.no_grad():  # text by text, so that nothing is padded
        losses = [model(input_ids=texts[i][None], labels=texts[i][None]).loss.item() for i in chosen]
    tokens = [len(texts[i]) - 1 for i in chosen]

    assert len(list((folder / "gpt2").glob("*.safetensors"))) > 1
    assert center(folder, "gpt2") == pytest.approx(np.average(losses, weights=tokens), rel=1e-5)
    assert center(folder, "gpt2") != pytest.approx(np.mean(losses), rel=1e-4)  # the mean of means is another number


@pytest.mark.slow
def test_the_states_of_a_checkpoint_are_those_that_were_named(folder):
    mine = page(folder, "mine")
    inputs, targets = mine["points"](seed=0)
    for name, file in {"last": "seed-0.pt", "run": "seed-1.pt", "seed-0": "seed-0.pt"}.items():
        model = mine["network"]().eval()
        model.load_state_dict(state(folder, file))
        assert center(folder, name) == pytest.approx(cross_entropy(model(inputs), targets).item(), rel=1e-5)


@pytest.mark.slow
def test_a_plane_through_checkpoints_has_each_with_its_own_loss(folder):
    mine = page(folder, "mine")
    inputs, targets = mine["points"](seed=0)
    marks = gradvis.open(folder / "plane.surface.zarr").checkpoints

    assert [(mark.name, mark.coords) for mark in marks] == [
        ("seed-0.pt", pytest.approx((0.0, 0.0), abs=1e-6)),
        ("seed-1.pt", pytest.approx((1.0, 0.0), abs=1e-6)),
        ("seed-2.pt", pytest.approx((0.0, 1.0), abs=1e-6)),
    ]
    for mark in marks:
        model = mine["network"]().eval()
        model.load_state_dict(state(folder, mark.name))
        assert mark.own["loss"] == pytest.approx(cross_entropy(model(inputs), targets).item(), rel=1e-5)


@pytest.mark.slow
def test_test_data_lies_on_the_plane_of_the_training_data(folder):
    train, test = (gradvis.open(folder / f"{name}.surface.zarr") for name in ("seed-0", "test"))
    mine = page(folder, "mine")
    inputs, targets = mine["points"](seed=1)
    model = mine["network"]().eval()
    model.load_state_dict(state(folder, "seed-0.pt"))

    assert np.array_equal(train.plane.directions, test.plane.directions)
    assert test.dataset["loss"].shape == (9, 9)
    assert test.center["loss"] == pytest.approx(cross_entropy(model(inputs), targets).item(), rel=1e-5)
    assert (folder / "both.png").stat().st_size > 10_000


@pytest.mark.slow
def test_several_inputs_adapters_and_physics_have_their_own_losses(folder):
    two, lora, pinn = (page(folder, name) for name in ("two", "lora", "pinn"))
    models = {"two": two["TwoInputs"](), "lora": lora["network"](), "pinn": pinn["network"]()}
    for name, model in models.items():
        model.eval().load_state_dict(state(folder, f"{name}.pt"))
    generator = torch.Generator().manual_seed(0)
    image, table = torch.randn(50, 16, generator=generator), torch.randn(50, 3, generator=generator)
    classes = torch.randint(0, 4, (50,), generator=generator)
    inputs, targets = lora["data"]()
    x = torch.linspace(0, 3, 50, dtype=torch.float64)[:, None]
    first, _, last = models["pinn"].double()
    inner = torch.tanh(first(x))  # u = v tanh(w x + b) + c, so u'' = -2 v w w tanh (1 - tanh tanh)
    slope = (1 - inner**2) * first.weight[:, 0] @ last.weight.T
    bend = -2 * inner * (1 - inner**2) * first.weight[:, 0] ** 2 @ last.weight.T
    start = last(torch.tanh(first(x[:1]))) ** 2 + (slope[0] - 1) ** 2
    expected = {
        "two": cross_entropy(models["two"](image, table), classes),
        "lora": mse_loss(models["lora"](inputs), targets),
        "pinn": (bend + last(inner)).square().mean() + start.squeeze(),
    }

    for name, value in expected.items():
        assert center(folder, name) == pytest.approx(value.item(), rel=1e-5), name


@pytest.mark.slow
def test_only_adapters_move_and_own_directions_lead_downhill(folder):
    lora, own = (gradvis.open(folder / f"{name}.surface.zarr") for name in ("lora", "own"))
    values = own.dataset["loss"].sel(beta=0.0)
    mine = page(folder, "mine")
    model = mine["network"]().eval()
    model.load_state_dict(state(folder, "seed-0.pt"))
    inputs, targets = mine["points"](seed=0)
    cross_entropy(model(inputs), targets).backward()
    length = torch.cat([value.grad.ravel() for value in model.parameters()]).norm().item()

    assert lora.plane.d == sum(rank * 2 for rank in (8 + 16, 16 + 1))
    assert values.differentiate("alpha").sel(alpha=0.0).item() == pytest.approx(-length, rel=0.02)
    assert np.flatnonzero(own.plane.directions[1]).size == 2 * 16
    assert (folder / "own.png").stat().st_size > 10_000
