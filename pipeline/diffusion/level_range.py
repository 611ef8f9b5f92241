"""A noise level as people write it: `0.4`, `[0.2, 0.6]`, `{sigma: 1.2}`, `{log_snr: [-1, 1]}`."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import Field, model_serializer, model_validator
from torch import Tensor

from pipeline.diffusion.levels import Levels, Unit, from_sigma, to_sigma
from pipeline.section import Section


class LevelRange(Section):
    """One noise level, or a range that each sample draws its own from, uniformly in the unit it is given in.

    A bare number is a fraction of T in [0, 1], the unit of the papers; a σ is not negative; a log-SNR = −2·ln σ is any
    number.
    """

    unit: Unit = "fraction"
    low: float
    high: float

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return _ends(value)

    @model_validator(mode="after")
    def _in_range(self) -> LevelRange:
        if not self.low <= self.high:
            raise ValueError(f"the range is upside down: {self.low} is not ≤ {self.high}")
        if self.unit == "fraction" and not (self.low >= 0 and self.high <= 1):
            raise ValueError("a fraction of T lies in [0, 1]")
        if self.unit == "sigma" and self.low < 0:
            raise ValueError("sigma is not negative")
        return self

    @model_serializer
    def _write(self) -> dict[str, float | list[float]]:
        return {self.unit: self.low if self.low == self.high else [self.low, self.high]}

    @property
    def drawn(self) -> bool:
        """Whether each sample draws a level of its own."""
        return self.low < self.high

    def draw(self, uniform: Tensor, levels: Levels) -> Tensor:
        """The level σ of each row, float64 `[B]`, from `uniform [B]` in [0, 1)."""
        return to_sigma(self.low + (self.high - self.low) * uniform, self.unit, levels)


def _ends(value: Any) -> Any:
    """What people write for a level, as unit and ends. Raises `ValueError` for what is none."""
    if isinstance(value, dict) and not {"low", "high"} <= value.keys():
        if len(value) != 1 or next(iter(value)) not in get_args(Unit):
            raise ValueError("a level is a number, [low, high], {sigma: …}, {log_snr: …} or {fraction: …}")
        ((unit, value),) = value.items()
    else:
        unit = "fraction"
    if isinstance(value, int | float):
        return {"unit": unit, "low": value, "high": value}
    if isinstance(value, list | tuple) and len(value) == 2:
        return {"unit": unit, "low": value[0], "high": value[1]}
    return value


class SoughtLevel(LevelRange):
    """A noise level or a range, or `{bound: 0.01}`: the lowest level at which whoever holds all originals finds the
    source of an output first in at most so many of the cases.
    """

    bound: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, dict) and set(value) == {"bound"}:
            return {"low": 1, "high": 1, **value}
        return dict(value) if isinstance(value, LevelRange) else _ends(value)

    @model_serializer
    def _write(self) -> dict[str, float | list[float]]:
        return super()._write() if self.bound is None else {"bound": self.bound}

    def draw(self, uniform: Tensor, levels: Levels) -> Tensor:
        """The level σ of each row, as `LevelRange.draw` gives it. Raises `ValueError` where it is still to be found."""
        if self.bound is not None:
            raise ValueError(f"a level for {{bound: {self.bound:g}}} is found by `doppel run`, from all originals")
        return super().draw(uniform, levels)


def describe(sigma: Tensor, levels: Levels) -> list[dict[str, float | None]]:
    """Each level σ of `[B]` in all three units; the log-SNR of σ = 0 is infinite, and None here."""
    columns = [from_sigma(sigma, unit, levels).tolist() for unit in get_args(Unit)]
    return [
        {unit: value if abs(value) < float("inf") else None for unit, value in zip(get_args(Unit), row, strict=True)}
        for row in zip(*columns, strict=True)
    ]
