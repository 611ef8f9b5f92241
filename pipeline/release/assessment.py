"""The section `release.assessment`: what only a person can say of a release, in the order of ISO/IEC 27559:2022.

All of it is published. What is left out is published as "not stated"; doppel invents none of it.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from pipeline.errors import UserError
from pipeline.section import Section


def _plain(text: str) -> str:
    text = " ".join(text.split())
    if not text.isprintable():
        raise ValueError("text without control characters is expected")
    return text


Statement = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000), AfterValidator(_plain)
]
"""A text of the user's, of 1 to 4000 characters."""

NOT_STATED = "not stated"
"""What stands where the publisher has said nothing."""


class HumanTest(Section):
    """A test by people who tried to find somebody in the release, such as a motivated-intruder test."""

    by: Statement
    """Who tried: people, with their skill."""
    hours: float = Field(gt=0, le=100_000)
    """How many hours of work it took, all people together."""
    tools: tuple[Statement, ...] = Field(min_length=1)
    """What they used: search engines, recognisers, social networks, other data sets."""
    result: Statement
    """What they found, and what they did not."""


class SignOff(Section):
    """The person who answers for the decision to release. doppel checks no identity: see `release.sign` for that."""

    name: Statement
    role: Statement
    day: date
    """The day of the decision, as 2026-11-27."""


class Assessment(Section):
    """What only you can say of a release. All of it is published, under RELEASE.json's signature."""

    custodian: Statement | None = None
    """Who answers for the release and can be asked about it, with an address."""
    purpose: Statement | None = None
    """What the release is for."""
    recipients: Statement | None = None
    """Who gets it."""
    access: Literal["public", "agreement", "enclave"] | None = None
    """How they get it: everybody may, under a signed agreement, or only inside of a controlled environment."""
    safeguards: tuple[Statement, ...] = ()
    """Security and privacy practices that recipients are bound to, one a line."""
    motives: Statement | None = None
    """Who might want to find somebody, and why: on purpose, by accident, or after a breach."""
    capacity: Statement | None = None
    """What they may have: skill, time, money, other photographs or the very ones."""
    transparency: Statement | None = None
    """What the people in the photographs were told, and on which ground the photographs are used."""
    harms: Statement | None = None
    """What a person who is found may suffer."""
    data_principals: Statement | None = None
    """Who is in the photographs, and whether some of them are easier to find, or need more protection, than others."""
    population: Statement | None = None
    """Which people those are a sample of, and whether an attacker can know that somebody is among them."""
    tests: tuple[HumanTest, ...] = ()
    """Tests by people. What doppel's own attackers find is added by itself."""
    mitigation: tuple[Statement, ...] = ()
    """What is done against the risk beyond doppel's gate, one a line."""
    roles: Statement | None = None
    """Who decides, who operates, who reviews."""
    policies: Statement | None = None
    """Principles and procedures that the release follows."""
    monitoring: Statement | None = None
    """How the environment of the data is watched once it is out: new data sets, new recognisers, misuse."""
    incident: Statement | None = None
    """What is done, and by whom, where somebody is found."""
    review_by: date | None = None
    """The day until when the assessment is to be looked at again."""
    expires: date | None = None
    """The day after which the assessment holds no longer: `doppel verify` fails then."""
    sign_off: SignOff | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Assessment:
        if self.review_by and self.expires and self.review_by > self.expires:
            raise ValueError("review_by lies after expires")
        signed = self.sign_off.day if self.sign_off else None
        if signed and any(day and day < signed for day in (self.review_by, self.expires)):
            raise ValueError("sign_off.day lies after review_by or expires")
        return self


def check_dates(assessment: Assessment | None, today: date) -> None:
    """Raises `UserError` where a release would be out of date, or signed off in the future, on the day it is made."""
    for name in ("review_by", "expires"):
        day = getattr(assessment, name, None)
        if day is not None and day < today:
            raise UserError(
                f"release.assessment.{name} is {day}, and today is {today}: assess the release anew before it is made"
            )
    if assessment and assessment.sign_off and assessment.sign_off.day > today:
        raise UserError(f"release.assessment.sign_off.day is {assessment.sign_off.day}, and today is {today}")


def expired(assessment: Assessment | None, today: date) -> str | None:
    """The sentence for an assessment that holds no longer; None for one that does, or that never ends."""
    if assessment is None or assessment.expires is None or today <= assessment.expires:
        return None
    return f"the assessment holds no longer: it expired on {assessment.expires}"
