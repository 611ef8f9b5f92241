"""ASSESSMENT.md: the evidence of a release in the shape of ISO/IEC 27559:2022, to be filed.

What the publisher has said stands beside what doppel has measured, and whatever nobody has said is "not stated".
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.release.assessment import NOT_STATED, Assessment
from pipeline.release.card import bound, groups, residual, scans, verification
from pipeline.release.evidence_page import PROTOCOL, results, tools
from pipeline.release.manifest import ReleaseManifest
from pipeline.release.markdown import bullets, plain, rows

ACCESS = {
    "public": "everybody may have it; nothing binds them",
    "agreement": "whoever has signed an agreement",
    "enclave": "only inside of a controlled environment",
}
"""The ways to get a release, in words."""
COMMANDS = {
    "run": "`doppel run RECIPE` (originals, recipe and salt are the publisher's)",
    "audit": "`doppel audit ORIGINALS RELEASE --salt-file SALT --identity SPEC`",
    "verify": "`doppel verify RELEASE --key PUB`",
}
"""The commands that make the figures again."""


def assessment_page(manifest: ReleaseManifest) -> str:
    """The document as Markdown. It shows no image, and of originals it says only how many there were."""
    told = manifest.assessment or Assessment()
    return f"""# Assessment of a release of anonymised images

In the order of ISO/IEC 27559:2022, *Privacy enhancing data de-identification framework*. It is no certificate of
conformity. Lines marked **P** are the publisher's own words, which doppel does not check. All else was derived from the
release and its making, by doppel {manifest.code}. *Not stated* means that nobody has said it.

## 6 Context

### 6.2 Threats, recipients, their practices

{
        said(
            ("Custodian", told.custodian),
            ("Purpose", told.purpose),
            ("Recipients", told.recipients),
            ("Access", told.access and ACCESS[told.access]),
            ("Practices that recipients are bound to", told.safeguards),
            ("Motives of whoever might want to find somebody", told.motives),
            ("Their capacity", told.capacity),
        )
    }
- Threat model T1. {manifest.threat_models["T1"]}
- Threat model T2. {manifest.threat_models["T2"]}

### 6.3 Transparency and impact

{said(("What people were told", told.transparency), ("Harm to whoever is found", told.harms))}

## 7 Data

### 7.2 Features

{said(("People in the photographs", told.data_principals))}
- Type: still images, each encoded afresh from pixels, without metadata. Direct identifiers (names, keys, times, places)
  are removed; keys are keyed hashes.
- What may identify indirectly: faces (replaced until no recogniser of the gate knows them), pose, clothes, scene
  (kept in part), {published(manifest)}.
- {groups(manifest.counts).replace(chr(10), chr(10) + "  ")}

{figures(manifest)}

### 7.3 Attacks

{said(("Population and sample", told.population))}
- Both the average over people and the worst person are measured, since an average hides whoever is found always.
- The attacker is assumed to know that a person is in the release (which is the harder case for the publisher), unless
  the publisher says otherwise above.

## 8 Identifiability and mitigation

### 8.2 Quantified identifiability

{results(manifest)}

Made again by {COMMANDS["audit"]}; a recogniser of the gate that is left out of it, and the bound below, by
{COMMANDS["run"]}, since only the job knows what its gate refused.

A bound on every attacker who holds the source (T2):

{bound(manifest.bound)}

### 8.2.3 Adversarial testing

{PROTOCOL}

By the program: {tools(manifest.evidence) if manifest.evidence else "the audit is not done"}, doppel {
        manifest.code
    }. Its hours
stand in the publisher's private audit (`made_with.seconds` of `audit.json`), since this document is the same, byte for
byte, whoever makes the release again. By people:

{tests(told)}

### 8.3 Mitigation

- Each image was judged by the gate before it was written: it went round again with more noise, or was withheld, where
  a recogniser still knew the person. The gate and its thresholds stand in `RELEASE.json`, `facts.gate`.
{bullets([*map(plain, manifest.facts.get("gate_in_words", ())), *scans(manifest.scans)])}
{said(("Beyond that", told.mitigation))}

Counts and scans are made again by {COMMANDS["run"]}.

Risks that are left:

{bullets(residual(manifest))}

## 9 Governance

{
        said(
            ("Roles", told.roles),
            ("Policies", told.policies),
            ("Monitoring once the data are out", told.monitoring),
            ("In case of an incident", told.incident),
            ("To be reviewed by", told.review_by),
            ("Expires on", told.expires),
        )
    }
{sign_off(told)}

## How to verify this document

{verification(manifest)}
"""


def said(*entries: tuple[str, object]) -> str:
    """A list of what the publisher has said, or has not."""
    return bullets(f"**P** {name}: {_words(value)}" for name, value in entries)


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return "; ".join(plain(str(part)) for part in value) or NOT_STATED
    return NOT_STATED if value is None else plain(str(value))


def published(manifest: ReleaseManifest) -> str:
    """What is published beside images, in words."""
    members = f"members {', '.join(manifest.members)}" if manifest.members else "no further members"
    return f"{members}, {'labels' if manifest.counts.holders else 'no labels'}"


def figures(manifest: ReleaseManifest) -> str:
    """The counts of the release, each with the command that makes it again."""
    counts = manifest.counts
    lines: Iterable[tuple[str, object, str]] = (
        ("photographs read", counts.read, "run"),
        ("photographs withheld", sum(counts.quarantined.values()), "run"),
        ("images released", counts.released, "verify"),
        ("known people", NOT_STATED if counts.people is None else counts.people, "run"),
        *((f"holders of label {label}", count, "run") for label, count in counts.holders.items()),
        *((f"released from level {level}", count, "run") for level, count in counts.released_by_level.items()),
        *((f"released as {name}", count, "run") for name, count in counts.released_by_verdict.items()),
    )
    return rows(("figure", "value", "made again by"), ([plain(name), str(n), COMMANDS[by]] for name, n, by in lines))


def tests(told: Assessment) -> str:
    """What people have tried, as Markdown."""
    if not told.tests:
        return f"- **P** {NOT_STATED}: no test by people is known to doppel."
    lines = ([plain(t.by), f"{t.hours:g}", "; ".join(map(plain, t.tools)), plain(t.result)] for t in told.tests)
    return rows(("**P** tested by", "hours", "tools", "result"), lines)


def sign_off(told: Assessment) -> str:
    """Who has signed off, as Markdown."""
    if (signed := told.sign_off) is None:
        return f"- **P** Signed off by: {NOT_STATED}. Nobody has taken responsibility for this release by name."
    return f"- **P** Signed off by: {plain(signed.name)}, {plain(signed.role)}, on {signed.day}."
