"""Hugging Face data sets as input: hub ids, local folders and files.

They are streamed, never with code from the hub.
"""

from __future__ import annotations

import collections
import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from pipeline.errors import UserError
from pipeline.listing import below
from pipeline.plain_json import read_json_file
from pipeline.section import Section
from pipeline.streams.bounds import Bounds
from pipeline.streams.contract import InputShard, InputStream
from pipeline.streams.files import is_damage
from pipeline.streams.rows import Columns, FileShard, SliceShard
from pipeline.streams.shard_names import local_places, shard_names

FILE_SUFFIXES = {".parquet": "parquet", ".arrow": "arrow"}
"""The builder that reads files of each suffix."""
ONE_FILE_ONE_SHARD = ("parquet", "arrow")
"""Builders whose files are shards."""


class HubInput(Section):
    """Reads a data set that `datasets.load_dataset` can stream."""

    format: Literal["hub"] = "hub"
    path: str
    """A hub id (`user/set`), a local folder (also from `save_to_disk`), a parquet or arrow file or glob, or the name of
    a builder (`parquet`, `imagefolder`, …) with `data_files` or `data_dir`."""
    name: str | None = None
    """The configuration of the data set."""
    split: str = "train"
    """The split that is read."""
    revision: str | None = None
    """The branch, tag or commit on the hub."""
    data_files: tuple[str, ...] | None = None
    """Files or globs, which then are the split."""
    data_dir: str | None = None
    """The folder that the builder reads."""
    image: str | None = None
    """The column of the image; by default the first one of type Image."""
    label: str | None = None
    """The column of the class number; by default the first ClassLabel, else an integer column `label`."""
    bounds: Bounds = Bounds()
    """How much of a data set may be held at a time."""
    key: str | None = None
    """The column of the keys, which are unique in the whole set; by default a key is shard name and row number."""

    @field_validator("data_files", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def open(self) -> InputStream:
        """Opens the data set.

        Raises `UserError` where the set, its split or a column is not there or is of the wrong type.
        """
        builder = _builder(self)
        files = list((builder.config.data_files or {}).get(self.split, ()))
        if not files:
            found = ", ".join(map(str, builder.config.data_files or {})) or "none"
            raise UserError(f"input.split: {self.path!r} has no split {self.split!r} (splits: {found})")
        local = not any("://" in file for file in files)
        if builder.name in ONE_FILE_ONE_SHARD:
            features = builder.info.features or _first_features(builder.name, files)
            columns = _columns(self, features)
            shards: list[InputShard] = [
                FileShard(name=name, url=url, builder=builder.name, columns=columns, local=local)
                for url, name in zip(files, shard_names(files), strict=True)
            ]
        else:
            data = builder.as_streaming_dataset(split=self.split)
            columns = _columns(self, data.features or data._resolve_features().features)
            data = data.cast(columns.features)
            stem = re.sub(r"[^\w.-]", "_", f"{builder.dataset_name or builder.name}-{self.split}")
            count = data.num_shards
            shards = [
                SliceShard(
                    name=f"{stem}-{i:05d}",
                    data=data.shard(num_shards=count, index=i),
                    files=tuple(files),
                    columns=columns,
                    local=local,
                )
                for i in range(count)
            ]
        return InputStream(
            shards=shards,
            places=local_places([*files, *([f"{self.path}/**"] if Path(self.path).expanduser().is_dir() else [])]),
            label_names=columns.label_names(),
            features=columns.features,
            image_column=columns.image,
            label_column=columns.label,
        )


def _builder(source: HubInput) -> Any:
    """The `DatasetBuilder`; raises `UserError` where the set or a file of it cannot be found or reached."""
    from datasets import load_dataset_builder

    path, files = _local(source)
    for folder in (path, source.data_dir):
        if folder is not None and os.path.isdir(folder):
            collections.deque(below(Path(folder)), maxlen=0)  # `datasets` passes over what it cannot read
    try:
        return load_dataset_builder(
            path,
            name=source.name,
            data_files={source.split: files} if files else None,
            data_dir=source.data_dir,
            revision=source.revision,
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise UserError(f"input.path: data set {source.path!r} cannot be opened: {reason}") from error


def _local(source: HubInput) -> tuple[str, list[str] | None]:
    """(what `load_dataset` calls path, data files): tells local files and saved data sets from ids."""
    path, files = source.path, list(source.data_files) if source.data_files else None
    folder = Path(path).expanduser()
    if folder.suffix in FILE_SUFFIXES and files is None:
        return FILE_SUFFIXES[folder.suffix], [str(folder) if "://" not in path else path]
    if (folder / "dataset_dict.json").is_file():
        splits = read_json_file(folder / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits):
            raise UserError(f"{folder}/dataset_dict.json names no splits; save_to_disk writes them")
        if source.split not in splits:
            raise UserError(f"input.split: {path!r} has no split {source.split!r} (splits: {', '.join(splits)})")
        folder = folder / source.split
    if (folder / "state.json").is_file():
        match read_json_file(folder / "state.json"):
            case {"_data_files": [*saved]} if all(isinstance(file, dict) and "filename" in file for file in saved):
                return "arrow", [str(folder / str(file["filename"])) for file in saved]
        raise UserError(f"{folder}/state.json names no data files; save_to_disk writes them")
    if path.startswith(("/", ".", "~")) and not folder.exists():
        raise UserError(f"input.path: {path!r} does not exist; a folder, file or data set name is expected")
    return str(folder) if folder.is_dir() else path, files


def _first_features(builder: str, files: list[str]) -> Any:
    """What the first readable file says of its columns; unreadable ones are reported when they are read."""
    from datasets import load_dataset

    problem: Exception | None = None
    for file in files:
        try:
            return load_dataset(builder, data_files={"train": [file]}, split="train", streaming=True).features
        except Exception as error:
            if not is_damage(error, local="://" not in file):
                raise
            problem = error
    reason = str(problem).splitlines()[0]
    raise UserError(f"input.path: no file can be read of {len(files)}, the last one {files[-1]}: {reason}")


def _columns(source: HubInput, features: Any) -> Columns:
    """Which column is what; raises `UserError` where a column is missing or of the wrong type."""
    from datasets import ClassLabel, Features, Image, Value

    for option, column in (("image", source.image), ("label", source.label), ("key", source.key)):
        if column is not None and column not in features:
            raise UserError(f"input.{option}: no column {column!r} (columns: {', '.join(features)})")
    images = [c for c, feature in features.items() if isinstance(feature, Image)]
    image = source.image or next(iter(images), None)
    if image is None:
        raise UserError(f"input.image: no column of type Image; name one of {', '.join(features)}")

    def is_number(column: str) -> bool:
        feature = features[column]
        return isinstance(feature, ClassLabel) or (isinstance(feature, Value) and "int" in feature.dtype)

    label = source.label
    if label is None:
        classes = [c for c, feature in features.items() if isinstance(feature, ClassLabel)]
        label = next(iter(classes), "label" if "label" in features and is_number("label") else None)
    elif not is_number(label):
        raise UserError(f"input.label: column {label!r} is {features[label]}, not a ClassLabel or an integer")
    as_image = features[image] if image in images else Image()
    return Columns(features=Features({**features, image: as_image}), image=image, label=label, key=source.key)
