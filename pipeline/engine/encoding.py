"""Turning transformed rows into encoded samples, with everything that belonged to their sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np

from pipeline.engine.windows import Done
from pipeline.job.outputs import shape_of
from pipeline.media.clips import Clip, write_clip
from pipeline.media.fitting import unfitted
from pipeline.media.pixels import EXTENSIONS, encode, image_ext
from pipeline.media.provenance import PROVENANCE
from pipeline.media.records import Output, Row, Sample

if TYPE_CHECKING:
    from pipeline.job.plan import Plan
    from pipeline.media.records import Pixels8


def encode_all(
    batches: Iterable[Done], plan: Plan, pool: ThreadPoolExecutor
) -> Iterator[tuple[Done, list[list[Sample]]]]:
    """Encodes the outputs of each sample of each batch on the threads of `pool`."""
    for done in batches:
        encoded = pool.map(partial(to_sample, plan=plan), chain(*done.outputs))
        yield done, [list(islice(encoded, len(outputs))) for outputs in done.outputs]


def to_sample(frames: Sequence[Output], plan: Plan) -> Sample:
    """The encoded output with everything that belonged to its source, and its provenance.

    `frames` are all frames of a clip, or one image.
    """
    output, operator = frames[0], plan.config.operator
    name = operator.image_name if operator else ""
    source = output.row.sample
    member = partial(to_member, row=output.row, plan=plan)
    extension, data = member(name, [frame.image for frame in frames])
    if extension in source.members:  # a mask of that name is there already
        extension = f"{source.image_ext}.{extension}"
    provenance, before = output.provenance, source.members.get(PROVENANCE)
    if output.row.reel and provenance.details is not None:
        provenance = provenance.model_copy(update={"details": tuple(frame.provenance.details for frame in frames)})
    if before is not None:
        provenance = provenance.model_copy(update={"before": before.decode(errors="replace")})
    beside = dict(member(other, [frame.beside[other] for frame in frames]) for other in output.beside)
    members = {**source.members, **output.row.moved, **beside, PROVENANCE: provenance.to_json().encode()}
    key = provenance.key.format(shape_of(operator))
    return replace(source, key=key, image=data, image_ext=extension, members=members)


def to_member(name: str, images: Sequence[Pixels8], row: Row, plan: Plan) -> tuple[str, bytes]:
    """The extension and the bytes of an image, or of a clip in the container of its source."""
    extension = f"{name}.{row.sample.image_ext}" if name else row.sample.image_ext
    if row.reel is not None:
        pictures = np.stack([np.asarray(unfitted(image, row.frame)) for image in images])
        reel = row.reel
        clip = Clip(frames=pictures, seconds=reel.seconds, container=reel.container, loop=reel.loop)
        return extension, write_clip(clip)
    output = plan.config.output
    if output.format != "folder" or extension.rpartition(".")[2].lower() not in EXTENSIONS[plan.codec]:
        extension = image_ext(extension, plan.codec)  # a folder keeps names, which annotations may state
    return extension, encode(images[0], row.frame, codec=plan.codec, quality=output.quality)
