"""A folder of images as input: its first folders are the classes, and files of the same name belong together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.errors import UserError
from pipeline.listing import real, unreadable, walk
from pipeline.section import LocalPath, Section
from pipeline.streams.annotations import with_coco, with_metadata
from pipeline.streams.bounds import Bounds
from pipeline.streams.contract import InputStream
from pipeline.streams.folder_shard import FolderShard
from pipeline.streams.layouts import LayoutName, Siblings, beside_images, is_table, recognised, split_folders
from pipeline.streams.listed import ListedImage, by_name
from pipeline.streams.mask_folders import MaskFolders
from pipeline.streams.names import is_junk, safe_component
from pipeline.streams.shard_names import FIRST, cut_name, cuts
from pipeline.streams.shards import IMAGE_EXTENSIONS


class FolderInput(Section):
    """Reads every image below `path`, sorted by path.

    A key is the path below the folder without the last extension. `cat/001.txt` beside `cat/001.jpg` becomes its member
    `txt`. A file belongs to the longest image name that fits (`a.b.json` belongs to `a.b.jpg`, else to `a.jpg`). Of two
    images that differ only in their extension, the second is rejected as a duplicate.

    Skipped are hidden files and folders, symbolic links to folders, links to files outside the folder, pipes and
    devices. Other files that belong to no sample are counted and said when a job begins.
    """

    format: Literal["folder"] = "folder"
    path: LocalPath
    """The folder that is read."""
    layout: LayoutName | Literal["auto"] = "auto"
    """How the folder is laid out. `classes`: all images, and beside each what has its name. `voc`: images in
    `JPEGImages`, with members `xml` from `Annotations`, `seg.png` from `SegmentationClass` and `instances.png` from
    `SegmentationObject`. `yolo`: images in `images`, with members `txt` from `labels`. `coco`: with members `json`,
    `captions.json` and `person_keypoints.json` from `annotations/instances_*.json` and so on, or from
    `_annotations.coco.json` beside the images. `metadata`: the images
    that `metadata.jsonl` or `metadata.csv` names, as `imagefolder` reads it, with their rows as members `json`.
    `masks`: images in `images`, `photos` or a split such as `train`, with members `mask.png` of the same names (or
    `a_mask.png` for `a.jpg`) from `masks`, `labels`, `annotations`, `gt` and the like beside them, or `trainannot`.
    With `auto` such folders and files tell; where there are none, it is `classes`."""
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS
    """What counts as an image, in upper or lower case; in a recipe with a section `video`, by default `mp4`, too."""
    bounds: Bounds = Bounds()
    """How much of a folder may be held at a time."""
    shard_size: int = Field(default=1000, ge=1)
    """Images in a shard, on average. Shards are cut so that a file more or less changes one of them, not all behind
    it; see `cuts`."""
    labels: Literal["auto", "directories", "innermost", "path", "none"] = "auto"
    """Which folders are the classes, numbered in sorted order; images directly in `path` have no label. `directories`:
    the first one, as in torchvision; `innermost`: the last one, as in `imagefolder`; `path`: all together, such as
    `cat/persian`. With `auto`, it is the one folder that images lie in, and where they lie deeper, the recipe must say
    which; first folders that are all called like splits (`train`, `val`, `test`) are splits, never classes; and layouts
    other than `classes` have none."""
    label: str | None = None
    """The member that holds the class, or `member:field` of a JSON member, in place of folders: its number, or its name
    where `label_names` has it. By default, in the layout `metadata`, it is `json:label`."""
    label_names: tuple[str, ...] | None = None
    """The names of the classes, by number, also of those that have no folder, or that a member holds. By default
    the folders that are classes, sorted."""

    @field_validator("extensions")
    @classmethod
    def _plain(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(extension.lower().lstrip(".") for extension in value)

    @model_validator(mode="after")
    def _folders_or_members(self) -> FolderInput:
        if self.label is not None and self.labels not in ("auto", "none"):
            raise ValueError(f"label {self.label} and labels {self.labels} both say what the classes are; give one")
        return self

    def open(self) -> InputStream:
        """Lists the images.

        Raises `UserError` where the folder is missing or holds none, or where a folder in it cannot be read: its images
        would be missing, and the classes after it would get other numbers.
        """
        root = Path(self.path)
        if not os.path.isdir(root):
            raise UserError(f"input.path: {self.path!r} is not a folder; a folder of images is expected")
        paths = sorted(_files(root))
        layout = recognised(paths) if self.layout == "auto" else self.layout
        beside = beside_images(layout, paths)
        entries, notes = self._listed(layout, root, paths, beside)
        if not entries:
            known = ", ".join(self.extensions)
            raise UserError(f"input.path: no image in {self.path!r} (extensions: {known}, layout: {layout})")
        label = self.label or ("json:label" if layout == "metadata" and self.labels == "auto" else None)
        splits = [None] * len(entries) if self.labels == "directories" else split_folders(entries, layout)
        if label is None and self.labels != "none" and (self.labels != "auto" or layout == "classes"):
            entries = [
                replace(entry, label=self._class_of(entry.folders[1:] if split else entry.folders))
                for entry, split in zip(entries, splits, strict=True)
            ]
        names = self._names({entry.label for entry in entries if entry.label is not None})
        if self.layout == "auto" and layout != "classes":
            what = "images with their masks in folders beside them" if layout == "masks" else layout
            notes.append(f"input: the folder looks like {what}, and is read so (input.layout: {layout})")
        if (alone := sum(not entry.files for entry in entries)) and beside:
            notes.append(f"input: {alone} of {len(entries)} images have no file in the folders beside them")
        if any(splits):
            notes.append("input: folders called like splits are splits, not classes (input.labels: directories)")
        return InputStream(
            shards=[
                FolderShard(name=name, root=root, entries=part, label=label, label_names=names, bounds=self.bounds)
                for name, part in _shards(real(root).name, entries, [s and s.lower() for s in splits], self.shard_size)
            ],
            label_names=names,
            places=(f"{root}/**",),
            splits=tuple(sorted({split for split in splits if split})),
            notes=tuple(notes),
            left_out=tuple(_left_out(layout, paths, entries)),
            beside=beside,
        )

    def _listed(
        self, layout: LayoutName, root: Path, paths: Sequence[str], beside: Siblings | MaskFolders | None
    ) -> tuple[list[ListedImage], list[str]]:
        """The images, and what is to be said of them."""
        entries = by_name(paths, self.extensions)
        if beside is not None:
            return beside.listed(entries, paths), []
        if layout == "classes":
            return entries, []
        try:
            if layout == "coco":
                return with_coco(entries, root, paths, self.bounds)
            return with_metadata(entries, root, paths, self.bounds), []
        except UserError as error:
            raise UserError(f"{error}; input.layout: classes reads the images without it") from None

    def _names(self, found: set[str]) -> tuple[str, ...] | None:
        """The classes by number, where `found` are those of the folders."""
        if found and self.label_names is not None and (more := found.difference(self.label_names)):
            raise UserError(
                f"input.label_names: {len(more)} of {len(found)} folders that are classes have none of these names: "
                f"{', '.join(self.label_names)}; name all classes in the order of their numbers"
            )
        return self.label_names or tuple(sorted(found)) or None

    def _class_of(self, folders: Sequence[str]) -> str | None:
        """The class of an image in these folders."""
        if not folders:
            return None
        if self.labels == "auto" and len(folders) > 1:
            raise UserError(
                f"input.labels: images lie in {len(folders)} folders, one in the other; which one is the class? "
                "directories: the first, innermost: the last, path: all together, none: no class"
            )
        return "/".join(folders) if self.labels == "path" else folders[-1 if self.labels == "innermost" else 0]


def _shards(
    root: str, entries: Sequence[ListedImage], splits: Sequence[str | None], size: int
) -> Iterator[tuple[str, tuple[ListedImage, ...]]]:
    """Yields the shards by name; each lies within one split, where there are any, and is called by it."""
    for split in sorted(set(splits), key=str):
        part = [entry for entry, its in zip(entries, splits, strict=True) if its == split]
        places = [entry.image or entry.key for entry in part]
        starts = cuts(places, size)
        for start, end in zip(starts, [*starts[1:], len(part)], strict=True):
            yield (
                safe_component(f"{split or root}-{cut_name(places[start]) if start else FIRST}"),
                tuple(part[start:end]),
            )


def _files(root: Path) -> Iterator[str]:
    """Paths below `root` of every file that is not skipped by rule, with `/`."""
    inside = os.path.realpath(root)
    for folder, subfolders, files in walk(root):
        subfolders[:] = [f for f in subfolders if not f.startswith(".")]
        for file in files:
            path = Path(folder, file)
            try:
                linked_away = path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside)
                special = path.exists() and not path.is_file()
            except OSError as error:
                raise unreadable(error) from None
            if not (file.startswith(".") or linked_away or special):
                yield path.relative_to(root).as_posix()


def _left_out(layout: LayoutName, paths: Sequence[str], entries: Sequence[ListedImage]) -> Iterator[str]:
    """Files that belong to no sample, but for those that file systems leave behind."""
    used = {path for entry in entries for path in (entry.image, *entry.files.values())}
    for path in paths:
        if not (path in used or is_junk(path) or is_table(layout, path)):
            yield path
