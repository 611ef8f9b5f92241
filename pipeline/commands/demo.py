"""The main job on what ships with doppel: shards of real images, a contact sheet to look at, numbers to compare."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from pipeline.config import load_config
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.model import Model
from pipeline.diffusion.noise import KeyedNoise
from pipeline.engine.planning import make_plan
from pipeline.job.config import JobConfig
from pipeline.job.plan import Plan
from pipeline.media.pixels import decode, from_pixels, to_pixels
from pipeline.media.records import Sample
from pipeline.models.families import load_model
from pipeline.operators import Given
from pipeline.report.neighbours import neighbours
from pipeline.report.sheet import contact_sheet
from pipeline.streams import AnyInput
from pipeline.streams.job_records import Manifest
from pipeline.streams.reconciling import OnChange
from pipeline.streams.shards import WebDatasetInput

LEVELS = (0.2, 0.4, 0.6, 0.8)
"""Levels of Boomerang on the contact sheet, as fractions of T."""
SHEET = "contact_sheet.png"
"""File name of the contact sheet."""


def demo(out: str, run: Callable[[Plan, OnChange], Manifest]) -> Manifest:
    """Runs the recipe `demo` into `out`, always from the start; prints a table and returns the manifest."""
    plan = make_plan(load_config(JobConfig, "demo", [f"output.path={json.dumps(out)}"]))
    out, started = plan.config.output.path, time.monotonic()
    manifest = run(plan, "overwrite")
    seconds = time.monotonic() - started
    if plan.config.model is None:
        raise AssertionError("the demo recipe has a model")
    model = load_model(plan.config.model, "cpu")
    originals = samples_by_key(plan.config.input)
    outputs = samples_by_key(WebDatasetInput(urls=tuple(map(str, sorted(Path(out, "data").glob("*.tar"))))))
    draw_sheet(plan, model, list(originals.values()), outputs, Path(out) / SHEET)
    print_table(out, manifest, seconds, list(originals.values()), list(outputs.values()))
    return manifest


def samples_by_key(source: AnyInput) -> dict[str, Sample]:
    """All usable samples of a source, by their full keys."""
    rows = (sample for shard in source.open().shards for sample in shard.read())
    return {sample.full_key: sample for sample in rows if isinstance(sample, Sample)}


@torch.inference_mode()
def draw_sheet(plan: Plan, model: Model, originals: Sequence[Sample], outputs: dict[str, Sample], file: Path) -> None:
    """Draws a column for each class: the original above, then Boomerang at several levels with the same noise.

    The row at the job's own level shows the images that the job wrote.
    """
    operator = plan.config.operator
    if operator is None or model.classes is None:
        raise AssertionError("the demo recipe has an operator, and a class-conditional model")
    shown = [next(s for s in originals if s.label == label) for label in range(model.classes)]
    pictures = [decode(s.image, model.size)[0] for s in shown]
    rows = [("original", pictures)]
    z, labels = model.encode(to_pixels(pictures, "cpu")), torch.arange(model.classes)
    for level in LEVELS:
        at_level = operator.at(LevelRange(low=level, high=level))
        if at_level == operator:
            rows.append((f"t = {level} (job)", [decode(outputs[s.full_key].image)[0] for s in shown]))
            continue
        noise = KeyedNoise(plan.salt, [s.full_key for s in shown], operator.name, 0)
        rows.append((f"t = {level}", list(from_pixels(at_level(model, z, Given(labels=labels), noise).pixels))))
    contact_sheet(rows).save(file)


def print_table(
    out: str, manifest: Manifest, seconds: float, originals: Sequence[Sample], outputs: Sequence[Sample]
) -> None:
    """Prints how originals and outputs compare: counts, speed, labels of nearest neighbours, and PSNR."""
    before, after = (to_pixels([decode(s.image)[0] for s in group], "cpu") for group in (originals, outputs))
    labels = torch.tensor([s.label for s in originals])
    real, made = neighbours(before, before, labels), neighbours(after, before, labels)
    psnr = (10 * torch.log10(4 / (before - after).square().flatten(1).mean(1))).mean().item()
    counts, shards = manifest.counts, manifest.shards
    table = Table("", "originals", "outputs", title="doppel demo: Boomerang on Fashion-MNIST test images")
    table.add_row("shards", str(shards.total), str(shards.finished))
    table.add_row("images", str(counts.read), str(counts.images))
    table.add_row("in quarantine", "", str(counts.in_quarantine))
    table.add_row("images/s, whole job", "", f"{counts.images / seconds:.1f}")
    table.add_row(
        "nearest other original has the same label",
        f"{real.label_agreement:.1%}",
        f"{made.label_agreement:.1%}",
    )
    table.add_row("nearest original is the image's own source", f"{real.finds_source:.1%}", f"{made.finds_source:.1%}")
    table.add_row("PSNR to the source, mean", "", f"{psnr:.1f} dB")
    console = Console()
    console.print(table)
    console.print(f"look at {out}/{SHEET}; the shards are {out}/data/*.tar", soft_wrap=True)
