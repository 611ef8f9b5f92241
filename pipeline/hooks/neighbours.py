"""Neighbours of a batch of images, as the offline job makes them: the same key gives the same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.diffusion.exactness import exact
from pipeline.diffusion.model import Model, OfClips, Outline
from pipeline.diffusion.noise import KeyedNoise
from pipeline.engine.batch_size import BatchSize
from pipeline.errors import UserError
from pipeline.job.classes import Classes, ClassMap, listed, match
from pipeline.operators import Given, Operator
from pipeline.operators.on_cascades import check, through


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """One operator on one model, with the secret that noise is derived from.

    Pixels are those of an offline job with this operator, model, salt and batch size. Raises `UserError` where operator
    and model don't fit, or the operator wants more than images, labels and captions.
    """

    operator: Operator
    model: Model
    salt: bytes = field(repr=False)
    batch_size: int
    """Images in one call of the model."""
    classes: Classes = field(default_factory=Classes)
    """What the labels' classes are for the model; see `classes_of_labels`."""

    def __post_init__(self) -> None:
        if isinstance(self.model, OfClips):
            raise UserError("the model works on clips: run it offline, and train on its store")
        self.operator.require_level()
        check(self.operator, self.model, None)
        if self.operator.needs:
            needed = ", ".join(sorted(self.operator.needs))
            raise UserError(f"operator {self.operator.name} needs {needed}: run it offline, and train on its store")

    @torch.inference_mode()
    @exact()
    def __call__(
        self,
        images: Tensor,
        keys: Sequence[str],
        *,
        labels: Tensor | None = None,
        captions: Sequence[str] | None = None,
        copy: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Makes a neighbour of each image, uint8 `[B, 3, H, W]` in the size of the model.

        Returns the neighbours and bool `[B]`: a row whose output is not finite keeps its image and counts as not made.
        `labels` are int64 `[B]`, the data set's numbers, −1 for none; `captions` are B texts. Raises `UserError` for
        labels that are no class of the model.
        """
        labels = self.check_labels(labels)
        near, made = torch.empty_like(images), torch.empty(len(images), dtype=torch.bool, device=images.device)
        size, start = BatchSize(self.batch_size), 0
        for some, (pixels, finite) in size.each(
            range(len(images)), lambda rows: self._of(rows, images, keys, labels, captions, copy)
        ):
            end = start + len(some)
            near[start:end] = torch.where(finite[: len(some), None, None, None], pixels[: len(some)], images[start:end])
            made[start:end] = finite[: len(some)]
            start = end
        return near, made

    def _of(
        self,
        rows: Sequence[int],
        images: Tensor,
        keys: Sequence[str],
        labels: Tensor | None,
        captions: Sequence[str] | None,
        copy: int,
    ) -> tuple[Tensor, Tensor]:
        pixels = images[rows].float() / 127.5 - 1
        conditioned = labels is not None and self.model.conditioning == "class"
        given = Given(
            pixels=pixels,
            labels=labels[rows] if conditioned and labels is not None else None,
            captions=None if captions is None else [captions[row] for row in rows],
        )
        noise = KeyedNoise(self.salt, [keys[row] for row in rows], self.operator.name, copy)
        done = through(self.operator, self.model, self.model.encode(pixels), given, noise).pixels
        return quantised(done), done.isfinite().flatten(1).all(1)

    def check_labels(self, labels: Tensor | None) -> Tensor | None:
        """The model's numbers of labels. Raises `UserError` for one that is no class of the model."""
        if labels is None or self.model.classes is None or not len(labels):
            return labels
        numbers = {label: label if label < 0 else self.classes.number(label) for label in labels.unique().tolist()}
        for label, number in numbers.items():
            why = self.classes.unknown(label, range(self.model.classes))
            if why is not None and number != -1:
                raise UserError(f"a label is {label}; {why} (-1 is none)")
        mapped = [numbers[label] for label in labels.tolist()]
        return labels.new_tensor(mapped)


def classes_of_labels(
    operator: Operator, model: Outline, given: ClassMap | None, names: Sequence[str] | None = None,
    *, option: str = "class_map",
) -> Classes:  # fmt: skip
    """What numbers of a data set with these class `names` are for the model; see `match`.

    Raises `UserError` where that cannot be known, with the classes of both and the `option` that says it.
    """
    if model.conditioning != "class" or "own" not in operator.conditions_used():
        if given is not None:
            raise UserError(f"{option}: the model is given no labels (condition own on a model with classes)")
        return Classes()
    classes = match(given, names, model.class_names, model.classes or 0, option=option)
    if classes.by_name:
        raise UserError(
            f"{option}: labels are numbers, and the model names its classes ({listed(model.class_names)}); list the "
            "name of each number's class, or say numbers where they are the model's own"
        )
    return classes


def quantised(pixels: Tensor) -> Tensor:
    """Rounds float `[B, 3, H, W]` in [-1, 1] to uint8 just as `pixels.from_pixels` does."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
