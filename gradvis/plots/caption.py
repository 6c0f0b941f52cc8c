"""What a picture says in words: axes, metrics and the sentence under it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradvis.plots.view import GREEK
from gradvis.plots.words import percent, shortened

_DIRECTIONS = {  # what an axis is called, and what all of them are
    "random": ("random direction", "random directions"),
    "pca": ("principal direction", "principal directions"),
    "hessian": ("Hessian direction", "Hessian directions"),
    "between": ("direction", "directions between checkpoints"),
    "custom": ("direction", "given directions"),
}
_NORMALIZED = {"filter": "filter-normalised", "layer": "layer-normalised"}
_SUBJECTS = {1: "Loss curve", 2: "Loss surface", 3: "Loss volume"}
_BATCH_NORM = {
    "eval": "batch norm with its stored statistics",
    "batch": "batch norm with the statistics of each batch",
    "recalibrate": "batch norm recalibrated at every point",
}


def _directions(plane: Mapping[str, Any]) -> tuple[str, str, str]:
    """What an axis is called, what all of them are, and how they were normalised or nothing."""
    one, all_ = _DIRECTIONS.get(str(plane.get("kind")), ("direction", ""))
    return one, all_, _NORMALIZED.get(str(plane.get("normalize")), "")


def directions(plane: Mapping[str, Any]) -> str:
    """What spans a plane, and how it was normalised; nothing if that is not known.

    >>> directions({"kind": "random", "normalize": "filter", "seed": 7})
    'random directions, filter-normalised'
    """
    _, nouns, normalized = _directions(plane)
    return ", ".join(filter(None, [nouns, normalized])) if nouns else ""


def axis_label(about: Mapping[str, Any], dim: str, short: bool = False) -> str:
    """The label of an axis.

    >>> axis_label({"plane": {"kind": "random", "normalize": "filter"}}, "beta")
    'β · random direction 2, filter-normalised'
    """
    plane = about.get("plane") or {}
    noun, _, normalized = _directions(plane)
    number = list(GREEK).index(dim) + 1
    if told := _component(plane, number - 1, short):
        return told
    if told := _eigenvector(plane, dim, short):
        return told
    if names := _ends(plane, 14 if short else 28):
        return f"{GREEK[dim]} · {'' if short else f'from {names[0]} '}to {names[number]}"
    label = f"{GREEK[dim]} · {noun} {number}"
    return f"{label}, {normalized}" if normalized and not short else label


def _eigenvector(plane: Mapping[str, Any], dim: str, short: bool) -> str:
    """A direction of a Hessian plane, with its eigenvalue.

    >>> _eigenvector({"kind": "hessian", "directions": "top", "eigenvalues": [8.5, 2.0]}, "beta", False)
    'β · eigenvector of the Hessian, eigenvalue 2'
    """
    if plane.get("kind") != "hessian" or "eigenvalues" not in plane:
        return ""
    number = list(GREEK).index(dim) - (plane.get("directions") == "gradient")
    if number < 0:
        return f"{GREEK[dim]} · gradient"
    what = {"ggn": "Gauss-Newton matrix", "fisher": "Fisher matrix"}.get(str(plane.get("operator")), "Hessian")
    value = f"{plane['eigenvalues'][number]:.3g}".replace("-", "\N{MINUS SIGN}")
    return (
        f"{GREEK[dim]} · eigenvalue {value}"
        if short
        else f"{GREEK[dim]} · eigenvector of the {what}, eigenvalue {value}"
    )


def _component(plane: Mapping[str, Any], index: int, short: bool) -> str:
    """A principal direction with the variance that it explains, beside that of a random walk."""
    shares, walk = plane.get("explained_variance"), plane.get("random_walk")
    if plane.get("kind") != "pca" or shares is None or index >= len(shares):
        return ""
    number = (plane.get("components") or range(1, index + 2))[index]
    text = f"PC {number}, {percent(shares[index])}"
    if short:
        return text
    about, gap = (" about the last checkpoint", "\n") if plane.get("anchored") else ("", " ")
    null = f"{gap}(random walk: {percent(walk[index])})" if walk is not None and index < len(walk) else ""
    return f"{text} of the variance{about}{null}"


def _ends(plane: Mapping[str, Any], most: int = 28) -> list[str]:
    """The checkpoints that a plane goes through, the origin first; none for other planes."""
    names = plane.get("checkpoints") if plane.get("kind") == "between" else ()
    return [shortened(str(name), most) for name in names or ()]


def metric_label(about: Mapping[str, Any], metric: str) -> str:
    """The name of a metric with its unit.

    >>> metric_label({"objective": {"loss": "cross_entropy", "unit": "sample"}}, "loss")
    'cross entropy (mean per sample)'
    """
    objective = about.get("objective") or {}
    name = str(objective.get("loss") or metric) if metric == "loss" else metric
    unit = objective.get("unit")
    return name.replace("_", " ") + (f" (mean per {unit})" if unit and metric == "loss" else "")


def subject(about: Mapping[str, Any], k: int) -> str:
    """What is drawn, of whom: the title of a page.

    >>> subject({"name": "net.pt"}, 1)
    'Loss curve of net.pt'
    """
    between = _ends(about.get("plane") or {})
    if between:
        return f"{_SUBJECTS[k]} between {', '.join(between[:-1])} and {between[-1]}"
    return f"{_SUBJECTS[k]} of {about['name']}" if about.get("name") else _SUBJECTS[k]


def caption(about: Mapping[str, Any], computed: float = 1.0, k: int = 2) -> str:
    """One sentence that says what a picture shows, with the seed and the policies it hangs on.

    Args:
        about: The provenance of the result; what is missing there is left out here.
        computed: The share of the points that is there, 0 to 1.
        k: Dimensions of the plane.

    >>> caption({"plane": {"kind": "pca"}, "objective": {"loss": "mse", "dtype": "float32"}, "name": "net"})
    'Loss surface of net along principal directions: mse, float32.'
    """
    plane, objective = about.get("plane") or {}, about.get("objective") or {}
    _, nouns, normalized = _directions(plane)
    along = f"a {nouns.removesuffix('s')}" if k == 1 else nouns
    where = [f"along {along}" if nouns and not _ends(plane) else "", normalized]
    if plane.get("orthogonal"):
        where.append("made orthogonal")
    if plane.get("seed") is not None:
        where.append(f"seed {plane['seed']}")
    if plane.get("include_bias") is False:
        where.append("biases and norm parameters fixed")
    text = ", ".join(filter(None, [" ".join(filter(None, [subject(about, k), where[0]])), *where[1:]]))
    facts = "; ".join(filter(None, [measured(objective), *_made(about, computed)]))
    return f"{text}: {facts}." if facts else f"{text}."


def measured(objective: Mapping[str, Any]) -> str:
    """The loss, on what, in which precision, under which batch-norm policy."""
    loss = str(objective.get("loss") or "").replace("_", " ")
    if objective.get("samples") is not None:
        whole = (objective.get("subset") or {}).get("of")
        count = f"{objective['samples']} of {whole} samples" if whole else _samples(objective["samples"])
        loss = f"{loss or 'loss'}, mean over {count}"
    policy = objective.get("batch_norm")
    policy = _BATCH_NORM.get(str(policy), f"batch norm: {policy}") if policy else ""
    return ", ".join(filter(None, [loss, str(objective.get("dtype") or ""), policy]))


def _samples(count: int) -> str:
    return f"{count} sample{'s' * (count != 1)}"


def _made(about: Mapping[str, Any], computed: float) -> list[str]:
    # Rounded down: 100 % is said by saying nothing.
    return [f"{int(100 * computed)} % computed" if computed < 1 else "", *version(about)]


def version(about: Mapping[str, Any]) -> list[str]:
    """Which gradvis made it, if that is known."""
    known = (about.get("versions") or {}).get("gradvis")
    return [f"gradvis {known}"] if known else []
