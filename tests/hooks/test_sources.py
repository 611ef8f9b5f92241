"""Neighbours belong to the image that they were made of: found by its content, checked by it, or by its label."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.hooks.contents import content_of, label_of
from pipeline.hooks.dataset import AugmentedDataset, AugmentedStream
from pipeline.hooks.store import NeighbourStore
from pipeline.job.config import JobConfig
from pipeline.media.contents import content_hash
from pipeline.media.pixels import read_picture
from tests import builders

COUNT = 10


def image(i: int, **options: Any) -> Image.Image:
    return Image.open(io.BytesIO(builders.picture(i, **options)))


class Base:
    """The images of the job with their labels, in the order of its keys."""

    def __init__(self, order: range | list[int] = range(COUNT)) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return image(self.order[i]), self.order[i] % builders.CLASSES


@pytest.fixture(scope="module")
def store(job: JobConfig) -> NeighbourStore:
    return NeighbourStore.open(job.output.path)


def own(data: AugmentedDataset, i: int, store: NeighbourStore, key: str) -> bool:
    """Whether item i is one of the neighbours of a key."""
    got = np.asarray(data[i][0])
    return any(np.array_equal(got, np.asarray(store.get(key, copy))) for copy in range(store.copies(key)))


def test_a_content_is_that_of_every_form_of_an_image() -> None:
    for mode in ("L", "RGB"):
        picture = image(3, mode=mode)
        expected = read_picture(builders.picture(3, mode=mode), (4, 4)).content
        assert expected == content_hash(picture)
        array = np.asarray(picture)
        tensor = v2.functional.pil_to_tensor(picture)
        for form in (picture, picture.convert("RGB"), array, tensor, tensor / 255, (tensor / 255).numpy().squeeze()):
            if getattr(form, "shape", ())[:1] != (3,) or not isinstance(form, np.ndarray):
                assert content_of((form, 1)) == content_of({"image": form}) == expected
    assert content_of((image(4), 1)) != expected
    assert content_hash(Image.new("L", (2, 8))) != content_hash(Image.new("L", (4, 4)))
    for unknown in (b"encoded", torch.randn(3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.int32), None, "text"):
        assert content_of((unknown, 1)) is None


def test_labels_are_told_by_place_or_field() -> None:
    for item in ((GREY, 2), [GREY, torch.tensor(2)], {"label": np.int64(2)}, {"cls": 2}, {"fine_label": 2}):
        assert label_of(item) == 2
    for item in ((GREY,), (GREY, torch.zeros(2)), {"image": GREY}, {"label": "dog"}, (GREY, True), GREY):
        assert label_of(item) is None


GREY = Image.new("L", (4, 4))


def test_without_a_key_images_are_found_by_their_content(store: NeighbourStore) -> None:
    order = [7, 2, 2, 9]
    data = AugmentedDataset(Base(order), store, 1)
    for i, source in enumerate(order):
        assert own(data, i, store, f"{source:04d}")
    assert data.counts == {"originals": 0, "neighbours": 4, "missing": 0}
    loader = DataLoader(AugmentedDataset(Subset(Base(), order), store, 1, transform=label_of), num_workers=2)
    assert torch.cat(list(loader)).tolist() == [i % builders.CLASSES for i in order]


def test_an_image_folder_needs_no_key(tmp_path: Path, model: Path) -> None:
    """JPEG files, one of them turned by EXIF, in two classes; the job reads them as a folder."""
    for i in range(6):
        file = tmp_path / "in" / "ab"[i % 2] / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 3 else 1
        image(i, size=(12, 10)).save(file, exif=exif)
    changes = {"input": {"format": "folder", "path": str(tmp_path / "in")}, "classes": "numbers"}
    run_job(make_plan(validate(JobConfig, builders.recipe("", tmp_path / "out", model, **changes), "test")))
    store = NeighbourStore.open(tmp_path / "out")
    data = AugmentedDataset(ImageFolder(tmp_path / "in"), store, 1)
    for i, (file, _) in enumerate(data.base.samples):
        neighbour, _ = data[i]
        key = str(Path(file).relative_to(tmp_path / "in").with_suffix(""))
        size = data.base[i][0].size
        kept = store.get(key, 0)
        assert kept is not None
        kept = (kept.transpose(Image.Transpose.ROTATE_90) if "3.jpg" in file else kept).resize(size)
        assert np.array_equal(np.asarray(neighbour), np.asarray(kept.convert("RGB")))
    assert data.counts["neighbours"] == 6


def test_a_hugging_face_set_needs_no_key(store: NeighbourStore) -> None:
    from datasets import Dataset

    rows = {"image": [image(i) for i in range(COUNT)], "label": [i % builders.CLASSES for i in range(COUNT)]}
    shuffled = Dataset.from_dict(rows).shuffle(seed=3)
    data = AugmentedDataset(shuffled, store, 1)
    assert all(data[i]["label"] == shuffled[i]["label"] for i in range(COUNT))
    assert data.counts["neighbours"] == COUNT
    stream = AugmentedStream(shuffled.to_iterable_dataset(), store, 1)
    assert len(list(stream)) == stream.counts["neighbours"] == COUNT


def test_an_index_over_a_shuffled_set_is_refused(store: NeighbourStore) -> None:
    assert AugmentedDataset(Base(), store, 1, key="{:04d}")[4][1] == 1
    data = AugmentedDataset(Base([*range(8), 9, 8]), store, 1, key="{:04d}")
    for i in range(8):
        data[i]
    with pytest.raises(UserError, match=r"'0008' is the image that .* knows as 'b/0009': an index .* leave key out"):
        data[8]
    unchecked = AugmentedDataset(Base([1]), store, 1, key="{:04d}", check=False)
    assert own(unchecked, 0, store, "0000")


def test_images_that_were_changed_before_are_told_by_their_labels(store: NeighbourStore) -> None:
    items = [(v2.functional.resize(image(i), [6, 6]), i % builders.CLASSES) for i in range(COUNT)]
    data = AugmentedDataset(items, store, 1, key="{:04d}")
    assert [data[i][1] for i in range(COUNT)] == [label for _, label in items]
    data = AugmentedDataset(items[1:], store, 1, key="{:04d}")
    with pytest.raises(UserError, match=r"'0000' has label 1, and the image .* in the store 0: .* check=False"):
        data[0]


def test_later_items_are_checked_now_and_then(store: NeighbourStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.hooks import sources

    monkeypatch.setattr(sources, "CHECKED", 2)
    monkeypatch.setattr(sources, "SAMPLED", 5)
    data = AugmentedDataset(Base([0, 1, 3, 2, 5, 4, 6, 7, 8, 9]), store, 1, key="{:04d}")
    for i in (0, 1, 2, 3):  # two are checked, the others are not
        data[i]
    with pytest.raises(UserError, match="'0004' is the image that the store knows as 'a/0005'"):
        data[4]


def test_a_key_that_misses_everything_is_an_error(store: NeighbourStore) -> None:
    data = AugmentedDataset(Base(), store, 1, key="{:05d}")
    for i in range(COUNT - 1):
        data[i]
    with pytest.raises(UserError, match=r"none of the first 10 items has .* such as '00009'; the store has keys"):
        data[9]
    changed = [(v2.functional.resize(image(i), [6, 6]), 0) for i in range(COUNT)]
    data = AugmentedDataset(changed, store, 1)
    for i in range(COUNT - 1):
        data[i]
    with pytest.raises(UserError, match=r"none of the first 10 items .* give the images as the job read them"):
        data[9]


def test_an_unfinished_job_misses_no_more_than_it_has_left_undone(store: NeighbourStore) -> None:
    strangers = Base([*range(100, 160), *range(COUNT)])
    data = AugmentedDataset(strangers, store, 1)
    for i in range(70):
        data[i]
    assert data.counts == {"originals": 0, "neighbours": 10, "missing": 60}


def test_images_that_cannot_be_told_need_a_key(store: NeighbourStore) -> None:
    with pytest.raises(UserError, match="items have no key, and their images cannot be told by their content"):
        AugmentedDataset([(torch.randn(3, 8, 8), 1)], store, 1)[0]


def test_the_same_image_twice_has_the_neighbours_of_its_label(tmp_path: Path, model: Path) -> None:
    members = [part for i in range(2) for part in ((f"{i}.png", builders.picture(5)), (f"{i}.cls", b"%d" % i))]
    source = builders.tar(tmp_path / "in.tar", members)
    run_job(make_plan(validate(JobConfig, builders.recipe(source, tmp_path / "out", model), "test")))
    store = NeighbourStore.open(tmp_path / "out")
    data = AugmentedDataset([(image(5), 1), (image(5), 0)], store, 1)
    assert own(data, 0, store, "1")
    assert own(data, 1, store, "0")
    AugmentedDataset([(image(5), 1), (image(5), 0)], store, 1, key="{}")[0]  # either is that image


def test_provenance_tells_the_source_before_it_was_fitted(job: JobConfig) -> None:
    written = builders.members_of(Path(job.output.path) / "data" / "a.tar")
    said = json.loads(written["0004-1.doppel.json"])["source"]
    assert said == {"content": content_hash(image(4)), "label": 1}
