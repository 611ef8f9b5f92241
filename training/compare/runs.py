"""The place of the runs of a comparison: the data, the files of earlier runs, and the training of one classifier."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pipeline.diffusion.model import Model
from pipeline.errors import UserError
from pipeline.identity import hash_json
from pipeline.media.rules import PixelRules
from pipeline.models.families import sketch_model
from pipeline.models.folder import find_model
from pipeline.models.training_set import read_training_set
from pipeline.plain_json import read_json_file
from pipeline.source_code import code_hash
from pipeline.tensors import read_tensors, write_tensors
from training.classifier.augmentations import AUGMENTATIONS
from training.classifier.filtering import rejected_share
from training.classifier.fitting import (
    Mixing,
    NeighbourPool,
    NotFinite,
    Schedule,
    accuracy,
    accuracy_by_class,
    calibration_error,
    fit,
    logits_of,
)
from training.classifier.networks import build_classifier
from training.compare.config import ALL, CompareConfig, NearConfig
from training.compare.pools import made, making_seconds, neighbours, pool_of, source_hash
from training.data.cache import PixelCache, build_cache
from training.data.images import Images, load_images, pixel_marks, same_classes
from training.data.overlap import marks_of, refuse_overlap
from training.data.subsets import draw_subset

SEED_STRIDE = 1000
"""The distance between the seeds of two runs, because each run uses several seeds from its own on."""
WHOLE = frozenset({
    "arm", "classical", "size", "seed", "images", "steps", "hash", "epochs_seen", "making_seconds", "rejected",
    "failed", "seconds",
})  # fmt: skip
"""What the record of every run holds."""
MEASURED = frozenset({"validation", "accuracy", "per_class", "ece"})
"""What it holds besides where the run did not fail."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run: an arm, with the classical augmentation that it stands for, on one subset."""

    arm: str
    """Name of the arm."""
    classical: str
    """Name of its augmentation, never `best`."""
    size: int | str
    """Images in the training set, or `all`."""
    seed: int
    """The number of the run, from 0."""


class Bench:
    """The data of a comparison, checked. Raises `UserError` for what does not fit together."""

    def __init__(self, config: CompareConfig, *, device: str) -> None:
        self.config, self.device, self.folder = config, device, Path(config.output)
        build_classifier(config.classifier, config.classes, 0)  # an unknown one is said before hours of work
        self.train = self._images("train")
        self.validation = self._images("validation")
        self.test = self._images("test") if config.data.test is not None else None
        splits = {"data.validation": self.validation} | ({} if self.test is None else {"data.test": self.test})
        refuse_overlap("the classifiers", marks_of(self.train.keys, self.train.pixels), splits, config.data.near_copies)
        self.others: dict[str, PixelCache] = {}
        for name, near in config.neighbours.items():
            self._check_source(name, near, splits)
        sets = {"data.train": self.train, "data.validation": self.validation, "data.test": self.test}
        same_classes({"class_names": config.class_names} | {name: s.names for name, s in sets.items() if s is not None})
        contents = [[s.keys, pixel_marks(s.pixels).tolist(), s.labels.tolist()] for s in (self.train, *splits.values())]
        self.contents = hash_json([code_hash(__name__), contents])

    def _images(self, name: str) -> Images:
        config = self.config
        folder = self.folder / "cache" / name
        images = load_images(getattr(config.data, name), folder, config.size, config.rules, name=f"data.{name}")
        low, high = int(images.labels.min()), int(images.labels.max())
        if low < 0 or high >= config.classes:
            wrong = high if high >= config.classes else low
            raise UserError(
                f"data.{name}: a label is {wrong}; classes is {config.classes}, so 0 to {config.classes - 1}"
            )
        return images if images.names else replace(images, names=config.class_names)

    def _check_source(self, name: str, near: NearConfig, splits: dict[str, Images]) -> None:
        """What neighbours are made by, or retrieved from, must not have seen what is measured on."""
        config, folder = self.config, self.folder / "cache" / "neighbours" / name
        seen = list[dict[str, Tensor]]()
        if near.retrieve is not None:
            others = self.others[name] = build_cache(near.retrieve, folder, config.size, config.rules)
            if len(others) <= near.copies:
                raise UserError(f"neighbours.{name}: {near.copies} are to be retrieved from {len(others)} images")
            seen.append(marks_of(others.keys, others.images()))
        if near.trained_on is not None:
            known = build_cache(near.trained_on, folder, config.size, config.rules)
            seen.append(marks_of(known.keys, known.images()))
        if near.model is not None:
            model = sketch_model(near.model)
            if tuple(model.size) != tuple(config.size):
                made, wanted = (" × ".join(map(str, size)) for size in (model.size, config.size))
                raise UserError(f"neighbours.{name}: the model makes images of {made}; size is {wanted}")
            neighbours(near, cast(Model, model), self.train.names).check_labels(self.train.labels)
            # what is loaded on top of a model, its folder does not speak for
            own = None if near.model.lora or near.model.upscalers else read_training_set(find_model(near.model))
            seen += [] if own is None else [own]
            if not seen:
                raise UserError(
                    f"neighbours.{name}: {near.model.path} does not say what it was trained on; name it in trained_on, "
                    "so that no image is tested on that the denoiser has seen"
                )
        said = dict.fromkeys(what for one in seen for what in one)  # an older model does not speak of looks
        marks = {what: torch.cat([one[what] for one in seen if what in one]) for what in said}
        refuse_overlap(f"the denoiser of neighbours.{name}", marks, splits, config.data.near_copies)

    def subset(self, size: int | str, seed: int) -> Images:
        """The training images of a run."""
        wanted = None if size == ALL else int(size)
        return self.train.take(draw_subset(self.train.labels, wanted, self.config.classes, seed))

    def file(self, task: Task) -> Path:
        """The file with the record of a run."""
        return self.folder / "runs" / str(task.size) / str(task.seed) / f"{task.arm}-{task.classical}.json"

    def finished(self, task: Task) -> dict[str, Any] | None:
        """The record of an earlier run of the same task; None where there is none.

        Raises `UserError` where it belongs to another configuration.
        """
        file = self.file(task)
        if not file.exists():
            return None
        record = read_json_file(file)
        if not record.keys() >= WHOLE or (record["failed"] is None and not record.keys() >= MEASURED):
            raise UserError(f"{file} is no whole record of a run; remove it, and the run is done again")
        if record["hash"] != self.hash(task):
            raise UserError(
                f"{file} is of another configuration: take another output, or --overwrite to start this one anew"
            )
        lost = task.arm == self.config.baseline and record["failed"] is None and not self._weights(task).exists()
        return None if lost else record

    def hash(self, task: Task) -> str:
        """A hash of everything that decides the numbers of a run."""
        config, arm = self.config, self.config.arms[task.arm]
        told = {"size", "classes", "classifier", "schedule", *PixelRules.model_fields}
        how = config.model_dump(mode="json", include=told)
        made: list[Any] = []
        if arm.near is not None:
            near = config.neighbours[arm.near]
            made = [near.model_dump(mode="json", exclude={"model", "trained_on", "retrieve"})]
            made += [source_hash(near) if near.model else self.others[arm.near].facts["key"]]
            made += [config.arms[config.baseline].model_dump(mode="json")] if near.judged else []
        return hash_json([self.contents, how, arm.model_dump(mode="json"), task.classical, made])[:16]

    def make_pool(self, near: NearConfig, size: int | str, seed: int) -> None:
        """Makes the pixels of the neighbours, for all arms that use them."""
        made(near, self.subset(size, seed), self.device, self.folder / "pools")

    def baseline(self, size: int | str, seed: int) -> nn.Module:
        """The trained baseline classifier of this size and seed."""
        name = self.config.baseline
        task = Task(arm=name, classical=self.config.arms[name].classical, size=size, seed=seed)
        network = build_classifier(self.config.classifier, self.config.classes, seed)
        network.load_state_dict(read_tensors(self._weights(task)))
        return network.to(self.device).eval().requires_grad_(False)

    def _weights(self, task: Task) -> Path:
        return self.file(task).with_suffix(".safetensors")

    def perform(self, task: Task) -> dict[str, Any]:
        """Trains and measures one run, and returns the record that it writes; a finished run is not repeated."""
        if (record := self.finished(task)) is not None:
            return record
        config, arm, started = self.config, self.config.arms[task.arm], time.monotonic()
        subset = self.subset(task.size, task.seed)
        near = config.neighbours[arm.near] if arm.near else None
        pool = self._pool(arm.near, subset, task) if arm.near else None
        schedule = Schedule(**config.schedule.model_dump())
        record = {
            "arm": task.arm, "classical": task.classical, "size": task.size, "seed": task.seed,
            "images": len(subset), "steps": schedule.steps, "hash": self.hash(task),
            "epochs_seen": schedule.steps * schedule.batch_size / len(subset),
            "making_seconds": making_seconds(near, subset, self.folder / "pools") if near and near.model else None,
            "rejected": rejected_share(pool.weights.flatten()) if pool else None,
        }  # fmt: skip
        network = build_classifier(config.classifier, config.classes, task.seed)
        try:
            fit(
                network, subset.pixels, one_hot(subset.labels, config.classes).float(), schedule,
                AUGMENTATIONS[task.classical], seed=SEED_STRIDE * task.seed, device=self.device, pool=pool,
                mixing=Mixing(p=near.p, until=near.until, batch_norm=near.batch_norm) if near else None,
                repeat=arm.repeat,
            )  # fmt: skip
            record |= self._measure(network, chosen_by=arm.plain)
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

    def _pool(self, name: str, subset: Images, task: Task) -> NeighbourPool:
        near = self.config.neighbours[name]
        baseline, folder = self.baseline(task.size, task.seed) if near.judged else None, self.folder / "pools"
        return pool_of(near, subset, baseline, self.config.classes, self.device, folder, self.others.get(name))

    def _measure(self, network: nn.Module, *, chosen_by: bool) -> dict[str, Any]:
        """The test images once, here; the validation images for the choice of the best arm, or without a test split."""
        known = None
        if chosen_by or self.test is None:
            known = logits_of(network, self.validation.pixels, self.device)
        measured, logits = self.validation, known
        if self.test is not None:
            measured, logits = self.test, logits_of(network, self.test.pixels, self.device)
        assert logits is not None
        return {
            "validation": None if known is None else accuracy(known, self.validation.labels),
            "accuracy": accuracy(logits, measured.labels),
            "per_class": accuracy_by_class(logits, measured.labels, self.config.classes),
            "ece": calibration_error(logits, measured.labels),
            "failed": None,
        }

    def _keep(self, network: nn.Module, task: Task) -> None:
        file = self._weights(task)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_tensors({n: t.detach().cpu().contiguous() for n, t in network.state_dict().items()}, file)


def with_best(task: Task, best: str) -> Task:
    """The task with the best augmentation in place of `best`."""
    return replace(task, classical=best) if task.classical == "best" else task
