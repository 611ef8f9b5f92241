"""The tables of faces and anonymity in docs/measured.md and docs/release.md, from scripts/evidence/*.json."""

from __future__ import annotations

from typing import Any

import bound_tables
from cells import percent, table

SEARCHES = ("naive", "reverse", "parrot")
LEARNT = ("softmax", "perceptron", "map_to_clean")
NAMES = ("Dlib", "dlib-chip", "faceres", "lbph", "small")
"""Recognisers, the gate's of the evidence first; without `faceres` where that was not on the machine."""


def measured(names: tuple[str, ...], rows: dict[str, Any]) -> list[str]:
    """Those of the recognisers that every row has figures of."""
    return [name for name in names if all(f"T1 {name}" in row["rank_1"] for row in rows.values())]


def anonymity_levels(found: dict[str, Any]) -> str:
    """Figure 5 of the Boomerang paper on our data."""
    names, rows = measured(NAMES, found["levels"]), list[list[Any]]()
    for level, row in found["levels"].items():
        distances = [f"{row[n]['distance']:.3f} ± {row[n]['se']:.3f}" for n in names[:2]]
        over = [f"{percent(row[n]['over'])} ± {100 * row[n]['over_se']:.0f}" for n in names]
        rank = [percent(row["rank_1"][f"T1 {n}"]["share"]) for n in names]
        faces = f"{100 * row['faces']['with_face_if_source_has']:.1f} %"
        rows.append([level, faces, *distances, *over, " · ".join(rank), f"{row['psnr']:.1f} dB"])
    head = [
        "t_boom", "faces found", "distance, Dlib", "distance, dlib-chip", *(f"over, {n}" for n in names),
        f"T1 rank 1: {' · '.join(names)}", "PSNR",
    ]  # fmt: skip
    return table(head, rows)


def anonymity_bound(found: dict[str, Any]) -> str:
    """What no attacker can do better, by level, beside those that were tried."""
    bound, levels = found["bound"], found["levels"]
    return f"{table(bound_tables.head(), bound_tables.rows(bound, levels))}\n\n{bound_tables.levels_for(bound)}"


def anonymity_ladder(found: dict[str, Any]) -> str:
    names = measured(NAMES[2:], found)
    rows = [
        [
            name, f"{100 * row['released']:.1f} %", f"{row['mean_level']:.2f}", f"{row['images_per_second']:.2f}",
            f"{row['psnr']:.2f} dB", f"{row['pose']['eyes']['mean']:.3f}",
            " · ".join(f"{100 * row['rank_1'][f'T1 {n}']['share']:.1f} %" for n in names),
        ]
        for name, row in found.items()
    ]  # fmt: skip
    head = ["t_boom", "released", "mean level", "images/s", "PSNR", "eyes moved by", f"T1 rank 1: {' · '.join(names)}"]
    return table(head, rows)


def guidance(found: dict[str, Any]) -> str:
    """What the recogniser that was left out finds, and what is left of the images, by way."""
    rows = []
    for held_out, one in found.items():
        for name, way in one["ways"].items():
            if "T1" not in way:
                rows.append([f"`{held_out}`", name, f"{100 * way['released']:.0f} %", *["–"] * 6])
                continue
            first, near, eyes = way["T1"]["rank"]["1"], way["nearer_than_a_stranger"], way["pose"]["eyes"]["mean"]
            rows.append([
                f"`{held_out}`", name, f"{100 * way['released']:.0f} %",
                f"{100 * first['share']:.1f} % ({100 * first['low']:.1f}–{100 * first['high']:.1f})",
                f"{near['share']:.2f} ({near['low']:.2f}–{near['high']:.2f})",
                "–" if way["T2"] is None else f"{100 * way['T2']['rank']['1']['share']:.0f} %",
                f"{way['psnr']:.1f} dB", f"{eyes:.3f}", f"{100 * way['gender']['agree']:.0f} %",
            ])  # fmt: skip
    head = ["left out", "way", "released", "T1 rank 1", "own nearer than a stranger's", "T2 rank 1", "PSNR",
            "eyes moved by", "gender agrees"]  # fmt: skip
    return table(head, rows)


def anonymity_caught(found: dict[str, Any]) -> str:
    rows = []
    for name, row in found.items():
        for suffix, part in (("", row), (", undone from 20 known pairs", row.get("after 20 known pairs"))):
            if part is not None:
                rank = [part["rank_1"].get(n, {"share": None}) for n in ("T1 dlib-chip", "T2 dlib-chip", "T2 colours")]
                rows.append([name + suffix, *part["verdicts"].values(), *(percent(r["share"]) for r in rank)])
    head = ["operator", "anonymous", "recognisable", "undecided", "T1 rank 1, dlib-chip", "T2 rank 1, dlib-chip",
            "T2 rank 1, colours"]  # fmt: skip
    return table(head, rows)


def anonymity_release(found: dict[str, Any]) -> str:
    """Rank 1 of every attacker with its interval, T1 and T2 apart."""
    rows = []
    for threat in ("T1", "T2"):
        for name, one in found["audit"][threat]["recognisers"].items():
            searches = [one["reidentification"].get(kind) for kind in ("clean", *SEARCHES)]
            learnt = [one["trained"].get(kind) for kind in LEARNT]
            cells = [first_rank(figures) for figures in (*searches, *learnt)]
            rows.append([threat, f"`{name}`", *cells, f"{100 * searches[1]['rank']['1']['chance']:.2f} %"])
    head = [
        "threat",
        "attacker",
        "clean",
        "naive",
        "reverse",
        "parrot",
        "trained: softmax",
        "perceptron",
        "map",
        "chance",
    ]
    return table(head, rows)


def anonymity_leave_one_out(found: dict[str, Any]) -> str:
    """What recognisers find in what the others alone would have released, from the release's own audit."""
    rows = []
    for one in found["audit"]["evidence"]["leave_one_out"]:
        first, learnt = one["rank_1"], one["trained"]
        rows.append([
            f"`{one['attacker']}`", ", ".join(f"`{name}`" for name in one["gate"]), one["images"], one["earlier"],
            beside_chance(first), f"{100 * one['rank_10']:.1f}; {100 * one['rank_10_chance']:.1f} %",
            *(f"{100 * one['tar'][far]:.2f} %" for far in ("1e-2", "1e-3")),
            f"{learnt['attack'].replace('_', ' ')}: {beside_chance(learnt)}" if learnt else "–",
        ])  # fmt: skip
    return table(["attacker, left out", "gate", "images", "… of an earlier attempt", "rank 1; chance",
                  "rank 10; chance", "TAR at FAR 1e-2", "1e-3", "worst trained; chance"], rows)  # fmt: skip


def anonymity_attackers(found: dict[str, Any] | None) -> str:
    """Rank 1, beside chance, of attackers who train networks or run the operator, by level."""
    if found is None:
        return "Not measured yet: `python scripts/evidence_anonymity.py --only attackers`."
    attacks = ("naive", "own_parrot", "fine_tuned", "fine_tuned_parrot", "inverter")
    rows = []
    for level, row in found["levels"].items():
        names = dict.fromkeys(tuple(key.split()[:2]) for key in row if key.count(" ") == 2 and key[:2] in ("T1", "T2"))
        for threat, name in sorted(names, key=lambda pair: pair[0]):
            cells = [beside_chance(row.get(f"{threat} {name} {attack}")) for attack in attacks]
            rows.append([level, threat, f"`{name}`", *cells])
    return table(["t_boom", "threat", "attacker", *(f"`{attack}`" for attack in attacks)], rows)


def beside_chance(rank: dict[str, float] | None) -> str:
    if rank is None:
        return "–"
    share = f"{100 * rank['share']:.1f} ({100 * rank['low']:.1f}–{100 * rank['high']:.1f})"
    return f"{share}; {100 * rank['chance']:.2f} %"


def first_rank(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "–"
    rank = figures["rank"]["1"]
    return f"{100 * rank['share']:.1f} ({100 * rank['low']:.1f}–{100 * rank['high']:.1f}) %"


def attackers(found: dict[str, Any]) -> str:
    rows = [
        [
            f"`{name}`", *(f"{row['tar'][far]:.3f}" for far in ("1e-2", "1e-3")), f"{row['eer']:.3f}",
            percent(row["second_photograph"]["rank_1"]),
        ]
        for name, row in found["recognisers"].items()
    ]  # fmt: skip
    return table(
        ["recogniser, clean photographs of 64 px", "TAR at FAR 1e-2", "1e-3", "EER", "second photograph found first"],
        rows,
    )


def face_model(found: dict[str, Any]) -> str:
    rows = []
    for name, model in found.items():
        for level, row in model["levels"].items() if name != "machine" else ():
            first = [percent(rate and rate["share"]) for rate in row["rank_1_of_a_second_photograph"].values()]
            eyes = f"{row['eyes']['mean']:.3f} ({row['eyes']['median']:.3f})"
            rows.append([name, level, percent(row["faces_found"]), eyes, f"{row['psnr_64']:.1f} dB",
                         f"{row['fid_small']:.1f}", *first])  # fmt: skip
    first = next(model for name, model in found.items() if name != "machine")
    judges = list(next(iter(first["levels"].values()))["rank_1_of_a_second_photograph"])
    head = ["model", "t_boom", "faces found", "eyes off by, mean (median)", "PSNR at 64 × 64", "FID (`small`)"]
    told = f"{first['people']} people, {first['gallery']} others, {first['steps']} steps; {found['machine']}."
    return f"{table([*head, *(f'found first, {name}' for name in judges)], rows)}\n\n{told}"


def certificates(found: dict[str, Any]) -> str:
    rows = [
        [
            f"`{c['recogniser']}`", f"{c['size'][0]} px", f"{100 * c['faces_found']:.1f} %",
            *(f"{c['tar'][far]:.3f}" for far in ("1e-2", "1e-3", "1e-4")), f"{c['eer']:.3f}",
            "–" if c["deepface_threshold"] is None else f"{c['deepface_tar']:.3f}, {c['deepface_far']:.4f}",
        ]
        for c in sorted(found.values(), key=lambda c: (c["recogniser"], c["size"]))
    ]  # fmt: skip
    head = [
        "recogniser",
        "size",
        "photographs with a face found",
        "TAR at FAR 1e-2",
        "1e-3",
        "1e-4",
        "EER",
        "TAR, FAR at deepface's threshold",
    ]
    return table(head, rows)


def face_utility(found: dict[str, Any]) -> str:
    """Disguises with the worst attack on each and what it keeps; – where nothing was left to measure."""
    rows = []
    for name, one in found["disguises"].items():
        worst, kept = one["attacks"][one["worst"]], one["utility"]
        landmarks, attributes, learnt = kept["landmarks"], kept["attributes"], kept["classifier"]
        share = [attributes.get(key, {}).get("share") for key in ("gender", "emotion")]
        rows.append([
            name, f"{one['worst']}: {100 * worst['share']:.0f} % ({100 * worst['low']:.0f}–{100 * worst['high']:.0f})",
            percent(kept["faces_found"]), "–" if landmarks is None else f"{landmarks['error']['mean']:.3f}",
            "–" if landmarks is None else f"{landmarks['yaw']['mean']:.0f}°", *map(percent, share),
            f"{attributes['age']['mean_difference']:.1f}" if "age" in attributes else "–", f"{kept['psnr']:.1f}",
            f"{kept['fid of `small`']:.0f}", percent(learnt and learnt["accuracy"]),
        ])  # fmt: skip
    head = [
        "disguise", "worst attack: rank 1 (95 %)", "faces found", "landmarks, eye distances", "yaw", "same gender",
        "same expression", "age, years", "PSNR, dB", "FID of `small`", "classifier",
    ]  # fmt: skip
    return table(head, rows)
