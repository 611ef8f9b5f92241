"""What an auditor, and the public, must know of a gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.anonymity.faces.deepface_recognisers import Recogniser
from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.gate.config import AnonymityConfig
from pipeline.anonymity.gate.families import families_of, one_family_note
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.judge import CHANCE, Judge
from pipeline.anonymity.gate.undoings import UNDOINGS
from pipeline.section import Section


class JudgeFacts(Section):
    """A recogniser of the gate, and what it has shown."""

    name: str
    weights: str
    """sha256 of its weight files."""
    threshold: float
    """Cosine distance up to which two faces are one person's."""
    far_at_threshold: float
    """The fraction of pairs of two people, on the certificate's data, whose distance is at or below the threshold."""
    chance_of_another: float
    """The fraction of images that chance may reject for a face too much like a stranger's."""
    tar: float
    """The fraction of pairs of one person that are recognised where one in a hundred pairs of two people is."""
    certificate_data: str
    """The photographs of the certificate, in words."""


class GateFacts(Section):
    """Everything that an auditor must know to run the gate again."""

    detector: str
    detector_weights: str
    identities_known: bool
    """Whether the recipe told who is in the originals."""
    smallest_face: int
    near_copy: int
    recognisers: tuple[JudgeFacts, ...]
    families: tuple[str, ...]
    """The families of networks that they belong to; with one alone, what fools one recogniser fools all."""
    declared_error: float
    """The fraction of images that chance alone may reject for being near their own person; see `Gate`."""
    guided_by: Mapping[str, str] = {}
    """The recognisers whose gradients led the outputs away from their people, each with the sha256 of its weights. That
    these know nobody proves nothing: outputs were made to please them."""
    undoings: tuple[str, ...]
    """What is done to each image that would pass, before it is judged again."""


def gate_facts(
    config: AnonymityConfig, finder: FaceFinder, judges: Sequence[Judge], guides: Sequence[Recogniser] = ()
) -> GateFacts:
    """The facts of a gate with this configuration; `guides` are the recognisers of `anonymity.guidance`."""
    return GateFacts(
        detector=finder.detector, detector_weights=finder.weights, identities_known=config.identity is not None,
        smallest_face=config.smallest_face, near_copy=config.near_copy,
        families=families_of(judge.recogniser.name for judge in judges), declared_error=CHANCE,
        undoings=tuple(UNDOINGS),
        recognisers=tuple(
            JudgeFacts(
                name=judge.recogniser.name, weights=judge.recogniser.weights, threshold=judge.threshold,
                far_at_threshold=judge.far, chance_of_another=CHANCE, tar=judge.certificate.tar["1e-2"],
                certificate_data=judge.certificate.data,
            )
            for judge in judges
        ),
        guided_by={guide.name: guide.weights for guide in guides},
    )  # fmt: skip


def said(gate: Gate) -> tuple[str, ...]:
    """What the public is to know of a gate, as sentences: families, undoings, and what chance withholds."""
    families = families_of(judge.recogniser.name for judge in gate.judges)
    owner = gate.people[gate.originals.image]
    numbers, faces = np.unique(owner, return_counts=True)
    people = gate.people[np.unique(gate.originals.image)]
    few = sum(not gate.rank_counts(int(count)) for count in faces[np.searchsorted(numbers, people)])
    rank = (
        f"for {few} of {len(people)} originals rank proves nothing, since there are too few others: a face was refused "
        f"where strangers come as near to the person in at most 1 of {round(1 / gate.share)} images, by each "
        "recogniser's certificate"
        if few
        else "an image was refused where the nearest of all originals shows its own person"
    )
    return (
        sentence(one_family_note(families) or f"the gate's recognisers are of {len(families)} families: "
                 f"{', '.join(families)}"),
        sentence(f"what would pass was judged again undone: {', '.join(gate.undoings)}"),
        sentence(rank),
        sentence(
            f"chance alone withholds at most {CHANCE:.0%} of the images for being near to their own person, and, by "
            f"each recogniser, at most {CHANCE:.0%} for a likeness to somebody else"
        ),
    )  # fmt: skip


def sentence(text: str) -> str:
    """A clause as a sentence of its own."""
    return f"{text[0].upper()}{text[1:]}."
