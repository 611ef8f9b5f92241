"""The picture of the latent step: images/s of every side, with the ratios on the bars and the floor above them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cases import settled
from record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDES = {"doppel": "#1f6f8b", "diffusers": "#d98c5f", "bare": "#a9b4bd"}
NAMES = {"doppel": "doppel, whole job", "diffusers": "diffusers img2img", "bare": "bare loop"}
WIDTH = 0.27


def plot(record: Record, file: Path) -> None:
    """A panel for each model, a group for each way to run it; what was not measured says so."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rated: dict[str, dict[str, Any]] = {}
    for name, result in record.results.items():
        config, way = name.split(", ")
        if way != "largest batch":
            rated.setdefault(config, {})[way] = result
    if not rated:
        return
    figure = Figure(figsize=(2.2 + 4.1 * len(rated), 5.4), layout="constrained")
    panels = figure.subplots(1, len(rated), squeeze=False)
    for axes, (config, ways) in zip(panels[0], rated.items(), strict=True):
        panel(axes, ways, record.results.get(f"{config}, largest batch"))
    title = f"{record.machine['device']}, torch {record.machine['torch']}: images/s, medians of turns"
    figure.suptitle(("REHEARSAL, the figures mean nothing. " if record.rehearsal else "") + title, fontsize=11)
    handles: list[Any] = [Patch(color=SIDES[side], label=NAMES[side]) for side in SIDES]
    handles.append(
        Line2D([], [], color="black", linestyle="--", label="floor of the time: all FLOPs at a matrix product's rate")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(file, dpi=110)


def panel(axes: Axes, ways: dict[str, Any], largest: dict[str, Any] | None) -> None:
    tops = [0.0]
    for place, result in enumerate(ways.values()):
        if not settled(result):
            why = next(key for key in ("not_reached", "not_run", "error") if key in result).replace("_", " ")
            axes.text(place, 0.02, why, transform=axes.get_xaxis_transform(), rotation=90, ha="center", fontsize=9)
            continue
        rates, floor = result["images_per_s"], result["floor"]["images_per_s"]
        shown = {side: rates[side] for side in SIDES if rates[side] is not None}
        offsets = WIDTH * (np.arange(len(shown)) - (len(shown) - 1) / 2)
        bars = axes.bar(place + offsets, list(shown.values()), WIDTH * 0.94, color=[SIDES[side] for side in shown])
        axes.bar_label(bars, fmt="%.3g", fontsize=8, padding=1)
        axes.hlines(floor, place - 0.45, place + 0.45, color="black", linestyle="--", linewidth=1.2)
        axes.text(place + 0.45, floor, f"{floor:.3g}", fontsize=8, ha="right", va="bottom")
        tops += [floor, *shown.values()]
    axes.set_xticks(range(len(ways)), [f"{way}\n{ratios(result)}" for way, result in ways.items()], fontsize=9)
    axes.set_xlim(-0.6, len(ways) - 0.4)
    axes.set_ylim(0, 1.12 * max(tops) or 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(heading(ways, largest), fontsize=9)


def ratios(result: dict[str, Any]) -> str:
    others = [other for other in ("diffusers", "bare") if result.get(f"doppel / {other}") is not None]
    return "\n".join(f"doppel = {result[f'doppel / {other}']:.2f} × {other}" for other in others)


def heading(ways: dict[str, Any], largest: dict[str, Any] | None) -> str:
    measured = [result for result in ways.values() if settled(result)]
    if not measured:
        return "nothing measured"
    first = measured[0]
    lines = [first["model"], f"{first['dtype']}, batch {first['batch']}, {first['steps']} steps"]
    if "why_no_diffusers" in first:
        lines.append(first["why_no_diffusers"])
    if settled(largest):
        assert largest is not None
        peak = largest["peak_gib"]
        lines.append(
            f"batch_size auto: {largest['images']}" + (f" ({peak:.0f} GiB)" if not isinstance(peak, str) else "")
        )
    return "\n".join(lines)
