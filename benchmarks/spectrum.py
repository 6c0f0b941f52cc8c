"""Products with the Hessian, densities and eigenvalues, in bare forward passes, beside others: `make bench`.

A LeNet with batch norm, trained for 30 epochs on 1,003 images of 28 x 28 pixels, in evaluation mode. The unit is one
full-batch forward pass of the same model on the same data with the same threads, timed beside each run. All ways are
taken in turn, and medians are compared: the machines are noisy. Results are kept in benchmarks/README.md.

The others go to a folder of their own, without their dependencies, which would replace torch:

    pip install --no-deps --target PEERS pyhessian hessian-eigenthings curvlinops-for-pytorch \
        backpack-for-pytorch einops einconv linear_operator jaxtyping wadler-lindig
    python benchmarks/spectrum.py --peers PEERS

Whole runs take minutes each. `--only products` measures one part alone, `--quick` shows that everything works, and
`--rounds 3` takes medians of whole runs too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curvature_peers import Data, Peer, peers
from surface import images, lenet
from torch import nn

import gradvis
from gradvis import machine
from gradvis.notes import Note
from gradvis.schedule import default_scheduler

PARTS = ("products", "densities", "eigenvalues", "ranks")
TOP, PROBES, TOL = 10, 10, 1e-4
NEAR = 0.01  # of the largest eigenvalue: what counts as near zero

Way = tuple[Callable[[], Any], int]  # what is run, and how many of what is wanted it gives


def trained(samples: int) -> tuple[nn.Module, Data]:
    """30 epochs, so that the spectrum is one that people look at."""
    inputs, targets = (each[:samples] for each in images())
    model = lenet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    batches = torch.Generator().manual_seed(0)
    for _ in range(30):
        for batch in torch.randperm(samples, generator=batches).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    return model.eval(), (inputs, targets)


def bare(model: nn.Module, data: Data) -> Callable[[], None]:
    @torch.no_grad()
    def forward() -> None:
        model(data[0])

    return forward


def products(model: nn.Module, data: Data, objective: gradvis.Objective, others: list[Peer]) -> dict[str, Way]:
    theta = objective.parameters()
    along = np.random.default_rng(0).standard_normal((PROBES, theta.size)).astype(np.float32)

    def gradient() -> None:
        torch.autograd.grad(nn.functional.cross_entropy(model(data[0]), data[1]), list(model.parameters()))

    ways: dict[str, Way] = {
        "bare forward pass": (bare(model, data), 1),
        "gradient, full batch": (gradient, 1),
        f"gradvis, {PROBES} vectors together": (lambda: objective.hvp(theta, along), PROBES),
        "gradvis, one vector": (lambda: objective.hvp(theta, along[:1]), 1),
    }
    for peer in others:
        for said, run, count in peer.products(torch.from_numpy(along)):
            ways[f"{peer.name}, {said}"] = (run, count)
    return ways


def densities(
    objective: gradvis.Objective, others: list[Peer], steps: int, near: float, ends: tuple[float, float]
) -> dict[str, Way]:
    """As the share of eigenvalues near zero. One probe of the others: they take probes one after the other."""

    def ours() -> float:
        found = gradvis.hessian_spectrum(objective, PROBES, steps, top=0)
        low, high = found.cumulative(np.array([-near, near]))
        return float(high - low)

    return {"gradvis": (ours, PROBES), **{peer.name: (partial(peer.share, steps, near, ends), 1) for peer in others}}


def eigenvalues(objective: gradvis.Objective, others: list[Peer]) -> dict[str, Way]:
    """The ten largest, descending, to the same tolerance where there is one."""

    def ours() -> Any:
        return gradvis.hessian_eigenpairs(objective, TOP, tol=TOL).values

    return {"gradvis": (ours, 1), **{peer.name: (partial(peer.largest, TOP, TOL), 1) for peer in others}}


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def each_product(ways: dict[str, Way], rounds: int) -> None:
    print("one product of the Hessian with one vector")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first one warms up
        for name, (run, count) in ways.items():
            seconds, _ = timed(run)
            times[name] += [seconds / count] * (number > 0)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, seconds in medians.items():
        passes = seconds / medians["bare forward pass"]
        print(f"  {name:36s} {1000 * seconds:8.1f} ms {passes:8.2f} forward passes", flush=True)


def whole(
    ways: dict[str, Way], forward: Callable[[], Any], wanted: int, rounds: int, said: Callable[[Any], str]
) -> None:
    """Whole runs, in turn, bare forward passes between them; seconds for as much as is wanted."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    answers, units = {}, []
    for _ in range(rounds):
        for name, (run, count) in ways.items():
            units += [timed(forward)[0] for _ in range(10)]
            seconds, answers[name] = timed(run)
            times[name].append(seconds * wanted / count)
    unit = statistics.median(units)
    for name, found in times.items():
        seconds = statistics.median(found)
        print(f"  {name:20s} {seconds:8.1f} s {seconds / unit:9.0f} forward passes   {said(answers[name])}", flush=True)


def one_process(samples: int, steps: int, folder: str | None, rounds: int, each: int, parts: Sequence[str]) -> None:
    threads = machine.threads()
    torch.set_num_threads(threads)
    print(f"one process, {threads} threads, {samples} images, load {os.getloadavg()[0]:.1f} at the start")
    model, data = trained(samples)
    objective = gradvis.objective(model, data, "cross_entropy", threads=threads)
    print(f"  gradvis: {objective.how}")
    others = peers(folder, model, data)
    if "products" in parts:
        each_product(products(model, data, objective, others), each)
    if {"densities", "eigenvalues"}.isdisjoint(parts):
        return

    truth, ends = extremes(model, data, objective)
    forward = bare(model, data)
    if "densities" in parts:
        print(f"a density of {PROBES} probes, {steps} steps each (others: one probe, times {PROBES})")
        whole(
            densities(objective, others, steps, NEAR * ends[1], ends), forward, PROBES, rounds,
            lambda share: f"share within {NEAR:.0%} of the largest eigenvalue: {share:.4f}",
        )  # fmt: skip
    if "eigenvalues" in parts:
        print(f"the {TOP} largest eigenvalues, in float64 {np.round(truth, 4).tolist()}; the smallest is {ends[0]:.4f}")
        whole(
            eigenvalues(objective, others), forward, 1, rounds,
            lambda found: f"largest relative error: {np.abs(found / truth[: len(found)] - 1).max():.1e}",
        )  # fmt: skip


def extremes(model: nn.Module, data: Data, objective: gradvis.Objective) -> tuple[Any, tuple[float, float]]:
    """The largest eigenvalues in float64, and both ends of the spectrum, where the others begin their axis."""
    precise = gradvis.objective(model, data, "cross_entropy", dtype="float64")
    truth = gradvis.hessian_eigenpairs(precise, TOP, tol=1e-6)
    lowest = gradvis.hessian_eigenpairs(objective, 1, "smallest", tol=1e-2)
    assert truth.converged.all()
    assert lowest.converged.all()
    return truth.values, (float(lowest.values[0]), float(truth.values[0]))


def ranks(samples: int, steps: int, rounds: int) -> None:
    """The same spectrum by one rank of one thread, by two, and by two jobs at once that share nothing but the machine.

    Two such jobs are slower than one: what they lose, two ranks lose too. The children print their seconds.
    """
    launcher = str(Path(sys.executable).with_name("mpirun"))
    times: dict[str, list[float]] = {"one": [], "two": [], "apart": []}
    for _ in range(rounds):
        for name, found in times.items():
            command = [launcher, "-n", "2" if name == "two" else "1"]
            command += [sys.executable, __file__, "--rank", f"{samples},{steps}"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            jobs = [
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
                for _ in range(1 + (name == "apart"))
            ]
            answers = [job.communicate() for job in jobs]
            assert not any(job.returncode for job in jobs), answers
            found.append(statistics.mean(float(seconds) for seconds, _ in answers))
    one, two, apart = (statistics.median(found) for found in times.values())
    print(f"two ranks of one thread against one: {PROBES} probes, {steps} steps, {TOP} eigenpairs, stored")
    print(f"  {one:.1f} s and {two:.1f} s: {one / two:.2f} times as fast, an efficiency of {one / two / 2:.2f}")
    print(f"  two jobs at once, that share nothing: {apart:.1f} s each, so that {one / apart:.2f} is all there is")


def as_a_rank(samples: int, steps: int) -> None:
    warnings.simplefilter("ignore", Note)
    scheduler = default_scheduler()
    torch.set_num_threads(1)
    objective = gradvis.objective(*trained(samples), "cross_entropy", threads=1)
    objective.hvp(objective.parameters(), np.ones((5, objective.space.d), np.float32))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(scheduler.share(lambda: folder)) / "bench.spectrum.zarr"
        scheduler.share(lambda: None)
        run = partial(gradvis.hessian_spectrum, objective, PROBES, steps, tol=TOL, out=out, scheduler=scheduler)
        seconds = max(scheduler.gather(timed(run)[0]))  # all have read the result before it goes away
        if scheduler.is_root:
            print(seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", help="the folder with the others")
    parser.add_argument("--rounds", type=int, default=1, help="of whole runs [1]")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    parser.add_argument("--quick", action="store_true", help="few images and few steps")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank:
        as_a_rank(*map(int, given.rank.split(",")))
        return
    samples, steps, each = (103, 12, 2) if given.quick else (1003, 80, 15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        warnings.filterwarnings("ignore", r"Using backward\(\) with create_graph", UserWarning)  # PyHessian's
        parts = (given.only,) if given.only else PARTS
        if parts != ("ranks",):
            one_process(samples, steps, given.peers, given.rounds, each, parts)
    if "ranks" in parts:
        ranks(samples, steps, given.rounds)


if __name__ == "__main__":
    main()
