"""Leave-one-out: each recogniser attacks what passed a gate without it. So would one that nobody here has.

A recogniser that the gate does not use attacks the release as it is. One that it uses attacks what the others would
have released: of each original the first attempt that only it (or its family, which shares its network) refused, or
else the released image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.anonymity.attacks.attackers import trained
from pipeline.anonymity.attacks.figures import ThreatFigures
from pipeline.anonymity.attacks.photos import Pairing
from pipeline.anonymity.attacks.results import ThresholdsByRecogniser, attack
from pipeline.anonymity.faces.table import FaceTable
from pipeline.anonymity.gate.attempts import Attempts
from pipeline.audit.proving import family, left_out
from pipeline.release.evidence import LeftOut, Require


def leave_one_out(
    pairing: Pairing, gate: Sequence[str], guides: Sequence[str], t1: ThreatFigures,
    thresholds: ThresholdsByRecogniser, attempts: Attempts | None, require: Require,
) -> tuple[LeftOut, ...]:  # fmt: skip
    """The attacks by each recogniser of the audit on what passed a gate without it.

    Without `attempts`, the gate's own recognisers are left out of the result. So is one that is the whole gate, and one
    of the families `guides`, which images were led away from. Empty where T1 cannot be measured.
    """
    if t1.recognisers is None:
        return ()
    found = list[LeftOut]()
    for name in pairing.originals.embeddings:
        if family(name) in guides:
            continue
        if name not in gate:
            released = len(pairing.released.keys)
            found.append(left_out(name, gate, released, 0, t1.recognisers[name], require))
        elif attempts is not None:
            for others in remaining(name, gate):
                other, earlier = without(pairing, attempts, name, set(gate) - set(others))
                figures = attack(other, name, "T1", thresholds[name])
                learnt = trained(other.made(name), other.clean(name), "T1")
                figures = figures.model_copy(update={"trained": learnt})
                found.append(left_out(name, others, len(other.released.keys), earlier, figures, require))
    return tuple(found)


def remaining(name: str, gate: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The gates without a recogniser: without it alone, and without its family, where these are two that judge."""
    alone = tuple(one for one in gate if one != name)
    unrelated = tuple(one for one in alone if family(one) != family(name))
    yield from dict.fromkeys(one for one in (alone, unrelated) if one)


def without(pairing: Pairing, attempts: Attempts, name: str, left: set[str]) -> tuple[Pairing, int]:
    """What a gate without the recognisers `left` would have released, as `name` sees it.

    Also says how many of these images are attempts that the whole gate refused.
    """
    place = {key: number for number, key in enumerate(pairing.originals.keys)}
    first = {place[key]: one for key, one in attempts.first_without(left).items() if key in place}
    stays = ~np.isin(pairing.source, list(first))
    released, rows = pairing.released, pairing.released.first_faces()
    rows = rows[stays[released.image[rows]]]
    number = np.cumsum(stays) - 1  # of each image among those that stay
    early = [one.vectors[name] for one in first.values()]
    counts = [len(vectors) for vectors in early]
    image = np.concatenate([number[released.image[rows]], stays.sum() + np.arange(sum(counts))]).astype(np.int64)
    images = int(stays.sum()) + sum(counts)
    table = FaceTable(
        keys=("",) * images, identities=(None,) * images, image=image,
        box=np.zeros((len(image), 4), np.float32), eyes=np.full((len(image), 2, 2), np.nan, np.float32),
        embeddings={name: np.concatenate([released.embeddings[name][rows], *early])},
        phash=np.zeros(images, np.uint64),
    )  # fmt: skip
    sources = np.concatenate([pairing.source[stays], np.repeat(np.array(list(first), np.int64), counts)])
    return Pairing(originals=pairing.originals, released=table, source=sources), sum(counts)


def unknown(pairing: Pairing, attempts: Attempts) -> int:
    """How many released images were judged before attempts were kept."""
    return sum(pairing.originals.keys[source] not in attempts.judged for source in pairing.source if source >= 0)
