"""The guide: for each batch, what moves its estimates away from the people in its sources.

It is universal guidance (2302.07121) of the backward kind: gradients of any network on the estimate of the
clean image move that estimate, and do not pass the denoiser, which answers to what was pushed in its next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.anonymity.faces.deepface_recognisers import Recogniser
from pipeline.anonymity.faces.places import PLACES
from pipeline.anonymity.faces.recognise import load_recogniser
from pipeline.anonymity.faces.table import FaceTable
from pipeline.anonymity.gate.config import FacesOnly
from pipeline.anonymity.gate.face_masks import softness
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.guidance import FaceGuidance
from pipeline.anonymity.guidance.pushing import Witness, pushed
from pipeline.diffusion.denoisers import Steer, per_row
from pipeline.diffusion.levels import to_sigma
from pipeline.diffusion.model import Model
from pipeline.errors import UserError

STRANGERS = 1000
"""Faces of originals, the first ones, whose distances say how far apart strangers are."""


@runtime_checkable
class Differentiable(Recogniser, Protocol):
    """A recogniser whose numbers have gradients."""

    @property
    def side(self) -> int:
        """Side in pixels of the crops that the network sees."""
        ...

    def features(self, pixels: Tensor) -> Tensor:
        """Embeds crops `[B, 3, side, side]`, RGB in [-1, 1], as `[B, D]`."""
        ...


def differentiable(names: Sequence[str], device: str, workers: int) -> tuple[Differentiable, ...]:
    """Loads recognisers that give gradients. Raises `UserError` for one that does not, on this machine."""
    found = [load_recogniser(name, device=device, workers=workers) for name in names]
    for name, one in zip(names, found, strict=True):
        if not isinstance(one, Differentiable):
            raise UserError(f"anonymity.guidance: recogniser {name} gives no gradients on this machine")
    return tuple(one for one in found if isinstance(one, Differentiable))


@dataclass(frozen=True, kw_only=True)
class Guide:
    """Leads all faces of an image away from its person, by where the faces of its source are."""

    config: FaceGuidance
    recognisers: tuple[Differentiable, ...]
    gate: Gate
    """Knows the originals, with embeddings of these recognisers, and who is in them."""
    goals: tuple[float, ...]
    """The cosine distance that is far enough, of each recogniser."""

    @classmethod
    def of(cls, config: FaceGuidance, gate: Gate, device: str, workers: int) -> Guide:
        """Makes the guide of a job. Raises `UserError` where a recogniser gives no gradients, or nobody is a
        stranger.
        """
        recognisers = differentiable(config.recognisers, device, workers)
        goals = tuple(apart(gate.originals, gate.people, one.name, config.margin) for one in recognisers)
        return cls(config=config, recognisers=recognisers, gate=gate, goals=goals)

    @torch.inference_mode(False)  # gradients pass no tensors that were made in inference mode
    def steer(self, keys: Sequence[str], model: Model) -> Steer:
        """What moves the estimates of a batch whose sources have these full keys, at levels within the interval."""
        table = self.gate.originals
        rows = [table.rows_of(self.gate.number_of(key)) for key in keys]
        faces = np.concatenate(rows)
        owner = torch.from_numpy(np.repeat(np.arange(len(keys)), [len(of_image) for of_image in rows]))
        reach = torch.from_numpy(np.stack([self._reach(key, model.size) for key in keys]))[:, None]
        witnesses = [self._witness(number, faces) for number in range(len(self.recognisers))]
        ends = torch.tensor([self.config.interval.low, self.config.interval.high], dtype=torch.float64)
        turns = count()

        def steer(x0: Tensor, sigma: Tensor) -> Tensor:
            at = to_sigma(ends.to(x0.device), self.config.interval.unit, model.levels)
            acts = (sigma >= at.amin()) & (sigma <= at.amax())
            if not len(faces) or not bool(acts.any()):
                return x0
            before = model.decode(x0)
            after = pushed(
                before, owner, reach, witnesses,
                scale=self.config.scale, pushes=self.config.pushes, turn=next(turns),
            )  # fmt: skip
            moved = x0 + model.encode(after) - model.encode(before)  # what a round trip to latents loses stays lost
            return torch.where(per_row(acts, x0).bool(), moved, x0)

        return steer

    def _reach(self, key: str, size: tuple[int, int]) -> NDArray[np.float32]:
        if not self.config.face_only:
            return np.ones(size, np.float32)
        around = FacesOnly()
        return softness(self.gate.boxes_of_source(key), size, around.margin, around.feather)

    def _witness(self, number: int, faces: NDArray[np.int64]) -> Witness:
        """A recogniser in front of the faces in these rows of the originals."""
        table, recogniser = self.gate.originals, self.recognisers[number]
        people = [self.gate.faces_of(int(self.gate.people[image])) for image in table.image[faces]]
        most = max(map(len, people), default=0)
        known = [np.resize(person, most) for person in people]
        box, eyes = torch.from_numpy(table.box[faces]), torch.from_numpy(table.eyes[faces])
        return Witness(
            features=recogniser.features, side=recogniser.side, place=PLACES[recogniser.name](box, eyes),
            known=torch.from_numpy(table.embeddings[recogniser.name][np.array(known, np.int64).reshape(-1, most)]),
            goal=self.goals[number],
        )  # fmt: skip


def apart(table: FaceTable, people: NDArray[np.int64], name: str, share: float) -> float:
    """The cosine distance that this share of pairs of strangers stay within, among the first faces of a table.

    `people [N]` numbers the person of each image. Raises `UserError` where there are no strangers.
    """
    rows = slice(0, STRANGERS)
    faces, who = table.embeddings[name][rows], people[table.image[rows]]
    distances = (1 - faces @ faces.T)[who[:, None] != who]
    if not len(distances):
        raise UserError("anonymity.guidance: the originals show one person only, so nobody is a stranger")
    return float(np.quantile(distances, share))
