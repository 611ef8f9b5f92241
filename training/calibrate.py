"""`doppel calibrate`: how far an operator may go before its outputs lose their labels, measured on held-out images."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot

from pipeline.anonymity.faces import FaceFinder
from pipeline.anonymity.recognisers import load_recogniser
from pipeline.assets import resolve
from pipeline.diffusion.level_range import LevelRange
from pipeline.errors import UserError
from pipeline.hooks.neighbours import Neighbours
from pipeline.identity import PUBLIC_SALT, given_salt
from pipeline.models.families import load_model
from pipeline.models.folder import find_model
from pipeline.report.anonymity import png
from pipeline.report.progress import looking
from pipeline.report.sheet import contact_sheet
from pipeline.scanning import tabulated
from pipeline.streams.files import publish
from training.calibrate_config import CalibrationConfig, FacesConfig
from training.classifier import SmallCNN, load_classifier, save_classifier, train_classifier
from training.filtering import FilterConfig, check_labels, confidence, rejected_share, weights
from training.images import Images, key_marks, load_images, pixel_marks
from training.locality_plot import AtLevel, Calibration, FacesAtLevel, Interval, locality_curve
from training.overlap import read_training_set

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.anonymity.table import FaceTable

RESULTS, CURVE, SHEET, JUDGE = "calibration.json", "locality.png", "neighbours.png", "judge.safetensors"
JUDGED_AT_ONCE, COLUMNS = 500, 10
"""Images; of the contact sheet."""
Z = 1.96
"""Of a normal 95 % interval."""


def calibrate(config: CalibrationConfig) -> Calibration:
    """Measures every level, and writes numbers, curve and contact sheet into `config.output`.

    Raises `UserError` where slice, model and judge don't fit, or one of the two was trained on the slice.
    """
    output, device = Path(config.output), "cuda" if torch.cuda.is_available() else "cpu"
    salt, model = given_salt(config.salt_file, "salt_file") or PUBLIC_SALT, load_model(config.model, device)
    images = held_out(config, model.size)
    if seen := read_training_set(find_model(config.model)):
        refuse_seen(images, seen["keys"], seen["contents"], by="the model")
    levels, pictures = list[AtLevel](), list[Tensor]()
    with identity_meter(config.faces, images.pixels, device) as meter:
        judge = judge_for(config, images, model.size).to(device)
        before = judged(judge, images.pixels)
        right = count_right(before, images.labels)
        unit = class_spread(before.features, images.labels)
        with looking() as on_images:
            for level in config.levels:
                operator = config.operator.at(LevelRange(low=level, high=level))
                assert isinstance(config.model.batch_size, int)
                near = Neighbours(operator=operator, model=model, salt=salt, batch_size=config.model.batch_size)
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
    images = load_images(config.data, Path(config.output) / "cache" / "data", size, config.fit, name="data")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed))
    return images.take(order[: config.limit].sort().values)


def refuse_seen(images: Images, keys: Tensor, contents: Tensor, *, by: str) -> None:
    """`keys`, `contents`: 64-bit marks of what was trained on. Raises `UserError` where a held-out image is in it."""
    by_key = int(torch.isin(key_marks(images.keys), keys).sum())
    by_content = int(torch.isin(pixel_marks(images.pixels), contents).sum())
    if by_key or by_content:
        raise UserError(
            f"data: {by_key} keys and {by_content} contents of its {len(images)} images are in the training set of "
            f"{by}; what it is measured on, it must not have seen"
        )


def judge_for(config: CalibrationConfig, images: Images, size: tuple[int, int]) -> SmallCNN:
    """The classifier of `config.judge`; one that is trained here stays in the output folder, to be used again."""
    judge, output = config.judge, Path(config.output)
    if judge.data is None:
        assert judge.file is not None
        try:
            return load_classifier(Path(resolve(judge.file)))
        except Exception as error:  # whatever the reader makes of a file that is something else
            raise UserError(f"judge.file: {judge.file!r} is no saved classifier ({type(error).__name__})") from None
    known = load_images(judge.data, output / "cache" / "judge", size, config.fit, name="judge.data")
    refuse_seen(images, key_marks(known.keys), pixel_marks(known.pixels), by="the judge")
    network = train_classifier(known.pixels, known.labels, epochs=judge.epochs, seed=judge.seed)
    save_classifier(network, output / JUDGE)
    return network


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the judge sees in N images, on the CPU: features `[N, D]`, logits `[N, K]`."""

    features: Tensor
    logits: Tensor


@torch.inference_mode()
def judged(judge: SmallCNN, pixels: Tensor) -> Judged:
    """`pixels` uint8 `[N, 3, H, W]`."""
    device = judge.head.weight.device
    parts = [judge.features(part.to(device).float() / 127.5 - 1) for part in pixels.split(JUDGED_AT_ONCE)]
    features = torch.cat(parts)
    return Judged(features=features.cpu(), logits=judge.head(features).cpu())


def count_right(before: Judged, labels: Tensor) -> int:
    """Originals in which the judge sees the label.

    Raises `UserError` for a label that it does not know, and for no more than one that never looks would see.
    """
    check_labels(labels, before.logits.shape[1])
    right, counts = int((before.logits.argmax(1) == labels).sum()), labels.bincount()
    if right <= counts.max() < len(labels):
        raise UserError(
            f"judge: it sees the label in {right} of {len(labels)} originals, and always saying {int(counts.argmax())} "
            f"would be right in {int(counts.max())}; train it better"
        )
    return right


@dataclass(frozen=True, kw_only=True)
class Made:
    """C copies of the neighbours of N images."""

    pixels: Tensor
    """uint8 `[C, N, 3, H, W]`"""
    sound: Tensor
    """bool `[C, N]`: the output was finite; else it is the original."""
    rate: float
    """Images that the model took through in a second, those counted that fill up a batch."""


def generate(near: Neighbours, images: Images, copies: int, device: str, on_images: Callable[[int], None]) -> Made:
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
    return Made(pixels=pixels, sound=sound, rate=worked / (time.monotonic() - begun))


def measure(
    level: float, made: Made, images: Images, before: Judged, after: Judged, unit: float,
    filtered: FilterConfig | None = None,
) -> AtLevel:  # fmt: skip
    """`after` is of the C·N neighbours, copy by copy; `unit` of `class_spread`.

    The target is for originals in which the judge sees the label: of the others it cannot tell what a neighbour
    shows, and even perfect neighbours would never come above its own accuracy. Copies of one image hang together,
    so the interval counts images. Raises `UserError` where no output is finite, or the judge sees no label.
    """
    sound, labels, copies = made.sound, images.labels, len(made.pixels)
    right = before.logits.argmax(1) == labels
    agrees = (after.logits.argmax(1).view(sound.shape) == labels).double()
    sure = sound & right
    if not sure.any():
        why = "the judge sees the label in none of the originals" if sound.any() else "no output is finite"
        raise UserError(f"level {level:g}: {why}, so nothing can be measured")
    fallen = confidence(before.logits, labels) - confidence(after.logits, labels.repeat(copies)).view(sound.shape)
    features = after.features.view(*sound.shape, -1)
    pairs = combinations(range(copies), 2)
    apart = [(features[a] - features[b]).norm(dim=1)[sound[a] & sound[b]] for a, b in pairs]
    between = torch.cat([*apart, torch.empty(0)])
    squares = (made.pixels.float() - images.pixels.float()).square().flatten(2).mean(2)
    share = agrees[sure].mean().item()
    rejected = None
    if filtered:
        kept = weights(filtered, before.logits.repeat(copies, 1), after.logits, labels.repeat(copies))
        rejected = rejected_share(kept[sound.flatten()])
    return AtLevel(
        level=level,
        agreement=wilson(share, int(sure.any(0).sum())),
        agreement_of_all=agrees[sound].mean().item(),
        confidence_drop=fallen[sound].mean().item(),
        distance=(features - before.features).norm(dim=2)[sound].mean().item() / unit,
        diversity=between.mean().item() / unit if len(between) else None,
        rmse=math.sqrt(squares[sound].mean().item()),
        images_per_second=made.rate,
        unsound=int((~sound).sum()),
        rejected=rejected,
    )


def wilson(share: float, count: int) -> Interval:
    """The 95 % interval of a share of `count` trials (Wilson 1927), with the share itself between its ends."""
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    return max(0.0, min(share, middle - half)), share, min(1.0, max(share, middle + half))


def class_spread(features: Tensor, labels: Tensor) -> float:
    """Mean distance of all pairs of one class, of `[N, D]` and int64 `[N]`. Raises `UserError` where there is none."""
    pairs = torch.cat([torch.pdist(features[labels == label]) for label in labels.unique()])
    if not len(pairs) or not pairs.any():
        raise UserError(f"data: in {len(features)} images no two of one class differ, so distances have no unit")
    return pairs.mean().item()


def pick(agreement: Sequence[tuple[float, float]], target: float) -> float | None:
    """Of (level, agreement), ascending: the last level before the first that misses the target."""
    held = None
    for level, share in agreement:
        if share < target:
            break
        held = level
    return held


@contextmanager
def identity_meter(
    config: FacesConfig | None, originals: Tensor, device: str
) -> Iterator[Callable[[Made], FacesAtLevel] | None]:
    """Measures neighbours by the faces of their originals, uint8 `[N, 3, H, W]`; None without `config`.

    Raises `UserError` for what is unknown or missing, for a recogniser without threshold, and for images without faces.
    """
    if config is None:
        yield None
        return
    recogniser = load_recogniser(config.recogniser, device=device, workers=config.workers)
    threshold = config.threshold or recogniser.threshold
    if threshold is None:
        raise UserError(f"faces.threshold is missing: deepface has none for recogniser {config.recogniser}")
    with FaceFinder(config.detector, workers=config.workers) as finder:

        def faces(pixels: Tensor) -> FaceTable:
            rows = enumerate(pixels.permute(0, 2, 3, 1).contiguous().numpy())
            return tabulated(((str(i), None, image) for i, image in rows), finder, [recogniser])

        before = faces(originals)
        if not len(before.image):
            raise UserError(f"faces: detector {config.detector} finds no face in the {len(originals)} images of data")

        def measured(made: Made) -> FacesAtLevel:
            after = faces(made.pixels.flatten(0, 1))
            return face_distance(before, after, made.sound.numpy(), config.recogniser, threshold)

        yield measured


def face_distance(
    before: FaceTable, after: FaceTable, sound: NDArray[np.bool_], recogniser: str, threshold: float
) -> FacesAtLevel:
    """Of the largest faces of N originals and of their C·N neighbours, copy by copy, as far as `sound [C, N]`."""
    own, theirs = before.first_faces(), after.first_faces()
    row = np.full(len(before.keys), -1)  # of each original's face
    row[before.image[own]] = own
    source = row[after.image[theirs] % len(row)]
    compared = (source >= 0) & sound.ravel()[after.image[theirs]]
    a, b = before.embeddings[recogniser][source[compared]], after.embeddings[recogniser][theirs[compared]]
    distances = 1 - np.einsum("fd,fd->f", a, b)
    return FacesAtLevel(
        distance=float(distances.mean()) if len(distances) else None,
        beyond=float((distances > threshold).mean()) if len(distances) else None,
        lost=1 - len(distances) / max(1, int(sound[:, row >= 0].sum())),
    )


def sheet(rows: Sequence[tuple[str, Tensor]], labels: Tensor) -> Image.Image:
    """Rows of (name, uint8 `[N, 3, H, W]`); of each class the same number of columns, as far as the images go."""
    seen = one_hot(labels).cumsum(0).gather(1, labels[:, None])[:, 0]  # of its class, up to here
    first = torch.argsort(seen * (int(labels.max()) + 1) + labels)[:COLUMNS]
    shown = first[torch.argsort(labels[first], stable=True)]
    return contact_sheet([(name, list(pixels[shown].permute(0, 2, 3, 1).numpy())) for name, pixels in rows])


def write(file: Path, content: bytes) -> None:
    """Complete or not at all."""
    part = file.with_name(f".{file.name}.part")
    part.write_bytes(content)
    publish(part, file)
