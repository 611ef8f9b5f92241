"""Neighbours in the training step: each image of a batch, with some probability, replaced by one made on the spot."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.utils.data import default_collate, get_worker_info

from pipeline.diffusion.model import Model
from pipeline.errors import UserError
from pipeline.hooks.draws import rank_and_world
from pipeline.hooks.items import image_field, label_field, rebuilt
from pipeline.hooks.neighbours import Neighbours, classes_of_labels
from pipeline.hooks.scaling import restored, rewrapped, seen
from pipeline.hooks.soft_labels import check_classes, check_soft, fractions, soft_labels
from pipeline.identity import PUBLIC_SALT, given_salt
from pipeline.job.classes import ClassMap
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model, sketch_model
from pipeline.operators import AnyOperator, Operator

GivenClassMap = Sequence[int | str] | Mapping[int | str, int | str] | Literal["numbers"] | None
"""What classes of a data set are for a model, as `ClassMap`, in any sequence or mapping."""


class GenerativeAugment(nn.Module):
    """`aug(images, labels)` replaces each image with probability `p` by a neighbour of it, and leaves all else alone.

    Images are `[B, C, H, W]`, grey or RGB, uint8 in [0, 255] or float in [0, 1] (not normalised yet), as tensors or
    tv_tensors; they come back in the same form. Images of another size than the model's are scaled to it and back
    (bicubic). What can be given is what `torchvision.transforms.v2` takes: images and labels, a tuple of both, or a
    dict. `collate` is a `collate_fn`. In eval mode nothing changes.

    `model` is a loaded model, or a configuration that is loaded on the device of the first batch. It is no part of the
    module: it is neither in its parameters nor in its `state_dict`, and is never trained. With `gamma`, labels come
    back as float `[B, classes]`; see `soft_labels`. Random choices come from `generator` (on the CPU; by default one of
    its own for torch's seed and the rank of a distributed training, made at the first draw), whose state is all that
    `state_dict` holds. `salt` is by default that of `$DOPPEL_SALT`, or else the public one. `batch_size` is the number
    of images in one call of the model, by default the one in its configuration. `class_map` says what the labels are
    for a model with classes: the name of the model's class for each number, as in `["t-shirt", …]` or
    `dataset.classes`, or `"numbers"` where they are the model's own; a model that names its classes needs it. It may be
    sent to another process, which loads the model again; a model that was given loaded goes along.
    """

    def __init__(
        self,
        operator: Operator | Mapping[str, Any],
        model: Model | ModelConfig | str,
        *,
        p: float = 0.5,
        gamma: float | None = None,
        classes: int | None = None,
        class_map: GivenClassMap = None,
        salt: bytes | None = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Checks all arguments.

        Raises `UserError` where operator and model don't fit, or soft labels are not possible with them.
        """
        super().__init__()
        if not 0 <= p <= 1:
            raise UserError(f"p is {p}; a probability in [0, 1] is expected")
        self.p, self.gamma = p, gamma
        config = ModelConfig(path=model) if isinstance(model, str) else model
        self._given = config if isinstance(config, ModelConfig) else None
        self.config = self._given
        # a sketch knows all that is checked, and the weights can wait for the device
        outline = cast(Model, sketch_model(config) if isinstance(config, ModelConfig) else config)
        operator = operator if isinstance(operator, Operator) else read_operator(operator)
        self.neighbours = Neighbours(
            operator=operator,
            model=outline,
            classes=classes_of_labels(operator, outline, read_class_map(class_map)),
            salt=salt or given_salt(None, "salt") or PUBLIC_SALT,
            batch_size=checked_size(batch_size, self.config),
        )
        own = len(class_map) if class_map and class_map != "numbers" else outline.classes
        self.classes = own if classes is None else classes
        if gamma is not None:
            check_soft(self.neighbours.operator, gamma, self.classes)
        self._generator = generator
        self._worker_seed: int | None = None

    def forward(
        self, *batch: Any, keys: Sequence[str] | None = None, copy: int = 0, captions: Sequence[str] | None = None
    ) -> Any:
        """Takes `aug(images)`, `aug(images, labels, …)`, or one tuple, list or dict of them, and gives back the same.

        Each call makes fresh neighbours. With `keys`, one for each image, they are those that an offline job makes for
        these keys and this `copy`. Images of the model's size then have the same pixels, exactly so where the same
        images share a batch: otherwise a network's rounding may change a pixel by one grey level. Raises `UserError`
        for images, labels or keys that do not fit.
        """
        given = batch if len(batch) > 1 else batch[0]
        if not self.training:
            return given
        if isinstance(given, Tensor):
            return self._augmented(given, None, keys, copy, captions)[0]
        if isinstance(given, Mapping):
            images, labels = image_field(given), label_field(given)
            both = self._augmented(given[images], given[labels] if labels else None, keys, copy, captions)
            return {**given, images: both[0], **({labels: both[1]} if labels else {})}
        both = self._augmented(given[0], given[1] if len(given) > 1 else None, keys, copy, captions)
        return rebuilt(given, [*both, *given[2:]][: len(given)])

    def collate(self, samples: list[Any]) -> Any:
        """A `collate_fn`: torch's default one, followed by the augmentation.

        In a loader's workers, draws depend on their seeds, too.
        """
        return self(default_collate(samples))

    @property
    def generator(self) -> torch.Generator:
        """Where random choices come from."""
        if self._generator is None:
            mixed = hashlib.blake2b(f"{torch.initial_seed()}/{rank_and_world()[0]}".encode(), digest_size=7).digest()
            self._generator = torch.Generator().manual_seed(int.from_bytes(mixed))
        return self._generator

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_generator": self._generator and bytes(self._generator.get_state().numpy())}
        if self._given is not None:  # a sketch has no weights that could travel, and those of a model are on disk
            made = state.pop("neighbours")
            state["config"], state["made"] = self._given, (made.operator, made.salt, made.batch_size, made.classes)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if made := state.pop("made", None):
            operator, salt, batch_size, classes = made
            model = cast(Model, sketch_model(state["config"]))
            state["neighbours"] = Neighbours(
                operator=operator, model=model, salt=salt, batch_size=batch_size, classes=classes
            )  # fmt: skip
        if drawn := state["_generator"]:
            state["_generator"] = torch.Generator()
            state["_generator"].set_state(torch.frombuffer(bytearray(drawn), dtype=torch.uint8))
        super().__setstate__(state)

    def get_extra_state(self) -> Tensor:
        """The state of the generator, for `state_dict`."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the state of the generator from a `state_dict`."""
        self.generator.set_state(state.cpu())

    def extra_repr(self) -> str:
        """What the module's `repr` shows: operator, `p` and `gamma`."""
        return f"{self.neighbours.operator!r}, p={self.p}, gamma={self.gamma}"

    def _augmented(
        self, images: Any, labels: Any, keys: Sequence[str] | None, copy: int, captions: Sequence[str] | None
    ) -> tuple[Tensor, Any]:
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3):
            found = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise UserError(f"images are {found}; a batch [B, C, H, W] of grey or RGB images is expected")
        if keys is not None and len(keys) != len(images):
            raise UserError(f"{len(keys)} keys are given for {len(images)} images")
        neighbours = self._loaded(images.device)
        used = self._used_labels(neighbours, labels, len(images))
        check_captions(neighbours, captions)
        rows, names = self._draw(len(images))
        names = names if keys is None else list(keys)
        levels = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        if len(rows):
            some = [names[row] for row in rows]
            if keys is None:  # nothing to reproduce: even parts, so that nothing is padded
                neighbours = evenly(neighbours, len(rows))
            images, made = self._replaced(neighbours, images, used, rows, some, copy, captions)
            if self.gamma is not None:
                levels[rows] = torch.where(made, fractions(neighbours, some, copy, images.device), 0)
        if self.gamma is not None:
            assert used is not None
            assert self.classes is not None
            labels = soft_labels(used, levels.to(used.device), self.gamma, self.classes)
        return images, labels

    def _replaced(
        self, neighbours: Neighbours, images: Tensor, labels: Tensor | None, rows: Tensor, keys: Sequence[str],
        copy: int, captions: Sequence[str] | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """A copy of `images` with neighbours in `rows`, and bool: which of these were made."""
        plain = images.as_subclass(Tensor)
        with torch.autocast(images.device.type, enabled=False):  # as offline, whatever the training does
            near, made = neighbours(
                seen(plain[rows], neighbours.model.size),
                keys,
                labels=labels[rows] if labels is not None and wants(neighbours, "class") else None,
                captions=None if captions is None else [captions[row] for row in rows],
                copy=copy,
            )
        output = plain.clone()
        output[rows] = torch.where(made[:, None, None, None], restored(near, plain), plain[rows])
        return rewrapped(output, images), made

    def _draw(self, count: int) -> tuple[Tensor, list[str]]:
        """The rows whose turn it is, and new keys for all: as many draws whatever comes of them."""
        info = get_worker_info()
        if info is not None and self._worker_seed != info.seed:  # each worker begins with a copy of one generator
            mixed = hashlib.blake2b(f"{self.generator.initial_seed()}/{info.seed}".encode(), digest_size=7).digest()
            self.generator.manual_seed(int.from_bytes(mixed))
            self._worker_seed = info.seed
        chosen = torch.rand(count, generator=self.generator) < self.p
        numbers = torch.randint(2**63 - 1, (count,), generator=self.generator)
        return chosen.nonzero().flatten(), [f"{number:016x}" for number in numbers.tolist()]

    def _loaded(self, device: torch.device) -> Neighbours:
        if self.config is not None:
            self.neighbours = replace(self.neighbours, model=load_model(self.config, str(device)))
            self.config = None
        return self.neighbours

    def _used_labels(self, neighbours: Neighbours, labels: Any, count: int) -> Tensor | None:
        """Class numbers where model or soft labels need them, checked; else None."""
        conditioned = wants(neighbours, "class")
        if not conditioned and self.gamma is None:
            return None
        why = "condition own: the model takes each image's label" if conditioned else "gamma: soft labels are made"
        if not isinstance(labels, Tensor) or labels.shape != (count,) or labels.is_floating_point():
            found = list(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
            raise UserError(
                f"{why}; labels are {found}, expected are {count} class numbers (soften and mix them later)"
            )
        labels = labels.long()
        if conditioned:
            neighbours.check_labels(labels)
        if self.gamma is not None and count:
            check_classes(labels, self.classes or 0)
        return labels


def read_class_map(given: GivenClassMap) -> ClassMap | None:
    """A `class_map` as `match` takes it."""
    if isinstance(given, Mapping):
        return dict(given)
    if given is None or given == "numbers":
        return given
    if isinstance(given, str):
        raise UserError(f"class_map is {given!r}; numbers, a list or a mapping is expected")
    return tuple(given)


def evenly(neighbours: Neighbours, count: int) -> Neighbours:
    """The same neighbours with the smallest batch size that takes no more batches for `count` images."""
    batches = -(-count // neighbours.batch_size)
    return replace(neighbours, batch_size=-(-count // batches))


def wants(neighbours: Neighbours, kind: str) -> bool:
    """Whether the model is conditioned on each image's own label (`kind` class) or caption (`kind` text)."""
    return neighbours.model.conditioning == kind and "own" in neighbours.operator.conditions_used()


def read_operator(fields: Mapping[str, Any]) -> Operator:
    """Makes an operator from the fields of a recipe's section `operator:`; see `read_section`."""
    operator: Operator = read_section(AnyOperator, fields, "operator")
    return operator


def read_section(kinds: Any, fields: Mapping[str, Any], option: str) -> Any:
    """Makes one of several `kinds` of a section from its fields, which were given as an `option`.

    Raises `UserError` for fields that do not fit.
    """
    try:
        return TypeAdapter[Any](kinds).validate_python(dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (option, *first["loc"][1:]))
        raise UserError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None


def check_captions(neighbours: Neighbours, captions: Sequence[str] | None) -> None:
    """Raises `UserError` where the model needs captions and none are given."""
    if captions is None and wants(neighbours, "text"):
        raise UserError("condition own: the model takes each image's caption; give captions, or the operator a prompt")


def checked_size(given: int | None, config: ModelConfig | None) -> int:
    """The batch size: the one given, else the configuration's, else 64.

    Raises `UserError` where it is no positive number.
    """
    size = given or (64 if config is None else config.batch_size)
    if not isinstance(size, int) or size < 1:
        raise UserError(f"batch_size is {size}; a number of images is expected")
    return size
