"""Trains the three classifiers that judge generated images: digit, colour, garment. Training splits only.

    python scripts/fashion_mnist_shards.py ../shared/data/fashion_mnist train runs/fashion_mnist --shards 12
    python scripts/colour_mnist_shards.py ../shared/data/mnist train runs/colour_mnist --shards 12
    python scripts/train_judges.py runs/judges

A tenth of the training digits (garments) is held out to report the accuracy; the test images are never read.
"""

import argparse
import json
from pathlib import Path

import torch

from pipeline.media.pixels import decode
from pipeline.media.records import Sample
from pipeline.streams.shards import WebDatasetInput
from training.classifier.judge import evaluate, save_classifier, train_classifier

COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")


def read(urls: str, keep: str) -> list[Sample]:
    shards = WebDatasetInput(urls=(urls,), label="cls").open().shards
    return [s for shard in shards for s in shard.read() if isinstance(s, Sample) and s.key.endswith(keep)]


def stack(samples: list[Sample]) -> torch.Tensor:
    """uint8 `[N, 3, H, W]`"""
    return torch.stack([torch.from_numpy(decode(s.image)[0].copy()).permute(2, 0, 1) for s in samples])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=float, default=3)
    args = parser.parse_args()
    digits = read("runs/colour_mnist/train-*.tar", "-0")  # each digit once
    garments = read("runs/fashion_mnist/train-*.tar.gz", "")
    facts = [json.loads(s.members["json"]) for s in digits]
    labels = {
        "digit": torch.tensor([fact["digit"] for fact in facts]),
        "colour": torch.tensor([COLOURS.index(fact["colour"]) for fact in facts]),
        "garment": torch.tensor([s.label for s in garments]),
    }
    pixels = {"digit": stack(digits), "garment": stack(garments)}
    pixels["colour"] = pixels["digit"]
    accuracy = {}
    for name, truth in labels.items():
        images, cut = pixels[name], len(truth) * 9 // 10
        epochs = args.epochs / 6 if name == "colour" else args.epochs
        network = train_classifier(images[:cut], truth[:cut], epochs=epochs)
        accuracy[name] = (evaluate(network, images[cut:]).argmax(1) == truth[cut:]).float().mean().item()
        save_classifier(network, args.output / f"{name}.safetensors")
        print(f"{name}: {accuracy[name]:.4f} on {len(truth) - cut} held-out training images")
    (args.output / "accuracy.json").write_text(json.dumps(accuracy, indent=2) + "\n")


if __name__ == "__main__":
    main()
