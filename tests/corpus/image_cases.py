"""Images of every kind: what is one comes out as people see it, and what is none is kept."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from tests.corpus.case import Bad, Case, Good, members_of, picture, sound
from tests.corpus.tars import one, packed

FIRST, LAST = sound(0), sound(2)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flat(colour: Any, mode: str = "RGB", kind: str = "PNG", size: tuple[int, int] = (6, 4), **options: Any) -> bytes:
    """An image of one colour."""
    return saved(Image.new(mode, size, colour), kind, **options)


def good(name: str, image: bytes, shown: bytes | None = None, extension: str = "png") -> Case:
    """An image between two others, and what must be seen of it."""
    members = [*members_of(0), (f"x.{extension}", image), *members_of(2)]
    return Case(f"image {name}", one(packed(members)), (FIRST, Good("x", image, shown=shown), LAST))


def bad(name: str, image: bytes, word: str = "", extension: str = "png") -> Case:
    """What is no image, and is kept as it came."""
    members = [*members_of(0), (f"x.{extension}", image), ("x.txt", b"kept"), *members_of(2)]
    refused = Bad("x", "undecodable", word, {extension: image, "txt": b"kept"})
    return Case(f"image {name}", one(packed(members)), (FIRST, LAST), (refused,))


def moving(kind: str, **options: Any) -> bytes:
    """Three images in one file: a red one comes first."""
    first, *rest = (Image.new("RGB", (6, 4), colour) for colour in (RED, GREEN, BLUE))
    return saved(first, kind, save_all=True, append_images=rest, **options)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A piece of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2, *more: bytes) -> bytes:
    """A PNG put together by hand; `rows` are packed as they are."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def turned(orientation: int) -> bytes:
    """A JPEG of a red and a blue half, which a camera has turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(halves(), "JPEG", quality=95, subsampling=0, exif=exif)


def halves() -> Image.Image:
    """Red on the left, blue on the right; 16 × 8 pixels."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8], pixels[:, 8:] = RED, BLUE
    return Image.fromarray(pixels)


def as_jpeg(turn: Image.Transpose) -> bytes:
    """What is seen of `turned`: the pixels of the JPEG, turned back."""
    with Image.open(io.BytesIO(saved(halves(), "JPEG", quality=95, subsampling=0))) as image:
        return saved(image.transpose(turn))


PLAIN = picture(1)
JPEG = saved(Image.open(io.BytesIO(PLAIN)).resize((60, 60)), "JPEG", quality=95)
STRIPES = Image.frombytes("P", (2, 1), b"\0\1")
STRIPES.putpalette([*RED, *BLUE])
HALF = Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], np.uint8))
"""Red, and red that is not seen."""
OVER_WHITE = saved(Image.fromarray(np.array([[RED, WHITE]], np.uint8)))
DEEP = np.array([[0, 257 * 100, 65535]], np.uint16)
NARROW = b"BM" + struct.pack("<IIIIiiHH", 90, 0, 54, 40, -5, 5, 1, 24) + bytes(60)
FOUR = saved(Image.fromarray(np.array([[0, 85, 170, 255]], np.uint8)))
BOMB = PngImagePlugin.PngInfo()
BOMB.add_text("bomb", "0" * (2 << 20), zip=True)

CASES = (
    good("of one pixel", flat(RED, size=(1, 1))),
    good("of one row", flat(RED, size=(100, 1))),
    good("in grey", flat(77, "L")),
    good("in two tones", flat(1, "1")),
    good("with a palette", saved(STRIPES), saved(STRIPES.convert("RGB"))),
    good("with a palette and a colour that is not seen", saved(STRIPES, transparency=1), OVER_WHITE),
    good("with transparency", saved(HALF), OVER_WHITE),
    good("in grey with transparency", flat((0, 0), "LA"), flat(WHITE)),
    good("in RGB with a colour that is not seen", flat(RED, transparency=RED), flat(WHITE)),
    bad("in grey of 16 bits", saved(Image.fromarray(DEEP)), "image.range"),
    bad("in colour of 16 bits", png(1, 1, b"\0" + b"\x64\x64" * 3, 16), "image.range"),
    good("in grey of 2 bits", png(4, 1, b"\0\x1b", 2, 0), FOUR),
    bad("in TIFF of 16 bits", saved(Image.fromarray(DEEP), "TIFF"), "image.range", "tif"),
    good("in CMYK", flat((0, 255, 255, 0), "CMYK", "TIFF"), flat(RED), "tif"),
    good("in JPEG", JPEG, extension="jpg"),
    good("in JPEG in grey", flat(77, "L", "JPEG"), extension="jpeg"),
    good("in JPEG in CMYK", flat((0, 0, 0, 255), "CMYK", "JPEG"), extension="jpg"),
    good("in progressive JPEG", saved(Image.open(io.BytesIO(JPEG)), "JPEG", progressive=True), extension="jpg"),
    good("in WebP", flat(RED, kind="WEBP", lossless=True), flat(RED), "webp"),
    good("in BMP", flat(RED, kind="BMP"), extension="bmp"),
    good("in GIF", flat(RED, kind="GIF"), extension="gif"),
    good("in GIF that moves", moving("GIF"), flat(RED), "gif"),
    good("in PNG that moves", moving("PNG"), flat(RED)),
    good("in WebP that moves", moving("WEBP", lossless=True), flat(RED), "webp"),
    good("in TIFF with pages", moving("TIFF"), flat(RED), "tiff"),
    good("in TIFF with LZW", flat(RED, kind="TIFF", compression="tiff_lzw"), extension="tif"),
    good("of another kind than its name", JPEG),
    good("of a kind that its name does not tell", flat(RED, kind="BMP"), extension="jpg"),
    good("with bytes behind it", PLAIN + b"<?php owned ?>" * 9),
    good("with a zip archive behind it", PLAIN + b"PK\x05\x06" + bytes(18)),
    good("with a profile of colours", flat(RED, icc_profile=b"no profile")),
    good("in grey with a colour that is not seen", flat(77, "L", transparency=77), flat(WHITE)),
    good("with text", flat(RED, pnginfo=PngImagePlugin.PngInfo())),
    good("with a broken EXIF block", flat(RED, exif=b"Exif\0\0broken"), flat(RED)),
    good("upside down", turned(3), as_jpeg(Image.Transpose.ROTATE_180), "jpg"),
    good("turned to the right", turned(6), as_jpeg(Image.Transpose.ROTATE_270), "jpg"),
    good("in a mirror", turned(2), as_jpeg(Image.Transpose.FLIP_LEFT_RIGHT), "jpg"),
    good("turned and in a mirror", turned(5), as_jpeg(Image.Transpose.TRANSPOSE), "jpg"),
    good("turned in a way that does not exist", turned(9), saved(Image.open(io.BytesIO(turned(1)))), "jpg"),
    good("in PNG with too few rows, which libraries fill", png(4, 4, b"\0" + bytes(12)), flat(0, size=(4, 4))),
    bad("of no byte", b"", "empty"),
    bad("of one byte", b"\0"),
    bad("that is text", b"this is text", "no image"),
    bad("that is a web page", b"<!DOCTYPE html><html>403</html>"),
    bad("that is SVG", b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>"),
    bad("that is PDF", b"%PDF-1.7\n%%EOF"),
    bad("that is PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    bad("that is an icon", flat(RED, kind="ICO", size=(16, 16))),
    bad("that is a portable pixmap", flat(RED, kind="PPM")),
    bad("that is a pickle", b"cos\nsystem\n(S'touch /tmp/owned'\ntR."),
    bad("behind other bytes", b"\r\n" + PLAIN),
    bad("in PNG cut in its data", flat(RED, size=(90, 90))[:70]),
    bad("in PNG cut in its head", PLAIN[:20]),
    bad("in PNG of its first bytes", PLAIN[:8]),
    bad("in PNG with another checksum", PLAIN.replace(PLAIN[29:33], b"abcd", 1)),
    bad("in PNG without size", png(0, 0, b"")),
    bad("in JPEG cut in the middle", JPEG[: len(JPEG) // 2], extension="jpg"),
    bad("in JPEG cut in its head", JPEG[:30], extension="jpg"),
    bad("in GIF cut in its head", flat(RED, kind="GIF")[:9], extension="gif"),
    bad("in WebP cut in its data", flat(RED, kind="WEBP")[:30], extension="webp"),
    bad("in TIFF that points behind its end", b"II*\0" + b"\xff" * 30, extension="tif"),
    bad(
        "in BMP of a negative width",
        NARROW,
        extension="bmp",
    ),
    bad("of 30,000 × 30,000 pixels", png(30000, 30000, b""), "too large"),
    bad("of a billion rows", png(1, 1 << 30, b""), "too large"),
    bad("with text that unpacks to megabytes", flat(RED, pnginfo=BOMB)),
    bad("in floating point", flat(0.5, "F", "TIFF"), "image.range", "tif"),
)
