"""Makes judges: recognisers together with the certificates that allow them to judge."""

from __future__ import annotations

from pathlib import Path

from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.recognise import load_recogniser
from pipeline.anonymity.gate.calibration import find_certificate, load_certificate
from pipeline.anonymity.gate.config import AnonymityConfig
from pipeline.anonymity.gate.judge import Judge


def judges_of(config: AnonymityConfig, finder: FaceFinder, size: tuple[int, int], device: str) -> tuple[Judge, ...]:
    """Loads the configured recognisers with their certificates, for images of `size` (height, width).

    A certificate of the configuration comes before one that ships. Raises `UserError` for a recogniser that may not
    certify images of this size.
    """
    given = [load_certificate(Path(file)) for file in config.certificates]
    judges = list[Judge]()
    for name in config.recognisers:
        recogniser = load_recogniser(name, device=device, workers=config.workers)
        own = sorted((found for found in given if found.recogniser == name), key=lambda found: found.size != size)
        certificate = own[0] if own else find_certificate(recogniser, finder, size)
        certificate.bind(recogniser, finder, size)
        judges.append(Judge.of(recogniser, certificate, config.threshold))
    return tuple(judges)
