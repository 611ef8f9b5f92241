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
"""Length of a difference of two unit vectors below which it is rounding error and has no direction."""


class Thresholds(Section):
    """Cosines from −1 to 1 that a pair must reach; the defaults are the paper's."""

    before: float = Field(default=0.2, ge=-1, le=1)
    after: float = Field(default=0.2, ge=-1, le=1)
    direction: float = Field(default=0.2, ge=-1, le=1)
    images: float = Field(default=0.7, ge=-1, le=1)


@dataclass(frozen=True, kw_only=True)
class EditScores:
    """Cosines in [-1, 1], `[B]` each."""

    before: Tensor
    """Image and caption."""
    after: Tensor
    """Edited image and edited caption."""
    direction: Tensor
    """The change of the image and the change of the caption; 0 where either vanishes."""
    images: Tensor
    """Image and edited image."""


def edit_scores(before: Tensor, after: Tensor, caption: Tensor, edited: Tensor) -> EditScores:
    """From unit vectors `[B, D]` of the two images and their two captions, in one CLIP's space."""
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
    """bool `[B]`: every score reaches its threshold; a score that is not a number does not."""
    return (
        (scores.before >= thresholds.before)
        & (scores.after >= thresholds.after)
        & (scores.direction >= thresholds.direction)
        & (scores.images >= thresholds.images)
    )
