"""Hugging Face data sets as input: hub ids, local folders and files.

They are streamed, never with code from the hub.
"""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from pydantic import field_validator

from pipeline.errors import UserError
from pipeline.listing import below, magic
from pipeline.plain_json import read_json_file
from pipeline.section import Section
from pipeline.streams.bounds import Bounds
from pipeline.streams.contract import InputShard, InputStream
from pipeline.streams.files import open_url
from pipeline.streams.names import safe_component
from pipeline.streams.no_split import advice, in_no_split, shown
from pipeline.streams.own_files import OwnFiles
from pipeline.streams.rows import Columns, FileShard, SliceShard, is_whole
from pipeline.streams.shard_names import read_places, shard_names
from pipeline.streams.shards import IMAGE_EXTENSIONS
from pipeline.streams.splits import names_in_split
from pipeline.streams.tables import file_features, first_line, is_row_damage

FILE_SUFFIXES = {".parquet": "parquet", ".arrow": "arrow"}
"""The builder that reads files of each suffix."""
ALL = "all"
"""Stands for all splits, in place of the name of one."""
PACKED = (".zip", ".gz", ".bz2", ".xz", ".zst", ".lz4")
"""Suffixes of files that `datasets` unpacks; all others that these builders read are shards."""


class HubInput(Section):
    """Reads a data set that `datasets.load_dataset` can stream."""

    format: Literal["hub"] = "hub"
    path: str
    """A hub id (`user/set`), a local folder (also from `save_to_disk`), a parquet or arrow file or glob, or the name of
    a builder (`parquet`, `imagefolder`, …) with `data_files` or `data_dir`."""
    name: str | None = None
    """The configuration of the data set."""
    split: str | None = None
    """The split that is read, or `all`; by default the only one there is. Where there are several, shards are called
    `SPLIT-NAME`, so that `datasets` finds the splits `train`, `validation` and `test` again in the output."""
    revision: str | None = None
    """The branch, tag or commit on the hub."""
    data_files: tuple[str, ...] | None = None
    """Files or globs, which then are the split."""
    data_dir: str | None = None
    """The folder that the builder reads."""
    image: str | None = None
    """The column of the image; by default the first one of type Image."""
    label: str | None = None
    """The column of the class: its number, or its name where `label_names` has it; several classes, or a weight for
    each, pass through. By default the first ClassLabel, else an integer column `label`."""
    label_names: tuple[str, ...] | None = None
    """The names of the classes, by number, where the column does not state them."""
    bounds: Bounds = Bounds()
    """How much of a data set may be held at a time."""
    key: str | None = None
    """The column of the keys, which must be unique in their shard; by default a key is shard name and row number."""

    @field_validator("data_files", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    def open(self) -> InputStream:
        """Opens the data set.

        Raises `UserError` where the set, its split or a column is not there or is of the wrong type.
        """
        builders, several = _builders(self)
        parts = [self._part(split, builder, several) for split, builder in builders.items()]
        columns = parts[0].columns
        if other := next((part for part in parts if part.columns != columns), None):
            raise UserError(
                f"input.split: the columns of {parts[0].split!r} and {other.split!r} differ; name one of them"
            )
        files = [file for part in parts for file in part.files]
        return InputStream(
            shards=[shard for part in parts for shard in part.shards],
            places=read_places(
                *(f"{self.path}/**" for _ in [0] if os.path.isdir(os.path.expanduser(self.path))), *files
            ),
            label_names=columns.label_names(),
            features=columns.features,
            image_column=columns.image,
            label_column=columns.number,
        )

    def _part(self, split: str, builder: Any, several: bool) -> _Part:
        files = list(builder.config.data_files[split])
        own = _own_files(self, builder, files)
        packed = any(PurePosixPath(file.split("?")[0]).suffix in PACKED for file in files)
        shards: list[InputShard]
        if builder.name in FILE_SUFFIXES.values() and not packed:
            columns = _columns(self, builder.info.features or _first_features(builder.name, files, self.bounds))
            names = shard_names(files)
            shards = [
                FileShard(name=name, url=url, builder=builder.name, columns=columns, own=own, bounds=self.bounds)
                for url, name in zip(files, names_in_split(split, names) if several else names, strict=True)
            ]
        else:
            with _told(self.path):
                data = builder.as_streaming_dataset(split=split)
                features = data.features or data._resolve_features().features
                if not features:
                    raise ValueError("it has no columns")
            columns = _columns(self, features)
            data = data.cast(columns.features)
            stem = "" if several else safe_component(f"{builder.dataset_name or builder.name}-{split}-")
            count = data.num_shards
            names = [f"{stem}{i:05d}" for i in range(count)]
            shards = [
                SliceShard(
                    name=name,
                    data=data.shard(num_shards=count, index=i),
                    files=tuple(files),
                    columns=columns,
                    own=own,
                    bounds=self.bounds,
                )
                for i, name in enumerate(names_in_split(split, names) if several else names)
            ]
        return _Part(split, shards, columns, files)


class _Part(NamedTuple):
    """One split."""

    split: str
    shards: list[InputShard]
    columns: Columns
    files: list[str]


def _builders(source: HubInput) -> tuple[dict[str, Any], bool]:
    """The splits that are read, each with the `DatasetBuilder` that reads it, and whether the set has several.

    Raises `UserError` where the set has no such split, where it has several and none is named, and where all of it is
    to be read and it has files that are in none.
    """
    folder = Path(os.path.expanduser(source.path))
    if (folder / "dataset_dict.json").is_file():
        splits = read_json_file(folder / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits):
            raise UserError(f"{folder}/dataset_dict.json names no splits; save_to_disk writes them")
        chosen = _chosen(source, splits)
        one = {split: source.model_copy(update={"path": str(folder / split), "split": split}) for split in chosen}
        return {split: _builder(part) for split, part in one.items()}, len(splits) > 1
    builder = _builder(source)
    splits = [str(split) for split in builder.config.data_files or {}]
    missing = source.split not in (*splits, ALL, None)
    beside = [] if source.split in splits else _in_no_split(source, builder)
    if beside and not missing:
        raise UserError(
            f"input.split: {source.path!r} has files in none of its splits ({', '.join(splits)}), as no word in their "
            f"names says which: {shown(beside)}; name one split, or read them apart, with {advice(beside)}"
        )
    chosen = _chosen(source, splits, f"; to read {shown(beside)}, say {advice(beside)}" if beside else "")
    return dict.fromkeys(chosen, builder), len(splits) > 1


def _in_no_split(source: HubInput, builder: Any) -> list[str]:
    """The files of a set that are in none of its splits; see `in_no_split`.

    There are none where the recipe names files, and where the set's card states its configurations.
    """
    path = os.path.expanduser(source.path)
    home = os.path.join(path, source.data_dir or "") if os.path.isdir(path) else source.data_dir or builder.base_path
    stated = source.data_files or len(builder.builder_configs) > 1 or builder.DEFAULT_CONFIG_NAME
    if stated or not home or not (Path(home).is_dir() or "://" in home):
        return []
    with _told(source.path):
        return in_no_split(home if "://" in home else os.path.realpath(home), builder.config.data_files or {})


def _chosen(source: HubInput, splits: list[str], more: str = "") -> list[str]:
    """Those of a set's splits that are read; `more` ends the sentence where there is no such split."""
    found = ", ".join(splits) or "none"
    if source.split == ALL and splits:
        return splits
    if source.split is None and len(splits) > 1:
        raise UserError(f"input.split: {source.path!r} has several splits ({found}); name one of them, or {ALL}")
    if source.split is None and splits:
        return splits
    if source.split not in splits:
        raise UserError(f"input.split: {source.path!r} has no split {source.split!r} (splits: {found}){more}")
    return [source.split]


def _builder(source: HubInput) -> Any:
    """The `DatasetBuilder`.

    Raises `UserError` where the set or a file of it cannot be found, and `Unreachable` where a file by URL cannot be
    reached.
    """
    from datasets import load_dataset_builder

    path, files = _local(source)
    for folder in (path, source.data_dir):
        if folder is not None and os.path.isdir(folder):
            collections.deque(below(Path(folder)), maxlen=0)  # `datasets` passes over what it cannot read
    for url in (files or [])[:1]:
        if "://" in url and "::" not in url and not magic(url):
            with open_url(url) as file:  # `datasets` says of whatever goes wrong that there is no such file
                file.read(1)
    with _told(source.path):
        return load_dataset_builder(
            path,
            name=source.name,
            data_files={source.split if source.split not in (None, ALL) else "train": files} if files else None,
            data_dir=source.data_dir,
            revision=source.revision,
        )


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Tells in one sentence whatever `datasets` makes of a set that it did not write."""
    try:
        yield
    except Exception as error:
        raise UserError(f"input.path: data set {path!r} cannot be opened: {first_line(error).rstrip('.')}") from error


def _local(source: HubInput) -> tuple[str, list[str] | None]:
    """(what `load_dataset` calls path, data files): tells local files and saved data sets from ids."""
    path, files = source.path, list(source.data_files) if source.data_files else None
    folder = Path(os.path.expanduser(path))
    if folder.suffix in FILE_SUFFIXES and files is None:
        return FILE_SUFFIXES[folder.suffix], [str(folder) if "://" not in path else path]
    if (folder / "state.json").is_file():
        match read_json_file(folder / "state.json"):
            case {"_data_files": [_, *_] as saved} if all(
                isinstance(file, dict) and isinstance(file.get("filename"), str) for file in saved
            ):
                return "arrow", [str(folder / file["filename"]) for file in saved]
        raise UserError(f"{folder}/state.json names no data files; save_to_disk writes them")
    if path.startswith(("/", ".", "~")) and not folder.exists():
        raise UserError(f"input.path: {path!r} does not exist; a folder, file or data set name is expected")
    return str(folder) if folder.is_dir() else path, files


def _own_files(source: HubInput, builder: Any, files: list[str]) -> OwnFiles:
    """What belongs to the data set: its folder, or its place on the hub, and the folders of patterns in the recipe.

    Raises `UserError` where the set itself names data files outside: metadata may say anything.
    """
    path = os.path.expanduser(source.path)
    home = next((folder for folder in (path, source.data_dir or "") if os.path.isdir(folder)), None)
    if home is None and "://" in (builder.base_path or ""):
        home = builder.base_path
    patterns = source.data_files or (() if home else (path,))
    named = [_fixed(pattern, home or "") for pattern in patterns]
    beside = [folder for folder in named if not _is_below(folder, home)]
    own = OwnFiles.of([*([_with_blobs(home)] if home else []), *beside])
    read_row_by_row = IMAGE_EXTENSIONS if builder.name == "imagefolder" else ()
    for file in files:
        by_row = PurePosixPath(file).suffix[1:].lower() in read_row_by_row
        if not (by_row or own.holds(file) or any(_is_below(file, folder) for folder in named)):
            raise UserError(
                f"input.path: data set {source.path!r} names the file {file}, which lies outside of it; "
                "input.data_files may name files anywhere"
            )
    return own


def _fixed(pattern: str, home: str) -> str:
    """The folder or URL that all files of a pattern lie below; it may be a link. Relative ones begin at `home`."""
    pattern = pattern.split("::")[-1]  # of what lies in an archive, the place of the archive
    place = pattern if "://" in pattern else os.path.join(home, os.path.expanduser(pattern))
    place = place if "://" in place else os.path.abspath(place)
    plain = place if os.path.isfile(place) else re.split(r"[*?\[{]", place, maxsplit=1)[0]
    return plain.rpartition("/")[0] or "/"


def _is_below(place: str, folder: str | None) -> bool:
    """Whether a path, as it is written, or a URL lies in a folder."""
    if folder is None or ("://" in place) != ("://" in folder):
        return False
    if "://" in folder:
        return OwnFiles.of([folder]).holds(place)
    return PurePosixPath(os.path.abspath(place)).is_relative_to(os.path.abspath(folder))


def _with_blobs(folder: str) -> str:
    """A snapshot in the cache of the hub, `datasets--USER--SET/snapshots/REVISION`, links to files beside it."""
    if "://" in folder:
        return folder
    parents = Path(os.path.realpath(folder)).parents
    return next(
        (str(p.parent) for p in parents if p.name == "snapshots" and p.parent.name[:10] == "datasets--"), folder
    )


def _first_features(builder: str, files: list[str], bounds: Bounds) -> Any:
    """What the first readable file says of its columns; unreadable ones are reported when they are read."""
    reason = ""
    for file in files:
        try:
            return file_features(file, builder, bounds)
        except Exception as error:
            if not is_row_damage(error):
                raise
            reason = first_line(error)
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

    _check_kinds(source, features)
    label = source.label
    if label is None:
        classes = [c for c, feature in features.items() if isinstance(feature, ClassLabel)]
        label = next(iter(classes), "label" if "label" in features and is_whole(features["label"]) else None)
    elif isinstance(features[label], Image) or (
        isinstance(features[label], Value) and not re.search("int|float|string", features[label].dtype)
    ):
        raise UserError(f"input.label: column {label!r} is {features[label]}; numbers, names or lists are expected")
    names = getattr(features[label], "names", None) if label else None
    if source.label_names is not None and names is not None and tuple(names) != source.label_names:
        raise UserError(
            f"input.label_names: the column {label!r} has other names: {', '.join(names)}; found "
            f"{', '.join(source.label_names)}"
        )
    as_image = features[image] if image in images else Image()
    return Columns(
        features=Features({**features, image: as_image}), image=image, label=label, key=source.key,
        declared=source.label_names,
    )  # fmt: skip


def _check_kinds(source: HubInput, features: Any) -> None:
    """Raises `UserError` where `input.image` or `input.key` names a column that cannot be one."""
    from datasets import Image, Value
    from pyarrow import types

    def fits(column: str, *kinds: Callable[[Any], bool]) -> bool:
        kind = features.arrow_schema.field(column).type
        return isinstance(features[column], Value) and any(is_kind(kind) for is_kind in kinds)

    image, key = source.image, source.key
    text = (types.is_string, types.is_large_string)
    if image is not None and not (
        isinstance(features[image], Image)
        or (isinstance(features[image], dict) and {*features[image]} <= {"bytes", "path"})
        or fits(image, *text, types.is_binary, types.is_large_binary)
    ):
        raise UserError(
            f"input.image: column {image!r} is {features[image]}; images, their bytes or their file names are expected"
        )
    if key is not None and not fits(key, *text, types.is_integer):
        raise UserError(f"input.key: column {key!r} is {features[key]}; text or an integer is expected")
