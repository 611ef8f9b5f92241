"""Masks keep their values, modes and palettes, and go where their image goes; so do COCO's run lengths."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as v2
from torchvision.tv_tensors import Mask

from pipeline.geometry.masks import move_mask, moved_pixels
from pipeline.geometry.rle import packed, read_rle, unpacked, write_rle
from tests.geometry.frames import frame

REAL = (
    "0g05b08J4M2N2NA^O1`0OCO=0E090H080IO68DH;>@C>a0_O_O`0j0OWOF<:CM72I24NL43JM92FN;1ENKO72L0LO91J0MO92INO0NO122OO0M031O"
    "000NO31OO11MO40N011MO41MO21L06OL021L06OL021L06OL021L060J040L060J040L060J040L060J040L060J040L060J040L060KO31L060KO3"
    "1L06OL021L06OL021L06OL021MO41MO21MO40N100NO310O00M0310O00NO1220NO92IONO91KOMO72M0<1EO:2GN63KM34OLM73JF<;=1G_O_Ob0="
    "AC`07EH=1IO71H090F0:1DO>1_O1b0>2N2N3L6H]O"
)
"""A mask of 50 × 70 that pycocotools has packed."""


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def values(seed: int = 0, high: int = 256, kind: Any = np.uint8) -> Any:
    return np.random.default_rng(seed).integers(0, high, (31, 60), dtype=kind)


@pytest.mark.parametrize("fit", ["resize", "crop", "pad", "centre 12"])
def test_a_mask_goes_where_torchvision_brings_it(fit: str) -> None:
    where, mask = frame(fit=fit), values()
    moved = np.asarray(Image.open(io.BytesIO(move_mask(saved(Image.fromarray(mask)), where, upright=True))))
    left, top = where.window[:2]
    cut = v2.crop(Mask(torch.from_numpy(mask)), top, left, where.seen[1], where.seen[0])
    there = interpolate(cut[None, None].float(), where.output[::-1], mode="nearest-exact")[0, 0]
    assert np.array_equal(moved, there.numpy())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_stored_pixels_is_turned_as_viewers_turn_the_image(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(values())
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(saved(image, exif=exif))))
    where = frame(*upright.size, orientation=orientation, size=None)
    for data in (saved(image), saved(image, exif=exif), saved(image, "TIFF", exif=exif)):
        moved = Image.open(io.BytesIO(move_mask(data, where, upright=False)))
        assert np.array_equal(np.asarray(moved), np.asarray(upright))
        assert moved.getexif().get(0x0112, 1) == 1
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(move_mask(saved(upright), where, upright=True)))), upright)


def in_palette() -> Image.Image:
    image = Image.fromarray(values(high=3)).convert("P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    return image


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.fromarray(values(high=2).astype(bool)), "PNG"),
        (Image.fromarray(values(high=65536, kind=np.uint16)), "PNG"),
        (Image.fromarray(values(high=65536, kind=np.uint16)), "TIFF"),
        (in_palette(), "PNG"),
        (in_palette(), "GIF"),
        (Image.fromarray(values()).convert("RGB"), "BMP"),
    ],
    ids=lambda value: getattr(value, "mode", value),
)
def test_modes_palettes_and_kinds_of_files_stay(image: Image.Image, kind: str) -> None:
    before = Image.open(io.BytesIO(saved(image, kind)))
    after = Image.open(io.BytesIO(move_mask(saved(image, kind), frame(fit="centre 12"), upright=True)))
    assert (after.format, after.mode, after.size) == (kind, before.mode, (24, 16))
    assert after.getpalette() == before.getpalette()
    assert set(np.unique(after)) <= set(np.unique(before))
    assert len(np.unique(after)) > 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (saved(Image.new("L", (24, 16))), "measures 24 × 16, and its image 60 × 31"),
        (saved(Image.new("L", (60, 31)), "JPEG"), "allowed are PNG, TIFF, BMP, GIF"),
        (b"", "no mask can be read"),
        (saved(Image.fromarray(values()))[:-40], "no mask can be read"),
        (saved(Image.new("1", (10_001, 10_001))), "too many"),
    ],
)
def test_what_is_no_mask_of_the_image(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        move_mask(data, frame(), upright=True)


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)), st.booleans())
def test_run_lengths_come_back(mask: Any, text: bool) -> None:
    like = {"size": [], "counts": "" if text else [], "id": 7}
    written = write_rle(mask, like)
    assert written["id"] == 7
    assert isinstance(written["counts"], str) is text
    assert np.array_equal(read_rle(written, mask.shape[::-1]), mask)


@given(st.lists(st.integers(0, 1 << 40), max_size=8))
def test_packed_numbers_come_back(runs: list[int]) -> None:
    assert unpacked(packed(runs)) == runs


def test_what_pycocotools_wrote_is_read_and_written_the_same() -> None:
    mask = read_rle({"size": [50, 70], "counts": REAL}, (70, 50))
    assert 300 < mask.sum() < 3000
    assert write_rle(mask, {"counts": ""})["counts"] == REAL
    assert moved_pixels(mask, frame(70, 50, "resize"), upright=True).shape == (16, 24)


@pytest.mark.parametrize(
    "value", [{}, {"size": [3, 2], "counts": [6]}, {"size": [2, 3], "counts": [5]}, {"size": [2, 3], "counts": [-1, 7]},
              {"size": [2, 3], "counts": "é"}, {"size": [2, 3], "counts": "o" * 20}, {"size": 3, "counts": [6]},
              {"size": [2, 3], "counts": "`"}, {"size": [2, 3], "counts": [[6]]}, {"size": [2, 3], "counts": None}],
)  # fmt: skip
def test_what_are_no_run_lengths(value: Any) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_rle(value, (3, 2))


def test_a_mask_of_several_pages_is_refused() -> None:
    buffer = io.BytesIO()
    pages = [Image.new("L", (60, 40), value) for value in (1, 2)]
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="2 pages"):
        move_mask(buffer.getvalue(), frame(60, 40), upright=True)
