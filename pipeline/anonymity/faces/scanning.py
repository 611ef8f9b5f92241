"""A configured data set as a table of its faces: any worker scans any shard of it, and each is kept once it is done.

Who is in an image never becomes part of a message: only the place where an identity is read may be named.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.anonymity.faces.detect import TRANSFORM
from pipeline.anonymity.faces.joining import Kept, already_joined, join
from pipeline.anonymity.faces.table import FaceTable, images_in, joined, save_table, tabulate
from pipeline.errors import UserError
from pipeline.media.opening import Undecodable
from pipeline.media.pixels import decode
from pipeline.media.records import Rejected, Sample
from pipeline.media.rules import PixelRules
from pipeline.source_code import code_hash
from pipeline.streams import AnyInput
from pipeline.streams.contract import InputShard
from pipeline.streams.pages import paged
from pipeline.streams.private import clear_parts, make_private_folder

if TYPE_CHECKING:
    from pipeline.anonymity.faces.deepface_recognisers import Recogniser
    from pipeline.anonymity.faces.detect import FaceFinder
    from pipeline.media.records import Pixels8

BATCH = 64
"""Images held in memory at a time."""
Named = tuple[str, str | None, "Pixels8"]
"""An image's full key, its identity (None where unknown), and its pixels, uint8 `[H, W, 3]`."""


def identity_reader(spec: str | None) -> Callable[[Sample], str | None]:
    """Makes a function that tells who is in a sample, or None where that is unknown.

    `json:FIELD` reads text or a whole number from that field of member `json`; `key:REGEX` takes the first group where
    the expression matches the whole key. Where `spec` is None, everybody is unknown. Raises `UserError` for another
    spec.
    """
    kind, _, rest = (spec or "").partition(":")
    if spec is None:
        return lambda sample: None
    if kind not in ("json", "key") or not rest:
        raise UserError(f"identity: {spec!r} does not say where a name is; allowed are json:FIELD and key:REGEX")
    if kind == "json":
        return lambda sample: _field(sample.members.get("json"), rest)
    try:
        pattern = re.compile(rest)
    except re.error as error:
        raise UserError(f"identity: {rest!r} is not a valid regular expression ({error})") from None
    if pattern.groups < 1:
        raise UserError(f"identity: {rest!r} has no group that would be the person, as in (.+)_[0-9]+")

    def of_key(sample: Sample) -> str | None:
        found = pattern.fullmatch(sample.key)
        return (found[1] or None) if found else None

    return of_key


def image_stream(
    source: AnyInput, size: tuple[int, int] | None, rules: PixelRules, identity: str | None = None
) -> Iterator[Named]:
    """Yields every image that can be decoded, in order, fitted to `size` (height, width; None leaves it as it is)."""
    who = identity_reader(identity)
    for shard in paged(source.open(), rules.frames).shards:
        yield from shard_images(shard, size, rules, who)


def shard_images(
    shard: InputShard, size: tuple[int, int] | None, rules: PixelRules, who: Callable[[Sample], str | None],
    wanted: Callable[[Sample], bool] = lambda sample: True,
) -> Iterator[Named]:  # fmt: skip
    """Yields the images of those samples of one shard that are wanted, as `image_stream` does."""
    for sample in shard.read():
        if isinstance(sample, Rejected) or not wanted(sample):
            continue
        try:
            yield sample.full_key, who(sample), decode(sample.image, size, rules)[0]
        except Undecodable:
            continue


@dataclass(frozen=True, kw_only=True)
class Eyes:
    """What finds and recognises faces, by name and weights; nothing of it is loaded."""

    detector: str
    detector_weights: str
    recognisers: Mapping[str, str]
    """The sha256 of each recogniser's weight files, by its name."""

    @classmethod
    def of(cls, finder: FaceFinder, recognisers: Sequence[Recogniser]) -> Eyes:
        """Those of a detector and recognisers that are loaded."""
        weights = {recogniser.name: recogniser.weights for recogniser in recognisers}
        return cls(detector=finder.detector, detector_weights=finder.weights, recognisers=weights)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One shard of a set of images, as it is to be scanned."""

    name: str
    made_of: dict[str, Any]
    """Everything that decides which faces and embeddings come out of it (JSON)."""
    images: Callable[[], Iterator[Named]]
    """Yields its images."""

    def file(self, folder: Path) -> Path:
        """Where its faces are kept in a folder."""
        return folder / f"{self.name}.safetensors"


def parts_of(
    source: AnyInput, *, size: tuple[int, int] | None, rules: PixelRules, identity: str | None, eyes: Eyes,
    only: frozenset[str] | None = None,
) -> list[Part]:  # fmt: skip
    """The shards of a data set, in order; with `only`, of just the samples with these full keys.

    Raises `UserError` where the source cannot be opened.
    """
    who, facts = identity_reader(identity), scan_facts(eyes, size, rules)
    facts |= {"identity": identity or "", "input": _options(source)}
    wanted = partial(_in, only)
    if only is not None:
        facts["only"] = hashlib.sha256(json.dumps(sorted(only)).encode()).hexdigest()
    return [
        Part(
            name=shard.name, made_of={**facts, "shard": shard.fingerprint()},
            images=partial(shard_images, shard, size, rules, who, wanted),
        )
        for shard in paged(source.open(), rules.frames).shards
    ]  # fmt: skip


def scan_part(
    part: Part,
    folder: Path,
    finder: FaceFinder,
    recognisers: Sequence[Recogniser],
    on_images: Callable[[int], None] = lambda count: None,
) -> None:
    """Scans a shard, unless its faces are kept in `folder`, which becomes its owner's alone, and keeps them there.

    The file is there whole or not at all, and is the same whoever writes it: two that scan one shard only waste time.
    `on_images` is told how many more images are done.
    """
    file = part.file(folder)
    if (kept := images_in(file, part.made_of)) is not None:
        on_images(kept)
        return
    table = tabulated(part.images(), finder, recognisers, on_images)
    make_private_folder(folder)
    save_table(table, file, part.made_of)


def scan_parts(
    parts: Sequence[Part],
    folder: Path,
    finder: FaceFinder,
    recognisers: Sequence[Recogniser],
    on_images: Callable[[int], None] = lambda count: None,
) -> FaceTable:
    """Scans the shards that nobody has scanned, and returns the table of all, memory-mapped.

    Files of shards that are not among these are removed, because faces are personal data. Raises `UserError` where
    none of the images can be read.
    """
    table = already_joined(kept_in(parts, folder), folder)
    if table is None:
        for part in parts:
            scan_part(part, folder, finder, recognisers, on_images)
        table = join_parts(parts, folder)
    else:
        on_images(len(table.keys))
    if not len(table.keys):
        raise UserError("input: no image of it can be read")
    return table


def join_parts(parts: Sequence[Part], folder: Path) -> FaceTable:
    """The table of shards that are all scanned, memory-mapped; files of other shards are removed.

    Raises `UserError` as `join` does.
    """
    clear_parts(folder)
    names = {part.name for part in parts}
    for file in folder.glob("*.safetensors"):
        if file.stem not in names:
            file.unlink(missing_ok=True)
    return join(kept_in(parts, folder), folder)


def left_of(parts: Sequence[Part], folder: Path) -> list[Part]:
    """The shards whose faces are not kept in the folder; none where their table is there."""
    if already_joined(kept_in(parts, folder), folder) is not None:
        return []
    return [part for part in parts if images_in(part.file(folder), part.made_of) is None]


def kept_in(parts: Sequence[Part], folder: Path) -> list[Kept]:
    """Where the faces of each shard are kept in a folder, and what they are made of."""
    return [(part.file(folder), part.made_of) for part in parts]


def scan(
    source: AnyInput,
    *,
    size: tuple[int, int] | None,
    rules: PixelRules,
    identity: str | None,
    finder: FaceFinder,
    recognisers: Sequence[Recogniser],
    folder: Path | None = None,
    on_images: Callable[[int], None] = lambda count: None,
    only: frozenset[str] | None = None,
) -> FaceTable:
    """Finds and embeds the faces of all images that can be decoded; `on_images` is told how many more are done.

    With `only`, just samples with these full keys are looked at.

    With a `folder`, which becomes its owner's alone, each finished shard is kept as `SHARD.safetensors`. It
    is reused as long as shard, input options, size, rules, identity, detector and recognisers, with the weights of
    both, stay the same; those of shards that are gone from the source are removed, because faces are
    personal data. The table is memory-mapped then. Raises `UserError` where the source cannot be opened or none of its
    images can be read.
    """
    eyes = Eyes.of(finder, recognisers)
    parts = parts_of(source, size=size, rules=rules, identity=identity, eyes=eyes, only=only)
    if folder is not None and parts:
        return scan_parts(parts, folder, finder, recognisers, on_images)
    tables = [tabulated(part.images(), finder, recognisers, on_images) for part in parts]
    if not any(len(table.keys) for table in tables):
        raise UserError("input: no image of it can be read")
    return joined(tables)


def tabulated(
    images: Iterator[Named],
    finder: FaceFinder,
    recognisers: Sequence[Recogniser],
    on_images: Callable[[int], None] = lambda count: None,
) -> FaceTable:
    """Finds and embeds the faces of a stream of images; `on_images` is told the size of each batch."""
    tables = [tabulate([], [], [], finder, recognisers)]
    while batch := list(islice(images, BATCH)):
        keys, identities, pixels = zip(*batch, strict=True)
        tables.append(tabulate(pixels, keys, identities, finder, recognisers))
        on_images(len(batch))
    return joined(tables)


def scan_facts(eyes: Eyes, size: tuple[int, int] | None, rules: PixelRules) -> dict[str, Any]:
    """Everything that decides which faces and embeddings come out of given images, ready for JSON."""
    return {
        "code": code_hash(__name__), "size": size, "rules": rules.model_dump(mode="json"), "transform": TRANSFORM,
        "detector": eyes.detector, "detector_weights": eyes.detector_weights, "recognisers": dict(eyes.recognisers),
    }  # fmt: skip


def _in(only: Container[str] | None, sample: Sample) -> bool:
    return only is None or sample.full_key in only


def _options(source: AnyInput) -> str:
    """Which member is the image, where keys end: the options of the input, its place among them."""
    return hashlib.sha256(json.dumps(source.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def _field(member: bytes | None, field: str) -> str | None:
    try:
        value = json.loads(member or b"")[field]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value) or None
