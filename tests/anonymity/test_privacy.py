"""Keys that can't be traced, files with nothing but pixels in them, labels that name nobody."""

from __future__ import annotations

import hashlib
import io
import struct
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from pipeline.errors import UserError
from pipeline.media.pixels import Codec, decode
from pipeline.release.privacy import (
    check_labels,
    clean_image,
    derive,
    job_token,
    metadata_of,
    names_in,
    rank_of,
    release_key,
)

SECRET = derive(b"a secret of sixteen bytes or more")
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)


def file(format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format, **options)
    return buffer.getvalue()


def exif() -> Image.Exif:
    found = Image.Exif()
    found[0x013B] = "Grace Hopper"
    found.get_ifd(0x8825)[1] = "N"
    return found


def text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "Grace Hopper", zip=True)
    return info


def frames() -> bytes:
    buffer = io.BytesIO()
    other = Image.fromarray(255 - PIXELS)
    Image.fromarray(PIXELS).save(buffer, "PNG", save_all=True, append_images=[other], duration=40)
    return buffer.getvalue()


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DIRTY = {
    "jpeg exif": file("JPEG", exif=exif()), "png exif": file("PNG", exif=exif()),
    "webp exif": file("WEBP", exif=exif()), "webp profile": file("WEBP", icc_profile=PROFILE),
    "jpeg comment": file("JPEG", comment=b"Grace Hopper"), "png text": file("PNG", pnginfo=text()),
    "jpeg profile": file("JPEG", icc_profile=PROFILE), "png profile": file("PNG", icc_profile=PROFILE),
    "jpeg xmp": file("JPEG", xmp=b"<x>Grace</x>"), "png resolution": file("PNG", dpi=(72, 72)), "png frames": frames(),
}  # fmt: skip


@pytest.mark.parametrize("kind", DIRTY)
def test_what_a_file_says_beside_its_pixels_is_found(kind: str) -> None:
    assert metadata_of(DIRTY[kind])


def png_chunks(data: bytes) -> Iterator[str]:
    at = 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        yield data[at + 4 : at + 8].decode()
        at += size + 12


def jpeg_segments(data: bytes) -> Iterator[int]:
    at = 2
    while data[at + 1] != 0xDA:  # the scan, which goes on to the end
        yield data[at + 1]
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("codec", ["png", "jpeg", "webp"])
def test_a_clean_file_holds_the_pixels_and_its_mode(codec: Codec, mode: str) -> None:
    smooth = np.repeat(np.repeat(PIXELS[:3, :2], 16, 0), 16, 1)
    pixels = smooth if mode == "RGB" else np.repeat(smooth[..., :1], 3, axis=2)
    data = clean_image(pixels, mode, codec)  # type: ignore[arg-type]
    assert metadata_of(data) == []
    again, frame = decode(data)
    assert frame.mode == (mode if codec != "webp" else "RGB")  # WebP knows no grey
    assert np.abs(again.astype(int) - pixels).mean() < (0.01 if codec == "png" else 12)


def test_a_clean_file_has_no_room_for_anything_else() -> None:
    assert set(png_chunks(clean_image(PIXELS, "RGB", "png"))) == {"IHDR", "IDAT", "IEND"}
    segments = set(jpeg_segments(clean_image(PIXELS, "RGB", "jpeg")))
    assert segments <= {0xE0, 0xDB, 0xC0, 0xC4}  # JFIF, tables, frame: no other application's segment, no comment


def test_an_encoder_that_adds_something_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    dirty = DIRTY["jpeg comment"]
    monkeypatch.setattr("pipeline.release.privacy.encode", lambda *given, **options: dirty)
    with pytest.raises(RuntimeError, match="comment"):
        clean_image(PIXELS, "RGB", "jpeg")


def test_a_key_is_a_hash_that_only_the_secret_gives() -> None:
    key = "Grace_Hopper_0001"
    found = release_key(SECRET, key)
    assert len(found) == 32
    assert set(found) <= set("0123456789abcdef")
    assert found == release_key(derive(b"a secret of sixteen bytes or more"), key)
    assert found != release_key(derive(b"a secret of sixteen bytes or less"), key)
    unkeyed = [hashlib.new(name, key.encode()).hexdigest() for name in ("md5", "sha256", "blake2b")]
    assert not any(found in digest or digest.startswith(found) for digest in unkeyed)
    assert found not in (job_token(SECRET, key), hashlib.blake2b(key.encode(), key=SECRET, digest_size=16).hexdigest())


def test_keys_stay_apart() -> None:
    keys = [f"{name}{i}" for i in range(2000) for name in ("a", "a-", "a.", "ä", "\udce4")]
    assert len({release_key(SECRET, key) for key in keys}) == len(keys)


def shuffled(keys: list[str], secret: bytes) -> list[int]:
    return sorted(range(len(keys)), key=lambda i: rank_of(secret, keys[i]))


@given(st.lists(st.text(max_size=4), unique=True, max_size=12), st.randoms(use_true_random=False))
def test_the_order_comes_from_the_set_of_keys_alone(keys: list[str], random: object) -> None:
    order = shuffled(keys, SECRET)
    assert sorted(order) == list(range(len(keys)))
    mixed = list(keys)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert [mixed[i] for i in shuffled(mixed, SECRET)] == [keys[i] for i in order]


def test_every_place_is_as_likely() -> None:
    keys = [f"{i:04d}" for i in range(8)]
    places = Counter(shuffled(keys, bytes([a, b] * 16)).index(0) for a in range(40) for b in range(40))
    assert all(abs(places[place] - 200) < 60 for place in range(8))  # more than 4 standard deviations


@given(
    st.lists(st.tuples(st.sampled_from([None, 0, 1, 2]), st.sampled_from([None, "a", "b", "c"])), max_size=14),
    st.integers(1, 4),
)
def test_a_rare_label_is_refused_and_no_other(images: list[tuple[int | None, str | None]], at_least: int) -> None:
    labels, people = [label for label, _ in images], [person for _, person in images]
    anyone_known = any(person is not None for person in people)
    held = {
        label: len({person if anyone_known else i for i, (has, person) in enumerate(images) if has == label})
        for label in labels
        if label is not None
    }
    if any(count < at_least for count in held.values()):
        with pytest.raises(UserError, match=r"release\.labels: label [012] tells") as refused:
            check_labels(labels, people, at_least)
        assert not any(name in str(refused.value).split() for name in "abc")
    else:
        check_labels(labels, people, at_least)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"a photograph of Grace Hopper", True),
        (b'{"who": "grace_hopper"}', True),
        (b"GRACE-HOPPER, 1984", True),
        (b'{"who": "Gr\\u0061ce Hopper"}', True),
        (b"made of Grace_Hopper_0001.jpg", True),
        (b"the grace of a hopper", False),
        (b"Disgrace Hoppers", False),
        (b"\xff\xfe\x00", False),
        (b"", False),
    ],
)
def test_names_are_found_in_texts_however_they_are_written(content: bytes, found: bool) -> None:
    assert names_in(content, ("Grace_Hopper_0001", "Grace_Hopper")) is found


def test_names_too_short_or_unknown_are_not_looked_for() -> None:
    assert not names_in(b"7 of 9", ("7", None, ""))
    assert names_in("Jürgen ist es".encode(), ("JÜRGEN",))
