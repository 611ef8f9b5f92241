"""The results of a calibration, and how people see them: table, curve, and the lines for a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.report.audit_plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipeline.operators import Operator

Interval = tuple[float, float, float]
"""A value between the ends of its 95 % interval: low, value, high."""


@dataclass(frozen=True, kw_only=True)
class FacesAtLevel:
    """The faces in neighbours of originals with a face, at one level."""

    distance: float | None
    """Mean cosine distance between the largest faces of neighbour and original; None where no neighbour has a face."""
    beyond: float | None
    """The fraction of these faces that are farther than the threshold, and so another person's."""
    lost: float
    """The fraction of the neighbours that have no face, and are in neither figure."""


@dataclass(frozen=True, kw_only=True)
class LevelFound:
    """The figures of one level.

    Distances are between features; 1 is the mean distance of two originals of one class.
    """

    level: float
    """The level as a fraction of T."""
    agreement: Interval
    """The fraction of neighbours in which the judge sees the label, among those of originals in which it does. The
    target concerns this figure."""
    agreement_of_all: float
    """The same fraction among the neighbours of all originals. At level 0 it is the judge's own accuracy."""
    confidence_drop: float
    """How much the probability of the label falls from original to neighbour, on average."""
    distance: float
    """Mean distance from original to neighbour."""
    diversity: float | None
    """Mean distance between two neighbours of one original; None where there are no two."""
    rmse: float
    """Root mean square difference between original and neighbour, in grey levels (0 to 255)."""
    images_per_second: float
    """Images a second that went through the model."""
    unsound: int
    """How many outputs were not finite; they are left out of all figures."""
    rejected: float | None
    """The fraction of the neighbours that the filter takes away; None without a filter."""
    faces: FacesAtLevel | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The results at all levels."""

    images: int
    """How many originals were measured."""
    right: int
    """How many of them the judge sees the label in."""
    target: float
    """The agreement that is asked for, in (0, 1]."""
    levels: tuple[LevelFound, ...]
    pick: float | None
    """The largest level such that the target holds there and at all lower levels; None where it holds at none."""


def recipe_lines(operator: Operator, level: float) -> str:
    """The section `operator:` of a recipe at this level, with everything else that its configuration says."""
    said = operator.model_dump(mode="json", exclude_unset=True) | {"name": operator.name, str(operator.dial): level}
    first = {name: said.pop(name) for name in ("name", str(operator.dial))}
    return yaml.safe_dump({"operator": first | said}, sort_keys=False, allow_unicode=True).rstrip()


def print_table(found: Calibration) -> None:
    """Prints the figures of all levels, with the picked level in bold."""
    accuracy = f"{found.right / found.images:.1%}"
    title = f"{found.images} originals; the judge sees the label in {found.right} ({accuracy})"
    caption = "agreement: of originals with the label seen; distances: 1 is two originals of one class"
    result = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    rows = [_cells(at) for at in found.levels]
    for name in rows[0]:
        result.add_column(name, justify="right", no_wrap=True)
    for at, row in zip(found.levels, rows, strict=True):
        result.add_row(*row.values(), style="bold" if at.level == found.pick else None)
    needed = Console(width=500).measure(result).maximum
    Console(width=max(Console().width, needed)).print(result)  # rather too wide than cut off


def _cells(at: LevelFound) -> dict[str, str]:
    low, value, high = at.agreement
    cells = {
        "level": f"{at.level:g}", "agreement": f"{value:.1%}", "95 %": f"{100 * low:.1f}–{100 * high:.1f}",
        "of all": f"{at.agreement_of_all:.1%}", "drop": f"{at.confidence_drop:.3f}",
        "distance": f"{at.distance:.2f}", "diversity": _or_dash(at.diversity, ".2f"), "RMSE": f"{at.rmse:.1f}",
        "images/s": f"{at.images_per_second:.1f}",
    }  # fmt: skip
    if at.rejected is not None:
        cells["rejected"] = f"{at.rejected:.1%}"
    if at.faces is not None:
        cells |= {"identity": _or_dash(at.faces.distance, ".3f"), "another person": _or_dash(at.faces.beyond, ".1%")}
        cells["no face"] = f"{at.faces.lost:.1%}"
    return cells


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def locality_curve(found: Calibration) -> Figure:
    """Draws agreement with its band and the target, and beside it how far neighbours, copies and faces are apart."""
    from matplotlib.figure import Figure

    at = [one.level for one in found.levels]
    low, value, high = zip(*(one.agreement for one in found.levels), strict=True)
    figure = Figure(figsize=(9.2, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.fill_between(at, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
    left.plot(at, value, "o-", color=COLOURS[0], label="label agreement, 95 % band")
    left.axhline(found.target, color="grey", linestyle=":", label=f"target {found.target:g}")
    left.set(ylabel="share of neighbours", title="Is it still the label?")
    faces = [None if one.faces is None else one.faces.distance for one in found.levels]
    curves: dict[str, Sequence[float | None]] = {
        "original to neighbour": [one.distance for one in found.levels],
        "copy to copy": [one.diversity for one in found.levels],
        "identity (cosine distance)": faces,
    }
    right.axhline(1, color="grey", linestyle=":", label="two originals of one class")
    for colour, (name, values) in zip(COLOURS, curves.items(), strict=False):
        points = [(x, y) for x, y in zip(at, values, strict=True) if y is not None]
        if points:
            right.plot(*zip(*points, strict=True), "o-", color=colour, label=name)
    right.set(ylabel="feature distance", title="Is it something new?", ylim=(0, None))
    for axes in (left, right):
        if found.pick is not None:
            axes.axvline(found.pick, color=COLOURS[1], linestyle="--", linewidth=1, label=f"pick {found.pick:g}")
        axes.set(xlabel="level (fraction of T)", xlim=(0, 1))
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.legend(fontsize=8, loc="lower left" if axes is left else "best")
    return figure
