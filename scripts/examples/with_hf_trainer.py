"""Hugging Face `datasets` and `Trainer`, with the neighbours that a job has stored.

doppel demo                                                     # leaves a store of neighbours in demo_out
python scripts/examples/with_hf_trainer.py --store demo_out --steps 50
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Features, Image, Value
from datasets import Dataset as HFDataset
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers import Trainer, TrainingArguments

from pipeline import AugmentedDataset, NeighbourStore
from pipeline.media.records import Sample
from pipeline.streams import WebDatasetInput
from training.classifier.judge import SmallCNN

SHARDS = "embedded:fashion_mnist/sample/t10k-*.tar.gz"


def embedded_images() -> HFDataset:
    """Columns key, image, label; any data set of yours with an image column."""
    shards = WebDatasetInput(urls=(SHARDS,)).open().shards
    samples = [sample for shard in shards for sample in shard.read() if isinstance(sample, Sample)]
    columns = {
        "key": [sample.full_key for sample in samples],
        "image": [{"bytes": sample.image, "path": None} for sample in samples],
        "label": [sample.label for sample in samples],
    }
    features = Features({"key": Value("string"), "image": Image(), "label": ClassLabel(num_classes=10)})
    return HFDataset.from_dict(columns, features=features)


def in_colour(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """A transform of `datasets`: it comes before the swap, so images stay images."""
    return {**rows, "image": [image.convert("RGB") for image in rows["image"]]}


def as_tensors(item: dict[str, Any]) -> dict[str, Any]:
    """After the swap: what the network takes."""
    return {"pixels": pil_to_tensor(item["image"]).float() / 127.5 - 1, "labels": item["label"]}


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = SmallCNN(classes=10)

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.network(pixels)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--store", type=Path, default=Path("demo_out"), help="output folder of a job")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    images = embedded_images().with_transform(in_colour)
    dataset = AugmentedDataset(images, NeighbourStore.open(arguments.store), p=0.5, transform=as_tensors)
    with tempfile.TemporaryDirectory() as output:
        settings = TrainingArguments(
            output, max_steps=arguments.steps, per_device_train_batch_size=32, learning_rate=2e-3, report_to="none",
            save_strategy="no", remove_unused_columns=False,
        )  # fmt: skip
        result = Trainer(Classifier(), settings, train_dataset=dataset).train()  # tells the data set each epoch
    print(f"steps {result.global_step}, loss {result.training_loss:.3f}, {dataset.counts}")


if __name__ == "__main__":
    main()
