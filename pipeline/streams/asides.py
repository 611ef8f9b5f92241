"""What a job remembers of processes that died: shards that it has set aside, and that a run ended without a word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field

from pipeline.media.versioned import Text, Versioned
from pipeline.streams.store import Store

ASIDE, MARK = "aside", "running.json"
"""The folder of shards that are set aside, and the file that is there while a run is at work, or was killed."""


class Aside(Versioned):
    """The record aside/NAME.json: a shard that was given up for now, because it ends every process that touches it."""

    shard: Text
    tries: int = Field(ge=1)
    """How often a process that held it died."""
    reason: Text
    """How the last one died, as a part of a sentence."""


class Asides:
    """The shards of a job that are set aside. Each is tried anew by the next run, and stays here until it is done."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> dict[str, Aside]:
        """What is set aside, by name. Raises `UserError` for a record that cannot be read."""
        found = dict[str, Aside]()
        for path in sorted(entry.path for entry in self._store.list(ASIDE)):
            if (content := self._store.read(path)) is not None:
                aside = Aside.from_json(content, f"{self._store.shown}/{path}")
                found[aside.shard] = aside
        return found

    def put(self, aside: Aside) -> None:
        """Sets a shard aside."""
        self._store.put(f"{ASIDE}/{aside.shard}.json", (aside.to_json(indent=1) + "\n").encode())

    def clear(self, shard: str) -> None:
        """Takes a shard back, if it is set aside."""
        self._store.delete(f"{ASIDE}/{shard}.json")


def was_killed(store: Store) -> bool:
    """Whether the last run of a job was killed, perhaps by what it was to read."""
    return store.read(MARK) is not None


@contextmanager
def marked(store: Store) -> Iterator[None]:
    """Marks a job as at work until the block ends, in whatever way but the death of this process."""
    store.put(MARK, b"{}\n")
    try:
        yield
    finally:
        store.delete(MARK)
