"""A model that jobs take instead of loading one: for figures that begin after the first batch anyway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.engine import transforming


@contextmanager
def lent(model: Any) -> Iterator[None]:
    """Of jobs in this process, with one model."""
    before = transforming.load_model
    transforming.load_model = lambda config, device: model
    try:
        yield
    finally:
        transforming.load_model = before
