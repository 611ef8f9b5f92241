"""TensorFlow.js graph models: read from their two files, and evaluated node by node in numpy.

A graph model is a JSON file (topology and a manifest of the weights) and a binary file with the weights one after the
other, as the TensorFlow.js converter writes them. The evaluation is slow and plain: it is there to check our ports of
such networks against the graph itself.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation of a graph, with what it takes in, by name, and how it is set."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class GraphModel:
    """A graph's operations, each after those that it needs, and its constants by name."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, NDArray[Any]]


def read_graph_model(file: Path) -> GraphModel:
    """Reads a graph model from its JSON file; the files of weights lie beside it.

    Raises `UserError` where a file is missing or does not hold what the manifest says.
    """
    try:
        model = json.loads(file.read_bytes())
        constants = dict[str, NDArray[Any]]()
        for group in model["weightsManifest"]:
            constants |= _constants(group["weights"], b"".join(_beside(file, name) for name in group["paths"]))
        nodes = [_node(node) for node in model["modelTopology"]["node"] if node["op"] != "Const"]
    except OSError as error:
        raise UserError(f"graph model {file}: {error.filename} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"graph model {file}: it is no TensorFlow.js graph model ({type(error).__name__})") from None
    return GraphModel(nodes=_in_order(nodes, set(constants), file), constants=constants)


def _beside(file: Path, name: str) -> bytes:
    if Path(name).name != name:
        raise ValueError("weights lie beside their model")
    return (file.parent / name).read_bytes()


def _constants(entries: list[dict[str, Any]], content: bytes) -> dict[str, NDArray[Any]]:
    """Dequantises as TensorFlow.js does: halves are widened; whole numbers q stand for q · scale + min."""
    found, at = dict[str, NDArray[Any]](), 0
    for entry in entries:
        how = entry.get("quantization")
        kind = np.dtype((how or entry)["dtype"]).newbyteorder("<")
        count = math.prod(entry["shape"])
        values = np.frombuffer(content, kind, count, at)
        at += count * kind.itemsize
        if how and "scale" in how:
            values = values * np.float32(how["scale"]) + np.float32(how["min"])
        found[entry["name"]] = values.astype(entry["dtype"]).reshape(entry["shape"])
    if at != len(content):
        raise ValueError("weights are left over")
    return found


def _node(node: dict[str, Any]) -> Node:
    inputs = tuple(name.removesuffix(":0") for name in node.get("input", []) if not name.startswith("^"))
    attributes = {name: _attribute(value) for name, value in node.get("attr", {}).items()}
    return Node(name=node["name"], op=node["op"], inputs=inputs, attributes=attributes)


def _attribute(value: dict[str, Any]) -> Any:
    if "s" in value:
        return base64.b64decode(value["s"]).decode()
    if "list" in value:
        texts = [base64.b64decode(text).decode() for text in value["list"].get("s", [])]
        return texts or [int(number) for number in value["list"].get("i", [])]
    return value.get("b", value.get("i"))


def _in_order(nodes: list[Node], known: set[str], file: Path) -> tuple[Node, ...]:
    known, ordered, left = set(known), list[Node](), nodes
    while left:
        ready = [node for node in left if known.issuperset(node.inputs)]
        if not ready:
            raise UserError(f"graph model {file}: node {left[0].name!r} needs what is not there, or itself")
        ordered += ready
        known |= {node.name for node in ready}
        left = [node for node in left if node.name not in known]
    return tuple(ordered)


def evaluate(model: GraphModel, pixels: Array) -> dict[str, Array]:
    """What every node gives for one batch `pixels [B, H, W, C]`, the only input, by the node's name.

    Raises `UserError` for an operation that is not known here.
    """
    values: dict[str, Any] = dict(model.constants)
    for node in model.nodes:
        if node.op not in OPERATIONS:
            raise UserError(f"graph model: operation {node.op} of node {node.name!r} is not known")
        given = [pixels] if node.op == "Placeholder" else [values[name] for name in node.inputs]
        values[node.name] = OPERATIONS[node.op](node, *given)
    return {node.name: values[node.name] for node in model.nodes}


def _windows(x: Array, size: tuple[int, int], node: Node, fill: float) -> Array:
    """`[B, rows, columns, C, *size]`: what each place of the output sees. SAME pads as TensorFlow does, more behind."""
    strides = node.attributes["strides"][1:3]
    if node.attributes["padding"] == "SAME":
        sides = zip(x.shape[1:3], strides, size, strict=True)
        need = [max(0, (-(-side // stride) - 1) * stride + window - side) for side, stride, window in sides]
        x = np.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in need), (0, 0)], constant_values=fill)
    seen = np.lib.stride_tricks.sliding_window_view(x, size, (1, 2))
    return np.asarray(seen[:, :: strides[0], :: strides[1]])


def _conv(node: Node, x: Array, kernel: Array, *bias: Array) -> Array:
    seen = _windows(x, kernel.shape[:2], node, 0)
    return _fused(node, np.einsum("bhwckl,klcd->bhwd", seen, kernel, optimize=True), *bias)


def _depthwise(node: Node, x: Array, kernel: Array) -> Array:
    return np.einsum("bhwckl,klc->bhwc", _windows(x, kernel.shape[:2], node, 0), kernel[..., 0], optimize=True)


def _max_pool(node: Node, x: Array) -> Array:
    size = (node.attributes["ksize"][1], node.attributes["ksize"][2])
    return np.asarray(_windows(x, size, node, -np.inf).max((4, 5)))


def _product(node: Node, x: Array, kernel: Array, *bias: Array) -> Array:
    return _fused(node, x @ kernel, *bias)


def _fused(node: Node, x: Array, *bias: Array) -> Array:
    for name in node.attributes.get("fused_ops") or []:
        if name not in ("BiasAdd", "Relu"):
            raise UserError(f"graph model: fused operation {name} of node {node.name!r} is not known")
        x = x + bias[0] if name == "BiasAdd" else np.maximum(x, 0)
    return x


def _softmax(node: Node, x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


OPERATIONS: dict[str, Any] = {
    "Placeholder": lambda node, x: x, "Identity": lambda node, x: x,
    "Conv2D": _conv, "_FusedConv2D": _conv, "DepthwiseConv2dNative": _depthwise, "MaxPool": _max_pool,
    "MatMul": _product, "_FusedMatMul": _product,
    "Add": lambda node, a, b: a + b, "AddV2": lambda node, a, b: a + b,
    "Sub": lambda node, a, b: a - b, "Mul": lambda node, a, b: a * b,
    "Minimum": lambda node, a, b: np.minimum(a, b), "Maximum": lambda node, a, b: np.maximum(a, b),
    "Relu": lambda node, x: np.maximum(x, 0),
    "Sigmoid": lambda node, x: 1 / (1 + np.exp(-x)), "Softmax": _softmax,
    "Mean": lambda node, x, axes: x.mean(tuple(axes), keepdims=bool(node.attributes.get("keep_dims"))),
    "Pad": lambda node, x, widths: np.pad(x, widths),
    "Reshape": lambda node, x, shape: x.reshape(shape),
}  # fmt: skip
"""What each operation computes, as TensorFlow documents it; images are `[B, H, W, C]`."""
