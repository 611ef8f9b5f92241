"""What pixels mean: depth, colour profiles, transparency and pages, against numpy and Pillow's own ImageCms."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from pipeline.media.opening import CONVERTED, DEEP, FLATTENED, INKS, MORE, NO_PROFILE, Undecodable, open_image
from pipeline.media.rules import PLAIN, PixelRules
from tests.corpus.image_cases import chunk, png

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def seen(data: bytes, **rules: Any) -> np.ndarray:
    return np.asarray(open_image(data, PixelRules(**rules)).image)


def signed(values: np.ndarray) -> bytes:
    """A TIFF of signed numbers of 16 bits, as scanners write CT; Pillow writes none."""
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, height),
            (279, values.nbytes), (339, 2)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + values.nbytes) + values.astype("<i2").tobytes() + directory


def windowed(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (255 * ((values - low) / (high - low)).clip(0, 1)).round().astype(np.uint8)


TWELVE = np.array([[0, 1000, 2048, 4095]], np.uint16)
HOUNSFIELD = np.array([[-1024, -500, 0, 700, 3000]], np.int16)
SHARES = np.array([[0.0, 0.25, 0.5, 1.0, 1.5]], np.float32)
DEEPER = {
    "12 bits in PNG": (saved(Image.fromarray(TWELVE)), TWELVE, (0, 4095)),
    "12 bits in TIFF": (saved(Image.fromarray(TWELVE), "TIFF"), TWELVE, (0, 4095)),
    "signed CT": (signed(HOUNSFIELD), HOUNSFIELD, (-1000, 1000)),
    "32 bits": (saved(Image.fromarray(HOUNSFIELD.astype(np.int32)), "TIFF"), HOUNSFIELD, (-1000, 1000)),
    "floating point": (saved(Image.fromarray(SHARES), "TIFF"), SHARES, (0, 1)),
}


@pytest.mark.parametrize("name", DEEPER)
def test_a_declared_range_is_black_to_white_for_every_depth(name: str) -> None:
    data, values, ends = DEEPER[name]
    opened = open_image(data, PixelRules(range=ends))
    assert np.array_equal(np.asarray(opened.image), windowed(values.astype(float), *ends))
    assert opened.notes == (DEEP,)
    with pytest.raises(Undecodable, match=r"image\.range does not say what is black"):
        open_image(data)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_whole_type_only_for_numbers_of_16_bits(kind: str) -> None:
    full = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert seen(saved(Image.fromarray(full), kind), range="dtype").tolist() == [[0, 100, 255]]
    for name in ("signed CT", "32 bits", "floating point"):
        with pytest.raises(Undecodable, match="dtype is for whole numbers of 16 bits"):
            open_image(DEEPER[name][0], PixelRules(range="dtype"))


@given(low=st.integers(0, 65534), width=st.integers(1, 65535), value=st.integers(0, 65535))
def test_any_range_of_any_value(low: int, width: int, value: int) -> None:
    data = saved(Image.fromarray(np.full((1, 1), value, np.uint16)))
    assert seen(data, range=(low, low + width)).item() == windowed(np.array(float(value)), low, low + width).item()


def test_two_images_of_one_set_are_scaled_alike() -> None:
    """A dark one stays dark: nothing is taken from the image itself."""
    dark, bright = (saved(Image.fromarray(np.full((2, 2), value, np.uint16))) for value in (100, 4000))
    assert (seen(dark, range=(0, 4095)).item(0), seen(bright, range=(0, 4095)).item(0)) == (6, 249)


def test_colour_of_16_bits() -> None:
    """All bits of a PNG are used; of a TIFF Pillow reads the upper half alone."""
    rows = b"\0" + struct.pack(">6H", 4095, 2048, 0, 100, 200, 300)
    assert seen(png(2, 1, rows, 16), range=(0, 4095)).tolist() == [[[255, 128, 0], [6, 12, 19]]]
    assert seen(png(2, 1, rows, 16), range="dtype").tolist() == [[[16, 8, 0], [0, 1, 1]]]
    hidden = png(2, 1, rows, 16, 2, chunk(b"tRNS", struct.pack(">3H", 100, 200, 300)))
    assert seen(hidden, range=(0, 4095)).tolist() == [[[255, 128, 0], [255] * 3]]


def test_grey_of_16_bits_with_transparency() -> None:
    hidden = png(2, 1, b"\0" + struct.pack(">2H", 4095, 2000), 16, 0, chunk(b"tRNS", struct.pack(">H", 2000)))
    assert seen(hidden, range=(0, 4095), background="black").tolist() == [[255, 0]]
    alpha = png(2, 1, b"\0" + struct.pack(">4H", 4095, 65535, 4095, 0), 16, 4)
    assert seen(alpha, range=(0, 4095), background="black").tolist() == [[255, 0]]


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(Undecodable, match="no finite numbers"):
        open_image(saved(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF"), PixelRules(range=(0, 1)))
    for ends in ((1, 1), (2, 1), (0, float("inf"))):
        with pytest.raises(ValueError, match="the lower first"):
            PixelRules(range=ends)


def test_8_bits_are_left_alone_by_a_range() -> None:
    image = Image.linear_gradient("L")
    assert np.array_equal(seen(saved(image), range=(0, 4095)), np.asarray(image))


# Colour profiles


def matrix_profile(gamma: float, columns: list[list[float]], *, grey: bool = False) -> bytes:
    """A small ICC profile (version 2.4): a curve, and the three primaries."""

    curve = b"curv" + bytes(4) + struct.pack(">IHH", 1, round(256 * gamma), 0)
    white = b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249)
    text = b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78 + 2)
    found = {b"desc": text, b"wtpt": white, b"cprt": b"text" + bytes(4) + b"none\0\0\0\0"}
    if grey:
        found[b"kTRC"] = curve
    else:
        for name, column in zip((b"r", b"g", b"b"), columns, strict=True):
            found |= {name + b"XYZ": b"XYZ " + bytes(4) + fixed(*column), name + b"TRC": curve}
    return profile(b"GRAY" if grey else b"RGB ", b"XYZ ", found)


def profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of these tags."""
    table, content, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, at + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(content), bytes(4), 0x02400000, b"mntr", space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + content


def fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(65536 * number) for number in numbers))


def inks_profile() -> bytes:
    """A profile of CMYK: a table of two steps for each ink, to Lab; full inks are duller than the plain formula has."""
    ramp, corners = bytes(range(256)), b""
    for inks in np.ndindex(2, 2, 2, 2):
        cyan, magenta, yellow, black = inks
        level = 230 - 40 * (cyan + magenta + yellow) - 100 * black
        corners += bytes([max(level, 10), 128 + 50 * magenta - 30 * cyan, 128 + 60 * yellow - 40 * cyan])
    matrix = fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + 4 * ramp + corners + 3 * ramp
    text = b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78 + 2)
    white = b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249)
    return profile(b"CMYK", b"Lab ", {b"desc": text, b"wtpt": white, b"A2B0": table})


ADOBE = matrix_profile(2.2, [[0.6097, 0.3111, 0.0195], [0.2053, 0.6257, 0.0609], [0.1492, 0.0632, 0.7446]])
"""The primaries of Adobe RGB (1998)."""
GREY_18 = matrix_profile(1.8, [], grey=True)
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_an_embedded_profile_becomes_srgb(kind: str) -> None:
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.fromarray(COLOURS), kind, icc_profile=ADOBE, **lossless)
    stored = Image.open(io.BytesIO(data)).convert("RGB")
    by_pillow = ImageCms.profileToProfile(stored, io.BytesIO(ADOBE), SRGB, outputMode="RGB")
    opened = open_image(data)
    assert np.array_equal(np.asarray(opened.image), np.asarray(by_pillow))
    assert np.abs(np.asarray(opened.image).astype(int) - np.asarray(stored)).max() > 20
    assert opened.notes == (CONVERTED,)


def test_a_profile_of_grey_leaves_grey() -> None:
    ramp = Image.linear_gradient("L")
    opened = open_image(saved(ramp, icc_profile=GREY_18))
    by_hand = 255 * (np.arange(256) / 255) ** 1.8  # linear light, then the curve of sRGB
    linear = by_hand / 255
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert opened.image.mode == "L"
    assert np.abs(np.asarray(opened.image)[:, 0] - 255 * srgb).max() <= 1.5
    assert opened.notes == (CONVERTED,)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_inks_follow_their_profile_and_the_plain_formula_without(kind: str) -> None:
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    plain = open_image(saved(inks, kind))
    assert np.asarray(plain.image)[0, 0].tolist() == pytest.approx([255, 0, 0], abs=2)
    assert plain.notes == (INKS,)
    data = saved(inks, kind, icc_profile=inks_profile())
    by_pillow = ImageCms.profileToProfile(
        Image.open(io.BytesIO(data)), io.BytesIO(inks_profile()), SRGB, outputMode="RGB"
    )
    opened = open_image(data)
    assert np.array_equal(np.asarray(opened.image), np.asarray(by_pillow))
    assert np.abs(np.asarray(opened.image)[0, 0].astype(int) - [255, 0, 0]).max() > 30
    assert opened.notes == (CONVERTED,)


def test_srgb_itself_changes_nothing() -> None:
    opened = open_image(saved(Image.fromarray(COLOURS), icc_profile=SRGB.tobytes()))
    assert np.array_equal(np.asarray(opened.image), COLOURS)
    assert opened.notes == ()


@pytest.mark.parametrize("profile", [b"no profile", ADOBE[:200], GREY_18, bytes(128)])
def test_a_broken_profile_is_ignored_and_said(profile: bytes) -> None:
    opened = open_image(saved(Image.fromarray(COLOURS), icc_profile=profile))
    assert np.array_equal(np.asarray(opened.image), COLOURS)
    assert opened.notes == (NO_PROFILE,)


def test_a_profile_under_transparency() -> None:
    """The colours are converted first, and laid over the background then."""
    pixels = np.dstack([COLOURS, np.full(COLOURS.shape[:2], 255, np.uint8)])
    pixels[0, 0, 3] = 0
    opened = open_image(saved(Image.fromarray(pixels), icc_profile=ADOBE), PixelRules(background=(1, 2, 3)))
    by_pillow = ImageCms.profileToProfile(Image.fromarray(COLOURS), io.BytesIO(ADOBE), SRGB, outputMode="RGB")
    assert by_pillow is not None
    expected = np.asarray(by_pillow).copy()
    expected[0, 0] = [1, 2, 3]
    assert np.array_equal(np.asarray(opened.image), expected)
    assert opened.notes == (CONVERTED, FLATTENED)


# Transparency

STRIPE = Image.frombytes("P", (2, 1), b"\0\1")
STRIPE.putpalette([255, 0, 0, 0, 0, 255])
HIDDEN = {
    "RGBA": saved(Image.fromarray(np.array([[[9, 9, 9, 255], [9, 9, 9, 0]]], np.uint8))),
    "LA": saved(Image.fromarray(np.array([[[9, 255], [9, 0]]], np.uint8))),
    "RGB with a colour": saved(Image.fromarray(np.array([[[9] * 3, [8] * 3]], np.uint8)), transparency=(8, 8, 8)),
    "L with a level": saved(Image.fromarray(np.array([[9, 8]], np.uint8)), transparency=8),
    "two tones with one": png(2, 1, b"\0\x40", 1, 0, chunk(b"tRNS", struct.pack(">H", 1))),
    "a palette with one": saved(STRIPE, transparency=1),
    "GIF": saved(STRIPE, "GIF", transparency=1),
    "WebP": saved(Image.fromarray(np.array([[[9, 9, 9, 255], [9, 9, 9, 0]]], np.uint8)), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize(("background", "expected"), [("white", 255), ("black", 0), ((1, 2, 3), [1, 2, 3])])
def test_transparency_of_every_kind_shows_the_background(name: str, background: Any, expected: Any) -> None:
    opened = open_image(HIDDEN[name], PixelRules(background=background))
    shown = np.asarray(opened.image.convert("RGB"))[0, 1].tolist()
    assert shown == (expected if isinstance(expected, list) else [expected] * 3)
    assert opened.notes == (FLATTENED,)
    seen_pixel = np.asarray(opened.image.convert("RGB"))[0, 0].tolist()
    assert seen_pixel in ([9, 9, 9], [255, 0, 0], [0, 0, 0])


def test_an_alpha_that_hides_nothing_is_not_told() -> None:
    assert open_image(saved(Image.new("RGBA", (2, 2), (9, 8, 7, 255)))).notes == ()


# Pages and frames

RED, BLUE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_more_pages_than_one_are_told(kind: str) -> None:
    data = saved(RED, kind, save_all=True, append_images=[BLUE])
    opened = open_image(data)
    assert np.asarray(opened.image)[0, 0].tolist()[2] < 10
    assert opened.notes == (MORE,)
    assert open_image(data, PixelRules(frames="all")).notes == ()
    assert open_image(saved(RED, kind)).notes == ()


def test_a_jpeg_with_several_pictures_gives_its_first_in_silence() -> None:
    data = saved(RED, "MPO", save_all=True, append_images=[BLUE])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    opened = open_image(data)
    assert np.asarray(opened.image)[0, 0].tolist()[0] > 240
    assert opened.notes == ()


def test_rules_alone() -> None:
    assert PixelRules(fit="crop", background="black").rules == PixelRules(fit="crop", background="black")
    assert PLAIN.colour == (255, 255, 255)
    with pytest.raises(ValueError, match="background"):
        PixelRules(background="grey")  # type: ignore[arg-type]
