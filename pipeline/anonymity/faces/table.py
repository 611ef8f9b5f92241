"""All faces of a set of images as columns: where each face is, and its embedding by every recogniser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.anonymity.faces.deepface_recognisers import unit
from pipeline.anonymity.faces.index import Index
from pipeline.anonymity.faces.phash import phash
from pipeline.anonymity.faces.recognise import crops_for
from pipeline.errors import UserError
from pipeline.streams.private import private_part

if TYPE_CHECKING:
    from pipeline.anonymity.faces.deepface_recognisers import Recogniser
    from pipeline.anonymity.faces.detect import Face, FaceFinder
    from pipeline.media.records import Pixels8

HEADER, EMBEDDING = "table", "embedding."
"""Key of the names in a file's metadata, and what begins the names of its tensors of embeddings."""
COLUMNS = ("image", "box", "eyes", "phash")
"""The columns that are saved under their own names."""


@dataclass(frozen=True, kw_only=True)
class FaceTable:
    """The F faces of N images. An image without a face has no row among the faces, but is still one of the N."""

    keys: Sequence[str]
    """`[N]`: the key of each image in its data set."""
    identities: Sequence[str | None]
    """`[N]`: who is in each image, None where unknown. These are private, like the embeddings."""
    image: NDArray[np.int64]
    """`[F]`: number of the image that each face is in. Images ascend; within one, the largest face comes first."""
    box: NDArray[np.float32]
    """`[F, 4]`: left, top, width and height, in pixels of the image as given."""
    eyes: NDArray[np.float32]
    """`[F, 2, 2]`: (x, y) of the person's left and right eye in the same pixels; NaN where unknown."""
    embeddings: Mapping[str, NDArray[np.float32]]
    """Unit vectors `[F, D]`, by the name of the recogniser."""
    phash: NDArray[np.uint64]
    """`[N]`: the perceptual hash of each image, 64 bits."""
    known: Index | None = None
    """The index of the table where it is kept with it."""

    @cached_property
    def index(self) -> Index:
        """Where the image of a key is, and which faces are a person's."""
        return self.known or Index.of(self.keys, self.identities, self.image)

    def rows_of(self, image: int) -> NDArray[np.int64]:
        """The rows of the faces in image number `image`, the largest first; empty where it has none."""
        first, end = np.searchsorted(self.image, [image, image + 1])
        return np.arange(first, end, dtype=np.int64)

    def first_faces(self) -> NDArray[np.int64]:
        """The row of the largest face of each image that has one, ascending."""
        return np.flatnonzero(np.diff(self.image, prepend=-1)).astype(np.int64)


def tabulate(
    images: Sequence[Pixels8],
    keys: Sequence[str],
    identities: Sequence[str | None],
    finder: FaceFinder,
    recognisers: Sequence[Recogniser],
) -> FaceTable:
    """Finds the faces of each image once and embeds all of them with every recogniser, one call each.

    Raises `ValueError` unless there are as many keys and identities as images.
    """
    if not len(images) == len(keys) == len(identities):
        raise ValueError(f"{len(images)} images, {len(keys)} keys, {len(identities)} identities: expected one of each")
    return table_of(finder.find(images), images, keys, identities, recognisers)


def table_of(
    found: Sequence[Sequence[Face]], images: Sequence[Pixels8], keys: Sequence[str], identities: Sequence[str | None],
    recognisers: Sequence[Recogniser],
) -> FaceTable:  # fmt: skip
    """The table of faces that were found already, those of each image; all are embedded with every recogniser."""
    faces = [face for of_image in found for face in of_image]
    unknown = ((np.nan, np.nan), (np.nan, np.nan))
    return FaceTable(
        keys=tuple(keys),
        identities=tuple(identities),
        image=np.repeat(np.arange(len(images)), [len(of_image) for of_image in found]).astype(np.int64),
        box=np.array([face.box for face in faces], dtype=np.float32).reshape(-1, 4),
        eyes=np.array([face.eyes or unknown for face in faces], dtype=np.float32).reshape(-1, 2, 2),
        embeddings={one.name: unit(one.embed(crops_for(one.name, faces))) for one in recognisers},
        phash=phash(images),
    )


def joined(tables: Sequence[FaceTable]) -> FaceTable:
    """Joins tables into one, with their images in order.

    Raises `ValueError` where there are no tables, or their recognisers differ.
    """
    names = {tuple(table.embeddings) for table in tables}
    if len(names) != 1:
        raise ValueError(f"tables of the same recognisers can be joined; found {sorted(names)}")
    starts = np.cumsum([0, *(len(table.keys) for table in tables)])
    return FaceTable(
        keys=tuple(key for table in tables for key in table.keys),
        identities=tuple(identity for table in tables for identity in table.identities),
        image=np.concatenate([table.image + start for table, start in zip(tables, starts[:-1], strict=True)]),
        box=np.concatenate([table.box for table in tables]),
        eyes=np.concatenate([table.eyes for table in tables]),
        embeddings={name: _stacked([table.embeddings[name] for table in tables]) for name in names.pop()},
        phash=np.concatenate([table.phash for table in tables]),
    )


def save_table(table: FaceTable, file: Path, made_of: Mapping[str, Any] | None = None) -> None:
    """Writes the columns as safetensors with the names as JSON in its header, completely or not at all, and private.

    `made_of` says what the table was made from (JSON), for `load_table` to compare.
    """
    from safetensors.numpy import save

    header = {"keys": table.keys, "identities": table.identities, "made_of": made_of or {}}
    header["recognisers"] = list(table.embeddings)
    tensors = {name: getattr(table, name) for name in COLUMNS}
    tensors |= {EMBEDDING + name: embedding for name, embedding in table.embeddings.items()}
    content = save({name: np.ascontiguousarray(t) for name, t in tensors.items()}, {HEADER: json.dumps(header)})
    with private_part(file) as part:
        part.write(content)


def images_in(file: Path, made_of: Mapping[str, Any]) -> int | None:
    """How many images a table has that was made of this; None where there is none. Its columns are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as saved:
            found = json.loads((saved.metadata() or {})[HEADER])["made_of"]
            images = int(saved.get_slice("phash").get_shape()[0])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return images if found == json.loads(json.dumps(made_of)) else None


def load_table(file: Path, made_of: Mapping[str, Any] | None = None) -> FaceTable:
    """Reads a table that `save_table` wrote.

    Raises `UserError` where the file holds no face table, or where its `made_of` differs from the one expected.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as saved:
            header = json.loads((saved.metadata() or {})[HEADER])
            columns = {name: saved.get_tensor(name) for name in COLUMNS}
            embeddings = {name: saved.get_tensor(EMBEDDING + name) for name in header["recognisers"]}
        keys, identities, found = tuple(header["keys"]), tuple(header["identities"]), header["made_of"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: no face table can be read from it ({type(error).__name__})") from None
    lengths = {len(keys), len(identities), len(columns["phash"])}
    faces = {len(columns[name]) for name in ("image", "box", "eyes")} | set(map(len, embeddings.values()))
    if len(lengths) != 1 or len(faces) != 1:
        raise UserError(f"{file}: no face table can be read from it (columns of different lengths)")
    expected = None if made_of is None else json.loads(json.dumps(made_of))
    if expected is not None and found != expected:
        changed = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
        raise UserError(f"{file}: the face table was made of something else ({', '.join(changed)}); scan again")
    return FaceTable(keys=keys, identities=identities, embeddings=embeddings, **columns)


def _stacked(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """A recogniser that has seen no face may not know how long its embeddings are."""
    return np.concatenate([part for part in parts if len(part)] or parts[:1])
