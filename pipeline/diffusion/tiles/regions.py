"""What a picture is cut into: tables of pixel numbers, for any size that divides (2411.15925). Numpy only.

A pixel's number is y·W + x; in several pictures side by side, H·W for each picture before it comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.media.provenance import Details
from pipeline.section import Section

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Tiles of one shape: each may take the place of any other, moved by one of the symmetries of the shape."""

    pixels: Ints
    """The pixel at each of m positions of n tiles, `[n, m]`."""
    symmetries: Ints
    """G symmetries, `[G, m]`: g puts what was at `symmetries[g, p]` of a tile to p; the first does nothing."""


class Cut(Section):
    """How a picture is cut. A number n is n × n blocks; a name is that shape."""

    shape: Literal["blocks", "irregular", "pixels", "rings"] = "blocks"
    """`irregular`: interlocking shapes, all alike, that wrap around the edges; `rings`: concentric, each rolls along
    itself."""
    count: int | None = Field(default=None, ge=1)
    """How many blocks are on each side of the picture, or how many rings in all (default: all one pixel wide)."""
    flips: bool = False
    """Whether tiles may be mirrored."""
    turns: bool = False
    """Whether tiles may be turned by quarters."""
    seed: int = Field(default=0, ge=0)
    """The seed of the irregular shape."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, int):
            return {"count": value}
        return {"shape": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _options_fit_the_shape(self) -> Cut:
        if (self.count is None) != (self.shape == "pixels") and self.shape != "rings":
            raise ValueError(f"count, the tiles on each side, belongs to blocks and irregular; shape is {self.shape}")
        if self.shape in ("irregular", "pixels") and (self.flips or self.turns):
            raise ValueError(f"flips and turns map blocks onto themselves, not {self.shape} tiles")
        if self.shape == "rings" and self.turns:
            raise ValueError("rings roll by any angle already, quarter turns included: leave out turns")
        if self.seed and self.shape != "irregular":
            raise ValueError(f"seed belongs to the irregular shape; shape is {self.shape}")
        return self

    def __call__(self, size: tuple[int, int]) -> tuple[Tiles, ...]:
        """The tiles of a picture of `size` (H, W): every pixel in exactly one. Tiles of a group are of one shape.

        Raises `ValueError` where the size does not divide.
        """
        if self.shape == "rings":
            return rings(size, self.count, flips=self.flips)
        height, width = size
        across = self.count or max(size)
        if self.shape != "pixels" and (height % across or width % across):
            raise ValueError(f"{across} × {across} tiles don't divide an image of {height}×{width}")
        h, w = (1, 1) if self.shape == "pixels" else (height // across, width // across)
        if self.turns and h != w:
            raise ValueError(f"turns need square tiles, and {across} × {across} of {height}×{width} are {h}×{w}")
        if self.shape == "irregular":
            shape = wobbly(size, (h, w), self.seed)
        else:
            shape = np.stack(np.divmod(np.arange(h * w), w), axis=-1)
        corners = np.stack(np.meshgrid(np.arange(0, height, h), np.arange(0, width, w), indexing="ij"), axis=-1)
        y, x = np.moveaxis((corners.reshape(-1, 1, 2) + shape) % size, -1, 0)
        return (Tiles(pixels=y * width + x, symmetries=block_symmetries(h, w, flips=self.flips, turns=self.turns)),)


def block_symmetries(h: int, w: int, *, flips: bool, turns: bool) -> Ints:
    """All symmetries of a block, `[G, h·w]`, each once. The identity is first, as the smallest permutation."""
    grid = np.arange(h * w).reshape(h, w)
    turned = [np.rot90(grid, k) for k in (range(4) if turns else [0])]
    flipped = [f for g in turned for f in ((g, g[::-1], g[:, ::-1], g[::-1, ::-1]) if flips else (g,))]
    return np.unique([f.ravel() for f in flipped], axis=0)


def wobbly(size: tuple[int, int], step: tuple[int, int], seed: int) -> Ints:
    """The m pixels, `[m, 2]` (y, x), of the tile at the corner of a torus that is cut along wavy lines.

    The tile of a pixel is (y' // h, (x + g(y' mod h)) // w), y' = y + f(x mod w). A step by h or w leads from tile to
    tile, whatever the waves f and g: all are translates of one. Of small tiles, a pixel may hang on by its corner.
    """
    rng = np.random.default_rng(seed)

    def wave(period: int) -> Ints:
        """Two harmonics with phases from the seed, as high as a quarter of the tile."""
        t = np.arange(period)[:, None] / period
        waves = np.sin(2 * np.pi * (t * [1, 2] + rng.random(2))) @ [1.0, 0.6]
        return np.round(waves / np.abs(waves).max() * min(step) / 4).astype(np.int64)

    (height, width), (h, w) = size, step
    y, x = np.mgrid[:height, :width]
    y = y + wave(w)[x % w]
    x = x + wave(h)[y % h]
    return np.argwhere((y // h % (height // h) == 0) & (x // w % (width // w) == 0))


def rings(size: tuple[int, int], count: int | None, *, flips: bool) -> tuple[Tiles, ...]:
    """Square rings, the outermost first, each a group of its own. Its symmetries are rolls by any step of its outer
    edge (the lines within follow, each by the same angle); `flips`: mirrored, too. A quarter turn is one of them.
    """
    lines = outlines(size)
    wide, rest = divmod(len(lines), count or len(lines))
    if rest:
        raise ValueError(f"{count} rings don't divide the {len(lines)} that an image of {size[0]}×{size[1]} has")
    groups = []
    for first in range(0, len(lines), wide):
        ring = lines[first : first + wide]
        edge, starts = len(ring[0]), np.cumsum([0, *map(len, ring[:-1])])
        symmetries = [
            np.concatenate(
                [
                    start + (way * np.arange(len(line)) + round(roll * len(line) / edge)) % len(line)
                    for start, line in zip(starts, ring, strict=True)
                ]
            )
            for way in ([1, -1] if flips else [1])
            for roll in range(edge)
        ]
        groups.append(Tiles(pixels=np.concatenate(ring)[None], symmetries=np.stack(symmetries)))
    return tuple(groups)


def outlines(size: tuple[int, int]) -> list[Ints]:
    """The pixels of each square line around the centre, clockwise from its corner, the outermost first."""
    left = np.arange(size[0] * size[1]).reshape(size)
    lines = []
    while left.size:
        top, left = left[0], left[1:]
        line = [top]
        for _ in range(3):
            left = np.rot90(left)
            if left.size:
                line.append(left[0])
                left = left[1:]
        left = np.rot90(left)
        lines.append(np.concatenate(line))
    return lines


def total(tiles: Sequence[Tiles]) -> int:
    """Tiles in one picture."""
    return sum(len(group.pixels) for group in tiles)


class Assembly(NamedTuple):
    """Pictures made of source tiles. Tiles are numbered group by group, source by source."""

    tile: Ints
    """`[B, n]`: which source tile lies at each place."""
    turn: Ints
    """`[B, n]`: the symmetry it was moved by."""


def origins(tiles: Sequence[Tiles], assembly: Assembly) -> Ints:
    """Where each pixel of an assembled picture comes from: `[B, H·W]`, pixel numbers in the sources side by side."""
    numbers, area = total(tiles), sum(group.pixels.size for group in tiles)
    origin = np.empty((len(assembly.tile), area), dtype=np.int64)
    start = 0
    for group in tiles:
        place = slice(start, start + len(group.pixels))
        source, number = np.divmod(assembly.tile[:, place], numbers)
        position = group.symmetries[assembly.turn[:, place]]
        origin[:, group.pixels] = (
            np.take_along_axis(group.pixels[number - start], position, 2) + source[..., None] * area
        )
        start = place.stop
    return origin


def to_details(cut: Cut, size: tuple[int, int], sources: Sequence[str], made: Mapping[str, Assembly]) -> list[Details]:
    """What the provenance of each row says: enough to assemble the pictures called `made` again from `sources`."""
    rows = len(next(iter(made.values())).tile)
    return [
        {
            "tiles": cut.model_dump(mode="json", exclude_defaults=True),
            "size": [*size],
            "sources": [*sources],
            "made": {
                name: {"tile": tile[row].tolist()} | ({"turn": turn[row].tolist()} if turn[row].any() else {})
                for name, (tile, turn) in made.items()
            },
        }
        for row in range(rows)
    ]


def from_details(details: Details, image: str) -> tuple[tuple[Tiles, ...], Assembly]:
    """The tiles, and the assembly of one row."""
    made = details["made"][image]
    tile = np.array([made["tile"]])
    turn = np.array([made["turn"]]) if "turn" in made else np.zeros_like(tile)
    return Cut.model_validate(details["tiles"])(tuple(details["size"])), Assembly(tile, turn)
