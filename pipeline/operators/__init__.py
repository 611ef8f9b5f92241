"""One file per named method, and the literal dict that names resolve through."""

from typing import Annotated

from pydantic import Field

from pipeline.operators.anagram import Anagram
from pipeline.operators.boomerang import Boomerang
from pipeline.operators.compose import Compose
from pipeline.operators.contract import Given, Operator, Transformed
from pipeline.operators.ddib import DDIB
from pipeline.operators.enhance import Enhance
from pipeline.operators.factorized import Factorized
from pipeline.operators.ilvr import ILVR
from pipeline.operators.inpaint import Inpaint
from pipeline.operators.interpolate import Interpolate
from pipeline.operators.mosaic import Mosaic
from pipeline.operators.pairs import Pairs
from pipeline.operators.prompt_to_prompt import PromptToPrompt
from pipeline.operators.sdedit import SDEdit
from pipeline.operators.tile_morph import TileMorph

OPERATORS: dict[str, type[Operator]] = {
    "anagram": Anagram,
    "boomerang": Boomerang,
    "compose": Compose,
    "ddib": DDIB,
    "enhance": Enhance,
    "factorized": Factorized,
    "ilvr": ILVR,
    "inpaint": Inpaint,
    "interpolate": Interpolate,
    "mosaic": Mosaic,
    "pairs": Pairs,
    "prompt_to_prompt": PromptToPrompt,
    "sdedit": SDEdit,
    "tile_morph": TileMorph,
}
AnyOperator = Annotated[
    Anagram
    | Boomerang
    | Compose
    | DDIB
    | Enhance
    | Factorized
    | ILVR
    | Inpaint
    | Interpolate
    | Mosaic
    | Pairs
    | PromptToPrompt
    | SDEdit
    | TileMorph,
    Field(discriminator="name"),
]
"""Any configured operator."""

__all__ = [
    "DDIB",
    "ILVR",
    "OPERATORS",
    "Anagram",
    "AnyOperator",
    "Boomerang",
    "Compose",
    "Enhance",
    "Factorized",
    "Given",
    "Inpaint",
    "Interpolate",
    "Mosaic",
    "Operator",
    "Pairs",
    "PromptToPrompt",
    "SDEdit",
    "TileMorph",
    "Transformed",
]
