"""What the gate says of an output and of its faces, in words without names and keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.anonymity.gate.face_masks import FaceBox
from pipeline.media.provenance import GateVerdict

Verdict = Literal["anonymous", "recognisable", "undecided"]
Doubt = Literal["no_face_in_source", "no_face_in_output", "face_count_changed", "face_too_small"]
"""The reasons why a verdict is undecided."""
WORDS: dict[Doubt, str] = {
    "no_face_in_source": "no face was found in the source",
    "no_face_in_output": "no face was found in the output",
    "face_count_changed": "the output has another number of faces than the source",
    "face_too_small": "a face is too small to be judged",
}
"""The sentence for each doubt."""


@dataclass(frozen=True, kw_only=True)
class FaceVerdict:
    """The verdict on one face of an output."""

    verdict: Verdict
    why: str
    """A sentence without names or keys; empty where the face is anonymous."""
    box: FaceBox
    """Left, top, width and height in pixels of the output."""
    distances: Mapping[str, float] = field(default_factory=dict)
    """Cosine distance by recogniser, to the nearest face of the source and, where known, of the same person's other
    originals."""
    refused_by: tuple[str, ...] = ()
    """The recognisers that speak against the face."""


@dataclass(frozen=True, kw_only=True)
class ImageVerdict:
    """The verdict on one output, with those on its faces."""

    verdict: Verdict
    why: str
    """A sentence without names or keys; empty where the image is anonymous."""
    doubt: Doubt | None = None
    """Why the verdict is undecided; else None."""
    faces: tuple[FaceVerdict, ...] = ()
    others_within: Mapping[str, int] = field(default_factory=dict)
    """By recogniser, how many faces of *other* people's originals are within its threshold. Chance alone gives about
    FAR × gallery."""
    refused_by: tuple[str, ...] = ()
    """The recognisers that speak against the image, where nothing else does: a gate without all of these would have
    released it. Empty where it was not refused, or for another reason, too."""
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict, compare=False, repr=False)
    """By recogniser, the embedding `[D]` of the largest face, where there is one. It is private."""

    def facts(self, attempt: int) -> GateVerdict:
        """The verdict as it goes into the provenance; `attempt` is the round that passed, 0 being the first."""
        distances = tuple({name: round(d, 4) for name, d in face.distances.items()} for face in self.faces)
        return GateVerdict(
            attempt=attempt, verdict=self.verdict, why=self.why, distances=distances,
            others_within=dict(self.others_within),
        )  # fmt: skip


def known_undone(verdict: ImageVerdict, name: str, undone: ImageVerdict) -> ImageVerdict:
    """The verdict on an image that is recognisable once it is undone."""
    alone = tuple(sorted({*verdict.refused_by, *undone.refused_by})) if undone.refused_by else ()
    if verdict.verdict == "recognisable":
        return replace(verdict, refused_by=alone if verdict.refused_by else ())
    return replace(verdict, verdict="recognisable", why=f"undone ({name}): {undone.why}", doubt=None, refused_by=alone)
