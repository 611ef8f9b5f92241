"""The whole job, in process: shards in, shards out."""

import json
import multiprocessing
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.config import validate
from pipeline.engine.events import Event, Progress
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.media.pixels import decode
from pipeline.streams.job_records import Counts, Manifest
from pipeline.streams.reconciling import OnChange
from pipeline.streams.shards import WebDatasetInput
from tests import builders


def run(content: dict[str, Any], on_change: OnChange = "refuse") -> Manifest:
    return run_job(make_plan(validate(JobConfig, content, "test")), on_change=on_change)


@pytest.fixture
def shards(tmp_path: Path) -> str:
    builders.shard(tmp_path / "in" / "a.tar", 5)
    builders.shard(tmp_path / "in" / "b.tar", 8, first=5)
    builders.shard(tmp_path / "in" / "c.tar", 3, first=13)
    return str(tmp_path / "in" / "*.tar")


def test_everything_arrives_and_nothing_else_changes(shards: str, tmp_path: Path, model: Path) -> None:
    manifest = run(builders.recipe(shards, tmp_path / "out", model))
    assert manifest.counts == Counts(read=16, written=16, images=16, quarantined=0, undecodable=0)
    assert manifest.complete
    for name in "abc":
        before = builders.members_of(tmp_path / "in" / f"{name}.tar")
        after = builders.members_of(tmp_path / "out" / "data" / f"{name}.tar")
        assert [n for n in after if not n.endswith("doppel.json")] == list(before)
        for member, content in before.items():
            if member.endswith(".png"):
                assert not np.array_equal(decode(after[member])[0], decode(content)[0])
            else:
                assert after[member] == content


def test_provenance_states_all_three_units_steps_and_hashes(shards: str, tmp_path: Path, model: Path) -> None:
    run(builders.recipe(shards, tmp_path / "out", model, **{"operator.t_boom": [0.2, 0.6], "operator.copies": 2}))
    members = builders.members_of(tmp_path / "out" / "data" / "a.tar")
    made = [json.loads(c) for n, c in members.items() if n.endswith(".doppel.json")]
    assert len(made) == 10
    assert {m["key"]["copy"] for m in made} == {0, 1}
    assert "0003-1.png" in members
    assert members["0003-1.txt"] == members["0003-0.txt"] == "caption 3 ü".encode()
    fractions = [m["level"]["fraction"] for m in made]
    assert all(0.2 <= f <= 0.6 for f in fractions)
    assert len(set(fractions)) == 10  # each copy of each sample draws its own
    for m in made:
        assert m["operator"] == "boomerang"
        assert m["parameters"]["t_boom"] == {"fraction": [0.2, 0.6]}
        assert m["level"]["sigma"] == pytest.approx(m["sigmas"][0], rel=1e-5)
        assert m["level"]["log_snr"] == pytest.approx(-2 * np.log(m["level"]["sigma"]), rel=1e-5)
        assert len(m["sigmas"]) == 3
        assert m["sigmas"][-1] == 0
        assert len(m["model"]) == len(m["config"]) == 64
        assert m["code"].startswith("0.")


def test_level_zero_gives_the_input_back(shards: str, tmp_path: Path, model: Path) -> None:
    run(builders.recipe(shards, tmp_path / "out", model, **{"operator.t_boom": 0}))
    before, after = (builders.members_of(tmp_path / d / "b.tar") for d in ("in", "out/data"))
    for name in before:
        if name.endswith(".png"):
            assert np.array_equal(decode(after[name])[0], decode(before[name])[0])


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_bytes_do_not_depend_on_workers_processes_or_other_shards(
    shards: str, tmp_path: Path, model: Path, context: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forked, processes import nothing anew; spawned ones that need no network are in test_front_door.py."""
    those = SimpleNamespace(get_context=lambda _: multiprocessing.get_context(context))
    monkeypatch.setattr("pipeline.engine.worker.multiprocessing", those)
    run(builders.recipe(shards, tmp_path / "one", model, **{"run.workers": 1}))
    run(builders.recipe(shards, tmp_path / "two", model, **{"run.workers": 3, "run.devices": ["cpu", "cpu"]}))
    run(builders.recipe(str(tmp_path / "in" / "b.tar"), tmp_path / "b", model))
    one = builders.tree(tmp_path / "one", "data")
    assert one == builders.tree(tmp_path / "two", "data")
    assert {"data/b.tar": one["data/b.tar"]} == builders.tree(tmp_path / "b", "data")


def test_a_key_gets_the_same_pixels_in_any_company(tmp_path: Path, model: Path) -> None:
    """Another order, other batch mates and a padded batch: equal up to one grey level of the network's rounding."""
    full = builders.shard(tmp_path / "full" / "in.tar", 7)
    alone = builders.shard(tmp_path / "alone" / "in.tar", 1, first=6)
    run(builders.recipe(full, tmp_path / "a", model))
    run(builders.recipe(alone, tmp_path / "b", model))
    a, b = (builders.members_of(tmp_path / d)["0006.png"] for d in ("a/data/in.tar", "b/data/in.tar"))
    assert np.abs(decode(a)[0].astype(int) - decode(b)[0]).max() <= 1


def test_salt_changes_everything_and_appears_nowhere(shards: str, tmp_path: Path, model: Path) -> None:
    salt = b"a-secret-of-enough-bytes"
    (tmp_path / "salt").write_bytes(salt + b"\n")
    run(builders.recipe(shards, tmp_path / "plain", model))
    run(builders.recipe(shards, tmp_path / "salted", model, **{"run.salt_file": str(tmp_path / "salt")}))
    plain, salted = (builders.tree(tmp_path / d, "data") for d in ("plain", "salted"))
    assert all(plain[name] != salted[name] for name in plain)
    for content in builders.tree(tmp_path / "salted", ".").values():
        assert salt not in content
        assert salt.hex().encode() not in content


def test_pass_through_keeps_pixels_of_any_size(tmp_path: Path) -> None:
    sizes = [(5, 7), (64, 3), (40, 40)]
    source = builders.tar(
        tmp_path / "in.tar", [(f"{i}.png", builders.picture(i, size)) for i, size in enumerate(sizes)]
    )
    run(builders.recipe(source, tmp_path / "out", None))
    before, after = builders.members_of(source), builders.members_of(tmp_path / "out" / "data" / "in.tar")
    for i, size in enumerate(sizes):
        pixels = decode(after[f"{i}.png"])[0]
        assert pixels.shape == (size[1], size[0], 3)
        assert np.array_equal(pixels, decode(before[f"{i}.png"])[0])


def test_grey_images_through_a_colour_model_stay_grey_and_the_reverse(tmp_path: Path, model: Path) -> None:
    from PIL import Image

    grey_model = builders.model_folder(tmp_path / "grey", channels=1)
    for mode, path in (("L", model), ("RGB", grey_model)):
        source = builders.shard(tmp_path / f"{mode}.tar", 3, mode=mode)
        run(builders.recipe(source, tmp_path / f"out-{mode}", path))
        with tarfile.open(tmp_path / f"out-{mode}" / "data" / f"{mode}.tar") as archive:
            assert Image.open(archive.extractfile("0001.png")).mode == mode  # type: ignore[arg-type]


def test_grey_images_are_painted_in_colour_where_the_recipe_says_so(tmp_path: Path, model: Path) -> None:
    from PIL import Image

    source = builders.shard(tmp_path / "in.tar", 2, mode="L")
    run(builders.recipe(source, tmp_path / "out", model, **{"image.mode": "RGB", "operator.t_boom": 1}))
    with tarfile.open(tmp_path / "out" / "data" / "in.tar") as archive:
        picture = Image.open(archive.extractfile("0001.png"))  # type: ignore[arg-type]
        assert picture.mode == "RGB"
        assert np.asarray(picture).std(-1).max() > 5


def test_guidance_away_from_each_ones_own_label_needs_the_labels(tmp_path: Path, model: Path) -> None:
    source = builders.tar(tmp_path / "in.tar", [("0.png", builders.picture(0))])
    changes = {"operator.condition": 1, "operator.guidance": {"scale": 2, "negative": "own"}}
    with pytest.raises(UserError, match="no class label, and the model needs one"):
        run(builders.recipe(source, tmp_path / "out", model, **changes))


def test_restore_size_and_fit(tmp_path: Path, model: Path) -> None:
    source = builders.tar(tmp_path / "in.tar", [("0.png", builders.picture(0, (40, 20))), ("0.cls", b"1")])
    for fit, size in (("resize", (20, 40)), ("pad", (20, 40)), ("crop", (20, 20))):
        changes = {"image.fit": fit, "image.restore_size": True, "operator.t_boom": 0}
        run(builders.recipe(source, tmp_path / fit, model, **changes))
        assert decode(builders.members_of(tmp_path / fit / "data" / "in.tar")["0.png"])[0].shape[:2] == size


def test_codecs(tmp_path: Path, model: Path) -> None:
    source = builders.tar(tmp_path / "in.tar", [("0.jpeg", builders.picture(0, (200, 150), kind="JPEG"))])
    for codec, name in (("auto", "0.png"), ("jpeg", "0.jpg"), ("webp", "0.webp")):
        run(builders.recipe(source, tmp_path / codec, None, **{"output.codec": codec}))
        assert name in builders.members_of(tmp_path / codec / "data" / "in.tar")


def test_a_mask_with_the_name_of_the_output_survives(tmp_path: Path) -> None:
    mask = builders.picture(9)
    source = builders.tar(tmp_path / "in.tar", [("0.jpg", builders.picture(0, kind="JPEG")), ("0.png", mask)])
    manifest = run(builders.recipe(source, tmp_path / "out", None, **{"input.image": "jpg"}))
    after = builders.members_of(tmp_path / "out" / "data" / "in.tar")
    assert after["0.png"] == mask
    assert "0.jpg.png" in after
    assert any("such as jpg.png" in note for note in manifest.notes)
    (again,) = WebDatasetInput(urls=(str(tmp_path / "out" / "data" / "*.tar"),)).open().shards
    assert next(iter(again.read())).image_ext == "jpg.png"  # type: ignore[union-attr]  # and not the mask


def test_limit_takes_the_first_and_goes_on_from_there(shards: str, tmp_path: Path, model: Path) -> None:
    manifest = run(builders.recipe(shards, tmp_path / "out", model, limit=7))
    assert manifest.counts.read == 7
    assert manifest.complete
    (tmp_path / "out" / "shards" / "b.json").unlink()  # as if it had been stopped there
    assert run(builders.recipe(shards, tmp_path / "out", model, limit=7)).counts.read == 7
    assert len(builders.members_of(tmp_path / "out" / "data" / "b.tar")) == 2 * 5


def test_an_empty_shard_gives_an_empty_shard(tmp_path: Path, model: Path) -> None:
    source = builders.tar(tmp_path / "in.tar", [])
    manifest = run(builders.recipe(source, tmp_path / "out", model))
    assert manifest.counts.read == 0
    assert builders.members_of(tmp_path / "out" / "data" / "in.tar") == {}


def test_progress_counts_every_image(shards: str, tmp_path: Path, model: Path) -> None:
    events: list[Event] = []
    job = make_plan(validate(JobConfig, builders.recipe(shards, tmp_path / "out", model), "test"))
    run_job(job, observe=events.append)
    assert sum(e.images for e in events if isinstance(e, Progress)) == 16
    log = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in log] == ["start", "shard", "shard", "shard", "stop"]


def test_an_output_that_is_not_finite_is_quarantined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    from pipeline.models.pixel import PixelModel

    whole = PixelModel.decode

    def broken(self: PixelModel, z: Any) -> Any:
        pixels = whole(self, z).clone()
        pixels[1, 0, 0, 0] = float("nan")
        return pixels

    monkeypatch.setattr(PixelModel, "decode", broken)
    source = builders.shard(tmp_path / "in.tar", 3)
    counts = run(builders.recipe(source, tmp_path / "out", model)).counts
    assert (counts.written, counts.quarantined) == (2, 1)
    assert b"not finite" in builders.members_of(tmp_path / "out" / "quarantine" / "in.tar")["000000.reason.json"]


def test_the_input_changing_under_the_job_is_an_error(tmp_path: Path, model: Path) -> None:
    source = builders.shard(tmp_path / "in.tar", 30)
    job = make_plan(validate(JobConfig, builders.recipe(source, tmp_path / "out", model), "test"))

    def touch(event: Event) -> None:
        builders.shard(source, 31)

    with pytest.raises(UserError, match="changed while it was read"):
        run_job(job, observe=touch)
    assert not list((tmp_path / "out" / "shards").glob("*.json"))


def test_a_job_on_several_devices_in_a_script_without_a_main_guard_is_refused(tmp_path: Path, model: Path) -> None:
    source = builders.shard(tmp_path / "in.tar", 2)
    content = builders.recipe(source, tmp_path / "out", model, **{"run.devices": ["cpu", "cpu"]})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    script = tmp_path / "script.py"
    script.write_text(f'from pipeline import run\nrun("{tmp_path / "recipe.yaml"}")\n')
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert "script.py, line 2: the job starts a process" in done.stderr
    assert not (tmp_path / "out").exists()
