"""Where one run of a comparison happens: the data, the files of earlier runs, one classifier after the other."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import one_hot

from pipeline.errors import UserError
from pipeline.identity import hash_json
from pipeline.models.folder import find_model, hash_model
from training.augmentations import AUGMENTATIONS
from training.cache import PixelCache, build_cache
from training.compare_config import ALL, ArmConfig, CompareConfig, NearConfig
from training.filtering import rejected_share
from training.fitting import (
    Mixing,
    NotFinite,
    Pool,
    Schedule,
    accuracy,
    accuracy_by_class,
    calibration_error,
    fit,
    logits_of,
)
from training.images import Images, load_images
from training.networks import build_classifier
from training.overlap import marks_of, read_training_set, refuse_overlap
from training.pools import made, pool_of
from training.subsets import draw_subset

SEED_STRIDE = 1000
"""Between the seeds of two runs: each run uses a few from its own on."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run: an arm, with the classical augmentation that it stands for, on one subset."""

    arm: str
    classical: str
    size: int | str
    seed: int


class Bench:
    """The data of a comparison, checked. Raises `UserError` for what does not fit together."""

    def __init__(self, config: CompareConfig, *, device: str) -> None:
        self.config, self.device, self.folder = config, device, Path(config.output)
        self.train = self._images("train")
        self.validation = self._images("validation")
        self.test = self._images("test") if config.data.test is not None else None
        splits = {"data.validation": self.validation} | ({} if self.test is None else {"data.test": self.test})
        refuse_overlap("the classifiers", marks_of(self.train.keys, self.train.pixels), splits)
        self.others: dict[str, PixelCache] = {}
        for name, near in config.neighbours.items():
            self._check_source(name, near, splits)

    def _images(self, name: str) -> Images:
        config = self.config
        folder = self.folder / "cache" / name
        images = load_images(getattr(config.data, name), folder, config.size, config.fit, name=f"data.{name}")
        low, high = int(images.labels.min()), int(images.labels.max())
        if low < 0 or high >= config.classes:
            wrong = high if high >= config.classes else low
            raise UserError(
                f"data.{name}: a label is {wrong}; classes is {config.classes}, so 0 to {config.classes - 1}"
            )
        return images

    def _check_source(self, name: str, near: NearConfig, splits: dict[str, Images]) -> None:
        """What neighbours are made by, or retrieved from, must not have seen what is measured on."""
        config = self.config
        if near.retrieve is not None:
            self.others[name] = build_cache(near.retrieve, self.folder / "cache" / name, config.size, config.fit)
            trained_on = marks_of(self.others[name].keys, self.others[name].images())
        elif near.trained_on is not None:
            cache = build_cache(near.trained_on, self.folder / "cache" / name, config.size, config.fit)
            trained_on = marks_of(cache.keys, cache.images())
        else:
            assert near.model is not None
            found = read_training_set(find_model(near.model))
            if found is None:
                raise UserError(
                    f"neighbours.{name}: {near.model.path} does not say what it was trained on; name it in trained_on, "
                    "so that no image is tested on that the denoiser has seen"
                )
            trained_on = found
        refuse_overlap(f"the denoiser of neighbours.{name}", trained_on, splits)

    def subset(self, size: int | str, seed: int) -> Images:
        wanted = None if size == ALL else int(size)
        return self.train.take(draw_subset(self.train.labels, wanted, self.config.classes, seed))

    def file(self, task: Task) -> Path:
        return self.folder / "runs" / str(task.size) / str(task.seed) / f"{task.arm}.json"

    def finished(self, task: Task) -> dict[str, Any] | None:
        """What an earlier run of the same task left. Raises `UserError` where it was of another configuration."""
        file = self.file(task)
        if not file.exists():
            return None
        record: dict[str, Any] = json.loads(file.read_text())
        if record["hash"] != self.hash(task):
            raise UserError(
                f"{file} is of another configuration: take another output, or --overwrite to start this one anew"
            )
        return record

    def hash(self, task: Task) -> str:
        """Of all that decides the numbers of a run."""
        config, arm = self.config, self.config.arms[task.arm]
        near = config.neighbours[arm.near] if arm.near else None
        what = config.model_dump(mode="json", include={"data", "size", "fit", "classes", "classifier", "schedule"})
        how = [arm.model_dump(mode="json"), task.classical, near and near.model_dump(mode="json")]
        baseline = config.arms[config.baseline].model_dump(mode="json") if near else None
        model = hash_model(find_model(near.model)) if near and near.model else ""
        return hash_json([what, *how, baseline, model])[:16]

    def make_pool(self, near: NearConfig, size: int | str, seed: int) -> None:
        """The neighbours' pixels, for all arms that use them."""
        made(near, self.subset(size, seed), self.device, self.folder / "pools")

    def baseline(self, size: int | str, seed: int) -> nn.Module:
        from safetensors.torch import load_file

        network = build_classifier(self.config.classifier, self.config.classes, seed)
        network.load_state_dict(load_file(self._weights(size, seed)))
        return network.to(self.device).eval().requires_grad_(False)

    def _weights(self, size: int | str, seed: int) -> Path:
        return self.folder / "baselines" / f"{size}-{seed}.safetensors"

    def perform(self, task: Task) -> dict[str, Any]:
        """Trains, measures, and writes down one run; an earlier one of the same task is not repeated."""
        if (record := self.finished(task)) is not None:
            return record
        config, arm, started = self.config, self.config.arms[task.arm], time.monotonic()
        subset = self.subset(task.size, task.seed)
        near = config.neighbours[arm.near] if arm.near else None
        pool = self._pool(arm, near, subset, task)
        schedule = Schedule(**config.schedule.model_dump())
        record = {
            "arm": task.arm, "classical": task.classical, "size": task.size, "seed": task.seed,
            "images": len(subset), "steps": schedule.steps, "hash": self.hash(task),
            "epochs_seen": schedule.steps * schedule.batch_size / len(subset),
            "rejected": rejected_share(pool.weights.flatten()) if pool and near and near.filter else None,
        }  # fmt: skip
        network = build_classifier(config.classifier, config.classes, task.seed)
        try:
            fit(
                network, subset.pixels, one_hot(subset.labels, config.classes).float(), schedule,
                AUGMENTATIONS[task.classical], seed=SEED_STRIDE * task.seed, device=self.device, pool=pool,
                mixing=Mixing(p=near.p, until=near.until, batch_norm=near.batch_norm) if near else None,
                repeat=arm.repeat,
            )  # fmt: skip
            record |= self._measure(network)
        except NotFinite as error:
            record["failed"] = str(error)
        if task.arm == config.baseline and record["failed"] is None:
            self._keep(network, task)
        record["seconds"] = round(time.monotonic() - started, 2)
        file = self.file(task)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1))
        part.replace(file)
        return record

    def _pool(self, arm: ArmConfig, near: NearConfig | None, subset: Images, task: Task) -> Pool | None:
        if near is None or arm.near is None:
            return None
        baseline, folder = self.baseline(task.size, task.seed), self.folder / "pools"
        return pool_of(near, subset, baseline, self.config.classes, self.device, folder, self.others.get(arm.near))

    def _measure(self, network: nn.Module) -> dict[str, Any]:
        """Validation always, for the choice of arms; the test images once, here."""
        measured, bf16 = self.test or self.validation, self.config.schedule.bf16
        known = logits_of(network, self.validation.pixels, self.device, bf16=bf16)
        logits = known if self.test is None else logits_of(network, self.test.pixels, self.device, bf16=bf16)
        return {
            "validation": accuracy(known, self.validation.labels),
            "accuracy": accuracy(logits, measured.labels),
            "per_class": accuracy_by_class(logits, measured.labels, self.config.classes),
            "ece": calibration_error(logits, measured.labels),
            "failed": None,
        }

    def _keep(self, network: nn.Module, task: Task) -> None:
        from safetensors.torch import save_file

        file = self._weights(task.size, task.seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: t.detach().cpu().contiguous() for n, t in network.state_dict().items()}, file)


def with_best(task: Task, best: str) -> Task:
    return replace(task, classical=best) if task.classical == "best" else task


def one_thread() -> None:
    torch.set_num_threads(1)
