"""Folders of recordings: what is read back after kills and damage, how much they take, and what blows up."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings

import numpy as np
import pytest
import torch
import xarray
import zarr
from torch import nn

from gradvis import rows
from gradvis.backends.pytorch import record
from gradvis.notes import Note
from gradvis.recording import Recording
from tests.contract.recording_nets import Torch, flat, same, trained

pytestmark = pytest.mark.filterwarnings("ignore:.*a recorded step takes")

net = Torch().model


def recorded(path, steps=12, **options):
    return trained(Torch(), path, steps, **options)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run.recording"


def test_a_slice_of_a_step_equals_that_of_the_whole(out, monkeypatch):
    monkeypatch.setattr(rows, "INNER", 4 * 10)  # ten numbers a chunk
    recorded(out, steps=2)
    each = Recording(out).checkpoints()[-1]
    whole = each.parameters()

    assert zarr.open_group(out)["parameters"].chunks[1] <= 10
    for start, stop in ((0, 3), (5, 25), (19, 41), (len(whole) - 1, None), (0, len(whole))):
        assert np.array_equal(each.parameters(start, stop), whole[start:stop])


def test_a_step_is_one_file_with_chunks_of_at_most_4_mb_of_which_a_slice_reads_few(out, monkeypatch):
    model = nn.Linear(1500, 1501)
    record(model, out=out).close()
    array = zarr.open_group(out)["parameters"]
    each = Recording(out).checkpoints()[0]

    assert sorted(file.name for file in (out / "parameters").iterdir()) == ["c.0.0", "zarr.json"]
    assert array.chunks[1] * 4 <= 4_000_000 < array.shards[1] * 4
    assert array.shards[1] - array.shape[1] < array.shards[1] // array.chunks[1]
    read, size = [], zarr.storage._local._get
    monkeypatch.setattr(
        zarr.storage._local, "_get", lambda *a, **k: (read.append(len(found := size(*a, **k))), found)[1]
    )
    assert np.array_equal(each.parameters(1_000_100, 1_000_200), flat_of(model)[1_000_100:1_000_200])
    assert sum(read) < 4_100_000


def flat_of(model):
    return torch.cat([value.detach().reshape(-1) for value in model.parameters()]).numpy()


def test_xarray_opens_it_without_a_warning(out):
    _, states = recorded(out, every_n_steps=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = xarray.open_zarr(out, consolidated=False)

    assert found["parameters"].dims == ("step", "parameter")
    assert found["step"].values.tolist() == [0, 5, 10, 12]
    assert np.array_equal(found["parameters"].sel(step=10), flat(Torch(), states[10]))
    assert found["parameters"].attrs["parts"][1]["name"] == "0.bias"
    xarray.testing.assert_identical(found["loss"].drop_vars("step"), Recording(out).dataset["loss"].drop_vars("step"))


def test_thinning_keeps_the_first_and_the_last(out):
    recorded(out, every_n_steps=2)
    recording = Recording(out)

    assert [each.step for each in recording.checkpoints(every=4)] == [0, 8, 12]
    assert [each.step for each in recording.checkpoints(every=100)] == [0, 12]
    with pytest.raises(ValueError, match="every must be 1 or more, but 0 came"):
        recording.checkpoints(every=0)


def test_a_recorded_step_travels(out):
    recorded(out, every_n_steps=5)
    each = Recording(out).checkpoints()[1]
    again = pickle.loads(pickle.dumps(each))

    assert len(pickle.dumps(each)) < 1000
    assert (again.step, str(again)) == (5, "run.recording step 5")
    assert same(again.tensors(), each.tensors())


# --- Damage ----------------------------------------------------------------------------------------------------------


def test_a_row_whose_step_was_not_written_does_not_count(out):
    model, _ = recorded(out, every_n_steps=4)
    steps = zarr.open_group(out)["step"]
    steps[3] = -1  # what is there before the step is written, last of all
    parameters = zarr.open_group(out)["parameters"]
    parameters.resize((5, parameters.shape[1]))

    assert Recording(out).steps.tolist() == [0, 4, 8]
    record(model, out=out, step=9).close()
    assert Recording(out).steps.tolist() == [0, 4, 8, 9]
    assert len(list((out / "parameters").glob("c.*"))) == 4


@pytest.mark.parametrize("name", ["parameters", "buffers"])
def test_a_cut_off_step_is_left_out_with_a_note(out, name):
    _, states = recorded(out, every_n_steps=4)
    file = out / name / "c.1.0"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.warns(Note, match=r"1 steps of run.recording were cut off and are left out \(first: step 4\)"):
        found = Recording(out)

    assert found.steps.tolist() == [0, 8, 12]
    assert same(found.checkpoints()[1].tensors(), states[8])


def test_a_step_whose_bits_have_changed_says_so(out):
    recorded(out, every_n_steps=4)
    file = out / "parameters" / "c.1.0"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)

    with pytest.raises(ValueError, match="run.recording step 4 is damaged"):
        Recording(out).checkpoints()[1].tensors()


def test_damage_to_a_small_array_costs_that_array(out):
    recorded(out, every_n_steps=4)
    (out / "loss" / "c.0").write_bytes(b"torn")
    with pytest.warns(Note, match="loss of run.recording is damaged and is left out"):
        found = Recording(out)

    assert found.steps.tolist() == [0, 4, 8, 12]
    assert np.isnan(found.losses).all()


def test_what_is_no_recording_says_so(tmp_path, out):
    recorded(out, steps=1)
    (out / "step" / "c.0").write_bytes(b"torn")
    with pytest.raises(ValueError, match="run.recording is damaged"):
        Recording(out)
    about = json.loads((out / "zarr.json").read_text())
    about["attributes"]["gradvis"]["kind"] = "surface"
    (out / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="run.recording holds a surface, not a recording"):
        Recording(out)
    with pytest.raises(ValueError, match="run.recording holds a surface, not a recording; give another out"):
        record(net(), out=out, step=1)


# --- Blow-ups and budgets --------------------------------------------------------------------------------------------


def test_the_ring_holds_what_its_memory_holds(out):
    recorded(out, steps=1)
    size = Recording(out).checkpoints()[0].parameters().nbytes
    model = net()
    recorder = record(model, Torch().sgd(model), out=out, fresh=True, ring_memory=3 * (size + 8 * 8 + 8))
    with pytest.warns(Note, match="no ring of the latest steps"):
        none = record(model, Torch().sgd(model), out=out.with_name("none.recording"), ring_memory=size)
    recorder.close(), none.close()

    assert (recorder._ring.maxlen, none._ring.maxlen) == (3, 0)


def test_going_on_before_a_blow_up_forgets_it(out):
    recorder = record(net(), out=out)
    recorder.log(loss=float("nan"))
    with pytest.warns(Note, match="is not finite"):
        recorder.save(step=8)
    recorder.close()
    record(net(), out=out, step=9).close()
    assert Recording(out).first_nonfinite == 8
    record(net(), out=out, step=8).close()
    assert Recording(out).first_nonfinite is None


def size_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_the_disk_budget_is_kept_and_the_last_step_recorded(out):
    model = nn.Linear(100, 100)
    optimizer = Torch().sgd(model)
    budget = 700_000

    def train():
        with record(model, optimizer, out=out, every_n_steps=1, disk_budget=budget):
            for _ in range(30):
                model(torch.ones(2, 100)).square().mean().backward()
                optimizer.step()

    with pytest.warns(Note, match=r"disk_budget \(700 kB\) is used up at step .*: of the rest only the last") as told:
        train()
    steps = Recording(out).steps.tolist()

    assert budget - 150_000 < size_of(out) <= budget
    assert steps == [*range(len(steps) - 1), 30]
    assert sum("used up" in str(each.message) for each in told) == 1
    with pytest.raises(ValueError, match=r"disk_budget \(700 kB\) holds [01]; raise it"):
        record(model, optimizer, out=out, step=30, disk_budget=budget)


def test_the_forecast_says_how_much_fits_and_refuses_what_does_not(out):
    model = nn.Linear(100, 100)
    with pytest.warns(
        Note, match=r"a recorded step takes 40\.\d kB, and disk_budget \(10 GB\) holds 24\d,000 of them: 4,9\d0,000 tr"
    ):
        record(model, out=out.with_name("a.recording")).close()
    with pytest.warns(
        Note, match=r"a recorded step takes 40\.\d kB, all 6 of them 24\d kB; disk_budget \(10 GB\) holds"
    ):
        record(model, out=out.with_name("b.recording"), total_steps=100).close()
    with pytest.raises(ValueError, match=r"102 recorded steps .* must fit, .* give every_n_steps=\d+ or more") as told:
        record(model, out=out, disk_budget=700_000, every_n_steps=1, total_steps=101)
    fits = int(str(told.value).partition("every_n_steps=")[2].split()[0])
    record(model, out=out, disk_budget=700_000, every_n_steps=fits, total_steps=101).close()

    assert 1 < fits < 101


def test_a_full_disk_counts_like_a_used_up_budget(out, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 2**24 + 1000))
    with pytest.raises(ValueError, match=r"the disk \(\d+ bytes free\) holds 0; raise it"):
        record(nn.Linear(100, 100), out=out)
    assert not list(out.parent.iterdir())
