"""Networks that doppel knows and may not ship: converted from the user's copy of a TensorFlow.js graph model.

Each port is compared with the graph itself, layer by layer, before its file is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.anonymity.faces.expression import SIDE as EXPRESSION_SIDE
from pipeline.anonymity.faces.expression import ExpressionNetwork
from pipeline.anonymity.faces.faceres import SIDE, WIDTHS, FaceResNetwork
from pipeline.anonymity.faces.graph_model import GraphModel, evaluate, read_graph_model
from pipeline.anonymity.faces.mobileface import SIDE as MOBILEFACE_SIDE
from pipeline.anonymity.faces.mobileface import WIDTHS as MOBILEFACE_WIDTHS
from pipeline.anonymity.faces.mobileface import MobileFaceNetwork
from pipeline.anonymity.faces.ported import file_of
from pipeline.anonymity.faces.weights import folder
from pipeline.errors import UserError

NEAR = 1e-4
"""A layer of the port may differ from the graph's by this share of the layer's largest value."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """How one graph becomes a network of ours."""

    network: Callable[[], nn.Module]
    """Makes the network, untrained."""
    parameters: Mapping[str, str]
    """The graph's constant behind each of the network's parameters."""
    layers: Mapping[str, str]
    """The graph's node that each named layer of the network must equal, apart from a ReLU that the graph fused."""
    shape: tuple[int, int, int]
    """Height, width and channels of the input."""
    licence: str
    """What is known of the licence, and where from."""


def _faceres() -> Port:
    convs = ["conv1", *(f"conv_{kind}_{i}" for i in range(1, len(WIDTHS) + 1) for kind in ("dw", "pw"))]
    parameters = {f"{conv}.bias": f"{conv}_bn/batchnorm_1/sub" for conv in convs}
    for conv in convs:
        depthwise = "_dw_" in conv
        parameters[f"{conv}.weight"] = conv + ("/depthwise_kernel" if depthwise else "/convolution/merged_input")
        if depthwise:
            parameters[f"{conv}.scale"] = f"{conv}_bn/batchnorm_1/mul"
    layers = {conv: f"{conv}_bn/batchnorm_1/add_1" for conv in convs}
    for head, last in (("feats", "Relu"), ("age_pred", "BiasAdd"), ("gender_pred", "BiasAdd")):
        parameters |= {f"{head}.weight": f"{head}/kernel", f"{head}.bias": f"{head}/bias"}
        layers[head] = f"{head}/{last}"
    return Port(
        network=FaceResNetwork, parameters=parameters, layers=layers, shape=(SIDE, SIDE, 3),
        licence=(
            "package: MIT (V. Mandic, who converted it); origin: HSE_FaceRec_tf by A. Savchenko, no licence found in "
            "the copy that was read, said by others to be Apache-2.0; features trained on VGGFace2 (its list is CC "
            "BY-SA 4.0, its photographs are copyrighted), heads on IMDB-WIKI (academic research only)"
        ),
    )  # fmt: skip


def _mobileface() -> Port:
    parameters = {
        "conv1.weight": "conv1_weight", "prelu1.weight": "prelu1_gamma", "dense.weight": "dense/kernel",
        "scale": "batchnorm0/mul", "bias": "batchnorm0/sub",
    }  # fmt: skip
    layers, conv, add = {"conv1": "conv1", "prelu1": "add"}, 0, 0
    for stage in range(1, len(MOBILEFACE_WIDTHS) + 1):
        ours, theirs = f"stage{stage}", f"stage{stage}_unit1"
        parameters[f"{ours}.point.weight"] = layers[f"{ours}.point"] = f"{theirs}_conv0_0"
        parameters[f"{ours}.point.weight"] += "_weight"
        for i, name in enumerate(("conv0_1", "conv1", "conv2")):
            parameters[f"{ours}.conv{i}.weight"] = f"{theirs}_{name}_df"
            parameters[f"{ours}.prelu{i}.weight"] = f"{theirs}_prelu{i}_gamma"
            # The graph numbers its nodes as they come: depthwise, depthwise_1, …; add, add_1, …, one more a stage.
            layers[f"{ours}.conv{i}"] = f"depthwise_{conv}" if conv else "depthwise"
            layers[f"{ours}.prelu{i}"] = f"add_{add + 1}"
            conv, add = conv + 1, add + 1
        add += 1
        layers[ours] = f"add_{add}"
    layers["dense"] = "dense/MatMul"
    return Port(
        network=MobileFaceNetwork, parameters=parameters, layers=layers, shape=(MOBILEFACE_SIDE, MOBILEFACE_SIDE, 3),
        licence=(
            "package: MIT (V. Mandic, who converted it); origin: MobileFace by becauseofAI, no licence found in the "
            "copy that was read; which photographs it was trained on is not said"
        ),
    )  # fmt: skip


def _emotion() -> Port:
    def node(name: str) -> str:
        return f"StatefulPartitionedCall/model_1/{name}"

    parameters, layers = {"conv5.weight": "unknown_43", "conv5.bias": "unknown_44"}, dict[str, str]()
    for ours, theirs in (
        ("conv1", "conv2d_1/Conv2D"), ("conv2", "conv2d_2/Conv2D"),
        ("module1.around", "conv2d_3/Conv2D"), ("module2.around", "conv2d_4/Conv2D"),
        ("module1.point1", "separable_conv2d_1/separable_conv2d"),
        ("module1.point2", "separable_conv2d_2/separable_conv2d"),
        ("module2.point1", "separable_conv2d_3/separable_conv2d"),
        ("module2.point2", "separable_conv2d_4/separable_conv2d"),
    ):  # fmt: skip
        parameters |= {f"{ours}.weight": node(f"{theirs}_weights"), f"{ours}.bias": node(f"{theirs}_bn_offset")}
    for i, (ours, number) in enumerate((("1.depth1", 9), ("1.depth2", 15), ("2.depth1", 26), ("2.depth2", 32)), 1):
        parameters[f"module{ours}.weight"] = f"unknown_{number}"
        layers[f"module{ours}"] = node(f"separable_conv2d_{i}/separable_conv2d/depthwise")
    layers |= {
        "conv1": node("block1_conv1_act/Relu"), "conv2": node("block1_conv2_act/Relu"),
        "module1.around": node("batch_normalization_1/FusedBatchNormV3"),
        "module2.around": node("batch_normalization_2/FusedBatchNormV3"),
        "module1.point1": node("block2_sepconv2_act/Relu"), "module2.point1": node("block3_sepconv2_act/Relu"),
        "module1.point2": node("block2_sepconv2_bn/FusedBatchNormV3"),
        "module2.point2": node("block3_sepconv2_bn/FusedBatchNormV3"),
        "module1": node("add_1/add"), "module2": node("add_2/add"), "conv5": node("conv2d_5/BiasAdd"),
    }  # fmt: skip
    return Port(
        network=ExpressionNetwork, parameters=parameters, layers=layers, shape=(EXPRESSION_SIDE, EXPRESSION_SIDE, 1),
        licence=(
            "package: MIT (V. Mandic, who converted it); origin: face_classification by O. Arriaga, MIT; trained on "
            "FER-2013, photographs found on the web, whose terms we have not read"
        ),
    )  # fmt: skip


PORTS: dict[str, Callable[[], Port]] = {"faceres": _faceres, "mobileface": _mobileface, "emotion": _emotion}
"""The networks that can be converted."""


def convert(name: str, source: Path) -> Path:
    """Converts `NAME.json` and its `.bin` in the folder `source` to half precision, in deepface's folder of weights.

    Returns the file. Raises `UserError` for a name that is not known, for files that hold another network, and where a
    layer of the port gives something else than the graph.
    """
    from safetensors.torch import save

    if name not in PORTS:
        raise UserError(f"convert-recogniser: {name!r} cannot be converted; known are {', '.join(PORTS)}")
    port = PORTS[name]()
    graph = read_graph_model(source / f"{name}.json")
    tensors = {key: tensor.half() for key, tensor in _tensors(port, graph, name).items()}
    network = port.network()
    network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    halved = GraphModel(nodes=graph.nodes, constants={key: _halved(value) for key, value in graph.constants.items()})
    for layer, difference in differences(port, network, halved).items():
        if not difference <= NEAR:
            raise UserError(f"convert-recogniser: layer {layer} of {name} is {difference:.1e} off the graph")
    path = folder() / file_of(name)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(save(dict(sorted(tensors.items())), {"licence": port.licence}))
    return part.replace(path)


def differences(port: Port, network: nn.Module, graph: GraphModel) -> dict[str, float]:
    """How far each layer of the network is from the graph's node, as a share of the node's largest value.

    Both see one picture of slopes and edges.
    """
    height, width, channels = port.shape
    y, x, channel = np.indices((height, width, channels), dtype=np.float32)
    pixels = (3 * x + 2 * y * (channel + 1) + 60 * (x // 40 + y // 60)) % 256 - 117
    wanted = evaluate(graph, pixels[None])
    seen = dict[str, Tensor]()

    def keep(layer: str) -> Callable[[Any, Any, Tensor], None]:
        return lambda module, inputs, output: seen.update({layer: output.clone()})

    hooks = [network.get_submodule(layer).register_forward_hook(keep(layer)) for layer in port.layers]
    with torch.inference_mode():
        network.eval()(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    for hook in hooks:
        hook.remove()
    return {layer: _difference(seen[layer], wanted[node]) for layer, node in port.layers.items()}


def _difference(made: Tensor, wanted: NDArray[np.float32]) -> float:
    ours = made.permute(0, 2, 3, 1).numpy() if made.ndim == 4 else made.numpy()
    fused = bool((wanted >= 0).all())
    return float(np.abs((np.maximum(ours, 0) if fused else ours) - wanted).max() / max(np.abs(wanted).max(), 1e-6))


def _halved(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float16).astype(np.float32) if values.dtype == np.float32 else values


def _tensors(port: Port, graph: GraphModel, name: str) -> dict[str, Tensor]:
    wanted, found = port.network().state_dict(), dict[str, Tensor]()
    for key, like in wanted.items():
        constant = graph.constants.get(port.parameters[key])
        if constant is None:
            raise UserError(f"convert-recogniser: the graph of {name} has no constant {port.parameters[key]!r}")
        tensor = torch.from_numpy(constant.copy())
        if tensor.ndim == 4:  # height, width, inputs, outputs; of a depthwise one outputs come third
            tensor = tensor.permute(2, 3, 0, 1) if tensor.shape[3] == 1 else tensor.permute(3, 2, 0, 1)
        elif tensor.ndim == 2:
            tensor = tensor.T
        if tensor.shape != like.shape:
            raise UserError(
                f"convert-recogniser: {port.parameters[key]!r} of {name} has shape {list(constant.shape)}; "
                f"{list(like.shape)} is expected of {key}"
            )
        found[key] = tensor.contiguous()
    return found
