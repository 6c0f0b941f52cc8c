"""Trajectories end to end: what is stored is what plain torch and dense NumPy say, however checkpoints came."""

from __future__ import annotations

import argparse
import copy
import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray
from safetensors.torch import save_file
from torch import nn

import gradvis
from gradvis.backends.pytorch import Checkpoint
from gradvis.grid import around
from gradvis.notes import Note
from gradvis.plane import Plane, project
from gradvis.principal import box
from gradvis.recording import Recording
from gradvis.schedule import Serial, TaskError

pytestmark = pytest.mark.filterwarnings("ignore:.*a recorded step takes", "ignore:the plane is pinned at other")
SAMPLES = 30


def build(seed=0):
    """A network with batch norm: a checkpoint is more than its vector."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))


def pair():
    rng = np.random.default_rng(1)
    images = rng.normal(size=(SAMPLES, 2, 3, 3)) + 0.5
    return images, (images.reshape(SAMPLES, -1) @ rng.normal(size=(18, 3))).argmax(1)


def objective(model=None, **options):
    standard = {"loss": "cross_entropy", "metrics": ["accuracy"], "dtype": "float64", "batch_size": SAMPLES,
                "threads": 1}  # fmt: skip
    return gradvis.objective(build(9) if model is None else model, pair(), **{**standard, **options})


def train(folder, optimizer, steps, out=None):
    """Save a state_dict before every second step, and after the last."""
    model, inputs, targets = build(), *map(torch.tensor, pair())
    inputs = inputs.float()
    made = optimizer(model.parameters())
    recorder = gradvis.record(model, made, out=out, every_n_steps=2) if out else None
    for step in range(steps + 1):
        if step % 2 == 0:
            torch.save(model.state_dict(), folder / f"ckpt-{step}.pt")
        if step < steps:
            made.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            made.step()
    if recorder:
        recorder.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folders `sgd` (7 checkpoints) and `adam` (3), and the first's `sgd.recording`."""
    here = tmp_path_factory.mktemp("trained")
    (here / "sgd").mkdir()
    (here / "adam").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        train(here / "sgd", lambda p: torch.optim.SGD(p, 0.5, momentum=0.5), 12, out=here / "sgd.recording")
        train(here / "adam", lambda p: torch.optim.Adam(p, 0.05), 4)
    return here


@pytest.fixture(scope="module")
def whole(folder):
    return gradvis.project_trajectory(objective(), folder / "sgd")


@pytest.fixture(scope="module")
def short(folder):
    """The last three checkpoints."""
    return gradvis.project_trajectory(objective(), paths(folder)[-3:])


def paths(folder, name="sgd"):
    return [folder / name / f"ckpt-{step}.pt" for step in range(0, 13 if name == "sgd" else 5, 2)]


def vector(checkpoint):
    """The parameters of a state_dict, dense."""
    state = torch.load(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    names = [name for name, _ in build().named_parameters()]
    return torch.cat([state[name].double().reshape(-1) for name in names]).numpy()


def plain(state, theta=None, recalibrated=False):
    """Each sample's loss and hit, by torch alone: a network, its evaluation mode, cross_entropy."""
    model = build(5)
    model.load_state_dict(torch.load(state) if isinstance(state, Path) else state)
    model = model.double().eval()
    inputs, targets = map(torch.tensor, pair())
    with torch.no_grad():
        if theta is not None:
            nn.utils.vector_to_parameters(torch.tensor(theta), model.parameters())
        if recalibrated:
            model[1].momentum = 1.0
            model[1].train()(model[0](inputs))
            model.eval()
        outputs = model(inputs)
    losses = F.cross_entropy(outputs, targets, reduction="none").numpy()
    return losses, (outputs.argmax(1) == targets).double().numpy()


def assert_same(one, two, but=()):
    """The same numbers, bit by bit."""
    assert set(one.dataset.variables) == set(two.dataset.variables)
    for name in {*one.dataset.variables} - {*but}:
        assert one.dataset[name].values.tobytes() == two.dataset[name].values.tobytes(), name
    assert one.plane.origin.tobytes() == two.plane.origin.tobytes()
    assert one.plane.directions.tobytes() == two.plane.directions.tobytes()


# ---------------------------------------------------------------------- the numbers


def test_each_checkpoint_has_the_metrics_of_a_plain_evaluation(folder, whole):
    found = whole.dataset

    for row, path in enumerate(paths(folder)):
        losses, hits = plain(path)
        assert found["loss"].values[row] == pytest.approx(losses.mean(), rel=1e-12)
        assert found["loss_stderr"].values[row] == pytest.approx(losses.std(ddof=1) / SAMPLES**0.5, rel=1e-10)
        assert found["accuracy"].values[row] == pytest.approx(hits.mean(), rel=1e-12)
        assert found["accuracy_stderr"].values[row] == pytest.approx(hits.std(ddof=1) / SAMPLES**0.5, rel=1e-10)


def test_the_buffers_of_another_checkpoint_would_be_seen(folder):
    """Else the test above would prove nothing of them."""
    first, last = torch.load(paths(folder)[0]), torch.load(paths(folder)[-1])
    mixed = {**last, **{name: value for name, value in first.items() if "running" in name}}

    assert abs(plain(mixed)[0].mean() / plain(last)[0].mean() - 1) > 0.1


def test_places_have_the_metrics_of_a_plain_evaluation_with_recalibrated_batch_norm(folder, whole):
    found = whole.dataset
    last = paths(folder)[-1]

    for row, coords in enumerate(found["coordinates"].values):
        losses, hits = plain(last, whole.plane.origin + coords @ whole.plane.directions, recalibrated=True)
        assert found["plane_loss"].values[row] == pytest.approx(losses.mean(), rel=1e-10)
        assert found["plane_accuracy"].values[row] == pytest.approx(hits.mean(), rel=1e-10)
        spread = losses.std(ddof=1) / SAMPLES**0.5
        assert found["plane_loss_stderr"].values[row] == pytest.approx(spread, rel=1e-8)
    assert whole.about["objective"]["batch_norm"] == "recalibrate"


@pytest.mark.parametrize("policy", ["eval", "batch", "recalibrate"])
def test_the_policy_is_the_planes_and_a_checkpoint_has_its_own_statistics(folder, whole, policy):
    made = objective(batch_norm=policy)

    found = gradvis.project_trajectory(made, folder / "sgd")

    np.testing.assert_array_equal(found.dataset["loss"], whole.dataset["loss"])
    wanted = made.at(paths(folder)[-1]).evaluate(found.plane, found.dataset["coordinates"].values)
    np.testing.assert_allclose(found.dataset["plane_loss"], wanted[:, 0], rtol=1e-12)
    assert np.allclose(wanted[:, 0], whole.dataset["plane_loss"], rtol=1e-9) == (policy == "recalibrate")
    assert found.about["objective"]["batch_norm"] == policy


def test_the_principal_plane_is_that_of_a_dense_decomposition(folder, whole):
    rows = np.stack([vector(path) for path in paths(folder)])
    _, values, axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)

    np.testing.assert_array_equal(whole.plane.origin, rows[-1])
    np.testing.assert_allclose(np.abs(whole.plane.directions @ axes[:2].T), np.eye(2), atol=1e-10)
    np.testing.assert_allclose(whole.dataset["explained_variance"], (values**2 / (values**2).sum())[:2], rtol=1e-10)
    coords, off = project(rows[-1], whole.plane.directions, rows)
    np.testing.assert_allclose(whole.dataset["coordinates"], coords, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(whole.dataset["off_plane"], off, rtol=1e-10, atol=1e-12)
    assert whole.dataset["coordinates"].values[-1].tolist() == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize(
    ("components", "anchored"), [((2, 3), False), ((1,), False), ((3, 1, 2), False), ((1, 2), True), ((2,), True)]
)
def test_components_are_chosen_by_number(folder, components, anchored):
    rows = np.stack([vector(path) for path in paths(folder)])
    steps = rows - (rows[-1] if anchored else rows.mean(axis=0))
    _, values, axes = np.linalg.svd(steps, full_matrices=False)
    chosen = [number - 1 for number in components]

    found = gradvis.project_trajectory(objective(), folder / "sgd", components=components, anchored=anchored)

    wanted = (rows - rows[-1]) @ axes[chosen].T
    coords = found.dataset["coordinates"].values
    np.testing.assert_allclose(np.abs(coords), np.abs(wanted), atol=1e-9)
    np.testing.assert_allclose(found.dataset["explained_variance"], (values**2 / (values**2).sum())[chosen], rtol=1e-9)
    assert found.dataset["component"].values.tolist() == list(components)
    assert found.plane.about["anchored"] is anchored
    assert found.plane.k == len(components)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_any_plane_is_projected_on_by_least_squares(folder, k):
    made, rng = objective(), np.random.default_rng(k)
    skew = rng.normal(size=(k, made.space.d)) + 2.0  # far from orthogonal
    plane = Plane(rng.normal(size=made.space.d), skew)

    found = gradvis.project_trajectory(made, folder / "sgd", plane)

    rows = np.stack([vector(path) for path in paths(folder)])
    coords = np.linalg.lstsq(skew.T, (rows - plane.origin).T, rcond=None)[0].T
    off = np.linalg.norm(rows - plane.origin - coords @ skew, axis=1)
    np.testing.assert_allclose(found.dataset["coordinates"], coords, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.dataset["off_plane"], off, rtol=1e-10)
    assert np.isnan(found.dataset["explained_variance"]).all()
    assert found.dataset["component"].values.tolist() == list(range(1, k + 1))
    wanted = made.at(paths(folder)[-1]).on(plane).evaluate(plane, coords)
    np.testing.assert_allclose(found.dataset["plane_loss"], wanted[:, 0], rtol=1e-9)


def test_a_random_plane_through_the_last_checkpoint_has_its_statistics(folder):
    model = build()
    model.load_state_dict(torch.load(paths(folder)[-1]))
    made = objective(model)
    plane = gradvis.random_plane(made, seed=4)

    found = gradvis.project_trajectory(made, folder / "sgd", plane)

    coords = found.dataset["coordinates"].values
    wanted = [plain(paths(folder)[-1], plane.origin + row @ plane.directions)[0].mean() for row in coords]
    np.testing.assert_allclose(found.dataset["plane_loss"], wanted, rtol=1e-10)
    assert found.about["objective"]["batch_norm"] == "eval"


def test_minima_are_the_corners_of_a_plane_between_them(folder):
    made = objective()
    ends = [paths(folder)[-1], paths(folder, "adam")[-1], paths(folder)[0]]
    plane = gradvis.plane_between(made, *ends)

    found = gradvis.project_trajectory(made, {"SGD": folder / "sgd", "Adam": folder / "adam"}, plane)

    sgd, adam = found.tracks
    np.testing.assert_allclose(sgd.coords[[-1, 0]], [[0, 0], [0, 1]], atol=1e-10)
    np.testing.assert_allclose(adam.coords[[-1, 0]], [[1, 0], [0, 1]], atol=1e-10)
    np.testing.assert_allclose([sgd.off_plane[0], sgd.off_plane[-1], adam.off_plane[-1]], 0, atol=1e-10)
    assert sgd.off_plane[3] > 0.01


def test_several_runs_are_tracks_of_their_own_on_one_plane(folder, whole):
    found = gradvis.project_trajectory(objective(), {"SGD": folder / "sgd", "Adam": folder / "adam"})

    rows = np.stack([vector(path) for path in (*paths(folder), *paths(folder, "adam"))])
    _, values, axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(found.dataset["explained_variance"], (values**2 / (values**2).sum())[:2], rtol=1e-9)
    np.testing.assert_array_equal(found.plane.origin, vector(paths(folder, "adam")[-1]))
    sgd, adam = found.tracks
    assert (sgd.name, adam.name) == ("SGD", "Adam")
    assert sgd.steps.tolist() == list(range(0, 13, 2))
    assert adam.steps.tolist() == [0, 2, 4]
    assert adam.labels == tuple(path.name for path in paths(folder, "adam"))
    np.testing.assert_allclose(np.abs(adam.coords), np.abs((rows[7:] - rows[-1]) @ axes[:2].T), atol=1e-9)
    np.testing.assert_array_equal(sgd.own["loss"], whole.dataset["loss"])
    wanted = [plain(path)[0].mean() for path in paths(folder, "adam")]
    np.testing.assert_allclose(adam.own["loss"], wanted, rtol=1e-12)
    assert found.dataset["run"].values.tolist() == [0] * 7 + [1] * 3
    assert np.isnan(found.dataset["random_walk"]).all()  # of two walks nobody knows it


def test_a_part_of_the_network_moves_in_its_own_space(folder):
    part = objective().restrict("4.*")

    found = gradvis.project_trajectory(part, folder / "sgd")

    rows = np.stack([vector(path) for path in paths(folder)])[:, -51:]
    coords, off = project(rows[-1], found.plane.directions, rows)
    assert found.plane.d == 51
    np.testing.assert_allclose(found.dataset["coordinates"], coords, atol=1e-10)
    np.testing.assert_allclose(found.dataset["off_plane"], off, atol=1e-10)
    np.testing.assert_allclose(found.dataset["loss"], [plain(path)[0].mean() for path in paths(folder)], rtol=1e-12)


def test_a_loss_of_a_mean_alone_has_no_standard_error(folder):
    made = objective(loss=lambda outputs, targets: F.cross_entropy(outputs, targets), metrics=[])

    found = gradvis.project_trajectory(made, folder / "sgd", every=4)

    assert found.metrics == ("loss",)
    assert "loss_stderr" not in found.dataset
    np.testing.assert_allclose(
        found.dataset["loss"], [plain(paths(folder)[row])[0].mean() for row in (0, 4, 6)], rtol=1e-12
    )


# ---------------------------------------------------------------------- how checkpoints come


def wide(path, state):
    """As four shards and their index, in a folder."""
    path.mkdir()
    names = {name: f"model-{number % 4}.safetensors" for number, name in enumerate(state)}
    for file in set(names.values()):
        save_file({name: state[name] for name in names if names[name] == file}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def lightning(path, state):
    """What a trainer saves beside the tensors."""
    prefixed = {f"net.{name}": value for name, value in state.items()}
    torch.save(
        {
            "state_dict": prefixed,
            "epoch": 3,
            "hyper_parameters": argparse.Namespace(lr=0.1, path=Path("data")),
            "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}],
            "loops": {"best": np.float64(0.3), "when": np.array([1, 2])},
        },
        path,
    )


FORMS = {
    "plain.pt": lambda path, state: torch.save(state, path),
    "nested.pth": lambda path, state: torch.save({"model_state_dict": state, "step": 5}, path),
    "trainer.ckpt": lightning,
    "pytorch_model.bin": lambda path, state: torch.save(state, path),
    "model.safetensors": lambda path, state: save_file(state, path),
    "sharded": wide,
    "legacy.pt": lambda path, state: torch.save(state, path, _use_new_zipfile_serialization=False),
    "parallel.pt": lambda path, state: torch.save({f"module.{name}": v for name, v in state.items()}, path),
    "compiled.pt": lambda path, state: torch.save({f"module._orig_mod.{name}": v for name, v in state.items()}, path),
    "double.pt": lambda path, state: torch.save({name: v.double() for name, v in state.items()}, path),
    "channels_last.pt": lambda path, state: torch.save(
        {n: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for n, v in state.items()}, path
    ),
    "strided.pt": lambda path, state: torch.save(
        {name: v.T.contiguous().T if v.ndim == 2 else v for name, v in state.items()}, path
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_checkpoint_is_the_same_path(folder, short, tmp_path, form):
    for path in paths(folder)[-3:]:
        (tmp_path / path.stem).mkdir()
        FORMS[form](tmp_path / path.stem / form, torch.load(path))

    found = gradvis.project_trajectory(objective(), f"{tmp_path}/*/{form}")

    assert_same(found, short)


def test_networks_and_mappings_are_the_same_path(folder, whole):
    def network(path):
        model = build(3)
        model.load_state_dict(torch.load(path))
        return model

    kinds = [network, torch.load, lambda path: {"model": torch.load(path)}, Checkpoint, str]
    given = [kinds[number % len(kinds)](path) for number, path in enumerate(paths(folder))]

    found = gradvis.project_trajectory(objective(), given)

    assert_same(found, whole, but={"step"})
    assert found.dataset["step"].values.tolist() == list(range(7))


def test_a_recording_is_the_same_path(folder, whole):
    found = gradvis.project_trajectory(objective(), folder / "sgd.recording")

    assert found.dataset["learning_rate"].values.tolist() == [0.5] * 7
    assert found.tracks[0].learning_rate.tolist() == [0.5] * 7
    assert np.isnan(whole.dataset["learning_rate"]).all()
    assert whole.tracks[0].learning_rate is None
    for name in ("coordinates", "off_plane", "loss", "plane_loss", "accuracy", "explained_variance", "step"):
        assert found.dataset[name].values.tobytes() == whole.dataset[name].values.tobytes(), name


@pytest.mark.parametrize("form", ["glob", "folder", "list", "recording", "recorded", "dict"])
def test_every_way_of_naming_checkpoints_is_the_same_path(folder, whole, form):
    given = {
        "glob": f"{folder}/sgd/*.pt",
        "folder": str(folder / "sgd"),
        "list": [str(path) for path in paths(folder)],
        "recording": Recording(folder / "sgd.recording"),
        "recorded": Recording(folder / "sgd.recording").checkpoints(),
        "dict": {"a name": folder / "sgd"},
    }[form]

    found = gradvis.project_trajectory(objective(), given)

    np.testing.assert_array_equal(found.dataset["coordinates"], whole.dataset["coordinates"])
    np.testing.assert_array_equal(found.dataset["loss"], whole.dataset["loss"])
    assert found.dataset["step"].values.tolist() == list(range(0, 13, 2))
    assert found.tracks[0].name == ("a name" if form == "dict" else "sgd")


def test_bfloat16_checkpoints_are_taken_at_their_rounded_values(folder, tmp_path):
    rounded = []
    for number, path in enumerate(paths(folder)):
        state = torch.load(path)
        rounded.append({n: v.bfloat16() if v.is_floating_point() else v for n, v in state.items()})
        torch.save(rounded[-1], tmp_path / f"{number}.pt")

    found = gradvis.project_trajectory(objective(), tmp_path)

    rows = np.stack([vector(state) for state in rounded])
    coords, off = project(rows[-1], found.plane.directions, rows)
    np.testing.assert_allclose(found.dataset["coordinates"], coords, atol=1e-10)
    np.testing.assert_allclose(found.dataset["off_plane"], off, atol=1e-10)
    np.testing.assert_allclose(found.dataset["loss"], [plain(state)[0].mean() for state in rounded], rtol=1e-12)


def test_one_of_several_states_is_chosen_by_key(folder, short, tmp_path):
    for number, path in enumerate(paths(folder)[-3:]):
        states = {"state_dict": build(4).state_dict(), "model_ema": torch.load(path)}
        torch.save(states, tmp_path / f"{number}.pt")
    given = [Checkpoint(tmp_path / f"{number}.pt", "model_ema") for number in range(3)]

    assert_same(gradvis.project_trajectory(objective(), given), short, but={"step"})


# ---------------------------------------------------------------------- what does not fit


def broken(folder, tmp_path, step, change):
    """The path with one checkpoint changed."""
    for path in paths(folder):
        state = torch.load(path)
        if path.stem == f"ckpt-{step}":
            change(state)
        torch.save(state, tmp_path / path.name)
    return tmp_path


@pytest.mark.parametrize("step", [0, 4, 12])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.update({"4.bias": torch.zeros(5)}), r"4.bias is \(5,\), not \(3,\)"),
        (lambda state: state.pop("0.weight"), r"1 missing \(0.weight\)"),
        (lambda state: state.pop("1.running_var"), r"1 missing \(1.running_var\)"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(folder, tmp_path, step, change, reason):
    with pytest.raises(ValueError, match=rf"ckpt-{step}\.pt does not fit the model: {reason}"):
        gradvis.project_trajectory(objective(), broken(folder, tmp_path, step, change))


def test_networks_that_do_not_fit_are_told_by_their_number(folder):
    with pytest.raises(ValueError, match=r"^checkpoint 2 of training: the checkpoint does not fit the model"):
        gradvis.project_trajectory(objective(), [build(1), nn.Linear(2, 2), build(2)])


@pytest.mark.parametrize(("on", "value"), [("principal", np.nan), ("given", np.inf)])
@pytest.mark.parametrize("step", [0, 4, 12])
def test_checkpoints_that_are_not_finite_are_left_out_with_one_note(folder, tmp_path, step, on, value):
    bad = broken(folder, tmp_path, step, lambda state: state["4.bias"].fill_(value))
    rest = [path for path in paths(folder) if path.stem != f"ckpt-{step}"]
    made = objective()
    plane = Plane(made.parameters(), np.eye(2, made.space.d)) if on == "given" else None

    with pytest.warns(Note) as heard:
        found = gradvis.project_trajectory(made, bad, plane)

    told = [str(each.message) for each in heard if "NaN" in str(each.message)]
    name = tmp_path.name
    assert told == [f"ckpt-{step}.pt of {name} holds NaN or inf and is left out; 6 checkpoints remain"]
    good = gradvis.project_trajectory(made, rest, plane)
    for name in ("coordinates", "off_plane", "loss", "plane_loss", "step"):
        assert found.dataset[name].values.tobytes() == good.dataset[name].values.tobytes(), name
    assert found.tracks[0].labels == tuple(path.name for path in rest)


@pytest.mark.parametrize("on", ["principal", "given"])
def test_runs_without_a_finite_checkpoint_are_refused(folder, on):
    state = build(1).state_dict()
    state["0.bias"][1] = np.nan
    made = objective()
    plane = Plane(made.parameters(), np.eye(2, made.space.d)) if on == "given" else None

    for given in ([state] * 3, {"good": folder / "sgd", "bad": [state]}):
        with (
            pytest.warns(Note, match="hold"),
            pytest.raises(ValueError, match="checkpoints with finite parameters were wanted, but a training run has"),
        ):
            gradvis.project_trajectory(made, given, plane)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"components": [1, 1]}, "one to three different components"),
        ({"components": [0]}, "numbered from 1"),
        ({"components": [7]}, "the path of 7 checkpoints spans 6 dimensions"),
        ({"components": []}, "none came"),
        ({"every": 0}, "at least 1"),
        ({"every": 20}, "the path of 2 checkpoints spans 1 dimension;"),
        ({"plane": Plane(np.zeros(5), np.eye(2, 5))}, "a plane of 95 parameters was wanted, but this one has 5"),
        ({"plane": Plane(np.zeros(95), np.ones((2, 95)))}, "parallel or zero"),
    ],
)
def test_options_that_do_not_fit_are_told(folder, options, match):
    with pytest.raises(ValueError, match=match):
        gradvis.project_trajectory(objective(), folder / "sgd", **options)


# ---------------------------------------------------------------------- kept, resumed, refused


class Dying(Serial):
    """Fails after so many tasks of a `map` that writes tiles; counts what it was asked for."""

    def __init__(self, after=10**9):
        self.after, self.counts = after, []

    def map(self, task, count, progress=None):
        self.counts.append(count)

        def some(index):
            if count > 1 and index >= self.after and progress is not None:
                raise OSError("the node went away")
            return task(index)

        return super().map(some, count, progress)


def project_to(out, folder, made=None, given=None, **options):
    return gradvis.project_trajectory(
        objective() if made is None else made, folder / "sgd" if given is None else given, out=out, **options
    )


def test_a_run_that_died_is_gone_on_with_and_is_the_same(folder, whole, tmp_path):
    out = tmp_path / "run.trajectory.zarr"
    with pytest.raises(TaskError, match="the node went away"):
        project_to(out, folder, scheduler=Dying(2), progress=lambda *_: None)

    partial = gradvis.open(out)
    measured = np.isfinite(partial.dataset["loss"].values)
    again = Dying()
    found = project_to(out, folder, scheduler=again, progress=lambda *_: None)

    assert 0 < measured.sum() < 7
    assert not partial.about["complete"]
    assert found.about["complete"]
    side = found.about["tile"][0]
    assert again.counts[-1] == -(-7 // side) - 2  # what was there was not computed again
    assert_same(found, whole)
    assert_same(gradvis.open(out), whole)


def test_a_finished_result_is_kept_and_not_computed_again(folder, tmp_path):
    out = tmp_path / "run.trajectory.zarr"
    first = project_to(out, folder)
    before = {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*")) if path.is_file()}
    seen = []

    again = project_to(out, folder, scheduler=Dying(), progress=lambda *both: seen.append(both))

    assert_same(again, first)
    assert seen == []
    assert {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*")) if path.is_file()} == before


def test_fresh_moves_the_old_result_aside(folder, tmp_path):
    out = tmp_path / "run.trajectory.zarr"
    first = project_to(out, folder)
    second = project_to(out, folder, every=2, fresh=True)

    [aside] = [path for path in tmp_path.iterdir() if path != out]
    assert_same(gradvis.open(aside), first)
    assert_same(gradvis.open(out), second)
    assert len(second.dataset["step"]) == 4


def other_statistics(state):
    state["1.running_mean"] += 1e-3


def other_last(state):
    state["4.bias"][0] += 1e-3


@pytest.mark.parametrize("step", [4, 12])
@pytest.mark.parametrize(
    ("change", "said"), [(other_statistics, "buffers differs"), (other_last, "checkpoints differs")]
)
def test_other_checkpoints_are_refused_whatever_is_different(folder, tmp_path, change, said, step):
    out = tmp_path / "run.trajectory.zarr"
    (tmp_path / "other").mkdir()
    project_to(out, folder)

    with pytest.raises(ValueError, match=rf"run.trajectory.zarr holds another result: .*{said}.* give another --out"):
        project_to(out, folder, given=broken(folder, tmp_path / "other", step, change))


def test_other_questions_are_refused(folder, tmp_path):
    out = tmp_path / "run.trajectory.zarr"
    project_to(out, folder)
    images, classes = pair()
    moved = gradvis.objective(build(9), (images + 1e-3, classes), "cross_entropy", metrics=["accuracy"],
                              dtype="float64", batch_size=SAMPLES)  # fmt: skip
    anchored = {"anchored": True}

    for made, options, said in (
        (moved, {}, "data differs"),
        (objective(batch_norm="eval"), {}, "batch_norm is recalibrate there and eval here"),
        (objective(dtype="float32"), {}, "dtype is float64 there and float32 here"),
        (objective(metrics=[]), {}, "metrics is"),
        (None, anchored, "anchored is false there and true here"),
        (None, {"components": (2, 3)}, r"components is \[1, 2\] there and \[2, 3\] here"),
        (None, {"every": 2}, "checkpoints is 7 there and 4 here"),
        (None, {"given": folder / "adam"}, "checkpoints is 7 there and 3 here"),
    ):
        with pytest.raises(ValueError, match=said):
            project_to(out, folder, made, **options)


def test_other_loss_code_is_refused(folder, tmp_path):
    out = tmp_path / "run.trajectory.zarr"

    def cross(outputs, targets):
        return scale * F.cross_entropy(outputs, targets, reduction="none")

    scale = 1.0
    project_to(out, folder, objective(loss=cross))
    scale = 1.01
    with pytest.raises(ValueError, match="the loss at the centre was .* so the code of the loss or the model"):
        project_to(out, folder, objective(loss=cross))


def test_a_surface_is_no_trajectory(folder, whole, tmp_path):
    out = tmp_path / "run.zarr"
    whole.surface(objective(), resolution=2, out=out)

    with pytest.raises(ValueError, match="it is a surface there and a trajectory here"):
        project_to(out, folder)


def test_xarray_opens_it_as_it_is(folder, whole, tmp_path):
    out = tmp_path / "run.trajectory.zarr"
    project_to(out, folder)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = xarray.open_zarr(out)

    assert found["coordinates"].dims == ("step", "component")
    assert dict(found.sizes) == {"step": 7, "component": 2, "metric": 8}
    for name in ("coordinates", "off_plane", "loss", "plane_loss", "explained_variance", "accuracy", "loss_stderr"):
        assert found[name].dtype == np.float64
        np.testing.assert_array_equal(found[name], whole.dataset[name])
    assert found["center"].attrs["metrics"][0] == "loss"
    assert sum(path.is_file() for path in out.rglob("*")) <= 45
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.trajectory.zarr"]


def test_it_says_what_was_computed(folder, whole):
    said = whole.methods()

    assert "The checkpoints of Sequential (7 of sgd) were projected onto principal components 1 and 2" in said
    assert f"({100 * whole.plane.about['explained_variance'][0]:.1f} % and" in said
    assert "each checkpoint with its own parameters and buffers" in said
    assert "over all 30 samples" in said
    assert whole.about["runs"] == [{"name": "sgd", "labels": [path.name for path in paths(folder)]}]


# ---------------------------------------------------------------------- the ground


@pytest.mark.parametrize("margin", [0.0, 0.2, 1.5])
def test_the_surface_is_the_box_of_the_path_and_its_margin(whole, margin):
    found = whole.surface(objective(), resolution=3, margin=margin)

    coords = whole.dataset["coordinates"].values
    low, high = coords.min(axis=0), coords.max(axis=0)  # the origin is the last checkpoint: it lies in between
    for name, start, stop in zip(("alpha", "beta"), low, high, strict=True):
        extent = stop - start
        wanted = [start - margin * extent, stop + margin * extent]
        np.testing.assert_allclose(found.dataset[name].values[[0, -1]], wanted, rtol=1e-9)


def test_a_line_of_a_path_that_stands_still_along_an_axis_has_room():
    assert around(box(np.array([[1.0, 0.0], [4.0, 0.0]])), 0.5) == [(-2.0, 6.0), (-4.0, 4.0)]
    assert around([[0.0, 0.0]], 0.0) == [(-0.5, 0.5)]


@pytest.mark.parametrize("margin", [-1, np.nan, np.inf])
def test_a_margin_is_no_less_than_nothing(whole, margin):
    with pytest.raises(ValueError, match="margin is a share of the path's extent, 0 or more"):
        whole.surface(objective(), margin=margin)


def test_the_surface_has_the_plane_losses_of_the_path(folder, whole):
    """A grid whose corners are two checkpoints."""
    first, last = whole.dataset["coordinates"].values[[0, -1]]
    span = [tuple(sorted(ends)) for ends in zip(first, last, strict=True)]

    found = whole.surface(objective(), span, 2)

    at = found.dataset["loss"].sel(alpha=first[0], beta=first[1], method="nearest")
    assert float(at) == pytest.approx(float(whole.dataset["plane_loss"][0]), rel=1e-9)
    assert found.center["loss"] == pytest.approx(float(whole.dataset["plane_loss"][-1]), rel=1e-9)
    np.testing.assert_array_equal(found.plane.directions, whole.plane.directions)


def test_a_surface_of_other_frozen_layers_than_the_paths_is_told(folder):
    model = build(42)
    model[4].requires_grad_(False)
    made = objective(model, batch_norm="eval")
    found = gradvis.project_trajectory(made, paths(folder))
    last = made.at(paths(folder)[-1])

    with pytest.warns(Note, match="the surface has the buffers and frozen parameters of the objective's model"):
        elsewhere = found.surface(made, resolution=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        there = found.surface(last, resolution=2)

    own = plain(paths(folder)[-1])[0].mean()
    assert there.center["loss"] == pytest.approx(own, rel=1e-10)
    assert elsewhere.center["loss"] != pytest.approx(own, rel=0.01)


def test_the_surface_knows_its_tracks_when_it_is_opened_again(folder, tmp_path):
    both = gradvis.project_trajectory(objective(), {"SGD": folder / "sgd.recording", "Adam": folder / "adam"})
    wanted = both.tracks

    kept = both.surface(objective(), resolution=2, out=tmp_path / "run.surface.zarr")

    for found in (kept.tracks, gradvis.open(tmp_path / "run.surface.zarr").tracks):
        for one, two in zip(found, wanted, strict=True):
            assert (one.name, one.labels) == (two.name, two.labels)
            for name in ("steps", "coords", "off_plane"):
                np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
            assert one.own.keys() == two.own.keys() == {"loss", "accuracy"}
            for name in one.own:
                np.testing.assert_array_equal(one.own[name], two.own[name])
                np.testing.assert_array_equal(one.plane[name], two.plane[name])
    assert found[0].learning_rate.tolist() == [0.5] * 7
    assert found[1].learning_rate is None


def test_a_surface_that_died_is_gone_on_with(whole, tmp_path):
    out = tmp_path / "run.surface.zarr"
    options = {"resolution": 7, "progress": lambda *_: None}
    with pytest.raises(TaskError, match="the node went away"):
        whole.surface(objective(), out=out, scheduler=Dying(3), **options)
    assert 0 < gradvis.open(out).done.sum() < 49

    found = whole.surface(objective(), out=out, **options)

    wanted = whole.surface(objective(), resolution=7)
    assert found.done.all()
    assert found.dataset["loss"].values.tobytes() == wanted.dataset["loss"].values.tobytes()
    assert len(found.tracks[0].steps) == 7


def test_a_plane_of_an_earlier_result_takes_other_runs(folder, whole, tmp_path):
    project_to(tmp_path / "run.trajectory.zarr", folder)
    plane = gradvis.open(tmp_path / "run.trajectory.zarr").plane

    found = gradvis.project_trajectory(objective(), folder / "adam", plane)

    rows = np.stack([vector(path) for path in paths(folder, "adam")])
    coords, off = project(whole.plane.origin, whole.plane.directions, rows)
    np.testing.assert_allclose(found.dataset["coordinates"], coords, atol=1e-9)
    np.testing.assert_allclose(found.dataset["off_plane"], off, atol=1e-9)
    np.testing.assert_allclose(found.dataset["loss"], [plain(path)[0].mean() for path in paths(folder, "adam")])


def test_the_principal_plane_can_be_had_alone(folder, whole):
    made = objective()

    for plane in (gradvis.principal_plane(whole), gradvis.principal_plane(folder / "sgd", made)):
        np.testing.assert_array_equal(plane.directions, whole.plane.directions)
        np.testing.assert_array_equal(plane.origin, whole.plane.origin)
    rows = np.stack([made.read(path) for path in paths(folder)])
    dense = gradvis.principal_plane(rows)
    np.testing.assert_array_equal(dense.directions, whole.plane.directions)
    thin = gradvis.principal_plane(folder / "sgd", made, components=[2], anchored=True, every=3)
    assert (thin.k, thin.about["checkpoints"], thin.about["anchored"]) == (1, 3, True)


def test_only_vectors_make_a_plane_without_an_objective(folder):
    for given in (folder / "sgd", paths(folder), [np.zeros(3), np.zeros(4)], [np.zeros((2, 2))] * 3):
        with pytest.raises(ValueError, match="without objective=, checkpoints are vectors of one length"):
            gradvis.principal_plane(given)


def test_a_trajectory_on_another_plane_has_no_principal_one(folder):
    made = objective()
    found = gradvis.project_trajectory(made, folder / "adam", gradvis.random_plane(made))

    with pytest.raises(ValueError, match="this trajectory lies on a plane that is not its principal one"):
        gradvis.principal_plane(found)


# ---------------------------------------------------------------------- what is the user's


def snapshot(model):
    return {
        "tensors": {name: value.clone().numpy().tobytes() for name, value in model.state_dict().items()},
        "identities": [id(value) for value in (*model.parameters(), *model.buffers())],
        "modes": [layer.training for layer in model.modules()],
        "wanted": [value.requires_grad for value in model.parameters()],
        "grads": [None if p.grad is None else p.grad.numpy().tobytes() for p in model.parameters()],
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": np.random.get_state()[1].tobytes(),
        "python": random.getstate(),
        "threads": torch.get_num_threads(),
        "recording": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_users_is_changed(folder, tmp_path, fails):
    model = build(7)
    model.append(nn.Dropout(0.5))
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    model[4].weight.grad = torch.ones(3, 16)
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        if fails and len(calls) > 9:
            raise ArithmeticError("no loss today")
        return F.cross_entropy(outputs, targets, reduction="none")

    made = objective(model, loss=loss, threads=1)
    given = [build(seed) for seed in range(4)]
    before, theirs = snapshot(model), list(map(snapshot, given))

    def everything():
        found = gradvis.project_trajectory(made, given, out=tmp_path / "run.trajectory.zarr")
        found.surface(made, resolution=2)

    if fails:
        with pytest.raises(TaskError, match="no loss today"):
            everything()
    else:
        everything()

    assert snapshot(model) == before
    assert list(map(snapshot, given)) == theirs
    assert (tmp_path / "run.trajectory.zarr").is_dir()


def test_a_model_that_stands_elsewhere_changes_no_number(folder, whole):
    """Its frozen parts and its buffers are those of the checkpoints."""
    model = copy.deepcopy(build(42))
    model[1].running_mean += 7

    found = gradvis.project_trajectory(objective(model), folder / "sgd")

    assert_same(found, whole)


def test_frozen_layers_are_those_of_each_checkpoint(folder):
    model = build(42)
    model[4].requires_grad_(False)
    made = objective(model, batch_norm="eval")

    found = gradvis.project_trajectory(made, folder / "sgd")

    assert found.plane.d == 95 - 51
    np.testing.assert_allclose(found.dataset["loss"], [plain(path)[0].mean() for path in paths(folder)], rtol=1e-12)
    place = found.plane.origin + found.dataset["coordinates"].values[0] @ found.plane.directions
    last = torch.load(paths(folder)[-1])
    theta = np.concatenate([place, vector(last)[-51:]])
    assert float(found.dataset["plane_loss"][0]) == pytest.approx(plain(last, theta)[0].mean(), rel=1e-10)


def test_a_path_that_differs_outside_the_part_is_another(folder, tmp_path):
    part, states = objective().restrict("4.*"), [torch.load(path) for path in paths(folder)[-3:]]
    gradvis.project_trajectory(part, states, out=tmp_path / "run.zarr")
    states[1]["0.weight"] += 1
    with pytest.raises(ValueError, match="buffers differs"):
        gradvis.project_trajectory(part, states, out=tmp_path / "run.zarr")


def test_a_checkpoint_whose_buffers_are_not_finite_has_no_loss_of_its_own(folder):
    states = [torch.load(path) for path in paths(folder)[-4:]]
    states[1]["1.running_mean"][0] = float("nan")
    with pytest.warns(Note, match=r"checkpoint 2 has NaN or inf in its buffers: it has no loss of its own"):
        found = gradvis.project_trajectory(objective(), states)
    assert np.isnan(found.dataset["loss"].values).tolist() == [False, True, False, False]
    assert np.isfinite(found.dataset["plane_loss"]).all()
