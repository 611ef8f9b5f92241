"""Ways in which folders of images are laid out: by classes, or as VOC, YOLO, COCO and others have them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import UserError
from pipeline.streams.listed import ListedImage
from pipeline.streams.mask_folders import MaskFolders, check_clear, mask_folders, pairs
from pipeline.streams.splits import is_split

LayoutName = Literal["classes", "voc", "yolo", "coco", "metadata", "masks"]
"""The names of all layouts; see `FolderInput.layout`."""
COCO = re.compile(
    r"(?P<base>(.*/)?)(annotations/(?P<kind>instances|captions|person_keypoints)_(?P<images>[^/]*)|_annotations\.coco)\.json"
)
"""A file of annotations as COCO calls it, or as Roboflow does, beside its images."""
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Tables that `imagefolder` reads."""


@dataclass(frozen=True)
class Siblings:
    """A layout where images lie in a folder of a certain name, and what belongs to them in folders beside it."""

    images: str
    beside: Mapping[str, tuple[str, str]]
    """Name of the folder, and extension there, of each member by its extension."""

    def place(self, key: str, member: str) -> str | None:
        """Where a member of the image `key` lies; None where it lies beside the image itself."""
        folders = key.split("/")
        if member not in self.beside or self.images not in folders[:-1]:
            return None
        last = max(i for i, folder in enumerate(folders[:-1]) if folder == self.images)
        folder, extension = self.beside[member]
        return "/".join([*folders[:last], folder, *folders[last + 1 :]]) + f".{extension}"

    def listed(self, entries: Iterable[ListedImage], paths: Iterable[str]) -> list[ListedImage]:
        """The images in a folder of that name, each with the files that lie in its place in the folders beside."""
        known, found = set(paths), list[ListedImage]()
        for entry in entries:
            if self.images in entry.folders:
                places = {member: self.place(entry.key, member) for member in self.beside}
                found.append(entry.with_members(files={m: p for m, p in places.items() if p in known and p}))
        return found


SIBLINGS: dict[LayoutName, Siblings] = {
    "voc": Siblings(
        "JPEGImages",
        {
            "xml": ("Annotations", "xml"),
            "seg.png": ("SegmentationClass", "png"),
            "instances.png": ("SegmentationObject", "png"),
        },
    ),
    "yolo": Siblings("images", {"txt": ("labels", "txt")}),
}
"""The layouts of this kind."""


def recognised(paths: Sequence[str]) -> LayoutName:
    """The layout of a folder that holds files of these paths. Raises `UserError` where it looks like several."""
    folders = {folder for path in paths for folder in path.split("/")[:-1]}
    texts = {folder for path in paths if path.endswith(".txt") for folder in path.split("/")[:-1]}
    signs: dict[LayoutName, bool] = {
        "voc": "JPEGImages" in folders,
        "yolo": "images" in folders and "labels" in texts,
        "coco": any(COCO.fullmatch(path) for path in paths),
        "metadata": any(path.rpartition("/")[2] in METADATA for path in paths),
    }
    beside = [] if signs["metadata"] or signs["voc"] else pairs(images_of(paths))
    if beside and not any(signs.values()):
        check_clear(paths, beside)
    signs["masks"] = bool(beside)
    found = [name for name, sign in signs.items() if sign]
    if len(found) > 1:
        raise UserError(f"input.layout: the folder looks like {' and '.join(found)}; name one of them, or classes")
    return found[0] if found else "classes"


def images_of(paths: Sequence[str]) -> list[str]:
    """The paths without those in `annotations/` of COCO, which holds no images of its own."""
    tables = filter(None, map(COCO.fullmatch, paths))
    apart = tuple({f"{table['base']}annotations/" for table in tables if table["kind"]})
    return [path for path in paths if not path.startswith(apart)]


def beside_images(layout: LayoutName, paths: Sequence[str]) -> Siblings | MaskFolders | None:
    """Where members lie in this layout, if they lie in folders beside those of the images."""
    return mask_folders(paths, pairs(paths)) if layout == "masks" else SIBLINGS.get(layout)


def is_table(layout: LayoutName, path: str) -> bool:
    """Whether a file says something of many images in this layout."""
    return (layout == "coco" and COCO.fullmatch(path) is not None) or (
        layout == "metadata" and path.rpartition("/")[2] in METADATA
    )


def split_folders(entries: Sequence[ListedImage], layout: LayoutName) -> list[str | None]:
    """The folder of each image that is called like a split (`train`, `val2017`); all None unless every image has one.

    Where folders are classes, only the first one counts.
    """
    deepest = 1 if layout == "classes" else None
    found = [next(filter(is_split, entry.folders[:deepest]), None) for entry in entries]
    return found if None not in found else [None] * len(entries)
