"""The one plan of a job: complete before any work starts, and the same for every process that works on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.anonymity.gate.families import one_family_note
from pipeline.diffusion.model import Outline
from pipeline.errors import UserError
from pipeline.job.captions import wants
from pipeline.job.clips import check_clips
from pipeline.job.config import JobConfig
from pipeline.job.copies import Copies
from pipeline.job.extras import file_guide, file_mask
from pipeline.media.pixels import Codec, codec_for
from pipeline.media.rules import PixelRules
from pipeline.models.config import ModelConfig
from pipeline.models.families import sketch_model
from pipeline.models.folder import find_model
from pipeline.models.licence import Licence, read_licence
from pipeline.models.safety import UNASKED, check_safety, has_checker
from pipeline.operators.on_cascades import check

if TYPE_CHECKING:
    from pipeline.anonymity.gate.facts import GateFacts


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A configuration together with everything that must stay the same for its outputs to stay the same."""

    config: JobConfig
    salt: bytes
    """The secret that noise is derived from."""
    outline: Outline | None
    """What is known of the model before it is loaded; None where images only pass through."""
    batch_size: int
    """Images that go through the model at once; for a model of clips, windows of frames."""
    devices: tuple[str, ...]
    """Devices by torch's names; one process works on each."""
    hashes: dict[str, str]
    """What decides the bytes, as a hash for each part: configuration, model, code, salt and more; see
    `pipeline.job.hashes`."""
    licences: dict[str, Licence]
    """The licence of each model's weights, by the model's path."""
    gate: GateFacts | None
    """What the gate judges by; None where the recipe asks for none."""
    copies: Copies | None = None
    """How many outputs each class gets; None where all get as many."""
    bound: float | None = None
    """The bound that the operator's level was found for; None where the recipe gives a level."""
    found: tuple[float, float] | None = None
    """The numbers that `image.range` stands for, where it is a percentile."""
    work: str = ""
    """The name of this run's folder for work in progress, where several runs share the job; see `Ledger`."""

    @property
    def codec(self) -> Codec:
        """The codec of all images that the job writes."""
        chosen = self.config.output.codec
        return codec_for(None if self.outline is None else self.outline.size) if chosen == "auto" else chosen

    @property
    def notes(self) -> list[str]:
        """What people should know before any work, as sentences."""
        silent = self.config.safety == "off" and any(has_checker(model) for model in self.config.models)
        alone = one_family_note(self.gate.families) if self.gate else None
        found = None if self.bound is None else f"the level that keeps a bound of {self.bound:g}: {self.level}"
        return [note for note in (UNASKED if silent else None, alone, found) if note is not None]

    @property
    def level(self) -> Any:
        """The operator's level, as recipes write it; None where it has none."""
        operator = self.config.operator
        return None if operator is None or operator.dial is None else operator.model_dump(mode="json")[operator.dial]

    @property
    def rules(self) -> PixelRules:
        """How all images are read."""
        return self.config.image.rules(self.found)

    @property
    def code(self) -> str:
        """doppel's version and the beginning of the code's hash, for people to read."""
        return f"{__version__}+{self.hashes['code'][:12]}"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images that a model of the job sees."""
        assert self.outline is not None
        return self.outline.size

    def __repr__(self) -> str:  # the salt must not reach a log by accident
        return f"Plan({self.config.output.path!r})"


def outlines(config: JobConfig) -> tuple[Outline | None, Outline | None]:
    """What is known of the job's model and second model before they are loaded."""
    first, second = (None if model is None else sketch_model(model) for model in (config.model, config.second_model))
    return first, second


def check_job(config: JobConfig, model: Outline | None, second: Outline | None, rules: PixelRules) -> None:
    """Raises `UserError` where operator, models and what the recipe gives beside images don't fit together."""
    if model is None or config.operator is None:
        return
    check(config.operator, model, second)
    if config.safety == "refuse":
        check_safety(config.models)
    check_clips(config, model, second)
    if config.classes is not None and not wants(config.operator, model, "class"):
        raise UserError("classes: the model is given no labels (operator.condition own on a model with classes)")
    for condition, section in (("own", "caption"), ("edited", "edited")):
        if wants(config.operator, model, "text", condition) and getattr(config, section) is None:
            advice = f"give the recipe a section {section}, or the operator a prompt"
            raise UserError(f"condition {condition}: the model takes prompts; {advice}")
    if config.mask and config.mask.file:
        file_mask(config.mask.file, model.size, config.mask.rules)
    if config.guide and config.guide.file:
        file_guide(config.guide.file, model.size, rules)


def licences(config: JobConfig) -> dict[str, Licence]:
    """The licences of all weights that a job loads, by their paths."""
    folders = {path: find_model(ModelConfig(path=path, revision=revision)) for path, revision in weights(config)}
    return {path: read_licence(folder) for path, folder in folders.items()}


def weights(config: JobConfig) -> Iterator[tuple[str, str | None]]:
    """Yields path and revision of all weights that a job loads."""
    for model in config.models:
        yield model.path, model.revision
        yield from ((upscaler.path, upscaler.revision) for upscaler in model.upscalers)
    if config.judge is not None:
        yield config.judge.path, config.judge.revision
