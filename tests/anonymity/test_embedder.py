"""The small embedder: the shipped one is sound, a batch changes nothing, damaged folders are refused; its loss."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.anonymity.faces.embedder import (
    CONFIG,
    TENSORS,
    EmbedderConfig,
    FaceNetwork,
    SmallEmbedder,
    angular_margin,
    network_pixels,
    save_embedder,
)
from pipeline.assets import ROOT
from pipeline.errors import UserError

TINY = EmbedderConfig(size=16, widths=(4, 6), depths=(1, 2), dimensions=5)
LARGEST_ASSET = 2_500_000
MOST_PARAMETERS = 1_200_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = FaceNetwork(TINY)
    for name, buffer in network.named_buffers():  # as after training: no statistic is 0 or 1
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + (0.5 if name.endswith("var") else -0.5))
    save_embedder(network, TINY, tmp_path / "tiny")
    return tmp_path / "tiny"


def crops(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Of different sizes, none of them square."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (17 + 5 * i, 23 + 3 * i, 3), dtype=np.uint8) for i in range(count)]


def test_a_batch_is_the_same_as_one_by_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, faces = SmallEmbedder.load(folder), crops(7)
    together = tiny.embed(faces)
    assert together.shape == (7, 5)
    assert together.dtype == np.float32
    assert np.ptp(together, axis=0).min() > 1e-3  # else everything would equal everything
    np.testing.assert_allclose(together, np.concatenate([tiny.embed([face]) for face in faces]), atol=1e-5)
    monkeypatch.setattr("pipeline.anonymity.faces.embedder.BATCH", 3)
    np.testing.assert_allclose(tiny.embed(faces), together, atol=1e-5)
    assert tiny.embed([]).shape == (0, 5)


def test_a_mirrored_face_is_the_same_face(folder: Path) -> None:
    tiny, faces = SmallEmbedder.load(folder), [np.ascontiguousarray(c[:16, :16]) for c in crops(3)]
    mirrored = [np.ascontiguousarray(face[:, ::-1]) for face in faces]
    np.testing.assert_allclose(tiny.embed(mirrored), tiny.embed(faces), atol=1e-5)
    upside_down = [np.ascontiguousarray(face[::-1]) for face in faces]
    assert np.abs(tiny.embed(upside_down) - tiny.embed(faces)).max() > 1e-3


def test_pixels_are_rgb_between_minus_one_and_one() -> None:
    red = np.zeros((30, 20, 3), np.uint8)
    red[..., 0] = 255
    expected = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    torch.testing.assert_close(network_pixels([red], 16), expected)


def test_saving_keeps_the_network_to_half_precision(folder: Path) -> None:
    torch.manual_seed(0)
    fresh, saved = FaceNetwork(TINY), SmallEmbedder.load(folder)
    stored = saved.network.state_dict()
    for name, value in fresh.named_parameters():
        torch.testing.assert_close(stored[name], value.detach(), rtol=1e-3, atol=1e-5)


def test_weights_are_hashed_with_the_configuration(folder: Path) -> None:
    before = SmallEmbedder.load(folder).weights
    assert len(before) == 64
    assert SmallEmbedder.load(folder).weights == before
    file = folder / CONFIG
    file.write_text(file.read_text() + "\n")
    assert SmallEmbedder.load(folder).weights != before


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def other_shape(file: Path) -> None:
    file.write_text(json.dumps(TINY.model_dump() | {"dimensions": 9}))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (TENSORS, Path.unlink),
        (CONFIG, Path.unlink),
        (TENSORS, cut),
        (CONFIG, cut),
        (CONFIG, other_shape),
        (CONFIG, lambda file: file.write_text(json.dumps(TINY.model_dump() | {"colour": "grey"}))),
        (CONFIG, lambda file: file.write_text(json.dumps(TINY.model_dump() | {"depths": [1]}))),
        (CONFIG, lambda file: file.write_text(json.dumps(TINY.model_dump() | {"size": 3}))),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, file: str, damage: object) -> None:
    damage(folder / file)  # type: ignore[operator]
    with pytest.raises(UserError, match=r"recogniser small: .* holds no face embedder") as refused:
        SmallEmbedder.load(folder)
    assert "\n" not in str(refused.value)


def test_the_shipped_embedder_is_small_and_works() -> None:
    asset = ROOT / "face_embedder"
    assert sum(file.stat().st_size for file in asset.iterdir()) <= LARGEST_ASSET
    shipped = SmallEmbedder.load()
    assert sum(p.numel() for p in shipped.network.parameters()) <= MOST_PARAMETERS
    faces = crops(3)
    embeddings = shipped.embed(faces)
    assert embeddings.shape == (3, shipped.config.dimensions)
    assert np.isfinite(embeddings).all()
    np.testing.assert_allclose(embeddings, np.concatenate([shipped.embed([f]) for f in faces]), atol=1e-4)
    assert (asset / "README.md").read_text().count("research demonstration") == 1


def naive_margin(cosines: list[list[float]], labels: list[int], margin: float) -> list[list[float]]:
    """1801.07698, equation 3, entry by entry in float64."""
    changed = [list(row) for row in cosines]
    for row, label in zip(changed, labels, strict=True):
        angle = math.acos(row[label])
        beyond = angle + margin > math.pi
        row[label] = row[label] - margin * math.sin(margin) if beyond else math.cos(angle + margin)
    return changed


@given(
    rows=st.lists(st.lists(st.floats(-0.999, 0.999), min_size=3, max_size=3), min_size=1, max_size=5),
    margin=st.floats(0, 0.6),
    data=st.data(),
)
def test_the_margin_is_added_to_the_angle_of_the_label(
    rows: list[list[float]], margin: float, data: st.DataObject
) -> None:
    labels = [data.draw(st.integers(0, 2)) for _ in rows]
    found = angular_margin(torch.tensor(rows, dtype=torch.float64), torch.tensor(labels), margin=margin)
    torch.testing.assert_close(found, torch.tensor(naive_margin(rows, labels, margin), dtype=torch.float64))


def test_the_margin_only_ever_makes_it_harder_and_has_a_finite_slope() -> None:
    cosines = torch.linspace(-1, 1, 501, dtype=torch.float64)[:, None].requires_grad_()
    found = angular_margin(cosines, torch.zeros(501, dtype=torch.long), margin=0.3)
    assert (found.detach() - cosines.detach() <= 1e-9).all()
    assert (found.detach().diff(dim=0) > -1e-3).all()
    found.sum().backward()
    assert cosines.grad is not None
    assert torch.isfinite(cosines.grad).all()
