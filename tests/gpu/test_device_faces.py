"""What judges faces must judge alike wherever it runs: its thresholds were measured on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.anonymity.faces import dlib_net
from pipeline.anonymity.faces.dlib_net import FILE, DlibNet
from pipeline.anonymity.faces.embedder import SmallEmbedder
from pipeline.anonymity.faces.weights import digest, require
from pipeline.errors import UserError
from tests.anonymity.dlib_file import random_file

pytestmark = pytest.mark.gpu

NEAR = 1e-4
"""Of dlib's embeddings, whose entries are about .1."""


def faces(count: int, side: int) -> NDArray[np.uint8]:
    """Shades and noise; the first is black, the second white."""
    rng, (y, x) = np.random.default_rng(0), np.indices((side, side))
    made = [np.zeros((side, side, 3)), np.full((side, side, 3), 255)]
    for _ in range(count - 2):
        waves = [np.sin(x / rng.uniform(2, 20) + rng.uniform(0, 6)) * np.cos(y / rng.uniform(2, 20)) for _ in range(3)]
        made.append(127 + 100 * np.stack(waves, -1) + rng.normal(scale=9, size=(side, side, 3)))
    return np.stack(made).clip(0, 255).astype(np.uint8)


def compared(file: Path, device: str, count: int) -> float:
    """The largest difference between the network on the device and on the CPU."""
    shown = faces(count, dlib_net.SIDE)
    there, here = DlibNet(file, device)(shown), DlibNet(file)(shown)
    assert there.dtype == np.float32
    assert np.array_equal(DlibNet(file, device)(shown), there)
    assert np.abs(here).max() > 0.05  # or it would say nothing
    return float(np.abs(there - here).max())


def test_dlib_s_network(device: str) -> None:
    try:
        file = require(FILE)
    except UserError as error:
        pytest.skip(f"dlib's weights are not here ({error})")
    assert compared(file, device, 5) < NEAR


def test_dlib_s_network_with_other_weights(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of our own, so that its way through the device is tried wherever dlib's are missing; in two batches. Entries are
    about 1, and TF32 would change them by .001."""
    file = tmp_path / FILE
    file.write_bytes(random_file(0))
    monkeypatch.setitem(dlib_net.PINNED, FILE, digest([file]))
    monkeypatch.setattr(dlib_net, "BATCH", 3)
    assert compared(file, device, 5) < 3 * NEAR


def test_our_recogniser(device: str) -> None:
    crops = [*faces(5, 60), *faces(3, 41)]
    there, here = SmallEmbedder.load(device=device).embed(crops), SmallEmbedder.load().embed(crops)
    assert there.shape == (8, 128)
    length = np.linalg.norm(here, axis=1, keepdims=True)
    assert np.abs((there - here) / length).max() < NEAR
