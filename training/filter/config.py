"""What `doppel filter` reads."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from pipeline.media.pixels import Fit
from pipeline.section import Recipe
from pipeline.streams import AnyInput
from training.calibrate.config import LabelJudgeConfig
from training.classifier.filtering import FilterConfig


class StoreFilterConfig(Recipe):
    kind: Literal["filter"] = "filter"
    store: str
    """The output.path of a doppel run, in format webdataset."""
    data: AnyInput
    """The originals, with labels, by the keys of that run."""
    size: tuple[PositiveInt, PositiveInt]
    """Height and width that the judge sees."""
    fit: Fit = "resize"
    judge: LabelJudgeConfig
    """The baseline. It may have been trained on the originals themselves."""
    filter: FilterConfig
    output: str
