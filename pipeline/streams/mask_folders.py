"""Folders of masks beside folders of images, such as `images` and `masks`, or `train` and `trainannot`."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.streams.listed import ListedImage, extension_of, stem
from pipeline.streams.shards import IMAGE_EXTENSIONS
from pipeline.streams.splits import is_split

IMAGES = "images?|imgs?|photos?|pictures?"
"""Words for folders of images."""
MASKS = (
    "(segmentation|ground_?truth|gt)?[-_]?(masks?|annotations?|annots?|labels?)|gts?|ground_?truths?|trimaps?|segs?|"
    "segmentations?|segmentationclass(png)?"
)
"""Words for folders of masks."""
ENDINGS = ("", *(f"{mark}{word}" for mark in "_-" for word in ("mask", "gt", "seg", "label", "labels", "L")))
"""What the name of a mask may have behind that of its image."""


@dataclass(frozen=True)
class MaskFolders:
    """A layout where the masks of the images in one folder lie in others beside it, under the same names."""

    members: Mapping[str, Mapping[str, tuple[str, str]]]
    """For each folder of images, the members, each with a folder and what its files have behind the image's name."""

    def place(self, key: str, member: str) -> str | None:
        """Where a member of the image `key` lies; None where it lies beside the image itself."""
        return self.places(key).get(member)

    def places(self, key: str) -> dict[str, str]:
        """Where each member of the image `key` may lie."""
        images, members = self._of(key)
        return {name: f"{folder}{key.removeprefix(images)}{ending}" for name, (folder, ending) in members.items()}

    def listed(self, entries: Iterable[ListedImage], paths: Iterable[str]) -> list[ListedImage]:
        """The images that lie in no folder of masks, each with its masks."""
        known, found = set(paths), list[ListedImage]()
        masks = {folder for members in self.members.values() for folder, _ in members.values()}
        for entry in entries:
            if not masks.intersection(_above(entry.image or entry.key)):
                places = self.places(entry.key)
                found.append(entry.with_members(files={m: place for m, place in places.items() if place in known}))
        return found

    def _of(self, key: str) -> tuple[str, Mapping[str, tuple[str, str]]]:
        """The folder of images that a key lies in, and its members."""
        images = next((folder for folder in _above(key) if folder in self.members), "")
        return images, self.members.get(images, {})


def pairs(paths: Sequence[str]) -> list[tuple[str, str]]:
    """The folders that are called like images or like a split, each with one beside it that is called like its masks.

    Both hold images.
    """
    below = defaultdict[str, set[str]](set)
    for path in paths:
        if extension_of(path) in IMAGE_EXTENSIONS:
            *folders, _ = path.split("/")
            for depth, folder in enumerate(folders):
                below["/".join(folders[:depth])].add(folder)
    return sorted(pair for parent, folders in below.items() for pair in _among(parent, sorted(folders)))


def _among(parent: str, folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    masks = {folder: base for folder in folders if (base := _base(folder, MASKS)) is not None}
    for images in folders:
        base = _base(images, IMAGES)
        base = images.lower() if base is None and is_split(images) else base
        for folder, of in masks.items():
            if images not in masks and base is not None and base in ("", of):
                yield "/".join(filter(None, (parent, images))), "/".join(filter(None, (parent, folder)))


def _base(folder: str, words: str) -> str | None:
    """What a folder's name is without such a word: empty for the word alone, None where there is none."""
    found = re.fullmatch(rf"(?P<before>.*?)[-_ ]?({words})([-_ ](?P<behind>.*))?", folder.lower())
    return found and (found["before"] or found["behind"] or "")


def mask_folders(paths: Sequence[str], found: Sequence[tuple[str, str]]) -> MaskFolders:
    """The layout of these pairs. One folder of masks gives member `mask.EXTENSION`; several give `FOLDER.EXTENSION`."""
    pictures = [path for path in paths if extension_of(path) in IMAGE_EXTENSIONS]
    stems, several = {stem(path) for path in pictures}, Counter(images for images, _ in found)
    inside = _inside(pictures, {folder for _, folder in found})
    members = defaultdict[str, dict[str, tuple[str, str]]](dict)
    for images, folder in found:
        name = re.sub(r"\W", "_", folder.rpartition("/")[2]) if several[images] > 1 else "mask"
        masks = [images + path.removeprefix(folder) for path in inside[folder]]
        ending = next((e for e in ENDINGS if any(stem(mask).removesuffix(e) in stems for mask in masks)), "")
        for suffix in sorted({mask.rpartition(".")[2] for mask in masks}):
            members[images][f"{name}.{suffix}"] = folder, f"{ending}.{suffix}"
    return MaskFolders(members)


def check_clear(paths: Sequence[str], found: Sequence[tuple[str, str]]) -> None:
    """Raises `UserError` where not every image in the folders of masks has the name of one image beside it."""
    layout, folders = mask_folders(paths, found), {folder for _, folder in found}
    pictures = [path for path in paths if extension_of(path) in IMAGE_EXTENSIONS]
    known = {place for path in pictures for place in layout.places(stem(path)).values()}
    masks = {path for inside in _inside(pictures, folders).values() for path in inside}
    if len(folders) < len(found) or not masks <= known:
        raise UserError(
            f"input.layout: {len(folders)} folders are called like masks of images beside them (masks, labels, "
            "annotations, gt and the like), and not every image in them is called like one image there: layout: masks "
            "leaves out masks of no image, and layout: classes takes all of them for images"
        )


def _inside(pictures: Iterable[str], folders: Container[str]) -> dict[str, list[str]]:
    found = defaultdict[str, list[str]](list)
    for path in pictures:
        for folder in _above(path):
            if folder in folders:
                found[folder].append(path)
    return found


def _above(path: str) -> Iterator[str]:
    """The folders that a path lies in, from the innermost on."""
    while path := path.rpartition("/")[0]:
        yield path
