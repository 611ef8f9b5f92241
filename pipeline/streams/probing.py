"""What a percentile of the values in a data set is, from a few of its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from pipeline.errors import UserError
from pipeline.media.opening import Undecodable, values_of
from pipeline.media.records import Sample
from pipeline.media.rules import Percentile, PixelRules
from pipeline.streams.contract import InputStream

VALUES = 1 << 16
"""Values that are taken of one image, at most, evenly over its pixels."""


def ends_of(stream: InputStream, wanted: Percentile) -> tuple[float, float]:
    """The two values that the percentiles of a probe stand for; the same for the same data, wherever it is asked.

    The probe reads the first images of shards that lie evenly in the data set. Raises `UserError` where none of them
    has more than 8 bits, and where both values are the same.
    """
    found = list[np.ndarray]()
    for sample in _probe(stream, wanted.probe):
        try:
            values = values_of(sample.image)
        except Undecodable:
            continue
        if values is not None:
            flat = values.reshape(-1)[:: -(-values.size // VALUES)]
            found.append(flat[np.isfinite(flat)].astype(np.float64))
    if not found:
        raise UserError(
            f"image.range: no image of a probe of {wanted.probe} has more than 8 bits, so it has no percentiles; "
            "without image.range, images of 8 bits are read as they are"
        )
    low, high = (float(value) for value in np.percentile(np.concatenate(found), wanted.percentile))
    if low == high:
        raise UserError(f"image.range: both percentiles of the probe are {low:g}; give [low, high]")
    return low, high


def check_depth(samples: Sequence[Sample], rules: PixelRules) -> None:
    """Raises `UserError` where `rules` state no range and all of these samples have more than 8 bits a pixel."""
    if rules.range is not None or not samples:
        return
    ends = list[float]()
    for sample in samples:
        try:
            values = values_of(sample.image)
        except Undecodable:
            return
        if values is None:
            return
        ends += [float(values.min()), float(values.max())]
    raise UserError(
        f"image.range: all of the first {len(samples)} images have more than 8 bits a pixel (from {min(ends):g} to "
        f"{max(ends):g}), and nobody says what is black and what is white; give [low, high], "
        "{percentile: [1, 99]}, or dtype where 65535 is white"
    )


def _probe(stream: InputStream, count: int) -> Iterator[Sample]:
    shards = stream.shards
    some = [shards[i * len(shards) // min(count, len(shards))] for i in range(min(count, len(shards)))]
    for shard in some:
        samples = (sample for sample in shard.read() if isinstance(sample, Sample))
        yield from islice(samples, -(-count // len(some)))
