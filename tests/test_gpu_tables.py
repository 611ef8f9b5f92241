"""The section on GPUs in docs/measured.md says what was measured, what failed, and what was not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gpu_tables

MACHINE = {"device": "NVIDIA H100", "driver": "580", "torch": "2.11.0", "python": "3.12.3", "commit": "abc"}


def record(step: str, results: dict[str, Any], **changes: Any) -> dict[str, Any]:
    base = {"step": step, "rehearsal": False, "machine": MACHINE, "status": "done", "error": None, "seconds": 61.4}
    return base | {"results": results} | changes


LATENT = {
    "sd15, eager": {
        "model": "SD 1.5, 512²", "batch": 16, "repeats": 2, "timed_images": 16,
        "images_per_s": {"doppel": 12.0, "diffusers": 10.0},
        "doppel / diffusers": 1.2, "doppel / bare": 0.97, "bare_outside_network_and_vae": 0.021,
        "floor": {"time / floor": 2.4},
    },
    "dit, eager": {"error": "RuntimeError: no"},
    "sd15, largest batch": {"images": 128, "peak_gib": 61.25},
    "sdxl, compiled": {"not_reached": "about 190 s were needed"},
}  # fmt: skip


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    assert "Not measured yet" in gpu_tables.gpu(gpu_tables.read(tmp_path))


def test_a_rehearsal_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "smoke.json").write_text(json.dumps(record("smoke", {}, rehearsal=True)))
    assert gpu_tables.read(tmp_path) == {}


def test_what_was_measured_what_failed_and_what_was_not_reached(tmp_path: Path) -> None:
    tests = {"a::one": {"outcome": "passed"}, "a::two": {"outcome": "failed", "why": "E\nAssertionError: 3 > 2"}}
    tests["a::three"] = {"outcome": "skipped", "why": "Skipped: no weights"}
    pixel = {
        "fashion": {"steady_images_per_s": 900.0, "whole_images_per_s": 300.0, "device_idle_share": 0.25},
        "faces": {"batch 32": {"steady_images_per_s": None, "whole_images_per_s": 40.0}, "idle, batch 128": {}},
        "faces with the gate": {"not_run": "dlib is missing"},
    }
    found = {
        "smoke": record("smoke", tests, status="failed", error="exit status 1\nmore"),
        "latent": record("latent", LATENT), "pixel": record("pixel", pixel),
    }  # fmt: skip
    for step, content in found.items():
        (tmp_path / f"{step}.json").write_text(json.dumps(content))
    text = gpu_tables.gpu(gpu_tables.read(tmp_path))
    assert "*smoke*: failed (exit status 1), 61 s on NVIDIA H100, driver 580, torch 2.11.0, commit abc." in text
    assert "1 of 3 passed" in text
    assert "- failed: `two`: AssertionError: 3 > 2" in text
    assert "- skipped: `three`: Skipped: no weights" in text
    assert "| SD 1.5, 512², batch 16, 32 images timed | eager | 12.00 | 10.00 | 1.20 | 0.97 | 2.1% | 2.4 |" in text
    assert "| dit | eager | failed |" in text
    assert "| sdxl | compiled | not reached |" in text
    assert "sd15 128 images, 61.2 GiB" in text
    assert "| the demo's recipe | 900.0 | 300.0 | 25% |" in text
    assert "| faces, no gate, batch 32 | – | 40.0 | – |" in text
    assert "| faces with the gate | not run |" in text
    assert "*train*: **not measured yet**" in text


def test_training() -> None:
    results = {
        "recipe": "train_cifar10_gpu", "images_seen": 8_400_000, "training_seconds": 242.0, "batch_size": 512,
        "images_per_second": 34711.2, "validation": [[512, 0.9], [8_400_000, 0.2312]],
    }  # fmt: skip
    said = gpu_tables.training(results)
    assert "8.4 M images in 242 s (34,711 images/s with compiling and exports, batch 512)" in said
    assert said.endswith("loss on unseen images 0.231.")
    assert gpu_tables.training({}) == "Training left no model."


def test_recipes_at_equal_images() -> None:
    curves = {name: [[64 * i, 1 - i * slope] for i in range(1, 9)] for name, slope in (("present", 0.01), ("new", 0.1))}
    run = {"minutes": 1.0, "images": 512} | {name: {"curve": curve} for name, curve in curves.items()}
    rows = gpu_tables.recipes({"runs": [run], "embedded": {"images": 210304, "loss": 0.3}}).splitlines()[2:]
    assert rows[0] == "| 1 min. | 192 | 0.970 | 0.700 |"
    assert rows[2] == "| 1 min. | 512 | 0.920 | 0.200 |"
    assert rows[-1] == "The embedded model, after 210,304 images: 0.300."
