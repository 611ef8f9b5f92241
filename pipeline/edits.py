"""`doppel edits`: the captions of a stream, turned into a jsonl file of edits that paired data are made from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline.extras import CaptionConfig, NoCaption, read_caption
from pipeline.instructions import Edits, to_line, write_edits
from pipeline.records import Sample
from pipeline.streams import AnyInput
from pipeline.streams.contract import InputStream


class EditsConfig(BaseModel):
    """What `doppel edits` reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: AnyInput
    """Any: images with captions, or captions alone."""
    caption: CaptionConfig = CaptionConfig(template="{txt}")
    """As in a job; samples without one are passed over."""
    edits: Edits
    output: str
    """A jsonl file; written when complete."""


def edits(config: EditsConfig) -> int:
    """Writes the file and returns how many edits it holds. Raises `UserError`."""
    output = Path(config.output).expanduser()
    output.parent.mkdir(parents=True, exist_ok=True)
    part, count = output.with_name(f".{output.name}.part"), 0
    with open(part, "wb") as file:
        for edit in write_edits(config.edits, captions(config.input.open(), config.caption)):
            file.write(to_line(edit))
            count += 1
    os.replace(part, output)
    return count


def captions(stream: InputStream, config: CaptionConfig) -> Iterator[tuple[str, str]]:
    for shard in stream.shards:
        for sample in shard.read():
            try:
                if isinstance(sample, Sample):
                    yield sample.key, read_caption(config, sample, stream.label_names)
            except NoCaption:
                continue
