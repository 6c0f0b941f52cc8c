"""Training runs as users name them: which checkpoints are meant, in which order, and what they are called."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gradvis
from gradvis.recording import Recording
from gradvis.runs import in_order, natural, runs_of


def touched(folder: Path, *names: str) -> Path:
    """A folder with such files; their content is not looked at."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two recordings of seven steps each, `one.recording` and `two.recording`."""
    folder = tmp_path_factory.mktemp("recorded")
    for name, rate in (("one", 0.5), ("two", 0.25)):
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), rate)
        with pytest.warns(match="a recorded step takes"):
            recorder = gradvis.record(model, optimizer, out=folder / f"{name}.recording", every_n_steps=2)
        with recorder:
            for _ in range(12):
                optimizer.zero_grad()
                model(torch.ones(3, 2)).sum().backward()
                optimizer.step()
                if rate == 0.5:
                    optimizer.param_groups[0]["lr"] *= 0.5
    return folder


def told(sources, **options):
    """Each run's name, labels and steps."""
    return [(run.name, run.labels, run.steps.tolist()) for run in runs_of(sources, **options)]


# ---------------------------------------------------------------------- order and steps


def test_numbers_in_names_count_as_numbers(tmp_path):
    touched(tmp_path / "net", "ckpt-10.pt", "ckpt-2.pt", "ckpt-1.pt", "notes.txt", "ckpt-2.pt.partial")

    assert told(tmp_path / "net") == [("net", ("ckpt-1.pt", "ckpt-2.pt", "ckpt-10.pt"), [1.0, 2.0, 10.0])]
    assert told(f"{tmp_path}/net/ckpt-*.pt") == told(tmp_path / "net")


def test_numbers_in_folders_count_as_numbers_too(tmp_path):
    touched(tmp_path / "out", *(f"step_{number}/model.pt" for number in (10, 2, 1)))

    assert told(f"{tmp_path}/out/*/model.pt") == [
        ("out", ("step_1/model.pt", "step_2/model.pt", "step_10/model.pt"), [1.0, 2.0, 10.0])
    ]


def test_the_order_of_a_list_is_kept(tmp_path):
    touched(tmp_path / "net", "end.pt", "start.pt", "ckpt-2.pt", "ckpt-10.pt")
    names = ["start.pt", "ckpt-10.pt", "ckpt-2.pt", "end.pt"]

    [run] = runs_of([tmp_path / "net" / name for name in names])

    assert run.labels == tuple(names)
    assert run.steps.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert run.checkpoints == tuple(tmp_path / "net" / name for name in names)


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["net2-5.pt", "net2-10.pt"], [5.0, 10.0]),  # one number differs: it is the step
        (["net2-10.pt", "net2-5.pt"], [0.0, 1.0]),  # it falls: a list in the user's own order
        (["a1-5.pt", "a2-10.pt"], [0.0, 1.0]),  # two differ: nobody knows which it is
        (["a-5.pt", "b-10.pt"], [0.0, 1.0]),
        (["start.pt", "end.pt"], [0.0, 1.0]),
        (["step7.pt"], [0.0]),
        (["000100.pt", "000200.pt"], [100.0, 200.0]),
    ],
)
def test_steps_are_the_one_number_that_rises_in_names(tmp_path, names, steps):
    [run] = runs_of([tmp_path / name for name in names])

    assert run.steps.tolist() == steps
    assert run.steps.dtype == np.float64


@pytest.mark.parametrize(
    ("came", "wanted"),
    [
        ("c-1 c-10 c-2", "c-1 c-2 c-10"),  # as a shell lists c-*
        ("c-10 c-9 c-8", "c-10 c-9 c-8"),  # backwards, by hand
        ("start end", "start end"),
        ("step-10 step-2 last", "step-2 step-10 last"),  # step-* last
        ("b/c-10 b/c-2 a/c-10 a/c-2", "b/c-2 b/c-10 a/c-2 a/c-10"),  # b/* a/*
        ("out/s-10/m out/s-2/m", "out/s-2/m out/s-10/m"),
        ("c-10.pt c-2-best.pt c-2.pt", "c-2-best.pt c-2.pt c-10.pt"),
        ("", ""),
    ],
)
def test_a_shells_order_is_put_right_and_any_other_is_the_users(came, wanted):
    assert in_order(came.split()) == wanted.split()


def test_any_name_can_be_sorted():
    assert sorted(["²", "10", "", "a10", "a2b", "2"], key=natural) == ["", "2", "10", "a2b", "a10", "²"]


@pytest.mark.parametrize(
    ("count", "every", "kept"),
    [(7, 1, range(7)), (7, 3, [0, 3, 6]), (8, 3, [0, 3, 6, 7]), (5, 100, [0, 4]), (1, 3, [0]), (2, 2, [0, 1])],
)
def test_every_so_manieth_keeps_the_first_and_the_last(tmp_path, count, every, kept):
    [run] = runs_of([tmp_path / f"c-{number}.pt" for number in range(1, count + 1)], every)

    assert run.labels == tuple(f"c-{index + 1}.pt" for index in kept)
    assert [Path(each).name for each in run.checkpoints] == list(run.labels)
    assert run.steps.tolist() == ([index + 1.0 for index in kept] if count > 1 else [0.0])


def test_every_run_is_thinned_and_learning_rates_with_it(recorded):
    one, two = runs_of([recorded / "one.recording", recorded / "two.recording"], every=4)

    assert one.steps.tolist() == two.steps.tolist() == [0.0, 8.0, 12.0]
    np.testing.assert_array_equal(one.learning_rate, [0.5 * 0.5**step for step in (0, 7, 11)])
    np.testing.assert_array_equal(two.learning_rate, [0.25] * 3)
    assert [each.step for each in one.checkpoints] == [0, 8, 12]


# ---------------------------------------------------------------------- what is a run


def test_a_folder_that_is_a_checkpoint_is_one_and_a_folder_of_such_is_a_run(tmp_path):
    weights = [f"checkpoint-{number}/model.safetensors" for number in (10, 2)]
    touched(tmp_path / "out", *weights, "checkpoint-2/optimizer.pt", "logs/events.bin")
    (tmp_path / "out" / "logs" / "events.bin").unlink()

    assert told(tmp_path / "out") == [("out", ("checkpoint-2", "checkpoint-10"), [2.0, 10.0])]
    assert told(tmp_path / "out" / "checkpoint-2") == [("checkpoint-2", ("checkpoint-2",), [0.0])]
    assert told([tmp_path / "out" / "checkpoint-2", tmp_path / "out" / "checkpoint-10"]) == told(tmp_path / "out")


@pytest.mark.parametrize(
    "inside", ["model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json", "saved_model.pb"]
)
def test_other_folders_that_are_checkpoints(tmp_path, inside):
    touched(tmp_path, f"a-1/{inside}", f"a-1/{inside}.md", "a-2/shard.safetensors", f"a-2/{inside}")

    assert told(tmp_path)[0][1] == ("a-1", "a-2")


def test_each_recording_and_folder_is_a_run_and_loose_files_are_one(tmp_path, recorded):
    folder = touched(tmp_path / "sgd", "c-1.pt", "c-2.pt")
    loose = [tmp_path / "mine" / "x-3.pt", tmp_path / "mine" / "x-4.pt"]

    found = told([loose[0], folder, loose[1], recorded / "one.recording"])

    steps = [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert found == [
        ("sgd", ("c-1.pt", "c-2.pt"), [1.0, 2.0]),
        ("one", tuple(f"step {step:g}" for step in steps), steps),
        ("mine", ("x-3.pt", "x-4.pt"), [3.0, 4.0]),
    ]


def test_a_dict_names_its_runs(tmp_path, recorded):
    touched(tmp_path / "net", "c-1.pt", "c-2.pt", "c-10.pt")

    found = told({
        "SGD": str(tmp_path / "net"),
        "Adam": f"{tmp_path}/net/c-1*.pt",
        "list": [tmp_path / "net" / "c-2.pt"],
        "record": Recording(recorded / "one.recording"),
        7: recorded / "two.recording",
    })  # fmt: skip

    assert [(name, len(labels)) for name, labels, _ in found] == [
        ("SGD", 3), ("Adam", 2), ("list", 1), ("record", 7), ("7", 7),
    ]  # fmt: skip
    assert found[1][1] == ("c-1.pt", "c-10.pt")


@pytest.mark.parametrize("form", [str, Path, Recording])
def test_recordings_are_known_by_path_and_as_they_are(recorded, form):
    one, two = (form(recorded / f"{name}.recording") for name in ("one", "two"))

    assert [run.name for run in runs_of([one, two])] == ["one", "two"]
    assert [run.name for run in runs_of(two)] == ["two"]
    assert len(runs_of(one)[0].checkpoints) == 7


def test_steps_of_a_recording_are_a_run_of_it(recorded):
    some = Recording(recorded / "one.recording").checkpoints(every=3)

    [run] = runs_of(some)

    assert (run.name, run.labels, run.steps.tolist()) == ("one", ("step 0", "step 6", "step 12"), [0.0, 6.0, 12.0])
    np.testing.assert_array_equal(run.learning_rate, [0.5 * 0.5**step for step in (0, 5, 11)])
    assert run.checkpoints == tuple(some)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path, recorded):
    for folder in ("a", "b"):
        shutil.copytree(recorded / "one.recording", tmp_path / folder / "run.recording")
        touched(tmp_path / folder / "net", "c-1.pt")

    found = runs_of([tmp_path / folder / name for name in ("run.recording", "net") for folder in ("a", "b")])

    assert [run.name for run in found] == ["a/run", "b/run", "a/net", "b/net"]


def test_the_current_folder_has_its_own_name(tmp_path, monkeypatch):
    touched(tmp_path / "net", "c-1.pt", "c-2.pt")
    monkeypatch.chdir(tmp_path / "net")

    assert [run.name for run in runs_of(["."])] == ["net"]
    assert [run.name for run in runs_of(".")] == ["net"]
    assert [run.name for run in runs_of("*.pt")] == ["net"]
    assert [run.name for run in runs_of(["c-1.pt", "c-2.pt"])] == ["net"]
    assert [run.name for run in runs_of(["../net/"])] == ["net"]


def test_networks_and_mappings_are_checkpoints_and_no_lists():
    nets = [nn.Sequential(nn.Linear(2, 2), nn.Tanh()) for _ in range(2)]

    for one in (nets[0], nets[0].state_dict(), nn.Linear(2, 2)):
        [run] = runs_of(one)
        assert run.checkpoints == (one,)
        [run] = runs_of({"name": one})
        assert (run.name, run.checkpoints) == ("name", (one,))
    [run] = runs_of([nets[0], nets[1].state_dict()])
    assert (run.name, run.labels, run.steps.tolist()) == ("training", ("checkpoint 1", "checkpoint 2"), [0.0, 1.0])


def test_a_generator_is_a_list(tmp_path):
    [run] = runs_of(tmp_path / f"c-{number}.pt" for number in (3, 5))

    assert run.steps.tolist() == [3.0, 5.0]


def test_runs_are_taken_as_they_are(tmp_path):
    runs = runs_of([tmp_path / f"c-{number}.pt" for number in range(5)])

    assert runs_of(runs)[0].labels == runs[0].labels
    assert runs_of(runs, every=2)[0].labels == ("c-0.pt", "c-2.pt", "c-4.pt")


# ---------------------------------------------------------------------- mistakes


def test_a_folder_or_glob_without_checkpoints_is_told(tmp_path):
    touched(tmp_path, "notes.txt")

    for source in (tmp_path, f"{tmp_path}/*.pt", tmp_path / "absent", {"a": tmp_path}, [tmp_path]):
        with pytest.raises(
            ValueError, match=r"^checkpoints were wanted, but .* has none \(\.pt, .*; give their paths$"
        ):
            runs_of(source)


@pytest.mark.parametrize("source", [[], {}, {"a": []}, ()])
def test_nothing_is_no_run(source):
    with pytest.raises(ValueError, match="^a training run needs checkpoints, but none came"):
        runs_of(source)


@pytest.mark.parametrize("every", [0, -1])
def test_every_is_at_least_one(every):
    with pytest.raises(ValueError, match=f"at least 1, but {every} came"):
        runs_of(["a.pt"], every)


def test_a_result_is_no_recording(tmp_path):
    plane = gradvis.Plane(np.zeros(2), np.eye(2))
    from gradvis.backends.analytic import Quadratic

    gradvis.loss_surface(Quadratic([1.0, 2.0]), plane, resolution=3, out=tmp_path / "a.surface.zarr")

    with pytest.raises(ValueError, match=r"a.surface.zarr holds a surface, not a recording; give one"):
        runs_of(tmp_path / "a.surface.zarr")
