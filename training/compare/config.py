"""What `doppel compare` reads; everything that can be wrong with it alone is said when it is read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.media.pixels import Fit
from pipeline.models.config import ModelConfig
from pipeline.operators import AnyOperator
from pipeline.section import Fraction, Recipe, Section
from pipeline.streams import AnyInput
from training.classifier.filtering import FilterConfig

Classical = Literal["none", "flip_crop", "randaugment", "trivialaugment", "mixup", "cutmix"]
ALL = "all"


class DataConfig(Section):
    """All labelled. What is trained on is drawn from `train`; arms are chosen by `validation`; `test` is read once."""

    train: AnyInput
    validation: AnyInput
    test: AnyInput | None = None
    """Without it, the results are those on the validation images: an ablation."""


class ScheduleConfig(Section):
    """The same for every arm."""

    steps: int = Field(ge=1)
    batch_size: int = Field(default=64, ge=2)
    lr: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    bf16: bool = True


class NearConfig(Section):
    """Where neighbours come from (`model` and `operator`, or `retrieve`), and how they come into training."""

    model: ModelConfig | None = None
    operator: AnyOperator | None = None
    trained_on: AnyInput | None = None
    """What else the denoiser was trained on: all of it, where its folder does not say so."""
    retrieve: AnyInput | None = None
    """Instead of making any: the nearest images from here, by the baseline's features, with the original's label."""
    copies: int = Field(default=4, ge=1)
    """Neighbours of each image."""
    p: Fraction = 0.5
    """Probability that an image in a batch is replaced by one of its neighbours."""
    until: Fraction = 1.0
    """Share of the training after which only originals come."""
    labels: Literal["source", "baseline"] = "source"
    """`baseline`: what the baseline classifier predicts for the neighbour, as a distribution."""
    gamma: float | None = Field(default=None, gt=0)
    """Soft labels: 1 − s^γ for the source's class (Diff-Mix, 2403.19600), s the level as a fraction of T."""
    filter: FilterConfig | None = None
    """By the baseline's confidence."""
    batch_norm: Literal["shared", "separate"] = "shared"
    blend: tuple[Fraction, Fraction] | None = None
    """Noise a blend of two images of one class: the first's share is drawn from this range."""

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
        """The baseline classifier has a say."""
        return self.retrieve is not None or self.labels == "baseline" or self.filter is not None


class ArmConfig(Section):
    classical: Classical | Literal["best"] = "none"
    """`best`: the one without neighbours that validates best at this size."""
    near: str | None = None
    """One of `neighbours`."""
    repeat: int = Field(default=1, ge=1)
    """An epoch holds each image so many times."""

    @property
    def plain(self) -> bool:
        """Without neighbours, so that it is itself what `best` chooses from."""
        return self.near is None and self.classical != "best"


class CompareConfig(Recipe):
    """What `doppel compare` reads."""

    kind: Literal["compare"] = "compare"
    data: DataConfig
    size: tuple[int, int]
    """Height and width."""
    fit: Fit = "resize"
    classes: int = Field(ge=2)
    class_names: tuple[str, ...] | None = None
    sizes: tuple[Annotated[int, Field(ge=1)] | Literal["all"], ...] = Field(min_length=1)
    """Labelled images in the training set."""
    seeds: int = Field(default=5, ge=1)
    """Each draws its subset, initial weights and order anew, the same for all arms."""
    classifier: str = "small_cnn"
    """small_cnn, resnet18 or timm:NAME."""
    schedule: ScheduleConfig
    neighbours: dict[str, NearConfig] = Field(default={})
    arms: dict[str, ArmConfig] = Field(min_length=1)
    reference: str = "real"
    """The arm that all are compared with, beside the best classical one."""
    baseline: str = "flip_crop"
    """The arm whose classifier filters, labels and retrieves neighbours."""
    output: str
    device: str = "auto"
    workers: int = Field(default=1, ge=1)
    """Processes that train at the same time, with a thread each where they are several."""

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
