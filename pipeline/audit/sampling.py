"""A sample of what an audit attacks: whole people with all their images, drawn by a keyed hash."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from pipeline.anonymity.attacks.photos import UNKNOWN, Indices, people_of
from pipeline.anonymity.faces.scanning import identity_reader
from pipeline.audit.results import SampleFigures
from pipeline.media.records import Sample
from pipeline.media.rules import PixelRules
from pipeline.streams import AnyInput
from pipeline.streams.pages import paged


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The images that an audit looks at, of many."""

    originals: frozenset[str]
    """Their full keys."""
    released: frozenset[str]
    """Full keys of released images, with shard."""
    figures: SampleFigures


def keys_in(source: AnyInput, rules: PixelRules, identity: str | None) -> Iterator[tuple[str, str | None]]:
    """Yields the full key of each sample, and who is in it; no image is decoded."""
    who = identity_reader(identity)
    for shard in paged(source.open(), rules.frames).shards:
        for sample in shard.read():
            if isinstance(sample, Sample):
                yield sample.full_key, who(sample)


def draw(
    originals: Sequence[str], identities: Sequence[str | None], released: Sequence[str], source: Indices, most: int,
    key: bytes,
) -> Drawn:  # fmt: skip
    """Draws people until they have `most` originals or released images, in the order of a hash with `key`.

    `source [R]` is the original of each released image, −1 where there is none. All images of a person are drawn
    together, so that a second photograph stays with the first; of unknown people, each original is one. Released images
    without an original are drawn one by one into the room that is left. The first person is drawn in any case.
    """
    person = people_of(identities)
    unknown = person == UNKNOWN
    person[unknown] = person.max(initial=0) + 1 + np.arange(int(unknown.sum()))
    names = np.array(
        [ranked(identities[i] or f"\0{originals[i]}", key) for i in range(len(originals))], dtype=np.uint64
    )
    people, first, owner = np.unique(person, return_index=True, return_inverse=True)
    made = np.bincount(owner[source[source != UNKNOWN]], minlength=len(people))
    had = np.bincount(owner, minlength=len(people))
    order = np.argsort(names[first], kind="stable")
    fits = (np.cumsum(had[order]) <= most) & (np.cumsum(made[order]) <= most)
    chosen = np.zeros(len(people), dtype=bool)
    chosen[order[: max(int(fits.sum()), 1)]] = True
    taken = chosen[owner] if len(originals) else np.zeros(0, dtype=bool)
    shown = taken_with(taken, released, source, most, key)
    return Drawn(
        originals=frozenset(originals[i] for i in np.flatnonzero(taken).tolist()),
        released=frozenset(released[i] for i in np.flatnonzero(shown).tolist()),
        figures=SampleFigures(
            originals=int(taken.sum()), of_originals=len(originals), released=int(shown.sum()),
            of_released=len(released), people=int(chosen.sum()), of_people=len(people),
        ),
    )  # fmt: skip


def taken_with(
    taken: NDArray[np.bool_], released: Sequence[str], source: Indices, most: int, key: bytes
) -> NDArray[np.bool_]:
    """`[R]`: the released images of originals that are taken, and some without an original where there is room."""
    shown = np.zeros(len(released), dtype=bool)
    known = source != UNKNOWN
    shown[known] = taken[source[known]]
    stray = np.flatnonzero(~known)
    room = max(0, most - int(shown.sum()))
    ranks = np.array([ranked(released[i], key) for i in stray.tolist()], dtype=np.uint64)
    shown[stray[np.argsort(ranks, kind="stable")[:room]]] = True
    return shown


def ranked(name: str, key: bytes) -> int:
    """The place of a person or an image among all, 64 bits."""
    content = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(content, key=key, digest_size=8, person=b"doppel audit").digest(), "little")


def said(figures: SampleFigures, unpaired: Mapping[str, int]) -> str:
    """What a report says of a sample."""
    strays = " (and those without an original)" if unpaired else ""
    return (
        f"all but a sample: attacks and utility were measured on {figures.originals} of {figures.of_originals} "
        f"originals and {figures.released} of {figures.of_released} released images, all of {figures.people} of "
        f"{figures.of_people} people drawn by a hash{strays}, and intervals are over these people; a search among "
        "fewer originals finds more, and attackers that learn had fewer to learn from. Every released image was "
        "paired, and was compared with every original when the release was made"
    )
