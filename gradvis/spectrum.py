"""How curved the loss is where a model stands: trace, density and extreme eigenpairs from the same Krylov runs.

Stochastic Lanczos quadrature: Golub and Meurant, Matrices, Moments and Quadrature, 2010; for networks, Ghorbani,
Krishnan and Xiao, An Investigation into Neural Net Optimization via Hessian Eigenvalue Density, 2019.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from os import PathLike
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from gradvis import machine, quadrature
from gradvis.arrays import Values, Vector
from gradvis.claim import prepare
from gradvis.folder import ANEW, StoreError
from gradvis.layout import as_dataset
from gradvis.notes import note
from gradvis.objective import Objective
from gradvis.plane import Plane
from gradvis.probe_runs import CENTER, ProbeRuns, Tell, pairs_of
from gradvis.probing import METRICS, WHICH, Probes, product_of
from gradvis.restart import Pairs, Which
from gradvis.schedule import Cost, Scheduler, default_scheduler
from gradvis.store import Store

_SHARE = 4  # a quarter of the memory may hold a basis


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The spectrum of a curvature matrix at one point, as Gaussian quadrature of each probe.

    Attributes:
        dataset: `node`, `weight` and `residual` over the dims probe and step, float64; `center` has the loss, the norm
            of the gradient, and how many parameters have no curvature in any direction.
        about: How it was made: objective, operator, probes, steps, seed, versions, fingerprints.
        load: Gives the extreme eigenpairs.
    """

    dataset: xarray.Dataset
    about: Mapping[str, Any]
    load: Callable[[], Pairs]

    @property
    def nodes(self) -> Values:
        """Ritz values of each probe, (r, m), ascending; NaN behind the end of a run."""
        return np.asarray(self.dataset["node"].values)

    @property
    def weights(self) -> Values:
        """How much of each probe lies there, (r, m); each row sums to 1."""
        return np.asarray(self.dataset["weight"].values)

    @cached_property
    def pairs(self) -> Pairs:
        """The extreme eigenpairs, values descending, each with its residual.

        Raises:
            ValueError: If none were computed.
        """
        return self.load()

    @property
    def d(self) -> int:
        """How many parameters there are, and eigenvalues."""
        return int(self.about["parameters"])

    @property
    def center(self) -> dict[str, float]:
        """The loss, the norm of its gradient, and how many parameters have no curvature in any direction."""
        return dict(zip(CENTER, self.dataset["center"].values.tolist(), strict=True))

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which probes are there, (r,) truths."""
        return np.asarray(np.isfinite(self.nodes[:, 0]))

    @property
    def estimates(self) -> quadrature.Estimates:
        """Trace and Frobenius norm, each with its standard error over the probes."""
        return quadrature.estimates(*self._finished, self.d, exact=self.about["exact"] and bool(self.done.all()))

    @property
    def trace(self) -> float:
        """The sum of all eigenvalues, estimated (Hutchinson 1990)."""
        return self.estimates.trace

    @property
    def trace_stderr(self) -> float:
        """Its standard error over the probes; NaN for one probe."""
        return self.estimates.trace_stderr

    @property
    def frobenius(self) -> float:
        """The root of the sum of all squared eigenvalues, estimated."""
        return self.estimates.frobenius

    @property
    def frobenius_stderr(self) -> float:
        """Its standard error over the probes; NaN for one probe."""
        return self.estimates.frobenius_stderr

    @property
    def _finished(self) -> tuple[Values, Values]:
        return self.nodes[self.done], self.weights[self.done]

    def density(self, x: Values) -> Values:
        """The smoothed density of eigenvalues at x, (n,); it integrates to 1. See `gradvis.quadrature.density`."""
        return quadrature.density(*self._finished, np.asarray(x, np.float64))[0]

    def density_stderr(self, x: Values) -> Values:
        """The standard error of `density` over the probes, (n,)."""
        return quadrature.density(*self._finished, np.asarray(x, np.float64))[1]

    def cumulative(self, x: Values) -> Values:
        """Which share of the eigenvalues is at most x, (n,): that of the quadrature, not smoothed."""
        return quadrature.cumulative(*self._finished, np.asarray(x, np.float64))

    def plot(self, path: str | PathLike[str] | None = None, **options: Any) -> Any:
        """Draw it, and write it if a path is given; see `gradvis.plots.plot` for the options.

        Returns:
            The matplotlib figure, or the plotly figure of an `.html`.
        """
        return import_module("gradvis.plots").plot(self, path, **options)

    def methods(self) -> str:
        """The paragraph for a paper."""
        return import_module("gradvis.methods").spectrum(self)


def hessian_spectrum(
    objective: Objective,
    probes: int = 10,
    steps: int = 80,
    seed: int = 0,
    *,
    operator: str = "hessian",
    top: int = 10,
    which: Which = "largest",
    tol: float | None = None,
    reorthogonalise: str | None = None,
    storage: str | None = None,
    memory: int | None = None,
    out: str | PathLike[str] | None = None,
    fresh: bool = False,
    scheduler: Scheduler | None = None,
    progress: Tell | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Spectrum:
    """Trace, Frobenius norm, spectral density and extreme eigenpairs of the curvature where the model stands.

    Args:
        objective: Whose; `objective.restrict("layer3.*")` for a block, `objective.at(checkpoint)` for another state.
        probes: Random start vectors, r; as many as there are parameters make trace and density exact.
        steps: Of each Krylov run, m: the quadrature is exact for polynomials of degree 2 m - 1.
        seed: Of the probes, each of which has a child of it.
        operator: `hessian`, `ggn` (generalised Gauss-Newton) or `fisher` (empirical: the mean of g g').
        top: How many extreme eigenpairs are kept; 0 for none.
        which: `largest`, `smallest` or `both` (so many of each end), algebraic.
        tol: Go on with the eigenpairs until their residuals are so small, see `hessian_eigenpairs`; where not given
            they are those of the first probe, as they came.
        reorthogonalise: `full`, or `none`, which keeps three vectors of a basis and has no eigenpairs; by what memory
            has room for where not given.
        storage: `float32` or `float64`, of the basis; that of the parameters where not given.
        memory: Bytes that the basis may take on this rank; its share of a quarter of the machine where not given.
        out: See `gradvis.loss_surface`; finished probes are kept there.
        fresh: See `gradvis.loss_surface`.
        scheduler: Who computes: MPI if launched with several ranks, else this process. With more ranks than probes,
            several share the data of one.
        progress: Called on the root with the products done and their number, at the most.
        provenance: More to record with the result.

    Raises:
        ValueError: If an argument does not fit, or the result at `out` is another one.
        TaskError: If a product raises; on every rank.
    """
    scheduler = scheduler or default_scheduler()
    theta = objective.parameters()
    budget = memory or machine.memory() // (_SHARE * scheduler.local_size)
    asked = _asked(theta, probes, steps, seed, reorthogonalise, storage, top, which, budget)
    job = ProbeRuns(objective, theta, operator, asked, tol, budget, scheduler, progress if scheduler.is_root else None)
    about = {**(provenance or {}), **job.about()}
    if out is None:
        center, values, pairs = job.in_memory()
        about |= {"kind": "spectrum", "complete": True, "metrics": list(METRICS), "how": objective.how}
        dataset = as_dataset(about, job.axes(), values, center)
        return Spectrum(dataset, about, (lambda: pairs) if pairs else _no_pairs)
    identity = job.identity()
    scheduler.share(
        lambda: prepare(
            out, kind="spectrum", axes=job.axes(), metrics=METRICS, tile=(1, asked.steps), identity=identity,
            provenance=about, plane=Plane(theta, np.zeros((0, theta.size), theta.dtype)), late=job.late(), fresh=fresh,
        )
    )  # fmt: skip
    job.kept(Store(out))
    return open_spectrum(out)


def open_spectrum(path: str | PathLike[str]) -> Spectrum:
    """A spectrum from its folder, finished or not.

    Raises:
        StoreError: If something else is there under this name.
    """
    store = Store(path)
    if store.metrics != METRICS:
        raise StoreError(f"{store.path.name} is damaged (a spectrum has {', '.join(METRICS)}); {ANEW}")
    dataset, _, _ = store.snapshot()
    about = dataset.attrs["gradvis"]

    return Spectrum(dataset, about, (lambda: pairs_of(store)) if about.get("late") else _no_pairs)


def _no_pairs() -> Pairs:
    """For a spectrum without.

    Raises:
        ValueError: Always.
    """
    raise ValueError("this spectrum was computed without eigenpairs; use top= and reorthogonalise='full'")


def _asked(
    theta: Vector, probes: int, steps: int, seed: int, reorthogonalise: str | None, storage: str | None, top: int,
    which: Which, budget: int,
) -> Probes:  # fmt: skip
    """The probes, and how their bases are kept.

    Raises:
        ValueError: If an argument does not fit.
    """
    for name, value, least in (("probes", probes, 1), ("steps", steps, 1), ("top", top, 0)):
        if value < least:
            raise ValueError(f"{name} must be a whole number, {least} or more, but {value} came")
    if which not in WHICH:
        raise ValueError(f"which must be one of {', '.join(WHICH)}, but {which!r} came")
    if reorthogonalise not in {None, "full", "none"}:
        raise ValueError(f"reorthogonalise must be full or none, but {reorthogonalise!r} came")
    kind = np.dtype(storage or theta.dtype).name
    if kind not in {"float32", "float64"}:
        raise ValueError(f"storage must be float32 or float64, but {kind} came")
    d = theta.size
    asked = Probes(d, min(probes, d), min(steps, d), seed, reorthogonalise != "none", kind, top, which)
    if reorthogonalise is None and asked.bytes(1) > budget:
        note(
            f"a basis of {asked.steps} x {d} numbers would take {asked.bytes(1) >> 20} MB, and there is room for "
            f"{budget >> 20}: three vectors are kept, the density has no eigenpairs; fewer steps or --parameters help"
        )
        return Probes(d, asked.count, asked.steps, seed, False, kind, 0, which)
    return asked


def spectrum_cost(
    objective: Objective,
    probes: int = 10,
    steps: int = 80,
    *,
    operator: str = "hessian",
    reorthogonalise: str | None = None,
    storage: str | None = None,
    memory: int | None = None,
    scheduler: Scheduler | None = None,
) -> Cost:
    """What `hessian_spectrum` with the same arguments will take; two products are made for it, on every rank."""
    scheduler = scheduler or default_scheduler()
    theta = objective.parameters()
    budget = memory or machine.memory() // (_SHARE * scheduler.local_size)
    asked = _asked(theta, probes, steps, 0, reorthogonalise, storage, 0, "largest", budget)
    blocks = asked.blocks(range(asked.count), scheduler.size, budget)
    product, starts, seconds = product_of(objective, theta, operator), asked.starts(blocks[0]), 0.0
    for _ in range(2):  # the first one pays for starting up
        began = time.perf_counter()
        product(starts)
        seconds = time.perf_counter() - began
    count = asked.count * asked.steps
    wall = seconds * asked.steps * len(blocks) / scheduler.size
    return Cost(count, wall, objective.memory(2 * len(blocks[0])) + asked.bytes(len(blocks[0])), 4 * asked.count + 40)
