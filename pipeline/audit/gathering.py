"""What an audit reads of both sides: which image is whose, how they look, and some pairs with all their pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.anonymity.attacks.parrot import worth_parroting
from pipeline.anonymity.attacks.photos import UNKNOWN, Indices, Pairing, Vectors, layouts, main_faces, people_of
from pipeline.anonymity.faces.scanning import image_stream, scan
from pipeline.audit.results import SampleFigures
from pipeline.audit.sampling import Drawn, draw, keys_in
from pipeline.audit.task import Audit
from pipeline.errors import UserError
from pipeline.media.opening import Undecodable
from pipeline.media.output_keys import Shape
from pipeline.media.pixels import decode
from pipeline.media.records import Rejected
from pipeline.media.rules import PLAIN, PixelRules
from pipeline.release.manifest import DATA
from pipeline.release.privacy import derive, release_key
from pipeline.streams import AnyInput
from pipeline.streams.pages import paged
from pipeline.streams.shards import WebDatasetInput

if TYPE_CHECKING:
    from pipeline.anonymity.faces.deepface_recognisers import Recogniser
    from pipeline.anonymity.faces.detect import FaceFinder
    from pipeline.anonymity.faces.table import FaceTable
    from pipeline.media.records import Pixels8

Only = frozenset[str] | None
"""Full keys of the samples to look at; None for all."""
OnImages = Callable[[str, int], None]
"""`on_images(what, count)` is told what is being looked at, and how many more images of it are done."""
BATCH, HELD, HELD_BYTES = 256, 1000, 1 << 28
"""Images that are looked at together, pairs whose pixels are held at most, and bytes that each side of them may
take."""
PARROTED = 400
"""Originals that an attacker puts through the operator, at most: it costs what the job cost for as many."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What is kept of one pass over the pixels of a stream; images are numbered as in its face table."""

    layouts: Mapping[str, Vectors]
    """Vectors `[N, D]` by layout."""
    labels: tuple[int | None, ...]
    """`[N]`: the label of each image, None where it has none."""
    held: Mapping[int, Pixels8]
    """Pixels, uint8 `[H, W, 3]`, of some images, by their numbers."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """Pairs whose pixels are in memory."""

    rows: Indices
    """`[H]`: numbers of the released images."""
    released: list[Pixels8]
    """Their pixels, uint8 `[H, W, 3]`."""
    sources: list[Pixels8]
    """The pixels of their sources."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Everything that an audit has read; images are numbered as in their face tables."""

    pairing: Pairing
    """Originals and released images: those of the sample, where there is one."""
    released: int
    """How many images the release has."""
    unpaired: Mapping[str, int]
    """How many of them have no original, by the reason."""
    sample: SampleFigures | None
    """How much of originals and release was looked at; None for all."""
    pairs: Held
    """Some pairs with their pixels."""
    parrots: Mapping[int, Pixels8]
    """Pixels of the originals that an attacker puts through the operator, by their numbers."""
    labels: tuple[int | None, ...]
    """`[N]`: the label of each original, None where it has none."""
    released_labels: tuple[int | None, ...]
    """`[R]`: the label of each released image, None where it has none."""
    outside: Mapping[str, Vectors]
    """Vectors of images that were not in the input, by recogniser or layout."""
    outside_people: Mapping[str, Indices]
    """Numbers of the people in them, by recogniser or layout."""


def images_of(release: Path) -> WebDatasetInput:
    """The images of a release, as an input."""
    return WebDatasetInput(urls=tuple(map(str, sorted((release / DATA).glob("*.tar")))))


def gather(
    task: Audit, size: tuple[int, int], finder: FaceFinder, recognisers: Sequence[Recogniser], on_images: OnImages
) -> Seen:
    """Finds all faces, then looks at all pixels.

    Faces are kept in `task.out/faces`, so that a second audit is short.
    """
    released = images_of(task.release)
    drawn, reasons = sampled(task, released)

    def faces(source: AnyInput, name: str, rules: PixelRules, who: str | None, only: Only = None) -> FaceTable:
        return scan(
            source, size=size, rules=rules, identity=who, finder=finder, recognisers=recognisers,
            folder=task.out / "faces" / name, on_images=lambda count: on_images(name, count), only=only,
        )  # fmt: skip

    ours, theirs = (drawn.originals, drawn.released) if drawn else (None, None)
    originals = faces(task.originals, "originals", task.rules, task.identity, ours)
    made = faces(released, "release", PLAIN, None, theirs)
    source, unpaired = sources_of(names_of(made.keys), originals.keys, task.salt, task.manifest.outputs)
    most = HELD_BYTES // (3 * size[0] * size[1])
    own = worth_parroting(people_of(originals.identities), source, min(PARROTED, most))
    paired = np.flatnonzero(source != UNKNOWN)
    first = np.argsort(~np.isin(source[paired], own), kind="stable")  # pairs of which the attacker has everything
    held = np.sort(paired[first[: min(HELD, most)]])
    before = look(task.originals, size, task.rules, {*own.tolist(), *source[held].tolist()}, ours)
    after = look(released, size, PLAIN, set(held.tolist()), theirs)
    sides = {name: (before.layouts[name], after.layouts[name]) for name in before.layouts}
    parrots = {int(number): before.held[number] for number in own}
    outside, people = dict[str, Vectors](), dict[str, Indices]()
    if task.others is not None:
        flat = look(task.others, size, task.rules, set()).layouts
        outside, people = _outside(faces(task.others, "others", task.rules, task.identity), flat)
    return Seen(
        pairing=Pairing(originals=originals, released=made, source=source, layouts=sides),
        released=drawn.figures.of_released if drawn else len(made.keys),
        unpaired=unpaired if reasons is None else reasons,
        sample=drawn.figures if drawn else None,
        pairs=Held(rows=held, released=[after.held[i] for i in held], sources=[before.held[i] for i in source[held]]),
        parrots=parrots,
        labels=before.labels,
        released_labels=after.labels,
        outside=outside,
        outside_people=people,
    )


def sampled(task: Audit, released: AnyInput) -> tuple[Drawn | None, dict[str, int] | None]:
    """The sample to look at, and why images of the whole release have no original; None for a release that is small."""
    counts = task.manifest.counts
    if max(counts.read, counts.released) <= task.sample:
        return None, None
    images = list(keys_in(task.originals, task.rules, task.identity))
    keys, identities = [key for key, _ in images], [who for _, who in images]
    made = [key for key, _ in keys_in(released, PLAIN, None)]
    source, unpaired = sources_of(names_of(made), keys, task.salt, task.manifest.outputs)
    secret = b"" if task.salt is None else derive(task.salt)
    return draw(keys, identities, made, source, task.sample, secret), unpaired


def names_of(keys: Sequence[str]) -> list[str]:
    """The names of released images: a release's keys are its own, whatever the shard."""
    return [key.rpartition("/")[2] for key in keys]


def look(source: AnyInput, size: tuple[int, int], rules: PixelRules, hold: set[int], only: Only = None) -> Looked:
    """Looks once at all images of a source, and keeps the pixels of those whose numbers are in `hold`.

    With `only`, samples with other full keys are passed over, and have no number.
    """
    images = enumerate(labelled(source, size, rules, only))
    parts, labels, held = [layouts([])], list[int | None](), dict[int, "Pixels8"]()
    while batch := list(islice(images, BATCH)):
        parts.append(layouts([image for _, (_, image) in batch]))
        labels += [label for _, (label, _) in batch]
        held |= {number: image for number, (_, image) in batch if number in hold}
    joined = {name: np.concatenate([part[name] for part in parts if len(part[name])] or [parts[0][name]])
              for name in parts[0]}  # fmt: skip
    return Looked(layouts=joined, labels=tuple(labels), held=held)


def labelled(
    source: AnyInput, size: tuple[int, int], rules: PixelRules, only: Only = None
) -> Iterator[tuple[int | None, Pixels8]]:
    """Yields every image that can be decoded, in the order of `scan`, with its label; see `look`."""
    for shard in paged(source.open(), rules.frames).shards:
        for sample in shard.read():
            if isinstance(sample, Rejected) or (only is not None and sample.full_key not in only):
                continue
            try:
                yield sample.label, decode(sample.image, size, rules)[0]
            except Undecodable:
                continue


def first_size(release: Path) -> tuple[int, int]:
    """Height and width of the first released image. Raises `UserError` where none can be read."""
    for _, _, image in image_stream(images_of(release), None, PLAIN):
        return image.shape[0], image.shape[1]
    raise UserError(f"{release}: no image of it can be read")


def sources_of(
    released: Sequence[str], originals: Sequence[str], salt: bytes | None, outputs: Shape
) -> tuple[Indices, dict[str, int]]:
    """The original that each released key was made from, `[R]`, −1 where there is none; and the reasons, counted.

    All keys are tried that a job of the shape `outputs` can give to what it makes of these originals.
    """
    if salt is None:
        nowhere = np.full(len(released), UNKNOWN, dtype=np.int64)
        return nowhere, {"no salt was given": len(released)} if released else {}
    secret, wanted, times = derive(salt), set(released), Counter(originals)
    found: dict[str, int] = {}
    for number, key in enumerate(originals):
        for output in outputs.keys(key):
            name = release_key(secret, output.format(outputs))
            if name in wanted:
                found[name] = number if times[key] == 1 else UNKNOWN
    reasons = Counter(
        "several originals have one key" if name in found else "they go back to none of these originals by this salt"
        for name in released
        if found.get(name, UNKNOWN) == UNKNOWN
    )
    return np.array([found.get(name, UNKNOWN) for name in released], dtype=np.int64), dict(reasons)


def _outside(table: FaceTable, flat: Mapping[str, Vectors]) -> tuple[dict[str, Vectors], dict[str, Indices]]:
    names = [name or f"\0{i}" for i, name in enumerate(table.identities)]
    numbers = np.unique(names, return_inverse=True)[1]
    seen = {name: main_faces(table, name) for name in table.embeddings}
    vectors = {name: faces for name, (faces, _) in seen.items()} | dict(flat)
    return vectors, {name: numbers[image] for name, (_, image) in seen.items()} | dict.fromkeys(flat, numbers)
