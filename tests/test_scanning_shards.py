"""Scanning as a stage of workers: whoever comes scans what is left, and nothing is loaded where nothing is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.engine import gate, scanning
from pipeline.engine.gate import scan_originals
from pipeline.engine.scanning import join_originals, scan_shards, unscanned
from pipeline.media.rules import PLAIN
from pipeline.streams.shards import WebDatasetInput
from tests import builders
from tests.anonymity.fakes import LoadedFinder, PixelRecogniser

SHARDS, EACH = 6, 3


@dataclass
class World:
    """A job's plan, as far as scanning looks at it, and what its workers do."""

    folder: Path
    plan: Any
    loaded: int = 0
    between: Callable[[], None] = lambda: None
    """What others do whenever a worker has scanned a shard."""

    def scan(self) -> int:
        done = list[int]()

        def seen(images: int) -> None:
            done.append(images)
            self.between()

        if left := unscanned(self.plan):
            scan_shards(self.plan, "cpu", left, seen)
        return sum(done)

    def files(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (self.folder / "job" / "faces").glob("*.safetensors")}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for number in range(SHARDS):
        builders.shard(tmp_path / "in" / f"{number}.tar", EACH)
    one = PixelRecogniser("fake")
    config = SimpleNamespace(
        input=WebDatasetInput(urls=(f"{tmp_path}/in/*.tar",)), output=SimpleNamespace(path=str(tmp_path / "job")),
        anonymity=SimpleNamespace(identity=None, detector="fake", workers=0, guidance=None),
    )  # fmt: skip
    facts = SimpleNamespace(
        detector="fake", detector_weights="fake-weights", guided_by={}, recognisers=[one],
    )  # fmt: skip
    made = World(tmp_path, SimpleNamespace(config=config, size=(8, 8), rules=PLAIN, gate=facts))

    def judges_of(*_: Any) -> tuple[Any, ...]:
        made.loaded += 1
        return (SimpleNamespace(recogniser=one),)

    monkeypatch.setattr(scanning, "FaceFinder", LoadedFinder)
    monkeypatch.setattr(scanning, "judges_of", judges_of)
    monkeypatch.setattr(gate, "differentiable", lambda *_: ())
    return made


def test_workers_divide_the_shards_and_write_what_one_writes(world: World, tmp_path: Path) -> None:
    assert world.scan() == SHARDS * EACH
    alone = world.files()
    assert len(alone) == SHARDS
    assert (world.folder / "job" / "faces").stat().st_mode & 0o077 == 0
    for file in (world.folder / "job" / "faces").iterdir():
        file.unlink()
    others = list[int]()

    def other() -> None:
        world.between = lambda: None
        others.append(world.scan())

    world.between = other  # after the first shard of one worker, another does all the rest
    mine = world.scan()
    assert mine == SHARDS * EACH  # with those that were found done
    assert sum(others) >= (SHARDS - 1) * EACH
    assert world.files() == alone


def test_nothing_is_loaded_where_nothing_is_left(world: World) -> None:
    world.scan()
    assert (world.scan(), world.loaded) == (0, 1)
    join_originals(world.plan)
    assert unscanned(world.plan) == []
    finder, recognisers = LoadedFinder(), [PixelRecogniser("fake")]
    seen = list[int]()
    table = scan_originals(world.plan, finder, recognisers, seen.append)  # type: ignore[arg-type]
    assert len(table.keys) == SHARDS * EACH == sum(seen)
    for file in (world.folder / "job" / "faces").glob("?.safetensors"):
        assert file.stat().st_size
    assert (world.scan(), world.loaded) == (0, 1)
