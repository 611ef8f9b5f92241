"""Files as dlib writes its face recognition network, with numbers of our own."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from pipeline.anonymity.faces.dlib_net import BLOCKS

Numbers = NDArray[np.floating] | NDArray[np.integer]


def packed(value: int) -> bytes:
    """dlib's: how many bytes follow, then those, the smallest first."""
    content = value.to_bytes(8, "little").rstrip(b"\0") or b"\0"
    return bytes([len(content)]) + content


def tensor(values: Numbers, version: int = 2) -> bytes:
    sizes = b"".join(packed(n) for n in (*values.shape, *[1] * (4 - values.ndim)))
    return packed(version) + sizes + struct.pack(f"<{values.size}f", *values.ravel())


def layer(parameters: Numbers, gamma_beta: Numbers) -> bytes:
    """A convolution's weights and biases, and the affine layer after it."""
    return b"\x01\x05con_4" + tensor(parameters) + b"\x01\x01\x01\x07affine_" + tensor(gamma_beta)


def whole(layers: list[bytes], head: Numbers) -> bytes:
    return b"\x01\x01" + b"".join(layers) + b"\x01\x04fc_2" + packed(128) + packed(256) + tensor(head) + b"\x01\x02"


def shapes() -> list[tuple[int, int, int]]:
    """Channels in and out and side of each convolution, in the order they run."""
    found, inwards = [(3, 32, 7)], 32
    for wide, _ in BLOCKS:
        found += [(inwards, wide, 3), (wide, wide, 3)]
        inwards = wide
    return found


def random_file(seed: int) -> bytes:
    """Random weights that keep the size of what goes through: entries of embeddings are about 1."""
    rng, layers = np.random.default_rng(seed), []
    for inwards, outwards, side in shapes():
        fan = inwards * side * side
        weights = rng.normal(size=outwards * fan) / np.sqrt(fan)
        parameters = np.concatenate([weights, 0.1 * rng.normal(size=outwards)])
        layers.append(layer(parameters, np.concatenate([np.ones(outwards), 0.1 * rng.normal(size=outwards)])))
    return whole(layers, rng.normal(size=(256, 128)) / 16)
