"""How many outputs are made of a sample, by its class: more of the rare ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.errors import UserError
from pipeline.job.classes import listed
from pipeline.section import Section

MOST = 20
"""Outputs of one sample that `balance` asks for, at most."""


class CopiesConfig(Section):
    """The number of outputs of each sample, where it depends on its class; `operator.copies` is that of all others."""

    by: Literal["label"] = "label"
    """What the number depends on."""
    values: dict[int | str, Annotated[int, Field(ge=1)]] | None = None
    """The copies of each class, by the name or number that it has in the data set."""
    balance: bool = False
    """Makes as many outputs of each class as of the commonest, about, and at most 20 of a sample. All labels are
    counted before the job begins."""

    @model_validator(mode="after")
    def _one_of_both(self) -> CopiesConfig:
        if (self.values is None) != self.balance:
            raise ValueError("give values, or balance: true, and not both")
        return self


@dataclass(frozen=True, kw_only=True)
class Copies:
    """How many outputs are made of a sample."""

    of: Mapping[int, int]
    """Outputs of a sample, by the number of its class in the data set."""
    others: int
    """Outputs of samples without a class, or of another."""

    def count(self, label: int | None) -> int:
        """The outputs of a sample with this label."""
        return self.others if label is None else self.of.get(label, self.others)

    @property
    def most(self) -> int:
        """The most outputs that a sample has."""
        return max([*self.of.values(), self.others])


def by_value(values: Mapping[int | str, int], names: Sequence[str] | None, others: int) -> Copies:
    """The copies that a recipe gives each class. Raises `UserError` for a class that the data set has not."""
    of = dict[int, int]()
    for key, count in values.items():
        if names is not None and key in names:
            of[names.index(str(key))] = count
        elif isinstance(key, int) and (names is None or 0 <= key < len(names)):
            of[key] = count
        else:
            raise UserError(f"copies.values: {key!r} is no class of the data set, which has {listed(names)}")
    return Copies(of=of, others=others)


def balanced(counts: Mapping[int, int], others: int) -> Copies:
    """The copies that give each class about as many outputs as `others` of each sample give the commonest.

    `counts` are the samples of each class.
    """
    most = max(counts.values(), default=0)
    return Copies(of={label: min(MOST, round(others * most / n)) for label, n in sorted(counts.items())}, others=others)
