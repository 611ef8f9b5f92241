"""From shards to decoded batches: each sample's image, mask and guide, or why the sample cannot be used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Literal

from pipeline.diffusion.model import Outline
from pipeline.errors import UserError
from pipeline.extras import CaptionConfig, NoCaption, clip_of, read_caption, read_guide, read_mask
from pipeline.job import Job
from pipeline.pixels import Undecodable, decode
from pipeline.records import Batch, Rejected, Row, Sample
from pipeline.streams.contract import InputShard

PASS_THROUGH_BATCH = 64


@dataclass(frozen=True)
class Reader:
    """Decodes the samples of a job on the threads of `pool`."""

    job: Job
    model: Outline | None
    pool: ThreadPoolExecutor
    label_names: tuple[str, ...] | None = None

    def __call__(self, shards: Iterable[InputShard], remaining: int | None = None) -> Iterator[Batch]:
        """Batches never cross a shard; every shard ends with a batch marked `last`."""
        config = self.job.config
        size = self.job.batch_size if config.model else PASS_THROUGH_BATCH
        for shard in shards:
            if remaining == 0:
                return
            fingerprint, rows, rejected, count = shard.fingerprint(), list[Row](), list[Rejected](), 0
            batch = partial(Batch, shard=shard.name, fingerprint=fingerprint)
            samples = islice(shard.read(), remaining)
            before = deque[Row](maxlen=config.guide.previous or 0 if config.guide else 0)
            while chunk := list(islice(samples, size)):
                count += len(chunk)
                for item in self.pool.map(self.decode_row, chunk):
                    used = follow(item, before) if isinstance(item, Row) and before.maxlen else item
                    if isinstance(used, Row):
                        rows.append(used)
                    else:
                        rejected.append(used)
                if remaining is not None:
                    remaining -= len(chunk)
                if len(rows) >= size:
                    yield batch(rows=rows[:size], rejected=rejected, read=count, last=False)
                    rows, rejected, count = rows[size:], [], 0
            yield batch(rows=rows, rejected=rejected, read=count, last=True)

    def decode_row(self, sample: Sample | Rejected) -> Row | Rejected:
        """A sample's images, fitted to the model, or why the sample cannot be used."""
        if isinstance(sample, Rejected):
            return sample
        config, fit = self.job.config, self.job.config.image.fit
        problem = self.label_problem(sample.label)
        if problem is not None:
            return reject(sample, problem, undecodable=False)
        noise_key = clip_of(sample.key, config.clip)
        if noise_key is None:
            return reject(sample, f"the key does not match clip {config.clip!r}", undecodable=False)
        try:
            caption = self.caption(sample, "own", config.caption)
            edited = self.caption(sample, "edited", config.edited)
        except NoCaption as error:
            return reject(sample, f"no caption: {error}", undecodable=False)
        try:
            image, frame = decode(sample.image, self.model.size if self.model else None, fit)
        except Undecodable as error:
            return reject(sample, str(error), undecodable=True)
        if config.image.mode == "RGB":
            frame = replace(frame, mode="RGB")
        row = Row(sample=sample, frame=frame, image=image, noise_key=noise_key, caption=caption, edited=edited)
        try:
            if config.mask and self.model:
                mask = read_mask(config.mask, sample, frame, self.model.size, fit, self.job.salt, noise_key)
                row = replace(row, mask=mask)
            if config.guide and self.model:
                guide = read_guide(config.guide, sample, image, self.model.size, fit)
                row = row if guide is None else replace(row, guides=(guide,))
        except Undecodable as error:
            return reject(sample, str(error), undecodable=False)
        return row

    def caption(self, sample: Sample, condition: Literal["own", "edited"], config: CaptionConfig | None) -> str | None:
        """The sample's prompt, where the job needs it. Raises `NoCaption`, or `UserError` if that ends the job."""
        if self.model is None or config is None or not self.job.config.wants(self.model, "text", condition):
            return None
        try:
            return read_caption(config, sample, self.label_names)
        except NoCaption as error:
            if config.on_missing == "skip":
                raise
            raise UserError(
                f"caption: {error} ({sample.origin or sample.key}); on_missing: skip or default goes on without"
            ) from None

    def label_problem(self, label: int | None) -> str | None:
        """Why a sample with this label can't be used. Without need for labels, −1 is the convention for "none"."""
        names = self.label_names
        if self.model is not None and self.job.config.wants(self.model, "class"):
            highest = (self.model.classes or 0) - 1
            if label is None:
                way_out = " (operator.condition: none goes without)" if self.model.unconditional else ""
                return f"no class label, and the model needs one of 0 to {highest}{way_out}"
            if not 0 <= label <= highest:
                return f"label {label} is out of range: the model knows 0 to {highest}"
        if label is not None and names is not None and not -1 <= label < len(names):
            return f"label {label} is out of range: the data set names 0 to {len(names) - 1}"
        return None


def follow(row: Row, before: deque[Row]) -> Row | Rejected:
    """A row with the images before it for its guides, the nearest first; it joins them."""
    guides = tuple(earlier.image for earlier in reversed(before))
    before.append(row)
    if len(guides) == before.maxlen:
        return replace(row, guides=guides)
    why = f"sample {len(guides) + 1} of its shard: not enough lie before it to be its {before.maxlen} guides"
    return reject(row.sample, why, undecodable=False)


def reject(sample: Sample, reason: str, *, undecodable: bool) -> Rejected:
    return Rejected(
        key=sample.key,
        reason=reason,
        kind="undecodable" if undecodable else "refused",
        origin=sample.origin,
        members={sample.image_ext: sample.image, **sample.members},
    )
