"""What the issue of parity is measured by; the table of docs/models.md is made from what is noted here."""

import json
import os

TOLERANCE = 1e-4
NOTES = "DOPPEL_PARITY_NOTES"
"""Variable that names a file; every comparison adds a line to it (scripts/evidence_models.py)."""


def assert_parity(error: float) -> None:
    """The largest difference of decoded images in [-1, 1], ours and diffusers'."""
    if file := os.environ.get(NOTES):
        with open(file, "a") as notes:
            notes.write(json.dumps({"test": os.environ["PYTEST_CURRENT_TEST"], "error": error}) + "\n")
    assert error <= TOLERANCE, f"largest difference {error:.1e}"
