"""Photographs with faces: one that ships with matplotlib (a public-domain portrait), and LFW where it is at hand."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.builders import SHARED

LFW = SHARED / "lfw"
needs_dlib = pytest.mark.skipif(importlib.util.find_spec("dlib") is None, reason="needs the extra `faces`")
needs_lfw = pytest.mark.skipif(not LFW.exists(), reason="needs ../shared/data/lfw")


def portrait(side: int = 256) -> np.ndarray:
    """uint8 RGB `[side, side, 3]`: a US Navy photograph of Grace Hopper."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    with Image.open(Path(spec.origin).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg") as image:
        square = image.convert("RGB").crop((46, 0, 466, 420))  # head and shoulders
        return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))


def people(count: int, side: int | None = None, shard: str = "dev-00000.tar") -> list[np.ndarray]:
    """The first images of a shard of LFW, uint8 RGB; `side`: brought to that size."""
    images: list[np.ndarray] = []
    with tarfile.open(LFW / shard) as tar:
        for member in tar:
            if len(images) == count:
                break
            if member.name.endswith(".jpg"):
                content = tar.extractfile(member)
                assert content is not None
                image = Image.open(io.BytesIO(content.read())).convert("RGB")
                images.append(np.asarray(image if side is None else image.resize((side, side), Image.Resampling.BOX)))
    return images
