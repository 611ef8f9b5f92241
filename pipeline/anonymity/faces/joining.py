"""The faces of all shards as one table that every worker maps: built once, shard by shard, and put whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.anonymity.faces.columns import Column, mapped, writing
from pipeline.anonymity.faces.index import Index, hashed, numbered, numbers_of
from pipeline.anonymity.faces.table import EMBEDDING, FaceTable, load_table
from pipeline.anonymity.faces.texts import Names, Texts, encoded, packed

JOINED = "joined.columns"
"""The file, beside those of the shards."""
Kept = tuple[Path, Mapping[str, Any]]
"""The file of a shard's table, and what it must be made of."""


def join(kept: Sequence[Kept], folder: Path) -> FaceTable:
    """The table of all shards in order, memory-mapped from a file in `folder` that is built where it is not there.

    Building holds one shard in memory, the distinct names, and about 60 bytes for each image and face. Raises
    `UserError` for the file of a shard that cannot be read or was made of something else.
    """
    if (table := already_joined(kept, folder)) is None:
        _build(kept, folder / JOINED, _made_of(kept))
        table = already_joined(kept, folder)
        assert table is not None
    return table


def already_joined(kept: Sequence[Kept], folder: Path) -> FaceTable | None:
    """The table of all shards, where it is there and the files of the shards are those that it was joined of."""
    try:
        columns = mapped(folder / JOINED, _made_of(kept))
    except FileNotFoundError:
        return None
    if columns is None:
        return None
    index = Index(**{name: columns[name] for name in ("hashes", "order", "person", "faces", "starts")})
    return FaceTable(
        keys=Texts(columns["key_text"], columns["key_ends"]),
        identities=Names(index.person, Texts(columns["name_text"], columns["name_ends"])),
        image=columns["image"],
        box=columns["box"],
        eyes=columns["eyes"],
        embeddings={
            name.removeprefix(EMBEDDING): column for name, column in columns.items() if name.startswith(EMBEDDING)
        },
        phash=columns["phash"],
        known=index,
    )


def _made_of(kept: Sequence[Kept]) -> str:
    """A hash of what each shard's table was made of, and of which file it lies in."""
    digest = hashlib.sha256()
    for file, made_of in kept:
        found = file.stat()
        told = [file.name, made_of, found.st_size, found.st_mtime_ns]
        digest.update(json.dumps(told, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _build(kept: Sequence[Kept], file: Path, made_of: str) -> None:
    names, sizes, hashes, images = set[str](), dict[str, int](), [], []
    count = text = known = 0
    for table in _tables(kept):
        names.update(who for who in table.identities if who is not None)
        hashes.append(hashed(table.keys))
        images.append(table.image + count)
        text += sum(len(encoded(key)) for key in table.keys)
        known += sum(table.identities[i] is not None for i in table.image.tolist())
        count += len(table.keys)
        for name, vectors in table.embeddings.items():  # without faces, a recogniser may not know how long they are
            sizes[name] = max(sizes.get(name, 0), vectors.shape[1])
    people = numbers_of(names)
    name_text, name_ends = packed(people)
    image = np.concatenate(images)
    numbers, faces = Column("<i8", (count,)), len(image)
    columns = {
        "image": Column("<i8", (faces,)), "phash": Column("<u8", (count,)), "key_ends": numbers,
        "hashes": Column("<u8", (count,)), "order": numbers, "person": numbers, "faces": Column("<i8", (known,)),
        "starts": Column("<i8", (len(people) + 1,)), "name_ends": Column("<i8", (len(people),)),
        "box": Column("<f4", (faces, 4)), "eyes": Column("<f4", (faces, 2, 2)),
        **{EMBEDDING + name: Column("<f4", (faces, size)) for name, size in sizes.items()},
        "key_text": Column("|u1", (text,)), "name_text": Column("|u1", (len(name_text),)),
    }  # fmt: skip
    persons, first, row, end = list[Any](), 0, 0, 0
    with writing(file, columns, made_of) as part:
        for table in _tables(kept):
            key_text, key_ends = packed(table.keys)
            part.put("key_text", end, key_text)
            part.put("key_ends", first, key_ends + end)
            part.put("phash", first, table.phash)
            part.put("box", row, table.box)
            part.put("eyes", row, table.eyes)
            for name, vectors in table.embeddings.items():
                part.put(EMBEDDING + name, row, vectors)
            persons.append(numbered(table.identities, people, first))
            first, row, end = first + len(table.keys), row + len(table.image), end + len(key_text)
        part.put("image", 0, image)
        part.put("name_text", 0, name_text)
        part.put("name_ends", 0, name_ends)
        index = Index.made(np.concatenate(hashes), np.concatenate(persons), image, len(people))
        for name, column in index.columns().items():
            part.put(name, 0, column)


def _tables(kept: Sequence[Kept]) -> Iterator[FaceTable]:
    for file, made_of in kept:
        yield load_table(file, made_of)
