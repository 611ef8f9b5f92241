"""Processes that scan originals are replaced when they die, and a shard that ends each of them is named."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.engine import scanning_apart
from pipeline.engine.events import Event, Scanned
from pipeline.engine.scanning_apart import scan_apart
from pipeline.errors import UserError


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are copies of this process, with what it has patched."""
    those = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))
    monkeypatch.setattr("pipeline.engine.worker.multiprocessing", those)


def scan(folder: Path, monkeypatch: pytest.MonkeyPatch, poison: Callable[[str], object], **run: Any) -> list[Event]:
    """Scans three shards with stand-ins, of which `poison` may end the process."""

    def scanning(plan: Any, device: str, names: Iterable[str], seen: Callable[[int], None]) -> None:
        for name in names:
            poison(name)
            with open(folder / name, "x"):
                seen(2)

    monkeypatch.setattr(scanning_apart, "unscanned", lambda plan: ["a", "b", "c"])
    monkeypatch.setattr(scanning_apart, "scan_shards", scanning)
    monkeypatch.setattr(scanning_apart, "join_originals", lambda plan: (folder / "joined").touch())
    config = SimpleNamespace(run=SimpleNamespace(**{"tries": 2, "timeout": None, **run}))
    seen = list[Event]()
    scan_apart(SimpleNamespace(devices=("cpu", "cpu"), config=config), seen.append)  # type: ignore[arg-type]
    return seen


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_each_shard_is_scanned_once_and_all_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = tmp_path / "dead"

    def once(name: str) -> None:
        if name == "b" and not dead.exists():
            dead.touch()
            die()

    assert scan(tmp_path, monkeypatch, once) == [Scanned(2)] * 3
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c", "dead", "joined"}


def test_a_shard_that_ends_each_process_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"originals: shard b ended 2 processes \(killed by SIGKILL\); mend it"):
        scan(tmp_path, monkeypatch, lambda name: die() if name == "b" else None)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "c"}


def test_a_shard_that_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"shard b ended 1 processes \(nothing came of it in 0\.5 s \(run\.timeout\)\)"):
        scan(tmp_path, monkeypatch, lambda name: time.sleep(60) if name == "b" else None, tries=1, timeout=0.5)
