"""Splits of a data set: which name means which, and names of shards in which `datasets` finds them again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

KEYWORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "dev": "validation", "val": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""The split that a word in the name of a file or folder stands for, as `datasets` has it."""
ALONE = re.compile(rf"(?<![^-._ 0-9])({'|'.join(sorted(KEYWORDS, key=len, reverse=True))})(?![^-._ 0-9])")
"""Such a word, next to nothing but digits, blanks, `-`, `_` and dots."""


IMAGES = re.compile(r"(^|[-_])(images?|imgs?|photos?|pictures?|set|data)([-_]|$)")
"""A word beside that of a split, such as in `train_images`."""


def is_split(folder: str) -> bool:
    """Whether a folder is called like a split, in upper or lower case: `Train`, `val2017`, `test_images`."""
    name = folder.lower()
    return IMAGES.sub("", re.sub(r"[-_]?[0-9]+$", "", name)) in KEYWORDS and bool(splits_in(name))


def splits_in(name: str) -> set[str]:
    """The splits that `datasets` takes a file or folder of this name for, without its extension."""
    return {KEYWORDS[word] for word in ALONE.findall(name)}


def names_in_split(split: str, names: Sequence[str]) -> list[str]:
    """The names of shards of one split of several, `SPLIT-NAME`; they stay as they are where all begin with the split.

    Words that mean a split are in lower case, as `datasets` knows them. Where a name would be taken for another split,
    too, a hash stands in for it.
    """
    split = split.lower() if is_split(split) else split
    prefix = "" if all(name.startswith(f"{split}-") for name in names) else f"{split}-"
    return [
        name if splits_in(name) <= (splits_in(split) or {split}) else f"{split}-{_digest(name)}"
        for name in (prefix + name for name in names)
    ]


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:12]
