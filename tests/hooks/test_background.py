"""Neighbours from another process: the same bytes, never a wait, and a training that outlives its maker."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.hooks.dataset import AugmentedDataset
from pipeline.hooks.live import background, filler
from pipeline.hooks.live.background import BackgroundAugmenter, LiveStore, Status
from pipeline.hooks.live.filler import Filler, MakerProgress, Setup
from pipeline.hooks.live.slots import EMPTY, SlotReader, Slots, SlotWriter
from pipeline.hooks.live.source import InMemory, Original, StreamSource
from pipeline.identity import PUBLIC_SALT
from pipeline.job.classes import Classes
from pipeline.job.config import JobConfig
from pipeline.main_guard import is_guarded
from pipeline.media.pixels import decode
from pipeline.media.rules import PixelRules
from pipeline.models.config import ModelConfig
from pipeline.operators import Boomerang
from pipeline.streams import WebDatasetInput
from tests import builders

COUNT, BATCH = 12, 4
OPERATOR = Boomerang(t_boom={"fraction": [0.4, 0.4]}, steps=2)
Start = Callable[..., LiveStore]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork for the maker: to load everything again takes longer than all these tests."""
    monkeypatch.setattr(background, "CONTEXT", multiprocessing.get_context("fork"))
    monkeypatch.setattr(filler, "NICE", 0)


@pytest.fixture
def data() -> InMemory:
    pixels = [torch.from_numpy(decode(builders.picture(i))[0].copy()).permute(2, 0, 1) for i in range(COUNT)]
    labels = torch.arange(COUNT) % builders.CLASSES
    return InMemory(keys=[f"{i:04d}" for i in range(COUNT)], pixels=torch.stack(pixels), labels=labels)


@pytest.fixture
def augmenter(data: InMemory, model: Path, tmp_path: Path) -> Callable[..., BackgroundAugmenter]:
    def make(**changes: Any) -> BackgroundAugmenter:
        settings = {"operator": OPERATOR, "data": data, "folder": tmp_path / "store", "capacity": COUNT, **changes}
        settings.setdefault("model", ModelConfig(path=str(model), batch_size=BATCH))
        return BackgroundAugmenter(**settings)

    return make


@pytest.fixture
def start(augmenter: Callable[..., BackgroundAugmenter]) -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(augmenter(**changes))


def until(store: LiveStore, true: Callable[[Status], bool], seconds: float = 60) -> Status:
    end = time.monotonic() + seconds
    while not true(status := store.status()):
        assert time.monotonic() < end, status
        assert status.error is None or true(status), status
        time.sleep(0.05)
    return status


def slots(folder: Path, capacity: int = COUNT, uses: int = 1) -> Slots:
    folder.mkdir(exist_ok=True)
    made = Slots(folder=folder, size=(2, 2), capacity=capacity, uses=uses)
    made.create()
    return made


def image(value: int) -> Any:
    return np.full((2, 2, 3), value, np.uint8)


def a_setup(folder: Path, model: Path, source: Any, capacity: int = COUNT) -> Setup:
    store = Slots(folder=folder, size=(builders.SIDE, builders.SIDE), capacity=capacity, uses=1)
    store.create()
    MakerProgress(folder, "w+")
    return Setup(
        slots=store, source=source, operator=OPERATOR, model=ModelConfig(path=str(model), batch_size=BATCH),
        classes=Classes(), device="cpu", threads=1, salt=PUBLIC_SALT,
    )  # fmt: skip


# ---- the slots


def test_what_was_put_is_read_and_counted(tmp_path: Path) -> None:
    store = slots(tmp_path, uses=2)
    writer, reader = SlotWriter(store), SlotReader(store)
    assert reader.get("a") is None
    slot = writer.place("a", 1, ())
    assert slot is not None
    writer.put(slot, "a", 7, image(3))
    for _ in range(3):
        found = reader.get("a")
        assert found is not None
        assert found.copy == 7
        assert np.array_equal(found.pixels, image(3))
    assert reader.get("b") is None
    assert store.counts() == (3, 1, 2)  # of three reads, one was beyond the two uses
    other = SlotReader(store)
    assert other.get("a") is not None
    assert store.counts().read == 4
    assert len(list((tmp_path / "readers").iterdir())) == 2
    del reader, other
    SlotReader(store)
    assert len(list((tmp_path / "readers").iterdir())) == 2  # taken over from one that is gone
    assert store.counts() == (4, 2, 2)


def test_a_slot_is_kept_until_it_is_used_up_and_the_most_read_goes_first(tmp_path: Path) -> None:
    store = slots(tmp_path, capacity=3)
    writer, reader = SlotWriter(store), SlotReader(store)
    for key in "abc":
        slot = writer.place(key, 1, ())
        assert slot is not None
        writer.put(slot, key, 0, image(1))
        assert writer.place(key, 1, ()) is None  # it has its neighbour, and there may be room for others
        assert (writer.place(key, 2, ()) is None) == (key == "c")
    assert writer.place("d", 1, ()) is None  # nothing was read
    reader.get("b")
    for _ in range(2):
        reader.get("c")
    held = {key: writer.place(key, 1, ()) for key in "bcd"}
    assert held["b"] != held["c"]  # each gets its own again
    assert held["d"] == held["c"]
    assert writer.place("d", 1, {held["c"]}) == held["b"]  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["pixels", "copy", "checksum", "key"])
def test_a_torn_slot_counts_as_missing(tmp_path: Path, field: str) -> None:
    store = slots(tmp_path)
    writer, reader = SlotWriter(store), SlotReader(store)
    slot = writer.place("a", 1, ())
    assert slot is not None
    writer.put(slot, "a", 0, image(200))
    heads, pixels = store.open("r+")
    if field == "pixels":
        pixels[slot, 1, 1, 2] ^= 1
    else:
        heads[field][slot] ^= 1
    assert reader.get("a") is None
    assert store.counts() == (0, 0, 1)


def test_no_room_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no room for .* neighbours"):
        slots(tmp_path, capacity=2**58)


def hammer(store: Slots, ready: Any) -> None:
    writer, ready_set = SlotWriter(store), False
    for copy in range(10**9):
        writer.put(0, "a", copy, np.full((*store.size, 3), copy % 251, np.uint8))
        if not ready_set:
            ready.send(True)
            ready_set = True


def test_readers_never_see_a_torn_image(tmp_path: Path) -> None:
    """A writer that overwrites one slot without a pause: whatever is read is of one piece, and of its copy."""
    store = Slots(folder=tmp_path, size=(32, 32), capacity=1, uses=1)
    store.create()
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=hammer, args=(store, send), daemon=True)
    process.start()
    try:
        assert receive.poll(30)
        reader, found = SlotReader(store), 0
        end = time.monotonic() + 2
        while time.monotonic() < end:
            one = reader.get("a")
            if one is not None:
                found += 1
                assert (one.pixels == one.copy % 251).all()
        assert found
    finally:
        process.kill()
        process.join()


# ---- the maker


def test_pixels_are_those_of_the_offline_job(model: Path, tmp_path: Path) -> None:
    """Copy after copy, byte for byte."""
    source = builders.shard(tmp_path / "in" / "a.tar", COUNT)
    config = validate(JobConfig, builders.recipe(source, tmp_path / "out", model, **{"operator.copies": 2}), "-")
    run_job(make_plan(config))
    offline = builders.members_of(tmp_path / "out" / "data" / "a.tar")
    size = (builders.SIDE, builders.SIDE)
    originals = StreamSource(input=config.input, size=size, rules=PixelRules(), classes=Classes())
    setup = a_setup(tmp_path, model, originals)
    maker, reader = Filler(setup), SlotReader(setup.slots)
    for copy in range(2):
        maker.make(copy)
        for i in range(COUNT):
            found = reader.get(f"a/{i:04d}")
            assert found is not None
            assert found.copy == copy
            assert np.array_equal(found.pixels, decode(offline[f"{i:04d}-{copy}.png"])[0])


@pytest.mark.slow
def test_a_process_of_its_own(start: Start, data: InMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """As users get it: not forked, and niced."""
    monkeypatch.undo()
    store = start()
    until(store, lambda status: status.made == COUNT, 300)
    assert all(store.get(key) is not None for key in data.keys)


def test_arrays_give_what_the_same_stream_gives(start: Start, data: InMemory, tmp_path: Path) -> None:
    source = builders.shard(tmp_path / "in" / "a.tar", COUNT)
    named = dataclasses.replace(data, keys=[f"a/{key}" for key in data.keys])
    stores = start(data=named), start(data=WebDatasetInput(urls=str(source)), folder=tmp_path / "streamed")
    for store in stores:
        until(store, lambda status: status.made == COUNT)
    for key in named.keys:
        ours, streamed = (store.get(key) for store in stores)
        assert ours is not None
        assert streamed is not None
        assert ours.tobytes() == streamed.tobytes()


class Pictures:
    """The images of `data` with their labels, as torchvision's data sets give them, and their classes."""

    classes = ("first", "second", "third")

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.open(io.BytesIO(builders.picture(i))), i % builders.CLASSES


def hub_set() -> Any:
    from datasets import ClassLabel, Dataset

    images, labels = zip(*(Pictures()[i] for i in range(COUNT)), strict=True)
    return Dataset.from_dict({"image": images, "label": labels}).cast_column("label", ClassLabel(names=["0", "1", "2"]))


@pytest.mark.parametrize("which", ["torchvision", "a subset", "Hugging Face"])
def test_a_data_set_without_keys(start: Start, which: str) -> None:
    """The same data set is given to the maker and to the training, which pairs by content."""
    base = {"torchvision": Pictures, "a subset": lambda: Subset(Pictures(), [7, 3, 5]), "Hugging Face": hub_set}[
        which
    ]()
    store = start(data=base, class_map="numbers", capacity=len(base))
    until(store, lambda status: status.made == len(base))
    order = [*range(len(base))][::-1]
    data = AugmentedDataset(Subset(base, order), pickle.loads(pickle.dumps(store)), 1)
    for i in range(len(base)):
        data[i]
    assert data.counts == {"originals": 0, "neighbours": len(base), "missing": 0}
    until(store, lambda status: status.made == 2 * len(base))  # a second pass knows its keys


def test_a_data_set_gives_what_arrays_give(start: Start, data: InMemory, tmp_path: Path) -> None:
    stores = start(), start(data=Pictures(), key="{:04d}", class_map="numbers", folder=tmp_path / "indexed")
    for store in stores:
        until(store, lambda status: status.made == COUNT)
    for key in data.keys:
        arrays, indexed = (store.get(key) for store in stores)
        assert arrays is not None
        assert indexed is not None
        assert arrays.tobytes() == indexed.tobytes()


def test_a_section_of_a_recipe_is_data(start: Start, tmp_path: Path) -> None:
    source = builders.shard(tmp_path / "in" / "a.tar", COUNT)
    store = start(data={"format": "webdataset", "urls": str(source)})
    until(store, lambda status: status.made == COUNT)


def test_data_that_cannot_be_told_is_refused(augmenter: Any) -> None:
    class Restless(Pictures):
        def __getitem__(self, i: int) -> tuple[Any, int]:
            return torch.rand(3, 8, 8), 0

    for bad, sentence in (
        ({"format": "webdataset", "url": "a.tar"}, r"data\..*url"),
        ({"train": Pictures(), "test": Pictures()}, r"data is several data sets \(train, test\)"),
        (3, "data is int; a data set with len"),
        (Restless(), "data gives other pixels each time"),
        ([(b"encoded", 0)], "an item begins with a PIL image"),
        ([], "data has no items"),
    ):
        with pytest.raises(UserError, match=sentence):
            augmenter(data=bad, class_map="numbers").__enter__()
    with pytest.raises(UserError, match="key is for data sets"):
        augmenter(key="{}")


def test_the_maker_waits_until_neighbours_are_read_and_never_makes_a_copy_twice(
    augmenter: Any, data: InMemory, tmp_path: Path
) -> None:
    seen: list[bytes] = []
    with augmenter(capacity=2 * COUNT) as store:
        status = until(store, lambda status: status.state == "waiting" and status.made == 2 * COUNT)
        time.sleep(0.5)
        assert store.status().made == status.made  # nothing was read: it waits
        assert (store.status().read, store.status().missing) == (0, 0)
        for key in data.keys:
            seen += [store.get(key).tobytes() for _ in range(2)]
        until(store, lambda status: status.made == 4 * COUNT)
        assert store.status().again == 0
    assert store.status().state == "stopped"
    with augmenter(capacity=2 * COUNT) as store:  # the same store, where it was left
        assert store.status().made >= 4 * COUNT
        for key in data.keys:
            seen += [store.get(key).tobytes() for _ in range(2)]
        until(store, lambda status: status.made >= 6 * COUNT)
        for key in data.keys:
            seen += [store.get(key).tobytes() for _ in range(2)]
    assert len(set(seen)) == 6 * COUNT  # every neighbour of every key is another
    assert not multiprocessing.active_children()


def test_more_images_than_slots_take_turns(data: InMemory, model: Path, tmp_path: Path) -> None:
    """Where all is read at once, one pass makes a neighbour of each."""

    def source() -> Iterator[Original]:
        for key, label, pixels in zip(data.keys, data.labels.tolist(), data.pixels, strict=True):
            for other in data.keys:
                reader.get(other)
            yield Original(key, label, pixels.permute(1, 2, 0).numpy)

    setup = a_setup(tmp_path, model, source, capacity=3)
    reader = SlotReader(setup.slots)
    Filler(setup).make(0)
    assert MakerProgress(tmp_path, "r")["made"] == COUNT


class Reading(Dataset[bool]):
    def __init__(self, store: LiveStore, keys: list[str]) -> None:
        self.store, self.keys = store, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> bool:
        return self.store.get(self.keys[index]) is not None


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_and_their_counts_arrive(start: Start, data: InMemory, tmp_path: Path, context: str) -> None:
    store = start()
    until(store, lambda status: status.made == COUNT)
    assert store.get("nobody") is None  # a reader of this process, which forks must not take over
    keys = [*data.keys, "nobody", "either"]
    loader = DataLoader(Reading(store, keys), batch_size=3, num_workers=2, multiprocessing_context=context)
    got = torch.cat(list(loader))
    status = store.status()
    assert got.tolist() == [True] * COUNT + [False] * 2
    assert (status.read, status.missing) == (COUNT, 3)
    assert len(list((tmp_path / "store" / "readers").iterdir())) == 3  # each process counts for itself


def test_a_killed_maker_is_reported_and_reading_goes_on(
    start: Start, data: InMemory, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = start(on_failure="originals")
    status = until(store, lambda status: status.made == COUNT)
    monkeypatch.setattr(background, "GRACE", -1)
    with caplog.at_level(logging.WARNING, "doppel"):
        os.kill(status.pid, signal.SIGKILL)
        status = until(store, lambda status: status.state == "crashed")
        time.sleep(0.1)
    assert status.error == "its process ended (killed by SIGKILL)"
    assert [record for record in caplog.records if "killed by SIGKILL" in record.getMessage()] == caplog.records
    assert len(caplog.records) == 1
    for _ in range(3):  # the training goes on with what is there
        assert all(store.get(key) is not None for key in data.keys)
    assert store.get("nobody") is None
    assert store.status().again == 2 * COUNT


def test_a_training_whose_maker_is_gone_ends_some_seconds_later(
    start: Start, data: InMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = start()
    status = until(store, lambda status: status.made == COUNT)
    os.kill(status.pid, signal.SIGKILL)
    until(store, lambda status: status.state == "crashed")
    assert store.get(data.keys[0]) is not None  # for now
    monkeypatch.setattr(background, "GRACE", -1)
    for reader in (store, pickle.loads(pickle.dumps(store))):
        with pytest.raises(
            UserError, match=r"maker of neighbours is gone: its process ended \(killed by SIGKILL\); on"
        ):
            reader.get(data.keys[0])
    loader = DataLoader(Reading(store, list(data.keys)), num_workers=1, multiprocessing_context="fork")
    with pytest.raises(UserError, match="maker of neighbours is gone"):
        list(loader)


SCRIPT = """
import torch
from pipeline import BackgroundAugmenter
from pipeline.hooks.dataset import AugmentedDataset
from pipeline.hooks.live import background
from pipeline.hooks.live.source import InMemory

def train():
    data = InMemory(keys=["a"], pixels=torch.zeros(1, 3, 8, 8, dtype=torch.uint8), labels=torch.zeros(1).long())
    operator = {{"name": "boomerang", "t_boom": 0.4, "steps": 2}}
    with BackgroundAugmenter(operator, {model!r}, data, {folder!r}, capacity=1) as store:
        print("trained", store.status().state)

{last}
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_so_at_once(model: Path, tmp_path: Path) -> None:
    """As a user starts it; nothing is trained, and the second script is sound."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(model=str(model), folder=str(tmp_path / "store"), last="train()"))
    run = partial(subprocess.run, [sys.executable, str(script)], capture_output=True, text=True, check=False)
    wrong = run()
    line = script.read_text().splitlines().index("train()") + 1
    assert f"script.py, line {line}: BackgroundAugmenter starts a process" in wrong.stderr.splitlines()[-1]
    assert "trained" not in wrong.stdout
    assert not (tmp_path / "store").exists()
    guarded = 'if __name__ == "__main__":\n    train()'
    script.write_text(SCRIPT.format(model=str(model), folder=str(tmp_path / "store"), last=guarded))
    assert run().stdout == "trained starting\n"


@pytest.mark.parametrize(
    ("source", "guarded"),
    [
        ("if __name__ == '__main__':\n    go()", True),
        ("if '__main__' == __name__ and ready():\n    for i in a:\n        go()", True),
        ("if __name__ == '__main__':\n    pass\ngo()", False),
        ("if ready():\n    go()", False),
        ("no python at all\ngo()", True),
    ],
)
def test_what_is_a_main_guard(tmp_path: Path, source: str, guarded: bool) -> None:
    (tmp_path / "script.py").write_text(source)
    assert is_guarded(tmp_path / "script.py", len(source.splitlines())) == guarded


def test_a_maker_that_can_make_nothing_says_why(start: Start, tmp_path: Path) -> None:
    members = [("a.png", b"no image"), ("a.cls", b"0"), ("b.png", builders.picture(0)), ("b.cls", b"99")]
    source = builders.tar(tmp_path / "bad.tar", members)
    store = start(data=WebDatasetInput(urls=str(source)))
    assert store.get("a") is None
    status = until(store, lambda status: status.state == "crashed")
    assert status.error == "no neighbour could be made of 2 samples (bad/b: label 99; the model knows 0 to 2)"
    assert status.refused == 2


def test_the_maker_ends_with_its_block_also_after_an_error(augmenter: Any) -> None:
    with pytest.raises(ZeroDivisionError), augmenter() as store:  # noqa: PT012
        pid = store.status().pid
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert store.status().state == "stopped"
    assert store.status().error is None


def abandon(augmenter: BackgroundAugmenter, send: Any) -> None:
    with augmenter as store:
        send.send(store.status().pid)
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_maker_ends_with_a_killed_training(augmenter: Any) -> None:
    receive, send = multiprocessing.Pipe(duplex=False)
    training = multiprocessing.get_context("fork").Process(target=abandon, args=(augmenter(), send))
    training.start()
    assert receive.poll(30)
    maker, end = Path(f"/proc/{receive.recv()}/stat"), time.monotonic() + 30
    training.join()
    while maker.exists() and maker.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)
    with augmenter() as store:  # and its store goes on
        until(store, lambda status: status.made >= COUNT)


def test_the_salt_decides_the_pixels_and_is_nowhere(
    augmenter: Any, data: InMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    salt = "a salt that nobody knows"
    (tmp_path / "salt").write_text(salt)
    with augmenter() as public, augmenter(folder=tmp_path / "own", salt_file=str(tmp_path / "salt")) as own:
        for store in (public, own):
            status = until(store, lambda status: status.made == COUNT)
            assert salt.encode() not in Path(f"/proc/{status.pid}/cmdline").read_bytes()
        assert public.get(data.keys[0]).tobytes() != own.get(data.keys[0]).tobytes()
    for file in (tmp_path / "own").rglob("*"):
        assert file.is_dir() or salt.encode() not in file.read_bytes()


# ---- what is refused


def test_a_store_from_another_configuration_is_refused(augmenter: Any, data: InMemory, tmp_path: Path) -> None:
    with augmenter():
        pass
    changed = InMemory(keys=data.keys, pixels=data.pixels, labels=data.labels.flip(0))
    (tmp_path / "salt").write_text("another salt, of enough bytes")
    for part, changes in {
        "operator": {"operator": {"name": "boomerang", "t_boom": 0.5, "steps": 2}},
        "data": {"data": changed},
        "salt": {"salt_file": str(tmp_path / "salt")},
        "capacity": {"capacity": 3},
    }.items():
        with pytest.raises(UserError, match=rf"store from another configuration \({part} changed\)"):
            augmenter(**changes).__enter__()
    facts = json.loads((tmp_path / "store" / "store.json").read_text())
    assert set(facts) == {"operator", "model", "data", "capacity", "salt", "code"}


def test_a_second_maker_is_refused(start: Start, augmenter: Any) -> None:
    start()
    with pytest.raises(UserError, match="another BackgroundAugmenter is writing to this store"):
        augmenter().__enter__()


def test_a_folder_of_something_else_is_left_alone(augmenter: Any, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and holds no store"):
        augmenter().__enter__()
    assert [file.name for file in (tmp_path / "store").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"on_failure": "pray"}, "on_failure is 'pray'; raise and originals are allowed"),
        ({"capacity": 0}, "capacity is 0; at least 1 is needed"),
        ({"operator": {"name": "boomerang", "t_bom": 0.1}}, "operator.*t_bom"),
        ({"operator": {"name": "inpaint"}}, "needs mask"),
        ({"device": "cuda:99"}, "cuda:99' is not available here"),
        ({"device": "quantum"}, "quantum' is unknown"),
        ({"salt_file": "nowhere"}, "cannot read 'nowhere'"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(
    augmenter: Any, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        augmenter(**changes).__enter__()
    assert not (tmp_path / "store").exists()


def test_bad_arrays_are_refused(augmenter: Any, data: InMemory, model: Path) -> None:
    keys, pixels, labels = data.keys, data.pixels, data.labels
    for bad, sentence in (
        (InMemory(keys=keys, pixels=pixels, labels=labels + 1), "a label is 3; the model knows 0 to 2"),
        (InMemory(keys=keys, pixels=pixels.float(), labels=labels), "data.pixels are torch.float32"),
        (InMemory(keys=keys, pixels=pixels[:, :, :4], labels=labels), r"\[12, 3, 4, 8\]; the model takes"),
        (InMemory(keys=keys[1:], pixels=pixels, labels=labels), "11 keys, 12 images and 12 labels"),
        (InMemory(keys=["a"] * COUNT, pixels=pixels, labels=labels), "only 1 of 12 are different"),
    ):
        with pytest.raises(UserError, match=sentence):
            augmenter(data=bad).__enter__()
    with pytest.raises(UserError, match="batch_size is auto"):
        augmenter(model=ModelConfig(path=str(model), batch_size="auto")).__enter__()


def test_an_empty_head_is_never_read(tmp_path: Path) -> None:
    heads, _ = slots(tmp_path).open("r")
    assert (heads["reads"] == EMPTY).all()
    assert (heads["key"] == 0).all()
