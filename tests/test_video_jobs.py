"""Clips through whole jobs: frame by frame, and through a model of clips; written as they came in."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.cli import main
from pipeline.commands.preview import sheet_rows, try_out
from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.reading import Reader
from pipeline.engine.windows import filled, windows
from pipeline.errors import UserError
from pipeline.job.classes import Classes
from pipeline.job.config import JobConfig
from pipeline.media.clips import Clip, Container, read_clip, write_clip
from pipeline.media.frame import Frame
from pipeline.media.pixels import decode
from pipeline.media.records import Reel, Row, Sample
from pipeline.models.pixel import PixelModel
from pipeline.operators import Boomerang
from pipeline.streams.job_records import Counts
from tests import builders, tiny
from tests.test_run import run

SIDE = builders.SIDE


def frames(seed: int, count: int, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """Smooth frames of few colours, uint8 `[F, H, W, 3]`; `size` is width, height."""
    pictures = [decode(builders.picture(100 * seed + i, size))[0] // 64 * 64 for i in range(count)]
    return np.stack(pictures)


def clip(pictures: np.ndarray, container: Container = "gif", seconds: Sequence[float] | None = None) -> bytes:
    return write_clip(
        Clip(frames=pictures, seconds=tuple(seconds or [0.1] * len(pictures)), container=container, loop=None)
    )


def made(out: Path, name: str, shard: str = "in") -> Clip:
    return read_clip(builders.members_of(out / "data" / f"{shard}.tar")[name], name.rpartition(".")[2])


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """An image, a GIF of two batches, an MP4, and members beside them."""
    members = [("a.png", builders.picture(1)), ("a.cls", b"0")]
    members += [("b.gif", clip(frames(2, 6, (10, 6)), seconds=[0.1, 0.2, 0.3, 0.1, 0.1, 0.5])), ("b.cls", b"1")]
    members += [("c.mp4", clip(frames(3, 3, (16, 12)), "mp4", [0.04, 0.08, 0.04])), ("c.cls", b"2"), ("c.txt", b"hi")]
    return builders.tar(tmp_path / "in.tar", members)


def test_clips_come_back_as_they_came_in(shard: Path, tmp_path: Path, model: Path) -> None:
    changes = {"video": {}, "image.restore_size": True}
    manifest = run(builders.recipe(shard, tmp_path / "out", model, **changes))
    assert manifest.counts == Counts(read=3, written=3, images=3, quarantined=0, undecodable=0)
    before, after = builders.members_of(shard), builders.members_of(tmp_path / "out" / "data" / "in.tar")
    assert [name for name in after if not name.endswith("doppel.json")] == list(before)
    for name in ("b.gif", "c.mp4"):
        came, went = (read_clip(members[name], name.rpartition(".")[2]) for members in (before, after))
        assert (went.frames.shape, went.container, went.loop) == (came.frames.shape, came.container, came.loop)
        assert went.seconds == pytest.approx(came.seconds)
        assert np.abs(went.frames.astype(int) - came.frames).mean() > 5
    made_so = json.loads(after["b.doppel.json"])
    assert (made_so["operator"], made_so["clip"], made_so["batch_size"]) == ("boomerang", "in/b", 4)
    assert made_so["frames"] is json.loads(after["a.doppel.json"])["clip"] is None
    record = json.loads((tmp_path / "out" / "shards" / "in.json").read_text())
    assert record["flicker"]["inputs"] > 0


def test_level_zero_gives_the_frames_back(tmp_path: Path, model: Path) -> None:
    pictures = frames(1, 5)
    members = [("a.gif", clip(pictures)), ("a.cls", b"0"), ("b.mp4", clip(pictures, "mp4")), ("b.cls", b"0")]
    source = builders.tar(tmp_path / "in.tar", members)
    run(builders.recipe(source, tmp_path / "out", model, **{"video": {}, "operator.t_boom": 0}))
    assert np.array_equal(made(tmp_path / "out", "a.gif").frames, pictures)
    once_more = write_clip(read_clip(clip(pictures, "mp4"), "mp4"))  # coding again loses some
    assert builders.members_of(tmp_path / "out" / "data" / "in.tar")["b.mp4"] == once_more


def test_without_a_model_clips_pass_through(shard: Path, tmp_path: Path) -> None:
    run(builders.recipe(shard, tmp_path / "out", None, video={}))
    came = read_clip(builders.members_of(shard)["b.gif"], "gif")
    went = made(tmp_path / "out", "b.gif")
    assert np.array_equal(went.frames, came.frames)
    assert went.seconds == pytest.approx(came.seconds)


def test_without_the_section_a_gif_is_an_image_and_an_mp4_is_none(shard: Path, tmp_path: Path, model: Path) -> None:
    manifest = run(builders.recipe(shard, tmp_path / "out", model))
    assert (manifest.counts.written, manifest.counts.undecodable) == (2, 1)
    assert "b.png" in builders.members_of(tmp_path / "out" / "data" / "in.tar")
    reason = builders.members_of(tmp_path / "out" / "quarantine" / "in.tar")["000000.reason.json"]
    assert b"no section video" in reason


def test_frames_of_a_clip_share_their_noise_and_are_those_of_a_folder_of_frames(tmp_path: Path, model: Path) -> None:
    """Batches are the same for both; so are the bytes of what the model makes."""
    pictures = frames(1, 4)[[0, 1, 0, 2]]
    source = builders.tar(tmp_path / "in.tar", [("a.gif", clip(pictures)), ("a.cls", b"1")])
    run(builders.recipe(source, tmp_path / "out", model, video={}))
    went = made(tmp_path / "out", "a.gif").frames
    assert np.array_equal(went[0], went[2])
    assert not np.array_equal(went[0], went[1])
    members = []
    for i, picture in enumerate(pictures):
        members += [(f"in/a-{i}.png", png(picture)), (f"in/a-{i}.cls", b"1")]
    run(builders.recipe(builders.tar(tmp_path / "apart.tar", members), tmp_path / "two", model, clip="(.+)-[0-9]"))
    apart = builders.members_of(tmp_path / "two" / "data" / "apart.tar")
    for i in range(4):
        assert np.array_equal(decode(apart[f"in/a-{i}.png"])[0], went[i])


def test_copies_and_views_are_clips_too(tmp_path: Path, model: Path) -> None:
    source = builders.tar(tmp_path / "in.tar", [("a.gif", clip(frames(1, 5))), ("a.cls", b"1")])
    operator: dict[str, Any] = {
        "name": "anagram",
        "views": ["identity", "rotate_180"],
        "conditions": [0, 1],
        "steps": 1,
        "copies": 2,
    }
    operator["guidance"] = 1
    counts = run(builders.recipe(source, tmp_path / "out", model, operator=operator, video={})).counts
    assert (counts.read, counts.written, counts.images) == (1, 1, 4)
    for copy in ("0", "1"):
        plain, turned = (made(tmp_path / "out", f"a-{copy}{view}.gif").frames for view in ("", "-view-1"))
        assert np.array_equal(turned, plain[:, ::-1, ::-1])
    after = builders.members_of(tmp_path / "out" / "data" / "in.tar")
    assert len(json.loads(after["a-0.doppel.json"])["details"]) == 5


def test_a_broken_clip_is_one_quarantined_row(tmp_path: Path, model: Path) -> None:
    whole = clip(frames(1, 9, (16, 16)), "mp4")
    members = [("a.gif", clip(frames(2, 3))), ("a.cls", b"0"), ("b.mp4", whole[: len(whole) // 2]), ("b.cls", b"0")]
    source = builders.tar(tmp_path / "in.tar", [*members, ("c.mp4", whole), ("c.cls", b"0")])
    counts = run(builders.recipe(source, tmp_path / "out", model, video={})).counts
    assert counts == Counts(read=3, written=2, images=2, quarantined=0, undecodable=1)
    kept = builders.members_of(tmp_path / "out" / "quarantine" / "in.tar")
    assert kept["000000.mp4"] == whole[: len(whole) // 2]


def test_a_bad_frame_takes_its_clip_along_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    decoded, batches = PixelModel.decode, list[int]()

    def broken(self: PixelModel, z: Any) -> Any:
        batches.append(len(z))
        pixels = decoded(self, z).clone()
        if len(batches) == 2:  # frames 1 to 3 of the second clip, and a copy
            pixels[1:3, 0, 0, 0] = float("nan")
        return pixels

    monkeypatch.setattr(PixelModel, "decode", broken)
    members = []
    for i, key in enumerate("abc"):
        members += [(f"{key}.gif", clip(frames(i, 5))), (f"{key}.cls", b"0")]
    source = builders.tar(tmp_path / "in.tar", members)
    counts = run(builders.recipe(source, tmp_path / "out", model, video={})).counts
    assert counts == Counts(read=3, written=2, images=2, quarantined=1, undecodable=0)
    kept = builders.members_of(tmp_path / "out" / "quarantine" / "in.tar")
    assert json.loads(kept["000000.reason.json"])["reason"] == "frame 0: the model's output is not finite"
    assert [n for n in builders.members_of(tmp_path / "out" / "data" / "in.tar") if n.endswith("gif")] == [
        "a.gif", "c.gif",
    ]  # fmt: skip


def test_a_window_that_an_operator_refuses_takes_its_clip_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, animatediff: Path
) -> None:
    walk = Boomerang.__call__

    def choosy(self: Boomerang, *given: Any) -> Any:
        return walk(self, *given)._replace(refused={1: "no"})

    monkeypatch.setattr(Boomerang, "__call__", choosy)
    members = [(f"{key}.gif", clip(frames(i, 3))) for i, key in enumerate("abc")]
    source = builders.tar(tmp_path / "in.tar", members)
    counts = run(of_clips(source, tmp_path / "out", animatediff, video={"frames": 2})).counts
    assert (counts.written, counts.quarantined) == (0, 3)  # windows 1, 3 and 5, of all six
    kept = builders.members_of(tmp_path / "out" / "quarantine" / "in.tar")
    assert [json.loads(kept[f"{i:06d}.reason.json"])["reason"] for i in range(3)] == ["frame 2: no"] * 3


def test_masks_and_guides_are_for_all_frames(tmp_path: Path, model: Path) -> None:
    pictures = frames(1, 5)
    source = builders.tar(tmp_path / "in.tar", [("a.gif", clip(pictures)), ("a.cls", b"0")])
    changes: dict[str, Any] = {"operator": {"name": "sdedit", "steps": 1}, "mask": {"shape": "half"}, "video": {}}
    run(builders.recipe(source, tmp_path / "out", model, guide={"strokes": {}}, **changes))
    went = made(tmp_path / "out", "a.gif").frames
    changed = (went != pictures).any((0, 3))
    assert changed.sum() == SIDE * SIDE / 2


def test_bytes_do_not_depend_on_workers_or_interruption(tmp_path: Path, model: Path) -> None:
    for name in "ab":
        members = []
        for i in range(4):
            members += [(f"{i}.gif", clip(frames(i, 3 + i))), (f"{i}.cls", b"1")]
            members += [(f"{i}v.mp4", clip(frames(i, 2), "mp4")), (f"{i}v.cls", b"1")]
        builders.tar(tmp_path / "in" / f"{name}.tar", members)
    source = tmp_path / "in" / "*.tar"
    run(builders.recipe(source, tmp_path / "one", model, **{"video": {}, "run.workers": 1}))
    run(builders.recipe(source, tmp_path / "two", model, **{"video": {}, "run.workers": 3}))
    assert builders.tree(tmp_path / "one", "data") == builders.tree(tmp_path / "two", "data")
    whole = builders.tree(tmp_path / "one", "data")
    (tmp_path / "one" / "shards" / "b.json").unlink()
    run(builders.recipe(source, tmp_path / "one", model, **{"video": {}, "run.workers": 1}))
    assert builders.tree(tmp_path / "one", "data") == whole


def test_a_limit_counts_clips(shard: Path, tmp_path: Path, model: Path) -> None:
    assert run(builders.recipe(shard, tmp_path / "out", model, video={}, limit=2)).counts.read == 2
    assert "c.mp4" not in builders.members_of(tmp_path / "out" / "data" / "in.tar")


def test_a_folder_of_clips(tmp_path: Path, model: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "in" / label).mkdir(parents=True)
    (tmp_path / "in" / "cat" / "1.gif").write_bytes(clip(frames(1, 2)))
    (tmp_path / "in" / "dog" / "2.mp4").write_bytes(clip(frames(2, 3), "mp4"))
    content = builders.recipe("", tmp_path / "out", model, video={}, classes="numbers", **{"output.format": "folder"})
    content["input"] = {"format": "folder", "path": str(tmp_path / "in")}
    assert run(content).counts.written == 2
    data = tmp_path / "out" / "data"
    assert len(read_clip((data / "dog" / "2.mp4").read_bytes(), "mp4").frames) == 3
    assert len(read_clip((data / "cat" / "1.gif").read_bytes(), "gif").frames) == 2
    content["input"]["extensions"] = ["gif"]
    config = validate(JobConfig, content, "test")
    assert config.input.extensions == ("gif",)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"output.format": "parquet"}, "a parquet file holds images"),
        ({"operator": {"name": "sdedit"}, "guide": {"previous": 1}}, "guide.previous would be an earlier frame"),
        (
            {"operator": {"name": "pairs"}, "edited": "a dog", "judge": {"path": "x"}},
            "operator pairs keeps other copies of each frame",
        ),
        ({"video.frames": 0}, "video.frames"),
        ({"video.most": 3}, "most"),
    ],
)
def test_sections_that_do_not_fit(changes: dict[str, Any], sentence: str, tmp_path: Path, model: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        validate(JobConfig, builders.recipe("in.tar", tmp_path / "out", model, **{"video": {}} | changes), "test")


def test_preview_shows_the_first_frames(shard: Path, tmp_path: Path, model: Path) -> None:
    recipe, sheet = tmp_path / "recipe.yaml", tmp_path / "sheet.png"
    content = builders.recipe(shard, tmp_path / "out", model, video={})
    recipe.write_text(yaml.safe_dump(content))
    assert main(["preview", str(recipe), "-n", "5", "-o", str(sheet)]) == 0
    outputs, _ = try_out(validate(JobConfig, content, "test"), 5)
    rows = sheet_rows(outputs)
    assert {name: len(pictures) for name, pictures in rows.items()} == {"input": 5, "output": 5}
    assert not np.array_equal(rows["input"][1], rows["input"][2])


# --- windows ---


def row(clip_key: str, index: int, count: int | None = None, key: str = "") -> Row:
    reel = None if count is None else Reel(container="gif", seconds=(0.1,) * count)
    return Row(
        sample=Sample(key=key or f"{clip_key}-{index}", image=b"", image_ext="gif"),
        frame=Frame.whole("RGB", (1, 1)),
        image=np.zeros((1, 1, 3), np.uint8),
        noise_key=clip_key,
        reel=reel,
        index=index,
    )


def lengths(rows: list[Row], count: int | None) -> list[int]:
    return [len(window) for window in windows(rows, count)]


def test_windows_are_of_one_clip() -> None:
    apart = [row("a", i) for i in range(5)] + [row("b", i) for i in range(2)]
    assert lengths(apart, 3) == [3, 2, 2]
    assert lengths(apart, None) == [1] * 7
    assert [r for window in windows(apart, 4) for r in window] == apart
    scenes = [row("film", i, 2, key=key) for key in "xy" for i in range(2)]
    assert lengths(scenes, 3) == [2, 2]  # the clips of one film share their noise, and are not one window
    assert [r.ends for r in scenes] == [False, True, False, True]
    assert [r.index for r in filled(windows(apart, 3)[1], 3)] == [3, 4, 4]


# --- through a model of clips ---


@pytest.fixture(scope="module")
def animatediff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.animatediff(tmp_path_factory.mktemp("animatediff"))


def of_clips(source: Path, out: Path, model: Path, **changes: Any) -> dict[str, Any]:
    operator = {"name": "boomerang", "t_boom": [0.3, 0.6], "steps": 1, "condition": "a cat"}
    fixed = {"operator": operator, "model.size": [16, 16], "model.batch_size": 2}
    return builders.recipe(source, out, model, **fixed | changes)


def test_clips_through_a_model_of_clips(shard: Path, tmp_path: Path, animatediff: Path) -> None:
    manifest = run(of_clips(shard, tmp_path / "out", animatediff, video={"frames": 4}))
    assert manifest.counts == Counts(read=3, written=3, images=3, quarantined=0, undecodable=0)
    after = builders.members_of(tmp_path / "out" / "data" / "in.tar")
    assert len(made(tmp_path / "out", "b.gif").frames) == 6
    assert made(tmp_path / "out", "b.gif").seconds == pytest.approx((0.1, 0.2, 0.3, 0.1, 0.1, 0.5))
    assert len(made(tmp_path / "out", "c.mp4").frames) == 3
    made_so = json.loads(after["b.doppel.json"])
    assert (made_so["frames"], made_so["batch_size"], made_so["clip"]) == (4, 2, "in/b")
    assert json.loads(after["a.doppel.json"])["frames"] == 4  # an image is a clip that stands still


def test_a_folder_of_frames_is_the_same_clip(tmp_path: Path, animatediff: Path) -> None:
    """Windows of 3 in batches of 2: the 7 frames need two batches, and the last window stands still at its end."""
    pictures = frames(1, 7, (16, 16))
    source = builders.tar(tmp_path / "in.tar", [("cat.gif", clip(pictures))])
    run(of_clips(source, tmp_path / "gif", animatediff, video={"frames": 3}))
    went = made(tmp_path / "gif", "cat.gif").frames
    (tmp_path / "frames" / "in" / "cat").mkdir(parents=True)
    for i, picture in enumerate(pictures):
        (tmp_path / "frames" / "in" / "cat" / f"{i}.png").write_bytes(png(picture))
    content = of_clips(source, tmp_path / "out", animatediff, video={"frames": 3}, clip="(.+)/[0-9]+")
    content |= {"input": {"format": "folder", "path": str(tmp_path / "frames"), "labels": "none"}}
    content["output"]["format"] = "folder"
    assert run(content).counts.written == 7
    apart = [decode((tmp_path / "out" / "data" / "in" / "cat" / f"{i}.png").read_bytes())[0] for i in range(7)]
    assert np.array_equal(went, apart)  # 256 pixels have no more colours than a GIF
    levels = [
        json.loads(line)["provenance"]["level"]
        for line in next((tmp_path / "out" / "provenance").iterdir()).read_text().splitlines()
    ]
    assert all(level == levels[0] for level in levels)


def test_windows_of_a_clip_share_their_noise(tmp_path: Path, animatediff: Path) -> None:
    pictures = frames(1, 3, (16, 16))[[0, 1, 2, 0, 1, 2]]
    source = builders.tar(tmp_path / "in.tar", [("a.gif", clip(pictures))])
    run(of_clips(source, tmp_path / "out", animatediff, video={"frames": 3}))
    went = made(tmp_path / "out", "a.gif").frames
    assert np.array_equal(went[:3], went[3:])
    assert not np.array_equal(went[0], went[1])


def test_batches_are_of_whole_windows(shard: Path, tmp_path: Path, animatediff: Path) -> None:
    job = make_plan(validate(JobConfig, of_clips(shard, tmp_path / "out", animatediff, video={"frames": 4}), "test"))
    with ThreadPoolExecutor(1) as pool:
        batches = list(Reader(job, Classes(), pool)(job.config.input.open().shards))
    assert [[len(w) for w in windows(b.rows, 4)] for b in batches] == [[1, 4], [2, 3]]
    assert [b.last for b in batches] == [False, True]
    assert sum(b.read for b in batches) == 3


def test_preview_of_a_model_of_clips(shard: Path, tmp_path: Path, animatediff: Path) -> None:
    content = of_clips(shard, tmp_path / "out", animatediff, video={"frames": 4})
    outputs, rejected = try_out(validate(JobConfig, content, "test"), 3)
    assert len(outputs) == 3
    assert not rejected
