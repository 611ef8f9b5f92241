"""What happened to a job and when, as lines of JSON: appended to a file, or put in pieces where nothing is appended."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from pipeline.streams.store import Store

EVENTS = "events"
"""The name of the file, without its ending, and of the folder of pieces."""
PIECE_SECONDS = 60.0
"""How long lines wait at most before their piece is put, as long as others come; a process that is killed loses
them."""


class EventLog:
    """The log of one run."""

    def __init__(self, store: Store) -> None:
        self._store, self._lines, self._since = store, list[str](), 0.0

    def add(self, event: str, facts: Mapping[str, Any]) -> None:
        """Adds a line: the time, the event, and what is to be said of it."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
        if (local := self._store.local) is not None:
            with open(local / f"{EVENTS}.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
            return
        if not self._lines:
            self._since = time.monotonic()
        self._lines.append(json.dumps(line) + "\n")
        if time.monotonic() - self._since >= PIECE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Puts what waits. The names of pieces sort by time."""
        lines, self._lines = self._lines, []
        if lines:
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{uuid4().hex[:8]}"
            self._store.put(f"{EVENTS}/{name}.jsonl", "".join(lines).encode())
