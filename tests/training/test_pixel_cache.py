"""The cache holds what the data holds, is made once, and is made again when anything changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import training.data.cache
from pipeline.errors import UserError
from pipeline.media.rules import PLAIN, PixelRules
from pipeline.streams.folder import FolderInput
from training.data.cache import PixelCache, build_cache

SIZE = (8, 8)
Build = Callable[..., PixelCache]


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every image that is decoded."""
    seen: list[bytes] = []
    decode = training.data.cache.decode

    def counted(data: bytes, *arguments: Any) -> Any:
        seen.append(data)
        return decode(data, *arguments)

    monkeypatch.setattr(training.data.cache, "decode", counted)
    return seen


@pytest.fixture
def build(data: Path, tmp_path: Path) -> Build:
    def make(size: tuple[int, int] = SIZE, rules: PixelRules = PLAIN) -> PixelCache:
        return build_cache(FolderInput(path=str(data)), tmp_path / "cache", size, rules)

    return make


def test_every_image_and_label_is_there(build: Build, data: Path) -> None:
    cache = build()
    expected = np.stack([np.asarray(Image.open(file)) for file in sorted(data.rglob("*.png"))])
    assert np.array_equal(cache.pixels, expected)
    assert cache.labels.tolist() == [0] * 8 + [1] * 8
    assert len(cache) == 16
    assert cache.facts["label_names"] == ["blue", "red"]
    with pytest.raises(ValueError, match="read-only"):
        cache.pixels[0] = 0


def test_height_and_width_are_not_mixed_up(build: Build) -> None:
    assert build(size=(6, 10)).pixels.shape == (16, 6, 10, 3)


def test_bad_images_are_left_out_and_counted(build: Build, data: Path) -> None:
    (data / "blue" / "3.png").write_bytes(b"no image")
    (data / "red" / "0.png").write_bytes((data / "red" / "0.png").read_bytes()[:60])
    cache = build()
    assert (len(cache), cache.facts["images"], cache.facts["rejected"]) == (14, 14, 2)
    assert cache.labels.tolist() == [0] * 7 + [1] * 7
    assert np.array_equal(cache.pixels[3], np.asarray(Image.open(data / "blue" / "4.png")))


def test_images_without_label_get_minus_one(build: Build, data: Path) -> None:
    (data / "blue" / "0.png").rename(data / "loose.png")
    assert sorted(build().labels.tolist()) == [-1] + [0] * 7 + [1] * 8


def test_the_same_content_is_decoded_once(build: Build, decodes: list[bytes]) -> None:
    first = build().pixels.copy()
    assert len(decodes) == 16
    assert np.array_equal(build().pixels, first)
    assert len(decodes) == 16


def test_other_content_size_or_fit_is_decoded_again(build: Build, data: Path, decodes: list[bytes]) -> None:
    build()
    Image.new("RGB", SIZE, (1, 2, 3)).save(data / "red" / "7.png")
    assert build().pixels[15, 0, 0].tolist() == [1, 2, 3]
    assert len(decodes) == 32
    build(size=(4, 4))
    assert len(decodes) == 48
    build(size=(4, 4), rules=PixelRules(fit="crop"))
    assert len(decodes) == 64


@pytest.mark.parametrize("existed", [False, True])
def test_a_crash_while_it_is_made_leaves_no_cache(
    build: Build, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existed: bool
) -> None:
    if existed:
        build()
        Image.new("RGB", SIZE, (1, 2, 3)).save(data / "red" / "7.png")
    with monkeypatch.context() as broken:
        broken.setattr(training.data.cache.np, "save", lambda *_: exec("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            build()
    assert not (tmp_path / "cache" / "cache.json").exists()
    assert len(build()) == 16


def test_half_written_facts_are_no_cache(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The facts appear in one piece: a kill while they are written leaves only the part."""
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", lambda *_: exec("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            build()
    assert not (tmp_path / "cache" / "cache.json").exists()
    build()
    assert json.loads((tmp_path / "cache" / "cache.json").read_text())["images"] == 16


def test_data_without_any_image_are_refused(build: Build, data: Path) -> None:
    for file in data.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"no image could be read \(16 rejected\)"):
        build()
