"""Pictures of what jobs made. Originals stand above, unless people are in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pipeline.commands.demo import samples_by_key
from pipeline.job.config import JobConfig
from pipeline.media.pixels import decode
from pipeline.models.families import sketch_model
from pipeline.report.sheet import PAPER, contact_sheet
from pipeline.streams.shards import WebDatasetInput

COLUMNS = 12


def draw(config: JobConfig, title: str, file: Path) -> None:
    """Adds the first outputs of a finished job to the picture `file`; no originals where a gate judged: people."""
    assert config.model is not None
    size = sketch_model(config.model).size
    outputs = samples_by_key(WebDatasetInput(urls=(f"{config.output.path}/data/*.tar",)))
    shown = list(outputs)[:COLUMNS]
    rows = [(f"{title}: outputs", [decode(outputs[key].image)[0] for key in shown])]
    if config.anonymity is None:
        originals = samples_by_key(config.input)
        pictures = [decode(originals[key].image, size, config.image.rules(None))[0] for key in shown]
        rows.insert(0, (f"{title}: originals", pictures))
    stack([*([Image.open(file)] if file.exists() else []), contact_sheet(rows)], file)


def stack(pictures: Sequence[Image.Image], file: Path) -> None:
    """One picture under the other."""
    whole = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), PAPER)
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    whole.save(file)
