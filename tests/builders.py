"""Things that tests make on the spot: images, tars, model folders, recipes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE, CLASSES = 8, 3
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def picture(seed: int, size: tuple[int, int] = (SIDE, SIDE), mode: str = "RGB", kind: str = "PNG") -> bytes:
    """A smooth random image, encoded; `size` is width, height."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def shard(path: Path, count: int, *, first: int = 0, mode: str = "RGB") -> Path:
    """A sound shard: `count` samples with image, label, caption and JSON."""
    members = []
    for i in range(first, first + count):
        members += [
            (f"{i:04d}.png", picture(i, mode=mode)),
            (f"{i:04d}.cls", str(i % CLASSES).encode()),
            (f"{i:04d}.txt", f"caption {i} ü".encode()),
            (f"{i:04d}.json", b'{"n": %d, "odd":  [1,2]}' % i),
        ]
    return tar(path, members)


def model_folder(folder: Path, *, classes: int | None = CLASSES, channels: int = 3, seed: int = 0) -> Path:
    """A tiny `UNet2DModel` with random weights in the diffusers layout; classes are all conditional."""
    import torch
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(seed)
    network = UNet2DModel(
        sample_size=SIDE, in_channels=channels, out_channels=channels, layers_per_block=1, block_out_channels=(32,),
        norm_num_groups=8,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), num_class_embeds=classes,
    )  # fmt: skip
    network.save_pretrained(folder / "unet")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing").save_pretrained(folder / "scheduler")
    return folder


def recipe(source: Path | str, out: Path, model: Path | None, **changes: Any) -> dict[str, Any]:
    """The content of a recipe: two steps of Boomerang; `changes` like `{"operator.t_boom": .2}` replace keys."""
    content: dict[str, Any] = {
        "kind": "job",
        "input": {"format": "webdataset", "urls": str(source)},
        "output": {"path": str(out)},
        "run": {"devices": ["cpu"]},
    }
    if model is not None:
        content["model"] = {"path": str(model), "batch_size": 4}
        content["operator"] = {"name": "boomerang", "t_boom": 0.4, "steps": 2}
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return content


def members_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {i.name: archive.extractfile(i).read() for i in archive}  # type: ignore[union-attr]


def tree(folder: Path, *parts: str) -> Mapping[str, bytes]:
    """The files below the named parts of an output folder, by relative path."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for part in parts
        for file in sorted((folder / part).rglob("*"))
        if file.is_file()
    }
