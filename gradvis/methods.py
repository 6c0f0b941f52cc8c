"""The paragraph for a paper: what was computed, how, on what, with which seeds and policies, and after whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, isfinite, log10
from typing import Any

_LI = "Li et al., Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018"
_GRADVIS = "Chatzimichailidis et al., GradVis, arXiv:1909.12108, 2019"
_IZMAILOV = "Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018"
_GOLUB = "Golub and Meurant, Matrices, Moments and Quadrature with Applications, 2010"
_GHORBANI = "Ghorbani et al., An Investigation into Neural Net Optimization via Hessian Eigenvalue Density, ICML 2019"
_HUTCHINSON = (
    "Hutchinson, A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing Splines, 1990"
)
_WU = "Wu and Simon, Thick-Restart Lanczos Method for Large Symmetric Eigenvalue Problems, 2000"
_OPERATORS = {
    "hessian": "Hessian",
    "ggn": "generalised Gauss-Newton matrix",
    "fisher": "empirical Fisher matrix (the mean of the outer products of the gradients)",
}
_LANCZOS = {
    "full": "Every Krylov basis was kept in {storage} and reorthogonalised in full, twice a step.",
    "none": "Three Lanczos vectors were kept in {storage}, without reorthogonalisation.",
}
_DRAWN = {
    "filter": f"each filter rescaled to the norm of the matching filter of the weights ({_LI})",
    "layer": "each array rescaled to the norm of the matching array of the weights",
    "none": "not rescaled",
}
_BATCH_NORM = {
    "eval": "Batch normalisation used its stored statistics.",
    "batch": "Batch normalisation used the statistics of each batch.",
    "recalibrate": "The statistics of batch normalisation were computed anew at every point, in one pass over the data "
    f"with these layers in training mode, averaged over its batches by their samples (after {_IZMAILOV}).",
}


def surface(result: Any) -> str:
    """Of a Surface."""
    about = result.about
    objective, loss = about["objective"], result.dataset["loss"]
    axes = [loss[name].values for name in loss.dims]
    size = " x ".join(str(len(points)) for points in axes)
    spans = " x ".join(f"[{points[0]:g}, {points[-1]:g}]" for points in axes)
    name = str(objective.get("loss", "loss")).replace("_", " ")
    sentences = [
        f"The {name} of {objective.get('model', 'the model')}, {_mean(objective)} of the data, was "
        f"evaluated in {objective.get('dtype', 'float64')} on a grid of {size} points over {spans} "
        f"{_plane(about['plane'])}.",
        _BATCH_NORM.get(str(objective.get("batch_norm")), ""),
        *map(_checkpoint, result.checkpoints),
        f"At the centre the loss is {result.center['loss']:.6g}.",
        f"Computed with gradvis {about['versions']['gradvis']} (after {_GRADVIS}).",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def trajectory(result: Any) -> str:
    """Of a Trajectory."""
    about, tracks = result.about, result.tracks
    objective = about["objective"]
    name = str(objective.get("loss", "loss")).replace("_", " ")
    runs = ", ".join(f"{len(track.steps)} of {track.name}" for track in tracks)
    off = max(float(track.off_plane.max()) for track in tracks)
    sentences = [
        f"The checkpoints of {objective.get('model', 'the model')} ({runs}) were projected "
        f"{_onto(about['plane'], tracks)} by least squares; the largest distance from the plane is {off:.4g}.",
        f"The {name}, {_mean(objective)} of the data, was evaluated in {objective.get('dtype', 'float64')} for each "
        "checkpoint with its own parameters and buffers, and for its place on the plane.",
        _BATCH_NORM.get(str(objective.get("batch_norm")), "").replace("at every point", "at every point of the plane"),
        f"Computed with gradvis {about['versions']['gradvis']} (after {_GRADVIS}).",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def spectrum(result: Any) -> str:
    """Of a Spectrum."""
    about = result.about
    objective = about["objective"]
    name = str(objective.get("loss", "loss")).replace("_", " ")
    block = f" with respect to the parameters {objective['parameters']}" if objective.get("parameters") else ""
    sentences = [
        f"The spectrum of the {_OPERATORS[about['operator']]} of the {name} of {objective.get('model', 'the model')}, "
        f"{_mean(objective)} of the data{block} ({result.d} eigenvalues), was estimated by stochastic Lanczos "
        f"quadrature ({_GOLUB}; {_GHORBANI}) from {_vectors(result)}.",
        _LANCZOS[about["reorthogonalise"]].format(storage=about["storage"])
        + f" The products were computed in {objective.get('dtype', 'float64')}.",
        _BATCH_NORM.get(str(objective.get("batch_norm")), ""),
        _estimates(result),
        _eigenpairs(about, result),
        f"Computed with gradvis {about['versions']['gradvis']} (after {_GRADVIS}).",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _vectors(result: Any) -> str:
    """The probes, as many as are there."""
    about, there = result.about, int(result.done.sum())
    if about["exact"] and result.done.all():
        return f"a random orthonormal basis of the whole space (seed {about['seed']}), {about['steps']} steps each"
    return (
        f"{there} random sign vector{'s' * (there != 1)} (seed {about['seed']}), {result.nodes.shape[1]} steps "
        f"{'each' if there != 1 else 'long'}"
    )


def _estimates(result: Any) -> str:
    """Trace and Frobenius norm, with their standard errors where there is chance in them."""
    trace, norm = (with_error(getattr(result, of), getattr(result, f"{of}_stderr")) for of in ("trace", "frobenius"))
    error = "" if not result.trace_stderr > 0 else ", each with its standard error over the vectors"
    return f"The trace is {trace} (after {_HUTCHINSON}) and the Frobenius norm {norm}{error}."


def with_error(value: float, error: float) -> str:
    """An estimate to the digits that its standard error leaves; six where there is no error.

    >>> with_error(123.149, 37.2), with_error(7.04, 2.2), with_error(0.0123456, 0.00052), with_error(2.0, 0.0)
    ('123 ± 37', '7.0 ± 2.2', '0.01235 ± 0.00052', '2')
    """
    if not (isfinite(error) and error > 0):
        return f"{value:.6g}"
    if not 1e-4 <= error < 1e6:
        return f"{value:.4g} ± {error:.2g}"
    places = max(1 - floor(log10(error)), 0)
    return f"{value:.{places}f} ± {error:.{places}f}"


def _eigenpairs(about: Mapping[str, Any], result: Any) -> str:
    """The extreme eigenpairs, how they were found and how good they are."""
    if not about["top"] or about["reorthogonalise"] == "none" or not len(result.pairs.values):
        return ""
    pairs, ends = result.pairs, {"both": "largest and smallest"}.get(about["which"], about["which"])
    way = f"refined by thick-restart Lanczos ({_WU})" if about["tol"] is not None else "those of the first vector"
    return (
        f"The {len(pairs.values)} {ends} eigenvalues, from {pairs.values.max():.6g} to {pairs.values.min():.6g}, were "
        f"{way}; {int(pairs.converged.sum())} of them have converged, and the residuals are at most "
        f"{pairs.residuals.max():.2g}."
    )


def _onto(plane: Mapping[str, Any], tracks: Sequence[Any]) -> str:
    """What a trajectory was dropped on, with how much of it the plane holds."""
    if plane.get("kind") != "pca":
        return f"onto a plane {_plane(plane)}"
    numbers = " and ".join(map(str, plane["components"]))
    if plane.get("reused"):
        return f"onto principal components {numbers} of {plane['checkpoints']} other checkpoints"
    shares = " and ".join(f"{100 * share:.1f} %" for share in plane["explained_variance"])
    walk = plane.get("random_walk")
    null = (
        f"; a random walk of as many steps would have {' and '.join(f'{100 * each:.1f} %' for each in walk)}"
        if walk
        else ""
    )
    about = "about the last checkpoint" if plane.get("anchored") else f"about the mean over time ({_LI})"
    last = f"the last checkpoint of {tracks[-1].name}" if len(tracks) > 1 else "the last checkpoint"
    return f"onto principal components {numbers}, pinned at {last} ({shares} of the variance {about}{null})"


def _mean(objective: Mapping[str, Any]) -> str:
    """Over what it was taken; a subset says of how many, and with which seed it was drawn."""
    count, unit, subset = objective.get("samples"), objective.get("unit", "sample"), objective.get("subset")
    per = "the mean" if unit == "sample" else f"the mean per {unit},"
    if subset:
        return f"{per} over {count} of {subset['of']} samples (drawn once, seed {subset['seed']})"
    return f"{per} over all {count} samples" if count else f"{per} over all samples"


def _checkpoint(mark: Any) -> str:
    """A checkpoint's own loss, and that of its place on the plane."""
    return (
        f"{mark.name} has the loss {mark.own['loss']:.6g} with its own buffers and {mark.plane['loss']:.6g} on the "
        "plane."
    )


def _plane(plane: Mapping[str, Any]) -> str:
    """Where the grid lies, with the source of its normalisation."""
    if plane.get("kind") == "between":
        names = [str(name) for name in plane["checkpoints"]]
        return f"through {', '.join(names[:-1])} and {names[-1]}, at 0 and at 1 of each axis, along their differences"
    if plane.get("kind") == "pca":
        numbers = " and ".join(map(str, plane["components"]))
        return f"along principal components {numbers} of {plane['checkpoints']} checkpoints ({_LI})"
    if plane.get("kind") == "hessian":
        values = " and ".join(f"{value:.4g}" for value in plane["eigenvalues"])
        slope = "the gradient and " if plane["directions"] == "gradient" else ""
        return (
            f"along {slope}eigenvectors of the {_OPERATORS[plane['operator']]} (eigenvalues {values}), of unit length"
        )
    if plane.get("kind") != "random":
        return "along given directions"
    still = "" if plane.get("include_bias") else "; biases and normalisation parameters were held still"
    return f"along Gaussian directions (seed {plane['seed']}), {_DRAWN[plane['normalize']]}{still}"
