"""The recipe of every model family, on a tiny pipeline of the same class with random weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.commands.edits import EditsConfig, edits
from pipeline.config import load_config, validate
from pipeline.job.config import JobConfig
from pipeline.media.clips import Clip, is_clip, read_clip, write_clip
from pipeline.media.pixels import decode
from pipeline.models.families import FAMILIES
from pipeline.recipes import find_recipe, read_recipe
from tests import builders, tiny
from tests.test_run import run

EDITS = [
    {"id": "a", "caption": "a photo of a cat", "edited": "a photo of a dog", "instruction": "turn the cat into a dog"},
    {"id": "b", "caption": "a red house", "edited": "a blue house", "instruction": "make it blue"},
]


def photos(folder: Path) -> dict[str, Any]:
    for i in range(2):
        place = folder / "photos" / ("cat", "dog")[i]
        place.mkdir(parents=True)
        (place / f"{i}.png").write_bytes(builders.picture(i, (40, 32)))
    return {"path": str(folder / "photos")}


def captioned(folder: Path) -> dict[str, Any]:
    members = [(f"{i}.{ext}", data) for i in range(2) for ext, data in (
        ("png", builders.picture(i, (32, 40))), ("txt", b"a photo of a cat"), ("cls", b"1"))]  # fmt: skip
    return {"urls": str(builders.tar(folder / "in.tar", members))}


def lines(folder: Path) -> dict[str, Any]:
    (folder / "edits.jsonl").write_text("".join(json.dumps(edit) + "\n" for edit in EDITS))
    return {"urls": str(folder / "edits.jsonl")}


def clips(folder: Path) -> dict[str, Any]:
    (folder / "clips").mkdir()
    for i, container in enumerate(("gif", "mp4")):
        frames = np.stack([decode(builders.picture(5 * i + j, (40, 32)))[0] for j in range(3)])
        clip = Clip(frames=frames, seconds=(0.1,) * 3, container=container)  # type: ignore[arg-type]
        (folder / "clips" / f"{i}.{container}").write_bytes(write_clip(clip))
    return {"path": str(folder / "clips")}


INPUTS = {"folder": photos, "webdataset": captioned, "captions": lines}
MODELS: dict[str, Callable[[Path], Path]] = {
    "sd_faces": tiny.sd,
    "sdxl_sdedit": tiny.sdxl,
    "sd3_labels": tiny.sd3,
    "flux_sdedit": tiny.flux,
    "dit_imagenet": tiny.dit,
    "pixart_captions": tiny.pixart,
    "deepfloyd_anagram": tiny.deepfloyd,
    "lcm_augment": tiny.lcm,
    "turbo_augment": tiny.turbo,
    "prompt_to_prompt": tiny.sd,
    "pairs": tiny.sd,
    "text_path": tiny.sd,
    "animatediff": tiny.animatediff,
    "video_frames": tiny.sd,
}
SMALLER = {
    "anagram": {"steps": 2}, "interpolate": {"steps": 2, "path": 2}, "prompt_to_prompt": {"steps": 3},
    "pairs": {"copies": 3, "steps": 3, "thresholds": {"before": -1, "after": -1, "direction": -1, "images": -1}},
}  # fmt: skip


def on_tiny_models(name: str, folder: Path) -> dict[str, Any]:
    """The recipe with its places changed, no dtype that a CPU is slow with, and few steps."""
    content = read_recipe(find_recipe(name), "job")
    content["input"] |= (clips if "video" in content else INPUTS[content["input"]["format"]])(folder)
    content["output"]["path"] = str(folder / "out")
    content["run"] = {"devices": ["cpu"]}
    kept = {k: v for k, v in content["model"].items() if k in ("distilled_guidance", "upscalers")}
    content["model"] = kept | {"path": str(MODELS[name](folder / "model")), "batch_size": 2}
    if name == "flux_sdedit":  # its network states no size, 128 × 128 cells are taken
        content["model"]["size"] = [32, 32]
    if "upscalers" in kept:
        stages = (tiny.deepfloyd_upscaler(folder / "second"), tiny.upscaler(folder / "third"))
        content["model"]["upscalers"] = [{"path": str(path)} for path in stages]
    if "judge" in content:
        content["judge"]["path"] = str(tiny.clip(folder / "clip"))
    operator = content["operator"]
    operator |= SMALLER.get(operator["name"]) or {"steps": min(operator["steps"], 3)}
    return content


@pytest.mark.parametrize("name", MODELS)
def test_the_recipe_runs(name: str, tmp_path: Path) -> None:
    content = on_tiny_models(name, tmp_path)
    counts = run(content).counts
    assert (counts.read, counts.written, counts.quarantined) == (2, 2, 0)
    (shard,) = (tmp_path / "out" / "data").glob("*.tar")
    members = builders.members_of(shard)
    images = [decode(c)[0] for n, c in members.items() if n.endswith((".png", ".jpg"))]
    images += [frame for n, c in members.items() if is_clip(n) for frame in read_clip(c, n).frames]
    assert len(images) >= counts.images >= 2
    assert len({image.tobytes() for image in images}) == len(images)
    assert all(image.std() > 1 for image in images)


def test_pairs_hold_before_after_and_instruction(tmp_path: Path) -> None:
    run(on_tiny_models("pairs", tmp_path))
    members = builders.members_of(tmp_path / "out" / "data" / "edits.tar")
    keys = sorted({name.split(".")[0] for name in members})
    assert keys == [f"{id}-{copy}" for id in "ab" for copy in range(3)]
    for key in keys:
        before, after = (decode(members[f"{key}.{which}.png"])[0] for which in ("before", "after"))
        assert not np.array_equal(before, after)
        assert json.loads(members[f"{key}.json"]) in EDITS
        scores = json.loads(members[f"{key}.doppel.json"])["details"]
        assert all(-1 <= scores["scores"][name] <= 1 for name in ("before", "after", "direction", "images"))


def test_every_family_has_a_recipe(tmp_path: Path) -> None:
    built = {json.loads((build(tmp_path / name) / "model_index.json").read_text())["_class_name"]
             for name, build in MODELS.items()}  # fmt: skip
    loaders = {family.load for name, family in FAMILIES.items() if name in built}
    assert {family.load for family in FAMILIES.values()} - loaders == {FAMILIES["DDPMPipeline"].load}


def test_captions_become_edits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = lines(tmp_path)["urls"], tmp_path / "out.jsonl"
    assert main(["edits", "edits_by_rules", "--set", f"input.urls={source}", "--set", f"output={out}"]) == 0
    assert capsys.readouterr().out == f"{out}: 3 edits\n"
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert [edit["edited"] for edit in made] == ["a photo of a dog", "a photo of a horse", "a painting of a cat"]
    assert [edit["instruction"] for edit in made][::2] == ["turn the cat into a dog", "make it a painting"]


def test_edits_come_from_any_stream_and_skip_samples_without_captions(tmp_path: Path) -> None:
    members = [("a.png", builders.picture(0)), ("a.txt", b"a cat"), ("b.png", builders.picture(1))]
    content = {
        "input": {"format": "webdataset", "urls": str(builders.tar(tmp_path / "in.tar", members))},
        "edits": {"rules": [{"find": "cat", "replace": "dog"}]},
        "output": str(tmp_path / "out.jsonl"),
    }
    assert edits(validate(EditsConfig, content, "test")) == 1
    assert json.loads((tmp_path / "out.jsonl").read_text())["id"] == "in/a-0-0"


def test_recipes_name_only_known_keys() -> None:
    for name in MODELS:
        load_config(JobConfig, name)
