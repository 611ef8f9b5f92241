"""What a release must prove before it is sealed, and what its audit found: the part of RELEASE.json that says it.

Every figure is a rate of attacks, with its interval over people. No name, key or place gets into it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.section import Section

PAIRING, UNMEASURED, UNUSED = "pairing", "unmeasured", "unused_family"
"""Names of findings: images that are paired with no original; T1 that nobody could measure; an audit whose recognisers
are all of the gate's families."""
NAME = re.compile(rf"{UNMEASURED}|{UNUSED}|T1 \S.*")
"""The names of findings that a recipe may accept. An image without an original is not among them: of it, nothing is
known."""


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"it is no finding; allowed are {UNMEASURED}, {UNUSED} and T1 RECOGNISER ATTACK")
    return name


Accepted = tuple[Annotated[str, AfterValidator(_name)], ...]
"""Names of findings, as an audit prints them."""


class Require(Section):
    """What the audit must find before a release is sealed.

    T1 was measured, every image is paired with its original, a family of recognisers attacks that the gate does not
    use, and no T1 attack finds people more often than allowed: its whole 95 % interval over people lies above neither
    `times_chance` × chance nor `share`, whichever is larger. Chance is the rate of guessing in the same gallery.
    """

    times_chance: float = Field(default=2, ge=1)
    """A rate of so many times chance is allowed."""
    share: float = Field(default=0.02, ge=0, lt=1)
    """A rate up to this is allowed, whatever chance is: the fraction of queries whose right person is found first."""

    def limit(self, chance: float) -> float:
        """The largest rate that is allowed where guessing finds `chance` of the queries, at most 1."""
        return min(1, max(self.times_chance * chance, self.share))


class Finding(Section):
    """Something that keeps a release from being sealed, unless its recipe accepts it by name."""

    name: str
    """As in `release.accept`: `unused_family`, `unmeasured`, `pairing`, or `T1 RECOGNISER ATTACK`."""
    why: str
    """A sentence with the figures."""


class AttackRate(Section):
    """How often one attack finds the right person first."""

    threat: Literal["T1", "T2"]
    attacker: str
    """The recogniser, or the layout, that the attack compares by."""
    attack: str
    """How it attacks: `naive`, `reverse`, `parrot`, one that learns, or one that undoes the operator."""
    queries: int
    people: int
    """How many people the queries show."""
    share: float
    """The fraction of the queries that found the right person first."""
    low: float
    """Lower end of its 95 % interval over people."""
    high: float
    """Upper end of that interval."""
    chance: float
    """The fraction that guessing would find."""
    limit: float | None
    """The fraction up to which `require` allows the lower end; None under T2, which is measured and not required."""
    p: float
    """The probability that guessing finds so many, corrected by Holm for all attacks under the same threat model."""

    @property
    def name(self) -> str:
        """The name of the finding that it is where it goes too far."""
        return f"{self.threat} {self.attacker} {self.attack}"

    @property
    def too_often(self) -> bool:
        """Whether its whole interval lies above the limit."""
        return self.limit is not None and self.low > self.limit

    @property
    def reach(self) -> float:
        """How far it gets: the lower end of its interval, under T1 in units of what is allowed."""
        return self.low / self.limit if self.limit else self.low

    @property
    def told(self) -> str:
        """The figures as a sentence."""
        limit = "" if self.limit is None else f", allowed {self.limit:.1%}"
        return (
            f"{self.attacker}, {self.attack}: {self.share:.1%} found first ({self.low:.1%} to {self.high:.1%}), "
            f"chance {self.chance:.2%}{limit}"
        )


class WorstPerson(Section):
    """The person whom the naive search of one recogniser finds first most often. Nobody is told who it is."""

    threat: Literal["T1", "T2"]
    attacker: str
    queries: int
    """How many released images show the person."""
    share: float
    """The fraction of these that found the person first."""
    people: int
    """Among how many people this one is the worst: those with images enough to tell."""
    by_guessing: float
    """The probability that guessing would find one of these people as often."""


class Attacker(Section):
    """A recogniser that the release was attacked with, and how good it is."""

    name: str
    family: str
    """Recognisers of one family share a network or its design, and with it their blind spots."""
    in_gate: bool
    """Whether the gate used it: then it finds nobody, because that is what the gate asks for."""
    guides: bool = False
    """Whether images were led away from what it sees, or from what its family does: then its failing proves nothing."""
    clean_tar: float | None
    """The fraction of pairs of clean originals of one person that it recognises at FAR 1e-2; None where no pairs are
    known. One that recognises few clean faces proves little by failing."""


class LeftOut(Section):
    """An attack by a recogniser that the gate did not know: what a recogniser that nobody here has may reach."""

    attacker: str
    gate: tuple[str, ...]
    """The recognisers that the images had to pass."""
    images: int
    """How many images such a gate would have released."""
    earlier: int
    """How many of these the whole gate refused, and this one would not have: they stand for what it released later, or
    withheld."""
    rank_1: AttackRate | None
    """The naive search; None without pairs."""
    rank_10: float | None
    """The fraction of queries whose right person is among the first ten."""
    rank_10_chance: float | None
    """The fraction that guessing would find among the first ten."""
    tar: dict[str, float]
    """The fraction of pairs that are recognised, by the name of the false acceptance rate."""
    trained: AttackRate | None
    """The attacker that learns and finds most people first; None with too few people."""


SAMPLE = 20_000
"""Originals, or released images, beyond which an audit attacks a sample of people where nothing else is said."""


class ReleaseEvidence(Section):
    """What the audit of a release found before it was sealed."""

    required: Require
    paired: int
    """Images that are paired with their original; all of them, in a sealed release."""
    attackers: tuple[Attacker, ...]
    attacks: tuple[AttackRate, ...]
    """All attacks, T1 and T2."""
    worst_people: tuple[WorstPerson, ...] = ()
    """One for each recogniser and threat; none where nobody has images enough."""
    leave_one_out: tuple[LeftOut, ...]
    not_measured: tuple[str, ...]
    """Sentences that say what was left open."""
    unmet: tuple[Finding, ...] = ()
    """What keeps the release from being sealed; empty in a sealed one."""
    accepted: tuple[Finding, ...] = ()
    """What would have kept it from being sealed, had the recipe not accepted it by name."""

    def of(self, threat: Literal["T1", "T2"]) -> Sequence[AttackRate]:
        """The attacks under one threat model, those that reach farthest first."""
        return sorted((one for one in self.attacks if one.threat == threat), key=lambda one: (-one.reach, -one.share))
