"""Folders as people have them: splits, nested classes, VOC, YOLO, COCO, and the tables of `imagefolder`."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value, load_dataset
from torchvision.datasets import ImageFolder, VOCDetection, VOCSegmentation

from pipeline.commands.estimate import estimate
from pipeline.config import validate
from pipeline.engine.events import Noted
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.job.noticing import BESIDE, NO_CLASS, of_left_out
from pipeline.media.records import Rejected, Sample
from pipeline.streams.folder import FolderInput
from pipeline.streams.hub import HubInput
from pipeline.streams.layouts import SIBLINGS
from tests import builders
from tests.streams.made import everything, lay, picture, rejected, tree

SPLITS = {f"{split}/{kind}/{i}.png": picture(i) for split in ("train", "val", "test") for kind in ("cat", "dog")
          for i in range(2)}  # fmt: skip


def opened(root: Path, **options: Any) -> list[Sample]:
    return everything(FolderInput.model_validate({"path": str(root), **options}).open())


def items_of(root: Path, **options: Any) -> list[Sample | Rejected]:
    stream = FolderInput.model_validate({"path": str(root), **options}).open()
    return [item for shard in stream.shards for item in shard.read()]


def written(root: Path, out: Path, **changes: Any) -> Path:
    """The data folder of a job that passes the images of a folder through."""
    recipe = builders.recipe("", out, None, **{"output.format": "folder", **changes})
    recipe["input"] = {"format": "folder", "path": str(root)}
    told = list[object]()
    manifest = run_job(make_plan(validate(JobConfig, recipe, "test")), observe=told.append)
    assert manifest.counts.read == manifest.counts.written
    assert any(isinstance(event, Noted) and "input: " in event.text for event in told)
    return out / "data"


def test_folders_called_like_splits_are_splits_and_no_classes(tmp_path: Path) -> None:
    root = lay(tmp_path / "set", SPLITS)
    stream = FolderInput(path=str(root)).open()
    assert stream.label_names == ("cat", "dog")
    assert [shard.name.partition("-")[0] for shard in stream.shards] == ["test", "train", "val"]
    found = {sample.key: sample.label for sample in everything(stream)}
    for split in ("train", "val", "test"):
        torch_says = ImageFolder(str(root / split))
        assert {Path(path).relative_to(root).with_suffix("").as_posix(): n for path, n in torch_says.samples} == {
            key: label for key, label in found.items() if key.startswith(f"{split}/")
        }


@pytest.mark.parametrize("format", ["folder", "parquet"])
def test_datasets_finds_splits_that_are_written_in_upper_case(tmp_path: Path, format: str) -> None:
    names = {"Training": "train", "Testing": "test", "VAL_images": "validation"}
    files = {f"{split}/{kind}/{i}.png": picture(i) for i, split in enumerate(names) for kind in ("cat", "dog")}
    data = written(lay(tmp_path / "set", files), tmp_path / "out", **{"output.format": format})
    kind = "imagefolder" if format == "folder" else "parquet"
    found = load_dataset(kind, data_dir=str(data), cache_dir=str(tmp_path / "cache"))
    assert {split: list(part["label"]) for split, part in found.items()} == {name: [0, 1] for name in names.values()}
    assert found["train"].features["label"].names == ["cat", "dog"]
    again = {sample.key.lower(): sample.image for sample in opened(lay(tmp_path / "set", {}))}
    if format == "folder":
        assert {path.removesuffix(".png") for path in tree(data)} == again.keys()


@pytest.mark.parametrize("format", ["folder", "parquet"])
def test_datasets_finds_splits_and_classes_in_what_a_job_wrote(tmp_path: Path, format: str) -> None:
    data = written(lay(tmp_path / "set", SPLITS), tmp_path / "out", **{"output.format": format})
    kind = "imagefolder" if format == "folder" else "parquet"
    found = load_dataset(kind, data_dir=str(data), cache_dir=str(tmp_path / "cache"))
    assert found.keys() == {"train", "validation", "test"}
    assert all(sorted(part["label"]) == [0, 0, 1, 1] for part in found.values())
    assert found["train"].features["label"].names == ["cat", "dog"]
    if format == "folder":
        assert tree(data).keys() == SPLITS.keys()


def test_among_other_classes_train_is_a_class(tmp_path: Path) -> None:
    root = lay(tmp_path, {"train/a.png": picture(0), "bus/b.png": picture(1)})
    assert FolderInput(path=str(root)).open().label_names == ("bus", "train")
    only = lay(tmp_path / "only", {"train/a.png": picture(0), "test/b.png": picture(1)})
    assert FolderInput(path=str(only)).open().label_names is None
    assert FolderInput(path=str(only), labels="directories").open().label_names == ("test", "train")


def test_folders_of_images_without_classes_are_said_to_be_none(tmp_path: Path) -> None:
    """`imagefolder` takes them for classes, and reads splits and images well where it is told not to."""
    rows = b'{"file_name": "a.png", "text": "x"}'
    files = {f"{split}/{name}": content for split in ("train", "test")
             for name, content in (("a.png", picture(1)), ("metadata.jsonl", rows))}  # fmt: skip
    recipe = builders.recipe("", tmp_path / "out", None, **{"output.format": "folder"})
    recipe["input"] = {"format": "folder", "path": str(lay(tmp_path / "set", files))}
    plan = make_plan(validate(JobConfig, recipe, "test"))
    assert NO_CLASS in estimate(plan)
    assert run_job(plan).notes[NO_CLASS] == 2
    data = str(tmp_path / "out" / "data")
    theirs = load_dataset("imagefolder", data_dir=data, cache_dir=str(tmp_path / "cache"))
    assert theirs["train"].features["label"].names == ["test", "train"]
    assert "drop_labels=True" in NO_CLASS
    told = load_dataset("imagefolder", data_dir=data, cache_dir=str(tmp_path / "cache"), drop_labels=True)
    assert {split: (len(part), list(part.features)) for split, part in told.items()} == {
        "train": (1, ["image"]), "test": (1, ["image"]),
    }  # fmt: skip


@pytest.mark.parametrize(("format", "files", "said"), [
    ("folder", ("cat/a.png", "dog/b.png"), False), ("folder", ("a.png", "b.png"), False),
    ("folder", ("train/a.png", "test/b.png"), True), ("webdataset", ("train/a.png", "test/b.png"), False),
])  # fmt: skip
def test_it_is_said_only_where_readers_find_folders(
    tmp_path: Path, format: str, files: tuple[str, ...], said: bool
) -> None:
    recipe = builders.recipe("", tmp_path / "out", None, **{"output.format": format})
    recipe["input"] = {"format": "folder", "path": str(lay(tmp_path / "set", dict.fromkeys(files, picture(1))))}
    assert (NO_CLASS in run_job(make_plan(validate(JobConfig, recipe, "test"))).notes) == said


def test_folders_called_train_images_are_splits(tmp_path: Path) -> None:
    root = lay(tmp_path / "a", {"train_images/a.png": picture(0), "test_images/b.png": picture(1)})
    stream = FolderInput(path=str(root)).open()
    assert (stream.label_names, stream.splits) == (None, ("test_images", "train_images"))
    root = lay(tmp_path / "b", {"blood_test/a.png": picture(0), "skin_test/b.png": picture(1)})
    assert FolderInput(path=str(root)).open().label_names == ("blood_test", "skin_test")


def test_names_number_the_classes_of_folders(tmp_path: Path) -> None:
    root = str(lay(tmp_path, {"cat/a.png": picture(0), "dog/b.png": picture(1)}))
    for names in (("dog", "cat"), ("bird", "cat", "dog")):
        stream = FolderInput(path=root, label_names=names).open()
        assert stream.label_names == names
        assert {sample.key: sample.label for sample in everything(stream)} == {
            "cat/a": names.index("cat"), "dog/b": names.index("dog"),
        }  # fmt: skip
    with pytest.raises(UserError, match=r"input\.label_names: 1 of 2 folders .* none of these names: cat, bird"):
        FolderInput(path=root, label_names=("cat", "bird")).open()


@pytest.mark.parametrize(("name", "content", "legal"), [
    ("cls", b"1", True), ("CLS", b"1.0", True), ("cls", b"dog", True), ("cls", b"0", False), ("CLS", b"cat", False),
    ("cls", b"2", False), ("cls", b"bird", False), ("cls", b"[1, 1]", False),
])  # fmt: skip
def test_two_statements_of_a_class_are_refused_unless_equal(
    tmp_path: Path, name: str, content: bytes, legal: bool
) -> None:
    root = lay(tmp_path, {"cat/a.png": picture(0), "dog/b.png": picture(1), f"dog/b.{name}": content})
    first, second = items_of(root)
    assert isinstance(first, Sample)
    assert first.label == 0
    if legal:
        assert isinstance(second, Sample)
        assert (second.label, second.members) == (1, {"cls": b"1"})
    else:
        (bad,) = rejected([second])
        assert bad.reason.startswith("its folder is one class, and its member cls says another")
        assert bad.members[name] == content
    assert {sample.label for sample in opened(root, labels="none")} == {None}


@pytest.mark.parametrize("source", ["folder", "hub"])
def test_a_label_that_no_sample_has_is_refused_before_work(tmp_path: Path, source: str) -> None:
    recipe = builders.recipe("", tmp_path / "out", None)
    if source == "folder":
        root = lay(tmp_path / "set", {"a.png": picture(0), "a.json": b'{"breed": "pug"}'})
        recipe["input"] = {"format": "folder", "path": str(root), "label": "json:bred"}
    else:
        rows = {"image": [{"bytes": picture(0), "path": None}], "kind": [None], "text": ["x"]}
        features = Features({"image": Image(), "kind": Value("int64"), "text": Value("string")})
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
        recipe["input"] = {"format": "hub", "path": str(tmp_path / "a.parquet"), "label": "kind"}
    where, found = ("json:bred", "json:breed") if source == "folder" else ("kind", "text")
    with pytest.raises(UserError, match=rf"none of the first 1 samples has '{where}'; there are .*{found}"):
        run_job(make_plan(validate(JobConfig, recipe, "test")))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_nested_classes_are_named_by_the_recipe(tmp_path: Path) -> None:
    files = {"cat/persian/1.png": picture(1), "cat/siamese/1.png": picture(2), "dog/pug/1.png": picture(3)}
    root = lay(tmp_path / "set", files)
    with pytest.raises(UserError, match=r"input\.labels: .*directories.*innermost.*path.*none"):
        opened(root)
    first = ImageFolder(str(root))
    assert [sample.label for sample in opened(root, labels="directories")] == first.targets
    last = load_dataset("imagefolder", data_dir=str(root), split="train", cache_dir=str(tmp_path / "cache"))
    stream = FolderInput(path=str(root), labels="innermost").open()
    assert list(stream.label_names or ()) == last.features["label"].names
    assert [sample.label for sample in everything(stream)] == last["label"]
    stream = FolderInput(path=str(root), labels="path").open()
    assert stream.label_names == ("cat/persian", "cat/siamese", "dog/pug")
    assert {sample.label for sample in opened(root, labels="none")} == {None}


XML = b"<annotation><filename>%s.jpg</filename><object><name>dog</name></object></annotation>"
VOC = {
    "ImageSets/Main/trainval.txt": b"a\nb\n",
    "ImageSets/Segmentation/trainval.txt": b"a\n",
    "JPEGImages/a.jpg": picture(1, "jpeg"),
    "JPEGImages/b.jpg": picture(2, "jpeg"),
    "Annotations/a.xml": XML % b"a",
    "Annotations/b.xml": XML % b"b",
    "SegmentationClass/a.png": picture(7),
    "SegmentationObject/a.png": picture(8),
}


def test_voc_is_read_and_written_such_that_torchvision_reads_it(tmp_path: Path) -> None:
    root = lay(tmp_path / "set", {f"VOCdevkit/VOC2012/{name}": content for name, content in VOC.items()})
    a, b = opened(root)
    assert (a.key, b.key) == ("VOCdevkit/VOC2012/JPEGImages/a", "VOCdevkit/VOC2012/JPEGImages/b")
    assert a.members == {"xml": XML % b"a", "seg.png": picture(7), "instances.png": picture(8)}
    assert (b.members, b.label) == ({"xml": XML % b"b"}, None)
    data = written(root, tmp_path / "out", **{"output.codec": "jpeg"})
    kept = {name for name in VOC if not name.startswith("ImageSets")}
    assert {path.removeprefix("VOCdevkit/VOC2012/") for path in tree(data)} == kept
    lay(data / "VOCdevkit" / "VOC2012", {name: VOC[name] for name in VOC if name.startswith("ImageSets")})
    detection = VOCDetection(str(data), year="2012", image_set="trainval")
    assert [target["annotation"]["filename"] for _, target in detection] == ["a.jpg", "b.jpg"]
    ((image, mask),) = VOCSegmentation(str(data), year="2012", image_set="trainval")
    assert image.size == mask.size == (7, 5)


@pytest.mark.parametrize("place", ["images/train/x", "train/images/x", "images/x"])
def test_yolo_is_read_and_its_labels_stay_where_they_were(tmp_path: Path, place: str) -> None:
    labels = place.replace("images", "labels")
    files = {f"{place}.png": picture(1), f"{labels}.txt": b"0 .5 .5 1 1\n", f"{place}2.png": picture(2),
             f"{labels}2.txt": b"", "data.yaml": b"names: [cat]"}  # fmt: skip
    root = lay(tmp_path / "set", files)
    stream = FolderInput(path=str(root)).open()
    assert [note for note in stream.notes if "yolo" in note] == [stream.notes[0]]
    found = {sample.key: (sample.label, dict(sample.members)) for sample in everything(stream)}
    assert found == {place: (None, {"txt": b"0 .5 .5 1 1\n"}), f"{place}2": (None, {"txt": b""})}
    assert all(shard.name.startswith("train-" if "train" in place else "set-") for shard in stream.shards)
    assert tree(written(root, tmp_path / "out")).keys() == files.keys() - {"data.yaml"}
    assert BESIDE in (tmp_path / "out" / "events.jsonl").read_text()


def test_annotations_of_no_image_are_counted_and_said(tmp_path: Path) -> None:
    files = {f"Annotations/{name}.xml": XML % b"x" for name in "abcd"} | {"SegmentationClass/c.png": picture(1)}
    stream = FolderInput(path=str(lay(tmp_path, {**VOC, **files, "JPEGImages/e.jpg": picture(1, "jpeg")}))).open()
    lists = {"ImageSets/Main/trainval.txt", "ImageSets/Segmentation/trainval.txt"}
    assert set(stream.left_out) == {"Annotations/c.xml", "Annotations/d.xml", "SegmentationClass/c.png"} | lists
    assert [note for note in stream.notes if "1 of 3 images have no file in the folders beside them" in note]
    assert set(FolderInput(path=str(lay(tmp_path / "whole", VOC))).open().left_out) == lists


LEFT_OUT = {
    "roboflow": {"train/a.png": picture(1), "train/_annotations.csv": b"a", "valid/b.png": picture(2)},
    "kaggle": {"train/a.png": picture(1), "train.csv": b"id,label", "test/b.png": picture(2), "Thumbs.db": b""},
    "coco": {"annotations/instances_x.json": b'{"images": []}', "annotations/stuff_x.json": b"{}", "x/a.png": b""},
}


@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize("case", LEFT_OUT)
def test_files_that_belong_to_no_sample_are_counted_and_said(tmp_path: Path, case: str, secret: bool) -> None:
    stream = FolderInput(path=str(lay(tmp_path, LEFT_OUT[case]))).open()
    (file,) = stream.left_out
    assert file in ("train/_annotations.csv", "train.csv", "annotations/stuff_x.json")
    (note,) = of_left_out(stream.left_out, secret=secret)
    assert "left out: 1" in note
    assert (file in note) == (not secret)
    assert of_left_out((), secret=secret) == ()
    assert len(of_left_out("abcdefghi", secret=secret)[0]) < 100


def test_a_job_and_its_dry_run_say_what_they_leave_out(tmp_path: Path) -> None:
    root = lay(tmp_path / "set", LEFT_OUT["kaggle"])
    recipe = builders.recipe("", tmp_path / "out", None)
    recipe["input"] = {"format": "folder", "path": str(root)}
    plan = make_plan(validate(JobConfig, recipe, "test"))
    told = list[object]()
    assert "left out: 1, such as 'train.csv'" in estimate(plan)
    run_job(plan, observe=told.append)
    assert any(isinstance(event, Noted) and "such as 'train.csv'" in event.text for event in told)


def test_the_last_folder_of_images_counts_as_in_yolo(tmp_path: Path) -> None:
    assert SIBLINGS["yolo"].place("images/images/a", "txt") == "images/labels/a.txt"
    assert SIBLINGS["yolo"].place("other/a", "txt") is None
    assert SIBLINGS["yolo"].place("images/a", "json") is None


def coco(**more: Any) -> dict[str, bytes]:
    content = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 7, "height": 5},
            {"id": 8, "file_name": "b.jpg", "width": 7, "height": 5},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 44, "name": "bottle"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 44, "bbox": [1, 2, 3, 3], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 18, "bbox": [0, 0, 1, 1], "iscrowd": 0},
        ],
        **more,
    }
    captions = {
        "images": content["images"],
        "annotations": [{"id": i, "image_id": 8, "caption": text} for i, text in enumerate(("a dog", "a pug"))],
    }
    return {
        "annotations/instances_train2017.json": json.dumps(content).encode(),
        "annotations/captions_train2017.json": json.dumps(captions).encode(),
    }


@pytest.mark.parametrize("folder", ["train2017/", "images/train2017/", "images/", ""])
def test_coco_gives_each_image_its_annotations(tmp_path: Path, folder: str) -> None:
    root = lay(tmp_path, {**coco(), **{f"{folder}{name}.jpg": picture(1, "jpeg") for name in "abc"}})
    found = {sample.key.removeprefix(folder): sample for sample in opened(root)}
    assert json.loads(found["a"].members["json"]) == {
        "id": 7, "file_name": "a.jpg", "width": 7, "height": 5, "bbox": [[1, 2, 3, 3], [0, 0, 1, 1]],
        "category_id": [44, 18], "category": ["bottle", "dog"], "iscrowd": [0, 0],
    }  # fmt: skip
    assert json.loads(found["b"].members["captions.json"])["caption"] == ["a dog", "a pug"]
    assert found["c"].members == {}
    assert {sample.label for sample in found.values()} == {None}
    assert FolderInput(path=str(root)).open().shards[0].name.startswith("train2017-") == ("train" in folder)


def test_annotations_beside_the_images_as_roboflow_has_them(tmp_path: Path) -> None:
    table = coco()["annotations/instances_train2017.json"]
    files = {f"{split}/{name}.jpg": picture(1, "jpeg") for split in ("train", "valid") for name in "ab"}
    tables = {f"{split}/_annotations.coco.json": table for split in ("train", "valid")}
    stream = FolderInput(path=str(lay(tmp_path, files | tables))).open()
    found = {sample.key: json.loads(sample.members["json"]).get("category") for sample in everything(stream)}
    assert found == {"train/a": ["bottle", "dog"], "train/b": None, "valid/a": ["bottle", "dog"], "valid/b": None}
    assert (stream.splits, stream.left_out) == (("train", "valid"), ())


def test_nothing_below_annotations_is_an_image_of_coco(tmp_path: Path) -> None:
    images = {f"train2017/{name}.jpg": picture(1, "jpeg") for name in "ab"}
    masks = {"annotations/panoptic_train2017/a.png": picture(2), "annotations/panoptic_train2017.json": b"{}"}
    stream = FolderInput(path=str(lay(tmp_path, {**coco(), **images, **masks}))).open()
    assert [sample.key for sample in everything(stream)] == ["train2017/a", "train2017/b"]
    assert set(stream.left_out) == masks.keys()
    assert stream.splits == ("train2017",)


def test_annotations_of_images_that_no_file_lists_are_counted(tmp_path: Path) -> None:
    more = [{"id": 1, "image_id": 7, "bbox": [0, 0, 1, 1]}] + [{"id": i, "image_id": 77 + i // 2} for i in range(4)]
    stream = FolderInput(path=str(lay(tmp_path, {**coco(annotations=more), "a.jpg": picture(1)}))).open()
    assert "input: annotations of 2 images that their file does not list are left out" in stream.notes


def test_what_annotations_say_is_in_fingerprint_and_hash(tmp_path: Path) -> None:
    lay(tmp_path, {**coco(), "a.jpg": picture(1, "jpeg"), "b.jpg": picture(1, "jpeg")})
    (before,) = FolderInput(path=str(tmp_path)).open().shards
    lay(tmp_path, coco(categories=[{"id": 18, "name": "cat"}, {"id": 44, "name": "bottle"}]))
    (after,) = FolderInput(path=str(tmp_path)).open().shards
    assert before.fingerprint() != after.fingerprint()
    assert before.content_hash() != after.content_hash()


def test_images_that_annotations_name_and_that_are_not_there_are_told(tmp_path: Path) -> None:
    items = items_of(lay(tmp_path, {**coco(), "a.jpg": picture(1, "jpeg")}))
    assert [item.key for item in items if isinstance(item, Sample)] == ["a"]
    (bad,) = rejected(items)
    assert (bad.key, bad.kind) == ("train2017/b", "refused")
    assert "not there" in bad.reason


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"images": [{}]}', b'{"images": [], "annotations": [1]}'])
def test_annotations_that_are_none_are_one_sentence(tmp_path: Path, content: bytes) -> None:
    lay(tmp_path, {"a.jpg": picture(1, "jpeg"), "annotations/instances_x.json": content})
    with pytest.raises(UserError, match=r"instances_x\.json"):
        FolderInput(path=str(tmp_path)).open()


METADATA = {
    "metadata.jsonl": b'{"file_name": "x/a.png", "text": "a cat", "mask_file_name": "m/a.png"}\n'
    b'{"file_name": "x/b.png", "text": "a dog", "mask_file_name": "m/b.png"}\n',
    **{f"{folder}/{name}.png": picture(i) for i, (folder, name) in enumerate(("xa", "xb", "ma", "mb"))},
}
TABLES = [
    METADATA,
    {
        **{name: content for name, content in METADATA.items() if name != "metadata.jsonl"},
        "metadata.csv": b'file_name,text,mask_file_name\nx/a.png,"a cat",m/a.png\nx/b.png,a dog,m/b.png\n',
    },
]


@pytest.mark.parametrize("files", TABLES, ids=["jsonl", "csv"])
def test_metadata_is_read_as_imagefolder_reads_it(tmp_path: Path, files: dict[str, bytes]) -> None:
    root = lay(tmp_path / "set", files)
    theirs = load_dataset("imagefolder", data_dir=str(root), split="train", streaming=True).decode(False)
    found = opened(root)
    assert [(sample.key, sample.label) for sample in found] == [("x/a", None), ("x/b", None)]
    for sample, row in zip(found, theirs, strict=True):
        assert sample.image == Path(row["image"]["path"]).read_bytes()
        assert sample.members["mask.png"] == Path(row["mask"]["path"]).read_bytes()
        assert json.loads(sample.members["json"])["text"] == row["text"]


def test_columns_of_numbers_are_numbers_as_imagefolder_has_them(tmp_path: Path) -> None:
    table = "file_name,n,f,zip,gap\na.png,1,0.5,007,\nb.png,-2,1e3,100,3\n"
    root = lay(tmp_path, {"metadata.csv": table.encode(), "a.png": picture(0), "b.png": picture(1)})
    rows = [json.loads(sample.members["json"]) for sample in opened(root)]
    assert [(row["n"], row["f"], row["zip"], row["gap"]) for row in rows] == [
        (1, 0.5, "007", None), (-2, 1000.0, "100", 3),
    ]  # fmt: skip


@pytest.mark.parametrize("names", [None, ["cat", "dog"]])
def test_labels_of_a_table(tmp_path: Path, names: list[str] | None) -> None:
    table = "file_name,label\na.png,dog\nb.png,cat\n" if names else "file_name,label\na.png,1\nb.png,0\n"
    root = lay(tmp_path, {"metadata.csv": table.encode(), "a.png": picture(0), "b.png": picture(1)})
    assert [sample.label for sample in opened(root, label_names=names)] == [1, 0]
    assert [sample.label for sample in opened(root, labels="none")] == [None, None]
    if names:
        assert [sample.unread and sample.unread.text for sample in opened(root)] == ["dog", "cat"]


def test_a_label_beside_the_image_takes_the_place_of_folders(tmp_path: Path) -> None:
    root = lay(tmp_path, {"train/a.png": picture(0), "train/a.json": b'{"y": 4}', "train/b.png": picture(1)})
    assert [sample.label for sample in opened(root, label="json:y")] == [4, None]
    with pytest.raises(ValueError, match=r"label json:y and labels path"):
        FolderInput(path=str(root), label="json:y", labels="path")


def test_a_table_in_each_split(tmp_path: Path) -> None:
    files = {f"{split}/metadata.jsonl": b'{"file_name": "a.png", "n": 1}\n' for split in ("train", "test")}
    root = lay(tmp_path, {**files, **{f"{split}/a.png": picture(1) for split in ("train", "test")}})
    stream = FolderInput(path=str(root)).open()
    assert [shard.name.partition("-")[0] for shard in stream.shards] == ["test", "train"]
    assert [sample.key for sample in everything(stream)] == ["test/a", "train/a"]


@pytest.mark.parametrize("name", ["../out.png", "/etc/hostname", "file:///etc/hostname", "link.png", "gone.png", 5])
def test_metadata_names_nothing_outside(tmp_path: Path, name: object) -> None:
    lay(tmp_path, {"out.png": picture(3)})
    rows = [{"file_name": name}, {"file_name": "a.png"}, {"file_name": "a.png", "mask_file_name": name}]
    root = lay(tmp_path / "set", {"metadata.jsonl": "\n".join(map(json.dumps, rows)).encode(), "a.png": picture(0)})
    (root / "link.png").symlink_to(tmp_path / "out.png")
    items = items_of(root)
    assert [item.key for item in items if isinstance(item, Sample)] == ["a"]
    assert len(rejected(items)) == 2
    assert all(picture(3) not in bad.members.values() for bad in rejected(items))


def test_an_image_without_a_row_is_told(tmp_path: Path) -> None:
    table = {"metadata.jsonl": b'{"file_name": "a.png"}'}
    items = items_of(lay(tmp_path, {**table, "a.png": picture(0), "b.png": picture(1)}))
    assert [(bad.key, bad.kind, bad.members) for bad in rejected(items)] == [("b", "refused", {"png": picture(1)})]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", b"{"), ("metadata.jsonl", b"[1]"), ("metadata.jsonl", b""), ("metadata.jsonl", b'{"a": 1}'),
        ("metadata.csv", b"file_name,a\nx"), ("metadata.csv", b'file_name\n"x'), ("metadata.csv", b"\xff"),
        ("metadata.csv", b"file_name,file_name\nx,y"), ("metadata.csv", b"file_name\n" + b"x" * 200_000),
    ],
)  # fmt: skip
def test_a_table_that_is_none_is_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    lay(tmp_path, {name: content, "a.png": picture(0)})
    with pytest.raises(UserError, match=rf"{name}"):
        FolderInput(path=str(tmp_path)).open()


def test_what_datasets_alone_reads_is_refused_with_the_line_that_reads_it(tmp_path: Path) -> None:
    lay(tmp_path, {"a.png": picture(0)})
    Dataset.from_list([{"file_name": "a.png", "text": "a cat"}]).to_parquet(tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match="imagefolder") as refused:
        FolderInput(path=str(tmp_path)).open()
    place = ast.literal_eval(str(refused.value).rpartition("data_dir: ")[2].partition("}")[0])
    (sample,) = everything(HubInput(path="imagefolder", data_dir=place).open())
    assert sample.members["text.txt"] == b"a cat"


def test_lists_of_files_are_for_datasets(tmp_path: Path) -> None:
    lay(tmp_path, {"metadata.jsonl": b'{"file_names": ["a.png"]}', "a.png": picture(0)})
    with pytest.raises(UserError, match=r"several files, .*path: imagefolder.*input\.layout: classes"):
        FolderInput(path=str(tmp_path)).open()
    assert len(opened(tmp_path, layout="classes")) == 1


def test_a_folder_that_looks_like_two_layouts_is_refused(tmp_path: Path) -> None:
    root = lay(tmp_path, {**METADATA, **coco(), "a.jpg": picture(1)})
    with pytest.raises(UserError, match=r"input\.layout: .* coco and metadata"):
        FolderInput(path=str(root)).open()
    assert len(opened(root, layout="classes", labels="none")) == 5


def test_annotations_have_a_bound(tmp_path: Path) -> None:
    lay(tmp_path, {**coco(), "a.jpg": picture(1)})
    with pytest.raises(UserError, match=r"input\.bounds\.metadata_bytes"):
        FolderInput.model_validate({"path": str(tmp_path), "bounds": {"metadata_bytes": 100}}).open()
