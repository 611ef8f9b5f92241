"""What a training recipe may say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config import load_config
from pipeline.errors import UserError
from tests.training.toy import Configure
from training.denoiser.config import DenoiserConfig
from training.denoiser.network import build_network, fit_codec

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "size and patch": ({"size": [8, 10], "codec": {"kind": "space_to_depth", "patch": 4}}, "is not a multiple of 4"),
    "size and halvings": (
        {"size": [8, 6], "network": {"channels": [32, 32, 32], "attention": [False] * 3}},
        "8 × 6 is not a multiple of 4: patches of 1, halved 2 times",
    ),
    "no size": ({"size": [0, 8]}, "greater than 0"),
    "components without linear_patch": ({"codec": {"kind": "none", "components": 3}}, "components belongs to"),
    "linear_patch without components": ({"codec": {"kind": "linear_patch", "patch": 2}}, "components belongs to"),
    "no patch": ({"codec": {"kind": "space_to_depth"}}, "patch 2 or more"),
    "patch without codec": ({"codec": {"patch": 2}}, "kind none has patch 1"),
    "attention for each": ({"network": {"channels": [32, 64], "attention": [True]}}, "one entry for each"),
    "no network": ({"network": {"channels": [], "attention": []}}, "one entry for each"),
    "narrow": ({"network": {"channels": [48], "attention": [False]}}, "multiples of 32"),
    "heads": ({"network": {"channels": [32, 96], "attention": [False, True], "head_dim": 64}}, "head_dim"),
    "heads in the middle": ({"network": {"channels": [32], "attention": [False], "head_dim": 64}}, "head_dim"),
    "names without classes": ({"class_names": ["a"]}, "1 class_names"),
    "too few names": ({"classes": 2, "class_names": ["a"]}, "1 class_names need as many classes, which is 2"),
    "no budget": ({"budget": {}}, "give steps, minutes or both"),
    "no step": ({"budget": {"steps": 0}}, "greater than or equal to 1"),
    "no rate": ({"optimizer": {"lr": 0}}, "greater than 0"),
    "always dropped": ({"classes": 2, "class_dropout": 1.0}, "less than 1"),
    "epsilon of nothing": ({"diffusion": {"prediction": "epsilon", "zero_terminal_snr": True}}, "predict v"),
    "misspelt": ({"optimiser": {}}, "Extra inputs"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_senseless_recipes_are_refused(configure: Configure, case: str) -> None:
    changes, sentence = REFUSED[case]
    with pytest.raises(ValidationError, match=sentence):
        configure(**changes)


def test_the_command_line_tells_it_in_one_sentence() -> None:
    with pytest.raises(UserError, match="28 × 28 is not a multiple of 6") as caught:
        load_config(DenoiserConfig, "train_fashion_mnist", ["codec.patch=3"])
    assert "\n" not in str(caught.value)


def test_the_shipped_recipe_is_sound() -> None:
    config = load_config(DenoiserConfig, "train_fashion_mnist")
    network = build_network(config, fit_codec(config, cache=None))  # type: ignore[arg-type]  # only linear_patch reads it
    assert (network.config["sample_size"], network.config["in_channels"]) == (14, 4)
    assert network.config["num_class_embeds"] == 11
