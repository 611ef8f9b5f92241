"""A neighbour takes the place of an image such that what else the item holds stays true."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image, ImageOps
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.hooks.dataset import AugmentedDataset, AugmentedStream
from pipeline.hooks.live.background import BackgroundAugmenter
from pipeline.hooks.store import NeighbourStore
from pipeline.job.config import JobConfig
from pipeline.media.rules import PixelRules
from tests import builders

WIDE = 16, 12
KEY = "a/0"


def store_of(source: Path, out: Path, model: Path | None, **changes: Any) -> NeighbourStore:
    run_job(make_plan(validate(JobConfig, builders.recipe(source, out, model, **changes), "test")))
    return NeighbourStore.open(out)


@pytest.fixture
def fitted(tmp_path: Path, model: Path) -> Callable[[str], NeighbourStore]:
    """Stores of one wide image and its label, by `image.fit`."""
    source = builders.tar(tmp_path / "a.tar", [("0.png", builders.picture(1, WIDE)), ("0.cls", b"1")])
    return lambda fit: store_of(source, tmp_path / "out", model, **{"image.fit": fit})


def wide(size: tuple[int, int] = WIDE) -> Image.Image:
    return Image.open(io.BytesIO(builders.picture(1, WIDE))).resize(size)


@pytest.mark.parametrize("fit", ["crop", "centre 8"])
def test_a_part_of_an_image_takes_no_whole_images_place(fitted: Callable[[str], NeighbourStore], fit: str) -> None:
    store = fitted(fit)
    square = wide((8, 8))
    box = tv_tensors.BoundingBoxes([[0, 0, 4, 4]], format="XYXY", canvas_size=(8, 8))  # type: ignore[call-overload]
    for item in (
        {"image": wide(), "bbox": [1, 2, 3, 4]},
        {"image": wide(), "label": 1},  # it would be distorted
        {"image": square, "bbox": [1, 2, 3, 4]},
        {"image": square, "mask": np.zeros((8, 8)), "label": 1},
        (square, [{"bbox": [1, 2, 3, 4]}]),
        (square, 1, box),
        (v2.functional.pil_to_tensor(square), box),
        (np.asarray(wide()), 1),
    ):
        with pytest.raises(UserError, match=r"a part of their sources only .* run the job with image\.fit: pad or res"):
            AugmentedDataset([item], store, 1, key=KEY, check=False)[0]
    for cropped in (
        {"image": square, "label": 1, "caption": "a cat", "id": 7, "__key__": "0"},
        (square, 1),
        (v2.functional.pil_to_tensor(square), torch.tensor(1)),
        (square, "cat"),
    ):
        data = AugmentedDataset([cropped], store, 1, key=KEY)
        assert data[0] is not cropped
        assert data.counts["neighbours"] == 1
    item = {"image": wide(), "bbox": [1, 2, 3, 4]}
    assert AugmentedDataset([item], store, 1, key=KEY, swap=lambda item, neighbour: neighbour.size)[0] == (8, 8)


def test_a_stream_of_tars_is_no_way_around(fitted: Callable[[str], NeighbourStore], tmp_path: Path) -> None:
    store = fitted("crop")
    base = wds.WebDataset([str(tmp_path / "a.tar")], shardshuffle=False).decode("pil")
    with pytest.raises(UserError, match="a part of their sources only"):
        list(AugmentedStream(base, store, 1))


@pytest.mark.parametrize("fit", ["pad", "resize"])
def test_a_whole_image_takes_the_place_of_a_whole_one(fitted: Callable[[str], NeighbourStore], fit: str) -> None:
    store = fitted(fit)
    assert store.frame(KEY) is None
    item = AugmentedDataset([{"image": wide(), "bbox": [1, 2, 3, 4]}], store, 1, key=KEY)[0]
    kept = store.get(KEY, 0)
    assert kept is not None
    assert np.array_equal(np.asarray(item["image"]), np.asarray(kept.resize(WIDE, Image.Resampling.BICUBIC)))


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs `c/1.jpg` to `c/8.jpg` of each EXIF orientation, which a job without a model has passed through."""
    folder = tmp_path_factory.mktemp("turned")
    (folder / "in" / "c").mkdir(parents=True)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.open(io.BytesIO(builders.picture(orientation, WIDE))).save(
            folder / "in" / "c" / f"{orientation}.jpg", exif=exif
        )
    store_of(folder, folder / "out", None, input={"format": "folder", "path": str(folder / "in")})
    return folder


def test_a_photograph_that_is_stored_turned_gets_a_neighbour_that_is_turned(turned: Path) -> None:
    """The neighbours are the images themselves, upright: in the item's place each is what was there."""
    base, store = ImageFolder(turned / "in"), NeighbourStore.open(turned / "out")
    for key in (None, lambda _, index: f"c/{index + 1}"):
        data = AugmentedDataset(base, store, 1, key=key)
        for i in range(8):
            assert np.array_equal(np.asarray(data[i][0]), np.asarray(base[i][0]))
            assert np.array_equal(*(np.asarray(ImageOps.exif_transpose(of[i][0])) for of in (data, base)))
        assert data.counts == {"originals": 0, "neighbours": 2 * 8, "missing": 0}
    uprights = [(ImageOps.exif_transpose(image), label) for image, label in base]
    data = AugmentedDataset(uprights, store, 1)
    assert all(np.array_equal(np.asarray(data[i][0]), np.asarray(uprights[i][0])) for i in range(8))


def test_tensors_are_turned_by_their_size_or_refused(turned: Path) -> None:
    store, as_tensor = NeighbourStore.open(turned / "out"), v2.functional.pil_to_tensor
    stored = [image for image, _ in ImageFolder(turned / "in")]
    for i, image in enumerate(stored):
        for one in (image, ImageOps.exif_transpose(image)):
            data = AugmentedDataset([(as_tensor(one), 0)], store, 1, key=f"c/{i + 1}")
            if i in (1, 2, 3) and one is image:  # mirrored or upside down, which no size tells
                with pytest.raises(UserError, match=rf"orientation {i + 1}\), and its item does not tell"):
                    data[0]
            else:
                assert torch.equal(data[0][0], as_tensor(one))


def test_the_maker_shows_whole_images(tmp_path: Path, model: Path) -> None:
    operator, base = {"name": "boomerang", "t_boom": 0.4, "steps": 2}, [(wide(), 1)]
    with pytest.raises(UserError, match=r"image\.fit is crop: neighbours .* must show them whole"):
        BackgroundAugmenter(
            operator, str(model), base, tmp_path / "live", capacity=1, image=PixelRules(fit="crop"),
            class_map="numbers",
        ).__enter__()  # fmt: skip


# tars of several folders


def test_a_tar_that_several_shards_may_be_is_refused(tmp_path: Path) -> None:
    """WebDataset tells the tar, and not its folder."""
    for i, part in enumerate(("train", "val")):
        builders.tar(tmp_path / part / "a.tar", [("0.png", builders.picture(i)), ("0.cls", b"1")])
    store = store_of(tmp_path / "*" / "a.tar", tmp_path / "out", None)

    def stream(**options: Any) -> AugmentedStream:
        base = wds.WebDataset([str(tmp_path / "val" / "a.tar")], shardshuffle=False).decode("pil")
        return AugmentedStream(base, store, 1, **options)

    with pytest.raises(UserError, match="'a/0' may be that of a sample in train-a or val-a: name the shard"):
        list(stream())
    named = stream(key=lambda item: f"val-a/{item['__key__']}")
    assert len(list(named)) == named.counts["neighbours"] == 1


@pytest.mark.parametrize("count", [2, 3])
def test_a_pass_in_which_all_are_missing_is_an_error(tmp_path: Path, count: int) -> None:
    store = store_of(builders.shard(tmp_path / "a.tar", 3), tmp_path / "out", None)
    items = [{"image": wide(), "key": f"b/{i}"} for i in range(count)]
    stream = AugmentedStream(items, store, 1)
    indexed = AugmentedDataset([*items, *[{"image": wide(), "key": "a/0000"}] * 9], store, 1)
    for i in range(count):
        indexed[i]
    if count < 3:  # a bad image or two have no neighbours
        assert len(list(stream)) == count
        indexed.set_epoch(1)
        return
    sentence = "none of the first 3 items has a neighbour in the store: key gives others .* such as 'b/2'"
    with pytest.raises(UserError, match=sentence):
        list(stream)
    with pytest.raises(UserError, match=sentence):
        indexed.set_epoch(1)
