"""A small data set with every kind of column."""

from __future__ import annotations

import datetime
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, List, Value

from tests.streams.made import picture

FEATURES = Features(
    {
        "name": Value("string"),
        "img": Image(),
        "label": ClassLabel(names=["cat", "dog"]),
        "score": Value("float32"),
        "boxes": List(List(Value("int32"))),
        "when": Value("timestamp[us, tz=UTC]"),
        "mask": Image(),
        "raw": Value("binary"),
        "fine": ClassLabel(names=["x", "y"]),
    }
)


def row(i: int) -> dict[str, Any]:
    return {
        "name": None if i == 1 else f"näme.{i}",
        "img": {"bytes": picture(i, "jpeg" if i % 2 else "png"), "path": None},
        "label": None if i == 2 else i % 2,
        "score": float("nan") if i == 3 else i / 8,
        "boxes": [[1, 2], []] if i else None,
        "when": datetime.datetime(2020, 1, 1 + i, tzinfo=datetime.UTC),
        "mask": None if i == 0 else {"bytes": picture(100 + i), "path": "m.png"},
        "raw": b"" if i == 0 else b"\xff",
        "fine": 1,
    }


def made(rows: int = 5) -> Dataset:
    return Dataset.from_list([row(i) for i in range(rows)], features=FEATURES)
