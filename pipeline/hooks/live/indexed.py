"""The originals of an indexed data set, such as those of torchvision and Hugging Face, for the maker to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.hooks.contents import content_of, label_of, picture_of
from pipeline.hooks.items import Key, has_key, key_of, label_field
from pipeline.hooks.live.source import Original
from pipeline.media.fitting import framed
from pipeline.media.opening import Undecodable
from pipeline.media.rules import PixelRules

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

PROBED = 64
"""Items that tell one data set from another."""


@dataclass(frozen=True, kw_only=True)
class IndexedSource:
    """The originals of a data set, brought to `size` (height, width) by `rules`.

    Their keys are those that `AugmentedDataset` finds with the same `key`: by default the content of each image.
    """

    data: Any
    key: Key
    size: tuple[int, int]
    rules: PixelRules
    known: list[tuple[str, int | None]] = field(default_factory=list)
    """Key and label of each item, from the first pass on."""

    def __call__(self) -> Iterator[Original]:
        """Yields the originals in one pass; in later ones, items whose neighbours are there are not loaded again."""
        for index in range(len(self.data)):
            item = None
            if index == len(self.known):
                item = self.data[index]
                self.known.append((self._key(item, index), label_of(item)))
            yield Original(*self.known[index], partial(self._pixels, index, item))

    @property
    def by_content(self) -> bool:
        """Whether its keys are contents."""
        return not has_key(self.key, self.data[0])

    def facts(self) -> Any:
        """JSON that differs where the data does, as far as some of its items tell.

        Raises `UserError` for a data set without items, or whose items cannot be told.
        """
        count = len(self.data)
        if not count:
            raise UserError("data has no items")
        if self.by_content:
            first, again = (content_of(self.data[0]) for _ in range(2))
            if first is None:
                raise UserError(
                    "data: an item begins with a PIL image, or uint8 or floats in [0, 1], or is a dict with one; or "
                    "say with key how items are called"
                )
            if first != again:
                raise UserError("data gives other pixels each time: give it without transforms, and those afterwards")
        items = ((i, self.data[i]) for i in sorted({i * count // PROBED for i in range(PROBED)}))
        return [count, [[self._key(item, i), content_of(item), label_of(item)] for i, item in items], self.rules.fit]

    def class_names(self) -> Sequence[str] | None:
        """The names of its classes: `classes` of torchvision's data sets, or the feature of Hugging Face's."""
        data = self.data
        while not hasattr(data, "classes") and hasattr(data, "dataset"):  # a subset
            data = data.dataset
        if isinstance(features := getattr(data, "features", None), Mapping):
            return getattr(features.get(label_field(features) or ""), "names", None)
        return getattr(data, "classes", None)

    def _key(self, item: Any, index: int) -> str:
        if has_key(self.key, item):
            return key_of(self.key, item, index)
        return content_of(item) or ""

    def _pixels(self, index: int, item: Any) -> Pixels8:
        picture = picture_of(self.data[index] if item is None else item)
        if picture is None:
            raise Undecodable("its image is no PIL image, and no uint8 or floats in [0, 1]")
        return framed(picture, 1, self.size, self.rules.fit)[0]
