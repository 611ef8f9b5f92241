"""The perceptual hash against a second way to compute it, and what it must and must not tell apart."""

from __future__ import annotations

import io
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from pipeline.anonymity.faces.phash import hamming, phash
from pipeline.media.pixels import decode
from pipeline.media.records import Sample
from pipeline.media.rules import PixelRules
from pipeline.streams.shards import WebDatasetInput
from tests import builders

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=9).map(lambda values: np.array(values, dtype=np.uint64))


def photo(seed: int, size: tuple[int, int] = (67, 53)) -> Pixels8:
    """Smooth noise of several scales, like a photograph without a subject."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC),
            dtype=np.float64,
        )
        for n in (3, 5, 9)
    ]
    return np.mean(layers, axis=0).round().astype(np.uint8)


@pytest.mark.parametrize("size", [(67, 53), (31, 37), (32, 32)])
def test_it_is_the_transform_that_it_says_it_is(size: tuple[int, int]) -> None:
    image = photo(1, size)
    grey = np.asarray(Image.fromarray(image).convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=float)
    lowest = dctn(grey, norm="ortho")[:8, :8].ravel()
    text = "".join("1" if c > np.median(lowest[1:]) else "0" for c in lowest)
    assert int(phash([image])[0]) == int(text, 2)


def test_half_of_the_bits_are_set_whatever_the_brightness() -> None:
    assert all(int(h).bit_count() in (31, 32) for h in phash([photo(i) for i in range(20)]))


@given(HASHES, HASHES)
def test_hamming_counts_bits(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> None:
    counted = hamming(a, b)
    assert counted.dtype == np.uint8
    assert counted.shape == (len(a), len(b))
    assert counted.tolist() == [[(int(x) ^ int(y)).bit_count() for y in b] for x in a]


def test_one_by_one_or_together() -> None:
    images = [photo(i, (30 + i, 41)) for i in range(5)]
    assert phash(images).tolist() == [int(phash([image])[0]) for image in images]
    assert phash([]).shape == (0,)


def test_scaling_encoding_noise_and_brightness_hardly_move_it() -> None:
    rng = np.random.default_rng(0)
    for seed in range(10):
        image = photo(seed, (96, 96))
        noisy = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
        changed = [
            np.asarray(Image.fromarray(image).resize((150, 150), Image.Resampling.BICUBIC)),
            np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC)),
            (image * 0.8 + 20).round().astype(np.uint8),
            noisy,
        ]
        assert hamming(phash([image]), phash(changed)).max() <= 4


def test_a_jpeg_of_it_is_a_near_copy() -> None:
    for seed in range(10):
        image, buffer = photo(seed, (90, 90)), io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=60)
        assert hamming(phash([image]), phash([decode(buffer.getvalue())[0]])).item() <= 4


def test_other_images_are_about_half_the_bits_away() -> None:
    hashes = phash([photo(seed) for seed in range(60)])
    between = hamming(hashes, hashes)[np.triu_indices(60, 1)]
    assert 28 < between.mean() < 34
    assert between.min() > 8


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_a_flat_image_has_no_frequencies(level: int) -> None:
    flat = np.full((48, 40, 3), level, dtype=np.uint8)
    assert phash([flat])[0] == (1 << 63 if level else 0)


def test_no_two_people_are_near_copies_of_each_other() -> None:
    folder = builders.SHARED / "lfw"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    shard = WebDatasetInput(urls=(str(sorted(folder.glob("dev-*.tar"))[0]),)).open().shards[0]
    samples = [sample for sample in islice(shard.read(), 400) if isinstance(sample, Sample)]
    hashes = phash([decode(sample.image, (64, 64), PixelRules(fit="centre 128"))[0] for sample in samples])
    people = np.array([sample.key.rpartition("_")[0] for sample in samples])
    assert hamming(hashes, hashes)[people[:, None] != people].min() > 4
