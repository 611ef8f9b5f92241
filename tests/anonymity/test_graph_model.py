"""TensorFlow.js graph models: read as they are written, and each operation against torch's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pipeline.anonymity.faces.graph_model import evaluate, read_graph_model
from pipeline.anonymity.faces.ported import SameConv, same
from pipeline.errors import UserError
from tests.anonymity.graphs import node, text, write_graph

RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def run(folder: Path, nodes: list[dict[str, Any]], weights: dict[str, Any], x: np.ndarray) -> np.ndarray:
    made = evaluate(read_graph_model(write_graph(folder, [node("x", "Placeholder"), *nodes], weights)), x)
    return made[nodes[-1]["name"]]


def near(made: np.ndarray, wanted: torch.Tensor) -> None:
    wanted = wanted.permute(0, 2, 3, 1) if wanted.ndim == 4 else wanted
    assert made.shape == tuple(wanted.shape)
    assert np.abs(made - wanted.numpy()).max() < 1e-5


def image(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("sides", [(7, 8), (6, 6), (5, 3)])
def test_convolutions_pad_as_tensorflow_s(tmp_path: Path, stride: int, size: int, sides: tuple[int, int]) -> None:
    x, kernel, bias = array(2, *sides, 3), array(size, size, 3, 4), array(4)
    how = {"strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}}, "padding": text("SAME")}
    fused = {"fused_ops": {"list": text("BiasAdd") | {"s": [text("BiasAdd")["s"], text("Relu")["s"]]}}}
    made = run(tmp_path, [node("y", "_FusedConv2D", "x", "k", "b", **how, **fused)], {"k": kernel, "b": bias}, x)
    assert made.shape[1:3] == tuple(-(-side // stride) for side in sides)
    # TensorFlow's rule, written out: half of what is missing lies before, the larger half behind.
    missing = [max(0, (-(-side // stride) - 1) * stride + size - side) for side in reversed(sides)]
    padded = functional.pad(image(x), [w for n in missing for w in (n // 2, n - n // 2)])
    weight = torch.from_numpy(kernel).permute(3, 2, 0, 1)
    wanted = functional.conv2d(padded, weight, torch.from_numpy(bias), stride)
    near(made, wanted.relu())
    layer = SameConv(3, 4, size, stride)
    layer.load_state_dict({"weight": weight, "bias": torch.from_numpy(bias)})
    near(made, layer(image(x)).detach().relu())


def test_depthwise_convolutions_scaled(tmp_path: Path) -> None:
    x, kernel, scale, bias = array(1, 6, 6, 4), array(3, 3, 4, 1), array(4), array(4)
    how = {"strides": {"list": {"i": ["1", "2", "2", "1"]}}, "padding": text("SAME")}
    nodes = [
        node("d", "DepthwiseConv2dNative", "x", "k", **how),
        node("m", "Mul", "d", "s"),
        node("y", "Add", "m", "b"),
    ]
    made = run(tmp_path, nodes, {"k": kernel, "s": scale, "b": bias}, x)
    layer = SameConv(4, 4, 3, 2, depthwise=True)
    weights = {"weight": kernel.transpose(2, 3, 0, 1), "scale": scale, "bias": bias}
    layer.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})
    near(made, layer(image(x)).detach())


def test_pooling_never_prefers_its_padding(tmp_path: Path) -> None:
    x = -np.abs(array(1, 5, 6, 2)) - 1
    how = {"strides": {"list": {"i": ["1", "2", "2", "1"]}}, "ksize": {"list": {"i": ["1", "3", "3", "1"]}}}
    made = run(tmp_path, [node("y", "MaxPool", "x", padding=text("SAME"), **how)], {}, x)
    near(made, functional.max_pool2d(same(image(x), 3, 2, fill=-torch.inf), 3, 2))


def test_the_rest_by_hand(tmp_path: Path) -> None:
    x, kernel = array(3, 4), array(4, 5)
    nodes = [
        node("p", "MatMul", "x", "k"),
        node("q", "Softmax", "p"),
        node("r", "Sigmoid", "q:0"),
        node("y", "Identity", "r"),
    ]
    near(run(tmp_path, nodes, {"k": kernel}, x), torch.from_numpy(x @ kernel).softmax(1).sigmoid())
    x = array(1, 2, 3, 2)
    nodes = [node("p", "Pad", "x", "w"), node("y", "Mean", "p", "a", keep_dims={"b": False})]
    widths, axes = np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32), np.array([1, 2], np.int32)
    near(run(tmp_path, nodes, {"w": widths, "a": axes}, x), torch.from_numpy(x.sum((1, 2)) / 20))
    nodes = [node("p", "Minimum", "x", "six"), node("q", "Maximum", "p", "zero"), node("y", "Reshape", "q", "s")]
    constants = {"six": np.float32([0.5]), "zero": np.float32([0]), "s": np.array([-1, 12], np.int32)}
    near(run(tmp_path, nodes, constants, x), torch.from_numpy(x.clip(0, 0.5).reshape(1, 12)))


@given(st.sampled_from(["uint8", "uint16"]), st.floats(1e-3, 1), st.floats(-5, 5), st.integers(1, 9))
def test_quantised_weights(
    tmp_path_factory: pytest.TempPathFactory, kind: str, scale: float, low: float, n: int
) -> None:
    values = RNG.integers(0, np.iinfo(kind).max, n).astype(kind)
    how = {"dtype": kind, "scale": scale, "min": low}
    file = write_graph(tmp_path_factory.mktemp("graph"), [node("x", "Placeholder")], {"k": (values, how)})
    found = read_graph_model(file).constants["k"]
    assert found.dtype == np.float32
    assert np.allclose(found, values.astype(np.float64) * scale + low, rtol=1e-5, atol=1e-5)


def test_halves_are_widened(tmp_path: Path) -> None:
    half = array(2, 3).astype(np.float16)
    file = write_graph(tmp_path, [node("x", "Placeholder")], {"k": (half, {"dtype": "float16"})})
    assert np.array_equal(read_graph_model(file).constants["k"], half.astype(np.float32))


def test_operations_wait_for_what_they_need(tmp_path: Path) -> None:
    nodes = [node("y", "Relu", "a"), node("a", "Mul", "x", "x"), node("x", "Placeholder")]
    assert [one.name for one in read_graph_model(write_graph(tmp_path, nodes, {})).nodes] == ["x", "a", "y"]
    with pytest.raises(UserError, match="'a' needs what is not there, or itself"):
        read_graph_model(write_graph(tmp_path, [node("a", "Relu", "b"), node("b", "Relu", "a")], {}))


def test_bad_files_are_one_sentence(tmp_path: Path) -> None:
    file = write_graph(tmp_path, [node("x", "Placeholder"), node("y", "Sorcery", "x")], {"k": array(3)})
    with pytest.raises(UserError, match="operation Sorcery of node 'y' is not known"):
        evaluate(read_graph_model(file), array(1, 2, 2, 1))
    whole = json.loads(file.read_text())
    (tmp_path / "net.bin").write_bytes(bytes(16))
    with pytest.raises(UserError, match=r"no TensorFlow.js graph model"):
        read_graph_model(file)
    (tmp_path / "net.bin").unlink()
    with pytest.raises(UserError, match=r"net.bin cannot be read"):
        read_graph_model(file)
    whole["weightsManifest"][0]["paths"] = ["../net.bin"]
    for content in (json.dumps(whole), "[]", "{}", "not JSON", '{"weightsManifest": 1}'):
        file.write_text(content)
        with pytest.raises(UserError, match=r"no TensorFlow.js graph model"):
            read_graph_model(file)
