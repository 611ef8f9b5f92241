"""What a job makes of each sample, as its operator says."""

from __future__ import annotations

from pipeline.media.output_keys import Shape
from pipeline.operators import Operator


def shape_of(operator: Operator | None) -> Shape:
    """Without an operator, images pass through: one output for each sample."""
    return Shape() if operator is None else Shape(copies=operator.copies, names=operator.further_images)
