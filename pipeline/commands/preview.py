"""Trying a recipe on its first samples: a contact sheet of inputs beside outputs. It writes no shards."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipeline.config import load_config
from pipeline.engine.planning import make_plan
from pipeline.engine.reading import Reader, open_input
from pipeline.engine.transforming import transform_all
from pipeline.errors import UserError
from pipeline.job.clips import frames_at_once
from pipeline.job.config import JobConfig
from pipeline.media.records import Output, Rejected, reject
from pipeline.operators import OPERATORS
from pipeline.operators.contract import guide_name
from pipeline.report.animate import animate
from pipeline.report.sheet import contact_sheet
from pipeline.section import local_option
from pipeline.streams.private import private_umask

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8


def preview(
    recipe: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    count: int = 8,
    sheet: str | os.PathLike[str] = "sheet.png",
    animation: str | os.PathLike[str] | None = None,
) -> list[Rejected]:
    """Draws the inputs and outputs of the first `count` usable samples of a recipe into the file `sheet`.

    Returns the samples that were refused on the way. `recipe` and `overrides` are as in `pipeline.run`. With
    `animation`, a file .gif or .mp4, the tiles of the first sample slide from picture to picture. Raises `UserError`
    for bad input, where no sample is usable, and for an animation of an operator that moves no tiles.
    """
    if count < 1:
        raise UserError(f"{count} samples cannot be shown; at least 1 is needed")
    picture = local_option(sheet, "--output")
    if Image.registered_extensions().get(picture.suffix.lower()) not in Image.SAVE:
        raise UserError(f"--output: {picture} has no extension of an image; .png is the usual one")
    config = load_config(JobConfig, os.fspath(recipe), overrides)
    moving = None if animation is None else local_option(animation, "--animate")
    operator = config.operator
    if animation is not None and not (operator and operator.moves_tiles):
        able = ", ".join(name for name, kind in OPERATORS.items() if kind.moves_tiles)
        raise UserError(f"--animate: operator {operator and operator.name} moves no tiles; allowed are {able}")
    outputs, rejected = try_out(config, count)
    if not outputs:
        raise UserError(
            f"no sample can be shown; the first was refused: {rejected[0].reason}" if rejected else "the input is empty"
        )
    with nullcontext() if config.anonymity is None else private_umask():
        contact_sheet(list(sheet_rows(outputs).items())).save(picture)
        if moving is not None:
            animate_first(outputs[0], moving)
    return rejected


def try_out(config: JobConfig, count: int) -> tuple[list[list[Output]], list[Rejected]]:
    """All outputs of each of the first `count` usable samples, and the samples that were refused on the way.

    Nothing is verified, because a gate would have to know all originals. Each frame of a clip counts as a sample.
    """
    plan = make_plan(config.model_copy(update={"anonymity": None, "release": None}), batch_size=count)
    if plan.outline is not None and frames_at_once(config, plan.outline) is not None:
        plan = replace(plan, batch_size=1)
    stream, classes = open_input(plan)
    usable: list[list[Output]] = []
    rejected: list[Rejected] = []
    with ThreadPoolExecutor(config.run.workers) as pool:
        decoded = Reader(plan, classes, pool)(stream.shards)
        for batch, results in transform_all(decoded, plan, plan.devices[0]):
            rejected += batch.rejected
            for row, result in zip(batch.rows, results, strict=True):
                if isinstance(result, str):
                    rejected.append(reject(row.sample, result, undecodable=False))
                else:
                    usable.append(result)
            if len(usable) >= count:
                break
    return usable[:count], rejected


def animate_first(made: list[Output], path: Path) -> None:
    """Writes the animation of the first sample's tiles, from the pictures that they come from to its outputs."""
    row, details = made[0].row, made[0].provenance.details
    assert isinstance(details, Mapping)
    pictures = {"input": row.image} | {guide_name(i): guide for i, guide in enumerate(row.guides, 1)}
    pictures |= {output.provenance.key.name or "output": output.image for output in made}
    animate(details, [pictures[name] for name in details["sources"]], path)


def sheet_rows(outputs: list[list[Output]]) -> Mapping[str, list[Pixels8]]:
    """The rows of the contact sheet by name, a column for each sample: input, mask, guides, and all its outputs."""
    rows: dict[str, list[Pixels8]] = {"input": [made[0].row.image for made in outputs]}
    masks = [made[0].row.mask for made in outputs]
    if masks[0] is not None:
        rows["mask"] = [np.repeat(255 * mask[..., None], 3, axis=2) for mask in masks if mask is not None]
    for i in range(len(outputs[0][0].row.guides)):
        rows[guide_name(i + 1)] = [made[0].row.guides[i] for made in outputs]
    several = any(output.provenance.key.copy for made in outputs for output in made)
    for made in outputs:
        for output in made:
            key = output.provenance.key
            copy = f" {key.copy}" if several else ""
            rows.setdefault(f"{key.name or 'output'}{copy}", []).append(output.image)
    return rows
