"""Pixels in whole jobs: one range for a data set, pages as samples, one codec for all outputs."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.anonymity.faces.scanning import image_stream
from pipeline.commands.estimate import estimate
from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.job.noticing import ALL_CHANGES, LARGER, NOTHING_CHANGES, SMALLER, of_plan, of_resolution
from pipeline.job.plan import Plan
from pipeline.media.opening import DEEP, MORE, Undecodable, open_image
from pipeline.media.pixels import decode
from pipeline.media.records import Rejected, Sample
from pipeline.media.rules import PixelRules
from pipeline.models.config import ModelConfig
from pipeline.models.families import sketch_model
from pipeline.streams.pages import pages_in
from pipeline.streams.shards import WebDatasetInput
from tests import builders, tiny
from tests.media.test_opening import ADOBE, saved, signed, windowed

CT = [np.random.default_rng(i).integers(-1000, 1000, (8, 8)).astype(np.int16) for i in range(6)]


def planned(content: dict[str, Any]) -> Plan:
    return make_plan(validate(JobConfig, content, "test"))


def recipe(folder: Path, members: list[tuple[str, bytes]], **changes: Any) -> dict[str, Any]:
    """A job that passes images through, from one tar."""
    source = builders.tar(folder / "in.tar", members)
    return builders.recipe(source, folder / "out", None, **changes)


def pictures(folder: Path) -> dict[str, np.ndarray]:
    made = builders.members_of(folder / "out" / "data" / "in.tar")
    return {name: np.asarray(Image.open(io.BytesIO(data))) for name, data in made.items() if name.endswith("png")}


def scans() -> list[tuple[str, bytes]]:
    return [(f"{i}.tif", signed(values)) for i, values in enumerate(CT)]


def test_a_range_holds_for_the_whole_set(tmp_path: Path) -> None:
    manifest = run_job(planned(recipe(tmp_path, scans(), **{"image.range": [-1000, 1000]})))
    assert manifest.notes == {DEEP: len(CT)}
    for i, values in enumerate(CT):
        assert np.array_equal(pictures(tmp_path)[f"{i}.png"], windowed(values.astype(float), -1000, 1000))


def test_without_a_range_deep_images_are_refused_and_the_others_written(tmp_path: Path) -> None:
    members = [*scans()[:2], ("9.png", builders.picture(9))]
    manifest = run_job(planned(recipe(tmp_path, members)))
    assert (manifest.counts.written, manifest.counts.undecodable) == (1, 2)
    kept = builders.members_of(tmp_path / "out" / "quarantine" / "in.tar")
    reasons = [json.loads(content)["reason"] for name, content in kept.items() if name.endswith("reason.json")]
    assert ["image.range does not say" in reason for reason in reasons] == [True, True]


def test_a_set_of_deep_images_is_refused_before_work(tmp_path: Path) -> None:
    plan = planned(recipe(tmp_path, scans()))
    found = f"from {min(int(values.min()) for values in CT[:4])} to {max(int(values.max()) for values in CT[:4])}"
    for begin in (run_job, estimate):
        with pytest.raises(UserError, match=rf"image\.range: all of the first 4 images.*{found}.*give \[low, high\]"):
            begin(plan)
    assert not (tmp_path / "out").exists()


def test_percentiles_of_a_probe_are_found_once_and_kept(tmp_path: Path) -> None:
    options: dict[str, Any] = {"image.range": {"percentile": [1, 99], "probe": 3}}
    plan = planned(recipe(tmp_path, scans(), **options))
    expected = np.percentile(np.concatenate([values.ravel() for values in CT[:3]]), [1, 99])
    assert plan.found == pytest.approx(tuple(expected))
    run_job(plan)
    assert json.loads((tmp_path / "out" / "job.json").read_text())["found"] == list(plan.found)
    assert np.array_equal(pictures(tmp_path)["5.png"], windowed(CT[5].astype(float), *expected))
    brighter = [(f"{i}.tif", signed(values + 500)) for i, values in enumerate(CT)]
    assert planned(recipe(tmp_path, brighter, **options)).found == plan.found  # the job goes on as it began
    assert (
        planned(recipe(tmp_path, brighter, **{"image.range": {"percentile": [1, 98], "probe": 3}})).found != plan.found
    )


def test_a_probe_without_deep_images_has_no_percentiles(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"image\.range: no image of a probe of 256 has more than 8 bits"):
        planned(recipe(tmp_path, [("0.png", builders.picture(0))], **{"image.range": {"percentile": [1, 99]}}))


def colours(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), (40 * i, 0, 255 - 40 * i)) for i in range(count)]


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_every_page_is_a_sample(kind: str, tmp_path: Path) -> None:
    first, *rest = colours(4)
    options = {"lossless": True} if kind == "WEBP" else {}
    several = saved(first, kind, save_all=True, append_images=rest, **options)
    members = [("a.tif", several), ("a.cls", b"2"), ("b.png", builders.picture(1))]
    manifest = run_job(planned(recipe(tmp_path, members, **{"image.frames": "all"})))
    made = pictures(tmp_path)
    assert list(made) == ["a-000.png", "a-001.png", "a-002.png", "a-003.png", "b.png"]
    for i, colour in enumerate(colours(4)):
        assert np.abs(made[f"a-{i:03d}.png"].astype(int) - np.asarray(colour)).max() <= 1
    assert builders.members_of(tmp_path / "out" / "data" / "in.tar")["a-003.cls"] == b"2"
    assert (manifest.counts.read, manifest.counts.written, manifest.notes) == (5, 5, {})


def test_without_frames_the_first_is_read_and_the_rest_are_told(tmp_path: Path) -> None:
    first, *rest = colours(3)
    members = [("a.tif", saved(first, "TIFF", save_all=True, append_images=rest)), ("b.png", builders.picture(1))]
    manifest = run_job(planned(recipe(tmp_path, members)))
    assert list(pictures(tmp_path)) == ["a.png", "b.png"]
    assert manifest.notes == {MORE: 1}


def test_pages_keep_their_depth_and_thumbnails_are_no_pages(tmp_path: Path) -> None:
    """A page of 16 bits stays one, and what a TIFF calls a smaller copy is passed over."""
    pages = [Image.fromarray(np.full((4, 4), 1000 * i, np.uint16)) for i in range(3)]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    big = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:], big_tiff=True)
    smaller = io.BytesIO()
    pages[1].encoderinfo = {"tiffinfo": {254: 1}}
    pages[0].save(smaller, "TIFF", save_all=True, append_images=pages[1:])
    members = [("a.tif", buffer.getvalue()), ("b.tif", smaller.getvalue()), ("c.tif", big)]
    run_job(planned(recipe(tmp_path, members, **{"image.frames": "all", "image.range": [0, 2000]})))
    levels = {name: image.item(0) for name, image in pictures(tmp_path).items()}
    assert levels == {
        "a-000.png": 0, "a-001.png": 128, "a-002.png": 255, "b-000.png": 0, "b-001.png": 255,
        "c-000.png": 0, "c-001.png": 128, "c-002.png": 255,
    }  # fmt: skip


def test_a_thumbnail_is_no_page() -> None:
    page, small = Image.new("RGB", (8, 8)), Image.new("RGB", (4, 4))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    assert open_image(saved(page, "TIFF", save_all=True, append_images=[small])).notes == ()


def test_a_clip_stays_a_clip(tmp_path: Path) -> None:
    first, *rest = colours(3)
    members = [("a.gif", saved(first, "GIF", save_all=True, append_images=rest, duration=100))]
    manifest = run_job(planned(recipe(tmp_path, members, video={}, **{"image.frames": "all"})))
    assert manifest.counts.read == 1
    made = builders.members_of(tmp_path / "out" / "data" / "in.tar")["a.gif"]
    assert Image.open(io.BytesIO(made)).n_frames == 3


def test_flipped_bytes_of_pages_and_profiles_never_raise_anything_else() -> None:
    rng, rules = np.random.default_rng(0), PixelRules(frames="all", range=(0, 4095))
    first, *rest = colours(3)
    files = [saved(first, kind, save_all=True, append_images=rest) for kind in ("TIFF", "GIF", "PNG", "WEBP")]
    files += [signed(CT[0]), saved(Image.fromarray(CT[0].astype(np.uint16))), saved(first, icc_profile=ADOBE)]
    for file in files:
        for _ in range(8):
            broken = np.frombuffer(file, np.uint8).copy()
            broken[rng.integers(0, len(file), 3)] = rng.integers(0, 256, 3)
            sample = Sample(key="a", image=broken.tobytes(), image_ext="png")
            for page in pages_in(sample):
                with suppress(Undecodable):
                    assert isinstance(page, Rejected) or open_image(page.image, rules).image.mode in ("L", "RGB")


def test_a_limit_counts_pages(tmp_path: Path) -> None:
    first, *rest = colours(4)
    members = [("a.tif", saved(first, "TIFF", save_all=True, append_images=rest)), ("b.png", builders.picture(1))]
    manifest = run_job(planned(recipe(tmp_path, members, limit=3, **{"image.frames": "all"})))
    assert manifest.counts.read == 3


def test_a_damaged_animation_is_one_sample_in_quarantine(tmp_path: Path) -> None:
    first, *rest = colours(4)
    whole = saved(first, "PNG", save_all=True, append_images=rest)
    members = [("a.png", whole[: len(whole) * 2 // 3]), ("b.png", builders.picture(1))]
    manifest = run_job(planned(recipe(tmp_path, members, **{"image.frames": "all"})))
    assert (manifest.counts.read, manifest.counts.written, manifest.counts.undecodable) == (2, 1, 1)


def test_faces_are_looked_for_in_the_same_pages_and_depth(tmp_path: Path) -> None:
    """Keys and pixels of a scan are those of the job."""
    pages = [Image.fromarray(np.full((8, 8), 1000 * i, np.uint16)) for i in range(3)]
    members = [("a.tif", saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]))]
    content = recipe(tmp_path, members, **{"image.frames": "all", "image.range": [0, 2000]})
    plan = planned(content)
    run_job(plan)
    scanned = image_stream(WebDatasetInput(urls=str(tmp_path / "in.tar")), None, plan.rules)
    written = pictures(tmp_path)
    assert {key: image.item(0) for key, _, image in scanned} == {
        f"in/{name.removesuffix('.png')}": image.item(0) for name, image in written.items()
    }
    assert PixelRules(range=(0, 2000), frames="all") == plan.rules


MIXED = [
    ("0.png", builders.picture(0, (100, 90))),
    ("1.jpeg", builders.picture(1, (300, 200), kind="JPEG")),
    ("2.jpg", builders.picture(2, (64, 64), kind="JPEG")),
    ("3.JPG", builders.picture(3, (129, 20), kind="JPEG")),
    ("4.webp", builders.picture(4, (500, 400), kind="WEBP")),
]
"""Small and large ones, of several kinds."""


@pytest.mark.parametrize("codec", ["auto", "jpeg"])
def test_one_codec_for_all_so_that_datasets_reads_them(codec: str, tmp_path: Path) -> None:
    from datasets import load_dataset

    run_job(planned(recipe(tmp_path, MIXED, **{"output.codec": codec})))
    tar = str(tmp_path / "out" / "data" / "in.tar")
    found = load_dataset("webdataset", data_files=tar, split="train", cache_dir=str(tmp_path / "cache"))
    column = "png" if codec == "auto" else "jpg"
    assert [row[column].size for row in found] == [Image.open(io.BytesIO(data)).size for _, data in MIXED]


@pytest.mark.parametrize("restore", [False, True])
def test_the_model_decides_the_codec_whatever_the_sizes(restore: bool, tmp_path: Path, model: Path) -> None:
    source = builders.tar(tmp_path / "in.tar", MIXED)
    run_job(planned(builders.recipe(source, tmp_path / "out", model, **{
        "image.restore_size": restore, "operator.condition": 1, "operator.t_boom": 0,
    })))  # fmt: skip
    made = [name for name in builders.members_of(tmp_path / "out" / "data" / "in.tar") if "doppel" not in name]
    assert made == [f"{i}.png" for i in range(5)]


def test_a_folder_keeps_names_that_fit(tmp_path: Path) -> None:
    run_job(planned(recipe(tmp_path, MIXED, **{"output.codec": "jpeg", "output.format": "folder"})))
    made = {path.name for path in (tmp_path / "out" / "data").rglob("*.*")}
    assert made == {"0.jpg", "1.jpeg", "2.jpg", "3.JPG", "4.jpg"}


# Resolution and masks


@pytest.mark.parametrize(
    ("size", "notes"),
    [((17, 8), (LARGER,)), ((16, 16), ()), ((4, 5), ()), ((8, 3), (SMALLER,)), ((17, 3), (LARGER, SMALLER))],
)
def test_a_foreign_resolution_is_more_than_a_factor_of_two_away(size: tuple[int, int], notes: tuple[str, ...]) -> None:
    _, frame = decode(builders.picture(0, size), (8, 8))
    assert of_resolution(frame) == notes


def test_a_foreign_resolution_is_told_by_the_job_and_its_dry_run(tmp_path: Path, model: Path) -> None:
    source = builders.tar(tmp_path / "in.tar", [("0.png", builders.picture(0, (256, 256)))])
    plan = planned(builders.recipe(source, tmp_path / "out", model, **{"operator.condition": 1}))
    assert LARGER in estimate(plan)
    assert run_job(plan).notes == {LARGER: 1}


def test_a_cut_that_keeps_the_pixels_keeps_the_resolution(tmp_path: Path, model: Path) -> None:
    source = builders.tar(tmp_path / "in.tar", [("0.png", builders.picture(0, (40, 40)))])
    content = builders.recipe(source, tmp_path / "out", model, **{"operator.condition": 1, "image.fit": "centre 8"})
    assert run_job(planned(content)).notes == {}


def test_empty_and_full_masks_are_told(tmp_path: Path, model: Path) -> None:
    members = []
    for i, mask in enumerate((np.zeros((8, 8)), np.ones((8, 8)), np.eye(8))):
        members += [(f"{i}.png", builders.picture(i)), (f"{i}.mask.png", saved(Image.fromarray(mask.astype(np.uint8))))]
    source = builders.tar(tmp_path / "in.tar", members)
    operator = {"name": "sdedit", "steps": 2, "condition": 1}
    content = builders.recipe(source, tmp_path / "out", model, mask={"member": "mask.png"}, operator=operator)
    assert run_job(planned(content)).notes == {NOTHING_CHANGES: 1, ALL_CHANGES: 1}


def test_a_declared_mask_file_and_what_shapes_do_not_take(tmp_path: Path, model: Path) -> None:
    soft = np.linspace(0, 255, 64).reshape(8, 8).astype(np.uint8)
    (tmp_path / "mask.png").write_bytes(saved(Image.fromarray(soft)))
    operator = {"name": "sdedit", "steps": 2, "condition": 1}
    source = builders.shard(tmp_path / "in.tar", 1)
    mask: dict[str, Any] = {"file": str(tmp_path / "mask.png")}
    with pytest.raises(UserError, match=r"mask\.file.*not binary"):
        planned(builders.recipe(source, tmp_path / "out", model, mask=mask, operator=operator))
    run_job(
        planned(builders.recipe(source, tmp_path / "out", model, mask=mask | {"threshold": 0.5}, operator=operator))
    )
    before, after = (builders.members_of(tar)["0000.png"] for tar in (source, tmp_path / "out" / "data" / "in.tar"))
    same = [np.asarray(Image.open(io.BytesIO(data))) for data in (before, after)]
    assert np.array_equal(same[0][:4], same[1][:4])  # the darker half
    assert not np.array_equal(same[0], same[1])
    with pytest.raises(UserError, match="channel and threshold are for mask files"):
        planned(
            builders.recipe(source, tmp_path / "o", model, mask={"shape": "half", "threshold": 0.5}, operator=operator)
        )


def test_a_size_far_from_the_trained_one_is_told_before_work(tmp_path: Path) -> None:
    """A UNet of latents works at many sizes, and not equally well."""
    folder = tiny.sd(tmp_path / "model")
    trained = sketch_model(ModelConfig(path=str(folder))).size
    for factor in (1, 2, 4):
        size = [factor * side for side in trained]
        content = builders.recipe("in.tar", tmp_path / "out", folder, **{"model.size": size, "caption": "a picture"})
        notes = of_plan(planned(content))
        assert len(notes) == (factor > 2)
        assert all(f"the network was trained at {trained[0]} × {trained[1]}" in note for note in notes)
