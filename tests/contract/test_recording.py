"""Recordings of a loop of one's own: it goes on bit by bit as without one, and what is read back is what was there."""

from __future__ import annotations

import random

import numpy as np
import pytest

import gradvis
from gradvis.notes import Note
from gradvis.recording import Recording
from tests.contract.cases import common_state
from tests.contract.recording_nets import NETS, batches, flat, loop, same, trained

pytestmark = pytest.mark.filterwarnings("ignore:.*a recorded step takes")


@pytest.fixture(params=NETS)
def net(request):
    return NETS[request.param]()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run.recording"


# --- Training is as it was -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_is_the_same_bit_by_bit_with_a_recorder(net, out, optimizer):
    runs = []
    for watched in (False, True):
        random.seed(0), np.random.seed(0), net.random()
        model = net.model()
        made, losses = getattr(net, optimizer)(model), []
        recorder = gradvis.record(model, made, out=out, every_n_steps=3, ring=4) if watched else None
        for batch in batches():
            losses.append(net.slope(model, batch))
            net.apply(model, made)
            if recorder:
                recorder.log(loss=losses[-1])
        if recorder:
            recorder.close()
        runs.append((
            [float(each) for each in losses],
            common_state(),
            [each.tobytes() for each in net.everything(model, made)],
        ))

    assert len(Recording(out).steps) == 5
    assert runs[0] == runs[1]


# --- What is recorded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "ring"), [(5, 0), (1, 1), (4, 2)])
def test_each_recorded_step_is_the_state_that_was_there(net, out, every, ring):
    _, states = trained(net, out, every_n_steps=every, ring=ring)
    recording = Recording(out)

    assert recording.steps.tolist() == sorted({*range(0, 13, every), 12})
    for each in recording.checkpoints():
        assert same(each.tensors(), states[each.step])
        assert np.array_equal(each.parameters(), flat(net, states[each.step]))
    assert recording.finite.all()
    assert (*recording.blocks,) == net.blocks
    assert (*recording.buffers,) == net.buffers


@pytest.mark.parametrize("when", ["before", "after"])
def test_losses_and_learning_rates_are_those_of_the_step_logged_before_or_after_it(net, out, when):
    model = net.model()
    optimizer, losses = net.sgd(model), []
    with gradvis.record(model, optimizer, out=out, every_n_steps=2) as recorder:
        for number, batch in enumerate(batches(5), 1):
            net.rate(optimizer, 0.3 / number)
            losses.append(net.slope(model, batch))
            if when == "before":
                recorder.log(loss=losses[-1])
            net.apply(model, optimizer)
            net.tell(recorder)
            if when == "after":
                recorder.log(loss=losses[-1])
    recording = Recording(out)

    assert recording.steps.tolist() == [0, 2, 4, 5]
    np.testing.assert_array_equal(recording.losses, [np.nan, *(float(losses[n - 1]) for n in (2, 4, 5))])
    np.testing.assert_allclose(recording.learning_rates[1:, 0], [0.15, 0.075, 0.06], rtol=1e-6)


def test_only_optimizer_steps_count_and_the_loss_is_the_mean_of_their_batches(net, out):
    model = net.model()
    optimizer, losses = net.accumulating(model), []
    with gradvis.record(model, optimizer, out=out, every_n_steps=1) as recorder:
        for number, batch in enumerate(batches(6), 1):
            losses.append(net.slope(model, batch))
            recorder.log(loss=losses[-1])
            net.of_three(model, optimizer, number)
    recording = Recording(out)

    assert recording.steps.tolist() == [0, 1, 2]
    wanted = [np.mean([float(each) for each in losses[:3]]), np.mean([float(each) for each in losses[3:]])]
    np.testing.assert_allclose(recording.losses[1:], wanted, rtol=1e-12)


def test_a_loop_without_an_optimizer_saves_itself(net, out):
    model = net.model()
    with gradvis.record(model, out=out) as recorder:
        net.fill(model, net.blocks[1], 1)
        recorder.log(loss=3.0)
        recorder.save()
        recorder.save(step=10)
        with pytest.raises(ValueError, match=r"steps go up, but 4 came after 10; to go back, record\(..., step=4\)"):
            recorder.save(step=4)
    recording = Recording(out)

    assert recording.steps.tolist() == [0, 1, 10]
    np.testing.assert_array_equal(recording.losses, [np.nan, 3, np.nan])
    assert np.isnan(recording.learning_rates).all()
    assert (recording.checkpoints()[1].tensors()[net.blocks[1]] == 1).all()


def test_saving_between_steps_replaces_what_the_step_had(net, out):
    model = net.model()
    optimizer = net.sgd(model)
    with gradvis.record(model, optimizer, out=out, every_n_steps=1) as recorder:
        recorder.log(loss=loop(net, model, optimizer, recorder))
        net.fill(model, net.blocks[1], 7)
        recorder.save()
    recording = Recording(out)

    assert recording.steps.tolist() == [0, 1]
    assert (recording.checkpoints()[1].tensors()[net.blocks[1]] == 7).all()


def test_what_is_stored_is_exact_for_every_dtype(net, out):
    model, values, brain, left_out = net.every_dtype()
    gradvis.record(model, out=out).close()
    recording = Recording(out)
    found = recording.checkpoints()[0].tensors()

    assert found.keys() == values.keys()
    assert recording.about["left_out"] == left_out
    assert recording.blocks[brain].dtype == "bfloat16"
    assert found[brain].dtype == np.float32
    assert [name for name, value in values.items() if not net.equal(found[name], value)] == []
    assert found["far"] == 2**62 + 1


@pytest.mark.parametrize("dtype", ["float16", "float64", None])
def test_parameters_are_stored_in_the_dtype_that_was_asked_for(net, out, dtype):
    model = net.model()
    gradvis.record(model, out=out, dtype=dtype or net.float16).close()
    found = Recording(out).checkpoints()[0].parameters()

    assert found.dtype == (dtype or "float16")
    assert np.array_equal(found, flat(net, net.state(model)).astype(found.dtype))


# --- Parts of a model, and objectives --------------------------------------------------------------------------------


def objective(model):
    inputs, targets = map(np.concatenate, zip(*batches(4), strict=True))
    return gradvis.objective(model, (inputs, targets), "cross_entropy")


def test_an_objective_takes_a_recorded_step_with_its_buffers_and_draws_its_path(net, out):
    model, states = trained(net, out, every_n_steps=4)
    last, there = Recording(out).checkpoints()[-1], objective(model)
    loss, expected = objective(net.model(seed=1)), there.measure(there.parameters())
    path = gradvis.project_trajectory(loss, out).dataset

    assert np.array_equal(loss.read(last), flat(net, states[-1]))
    assert loss.at(last).measure(loss.read(last)) == expected
    assert path["step"].values.tolist() == [0, 4, 8, 12]
    assert float(path["loss"][-1]) == pytest.approx(expected["loss"], rel=1e-6)


@pytest.mark.parametrize("some", [False, True], ids=["all", "some"])
def test_slices_of_a_recorded_step_are_those_of_its_vector_and_the_rest_stays(net, out, some):
    _, states = trained(net, out, steps=2, every_n_steps=1, **({"parameters": net.some} if some else {}))
    model = net.model(seed=1)
    frozen, last, before = net.freeze(model), *Recording(out).checkpoints()[:0:-1]
    has_not = sorted(set(net.blocks) - {*Recording(out).blocks})
    expected = {**net.state(model), **{name: states[-1][name] for name in (*Recording(out).blocks, *net.buffers)}}
    loss = objective(model)

    def read():
        return loss.read(last), loss.reader(last), loss.reader(last).rest(), loss.reader(before).rest()

    if some:
        with pytest.warns(Note, match=rf"run.recording has not {', '.join(has_not[:3])}.*: these stay as the model"):
            whole, parts, rest, other = read()
    else:
        whole, parts, rest, other = read()

    assert np.array_equal(whole, np.concatenate([expected[n].ravel() for n in net.blocks if n != frozen]))
    for start in range(0, loss.space.d, 7):
        part = slice(start, min(start + 13, loss.space.d))
        assert np.array_equal(parts.read(part), whole[part])
    assert rest != other  # the statistics have moved


def test_a_step_of_another_model_is_refused(net, out):
    gradvis.record(net.model(), out=out).close()
    each = Recording(out).checkpoints()[-1]
    for ask in (lambda loss: loss.read(each), lambda loss: loss.reader(each).read(slice(0, 1))):
        with pytest.raises(ValueError, match=r"run.recording step 0 (does not fit the model: |has no 'only/kernel')"):
            ask(objective(net.other()))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"parameters": "GLOB"}, r"no parameter matches '{glob}'; there are {names}, \.\.\.: give a glob"),
        ({"dtype": "int8"}, "dtype must be one of float16, float32, float64, but int8 came"),
        ({"every_n_steps": 0}, "every_n_steps must be 1 or more, but 0 came"),
        ({"objective": "lenet"}, "an objective is named as FILE.py:NAME, but 'lenet' came"),
        ({"disk_budget": 1000}, r"a step takes .* and disk_budget \(1 kB\) holds 0; raise it"),
    ],
)
def test_what_cannot_be_recorded_is_said_in_one_line_and_leaves_nothing_behind(net, out, options, error):
    options = {name: net.glob if value == "GLOB" else value for name, value in options.items()}
    words = error.replace("{glob}", net.glob.replace("*", r"\*")).replace("{names}", ", ".join(net.blocks[:3]))
    with pytest.raises(ValueError, match=words) as caught:
        gradvis.record(net.model(), out=out, **options)
    assert "\n" not in str(caught.value)
    assert not list(out.parent.iterdir())


def test_what_is_no_optimizer_and_no_loss_says_so(net, out):
    with pytest.raises(TypeError, match=r"optimizer must be a \S+.Optimizer, but list came; or leave it out"):
        gradvis.record(net.model(), [], out=out)
    with (
        gradvis.record(net.model(), out=out) as recorder,
        pytest.raises(TypeError, match=f"a loss is one number, but a {net.tensor} of 3 came; log its mean"),
    ):
        recorder.log(loss=net.zeros(3))
