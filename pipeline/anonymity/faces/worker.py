"""A process of `ModelProcesses`: `python -m pipeline.anonymity.faces.worker FD detector|recogniser NAME`.

It never imports torch.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from pipeline.errors import UserError

Answer = Callable[[Sequence[Any]], Sequence[Any]]
"""Maps a chunk of items to as many results."""


def detector(name: str) -> tuple[Answer, str, int]:
    """Builds a detector: what answers with the faces of images, the sha256 of its weights, and 0."""
    from pipeline.anonymity.faces.detect import Detection

    detection = Detection(name)
    return lambda images: [detection.find(image) for image in images], detection.weights, 0


def recogniser(name: str) -> tuple[Answer, str, int]:
    """Builds a recogniser: what answers with the embeddings of crops, the sha256 of its weights, and their length."""
    from pipeline.anonymity.faces.deepface_recognisers import Deepface

    model = Deepface(name)
    return lambda crops: list(model.embed(crops)), model.weights, model.dimensions


TASKS: dict[str, Callable[[str], tuple[Answer, str, int]]] = {"detector": detector, "recogniser": recogniser}
"""What builds the model of each task."""


def serve(connection: Connection, task: str, name: str) -> None:
    """Answers chunks of items on a connection until its other end closes.

    First it sends (True, (weights, dimensions)), then (True, results) for every chunk. A failure is sent as (False,
    sentence) and is the last message.
    """
    try:
        work, *facts = TASKS[task](name)
        connection.send((True, tuple(facts)))
        while True:
            connection.send((True, work(connection.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except UserError as error:
        connection.send((False, str(error)))
    except Exception as error:
        connection.send((False, f"{task} {name} failed ({type(error).__name__}: {error})"))


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGHUP):  # the parent closes the connection
        signal.signal(number, signal.SIG_IGN)
    serve(Connection(int(sys.argv[1])), sys.argv[2], sys.argv[3])
