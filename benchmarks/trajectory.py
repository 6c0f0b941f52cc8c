"""From checkpoint files to a principal plane: `make bench`.

50 files of 11,173,962 float32 parameters, in the tensors of a ResNet-18 for CIFAR; the weights are a random walk
with a drift. The unit is `torch.load` of every file, twice, and nothing else. Each way is timed in a process of its
own, from file names to directions, in turn, three times; medians are compared, since machines are noisy. Imports and
the building of the model are not counted. Results are kept in benchmarks/README.md, with the machine they come from.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn

import gradvis
from gradvis import machine
from gradvis.projected import projected
from gradvis.runs import runs_of
from gradvis.schedule import Serial

FILES, ROUNDS, PART = 50, 3, 2**17


def shapes() -> Iterator[tuple[int, ...]]:
    """Of the parameters of a ResNet-18 for CIFAR-10, batch norm included."""
    yield from ((64, 3, 3, 3), (64,), (64,))
    before = 64
    for width in (64, 128, 256, 512):
        for entering in (before, width):
            yield from ((width, entering, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,))
            if entering != width:
                yield from ((width, entering, 1, 1), (width,), (width,))
        before = width
    yield from ((10, 512), (10,))


class Net(nn.Module):
    """Has the parameters; computes with the last layer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.zeros(shape) for shape in shapes())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs, self.weights[-2], self.weights[-1])


def write(folder: Path) -> None:
    """The checkpoints, and as many links to them, for a path of twice the length."""
    torch.manual_seed(0)
    net = Net()
    drift = [1e-3 * torch.randn_like(each) for each in net.parameters()]
    with torch.no_grad():
        for each in net.parameters():
            each.copy_(0.05 * torch.randn_like(each))
        for step in range(FILES):
            torch.save(net.state_dict(), folder / f"{step:03d}.pt")
            (folder / f"{step + FILES:03d}.pt").hardlink_to(folder / f"{step:03d}.pt")
            for each, towards in zip(net.parameters(), drift, strict=True):
                each += towards + 2e-3 * torch.randn_like(each)


def load_twice(files: list[Path]) -> None:
    for _ in range(2):
        for file in files:
            torch.load(file, weights_only=True)


def objective() -> gradvis.Objective:
    return gradvis.objective(Net(), (torch.zeros(4, 512), torch.zeros(4, dtype=torch.long)), "cross_entropy")


def read_twice(files: list[Path]) -> Callable[[], object]:
    """What gradvis reads, in its slices, of which only the largest number is taken."""
    given = objective()

    def run() -> None:
        readers = [given.reader(file) for file in files]

        def look(start: int) -> None:
            part = slice(start, min(start + PART, given.space.d))
            for reader in readers:
                reader.read(part).max()

        with ThreadPoolExecutor(machine.threads()) as pool:
            for _ in range(2):
                list(pool.map(look, range(0, given.space.d, PART)))

    return run


def principal(files: list[Path]) -> Callable[[], object]:
    given = objective()
    return lambda: projected(given, runs_of(files), None, (1, 2), False, Serial())


def stacked(files: list[Path]) -> np.ndarray:
    """All checkpoints, (t, d) in float32."""
    rows = np.empty((len(files), sum(each.numel() for each in Net().parameters())), np.float32)
    for row, file in zip(rows, files, strict=True):
        values = torch.load(file, weights_only=True).values()
        torch.cat([value.reshape(-1) for value in values], out=torch.from_numpy(row))
    return rows


def over_time(files: list[Path]) -> object:
    rows = stacked(files)
    pca = PCA(2)
    return pca.fit_transform(rows), pca.components_


def transposed(files: list[Path]) -> object:
    """As GradVis 2019: parameters are the samples, so that means over parameters are taken away."""
    rows = stacked(files)
    rows -= rows[-1].copy()
    return PCA(2).fit_transform(rows[:-1].T)


WAYS: dict[str, Callable[[list[Path]], Callable[[], object]]] = {
    "torch.load of every file, twice: the limit": lambda files: lambda: load_twice(files),
    "slices read twice and not used": read_twice,
    "gradvis: directions, coordinates, distances": principal,
    "PCA(2) over parameters, as GradVis (loads once)": lambda files: lambda: transposed(files),
    "PCA(2) over time of scikit-learn (loads once)": lambda files: lambda: over_time(files),
}
LIMIT, _, GRADVIS, _, PCA_OVER_TIME = WAYS


def anonymous() -> float:
    """Megabytes of this process that are in no file (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1000


def one_way(name: str, files: list[Path]) -> dict[str, float]:
    """Seconds, those of all threads on the CPUs, and the most anonymous megabytes meanwhile."""
    run, over, seen = WAYS[name](files), threading.Event(), [anonymous()]

    def watch() -> None:
        while not over.wait(0.01):
            seen.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, work = time.perf_counter(), time.process_time()
    run()
    seconds, work = time.perf_counter() - start, time.process_time() - work
    over.set()
    watcher.join()
    return {"seconds": seconds, "cpu": work, "peak": max(seen)}


def in_its_process(name: str, folder: str, count: int) -> dict[str, float]:
    command = [sys.executable, __file__, name, folder, str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    print(f"{FILES} checkpoints, {machine.threads()} threads, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        in_its_process(LIMIT, folder, FILES)  # warms the cache
        found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
        for _ in range(ROUNDS):
            for name, results in found.items():
                results.append(in_its_process(name, folder, FILES))
            print("  one round:", *(f"{results[-1]['seconds']:.2f} s" for results in found.values()), flush=True)
        longer = in_its_process(GRADVIS, folder, 2 * FILES)
    medians = {name: statistics.median(each["seconds"] for each in results) for name, results in found.items()}
    for name, seconds in medians.items():
        cpu = statistics.median(each["cpu"] for each in found[name])
        peak = max(each["peak"] for each in found[name])
        ratio = seconds / medians[LIMIT]
        print(f"  {name:50s} {seconds:6.2f} s ({cpu:5.2f} s of CPU) {ratio:6.2f} of the limit {peak:6.0f} MB")
    print(f"  PCA over time took {medians[PCA_OVER_TIME] / medians[GRADVIS]:.1f} times as long as gradvis")
    print(f"  gradvis with {2 * FILES} checkpoints: {longer['seconds']:.2f} s, {longer['peak']:.0f} MB")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        name, folder, count = sys.argv[1:]
        print(json.dumps(one_way(name, sorted(Path(folder).iterdir())[: int(count)])))
