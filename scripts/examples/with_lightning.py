"""Lightning: neighbours are made on the device, in the training step.

python scripts/examples/with_lightning.py --steps 20
"""

from __future__ import annotations

import argparse

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pipeline import GenerativeAugment
from pipeline.media.pixels import decode
from pipeline.media.records import Sample
from pipeline.streams import WebDatasetInput
from training.classifier.judge import SmallCNN

SHARDS = "embedded:fashion_mnist/sample/t10k-*.tar.gz"
MODEL = "embedded:fashion_mnist/model"


class Images(Dataset[tuple[Tensor, int]]):
    """uint8 `[3, 28, 28]` and label."""

    def __init__(self) -> None:
        shards = WebDatasetInput(urls=(SHARDS,)).open().shards
        samples = [sample for shard in shards for sample in shard.read() if isinstance(sample, Sample)]
        self.items = [
            (torch.from_numpy(decode(sample.image)[0].copy()).permute(2, 0, 1), sample.label or 0) for sample in samples
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.items[index]


class Classifier(lightning.LightningModule):
    def __init__(self, level: float, p: float) -> None:
        super().__init__()
        self.network = SmallCNN(classes=10)
        operator = {"name": "boomerang", "t_boom": level, "steps": 5}
        # its model is in no checkpoint, and is never trained; labels are numbers of the model's own classes
        self.augment = GenerativeAugment(operator, MODEL, p=p, class_map="numbers")

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """The batch is on the device. In validation the augmentation is in eval mode, and changes nothing."""
        images, labels = self.augment(*batch)
        return images.float() / 127.5 - 1, labels

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        pixels, labels = batch
        loss = nn.functional.cross_entropy(self.network(pixels), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.network.parameters(), lr=2e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--level", type=float, default=0.4, help="t_boom")
    parser.add_argument("--p", type=float, default=0.25, help="share of images that become neighbours")
    arguments = parser.parse_args()

    lightning.seed_everything(0)
    loader = DataLoader(Images(), batch_size=32, shuffle=True, drop_last=True)
    trainer = lightning.Trainer(
        max_steps=arguments.steps, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(Classifier(arguments.level, arguments.p), loader)
    print(f"steps {trainer.global_step}, loss {trainer.callback_metrics['loss']:.3f}")


if __name__ == "__main__":
    main()
