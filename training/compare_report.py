"""A comparison of arms for people: tables with intervals, pictures, and one HTML page with all of it."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Column, Table
from rich.text import Text

from pipeline.report.anonymity import COLOURS, png
from pipeline.report.audit_page import STYLE
from pipeline.streams.files import publish
from training.intervals import Paired, paired

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Results = Mapping[str, Any]
"""What `results.json` holds: `runs`, and their `summary` by size and arm; accuracies and differences in [0, 1]."""
Size = int | str
ALPHA = 0.05
GAIN, LOSS, UNSHOWN, ONE_SEED = "gain", "loss", "no difference shown", "one seed, no interval"
HOW_TO_READ = (
    "Accuracy: mean ± standard deviation over seeds. Differences in points, paired by seed, with 95 % intervals; "
    "p by Student's paired t, two-sided, with Holm's correction. "
    f"Gain and loss are said where that p is below {ALPHA}; otherwise no difference is shown, which is no proof that "
    "there is none."
)
HEADS = ("arm", "accuracy, %", "over {reference}", "p", "verdict", "over {best}", "p", "verdict", "s/run", "remarks")
MARKERS = "osD^vPX<>*"
WIDER = """
body { max-width: 1250px } td { white-space: nowrap } td:last-child { white-space: normal; text-align: left }
.gain { color: #2b7a3d; font-weight: 600 } .loss { color: #b3362b; font-weight: 600 } pre { color: #666 }
"""
NUMBERED = 20
"""Classes up to which the cells of the picture hold numbers."""


def table(results: Results) -> Table:
    """For the terminal, 120 columns or more: a block for each size, two lines for each arm."""
    heads = ("arm", "accuracy, %", f"over {results['reference']}", "over best classical")
    shown = Table(
        *(Column(Text(head)) for head in heads), Column("s/run", justify="right"), title=Text(_title(results))
    )
    for size in results["sizes"]:
        shown.add_section()
        best = Text(_best(results, size) or "", style="bold")
        shown.add_row(Text(_labels(results, size), style="bold"), "", "", best, "")
        for arm, accuracy, over, p, said, over_best, p_best, said_best, seconds, remarks in _rows(results, size):
            differences = _two_lines(over, p, said), _two_lines(over_best, p_best, said_best)
            shown.add_row(Text(arm), Text(f"{accuracy}\n{remarks}".strip()), *differences, Text(seconds))
    return shown


def _two_lines(difference: str, p: str, verdict: str) -> Text:
    below = f"p {p}, {verdict}" if p else verdict
    return Text(f"{difference}\n{below}".strip(), style={GAIN: "green", LOSS: "red"}.get(verdict, ""))


def markdown(results: Results) -> str:
    """The same for a README: a table for each size."""
    parts = [f"{_title(results)}. {HOW_TO_READ}"]
    for size in results["sizes"]:
        rows = [_heads(results, size), [":--", *["--:"] * (len(HEADS) - 2), ":--"], *_rows(results, size)]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        parts += [f"**{_labels(results, size)}**", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _title(results: Results) -> str:
    seeds = len(results["seeds"])
    return f"{results['name']}, {results['split']} split, {seeds} seed{'s' if seeds > 1 else ''}"


def _labels(results: Results, size: Size) -> str:
    return f"{_images(results, size):,} labels"


def _images(results: Results, size: Size) -> int:
    """That a size, which may be `all`, stands for."""
    known = [run["images"] for run in results["runs"] if run["size"] == size and "images" in run]
    return known[0] if known else int(size)


def _heads(results: Results, size: Size) -> list[str]:
    best = _best(results, size) or "best classical"
    return [head.format(reference=results["reference"], best=best) for head in HEADS]


def _best(results: Results, size: Size) -> str | None:
    return results["best_classical"].get(str(size))


def _summary(results: Results, arm: str, size: Size) -> dict[str, Any] | None:
    """None where no run of the arm has come to an end."""
    found = results["summary"].get(str(size), {}).get(arm)
    return found if found and found["n"] else None


def _rows(results: Results, size: Size) -> Iterator[list[str]]:
    """A row of `HEADS` for each arm."""
    for arm in results["arms"]:
        found = _summary(results, arm, size)
        against = found["against"] if found else {}
        itself = ["", "", ""]
        yield [
            arm,
            _accuracy(found) if found else "–",
            *(itself if arm == results["reference"] else _difference(against.get(results["reference"]))),
            *(itself if arm == _best(results, size) else _difference(against.get("best_classical"))),
            f"{found['seconds']:.0f}" if found else "–",
            _remarks(results, arm, size),
        ]


def _accuracy(figures: Mapping[str, Any]) -> str:
    spread = f" ± {100 * figures['std']:.1f}" if figures["n"] > 1 else ""
    return f"{100 * figures['mean']:.1f}{spread}"


def _difference(figures: Mapping[str, Any] | None) -> list[str]:
    """Difference with interval, p, verdict."""
    if figures is None:
        return ["–", "", ""]
    mean, low, high, p = (figures[key] for key in ("mean", "low", "high", "p_holm"))
    said = verdict(mean, p)
    if said == ONE_SEED:
        return [_points(mean), "", said]
    return [f"{_points(mean)} [{_points(low)}, {_points(high)}]", f"{p:.3f}" if p >= 0.001 else "< 0.001", said]


def verdict(mean: float, p: float | None) -> str:
    """What may be said of a difference whose adjusted `p` is given; None or nan where there was one seed."""
    if p is None or math.isnan(p):
        return ONE_SEED
    if p >= ALPHA:
        return UNSHOWN
    return GAIN if mean > 0 else LOSS


def _points(difference: float) -> str:
    return f"{100 * difference:+z.2f}".replace("-", "−")


def _remarks(results: Results, arm: str, size: Size) -> str:
    """Failed runs with their reasons, and the share of neighbours that the filter dropped."""
    runs = [run for run in results["runs"] if (run["arm"], run["size"]) == (arm, size)]
    reasons = [run["failed"] for run in runs if run["failed"]]
    rejected = [run["rejected"] for run in runs if run.get("rejected") is not None]
    remarks = [f"{len(reasons)} of {len(runs)} failed: {', '.join(sorted(set(reasons)))}"] if reasons else []
    remarks += [f"{np.mean(rejected):.1%} filtered out"] if rejected else []
    return "; ".join(remarks)


def accuracy_plot(results: Results) -> Figure:
    """Accuracy, and the paired gain over the reference, against training-set size; bands are 95 % intervals."""
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
    figure.suptitle(f"{_title(results)}, with 95 % intervals", fontsize=10)
    return figure


def _band(axes: Axes, results: Results, arm: str, points: Sequence[Paired | None]) -> None:
    """A line with its band; error bars, side by side, where there is one size and so no line."""
    there = [(size, point) for size, point in zip(results["sizes"], points, strict=True) if point]
    mean, low, high = ([100 * getattr(point, key) for _, point in there] for key in ("mean", "low", "high"))
    sizes = [_images(results, size) for size, _ in there]
    style = _style(results, arm)
    if len(results["sizes"]) == 1:
        place = results["arms"].index(arm) / len(results["arms"]) - 0.5
        bars = np.subtract([mean, high], [low, mean])
        axes.errorbar([size * 1.5**place for size in sizes], mean, bars, label=arm, markersize=5, **style)
        return
    axes.plot(sizes, mean, label=arm, linewidth=1.4, markersize=4, **style)
    axes.fill_between(sizes, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _style(results: Results, arm: str) -> dict[str, Any]:
    """The reference is black and dashed; who shares a colour with another has a dotted line."""
    if arm == results["reference"]:
        return {"color": "black", "marker": "o", "linestyle": "--"}
    i = [other for other in results["arms"] if other != results["reference"]].index(arm)
    line = ("-", ":")[i // len(COLOURS) % 2]
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": line}


def gain_per_class_plot(results: Results, size: Size) -> Figure:
    """Gain of every arm over the reference in each class; bold where the 95 % interval, uncorrected, leaves out 0."""
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
    axes.set_title(f"{_labels(results, size)}: {what}\nbold: the 95 % interval leaves out 0", fontsize=10)
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
    """Expected calibration error of each arm, a marker for each size, with 95 % intervals over seeds."""
    arms, sizes = results["arms"], results["sizes"]
    figure = _figure(7, 1.4 + 0.34 * len(arms))
    axes = figure.subplots()
    for i, size in enumerate(sizes):
        found = [(row, _sample(results, arm, size, "ece")) for row, arm in enumerate(arms)]
        there = [(row + 0.6 * (i + 0.5) / len(sizes) - 0.3, point) for row, point in found if point]
        mean, low, high = (
            np.array([100 * getattr(point, key) for _, point in there]) for key in ("mean", "low", "high")
        )
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "fmt": MARKERS[i % len(MARKERS)]}
        rows = [row for row, _ in there]
        axes.errorbar(mean, rows, xerr=[mean - low, high - mean], label=_labels(results, size), markersize=4, **style)
    axes.set_yticks(range(len(arms)), arms, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set(xlabel="expected calibration error, %")
    axes.set_title(f"{_title(results)}, with 95 % intervals", fontsize=10)
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
    summary = _summary(results, arm, size)
    found = summary["against"].get(results["reference"]) if summary else None
    if found is None:
        return None
    low, high, p = (np.nan if found[key] is None else found[key] for key in ("low", "high", "p"))
    return Paired(found["mean"], low, high, p, found["n"])


def write_report(results: Results, folder: Path) -> None:
    """Pictures, `table.md`, `report.html` and, last, `results.json`; each file complete or not at all."""
    pictures = {
        "accuracy.png": ("Accuracy and gain against training-set size", png(accuracy_plot(results))),
        **{
            f"gain_{size}.png": (f"Gain per class, {_labels(results, size)}", png(gain_per_class_plot(results, size)))
            for size in results["sizes"]
        },
        "calibration.png": ("Calibration", png(calibration_plot(results))),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (_, content) in pictures.items():
        _write(folder / name, content)
    _write(folder / "table.md", markdown(results).encode())
    _write(folder / "report.html", html_report(results, dict(pictures.values())).encode())
    text = json.dumps(_strict(results), indent=1, allow_nan=False, ensure_ascii=False)
    _write(folder / "results.json", f"{text}\n".encode())


def _write(file: Path, content: bytes) -> None:
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(content)
    publish(part, file)


def _strict(value: Any) -> Any:
    """nan and infinity, which JSON does not have, become null."""
    if isinstance(value, Mapping):
        return {key: _strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def html_report(results: Results, pictures: Mapping[str, bytes]) -> str:
    """One page that loads nothing; `pictures`: caption → PNG. Everything is escaped and inlined."""
    title = escape(_title(results))
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>",
        f"<style>{STYLE}{WIDER}</style><h1>{title}</h1>",
        f"<p class='note'>{escape(results['machine'])}. {escape(HOW_TO_READ)}</p>",
        *(_block(results, size) for size in results["sizes"]),
        *(f"<p>{escape(note)}</p>" for note in results.get("notes", ())),
        *(_picture(caption, content) for caption, content in pictures.items()),
        *(f"<h2>{key.capitalize()}</h2>{_json(results[key])}" for key in ("denoiser", "config") if key in results),
    ]
    return "\n".join(parts) + "\n"


def _json(value: Any) -> str:
    return f"<pre>{escape(json.dumps(_strict(value), indent=2, ensure_ascii=False))}</pre>"


def _block(results: Results, size: Size) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in _heads(results, size))
    rows = "".join(f"<tr>{''.join(_cells(row))}</tr>" for row in _rows(results, size))
    return f"<h2>{_labels(results, size)}</h2><table><tr>{head}</tr>{rows}</table>"


def _cells(row: Sequence[str]) -> Iterable[str]:
    return (f"<td{f' class={cell}' if cell in (GAIN, LOSS) else ''}>{escape(cell)}</td>" for cell in row)


def _picture(caption: str, content: bytes) -> str:
    data, text = base64.b64encode(content).decode(), escape(caption)
    return f"<h2>{text}</h2><img alt='{text}' src='data:image/png;base64,{data}'>"
