"""The tars of a release: each image is encoded afresh under its new key, in an order of the release's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from pipeline.anonymity.faces.phash import phash
from pipeline.errors import UserError
from pipeline.media.opening import Undecodable
from pipeline.media.pixels import EXTENSIONS, Codec, decode
from pipeline.media.records import Sample
from pipeline.media.rules import PixelRules
from pipeline.release.finished_job import LABEL, MadeImage, read
from pipeline.release.manifest import ListedFile
from pipeline.release.privacy import clean_image, names_in, release_key, shuffled
from pipeline.streams.shards import TarWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Packer:
    """Makes the public sample of an image of the job."""

    secret: bytes
    """The key that release keys are hashed with."""
    people: Mapping[str, str | None]
    """Who is in each original, by its full key."""
    quality: int
    """The quality of JPEG and WebP, 1 to 100."""
    size: tuple[int, int]
    """Height and width at which images are hashed."""
    rules: PixelRules
    """How images of other sizes are brought to it."""

    def __call__(self, entry: MadeImage, label: int | None, tar: BinaryIO) -> tuple[Sample, np.uint64]:
        """The sample to publish, and the perceptual hash of its image, taken just as those of the originals were.

        Raises `UserError` where the image cannot be read, or a member names its key or the person in it.
        """
        codec = _codec(entry.image_ext)
        try:
            pixels, frame = decode(read(tar, entry.image))
        except Undecodable as error:
            raise UserError(f"an image of the job cannot be read again ({error}): nothing was released") from None
        data = clean_image(pixels, frame.mode, codec, self.quality)
        members = {extension: read(tar, span) for extension, span in sorted(entry.members.items())}
        for extension, content in members.items():
            if names_in(content, (entry.source_key, self.people.get(entry.source))):
                raise UserError(
                    f"release.members: a member {extension} holds the key of its image or the name of who is in it; "
                    "only members without can be published"
                )
        labelled = {} if label is None else {LABEL: str(label).encode()}
        key, image_ext = release_key(self.secret, entry.key), EXTENSIONS[codec][0]
        sample = Sample(key=key, image=data, image_ext=image_ext, members={**labelled, **members})
        return sample, phash([decode(data, self.size, self.rules)[0]])[0]


def write_shards(
    packer: Packer, entries: Sequence[MadeImage], labels: Sequence[int | None], *, data: Path, shard_size: int
) -> tuple[dict[str, ListedFile], NDArray[np.uint64]]:
    """Writes `data/release-00000.tar`, …, holding one image in memory at a time.

    Returns what to list for each tar, and the perceptual hashes of all images, uint64 `[M]`.
    """
    order = shuffled([entry.key for entry in entries], packer.secret)
    files, hashes = dict[str, ListedFile](), list[np.uint64]()
    for number, start in enumerate(range(0, len(order), shard_size)):
        rows = order[start : start + shard_size]
        writer = TarWriter(data=data, parts=data, name=f"release-{number:05d}", verbatim_names=True)
        try:
            with ExitStack() as stack:
                tars = {tar: stack.enter_context(open(tar, "rb")) for tar in {entries[row].tar for row in rows}}
                for row in rows:
                    sample, hashed = packer(entries[row], labels[row], tars[entries[row].tar])
                    writer.add([sample])
                    hashes.append(hashed)
        except BaseException:
            writer.abort()
            raise
        for name, stored in writer.commit().items():
            files[name] = ListedFile(sha256=stored.sha256, bytes=stored.bytes, images=len(rows))
    return files, np.array(hashes, dtype=np.uint64)


def _codec(image_ext: str) -> Codec:
    last = image_ext.rpartition(".")[2].lower()
    for codec, extensions in EXTENSIONS.items():
        if last in extensions:
            return codec
    known = ", ".join(extension for extensions in EXTENSIONS.values() for extension in extensions)
    raise UserError(f"the job holds a {last}, and images are released only ({known}); clips cannot be verified")
