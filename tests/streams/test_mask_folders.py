"""Folders of masks beside folders of images: their pictures are members of the images, and never samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.streams.folder import FolderInput
from tests.streams.made import everything, lay, picture, tree
from tests.streams.test_layouts import coco, opened, written

PAIRS = [
    ("images", "masks"), ("imgs", "labels"), ("Photos", "GT"), ("train", "trainannot"), ("train_images", "train_masks"),
    ("images_val", "masks_val"), ("data/images", "data/SegmentationClass"), ("train/images", "train/annotations"),
    ("image", "ground_truth"), ("pictures", "segmentation"), ("images", "gt_masks"), ("Train", "Train_masks"),
]  # fmt: skip


@pytest.mark.parametrize(("images", "masks"), PAIRS)
@pytest.mark.parametrize("ending", ["", "_mask", "_L"])
def test_masks_are_members_of_the_images_beside_them(tmp_path: Path, images: str, masks: str, ending: str) -> None:
    files = {f"{images}/{name}.jpg": picture(i, "jpeg") for i, name in enumerate(("a", "sub/a", "c"))}
    given = {f"{masks}/a{ending}.png": picture(7), f"{masks}/sub/a{ending}.png": picture(8)}
    stream = FolderInput(path=str(lay(tmp_path, files | given))).open()
    found = {sample.key: (sample.label, dict(sample.members)) for sample in everything(stream)}
    assert found == {
        f"{images}/a": (None, {"mask.png": picture(7)}),
        f"{images}/sub/a": (None, {"mask.png": picture(8)}),
        f"{images}/c": (None, {}),
    }
    assert stream.left_out == ()
    assert "with their masks in folders beside them, and is read so (input.layout: masks)" in stream.notes[0]
    assert "1 of 3 images have no file in the folders beside them" in stream.notes[1]


def test_images_without_masks_stay_images(tmp_path: Path) -> None:
    """As Carvana lies: the test images have none."""
    files = {"train/a.jpg": picture(1), "train_masks/a_mask.gif": picture(2), "test/b.jpg": picture(3)}
    stream = FolderInput(path=str(lay(tmp_path, files))).open()
    found = {sample.key: dict(sample.members) for sample in everything(stream)}
    assert found == {"test/b": {}, "train/a": {"mask.gif": picture(2)}}
    assert stream.splits == ("test", "train")


def test_several_folders_of_masks_give_a_member_each(tmp_path: Path) -> None:
    files = {"images/a.png": picture(1), "masks/a.png": picture(2), "labels/a.png": picture(3)}
    (sample,) = opened(lay(tmp_path, files))
    assert sample.members == {"labels.png": picture(3), "masks.png": picture(2)}


@pytest.mark.parametrize(
    "files",
    [
        ("images/a.png", "images/b.png", "masks/a.png", "masks/c.png"),  # a mask of no image
        ("images/a.png", "masks/x.png"),
        ("images/a.png", "annotations/trimaps/a.png"),
        ("train_images/a.png", "train_masks/a.png", "images/b.png"),  # masks of two folders
    ],
)
def test_what_is_not_clear_is_refused_with_the_lines_that_read_it(tmp_path: Path, files: tuple[str, ...]) -> None:
    root = lay(tmp_path, {file: picture(i) for i, file in enumerate(files)})
    with pytest.raises(UserError, match=r"input\.layout: .*layout: masks .*layout: classes"):
        opened(root)
    images = [file for file in files if "images/" in file]
    assert [sample.key for sample in opened(root, layout="masks")] == sorted(file[:-4] for file in images)
    assert len(opened(root, layout="classes", labels="none")) == len(files)


@pytest.mark.parametrize(
    "classes", [("face", "face_mask"), ("with_mask", "without_mask"), ("labels", "masks"), ("images", "weights")]
)
def test_classes_that_are_called_a_little_like_masks_stay_classes(tmp_path: Path, classes: tuple[str, str]) -> None:
    files = {f"{name}/1.png": picture(i) for i, name in enumerate(classes)}
    assert FolderInput(path=str(lay(tmp_path, files))).open().label_names == classes


def test_other_layouts_come_first(tmp_path: Path) -> None:
    table = {"metadata.jsonl": b'{"file_name": "images/a.png", "mask_file_name": "masks/a.png"}'}
    pictures = {"images/a.png": picture(1), "masks/a.png": picture(2)}
    (sample,) = opened(lay(tmp_path / "metadata", table | pictures))
    assert sample.members["mask.png"] == picture(2)
    panoptic = {"images/a.jpg": picture(1), "images/b.jpg": picture(2), "annotations/panoptic_x/a.png": picture(3)}
    assert [s.key for s in opened(lay(tmp_path / "coco", coco() | panoptic))] == ["images/a", "images/b"]
    yolo = lay(tmp_path / "yolo", pictures | {"labels/a.txt": b"0 .5 .5 1 1\n"})
    with pytest.raises(UserError, match="looks like yolo and masks; name one of them"):
        opened(yolo)


@pytest.mark.parametrize("changes", [{}, {"output.format": "webdataset"}])
def test_masks_are_written_where_they_were(tmp_path: Path, changes: dict[str, Any]) -> None:
    files = {f"Train/{folder}/{i}.png": picture(i) for folder in ("images", "masks") for i in range(3)}
    data = written(lay(tmp_path / "set", files), tmp_path / "out", **changes)
    if not changes:
        assert tree(data).keys() == {path.lower() for path in files}
        assert [sample.members for sample in opened(data)] == [{"mask.png": picture(i)} for i in range(3)]
    else:
        assert [path.partition("-")[0] for path in tree(data)] == ["train"]
