"""A stage for pipelines of NeMo Curator: each image of a batch becomes a neighbour of itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from pipeline.diffusion.model import Model
from pipeline.errors import UserError
from pipeline.hooks.augment import GivenClassMap, check_captions, checked_size, read_class_map, read_operator, wants
from pipeline.hooks.neighbours import Neighbours, classes_of_labels
from pipeline.identity import PUBLIC_SALT, given_salt
from pipeline.media.fitting import Fit, fit_frame
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model, sketch_model
from pipeline.operators import Operator

try:
    from nemo_curator.stages.base import ProcessingStage
    from nemo_curator.stages.resources import Resources
    from nemo_curator.tasks import ImageBatch
except ModuleNotFoundError as error:
    raise UserError(f"a stage for NeMo Curator needs its package ({error}): pip install nemo-curator") from None

OF_THE_ORIGINAL = ("image_bytes", "embedding", "aesthetic_score", "nsfw_score")
"""What a batch may know of an image that no longer holds for its neighbour."""


class NeighbourStage(ProcessingStage[ImageBatch, ImageBatch]):
    """Replaces `image_data`, uint8 `[H, W, 3]` in RGB, by a neighbour in the model's size, and forgets what was known
    of the original.

    Noise hangs on `image_id`, `copy`, the operator and the salt alone, so results depend neither on the order of images
    nor on how they are batched, up to one grey level of a network's rounding. An image whose neighbour is not finite is
    left out.
    """

    name = "doppel_neighbours"

    def __init__(
        self,
        operator: Operator | Mapping[str, Any],
        model: ModelConfig | str,
        *,
        images_at_once: int | None = None,
        fit: Fit = "resize",
        copy: int = 0,
        label: str | None = None,
        caption: str | None = None,
        class_map: GivenClassMap = None,
        salt_file: str | None = None,
        gpus: float = 1.0,
    ) -> None:
        """Checks all arguments; the model is loaded by `setup`, once for each worker.

        `images_at_once` is the number of images in one call of the model, by default its configuration's. `label` and
        `caption` name the fields of `metadata` with the class number and the prompt of an image, for models that take
        them; `class_map` is that of `GenerativeAugment`. The salt is read where the stage runs, from `salt_file` or
        `$DOPPEL_SALT`, and never travels. With `gpus` 0 the stage works on a CPU. Raises `UserError` where operator,
        model and options don't fit.
        """
        self.config = ModelConfig(path=model) if isinstance(model, str) else model
        self.operator = operator if isinstance(operator, Operator) else read_operator(operator)
        self.images_at_once = checked_size(images_at_once, self.config)
        self.fit, self.copy, self.label, self.caption = fit, copy, label, caption
        self.class_map, self.salt_file = class_map, salt_file
        self.resources = Resources(cpus=1.0, gpus=gpus)
        needs = self._neighbours(cast(Model, sketch_model(self.config)), PUBLIC_SALT)
        for field, kind, option in ((label, "class", "label"), (caption, "text", "caption")):
            if field is None and wants(needs, kind):
                raise UserError(f"{option}: the model takes one for each image; name the field of metadata that has it")
        self._loaded: Neighbours | None = None

    def inputs(self) -> tuple[list[str], list[str]]:
        """The attributes of a task that the stage needs, and of its data."""
        return ["data"], []

    def outputs(self) -> tuple[list[str], list[str]]:
        """The attributes of a task that the stage gives, and of its data."""
        return ["data"], []

    def setup(self, worker_metadata: Any = None) -> None:
        """Loads the model to the worker's device, and reads the salt."""
        model = load_model(self.config, "cuda" if self.resources.gpus else "cpu")
        self._loaded = self._neighbours(model, given_salt(self.salt_file, "salt_file") or PUBLIC_SALT)

    def teardown(self) -> None:
        """Lets go of the model."""
        self._loaded = None

    def process(self, task: ImageBatch) -> ImageBatch:
        """A task like the given one, with the neighbours of its images, in their order.

        Raises `UserError` for an image without id, pixels, label or caption.
        """
        if self._loaded is None:
            self.setup()
        neighbours, images = cast(Neighbours, self._loaded), list(task.data)
        done = copy.copy(task)
        done.data = [] if not images else self._made(neighbours, images)
        return done

    def _made(self, neighbours: Neighbours, images: Sequence[Any]) -> list[Any]:
        pixels = torch.from_numpy(np.stack([self._seen(image, neighbours.model.size) for image in images]))
        device = "cuda" if self.resources.gpus else "cpu"
        labels = self._field(images, self.label) if wants(neighbours, "class") else None
        captions = self._field(images, self.caption) if wants(neighbours, "text") else None
        check_captions(neighbours, captions)
        near, made = neighbours(
            pixels.permute(0, 3, 1, 2).contiguous().to(device),
            [image.image_id for image in images],
            labels=None if labels is None else torch.tensor([int(label) for label in labels], device=device),
            captions=captions,
            copy=self.copy,
        )
        arrays = near.permute(0, 2, 3, 1).cpu().numpy()
        whole = zip(images, arrays, made.tolist(), strict=True)
        return [neighbour_of(image, array) for image, array, finite in whole if finite]

    def _seen(self, image: Any, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if not image.image_id:
            raise UserError("an image has no image_id, and its noise would hang on nothing; give each image one")
        array = image.image_data
        if array is None or array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            found = None if array is None else f"{array.dtype} {list(array.shape)}"
            raise UserError(f"{image.image_id}: image_data is {found}; uint8 [H, W, 3] is expected")
        return fit_frame(array, size, self.fit)[0]

    def _field(self, images: Sequence[Any], field: str | None) -> list[Any]:
        missing = next((image.image_id for image in images if field not in image.metadata), None)
        if missing is not None:
            raise UserError(f"{missing}: metadata has no {field}")
        return [image.metadata[field] for image in images]

    def _neighbours(self, model: Model, salt: bytes) -> Neighbours:
        classes = classes_of_labels(self.operator, model, read_class_map(self.class_map))
        return Neighbours(
            operator=self.operator, model=model, salt=salt, batch_size=self.images_at_once, classes=classes
        )  # fmt: skip


def neighbour_of(image: Any, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
    """The image object of a neighbour, uint8 `[H, W, 3]`: as that of its original, without what no longer holds."""
    return replace(image, image_data=pixels, **{name: None for name in OF_THE_ORIGINAL if hasattr(image, name)})
