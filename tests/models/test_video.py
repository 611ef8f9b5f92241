"""AnimateDiff: clips edited as diffusers edits them, windows of frames as rows, and operators on them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from diffusers import AnimateDiffVideoToVideoPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from pydantic import TypeAdapter
from torch import Tensor

from pipeline.config import validate
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.job.clips import check_clips, frames_at_once
from pipeline.job.config import JobConfig
from pipeline.models.config import ModelConfig, Upscaler
from pipeline.models.families import sketch_model
from pipeline.models.video import folded, unfolded
from pipeline.operators import OPERATORS, AnyOperator, Given, Operator, SDEdit
from tests import builders, tiny
from tests.models.backbones import PROMPTS, SIZE, STEPS, generator, load, open_pipeline, pipeline_of, rewrite
from tests.models.parity import assert_parity

FRAMES = 3
MOTION = re.compile(r"motion_modules\.\d+\.proj_out$")
PIXELS = torch.rand(2, 3, FRAMES, *SIZE, generator=torch.Generator().manual_seed(7)) * 1.8 - 0.9


def to_zero(folder: Path) -> Path:
    """The last step of diffusers' DDIM then ends at σ = 0, as ours does."""
    rewrite(folder / "scheduler" / "scheduler_config.json", set_alpha_to_one=True)
    return folder


def of_images(folder: Path) -> Path:
    """The UNet of Stable Diffusion, with the motion modules beside it."""
    to_zero(tiny.animatediff(folder))
    shutil.rmtree(folder / "unet")
    shutil.copytree(tiny.sd(folder.parent / "sd") / "unet", folder / "unet")
    rewrite(folder / "model_index.json", unet=["diffusers", "UNet2DConditionModel"])
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "one unet": lambda folder: to_zero(tiny.animatediff(folder)),
    "unet and motion": of_images,
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("video")

    def made(name: str) -> Path:
        return root / name if (root / name).exists() else FOLDERS[name](root / name)

    return made


@pytest.fixture(scope="module")
def folder(folder_of: Callable[[str], Path]) -> Path:
    return folder_of("one unet")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    """Read only."""
    return load(folder)


@pytest.fixture(scope="module")
def still(folder: Path) -> Any:
    """Its motion modules see nothing: only what is not the network can bring frames together."""
    model = load(folder)
    modules = [module for name, module in model.network.named_modules() if MOTION.search(name)]
    assert len(modules) == 7
    for module in modules:
        torch.nn.init.zeros_(module.weight)  # type: ignore[arg-type]
        torch.nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return model


class Replayed:
    """The noise that the pipeline draws, which goes frame by frame."""

    def __call__(self, like: Tensor) -> Tensor:
        return torch.randn(like.transpose(1, 2).shape, generator=generator()).transpose(1, 2)

    def uniform(self) -> Tensor:
        return torch.zeros(2, dtype=torch.float64)


@torch.inference_mode()
def edit(model: Any, *, guidance: Any = 1.0, prompts: Sequence[str] = PROMPTS) -> Tensor:
    operator = SDEdit(t0=0.5, steps=STEPS, solver="euler", spacing="model", guidance=guidance)
    given = Given(pixels=PIXELS, captions=prompts)
    return operator(model, model.encode(PIXELS), given, Replayed()).pixels.clamp(-1, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("name", FOLDERS)
def test_an_edit_is_that_of_diffusers(folder_of: Callable[[str], Path], name: str, guidance: float) -> None:
    reference = open_pipeline(folder_of(name), AnimateDiffVideoToVideoPipeline)
    with (
        torch.inference_mode(),
        patch.object(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()),
    ):
        other = reference(
            video=(PIXELS.transpose(1, 2) + 1) / 2,
            prompt=list(PROMPTS),
            height=SIZE[0],
            width=SIZE[1],
            strength=0.5,
            num_inference_steps=2 * STEPS,
            guidance_scale=guidance,
            generator=generator(),
            output_type="pt",
        ).frames.transpose(1, 2)
    mine = edit(load(folder_of(name)), guidance=guidance)
    assert mine.shape == other.shape == PIXELS.shape
    assert (mine.abs() < 1).float().mean() > 0.5, "clamped images hide differences"
    error = (mine - (other * 2 - 1)).abs().max().item()
    assert_parity(float(error))


@torch.inference_mode()
def run(model: Any, keys: Sequence[str], captions: Sequence[str], pixels: Tensor) -> tuple[Tensor, Tensor]:
    operator = SDEdit(t0=(0.2, 0.9), steps=2, solver="euler", guidance=3)
    given = Given(pixels=pixels, captions=captions)
    done = operator(model, model.encode(pixels), given, KeyedNoise(b"salt", keys, "sdedit", 0))
    return done.pixels, done.sigmas


def test_each_window_is_as_if_alone(model: Any) -> None:
    captions = [*PROMPTS, "a dog"]
    clips = torch.cat([PIXELS, PIXELS[:1].flip(2)])
    pixels, sigmas = run(model, "abc", captions, clips)
    assert len(set(sigmas[:, 0].tolist())) == 3
    for i, key in enumerate("abc"):
        alone, own_sigmas = run(model, [key], captions[i : i + 1], clips[i : i + 1])
        torch.testing.assert_close(pixels[i : i + 1], alone, rtol=0, atol=2e-5)
        torch.testing.assert_close(sigmas[i : i + 1], own_sigmas)
    padded, _ = run(model, "abcc", [*captions, captions[2]], torch.cat([clips, clips[2:]]))
    torch.testing.assert_close(padded[:3], pixels, rtol=0, atol=2e-5)
    other, _ = run(model, "abc", [captions[0], "a blue bicycle", captions[2]], clips)
    assert torch.equal(other[[0, 2]], pixels[[0, 2]])
    assert (other[1] - pixels[1]).abs().max() > 1e-3


def test_frames_of_a_window_see_each_other(model: Any) -> None:
    changed = PIXELS.clone()
    changed[0, :, -1] *= -1
    (here, _), (there, _) = (run(model, "ab", PROMPTS, clips) for clips in (PIXELS, changed))
    assert (here[0, :, 0] - there[0, :, 0]).abs().max() > 1e-4
    assert torch.equal(here[1], there[1])


def test_frames_are_encoded_one_by_one_and_in_order(model: Any) -> None:
    with torch.inference_mode():
        z = model.encode(PIXELS)
        for i in range(FRAMES):
            frame = model.vae.encode(PIXELS[:, :, i])
            torch.testing.assert_close(z[:, :, i], frame)
            torch.testing.assert_close(model.decode(z)[:, :, i], model.vae.decode(frame))
    clips = torch.arange(2 * 3 * 5 * 7 * 11).reshape(2, 3, 5, 7, 11)
    assert torch.equal(folded(clips)[5 + 3], clips[1, :, 3])
    assert torch.equal(unfolded(folded(clips), 2), clips)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_sketch_agrees_with_the_model(folder_of: Callable[[str], Path], name: str) -> None:
    sketch: Any = sketch_model(ModelConfig(path=str(folder_of(name)), size=SIZE))
    model: Any = load(folder_of(name))
    for field in vars(sketch):
        if field != "levels":
            assert getattr(sketch, field) == getattr(model, field), field
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(sketch.levels.sigma(u), model.levels.sigma(u))
    assert (sketch.frames, sketch.most_frames, sketch.attention) == (16, 32, False)
    with torch.inference_mode():
        assert model.encode(PIXELS.repeat(1, 1, 6, 1, 1)[:, :, :16]).shape == (2, *sketch.shape)


def test_the_network_is_called_once_a_step_and_each_text_read_once(folder: Path) -> None:
    model, pipeline = load(folder), pipeline_of(folder)  # with no text embedded yet
    rows: list[int] = []
    model.network.register_forward_hook(lambda module, given, output: rows.append(len(output[0])))
    original, texts = pipeline.encode_prompt, []

    def counted(self: Any, prompt: str, *arguments: Any, **options: Any) -> Any:
        texts.append(prompt)
        return original(self, prompt, *arguments, **options)

    with patch.object(pipeline, "encode_prompt", counted):
        for scale, factor in ((0, 1), (1, 1), (2, 2)):
            rows.clear()
            edit(model, guidance={"scale": scale, "negative": "zero"}, prompts=("one", "one"))
            assert rows == [factor * 2] * STEPS
    assert texts == ["one", "zero"]


def test_half_precision(folder: Path, model: Any) -> None:
    pixels = edit(load(folder, dtype="bfloat16"), guidance=2)
    assert pixels.dtype == torch.float32
    assert (pixels - edit(model, guidance=2)).abs().mean() < 0.05


def test_it_is_no_stage_of_a_cascade(folder: Path) -> None:
    with pytest.raises(UserError, match=r"model\.upscalers: .* is a model of clips"):
        sketch_model(ModelConfig(path=str(folder), upscalers=(Upscaler(path="x"),)))


def test_guidance_is_not_told_to_the_network(tmp_path: Path) -> None:
    folder = tiny.animatediff(tmp_path)
    with pytest.raises(UserError, match=r"model\.distilled_guidance is 3"):
        sketch_model(ModelConfig(path=str(folder), distilled_guidance=3))
    rewrite(folder / "unet" / "config.json", time_cond_proj_dim=8)
    with pytest.raises(UserError, match="time_cond_proj_dim is given"):
        sketch_model(ModelConfig(path=str(folder)))


# --- operators ---

TWO = {"conditions": ["a cat", "a dog"], "steps": 1, "guidance": 2}
FRAME_BY_FRAME: list[dict[str, Any]] = [
    {"name": "boomerang", "steps": 2},
    {"name": "sdedit", "steps": 1, "repeats": 2, "guidance": 3},
    {"name": "compose", "steps": 1, "terms": [{"condition": "a cat"}, {"condition": "a dog", "weight": -1}]},
    {"name": "ddib", "steps": 1, "level": 0.5, "target": "a dog", "image": [{"name": "blur", "sigma": 1}]},
    {"name": "anagram", "views": ["identity", "rotate_180"], **TWO},
    {"name": "factorized", "components": "hybrid", **TWO},
    {"name": "inpaint", "steps": 2, "jump_length": 1, "resamples": 2},
]
MASK = torch.zeros(len(PIXELS), 1, *PIXELS.shape[2:])
"""Another part of each frame."""
for _i in range(FRAMES):
    MASK[:, :, _i, 3 * _i :, : 5 + _i] = 1
OVER_WINDOWS: list[dict[str, Any]] = [
    {"name": "ddib", "steps": 1, "latent": [{"name": "normalise"}, {"name": "noise", "amount": 0.1}]},
    {"name": "interpolate", "steps": 1, "towards": "a dog", "mix": "embeddings", "path": 1},
    {"name": "sdedit", "steps": 1, "guidance": {"scale": 3, "rescale": 0.7}},
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": "enhance"}, "enhance measures squares of single images, and the model works on clips"),
    ({"name": "ilvr"}, "ilvr measures squares of single images, and the model works on clips"),
    ({"name": "mosaic", "tiles": 4}, "mosaic lays the tiles of single images"),
    ({"name": "tile_morph", "tiles": 4, **TWO}, "tile_morph lays the tiles of single images"),
    (
        {"name": "ddib", "latent": [{"name": "rotate", "degrees": 9}]},
        r"ddib turns single images \(rotate\), and the model works on clips",
    ),
    ({"name": "pairs"}, "pairs: "),
    ({"name": "prompt_to_prompt"}, "prompt_to_prompt: "),
]
ANY: TypeAdapter[Operator] = TypeAdapter(AnyOperator)


def test_every_operator_is_tried_here() -> None:
    works = {options["name"] for options in FRAME_BY_FRAME + OVER_WINDOWS}
    assert works | {options["name"] for options, _ in REFUSED} == set(OPERATORS)
    for operator in map(ANY.validate_python, FRAME_BY_FRAME + OVER_WINDOWS):
        assert operator.not_on_clips is None
        assert not operator.edits_attention


class OneFrame:
    """Of the noise of whole windows, that of one frame."""

    def __init__(self, whole: KeyedNoise, index: int) -> None:
        self.whole, self.index, self.uniform = whole, index, whole.uniform

    def __call__(self, like: Tensor) -> Tensor:
        return self.whole(like.expand(-1, -1, FRAMES, -1, -1))[:, :, [self.index]]


@torch.inference_mode()
def operate(options: dict[str, Any], model: Any, pixels: Tensor, index: int | None) -> list[Tensor]:
    """All images that the operator makes of windows, or of the frame at `index` in them."""
    operator, whole = ANY.validate_python(options), KeyedNoise(b"salt", ["a", "b"], options["name"], 0)
    operator.check(model, None)
    noise: Any = whole if index is None else OneFrame(whole, index)
    mask = MASK if index is None else MASK[:, :, [index]]
    own = mask if operator.name in ("inpaint", "sdedit") else None
    done = operator(model, model.encode(pixels), Given(pixels=pixels, captions=PROMPTS, mask=own), noise)
    return [done.pixels, *done.others.values()]


@pytest.mark.parametrize("options", FRAME_BY_FRAME, ids=lambda options: options["name"])
def test_what_an_operator_does_to_a_window_it_does_to_each_frame(still: Any, options: dict[str, Any]) -> None:
    together = operate(options, still, PIXELS, None)
    for i in range(FRAMES):
        for images, alone in zip(together, operate(options, still, PIXELS[:, :, [i]], i), strict=True):
            torch.testing.assert_close(images[:, :, [i]], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["inpaint", "sdedit"])
def test_what_the_mask_of_a_frame_keeps_is_its_own(still: Any, name: str) -> None:
    (made,) = operate({"name": name, "steps": 6}, still, PIXELS, None)
    kept = (MASK < 0.5).expand_as(made)
    assert torch.equal(made[kept], PIXELS[kept])
    assert not torch.isclose(made[~kept], PIXELS[~kept]).all()


@pytest.mark.parametrize("options", OVER_WINDOWS, ids=lambda options: options["name"])
def test_statistics_and_patterns_may_be_those_of_a_window(model: Any, options: dict[str, Any]) -> None:
    for images in operate(options, model, PIXELS, None):
        assert images.shape == PIXELS.shape
        assert images.isfinite().all()


def check_all(config: JobConfig, model: Any) -> None:
    assert config.operator is not None
    config.operator.check(model, None)
    check_clips(config, model, None)


@pytest.mark.parametrize(("options", "sentence"), REFUSED, ids=[options["name"] for options, _ in REFUSED])
def test_operators_that_need_single_images_are_refused(folder: Path, options: dict[str, Any], sentence: str) -> None:
    extras: dict[str, Any] = {"guide": {"strokes": {}}} if options["name"] == "mosaic" else {}
    extras |= {"edited": "a dog"} if options["name"] in ("pairs", "prompt_to_prompt") else {}
    extras |= {"judge": {"path": "x"}} if options["name"] == "pairs" else {}
    content = builders.recipe("x.tar", Path("x"), folder, clip="(.)", operator=options, **extras)
    config = validate(JobConfig, content, "test")
    sketch = sketch_model(ModelConfig(path=str(folder)))
    with pytest.raises(UserError, match=sentence):
        check_all(config, sketch)


def test_clips_and_models_of_clips_must_meet(folder: Path, tmp_path: Path) -> None:
    clips, images = sketch_model(ModelConfig(path=str(folder))), sketch_model(ModelConfig(path=str(tiny.sd(tmp_path))))

    def config(**sections: Any) -> JobConfig:
        return validate(JobConfig, builders.recipe("x.tar", Path("x"), folder, **sections), "test")

    for sections in ({"video": {}}, {"video": {"frames": 32}}, {"clip": "(.)"}):
        check_clips(config(**sections), clips, None)
    assert frames_at_once(config(video={}), clips) == 16
    assert frames_at_once(config(video={"frames": 3}), clips) == 3
    assert frames_at_once(config(video={}), images) is None
    with pytest.raises(UserError, match="the model works on clips: give the recipe video"):
        check_clips(config(), clips, None)
    with pytest.raises(UserError, match=r"video.frames is 33; the model can take at most 32"):
        check_clips(config(video={"frames": 33}), clips, None)
    with pytest.raises(UserError, match=r"video.frames is 3, and the model works on single images"):
        check_clips(config(video={"frames": 3}), images, None)
    for pair in ((clips, images), (images, clips)):
        with pytest.raises(UserError, match="one of both models works on clips"):
            check_clips(config(video={}), *pair)
