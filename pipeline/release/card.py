"""The data card of a release: what it is, how it was made and verified, and what it does not protect from."""

from __future__ import annotations

import json

from pipeline.anonymity.bound.figures import SourceBound
from pipeline.release.evidence_page import intruder
from pipeline.release.manifest import ReleaseCounts, ReleaseManifest, Scans
from pipeline.release.markdown import bullets, table

THREAT_MODELS = {
    "T1": "The attacker holds other photographs of the person. This is what face recognition does and what the gate "
    "defends against: every released face was compared with all originals, and what could not be proven was withheld. "
    "The proof is as good as the recognisers named here.",
    "T2": "The attacker holds the very source photograph. Not solved: layout, pose, clothes and background link an "
    "image to its source, whatever the face. That no near-copy of an original was found says nothing against it.",
}
"""What both threat models mean, in the words of the card."""
RESIDUAL = (
    "Whoever holds the very photograph (T2) may tell that it was used. This is not solved.",
    "A recogniser that nobody here has tried may know a person again. The figures hold for those that are named.",
    "People who know somebody well may recognise clothes, a room, a posture, or jewellery.",
    "A face that the detector does not find is compared by nobody; where it counts faces, such images were withheld.",
    "Several images of one person, or several copies of one image, tell more together than each alone.",
    "Better attacks will come. A release cannot be called back from those who have it.",
)
"""Risks that are left in every release, whatever its figures say."""
OF_MEMBERS = "Further members are published byte for byte. How many people share their values was not counted."
"""The risk of members."""

UNSIGNED = """The release is not signed: nothing in this folder proves who made it. To be sure of `RELEASE.json`,
compare its sha256 with the one that the publisher states elsewhere: `doppel verify THIS_FOLDER --sha256 HEX`, which
also checks the sha256 of every file, and that nothing is extra."""
"""How to verify a release without a signature, as Markdown."""


def card(manifest: ReleaseManifest) -> str:
    """The card as Markdown. It shows no image, and says nothing about originals except how many there were."""
    counts = manifest.counts
    held_back = sum(counts.quarantined.values())
    labels = "none" if manifest.labels is None else ", ".join(map(str, manifest.labels))
    return f"""# Anonymised images

{counts.released} images, each made from a photograph by a diffusion model and judged before it was written.
{counts.read} photographs were read; {held_back} were withheld, because nothing could be proven of them.

- Names are keyed hashes, order and division into files are random, times are constant.
- Image files hold pixels and nothing else. Further members: {", ".join(manifest.members) or "none"}. Labels: {labels}.
- `RELEASE.json` has all figures. `ASSESSMENT.md` gives them in the order that auditors know (ISO/IEC 27559). Nothing in
  this folder shows an original.

## What this protects from, and what not

- **T1.** {manifest.threat_models["T1"]}
- **T2.** {manifest.threat_models["T2"]}

## What nobody can do better who holds the source

{bound(manifest.bound)}

## The motivated intruder

{intruder(manifest)}

## People and groups

{groups(counts)}

## Residual risks

{bullets(residual(manifest))}

## From which level the images were made

{table(("t_boom/T", "images"), counts.released_by_level)}

## What the gate said of them

{table(("verdict", "images"), counts.released_by_verdict)}

{bullets(manifest.facts.get("gate_in_words", ()))}

## Why photographs were withheld

{table(("reason", "images"), counts.quarantined)}

## What was looked for before publication

{bullets(scans(manifest.scans))}

## How it was made

```json
{json.dumps(manifest.facts, indent=1, sort_keys=True)}
```

doppel {manifest.code}.

## How to verify it

{verification(manifest)}
"""


def verification(manifest: ReleaseManifest) -> str:
    """How anybody can verify the release, as Markdown."""
    how = UNSIGNED
    if manifest.signer:
        how = f"""`doppel verify THIS_FOLDER --key PUB` checks the signature and the sha256 of every file, and that
nothing is extra. Take PUB, the public key, from the publisher, and never from this folder. It should be (Ed25519, in
hexadecimal) `{manifest.signer}`."""
    return f"""{how}

`doppel audit ORIGINALS THIS_FOLDER` attacks the release with face recognition where the originals are at hand. The
`hmac` in `RELEASE.json` can be checked by the publisher alone, with the salt of the job."""


def bound(found: SourceBound | None) -> str:
    """The bound on attackers who hold the originals, with all that it rests on, as Markdown."""
    return "Not computed." if found is None else bullets(found.said)


def groups(counts: ReleaseCounts) -> str:
    """How many people there are, and how many hold each published label, as Markdown."""
    known = (
        "How many people are in the release is not known: the job was not told who is in a photograph."
        if counts.people is None
        else f"The images were made from photographs of {counts.people} known people."
    )
    if not counts.holders:
        return f"{known} No labels are published."
    what = "images" if counts.people is None else "people"
    smallest = min(counts.holders.values())
    return f"""{known} The smallest group that shares a published label is of {smallest} {what}.

{table(("label", what), counts.holders)}"""


def residual(manifest: ReleaseManifest) -> tuple[str, ...]:
    """The risks that are left, one sentence or two each."""
    return (*RESIDUAL, *([OF_MEMBERS] if manifest.members else []))


def scans(found: Scans) -> list[str]:
    """What the searches for copies have found, a sentence each."""
    copies = found.near_copies
    lines = [
        f"Near-copies: {copies.released} images against {copies.originals} originals by perceptual hash; the "
        f"closest differ in {copies.closest_bits} of 64 bits, and {copies.within_bits} or fewer count as a copy."
    ]
    for name, faces in found.faces.items():
        lines.append(
            f"Faces ({name}): {faces.faces} against {faces.originals}; the closest are at cosine distance "
            f"{faces.closest}, and the same face would be nearer than {faces.nearer_than:.4g}."
        )
    return lines
