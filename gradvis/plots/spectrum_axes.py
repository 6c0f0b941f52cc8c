"""Draws spectra into matplotlib axes: a density with its band, a cumulative spectrum, marks of extreme eigenvalues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib import rcParams
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox, ScaledTranslation, TransformedBbox

from gradvis.plots.curves import BAND, letters_above
from gradvis.plots.eigen_axis import Axis
from gradvis.plots.palette import LINES
from gradvis.plots.scale import Scale
from gradvis.plots.spectra import Curve, known
from gradvis.plots.words import number

_LINSCALE = 0.9  # makes the linear part as wide as a decade
MARK = LINES[1]
_LANE = 3.0  # font sizes: for marks and their numbers
_LETTERS, _MOST = 7, 11  # of a number and the room around it; numbers
_FOOT = 0.55  # font sizes above the lower edge: where marks stand


def across_of(ax: Any, across: Axis) -> None:
    """The axis of eigenvalues, with as many numbers as it has room for."""
    if across.log:
        ax.set_xscale("symlog", linthresh=across.threshold, linscale=_LINSCALE)
        levels = across.ticks(min(letters_above(ax) // _LETTERS, _MOST))
        ax.set_xticks(levels, [number(level) for level in levels])
        ax.set_xticks([], minor=True)
    ax.set_xlim(across.limits())
    ax.grid(color="0.9", linewidth=0.6)


def heights_of(ax: Any, low: float, top: float) -> None:
    """The logarithmic axis of densities, with a lane for marks below the lowest."""
    room = Scale(True, low, top)
    levels = room.levels(8)
    above, lane = top * (top / low) ** 0.05, _lane(ax)
    ax.set_yscale("log")
    ax.set_ylim(low * (low / above) ** (lane / (1 - lane)), above)
    ax.set_yticks(levels, room.texts(levels))
    ax.set_yticks([], minor=True)


def shares_of(ax: Any, lane: bool = True) -> None:
    """The axis of shares, perhaps with a lane for marks below zero."""
    room = _lane(ax)
    ax.set_ylim(-room / (1 - room) if lane else -0.03, 1.03)
    ax.set_yticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


def _lane(ax: Any) -> float:
    """How much of the height of axes marks and their numbers need."""
    height = ax.get_position().height * ax.get_figure(root=True).get_figheight() * 72
    return min(_LANE * rcParams["font.size"] / float(height), 0.4)


def density(ax: Any, seen: Curve, low: float, color: str = LINES[0]) -> None:
    """A density with its band, cut where the lane of the marks begins."""
    drawn = ax.plot(seen.x, seen.y.clip(1e-3 * low), color=color, zorder=3, gid="density")
    if known(seen):
        assert seen.stderr is not None
        lower, upper = ((seen.y + sign * seen.stderr).clip(1e-3 * low) for sign in (-1, 1))
        drawn.append(ax.fill_between(seen.x, lower, upper, color=color, alpha=0.22, linewidth=0, gid="band"))
    for each in drawn:
        each.set_clip_box(TransformedBbox(Bbox([[0, low], [1, ax.get_ylim()[1]]]), ax.get_yaxis_transform()))


def steps(ax: Any, seen: Curve, color: str = LINES[0], dashes: str = "-", label: str = "") -> Any:
    """A cumulative spectrum: it jumps at each node; its line comes back."""
    look = {"color": color, "linestyle": dashes, "label": label, "gid": "cumulative"}
    return ax.plot(seen.x, seen.y, drawstyle="steps-post", zorder=3, **look)[0]


def marks(ax: Any, seen: Curve) -> None:
    """The extreme eigenvalues on the lower edge, open ones where they have not converged, and the ends in numbers."""
    inches = ScaledTranslation(0, _FOOT * rcParams["font.size"] / 72, ax.get_figure(root=True).dpi_scale_trans)
    for converged in (True, False):
        values = seen.values[seen.converged == converged]
        ax.plot(values, 0 * values, transform=ax.get_xaxis_transform() + inches, zorder=6, **look(converged))
    for name, value in seen.named.items():
        _name(ax, name, value)


def _name(ax: Any, name: str, value: float) -> None:
    """Write an end of the spectrum above its mark, towards the middle of the axes."""
    (across, _) = ax.transAxes.inverted().transform(ax.transData.transform((value, 1.0)))
    points = rcParams["font.size"]
    side = "right" if across > 0.8 else "left" if across < 0.2 else "center"
    shift = {"right": 0.4, "left": -0.4, "center": 0.0}[side] * points
    ax.annotate(
        f"{name} {number(value)}", (value, 0.0), xycoords=ax.get_xaxis_transform(), xytext=(shift, 1.0 * points),
        textcoords="offset points", ha=side, va="bottom", fontsize=0.9 * points, color=MARK, zorder=7, gid=name,
    )  # fmt: skip


def look(converged: bool) -> dict[str, Any]:
    """How an eigenvalue is marked."""
    points = rcParams["font.size"]
    return {
        "marker": "^", "linestyle": "none", "markersize": 0.6 * points, "markeredgewidth": points / 12,
        "markeredgecolor": MARK, "markerfacecolor": MARK if converged else "white", "gid": told(converged),
    }  # fmt: skip


def told(converged: bool) -> str:
    """What a mark says."""
    return "converged eigenvalue" if converged else "not converged"


def entries(curves: Sequence[Curve], inside: str = "") -> list[Any]:
    """What a legend says of them."""
    found: list[Any] = [Patch(label=BAND, color=LINES[0], alpha=0.22, linewidth=0)] if any(map(known, curves)) else []
    for converged in (True, False):
        if any((each.converged == converged).any() for each in curves):
            found.append(Line2D([], [], label=told(converged), **look(converged)))
    return found + ([Line2D([], [], label=inside, linestyle="none")] if inside else [])


def key(figure: Any, said: Sequence[Any]) -> None:
    """A legend above all panels."""
    box = {"frameon": False, "handletextpad": 0.3, "handlelength": 1.4, "columnspacing": 1.0, "borderpad": 0}
    figure.legend(handles=said, loc="outside upper left", ncols=len(said) or 1, **box)
