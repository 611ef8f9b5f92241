"""The tables of an audit's report, as HTML; `results` are those of `audit.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from pipeline.report.audit_words import LAYOUTS, ORIGINS, UTILITY

Figures = Mapping[str, Any]
"""JSON of one record."""


def recognisers(evidence: Figures) -> str:
    """Who attacked: family, whether the gate used it, and how well it recognises clean photographs."""
    rows = [
        [one["name"], one["family"], "yes" if one["in_gate"] else "guides" if one["guides"] else "no",
         "–" if one["clean_tar"] is None else f"{one['clean_tar']:.1%}"]
        for one in evidence["attackers"]
    ]  # fmt: skip
    rows += [[name, "no recogniser", "no", escape(what)] for name, what in LAYOUTS.items()]
    return table(("attacker", "family", "in the gate", "clean pairs recognised at FAR 1e-2"), rows, text=3)


def left_out(evidence: Figures) -> str:
    """Each recogniser against a gate without it."""
    rows = []
    for one in evidence["leave_one_out"]:
        first, learnt = one["rank_1"], one["trained"]
        rows.append([
            one["attacker"], ", ".join(one["gate"]) or "–", f"{one['images']}",
            f"{one['earlier']}", *(rate(first) if first else ("–", "–", "–")),
            "–" if one["rank_10"] is None else f"{one['rank_10']:.1%} <i>({one['rank_10_chance']:.1%})</i>",
            *(f"{one['tar'][far]:.1%}" if far in one["tar"] else "–" for far in ("1e-2", "1e-3")),
            f"{escape(learnt['attack'])}: {rate(learnt)[0]} <i>({learnt['chance']:.2%})</i>" if learnt else "–",
        ])  # fmt: skip
    heads = (
        "attacker", "gate", "images", "refused by the whole gate", "found first", "chance", "allowed",
        "among first 10 (chance)", "TAR at FAR 1e-2", "1e-3", "best that learns (chance)",
    )  # fmt: skip
    return table(heads, rows, text=2)


def attacks(threat: str, results: Figures) -> str:
    """All attacks under one threat model, the most successful first."""
    found = [one for one in results["evidence"]["attacks"] if one["threat"] == threat]
    by_name = results[threat]["recognisers"] or {}
    rows = []
    for one in sorted(found, key=lambda one: (-one["low"] / (one["limit"] or 1), -one["share"])):
        of = by_name.get(one["attacker"], {"reidentification": {}, "trained": {}})
        figures = {**of["reidentification"], **of["trained"]}.get(one["attack"])
        tenth = figures["rank"]["10"] if figures else None
        over = one["limit"] is not None and one["low"] > one["limit"]
        rows.append([
            one["attacker"], one["attack"], f"{one['queries']} of {one['people']}",
            *(f"<b>{cell}</b>" if over else cell for cell in rate(one)),
            "&lt; .001" if one["p"] < 0.001 else f"{one['p']:.3f}",
            f"{tenth['share']:.1%} <i>({tenth['chance']:.1%})</i>" if tenth else "–",
        ])  # fmt: skip
    heads = ("attacker", "attack", "queries of people", "found first", "chance", "allowed", "p (Holm)",
             "among first 10 (chance)")  # fmt: skip
    return table(heads, rows, text=2)


def verification(by_name: Figures) -> str:
    """How well pairs are told apart, and how far released images are from everything that the attacker holds."""
    rows = []
    for name, one in by_name.items():
        told, linked, worst = one["verification"] or {}, one["linkability"] or {}, one["worst"]
        tar = [span(told["tar"][far]) if far in told.get("tar", {}) else "–" for far in ("1e-2", "1e-3", "1e-4")]
        over = (one["protection"] or {}).get("over", {})
        safe = "<br>".join(f"{escape(key)}: {span(figures)}" for key, figures in over.items()) or "–"
        rows.append([
            name, f"{told['eer']:.3f}" if told else "–", *tar,
            f"{linked['d_sys']:.3f} <i>({linked['chance']:.3f})</i>" if linked else "–", safe,
            f"{worst['share']:.0%} of {worst['queries']}" if worst else "–",
        ])  # fmt: skip
    heads = ("attacker", "EER", "TAR at FAR 1e-2", "at 1e-3", "at 1e-4", "D_sys (chance)", "farther than threshold",
             "worst person")  # fmt: skip
    return table(heads, rows, text=1)


def copies(t2: Figures) -> str:
    """Copies of originals in the release, and whether membership can be told; empty where neither was looked for."""
    near, parts = t2["near_copies"], ""
    if near:
        parts += (
            f"<p>{near['copies']} of {near['released']} released images differ from an original in at most "
            f"{near['bits']} of 64 bits of their perceptual hash.</p>"
        )
    rows = [
        [
            name,
            f"{one['inside']}",
            f"{one['outside']}",
            f"{one['auc']:.3f} [{one['low']:.3f}, {one['high']:.3f}]",
            span(one["found"]) if one["found"] else "–",
        ]
        for name, one in t2["membership"].items()
        if one
    ]
    heads = ("attacker", "originals of the input", "others", "AUC [95 %]; .5 by chance",
             "found where 1 of 100 others is taken for one")  # fmt: skip
    return parts + (f"<h3>Was a photograph in the input?</h3>{table(heads, rows, text=1)}" if rows else "")


def undoings(inversion: Figures) -> str:
    """What the attempts to undo the operator came to, besides the searches with what they made."""
    items = []
    for way, attempt in inversion.items():
        of = attempt["figures"]
        if "level" in of:
            items.append(f"{way}: {of['images']} images were walked back to level {of['level']:g}")
        elif "tile" not in of:
            items.append(f"{way}: {of['images']} images, each by a network that never saw its person")
        elif of["tile"]:
            items.append(
                f"{way}: tiles of {of['tile']} pixels, {of['moved']:.0%} of them moved, found on {of['pairs']} pairs; "
                f"correlation with the source {of['before']:.2f} before, {of['after']:.2f} after"
            )
        else:
            items.append(f"{way}: none was found ({of['reason'] or 'none helps'})")
    return bullets(items)


def utility(figures: Figures) -> str:
    """What the release is good for, in words."""
    rows = [
        [UTILITY.get(name, name), escape(value)]
        for name, value in flat(figures)
        if value != "–" and not name.startswith("attributes")
    ]
    rows += [
        [f"{name}: the same answer for released image and source" if one.get("share") is not None
         else f"{name}: mean difference", f"{one['share']:.1%} of {one['faces']} faces" if one.get("share") is not None
         else f"{one['mean_difference']:.1f} years, {one['faces']} faces"]
        for name, one in figures["attributes"].items()
        if isinstance(one, Mapping)
    ]  # fmt: skip
    return table(("what", "figure"), rows, text=1)


def thresholds(made_with: Figures) -> str:
    """The thresholds of the audit, with where each comes from."""
    rows = [
        [name, key if key == "deepface" else f"FAR {key}", f"{distance:.4g}", escape(ORIGINS.get(key, key))]
        for name, found in made_with["thresholds"].items()
        for key, distance in found.items()
    ]
    return table(("recogniser", "threshold", "cosine distance", "where it comes from"), rows, text=2)


def flat(values: Figures, path: str = "") -> Iterable[tuple[str, str]]:
    """Nested figures, one each, by their path."""
    for key, value in values.items():
        name = f"{path} · {key}" if path else key
        if isinstance(value, Mapping):
            yield from flat(value, name)
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)
            yield name.replace("_", " "), shown


def rate(figures: Figures) -> tuple[str, str, str]:
    """An attack's rate with its interval, chance, and what is allowed."""
    limit = "–" if figures["limit"] is None else f"{figures['limit']:.1%}"
    return span(figures), f"{figures['chance']:.2%}", limit


def span(figures: Figures) -> str:
    """A share with its interval."""
    return f"{figures['share']:.1%} [{figures['low']:.1%}, {figures['high']:.1%}]"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, text: int) -> str:
    """The first `text` columns hold names, which are escaped; the others are HTML of ours."""
    head = "".join(f"<th{_left(i, text)}>{escape(name)}</th>" for i, name in enumerate(heads))
    body = "".join(
        "<tr>"
        + "".join(f"<td{_left(i, text)}>{escape(c) if i < text else c}</td>" for i, c in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def bullets(sentences: Sequence[str]) -> str:
    """A list; empty without sentences."""
    return "<ul>" + "".join(f"<li>{escape(s)}</li>" for s in sentences) + "</ul>" if sentences else ""


def terms(words: Mapping[str, str]) -> str:
    """A list of terms with what they mean."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in words.items()) + "</dl>"


def _left(column: int, text: int) -> str:
    return " class='text'" if column < text else ""
