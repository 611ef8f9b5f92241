"""What every stream offers: an input is a list of shards to read, an output takes one writer per shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.media.records import Rejected, Sample


class InputShard(Protocol):
    """The unit of work, retry and resume."""

    @property
    def name(self) -> str:
        """Unique in the stream and safe as a file name; names the output shard."""
        ...

    def read(self) -> Iterator[Sample | Rejected]:
        """Every sample in order, bad ones as `Rejected`; raises only where the shard itself is unreachable."""
        ...

    def fingerprint(self) -> str:
        """Cheap and conservative: if it is unchanged, so is the content (size, times, inode, or an ETag)."""
        ...

    def content_hash(self) -> str:
        """sha256 of everything the shard holds, hexadecimal."""
        ...


@dataclass(frozen=True, kw_only=True)
class InputStream:
    shards: Sequence[InputShard]
    label_names: tuple[str, ...] | None = None
    """Class names by label, where the source states them."""
    features: Any = None
    """`datasets.Features` of a Hugging Face source; else None."""
    image_column: str | None = None
    """The column of `features` that holds the image."""
    label_column: str | None = None
    """The column of `features` that holds the label; its values travel as member `cls`, the others as
    `columns` writes them."""
    verbatim_names: bool = False
    """Keys came out of tar member names: an output tar must use them as they are, dots included."""


class ShardWriter(Protocol):
    """Writes one output shard out of sight; nothing is visible under its final name before `commit`."""

    def add(self, sample: Sample) -> None: ...

    def commit(self) -> dict[str, str]:
        """fsync, rename, fsync the folder; returns {path relative to the output's data folder: sha256}."""
        ...

    def abort(self) -> None:
        """Removes what was written so far."""
        ...
