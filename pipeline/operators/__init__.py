"""One file per named method, and the literal dict that names resolve through."""

from pipeline.operators.boomerang import Boomerang
from pipeline.operators.contract import Operator, Transformed

OPERATORS: dict[str, type[Operator]] = {"boomerang": Boomerang}
AnyOperator = Boomerang
"""Any configured operator."""

__all__ = ["OPERATORS", "AnyOperator", "Boomerang", "Operator", "Transformed"]
