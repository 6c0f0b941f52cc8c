"""Callbacks of trainers: what they record is what the trainer did, seen independently."""

import logging
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import gradvis.callbacks
from gradvis.backends.pytorch import callbacks
from gradvis.recording import Recording
from tests.test_howto import typed

PAGE = (Path(__file__).parent.parent / "notebooks" / "howto" / "recording.md").read_text(encoding="utf-8")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*a recorded step takes"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def samples(count=36):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=generator), torch.randint(0, 4, (count,), generator=generator)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))


def state(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def check(recording, states, losses):
    """Steps as captured, (step to state); losses of steps 1, 2, ..."""
    assert recording.steps.tolist() == [*states]
    for each in recording.checkpoints():
        found = each.tensors()
        assert found.keys() == states[each.step].keys()
        assert all(np.array_equal(value, states[each.step][name]) for name, value in found.items())
    wanted = [losses[step - 1] for step in recording.steps if step]
    np.testing.assert_allclose(recording.losses[recording.steps > 0], wanted, rtol=1e-6)
    assert recording.about["complete"]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run.recording"


def test_importing_the_callbacks_imports_no_framework():
    names = ("torch", "lightning", "transformers", "tensorflow", "keras")
    code = f"import sys, gradvis.callbacks; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_is_none_and_a_library_that_is_missing_say_so(monkeypatch):
    with pytest.raises(AttributeError, match="has no attribute 'JaxCallback'"):
        _ = gradvis.callbacks.JaxCallback
    monkeypatch.setattr(callbacks, "_is_installed", lambda name: False)
    monkeypatch.setattr(callbacks.sys, "modules", {})
    with pytest.raises(ImportError, match="LightningCallback needs Lightning; install it with: pip install lightning"):
        callbacks._tree()
    with pytest.raises(ImportError, match="TransformersCallback needs transformers; install it with"):
        callbacks._transformers()


# --- Lightning -------------------------------------------------------------------------------------------------------

pl = pytest.importorskip("lightning.pytorch")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Lit(pl.LightningModule):
    """Captures the state after each step, and the loss of each batch."""

    def __init__(self):
        super().__init__()
        self.net, self.states, self.batch_losses = network(), {}, []

    def training_step(self, batch, index):
        self.states[self.trainer.global_step] = state(self)
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.batch_losses.append(loss.item())
        return loss

    def on_train_end(self):
        self.states[self.trainer.global_step] = state(self)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(module, callback, checkpoint=None, **options):
    settings = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(callbacks=[callback], **{**settings, **quiet, **options})
    trainer.fit(module, DataLoader(TensorDataset(*samples()), batch_size=8), ckpt_path=checkpoint)
    return trainer


def every(number, states):
    last = max(states)
    return {step: states[step] for step in sorted(states) if step % number == 0 or step == last}


@pytest.mark.parametrize("accumulated", [1, 2])
def test_lightning_records_its_optimizer_steps_with_the_mean_loss_of_their_batches(out, accumulated):
    module = Lit()
    first = state(module)
    callback = gradvis.callbacks.LightningCallback(out=out, every_n_steps=2)
    fit(module, callback, accumulate_grad_batches=accumulated)
    per_epoch = [module.batch_losses[:5], module.batch_losses[5:]]
    cuts = range(0, 5, accumulated)
    losses = [np.mean(epoch[start : start + accumulated]) for epoch in per_epoch for start in cuts]
    # Within a step, batch norm's statistics move with every batch: the state is that of the optimizer step.
    states = {0: first, **captured(accumulated)}

    assert isinstance(callback, pl.Callback)
    check(Recording(out), every(2, states), losses)


def captured(accumulated):
    """The same training in a loop of our own: the state after each step."""
    module, found = Lit(), {}
    optimizer = module.configure_optimizers()
    for _ in range(2):
        inputs, targets = (part.split(8) for part in samples())
        for number in range(5):
            (cross_entropy(module.net(inputs[number]), targets[number]) / accumulated).backward()
            if (number + 1) % accumulated == 0 or number == 4:
                optimizer.step()
                optimizer.zero_grad()
                found[len(found) + 1] = state(module)
    return found


def test_lightning_goes_on_from_a_checkpoint_and_from_nothing_else(out, tmp_path):
    trainer = fit(Lit(), gradvis.callbacks.LightningCallback(out=out, every_n_steps=1), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "five.ckpt")
    with pytest.raises(ValueError, match="run.recording is there already; give step=N"):
        fit(Lit(), gradvis.callbacks.LightningCallback(out=out))
    module = Lit()
    fit(module, gradvis.callbacks.LightningCallback(out=out, every_n_steps=3), tmp_path / "five.ckpt")

    assert Recording(out).steps.tolist() == [0, 1, 2, 3, 4, 5, 6, 9, 10]
    last = Recording(out).checkpoints()[-1].tensors()
    assert all(np.array_equal(value, last[name]) for name, value in state(module).items())


def test_an_exception_in_a_fit_closes_the_recording(out):
    class Failing(Lit):
        def training_step(self, batch, index):
            if index == 3:
                raise RuntimeError("out of coffee")
            return super().training_step(batch, index)

    with pytest.raises(RuntimeError, match="out of coffee"):
        fit(Failing(), gradvis.callbacks.LightningCallback(out=out))
    assert Recording(out).steps.tolist() == [0, 3]
    assert Recording(out).about["complete"]


def test_of_two_optimizers_the_steps_of_the_first_count(out):
    class Players(Lit):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.automatic_optimization, self.other, self.taken = False, nn.Linear(6, 4), [state(self)]

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.1), torch.optim.SGD(self.other.parameters(), lr=0.1)

        def training_step(self, batch, index):
            for player, optimizer in zip((self.net, self.other), self.optimizers(), strict=True):
                optimizer.zero_grad()
                self.manual_backward(cross_entropy(player(batch[0]), batch[1]))
                optimizer.step()
                if player is self.net:
                    self.taken.append(state(self))

    module = Players()
    before = state(module)
    fit(module, gradvis.callbacks.LightningCallback(out=out, every_n_steps=4))
    recording = Recording(out)

    assert recording.steps.tolist() == [0, 4, 8, 10]
    for each in recording.checkpoints()[1:3]:
        found = each.tensors()
        assert all(np.array_equal(value, found[name]) for name, value in module.taken[each.step].items())
    assert before.keys() == recording.checkpoints()[0].tensors().keys()


def test_the_other_tree_of_lightning_has_its_own_class(monkeypatch):
    other = pytest.importorskip("pytorch_lightning")
    monkeypatch.delitem(sys.modules, "lightning.pytorch")
    assert issubclass(gradvis.callbacks.LightningCallback, other.Callback)


def test_a_callback_travels_to_another_process():
    callback = gradvis.callbacks.LightningCallback(out="run.recording", ring=0)
    again = pickle.loads(pickle.dumps(callback))

    assert type(again) is gradvis.callbacks.LightningCallback
    assert again.options == {"out": "run.recording", "every_n_steps": 20, "ring": 0}


# --- transformers ----------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """Captures the state before each batch, and its loss."""

    def __init__(self):
        super().__init__()
        self.net, self.states, self.batch_losses = network(), [], []

    def forward(self, inputs, labels):
        if self.training:
            self.states.append(state(self))
        loss = cross_entropy(self.net(inputs), labels)
        if self.training:
            self.batch_losses.append(loss.item())
        return {"loss": loss, "logits": inputs}


def train(model, data, tmp_path, callback, resume=None, **options):
    transformers = pytest.importorskip("transformers")
    settings = {"max_steps": 6, "per_device_train_batch_size": 4, "logging_steps": 1, "save_strategy": "no"}
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "output_dir": str(tmp_path / "trainer")}
    arguments = transformers.TrainingArguments(**{**settings, **quiet, **options})
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data, callbacks=[callback])
    trainer.remove_callback(transformers.PrinterCallback)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        trainer.train(resume_from_checkpoint=resume)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def rows():
    return [{"inputs": one, "labels": label} for one, label in zip(*samples(32), strict=True)]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_transformers_records_its_steps_with_their_loss(out, tmp_path, accumulated):
    model = Classifier()
    callback = gradvis.callbacks.TransformersCallback(out=out, every_n_steps=2)
    logged = train(model, rows(), tmp_path, callback, gradient_accumulation_steps=accumulated)
    losses = np.mean(np.reshape(model.batch_losses[: 6 * accumulated], (6, accumulated)), 1)
    recording = Recording(out)

    np.testing.assert_allclose(losses, logged, rtol=1e-3)
    assert recording.steps.tolist() == [0, 2, 4, 6]
    np.testing.assert_allclose(recording.losses[1:], losses[1::2], rtol=1e-6)
    for each in recording.checkpoints()[:3]:
        found, there = each.tensors(), model.states[each.step * accumulated]
        assert all(np.array_equal(value, found[name]) for name, value in there.items())
    last = recording.checkpoints()[-1].tensors()
    assert all(np.array_equal(value, last[name]) for name, value in state(model).items())
    assert recording.about["complete"]
    assert not model._forward_hooks


def test_losses_that_are_divided_by_the_tokens_of_a_whole_step_add_up(out, tmp_path):
    class Summing(Classifier):
        def forward(self, inputs, labels, num_items_in_batch=None, **kwargs):
            loss = cross_entropy(self.net(inputs), labels, reduction="sum") / num_items_in_batch
            return {"loss": loss, "logits": inputs}

    callback = gradvis.callbacks.TransformersCallback(out=out, every_n_steps=1)
    logged = train(Summing(), rows(), tmp_path, callback, gradient_accumulation_steps=3, max_steps=3)

    np.testing.assert_allclose(Recording(out).losses[1:], logged, rtol=1e-3)


def test_transformers_goes_on_from_a_checkpoint(out, tmp_path):
    callback = gradvis.callbacks.TransformersCallback(out=out, every_n_steps=1)
    options = {"save_strategy": "steps", "save_steps": 3}
    train(Classifier(), rows(), tmp_path, callback, **options)
    model = Classifier()
    again = gradvis.callbacks.TransformersCallback(out=out, every_n_steps=2)
    train(model, rows(), tmp_path, again, resume=str(tmp_path / "trainer" / "checkpoint-3"), **options)

    assert Recording(out).steps.tolist() == [0, 1, 2, 3, 4, 6]
    last = Recording(out).checkpoints()[-1].tensors()
    assert all(np.array_equal(value, last[name]) for name, value in state(model).items())


# --- The how-to ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_how_to_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """In this process, one block after the other."""
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TF_DETERMINISTIC_OPS", "0")  # a command turns them on for the whole of its process
    before = set(sys.modules)
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S):
        if language == "python":
            Path(re.match(r"# (\w+\.py)\n", block)[1]).write_text(block)
        else:
            statuses = {line: typed(line) for line in block.splitlines()}
            assert set(statuses.values()) == {0}, statuses
    for name in {path.stem for path in tmp_path.glob("*.py")} - before:
        sys.modules.pop(name, None)

    assert gradvis.open("run.recording").steps.tolist() == list(range(0, 65, 5))
    assert gradvis.open("run.recording").losses.size == 13
    assert gradvis.open("lit.recording").steps.tolist() == gradvis.open("trainer.recording").steps.tolist()
    assert gradvis.open("keras.recording").steps.tolist() == list(range(0, 17, 4))
    assert len(list(tmp_path.glob("*.trajectory.png"))) == 4
