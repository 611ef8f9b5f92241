"""Fashion-MNIST's original idx files → WebDataset shards, reproducible byte for byte.

PNG and cls members, gzipped because tar pads small files.

    python scripts/fashion_mnist_shards.py ../shared/data/fashion_mnist train runs/fashion_mnist --shards 12
    python scripts/fashion_mnist_shards.py ../shared/data/fashion_mnist t10k pipeline/assets/fashion_mnist/sample \
        --shards 4 --images 1000

Data: Zalando Research, MIT licence.
"""

import argparse
import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def read_idx(file: Path) -> np.ndarray:
    """An idx file of unsigned bytes: two zeros, type 8, the number of dimensions, the sizes, the data."""
    data = gzip.decompress(file.read_bytes())
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def add_sample(tar: tarfile.TarFile, key: str, members: dict[str, bytes]) -> None:
    """One file for each member, by extension, without time and owner."""
    for extension, content in members.items():
        info = tarfile.TarInfo(f"{key}.{extension}")
        info.size, info.mode = len(content), 0o644
        tar.addfile(info, io.BytesIO(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("split", choices=("train", "t10k"))
    parser.add_argument("output", type=Path)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--images", type=int, help="the first N, all by default")
    args = parser.parse_args()
    images = read_idx(args.source / f"{args.split}-images-idx3-ubyte.gz")[: args.images]
    labels = read_idx(args.source / f"{args.split}-labels-idx1-ubyte.gz")[: args.images]
    args.output.mkdir(parents=True, exist_ok=True)
    for shard, rows in enumerate(np.array_split(np.arange(len(images)), args.shards)):
        file = gzip.GzipFile(args.output / f"{args.split}-{shard:05d}.tar.gz", "wb", mtime=0)
        with file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows:
                png = io.BytesIO()
                Image.fromarray(images[row]).save(png, "PNG", optimize=True)
                members = {"png": png.getvalue(), "cls": str(labels[row]).encode()}
                add_sample(tar, f"{args.split}-{row:05d}", members)


if __name__ == "__main__":
    main()
