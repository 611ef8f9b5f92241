"""Training for doppel: denoisers and classifiers on any configured data set."""

from pathlib import Path

import pipeline

if Path(pipeline.__file__ or "").resolve() != Path(__file__).resolve().parents[1] / "pipeline" / "__init__.py":
    other = pipeline.__file__ or ", ".join(pipeline.__path__)
    raise ImportError(f"doppel's package training needs doppel's package pipeline; found was {other}: rename that one")
