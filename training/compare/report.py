"""A comparison of arms for people to read: tables with intervals, pictures, and one HTML page with all of it."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Column, Table
from rich.text import Text

from pipeline.report.audit_page import STYLE
from pipeline.report.audit_plots import png
from pipeline.streams.files import publish
from training.compare.plots import (
    Results,
    Size,
    accuracy_plot,
    calibration_plot,
    figures_of,
    gain_per_class_plot,
    headline,
    labels,
)

ALPHA = 0.05
"""A gain or a loss is called so where its corrected p-value is below this."""
GAIN, LOSS, UNSHOWN, ONE_SEED = "gain", "loss", "no difference shown", "one seed, no interval"
"""What may be said of a difference."""
HOW_TO_READ = (
    "Accuracy: mean ± standard deviation over seeds. Differences in points, paired by seed, with 95 % intervals; "
    "p by Student's paired t, two-sided, with Holm's correction. "
    f"Gain and loss are said where that p is below {ALPHA}; otherwise no difference is shown, which is no proof that "
    "there is none."
)
"""The explanation that stands over every table."""
HEADS = ("arm", "accuracy, %", "over {reference}", "p", "verdict", "over {best}", "p", "verdict", "s/run", "remarks")
"""The heads of a table's columns."""
WIDER = """
body { max-width: 1250px } td { white-space: nowrap } td:last-child { white-space: normal; text-align: left }
.gain { color: #2b7a3d; font-weight: 600 } .loss { color: #b3362b; font-weight: 600 } pre { color: #666 }
"""
"""A style sheet that follows `STYLE`."""


def table(results: Results) -> Table:
    """The table for the terminal, 120 columns or more wide: a block for each size, two lines for each arm."""
    heads = ("arm", "accuracy, %", f"over {results['reference']}", "over best classical")
    shown = Table(
        *(Column(Text(head)) for head in heads), Column("s/run", justify="right"), title=Text(headline(results))
    )
    for size in results["sizes"]:
        shown.add_section()
        best = Text(_best(results, size) or "", style="bold")
        shown.add_row(Text(labels(results, size), style="bold"), "", "", best, "")
        for arm, accuracy, over, p, said, over_best, p_best, said_best, seconds, remarks in _rows(results, size):
            differences = _two_lines(over, p, said), _two_lines(over_best, p_best, said_best)
            shown.add_row(Text(arm), Text(f"{accuracy}\n{remarks}".strip()), *differences, Text(seconds))
    return shown


def _two_lines(difference: str, p: str, verdict: str) -> Text:
    below = f"p {p}, {verdict}" if p else verdict
    return Text(f"{difference}\n{below}".strip(), style={GAIN: "green", LOSS: "red"}.get(verdict, ""))


def markdown(results: Results) -> str:
    """The same in Markdown, with a table for each size."""
    parts = [f"{headline(results)}. {HOW_TO_READ}"]
    for size in results["sizes"]:
        rows = [_heads(results, size), [":--", *["--:"] * (len(HEADS) - 2), ":--"], *_rows(results, size)]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        parts += [f"**{labels(results, size)}**", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _heads(results: Results, size: Size) -> list[str]:
    best = _best(results, size) or "best classical"
    return [head.format(reference=results["reference"], best=best) for head in HEADS]


def _best(results: Results, size: Size) -> str | None:
    return results["best_classical"].get(str(size))


def _rows(results: Results, size: Size) -> Iterator[list[str]]:
    """A row of `HEADS` for each arm."""
    for arm in results["arms"]:
        found = figures_of(results, arm, size)
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
    """What may be said of a difference with the adjusted p-value `p`; it is None or nan where there was one seed."""
    if p is None or math.isnan(p):
        return ONE_SEED
    if p >= ALPHA:
        return UNSHOWN
    return GAIN if mean > 0 else LOSS


def _points(difference: float) -> str:
    return f"{100 * difference:+z.2f}".replace("-", "−")


def _remarks(results: Results, arm: str, size: Size) -> str:
    """Failed runs with their reasons, the share of neighbours that was dropped, and the time that making them took."""
    runs = [run for run in results["runs"] if (run["arm"], run["size"]) == (arm, size)]
    reasons = [run["failed"] for run in runs if run["failed"]]
    rejected = [run["rejected"] for run in runs if run.get("rejected") is not None]
    remarks = [f"{len(reasons)} of {len(runs)} failed: {', '.join(sorted(set(reasons)))}"] if reasons else []
    remarks += [f"{np.mean(rejected):.1%} filtered out"] if any(rejected) else []
    making = [run["making_seconds"] for run in runs if run.get("making_seconds") is not None]
    remarks += [f"{np.mean(making):.0f} s to make neighbours"] if making else []
    return "; ".join(remarks)


def write_report(results: Results, folder: Path) -> None:
    """Writes pictures, `table.md`, `report.html` and, last, `results.json`; each file completely or not at all."""
    pictures = {
        "accuracy.png": ("Accuracy and gain against training-set size", png(accuracy_plot(results))),
        **{
            f"gain_{size}.png": (f"Gain per class, {labels(results, size)}", png(gain_per_class_plot(results, size)))
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
    """The report as one HTML page, with `pictures` as PNG by caption; everything is escaped and inlined."""
    title = escape(headline(results))
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
    return f"<h2>{labels(results, size)}</h2><table><tr>{head}</tr>{rows}</table>"


def _cells(row: Sequence[str]) -> Iterable[str]:
    return (f"<td{f' class={cell}' if cell in (GAIN, LOSS) else ''}>{escape(cell)}</td>" for cell in row)


def _picture(caption: str, content: bytes) -> str:
    data, text = base64.b64encode(content).decode(), escape(caption)
    return f"<h2>{text}</h2><img alt='{text}' src='data:image/png;base64,{data}'>"
