"""Recordings of a loop of one's own that begin in a folder, go on, and end: by mistakes, blow-ups and other ranks."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import gradvis
from gradvis.notes import Note
from gradvis.recording import Recording
from tests.contract.recording_nets import CLASSES, NETS, WIDTH, batches, loop, same, trained

pytestmark = pytest.mark.filterwarnings("ignore:.*a recorded step takes")


@pytest.fixture(params=NETS)
def net(request):
    return NETS[request.param]()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run.recording"


# --- The folder that is there already --------------------------------------------------------------------------------


def test_a_recording_that_is_there_is_neither_replaced_nor_mixed(net, out):
    trained(net, out, steps=2)
    with pytest.raises(ValueError, match=r"run.recording is there already; give step=N to go on .* or fresh=True to"):
        gradvis.record(net.model(), out=out)
    other, shape = net.model(classes=3), net.state(net.model())[net.blocks[4]].shape
    there, here = (f"{WIDTH} x {classes}" if shape[0] == WIDTH else f"{classes} x {WIDTH}" for classes in (CLASSES, 3))
    with pytest.raises(ValueError, match=f"another model: {net.blocks[4]} is {there} float32 there and {here} float32"):
        gradvis.record(other, out=out, step=2)
    with pytest.raises(ValueError, match="another model: stored as is float32 there and float16 here; give another"):
        gradvis.record(net.model(), net.sgd(other), out=out, step=2, dtype="float16")
    gradvis.record(other, out=out, fresh=True).close()

    assert Recording(out).steps.tolist() == [0]
    assert Recording(out.with_name("run.1.recording")).steps.tolist() == [0, 2]


def test_a_run_that_goes_on_takes_the_place_of_what_came_after(net, out):
    _, states = trained(net, out, every_n_steps=2)
    model = net.model(seed=1)
    optimizer, first = net.sgd(model), net.state(model)
    with gradvis.record(model, optimizer, out=out, step=6, every_n_steps=4) as recorder:
        loop(net, model, optimizer, recorder, steps=5)
    found = {each.step: each.tensors() for each in Recording(out).checkpoints()}

    assert [*found] == [0, 2, 4, 6, 8, 11]
    assert same(found[4], states[4])
    assert same(found[6], first)
    assert same(found[11], net.state(model))


def test_a_run_that_goes_on_needs_no_earlier_one(net, out):
    gradvis.record(net.model(), out=out, step=40, objective="lenet.py:objective").close()

    assert Recording(out).steps.tolist() == [40]
    assert Recording(out).objective == "lenet.py:objective"


# --- Ends ------------------------------------------------------------------------------------------------------------


def test_a_recorder_that_nobody_has_any_more_has_written_everything(net, out):
    def train():
        model = net.model()
        optimizer = net.sgd(model)
        loop(net, model, optimizer, gradvis.record(model, optimizer, out=out, every_n_steps=1))

    train()
    gc.collect()
    assert Recording(out).steps.tolist() == [0, 1]
    assert Recording(out).about["complete"]


def test_an_exception_in_the_loop_closes_the_recording(net, out):
    model = net.model()
    optimizer = net.sgd(model)

    def train():
        with gradvis.record(model, optimizer, out=out) as recorder:
            loop(net, model, optimizer, recorder, steps=3)
            raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError, match="out of coffee"):
        train()
    assert Recording(out).steps.tolist() == [0, 3]
    assert same(Recording(out).checkpoints()[-1].tensors(), net.state(model))


def test_when_writing_fails_training_goes_on(net, out):
    model = net.model()
    optimizer = net.sgd(model)
    recorder = gradvis.record(model, optimizer, out=out, every_n_steps=1)
    loop(net, model, optimizer, recorder)
    out.rename(out.with_name("moved.recording"))

    def go_on():
        loop(net, model, optimizer, recorder, steps=12)
        recorder.close()

    with pytest.warns(Note, match=r"to run.recording has ended at step \d+,.*: (the folder|No such)") as told:
        go_on()
    assert not recorder.active
    assert len(told) == 1


def test_a_model_that_changes_its_shape_ends_the_recording(net, out):
    model = net.model()
    optimizer = net.sgd(model)
    recorder = gradvis.record(model, optimizer, out=out, every_n_steps=1)
    net.slope(model, batches(1)[0])
    net.apply(model, optimizer)
    net.tell(recorder)
    net.wider(model)
    with pytest.warns(Note, match="has ended at step 2, training goes on: the model has other parameters or buffers"):
        recorder.save(step=2)
    assert Recording(out).steps.tolist() == [0, 1]


@pytest.mark.parametrize(("when", "some"), [("before", False), ("after", True)])
def test_the_latest_steps_are_written_when_the_loss_is_no_number(net, out, when, some):
    states, losses = [], [np.nan]

    def train(model):
        states.append(net.state(model))
        optimizer, chosen = net.sgd(model), {"parameters": net.some} if some else {}
        with gradvis.record(model, optimizer, out=out, every_n_steps=9, ring=5, **chosen) as recorder:
            for number, batch in enumerate(batches(18), 1):
                loss = net.slope(model, batch, np.nan if number == 14 else 1.0)
                if when == "before":
                    recorder.log(loss=loss)
                net.apply(model, optimizer)
                net.tell(recorder)
                if when == "after":
                    recorder.log(loss=loss)
                states.append(net.state(model))
                losses.append(float(loss))

    with pytest.warns(Note, match="the loss of step 14 is not finite: 5 more of the latest steps are recorded"):
        train(net.model())
    recording = Recording(out)
    steps = recording.steps.tolist()

    assert steps == [0, 9, 10, 11, 12, 13, 14, 18]
    assert recording.first_nonfinite == 14
    assert recording.finite.tolist() == [True] * 6 + [False] * 2
    np.testing.assert_array_equal(recording.losses, [losses[step] for step in steps])
    for each in recording.checkpoints():
        found = each.tensors()
        assert same(found, {name: states[each.step][name] for name in found})


def test_other_ranks_record_nothing(net, out, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    model = net.model()
    optimizer = net.sgd(model)
    with gradvis.record(model, optimizer, out=out) as recorder:
        recorder.log(loss=loop(net, model, optimizer, recorder))
        recorder.save()

    assert not recorder.active
    assert not list(out.parent.iterdir())
