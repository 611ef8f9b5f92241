"""Pictures of an audit. They show numbers only; whatever belongs to a threat model has a panel of its own."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = NDArray[np.floating]
"""Numbers along an axis, `[n]`."""
Panels = Mapping[str, Mapping[str, Any]]
"""The data of each curve, by the title of its panel and then by its name."""
COLOURS = ("#3b6fb6", "#d1622b", "#3f8f4f", "#8a5fb0", "#b0903a", "#5f6b73", "#c2437f", "#2a9d9d", "#7a4b2a", "#999999")
"""Colours of curves, in order."""
BINS, FIRST_FAR = 60, 1e-4
"""Bins of a histogram, and the smallest false acceptance rate that is drawn."""
WIDTH, HEIGHT = 4.6, 3.4
"""Size of a panel in inches."""


@dataclass(frozen=True, kw_only=True)
class AttackAtLevel:
    """What came of one level of noise: means over images, with their standard errors."""

    level: float
    """The level t_boom, as a fraction of T."""
    distance: float
    """Mean cosine distance from image to source."""
    distance_error: float
    """Standard error of the distance."""
    over: float
    """The fraction of images that are farther from their source than the threshold."""
    over_error: float
    """Standard error of that fraction."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """How often an attack finds the right person first, as fractions of its queries."""

    name: str
    low: float
    """Lower end of the 95 % interval."""
    share: float
    high: float
    """Upper end of the interval."""
    chance: float
    """The fraction that guessing finds."""
    limit: float | None
    """The fraction that is allowed; None where none is."""


def distance_histograms(panels: Panels, thresholds: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draws histograms of distances, as fractions of the pairs, in a panel for each recogniser and threat model.

    `panels` holds distances `[n]` by title and series (`one person`, …); `thresholds` holds distances by title and
    name, which are drawn as dashed lines.
    """
    figure, axes = _panels(list(panels))
    for (title, series), axis in zip(panels.items(), axes, strict=True):
        everything = [values for values in series.values() if len(values)]
        top = float(np.quantile(np.concatenate(everything), 0.999)) if everything else 1.0
        edges = np.linspace(0, max(top, 1e-3), BINS + 1)
        for colour, (name, values) in zip(COLOURS, series.items(), strict=False):
            if len(values):
                share = np.histogram(np.clip(values, 0, edges[-1]), edges)[0] / len(values)
                axis.stairs(share, edges, fill=True, alpha=0.35, color=colour, label=f"{name} ({len(values):,})")
                axis.stairs(share, edges, color=colour, linewidth=0.8)
        for style, (name, at) in zip(("--", ":", "-.", (0, (1, 4))), thresholds.get(title, {}).items(), strict=False):
            axis.axvline(at, ymax=0.66, color="#333333", linestyle=style, linewidth=0.9, label=f"{name}: {at:.3g}")
        axis.set(xlabel="cosine distance", ylabel="share of pairs", ylim=(0, 1.5 * axis.get_ylim()[1]))
        _legend(axis, ncols=2, loc="upper center")  # in the room above the bars
    return figure


def against_level(panels: Mapping[str, Sequence[AttackAtLevel]]) -> Figure:
    """Draws mean distance and fraction over the threshold against t_boom, as figure 5 of Boomerang (2210.12100).

    `panels` holds the levels of each recogniser, ascending; error bars are standard errors.
    """
    figure, (left, right) = _panels(["distance to the source", "share over the threshold"])
    for colour, (name, points) in zip(COLOURS, panels.items(), strict=False):
        at = [point.level for point in points]
        style: dict[str, Any] = {"color": colour, "label": name, "marker": "o", "markersize": 3, "capsize": 2}
        left.errorbar(at, [p.distance for p in points], [p.distance_error for p in points], **style)
        right.errorbar(at, [p.over for p in points], [p.over_error for p in points], **style)
    left.set(xlabel="t_boom / T", ylabel="mean cosine distance", ylim=(0, None))
    right.set(xlabel="t_boom / T", ylabel="share of images", ylim=(-0.02, 1.02))
    _legend(right)
    return figure


def roc_curves(panels: Panels) -> Figure:
    """Draws the receiver operating characteristic of each attack, in a panel for each threat model.

    `panels` holds (FAR `[n]`, TAR `[n]`) by threat model and attack. FAR is logarithmic, and the dotted line is
    guessing.
    """
    figure, axes = _panels(list(panels))
    guess = np.geomspace(FIRST_FAR, 1, 200)
    for curves, axis in zip(panels.values(), axes, strict=True):
        for i, (colour, (name, (far, tar))) in enumerate(zip(COLOURS, curves.items(), strict=False)):
            place = np.searchsorted(far, guess, side="right") - 1  # the best that this FAR allows
            axis.plot(guess, tar[place], color=colour, label=name, **_width(i))
        axis.plot(guess, guess, color="#333333", linestyle=":", linewidth=0.9, label="guessing")
        axis.set(xscale="log", xlim=(FIRST_FAR, 1), ylim=(-0.02, 1.02))
        axis.set(xlabel="share of other people accepted (FAR)", ylabel="share of mates accepted (TAR)")
        _legend(axis)
    return figure


def match_curves(panels: Panels, chance: Mapping[str, Curve]) -> Figure:
    """Draws the cumulative match characteristic of each attack, in a panel for each threat model.

    `panels` holds the fractions found by rank 1, 2, … `[R]` by threat model and attack; `chance` holds those of
    guessing by threat model, drawn as a dotted line.
    """
    figure, axes = _panels(list(panels))
    for (title, curves), axis in zip(panels.items(), axes, strict=True):
        for i, (colour, (name, found)) in enumerate(zip(COLOURS, curves.items(), strict=False)):
            axis.plot(np.arange(1, len(found) + 1), found, color=colour, label=name, **_width(i))
        guessed = chance.get(title, np.zeros(0))
        axis.plot(np.arange(1, len(guessed) + 1), guessed, color="#333333", linestyle=":", label="guessing")
        axis.set(xlabel="rank", ylabel="share found by this rank", ylim=(-0.02, 1.02), xticks=(1, 5, 10, 15, 20))
        _legend(axis)
    return figure


def intervals(panels: Mapping[str, Sequence[Interval]]) -> Figure:
    """Draws attacks as intervals, one a row, in a panel for each threat model, beside chance and what is allowed.

    The axis is that of a square root, so that rates near 0 and near 1 can both be read.
    """
    from matplotlib.figure import Figure

    rows = [max(len(attacks), 1) for attacks in panels.values()] or [1]
    size = (2 * WIDTH, 0.24 * sum(rows) + 1.0 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(len(rows), 1, squeeze=False, height_ratios=rows).ravel())
    for (title, attacks), axis in zip(panels.items(), axes, strict=False):
        axis.set_title(title, fontsize=9)
        for place, one in enumerate(attacks):
            over = one.limit is not None and one.low > one.limit
            colour = COLOURS[1] if over else COLOURS[0]
            error = [[max(one.share - one.low, 0)], [max(one.high - one.share, 0)]]
            axis.errorbar(one.share, place, xerr=error, color=colour, marker="o", markersize=4, capsize=2)
            axis.plot(one.chance, place, marker="o", markersize=5, fillstyle="none", color="#333333", linestyle="")
            if one.limit is not None:
                axis.plot([one.limit] * 2, [place - 0.4, place + 0.4], color="#333333", linestyle="--", linewidth=1)
        axis.set_yticks(range(len(attacks)), [one.name for one in attacks], fontsize=7)
        axis.set_xscale("function", functions=(lambda x: np.sqrt(np.clip(x, 0, None)), np.square))
        axis.set(
            xlim=(0, 1), ylim=(max(len(attacks), 1) - 0.5, -0.5), xticks=(0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)
        )
        axis.tick_params(axis="x", labelsize=7)
        axis.grid(alpha=0.25, linewidth=0.5)
    axes[-1].set_xlabel("share of queries whose right person is found first (axis of square roots)")
    return figure


def _legend(axis: Axes, *, ncols: int = 1, loc: Any = "best") -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=6.5, frameon=False, ncols=ncols, loc=loc)


def _width(i: int) -> dict[str, Any]:
    """Later curves are thinner, so that equal ones all show."""
    return {"linewidth": max(3.2 - 0.6 * i, 0.9), "alpha": 0.85}


def png(figure: Figure) -> bytes:
    """A figure as PNG, without date and software, so that the same figures give the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _panels(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Two in a row, each with its title."""
    from matplotlib.figure import Figure

    rows = max(1, (len(titles) + 1) // 2)
    columns = min(2, max(1, len(titles)))
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.25, linewidth=0.5)
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    return figure, axes[: len(titles)]
