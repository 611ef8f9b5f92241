"""Data sets with neighbours: what decides, who takes part, and resuming in the middle of an epoch."""

from __future__ import annotations

import copy
import io
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler, Subset, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from torchvision import tv_tensors

from pipeline.errors import UserError
from pipeline.hooks.dataset import AugmentedDataset, AugmentedStream
from pipeline.hooks.store import NeighbourStore
from pipeline.job.config import JobConfig
from tests import builders

COUNT = 40


@dataclass
class Shades:
    """A store of plain pictures: copy c of key "07", or "shard/07", has grey level 100·(c + 1) + 7.

    Originals are below 100.
    """

    each: int = 2
    without: tuple[int, ...] = ()

    def copies(self, key: str) -> int:
        return 0 if int(key[-2:]) in self.without else self.each

    def get(self, key: str, copy: int) -> Image.Image | None:
        return Image.new("RGB", (4, 4), (100 * (copy + 1) + int(key[-2:]),) * 3)


class Held(Shades):
    """Copy 0 counts fully, copy 1 a quarter."""

    def weight(self, key: str, copy: int) -> float:
        return (1, 0.25)[copy]


class Base:
    """Item i is a picture of grey level i, and its number."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (4, 4), (i,) * 3), i


def shade(item: Any) -> int:
    return int(np.asarray(item[0])[0, 0, 0])


def plain(item: tuple[Image.Image, int]) -> tuple[int, int]:
    return shade(item), item[1]


def made(**options: Any) -> AugmentedDataset:
    given = {"store": Shades(), "p": 0.5, "key": "{:02d}", "transform": plain, **options}
    return AugmentedDataset(Base(), **given)


class Around(Dataset[Any]):
    """A data set of one's own around another."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, i: int) -> Any:
        return self.inner[i]


def values(batches: Any) -> list[int]:
    return [int(value) for batch in batches for value in batch[0]]


def test_p_is_the_share_of_neighbours_and_copies_are_taken_evenly() -> None:
    for p in (0, 0.3, 1):
        data = made(p=p)
        shades = []
        for epoch in range(50):
            data.set_epoch(epoch)
            shades += [shade for shade, _ in (data[i] for i in range(COUNT))]
        taken = np.array(shades) // 100
        share = (taken > 0).mean()
        assert abs(share - p) < 5 * (p * (1 - p) / len(shades)) ** 0.5 + 1e-12
        assert data.counts == {
            "originals": int((taken == 0).sum()), "neighbours": int((taken > 0).sum()), "missing": 0
        }  # fmt: skip
        if p:
            assert abs((taken == 1).sum() / (taken > 0).sum() - 0.5) < 0.1


def test_a_neighbour_is_one_of_the_items_own() -> None:
    data = made(p=1)
    assert all(value % 100 == label for value, label in (data[i] for i in range(COUNT)))
    assert {value // 100 for value, _ in (made(p=1, copies=1)[i] for i in range(COUNT))} == {1}


def drawn(data: AugmentedDataset, **options: Any) -> list[int]:
    return values(DataLoader(data, **{"batch_size": 4, **options}))


def test_seed_epoch_and_draw_decide_and_nothing_else() -> None:
    data = made()
    first = drawn(data)
    assert drawn(made()) == drawn(made(), num_workers=3) == first
    assert drawn(made(seed=1)) != first
    data.set_epoch(1)
    assert drawn(data) != first
    data.set_epoch(0)
    assert drawn(data) == first
    assert [made()[-1] for _ in range(3)] == [made()[COUNT - 1]] * 3


class Often(Sampler[int]):
    """Items 0 to 3, 64 times each."""

    def __iter__(self) -> Iterator[int]:
        return iter([0, 1, 2, 3] * 64)

    def __len__(self) -> int:
        return 4 * 64


@pytest.mark.parametrize("workers", [0, 2])
def test_an_item_that_comes_again_is_drawn_for_again(workers: int) -> None:
    """By a sampler that repeats items: each draw is another, whichever worker has it, and all is as in a second run."""
    first = np.array(drawn(made(store=Shades(each=1)), sampler=Often(), num_workers=workers)).reshape(64, 4)
    assert (first % 100 == range(4)).all()
    taken = first >= 100
    assert (abs(taken.mean(0) - 0.5) < 0.25).all()  # four draws of standard deviation
    assert len({*map(tuple, taken.T.tolist())}) == 4
    again = drawn(made(store=Shades(each=1)), sampler=Often(), num_workers=2 - workers)
    assert again == first.flatten().tolist()


def test_balanced_classes_get_neighbours_of_their_own() -> None:
    """torch's own sampler with replacement: of one rare image in every other draw, all of 30 copies come."""
    weights = [1.0] + [1 / (COUNT - 1)] * (COUNT - 1)
    sampler = WeightedRandomSampler(weights, 400, generator=torch.Generator().manual_seed(0))
    got = drawn(made(store=Shades(each=2), p=1), sampler=sampler)
    rare = [value for value in got if value % 100 == 0]
    assert len(rare) > 100
    assert abs(rare.count(100) / len(rare) - 0.5) < 0.2


def test_the_seed_of_torch_and_the_rank_are_mixed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(seed: int, rank: int) -> list[int]:
        torch.manual_seed(seed)
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "4")
        return drawn(made())

    every = [seen(seed, rank) for seed in (1, 2) for rank in (0, 3)]
    assert len({*map(tuple, every)}) == 4
    assert seen(2, 0) == every[2]
    torch.manual_seed(1)
    data = made()
    state = data.state_dict()
    torch.manual_seed(7)
    other = made()
    other.load_state_dict(state)
    monkeypatch.setenv("RANK", "0")
    other.set_epoch(0)
    assert drawn(other) == every[0]  # a resumed training keeps the seed that it began with


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """What this process and its workers have logged."""
    handler = logging.FileHandler(tmp_path / "log")
    logging.getLogger("doppel").addHandler(handler)
    yield (tmp_path / "log").read_text
    logging.getLogger("doppel").removeHandler(handler)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_forgotten_epoch_is_said_once(workers: int, told: Callable[[], str]) -> None:
    data = made()
    for epoch in range(3):
        data.set_epoch(epoch)
        drawn(data, num_workers=workers)
    drawn(data, num_workers=workers)  # a sampler may be longer than the data
    assert not told()
    drawn(data, num_workers=workers)
    drawn(data, num_workers=workers)
    assert told().count("call set_epoch before every epoch") == 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("wrap", [lambda data: Subset(data, range(8)), lambda data: ConcatDataset([data]), Around])
def test_what_hides_the_state_of_the_draws_is_said_once(
    wrap: Callable[[Any], Any], workers: int, told: Callable[[], str]
) -> None:
    data = made()
    assert data[0]  # nobody's loader
    drawn(data, num_workers=workers)
    data.set_epoch(1)
    list(DataLoader(data, batch_size=None, num_workers=workers))
    drawn(AugmentedDataset(Around(Base()), Shades(), key="{:02d}", transform=plain), num_workers=workers)
    assert not told()
    data.set_epoch(2)
    drawn(wrap(data), num_workers=workers, batch_size=8, multiprocessing_context="fork" if workers else None)
    drawn(wrap(data), num_workers=0)
    assert told().count("the loader reads another data set, which holds this one") == 1
    assert "AugmentedDataset around them, last" in told()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_forgotten_epoch_of_a_stream_is_said_once(workers: int, told: Callable[[], str], tmp_path: Path) -> None:
    stream = web_stream(tmp_path)
    loader = DataLoader(stream, batch_size=4, num_workers=workers)
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        first = sorted(values(loader))
    assert not told()
    assert sorted(values(loader)) == first
    list(loader)
    assert told().count("call set_epoch before every epoch") == 1


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_epochs_reach_workers_that_run_on_and_their_counts_come_back(context: str) -> None:
    data, alone = made(store=Shades(without=(3, 4))), made(store=Shades(without=(3, 4)))
    loader = DataLoader(
        data, batch_size=4, num_workers=2, persistent_workers=True, multiprocessing_context=context, shuffle=False
    )
    for epoch in range(3):
        data.set_epoch(epoch)
        alone.set_epoch(epoch)
        assert values(loader) == drawn(alone)
    assert data.counts == alone.counts
    assert alone.counts["missing"] > 0


def test_where_the_store_has_none_the_original_counts_as_missing() -> None:
    data = made(p=1, store=Shades(without=tuple(range(10))))
    assert [data[i][0] for i in range(10)] == list(range(10))
    assert data.counts == {"originals": 0, "neighbours": 0, "missing": 10}

    class Gone(Shades):
        def get(self, key: str, copy: int) -> None:
            return None

    data = made(p=1, store=Gone())
    assert data[5] == (5, 5)
    assert data.counts["missing"] == 1


def test_a_neighbour_with_less_weight_comes_less_often_and_the_original_in_its_place() -> None:
    data = made(p=1, store=Held())
    shades = []
    for epoch in range(50):
        data.set_epoch(epoch)
        shades += [data[i][0] // 100 for i in range(COUNT)]
    share = np.bincount(shades, minlength=3) / len(shades)
    assert np.abs(share - [0.375, 0.5, 0.125]).max() < 0.06
    assert data.counts["missing"] == 0


class Both(NamedTuple):
    image: Any
    label: int


GREY = Image.new("L", (6, 3), 5)


@pytest.mark.parametrize(
    "image",
    [
        GREY,
        Image.new("RGBA", (4, 4)),
        torch.zeros(1, 3, 6, dtype=torch.uint8),
        torch.zeros(3, 4, 4),
        torch.zeros(28, 28, dtype=torch.uint8),
        torch.zeros(3, 4, 4, dtype=torch.float16),
        tv_tensors.Image(torch.zeros(3, 5, 4)),
        np.zeros((3, 6, 1), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((3, 6), dtype=np.uint8),
    ],
    ids=lambda image: f"{type(image).__name__}-{getattr(image, 'shape', getattr(image, 'mode', ''))}",
)
def test_the_neighbour_comes_as_what_the_image_was(image: Any) -> None:
    """Grey level 107 everywhere: 107/255 in floats; type, size and mode are the image's."""
    for item in ((image, 7), [image, 7], Both(image, 7), {"image": image, "label": 7}, {"jpg": image, "cls": 7}):
        data = AugmentedDataset([item] * 8, Shades(each=1), 1, key="07")
        new = data[3]
        assert type(new) is type(item)
        neighbour = next(iter(new.values())) if isinstance(new, dict) else new[0]
        assert type(neighbour) is type(image)
        if isinstance(image, Image.Image):
            assert (neighbour.size, neighbour.mode) == (image.size, image.mode)
            assert neighbour.getextrema() in ((107, 107), ((107, 107),) * 3 + ((255, 255),))
        else:
            assert (neighbour.shape, neighbour.dtype) == (image.shape, image.dtype)
            level = torch.as_tensor(neighbour).double()
            scale = 255 if torch.as_tensor(image).is_floating_point() else 1
            assert (level * scale - 107).abs().max() < 0.2
        assert (list(new.values()) if isinstance(new, dict) else new)[1] == 7


def test_another_size_is_scaled_bicubically() -> None:
    picture = Image.open(io.BytesIO(builders.picture(1, (16, 12))))

    class One(Shades):
        def get(self, key: str, copy: int) -> Image.Image:
            return picture

    new = AugmentedDataset([(Image.new("RGB", (8, 6)), 0)], One(), 1, key="0")[0][0]
    assert np.array_equal(np.asarray(new), np.asarray(picture.resize((8, 6), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize(
    ("item", "options", "sentence"),
    [
        ((GREY, 1), {}, "say with key how the input of the job names them"),
        ((GREY, 1), {"key": "{id}"}, r"key '\{id\}' does not fit an item \('id'\); it is made from the index$"),
        ({"a": GREY, "key": "1"}, {}, "fields a, key: exactly one of image, img"),
        ({"png": GREY, "jpg": GREY, "key": "1"}, {}, "exactly one of"),
        ({"png": b"encoded", "__key__": "1"}, {}, "an image is bytes"),
        ((torch.randn(3, 8, 8), 1), {"key": "1"}, "normalise afterwards"),
        ((torch.zeros(2, 8, 8), 1), {"key": "1"}, r"shape \[8, 8, 2\]; 1, 3 or 4 channels"),
        ((torch.zeros(3, 8, 8, dtype=torch.int32), 1), {"key": "1"}, "an image holds torch.int32"),
        *(
            (
                (Image.new(mode, (4, 4)), 1),
                {"key": "1"},
                f"an image has mode {mode}, and neighbours have 8 bits a pixel",
            )
            for mode in ("I;16", "I", "F", "CMYK")
        ),
        (GREY, {"key": "1"}, "an item is Image; a tuple"),
    ],
)
def test_items_that_do_not_fit_are_refused(item: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        AugmentedDataset([item], Shades(), 1, **options)[0]


def test_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match="p is -1; a probability"):
        made(p=-1)
    with pytest.raises(UserError, match="copies is 0; at least 1"):
        made(copies=0)


def test_key_and_swap_may_be_functions() -> None:
    def swap(item: dict[str, Any], neighbour: Image.Image) -> dict[str, Any]:
        return {**item, "deep": {"picture": neighbour}}

    base = [{"deep": {"picture": None}, "n": n} for n in range(3)]
    data = AugmentedDataset(base, Shades(each=1), 1, key=lambda item, index: f"{10 * item['n'] + index}", swap=swap)
    assert data[2]["deep"]["picture"].getpixel((0, 0)) == (122, 122, 122)


def test_the_stored_neighbours_of_a_real_job(job: JobConfig) -> None:
    base = [(Image.open(io.BytesIO(builders.picture(i))), i) for i in range(10)]
    store = NeighbourStore.open(job.output.path)
    data = AugmentedDataset(base, store, 1, key="{:04d}")
    for i in range(10):
        image = np.asarray(data[i][0])
        assert any(np.array_equal(image, np.asarray(store.get(f"{i:04d}", c))) for c in range(2))


def resumed(loader: Any, stop: int) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """The batches before the state was taken, those after it, and the state."""
    before, after, state = [], [], {}
    for number, batch in enumerate(loader):
        (before if number < stop else after).append(batch[0].tolist())
        if number == stop - 1:
            state = copy.deepcopy(loader.state_dict())
    return before, after, state


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_in_the_middle_of_an_epoch(workers: int) -> None:
    """Samples and counts are those of a run that never stopped, in this epoch and the next."""

    def started() -> tuple[AugmentedDataset, Any]:
        data = made(store=Shades(without=(1, 2, 3)))
        generator = torch.Generator().manual_seed(4)
        return data, StatefulDataLoader(data, batch_size=3, num_workers=workers, shuffle=True, generator=generator)

    data, loader = started()
    data.set_epoch(5)
    _, expected, state = resumed(loader, 4)
    counted = data.counts
    data.set_epoch(6)
    following = values(loader)

    again, loader = started()
    loader.load_state_dict(state)
    assert [batch[0].tolist() for batch in loader] == expected
    assert again.counts == counted
    assert sum(counted.values()) == COUNT
    assert sorted(value % 100 for value in values(loader)) == sorted(value % 100 for value in following)
    again.set_epoch(7)
    data.set_epoch(7)
    assert drawn(again) == drawn(data)  # the order after a resumed epoch is torchdata's; in one order all is the same
    assert json.loads(json.dumps(again.state_dict())) == again.state_dict()


@pytest.mark.parametrize(
    ("workers", "context"),
    [(0, None), (2, "fork"), *(pytest.param(2, c, marks=pytest.mark.slow) for c in ("forkserver", "spawn"))],
)
def test_resuming_where_items_come_again(workers: int, context: str | None) -> None:
    """Draws go on with the number that they had, in every worker, whatever torch's seed has become."""

    def started() -> Any:
        sampler = torch.utils.data.RandomSampler(
            range(4), replacement=True, num_samples=48, generator=torch.Generator().manual_seed(4)
        )
        return StatefulDataLoader(
            made(), batch_size=3, num_workers=workers, sampler=sampler, multiprocessing_context=context
        )

    torch.manual_seed(1)
    _, expected, state = resumed(started(), 7)
    torch.manual_seed(2)
    loader = started()
    loader.load_state_dict(state)
    assert [batch[0].tolist() for batch in loader] == expected


def test_counts_of_the_whole_are_the_state_outside_of_workers() -> None:
    data = made()
    list(DataLoader(data, batch_size=4, num_workers=2))
    other = made()
    other.load_state_dict(data.state_dict())
    assert other.counts == data.counts
    assert sum(other.counts.values()) == COUNT


# Hugging Face


def hub_set() -> Any:
    from datasets import Dataset

    images = [Image.new("RGB", (4, 4), (i,) * 3) for i in range(COUNT)]
    return Dataset.from_dict({"image": images, "label": list(range(COUNT)), "id": [f"{i:02d}" for i in range(COUNT)]})


def to_tensors(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    pixels = [torch.from_numpy(np.array(image)).movedim(-1, 0) / 255 for image in rows["image"]]
    return {"pixel_values": pixels, "label": rows["label"], "id": rows["id"]}


@pytest.mark.parametrize("with_transform", [False, True])
def test_a_hugging_face_set(with_transform: bool) -> None:
    base = hub_set().with_transform(to_tensors) if with_transform else hub_set()
    data = AugmentedDataset(base, Shades(each=1), 0.5, key="{id}")
    taken = 0
    for i in range(COUNT):
        item = data[i]
        value = round(float(item["pixel_values"][0, 0, 0]) * 255) if with_transform else shade((item["image"],))
        assert value in (i, 100 + i)
        assert item["label"] == i
        taken += value >= 100
    assert taken == data.counts["neighbours"]
    assert 0 < taken < COUNT


def stream_shade(item: dict[str, Any]) -> tuple[int, int]:
    return shade((item["image"],)), item["label"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_hugging_face_stream_resumes_by_its_own_state(workers: int) -> None:
    def started() -> tuple[AugmentedStream, Any]:
        base = hub_set().to_iterable_dataset(num_shards=2)
        stream = AugmentedStream(base, Shades(), 0.5, key="{id}", transform=stream_shade)
        return stream, StatefulDataLoader(stream, batch_size=3, num_workers=workers)

    stream, loader = started()
    stream.set_epoch(2)
    before, expected, state = resumed(loader, 3)
    assert sorted(value % 100 for batch in before + expected for value in batch) == list(range(COUNT))
    again, loader = started()
    loader.load_state_dict(state)
    assert [batch[0].tolist() for batch in loader] == expected
    assert again.counts == stream.counts
    assert stream.counts["neighbours"] > 0
    again.set_epoch(3)
    assert sorted(value % 100 for value in values(loader)) == list(range(COUNT))


# WebDataset


def web_shade(item: dict[str, Any]) -> tuple[int, int]:
    return shade((item["png"],)), int(item["cls"])


def web_stream(folder: Path, **options: Any) -> AugmentedStream:
    import webdataset as wds

    for part in range(2):
        members = []
        for i in range(part, COUNT, 2):
            buffer = io.BytesIO()
            Image.new("RGB", (4, 4), (i,) * 3).save(buffer, "PNG")
            members += [(f"{i:02d}.png", buffer.getvalue()), (f"{i:02d}.cls", str(i).encode())]
        builders.tar(folder / f"{part}.tar", members)
    base = wds.WebDataset([str(folder / f"{part}.tar") for part in range(2)], shardshuffle=False).decode("pil")
    return AugmentedStream(base, Shades(), 0.5, transform=web_shade, **options)


def test_a_webdataset_pipeline(tmp_path: Path) -> None:
    stream = web_stream(tmp_path)
    first = list(stream)
    assert [label for _, label in first] == [*range(0, COUNT, 2), *range(1, COUNT, 2)]
    assert all(value % 100 == label for value, label in first)
    assert 0 < stream.counts["neighbours"] < COUNT
    loader = DataLoader(stream, batch_size=4, num_workers=2)
    assert sorted(value % 100 for value in values(loader)) == list(range(COUNT))
    assert sorted(values(loader)) == sorted(values(loader))
    stream.set_epoch(1)
    assert list(stream) != first


@pytest.mark.parametrize("workers", [0, 2])
def test_a_webdataset_pipeline_resumes_by_skipping(tmp_path: Path, workers: int) -> None:
    stream = web_stream(tmp_path)
    loader = StatefulDataLoader(stream, batch_size=3, num_workers=workers)
    _, expected, state = resumed(loader, 3)
    again = web_stream(tmp_path)
    loader = StatefulDataLoader(again, batch_size=3, num_workers=workers)
    loader.load_state_dict(state)
    assert [batch[0].tolist() for batch in loader] == expected
    assert again.counts == stream.counts
    assert sorted(value % 100 for value in values(loader)) == list(range(COUNT))  # the next epoch is whole


def test_a_state_taken_before_the_first_item_of_a_resumed_stream_still_knows_where_it_was() -> None:
    base = [{"image": GREY, "key": f"{i}", "n": i} for i in range(6)]

    def numbers(stream: AugmentedStream) -> Iterator[int]:
        return (item["n"] for item in stream)

    stream = AugmentedStream(base, Shades(), 0)
    items = numbers(stream)
    assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
    other = AugmentedStream(base, Shades(), 0)
    other.load_state_dict(stream.state_dict())
    assert other.state_dict() == stream.state_dict()
    rest = numbers(other)
    assert other.state_dict() == stream.state_dict()
    assert list(rest) == [4, 5]
    assert list(numbers(other)) == list(range(6))


def test_a_stream_has_no_index() -> None:
    with pytest.raises(UserError, match="does not fit an item"):
        list(AugmentedStream([(GREY, 1)], Shades(), 1, key="{:02d}"))


def test_the_tensor_of_a_loader_is_a_tensor() -> None:
    data = AugmentedDataset([(torch.zeros(3, 4, 4), i) for i in range(4)], Shades(), 1, key="{}")
    (batch,) = DataLoader(data, batch_size=4)
    assert isinstance(batch[0], Tensor)
    assert batch[0].shape == (4, 3, 4, 4)
