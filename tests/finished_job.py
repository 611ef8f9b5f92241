"""The folder of a finished job as `doppel run` leaves it, with images that tell everything they could."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms

from pipeline.anonymity.faces.phash import phash
from pipeline.anonymity.faces.table import FaceTable
from pipeline.media.output_keys import Shape
from pipeline.media.provenance import PROVENANCE, GateVerdict, Provenance
from pipeline.media.records import Rejected, Sample, full_key
from pipeline.release import Evidence, ReleaseConfig, check_release, document, publish, seal, verify
from pipeline.release.config import signing_key
from pipeline.release.manifest import ReleaseManifest
from pipeline.streams.job_records import Counts, Job, ShardRecord
from pipeline.streams.ledger import Ledger
from pipeline.streams.shards import TarWriter, WebDatasetInput
from tests import builders
from tests.streams.made import write_quarantine

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

SALT = b"the secret of these tests"
FACTS = {"operator": {"name": "boomerang", "t_boom": 0.5}, "model": {"hash": "ab12", "licence": "apache-2.0"}}
SIDE, DIMENSIONS = 24, 16
ONE = Shape()
PASSED = GateVerdict(attempt=0, verdict="anonymous", why="", distances=(), others_within={})
HASHES = {"config": "c", "model": "m", "code": "x", "salt": "s"}
CANARIES = ("Canary-Artist", "CANARYICC", "Canary comment", "Canary/provenance")
"""Beside keys and names; none of them may ever be published."""
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + CANARIES[1].encode()


def photo(seed: int) -> Pixels8:
    """Noise of several scales: its perceptual hash is its own."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize((SIDE, SIDE)), dtype=float)
        for n in (4, 7, 11)
    ]
    return np.mean(layers, axis=0).astype(np.uint8)


def telling(pixels: Pixels8, format: str, mode: str = "RGB") -> bytes:
    """The image with EXIF, GPS, a profile and a comment, as if the job had kept all of them."""
    exif = Image.Exif()
    exif[0x013B] = CANARIES[0]
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 15.0)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels).convert(mode)
    image.save(buffer, format, exif=exif, icc_profile=PROFILE, comment=CANARIES[2].encode())
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class Source:
    """An original, and what the job made of it."""

    key: str
    shard: str = ""
    who: str | None = None
    label: int | None = None
    ext: str = "png"
    seed: int = 0
    level: float = 0.5
    shape: Shape = ONE
    members: Mapping[str, bytes] = field(default_factory=dict)

    def samples(self) -> list[Sample]:
        form = {"png": "PNG", "jpg": "JPEG", "gif": "GIF"}[self.ext]
        own = {} if self.label is None else {"cls": str(self.label).encode()}
        told = {"json": json.dumps({"identity": self.who, "key": self.key}).encode(), "txt": f"{self.who}".encode()}
        samples = []
        for number, key in enumerate(self.shape.keys(self.key)):
            provenance = Provenance(
                key=key, shard=self.shard, code="x", config="c", operator="boomerang", level={"fraction": self.level},
                anonymity=PASSED, before=CANARIES[3],
            )  # fmt: skip
            members = {**own, **told, **self.members, PROVENANCE: provenance.to_json().encode()}
            image = telling(photo(10_000 + 10 * self.seed + number), form)
            samples.append(
                Sample(key=key.format(self.shape), shard=self.shard, image=image, image_ext=self.ext, members=members)
            )
        return samples


def people(count: int, per_person: int = 1, **same: Any) -> list[Source]:
    return [
        Source(key=f"Person_Number_{i:03d}_{j:04d}", who=f"Person Number {i:03d}", seed=i * per_person + j, **same)
        for i in range(count)
        for j in range(per_person)
    ]


def finished_job(
    root: Path, shards: Sequence[Sequence[Source | Sample]], *, rejected: Sequence[Rejected] = (), **config: Any
) -> Path:
    """Writes `root` as a job does, one tar for each of `shards`; `config` replaces sections of job.json."""
    ledger = Ledger(root)
    sections = {
        "input": {"format": "webdataset", "label": "cls", "split": "auto"}, "output": {"quality": 95},
        "image": {"fit": "resize"}, **config,
    }  # fmt: skip
    shape = next((source.shape for sources in shards for source in sources if isinstance(source, Source)), ONE)
    job = Job(config=sections, hashes=HASHES, outputs=shape, licences={})
    with ledger.open(job):
        for number, sources in enumerate(shards):
            name = f"secret-shard-{number}"
            writer = TarWriter(store=ledger.store, parts=ledger.parts, name=name, verbatim_names=True)
            made = [s for source in sources for s in (source.samples() if isinstance(source, Source) else [source])]
            for sample in made:
                writer.add([sample])
            files = writer.commit()
            bad = rejected if number == 0 else ()
            files |= write_quarantine(bad, store=ledger.store, parts=ledger.parts, name=name)
            counts = Counts(read=len(sources) + len(bad), images=len(made), quarantined=len(bad))
            ledger.commit(
                ShardRecord(
                    shard=name, fingerprint="f", input_hash="i", code="x", hashes=HASHES, counts=counts, files=files,
                    seconds=0.1,
                )
            )  # fmt: skip
        ledger.write_manifest(job, [f"secret-shard-{number}" for number in range(len(shards))])
    return root


def table(keys: Sequence[str], people: Sequence[str | None], images: Sequence[Pixels8], seed: int) -> FaceTable:
    """One face in each image, with an embedding of its own."""
    vectors = np.random.default_rng(seed).normal(size=(len(keys), DIMENSIONS)).astype(np.float32)
    return FaceTable(
        keys=tuple(keys), identities=tuple(people), image=np.arange(len(keys)),
        box=np.tile(np.array([4, 4, 16, 16], dtype=np.float32), (len(keys), 1)),
        eyes=np.zeros((len(keys), 2, 2), dtype=np.float32),
        embeddings={"Dlib": vectors / np.linalg.norm(vectors, axis=1, keepdims=True)}, phash=phash(images),
    )  # fmt: skip


def evidence(sources: Sequence[Source], *, images: Sequence[Pixels8] | None = None) -> Evidence:
    """Of a gate that worked: other faces, other hashes. `images` are the originals'."""
    samples = [sample for source in sources for sample in source.samples()]
    images = [photo(source.seed) for source in sources] if images is None else images
    return Evidence(
        originals=table(
            [full_key(source.shard, source.key) for source in sources], [source.who for source in sources], images, 1
        ),
        outputs=table([sample.full_key for sample in samples], [None] * len(samples), [photo(0)] * len(samples), 2),
        copy_distance={"Dlib": 0.02},
        size=(SIDE, SIDE),
    )


def settings_of(folder: Path, **changes: Any) -> ReleaseConfig:
    return ReleaseConfig(
        **{"path": str(folder / "release"), "audit": str(folder / "audit"), "shard_size": 4, **changes}
    )


def published(
    config: ReleaseConfig, job: Path, sources: Sequence[Source], *, salt: bytes = SALT, facts: Mapping[str, Any] = FACTS
) -> ReleaseManifest:
    """All that there is of a release but its seal."""
    manifest = publish(config, job, salt=salt, evidence=evidence(sources), facts=facts)
    return document(Path(config.path), manifest, salt=salt, key=signing_key(config))


def released(
    folder: Path, shards: Sequence[Sequence[Source]], *, rejected: Sequence[Rejected] = (), salt: bytes = SALT,
    **changes: Any,
) -> Path:  # fmt: skip
    """A sealed release of a job with these sources."""
    job = finished_job(folder / "job", shards, rejected=rejected)
    config = settings_of(folder, **changes)
    check_release(config, str(job), salt)
    seal(Path(config.path), published(config, job, [source for shard in shards for source in shard], salt=salt))
    return folder / "release"


def samples(release: Path) -> list[Sample]:
    stream = WebDatasetInput(urls=(str(release / "data" / "*.tar"),)).open()
    return [sample for shard in stream.shards for sample in shard.read() if isinstance(sample, Sample)]


def everything(folder: Path) -> bytes:
    return b"\0".join(name.encode() + content for name, content in builders.tree(folder, ".").items())


def refuse_seal(folder: Path) -> None:
    """Nothing that could be taken for a finished release is in the folder."""
    assert not list(folder.rglob("RELEASE.json"))
    assert verify(folder / "release") != []
