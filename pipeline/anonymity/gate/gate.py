"""The gate: is this output anonymous? Every face is compared with its source and all originals, or nothing is said.

What would pass is looked at again as somebody would who wants to know who it is: through all of `UNDOINGS`. An undone
image must be no copy, and none of its faces within a threshold of the own person's, or nearest to it.

It compares faces and knows nothing about how they were made. It defends against attackers who hold other photographs of
the person (T1). Attackers who hold the source photograph itself (T2) may still link it by layout, pose, clothes and
background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.anonymity.faces.detect import Face, FaceFinder
from pipeline.anonymity.faces.gallery import count_within, nearest
from pipeline.anonymity.faces.phash import closest
from pipeline.anonymity.faces.table import FaceTable, table_of
from pipeline.anonymity.gate.face_masks import FaceBox
from pipeline.anonymity.gate.judge import CHANCE, Judge
from pipeline.anonymity.gate.parts import MANY, shared_parts
from pipeline.anonymity.gate.undoings import UNDOINGS, Undoing, changed
from pipeline.anonymity.gate.verdicts import WORDS, Doubt, FaceVerdict, ImageVerdict, Verdict, known_undone

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

DistanceRow = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Judges images against the originals that they were made from.

    A recogniser that raises ends the job: what cannot be judged is not written.

    **Nearest to the own person.** Of G faces of originals, n of them the person's, chance alone makes one of the
    person's the nearest in n of G images. Where that is at most the declared error (`CHANCE`, divided by the number of
    recognisers), an image whose nearest face is the person's is recognisable, at any distance. Where there are fewer
    originals, rank proves nothing. Then the image is recognisable where its distance to the person's faces is so small
    that strangers come as near to n faces, by the FAR of the recogniser's certificate, in at most the same fraction of
    images. So in sets of any size at most `CHANCE` of the images of strangers is rejected for the own person's sake,
    beside those within the threshold, as far as strangers are like those of the certificate.
    """

    finder: FaceFinder
    judges: tuple[Judge, ...]
    originals: FaceTable
    """The faces of all originals."""
    smallest_face: int
    """Faces with a shorter side below this, in pixels, are undecided."""
    near_copy: int
    """Perceptual hashes that differ in at most so many of 64 bits count as one photograph."""
    shared: float = MANY
    """A face with a larger share of the parts of the source's is the source's own."""
    passes: frozenset[Doubt] = frozenset()
    """Doubts with which an image is released all the same."""
    undoings: Mapping[str, Undoing] = field(default_factory=lambda: UNDOINGS)
    """By name, what is done to an output that would pass before it is looked at again."""

    def number_of(self, key: str) -> int:
        """The number of the original with this key. Raises `KeyError` where there is none."""
        found = self.originals.index.find(self.originals.keys, key)
        if found is None:
            raise KeyError(key)
        return found

    @property
    def people(self) -> NDArray[np.int64]:
        """`[N]`: the number of each original's person; an unknown person has a number for each original."""
        return self.originals.index.person

    def faces_of(self, person: int) -> NDArray[np.int64]:
        """The rows of all faces in a person's images, by the person's number in `people`."""
        known = self.originals.index.faces_of(person)
        return self.originals.rows_of(-1 - person) if known is None else known

    @property
    def share(self) -> float:
        """Each recogniser's part of the declared error."""
        return CHANCE / len(self.judges)

    def rank_counts(self, faces: int) -> bool:
        """Whether chance alone seldom makes one of `faces` faces of a person the nearest of all."""
        return faces <= self.share * len(self.originals.image)

    def doubt_of_source(self, key: str) -> Doubt | None:
        """Why outputs of this source could prove nothing, known before any work: no face in it, or too small a one."""
        boxes = self.originals.box[self.originals.rows_of(self.number_of(key))]
        if not len(boxes):
            return "no_face_in_source"
        return "face_too_small" if boxes[:, 2:].min() < self.smallest_face else None

    def boxes_of_source(self, key: str) -> tuple[FaceBox, ...]:
        """The boxes of all faces in a source, the largest first."""
        boxes = self.originals.box[self.originals.rows_of(self.number_of(key))]
        return tuple((left, top, wide, high) for left, top, wide, high in boxes.tolist())

    def judge(self, keys: Sequence[str], images: Sequence[Pixels8], sources: Sequence[Pixels8]) -> list[ImageVerdict]:
        """Gives one verdict for each output, uint8 `[H, W, 3]` in the model's size.

        `keys` and `sources` are those of the originals that they were made from, the latter in the same size.
        """
        looks = [
            _Look(output=i, image=image, key=key, source=source, faces=faces)
            for i, (image, key, source, faces) in enumerate(
                zip(images, keys, sources, self.finder.find(images), strict=True)
            )
        ]
        verdicts = self._verdicts(looks)
        passing = [
            look for look, found in zip(looks, verdicts, strict=True)
            if found.verdict == "anonymous" or found.doubt in self.passes
        ]  # fmt: skip
        again = [look for name, undoing in self.undoings.items() for look in self._undone(passing, name, undoing)]
        for look, found in zip(again, self._verdicts(again), strict=True):
            if found.verdict == "recognisable":
                verdicts[look.output] = known_undone(verdicts[look.output], look.undone, found)
        return verdicts

    def _undone(self, looks: Sequence[_Look], name: str, undoing: Undoing) -> list[_Look]:
        """The looks at outputs once they are undone."""
        images = [undoing.change(look.image) for look in looks]
        if undoing.searched:
            suspects = self.finder.suspects(images, [self._smallest(look.key) for look in looks])
            found = iter(self.finder.find([image for image, suspect in zip(images, suspects, strict=True) if suspect]))
            faces = [next(found) if suspect else [] for suspect in suspects]
        else:
            faces = [[changed(face, undoing) for face in look.faces] for look in looks]
        return [
            replace(look, image=image, faces=of_image, undone=name, moved=undoing.searched)
            for look, image, of_image in zip(looks, images, faces, strict=True)
        ]

    def _smallest(self, key: str) -> float:
        """The shorter side of the smallest face of a source, in pixels."""
        return min((min(box[2:]) for box in self.boxes_of_source(key)), default=float(self.smallest_face))

    def _verdicts(self, looks: Sequence[_Look]) -> list[ImageVerdict]:
        keys, images = [look.key for look in looks], [look.image for look in looks]
        recognisers = [judge.recogniser for judge in self.judges]
        made = table_of([look.faces for look in looks], images, keys, [None] * len(keys), recognisers)
        numbers = np.array([self.number_of(key) for key in keys], dtype=np.int64)
        gallery = {judge.recogniser.name: self._search(judge, made, numbers) for judge in self.judges}
        bits = closest(made.phash, self.originals.phash)
        copied = [self._copied(look, int(nearest)) for look, nearest in zip(looks, bits, strict=True)]
        strangers = [not look.undone for look in looks]
        return [self._image(i, int(n), made, gallery, copied[i], strangers[i]) for i, n in enumerate(numbers)]

    def _copied(self, look: _Look, bits: int) -> str:
        """Why an image is its source or a near-copy of an original, `bits` from the nearest; empty where it is not."""
        if bits <= self.near_copy:
            return f"a near-copy of an original: pHash within {self.near_copy} bits"
        boxes = () if look.moved else self.boxes_of_source(look.key)
        shared = max((shared_parts(look.image, look.source, box) for box in boxes), default=0.0)
        return "a face is the source's own, changed: many of its parts are found there" if shared > self.shared else ""

    def _search(self, judge: Judge, made: FaceTable, sources: NDArray[np.int64]) -> _Found:
        """Each output face among all faces of the originals."""
        name = judge.recogniser.name
        faces, gallery = made.embeddings[name], self.originals.embeddings[name]
        distance, index = nearest(faces, gallery, 1)
        if not len(gallery):
            return _Found(distance=np.full(len(faces), np.inf, np.float32), same=np.zeros(len(faces), bool),
                          within=np.zeros(len(faces), np.int64))  # fmt: skip
        own = self.people[sources[made.image]]
        same = self.people[self.originals.image[index[:, 0]]] == own
        within = count_within(faces, gallery, judge.threshold)
        return _Found(distance=distance[:, 0], same=same, within=within)

    def _image(
        self,
        number: int,
        source: int,
        made: FaceTable,
        gallery: Mapping[str, _Found],
        copied: str,
        strangers: bool,
    ) -> ImageVerdict:
        rows, before = made.rows_of(number), self.originals.rows_of(source)
        person = self.faces_of(int(self.people[source]))
        faces = tuple(self._face(row, person, made, gallery, strangers) for row in rows)
        others = {
            judge.recogniser.name: self._others_within(judge, rows, person, made, gallery) for judge in self.judges
        }
        known = [face for face in faces if face.verdict == "recognisable"]
        doubt = self._doubt(before, rows, made)
        vectors = {name: columns[rows[0]].copy() for name, columns in made.embeddings.items()} if len(rows) else {}
        if known or copied:
            why = known[0].why if known else copied
            against = tuple(sorted({name for face in known for name in face.refused_by}))
            alone = () if copied or (doubt and strangers) else against
            return ImageVerdict(
                verdict="recognisable", why=why, faces=faces, others_within=others, refused_by=alone, vectors=vectors
            )
        if doubt is not None:
            return ImageVerdict(verdict="undecided", why=WORDS[doubt], doubt=doubt, faces=faces, others_within=others)
        return ImageVerdict(verdict="anonymous", why="", faces=faces, others_within=others, vectors=vectors)

    def _face(
        self, row: int, person: NDArray[np.int64], made: FaceTable, gallery: Mapping[str, _Found], strangers: bool
    ) -> FaceVerdict:
        left, top, width, height = (float(side) for side in made.box[row])
        distances, why = dict[str, float](), dict[str, str]()
        for judge in self.judges:
            name = judge.recogniser.name
            found, known = gallery[name], self.originals.embeddings[name][person]
            if len(known):
                distances[name] = float((1 - known @ made.embeddings[name][row]).min())
            against = self._against(judge, found, row, distances.get(name, np.inf), len(known))
            if not against and strangers:
                against = self._by_chance(judge, distances.get(name, np.inf), len(known), float(found.distance[row]))
            if against:
                why[name] = f"{name}{against}"
        verdict: Verdict = "recognisable" if why else "anonymous"
        return FaceVerdict(
            verdict=verdict, why=next(iter(why.values()), ""), box=(left, top, width, height), distances=distances,
            refused_by=tuple(why),
        )  # fmt: skip

    def _against(self, judge: Judge, found: _Found, row: int, own: float, photographs: int) -> str:
        """What a recogniser says of a face at distance `own` from the nearest of the person's; empty for nothing."""
        if own <= judge.threshold:
            return " recognises the person"
        if self.rank_counts(photographs) and found.same[row]:
            return ": of all originals, one of the same person is nearest"
        return ""

    def _by_chance(self, judge: Judge, own: float, photographs: int, nearest: float) -> str:
        """What a recogniser says by distances that strangers seldom have; images that are undone are not asked for it,
        since each further look would add to the declared error.
        """
        if not self.rank_counts(photographs) and own <= judge.rare_distance(photographs, self.share):
            return f": it is nearer to the person than strangers come in 1 of {round(1 / self.share)} images"
        if nearest < judge.copy_distance(len(self.originals.image)):
            return ": it is the face of another original"
        return ""

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
class _Look:
    """An output as it is, or undone."""

    output: int
    """Its number among the outputs."""
    image: Pixels8
    key: str
    source: Pixels8
    faces: Sequence[Face]
    undone: str = ""
    """The name of what was done to it; empty where it is as it is."""
    moved: bool = False
    """Whether its faces are elsewhere than in the source, if there are any."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """For each output face."""

    distance: DistanceRow
    """To the nearest face of all originals."""
    same: NDArray[np.bool_]
    """That one is the source's own, or of the same person."""
    within: NDArray[np.int64]
    """Faces of originals nearer than the threshold."""
