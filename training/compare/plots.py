"""Pictures of a comparison: accuracy and gain against training-set size, gain in each class, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.report.audit_plots import COLOURS
from training.compare.intervals import Paired, paired

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Results = Mapping[str, Any]
"""The content of `results.json`: `runs`, and their `summary` by size and arm; accuracies and differences in [0, 1]."""
Size = int | str
"""Images in the training set, or `all`."""
MARKERS = "osD^vPX<>*"
"""Markers of arms, in order."""
NUMBERED = 20
"""With more classes than this, the cells of the picture hold no numbers."""


def accuracy_plot(results: Results) -> Figure:
    """Draws accuracy, and the paired gain over the reference, against training-set size; bands are 95 % intervals."""
    reference = results["reference"]
    sizes = [_images(results, size) for size in results["sizes"]]
    figure = _figure(11, 4.8)
    left, right = figure.subplots(1, 2)
    for arm in results["arms"]:
        _band(left, results, arm, [_sample(results, arm, size, "accuracy") for size in results["sizes"]])
        if arm != reference:
            _band(right, results, arm, [_gain(results, arm, size) for size in results["sizes"]])
    right.axhline(0, color="black", linewidth=1)
    left.set_ylabel("accuracy, %")
    right.set_ylabel(f"gain over {reference}, points")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="labelled training images")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.25, linewidth=0.5)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    figure.suptitle(f"{headline(results)}, with 95 % intervals", fontsize=10)
    return figure


def _band(axes: Axes, results: Results, arm: str, points: Sequence[Paired | None]) -> None:
    """A line with its band; error bars, side by side, where there is one size and so no line."""
    there = [(size, point) for size, point in zip(results["sizes"], points, strict=True) if point]
    mean, low, high = _percent([point for _, point in there])
    sizes = [_images(results, size) for size, _ in there]
    style = _style(results, arm)
    if len(results["sizes"]) == 1:
        place = results["arms"].index(arm) / len(results["arms"]) - 0.5
        bars = [mean - low, high - mean]
        axes.errorbar([size * 1.5**place for size in sizes], mean, bars, label=arm, markersize=5, **style)
        return
    axes.plot(sizes, mean, label=arm, linewidth=1.4, markersize=4, **style)
    axes.fill_between(sizes, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _percent(points: Sequence[Paired]) -> NDArray[np.float64]:
    """Mean, low, high: `[3, N]`."""
    return 100 * np.array([(point.mean, point.low, point.high) for point in points]).reshape(-1, 3).T


def _style(results: Results, arm: str) -> dict[str, Any]:
    """The reference is black and dashed; who shares a colour with another has a dotted line."""
    if arm == results["reference"]:
        return {"color": "black", "marker": "o", "linestyle": "--"}
    i = [other for other in results["arms"] if other != results["reference"]].index(arm)
    line = ("-", ":")[i // len(COLOURS) % 2]
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": line}


def gain_per_class_plot(results: Results, size: Size) -> Figure:
    """Draws the gain of every arm over the reference in each class.

    It is bold where its 95 % interval, uncorrected, leaves out 0.
    """
    arms = [arm for arm in results["arms"] if arm != results["reference"] and _class_gains(results, arm, size)]
    names = results["classes"]
    figure = _figure(2.6 + 0.55 * max(min(len(names), NUMBERED), 8), 1.9 + 0.32 * len(arms))
    axes = figure.subplots()
    gains = [_class_gains(results, arm, size) for arm in arms]
    means = np.array([[100 * g.mean if g else np.nan for g in row] for row in gains]).reshape(len(arms), len(names))
    most = max(float(np.nanmax(np.abs(means), initial=0)), 0.5)
    picture = axes.imshow(means, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    axes.set_yticks(range(len(arms)), arms, fontsize=8)
    if len(names) <= NUMBERED:
        axes.set_xticks(range(len(names)), names, fontsize=8, rotation=35, ha="right", rotation_mode="anchor")
        for i, row in enumerate(gains):
            for j, gain in enumerate(row):
                _cell(axes, i, j, gain, dark=abs(means[i, j]) > 0.6 * most)
    figure.colorbar(picture, label="points", fraction=0.04)
    what = f"gain over {results['reference']} in each class"
    axes.set_title(f"{labels(results, size)}: {what}\nbold: the 95 % interval leaves out 0", fontsize=10)
    return figure


def _cell(axes: Axes, row: int, column: int, gain: Paired | None, *, dark: bool) -> None:
    if gain is None:
        return
    clear = gain.low > 0 or gain.high < 0
    text = f"{100 * gain.mean:+z.1f}".replace("-", "−")
    colour, weight = "white" if dark else "black", "bold" if clear else "normal"
    axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour, weight=weight)


def _class_gains(results: Results, arm: str, size: Size) -> list[Paired | None]:
    """For each class, over the seeds that both arms finished; empty if there are none, None for a class not tested."""
    own, base = (_by_seed(results, name, size, "per_class") for name in (arm, results["reference"]))
    both = [np.subtract(*np.array([own[seed], base[seed]], dtype=np.float64)) for seed in own.keys() & base.keys()]
    columns = list(np.array(both).T) if both else []
    return [paired(column) if np.isfinite(column).all() else None for column in columns]


def calibration_plot(results: Results) -> Figure:
    """Draws the expected calibration error of each arm, a marker for each size, with 95 % intervals over seeds."""
    arms, sizes = results["arms"], results["sizes"]
    figure = _figure(7, 1.4 + 0.34 * len(arms))
    axes = figure.subplots()
    for i, size in enumerate(sizes):
        found = [(row, _sample(results, arm, size, "ece")) for row, arm in enumerate(arms)]
        there = [(row + 0.6 * (i + 0.5) / len(sizes) - 0.3, point) for row, point in found if point]
        mean, low, high = _percent([point for _, point in there])
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "fmt": MARKERS[i % len(MARKERS)]}
        rows = [row for row, _ in there]
        axes.errorbar(mean, rows, xerr=[mean - low, high - mean], label=labels(results, size), markersize=4, **style)
    axes.set_yticks(range(len(arms)), arms, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set(xlabel="expected calibration error, %")
    axes.set_title(f"{headline(results)}, with 95 % intervals", fontsize=10)
    axes.grid(alpha=0.25, linewidth=0.5)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _by_seed(results: Results, arm: str, size: Size, key: str) -> dict[int, Any]:
    """A figure of the runs that came to an end."""
    runs = (run for run in results["runs"] if (run["arm"], run["size"]) == (arm, size) and not run["failed"])
    return {run["seed"]: run[key] for run in runs}


def _sample(results: Results, arm: str, size: Size, key: str) -> Paired | None:
    values = list(_by_seed(results, arm, size, key).values())
    return paired(values) if values else None


def _gain(results: Results, arm: str, size: Size) -> Paired | None:
    """Over the reference, as in the table."""
    figures = figures_of(results, arm, size)
    found = figures["against"].get(results["reference"]) if figures else None
    if found is None:
        return None
    low, high, p = (np.nan if found[key] is None else found[key] for key in ("low", "high", "p"))
    return Paired(found["mean"], low, high, p, found["n"])


def headline(results: Results) -> str:
    """The title of a report: its name, the split, and the number of seeds."""
    seeds = len(results["seeds"])
    return f"{results['name']}, {results['split']} split, {seeds} seed{'s' if seeds > 1 else ''}"


def labels(results: Results, size: Size) -> str:
    """A size in words."""
    return f"{_images(results, size):,} labels"


def _images(results: Results, size: Size) -> int:
    """That a size, which may be `all`, stands for."""
    known = [run["images"] for run in results["runs"] if run["size"] == size and "images" in run]
    return known[0] if known else int(size)


def figures_of(results: Results, arm: str, size: Size) -> dict[str, Any] | None:
    """The summary of an arm at one size; None where none of its runs has finished."""
    found = results["summary"].get(str(size), {}).get(arm)
    return found if found and found["n"] else None
