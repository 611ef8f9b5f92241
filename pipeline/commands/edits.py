"""`doppel edits`: turns the captions of a stream into a jsonl file of edits, from which paired data are made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pipeline.commands.instructions import Edits, to_line, write_edits
from pipeline.job.captions import CaptionConfig, NoCaption, check_names, read_captions
from pipeline.media.records import Sample
from pipeline.section import LocalPath, Recipe
from pipeline.streams import AnyInput
from pipeline.streams.contract import InputStream


class EditsConfig(Recipe):
    """The recipe of `doppel edits`."""

    kind: Literal["edits"] = "edits"
    input: AnyInput
    """Any input: images with captions, or captions alone."""
    caption: CaptionConfig = CaptionConfig(template="{txt}")
    """The template of a sample's caption, as in a job; samples without a caption are left out."""
    edits: Edits
    """The source of the edits."""
    output: LocalPath
    """A jsonl file, which appears when it is complete."""


def edits(config: EditsConfig) -> int:
    """Writes the file of edits and returns how many it holds. Raises `UserError` as `write_edits` does."""
    output = Path(config.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    part, count = output.with_name(f".{output.name}.part"), 0
    try:
        with open(part, "wb") as file:
            for edit in write_edits(config.edits, captions(config.input.open(), config.caption)):
                file.write(to_line(edit))
                count += 1
        os.replace(part, output)
    finally:
        part.unlink(missing_ok=True)
    return count


def captions(stream: InputStream, config: CaptionConfig) -> Iterator[tuple[str, str]]:
    """Yields (full key, caption) of every sample that has a caption. Raises `UserError` as `check_names` does."""
    check_names(config, stream.label_names)
    for shard in stream.shards:
        for sample in shard.read():
            try:
                if isinstance(sample, Sample):
                    yield sample.full_key, read_captions(config, sample, stream.label_names).texts[0]
            except NoCaption:
                continue
