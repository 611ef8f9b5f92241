"""The ladder: what the gate cannot prove anonymous goes round again at the next level, and in the end to quarantine."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.anonymity.gate.attempts import Attempt, refused, save_attempts, together
from pipeline.anonymity.gate.config import AnonymityConfig
from pipeline.anonymity.gate.face_masks import blend, softness, to_change
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.regions import all_found, declared, meet, restored, touched, with_margin
from pipeline.anonymity.gate.verdicts import WORDS, ImageVerdict
from pipeline.anonymity.guidance.guide import Guide
from pipeline.engine.batch_size import BatchSize
from pipeline.engine.gate import attempts_file, open_gate
from pipeline.engine.transforming import load_models, transform
from pipeline.geometry.moving import Unfollowed
from pipeline.media.records import Batch, Output, Result, Row

if TYPE_CHECKING:
    from pipeline.anonymity.gate.face_masks import FaceBox
    from pipeline.job.plan import Plan
    from pipeline.media.records import Pixels8


@dataclass(frozen=True, kw_only=True)
class Climber:
    """A row on its way up the ladder."""

    row: Row
    image: Pixels8
    """The row's own image, uint8 `[H, W, 3]`; where only faces change, with the faces that have passed already in
    place."""
    faces: tuple[FaceBox, ...]
    """Boxes of the faces that are still to change, where only faces change."""
    keep: tuple[FaceBox, ...] = ()
    """Regions, of whole pixels, that stay as they are."""


Settled = tuple[Row, Result]
"""A row and what has become of it."""


def climb(batches: Iterable[Batch], plan: Plan, device: str) -> Generator[tuple[Batch, list[Result]], None, None]:
    """Yields each batch with the rows that are settled by now and what became of them.

    A result is a row's verified outputs, or why there are none. Rows that fail wait until a full batch of them can go
    through the model at the next level, or the shard ends. So the ladder costs only what the failing rows cost. Models
    and gate are loaded here, by the thread that runs them.
    """
    config = plan.config.anonymity
    assert config is not None
    rungs = [plan, *(at_level(plan, level) for level in range(len(config.ladder)))]
    models, size = load_models(plan.config, device), BatchSize(plan.batch_size)
    with open_gate(plan, device) as gate:
        guide = config.guidance and Guide.of(config.guidance, gate, device, config.workers)
        steering = guide.steer if guide else None
        waiting: list[list[Climber]] = [[] for _ in rungs]
        judged, kept = set[str](), list[Attempt]()
        for batch in batches:
            settled = list[Settled]()
            for row in batch.rows:
                admitted = admit(row, gate, config)
                if isinstance(admitted, str):
                    settled.append((row, admitted))
                else:
                    waiting[0].append(admitted)
            for rung, at_rung in enumerate(rungs):
                while len(waiting[rung]) >= size.images or (batch.last and waiting[rung]):
                    some, waiting[rung] = waiting[rung][: size.images], waiting[rung][size.images :]
                    rows = [with_mask(climber, config) for climber in some]
                    made = transform(rows, models, at_rung, device, size, attempt=rung, steering=steering)
                    results = assembled(some, made, config)
                    for climber, result, found in zip(some, results, verdicts(gate, some, results), strict=True):
                        outcome = decide(climber, result, found, config, rung)
                        judged.add(climber.row.sample.full_key)
                        if (attempt := refused(climber.row.sample.full_key, rung, found)) is not None:
                            kept.append(attempt)
                        if isinstance(outcome, Climber):
                            waiting[rung + 1].append(outcome)
                        else:
                            settled.append((climber.row, outcome))
            if batch.last and judged:
                with attempts_file(plan, batch.shard) as file:
                    save_attempts(file, together(judged, kept), plan.hashes)
                judged, kept = set(), []
            yield replace(batch, rows=[row for row, _ in settled]), [result for _, result in settled]


def at_level(plan: Plan, number: int) -> Plan:
    """The plan with its operator at level `number` of the ladder, from 0."""
    config = plan.config
    assert config.operator is not None
    assert config.anonymity is not None
    operator = config.operator.at(config.anonymity.ladder[number])
    return replace(plan, config=config.model_copy(update={"operator": operator}))


def admit(row: Row, gate: Gate, config: AnonymityConfig) -> Climber | str:
    """The row at the foot of the ladder; or, as a sentence, why its source can prove nothing."""
    doubt = gate.doubt_of_source(row.sample.full_key)
    if doubt is not None and getattr(config.undecided, doubt) == "quarantine":
        return f"undecided: {WORDS[doubt]}"
    found = gate.boxes_of_source(row.sample.full_key)
    try:
        faces = declared(config.boxes, config, row.sample.members, row.frame)
        keep = [touched(region) for region in declared(config.keep, config, row.sample.members, row.frame)]
    except Unfollowed as error:
        return f"undecided: anonymity.boxes and keep: {error}"
    if not all_found(faces, found):
        return f"undecided: {NOT_FOUND}"
    if any(meet(region, with_margin(face)) for region in keep for face in (*faces, *found)):
        return f"undecided: {KEPT_FACE}"
    return Climber(row=row, image=row.image, faces=(*found, *faces), keep=tuple(keep))


def with_mask(climber: Climber, config: AnonymityConfig) -> Row:
    """The row with a mask of its faces, where only faces change."""
    if config.faces_only is None:
        return climber.row
    return replace(climber.row, mask=to_change(soft_of(climber, config)))


def soft_of(climber: Climber, config: AnonymityConfig) -> Any:
    """How much of each pixel of a row changes, `[H, W]` in [0, 1]."""
    assert config.faces_only is not None
    size = climber.row.image.shape[:2]
    return softness(climber.faces, (size[0], size[1]), config.faces_only.margin, config.faces_only.feather)


def assembled(some: Sequence[Climber], results: Sequence[Result], config: AnonymityConfig) -> list[Result]:
    """The results with the regions that stay; where only faces change, blended into the images so far."""

    def image(climber: Climber, made: Pixels8) -> Pixels8:
        if config.faces_only is not None:
            made = blend(climber.image, made, soft_of(climber, config))
        return restored(made, climber.row.image, climber.keep)

    return [
        result if isinstance(result, str)
        else [replace(output, image=image(climber, output.image)) for output in result]
        for climber, result in zip(some, results, strict=True)
    ]  # fmt: skip


def verdicts(gate: Gate, some: Sequence[Climber], results: Sequence[Result]) -> list[list[ImageVerdict]]:
    """The verdict on each output of each row; all outputs are judged together."""
    made = [(climber.row, output.image) for climber, result in zip(some, results, strict=True)
            if not isinstance(result, str) for output in result]  # fmt: skip
    sources = [row.image for row, _ in made]
    found = iter(gate.judge([row.sample.full_key for row, _ in made], [image for _, image in made], sources))
    return [[] if isinstance(result, str) else [next(found) for _ in result] for result in results]


def decide(
    climber: Climber, result: Result, found: Sequence[ImageVerdict], config: AnonymityConfig, rung: int
) -> Climber | Result:
    """What becomes of a row: verified outputs with their evidence, the row for the next level, or why it is refused."""
    if isinstance(result, str):
        return result
    if any(meet(region, face.box) for region in climber.keep for verdict in found for face in verdict.faces):
        return climber if rung < len(config.ladder) else f"undecided at every level: {KEPT_FACE}"
    worst = max(found, key=lambda verdict: SEVERITY[policy(verdict, config)])
    chosen = policy(worst, config)
    if chosen == "pass":
        return [with_evidence(output, verdict, rung) for output, verdict in zip(result, found, strict=True)]
    if chosen == "retry" and rung < len(config.ladder):
        return next_rung(climber, result, worst, config)
    return f"{worst.verdict}{' at every level' if chosen == 'retry' else ''}: {worst.why}"


NOT_FOUND = "no face was found where one is declared"
KEPT_FACE = "a region to keep meets a face"
"""Why samples with declared boxes are refused."""
SEVERITY = {"pass": 0, "retry": 1, "quarantine": 2}
"""The order of policies: the strictest one of a row's outputs decides."""


def policy(found: ImageVerdict, config: AnonymityConfig) -> str:
    """What becomes of an output with this verdict: `pass`, `retry` or `quarantine`."""
    if found.doubt is not None and found.verdict == "undecided":
        return str(getattr(config.undecided, found.doubt))
    return "pass" if found.verdict == "anonymous" else "retry"


def next_rung(climber: Climber, outputs: Sequence[Output], worst: ImageVerdict, config: AnonymityConfig) -> Climber:
    """The row with what is left to change: where only faces change, just those that failed, if it is known which."""
    if config.faces_only is None or len(outputs) != 1:
        return climber
    failed = [face.box for face in worst.faces if face.verdict != "anonymous"]
    left = tuple(box for box in climber.faces if any(overlap(box, other) for other in failed))
    if not left or worst.doubt is not None:
        return climber
    return replace(climber, image=outputs[0].image, faces=left)


def overlap(one: FaceBox, other: FaceBox) -> bool:
    """Whether the centre of `one` lies in `other`."""
    (x, y, w, h), (left, top, wide, high) = one, other
    return left <= x + w / 2 <= left + wide and top <= y + h / 2 <= top + high


def with_evidence(output: Output, found: ImageVerdict, rung: int) -> Output:
    """The output with the gate's verdict in its provenance; `rung` is the round that passed, from 0."""
    return replace(output, provenance=output.provenance.model_copy(update={"anonymity": found.facts(rung)}))
