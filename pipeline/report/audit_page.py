"""The audit as one HTML file: tables of its figures and the pictures, nothing loaded from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .6em 0 1.4em } th, td { padding: .25em .7em; text-align: right }
th { border-bottom: 1px solid #888; font-weight: 600 } td { border-bottom: 1px solid #ddd }
th:first-child, td:first-child, th.text, td.text { text-align: left } img { max-width: 100% }
.threat { border-left: 4px solid #3b6fb6; padding-left: 1em } .T2 { border-color: #d1622b }
.note { color: #666 } li { margin: .2em 0 }
"""
"""The style sheet of reports."""


def html_report(results: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The report as HTML, from `results` as in `audit.json` and `pictures` as PNG by caption.

    Everything is escaped and inlined.
    """
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Audit of a release</title>",
        f"<style>{STYLE}</style><h1>Audit of a release</h1>",
        "<p class='note'>Private: the pictures of the audit folder may show originals.</p>",
        *(["<h2>Failed</h2>", _list(results["failed"])] if results["failed"] else []),
        f"<p>Authenticity of RELEASE.json: {escape(results['authenticity'])}.</p>",
        "<h2>What to read first</h2>", _list(results["findings"]) or "<p>No attack clearly beat chance.</p>",
        "<p class='note'>Named is what lies above chance with its whole 95 % interval, which one in forty does by "
        "accident. Brackets hold intervals over people.</p>",
        "<h2>Counts</h2>", _pairs(results["counts"]),
        *(_threat(name, results[name]) for name in ("T1", "T2")),
        "<h2>What nobody can do better who holds the originals</h2>",
        _list(results["bound"]["said"]) if results["bound"] else "<p>RELEASE.json does not say.</p>",
        "<h2>Utility</h2>", _pairs(results["utility"]),
        "<h2>Not measured</h2>", _list(results["not_measured"]) or "<p>Nothing was left out.</p>",
        "<h2>Pictures</h2>", *(_picture(caption, content) for caption, content in pictures.items()),
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _threat(name: str, results: Mapping[str, Any]) -> str:
    title = f"<div class='threat {name}'><h2>{name}: {escape(results['statement'])}</h2>"
    rest = {key: results[key] for key in ("near_copies", "membership", "inversion") if results.get(key)}
    more = "".join(f"<h3>{escape(key.replace('_', ' '))}</h3>{_pairs(value)}" for key, value in rest.items())
    if results["recognisers"] is None:
        return f"{title}<p>Not measured: {escape(results['reason'])}.</p>{more}</div>"
    tables = _identification(results["recognisers"]) + _verification(results["recognisers"])
    return f"{title}{tables}{more}</div>"


def _identification(recognisers: Mapping[str, Any]) -> str:
    rows = []
    for name, one in recognisers.items():
        for kind, figures in {**one["reidentification"], **one["trained"]}.items():
            if figures is None:
                rows.append([name, kind, "no pairs", *[""] * 5])
                continue
            ranks = [
                f"{_rate(r)} <span class='note'>(chance {r['chance']:.2%})</span>" for r in figures["rank"].values()
            ]
            numbers = [str(figures["queries"]), str(figures["people"]), f"{figures['gallery']:.0f}"]
            rows.append([name, kind, *numbers, *ranks])
    heads = ("recogniser", "attack", "queries", "people", "gallery", "rank 1", "rank 5", "rank 10")
    return f"<h3>Re-identification</h3>{_table(heads, rows, text=2)}"


def _verification(recognisers: Mapping[str, Any]) -> str:
    rows = []
    for name, one in recognisers.items():
        told, linked, worst = one["verification"] or {}, one["linkability"] or {}, one["worst"]
        tar = [_rate(told["tar"][far]) if far in told.get("tar", {}) else "–" for far in ("1e-2", "1e-3", "1e-4")]
        over = (one["protection"] or {}).get("over", {})
        safe = "<br>".join(f"{escape(key)}: {_rate(figures)}" for key, figures in over.items()) or "–"
        systems = f"{linked['d_sys']:.3f} <span class='note'>({linked['chance']:.3f})</span>" if linked else "–"
        least = f"{worst['share']:.0%} of {worst['queries']}" if worst else "–"
        rows.append([name, f"{told['eer']:.3f}" if told else "–", *tar, systems, safe, least])
    heads = (
        "recogniser", "EER", "TAR at FAR 1e-2", "at 1e-3", "at 1e-4", "linkability D_sys (chance)",
        "farther than threshold", "worst identity, rank 1",
    )  # fmt: skip
    return f"<h3>Verification, linkability, protection</h3>{_table(heads, rows, text=1)}"


def _rate(figures: Mapping[str, float]) -> str:
    return f"{figures['share']:.1%} [{figures['low']:.1%}, {figures['high']:.1%}]"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, text: int) -> str:
    """The first `text` columns hold names, which are escaped; the others are HTML of ours."""
    head = "".join(f"<th{_left(i, text)}>{escape(name)}</th>" for i, name in enumerate(heads))
    body = "".join(
        "<tr>"
        + "".join(f"<td{_left(i, text)}>{escape(c) if i < text else c}</td>" for i, c in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _left(column: int, text: int) -> str:
    return " class='text'" if column < text else ""


def _pairs(values: Mapping[str, Any]) -> str:
    """Nested figures, one a row, by their path."""
    return _table(("", ""), [[name, escape(value)] for name, value in _flat(values)], text=1)


def _flat(values: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        name = f"{path} · {key}" if path else key
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)
            yield name.replace("_", " "), shown


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(s)}</li>" for s in sentences) + "</ul>" if sentences else ""


def _picture(caption: str, content: bytes) -> str:
    data, text = base64.b64encode(content).decode(), escape(caption)
    return f"<figure><img alt='{text}' src='data:image/png;base64,{data}'><figcaption>{text}</figcaption></figure>"
