"""What shards are called: names that stay the same when other files come and go."""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from pipeline.assets import resolve
from pipeline.errors import UserError
from pipeline.streams.names import safe_component
from pipeline.streams.remote import shown

SUFFIX = re.compile(r"(?<=[^/])(\.tar(\.\w+)?|\.tgz|\.parquet|\.arrow|\.(jsonl|ndjson|json)(\.\w+)?)$")
"""What the name of a file of samples loses."""


FIRST = "0" * 12
"""Stands in the name of a folder's first shard, so that it stays when a file is added in front."""


def shard_names(urls: Sequence[str], patterns: Sequence[str] = ()) -> list[str]:
    """One file name for each URL, safe for the file system: its path below what the patterns fix, without its suffix.

    Of `in/*/a.tar`, `in/` is fixed, so that `in/x/a.tar` is called `x-a`. A name that several files would have gets a
    hash of the URL. So no name depends on which other files there are, unless they would have the same one. Raises
    `UserError` for a URL that comes twice.
    """
    fixed = sorted({_fixed(resolve(pattern)) for pattern in patterns}, key=len, reverse=True)
    plain = [shard_name(url, fixed) for url in urls]
    times = Counter(plain)
    names = [
        name if times[name] == 1 else f"{name}-{hashlib.sha256(url.encode(errors='surrogateescape')).hexdigest()[:12]}"
        for name, url in zip(plain, urls, strict=True)
    ]
    seen = set[str]()
    for name, url in zip(names, urls, strict=True):
        place = url if "://" in url else os.path.realpath(url)
        if name in seen or place in seen:
            raise UserError(
                f"input: {shown(url)!r} is there twice, or its shard would have the name of another, {name}"
            )
        seen |= {name, place}
    return names


def read_places(*patterns: str) -> tuple[str, ...]:
    """The patterns with braces as wildcards: paths on this machine, and URLs."""
    found = dict.fromkeys(map(resolve, patterns))
    return tuple(p if "://" not in p and os.path.isfile(p) else re.sub(r"\{[^{}]*\}", "*", p) for p in found)


def cuts(keys: Sequence[str], size: int) -> list[int]:
    """The positions, 0 first, at which sorted `keys` are cut into shards of about `size`.

    A cut lies where the hash of a key is larger than those of the `(size - 1) // 2` keys before it and as many behind
    it. So what is in a shard depends on the keys nearby alone: a key more, or less, changes one shard, and rarely the
    next. Every shard has more than `(size - 1) // 2` keys, except where there are no more.
    """
    reach = (size - 1) // 2
    hashes = [hashlib.sha256(key.encode(errors="surrogateescape")).digest()[:8] for key in keys]
    found = [0]
    window = list[bytes]()
    for i, entering in enumerate(hashes):
        window.insert(bisect_left(window, entering), entering)
        if i > 2 * reach:
            del window[bisect_left(window, hashes[i - 2 * reach - 1])]
        middle = i - reach
        if middle > reach and hashes[middle] == window[-1]:
            found.append(middle)
    return found if keys else []


def cut_name(key: str) -> str:
    """The part of a shard's name that tells the key it begins with; the first shard has `FIRST`."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:12]


def _fixed(pattern: str) -> str:
    """The folder that all files of a pattern lie below."""
    plain = pattern if os.path.isfile(pattern) else re.split(r"[*?\[{]", pattern, maxsplit=1)[0]
    return plain.rpartition("/")[0]


def shard_name(url: str, fixed: Sequence[str] = ()) -> str:
    """The name of the shard in a file: its path below the first folder of `fixed` that it lies in, else its own name.

    It has no suffix, and no `/`.
    """
    path = url if "://" not in url else url.partition("?")[0]
    above = next((folder for folder in fixed if path.startswith(f"{folder}/")), path.rpartition("/")[0])
    below = path.removeprefix(above).lstrip("/")
    return safe_component(SUFFIX.sub("", below).replace("/", "-"))
