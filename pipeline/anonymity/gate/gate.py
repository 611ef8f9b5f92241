"""The gate: is this output anonymous? Every face is compared with its source and all originals, or nothing is said.

It compares faces and knows nothing about how they were made. It defends against attackers who hold other photographs of
the person (T1). Attackers who hold the source photograph itself (T2) may still link it by layout, pose, clothes and
background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.anonymity.faces.deepface_recognisers import Recogniser
from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.gallery import count_within, nearest
from pipeline.anonymity.faces.phash import hamming
from pipeline.anonymity.faces.table import FaceTable, tabulate
from pipeline.anonymity.gate.calibration import Certificate
from pipeline.anonymity.gate.config import AnonymityConfig
from pipeline.anonymity.gate.face_masks import FaceBox
from pipeline.errors import UserError
from pipeline.media.provenance import GateVerdict
from pipeline.section import Section

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

Verdict = Literal["anonymous", "recognisable", "undecided"]
Doubt = Literal["no_face_in_source", "no_face_in_output", "face_count_changed", "face_too_small"]
"""The reasons why a verdict is undecided."""
DistanceRow = NDArray[np.float32]
CHANCE = 0.05
"""By chance alone, at most this fraction of images is rejected for a face too much like a stranger's."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A recogniser that has shown that it can tell people apart, and the cosine distance at which it does."""

    recogniser: Recogniser
    certificate: Certificate
    threshold: float

    @classmethod
    def of(cls, recogniser: Recogniser, certificate: Certificate, threshold: str) -> Judge:
        """Makes a judge; `threshold` is `deepface`, or the name of one of the certificate's thresholds.

        Where deepface has no threshold for the recogniser, it is the certificate's at FAR 1e-3. Raises `UserError`
        where the recogniser may not certify anything.
        """
        if not certificate.certifies:
            raise UserError(
                f"anonymity.recognisers: {recogniser.name} may certify nothing: its TAR at FAR 1e-2 is "
                f"{certificate.tar['1e-2']:.3f} on {certificate.data}, and {certificate.floor:g} is the least"
            )
        own = recogniser.threshold if threshold == "deepface" else None
        far = "1e-3" if threshold == "deepface" else threshold
        distance = certificate.thresholds[far] if own is None else own
        return cls(recogniser=recogniser, certificate=certificate, threshold=distance)

    @property
    def far(self) -> float:
        """The fraction of pairs of two people at or below the threshold, on the certificate's data."""
        return max((far for far, _, distance in self.certificate.roc if distance <= self.threshold), default=0.0)

    def copy_distance(self, gallery: int) -> float:
        """Nearer than this cosine distance to one of `gallery` faces, an output is too like that face to publish.

        By the certificate's FAR, at most one image in twenty (`CHANCE`) comes so near to any stranger by accident. For
        a large gallery it is the smallest distance that two people of the certificate's data ever had. It is never
        above the threshold.
        """
        rare = (distance for far, _, distance in self.certificate.roc if far * gallery <= CHANCE)
        return min(max(self.certificate.closest_impostor, *rare, 0.0), self.threshold)


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


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Judges images against the originals that they were made from.

    A recogniser that raises ends the job: what cannot be judged is not written.
    """

    finder: FaceFinder
    judges: tuple[Judge, ...]
    originals: FaceTable
    """The faces of all originals."""
    smallest_face: int
    """Faces with a shorter side below this, in pixels, are undecided."""
    near_copy: int
    """Perceptual hashes that differ in at most so many of 64 bits count as one photograph."""

    @cached_property
    def place(self) -> dict[str, int]:
        """The number of each original, by its key."""
        return {key: i for i, key in enumerate(self.originals.keys)}

    @cached_property
    def people(self) -> NDArray[np.int64]:
        """`[N]`: the number of each original's person; an unknown person has a number for each original."""
        known = {
            name: i for i, name in enumerate(sorted({who for who in self.originals.identities if who is not None}))
        }
        names = enumerate(self.originals.identities)
        return np.array([-1 - i if who is None else known[who] for i, who in names], dtype=np.int64)

    @cached_property
    def faces_of_person(self) -> dict[int, NDArray[np.int64]]:
        """The rows of all faces in a person's images, by the person's number in `people`."""
        owner = self.people[self.originals.image]
        order = np.argsort(owner, kind="stable")
        people, starts = np.unique(owner[order], return_index=True)
        return dict(zip(people.tolist(), np.split(order, starts[1:]), strict=True))

    def doubt_of_source(self, key: str) -> Doubt | None:
        """Why outputs of this source could prove nothing, known before any work: no face in it, or too small a one."""
        boxes = self.originals.box[self.originals.rows_of(self.place[key])]
        if not len(boxes):
            return "no_face_in_source"
        return "face_too_small" if boxes[:, 2:].min() < self.smallest_face else None

    def boxes_of_source(self, key: str) -> tuple[FaceBox, ...]:
        """The boxes of all faces in a source, the largest first."""
        boxes = self.originals.box[self.originals.rows_of(self.place[key])]
        return tuple((left, top, wide, high) for left, top, wide, high in boxes.tolist())

    def judge(self, keys: Sequence[str], images: Sequence[Pixels8]) -> list[ImageVerdict]:
        """Gives one verdict for each output, uint8 `[H, W, 3]` in the model's size; `keys` are those of the sources."""
        recognisers = [judge.recogniser for judge in self.judges]
        made = tabulate(images, keys, [None] * len(keys), self.finder, recognisers)
        sources = np.array([self.place[key] for key in keys], dtype=np.int64)
        owner = self.originals.image
        gallery = {judge.recogniser.name: self._search(judge, made, sources, owner) for judge in self.judges}
        copies = hamming(made.phash, self.originals.phash).min(1, initial=64) <= self.near_copy
        return [self._image(i, int(source), made, gallery, bool(copies[i])) for i, source in enumerate(sources)]

    def _search(self, judge: Judge, made: FaceTable, sources: NDArray[np.int64], owner: NDArray[np.int64]) -> _Found:
        """Each output face among all faces of the originals."""
        name = judge.recogniser.name
        faces, gallery = made.embeddings[name], self.originals.embeddings[name]
        distance, index = nearest(faces, gallery, 1)
        if not len(gallery):
            return _Found(distance=np.full(len(faces), np.inf, np.float32), same=np.zeros(len(faces), bool),
                          within=np.zeros(len(faces), np.int64))  # fmt: skip
        own = self.people[sources[made.image]]
        same = self.people[owner[index[:, 0]]] == own
        within = count_within(faces, gallery, judge.threshold)
        return _Found(distance=distance[:, 0], same=same, within=within)

    def _image(
        self, number: int, source: int, made: FaceTable, gallery: Mapping[str, _Found], copied: bool
    ) -> ImageVerdict:
        rows, before = made.rows_of(number), self.originals.rows_of(source)
        person = self.faces_of_person.get(int(self.people[source]), before)
        faces = tuple(self._face(row, person, made, gallery) for row in rows)
        others = {
            judge.recogniser.name: self._others_within(judge, rows, person, made, gallery) for judge in self.judges
        }
        known = [face for face in faces if face.verdict == "recognisable"]
        doubt = self._doubt(before, rows, made)
        vectors = {name: columns[rows[0]].copy() for name, columns in made.embeddings.items()} if len(rows) else {}
        if known or copied:
            why = known[0].why if known else f"a near-copy of an original: pHash within {self.near_copy} bits"
            alone = () if copied or doubt else tuple(sorted({name for face in known for name in face.refused_by}))
            return ImageVerdict(
                verdict="recognisable", why=why, faces=faces, others_within=others, refused_by=alone, vectors=vectors
            )
        if doubt is not None:
            return ImageVerdict(verdict="undecided", why=WORDS[doubt], doubt=doubt, faces=faces, others_within=others)
        return ImageVerdict(verdict="anonymous", why="", faces=faces, others_within=others, vectors=vectors)

    def _face(self, row: int, person: NDArray[np.int64], made: FaceTable, gallery: Mapping[str, _Found]) -> FaceVerdict:
        left, top, width, height = (float(side) for side in made.box[row])
        distances, why = dict[str, float](), dict[str, str]()
        for judge in self.judges:
            name = judge.recogniser.name
            found, known = gallery[name], self.originals.embeddings[name][person]
            if len(known):
                distances[name] = float((1 - known @ made.embeddings[name][row]).min())
            if distances.get(name, np.inf) <= judge.threshold:
                why[name] = f"{name} recognises the person"
            elif found.same[row]:
                why[name] = f"{name}: of all originals, one of the same person is nearest"
            elif found.distance[row] < judge.copy_distance(len(self.originals.image)):
                why[name] = f"{name}: it is the face of another original"
        verdict: Verdict = "recognisable" if why else "anonymous"
        return FaceVerdict(
            verdict=verdict, why=next(iter(why.values()), ""), box=(left, top, width, height), distances=distances,
            refused_by=tuple(why),
        )  # fmt: skip

    def _others_within(
        self, judge: Judge, rows: NDArray[np.int64], person: NDArray[np.int64], made: FaceTable,
        gallery: Mapping[str, _Found],
    ) -> int:  # fmt: skip
        """Faces of other people within the threshold of these."""
        name = judge.recogniser.name
        own = 1 - made.embeddings[name][rows] @ self.originals.embeddings[name][person].T
        return int(gallery[name].within[rows].sum() - (own <= judge.threshold).sum())

    def _doubt(self, before: NDArray[np.int64], rows: NDArray[np.int64], made: FaceTable) -> Doubt | None:
        if not len(before):
            return "no_face_in_source"
        if not len(rows):
            return "no_face_in_output"
        if len(rows) != len(before):
            return "face_count_changed"
        smallest = min(made.box[rows, 2:].min(), self.originals.box[before, 2:].min())
        return "face_too_small" if smallest < self.smallest_face else None


@dataclass(frozen=True, kw_only=True)
class _Found:
    """For each output face."""

    distance: DistanceRow
    """To the nearest face of all originals."""
    same: NDArray[np.bool_]
    """That one is the source's own, or of the same person."""
    within: NDArray[np.int64]
    """Faces of originals nearer than the threshold."""


WORDS: dict[Doubt, str] = {
    "no_face_in_source": "no face was found in the source",
    "no_face_in_output": "no face was found in the output",
    "face_count_changed": "the output has another number of faces than the source",
    "face_too_small": "a face is too small to be judged",
}
"""The sentence for each doubt."""


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
    guided_by: Mapping[str, str] = {}
    """The recognisers whose gradients led the outputs away from their people, each with the sha256 of its weights. That
    these know nobody proves nothing: outputs were made to please them."""


def gate_facts(
    config: AnonymityConfig, finder: FaceFinder, judges: Sequence[Judge], guides: Sequence[Recogniser] = ()
) -> GateFacts:
    """The facts of a gate with this configuration; `guides` are the recognisers of `anonymity.guidance`."""
    return GateFacts(
        detector=finder.detector, detector_weights=finder.weights, identities_known=config.identity is not None,
        smallest_face=config.smallest_face, near_copy=config.near_copy,
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
