"""From an audit's figures to what its release has proven, and what keeps it from being sealed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pipeline.anonymity.attacks.figures import RankShare, RecogniserFigures, SearchFigures, ThreatFigures
from pipeline.anonymity.attacks.guessing import holm
from pipeline.anonymity.attacks.results import searches
from pipeline.anonymity.faces.recognise import FAMILIES
from pipeline.release.evidence import (
    PAIRING,
    UNMEASURED,
    UNUSED,
    Attacker,
    AttackRate,
    Finding,
    LeftOut,
    ReleaseEvidence,
    Require,
    WorstPerson,
)
from pipeline.release.manifest import ReleaseManifest

DIGITS = 5
"""Decimals of the rates that are published."""


def family(name: str) -> str:
    """The family of a recogniser; one that is not known by name is a family of its own."""
    return FAMILIES.get(name, name)


def gate_of(manifest: ReleaseManifest) -> tuple[str, ...]:
    """The recognisers of the gate, as RELEASE.json says; none where it does not say."""
    return tuple(one["name"] for one in (manifest.facts.get("gate") or {}).get("recognisers", ()))


def guides_of(manifest: ReleaseManifest) -> tuple[str, ...]:
    """The families of the recognisers that guided the operator, as RELEASE.json says."""
    return tuple(sorted({family(name) for name in (manifest.facts.get("guidance") or {}).get("recognisers", ())}))


def attack_rates(threat: Literal["T1", "T2"], found: ThreatFigures, require: Require) -> tuple[AttackRate, ...]:
    """All attacks under one threat model, each against its limit and against guessing."""
    rows = list(searches(found))
    corrected = holm([figures.rank["1"].by_guessing for _, _, figures in rows])
    return tuple(
        rated(threat, name, kind, figures, p, require) for (name, kind, figures), p in zip(rows, corrected, strict=True)
    )


def rated(
    threat: Literal["T1", "T2"], attacker: str, attack: str, figures: SearchFigures, p: float, require: Require
) -> AttackRate:
    """One attack against its limit; `p` is its probability by guessing, corrected."""
    first: RankShare = figures.rank["1"]
    share, low, high, chance = (round(value, DIGITS) for value in (first.share, first.low, first.high, first.chance))
    return AttackRate(
        threat=threat, attacker=attacker, attack=attack, queries=figures.queries, people=figures.people,
        share=share, low=low, high=high, chance=chance,
        limit=round(require.limit(first.chance), DIGITS) if threat == "T1" else None, p=round(p, DIGITS),
    )  # fmt: skip


def worst_people(threat: Literal["T1", "T2"], found: ThreatFigures) -> Iterator[WorstPerson]:
    """Yields the person whom each recogniser finds most often, without their number."""
    for name, one in (found.recognisers or {}).items():
        if (worst := one.worst) is not None:
            yield WorstPerson(
                threat=threat, attacker=name, queries=worst.queries, share=round(worst.share, DIGITS),
                people=worst.people, by_guessing=round(worst.by_guessing, DIGITS),
            )  # fmt: skip


def attackers(
    recognisers: Sequence[str], gate: Sequence[str], guides: Sequence[str], t1: ThreatFigures
) -> tuple[Attacker, ...]:
    """The recognisers of the audit, and how well each tells clean people apart; `guides` are families."""
    return tuple(
        Attacker(
            name=name, family=family(name), in_gate=name in gate, guides=family(name) in guides,
            clean_tar=None if (tar := clean_tar((t1.recognisers or {}).get(name))) is None else round(tar, DIGITS),
        )
        for name in recognisers
    )  # fmt: skip


def clean_tar(figures: RecogniserFigures | None) -> float | None:
    """The share of clean pairs of one person that are recognised at FAR 1e-2; None where no pairs are known."""
    told = figures.clean_verification if figures else None
    return told.tar["1e-2"].share if told and "1e-2" in told.tar else None


def left_out(
    attacker: str, gate: Sequence[str], images: int, earlier: int, figures: RecogniserFigures, require: Require
) -> LeftOut:
    """The attack by a recogniser on images that passed a gate without it."""
    naive, learnt = figures.reidentification.get("naive"), [
        (kind, one) for kind, one in figures.trained.items() if one
    ]  # fmt: skip
    best = max(learnt, key=lambda pair: (pair[1].rank["1"].low, pair[1].rank["1"].share), default=None)

    def rate(kind: str, one: SearchFigures) -> AttackRate:
        return rated("T1", attacker, kind, one, one.rank["1"].by_guessing, require)

    tenth = naive.rank["10"] if naive else None
    told = figures.verification
    return LeftOut(
        attacker=attacker, gate=tuple(gate), images=images, earlier=earlier,
        rank_1=rate("naive", naive) if naive else None,
        rank_10=round(tenth.share, DIGITS) if tenth else None,
        rank_10_chance=round(tenth.chance, DIGITS) if tenth else None,
        tar={far: round(tar.share, DIGITS) for far, tar in told.tar.items()} if told else {},
        trained=rate(*best) if best else None,
    )  # fmt: skip


def findings_of(
    unpaired: Mapping[str, int], released: int, t1: ThreatFigures, who: Sequence[Attacker],
    attacks: Sequence[AttackRate],
) -> tuple[Finding, ...]:  # fmt: skip
    """Everything that is not as a release requires it, the worst first."""
    found = [
        Finding(name=PAIRING, why=f"{count} of {released} released images are paired with no original: {reason}")
        for reason, count in sorted(unpaired.items())
    ]
    if t1.recognisers is None:
        found.append(Finding(name=UNMEASURED, why=f"T1 was not measured: {t1.reason}"))
    used = {one.family for one in who if one.in_gate or one.guides}
    if not {one.family for one in who} - used:
        names = ", ".join(sorted(used)) or "none"
        why = f"every recogniser of the audit is of a family of the gate, or of its guidance ({names})"
        found.append(Finding(name=UNUSED, why=why))
    broken = sorted((one for one in attacks if one.too_often), key=lambda one: -one.reach)
    return (*found, *(Finding(name=one.name, why=one.told) for one in broken))


def judged(evidence: ReleaseEvidence, found: Sequence[Finding], accept: Sequence[str]) -> ReleaseEvidence:
    """The evidence with what is not met and what is accepted; an image without an original is never accepted."""
    accepted = tuple(one for one in found if one.name in accept and one.name != PAIRING)
    unmet = tuple(one for one in found if one not in accepted)
    return evidence.model_copy(update={"unmet": unmet, "accepted": accepted})
