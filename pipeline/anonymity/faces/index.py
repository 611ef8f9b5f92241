"""Where the image of a key is, and which faces are a person's: arrays instead of an object for each image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from pipeline.anonymity.faces.texts import encoded

Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Index:
    """What is looked up in a table of N images with F faces of P known people: 24 bytes an image, 8 a face."""

    hashes: NDArray[np.uint64]
    """`[N]`: hashes of the keys, ascending."""
    order: Numbers
    """`[N]`: the image that each hash belongs to."""
    person: Numbers
    """`[N]`: the number of each image's person; an unknown person is −1 − the number of the image."""
    faces: Numbers
    """Rows of the faces of known people, by person."""
    starts: Numbers
    """`[P + 1]`: where in `faces` each person begins."""

    @classmethod
    def of(cls, keys: Sequence[str], identities: Sequence[str | None], image: Numbers) -> Index:
        """The index of the columns of a table."""
        known = numbers_of(identities)
        return cls.made(hashed(keys), numbered(identities, known), image, len(known))

    @classmethod
    def made(cls, hashes: NDArray[np.uint64], person: Numbers, image: Numbers, people: int) -> Index:
        """The index of images with these hashes and persons `[N]`, whose faces are in the images `image [F]`."""
        order = np.argsort(hashes, kind="stable")
        owner = person[image]
        faces = np.argsort(owner, kind="stable")
        faces = faces[np.searchsorted(owner[faces], 0) :]
        starts = np.searchsorted(owner[faces], np.arange(people + 1))
        return cls(hashes=hashes[order], order=order, person=person, faces=faces, starts=starts.astype(np.int64))

    def columns(self) -> dict[str, NDArray[np.uint64] | Numbers]:
        """The arrays by their names."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def find(self, keys: Sequence[str], key: str) -> int | None:
        """The number of the image with this key; None where there is none. `keys` are those of the table."""
        wanted = hash_of(key)
        first, end = (int(np.searchsorted(self.hashes, wanted, side)) for side in ("left", "right"))
        return next((number for number in self.order[first:end].tolist() if keys[number] == key), None)

    def repeated(self, keys: Sequence[str]) -> int:
        """How many images have a key that an earlier one has too."""
        count = 0
        same = np.flatnonzero(self.hashes[1:] == self.hashes[:-1])
        for run in np.split(same, np.flatnonzero(np.diff(same) > 1) + 1) if len(same) else ():
            found = [keys[int(number)] for number in self.order[run[0] : run[-1] + 2]]
            count += len(found) - len(set(found))
        return count

    def faces_of(self, person: int) -> Numbers | None:
        """Rows of all faces in the images of a known person; None for an unknown one."""
        return None if person < 0 else self.faces[self.starts[person] : self.starts[person + 1]]


def hash_of(key: str) -> np.uint64:
    """64 bits of a hash of a key."""
    return np.uint64(int.from_bytes(blake2b(encoded(key), digest_size=8).digest(), "little"))


def hashed(keys: Iterable[str]) -> NDArray[np.uint64]:
    """`hash_of` each key, uint64 `[N]`."""
    return np.fromiter((hash_of(key) for key in keys), np.uint64)


def numbered(identities: Sequence[str | None], known: Mapping[str, int], first: int = 0) -> Numbers:
    """`[N]`: the number of each identity; −1 − the number of the image where it is unknown, from `first`."""
    return np.array([-1 - i if who is None else known[who] for i, who in enumerate(identities, first)], dtype=np.int64)


def numbers_of(names: Iterable[str | None]) -> dict[str, int]:
    """A number for each different name, in their order; None has none."""
    return {name: number for number, name in enumerate(sorted({name for name in names if name is not None}))}
