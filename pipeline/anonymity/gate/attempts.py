"""What the gate refused and a gate without one of its recognisers would have released, kept for the audit.

The audit leaves each recogniser out of the gate and attacks with it. For that it needs the image that the other
recognisers would have let pass first, which may be one that the whole gate refused. Of these, the embeddings of the
largest face are kept, in the private folder of the job: no image is kept, and none is made again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.anonymity.faces.recognise import FAMILIES
from pipeline.errors import UserError
from pipeline.streams.private import make_private_folder, private_part

if TYPE_CHECKING:
    from pipeline.anonymity.gate.verdicts import ImageVerdict

HEADER = "attempts"
"""Key of what is not a tensor, in the metadata of a file."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The outputs of one sample at one rung of the ladder, which its recognisers alone speak against."""

    source: str
    """Full key of the sample."""
    rung: int
    """The round, from 0."""
    refused_by: frozenset[str]
    """The recognisers that speak against one of the outputs or more; all are of one family."""
    vectors: Mapping[str, NDArray[np.float32]]
    """By recogniser, the embeddings `[C, D]` of the largest face of each of the C outputs."""


def refused(source: str, rung: int, found: Sequence[ImageVerdict]) -> Attempt | None:
    """The attempt that a gate without one family would have released; None where it would not, or the whole gate did.

    A gate without recognisers of two families would be another gate, and is not asked about.
    """
    names = frozenset(name for verdict in found for name in verdict.refused_by)
    passed = all(verdict.verdict == "anonymous" or verdict.refused_by for verdict in found)
    if not passed or len({FAMILIES.get(name, name) for name in names}) != 1:
        return None
    vectors = {name: np.stack([verdict.vectors[name] for verdict in found]) for name in found[0].vectors}
    return Attempt(source=source, rung=rung, refused_by=names, vectors=vectors)


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """Everything of that kind in a job, or in one of its shards."""

    judged: frozenset[str]
    """Full keys of all samples that went through the gate since attempts were kept."""
    kept: tuple[Attempt, ...]

    def first_without(self, names: Collection[str]) -> dict[str, Attempt]:
        """By sample, the first attempt that a gate without the recognisers `names` would have released."""
        first = dict[str, Attempt]()
        for one in self.kept:
            if one.refused_by <= set(names) and (one.source not in first or one.rung < first[one.source].rung):
                first[one.source] = one
        return first

    def followed_by(self, later: Attempts) -> Attempts:
        """Both together; of samples that were judged again, only what came later."""
        kept = [one for one in self.kept if one.source not in later.judged]
        return Attempts(judged=self.judged | later.judged, kept=(*kept, *later.kept))


NONE = Attempts(judged=frozenset(), kept=())
"""No attempts."""


def save_attempts(file: Path, found: Attempts, hashes: Mapping[str, str]) -> None:
    """Writes attempts, completely or not at all, and private; `hashes` are those of the job.

    What the same job left there before is kept, but for the samples that were judged again.
    """
    from safetensors.numpy import save

    make_private_folder(file.parent)
    with suppress(UserError):  # there is none, or one by another job
        found = load_attempts(file, hashes).followed_by(found)
    rows = [[one.source, one.rung, sorted(one.refused_by), _count(one)] for one in found.kept]
    header = {"judged": sorted(found.judged), "rows": rows, "hashes": dict(hashes)}
    names = sorted({name for one in found.kept for name in one.vectors})
    tensors = {name: np.concatenate([one.vectors[name] for one in found.kept]) for name in names}
    with private_part(file) as part:
        part.write(save({**tensors, "none": np.zeros(0, np.float32)}, {HEADER: json.dumps(header)}))


def load_attempts(file: Path, hashes: Mapping[str, str]) -> Attempts:
    """Reads attempts. Raises `UserError` where there are none of the job with these hashes."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy") as saved:
            header = json.loads(saved.metadata()[HEADER])
            tensors = {name: saved.get_tensor(name) for name in saved.keys() if name != "none"}  # noqa: SIM118
        judged, rows, found = frozenset(header["judged"]), header["rows"], header["hashes"]
        kept, start = list[Attempt](), 0
        for source, rung, names, count in rows:
            vectors = {name: columns[start : start + count] for name, columns in tensors.items()}
            kept.append(Attempt(source=source, rung=rung, refused_by=frozenset(names), vectors=vectors))
            start += count
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: no attempts can be read from it ({type(error).__name__})") from None
    if found != dict(hashes):
        raise UserError(f"{file}: the attempts are those of another job")
    return Attempts(judged=judged, kept=tuple(kept))


def all_attempts(folder: Path, hashes: Mapping[str, str]) -> Attempts:
    """The attempts of all shards of a job; files of other jobs, and damaged ones, count for nothing."""
    found = NONE
    for file in sorted(folder.glob("[!.]*.safetensors")):
        try:
            found = found.followed_by(load_attempts(file, hashes))
        except UserError:
            continue
    return found


def together(judged: Iterable[str], kept: Iterable[Attempt]) -> Attempts:
    """Attempts of the samples that were judged."""
    return Attempts(judged=frozenset(judged), kept=tuple(kept))


def _count(one: Attempt) -> int:
    return len(next(iter(one.vectors.values())))
