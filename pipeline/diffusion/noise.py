"""The one source of randomness: noise is a function of (secret salt, key, operator, copy), and of nothing else.

Batch size, order, workers, device and crashes can't change it. Drawn on the CPU in float32, then moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class KeyedNoise:
    """One generator for each row of a batch; every call draws the next standard normal noise of each."""

    def __init__(self, salt: bytes, keys: Sequence[str], operator: str, copy: int) -> None:
        self._seeds = [_seed(salt, key, operator, str(copy)) for key in keys]
        self._generators = [torch.Generator().manual_seed(seed) for seed in self._seeds]

    def __call__(self, like: Tensor) -> Tensor:
        """Draws standard normal noise in the shape of `like [B, ...]`, in float32, and brings it to its type and
        device.
        """
        noise = torch.empty(like.shape, dtype=torch.float32)
        for row, generator in zip(noise, self._generators, strict=True):
            row.normal_(generator=generator)
        return noise.to(like)

    def uniform(self) -> Tensor:
        """One number in [0, 1) for each row, float64 `[B]`; always the same, and apart from the noise."""
        draws = [int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest()) for seed in self._seeds]
        return torch.tensor([draw / 2**64 for draw in draws], dtype=torch.float64)


def _seed(salt: bytes, *parts: str) -> int:
    """64 bits that nobody can compute without the salt. Parts are length-prefixed: ("ab", "c") ≠ ("a", "bc")."""
    digest = hashlib.blake2b(key=hashlib.blake2b(salt).digest(), digest_size=8)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return int.from_bytes(digest.digest(), "big") >> 1  # manual_seed takes what fits an int64
