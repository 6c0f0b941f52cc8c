"""Marks and legends of matplotlib axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib import rcParams
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from gradvis.plots.palette import MARKS
from gradvis.plots.paths import color, drops_told
from gradvis.plots.places import Mark
from gradvis.plots.view import View
from gradvis.plots.words import shortened
from gradvis.tracks import Track

HATCH: dict[str, Any] = {"facecolor": "0.93", "edgecolor": "0.6", "hatch": "////", "linewidth": 0.0}
_SHAPES = {  # shape, size in font sizes
    "centre": ("P", 1.0), "minimum": ("*", 1.05), "checkpoint": ("o", 0.75),
    "start": ("o", 0.7), "end": ("s", 0.65), "drop": ("d", 0.8),
}  # fmt: skip
_RUN, _COLUMNS = "run", 6
_LETTERS = 66  # above a panel that has half a page
_LETTERS_PAGE = 80  # over all panels beside each other


def draw(ax: Any, mark: Mark, place: tuple[float, ...]) -> None:
    """Draw a mark, and its name beside it."""
    ax.plot(*([each] for each in place), **style(mark.kind, mark.run), zorder=10, clip_on=False)
    if mark.name:
        look = _lettering() | ({} if mark.run is None else {"color": color(mark.run)})
        (_name_solid if len(place) == 3 else _name)(ax, mark.name, place, look)


def _name(ax: Any, name: str, place: tuple[float, ...], look: dict[str, Any]) -> None:
    """Towards the middle of the axes, so that nothing is cut off."""
    across, up = ax.transAxes.inverted().transform(ax.transData.transform(place))
    right, top = across > 0.6, up > 0.85
    room = 0.6 * rcParams["font.size"]
    ax.annotate(
        name, place, (-room if right else room, -room if top else room), textcoords="offset points",
        ha="right" if right else "left", va="top" if top else "bottom", zorder=11, **look,
    )  # fmt: skip


def _name_solid(ax: Any, name: str, place: tuple[float, ...], look: dict[str, Any]) -> None:
    ax.text(*place, f"  {name}", zorder=11, **look)


def _lettering() -> dict[str, Any]:
    points = rcParams["font.size"]
    return {"fontsize": 0.9 * points, "path_effects": [withStroke(linewidth=0.25 * points, foreground="white")]}


def style(kind: str, run: int | None = None) -> dict[str, Any]:
    """How a mark of a kind looks; one of several runs has the colour of its run."""
    shape, size = _SHAPES[kind]
    points = rcParams["font.size"]
    edge = {"markeredgecolor": "white" if MARKS[kind] == "black" else "black", "markeredgewidth": points / 12}
    look = {"marker": shape, "markerfacecolor": MARKS[kind], "markersize": size * points, "linestyle": "none", **edge}
    if run is None:
        return look
    own = {"markerfacecolor": color(run)} if MARKS[kind] == "black" else {"markeredgecolor": color(run)}
    return look | own | {"markeredgewidth": points / 8}


def handles(seen: View, short: bool = False) -> list[Any]:
    """What a legend says of the marks, of runs, and of points that diverged; in short for one of several panels."""
    found: list[Any] = [
        Line2D([], [], label=_told(mark, short), **style(mark.kind)) for mark in seen.marks if mark.run is None
    ]
    found += of_runs(seen.tracks)
    return found + ([Patch(label="diverged", **HATCH)] if seen.diverged.any() else [])


def _told(mark: Mark, short: bool) -> str:
    return mark.text.partition(",")[0] if short and mark.kind in ("start", "end") else mark.text


def of_runs(tracks: Sequence[Track]) -> list[Line2D]:
    """What a legend says of paths: who they are, where each starts and ends, where the learning rate falls."""
    found = []
    if len(tracks) > 1:
        names = [shortened(track.name, 28) for track in tracks]
        found += [Line2D([], [], color=color(run), label=name, gid=_RUN) for run, name in enumerate(names)]
        found += [Line2D([], [], label=kind, **style(kind)) for kind in ("start", "end")]
    told = drops_told(tracks)
    return found + ([Line2D([], [], label=told, **style("drop"))] if told else [])


def legend(ax: Any, entries: list[Any], title: str = "", inside: bool = False, letters: int = _LETTERS) -> None:
    """Rows above the axes, where they hide nothing, of so many letters; a title means a panel among others."""
    if not entries and not title:
        return
    box = {"frameon": False, "borderaxespad": 0.3, "borderpad": 0, "handletextpad": 0.3, "handlelength": 1.4}
    place = {"loc": "upper left"} if inside else {"loc": "lower left", "bbox_to_anchor": (0, 1)}
    letters = _beside(ax) if title else letters
    rows = rows_of(entries, letters)
    if rows:
        columns = len(rows[0])
        entries = [entry for column in zip(*rows, strict=True) for entry in column]  # matplotlib fills columns
    else:
        widest = max((len(entry.get_label()) for entry in entries), default=0) + 4
        columns = min(max(letters // widest, 1), 4)
    ax.legend(handles=entries, title=title, alignment="left", ncols=columns, columnspacing=1, **place, **box)


def rows_of(entries: Sequence[Any], letters: int = _LETTERS) -> list[list[Any]]:
    """What a legend of so many letters says in its rows: the runs, then the rest; nothing if there are no runs."""
    parts = [[entry for entry in entries if (entry.get_gid() == _RUN) == runs] for runs in (True, False)]
    rows: list[list[Any]] = []
    for columns in range(min(_COLUMNS, max(map(len, parts))) if parts[0] else 0, 0, -1):
        rows = [_filled(part[i : i + columns], columns) for part in parts for i in range(0, len(part), columns)]
        widths = [max(len(entry.get_label()) + 4 for entry in each) for each in zip(*rows, strict=True)]
        if sum(widths) <= letters:
            break
    return rows


def _filled(row: list[Any], columns: int) -> list[Any]:
    return [*row, *(Line2D([], [], label=" ", linestyle="none") for _ in range(columns - len(row)))]


def _beside(ax: Any) -> int:
    """How many letters there is room for above one of several panels."""
    spec = ax.get_subplotspec()
    return _LETTERS_PAGE // spec.get_gridspec().ncols if spec is not None else 0
