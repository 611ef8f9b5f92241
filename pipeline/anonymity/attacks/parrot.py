"""A parrot gallery: the attacker puts photographs of its own through the release's operator: like meets like."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.anonymity.attacks.figures import SearchFigures
from pipeline.anonymity.attacks.identification import rates, search
from pipeline.anonymity.attacks.photos import UNKNOWN, Indices, Pairing, Photos, Threat, Vectors, main_faces
from pipeline.anonymity.faces.table import FaceTable


def worth_parroting(person: Indices, source: Indices, most: int) -> Indices:
    """The numbers of at most `most` originals that a parrot gallery is made of, ascending.

    `person [N]` says who is in each original and `source [R]` what the released images were made from. People come
    whole, in random order: first those who are in a released image and in two originals, then others in a released
    image, then the rest.
    """
    owner = np.where(person == UNKNOWN, -2 - np.arange(len(person)), person)
    people, own, counts = np.unique(owner, return_inverse=True, return_counts=True)
    released = np.isin(people, owner[source[source != UNKNOWN]])
    shuffled = np.random.default_rng(0).permutation(len(people))
    order = np.lexsort((shuffled[own], counts[own] < 2, ~released[own]))
    return np.sort(order[:most]).astype(np.int64)


def gallery(pairing: Pairing, name: str, rows: Indices, table: FaceTable, flat: Mapping[str, Vectors]) -> Photos:
    """What the attacker made of the originals `rows`, as the recogniser or layout `name` sees it.

    `table` holds the faces of what it made, and `flat` its layouts `[len(rows), D]`. Each photograph goes back to the
    original that the attacker put through the operator, and so keeps its person and its perceptual hash.
    """
    vectors, image = (flat[name], np.arange(len(rows))) if name in flat else main_faces(table, name)
    photo = rows[image]
    return Photos(vectors=vectors, photo=photo, person=pairing.person[photo], phash=pairing.originals.phash[photo])


def parrot_search(pairing: Pairing, name: str, own: Photos, threat: Threat) -> SearchFigures | None:
    """Searches for the released images in a gallery that `gallery` has made; None where no query has a mate."""
    query = pairing.made(name)
    found = search(query, own, threat) if len(query) and len(own) else None
    return rates(found if found and len(found.rank) else None)


def drawn_levels(by_level: Mapping[str, int], count: int) -> list[float | None]:
    """A level for each of `count` photographs, as often as released images have it; None where no level is known.

    `by_level` counts released images by their level, as RELEASE.json does.
    """
    known = {level: number for level, number in by_level.items() if level.replace(".", "", 1).isdigit() and number}
    if not known:
        return [None] * count
    shares = np.array(list(known.values())) / sum(known.values())
    drawn = np.random.default_rng(0).choice(len(known), count, p=shares)
    levels = [float(level) for level in known]
    return [levels[i] for i in drawn]
