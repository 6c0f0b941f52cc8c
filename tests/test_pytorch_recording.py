"""Recordings of PyTorch loops: hooks of its optimizers, its wrappers and processes, and programs that end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from gradvis.backends.pytorch import record
from gradvis.notes import Note
from gradvis.recording import Recording
from tests.contract.recording_nets import Torch, same

pytestmark = pytest.mark.filterwarnings("ignore:.*a recorded step takes")

net, sgd, state = Torch().model, Torch().sgd, Torch().state


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


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run.recording"


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


def test_wrappers_leave_no_trace_in_names_and_tied_weights_are_there_once(out):
    model = net()
    model.register_parameter("tied", model[4].bias)
    record(nn.DataParallel(torch.compile(model, backend="eager")), out=out).close()
    recording = Recording(out)

    assert list(recording.blocks) == [name for name, _ in model.named_parameters()]
    assert {**recording.blocks, **recording.buffers}.keys() == model.state_dict().keys() - {"4.bias"}


def test_a_model_without_values_or_in_pieces_is_refused(out):
    class DTensor(torch.Tensor):
        pass

    sharded = nn.Linear(2, 2)
    sharded.weight = nn.Parameter(torch.zeros(2, 2).as_subclass(DTensor))
    with pytest.raises(ValueError, match="weight has no values yet; run the model once"):
        record(nn.LazyLinear(2), out=out)
    with pytest.raises(ValueError, match=r"this model is sharded \(FSDP, DTensor\), which cannot be recorded"):
        record(sharded, out=out)


# --- Processes -------------------------------------------------------------------------------------------------------


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
    assert np.array_equal(
        again.checkpoints()[-1].parameters(),
        torch.cat([value.detach().flatten() for value in model.parameters()]).numpy(),
    )
    assert again.about["complete"]
    assert not list(out.rglob("*.partial"))


def test_a_program_that_forgets_to_close_has_recorded_everything(out):
    process = started(out, 7)
    _, errors = process.communicate()

    assert (process.returncode, errors) == (0, "")
    assert Recording(out).steps.tolist() == list(range(8))
    assert Recording(out).about["complete"]
