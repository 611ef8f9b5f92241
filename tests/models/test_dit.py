"""DiT and PixArt: diffusers' own pipelines from the same noise, and what a comparison of images cannot show."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from pipeline.diffusion.denoisers import per_row
from pipeline.diffusion.model import Between, Model, RowCondition
from pipeline.errors import UserError
from pipeline.models.backbone import Backbone
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model, sketch_model
from pipeline.operators import Boomerang, Given
from tests import tiny
from tests.models.parity import assert_parity

PROMPTS = ["a photo of a cat", "a red car in the snow"]
LINEAR = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False}


@dataclass
class Replay:
    """Noise that returns the given tensors."""

    draws: Iterator[Tensor]

    def __call__(self, like: Tensor) -> Tensor:
        return next(self.draws)

    def uniform(self) -> Tensor:
        return torch.zeros(2, dtype=torch.float64)


@dataclass
class Calls:
    """Counts the rows of each call of a module."""

    rows: list[int] = field(default_factory=list)

    def __call__(self, module: Any, given: Any, output: Any) -> None:
        self.rows.append(len(output[0]))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def with_ddim(folder: Path) -> Path:
    diffusers.DDIMScheduler(**LINEAR).save_pretrained(folder / "scheduler")
    edit(folder / "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    return folder


def pixart_1024(folder: Path) -> Path:
    """Told the size of its images, as the largest PixArt-α is; 16 × 16 latents all the same."""
    tiny.pixart(folder)
    old = diffusers.PixArtTransformer2DModel.from_pretrained(folder / "transformer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        options = {**old.config, "sample_size": 128, "use_additional_conditions": True, "num_attention_heads": 6}
        new = diffusers.PixArtTransformer2DModel.from_config({**options, "cross_attention_dim": 48})
    new.save_pretrained(folder / "transformer")
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "dit": tiny.dit,
    "pixart": lambda folder: with_ddim(tiny.pixart(folder)),
    "pixart_sigma": lambda folder: with_ddim(tiny.pixart_sigma(folder)),
    "pixart_1024": lambda folder: with_ddim(pixart_1024(folder)),
}
ROWS: dict[str, list[RowCondition]] = {"dit": [1, 3, None], "pixart": [*PROMPTS, None]}
every_family = pytest.mark.parametrize("family", ["dit", "pixart"])


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = FOLDERS[family](tmp_path_factory.mktemp("models") / family)
        return made[family]

    return make


@pytest.fixture(scope="module")
def loaded(folder_of: Callable[[str], Path]) -> Callable[[str], Backbone]:
    models: dict[str, Any] = {}

    def load(family: str) -> Backbone:
        if family not in models:
            size = (32, 32) if family == "pixart_1024" else None
            models[family] = load_model(ModelConfig(path=str(folder_of(family)), size=size), "cpu")
        return models[family]

    return load


def noise(seed: int = 0, rows: int = 2) -> Tensor:
    return torch.randn(rows, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def sampled(model: Model, operator: Boomerang, latents: Tensor, given: Given) -> Tensor:
    """Images in [-1, 1] from pure noise: an image of zeros, noised all the way up to what the network sees there."""
    first = operator.schedule(model, model.levels.sigma(torch.ones(len(latents), dtype=torch.float64)))[:, 0]
    start = latents / per_row(first * model.levels.scale(first), latents)
    with torch.inference_mode():
        done = operator(model, torch.zeros_like(latents), given, Replay(iter([start])))  # type: ignore[arg-type]
    return done.pixels.clamp(-1, 1)


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Of `ours` in [-1, 1] and images of diffusers in [0, 1]."""
    assert theirs.std() > 0.05, "an image that is nothing proves nothing"
    return (ours - (2 * theirs - 1)).abs().max().item()


# --- parity ---


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_dit_samples_as_its_pipeline(
    folder_of: Callable[[str], Path], loaded: Callable[[str], Backbone], guidance: float
) -> None:
    pipe = diffusers.DiTPipeline.from_pretrained(folder_of("dit"))
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    theirs = pipe([1, 3], guidance_scale=guidance, generator=generator, num_inference_steps=5, output_type="pt").images
    operator = Boomerang(t_boom=1, steps=5, solver="euler", spacing="model", guidance=guidance)
    given = Given(labels=torch.tensor([1, 3]))
    error = apart(sampled(loaded("dit"), operator, noise(), given), theirs)
    assert_parity(float(error))


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("family", ["pixart", "pixart_sigma", "pixart_1024"])
def test_pixart_samples_as_its_pipeline(
    folder_of: Callable[[str], Path], loaded: Callable[[str], Backbone], family: str, guidance: float
) -> None:
    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(folder_of(family))
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        PROMPTS, "a dog", guidance_scale=guidance, latents=noise(), num_inference_steps=5, output_type="pt",
        height=32, width=32, use_resolution_binning=False, clean_caption=False,
    ).images  # fmt: skip
    operator = Boomerang(
        t_boom=1, steps=5, solver="euler", spacing="model", guidance={"scale": guidance, "negative": "a dog"}
    )
    error = apart(sampled(loaded(family), operator, noise(), Given(captions=PROMPTS)), theirs)
    assert_parity(float(error))


def test_the_size_is_told_where_the_network_asks_for_it(
    folder_of: Callable[[str], Path], loaded: Callable[[str], Backbone]
) -> None:
    """The same weights at the same latents, told of a wide image."""
    square = loaded("pixart_1024")
    wide: Any = load_model(ModelConfig(path=str(folder_of("pixart_1024")), size=(32, 64)), "cpu")
    sigma = torch.full((2,), 2.0, dtype=torch.float64)
    assert wide.shape == (4, 16, 32)
    with torch.inference_mode():
        one, other = (model.denoiser(PROMPTS)(noise(), sigma) for model in (square, wide))
    assert (one - other).abs().max() > 1e-3


# --- rows ---


@every_family
def test_a_batch_is_its_rows_one_by_one(loaded: Callable[[str], Backbone], family: str) -> None:
    """Each at its own level, under its own condition; and whatever else is in the batch."""
    model, rows, x = loaded(family), ROWS[family], noise(rows=3)
    sigma = torch.tensor([0.3, 2.0, 50.0], dtype=torch.float64)
    with torch.inference_mode():
        together = model.denoiser(rows)(x, sigma)
        for i in range(3):
            alone = model.denoiser(rows[i : i + 1])(x[i : i + 1], sigma[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)
        padded = model.denoiser([*rows, rows[0]])(torch.cat([x, x[:1]]), torch.cat([sigma, sigma[:1]]))
        torch.testing.assert_close(padded[:3], together, rtol=1e-4, atol=1e-4)


@every_family
def test_a_condition_is_its_own_row_s(loaded: Callable[[str], Backbone], family: str) -> None:
    model, rows, x = loaded(family), ROWS[family], noise()
    sigma = torch.full((2,), 2.0, dtype=torch.float64)
    with torch.inference_mode():
        first, second = (model.denoiser([rows[0], other])(x, sigma) for other in rows[:2])
    torch.testing.assert_close(first[0], second[0], rtol=1e-5, atol=1e-6)
    assert (first[1] - second[1]).abs().max() > 1e-4


@every_family
def test_no_rows_are_rows_of_none(loaded: Callable[[str], Backbone], family: str) -> None:
    model, sigma = loaded(family), torch.full((2,), 2.0, dtype=torch.float64)
    with torch.inference_mode():
        none, nones, first = (
            model.denoiser(rows)(noise(), sigma) for rows in (None, [None, None], [ROWS[family][0]] * 2)
        )
    torch.testing.assert_close(none, nones)
    assert (none - first).abs().max() > 1e-4


def test_labels_as_a_tensor(loaded: Callable[[str], Backbone]) -> None:
    embed = loaded("dit").embed
    assert embed(torch.tensor([2, -1]))["class_labels"].tolist() == [2, 1000]
    assert embed([2, None])["class_labels"].tolist() == [2, 1000]
    with pytest.raises(TypeError, match="a class is expected"):
        embed(["a cat"])


def test_between_two_prompts_both_are_attended_to(loaded: Callable[[str], Backbone]) -> None:
    embed = loaded("pixart").embed
    short, long = "a cat", "a photo of a smiling person on a green street"
    masks = [embed([row])["encoder_attention_mask"] for row in (short, long, Between(short, long, 0.5))]
    assert masks[0].sum() < masks[1].sum() == masks[2].sum()


@every_family
@pytest.mark.parametrize(("guidance", "rows"), [(0.5, 2), (1.0, 2), (3.0, 4)])
def test_the_network_runs_once_a_step(
    loaded: Callable[[str], Backbone], family: str, guidance: float, rows: int
) -> None:
    model, calls = loaded(family), Calls()
    hook = model.network.register_forward_hook(calls)
    given = Given(labels=torch.tensor([1, 3]), captions=PROMPTS)
    operator = Boomerang(steps=3, guidance=guidance, solver="euler")
    with torch.inference_mode():
        operator(model, noise(), given, Replay(iter([noise(1)])))  # type: ignore[arg-type]
    hook.remove()
    assert len(calls.rows) == 3
    assert set(calls.rows) == {rows}, calls.rows


def test_a_prompt_is_embedded_once(folder_of: Callable[[str], Path]) -> None:
    model: Any = load_model(ModelConfig(path=str(folder_of("pixart"))), "cpu")
    asked: list[str | None] = []
    embed = model.embed._embed
    model.embed._embed = lambda prompt: (asked.append(prompt), embed(prompt))[1]
    for rows in ([*PROMPTS, PROMPTS[0]], [None, PROMPTS[1]], None):
        model.denoiser(rows)
    assert asked == [*PROMPTS, None]


# --- folders ---


@pytest.mark.parametrize("family", FOLDERS)
def test_the_sketch_is_the_model(
    folder_of: Callable[[str], Path], loaded: Callable[[str], Backbone], family: str
) -> None:
    model, pixels = loaded(family), torch.rand(1, 3, 32, 32) * 2 - 1
    sketch = sketch_model(ModelConfig(path=str(folder_of(family)), size=model.size))
    for name in ("size", "shape", "space", "conditioning", "classes", "class_names", "unconditional", "hash"):
        assert getattr(sketch, name) == getattr(model, name), name
    u = torch.linspace(0, 1, 7, dtype=torch.float64)
    assert torch.equal(sketch.levels.sigma(u), model.levels.sigma(u))
    with torch.inference_mode():
        z = model.encode(pixels)
        assert z.shape[1:] == model.shape
        assert model.decode(z).shape == pixels.shape


def test_classes_of_a_dit(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    sketch = sketch_model(ModelConfig(path=str(folder_of("dit"))))
    assert (sketch.conditioning, sketch.classes, sketch.class_names) == ("class", 1000, tiny.LABELS)
    assert sketch.unconditional


def test_names_are_in_the_order_of_labels_not_of_the_file(tmp_path: Path) -> None:
    folder, names = tiny.dit(tmp_path / "dit"), [f"{(7 * i) % 12}, class" for i in range(12)]
    edit(folder / "model_index.json", id2label={key: names[int(key)] for key in sorted(map(str, range(12)))})
    assert sketch_model(ModelConfig(path=str(folder))).class_names == tuple(names)


@pytest.mark.parametrize("named", [{"0": "cat", "2": "dog"}, {"one": "cat"}])
def test_names_that_leave_one_out_are_refused(tmp_path: Path, named: dict[str, str]) -> None:
    folder = tiny.dit(tmp_path / "dit")
    edit(folder / "model_index.json", id2label=named)
    with pytest.raises(UserError, match=r"model_index.json: id2label .*999"):
        sketch_model(ModelConfig(path=str(folder)))
    edit(folder / "model_index.json", id2label={})
    assert sketch_model(ModelConfig(path=str(folder))).class_names is None


@pytest.mark.parametrize(
    ("family", "size"), [("dit", (32, 64)), ("dit", (30, 30)), ("dit", (64, 64)), ("pixart", (32, 34))]
)
def test_sizes_that_do_not_fit_are_refused(folder_of: Callable[[str], Path], family: str, size: Sequence[int]) -> None:
    with pytest.raises(UserError, match=f"model.size is {size[0]} × {size[1]}; allowed (is|are)"):
        sketch_model(ModelConfig(path=str(folder_of(family)), size=(size[0], size[1])))


@pytest.mark.parametrize(("family", "norm"), [("dit", "ada_norm_zero"), ("pixart", "ada_norm_single")])
def test_a_folder_of_the_older_class_of_transformers(
    folder_of: Callable[[str], Path], loaded: Callable[[str], Backbone], tmp_path: Path, family: str, norm: str
) -> None:
    """As published: `Transformer2DModel`, which diffusers has since split."""
    folder = FOLDERS[family](tmp_path / family)
    edit(folder / "transformer" / "config.json", _class_name="Transformer2DModel", norm_type=norm)
    edit(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    older: Any = load_model(ModelConfig(path=str(folder)), "cpu")
    sigma = torch.full((2,), 2.0, dtype=torch.float64)
    with torch.inference_mode():
        found, expected = (m.denoiser(ROWS[family][:2])(noise(), sigma) for m in (older, loaded(family)))
    assert torch.equal(found, expected)


@every_family
def test_bfloat16_runs_and_stays_float32_outside(folder_of: Callable[[str], Path], family: str) -> None:
    model = load_model(ModelConfig(path=str(folder_of(family)), dtype="bfloat16"), "cpu")
    with torch.inference_mode():
        x0 = model.denoiser(ROWS[family][:2])(noise(), torch.full((2,), 2.0, dtype=torch.float64))
        pixels = model.decode(x0)
    assert x0.dtype == pixels.dtype == torch.float32
    assert torch.isfinite(pixels).all()


@every_family
def test_guidance_as_a_number_is_refused(folder_of: Callable[[str], Path], family: str) -> None:
    with pytest.raises(UserError, match=r"model\.distilled_guidance is 2, and .* takes no guidance"):
        sketch_model(ModelConfig(path=str(folder_of(family)), distilled_guidance=2.0))
