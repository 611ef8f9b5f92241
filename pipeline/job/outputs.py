"""The outputs that a job makes of each sample."""

from __future__ import annotations

from pipeline.media.output_keys import Shape
from pipeline.operators import Operator


def shape_of(operator: Operator | None) -> Shape:
    """The copies and the further images that an operator makes of a sample; without an operator, one output."""
    return Shape() if operator is None else Shape(copies=operator.copies, names=operator.further_images)
