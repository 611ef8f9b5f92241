"""Turning decoded rows into images with model and operator, and saying what becomes of each row."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.diffusion.denoisers import Steer
from pipeline.diffusion.exactness import exact
from pipeline.diffusion.level_range import describe
from pipeline.diffusion.model import Model, OfPrompts
from pipeline.diffusion.noise import KeyedNoise
from pipeline.engine.batch_size import ON_CPU, BatchSize, largest_batch
from pipeline.engine.windows import filled, windows
from pipeline.job.captions import wants
from pipeline.job.clips import frames_at_once
from pipeline.media.frame import Frame
from pipeline.media.output_keys import OutputKey
from pipeline.media.pixels import from_pixels, to_pixels
from pipeline.media.provenance import Details, Prompt, Provenance, SourceFacts
from pipeline.media.records import Batch, Output, Result, Row, Sample
from pipeline.models.clip import ClipJudge, load_clip
from pipeline.models.families import load_model
from pipeline.models.safety import SafetyChecker, load_checkers
from pipeline.models.video import folded, unfolded
from pipeline.operators import Given, Operator, Transformed
from pipeline.operators.on_cascades import through

if TYPE_CHECKING:
    from pipeline.job.config import JobConfig
    from pipeline.job.plan import Plan


Steering = Callable[[Sequence[str], Model], Steer]
"""What moves the estimates of a batch, by the full keys of its samples."""
UNSAFE = "refused by the model's safety checker"
"""The reason for samples with an output that a checker objects to."""
CUT = "a prompt is too long for the text encoder, and its end is cut off (prompts in the provenance)"
"""The note on a sample of whose prompt the model reads the beginning only."""


class Models(NamedTuple):
    """The loaded models of a job; None for those that it does without."""

    first: Model | None
    second: Model | None
    judge: ClipJudge | None
    checkers: tuple[SafetyChecker, ...]


def load_models(config: JobConfig, device: str) -> Models:
    """Loads the models of a job to a device."""
    first, second = (load_model(c, device) if c else None for c in (config.model, config.second_model))
    judge = load_clip(config.judge.path, config.judge.revision, device) if config.judge else None
    return Models(first, second, judge, load_checkers(config.models, device) if config.safety == "refuse" else ())


def transform_all(
    batches: Iterable[Batch], plan: Plan, device: str
) -> Generator[tuple[Batch, list[Result]], None, None]:
    """Yields each batch with what becomes of its rows.

    It loads the models itself, because on a CPU one thread must use them from the first tensor on. Where another thread
    has computed before, OpenMP keeps threads for both, more than there are cores, and lets them sleep between small
    steps.
    """
    models, size = load_models(plan.config, device), BatchSize(plan.batch_size)
    for batch in batches:
        yield batch, transform(batch.rows, models, plan, device, size)


def transform(
    rows: Sequence[Row], models: Models, plan: Plan, device: str, size: BatchSize, attempt: int = 0,
    steering: Steering | None = None,
) -> list[Result]:  # fmt: skip
    """What becomes of each row: its outputs, or why there are none. Every `attempt` has noise of its own.

    A short batch is padded to full size, so that a row's bytes don't depend on how many rows came with it.
    """
    if models.first is None:
        return [[Output(row=r, image=r.image, provenance=untouched(r, plan))] for r in rows]
    together = windows(rows, frames_at_once(plan.config, models.first))
    results = dict[int, list[Result]]()
    for alike in grouped(together):
        group, done = [together[i] for i in alike], list[list[Result]]()
        for some, made in size.each(
            group, lambda some: transform_windows(some, models, plan, device, attempt, steering)
        ):
            done += made[: len(some)]
        results |= zip(alike, done, strict=True)
    return [result for i in range(len(together)) for result in results[i]]


def grouped(together: Sequence[Sequence[Row]]) -> list[list[int]]:
    """The numbers of windows that get as many copies as each other."""
    groups = dict[int | None, list[int]]()
    for i, window in enumerate(together):
        groups.setdefault(window[0].copies, []).append(i)
    return list(groups.values())


@torch.inference_mode()
@exact()
def transform_windows(
    together: Sequence[Sequence[Row]], models: Models, plan: Plan, device: str, attempt: int = 0,
    steering: Steering | None = None,
) -> list[list[Result]]:  # fmt: skip
    """What becomes of each row of some windows; a window has as many rows as the model sees at once, or fewer.

    For a model of single images, a window is one row. All windows of a clip get the noise of its key, so that what
    stands still looks alike from one to the next.
    """
    config, model, operator = plan.config, models.first, plan.config.operator
    assert model is not None
    assert operator is not None
    frames = frames_at_once(config, model)
    rows = [row for window in together for row in filled(window, frames)]
    firsts = [window[0] for window in together]
    given = gather(together, rows, config, models, device)
    assert given.pixels is not None
    z0 = model.encode(given.pixels)
    drawn = f"{operator.name}/{attempt}" if attempt else operator.name
    copies: list[list[list[Output]]] = [[] for _ in rows]
    details: list[list[Details]] = [[] for _ in rows]
    refused: dict[int, str] = {}
    for copy in range(firsts[0].copies or operator.copies):
        noise = KeyedNoise(plan.salt, [window[0].noise_key for window in together], drawn, copy)
        if steering is not None:
            given = replace(given, steer=steering([row.sample.full_key for row in firsts], model))
        done = through(operator, model, z0, prompted(given, firsts, copy), noise)
        asked = [prompts_of(row, copy, operator, model) for row in firsts]
        how = made_so(done, plan, models, frames)
        beside = {name: from_pixels(single(images)) for name, images in done.beside.items()}
        finite = torch.ones(len(together), dtype=torch.bool, device=device)
        for images in (done.pixels, *done.others.values(), *done.beside.values()):
            finite &= images.isfinite().flatten(1).all(1)
        refused |= dict.fromkeys((~finite).nonzero().flatten().tolist(), "the model's output is not finite")
        refused |= done.refused
        made = {name: from_pixels(single(images)) for name, images in {"": done.pixels, **done.others}.items()}
        for checker, images in product(models.checkers, [*made.values(), *beside.values()]):
            found = checker.objections(images)
            refused |= {i // (frames or 1): UNSAFE for i, objects in enumerate(found) if objects}
        for i, row in enumerate(rows):
            own = i // (frames or 1)
            details[i].append(done.details[own] if done.details else {})
            copies[i].append([
                Output(
                    row=noted(row, asked[own]),
                    image=images[i],
                    provenance=how[own](
                        key=OutputKey(row.sample.key, copy, name),
                        prompts=asked[own],
                        shard=row.sample.shard,
                        source=source_of(row, config),
                        geometry=row.frame,
                        clip=row.noise_key if config.clip or row.reel else None,
                    ),
                    beside={} if name else {other: images[i] for other, images in beside.items()},
                )
                for name, images in made.items()
            ])  # fmt: skip
    results = [
        refused.get(i // (frames or 1)) or chosen(operator, made, said)
        for i, (made, said) in enumerate(zip(copies, details, strict=True))
    ]
    starts = range(0, len(rows), frames or 1)
    return [results[start : start + len(window)] for start, window in zip(starts, together, strict=True)]


def prompted(given: Given, firsts: Sequence[Row], copy: int) -> Given:
    """What is given, with the prompts of one copy; all frames of a window have those of its first row."""
    captions = [row.captions[copy] for row in firsts if row.captions]
    return replace(given, captions=captions or None, edited=[row.edited[copy] for row in firsts if row.edited] or None)


def prompts_of(row: Row, copy: int, operator: Operator, model: Model) -> tuple[Prompt, ...]:
    """The prompts that one copy of a row is made with, and how much of each the model does not read."""
    if model.conditioning != "text":
        return ()
    own = {"own": row.captions, "edited": row.edited, "none": ()}
    texts = [
        text for condition in operator.conditions_used() if isinstance(condition, str)
        for text in (own[condition][copy : copy + 1] if condition in own else (condition,))
    ]  # fmt: skip
    return tuple(
        Prompt(text=text, cut=model.cut(text) if isinstance(model, OfPrompts) else 0) for text in dict.fromkeys(texts)
    )


def noted(row: Row, prompts: Sequence[Prompt]) -> Row:
    """The row, with a note where a prompt is too long for the model."""
    return replace(row, notes=(*row.notes, CUT)) if any(prompt.cut for prompt in prompts) else row


def single(images: Tensor) -> Tensor:
    """Images `[B, 3, H, W]` as they are, or the frames of windows `[B, 3, F, H, W]` as `[B·F, 3, H, W]`."""
    return images if images.ndim == 4 else folded(images)


def chosen(operator: Operator, copies: Sequence[list[Output]], details: Sequence[Details]) -> list[Output] | str:
    """The outputs of the copies that the operator keeps, or why it keeps none."""
    kept = operator.choose(details)
    return kept if isinstance(kept, str) else [output for copy in kept for output in copies[copy]]


def try_sizes(plan: Plan, device: str) -> int:
    """The largest batch size that fits, found with one step of the operator on blank images; on a CPU `ON_CPU`."""
    if device == "cpu":
        return ON_CPU
    operator = plan.config.operator
    assert operator is not None
    plan = replace(plan, config=plan.config.model_copy(update={"operator": operator.cheapest()}))
    models = load_models(plan.config, device)
    assert models.first is not None
    window = [blank_row(plan.config, models.first.size)]  # filled up to what the model sees at once
    return largest_batch(lambda count: transform_windows([window] * count, models, plan, device))


def blank_row(config: JobConfig, size: tuple[int, int]) -> Row:
    """A grey image of `size` (height, width) with everything that the recipe gives to a sample."""
    height, width = size
    image = np.full((height, width, 3), 127, dtype=np.uint8)
    guides = (config.guide.previous or 1) if config.guide else 0
    return Row(
        sample=Sample(key="blank", image=b"", image_ext="png", label=0),
        frame=Frame.whole("RGB", (width, height)),
        image=image,
        noise_key="blank",
        label=0,
        mask=np.ones((height, width), dtype=np.uint8) if config.mask else None,
        captions=("a",) * config.operator.copies if config.operator else (),
        edited=("a",) * config.operator.copies if config.operator else (),
        guides=(image,) * guides,
    )


def untouched(row: Row, plan: Plan) -> Provenance:
    """The provenance of an image that is passed through."""
    return Provenance(
        key=OutputKey(row.sample.key), shard=row.sample.shard, source=source_of(row, plan.config), code=plan.code,
        config=plan.hashes["config"], geometry=row.frame,
    )  # fmt: skip


def source_of(row: Row, config: JobConfig) -> SourceFacts | None:
    """What tells the source of a row from others, unless it shows people who are to stay unknown."""
    return SourceFacts(content=row.content, label=row.sample.label) if config.anonymity is None else None


def made_so(done: Transformed, plan: Plan, models: Models, frames: int | None) -> list[partial[Provenance]]:
    """The provenance of each window's outputs, except for their keys and clips."""
    operator, model = plan.config.operator, models.first
    assert model is not None
    assert operator is not None
    guidance = plan.config.anonymity.guidance if plan.config.anonymity else None
    common = partial(
        Provenance, code=plan.code, config=plan.hashes["config"], operator=operator.name,
        parameters=operator.model_dump(mode="json"), model=model.hash,
        guidance=guidance.model_dump(mode="json") if guidance else None,
        second_model=models.second.hash if models.second else None, batch_size=len(done.sigmas), frames=frames,
    )  # fmt: skip
    levels = describe(done.sigmas[:, 0], model.levels)
    details: Sequence[Details | None] = [None] * len(levels) if done.details is None else done.details
    return [
        partial(common, level=level, sigmas=[float(f"{sigma:.6g}") for sigma in steps], details=own)
        for level, steps, own in zip(levels, done.sigmas.tolist(), details, strict=True)
    ]


def gather(
    together: Sequence[Sequence[Row]], rows: Sequence[Row], config: JobConfig, models: Models, device: str
) -> Given:
    """Everything the operator is given for windows of `rows`, which may be padded, but for prompts: each copy has its
    own.

    All frames of a window have the label of its first row.
    """
    model, firsts = models.first, [window[0] for window in together]
    assert model is not None

    def windowed(images: Tensor) -> Tensor:
        return images if frames_at_once(config, model) is None else unfolded(images, len(together))

    labels = mask = None
    if wants(config.operator, model, "class"):
        labels = torch.tensor([row.label for row in firsts], device=device)
    masks = [row.mask for row in rows if row.mask is not None]
    if masks:
        mask = windowed(torch.from_numpy(np.stack(masks)).to(device).float()[:, None])
    guides = [windowed(to_pixels(images, device)) for images in zip(*(row.guides for row in rows), strict=True)]
    return Given(
        pixels=windowed(to_pixels([row.image for row in rows], device)),
        labels=labels,
        mask=mask,
        guide=guides[0] if guides else None,
        more_guides=guides[1:],
        second=models.second,
        judge=models.judge,
    )
