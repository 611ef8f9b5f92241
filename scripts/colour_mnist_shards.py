"""MNIST's original idx files → colour-MNIST in WebDataset shards, reproducible byte for byte.

Each digit is painted in a colour around one of six hues, on black. The colour is a function of (split, row, copy).
The training split holds every digit three times, in three colours: twice labelled with its digit (0–9), once with
its colour (10–15). So one class-conditional denoiser learns both conditions, which composition then combines.
The test split holds every digit once, labelled with its digit.

    python scripts/colour_mnist_shards.py ../shared/data/mnist train runs/colour_mnist --shards 12
    python scripts/colour_mnist_shards.py ../shared/data/mnist t10k runs/colour_mnist --shards 2 --images 2000

Data: Yann LeCun, Corinna Cortes, Christopher Burges; commonly given as CC BY-SA 3.0.
"""

import argparse
import colorsys
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from fashion_mnist_shards import add_sample, read_idx
from PIL import Image

COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")
"""At hue 0, 1/6, … 5/6."""
JITTER = 0.06
"""Largest distance of a hue from its colour's; the colours lie 1/6 apart."""
COPIES = {"train": ("digit", "digit", "colour"), "t10k": ("digit",)}


def draw_colour(rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """Index into `COLOURS`, and an RGB colour `[3]` in [0, 1] of about that hue, strong and bright."""
    index = int(rng.integers(len(COLOURS)))
    hue = (index / len(COLOURS) + rng.uniform(-JITTER, JITTER)) % 1
    return index, np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.75, 1), rng.uniform(0.75, 1)))


def paint(grey: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """uint8 `[H, W]` → uint8 `[H, W, 3]`: the strokes in `colour`, on black."""
    return np.rint(grey[..., None] * colour).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("split", choices=tuple(COPIES))
    parser.add_argument("output", type=Path)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--images", type=int, help="the first N digits, all by default")
    args = parser.parse_args()
    images = read_idx(args.source / f"{args.split}-images-idx3-ubyte.gz")[: args.images]
    digits = read_idx(args.source / f"{args.split}-labels-idx1-ubyte.gz")[: args.images]
    args.output.mkdir(parents=True, exist_ok=True)
    seed = list(COPIES).index(args.split)
    for shard, rows in enumerate(np.array_split(np.arange(len(images)), args.shards)):
        with tarfile.open(args.output / f"{args.split}-{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows:
                for copy, labelled in enumerate(COPIES[args.split]):
                    index, colour = draw_colour(np.random.default_rng([seed, row, copy]))
                    png = io.BytesIO()
                    Image.fromarray(paint(images[row], colour)).save(png, "PNG")
                    label = int(digits[row]) if labelled == "digit" else 10 + index
                    facts = {"digit": int(digits[row]), "colour": COLOURS[index], "rgb": colour.round(4).tolist()}
                    members = {"png": png.getvalue(), "cls": str(label).encode(), "json": json.dumps(facts).encode()}
                    add_sample(tar, f"{args.split}-{row:05d}-{copy}", members)


if __name__ == "__main__":
    main()
