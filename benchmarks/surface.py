"""Time per point of a surface, in bare forward passes: `make bench`.

A LeNet with batch norm over 1,003 images of 28 x 28 pixels (scikit-learn's digits, enlarged). The unit
is one full-batch forward pass of the same model on the same data with the same threads, and nothing
else. All ways are taken in turn, again and again, and medians are compared: the machines are noisy.
Results are kept in benchmarks/README.md, with the machine they come from.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import gradvis
from gradvis import machine
from gradvis.schedule import default_scheduler

SAMPLES, POINTS, ROUNDS = 1003, 4, 15


def lenet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def images() -> tuple[Tensor, Tensor]:
    pixels, classes = load_digits(return_X_y=True)
    small = torch.tensor(pixels[:SAMPLES], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return nn.functional.interpolate(small, size=(28, 28), mode="bilinear"), torch.tensor(classes[:SAMPLES])


def ways(threads: int) -> dict[str, Callable[[], object]]:
    """One point each, in evaluation mode, by name."""
    model = lenet().eval()
    inputs, targets = images()
    torch.set_num_threads(threads)
    coords = np.random.default_rng(0).uniform(-1, 1, (POINTS, 2))

    def surface(**options: object) -> Callable[[], object]:
        objective = gradvis.objective(
            lenet(), (inputs, targets), "cross_entropy", metrics=["accuracy"], threads=threads, **options
        )
        plane = gradvis.random_plane(objective)
        print(f"  gradvis {options or ''}: {objective.how}")
        return lambda: objective.evaluate(plane, coords)

    @torch.no_grad()
    def forward() -> None:
        for _ in range(POINTS):
            model(inputs)

    @torch.no_grad()
    def state_dicts() -> None:
        """As other landscape tools do it: a new state_dict is loaded for each point, then one pass over the data."""
        start = {name: value.clone() for name, value in model.state_dict().items()}
        steps = [{name: torch.zeros_like(value) for name, value in start.items()} for _ in range(2)]
        for a, b in coords.tolist():
            model.load_state_dict({k: v + (a * steps[0][k] + b * steps[1][k]).to(v.dtype) for k, v in start.items()})
            outputs = model(inputs)
            nn.functional.cross_entropy(outputs, targets).item()
            (outputs.argmax(1) == targets).sum().item()
        model.load_state_dict(start)

    return {
        "bare forward passes": forward,
        "a state_dict a point, full batch": state_dicts,
        "gradvis": surface(),
        "gradvis --batch-norm recalibrate": surface(batch_norm="recalibrate"),
        "gradvis --compile": surface(compile=True),
    }


def one_process(threads: int) -> None:
    print(f"one process, {threads} threads")
    runs = ways(threads)
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) / POINTS)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, seconds in medians.items():
        print(f"  {name:34s} {1000 * seconds:7.1f} ms a point   {seconds / medians['bare forward passes']:5.2f}")


def small_nets() -> None:
    """Several points at once, by vmap, against one after the other: both forced, whatever the rule says."""
    print("points together against points one by one, one thread; the rule takes what is at most 1,048,576")
    generator = torch.Generator().manual_seed(0)
    for samples, widths in ((64, (64, 32, 10)), (256, (64, 32, 10)), (64, (64, 128, 10)), (1024, (64, 128, 10))):
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
        data = torch.randn(samples, 64, generator=generator), torch.randint(0, 10, (samples,), generator=generator)
        objective = gradvis.objective(
            nn.Sequential(*layers[:-1]), data, "cross_entropy", metrics=["accuracy"], threads=1
        )
        plane, coords = gradvis.random_plane(objective), np.random.default_rng(0).uniform(-1, 1, (64, 2))
        both = [objective.again({"points": points}) for points in (1, 32)]
        times: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for way, found in zip(both, times, strict=True):
                start = time.perf_counter()
                way.evaluate(plane, coords)
                found.append(time.perf_counter() - start)
        alone, together = map(statistics.median, times)
        work = objective.space.d * samples
        print(f"  {samples:5d} samples, {widths}: parameters x samples {work:9,d}, time {together / alone:.2f}")


def ranks() -> None:
    """The same surface by one rank of one thread and by two, in turn; the children print their seconds."""
    launcher = Path(sys.executable).with_name("mpirun")
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(3):
        for count, found in times.items():
            command = [str(launcher), "-n", str(count), sys.executable, __file__, "--rank"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            found.append(float(done.stdout))
    one, two = (statistics.median(found) for found in times.values())
    print("two ranks of one thread against one, 15 x 15 points")
    print(f"  {one:.1f} s and {two:.1f} s: {one / two:.2f} times as fast")


def as_a_rank() -> None:
    scheduler = default_scheduler()
    objective = gradvis.objective(lenet(), images(), "cross_entropy", metrics=["accuracy"], threads=1)
    plane = gradvis.random_plane(objective)
    objective.evaluate(plane, np.zeros((3, 2)))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(scheduler.share(lambda: folder)) / "bench.surface.zarr"
        scheduler.share(lambda: None)
        start = time.perf_counter()
        gradvis.loss_surface(objective, plane, resolution=15, out=out, scheduler=scheduler)
        scheduler.gather(None)  # all have read it before the root takes it away
        if scheduler.is_root:
            print(time.perf_counter() - start)


if __name__ == "__main__":
    if "--rank" in sys.argv:
        as_a_rank()
    else:
        one_process(machine.cpus())
        small_nets()
        ranks()
