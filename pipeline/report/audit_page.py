"""The audit as one HTML file: first the verdict, then tables, words and pictures; nothing loaded from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipeline.report import audit_tables as tables
from pipeline.report.audit_words import ATTACKS, TERMS

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .6em 0 1.4em } th, td { padding: .25em .7em; text-align: right }
th { border-bottom: 1px solid #888; font-weight: 600 } td { border-bottom: 1px solid #ddd }
th:first-child, td:first-child, th.text, td.text { text-align: left } img { max-width: 100% }
.threat { border-left: 4px solid #3b6fb6; padding-left: 1em } .T2 { border-color: #d1622b }
.verdict { border: 2px solid #3f8f4f; padding: .2em 1em } .verdict.unmet { border-color: #c0392b }
.verdict p:first-child { font-size: 18px; font-weight: 600 }
.note, i { color: #666; font-style: normal } li { margin: .2em 0 } dt { font-weight: 600 } dd { margin: 0 0 .4em 1em }
figcaption { color: #444; max-width: 60em }
"""
"""The style sheet of reports."""


def html_report(results: Mapping[str, Any], verdict: Sequence[str], pictures: Mapping[str, bytes]) -> str:
    """The report as HTML, from `results` as in `audit.json`, the sentences of the verdict, and PNG by caption.

    Everything is escaped and inlined.
    """
    evidence, made = results["evidence"], results["made_with"]
    open_ones = [f"{one['name']}: {one['why']}" for one in evidence["unmet"]]
    accepted = [f"{one['name']}: {one['why']}" for one in evidence["accepted"]]
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Audit of a release</title>",
        f"<style>{STYLE}</style><h1>Audit of a release</h1>",
        f"<p class='note'>{escape(made['date'])}, doppel {escape(made['versions'].get('doppel', '?'))}. "
        f"Private: the pictures of the audit folder may show originals.</p>",
        f"<div class='verdict{' unmet' if open_ones else ''}'>",
        *(f"<p>{escape(one)}</p>" for one in verdict), "</div>",
        *(["<h2>Not met</h2>", tables.bullets(open_ones)] if open_ones else []),
        *(["<h2>Accepted by name</h2>", tables.bullets(accepted)] if accepted else []),
        "<h2>Who attacked</h2>", tables.recognisers(evidence),
        *_left_out(evidence),
        *(_threat(name, results) for name in ("T1", "T2")),
        "<h2>What nobody can do better who holds the originals</h2>",
        tables.bullets(results["bound"]["said"]) if results["bound"] else "<p>RELEASE.json does not say.</p>",
        "<h2>What the attacks are</h2>", tables.terms(ATTACKS),
        "<h2>What the figures are</h2>", tables.terms(TERMS),
        "<h2>What the release is good for</h2>", tables.utility(results["utility"]),
        "<h2>Not measured</h2>", tables.bullets(results["not_measured"]) or "<p>Nothing was left out.</p>",
        "<h2>How it was measured</h2>", _made(results),
        "<h2>Pictures</h2>", *(_picture(caption, content) for caption, content in pictures.items()),
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _left_out(evidence: Mapping[str, Any]) -> list[str]:
    if not evidence["leave_one_out"]:
        return []
    return [
        "<h2>A recogniser that the gate does not know</h2>",
        "<p>Each row leaves a recogniser out of the gate and attacks with it, on what the others let pass: the "
        "estimate of what a recogniser reaches that nobody here has. <i>Refused by the whole gate</i> counts images "
        "that only the one left out had refused.</p>",
        tables.left_out(evidence),
    ]


def _threat(name: str, results: Mapping[str, Any]) -> str:
    found = results[name]
    title = f"<div class='threat {name}'><h2>{name}: {escape(found['statement'])}</h2>"
    more = tables.undoings(found["inversion"]) + (tables.copies(found) if name == "T2" else "")
    if found["recognisers"] is None:
        return f"{title}<p>Not measured: {escape(found['reason'])}.</p>{more}</div>"
    pairs = f"<h3>Telling pairs apart</h3>{tables.verification(found['recognisers'])}"
    return f"{title}{tables.attacks(name, results)}{pairs}{more}</div>"


def _made(results: Mapping[str, Any]) -> str:
    made, counts = results["made_with"], results["counts"]
    release = results["release"] or "none: the release was not sealed"
    rows = [
        ["date", escape(made["date"])],
        ["hours of the machine", f"{made['seconds'] / 3600:.2f}"],
        ["versions", escape(", ".join(f"{name} {number}" for name, number in made["versions"].items()))],
        ["options", escape(", ".join(f"{name}: {value}" for name, value in made["options"].items()) or "–")],
        ["sha256 of RELEASE.json", escape(release)],
        ["authenticity of RELEASE.json", escape(results["authenticity"])],
        ["originals", f"{counts['originals']}, {counts['originals_with_face']} with a face"],
        ["released images", f"{counts['released']}, {counts['released_with_face']} with a face, "
                            f"{counts['paired_with_source']} paired with their source"],
        ["known people", f"{counts['people']}, {counts['people_with_two_photographs']} with two photographs or more"],
        ["images are compared at", f"{made['size'][0]} × {made['size'][1]} pixels, fitted by {escape(made['fit'])}"],
        ["detector", escape(f"{made['detector']} {made['detector_weights'][:12]}")],
        ["recognisers' weights", escape(", ".join(f"{n} {w[:12]}" for n, w in made["recognisers"].items()))],
    ]  # fmt: skip
    return tables.table(("", ""), rows, text=1) + "<h3>Thresholds</h3>" + tables.thresholds(made)


def _picture(caption: str, content: bytes) -> str:
    data, text = base64.b64encode(content).decode(), escape(caption)
    return f"<figure><img alt='{text}' src='data:image/png;base64,{data}'><figcaption>{text}</figcaption></figure>"
