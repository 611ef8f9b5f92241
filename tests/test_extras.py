"""Masks, guides and clips, from the recipe to the bytes of a job."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.media.mask_files import decode_mask
from pipeline.media.opening import Undecodable
from pipeline.media.pixels import decode
from pipeline.media.rules import PixelRules
from pipeline.models.codec import fit_linear_patch, save_codec
from pipeline.report.animate import reassemble
from pipeline.streams.job_records import Manifest
from tests import builders

SIDE = builders.SIDE


def run(content: dict[str, Any]) -> Manifest:
    return run_job(make_plan(validate(JobConfig, content, "test")))


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def left_half(size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[:, : size[1] // 2] = 255
    return mask


def with_member(path: Path, name: str, contents: list[bytes], size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    members = []
    for i, content in enumerate(contents):
        members += [(f"{i}.png", builders.picture(i, size)), (f"{i}.cls", b"1"), (f"{i}.{name}", content)]
    return builders.tar(path, members)


def edited(source: Path, out: Path, model: Path, **changes: Any) -> Manifest:
    return run(builders.recipe(source, out, model, **{"operator": {"name": "sdedit", "steps": 2}, **changes}))


def changed(before: Path, after: Path, key: str) -> np.ndarray:
    a, b = (decode(builders.members_of(tar)[f"{key}.png"])[0].astype(int) for tar in (before, after))
    return (a != b).any(-1)


@pytest.mark.parametrize("origin", ["member", "file", "shape"])
def test_what_the_mask_keeps_is_kept_bit_for_bit(origin: str, tmp_path: Path, model: Path) -> None:
    source = with_member(tmp_path / "in.tar", "mask.png", [png(left_half())] * 3)
    (tmp_path / "mask.png").write_bytes(png(left_half()))
    value = {"member": "mask.png", "file": str(tmp_path / "mask.png"), "shape": "half"}[origin]
    edited(source, tmp_path / "out", model, mask={origin: value})
    for key in "012":
        where = changed(source, tmp_path / "out" / "data" / "in.tar", key)
        half = where[:, : SIDE // 2], where[:, SIDE // 2 :]
        to_change, to_keep = half if origin != "shape" else half[::-1]  # the named shape is the right half
        assert to_change.mean() > 0.8
        assert not to_keep.any()


def test_a_bad_mask_is_a_row_in_quarantine(tmp_path: Path, model: Path) -> None:
    grey = np.full((SIDE, SIDE), 100, np.uint8)
    grey[0] = 200
    good, other_size = png(left_half()), png(left_half((5, 7)))
    source = with_member(tmp_path / "in.tar", "mask.png", [good, png(grey), other_size, b"no image"])
    counts = edited(source, tmp_path / "out", model, mask={"member": "mask.png"}).counts
    assert (counts.written, counts.quarantined) == (1, 3)
    kept = builders.members_of(tmp_path / "out" / "quarantine" / "in.tar")
    reasons = [json.loads(content)["reason"] for name, content in kept.items() if name.endswith("reason.json")]
    assert "binary" in reasons[0]
    assert f"measures 7 × 5; allowed is {SIDE} × {SIDE}" in reasons[1]
    assert "no image" in reasons[2]


def test_a_bad_mask_file_ends_the_job_before_it_begins(tmp_path: Path, model: Path) -> None:
    source = with_member(tmp_path / "in.tar", "txt", [b""])
    (tmp_path / "mask.png").write_bytes(png(left_half((4, 4))))
    for file, sentence in (("mask.png", "measures 4 × 4"), ("none.png", "No such file")):
        with pytest.raises(UserError, match=f"mask.file.*{sentence}"):
            edited(source, tmp_path / "out", model, mask={"file": str(tmp_path / file)})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fit", ["resize", "crop", "pad"])
def test_masks_are_fitted_like_their_image(fit: Any) -> None:
    mask = left_half((20, 40))
    image, frame = decode(png(np.repeat(mask[..., None], 3, axis=2)), (10, 10), PixelRules(fit=fit))
    fitted = decode_mask(png(mask), frame.full, (10, 10), fit)
    assert set(np.unique(fitted)) <= {0, 1}
    assert (fitted == (image[..., 0] > 127)).mean() > 0.85  # the image is smoothed, the mask is not


def test_masks_of_zeros_and_ones_and_all_of_one_kind() -> None:
    for values in ([0, 1], [0, 255], [0], [255], [1]):
        array = np.resize(np.array(values, np.uint8), (4, 4))
        assert np.array_equal(decode_mask(png(array), (4, 4), (4, 4)), array > 0)
    with pytest.raises(Undecodable):
        decode_mask(png(np.array([[0, 128], [255, 0]], np.uint8)), (2, 2), (2, 2))


@pytest.mark.parametrize("origin", ["member", "file", "previous", "strokes"])
def test_guides(origin: str, tmp_path: Path, model: Path) -> None:
    """At level 0 SDEdit is the identity on its guide."""
    guides = [builders.picture(100 + i) for i in range(3)]
    source = with_member(tmp_path / "in.tar", "guide.png", guides)
    (tmp_path / "guide.png").write_bytes(guides[0])
    guide: dict[str, Any] = {
        "member": {"member": "guide.png"},
        "file": {"file": str(tmp_path / "guide.png")},
        "previous": {"previous": 1},
        "strokes": {"strokes": {"colours": 2}},
    }[origin]
    counts = edited(source, tmp_path / "out", model, guide=guide, **{"operator.t0": 0}).counts
    out, before = (builders.members_of(tar) for tar in (tmp_path / "out" / "data" / "in.tar", source))
    assert counts.quarantined == (origin == "previous")  # the first has none before it
    for i in range(origin == "previous", 3):
        made = decode(out[f"{i}.png"])[0]
        if origin == "strokes":
            assert len(np.unique(made.reshape(-1, 3), axis=0)) == 2
            continue
        wanted = {"member": guides[i], "file": guides[0], "previous": before.get(f"{i - 1}.png", b"")}[origin]
        assert np.array_equal(made, decode(wanted)[0])


def test_frames_of_a_clip_share_their_noise_and_flicker_is_reported(tmp_path: Path, model: Path) -> None:
    frame = builders.picture(0)
    members = []
    for key in ("a-1", "a-2", "b-1", "odd"):
        members += [(f"{key}.png", frame), (f"{key}.cls", b"1")]
    source = builders.tar(tmp_path / "in.tar", members)
    manifest = run(builders.recipe(source, tmp_path / "out", model, clip="(.+)-[0-9]+"))
    out = builders.members_of(tmp_path / "out" / "data" / "in.tar")
    assert out["a-1.png"] == out["a-2.png"] != out["b-1.png"]
    assert json.loads(out["a-2.doppel.json"])["clip"] == "a"
    assert manifest.counts.quarantined == 1  # "odd" names no clip
    record = json.loads((tmp_path / "out" / "shards" / "in.json").read_text())
    assert record["flicker"] == {"inputs": 0.0, "outputs": 0.0}
    run(builders.recipe(source, tmp_path / "apart", model))
    apart = builders.members_of(tmp_path / "apart" / "data" / "in.tar")
    assert apart["a-1.png"] != apart["a-2.png"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mask": {"shape": "half"}}, "operator boomerang does not use the section mask"),
        ({"operator": {"name": "inpaint"}}, "operator inpaint needs a section mask"),
        ({"operator.name": "sdedit", "operator.t_boom": None, "mask": {}}, "exactly one of member, file, shape"),
        ({"mask": {"member": "m.png", "shape": "half"}}, "exactly one of"),
        ({"mask": {"shape": "star"}}, "'half', 'wide'"),
        ({"clip": "[0-9]+"}, "a group is missing"),
        ({"clip": "("}, "not a valid regular expression"),
    ],
)
def test_sections_that_do_not_fit(changes: dict[str, Any], sentence: str, tmp_path: Path, model: Path) -> None:
    with pytest.raises(UserError, match="(?s)" + sentence.replace("(", r"\(")):
        validate(JobConfig, builders.recipe("in.tar", tmp_path / "out", model, **changes), "test")


def test_operators_are_checked_against_the_model_before_anything_is_written(tmp_path: Path, model: Path) -> None:
    source = builders.shard(tmp_path / "in.tar", 2)
    with pytest.raises(UserError, match="condition 7 is not a class of the model: it knows 0 to 2"):
        run(builders.recipe(source, tmp_path / "out", model, **{"operator.condition": 7}))
    assert not (tmp_path / "out").exists()


def test_a_mask_keeps_pixels_exactly_on_a_model_of_latents(tmp_path: Path) -> None:
    """Although three components of four cannot give back the image."""
    folder = builders.model_folder(tmp_path / "model", classes=None)
    save_codec(fit_linear_patch(torch.rand(9, 3, 16, 16), patch=2, components=3), folder)
    source = builders.tar(tmp_path / "in.tar", [(f"{i}.png", builders.picture(i, (16, 16))) for i in range(2)])
    edited(source, tmp_path / "out", folder, mask={"shape": "half"})
    for key in ("0", "1"):
        where = changed(source, tmp_path / "out" / "data" / "in.tar", key)
        assert not where[:, :8].any() or not where[:, 8:].any()
        assert where.any()


def test_several_guides_are_for_operators_that_take_them(tmp_path: Path, model: Path) -> None:
    source = builders.shard(tmp_path / "in.tar", 5)
    with pytest.raises(UserError, match="operator sdedit takes one guide"):
        edited(source, tmp_path / "out", model, guide={"previous": 2})
    operator = {"name": "tile_morph", "conditions": [1], "source": "image", "tiles": 4, "steps": 1, "guidance": 1}
    run(builders.recipe(source, tmp_path / "out", model, operator=operator, guide={"previous": 2}))
    out = builders.members_of(tmp_path / "out" / "data" / "in.tar")
    assert "0001.png" not in out  # too few before it
    details = json.loads(out["0004.doppel.json"])["details"]
    assert details["sources"] == ["input", "guide", "guide-2"]
    sources = [decode(builders.picture(i))[0] for i in (4, 3, 2)]  # the nearest before it is the first guide
    assert np.array_equal(reassemble(details, sources), decode(out["0004.png"])[0])


def test_further_images_are_samples_of_their_own(tmp_path: Path, model: Path) -> None:
    source = builders.shard(tmp_path / "in.tar", 2)
    operator = {"name": "anagram", "views": ["identity", "flip_vertical"], "conditions": [0, 1], "steps": 2}
    operator["guidance"] = 1
    manifest = run(builders.recipe(source, tmp_path / "out", model, operator=operator))
    assert manifest.counts.images == 4
    out = builders.members_of(tmp_path / "out" / "data" / "in.tar")
    image, view = (decode(out[f"0001{name}.png"])[0] for name in ("", "-view-1"))
    assert np.array_equal(view, image[::-1])
    assert json.loads(out["0001-view-1.doppel.json"])["key"] == {"source": "0001", "copy": 0, "name": "view-1"}
    assert out["0001-view-1.txt"] == out["0001.txt"]
