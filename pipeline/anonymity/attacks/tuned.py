"""Attackers that fine-tune a face network on what the operator makes of people they know, and search for others.

The attacker has pairs (released, original) of its own people, and trains on them what recognises through the operator.
With `parrot`, photographs that it put through the same operator, it compares like with like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.anonymity.attacks.figures import Searches
from pipeline.anonymity.attacks.identification import joined_results, owner_of, rates, search
from pipeline.anonymity.attacks.networks import Tunable
from pipeline.anonymity.attacks.photos import Indices, Photos, Threat, Vectors
from pipeline.diffusion.exactness import exact

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

STEPS, PEOPLE_AT_ONCE = 80, 24
"""Optimiser steps of each network, and people in a step, each with one view of every kind: the whole budget."""
RATE, DECAY, TEMPERATURE = 3e-4, 1e-2, 0.1
"""Learning rate and weight decay of AdamW, and temperature of the contrastive loss."""
FOLDS = 2
"""People are divided into so many parts. Each part is tested by a network that was trained on the others."""
FEWEST_PEOPLE = 8
"""Fewer known people teach a network nothing."""
BATCH = 64
"""Pictures that are embedded at a time."""


@dataclass(frozen=True, kw_only=True)
class Pictured:
    """Photographs with the picture of each face that a network sees."""

    photos: Photos
    """F photographs; their vectors are not read."""
    crops: Sequence[Pixels8]
    """F faces, uint8 RGB `[h, w, 3]` of any size, cut as the network is used to."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """People as a network sees them that was trained on others."""

    query: Photos
    """Their released photographs."""
    clean: Photos
    """Originals of all but the people that the network knows."""
    parrot: Photos | None
    """The same, put through the operator by the attacker; None where it did not."""


def turns(
    load: Callable[[], Tunable], made: Pictured, clean: Pictured, parrot: Pictured | None = None, *, seed: int = 0
) -> list[Turn]:
    """Trains one network for each part of the people, and embeds all others with it.

    `load` gives a fresh network. Where nobody's name is known, each original counts as a person of its own. Returns []
    where fewer than `FEWEST_PEOPLE` people would be known.
    """
    known = np.intersect1d(owner_of(made.photos), owner_of(clean.photos))
    part = np.random.default_rng(seed).permutation(len(known)) % FOLDS
    if len(known) - np.bincount(part, minlength=FOLDS).max() < FEWEST_PEOPLE:
        return []
    kinds = [made, clean, *([parrot] if parrot else [])]
    owners = [owner_of(kind.photos) for kind in kinds]
    begun = [_begun(load(), kind.crops) for kind in kinds]
    found = []
    for turn in range(FOLDS):
        learnt, tested = known[part != turn], known[part == turn]
        network = fitted(load(), begun, owners, learnt, seed=seed + turn)
        sees = [_sees(network, one) for one in begun]
        query = made.photos.seen_as(sees[0])[np.isin(owners[0], tested)]
        rest = [kind.photos.seen_as(vectors)[~np.isin(owner, learnt)]
                for kind, vectors, owner in zip(kinds[1:], sees[1:], owners[1:], strict=True)]  # fmt: skip
        found.append(Turn(query=query, clean=rest[0], parrot=rest[1] if parrot else None))
    return found


def searched(found: Sequence[Turn], threat: Threat) -> Searches:
    """Searches with all released photographs, each as the network sees it that never saw its person.

    `fine_tuned` searches among originals and `fine_tuned_parrot` among those that the attacker put through the
    operator. None stands for no pairs or too few people. The gallery leaves out the people who taught the network, so
    that it is smaller than that of the naive search, and chance is larger.
    """
    named = {"fine_tuned": [(turn.query, turn.clean) for turn in found]}
    if any(turn.parrot is not None for turn in found):
        named["fine_tuned_parrot"] = [(turn.query, turn.parrot) for turn in found if turn.parrot is not None]
    return {name: rates(joined_results([search(*pair, threat) for pair in pairs])) for name, pairs in named.items()}


def fitted(
    network: Tunable, begun: Sequence[Tensor], owners: Sequence[Indices], people: Indices, *, seed: int
) -> Tunable:
    """Trains a network until views of one person lie together and those of others apart (SupCon, 2004.11362, eq. 2).

    Each step draws `PEOPLE_AT_ONCE` of the `people`, and of each one a view of every kind that there is, mirrored or
    not. `begun` holds what the fixed part of the network made of each kind, `[2, F, ...]`, and `owners [F]` whose it
    is.
    """
    rng = np.random.default_rng(seed)
    rows = [{person: np.flatnonzero(owner == person) for person in people} for owner in owners]
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)  # type: ignore[arg-type]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    with exact():
        for _ in range(STEPS):
            drawn = rng.choice(people, min(PEOPLE_AT_ONCE, len(people)), replace=False)
            views, whose = [], []
            for features, of in zip(begun, rows, strict=True):
                chosen = [(person, rng.choice(of[person])) for person in drawn if len(of[person])]
                mirrored = rng.integers(0, 2, len(chosen))
                views.append(features[mirrored, [row for _, row in chosen]].float())
                whose += [person for person, _ in chosen]
            loss = contrast(network(torch.cat(views)), torch.tensor(np.array(whose)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network


def contrast(embeddings: Tensor, person: Tensor) -> Tensor:
    """The supervised contrastive loss of `embeddings [B, D]`, which need no length, of whom `person [B]` shows."""
    unit = normalize(embeddings)
    itself = torch.eye(len(unit), dtype=torch.bool)
    logits = (unit @ unit.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    likely = logits - logits.logsumexp(1, keepdim=True)
    mates = (person[:, None] == person) & ~itself
    has = mates.any(1)
    return -(likely.masked_fill(~mates, 0).sum(1)[has] / mates.sum(1)[has]).mean()


@torch.inference_mode()
def _begun(network: Tunable, crops: Sequence[Pixels8]) -> Tensor:
    """float16 `[2, F, ...]`: what does not learn, of each face and of its mirror image."""
    parts = []
    with exact():
        for first in range(0, len(crops), BATCH):
            pixels = np.stack([_resized(crop, network.side) for crop in crops[first : first + BATCH]])
            sides = (pixels, np.ascontiguousarray(pixels[:, :, ::-1]))
            parts.append(torch.stack([network.begin(side).half() for side in sides]))
    return torch.cat(parts, 1)


def _resized(crop: Pixels8, side: int) -> Pixels8:
    return np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.BICUBIC))


@torch.inference_mode()
def _sees(network: Tunable, begun: Tensor) -> Vectors:
    """`[F, D]`: the sum of both mirror images."""
    with exact():
        both = [torch.cat([network(part.float()) for part in side.split(BATCH)]) for side in begun]
    return (both[0] + both[1]).numpy()
