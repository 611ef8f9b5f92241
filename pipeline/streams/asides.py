"""Shards that a job has given up for now, because they end every process that touches them: aside/NAME.json."""

from __future__ import annotations

from pydantic import Field

from pipeline.media.versioned import Text, Versioned


class Aside(Versioned):
    """The record aside/NAME.json: a shard that was set aside."""

    shard: Text
    tries: int = Field(ge=1)
    """How often a process that held it died."""
    reason: Text
    """How the last one died, as a part of a sentence."""
