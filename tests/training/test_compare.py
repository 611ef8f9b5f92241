"""The comparison as a whole, on a toy data set: arms, intervals, resumption, and bad input in one sentence each."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ttest_rel

import training.denoiser.export
from pipeline.cli import main
from pipeline.config import validate
from pipeline.errors import UserError
from tests.training.toy import coloured, configuration
from training.classifier import augmentations, fitting
from training.compare.compare import best_classical, compare, equal_steps
from training.compare.config import CompareConfig
from training.denoiser.train import train_denoiser

SIDE = 8
Recipe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On other images than those below; read only."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.denoiser.export, "STEPS", 2)
        return train_denoiser(configuration(coloured(folder / "data"), folder / "out")) / "model"


@pytest.fixture
def denoiser(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "denoiser")


@pytest.fixture
def recipe(tmp_path: Path, denoiser: Path) -> Recipe:
    """`recipe(**{"schedule.lr": 1})`: two classes, bright above or below, with much noise; a few steps."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 10), ("test", 12)):
        for label in (0, 1):
            folder = tmp_path / split / str(label)
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 160, (SIDE, SIDE, 3))
                pixels[slice(0, 4) if label else slice(4, 8)] += 60
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{split}-{i}.png")

    def make(**changes: Any) -> dict[str, Any]:
        content: dict[str, Any] = {
            "data": {s: {"format": "folder", "path": str(tmp_path / s)} for s in ("train", "validation", "test")},
            "kind": "compare",
            "size": [SIDE, SIDE],
            "classes": 2,
            "sizes": [8, 16],
            "seeds": 3,
            "schedule": {"steps": 8, "batch_size": 8, "bf16": False},
            "neighbours": {
                "near": {
                    "model": {"path": str(denoiser), "batch_size": 4},
                    "operator": {"name": "boomerang", "t_boom": 0.3, "steps": 2}, "copies": 2,
                },
            },
            "arms": {
                "real": {}, "flip_crop": {"classical": "flip_crop"},
                "boomerang": {"near": "near"}, "both": {"near": "near", "classical": "best"},
            },
            "output": str(tmp_path / "out"),
        }  # fmt: skip
        for key, value in changes.items():
            *sections, last = key.split(".")
            place = content
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        return content

    return make


def config(content: dict[str, Any]) -> CompareConfig:
    return validate(CompareConfig, content, "test")


def test_every_arm_at_every_size_and_seed(recipe: Recipe) -> None:
    seen: list[tuple[str, int, int]] = []
    made = compare(config(recipe(**{"schedule.steps": 16})), observe=lambda *event: seen.append(event))
    assert {(r["arm"], r["size"], r["seed"]) for r in made["runs"]} == {
        (arm, size, seed) for arm in recipe()["arms"] for size in ("8", "16") for seed in range(3)
    }
    assert seen[-1][1:] == (24, 24)
    assert {r["steps"] for r in made["runs"]} == {16}
    assert made["split"] == "test"
    compared = []
    for size, best in made["best_classical"].items():
        by_arm = {
            arm: [r["accuracy"] for r in made["runs"] if r["arm"] == arm and r["size"] == size] for arm in made["arms"]
        }
        both = {r["classical"] for r in made["runs"] if r["arm"] == "both" and r["size"] == size}
        assert both == {recipe()["arms"][best].get("classical", "none")}
        assert all((r["making_seconds"] or 0) > 0 for r in made["runs"] if r["arm"] in ("boomerang", "both"))
        for arm in ("flip_crop", "boomerang", "both"):
            found = made["summary"][size][arm]
            assert found["mean"] == pytest.approx(np.mean(by_arm[arm]))
            if np.ptp(np.subtract(by_arm[arm], by_arm["real"])):
                test = ttest_rel(by_arm[arm], by_arm["real"]).confidence_interval()
                assert found["against"]["real"]["low"] == pytest.approx(test.low)
                assert found["against"]["real"]["high"] == pytest.approx(test.high)
                compared.append(arm)
    assert compared


def test_it_goes_on_where_it_stopped(recipe: Recipe, tmp_path: Path) -> None:
    first = compare(config(recipe(seeds=2, sizes=[8])))
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "out" / "runs").rglob("*.json")}
    second = compare(config(recipe(seeds=3, sizes=[8])))
    assert all(file.stat().st_mtime_ns == time for file, time in files.items())
    assert [r for r in second["runs"] if r["seed"] < 2] == first["runs"]
    with pytest.raises(UserError, match="is of another configuration"):
        compare(config(recipe(sizes=[8], **{"schedule.lr": 0.01})))
    anew = compare(config(recipe(seeds=1, sizes=[8], **{"schedule.lr": 0.01})), overwrite=True)
    assert anew["config"]["schedule"]["lr"] == 0.01


def test_another_baseline_is_trained_again_for_its_weights(recipe: Recipe) -> None:
    arms: dict[str, Any] = {"real": {}, "flip_crop": {"classical": "flip_crop"}}
    first = compare(config(recipe(seeds=1, sizes=[8], arms=arms, neighbours={})))
    retrieved = {"retrieve": recipe()["data"]["train"], "copies": 2}
    more = {"arms": arms | {"near": {"near": "near"}}, "neighbours": {"near": retrieved}, "baseline": "real"}
    second = compare(config(recipe(seeds=1, sizes=[8], **more)))
    assert [r["accuracy"] for r in second["runs"][:2]] == [r["accuracy"] for r in first["runs"]]
    assert second["runs"][2]["failed"] is None


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_find_the_same(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: str) -> None:
    """Forked, they import nothing anew; spawned, as the command does it, is slow."""
    content = recipe(seeds=1, sizes=[8])
    alone = compare(config(content))
    forked = SimpleNamespace(get_context=lambda _: multiprocessing.get_context(context))
    monkeypatch.setattr("training.compare.compare.multiprocessing", forked)
    several = compare(config(content | {"workers": 2, "output": str(tmp_path / "other")}))
    for one, other in zip(alone["runs"], several["runs"], strict=True):
        assert {k: v for k, v in one.items() if "seconds" not in k} == {
            k: v for k, v in other.items() if "seconds" not in k
        }


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_processes_end_with_the_command_that_is_killed(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "compare.yaml"
    plain = {"arms": {"real": {}, "flip_crop": {}}, "neighbours": {}, "schedule.steps": 10**6, "workers": 2}
    file.write_text(json.dumps(recipe(**plain)))
    command = subprocess.Popen([sys.executable, "-m", "pipeline.cli", "compare", str(file)], stderr=subprocess.DEVNULL)

    def processes() -> list[int]:
        found = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
        return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    try:
        assert waited(lambda: len(processes()) == 2)
        workers = processes()
    finally:
        command.kill()
        command.wait()
    assert waited(lambda: not any(alive(pid) for pid in workers))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_runs_that_take_long_end_at_once_where_they_are_interrupted(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "compare.yaml"
    plain = {"arms": {"real": {}, "flip_crop": {}}, "neighbours": {}, "schedule.steps": 10**6, "workers": 2}
    file.write_text(json.dumps(recipe(**plain)))
    command = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "compare", str(file)], start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
    assert waited(lambda: len(children.read_text().split()) >= 3)  # two workers, and Python's tracker of resources
    time.sleep(2)
    for _ in range(5):
        os.killpg(command.pid, signal.SIGINT)
        time.sleep(0.05)
    _, said = command.communicate(timeout=60)
    assert command.returncode == 130
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("doppel: interrupted")]) == 1

    def gone() -> bool:
        try:
            os.killpg(command.pid, 0)
        except ProcessLookupError:
            return True
        return False

    assert waited(gone, 10)


def waited(done: Callable[[], bool], seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(0.1)
    return done()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_loss_that_is_not_finite_fails_its_run_only(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    usual = fitting.soft_cross_entropy

    def broken(logits: Any, targets: Any) -> Any:
        half = bool(((targets > 0) & (targets < 1)).any())  # the soft labels of the one arm that has them
        return usual(logits, targets) * (float("nan") if half else 1)

    monkeypatch.setattr(fitting, "soft_cross_entropy", broken)
    content = recipe(sizes=[8], **{"neighbours.near.gamma": 0.8, "arms.both": {"classical": "mixup"}})
    made = compare(config(content))
    failed = {(r["arm"], r["failed"]) for r in made["runs"] if r["failed"]}
    assert {arm for arm, _ in failed} == {"boomerang", "both"}
    assert all("the loss is not finite at step" in why for _, why in failed)
    assert made["summary"]["8"]["boomerang"]["n"] == 0
    assert made["summary"]["8"]["real"]["n"] == 3


def test_the_command(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "compare.yaml"
    file.write_text(json.dumps(recipe(sizes=[8], seeds=2)))
    assert main(["compare", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "boomerang" in printed
    assert {f.name for f in (tmp_path / "out").iterdir()} >= {"report.html", "results.json", "table.md"}
    assert main(["compare", str(file), "--set", "schedule.lr=0.5"]) == 2
    assert "is of another configuration" in capsys.readouterr().err


def test_no_seen_image_is_tested_on(recipe: Recipe, data: Path) -> None:
    with pytest.raises(
        UserError, match=r"data.test: 16 of 16 images are in the training set of the denoiser of neighb"
    ):
        compare(config(recipe(**{"data.test.path": str(data)})))
    with pytest.raises(UserError, match=r"data.validation: 48 of 48 images are in the training set of the classifiers"):
        compare(config(recipe(**{"data.validation.path": recipe()["data"]["train"]["path"]})))


def test_a_denoiser_of_unknown_origin_is_refused_until_it_is_named(recipe: Recipe, denoiser: Path, data: Path) -> None:
    (denoiser / "training_set.safetensors").unlink()
    with pytest.raises(UserError, match="does not say what it was trained on; name it in trained_on"):
        compare(config(recipe()))
    known = {"neighbours.near.trained_on": {"format": "folder", "path": str(data)}}
    assert compare(config(recipe(seeds=1, sizes=[8], **known)))["runs"]


def test_classes(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"class 2 is missing from a subset of 8: it has 0 images"):
        compare(config(recipe(classes=3)))
    content = recipe()
    path = Path(content["data"]["train"]["path"])
    (path / "2").mkdir()
    (path / "1" / "train-0.png").rename(path / "2" / "train-x.png")
    with pytest.raises(UserError, match=r"data.train: a label is 2; classes is 2, so 0 to 1"):
        compare(config(content))


def test_what_does_not_fit_is_said_before_anything_is_trained(recipe: Recipe, tmp_path: Path) -> None:
    for changes, message in (
        ({"classifier": "resnet19"}, "classifier 'resnet19' is unknown"),
        ({"size": [16, 16]}, "the model makes images of 8 × 8; size is 16 × 16"),
        ({"neighbours.near.operator": {"name": "boomerang", "condition": 7}}, "condition 7"),
    ):
        with pytest.raises(UserError, match=message):
            compare(config(recipe(**changes)))
    assert not (tmp_path / "out" / "runs").exists()


def test_images_that_changed_are_no_longer_the_same_comparison(recipe: Recipe, tmp_path: Path) -> None:
    content = recipe(seeds=1, sizes=[8])
    compare(config(content))
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "test" / "0" / "test-0.png")
    with pytest.raises(UserError, match="is of another configuration"):
        compare(config(content))


def test_a_baseline_that_failed_takes_along_what_it_judges_and_nothing_else(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(augmentations.AUGMENTATIONS, "flip_crop", lambda x, targets, rng: (x * float("nan"), targets))
    judged = {**recipe()["neighbours"]["near"], "labels": "baseline"}
    content = recipe(seeds=1, sizes=[8], **{"neighbours.judged": judged, "arms.judged": {"near": "judged"}})
    made = compare(config(content))
    assert {r["arm"]: r["failed"] is None for r in made["runs"]} == {
        "real": True, "flip_crop": False, "boomerang": True, "both": True, "judged": False,
    }  # fmt: skip
    assert "the baseline flip_crop failed" in next(r["failed"] for r in made["runs"] if r["arm"] == "judged")


def test_unequal_steps_are_never_compared() -> None:
    with pytest.raises(UserError, match=r"different numbers of steps \(real 8, boomerang 9\)"):
        equal_steps([{"arm": "real", "steps": 8}, {"arm": "boomerang", "steps": 9}])


def test_the_best_arm_is_chosen_by_validation_and_never_by_test(recipe: Recipe) -> None:
    def run(arm: str, validation: float, accuracy: float, failed: str | None = None) -> dict[str, Any]:
        return {"arm": arm, "size": 8, "validation": validation, "accuracy": accuracy, "failed": failed}

    known = config(recipe())
    runs = [run("real", 0.8, 0.1), run("flip_crop", 0.7, 0.9), run("boomerang", 0.99, 0.99)]
    assert best_classical(known, runs, 8) == "real"
    assert best_classical(known, [run("real", 0.8, 0.1, "nan"), *runs[1:]], 8) == "flip_crop"
    assert (
        best_classical(known, [run("real", 0.8, 0.1, "nan"), run("real", 0.8, 0.1), run("flip_crop", 0.7, 0.9)], 8)
        == "real"
    )
    with pytest.raises(UserError, match="every arm without neighbours failed"):
        best_classical(known, [run("real", 0.8, 0.1, "nan")], 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms.boomerang.near": "far"}, "arms.boomerang.near is 'far'; neighbours are near"),
        ({"reference": "both"}, "reference and baseline are arms without neighbours"),
        ({"arms": {"real": {}, "flip_crop": {}}}, "neighbours.near is used by no arm"),
        ({"arms.real.steps": 9}, "unknown key 'arms.real.steps'"),
        ({"class_names": ["a"]}, "1 class_names for 2 classes"),
        ({"sizes": [8, 8]}, "sizes names one size twice"),
        ({"neighbours.near.retrieve": {"format": "folder", "path": "x"}}, "give model and operator, or retrieve"),
    ],
)
def test_configurations_that_make_no_sense(recipe: Recipe, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        config(recipe(**changes))
    assert message in str(error.value)
