"""What the pixels of a data set mean: said once for all of its images, and never guessed from one of them."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.media.fitting import Fit
from pipeline.section import Section


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if not (all(map(math.isfinite, ends)) and ends[0] < ends[1]):
        raise ValueError("two numbers are expected, the lower first")
    return ends


def _shares(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= ends[0] < ends[1] <= 100:
        raise ValueError("percentiles lie between 0 and 100")
    return ends


Ends = Annotated[tuple[float, float], AfterValidator(_rising)]
"""Two finite numbers, the lower first."""
Range = Literal["dtype"] | Ends
"""The values that become black and white; `dtype` stands for 0 and 65535."""
Level = Annotated[int, Field(ge=0, le=255)]
Colour = Literal["white", "black"] | tuple[Level, Level, Level]
"""A colour by its name, or as red, green and blue from 0 to 255."""
COLOURS: dict[str, tuple[int, int, int]] = {"white": (255, 255, 255), "black": (0, 0, 0)}


class Percentile(Section):
    """Black and white found in the data: once, before work starts, and the same for all images from then on."""

    percentile: Annotated[Ends, AfterValidator(_shares)]
    """The shares of all values, in percent, that become black, and that stay below white: `[1, 99]`."""
    probe: int = Field(default=256, ge=1)
    """Reads so many images, from shards all over the data set. The numbers that were found stand in `job.json`, and a
    job that goes on takes them from there."""


class Reading(Section):
    """How images of every depth become the 8 bits, and the size, that a model sees."""

    fit: Fit = "resize"
    """How an image of another size becomes one of the model's: stretched, cut to its centre, or padded."""
    background: Colour = "white"
    """What transparent pixels are laid over: `white`, `black`, or red, green and blue from 0 to 255."""
    frames: Literal["first", "all"] = "first"
    """What is read of a file with several pages, or of an animation: its `first` image, or `all`, each as a sample of
    its own with the key KEY-000, KEY-001 and so on. A JPEG with several pictures (MPO) always gives its first."""


class PixelRules(Reading):
    """The rules by which every image of a data set is read, with numbers in place of all that had to be found out."""

    range: Range | None = None
    """What is black and what is white in images of more than 8 bits: `dtype` (0 and 65535) for whole numbers of 16
    bits that fill their range, or two numbers for all others, as `[0, 4095]` for 12 bits and `[-1000, 1000]` for a CT;
    values beyond become black and white. Without it, such images are refused. It changes no image of 8 bits."""

    @property
    def rules(self) -> PixelRules:
        """These rules alone, where they stand in a recipe beside other things."""
        return PixelRules(**{name: getattr(self, name) for name in PixelRules.model_fields})

    @property
    def colour(self) -> tuple[int, int, int]:
        """Red, green and blue of the background."""
        return COLOURS[self.background] if isinstance(self.background, str) else self.background


PLAIN = PixelRules()
"""The rules where nothing is said: for images of 8 bits, at the size that they have or that is asked for."""
