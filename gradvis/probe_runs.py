"""What random probes tell of a curvature matrix: whoever is free runs some, and what is finished is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradvis.arrays import Values, Vector
from gradvis.eigenpairs import hessian_eigenpairs
from gradvis.filling import keep_center
from gradvis.layout import Late
from gradvis.notes import note
from gradvis.objective import Objective
from gradvis.probing import Probes, extreme, product_of
from gradvis.provenance import digest, versions
from gradvis.restart import Pairs
from gradvis.schedule import Scheduler, together
from gradvis.store import Store

CENTER = ("loss", "gradient_norm", "unused")
_TOL = 1e-4  # of pairs as they came
_PAIRS = ("value", "error", "converged", "vector")

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class ProbeRuns:
    """A spectrum in the making.

    Attributes:
        objective: Whose curvature.
        theta: Where, (d,).
        operator: `hessian`, `ggn` or `fisher`.
        probes: What is asked.
        tol: To which residual the pairs are gone on with, if at all.
        budget: Bytes for the bases of probes that run together.
        scheduler: Who computes.
        progress: Gets the products done and their number.
    """

    objective: Objective
    theta: Vector
    operator: str
    probes: Probes
    tol: float | None
    budget: int
    scheduler: Scheduler
    progress: Tell | None

    def axes(self) -> dict[str, Values]:
        return {"probe": np.arange(1.0, self.probes.count + 1), "step": np.arange(1.0, self.probes.steps + 1)}

    def late(self) -> Late:
        pairs, theta = self.probes.pairs, self.theta
        if not pairs:
            return {}
        numbers = dict.fromkeys(_PAIRS[:3], (("pair",), (pairs,), "float64"))
        return {**numbers, "vector": (("pair", "parameter"), (pairs, theta.size), self.probes.storage)}

    def identity(self) -> dict[str, Any]:
        fingerprint = self.objective.fingerprint()
        return {"objective": self.objective.about, "fingerprint": fingerprint, **self._asked()}

    def _asked(self) -> dict[str, Any]:
        probes = self.probes
        return {
            "operator": self.operator,
            "probes": probes.count,
            "steps": probes.steps,
            "seed": probes.seed,
            "reorthogonalise": "full" if probes.full else "none",
            "storage": probes.storage,
            "top": probes.top,
            "which": probes.which,
            "tol": self.tol,
        }

    def about(self) -> dict[str, Any]:
        fingerprint = self.objective.fingerprint()
        self.scheduler.agree(fingerprint)
        return {
            **self._asked(),
            "exact": self.probes.exact,
            "parameters": self.probes.d,
            "center": list(CENTER),
            "objective": self.objective.about,
            "how": self.objective.how,
            "versions": versions(),
            "fingerprint": fingerprint,
            "ranks": self.scheduler.size,
            "space": digest("; ".join(self.objective.space.names).encode()),
        }

    def centre(self) -> Values:
        """What is known of the point itself.

        Raises:
            ValueError: If the loss is no number there.
        """
        loss = self.objective.measure(self.theta)["loss"]
        if not np.isfinite(loss):
            raise ValueError(
                f"a finite loss was wanted, but it is {loss} where the model stands; look for NaN in the data"
            )
        first = product_of(self.objective, self.theta, self.operator)(self.probes.starts([0]))
        slope = float(np.linalg.norm(self.objective.gradient(self.theta).astype(np.float64)))
        unused = int(np.sum(first == 0))
        if unused:
            note(
                f"{unused} of {self.probes.d} parameters have no curvature in any direction (unused, or behind units "
                "that are never active): at least so many eigenvalues are zero"
            )
        return np.array([loss, slope, unused])

    def in_memory(self) -> tuple[Values, Values, Pairs | None]:
        """The centre, the quadratures, (r, m, 3), and the pairs if there are any."""
        center = self.centre()
        parts = self._run([*range(self.probes.count)], lambda indices, rows, vectors: (indices, rows, vectors))
        values = np.stack([row for _, rows, _ in sorted(parts, key=lambda part: part[0][0]) for row in rows])
        vectors = next((found for *_, found in parts if found is not None), None)
        return center, values, None if vectors is None else self._refined(self._pairs(values[0], vectors))

    def kept(self, store: Store) -> None:
        """Compute what is not in the store, and finish it."""
        again = replace(self, objective=self.objective.again(store.about["how"]))
        keep_center(store, again.centre(), again.objective, self.scheduler)
        if store.complete:
            return

        def keep(indices: list[int], rows: Values, vectors: Any) -> None:
            if vectors is not None:
                _keep(store, again._pairs(rows[indices.index(0)], vectors))
            for index, row in zip(indices, rows, strict=True):
                store.write(index, row)

        done = self.scheduler.share(store.done)
        try:
            again._run([index for index in range(self.probes.count) if not done[index]], keep)
            if self.tol is not None and self.probes.pairs:
                found = again._refined(self.scheduler.share(lambda: pairs_of(store)))
                self.scheduler.share(lambda: _keep(store, found))
        except BaseException as error:
            error.add_note(f"finished probes are kept in {store.path.name}: the same command goes on with them")
            raise
        self.scheduler.share(lambda: store.finish({"how": again.objective.how}))

    def _run(self, todo: list[int], keep: Callable[..., Any]) -> list[Any]:
        """What `keep` makes of each block of probes: indices, quadrature and perhaps vectors.

        A free rank takes the next block; where there are more ranks than blocks, several share the data of one.
        """
        blocks, scheduler = self.probes.blocks(todo, self.scheduler.size, self.budget), self.scheduler
        if scheduler.size <= len(blocks):
            tell = self._told(len(todo), 1) if scheduler.size == 1 else None
            product = product_of(self.objective, self.theta, self.operator, tell)
            return scheduler.map(
                lambda index: keep(list(blocks[index]), *self.probes.run(blocks[index], product)),
                len(blocks),
                None if scheduler.size == 1 else self._counted(blocks),
            )
        if not blocks:
            return []
        mine = list(blocks[scheduler.rank * len(blocks) // scheduler.size])
        with scheduler.split(len(blocks)) as group:
            part = self.objective.shard(group.rank, group.size)
            share = product_of(part, self.theta, self.operator, self._told(len(todo), len(blocks)))
            found = together(share, lambda product: keep(mine, *self.probes.run(mine, product)), group)
            return [made for first, made in scheduler.gather((group.is_root, found)) if first]

    def _told(self, count: int, blocks: int) -> Callable[[int], Any] | None:
        """Counts products, and those of other blocks that run beside this one."""
        if self.progress is None:
            return None
        progress, total, done = self.progress, self.probes.count * self.probes.steps, [0]
        done[0] = total - count * self.probes.steps

        def tell(products: int) -> None:
            done[0] = min(total, done[0] + products * blocks)
            progress(done[0], total)

        return tell

    def _counted(self, blocks: list[Any]) -> Callable[[int], None] | None:
        """Finished blocks to products."""
        if self.progress is None:
            return None
        progress, steps = self.progress, self.probes.steps
        left = [sum(map(len, blocks[number:])) for number in range(len(blocks) + 1)]
        return lambda number: progress((self.probes.count - left[number]) * steps, self.probes.count * steps)

    def _pairs(self, row: Values, vectors: Any) -> Pairs:
        """The pairs of the first probe as they came."""
        row = row[np.isfinite(row[:, 0])]
        places = extreme(row[:, 0], self.probes.top, self.probes.which)
        values, residuals = row[places, 0], row[places, 2]
        return Pairs(values, vectors[: len(places)], residuals, residuals <= _TOL * np.abs(row[:, 0]).max())

    def _refined(self, pairs: Pairs) -> Pairs:
        if self.tol is None or not self.probes.pairs:
            return pairs
        return hessian_eigenpairs(
            self.objective, self.probes.top, self.probes.which, tol=self.tol, operator=self.operator,
            start=pairs.vectors.sum(axis=0), seed=self.probes.seed, scheduler=self.scheduler,
        )  # fmt: skip


def pairs_of(store: Store) -> Pairs:
    """The pairs that are in a store."""
    values, residuals, converged, vectors = (store.kept(name) for name in _PAIRS)
    there = np.isfinite(values)
    return Pairs(values[there], vectors[there], residuals[there], converged[there] == 1)


def _keep(store: Store, pairs: Pairs) -> None:
    """Write pairs where there is room for so many."""
    for name, values in zip(_PAIRS, (pairs.values, pairs.residuals, pairs.converged, pairs.vectors), strict=True):
        whole = np.full_like(store.kept(name), np.nan)
        whole[: len(values)] = values[: len(whole)]
        store.keep(name, whole)
