"""The one codec: rounding, modes, orientation, fits, and what it refuses."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.media.frame import Frame
from pipeline.media.opening import Undecodable
from pipeline.media.pixels import codec_for, decode, encode, from_pixels, image_ext, to_pixels
from pipeline.media.rules import PixelRules
from tests import builders


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def ramp(height: int = 5, width: int = 7) -> np.ndarray:
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def test_a_no_op_round_trip_changes_no_grey_level() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    assert np.array_equal(from_pixels(to_pixels([levels], "cpu"))[0], levels)


def test_pixels_are_in_range_and_axes_in_order() -> None:
    pixels = to_pixels([ramp()], "cpu")
    assert pixels.shape == (1, 3, 5, 7)
    assert pixels[0, 2, 3, 4].item() == pytest.approx(ramp()[3, 4, 2] / 127.5 - 1)
    assert from_pixels(torch.tensor([-9.0, 9.0]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)).tolist() == [
        [[[0] * 3, [255] * 3]]
    ]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_formats_decode_exactly(kind: str) -> None:
    pixels, frame = decode(encoded(Image.fromarray(ramp()), kind))
    assert np.array_equal(pixels, ramp())
    assert frame == Frame.whole("RGB", (7, 5))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_decode_nearly(kind: str) -> None:
    smooth = Image.linear_gradient("L").convert("RGB")
    assert np.abs(decode(encoded(smooth, kind, quality=95))[0].astype(int) - np.asarray(smooth)).max() <= 4


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(gif)[0][0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("image", "kind", "mode", "expected"),
    [
        (Image.new("L", (2, 2), 77), "PNG", "L", [77] * 3),
        (Image.new("1", (2, 2), 1), "PNG", "L", [255] * 3),
        (Image.new("LA", (2, 2), (0, 128)), "PNG", "L", [127] * 3),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "PNG", "RGB", [255] * 3),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), "PNG", "RGB", [10, 20, 30]),
        (Image.new("RGB", (2, 2), (1, 2, 3)).quantize(4), "PNG", "RGB", [1, 2, 3]),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF", "RGB", [255, 0, 0]),
    ],
)
def test_modes(image: Image.Image, kind: str, mode: str, expected: list[int]) -> None:
    pixels, frame = decode(encoded(image, kind))
    assert frame.mode == mode
    assert pixels[1, 1].tolist() == expected


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows are columns
    pixels, frame = decode(encoded(Image.fromarray(ramp()), "PNG", exif=exif))
    assert (frame.full, frame.stored, frame.orientation) == ((5, 7), (7, 5), 6)
    assert np.array_equal(pixels, np.rot90(ramp(), -1))


def test_fits() -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255  # the middle third is white
    data = encoded(Image.fromarray(wide), "PNG")
    stretched, frame = decode(data, (10, 10), PixelRules(fit="resize"))
    assert (stretched.shape, frame.seen, frame.box) == ((10, 10, 3), (60, 20), (0, 0, 10, 10))
    cut, frame = decode(data, (10, 10), PixelRules(fit="crop"))
    assert (cut.min(), frame.seen, frame.box) == (255, (20, 20), (0, 0, 10, 10))
    padded, frame = decode(data, (12, 12), PixelRules(fit="pad"))
    assert (padded.shape, frame.seen, frame.box) == ((12, 12, 3), (60, 20), (0, 4, 12, 8))
    assert np.array_equal(padded[0], padded[4])  # margins repeat the border


@pytest.mark.parametrize(("source", "target"), [((20, 12), (8, 8)), ((11, 30), (8, 4)), ((6, 5), (8, 8))])
def test_a_centred_cut_keeps_so_many_pixels_whatever_the_size(source: tuple[int, int], target: tuple[int, int]) -> None:
    """The pixels around the centre, or all there are; the side that is counted is the shorter of the target."""
    values = np.arange(source[0] * source[1], dtype=np.uint8).reshape(source)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    cut, frame = decode(buffer.getvalue(), target, PixelRules(fit="centre 4"))
    scale = min(4 / min(target), source[0] / target[0], source[1] / target[1])
    height, width = (round(side * scale) for side in target)
    top, left = (source[0] - height) // 2, (source[1] - width) // 2
    by_hand = Image.fromarray(values[top : top + height, left : left + width])
    assert frame.seen == (width, height)
    assert (cut[..., 0] == np.asarray(by_hand.resize(target[::-1], Image.Resampling.BICUBIC))).all()


@pytest.mark.parametrize("fit", ["resize", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (13, 7), (8, 8)])
def test_every_fit_gives_the_size_it_promised_and_restores(fit: str, size: tuple[int, int]) -> None:
    data = encoded(Image.new("RGB", size, (9, 8, 7)), "PNG")
    pixels, frame = decode(data, (6, 10), PixelRules(fit=fit))
    assert pixels.shape == (6, 10, 3)
    back = encode(pixels, frame.restored(), codec="png", quality=95)
    restored = Image.open(io.BytesIO(back))
    assert restored.size == (frame.seen if fit == "crop" else size)
    assert np.unique(np.asarray(restored).reshape(-1, 3), axis=0).tolist() == [[9, 8, 7]]


def test_the_default_codec_depends_on_the_model_alone() -> None:
    assert [codec_for(size) for size in (None, (127, 100), (100, 128))] == ["png", "png", "jpeg"]


def test_nothing_but_the_picture_is_written() -> None:
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe, ward 3"
    source = encoded(Image.new("RGB", (9, 9)), "JPEG", exif=exif, comment=b"Jane")
    pixels, frame = decode(source)
    for codec in ("png", "jpeg", "webp"):
        data = encode(pixels, frame, codec=codec, quality=90)  # type: ignore[arg-type]
        assert b"Jane" not in data
        assert b"Exif" not in data


def test_extensions_follow_the_codec() -> None:
    assert image_ext("JPEG", "jpeg") == image_ext("jpg", "jpeg") == "jpg"
    assert image_ext("left.jpg", "png") == "left.png"
    assert image_ext("png", "webp") == "webp"


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size and starts with 300 black lines of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    lines = zlib.compress(b"\0" * (3 * width + 1) * 300)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"these are not the pixels you are looking for", "no image of a known format"),
        (builders.picture(1, (64, 64), kind="JPEG")[:-200], "damaged"),
        (builders.picture(1, (64, 64))[:-60], "damaged"),
        (bomb(10_001, 10_000), "too large"),
        (bomb(30_000, 30_000), "too large"),
        (encoded(Image.new("F", (2, 2)), "TIFF"), "more than 8 bits a pixel, and image.range does not say"),
        (encoded(Image.new("I;16", (2, 2)), "PNG"), "more than 8 bits a pixel, and image.range does not say"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no image of a known format"),
    ],
)
def test_what_is_refused_and_why(data: bytes, reason: str) -> None:
    with pytest.raises(Undecodable, match=reason) as caught:
        decode(data, (8, 8))
    assert "\n" not in str(caught.value)
    assert "object at 0x" not in str(caught.value)  # reasons must be the same in every run


def test_flipped_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"):
        sound = np.frombuffer(builders.picture(3, (16, 16), kind=kind), np.uint8)
        for _ in range(60):
            broken = sound.copy()
            broken[rng.integers(0, len(sound), 4)] = rng.integers(0, 256, 4)
            try:
                pixels, _ = decode(broken[: rng.integers(1, len(sound) + 1)].tobytes(), (8, 8))
            except Undecodable:
                continue
            assert pixels.shape == (8, 8, 3)
