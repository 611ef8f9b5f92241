"""The places that samples come from and go to. Heavy libraries are imported where they are first used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.errors import UserError
from pipeline.streams.captions import CaptionsInput
from pipeline.streams.contract import InputStream, ShardWriter
from pipeline.streams.folder import FolderInput
from pipeline.streams.folder_writer import FolderWriter
from pipeline.streams.hub import HubInput
from pipeline.streams.parquet import ParquetWriter
from pipeline.streams.shards import TarWriter, WebDatasetInput
from pipeline.streams.store import Store

INPUTS = {"webdataset": WebDatasetInput, "hub": HubInput, "folder": FolderInput, "captions": CaptionsInput}
"""The sections of all inputs, by their format."""

AnyInput = Annotated[WebDatasetInput | HubInput | FolderInput | CaptionsInput, Field(discriminator="format")]
"""The section `input:` of a recipe, chosen by its `format`."""

OutputFormat = Literal["webdataset", "parquet", "folder"]
"""The formats that outputs can be written in."""


def input_at(place: str) -> WebDatasetInput | FolderInput:
    """The images at a place as people name it: a folder of images, or tars by path, glob or URL."""
    return FolderInput(path=place) if os.path.isdir(os.path.expanduser(place)) else WebDatasetInput(urls=(place,))


def _open_tar(*, store: Store, parts: Path, name: str, stream: InputStream) -> TarWriter:
    return TarWriter(store=store, parts=parts, name=name, verbatim_names=stream.verbatim_names)


WRITERS: dict[str, Callable[..., ShardWriter]] = {
    "webdataset": _open_tar,
    "parquet": ParquetWriter,
    "folder": FolderWriter,
}
"""What opens a writer of each format."""


def open_writer(format: str, *, store: Store, parts: Path, name: str, stream: InputStream) -> ShardWriter:
    """Opens a writer for one shard of `stream`; `parts` must exist and be on the file system of a `store` on a disk.

    Raises `UserError` for an unknown format.
    """
    if format not in WRITERS:
        raise UserError(f"output.format: {format!r} is unknown (known: {', '.join(WRITERS)})")
    return WRITERS[format](store=store, parts=parts, name=name, stream=stream)
