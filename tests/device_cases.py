"""Every operator on two small models, for tests that hold one device against another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.diffusion.exactness import exact
from pipeline.diffusion.model import Model
from pipeline.diffusion.noise import KeyedNoise
from pipeline.models.clip import ClipJudge, load_clip
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.operators import OPERATORS, Given, Transformed
from pipeline.operators.contract import Descent
from pipeline.operators.on_cascades import through
from tests import tiny
from tests.operator_settings import SETTINGS

STEPS = 2
KEYS, CAPTIONS = ("a", "b.c", "d/e"), ("a cat", "a dog two birds", "one")
EDITED = ("a dog", "a dog three birds", "two")
LATENT_SETTINGS: dict[str, dict[str, Any]] = {
    "anagram": {"views": ["identity", "rotate_180"], "conditions": ["a cat", "a dog"]},
    "boomerang": {"t_boom": [0.1, 0.9], "guidance": {"scale": 2, "rescale": 0.5, "interval": {"sigma": [0.1, 5]}}},
    "compose": {"terms": [{"condition": "own"}, {"condition": "a cat", "weight": -0.5}], "start": [0.3, 0.9]},
    "ddib": {
        "target": "a dog",
        "steps": 2,
        "lift": 0.1,
        "round_trip": True,
        "latent": [{"name": "checkerboard", "square": 2, "other": "noise"}, {"name": "rotate", "degrees": 9}],
    },
    "enhance": {"factor": 4},
    "factorized": {"components": "hybrid", "conditions": ["a cat", "a dog"], "inverse": "low"},
    "ilvr": {"factor": 4, "floor": 0.3},
    "inpaint": {"jump_length": 1, "resamples": 2, "known_noise": "shared"},
    "interpolate": {"towards": "a dog", "condition": "a cat", "mix": "embeddings", "path": 1, "steps": 2},
    "mosaic": {"tiles": {"count": 4, "flips": True}, "match": "gradient"},
    "pairs": {"copies": 1, "maps": "both"},
    "prompt_to_prompt": {"source": "a cat", "target": "a dog", "reweight": {"dog": 2}, "blend": ["cat"], "start": 0.8},
    "sdedit": {"repeats": 2, "solver": "heun"},
    "tile_morph": {"conditions": ["a cat", "a dog"], "tiles": 4, "rollout": 2},
}
CASES = [("pixel", name, settings) for name, several in SETTINGS.items() for settings in several]
CASES += [("latent", name, settings) for name, settings in LATENT_SETTINGS.items()]
IDS = [f"{kind}-{name}-{number}" for number, (kind, name, _) in enumerate(CASES)]


@dataclass(frozen=True)
class Folders:
    pixel: Path
    """12 × 12 in colour, three classes and none."""
    latent: Path
    """Stable Diffusion, 32 × 32."""
    clip: Path


def build(folder: Path) -> Folders:
    from diffusers import DDPMScheduler

    from tests.models.networks import tiny_network

    pixel, blocks = folder / "pixel", {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    network = tiny_network(sample_size=12, block_out_channels=(16,), num_class_embeds=4, **blocks)
    network.save_pretrained(pixel / "unet")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing").save_pretrained(pixel / "scheduler")
    (pixel / "doppel.json").write_text(json.dumps({"class_names": ["a", "b", "c"], "null_label": 3}))
    return Folders(pixel, tiny.sd(folder / "latent"), tiny.clip(folder / "clip"))


@dataclass(frozen=True)
class Bench:
    """The models of one device."""

    models: dict[str, Model]
    judge: ClipJudge
    device: str

    @classmethod
    def on(cls, device: str, folders: Folders) -> Bench:
        kinds = {"pixel": folders.pixel, "latent": folders.latent}
        models = {kind: load_model(ModelConfig(path=str(path)), device) for kind, path in kinds.items()}
        return cls(models, load_clip(str(folders.clip), None, device), device)

    @torch.inference_mode()
    @exact()
    def run(self, kind: str, name: str, settings: dict[str, Any]) -> Transformed:
        """With all that the operator accepts; in few steps, where the settings state none."""
        few = {"steps": STEPS} if issubclass(OPERATORS[name], Descent) else {}
        operator, model = OPERATORS[name].model_validate({"name": name, **few, **settings}), self.models[kind]
        extras = operator.needs | operator.accepts
        given = Given(
            pixels=self.images(kind, 0),
            labels=torch.tensor([2, 0, -1], device=self.device) if kind == "pixel" else None,
            captions=CAPTIONS,
            edited=EDITED if "edited" in extras or kind == "latent" else None,
            mask=(self.images(kind, 2)[:, :1] > 0).float() if "mask" in extras else None,
            guide=self.images(kind, 1) if "guide" in extras else None,
            second=model if "second_model" in extras else None,
            judge=self.judge if "judge" in extras else None,
        )
        operator.check(model, given.second)
        assert given.pixels is not None
        noise = KeyedNoise(b"salt", KEYS, operator.name, 0)
        return through(operator, model, model.encode(given.pixels), given, noise)

    def images(self, kind: str, seed: int) -> Tensor:
        drawn = torch.randn(3, 3, *self.models[kind].size, generator=torch.Generator().manual_seed(seed))
        return 0.5 * drawn.to(self.device)


def images_of(done: Transformed) -> list[Tensor]:
    return [done.pixels, *done.others.values(), *done.beside.values()]
