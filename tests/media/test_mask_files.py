"""Mask files as tools write them: each is read by a declared rule, or refused with the rules that there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from pipeline.media.mask_files import decode_mask
from pipeline.media.masks import MaskRules
from pipeline.media.opening import Undecodable
from tests.media.test_opening import saved

MASK = np.zeros((6, 8), bool)
MASK[1:4, 2:7] = True
BYTES = MASK.astype(np.uint8)
VOID = np.zeros((6, 8, 3), np.uint8)


def read(data: bytes, **rules: Any) -> np.ndarray:
    return decode_mask(data, (8, 6), (6, 8), rules=MaskRules(**rules)).astype(bool)


def palette(colours: list[int]) -> bytes:
    image = Image.fromarray(BYTES).convert("P")
    image.frombytes(BYTES.tobytes())
    image.putpalette(colours)
    return saved(image)


UNDECLARED = {
    "0 and 255": saved(Image.fromarray(255 * BYTES)),
    "0 and 1": saved(Image.fromarray(BYTES)),
    "two tones": saved(Image.fromarray(MASK)),
    "16 bits, 0 and 65535": saved(Image.fromarray(MASK.astype(np.uint16) * 65535)),
    "16 bits, 0 and 1": saved(Image.fromarray(MASK.astype(np.uint16))),
    "16 bits, 0 and 255": saved(Image.fromarray(MASK.astype(np.uint16) * 255), "TIFF"),
    "32 bits, 0 and 1": saved(Image.fromarray(MASK.astype(np.int32)), "TIFF"),
    "floating point": saved(Image.fromarray(MASK.astype(np.float32)), "TIFF"),
    "RGB": saved(Image.fromarray(255 * np.dstack([BYTES] * 3))),
    "RGBA without transparency": saved(Image.fromarray(255 * np.dstack([*[BYTES] * 3, np.ones_like(BYTES)]))),
    "a palette of black and white": palette([0, 0, 0, 255, 255, 255]),
    "a profile of colours": saved(Image.fromarray(255 * BYTES), icc_profile=b"whatever"),
}
ALPHA = 255 * BYTES
DECLARED = {
    "alpha alone": (saved(Image.fromarray(np.dstack([VOID, ALPHA]))), "alpha"),
    "white with alpha": (saved(Image.fromarray(np.dstack([VOID + 255, ALPHA]))), "alpha"),
    "a hole to fill": (saved(Image.fromarray(np.dstack([VOID + 90, 255 - ALPHA]))), "transparency"),
    "grey with alpha": (saved(Image.fromarray(np.dstack([VOID[..., 0], ALPHA]))), "alpha"),
    "colours under alpha": (saved(Image.fromarray(np.dstack([*[ALPHA] * 3, VOID[..., 0]]))), "luma"),
    "a palette's numbers": (palette([0, 0, 0, 128, 0, 0]), "index"),
}


@pytest.mark.parametrize("name", UNDECLARED)
def test_masks_that_are_clear(name: str) -> None:
    assert np.array_equal(read(UNDECLARED[name]), MASK)


@pytest.mark.parametrize("name", DECLARED)
def test_masks_that_need_a_word_and_are_refused_without(name: str) -> None:
    data, channel = DECLARED[name]
    assert np.array_equal(read(data, channel=channel), MASK)
    with pytest.raises(Undecodable, match=f"mask.channel.*{channel}"):
        read(data)


def test_a_palette_that_shows_white_for_0_is_read_as_it_looks() -> None:
    assert np.array_equal(read(palette([255, 255, 255, 0, 0, 0])), ~MASK)
    assert np.array_equal(read(palette([255, 255, 255, 0, 0, 0]), channel="index"), MASK)


@pytest.mark.parametrize(("channel", "reason"), [("alpha", "no alpha"), ("index", "no palette")])
def test_a_channel_that_is_not_there(channel: str, reason: str) -> None:
    with pytest.raises(Undecodable, match=reason):
        read(UNDECLARED["0 and 255"], channel=channel)


@given(values=arrays.arrays(np.uint8, (6, 8)), threshold=st.floats(0.01, 1))
def test_soft_masks_have_a_threshold_or_are_refused(values: np.ndarray, threshold: float) -> None:
    values = values.copy()
    values[0, :3] = 3, 100, 200  # no binary one
    data = saved(Image.fromarray(values))
    assert np.array_equal(read(data, threshold=threshold), values >= 255 * threshold)
    with pytest.raises(Undecodable, match=r"not binary.*mask\.threshold"):
        read(data)


def test_soft_masks_of_other_depths() -> None:
    shares = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    for image in (Image.fromarray(shares), Image.fromarray((shares * 65535).round().astype(np.uint16))):
        assert np.array_equal(read(saved(image, "TIFF"), threshold=0.5), shares >= 0.5)
    with pytest.raises(Undecodable, match="needs numbers of 8 or 16 bits"):
        read(saved(Image.fromarray(3 * shares), "TIFF"), threshold=0.5)


def test_a_soft_alpha() -> None:
    data = saved(Image.fromarray(np.dstack([VOID, np.where(MASK, 200, 30).astype(np.uint8)])))
    assert np.array_equal(read(data, channel="alpha", threshold=0.5), MASK)
