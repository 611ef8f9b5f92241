"""For the tests of model families: image to image by SDEdit and by diffusers, and what parity between them can't show.

Diffusers' pipelines run as they are, image encoding included; only their posterior gives its mode, as ours does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from pipeline.diffusion.noise import KeyedNoise
from pipeline.models.backbone import Backbone
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model, sketch_model
from pipeline.operators import Given, SDEdit
from tests.models.parity import assert_parity

SIZE = (16, 24)
STEPS = 4
PROMPTS = ("a photo of a cat", "a red house in snow")
PIXELS = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(7)) * 1.8 - 0.9
"""Largest difference of decoded images in [-1, 1]."""


class Replayed:
    """The noise that a pipeline draws from `generator()`."""

    def __call__(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator())

    def uniform(self) -> Tensor:
        return torch.zeros(2, dtype=torch.float64)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def load(folder: Path, **options: Any) -> Backbone:
    return load_model(ModelConfig(path=str(folder), size=SIZE, **options), "cpu")  # type: ignore[return-value]


def open_pipeline(folder: Path, pipeline: type[Any], **parts: None) -> Any:
    pipe = pipeline.from_pretrained(folder, local_files_only=True, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.inference_mode()
def edit(model: Backbone, *, guidance: Any = 1.0, prompts: Sequence[str] = PROMPTS) -> Tensor:
    """`PIXELS` noised to half of T and brought back in `STEPS` steps of the model's own grid, in [-1, 1]."""
    operator = SDEdit(t0=0.5, steps=STEPS, solver="euler", spacing="model", guidance=guidance)
    operator.check(model, None)
    z = model.encode(PIXELS)
    return operator(model, z, Given(pixels=PIXELS, captions=prompts), Replayed()).pixels.clamp(-1, 1)  # type: ignore[arg-type]


def edit_by_diffusers(pipe: Any, *, prompts: Sequence[str] = PROMPTS, **call: Any) -> Tensor:
    """The same by an image-to-image pipeline, which takes half of twice the steps."""
    with patch.object(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()):
        images = pipe(
            prompt=list(prompts),
            image=(PIXELS + 1) / 2,
            strength=0.5,
            num_inference_steps=2 * STEPS,
            generator=generator(),
            output_type="pt",
            **call,
        ).images
    return images * 2 - 1


def assert_same(mine: Tensor, other: Tensor) -> None:
    assert mine.shape == other.shape == PIXELS.shape
    assert (mine.abs() < 1).float().mean() > 0.5, "clamped images hide differences"
    assert_parity((mine - other).abs().max().item())


def rewrite(file: Path, **values: Any) -> None:
    """Other values in a JSON file of a model folder."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# --- what parity can't show ---


@torch.inference_mode()
def run(model: Backbone, keys: Sequence[str], captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """A guided edit of one image for each key, each from a level of its own: pixels and levels."""
    operator = SDEdit(t0=(0.2, 0.9), steps=2, solver="euler", guidance=3)
    images = torch.cat([KeyedNoise(b"", [key], "image", 0)(PIXELS[:1]).clamp(-1, 1) for key in keys])
    given = Given(pixels=images, captions=captions)
    done = operator(model, model.encode(images), given, KeyedNoise(b"salt", keys, "sdedit", 0))
    return done.pixels, done.sigmas


def assert_rows_are_alone(model: Backbone) -> None:
    """In a batch each sample has its own level and caption, and nothing of its mates."""
    captions = [*PROMPTS, "a dog"]
    pixels, sigmas = run(model, "abc", captions)
    assert len(set(sigmas[:, 0].tolist())) == 3
    for i, key in enumerate("abc"):
        alone, own_sigmas = run(model, [key], captions[i : i + 1])
        torch.testing.assert_close(pixels[i : i + 1], alone, rtol=0, atol=2e-5)
        torch.testing.assert_close(sigmas[i : i + 1], own_sigmas)
    padded, _ = run(model, "abccc", [*captions, captions[2], captions[2]])
    torch.testing.assert_close(padded[:3], pixels, rtol=0, atol=2e-5)
    other, _ = run(model, "abc", [captions[0], "a blue bicycle", captions[2]])
    assert torch.equal(other[[0, 2]], pixels[[0, 2]])
    assert (other[1] - pixels[1]).abs().max() > 1e-3


def assert_sketch_agrees(model: Backbone, folder: Path) -> None:
    sketch = sketch_model(ModelConfig(path=str(folder), size=SIZE))
    for name in ("size", "shape", "space", "conditioning", "classes", "class_names", "unconditional", "hash"):
        assert getattr(sketch, name) == getattr(model, name), name
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(sketch.levels.sigma(u), model.levels.sigma(u))
    assert (sketch.levels.spacing, sketch.levels.offset) == (model.levels.spacing, model.levels.offset)
    with torch.inference_mode():
        assert model.encode(PIXELS).shape == (2, *sketch.shape)


def assert_calls_are_few(model: Backbone, pipeline: type[Any]) -> None:
    """One call of the network a step, and one embedding of each distinct text."""
    rows: list[int] = []
    hook = model.network.register_forward_hook(lambda module, given, output: rows.append(len(output[0])))
    original, texts = pipeline.encode_prompt, []

    def counted(self: Any, prompt: str, *arguments: Any, **options: Any) -> Any:
        texts.append(prompt)
        return original(self, prompt, *arguments, **options)

    try:
        with patch.object(pipeline, "encode_prompt", counted):
            for scale, factor in ((0, 1), (1, 1), (2, 2)):
                for _ in range(2):
                    rows.clear()
                    edit(model, guidance={"scale": scale, "negative": "zero"}, prompts=("one", "one"))
                    assert rows == [factor * 2] * STEPS
    finally:
        hook.remove()
    assert texts == ["one", "zero"]


def pipeline_of(folder: Path) -> type[Any]:
    return getattr(diffusers, json.loads((folder / "model_index.json").read_text())["_class_name"])  # type: ignore[no-any-return]
