"""CIFAR-10 (JPEG bytes in one npz, sorted by class) → WebDataset shards in a fixed random order, byte for byte.

    python scripts/cifar10_shards.py ../shared/data/cifar10/cifar10_jpeg.npz train runs/cifar10 --shards 10
    python scripts/cifar10_shards.py ../shared/data/cifar10/cifar10_jpeg.npz test runs/cifar10 --shards 2

Shards train-00000 … 00008 are for training, train-00009 is the validation split. The images are not free to publish.
"""

import argparse
import tarfile
from pathlib import Path

import numpy as np
from fashion_mnist_shards import add_sample

SHUFFLE_SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("split", choices=("train", "test"))
    parser.add_argument("output", type=Path)
    parser.add_argument("--shards", type=int, default=1)
    args = parser.parse_args()
    with np.load(args.source) as data:
        encoded = data[f"{args.split}_jpeg"].tobytes()
        offsets, labels = data[f"{args.split}_offsets"], data[f"{args.split}_labels"]
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(labels))
    args.output.mkdir(parents=True, exist_ok=True)
    for shard, rows in enumerate(np.array_split(order, args.shards)):
        with tarfile.open(args.output / f"{args.split}-{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows:
                jpeg = encoded[offsets[row] : offsets[row + 1]]
                add_sample(tar, f"{args.split}-{row:05d}", {"jpg": jpeg, "cls": str(labels[row]).encode()})


if __name__ == "__main__":
    main()
