"""The recipe of `doppel compare`; everything that can be wrong with it alone is found when it is read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.job.classes import ClassMap
from pipeline.media.rules import PixelRules
from pipeline.models.config import ModelConfig
from pipeline.operators import AnyOperator
from pipeline.section import Fraction, LocalPath, Recipe, Section
from pipeline.streams import AnyInput
from training.classifier.filtering import FilterConfig
from training.data.overlap import NEAR_SHARE

Classical = Literal["none", "flip_crop", "randaugment", "trivialaugment", "mixup", "cutmix"]
"""The name of a classical augmentation."""
ALL = "all"
"""The size that takes the whole training set."""


class DataConfig(Section):
    """Three sets of labelled images."""

    train: AnyInput
    """The images from which training sets are drawn."""
    validation: AnyInput
    """The images by which the best arm is chosen."""
    test: AnyInput | None = None
    """The images on which results are measured, once. Without them, results are those on the validation images: an
    ablation."""
    near_copies: Fraction = NEAR_SHARE
    """The largest fraction of validation or test images that may look like training images: at most 16 of 255 bits of a
    perceptual hash differ."""


class ScheduleConfig(Section):
    """How classifiers are trained, which is the same for every arm."""

    steps: int = Field(ge=1)
    """Optimiser steps."""
    batch_size: int = Field(default=64, ge=2)
    """Images in a step."""
    lr: float = Field(default=2e-3, gt=0)
    """The largest learning rate."""
    weight_decay: float = Field(default=0.05, ge=0)
    """AdamW's weight decay."""
    bf16: bool = True
    """Whether the forward pass runs in bfloat16."""


class NearConfig(Section):
    """The source of neighbours (`model` and `operator`, or `retrieve`), and how they come into the training."""

    model: ModelConfig | None = None
    """The diffusion model that makes them."""
    operator: AnyOperator | None = None
    """The operator that makes them, with one copy."""
    class_map: ClassMap | None = None
    """What the classes of the data are for a model with classes, as `classes` in the recipe of a job. The data's names
    are those of `data`, or `class_names`."""
    trained_on: AnyInput | None = None
    """What the denoiser was trained on in addition to what its folder says; all of it, where its folder says
    nothing."""
    retrieve: AnyInput | None = None
    """Takes neighbours from these images instead of making any: the nearest by the baseline's features, with the
    original's label."""
    copies: int = Field(default=4, ge=1)
    """Neighbours of each image."""
    p: Fraction = 0.5
    """The probability that an image in a batch is replaced by one of its neighbours."""
    until: Fraction = 1.0
    """The fraction of the training after which only originals come."""
    labels: Literal["source", "baseline"] = "source"
    """With `source`, a neighbour has its original's label; with `baseline`, the distribution that the baseline
    classifier predicts for it."""
    gamma: float | None = Field(default=None, gt=0)
    """Makes soft labels: the source's class keeps 1 − s^γ (Diff-Mix, 2403.19600), where s is the level as a fraction of
    T."""
    filter: FilterConfig | None = None
    """Weighs neighbours by the baseline's confidence in their label."""
    batch_norm: Literal["shared", "separate"] = "shared"
    """With `separate`, neighbours are normalised by their own statistics; see `Mixing.batch_norm`."""
    blend: tuple[Fraction, Fraction] | None = None
    """Adds noise to a blend of two images of one class, in which the first has a fraction drawn from this range."""

    @model_validator(mode="after")
    def _one_source(self) -> NearConfig:
        made = self.model is not None and self.operator is not None
        if made == (self.retrieve is not None) or (self.model is None) != (self.operator is None):
            raise ValueError("give model and operator, or retrieve")
        if not made and (self.gamma is not None or self.blend is not None or self.trained_on is not None):
            raise ValueError("gamma, blend and trained_on belong to neighbours that are made, not retrieved")
        if self.gamma is not None and (self.labels != "source" or self.operator is None or self.operator.dial is None):
            raise ValueError("gamma softens the source's label by the operator's level")
        if self.operator is not None and self.operator.copies != 1:
            raise ValueError("the number of copies is `copies` here, not the operator's")
        return self

    @property
    def judged(self) -> bool:
        """Whether the baseline classifier is needed to retrieve, label or filter the neighbours."""
        return self.retrieve is not None or self.labels == "baseline" or self.filter is not None


class ArmConfig(Section):
    """One way of training, to be compared with others."""

    classical: Classical | Literal["best"] = "none"
    """The augmentation; `best` is the one without neighbours that validates best at this size."""
    near: str | None = None
    """The name of one of the `neighbours`; None trains on originals alone."""
    repeat: int = Field(default=1, ge=1)
    """How often an epoch holds each image."""

    @property
    def plain(self) -> bool:
        """Whether the arm has no neighbours, so that it is one of those that `best` chooses from."""
        return self.near is None and self.classical != "best"


class CompareConfig(PixelRules, Recipe):
    """The recipe of `doppel compare`."""

    kind: Literal["compare"] = "compare"
    data: DataConfig
    size: tuple[int, int]
    """Height and width of the images in pixels."""
    classes: int = Field(ge=2)
    """Number of classes; labels are 0 … classes − 1."""
    class_names: tuple[str, ...] | None = None
    """The name of each class, for the report."""
    sizes: tuple[Annotated[int, Field(ge=1)] | Literal["all"], ...] = Field(min_length=1)
    """Numbers of labelled images in the training set; `all` takes the whole set."""
    seeds: int = Field(default=5, ge=1)
    """Runs of each arm and size. Each seed draws subset, initial weights and order anew, the same for all arms."""
    classifier: str = "small_cnn"
    """The network: small_cnn, resnet18 or timm:NAME."""
    schedule: ScheduleConfig
    neighbours: dict[str, NearConfig] = Field(default={})
    """Sources of neighbours, by names that arms refer to."""
    arms: dict[str, ArmConfig] = Field(min_length=1)
    """The arms, by name."""
    reference: str = "real"
    """The arm that all others are compared with, in addition to the best classical one."""
    baseline: str = "flip_crop"
    """The arm whose classifier filters, labels and retrieves neighbours."""
    output: LocalPath
    """Folder of runs, caches and report."""
    device: str = "auto"
    """The device by torch's name; `auto` is the GPU, or the CPU where there is none."""
    workers: int = Field(default=1, ge=1)
    """Processes that train at the same time; where there are several, each has one thread."""

    @model_validator(mode="after")
    def _known(self) -> CompareConfig:
        for name in (self.reference, self.baseline):
            if name not in self.arms or not self.arms[name].plain:
                allowed = ", ".join(a for a, arm in self.arms.items() if arm.plain)
                raise ValueError(f"reference and baseline are arms without neighbours ({allowed}), found {name!r}")
        for name, arm in self.arms.items():
            if arm.near is not None and arm.near not in self.neighbours:
                known = ", ".join(self.neighbours) or "none"
                raise ValueError(f"arms.{name}.near is {arm.near!r}; neighbours are {known}")
        if unused := set(self.neighbours) - {arm.near for arm in self.arms.values()}:
            raise ValueError(f"neighbours.{sorted(unused)[0]} is used by no arm")
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError(f"sizes names one size twice: {list(self.sizes)}")
        for name, arm in self.arms.items():
            if arm.classical in ("mixup", "cutmix") and arm.near and self.neighbours[arm.near].batch_norm == "separate":
                raise ValueError(f"arms.{name}: {arm.classical} blends the images that batch_norm separate tells apart")
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} class_names for {self.classes} classes")
        return self
