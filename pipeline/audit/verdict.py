"""The verdict of an audit in sentences: does it hold, which attack gets farthest, and what can be done about it."""

from __future__ import annotations

from pipeline.audit.results import AuditResults, SampleFigures
from pipeline.release.evidence import PAIRING, UNMEASURED, UNUSED, Finding, ReleaseEvidence

ERROR = 0.05
"""The probability that any attack of a threat model is said to beat chance by accident."""
WEAK = 0.8
"""A recogniser that recognises fewer clean pairs at FAR 1e-2 proves little by failing; the floor of a certificate."""
BY_LEARNING = ("softmax", "perceptron", "map_to_clean", "own_parrot", "fine_tuned", "fine_tuned_parrot")
"""Attacks that learn from released images of known people, or run the operator themselves."""


def lines(results: AuditResults) -> tuple[str, ...]:
    """What is to be read first, one sentence or a few each."""
    evidence = results.evidence
    return (
        headline(evidence), *part_of(results.sample), *reach(evidence),
        *(results.bound.said[:1] if results.bound else ()), *results.findings,
        *(f"what to do: {advice(one)}" for one in evidence.unmet),
    )  # fmt: skip


def part_of(sample: SampleFigures | None) -> tuple[str, ...]:
    """How much of a large release was attacked; nothing where it was all."""
    if sample is None:
        return ()
    return (
        f"Sampled: {sample.originals} of {sample.of_originals} originals and {sample.released} of "
        f"{sample.of_released} released images, of {sample.people} of {sample.of_people} people.",
    )


def headline(evidence: ReleaseEvidence) -> str:
    """Whether what is required holds."""
    required = evidence.required
    if evidence.unmet:
        return f"Verdict: not proven. {len(evidence.unmet)} of what is required is not met: {names(evidence.unmet)}."
    if evidence.accepted:
        return f"Verdict: what is required holds, but for what was accepted by name: {names(evidence.accepted)}."
    tried = len(evidence.of("T1"))
    return (
        f"Verdict: what is required holds: {tried} attacks were run under T1, and none finds people so often that "
        f"its whole 95 % interval lies above {required.times_chance:g} × chance and above {required.share:.0%}."
    )


def names(found: tuple[Finding, ...]) -> str:
    """The names of findings, in order."""
    return "; ".join(one.name for one in found)


def reach(evidence: ReleaseEvidence) -> tuple[str, ...]:
    """How far the attacks got: the worst under each threat model, and the worst that the gate could not know."""
    t1, t2 = evidence.of("T1"), evidence.of("T2")
    told = list[str]()
    if t1:
        widest = max(one.high for one in t1)
        beaten = [one for one in t1 if one.p <= ERROR]
        told.append(f"Worst attack under T1 (other photographs of the person): {t1[0].told}.")
        told.append(
            f"{len(beaten) or 'None'} of {len(t1)} T1 attacks beat guessing after correction for their number (Holm, "
            f"{ERROR:.0%}){': ' + ', '.join(one.name.removeprefix('T1 ') for one in beaten[:5]) if beaten else ''}"
            f"{' …' if len(beaten) > 5 else ''}. Rates up to {widest:.1%}, the highest upper end, are not excluded."
        )
    if (strange := foreign(evidence)) is not None:
        told.append(strange)
    if t2:
        told.append(f"T2 (the source photograph itself) is not solved. Worst attack: {t2[0].told}.")
    return tuple(told)


def foreign(evidence: ReleaseEvidence) -> str | None:
    """The most successful attack by a recogniser that the gate did not use; None without any."""
    tried = [(one, rate) for one in evidence.leave_one_out for rate in (one.rank_1, one.trained) if rate]
    if not tried:
        return None
    one, rate = max(tried, key=lambda pair: (pair[1].reach, pair[1].share))
    able = {who.name: who.clean_tar for who in evidence.attackers}
    strong = [name for name, tar in able.items() if tar is not None and tar >= WEAK]
    tested = {one.attacker for one in evidence.leave_one_out}
    weak = "" if tested & set(strong) else " None of them recognises clean photographs well, so that proves little."
    return f"Worst attack by a recogniser left out of the gate ({', '.join(one.gate)}): {rate.told}.{weak}"


def advice(finding: Finding) -> str:
    """What can be done about a finding."""
    return f"{finding.name}: {remedy(finding.name)}"


def remedy(name: str) -> str:
    """The remedy for a finding of this name, in words."""
    if name == PAIRING:
        return "name the same originals as the job did, by the same pattern, and give its salt"
    if name == UNMEASURED:
        return (
            "name who is in the originals (anonymity.identity; --identity); or, where no second photographs exist, "
            f"accept: [{UNMEASURED}], and the card says so"
        )
    if name == UNUSED:
        return "let a recogniser of another family attack: one that the gate does not use, with its weights in place"
    _, attacker, attack = name.split(" ", 2)
    raised = "raise operator.t_boom and the ladder, for images released at lower levels leak most"
    if attack in BY_LEARNING or attack == "parrot":
        return f"{raised}: what survives the operator can be learnt, and no recogniser in the gate removes it"
    if attack in ("naive", "reverse"):
        return f"{raised}; or put {attacker} into anonymity.recognisers, if it is one of faces with a certificate"
    return f"{raised}; or choose an operator that cannot be undone"
