"""What the picture of a spectrum says in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradvis.methods import with_error
from gradvis.plots.caption import measured, version
from gradvis.plots.eigen_axis import Axis
from gradvis.plots.spectra import SpectrumLike, within
from gradvis.plots.words import number, percent

OPERATORS = {
    "hessian": "Hessian",
    "ggn": "generalised Gauss-Newton matrix",
    "fisher": "empirical Fisher matrix",
}
_SUBJECTS = {"density": "Spectral density", "cumulative": "Cumulative spectrum", "ridge": "Spectral densities"}
HEIGHTS = {
    "density": "density (share of eigenvalues per unit)",
    "cumulative": "share of eigenvalues at or below",
}


def operator(about: Mapping[str, Any]) -> str:
    """What the eigenvalues are of."""
    return OPERATORS.get(str(about.get("operator")), "curvature")


def subject(about: Mapping[str, Any], kind: str) -> str:
    """What is drawn, of whom: the title of a page.

    >>> subject({"operator": "ggn", "name": "net.pt", "objective": {"parameters": "conv1.*"}}, "density")
    'Spectral density of the generalised Gauss-Newton matrix of net.pt, conv1.*'
    """
    whom = f" of {about['name']}" if about.get("name") else ""
    block = (about.get("objective") or {}).get("parameters")
    return f"{_SUBJECTS[kind]} of the {operator(about)}{whom}{f', {block}' if block else ''}"


def caption(spectrum: SpectrumLike, kind: str, also: str = "") -> str:
    """What the picture of one spectrum shows, with the numbers and policies it hangs on."""
    about = spectrum.about
    said = [estimates(spectrum), also, *probes(spectrum), size(spectrum), measured(about.get("objective") or {})]
    return f"{subject(about, kind)}: {'; '.join(filter(None, [*said, *version(about)]))}."


def estimates(spectrum: SpectrumLike) -> str:
    """Trace and Frobenius norm with their standard errors."""
    trace = with_error(spectrum.trace, spectrum.trace_stderr)
    norm = with_error(spectrum.frobenius, spectrum.frobenius_stderr)
    return f"trace {trace}, Frobenius norm {norm}".replace("-", "−")


def probes(spectrum: SpectrumLike) -> list[str]:
    """How many random vectors of how many steps, and how many of them are there."""
    about, done = spectrum.about, np.asarray(spectrum.done)
    there = int(done.sum())
    counted = f"{there} of {done.size} probes computed" if there < done.size else _many(there, "probe")
    kept = ", no reorthogonalisation" if about.get("reorthogonalise") == "none" else ""
    seed = f", seed {about['seed']}" if about.get("seed") is not None else ""
    return [f"{counted}, {_many(spectrum.nodes.shape[1], 'step')} each{seed}{kept}"]


def size(spectrum: SpectrumLike) -> str:
    """How many eigenvalues there are, and how many of them are zero for want of any curvature."""
    unused = spectrum.center.get("unused") or 0
    return f"{spectrum.d} parameters" + (f", {int(unused)} of them without curvature" if unused > 0 else "")


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)}"


def inside(spectrum: SpectrumLike, across: Axis) -> str:
    """How much lies in the linear part of an axis, which a peak there does not tell."""
    if not across.log:
        return ""
    share = within(spectrum, across.threshold)
    return f"share within ±{number(across.threshold)}: {percent(share)}" if share > 0 else ""


def captions(spectra: Sequence[SpectrumLike], titles: Sequence[str], kind: str) -> str:
    """What is common to several spectra once, then what each one is."""
    about = spectra[0].about
    same: dict[str, list[str]] = {}
    for spectrum, title in zip(spectra, titles, strict=True):
        facts = [*probes(spectrum), measured(spectrum.about.get("objective") or {}), *version(spectrum.about)]
        same.setdefault("; ".join(filter(None, facts)), []).append(title)
    names = {str(each.about.get("name")) for each in spectra if each.about.get("name")}
    kinds = {operator(each.about) for each in spectra}
    what = f"{_SUBJECTS[kind]} of the {operator(about)}" if len(kinds) == 1 else f"{_SUBJECTS[kind]}"
    first = f"{what} of {names.pop()}" if len(names) == 1 else what
    own = "; ".join(f"{title}: {estimates(each)}" for each, title in zip(spectra, titles, strict=True))
    how = [text if len(same) == 1 else f"{', '.join(who)}: {text}" for text, who in same.items()]
    return f"{first}. {own if len(spectra) <= 6 else ''}{'. ' if len(spectra) <= 6 else ''}{'. '.join(how)}."
