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

from pipeline.anonymity.faces.faceres import SIDE, WIDTHS, FaceResNetwork
from pipeline.anonymity.faces.graph_model import GraphModel, evaluate, read_graph_model
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


PORTS: dict[str, Callable[[], Port]] = {"faceres": _faceres}
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
        return lambda module, inputs, output: seen.update({layer: output})

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
