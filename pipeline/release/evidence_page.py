"""What the attacks on a release have found, in the words of its documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pipeline.release.evidence import AttackRate, ReleaseEvidence
from pipeline.release.manifest import ReleaseManifest
from pipeline.release.markdown import bullets, plain, rows

THREATS: tuple[Literal["T1", "T2"], ...] = ("T1", "T2")
"""Both threat models."""
SHOWN = 6
"""Attacks of each threat model that are shown; RELEASE.json has all."""

PROTOCOL = """The *motivated intruder* is a person who wants to find somebody in the release: competent, with the
internet, with software that anybody can download, and without crimes or inside knowledge (after the test of the UK
Information Commissioner's Office). doppel plays this intruder by a program:

1. The intruder holds every released image and, of everybody in the originals, other photographs (T1), or the very
   source photographs (T2).
2. For each released image, each recogniser ranks all people by likeness. The intruder has succeeded where the right
   person comes first.
3. The intruder also runs the operator on the photographs held, trains on the result, and tries to undo the operator.
4. Success is compared with guessing (*chance*), with 95 % intervals over people."""
"""The protocol of the test, as Markdown."""


def intruder(manifest: ReleaseManifest) -> str:
    """The protocol of the motivated intruder's test and its result, as Markdown."""
    return f"{PROTOCOL}\n\n{results(manifest)}"


def results(manifest: ReleaseManifest) -> str:
    """What the test has found, as Markdown."""
    found = manifest.evidence
    if found is None:
        return "**Result.** Not stated: the audit is not done."
    t1, t2 = found.of("T1"), found.of("T2")
    parts = [
        f"**Result.** {len(t1)} attacks were run under T1 and {len(t2)} under T2, on {found.paired} images.",
        required(found),
        f"The attackers that reach farthest under T1:\n\n{attacks(t1[:SHOWN])}" if t1 else "",
        f"T2 is not solved. The attackers that reach farthest:\n\n{attacks(t2[:SHOWN])}" if t2 else "",
        f"The average over images, and the worst person, by the naive search:\n\n{people(found)}",
        f"Each recogniser against a gate without it:\n\n{foreign(found)}" if found.leave_one_out else "",
        f"The attackers, and how well they recognise clean photographs:\n\n{attackers(found)}",
        f"Left open:\n\n{bullets(map(plain, found.not_measured))}" if found.not_measured else "",
    ]
    return "\n\n".join(part for part in parts if part)


def required(found: ReleaseEvidence) -> str:
    """What the release had to prove, and what of it was accepted unproven, as Markdown."""
    rule = found.required
    text = (
        "It was required that every image is paired with its original, that a recogniser of another family than the "
        f"gate's attacks, and that no attack under T1 lies with its whole 95 % interval above {rule.times_chance:g} × "
        f"chance and above {rule.share:.0%}."
    )
    if not found.accepted:
        return f"{text} That holds."
    accepted = bullets(plain(f"{one.name}: {one.why}") for one in found.accepted)
    return f"{text} **That does not hold.** The publisher has accepted by name:\n\n{accepted}"


def attacks(rates: Sequence[AttackRate]) -> str:
    """Attacks as a table, in Markdown."""
    return rows(
        ("attacker", "attack", "found first (95 %)", "chance", "allowed"),
        (
            [plain(one.attacker), plain(one.attack), _span(one), f"{one.chance:.2%}", _percent(one.limit)]
            for one in rates
        ),
    )


def people(found: ReleaseEvidence) -> str:
    """The average and the worst person of each naive search as a table, in Markdown."""
    if not found.worst_people:
        return "Not measured: nobody is known to have images enough to be called the worst."
    average = {(one.threat, one.attacker): one for one in found.attacks if one.attack == "naive"}
    return rows(
        ("threat", "attacker", "average (95 %)", "chance", "worst person", "of people", "by guessing as bad"),
        (
            [
                one.threat, plain(one.attacker), _span(mean := average.get((one.threat, one.attacker))),
                f"{mean.chance:.2%}" if mean else "–", f"{one.share:.0%} of {one.queries} images", str(one.people),
                f"{one.by_guessing:.0%}",
            ]
            for one in found.worst_people
        ),
    )  # fmt: skip


def tools(found: ReleaseEvidence | None) -> str:
    """What the program attacked with, as Markdown."""
    if found is None:
        return "the audit is not done"
    kinds, eyes = ({one.attack for one in found.attacks}, {one.attacker for one in found.attacks})
    return (
        f"{len(found.attacks)} attacks ({plain(', '.join(sorted(kinds)))}) by {len(eyes)} recognisers and layouts "
        f"({plain(', '.join(sorted(eyes)))})"
    )


def foreign(found: ReleaseEvidence) -> str:
    """The leave-one-out attacks as a table, in Markdown."""
    return rows(
        ("attacker", "gate", "images", "found first (95 %)", "chance", "TAR at FAR 1e-2", "1e-3", "best that learns"),
        (
            [
                plain(one.attacker), plain(", ".join(one.gate)), str(one.images), _span(one.rank_1),
                f"{one.rank_1.chance:.2%}" if one.rank_1 else "–",
                *(_percent(one.tar.get(far)) for far in ("1e-2", "1e-3")),
                f"{plain(one.trained.attack)}: {_span(one.trained)}" if one.trained else "–",
            ]
            for one in found.leave_one_out
        ),
    )  # fmt: skip


def attackers(found: ReleaseEvidence) -> str:
    """The recognisers of the audit as a table, in Markdown."""
    return rows(
        ("recogniser", "family", "in the gate", "clean pairs recognised at FAR 1e-2"),
        (
            [plain(one.name), plain(one.family), "yes" if one.in_gate else "no", _percent(one.clean_tar)]
            for one in found.attackers
        ),
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _span(one: AttackRate | None) -> str:
    return f"{one.share:.1%} ({one.low:.1%}–{one.high:.1%})" if one else "–"


def statements(manifest: ReleaseManifest) -> list[str]:
    """The result of the test in a line or two of plain text."""
    found = manifest.evidence
    if found is None:
        return ["attacks: not stated, because the audit is not done"]
    worst = [next(iter(found.of(threat)), None) for threat in THREATS]
    told = [f"{one.threat}, the attack that reaches farthest: {one.told}" for one in worst if one]
    if manifest.bound and (figures := manifest.bound.figures):
        told.append(
            f"T2, bound on every attacker, by its assumptions: {figures.rank_1.share:.2%} found first "
            f"({figures.rank_1.low:.2%} to {figures.rank_1.high:.2%}), chance {figures.chance:.2%}; with what the gate "
            f"tells, at most {figures.with_gate:.2%}"
        )
    return [*told, *(f"accepted unproven: {one.name}: {one.why}" for one in found.accepted)]
