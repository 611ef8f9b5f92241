"""Turning shards into decoded batches: each sample's image (or frames), mask and guide, or why it cannot be used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Literal, TypeVar

from pipeline.diffusion.noise import KeyedNoise
from pipeline.engine.holding import held_at_all, held_by, held_encoded
from pipeline.engine.windows import windows
from pipeline.errors import UserError
from pipeline.geometry.following import follow
from pipeline.geometry.moving import Unfollowed
from pipeline.geometry.undeclared import undeclared
from pipeline.job.captions import CaptionConfig, Captions, NoCaption, check_names, read_captions, wants
from pipeline.job.classes import Classes, match
from pipeline.job.clips import clip_of, frames_at_once
from pipeline.job.extras import read_guide, read_mask
from pipeline.job.noticing import BESIDE, of_left_out, of_mask, of_place, of_plan, of_resolution
from pipeline.media.clips import is_clip, read_clip
from pipeline.media.fitting import fit_frame
from pipeline.media.frame import Frame
from pipeline.media.opening import Undecodable
from pipeline.media.pixels import Picture, read_picture
from pipeline.media.records import UNREAD, Batch, Reel, Rejected, Row, Sample, reject
from pipeline.streams.contract import InputShard, InputStream
from pipeline.streams.pages import paged

if TYPE_CHECKING:
    from pipeline.job.config import ImageConfig
    from pipeline.job.plan import Plan


Outcome = TypeVar("Outcome")


def open_input(plan: Plan) -> tuple[InputStream, Classes]:
    """Opens the job's input, and says what its classes are for the model.

    Raises `UserError` where these do not go together.
    """
    config, model = plan.config, plan.outline
    stream = paged(config.input.open(), "first" if config.video else plan.rules.frames)
    classes = Classes(names=stream.label_names)
    if model is not None and wants(config.operator, model, "class"):
        classes = match(
            config.classes, stream.label_names, model.class_names, model.classes or 0,
            secret=config.anonymity is not None,
        )  # fmt: skip
    if model is not None:
        for condition, caption in (("own", config.caption), ("edited", config.edited)):
            if caption is not None and wants(config.operator, model, "text", condition):
                check_names(caption, classes.names)
    notes = (*stream.notes, *of_left_out(stream.left_out, secret=config.anonymity is not None), *of_plan(plan))
    if stream.beside is not None and config.output.format == "folder":
        notes += (BESIDE,)
    return replace(stream, label_names=classes.names, notes=notes), classes


class Limited:
    """The first items of a stream, and whether it would have had more. A place of damage is no item."""

    def __init__(self, items: Iterator[Sample | Rejected], most: int | None) -> None:
        self._items, self._most, self.taken = items, most, 0

    def __iter__(self) -> Iterator[Sample | Rejected]:
        while self._most is None or self.taken < self._most:
            item = next(self._items, None)
            if item is None:
                return
            self.taken += not is_damage(item)
            yield item

    def cut(self) -> bool:
        """Whether the limit was reached before the end."""
        return self.taken == self._most and next(self._items, None) is not None


def wanted(frame: Frame, options: ImageConfig) -> Frame:
    """The frame of a source as the section `image:` of a recipe wants the output to be."""
    frame = frame.restored() if options.restore_size else frame
    return replace(frame, mode="RGB") if options.mode == "RGB" else frame


@dataclass(frozen=True)
class Reader:
    """Decodes the samples of a job on the threads of `pool`."""

    plan: Plan
    classes: Classes
    """The classes of the input, and what they are for the model."""
    pool: ThreadPoolExecutor

    def __call__(
        self, shards: Iterable[InputShard], remaining: int | None = None, unlimited: Container[str] = ()
    ) -> Iterator[Batch]:
        """Yields decoded batches; none crosses the end of a shard, and every shard ends with a batch marked `last`.

        At most `remaining` samples are read, except from shards that are named in `unlimited`; None means all. For a
        model of clips, the batch size counts windows of frames. A batch is shorter where it holds more than its part of
        `run.memory`; of what a model takes together, only encoded bytes count.
        """
        config = self.plan.config
        size, model = self.plan.batch_size, self.plan.outline
        frames = frames_at_once(config, model) if model else None
        held, room = (held_encoded, config.run.memory // 4) if model else (held_at_all, config.run.memory // 16)
        at_once = config.run.workers * (1 if config.video else 2)  # decoded clips are large
        for shard in shards:
            most = None if shard.name in unlimited else remaining
            if most == 0:
                continue
            fingerprint, rows, rejected, count, heavy = shard.fingerprint(), list[Row](), list[Rejected](), 0, 0
            batch = partial(Batch, shard=shard.name, fingerprint=fingerprint)
            samples = Limited(shard.read(), most)
            before = deque[Row](maxlen=config.guide.previous or 0 if config.guide else 0)
            for item in ahead(self.pool, self.decode_rows, samples, most=at_once, room=config.run.memory // 4):
                count += not is_damage(item)
                for row in [item] if isinstance(item, Rejected) else item:
                    used = guided(row, before) if isinstance(row, Row) and before.maxlen else row
                    if isinstance(used, Row):
                        rows.append(used)
                        heavy += held([used], [])
                    else:
                        rejected.append(used)
                        heavy += held([], [used])
                if len(rows) < size and heavy <= room:
                    continue
                whole = windows(rows, frames)[: None if frames is None else -1]  # the last window may go on
                while len(whole) >= size or ((whole or rejected) and heavy > room):
                    some, whole = whole[:size], whole[size:]
                    yield batch(rows=list(chain(*some)), rejected=rejected, read=count, last=False)
                    rows, rejected, count = rows[sum(map(len, some)) :], [], 0
                    heavy = held(rows, rejected)
            if remaining is not None and most is not None:
                remaining -= samples.taken
            yield batch(rows=rows, rejected=rejected, read=count, last=True, cut=samples.cut())

    def decode_rows(self, sample: Sample | Rejected) -> list[Row] | Rejected:
        """A sample's image, or the frames of its clip, fitted to the model; or why the sample cannot be used."""
        if isinstance(sample, Rejected):
            return sample
        config, rules = self.plan.config, self.plan.rules
        sample = self.classes.read(sample)
        problem = self.label_problem(sample)
        if problem is not None:
            return reject(sample, problem, undecodable=False)
        noise_key = sample.full_key if config.clip is None else clip_of(sample.key, config.clip)
        if noise_key is None:
            return reject(sample, f"the key does not match clip {config.clip!r}", undecodable=False)
        try:
            own = self.captions(sample, noise_key, "own", config.caption)
            edited = self.captions(sample, noise_key, "edited", config.edited)
        except NoCaption as error:
            return reject(sample, f"no caption: {error}", undecodable=False)
        try:
            reel, pictures = self.pictures(sample)
        except Undecodable as error:
            return reject(sample, str(error), undecodable=True)
        frame = self.framed(pictures[0].frame)  # of all frames of a clip
        told = list[str]()
        try:
            moved = follow(config.geometry, sample.members, frame, told.append) if config.geometry else {}
        except Unfollowed as error:
            return reject(sample, f"geometry: {error}", undecodable=False)
        stays = config.operator is None or config.operator.keeps_places
        notes = (*dict.fromkeys(told), *undeclared(config.geometry, sample.members, frame, stays), *self.notes(sample))
        notes += of_resolution(frame) if self.plan.outline else ()
        rows = list[Row]()
        mask = None
        try:
            for index, picture in enumerate(pictures):
                image = picture.pixels
                if config.mask and self.plan.outline and mask is None:  # all frames have the same
                    mask = read_mask(
                        config.mask, sample, frame, self.plan.outline.size, rules, self.plan.salt, noise_key
                    )
                guide = None
                if config.guide and self.plan.outline:
                    guide = read_guide(config.guide, sample, image, self.plan.outline.size, rules)
                rows.append(
                    Row(
                        sample=sample,
                        frame=frame,
                        image=image,
                        noise_key=noise_key,
                        label=None if sample.label is None else self.classes.number(sample.label),
                        copies=self.plan.copies.count(sample.label) if self.plan.copies else None,
                        mask=mask,
                        captions=own.texts,
                        edited=edited.texts,
                        guides=() if guide is None else (guide,),
                        reel=reel,
                        content=picture.content,
                        index=index,
                        moved=moved,
                        notes=(*own.notes, *edited.notes, *notes, *picture.notes, *of_mask(mask)),
                    )
                )
        except Undecodable as error:
            return reject(sample, str(error), undecodable=False)
        return rows

    def pictures(self, sample: Sample) -> tuple[Reel | None, list[Picture]]:
        """The image of a sample, or its frames where the recipe takes it for a clip. Raises `Undecodable`."""
        size, rules = self.plan.outline.size if self.plan.outline else None, self.plan.rules
        if not is_clip(sample.image_ext):
            return None, [read_picture(sample.image, size, rules)]
        if self.plan.config.video is None:
            if sample.image_ext.lower().endswith("mp4"):
                raise Undecodable("it is a clip, and the recipe has no section video")
            return None, [read_picture(sample.image, size, rules)]
        clip = read_clip(sample.image, sample.image_ext, background=rules.colour)
        reel = Reel(container=clip.container, seconds=clip.seconds, loop=clip.loop)
        return reel, [Picture(*fit_frame(picture, size, rules.fit), ()) for picture in clip.frames]

    def framed(self, frame: Frame) -> Frame:
        """The frame as the recipe wants the output to be."""
        return wanted(frame, self.plan.config.image)

    def captions(
        self, sample: Sample, noise_key: str, condition: Literal["own", "edited"], config: CaptionConfig | None
    ) -> Captions:
        """The prompts of a sample where the job needs them; else none.

        Raises `NoCaption`, or `UserError` if that ends the job.
        """
        operator = self.plan.config.operator
        if self.plan.outline is None or config is None or not wants(operator, self.plan.outline, "text", condition):
            return Captions(())
        draws = [
            KeyedNoise(self.plan.salt, [noise_key], "caption", copy).uniform().item()
            if config.pick == "random"
            else 0.0
            for copy in range(operator.copies if operator else 1)
        ]
        try:
            return read_captions(config, sample, self.classes.names, draws)
        except NoCaption as error:
            if config.on_missing == "skip":
                raise
            which = "" if self.plan.config.anonymity else f" ({sample.origin or sample.key})"
            raise UserError(f"caption: {error}{which}; on_missing: skip or default goes on without") from None

    def label_problem(self, sample: Sample) -> str | None:
        """Why a sample can't be used with its label; else None.

        Where no labels are needed, −1 may stand for "none", and what is no number is passed on as it is.
        """
        model, names, label = self.plan.outline, self.classes.names, sample.label
        if model is not None and wants(self.plan.config.operator, model, "class"):
            highest = (model.classes or 0) - 1
            if sample.unread is not None:
                return f"{UNREAD[sample.unread.kind]}, and the model needs a class"
            if label is None:
                way_out = " (operator.condition: none goes without)" if model.unconditional else ""
                return f"no class label, and the model needs one of 0 to {highest}{way_out}"
            if (why := self.classes.unknown(label, range(highest + 1))) is not None:
                return f"label {label} is out of range: {why}"
        if label is not None and names is not None and not -1 <= label < len(names):
            return f"label {label} is out of range: the data set names 0 to {len(names) - 1}"
        return None

    def notes(self, sample: Sample) -> tuple[str, ...]:
        """What is to be said of how the sample was understood."""
        unread = sample.unread
        said = () if unread is None else (f"{UNREAD[unread.kind]}: written as it is, without a class",)
        return (*said, *of_place(self.plan.config.output.format, sample))


def is_damage(item: object) -> bool:
    """Whether an item is no sample, but a place where nobody knows how many are lost."""
    return isinstance(item, Rejected) and item.kind == "damaged"


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[Sample | Rejected], Outcome], items: Iterable[Sample | Rejected],
    *, most: int, room: int,
) -> Iterator[Outcome]:  # fmt: skip
    """Yields `work(item)` for each item, in order.

    Threads are ahead by at most `most` items that need `room` bytes together, or by one.
    """
    waiting = deque[tuple[int, Future[Outcome]]]()
    try:
        for item in items:
            weight = held_by(item)
            while waiting and (len(waiting) >= most or sum(other for other, _ in waiting) + weight > room):
                yield waiting.popleft()[1].result()
            waiting.append((weight, pool.submit(work, item)))
        while waiting:
            yield waiting.popleft()[1].result()
    finally:
        for _, left in waiting:
            left.cancel()


def guided(row: Row, before: deque[Row]) -> Row | Rejected:
    """The row with the images before it as its guides, the nearest first; it then joins them in `before`.

    Returns a rejection where too few images lie before it.
    """
    guides = tuple(earlier.image for earlier in reversed(before))
    before.append(row)
    if len(guides) == before.maxlen:
        return replace(row, guides=guides)
    why = f"sample {len(guides) + 1} of its shard: not enough lie before it to be its {before.maxlen} guides"
    return reject(row.sample, why, undecodable=False)
