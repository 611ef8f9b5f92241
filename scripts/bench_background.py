"""What a training pays for neighbours made in the background, as ratios of steps/s, in turns within one run.

    python scripts/bench_background.py                                   # two cores: one for each side
    python scripts/bench_background.py --device cuda --maker cuda        # both on one GPU
    python scripts/bench_background.py --steps 20 --repeats 1            # to see that it works

A small CNN on the embedded images, in batches of 128 from a DataLoader:

plain     without the hook
reading   half of the images from a store that is filled; its maker is stopped
filling   the same while the maker works (or waits, where it has made enough), with its share of a core
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline.hooks.dataset import AugmentedDataset
from pipeline.hooks.live.background import BackgroundAugmenter, LiveStore
from pipeline.hooks.live.source import InMemory
from pipeline.media.pixels import decode
from pipeline.media.records import Sample
from pipeline.streams import WebDatasetInput
from training.classifier.judge import SmallCNN

SAMPLE = "embedded:fashion_mnist/sample/t10k-*.tar.gz"
MODEL = "embedded:fashion_mnist/model"
OPERATOR = {"name": "boomerang", "t_boom": 0.4, "steps": 20}
BATCH, WARM_UP = 128, 5
ARMS = ("plain", "reading", "filling")


class Images(Dataset[tuple[Tensor, int]]):
    def __init__(self, data: InMemory) -> None:
        self.pixels, self.labels = data.pixels, data.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index], self.labels[index]


def embedded_images() -> InMemory:
    pixels, labels = [], []
    for shard in WebDatasetInput(urls=(SAMPLE,)).open().shards:
        for sample in shard.read():
            if isinstance(sample, Sample):
                pixels.append(torch.from_numpy(decode(sample.image)[0].copy()).permute(2, 0, 1))
                labels.append(sample.label or 0)
    keys = [f"{i:05d}" for i in range(len(labels))]
    return InMemory(keys=keys, pixels=torch.stack(pixels), labels=torch.tensor(labels))


class Training:
    def __init__(self, device: str) -> None:
        self.device, self.network = device, SmallCNN(10).to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters())

    def seconds(self, dataset: Dataset[Any], steps: int, workers: int) -> float:
        """For `steps` steps, after some to warm up."""
        batches = endless(DataLoader(dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers))
        started = 0.0
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                started = self._now()
            images, labels = next(batches)
            pixels = images.to(self.device).float() / 127.5 - 1
            loss = nn.functional.cross_entropy(self.network(pixels), labels.to(self.device))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        return self._now() - started

    def _now(self) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until_filled(store: LiveStore, images: int) -> None:
    while (status := store.status()).made < images:
        if status.error:
            raise SystemExit(status.error)
        time.sleep(0.1)


def measure(
    training: Training, data: InMemory, store: LiveStore, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Steps/s of each arm, a number for each repeat, and the maker's share of a core while it was filling."""
    pid, base = store.status().pid, Images(data)
    found: dict[str, list[float]] = {name: [] for name in (*ARMS, "share")}
    try:
        for _ in range(arguments.repeats):
            for arm in ARMS:
                dataset = base if arm == "plain" else AugmentedDataset(base, store, key="{:05d}")
                os.kill(pid, signal.SIGCONT if arm == "filling" else signal.SIGSTOP)
                before, started = cpu_seconds(pid), time.perf_counter()
                seconds = training.seconds(dataset, arguments.steps, arguments.workers)
                found[arm].append(arguments.steps / seconds)
                if arm == "filling":
                    found["share"].append((cpu_seconds(pid) - before) / (time.perf_counter() - started))
    finally:
        os.kill(pid, signal.SIGCONT)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of each arm and repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="of the training")
    parser.add_argument("--maker", default="cpu", help="device of the maker")
    parser.add_argument("--threads", type=int, default=1, help="of each side")
    parser.add_argument("--workers", type=int, default=0, help="of the data loader")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    data, training = embedded_images(), Training(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        augmenter = BackgroundAugmenter(
            OPERATOR, MODEL, data, folder, capacity=2 * len(data.keys), device=arguments.maker,
            threads=arguments.threads, class_map="numbers",
        )  # fmt: skip
        with augmenter as store:
            until_filled(store, len(data.keys))
            made, started = store.status().made, time.perf_counter()
            figures = measure(training, data, store, arguments)
            rate = (store.status().made - made) / (time.perf_counter() - started)
            status = store.status()
    ratios = {arm: [a / b for a, b in zip(figures[arm], figures["plain"], strict=True)] for arm in ARMS[1:]}
    gpu = torch.cuda.get_device_name() if arguments.device != "cpu" else platform.machine()
    print(f"{os.cpu_count()} cores, {gpu}; torch {torch.__version__}; {arguments.steps} steps × {arguments.repeats}")
    print(f"plain              {statistics.median(figures['plain']):8.2f} steps/s")
    for arm, values in ratios.items():
        print(f"{arm} / plain    {statistics.median(values):8.3f}   ({min(values):.3f} to {max(values):.3f})")
    print(f"maker              {statistics.median(figures['share']):8.2f} of a core, {rate:.1f} neighbours/s")
    print(f"store              {status.read} read, {status.again} of them again, {status.missing} missing")
    if arguments.json:
        content = {"machine": gpu, "cores": os.cpu_count(), "torch": torch.__version__, "ratios": ratios, **figures}
        options = {"steps": arguments.steps, "device": arguments.device, "maker": arguments.maker}
        arguments.json.write_text(json.dumps(content | options | {"threads": arguments.threads}, indent=1) + "\n")


if __name__ == "__main__":
    main()
