"""The tars of a release: each image is encoded afresh under its new key, in an order of the release's own."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Container
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.anonymity.faces.phash import phash
from pipeline.errors import UserError
from pipeline.media.opening import Undecodable
from pipeline.media.pixels import EXTENSIONS, Codec, decode
from pipeline.media.records import Sample
from pipeline.media.rules import PixelRules
from pipeline.release.finished_job import LABEL, MadeImage
from pipeline.release.manifest import ListedFile
from pipeline.release.privacy import clean_image, names_in, release_key
from pipeline.release.shuffling import Content, Shuffle
from pipeline.streams.shards import TarWriter
from pipeline.streams.store import DiskStore

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Packer:
    """Makes the public sample of an image of the job."""

    secret: bytes
    """The key that release keys are hashed with."""
    who: Callable[[str], str | None]
    """Tells who is in an original, by its full key."""
    quality: int
    """The quality of JPEG and WebP, 1 to 100."""
    size: tuple[int, int]
    """Height and width at which images are hashed."""
    rules: PixelRules
    """How images of other sizes are brought to it."""

    def __call__(self, entry: MadeImage, label: int | None, content: Content) -> tuple[Sample, np.uint64]:
        """The sample to publish, and the perceptual hash of its image, taken just as those of the originals were.

        Raises `UserError` where the image cannot be read, or a member names its key or the person in it.
        """
        codec = _codec(entry.image_ext)
        try:
            pixels, frame = decode(content.image)
        except Undecodable as error:
            raise UserError(f"an image of the job cannot be read again ({error}): nothing was released") from None
        data = clean_image(pixels, frame.mode, codec, self.quality)
        for extension, member in content.members.items():
            if names_in(member, (entry.source_key, self.who(entry.source))):
                raise UserError(
                    f"release.members: a member {extension} holds the key of its image or the name of who is in it; "
                    "only members without can be published"
                )
        labelled = {} if label is None else {LABEL: str(label).encode()}
        key, image_ext = release_key(self.secret, entry.key), EXTENSIONS[codec][0]
        sample = Sample(key=key, image=data, image_ext=image_ext, members={**labelled, **content.members})
        return sample, phash([decode(data, self.size, self.rules)[0]])[0]


def write_shards(
    packer: Packer, shuffle: Shuffle, labels: Container[int], *, data: Path, shard_size: int
) -> tuple[dict[str, ListedFile], NDArray[np.uint64]]:
    """Writes `data/release-00000.tar`, …, with those `labels` that images have, in the order of the shuffle.

    Returns what to list for each tar, and the perceptual hashes of all images, uint64 `[M]`.
    """
    files, hashes = dict[str, ListedFile](), array("Q")
    images = iter(shuffle)
    for number, start in enumerate(range(0, len(shuffle), shard_size)):
        count = min(shard_size, len(shuffle) - start)
        writer = TarWriter(
            store=DiskStore(data.parent, data), folder=data.name, parts=data, name=f"release-{number:05d}",
            verbatim_names=True,
        )  # fmt: skip
        try:
            for entry, content in islice(images, count):
                sample, hashed = packer(entry, published(entry.label, labels), content)
                writer.add([sample])
                hashes.append(int(hashed))
        except BaseException:
            writer.abort()
            raise
        for name, stored in writer.commit().items():
            files[name] = ListedFile(sha256=stored.sha256, bytes=stored.bytes, images=count)
    return files, np.frombuffer(hashes, dtype=np.uint64)


def published(label: int | None, allowed: Container[int]) -> int | None:
    """The label that an image is published with; None for none."""
    return label if label in allowed else None


def _codec(image_ext: str) -> Codec:
    last = image_ext.rpartition(".")[2].lower()
    for codec, extensions in EXTENSIONS.items():
        if last in extensions:
            return codec
    known = ", ".join(extension for extensions in EXTENSIONS.values() for extension in extensions)
    raise UserError(f"the job holds a {last}, and images are released only ({known}); clips cannot be verified")
