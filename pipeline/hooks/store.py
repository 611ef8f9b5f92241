"""The neighbours that an offline job has stored: any copy of any key, read straight from the job's tars."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import UserError
from pipeline.hooks.sources import Source
from pipeline.identity import read_salt
from pipeline.job.config import JobConfig
from pipeline.job.hashes import hashes, identity
from pipeline.job.plan import outlines
from pipeline.media.frame import Frame
from pipeline.media.opening import FORMATS
from pipeline.media.provenance import PROVENANCE, Provenance
from pipeline.media.records import full_key
from pipeline.plain_json import read_json_file
from pipeline.section import local_option
from pipeline.streams.job_records import Job
from pipeline.streams.ledger import Ledger, differences

DIGITS = 16
"""Digits of the hash of a content that are kept in memory: two images of a million have the same by chance once in
30 million data sets."""


class Store(Protocol):
    """A source of neighbours while a model trains. Reading never waits, and never fails because there is none."""

    def copies(self, key: str) -> int:
        """How many neighbours of a source there are now."""
        ...

    def get(self, key: str, copy: int) -> Image.Image | None:
        """Neighbour number `copy`, 0 ≤ copy < copies(key), upright; None where it is not there (any more)."""
        ...


@runtime_checkable
class Weighted(Store, Protocol):
    """A store whose neighbours do not all count equally."""

    def weight(self, key: str, copy: int) -> float:
        """The probability, in (0, 1], of taking this neighbour when its turn comes; otherwise the original is taken."""
        ...


class StoredImage(NamedTuple):
    """The place of an image in its tar."""

    shard: str
    """The shard of its source, where other shards may have samples of the same key; else empty."""
    source: str
    """Key of its source, in that shard."""
    copy: int
    """Number of the copy, from 0."""
    name: str
    """Full key of the image itself."""
    offset: int
    """The position in the tar at which its bytes begin."""
    size: int
    """How many bytes it has."""
    made_of: Source
    """The image that it was made of."""
    frame: Frame | None = None
    """How that lies in it, where the job tells."""

    @property
    def key(self) -> str:
        """The full key of its source."""
        return full_key(self.shard, self.source)


class NeighbourStore:
    """A read-only store.

    A sample is asked for by its full key, SHARD/KEY; by the end of its shard's name after a `-`, `0001/KEY` of shard
    `train-0001`, where only one shard ends so; or by its key alone, where the job is complete and no two of its shards
    have a key in common.

    A file is open only while an image is read, so that the store may be forked, pickled and shared.
    """

    def __init__(
        self, shards: Mapping[Path, Sequence[StoredImage]], weights: Mapping[str, float] | None = None
    ) -> None:
        """Takes the images of each tar, and `weights` in [0, 1] by output key.

        A weight is 1 by default; a neighbour of weight 0 is left out. Raises `UserError` for a key that comes twice,
        and for weights that fit no neighbour or lie outside [0, 1].
        """
        weights = dict(weights or {})
        self._files = list(shards)
        found: dict[str, list[tuple[int, int]]] = {}
        places: list[tuple[int, int, int]] = []
        kept: list[float] = []
        self._shard_of: dict[str, str] = {}
        self._keys_repeat, self._unfinished = False, ""
        for number, entries in enumerate(shards.values()):
            for entry in entries:
                if entry.shard:
                    self._keys_repeat |= self._shard_of.setdefault(entry.source, entry.shard) != entry.shard
                weight = weights.pop(entry.name, 1.0)
                if not 0 <= weight <= 1:
                    raise UserError(f"the weight of {entry.name!r} is {weight}; weights lie in [0, 1]")
                found.setdefault(entry.key, [])
                if weight:
                    found[entry.key].append((entry.copy, len(places)))
                    places.append((number, entry.offset, entry.size))
                    kept.append(weight)
        if weights:
            raise UserError(f"weights are given for {next(iter(weights))!r}, which is not in the store")
        for key, copies in found.items():
            if len({copy for copy, _ in copies}) < len(copies):
                raise UserError(f"key {key!r} is in the store twice: a key must be unique in its shard")
        self._shards = sorted({entry.shard for entries in shards.values() for entry in entries} - {""})
        self._rows = {key: tuple(row for _, row in sorted(copies)) for key, copies in found.items()}
        self._sources = {entry.key: entry.made_of for entries in shards.values() for entry in entries}
        self._frames = frames_of(entry for entries in shards.values() for entry in entries)
        self._keys_of = dict[str, tuple[str, ...]]()
        for key, source in self._sources.items():
            if source.content is not None:
                self._keys_of[source.content] = (*self._keys_of.get(source.content, ()), key)
        self._places: NDArray[np.int64] = np.array(places, dtype=np.int64).reshape(-1, 3)
        self._weights = np.array(kept, dtype=np.float32)

    @classmethod
    def open(
        cls, folder: Path | str, *, expect: JobConfig | None = None, weights: Mapping[str, float] | None = None
    ) -> NeighbourStore:
        """Opens the finished shards of the job that wrote to `folder`, its `output.path`, in format webdataset.

        Raises `UserError` where the folder holds no such job and, with `expect`, where another configuration, model or
        salt made it.
        """
        root = local_option(folder, "folder")
        ledger = Ledger(root)
        job = read_job(ledger)
        if expect is not None:
            check_expected(root, job, expect)
        files = [root / name for record in ledger.records() for name in record.files if is_data(name)]
        shards = {file: list(scan(file)) for file in files if file.exists()}
        if not shards:
            raise UserError(f"{ledger.shown}: no shard of the job is finished, so there are no neighbours")
        store, manifest = cls(shards, weights), ledger.manifest()
        if manifest is None or not manifest.complete or job.config.get("limit") is not None:
            store._unfinished = "the job has not gone through all its input"
        return store

    def __len__(self) -> int:
        """How many neighbours the store holds."""
        return len(self._places)

    def copies(self, key: str) -> int:
        """How many neighbours the source `key` has; 0 where it is unknown."""
        return len(self._rows_of(key))

    @property
    def sources(self) -> int:
        """How many sources the neighbours were made of."""
        return len(self._rows)

    @property
    def complete(self) -> bool:
        """Whether the job has gone through all its input."""
        return not self._unfinished

    def example(self) -> str:
        """The full key of one source."""
        return next(iter(self._rows))

    @property
    def knows_contents(self) -> bool:
        """Whether the job has kept what tells its sources, which one that makes people anonymous does not."""
        return bool(self._keys_of)

    def source(self, key: str) -> Source | None:
        """The source of that key, with the first 16 digits of the hash of its content; None where it is unknown."""
        return self._sources.get(self._full_key(key))

    def keys_of(self, content: str) -> tuple[str, ...]:
        """The full keys of all sources with that content, given its whole hash."""
        return self._keys_of.get(content[:DIGITS], ())

    def frame(self, key: str) -> Frame | None:
        """How the source lies in the neighbours of that key; None where they show it whole and it is stored upright."""
        return self._frames.get(self._full_key(key))

    def _rows_of(self, key: str) -> tuple[int, ...]:
        """The places of the neighbours of a key, however it is told."""
        return self._rows.get(self._full_key(key), ())

    def _full_key(self, key: str) -> str:
        """The full key of a source, however it is told. Raises `UserError` where that is ambiguous."""
        if key in self._rows:
            return key
        if (shard := self._shard_of.get(key)) is not None:
            if why := "its shards have keys in common" if self._keys_repeat else self._unfinished:
                raise UserError(
                    f"key {key!r} may be that of another shard's sample: {why}; name the shard, too, as in "
                    f"{full_key(shard, key)!r} (with key=None items of WebDataset tell it)"
                )
            return full_key(shard, key)
        end, _, rest = key.partition("/")
        fitting = [shard for shard in self._shards if shard.endswith(f"-{end}")] if rest else []
        if len(fitting) > 1:
            raise UserError(
                f"key {key!r} may be that of a sample in {' or '.join(fitting[:4])}: name the shard, as in "
                f"key=lambda item: '{fitting[0]}/' + item['__key__']"
            )
        return full_key(fitting[0], rest) if fitting else key

    def weight(self, key: str, copy: int) -> float:
        """The weight of a neighbour, in (0, 1]."""
        return float(self._weights[self._rows_of(key)[copy]])

    def get(self, key: str, copy: int) -> Image.Image | None:
        """A neighbour in the size and mode in which it was stored; None where there is no such copy.

        `copy` counts only neighbours whose weight is not 0. Raises `UserError` where the job's tar has changed since.
        """
        rows = self._rows_of(key)
        if not 0 <= copy < len(rows):
            return None
        number, offset, size = (int(value) for value in self._places[rows[copy]])
        try:
            with open(self._files[number], "rb", buffering=0) as file:
                image = Image.open(io.BytesIO(os.pread(file.fileno(), size, offset)), formats=FORMATS)
                image.load()
        except Exception as error:  # a damaged image can break a decoder anywhere
            raise UserError(f"{self._files[number]}: the neighbour of {key!r} cannot be read ({error})") from None
        return image


def read_job(ledger: Ledger) -> Job:
    """Reads what a finished or running job is. Raises `UserError` where its output cannot serve as a store."""
    job, root = ledger.job(), ledger.shown
    if job is None:
        raise UserError(f"{root} holds no doppel job; name the output.path of a doppel run")
    config = job.config
    if config["output"]["format"] != "webdataset":
        raise UserError(f"{root} holds {config['output']['format']} output; a store needs output.format webdataset")
    if config.get("video") is not None:
        raise UserError(f"{root} holds clips; a store needs images")
    return job


def check_expected(root: Path, job: Job, expect: JobConfig) -> None:
    """Raises `UserError` with all differences between the store and `expect`; the version of the code may differ."""
    expected = hashes(expect, *outlines(expect), read_salt(expect.run.salt_file))
    expected = {**job.hashes, **expected, "code": job.hashes["code"]}
    config = identity(expect)
    if expect.copies is not None:
        config["operator"]["copies"] = job.outputs.copies  # the most that a class gets, which the data may decide
    if changed := differences(job, job.model_copy(update={"hashes": expected, "config": config})):
        raise UserError(f"{root} is a store from another configuration: it differs in {'; '.join(changed)}")


def is_data(name: str) -> bool:
    """Whether a file of a shard's record is a tar in data/, and not one of the quarantine."""
    return PurePosixPath(name).parts[:-1] == ("data",) and name.endswith(".tar")


def scan(file: Path) -> Iterator[StoredImage]:
    """Yields the images of an output shard by its headers and provenance; the first member of a sample is its image.

    Further images of a sample (views, components) are no neighbours. Raises `UserError` for a damaged tar.
    """
    members: list[tarfile.TarInfo] = []
    try:
        with open(file, "rb") as handle, tarfile.open(fileobj=handle, mode="r:") as tar:
            for info in tar:
                members.append(info)
                if not info.name.endswith(f".{PROVENANCE}"):
                    continue
                name = info.name.removesuffix(f".{PROVENANCE}")
                member = os.pread(handle.fileno(), info.size, info.offset_data)
                said = Provenance.from_json(member, f"{file}: {info.name}")
                made = said.key
                image = next(member for member in members if member.name.startswith(f"{name}."))
                members.clear()
                if made.name:
                    continue
                yield StoredImage(
                    shard=said.shard, source=made.source, copy=made.copy, name=full_key(said.shard, name),
                    offset=image.offset_data, size=image.size, made_of=source_of(said), frame=said.geometry,
                )  # fmt: skip
    except (tarfile.TarError, ValueError) as error:
        raise UserError(f"{file} is not a tar that doppel wrote ({error})") from None


def frames_of(entries: Iterable[StoredImage]) -> dict[str, Frame]:
    """How sources lie in their neighbours, by full key, where those show a part, or the source is stored turned."""
    known = dict[Frame, Frame]()  # those of a data set are few, mostly
    return {
        entry.key: known.setdefault(frame, frame)
        for entry in entries
        if (frame := entry.frame) is not None and (frame.orientation != 1 or frame.window != (0, 0, *frame.full))
    }


def source_of(said: Provenance) -> Source:
    """The source that provenance tells, with the first digits of the hash of its content."""
    if said.source is None:
        return Source(content=None, label=None)
    return Source(content=said.source.content and said.source.content[:DIGITS], label=said.source.label)


def read_weights(file: Path | str) -> dict[str, float]:
    """Reads weights by output key from a JSON object. Raises `UserError` where the file holds something else."""
    weights = read_json_file(local_option(file, "weights"))
    if not all(type(value) in (int, float) for value in weights.values()):
        raise UserError(f"{file}: a JSON object of numbers by output key is expected")
    return weights
