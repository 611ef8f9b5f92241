"""A training loop in plain PyTorch; another process makes fresh neighbours of its images while it runs.

python scripts/examples/plain_pytorch.py --steps 200
"""

from __future__ import annotations

import argparse
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
import webdataset as wds
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import pil_to_tensor

from pipeline import AugmentedDataset, BackgroundAugmenter
from pipeline.assets import resolve
from pipeline.streams import WebDatasetInput
from training.classifier.judge import SmallCNN

SHARDS = "embedded:fashion_mnist/sample/t10k-*.tar.gz"
MODEL = "embedded:fashion_mnist/model"
OPERATOR = {"name": "boomerang", "t_boom": 0.4, "steps": 20}


def as_tensors(item: dict[str, Any]) -> tuple[Tensor, int]:
    """After the image was swapped: float `[3, 28, 28]` in [-1, 1], and the label."""
    return pil_to_tensor(item["png"].convert("RGB")).float() / 127.5 - 1, item["cls"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--store", type=Path, default=Path("neighbours"), help="folder for neighbours")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)  # leaves a core to the maker
    files = sorted(str(file) for file in Path(resolve(SHARDS)).parent.glob("t10k-*.tar.gz"))
    images = list(wds.WebDataset(files, shardshuffle=False).decode("pil"))  # dicts with __key__, png, cls
    network = SmallCNN(classes=10)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)

    with BackgroundAugmenter(
        OPERATOR, MODEL, WebDatasetInput(urls=(SHARDS,)), arguments.store, capacity=len(images), class_map="numbers"
    ) as store:
        dataset = AugmentedDataset(images, store, p=0.5, transform=as_tensors)
        loader = DataLoader(dataset, batch_size=64, shuffle=True, drop_last=True)

        def batches() -> Any:
            for epoch in count():
                dataset.set_epoch(epoch)
                yield from loader

        for step, (pixels, labels) in enumerate(islice(batches(), arguments.steps), start=1):
            loss = nn.functional.cross_entropy(network(pixels), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if step % 20 == 0 or step == arguments.steps:
                print(f"step {step}  loss {loss.item():.3f}  {dataset.counts}", flush=True)
    print(store.status())


if __name__ == "__main__":  # the maker is a process that imports this file: without the guard, it would run it
    main()
