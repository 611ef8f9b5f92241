"""What a finished shard has written, read back as its writer was given it, so that it can be written again as it is."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from pipeline.errors import UserError
from pipeline.media.provenance import PROVENANCE, Provenance
from pipeline.media.records import Sample
from pipeline.streams.contract import InputStream
from pipeline.streams.names import unescape_dots
from pipeline.streams.parquet import read_parquet

READ_BACK = ("webdataset", "parquet")
"""The formats of outputs that can be read back."""


def read_written(file: Path, stream: InputStream) -> Iterator[tuple[str, list[Sample]]]:
    """Yields the key of each sample of which a shard has outputs in its `file`, a tar or parquet, with these, in order.

    Raises `UserError` for what is not as doppel wrote it.
    """
    tar = file.suffix == ".tar"
    found = read_tar(file, verbatim_names=stream.verbatim_names) if tar else read_parquet(file, stream)
    for key, outputs in groupby(found, key=_source):
        yield key, list(outputs)


def read_tar(path: Path, *, verbatim_names: bool) -> Iterator[Sample]:
    """Yields the outputs of a tar. Each begins with its image, and has one member that ends in `.doppel.json`.

    The rest of that name is the key of all its members, which may hold dots as well as they may.
    """
    end = f".{PROVENANCE}"
    with tarfile.open(path) as archive:
        keys = [member.name.removesuffix(end) for member in archive if member.name.endswith(end)]
        members, key = dict[str, bytes](), ""
        for member in archive:
            if keys and member.name.startswith(f"{keys[0]}.") and (not members or PROVENANCE in members):
                if members:
                    yield _sample(key, members, verbatim_names)
                members, key = {}, keys.pop(0)
            content = archive.extractfile(member)
            if content is None or not member.name.startswith(f"{key}."):
                raise UserError(f"{path}: a member belongs to no output")
            members[member.name.removeprefix(f"{key}.")] = content.read()
        if members:
            yield _sample(key, members, verbatim_names)


def _sample(key: str, members: dict[str, bytes], verbatim_names: bool) -> Sample:
    (image_ext, image), *others = members.items()
    key = key if verbatim_names else unescape_dots(key)
    return Sample(key=key, image=image, image_ext=image_ext, members=dict(others))


def _source(output: Sample) -> str:
    """The key of the sample that an output was made of."""
    return Provenance.from_json(output.members.get(PROVENANCE, b""), f"the provenance of {output.key}").key.source
