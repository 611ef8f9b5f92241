"""The data card of a release: what it is, how it was made and verified, and what it does not protect from."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pipeline.release.sealing import ReleaseManifest, Scans

THREAT_MODELS = {
    "T1": "The attacker holds other photographs of the person. This is what face recognition does and what the gate "
    "defends against: every released face was compared with all originals, and what could not be proven was withheld. "
    "The proof is as good as the recognisers named here.",
    "T2": "The attacker holds the very source photograph. Not solved: layout, pose, clothes and background link an "
    "image to its source, whatever the face. That no near-copy of an original was found says nothing against it.",
}
"""What both threat models mean, in the words of the card."""


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
- `RELEASE.json` has all figures. Nothing in this folder shows an original.

## From which level the images were made

{_table("t_boom/T", counts.released_by_level)}

## What the gate said of them

{_table("verdict", counts.released_by_verdict)}

## Why photographs were withheld

{_table("reason", counts.quarantined)}

## What was looked for before publication

{_scans(manifest.scans)}

## What this protects from, and what not

- **T1.** {manifest.threat_models["T1"]}
- **T2.** {manifest.threat_models["T2"]}

## How it was made

```json
{json.dumps(manifest.facts, indent=1, sort_keys=True)}
```

doppel {manifest.code}.

## How to verify it

`RELEASE.json` lists the sha256 of every file. `doppel audit ORIGINALS THIS_FOLDER` checks them, and attacks the release
with face recognition where the originals are at hand. To be sure of `RELEASE.json` itself, compare its sha256 with the
one that the publisher states elsewhere. Its `hmac` can be checked by the publisher alone, with the salt of the job: it
tells whether anybody else changed facts, counts or files and computed the rest anew.
"""


def _table(heading: str, counts: Mapping[str, int]) -> str:
    if not counts:
        return "None."
    lines = [f"| {heading} | images |", "|---|---|", *(f"| {name} | {count} |" for name, count in counts.items())]
    return "\n".join(lines)


def _scans(scans: Scans) -> str:
    copies = scans.near_copies
    lines = [
        f"- Near-copies: {copies.released} images against {copies.originals} originals by perceptual hash; the "
        f"closest differ in {copies.closest_bits} of 64 bits, and {copies.within_bits} or fewer count as a copy."
    ]
    for name, found in scans.faces.items():
        lines.append(
            f"- Faces ({name}): {found.faces} against {found.originals}; the closest are at cosine distance "
            f"{found.closest}, and the same face would be nearer than {found.nearer_than:.4g}."
        )
    return "\n".join(lines)
