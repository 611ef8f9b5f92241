"""One file per named method, and the literal dict that names resolve through."""

from typing import Annotated

from pydantic import Field

from pipeline.operators.anagram import Anagram
from pipeline.operators.boomerang import Boomerang
from pipeline.operators.contract import Given, Operator, Transformed
from pipeline.operators.enhance import Enhance
from pipeline.operators.factorized import Factorized
from pipeline.operators.ilvr import ILVR
from pipeline.operators.inpaint import Inpaint
from pipeline.operators.sdedit import SDEdit

OPERATORS: dict[str, type[Operator]] = {
    "anagram": Anagram,
    "boomerang": Boomerang,
    "enhance": Enhance,
    "factorized": Factorized,
    "ilvr": ILVR,
    "inpaint": Inpaint,
    "sdedit": SDEdit,
}
AnyOperator = Annotated[
    Anagram | Boomerang | Enhance | Factorized | ILVR | Inpaint | SDEdit,
    Field(discriminator="name"),
]
"""Any configured operator."""

__all__ = [
    "ILVR",
    "OPERATORS",
    "Anagram",
    "AnyOperator",
    "Boomerang",
    "Enhance",
    "Factorized",
    "Given",
    "Inpaint",
    "Operator",
    "SDEdit",
    "Transformed",
]
