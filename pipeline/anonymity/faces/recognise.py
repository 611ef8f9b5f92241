"""Recognisers by name: deepface's, run in batches, and some of our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.anonymity.faces.deepface_recognisers import ONE_AT_A_TIME, THRESHOLDS, Deepface, Pooled, Recogniser
from pipeline.anonymity.faces.weights import folder, present
from pipeline.errors import UserError
from pipeline.optional import installed

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


def _faceres(device: str, workers: int) -> Recogniser:
    from pipeline.anonymity.faces.faceres import FaceRes

    return FaceRes.load(device=device)


def _mobileface(device: str, workers: int) -> Recogniser:
    from pipeline.anonymity.faces.mobileface import MobileFace

    return MobileFace.load(device=device)


OWN: dict[str, Callable[[str, int], Recogniser]] = {
    "Dlib": _dlib, "dlib-chip": _chip, "faceres": _faceres, "lbph": _lbph,
    "mobileface": _mobileface, "small": _small,
}  # fmt: skip
"""Recognisers that run on code of ours, with what loads them; all others of `THRESHOLDS` run on deepface's."""


FAMILIES: dict[str, str] = {
    "Dlib": "dlib", "dlib-chip": "dlib", "Facenet": "facenet", "Facenet512": "facenet", "ArcFace": "arcface",
    "Buffalo_L": "arcface", "VGG-Face": "vgg-face", "SFace": "sface", "OpenFace": "openface", "DeepFace": "deepface",
    "DeepID": "deepid", "GhostFaceNet": "ghostfacenet", "faceres": "faceres", "lbph": "lbph",
    "mobileface": "mobileface", "small": "small",
}  # fmt: skip
"""The family of each recogniser: those of one family share a network, or its design and kind of training data, and so
its blind spots. Recognisers of one family count as one witness."""


NETWORK = "dlib_face_recognition_resnet_model_v1.dat"
FILES: dict[str, str] = {
    "Dlib": NETWORK, "dlib-chip": NETWORK, "VGG-Face": "vgg_face_weights.onnx", "Facenet": "facenet_weights.onnx",
    "Facenet512": "facenet512_weights.onnx", "ArcFace": "arcface_weights.onnx",
    "SFace": "face_recognition_sface_2021dec.onnx", "OpenFace": "openface_weights.onnx",
    "DeepFace": "VGGFace2_DeepFace_weights_val-0.9034.onnx", "DeepID": "deepid_weights.onnx",
    "GhostFaceNet": "ghostfacenet_v1.onnx", "Buffalo_L": "buffalo_l/webface_r50.onnx",
    "faceres": "faceres.safetensors", "mobileface": "mobileface.safetensors",
}  # fmt: skip
"""The weight file of each recogniser that has one and does not ship with doppel, as on deepface's engine `onnx`."""


PACKAGES: dict[str, str] = {"Dlib": "dlib", "dlib-chip": "dlib", "lbph": "cv2", "Buffalo_L": "insightface"}
"""Packages that a recogniser needs beyond those that doppel's extra `faces` always brings."""


SQUARES, CHIPS = ("faceres", "mobileface"), ("dlib-chip",)
"""The recognisers that see `Face.square`, and those that see `Face.chip`; all others see `Face.crop`."""


def family_of(name: str) -> str:
    """The family of the recogniser `name`; see `FAMILIES`. Raises `UserError` for an unknown name."""
    return FAMILIES[known(name)]


def available(name: str) -> bool:
    """Whether the weights and packages of the recogniser `name` are there. Nothing is loaded.

    Raises `UserError` for an unknown name: absent is not the same as unknown.
    """
    file, package = FILES.get(known(name)), PACKAGES.get(name)
    packages = [*(["deepface"] if name in THRESHOLDS else []), *([package] if package else [])]
    return all(map(installed, packages)) and (file is None or present(file)) and (name != "lbph" or _contributed())


def _contributed() -> bool:
    import cv2

    return hasattr(cv2, "face")


def known(name: str) -> str:
    """Returns the name of a recogniser as it came. Raises `UserError` where it is none."""
    if name not in FAMILIES:
        raise UserError(f"recogniser is {name!r}; known are {', '.join(dict.fromkeys([*THRESHOLDS, *OWN]))}")
    return name


def load_recogniser(name: str, *, device: str = "cpu", workers: int = 2) -> Recogniser:
    """Loads the recogniser of that name, at most once in a process.

    `device` and `workers` (processes; 0 for none) concern only those that can use them. Raises `UserError` for an
    unknown name, and where weights or a package are missing.
    """
    found = loaded(known(name), device, workers, folder())
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


def usable(detector: str) -> list[str]:
    """The names of all recognisers that are available behind a detector of that name."""
    return [name for name in FAMILIES if (name != "dlib-chip" or detector == "dlib") and available(name)]


def crops_for(name: str, faces: Sequence[Face]) -> list[Pixels8]:
    """Picks the picture of each face that the recogniser `name` is made for.

    It is the chip for `CHIPS`, the square for `SQUARES`, and the crop for all others. Raises `UserError` where the
    detector gives none.
    """
    if name in SQUARES:
        squares = [face.square for face in faces if face.square is not None]
        if len(squares) < len(faces):
            raise UserError(f"recogniser {name} needs the square around a face; the detector gave none")
        return squares
    if name not in CHIPS:
        return [face.crop for face in faces]
    chips = [face.chip for face in faces if face.chip is not None]
    if len(chips) < len(faces):
        raise UserError(f"recogniser {name} needs the landmarks of detector dlib; another detector was named")
    return chips
