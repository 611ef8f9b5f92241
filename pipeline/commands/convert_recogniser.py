"""`doppel convert-recogniser`: weights of a face network that doppel may not ship, from the user's own copy."""

from __future__ import annotations

from pathlib import Path

from pipeline.anonymity.faces.converting import PORTS, convert


def convert_recogniser(name: str, source: str) -> tuple[str, str]:
    """Converts `NAME.json` and its weights in the folder `source`; says what was written, and what its licence is.

    Raises `UserError` as `convert` does.
    """
    return f"{convert(name, Path(source))}: equals the graph in every layer", f"licence: {PORTS[name]().licence}"
