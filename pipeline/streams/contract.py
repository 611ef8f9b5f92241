"""What every stream offers: an input is a list of shards to read, and an output takes one writer for each shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.identity import hash_json
from pipeline.media.records import Rejected, Sample
from pipeline.streams.files import Stored


class InputShard(Protocol):
    """The unit of work, retry and resume."""

    @property
    def name(self) -> str:
        """Unique in the stream and safe as a file name; it also names the output shard."""
        ...

    def read(self) -> Iterator[Sample | Rejected]:
        """Yields every sample in order, bad ones as `Rejected`; raises only where the shard itself is unreachable."""
        ...

    def fingerprint(self) -> str:
        """A cheap and conservative mark: if it is unchanged, so is the content (size, times, inode, or an ETag)."""
        ...

    def content_hash(self) -> str:
        """sha256, in hexadecimal, of everything that the shard holds."""
        ...


class Beside(Protocol):
    """Where what belongs to an image lies, if in folders beside that of the image."""

    def place(self, key: str, member: str) -> str | None:
        """Where a member of the image `key` lies; None where it lies beside the image itself."""
        ...


@dataclass(frozen=True, kw_only=True)
class InputStream:
    """The shards of a data set, and what the source says about them."""

    shards: Sequence[InputShard]
    places: tuple[str, ...] = ()
    """What is read: paths of this machine and URLs, with wildcards where there are any; `FOLDER/**` for all below a
    folder."""
    label_names: tuple[str, ...] | None = None
    """The names of the classes, by label, where the source states them."""
    features: Any = None
    """The `datasets.Features` of a Hugging Face source; else None."""
    image_column: str | None = None
    """The column of `features` that holds the image."""
    label_column: str | None = None
    """The column of `features` that holds the label. Its values travel as member `cls`, those of others as `columns`
    writes them."""
    notes: tuple[str, ...] = ()
    """What people should know of how the source was understood, each a sentence without names, keys or values."""
    left_out: tuple[str, ...] = ()
    """Paths of files below the source that belong to no sample."""
    splits: tuple[str, ...] = ()
    """Folders in keys that are splits, also in upper case; `datasets` finds them where they are written in lower."""
    beside: Beside | None = None
    """Where the members of a sample lay in a folder."""
    verbatim_names: bool = False
    """Whether keys came out of tar member names, so that an output tar must use them as they are, dots included."""

    def classes(self) -> str:
        """A hash of what the source says of all its shards: the names of the classes, and the columns.

        A class more can change the numbers of all that follow, in shards whose own files stay the same.
        """
        columns = {} if self.features is None else self.features.to_dict()
        return hash_json([self.label_names, columns, self.image_column, self.label_column])


class Unwritable(Exception):
    """Raised for samples that the format of an output cannot hold; the message is the reason."""


class ShardWriter(Protocol):
    """Writes one output shard out of sight; nothing is visible under its final name before `commit`."""

    def add(self, samples: Sequence[Sample]) -> None:
        """Writes all outputs of one source, or none of them. Raises `Unwritable`."""
        ...

    def commit(self) -> dict[str, Stored]:
        """Makes the shard visible and safe on disk: fsync, rename, fsync of the folder.

        Returns what was stored, by its path below the job's folder, which holds the data folder.
        """
        ...

    def abort(self) -> None:
        """Removes what was written so far."""
        ...
