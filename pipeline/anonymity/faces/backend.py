"""deepface's models, built quietly, on onnxruntime unless the environment says otherwise, and never downloaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.anonymity.faces.weights import digest, require
from pipeline.errors import UserError
from pipeline.optional import require_package

DeepfaceTask = Literal["face_detector", "facial_recognition"]
ROLES: dict[DeepfaceTask, str] = {"face_detector": "detector", "facial_recognition": "recogniser"}
"""What deepface's tasks are called in our messages."""
OWN_DOWNLOADS = {
    "retinaface": (
        "retinaface.h5",
        "https://github.com/serengil/deepface_models/releases/download/v1.0/retinaface.h5",
    ),
}
"""Detectors whose package would download its weights itself, with the file and its address; we ask for the file
first."""


@contextmanager
def offline(owner: str) -> Iterator[list[Path]]:
    """While it is open, deepface takes weight files from its folder, by `require`, and not from the network.

    Yields a list that fills with the files that were taken. `owner` begins the sentence where one is missing.
    """
    os.environ.setdefault("DEEPFACE_BACKEND_ENGINE", "onnx")
    from deepface.commons import weight_utils
    from deepface.commons.logger import Logger

    taken: list[Path] = []

    def from_folder(file_name: str, source_url: str | list[str], compress_type: str | None = None) -> str:
        source = source_url if isinstance(source_url, str) else source_url[0]
        taken.append(require(file_name, owner=owner, source=source))
        return str(taken[-1])

    before, level = weight_utils.download_weights_if_necessary, Logger().log_level
    weight_utils.download_weights_if_necessary, Logger().log_level = from_folder, logging.CRITICAL + 1
    try:
        yield taken
    finally:
        weight_utils.download_weights_if_necessary, Logger().log_level = before, level


def build(task: DeepfaceTask, name: str) -> tuple[Any, str]:
    """Builds deepface's model of that name, for deepface to find it; returns it and the sha256 of its weights.

    Raises `UserError` where a package or a weight file is missing, or deepface cannot read it.
    """
    owner = f"{ROLES[task]} {name}"
    if name.lower() == "dlib":
        require_package("dlib", owner, extra="faces")
    with offline(owner) as taken:
        from deepface.modules import modeling

        if name in OWN_DOWNLOADS:
            taken.append(require(OWN_DOWNLOADS[name][0], owner=owner, source=OWN_DOWNLOADS[name][1]))
        # What an earlier call of deepface's own built is built again: only then it says which files it takes.
        getattr(modeling, "cached_models", {}).get(task, {}).pop(name, None)
        try:
            model = modeling.build_model(task=task, model_name=name)
            if task == "face_detector":
                model.detect_faces(np.zeros((64, 64, 3), np.uint8))  # centerface reads its weights at every call
            return model, digest(list(dict.fromkeys(taken)))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{owner} cannot be built ({type(error).__name__}: {error})") from error
