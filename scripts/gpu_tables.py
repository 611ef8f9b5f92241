"""The section on GPUs of docs/measured.md, from what scripts/gpu/measure.sh left in scripts/evidence/gpu."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STEPS = ("smoke", "latent", "pixel", "train")
UNMEASURED = "**Not measured yet**: no GPU was at hand. `scripts/gpu/measure.sh` stands ready."
RATES = ("steady_images_per_s", "whole_images_per_s")
OPEN = {"error": "failed", "not_reached": "not reached", "not_run": "not run"}


def read(folder: Path) -> dict[str, Any]:
    """The records of steps that ran on a GPU, by step; one of a rehearsal is no result."""
    files = {step: folder / f"{step}.json" for step in STEPS}
    found = {step: json.loads(file.read_text()) for step, file in files.items() if file.exists()}
    return {step: record for step, record in found.items() if not record["rehearsal"]}


def gpu(found: dict[str, Any]) -> str:
    if not found:
        return UNMEASURED
    parts = [told(record) for record in found.values()]
    makers = {"smoke": smoke, "latent": latent, "pixel": pixel, "train": training}
    parts += [makers[step](found[step]["results"]) for step in STEPS if step in found]
    parts += [f"*{step}*: **not measured yet**." for step in STEPS if step not in found]
    return "\n\n".join(parts)


def told(record: dict[str, Any]) -> str:
    of, error = record["machine"], (record["error"] or "").splitlines()
    said = f" ({error[0]})" if error else ""
    return (
        f"*{record['step']}*: {record['status']}{said}, {record['seconds']:.0f} s on {of['device']}, "
        f"driver {of['driver']}, torch {of['torch']}, commit {of['commit']}."
    )


def smoke(results: dict[str, Any]) -> str:
    by = {outcome: [n for n, r in results.items() if r["outcome"] == outcome] for outcome in ("failed", "skipped")}
    lines = [f"Tests marked `gpu`: {len(results) - sum(map(len, by.values()))} of {len(results)} passed."]
    for outcome, names in by.items():
        for name in names:
            why = results[name]["why"].strip().splitlines()[-1][:200]
            lines.append(f"- {outcome}: `{name.split('::')[-1]}`: {why}")
    return "\n".join(lines)


def latent(results: dict[str, Any]) -> str:
    rows, largest = list[Sequence[str]](), list[str]()
    for name, one in results.items():
        config, way = name.split(", ", 1)
        missing = next((word for key, word in OPEN.items() if key in one), None)
        if way == "largest batch":
            peak = one.get("peak_gib")
            size = missing or f"{one['images']} images" + (f", {peak:.1f} GiB" if isinstance(peak, float) else "")
            largest.append(f"{config} {size}")
        elif missing:
            rows.append([config, way, missing, "", "", "", "", ""])
        else:
            rate, other, timed = one["images_per_s"], one["doppel / diffusers"], one["repeats"] * one["timed_images"]
            rows.append([
                f"{one['model']}, batch {one['batch']}, {timed} images timed", way, f"{rate['doppel']:.2f}",
                "none" if other is None else f"{rate['diffusers']:.2f}", "–" if other is None else f"{other:.2f}",
                f"{one['doppel / bare']:.2f}", f"{one['bare_outside_network_and_vae']:.1%}",
                f"{one['floor']['time / floor']:.1f}",
            ])  # fmt: skip
    head = [
        "20 steps of Boomerang", "", "doppel, images/s", "diffusers", "doppel / diffusers", "doppel / bare loop",
        "outside network and VAE", "time / floor",
    ]  # fmt: skip
    return markdown(head, rows) + f"\n\nLargest batch that `batch_size: auto` finds: {'; '.join(largest) or '–'}."


def pixel(results: dict[str, Any]) -> str:
    rows = list[Sequence[str]]()
    faces = results.get("faces", {})
    cases = {"the demo's recipe": results.get("fashion", {})}
    if any(key in faces for key in OPEN):
        cases["faces, no gate"] = faces
    for name, one in faces.items():
        if name.startswith("batch "):
            cases[f"faces, no gate, {name}"] = one | faces.get(f"idle, {name}", {})
    cases["faces with the gate"] = results.get("faces with the gate", {}) | results.get("idle with the gate", {})
    for name, one in cases.items():
        missing = next((word for key, word in OPEN.items() if key in one), None if one else "not reached")
        if missing and "steady_images_per_s" not in one:
            rows.append([name, missing, "", ""])
            continue
        idle = one.get("device_idle_share")
        rows.append([
            name, *("–" if one[key] is None else f"{one[key]:.1f}" for key in RATES),
            "–" if idle is None else f"{idle:.0%}",
        ])  # fmt: skip
    return markdown(["models of pixels", "images/s once under way", "images/s, whole job", "device idle"], rows)


def training(results: dict[str, Any]) -> str:
    if "images_seen" not in results:
        return "Training left no model."
    held_out = results["validation"][-1][1] if results["validation"] else None
    return (
        f"`{results['recipe']}`: {results['images_seen'] / 1e6:.1f} M images in {results['training_seconds']:.0f} s "
        f"({results['images_per_second']:,.0f} images/s with compiling and exports, batch {results['batch_size']}); "
        f"loss on unseen images {held_out if held_out is None else f'{held_out:.3f}'}."
    )


def recipes(found: dict[str, Any]) -> str:
    """Losses of both recipes at equal images seen, on a CPU."""
    rows = []
    for run in found["runs"]:
        losses = {name: dict(run[name]["curve"]) for name in ("present", "new")}
        points = sorted(losses["present"].keys() & losses["new"].keys())
        for seen in dict.fromkeys(points[round(share * (len(points) - 1))] for share in (0.25, 0.5, 1.0)):
            told = (f"{losses[name][seen]:.3f}" for name in losses)
            rows.append([f"{run['minutes']:g} min.", f"{seen:,}", *told])
    head = ["trained for", "images seen", "loss, `train_cifar10`", "loss, `train_cifar10_gpu`"]
    shipped = found["embedded"]
    return f"{markdown(head, rows)}\n\nThe embedded model, after {shipped['images']:,} images: {shipped['loss']:.3f}."


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])
