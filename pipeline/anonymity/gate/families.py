"""Who judges by default, and how far a gate may go whose recognisers share one network.

What one network is fooled by fools the same network on another crop: they are one witness. Of 432 images of unseen
people that Dlib and dlib-chip let pass at levels of .4 to .8, an unrelated recogniser still found 12.7 % (of those that
passed at .4, 26.5 %); of those made at .9, none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipeline.anonymity.faces.recognise import FAMILIES, available
from pipeline.diffusion.level_range import LevelRange

ALWAYS, UNRELATED = ("Dlib", "dlib-chip"), "faceres"
"""The recognisers of the gate by default, and the one of another family that joins where its weights are present."""
LEAST = 0.9
"""The lowest level, as a fraction of T, at which one family may judge without being asked for."""
ALONE = (LevelRange(low=LEAST, high=LEAST), LevelRange(low=0.95, high=0.95))
"""The default ladder of a gate with one family."""


def default_recognisers() -> tuple[str, ...]:
    """Both families where the weights of both are present on this machine, else one."""
    return (*ALWAYS, UNRELATED) if UNRELATED in FAMILIES and available(UNRELATED) else ALWAYS


def families_of(recognisers: Iterable[str]) -> tuple[str, ...]:
    """The families among recognisers, each once, sorted; an unknown name, which nothing can load, is one of its own."""
    return tuple(sorted({FAMILIES.get(name, name) for name in recognisers}))


def check_levels(family: str, levels: Mapping[str, LevelRange]) -> None:
    """Refuses levels at which one family may not judge; `levels` are those of a recipe by their places in it.

    Raises `ValueError` where a level is not a fraction of T of .9 or above.
    """
    for place, level in levels.items():
        if level.unit != "fraction" or level.low < LEAST:
            raise ValueError(
                f"{place}: all recognisers of the gate are of one family ({family}), whose verdict is not to be "
                f"trusted below level {LEAST:g}; found is {written(level)}: add a recogniser of another family, take "
                f"{LEAST:g} or more, or say anonymity.one_family: accepted"
            )


def written(level: LevelRange) -> str:
    """A level as in a recipe."""
    number = f"{level.low:g}" if level.low == level.high else f"[{level.low:g}, {level.high:g}]"
    return number if level.unit == "fraction" else f"{{{level.unit}: {number}}}"


def one_family_note(families: Sequence[str]) -> str | None:
    """What people are to know of a gate with one family, as a sentence; None where it has more."""
    if len(families) != 1:
        return None
    return (
        f"all recognisers of the gate are of one family ({families[0]}): what fools one fools the others, so that the "
        "verdict holds for this family only"
    )
