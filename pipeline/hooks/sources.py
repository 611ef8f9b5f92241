"""What a store knows of the images that its neighbours were made of, and the check that items are those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pipeline.errors import UserError
from pipeline.hooks.contents import content_of, label_of

CHECKED, SAMPLED = 256, 64
"""Each process checks so many items at first, and then one of so many."""
ADVICE = (
    "an index means another image once a data set is shuffled, split or filtered; leave key out, and images are found "
    "by their content, or name a field that goes with the image, as in key='{id}'"
)


class Source(NamedTuple):
    """The image that neighbours were made of."""

    content: str | None
    """Hash of its content, see `content_hash`; a store may keep the beginning only."""
    label: int | None
    """Number of its class, as its data set says."""


@runtime_checkable
class Sourced(Protocol):
    """A store that may know its sources."""

    @property
    def knows_contents(self) -> bool:
        """Whether it does; of people that a job makes anonymous, nothing is kept that would tell their photographs."""
        ...

    def source(self, key: str) -> Source | None:
        """The source of that key; None where it is unknown."""
        ...

    def keys_of(self, content: str) -> Sequence[str]:
        """The keys of all sources with that content, given its whole hash."""
        ...


class SourceCheck:
    """Checks the first items and then samples, for each process apart."""

    def __init__(self, store: Sourced) -> None:
        self._store, self._seen = store, 0

    def __call__(self, item: Any, key: str) -> None:
        """Raises `UserError` where `item` is not the image that the neighbours of `key` were made of.

        Its content tells, where the store knows it under any key. Else the item was changed before, such as scaled, and
        its label must be that of the source.
        """
        self._seen += 1
        if self._seen > CHECKED and self._seen % SAMPLED:
            return
        content = content_of(item)
        known = self._store.keys_of(content) if content else ()
        source = self._store.source(key)
        if source is None or (content and source.content and content.startswith(source.content)):
            return
        if known:
            raise UserError(
                f"the item with the key {key!r} is the image that the store knows as {known[0]!r}: {ADVICE}"
            )
        label = label_of(item)
        if None not in (label, source.label) and label != source.label:
            raise UserError(
                f"the item with the key {key!r} has label {label}, and the image of that key in the store "
                f"{source.label}: {ADVICE}. Where the labels are only numbered in another way, check=False goes on"
            )


def key_by_content(store: Sourced, content: str, item: Any) -> str | None:
    """The key of a source with that content; of several, the first with the item's label. None where there is none."""
    keys = store.keys_of(content)
    label = label_of(item)
    alike = (key for key in keys if (source := store.source(key)) is not None and source.label == label)
    return next(alike, keys[0] if keys else None)
