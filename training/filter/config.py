"""The recipe of `doppel filter`."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from pipeline.media.rules import PixelRules
from pipeline.section import LocalPath, Recipe
from pipeline.streams import AnyInput
from training.calibrate.config import LabelJudgeConfig
from training.classifier.filtering import FilterConfig


class StoreFilterConfig(PixelRules, Recipe):
    """The recipe of `doppel filter`."""

    kind: Literal["filter"] = "filter"
    store: LocalPath
    """The output.path of a doppel run, in format webdataset."""
    data: AnyInput
    """The originals, with labels, under the keys that they have in that run."""
    size: tuple[PositiveInt, PositiveInt]
    """Height and width of the images that the judge sees, in pixels."""
    judge: LabelJudgeConfig
    """The baseline classifier. It may have been trained on the originals themselves."""
    filter: FilterConfig
    """The bar that neighbours must reach."""
    output: LocalPath
    """Folder of weights and report."""
