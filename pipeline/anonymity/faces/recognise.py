"""Recognisers by name: deepface's, run in batches, and some of our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.anonymity.faces.deepface_recognisers import ONE_AT_A_TIME, THRESHOLDS, Deepface, Pooled, Recogniser
from pipeline.anonymity.faces.weights import folder
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.anonymity.faces.detect import Face
    from pipeline.media.records import Pixels8


def _dlib(device: str, workers: int) -> Recogniser:
    from pipeline.anonymity.faces.fast_dlib import load_dlib

    return load_dlib(device=device, workers=workers)


def _chip(device: str, workers: int) -> Recogniser:
    from pipeline.anonymity.faces.fast_dlib import ChipDlib

    return ChipDlib(device)


def _lbph(device: str, workers: int) -> Recogniser:
    from pipeline.anonymity.faces.lbph import LBPH

    return LBPH()


def _small(device: str, workers: int) -> Recogniser:
    from pipeline.anonymity.faces.embedder import SmallEmbedder

    return SmallEmbedder.load(device=device)


OWN: dict[str, Callable[[str, int], Recogniser]] = {
    "Dlib": _dlib, "dlib-chip": _chip, "lbph": _lbph, "small": _small,
}  # fmt: skip
"""Recognisers that run on code of ours, with what loads them; all others of `THRESHOLDS` run on deepface's."""


def load_recogniser(name: str, *, device: str = "cpu", workers: int = 2) -> Recogniser:
    """Loads the recogniser of that name, at most once in a process.

    `device` and `workers` (processes; 0 for none) concern only those that can use them. Raises `UserError` for an
    unknown name, and where weights or a package are missing.
    """
    if name not in {*THRESHOLDS, *OWN}:
        raise UserError(f"recogniser is {name!r}; known are {', '.join(dict.fromkeys([*THRESHOLDS, *OWN]))}")
    found = loaded(name, device, workers, folder())
    if isinstance(found, Pooled) and found.ended:
        loaded.cache_clear()
        return loaded(name, device, workers, folder())
    return found


@cache
def loaded(name: str, device: str, workers: int, weights: Path) -> Recogniser:
    """Loads a recogniser, once for each set of arguments; `weights` is the folder of the weight files."""
    if name in OWN:
        return OWN[name](device, workers)
    return Pooled(name, workers=workers) if name in ONE_AT_A_TIME and workers else Deepface(name)


def crops_for(name: str, faces: Sequence[Face]) -> list[Pixels8]:
    """Picks the picture of each face that the recogniser `name` is made for: its chip for `dlib-chip`, else its crop.

    Raises `UserError` where the detector gives no chip.
    """
    if name != "dlib-chip":
        return [face.crop for face in faces]
    chips = [face.chip for face in faces if face.chip is not None]
    if len(chips) < len(faces):
        raise UserError("recogniser dlib-chip needs the landmarks of detector dlib; another detector was named")
    return chips
