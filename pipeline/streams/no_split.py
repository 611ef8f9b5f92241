"""Data files that `datasets` counts to no split, because no word in their names says which: it passes over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from pipeline.streams.shards import IMAGE_EXTENSIONS


def in_no_split(home: str, data_files: Mapping[Any, Iterable[str]]) -> list[str]:
    """Those below the folder or URL `home` that have the suffixes of `data_files`, and are none, as paths from there.

    In place of images it is the first folder that they lie in, with wildcards, as there may be many.
    """
    from datasets.data_files import resolve_pattern

    used = {file for files in data_files.values() for file in files}
    kinds = {PurePosixPath(file).suffix.lower() for file in used}
    there = resolve_pattern("**", home) if used else []
    beside = [file.removeprefix(home.rstrip("/")).lstrip("/") for file in there if file not in used]
    return sorted({_place(file) for file in beside if PurePosixPath(file).suffix.lower() in kinds})


def _place(file: str) -> str:
    suffix, (folder, *deeper) = PurePosixPath(file).suffix, file.split("/")
    if suffix[1:].lower() not in IMAGE_EXTENSIONS:
        return file
    return f"{folder}/**" if deeper else f"*{suffix}"


def shown(places: list[str]) -> str:
    """The first three of them."""
    return ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")


def advice(places: list[str]) -> str:
    """The lines that read the first of them, as a split of its own."""
    name = places[0].partition("/")[0].partition("-")[0].partition(".")[0]
    return f"data_files: [{places[0]!r}] and split: {name!r}"
