"""`doppel calibrate`: how far an operator may go before its outputs lose their labels, measured on held-out images."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot

from pipeline.assets import resolve
from pipeline.diffusion.level_range import LevelRange
from pipeline.errors import UserError
from pipeline.hooks.neighbours import Neighbours, classes_of_labels
from pipeline.identity import PUBLIC_SALT, given_salt
from pipeline.media.rules import PixelRules
from pipeline.models.families import load_model
from pipeline.models.folder import find_model
from pipeline.models.training_set import read_training_set
from pipeline.optional import require_package
from pipeline.report.audit_plots import png
from pipeline.report.progress import looking
from pipeline.report.sheet import contact_sheet
from pipeline.streams.files import publish
from pipeline.streams.private import make_private_folder
from training.calibrate.config import CalibrationConfig, LabelJudgeConfig
from training.calibrate.faces import identity_meter
from training.calibrate.locality import MadeNeighbours, class_spread, count_right, judged, measure, pick
from training.calibrate.plot import Calibration, LevelFound, locality_curve
from training.classifier.judge import SmallCNN, load_classifier, save_classifier, train_classifier
from training.data.images import Images, load_images, same_classes
from training.data.overlap import NEAR_SHARE, marks_of, refuse_overlap

RESULTS, CURVE, SHEET, JUDGE = "calibration.json", "locality.png", "neighbours.png", "judge.safetensors"
"""The files that a calibration writes."""
COLUMNS = 10
"""Columns of the contact sheet."""


def calibrate(config: CalibrationConfig) -> Calibration:
    """Measures every level, and writes numbers, curve and contact sheet into `config.output`.

    Raises `UserError` where slice, model and judge don't fit together, model or judge was trained on the slice, or
    matplotlib is missing.
    """
    require_package("matplotlib", "the curve of a calibration", extra="plots")
    output, device = Path(config.output), "cuda" if torch.cuda.is_available() else "cpu"
    if config.faces is not None:
        make_private_folder(output)  # its sheet and its cache show people
    salt, model = given_salt(config.salt_file, "salt_file") or PUBLIC_SALT, load_model(config.model, device)
    images = held_out(config, model.size)
    if seen := read_training_set(find_model(config.model)):
        refuse_overlap("the model", seen, {"data": images}, config.near_copies)
    classes = classes_of_labels(config.operator, model, config.classes, images.names, option="classes")
    levels, pictures = list[LevelFound](), list[Tensor]()
    with identity_meter(config.faces, images.pixels, device) as meter:
        judge = judge_for(config.judge, output, model.size, config.rules, images, config.near_copies, images.names)
        judge = judge.to(device)
        before = judged(judge, images.pixels)
        right = count_right(before, images.labels)
        unit = class_spread(before.features, images.labels)
        with looking() as on_images:
            for level in config.levels:
                operator = config.operator.at(LevelRange(low=level, high=level))
                assert isinstance(config.model.batch_size, int)
                near = Neighbours(
                    operator=operator, model=model, salt=salt, batch_size=config.model.batch_size, classes=classes
                )  # fmt: skip
                made = generate(near, images, config.copies, device, partial(on_images, f"level {level:g}"))
                after = judged(judge, made.pixels.flatten(0, 1))
                at = measure(level, made, images, before, after, unit, config.filter)
                levels.append(replace(at, faces=meter(made)) if meter else at)
                pictures.append(made.pixels[0])
    found = Calibration(
        images=len(images), right=right, target=config.target, levels=tuple(levels),
        pick=pick([(at.level, at.agreement[1]) for at in levels], config.target),
    )  # fmt: skip
    report = {"model": model.hash, **asdict(found), "config": config.model_dump(mode="json")}
    write(output / RESULTS, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    write(output / CURVE, png(locality_curve(found)))
    picture = io.BytesIO()
    names = [f"{level:g}{' (pick)' if level == found.pick else ''}" for level in config.levels]
    rows = [("original", images.pixels), *zip(names, pictures, strict=True)]
    sheet(rows, images.labels).save(picture, "PNG")
    write(output / SHEET, picture.getvalue())
    return found


def held_out(config: CalibrationConfig, size: tuple[int, int]) -> Images:
    """The images to measure on, at `size` (height, width): all of `data`, or `limit` of them drawn by `seed`."""
    images = load_images(config.data, Path(config.output) / "cache" / "data", size, config.rules, name="data")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed))
    return images.take(order[: config.limit].sort().values)


def judge_for(
    judge: LabelJudgeConfig, output: Path, size: tuple[int, int], rules: PixelRules, unseen: Images | None = None,
    allowed: float = NEAR_SHARE, names: Sequence[str] | None = None,
) -> SmallCNN:  # fmt: skip
    """The classifier that judges images whose classes have these `names`.

    One that is trained here is kept in `output`, and never trained on images of `unseen`; the fraction `allowed` of
    them may look like its training images. Raises `UserError` where the file holds no classifier, or `unseen` images
    are among those it would be trained on, or its classes are called otherwise.
    """
    if judge.data is None:
        assert judge.file is not None
        try:
            return load_classifier(Path(resolve(judge.file)))
        except UserError as error:
            raise UserError(f"judge.file: {judge.file!r} is not a saved classifier: {error}") from None
        except Exception as error:  # whatever the reader makes of a file that is something else
            raise UserError(f"judge.file: {judge.file!r} is not a saved classifier ({type(error).__name__})") from None
    known = load_images(judge.data, output / "cache" / "judge", size, rules, name="judge.data")
    same_classes({"data": names, "judge.data": known.names})
    if unseen is not None:
        refuse_overlap("the judge", marks_of(known.keys, known.pixels), {"data": unseen}, allowed)
    network = train_classifier(known.pixels, known.labels, epochs=judge.epochs, seed=judge.seed)
    save_classifier(network, output / JUDGE)
    return network


def generate(
    near: Neighbours, images: Images, copies: int, device: str, on_images: Callable[[int], None]
) -> MadeNeighbours:
    """Makes `copies` neighbours of each image; `on_images` is told how many more are done."""
    pixels = torch.empty(copies, *images.pixels.shape, dtype=torch.uint8)
    sound = torch.empty(copies, len(images), dtype=torch.bool)
    begun = time.monotonic()
    for copy in range(copies):
        for rows in torch.arange(len(images)).split(near.batch_size):
            some = images.take(rows)
            made = near(some.pixels.to(device), some.keys, labels=some.labels.to(device), copy=copy)
            pixels[copy, rows], sound[copy, rows] = made[0].cpu(), made[1].cpu()
            on_images(len(rows))
    worked = copies * math.ceil(len(images) / near.batch_size) * near.batch_size
    return MadeNeighbours(pixels=pixels, sound=sound, rate=worked / (time.monotonic() - begun))


def sheet(rows: Sequence[tuple[str, Tensor]], labels: Tensor) -> Image.Image:
    """Draws the contact sheet of rows (name, uint8 `[N, 3, H, W]`).

    Each class gets the same number of columns, as far as there are images.
    """
    seen = one_hot(labels).cumsum(0).gather(1, labels[:, None])[:, 0]  # of its class, up to here
    first = torch.argsort(seen * (int(labels.max()) + 1) + labels)[:COLUMNS]
    shown = first[torch.argsort(labels[first], stable=True)]
    return contact_sheet([(name, list(pixels[shown].permute(0, 2, 3, 1).numpy())) for name, pixels in rows])


def write(file: Path, content: bytes) -> None:
    """Writes a file, completely or not at all."""
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(content)
    publish(part, file)
