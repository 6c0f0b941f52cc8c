"""What recording costs: the time of a training step that is recorded, in steps that are not.

An MLP of 11 million float32 parameters (the size of a ResNet-18) under SGD with momentum. All ways are taken in turn,
a few steps each, again and again, and medians are compared: the machines are noisy.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import nn

import gradvis
from gradvis.recorder import Recorder

WIDTH, BATCH, STEPS, ROUNDS = 1864, 128, 20, 5
WAYS = {
    "every 20th step": {"every_n_steps": 20, "ring": 0},
    "every 20th step, ring of the latest": {"every_n_steps": 20},
    "every step": {"every_n_steps": 1, "ring": 0},
    "every step, ring of the latest": {"every_n_steps": 1},
}


class Training:
    """An own model and optimizer, and a recorder or none."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
        self.model = nn.Sequential(
            *layers, nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.inputs, self.targets = torch.randn(BATCH, WIDTH), torch.randint(0, 10, (BATCH,))
        self.recorder: Recorder | None = None

    def steps(self) -> float:
        """Seconds a step, with what the recorder still writes: its thread takes from the others."""
        start = time.perf_counter()
        for _ in range(STEPS):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(self.inputs), self.targets)
            loss.backward()
            if self.recorder is not None:
                self.recorder.log(loss=loss)
            self.optimizer.step()
        return (time.perf_counter() - start) / STEPS


def main() -> None:
    warnings.simplefilter("ignore")
    seconds: dict[str, list[float]] = {name: [] for name in ("unrecorded", *WAYS)}
    with tempfile.TemporaryDirectory() as folder:
        training = Training()
        training.steps()
        for turn in range(ROUNDS):
            for name in seconds:
                if name in WAYS:
                    out = Path(folder) / f"{turn} {name}.recording"
                    training.recorder = gradvis.record(training.model, training.optimizer, out=out, **WAYS[name])
                seconds[name].append(training.steps())
                if training.recorder is not None:
                    training.recorder.close()
                    training.recorder = None
    count = sum(value.numel() for value in training.model.parameters())
    base = statistics.median(seconds["unrecorded"])
    print(f"{count:,} parameters, batches of {BATCH}, {torch.get_num_threads()} threads")
    for name, values in seconds.items():
        print(f"{name:40} {1000 * statistics.median(values):8.1f} ms a step {statistics.median(values) / base:6.2f}")


if __name__ == "__main__":
    main()
