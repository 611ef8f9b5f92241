"""Which pairs of images show the edit that their captions ask for: InstructPix2Pix's filter (2211.09800, 3.1.2).

Everything follows from CLIP's unit vectors, so any CLIP will do; the thresholds were chosen for ViT-L/14.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from pipeline.section import Section

VANISHED = 1e-6
"""The length of a difference of two unit vectors below which it is rounding error, and has no direction."""


class Thresholds(Section):
    """Cosines from −1 to 1 that a pair must reach; the defaults are the paper's (2211.09800, 3.1.2)."""

    before: float = Field(default=0.2, ge=-1, le=1)
    """The least cosine between the image and its caption."""
    after: float = Field(default=0.2, ge=-1, le=1)
    """The least cosine between the edited image and the edited caption."""
    direction: float = Field(default=0.2, ge=-1, le=1)
    """The least cosine between the change of the image and the change of the caption."""
    images: float = Field(default=0.7, ge=-1, le=1)
    """The least cosine between the image and the edited image."""


@dataclass(frozen=True, kw_only=True)
class EditScores:
    """How well B pairs of images show the edits of their captions: cosines in [-1, 1], `[B]` each."""

    before: Tensor
    """The cosine between image and caption."""
    after: Tensor
    """The cosine between edited image and edited caption."""
    direction: Tensor
    """The cosine between the change of the image and the change of the caption; 0 where either vanishes."""
    images: Tensor
    """The cosine between image and edited image."""


def edit_scores(before: Tensor, after: Tensor, caption: Tensor, edited: Tensor) -> EditScores:
    """Scores B pairs from the unit vectors, `[B, D]` each, of their two images and their two captions, in one CLIP's
    space.
    """
    moved, asked = after - before, edited - caption
    vanished = (moved.norm(dim=-1) < VANISHED) | (asked.norm(dim=-1) < VANISHED)
    direction = cosine_similarity(normalize(moved, dim=-1), normalize(asked, dim=-1), dim=-1)
    return EditScores(
        before=cosine_similarity(before, caption, dim=-1),
        after=cosine_similarity(after, edited, dim=-1),
        direction=direction.masked_fill(vanished, 0),
        images=cosine_similarity(before, after, dim=-1),
    )


def passes(scores: EditScores, thresholds: Thresholds) -> Tensor:
    """Whether every score of a pair reaches its threshold, bool `[B]`. A score that is not a number does not."""
    return (
        (scores.before >= thresholds.before)
        & (scores.after >= thresholds.after)
        & (scores.direction >= thresholds.direction)
        & (scores.images >= thresholds.images)
    )
