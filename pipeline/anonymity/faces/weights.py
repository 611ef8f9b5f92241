"""Weight files of detectors and recognisers: found, checked, and for Dlib copied from a package; never downloaded."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.errors import UserError
from pipeline.optional import require_package

PACKAGE = "face_recognition_models"
"""The package, part of the extra `faces`, that holds dlib's files."""
PINNED = {
    "dlib_face_recognition_resnet_model_v1.dat": "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
    "shape_predictor_5_face_landmarks.dat": "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
}
"""sha256 of the two files that are used of that package. Its 68-point landmarks are not: their licence forbids
commercial use."""


def folder() -> Path:
    """The folder where deepface looks for weights: `.deepface/weights` below `$DEEPFACE_HOME` or the home folder."""
    return Path(os.environ.get("DEEPFACE_HOME") or os.path.expanduser("~")) / ".deepface" / "weights"


def require(file: str, *, owner: str = "deepface", source: str = "") -> Path:
    """The path of a weight file in deepface's folder.

    Dlib's two files are copied there from the installed extra where they are missing, and must have the pinned sha256.
    `owner` ("recogniser ArcFace") and `source` (where deepface would get it) go into the instruction. Raises
    `UserError` where the file is missing, altered or cannot be copied.
    """
    path = folder() / file
    if file in PINNED:
        if not path.is_file():
            _lay(file, path, owner)
        _check(path, PINNED[file], owner)
    elif not path.is_file():
        origin = f", which deepface gets from {source}," if source else ""
        raise UserError(f"{owner}: put {file}{origin} into {path.parent}; doppel downloads no weights")
    return path


def present(file: str) -> bool:
    """Whether `require` would find the file; nothing is read or copied."""
    return (folder() / file).is_file() or (file in PINNED and _packaged(file) is not None)


def digest(files: Sequence[Path]) -> str:
    """The sha256, in hexadecimal, of one file; "" for none.

    Of several files, it is the sha256 of their sums in the order of their names.
    """
    sums = [_sha256(file) for file in sorted(files, key=lambda file: file.name)]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest() if sums else ""


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check(path: Path, expected: str, owner: str) -> None:
    found = _sha256(path)
    if found != expected:
        raise UserError(f"{owner}: {path} has sha256 {found}, {expected} is expected; remove the file to have it anew")


def _packaged(file: str) -> Path | None:
    # Importing the package needs pkg_resources, which new setuptools lacks; its folder is enough.
    spec = importlib.util.find_spec(PACKAGE)
    origin = Path(spec.origin).parent / "models" / file if spec and spec.origin else None
    return origin if origin is not None and origin.is_file() else None


def _lay(file: str, path: Path, owner: str) -> None:
    require_package(PACKAGE, owner, extra="faces")
    origin = _packaged(file)
    if origin is None:
        raise UserError(f"{owner}: the package {PACKAGE} lacks {file}; install it anew")
    part = path.with_name(f"{file}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin, part)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise UserError(f"{owner}: {file} cannot be copied to {path.parent} ({error.strerror})") from None
