"""Recordings: training goes on bit by bit as without one, and what is read back is what was there."""

import gc
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
import xarray
import zarr
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import gradvis
from gradvis import rows
from gradvis.backends.pytorch import record
from gradvis.backends.pytorch.slices import slices
from gradvis.notes import Note
from gradvis.recording import Recording

pytestmark = pytest.mark.filterwarnings("ignore:.*a recorded step takes")


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4))


def batches(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(16, 6, generator=generator), torch.randint(0, 4, (16,), generator=generator)) for _ in range(count)
    ]


def stepped(model, optimizer, batch):
    """One step; its loss."""
    optimizer.zero_grad()
    loss = cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss


def closed(recorder, model, optimizer):
    """After some steps more."""
    for batch in batches():
        stepped(model, optimizer, batch)
    recorder.close()


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, **options})


def state(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def recorded(path, steps=12, **options):
    """A model trained and recorded, and its state after each step."""
    model = net()
    optimizer = sgd(model)
    states = [state(model)]
    with record(model, optimizer, out=path, **options) as recorder:
        for batch in batches(steps):
            recorder.log(loss=stepped(model, optimizer, batch))
            states.append(state(model))
    return model, states


def flat(states):
    """The parameters of a state, in the model's order."""
    return np.concatenate([states[name].ravel() for name, _ in net().named_parameters()])


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name], equal_nan=True) for name in one
    )


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run.recording"


# --- Training is as it was -------------------------------------------------------------------------------------------


def whole_run(optimizer_of, out=None):
    """Every bit that training leaves behind."""
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    model = net()
    optimizer = optimizer_of(model)
    loader = DataLoader(TensorDataset(*map(torch.cat, zip(*batches(), strict=True))), batch_size=16, shuffle=True)
    recorder = record(model, optimizer, out=out, every_n_steps=3, ring=4) if out else None
    losses = []
    for batch in loader:
        losses.append(stepped(model, optimizer, batch).item())
        if recorder:
            recorder.log(loss=losses[-1])
    grads = [value.grad for value in model.parameters()]
    if recorder:
        recorder.close()
    generators = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    return pickle.dumps(
        (model.state_dict(), optimizer.state_dict(), grads, losses, [v.requires_grad for v in model.parameters()]),
    ), generators


@pytest.mark.parametrize("optimizer_of", [sgd, lambda model: torch.optim.Adam(model.parameters())], ids=["sgd", "adam"])
def test_training_is_the_same_bit_by_bit_with_a_recorder(out, optimizer_of):
    bare, generators = whole_run(optimizer_of)
    watched, watched_generators = whole_run(optimizer_of, out)

    assert len(Recording(out).steps) == 5
    assert str(pickle.loads(bare)) == str(pickle.loads(watched))
    for one, other in zip(_tensors(pickle.loads(bare)), _tensors(pickle.loads(watched)), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(generators[0], watched_generators[0])
    assert generators[1:] == watched_generators[1:]


def _tensors(tree):
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict):
        yield from (leaf for value in tree.values() for leaf in _tensors(value))
    elif isinstance(tree, (list, tuple)):
        yield from (leaf for value in tree for leaf in _tensors(value))


def test_the_hook_is_gone_after_closing(out):
    model = net()
    optimizer = sgd(model)
    recorder = record(model, optimizer, out=out)
    assert len(optimizer._optimizer_step_post_hooks) == 1
    recorder.close()
    recorder.close()
    stepped(model, optimizer, batches()[0])

    assert not optimizer._optimizer_step_post_hooks
    assert recorder.step == 0


# --- What is recorded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "ring"), [(5, 50), (5, 0), (1, 1), (4, 2)])
def test_each_recorded_step_is_the_state_that_was_there(out, every, ring):
    _, states = recorded(out, every_n_steps=every, ring=ring)
    recording = Recording(out)

    assert recording.steps.tolist() == sorted({*range(0, 13, every), 12})
    for each in recording.checkpoints():
        assert same(each.tensors(), states[each.step])
        assert np.array_equal(each.parameters(), flat(states[each.step]))
    assert recording.finite.all()


def test_losses_learning_rates_and_gradient_norms_are_those_of_the_step(out):
    model = net()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.3}, {"params": model[4].parameters()}], lr=0.1
    )
    losses, norms = [], []
    with record(model, optimizer, out=out, every_n_steps=1) as recorder:
        for number, batch in enumerate(batches(3)):
            optimizer.param_groups[0]["lr"] = 0.3 / (number + 1)
            losses.append(stepped(model, optimizer, batch).item())
            recorder.log(loss=losses[-1])
            norms.append([value.grad.double().norm().item() for value in model.parameters()])
    recording = Recording(out)

    assert recording.losses[1:].tolist() == losses
    assert np.isnan(recording.losses[0])
    np.testing.assert_allclose(recording.gradient_norms[1:], norms, rtol=1e-6)
    assert np.isnan(recording.gradient_norms[0]).all()
    np.testing.assert_allclose(recording.learning_rates, [[0.3, 0.1], [0.3, 0.1], [0.15, 0.1], [0.1, 0.1]])


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_loss_may_be_logged_before_or_after_its_step(out, when):
    model = net()
    optimizer = sgd(model)
    losses = []
    with record(model, optimizer, out=out, every_n_steps=2) as recorder:
        for inputs, targets in batches(5):
            optimizer.zero_grad()
            loss = cross_entropy(model(inputs), targets)
            loss.backward()
            if when == "before":
                recorder.log(loss=loss)
            optimizer.step()
            if when == "after":
                recorder.log(loss=loss)
            losses.append(loss.item())
    found = dict(zip(Recording(out).steps.tolist(), Recording(out).losses.tolist(), strict=True))

    assert {step: found[step] for step in (2, 4, 5)} == {step: losses[step - 1] for step in (2, 4, 5)}


def test_only_optimizer_steps_count_and_the_loss_is_the_mean_of_their_batches(out):
    model = net()
    optimizer = sgd(model)
    losses = []
    with record(model, optimizer, out=out, every_n_steps=1) as recorder:
        for number, (inputs, targets) in enumerate(batches(6), 1):
            loss = cross_entropy(model(inputs), targets)
            (loss / 3).backward()
            recorder.log(loss=loss)
            losses.append(loss.item())
            if number % 3 == 0:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
    recording = Recording(out)

    assert recording.steps.tolist() == [0, 1, 2]
    np.testing.assert_allclose(recording.losses[1:], [np.mean(losses[:3]), np.mean(losses[3:])], rtol=1e-12)


def test_a_step_that_a_scaler_skips_is_none(out):
    model = net()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    with record(model, optimizer, out=out, every_n_steps=1) as recorder:
        for number, (inputs, targets) in enumerate(batches(4)):
            optimizer.zero_grad()
            scaler.scale(cross_entropy(model(inputs), targets)).backward()
            if number == 1:
                model[0].weight.grad.fill_(float("inf"))
            scaler.step(optimizer)
            scaler.update()

    assert recorder.step == 3
    assert Recording(out).steps.tolist() == [0, 1, 2, 3]


def test_closures_of_lbfgs_make_one_step(out):
    model = net().eval()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    inputs, targets = batches(1)[0]

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    with record(model, optimizer, out=out, every_n_steps=1) as recorder:
        recorder.log(loss=optimizer.step(closure))

    last = Recording(out).checkpoints()[-1]
    assert last.step == 1
    assert same(last.tensors(), state(model))


def test_a_loop_without_an_optimizer_saves_itself(out):
    model = net()
    with record(model, out=out) as recorder:
        with torch.no_grad():
            model[0].bias.fill_(1)
        recorder.log(loss=3.0)
        recorder.save()
        recorder.save(step=10)
        with pytest.raises(ValueError, match=r"steps go up, but 4 came after 10; to go back, record\(..., step=4\)"):
            recorder.save(step=4)
    recording = Recording(out)

    assert recording.steps.tolist() == [0, 1, 10]
    np.testing.assert_array_equal(recording.losses, [np.nan, 3, np.nan])
    assert (recording.checkpoints()[1].tensors()["0.bias"] == 1).all()


def test_saving_between_steps_replaces_what_the_step_had(out):
    model = net()
    optimizer = sgd(model)
    with record(model, optimizer, out=out, every_n_steps=1) as recorder:
        loss = stepped(model, optimizer, batches()[0])
        recorder.log(loss=loss)
        with torch.no_grad():
            model[0].bias.fill_(7)
        recorder.save()
    recording = Recording(out)

    assert recording.steps.tolist() == [0, 1]
    assert (recording.checkpoints()[1].tensors()["0.bias"] == 7).all()


def test_wrappers_leave_no_trace_in_names_and_tied_weights_are_there_once(out):
    model = net()
    model.register_parameter("tied", model[4].bias)
    record(nn.DataParallel(torch.compile(model, backend="eager")), out=out).close()
    recording = Recording(out)

    assert list(recording.blocks) == [name for name, _ in model.named_parameters()]
    assert {**recording.blocks, **recording.buffers}.keys() == model.state_dict().keys() - {"4.bias"}


def test_what_is_stored_is_exact_for_every_dtype(out):
    model = nn.Module()
    model.small = nn.Parameter(torch.randn(3).half())
    model.brain = nn.Parameter(torch.randn(2, 2).bfloat16())
    model.counts = nn.Parameter(torch.arange(3), requires_grad=False)
    for name, value in {
        "flag": torch.tensor(True), "phase": torch.randn(2, dtype=torch.complex64), "far": torch.tensor(2**62 + 1),
        "none": torch.zeros(0), "rough": torch.randn(3).bfloat16(), "fine": torch.randn(2, dtype=torch.float64),
    }.items():  # fmt: skip
        model.register_buffer(name, value)
    model.register_buffer("passing", torch.zeros(2), persistent=False)
    record(model, out=out).close()
    recording = Recording(out)
    found = recording.checkpoints()[0].tensors()

    assert found.keys() == {*model.state_dict()}
    assert found["small"].dtype == found["brain"].dtype == np.float32
    assert recording.blocks["brain"].dtype == "bfloat16"
    for name, value in model.state_dict().items():
        assert torch.equal(torch.from_numpy(found[name]).to(value.dtype), value), name
    assert found["far"] == 2**62 + 1


@pytest.mark.parametrize("dtype", ["float16", "float64", torch.float16])
def test_parameters_are_stored_in_the_dtype_that_was_asked_for(out, dtype):
    model = net()
    record(model, out=out, dtype=dtype).close()
    found = Recording(out).checkpoints()[0]
    wanted = np.dtype(str(dtype).removeprefix("torch."))

    assert found.parameters().dtype == wanted
    assert np.array_equal(found.parameters(), flat(state(model)).astype(wanted))


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
    assert np.array_equal(found["parameters"].sel(step=10), flat(states[10]))
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


# --- Parts of a model, and objectives --------------------------------------------------------------------------------


def objective(model):
    inputs, targets = map(torch.cat, zip(*batches(), strict=True))
    return gradvis.objective(model, (inputs, targets), "cross_entropy")


def test_an_objective_takes_a_recorded_step_with_its_buffers(out):
    model, _ = recorded(out)
    last = Recording(out).checkpoints()[-1]
    loss = objective(net(seed=1))

    assert np.array_equal(loss.read(last), flat_of(model))
    assert loss.at(last).measure(loss.read(last)) == objective(model).measure(flat_of(model))


def test_of_a_recording_of_some_parameters_the_rest_stays_as_the_model_has_it(out):
    _, states = recorded(out, parameters=["4.*", "1.weight"])
    recording = Recording(out)
    other = net(seed=1)
    with pytest.warns(Note, match=r"run.recording has not 0.bias, 0.weight, 1.bias \(3 in all\): these stay as the"):
        found = objective(other).at(recording.checkpoints()[-1])
    expected = {**state(other), **{name: states[-1][name] for name in ("1.weight", "4.weight", "4.bias")}}

    assert list(recording.blocks) == ["1.weight", "4.weight", "4.bias"]
    assert recording.buffers.keys() == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert np.array_equal(found.parameters(), flat(expected))


@pytest.mark.parametrize("parameters", ["*", ["4.*", "1.weight"]], ids=["all", "some"])
def test_slices_of_a_recorded_step_are_those_of_its_vector(out, monkeypatch, parameters):
    monkeypatch.setattr(rows, "INNER", 4 * 10)
    recorded(out, steps=2, parameters=parameters)
    model = net(seed=1)
    model[1].bias.requires_grad_(False)
    each = Recording(out).checkpoints()[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        loss = objective(model)
        whole, (read, rest) = loss.read(each), slices(model, loss.space, torch.float32, each)
        others = loss.at(each)._state.tensors()

    for start in range(0, loss.space.d, 7):
        assert np.array_equal(read(slice(start, min(start + 13, loss.space.d))), whole[start : start + 13])
    names = {block.name for block in loss.space}
    assert rest().keys() == others.keys() - names
    assert all(torch.equal(value, others[name]) for name, value in rest().items())


def test_a_step_of_another_model_is_refused(out):
    recorded(out, steps=1)
    with pytest.raises(ValueError, match="the checkpoint run.recording step 1 does not fit the model: 1.weight is"):
        objective(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))).read(Recording(out).checkpoints()[-1])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            {"parameters": "conv.*"},
            r"no parameter matches 'conv\.\*'; there are 0.weight, 0.bias, 1.weight, \.\.\.: give",
        ),
        ({"dtype": "int8"}, "dtype must be one of float16, float32, float64, but int8 came"),
        ({"every_n_steps": 0}, "every_n_steps must be 1 or more, but 0 came"),
        ({"objective": "lenet"}, "an objective is named as FILE.py:NAME, but 'lenet' came"),
        ({"disk_budget": 1000}, r"a step takes .* and disk_budget \(1 kB\) holds 0; raise it"),
    ],
)
def test_what_cannot_be_recorded_is_said_in_one_line_and_leaves_nothing_behind(out, options, error):
    with pytest.raises(ValueError, match=error) as caught:
        record(net(), out=out, **options)
    assert "\n" not in str(caught.value)
    assert not list(out.parent.iterdir())


def test_an_optimizer_must_be_one(out):
    with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer, but list came; or leave it out"):
        record(net(), [], out=out)


def test_a_loss_must_be_one_number(out):
    recorder = record(net(), out=out)
    with pytest.raises(TypeError, match="a loss is one number, but a Tensor of 3 came; log its mean"):
        recorder.log(loss=torch.zeros(3))
    recorder.close()


def test_a_model_without_values_or_in_pieces_is_refused(out):
    class DTensor(torch.Tensor):
        pass

    sharded = nn.Linear(2, 2)
    sharded.weight = nn.Parameter(torch.zeros(2, 2).as_subclass(DTensor))
    with pytest.raises(ValueError, match="weight has no values yet; run the model once"):
        record(nn.LazyLinear(2), out=out)
    with pytest.raises(ValueError, match=r"this model is sharded \(FSDP, DTensor\), which cannot be recorded"):
        record(sharded, out=out)


# --- The folder that is there already --------------------------------------------------------------------------------


def test_a_recording_that_is_there_is_neither_replaced_nor_mixed(out):
    recorded(out, steps=2)
    with pytest.raises(ValueError, match=r"run.recording is there already; give step=N to go on .* or fresh=True to"):
        record(net(), out=out)
    other = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="another model: 4.weight is 4 x 8 float32 there and 3 x 8 float32 here and"):
        record(other, out=out, step=2)
    with pytest.raises(ValueError, match="another model: stored as is float32 there and float16 here; give another"):
        record(net(), sgd(net()), out=out, step=2, dtype="float16")
    record(other, out=out, fresh=True).close()

    assert Recording(out).steps.tolist() == [0]
    assert Recording(out.with_name("run.1.recording")).steps.tolist() == [0, 2]


def test_a_run_that_goes_on_takes_the_place_of_what_came_after(out):
    _, states = recorded(out, every_n_steps=2)
    model = net(seed=1)
    optimizer = sgd(model)
    with record(model, optimizer, out=out, step=6, every_n_steps=4):
        first = state(model)
        for batch in batches(5):
            stepped(model, optimizer, batch)
    found = {each.step: each.tensors() for each in Recording(out).checkpoints()}

    assert [*found] == [0, 2, 4, 6, 8, 11]
    assert same(found[4], states[4])
    assert same(found[6], first)
    assert same(found[11], state(model))


def test_a_run_that_goes_on_needs_no_earlier_one(out):
    record(net(), out=out, step=40, objective="lenet.py:objective").close()

    assert Recording(out).steps.tolist() == [40]
    assert Recording(out).objective == "lenet.py:objective"


# --- Kills and damage ------------------------------------------------------------------------------------------------

ENDLESS = """
    import sys, torch
    from torch import nn
    from gradvis.backends.pytorch import record
    torch.manual_seed(0)
    model = nn.Linear(200, 200)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = record(model, optimizer, out=sys.argv[1], every_n_steps=1)
    for step in range(int(sys.argv[2])):
        optimizer.zero_grad()
        model(torch.ones(4, 200)).square().mean().backward()
        optimizer.step()
        print(step, flush=True)
"""


def started(out, steps):
    program = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(ENDLESS), str(out), str(steps)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_run_leaves_a_recording_that_opens_and_goes_on(out):
    process = started(out, 10**9)
    while process.stdout.readline() != "15\n":
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (out / "parameters" / "c.0.0abc.partial").write_bytes(b"half")  # as a kill between writing and renaming leaves it
    found = Recording(out)

    assert found.steps.tolist() == list(range(len(found.steps)))
    assert len(found.steps) >= 10
    assert not found.about["complete"]
    assert all(each.parameters().shape == (40_200,) for each in found.checkpoints(every=5))
    model = nn.Linear(200, 200)
    record(model, torch.optim.SGD(model.parameters(), lr=0.1), out=out, step=8).close()
    again = Recording(out)
    assert again.steps.tolist() == list(range(9))
    assert np.array_equal(again.checkpoints()[-1].parameters(), flat_of(model))
    assert again.about["complete"]
    assert not list(out.rglob("*.partial"))


def test_a_program_that_forgets_to_close_has_recorded_everything(out):
    process = started(out, 7)
    _, errors = process.communicate()

    assert (process.returncode, errors) == (0, "")
    assert Recording(out).steps.tolist() == list(range(8))
    assert Recording(out).about["complete"]


def test_a_recorder_that_nobody_has_any_more_has_written_everything(out):
    def train():
        model = net()
        optimizer = sgd(model)
        record(model, optimizer, out=out, every_n_steps=1)
        stepped(model, optimizer, batches()[0])

    train()
    gc.collect()
    assert Recording(out).steps.tolist() == [0, 1]
    assert Recording(out).about["complete"]


def test_an_exception_in_the_loop_closes_the_recording(out):
    model = net()
    optimizer = sgd(model)

    def train():
        with record(model, optimizer, out=out):
            for batch in batches(3):
                stepped(model, optimizer, batch)
            raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError, match="out of coffee"):
        train()
    assert Recording(out).steps.tolist() == [0, 3]
    assert not optimizer._optimizer_step_post_hooks


def test_a_row_whose_step_was_not_written_does_not_count(out):
    model, _ = recorded(out, every_n_steps=4)
    steps = zarr.open_group(out)["step"]
    steps[3] = -1  # what is there before the step is written, last of all
    parameters = zarr.open_group(out)["parameters"]
    parameters.resize((5, parameters.shape[1]))

    assert Recording(out).steps.tolist() == [0, 4, 8]
    record(model, sgd(model), out=out, step=9).close()
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


def test_when_writing_fails_training_goes_on(out):
    model = net()
    optimizer = sgd(model)
    recorder = record(model, optimizer, out=out, every_n_steps=1)
    stepped(model, optimizer, batches()[0])
    out.rename(out.with_name("moved.recording"))
    with pytest.warns(Note, match=r"to run.recording has ended at step \d+,.*: (the folder|No such)") as told:
        closed(recorder, model, optimizer)

    assert not recorder.active
    assert not optimizer._optimizer_step_post_hooks
    assert len(told) == 1


def test_a_model_that_changes_its_shape_ends_the_recording(out):
    model = net()
    optimizer = sgd(model)
    record(model, optimizer, out=out, every_n_steps=1)
    model[4] = nn.Linear(8, 5)
    with pytest.warns(Note, match="has ended at step 1, training goes on: the model has other parameters or buffers"):
        stepped(model, optimizer, batches()[0])
    assert Recording(out).steps.tolist() == [0]


# --- Blow-ups --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("parameters", ["*", "4.*"])
def test_the_latest_steps_are_written_when_the_loss_is_no_number(out, when, parameters):
    states, losses = [], [np.nan]

    def train(model):
        states.append(state(model))
        optimizer = sgd(model)
        with record(model, optimizer, out=out, every_n_steps=10, ring=5, parameters=parameters) as recorder:
            for number, (inputs, targets) in enumerate(batches(18), 1):
                optimizer.zero_grad()
                loss = cross_entropy(model(inputs), targets) * (float("nan") if number == 14 else 1)
                if when == "before":
                    recorder.log(loss=loss)
                loss.backward()
                optimizer.step()
                if when == "after":
                    recorder.log(loss=loss)
                states.append(state(model))
                losses.append(loss.item())

    with pytest.warns(Note, match="the loss of step 14 is not finite: 4 more of the latest steps are recorded"):
        train(net())
    recording = Recording(out)
    steps = recording.steps.tolist()

    assert steps == [0, 10, 11, 12, 13, 14, 18]
    assert recording.first_nonfinite == 14
    assert recording.finite.tolist() == [True] * 5 + [False] * 2
    np.testing.assert_array_equal(recording.losses, [losses[step] for step in steps])
    for each in recording.checkpoints():
        found = each.tensors()
        assert same(found, {name: states[each.step][name] for name in found})


def test_without_losses_the_gradient_tells(out):
    def train(model):
        optimizer = sgd(model)
        with record(model, optimizer, out=out, every_n_steps=2, ring=4) as recorder:
            for number, (inputs, targets) in enumerate(batches(5), 1):
                optimizer.zero_grad()
                (cross_entropy(model(inputs), targets) * (float("inf") if number == 4 else 1)).backward()
                optimizer.step()
        return recorder

    with pytest.warns(Note, match="the gradient of step 4 is not finite: 2 more"):
        recorder = train(net())
    recording = Recording(out)

    assert recording.steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isinf(recording.gradient_norms[4]).any()
    assert not recorder._ring


def test_the_ring_holds_what_its_memory_holds(out):
    recorded(out, steps=1)
    size = Recording(out).checkpoints()[0].parameters().nbytes
    model = net()
    recorder = record(model, sgd(model), out=out, fresh=True, ring_memory=3 * (size + 8 * 8 + 8))
    with pytest.warns(Note, match="no ring of the latest steps"):
        none = record(model, sgd(model), out=out.with_name("none.recording"), ring_memory=size)
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


# --- Budgets and ranks -----------------------------------------------------------------------------------------------


def size_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_the_disk_budget_is_kept_and_the_last_step_recorded(out):
    model = nn.Linear(100, 100)
    optimizer = sgd(model)
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


def test_other_ranks_record_nothing(out, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    model = net()
    optimizer = sgd(model)
    with record(model, optimizer, out=out) as recorder:
        recorder.log(loss=stepped(model, optimizer, batches()[0]))
        recorder.save()

    assert not optimizer._optimizer_step_post_hooks
    assert not list(out.parent.iterdir())


def test_the_rank_of_torch_counts_before_the_launchers(out, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(net())
        optimizer = sgd(model)
        with record(model, optimizer, out=out, every_n_steps=1):
            stepped(model, optimizer, batches()[0])
    finally:
        torch.distributed.destroy_process_group()

    assert Recording(out).steps.tolist() == [0, 1]
    assert same(Recording(out).checkpoints()[1].tensors(), state(model.module))


def test_a_copy_of_training_in_another_process_does_not_close_the_recording(out):
    model = net()
    optimizer = sgd(model)
    recorder = record(model, optimizer, out=out, every_n_steps=1)
    data = TensorDataset(*map(torch.cat, zip(*batches(2), strict=True)))
    for batch in DataLoader(data, batch_size=16, num_workers=1):
        stepped(model, optimizer, batch)
    assert not Recording(out).about["complete"]
    recorder.close()

    assert Recording(out).steps.tolist() == [0, 1, 2]
