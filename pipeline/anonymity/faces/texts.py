"""Texts of many images without an object for each: bytes and where each text ends, in memory or memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 14
"""Texts that are read at a time by whoever reads all."""


class Texts(Sequence[str]):
    """N texts; each becomes a `str` when it is asked for."""

    def __init__(self, content: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        """`content` is UTF-8, one text after another, and `ends [N]` says where in it each ends."""
        self._content, self._ends = content, ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        number = range(len(self))[index]
        start = int(self._ends[number - 1]) if number else 0
        return decoded(self._content[start : int(self._ends[number])].tobytes())

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), BLOCK):
            ends = self._ends[first : first + BLOCK].tolist()
            content, base = self._content[start : ends[-1]].tobytes(), start
            for end in ends:
                yield decoded(content[start - base : end - base])
                start = end

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    __hash__ = None  # type: ignore[assignment]


class Names(Sequence[str | None]):
    """For each of N images one of P names, or None."""

    def __init__(self, number: NDArray[np.int64], names: Texts) -> None:
        """`number [N]` is the number of each image's name; None below 0."""
        self._number, self._names = number, names

    def __len__(self) -> int:
        return len(self._number)

    @overload
    def __getitem__(self, index: int) -> str | None: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str | None, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str | None, ...] | None:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        number = int(self._number[index])
        return None if number < 0 else self._names[number]

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    __hash__ = None  # type: ignore[assignment]


def encoded(text: str) -> bytes:
    """The bytes of a text; keys may hold what is no character."""
    return text.encode("utf-8", "surrogatepass")


def decoded(content: bytes) -> str:
    """The inverse of `encoded`."""
    return content.decode("utf-8", "surrogatepass")


def packed(texts: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Content and ends of texts, as `Texts` takes them."""
    contents = [encoded(text) for text in texts]
    ends = np.cumsum([len(content) for content in contents], dtype=np.int64)
    return np.frombuffer(b"".join(contents), np.uint8), ends


def _equal(one: Sequence[Any], other: object) -> bool:
    if not isinstance(other, Texts | Names | tuple):
        return NotImplemented
    return len(one) == len(other) and all(a == b for a, b in zip(one, other, strict=True))
