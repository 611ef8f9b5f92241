"""`doppel calibrate-faces`: certificates for recognisers from any labelled data set, and their curves in a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, field_validator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.recognise import load_recogniser
from pipeline.anonymity.faces.scanning import Named, identity_reader, shard_images, tabulated
from pipeline.anonymity.gate.calibration import FLOOR, Certificate, certify
from pipeline.errors import UserError
from pipeline.media.records import Sample
from pipeline.media.rules import PixelRules
from pipeline.optional import require_package
from pipeline.section import LocalPath, Recipe
from pipeline.streams import AnyInput
from pipeline.streams.pages import paged

PICTURE = "roc.png"
"""File name of the curves, in the output folder."""
Chosen = Mapping[str, frozenset[str]]
"""The keys of the chosen images, by the name of their shard."""


class CalibrateConfig(PixelRules, Recipe):
    """The recipe of `doppel calibrate-faces`."""

    kind: Literal["calibrate-faces"] = "calibrate-faces"
    data: AnyInput
    """The photographs, at least some of known people."""
    name: str
    """What the certificates call the photographs."""
    identity: str
    """How to tell who is in an image: `json:FIELD` of a member, or `key:REGEX`, whose first group is the person."""
    sizes: tuple[PositiveInt, ...] = Field(min_length=1)
    """Sides of the square images in pixels; each gets certificates of its own."""
    detector: str = "dlib"
    """Name of the detector, one of `DETECTORS`."""
    recognisers: tuple[str, ...] = Field(default=("Dlib",), min_length=1)
    """Names of the recognisers that are to be certified."""
    output: LocalPath
    """Folder of the certificates, named `RECOGNISER_SIZE.json`, and of the picture."""
    people: int | None = Field(default=None, ge=2)
    """Takes at most so many people, the first of those with two images or more."""
    per_person: int | None = Field(default=None, ge=2)
    """Takes at most so many images of each person."""
    limit: int | None = Field(default=None, ge=1)
    """Reads only the first N samples of the stream."""
    floor: float = Field(default=FLOOR, ge=0, le=1)
    """A recogniser whose true acceptance rate at FAR 1e-2 is below this may certify nothing."""
    workers: int = Field(default=2, ge=0)
    """Processes that detect faces; with 0, this process does it."""

    @field_validator("identity")
    @classmethod
    def _readable(cls, value: str) -> str:
        try:
            identity_reader(value)
        except UserError as error:
            raise ValueError(str(error)) from None
        return value


def calibrate_faces(config: CalibrateConfig) -> list[Certificate]:
    """Certifies each recogniser at each size, and writes certificates and the picture of their curves.

    The certificates of a size are written as soon as it is done. Raises `UserError` for unknown recognisers, missing
    weights or packages, and data with too few people or images of them.
    """
    require_package("matplotlib", "the picture of a calibration", extra="plots")
    output, made = Path(config.output), list[Certificate]()
    recognisers = [load_recogniser(name, workers=config.workers) for name in config.recognisers]
    chosen = choose(config)
    total = sum(map(len, chosen.values())) * len(config.sizes)
    with FaceFinder(config.detector, workers=config.workers) as finder, image_progress(total) as on_images:
        for side in config.sizes:
            size = (side, side)
            table = tabulated(chosen_images(config, chosen, size), finder, recognisers, on_images)
            for recogniser in recognisers:
                made.append(certify(table, recogniser, finder, size, data=described(config), floor=config.floor))
                write_certificate(made[-1], output)
    draw_roc(made, output / PICTURE)
    return made


def choose(config: CalibrateConfig) -> Chosen:
    """Chooses the images to compare: those of people with two or more, within the recipe's limits, in order.

    Raises `UserError` where nobody has two images.
    """
    who, images = identity_reader(config.identity), dict[str, list[tuple[str, str]]]()
    stream = paged(config.data.open(), config.frames)
    samples = ((shard.name, sample) for shard in stream.shards for sample in shard.read())
    for shard, sample in islice(samples, config.limit):
        person = who(sample) if isinstance(sample, Sample) else None
        if person is not None:
            images.setdefault(person, []).append((shard, sample.key))
    several = (found for found in images.values() if len(found) > 1)
    kept = chain.from_iterable(found[: config.per_person] for found in islice(several, config.people))
    chosen = dict[str, set[str]]()
    for shard, key in kept:
        chosen.setdefault(shard, set()).add(key)
    if not chosen:
        raise UserError(f"data: identity {config.identity!r} finds no two images of one person; two or more are needed")
    return {shard: frozenset(keys) for shard, keys in chosen.items()}


def chosen_images(config: CalibrateConfig, chosen: Chosen, size: tuple[int, int]) -> Iterator[Named]:
    """Yields the chosen images at `size` (height, width), with key and identity."""
    who = identity_reader(config.identity)
    for shard in paged(config.data.open(), config.frames).shards:
        if shard.name in chosen:
            keys = chosen[shard.name]
            yield from shard_images(shard, size, config.rules, who, wanted=lambda sample, keys=keys: sample.key in keys)  # type: ignore[misc]


@contextmanager
def image_progress(total: int) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar over the images at all sizes; yields a function that is told how many more are done."""
    columns = (
        TextColumn("faces"), BarColumn(), MofNCompleteColumn(), TextColumn("images"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.advance(task, count)


def described(config: CalibrateConfig) -> str:
    """The photographs and how they were chosen, in words, for the certificates."""
    people = "" if config.people is None else f" the first {config.people}"
    each = "" if config.per_person is None else f", up to {config.per_person} images each"
    return f"{config.name}:{people} people with two images or more{each}; fit {config.fit}"


def write_certificate(certificate: Certificate, folder: Path) -> Path:
    """Writes a certificate into `folder`, completely or not at all, and returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{certificate.recogniser}_{certificate.size[0]}.json"
    part = file.with_suffix(".part")
    part.write_text(certificate.model_dump_json(indent=1) + "\n")
    return part.replace(file)


def draw_roc(certificates: Sequence[Certificate], file: Path) -> None:
    """Draws TAR against log FAR: a panel for each recogniser, a line for each size, with the thresholds marked."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(certificate.recogniser for certificate in certificates))
    figure = Figure(figsize=(5.5 * len(names), 4.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        own = [certificate for certificate in certificates if certificate.recogniser == name]
        for certificate in own:
            points = [(far, tar) for far, tar, _ in certificate.roc if far > 0]
            label = f"{certificate.size[0]} px (EER {certificate.eer:.3f})"
            (line,) = axes.plot(*zip(*points, strict=True), label=label)
            axes.plot([float(far) for far in certificate.tar], certificate.tar.values(), "o", color=line.get_color())
            if certificate.deepface_far:
                axes.plot(certificate.deepface_far, certificate.deepface_tar, "x", color=line.get_color())
        axes.axhline(own[0].floor, color="grey", linewidth=0.8, linestyle=":")
        axes.set(
            xscale="log", xlabel="false acceptance rate", ylabel="true acceptance rate", title=name, ylim=(0, 1.02)
        )
        axes.legend(title="× deepface's threshold", loc="lower right")
    figure.savefig(file, dpi=120)
