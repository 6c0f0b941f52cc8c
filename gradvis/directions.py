"""Random directions, normalised as Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets", section 4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from gradvis.arrays import Matrix, Values, Vector
from gradvis.notes import note
from gradvis.objective import Objective
from gradvis.plane import Plane
from gradvis.space import Block, ParameterSpace

Normalize = Literal["filter", "layer", "none"]


def random_plane(
    objective: Objective,
    k: int = 2,
    *,
    normalize: Normalize = "filter",
    seed: int = 0,
    include_bias: bool = False,
    orthogonal: bool = False,
    origin: Vector | None = None,
) -> Plane:
    """A plane through the model along random directions.

    A note tells of arrays that are all zero, which no normalised direction moves, and of arrays whose
    filters had to be guessed.

    Args:
        objective: Gives the blocks, and the origin where none is named.
        k: How many directions: 1, 2 or 3.
        normalize: `filter`: each filter of a direction has the norm of the matching filter of the
            weights. `layer`: the same for whole arrays. `none`: standard normal.
        seed: The directions depend on it and on the shapes alone; the first of three is the first of one.
        include_bias: Whether biases and norm parameters move; each of their numbers is its own filter.
        orthogonal: Whether the directions are made orthogonal, filter by filter, before they are normalised.
        origin: Where the plane is pinned, (d,); where the model stands now if not given.

    Raises:
        ValueError: If an option has no such value.
    """
    if k not in {1, 2, 3}:
        raise ValueError(f"k, the dimensions of the plane, must be 1, 2 or 3, but {k!r} came")
    theta = objective.space.check(objective.parameters() if origin is None else np.asarray(origin))
    made = random_directions(objective.space, theta, k, normalize, seed, include_bias, orthogonal)
    for fact in _facts(objective.space, theta, normalize, include_bias):
        note(fact)
    about = {
        "kind": "random",
        "normalize": normalize,
        "seed": int(seed),
        "include_bias": include_bias,
        "orthogonal": orthogonal,
    }
    return Plane(theta, made, about)


def random_directions(
    space: ParameterSpace,
    theta: Vector,
    k: int,
    normalize: Normalize = "filter",
    seed: int = 0,
    include_bias: bool = False,
    orthogonal: bool = False,
) -> Matrix:
    """Gaussian directions, (k, d), in the dtype of theta; see `random_plane`.

    Li et al. let a bias direction be a copy of the biases where biases are moved at all, which makes
    any two directions correlated. Here each bias is a filter of one number: its random sign is kept.

    Raises:
        ValueError: If `normalize` has no such value.
    """
    if normalize not in get_args(Normalize):
        raise ValueError(f"normalize must be one of {', '.join(get_args(Normalize))}, but {normalize!r} came")
    generators = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(k)]
    directions = np.zeros((k, space.d), np.result_type(theta.dtype, np.float32))
    for block in space:
        draws = np.stack([generator.standard_normal(block.size) for generator in generators])
        if _moves(block, include_bias):
            directions[:, block.slice] = _normalised(block, draws, theta[block.slice], normalize, orthogonal)
    return directions


def _moves(block: Block, include_bias: bool) -> bool:
    return block.kind == "weight" or include_bias


def _facts(space: ParameterSpace, theta: Vector, normalize: Normalize, include_bias: bool) -> Iterator[str]:
    """What a user of these directions should know."""
    moved = [block for block in space if _moves(block, include_bias)]
    if normalize != "none" and (zero := [block for block in moved if not theta[block.slice].any()]):
        yield (
            f"all zero at the origin, so that normalised directions are zero there too: {_names(zero)}; "
            "the surface does not move along them"
        )
    if normalize == "filter" and (guessed := [block for block in moved if block.guessed]):
        yield (
            f"of unknown layout, so that {_axis(guessed)} was taken to count filters: {_names(guessed)}; "
            "to say which axes do, give the objective filters={name: axes}"
        )


def _axis(blocks: list[Block]) -> str:
    """Frameworks differ in where they keep outputs: first, or last."""
    return "axis 0" if all(block.filter_axes == (0,) for block in blocks) else "the last axis"


def _names(blocks: list[Block]) -> str:
    """The first three, and how many more there are."""
    more = f" and {len(blocks) - 3} more" if len(blocks) > 3 else ""
    return ", ".join(block.name for block in blocks[:3]) + more


def _normalised(block: Block, draws: Values, weights: Vector, normalize: Normalize, orthogonal: bool) -> Values:
    """The k draws of one block, (k, size), given the norms of its filters, or of the whole of it."""
    own = replace(block, start=0)
    if normalize != "filter":
        own = replace(own, view=(1, block.size), filter_axes=(0,))
    elif block.kind != "weight":
        own = replace(own, view=(block.size,), filter_axes=(0,))
    rows: list[Values] = [own.filters(draw).astype(np.float64) for draw in draws]
    if orthogonal:
        rows = _orthogonal(rows)
    if normalize != "none":
        wanted: Values = np.linalg.norm(own.filters(weights.astype(np.float64)), axis=1, keepdims=True)
        rows = [_scaled(row, wanted) for row in rows]
    return np.stack([own.flatten(row) for row in rows])


def _scaled(rows: Values, wanted: Values) -> Values:
    """Rows of the norms wanted, (filters, 1); a zero row stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows * np.divide(wanted, lengths, out=np.zeros_like(lengths), where=lengths > 0)


def _orthogonal(draws: list[Values]) -> list[Values]:
    """Each draw's filters orthogonal to the same filters of the draws before it (Gram-Schmidt, twice).

    A filter of fewer numbers than there are draws has no room: it is zero in the draws that are too many.
    """
    made: list[Values] = []
    for draw in draws:
        row = draw if draw.shape[1] > len(made) else np.zeros_like(draw)
        for before in made + made:
            unit = _scaled(before, np.ones((len(before), 1)))
            row = row - np.sum(row * unit, axis=1, keepdims=True) * unit
        made.append(row)
    return made
