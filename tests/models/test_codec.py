"""Patch codecs: exact inverses, an orthogonal projection, unit variance, and what their files hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import UserError
from pipeline.models.codec import LinearPatch, SpaceToDepth, fit_linear_patch, load_codec, save_codec

PATCH = 2
SIZE = PATCH * PATCH * 3


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Smooth colour images: every direction of a patch has a clearly different variance."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randn(40, 3, 3, 5, generator=rng) * torch.tensor([1.0, 0.5, 0.2])[:, None, None]
    smooth = torch.nn.functional.interpolate(coarse, size=(6, 10), mode="bilinear")
    return smooth + 0.02 * torch.randn(smooth.shape, generator=rng) + 0.1


def patches(images: Tensor) -> NDArray[np.float64]:
    """Every patch as a row, by plain loops: channel, then line, then column."""
    rows = []
    for image in images.double().numpy():
        for top in range(0, image.shape[1], PATCH):
            for left in range(0, image.shape[2], PATCH):
                rows.append(image[:, top : top + PATCH, left : left + PATCH].reshape(-1))
    return np.stack(rows)


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_space_to_depth_is_undone_exactly(patch: int) -> None:
    pixels = torch.arange(7 * 5 * 11 * 13 * patch**2).reshape(7, 5, 11 * patch, 13 * patch).float()
    z = SpaceToDepth(patch=patch).encode(pixels)
    assert z.shape == (7, 5 * patch**2, 11, 13)
    assert torch.equal(SpaceToDepth(patch=patch).decode(z), pixels)


def test_space_to_depth_keeps_a_patch_together() -> None:
    pixels = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6).float()
    z = SpaceToDepth(patch=2).encode(pixels)
    assert z[0, :, 1, 2].tolist() == pixels[0, :, 2:4, 4:6].flatten().tolist()


def test_patch_one_changes_nothing() -> None:
    pixels = torch.randn(2, 3, 5, 7)
    assert torch.equal(SpaceToDepth().encode(pixels), pixels)
    assert SpaceToDepth().kind == "none"


def test_all_components_are_the_identity(images: Tensor) -> None:
    codec = fit_linear_patch(images, patch=PATCH, components=SIZE)
    z = codec.encode(images)
    assert z.shape == (40, SIZE, 3, 5)
    assert torch.allclose(codec.decode(z), images, atol=1e-5)


@pytest.mark.parametrize("components", [1, 5, SIZE - 1])
def test_some_components_are_the_best_orthogonal_projection(images: Tensor, components: int) -> None:
    codec = fit_linear_patch(images, patch=PATCH, components=components)
    vectors = patches(images)
    mean = vectors.mean(0)
    _, _, directions = np.linalg.svd(vectors - mean, full_matrices=False)
    kept = directions[:components]
    expected = (vectors - mean) @ kept.T @ kept + mean
    assert np.abs(patches(codec.decode(codec.encode(images))) - expected).max() < 1e-5


def test_a_decoded_image_is_a_fixed_point(images: Tensor) -> None:
    codec = fit_linear_patch(images, patch=PATCH, components=4)
    z = codec.encode(images)
    assert torch.allclose(codec.encode(codec.decode(z)), z, atol=1e-5)


def test_latents_have_mean_zero_and_variance_one_down_to_the_floor(images: Tensor) -> None:
    codec = fit_linear_patch(images, patch=PATCH, components=SIZE)
    vectors = patches(images)
    singular = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False) / len(vectors) ** 0.5
    floor = 0.05 * singular[0]
    assert (singular < floor).any()  # else the floor is not tried
    assert (singular > floor).sum() >= 3
    z = codec.encode(images).movedim(1, -1).reshape(-1, SIZE).double()
    assert z.mean(0).abs().max() < 1e-5
    expected = np.minimum(singular / floor, 1)
    assert np.allclose(z.std(0, correction=0).numpy(), expected, atol=1e-4)
    assert np.allclose(codec.std.numpy(), np.maximum(singular, floor), rtol=1e-4)


def test_directions_point_the_same_way_whatever_the_decomposition(
    images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = fit_linear_patch(images, patch=PATCH, components=4)
    eigh = torch.linalg.eigh

    def mirrored(matrix: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = eigh(matrix)
        return values, -vectors

    monkeypatch.setattr(torch.linalg, "eigh", mirrored)
    assert torch.equal(fit_linear_patch(images, patch=PATCH, components=4).components, ours.components)


@pytest.mark.parametrize("components", [0, SIZE + 1])
def test_a_patch_has_so_many_components_and_no_more(images: Tensor, components: int) -> None:
    with pytest.raises(UserError, match=f"codec.components is {components}: a patch has 1 to {SIZE}"):
        fit_linear_patch(images, patch=PATCH, components=components)


def test_images_without_any_difference_are_refused() -> None:
    with pytest.raises(UserError, match="alike"):
        fit_linear_patch(torch.full((3, 3, 4, 4), 0.25), patch=PATCH, components=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_of_the_pixels_follow_from_those_of_the_grid(images: Tensor, channels: int) -> None:
    pixels = images[:, :channels]
    for codec in (SpaceToDepth(patch=2), fit_linear_patch(pixels, patch=PATCH, components=3)):
        assert codec.channels(codec.encode(pixels).shape[1]) == channels


def test_saved_codecs_come_back(images: Tensor, tmp_path: Path) -> None:
    assert load_codec(tmp_path) == SpaceToDepth()
    for codec in (SpaceToDepth(), SpaceToDepth(patch=4)):
        save_codec(codec, tmp_path)
        assert load_codec(tmp_path) == codec
    linear = fit_linear_patch(images, patch=PATCH, components=4)
    save_codec(linear, tmp_path)
    found = load_codec(tmp_path).to("cpu")
    assert isinstance(found, LinearPatch)
    assert (found.kind, found.patch) == ("linear_patch", PATCH)
    assert torch.equal(found.encode(images), linear.encode(images))
    assert torch.equal(found.decode(linear.encode(images)), linear.decode(linear.encode(images)))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ('{"kind": "vae", "patch": 2}', "kind is 'vae'; known are none, space_to_depth, linear_patch"),
        ('{"patch": 2}', "kind is None"),
        ('{"kind": "space_to_depth"}', "patch is None"),
        ('{"kind": "space_to_depth", "patch": 0}', "patch is 0"),
        ('{"kind": ', "is not valid JSON"),
        ("[1]", "a JSON object is expected"),
        (None, "config.json is missing"),
    ],
)
def test_a_bad_codec_file_is_one_sentence(tmp_path: Path, config: str | None, sentence: str) -> None:
    (tmp_path / "codec").mkdir()
    if config is not None:
        (tmp_path / "codec" / "config.json").write_text(config)
    with pytest.raises(UserError, match=sentence) as caught:
        load_codec(tmp_path)
    assert str(tmp_path / "codec" / "config.json") in str(caught.value)


@pytest.mark.parametrize("content", [None, b"rubbish", b""])
def test_bad_tensors_of_a_codec_are_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "codec").mkdir()
    (tmp_path / "codec" / "config.json").write_text(json.dumps({"kind": "linear_patch", "patch": 2}))
    if content is not None:
        (tmp_path / "codec" / "codec.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"codec\.safetensors: no codec can be read"):
        load_codec(tmp_path)
