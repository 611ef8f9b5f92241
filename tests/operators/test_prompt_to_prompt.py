"""Prompt-to-Prompt against its definition in diffusers' own parts, and what it must leave as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from pydantic import ValidationError
from torch import Tensor

from pipeline.diffusion.editing import Blend, Tokens, align, followed, is_coarse, until
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.models.backbone import Backbone
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model, sketch_model
from pipeline.models.gaussian import ClosedForm, Gaussian
from pipeline.operators import Boomerang, Given, PromptToPrompt, Transformed
from tests import tiny
from tests.text_model import Prompted

CAPTIONS = ["a cat on grass", "a red dog, riding", "zebra in snow"]
EDITED = ["a dog on grass", "a blue horse, riding", "a painting with two in snow"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.sd(tmp_path_factory.mktemp("p2p") / "sd", set_alpha_to_one=True)


@pytest.fixture(scope="module")
def model(folder: Any) -> Backbone:
    loaded = load_model(ModelConfig(path=str(folder), size=(16, 16)), "cpu")
    assert isinstance(loaded, Backbone)
    return loaded


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def apply(model: Any, settings: dict[str, Any], rows: Sequence[int] = (0, 1), edited: Any = EDITED) -> Transformed:
    operator = PromptToPrompt(**{"steps": 4, **settings})
    operator.check(model, None)
    given = Given(captions=[CAPTIONS[i] for i in rows], edited=[edited[i] for i in rows])
    noise = KeyedNoise(b"salt", [str(i) for i in rows], "p2p", 0)
    z = normal(3, *model.shape)[list(rows)]
    before = z.clone()
    done = operator(model, z, given, noise)
    assert torch.equal(z, before)
    return done


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


VARIANTS: list[dict[str, Any]] = [
    {},
    {"mode": "replace"},
    {"solver": "ancestral", "guidance": 1},
    {"solver": "heun", "start": [0.3, 0.9], "steps": 2},
    {"cross_share": 1, "self_share": 1, "blend": ["cat", "dog"], "reweight": {"cat": 1.0}},
    {"invert": True, "steps": 3},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_the_same_prompt_gives_the_same_image(model: Backbone, settings: dict[str, Any]) -> None:
    done = apply(model, settings, edited=CAPTIONS)
    assert apart(done.pixels, done.beside["source"]) <= 1e-6
    if settings.get("mode") != "replace":
        assert apart(apply(model, settings).pixels, done.pixels) > 1e-3


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("solver", ["euler", "ancestral"])
def test_at_share_0_both_are_ordinary_samples(model: Backbone, guidance: float, solver: Any) -> None:
    how: dict[str, Any] = {"steps": 4, "solver": solver, "guidance": guidance}
    done = apply(model, {**how, "cross_share": 0, "self_share": 0})
    shared = apply(model, how)
    for captions, image in (
        (CAPTIONS, done.beside["source"]),
        (EDITED, done.pixels),
        (CAPTIONS, shared.beside["source"]),
    ):
        noise = KeyedNoise(b"salt", ["0", "1"], "p2p", 0)
        ordinary = Boomerang(t_boom=1, **how)(model, torch.zeros(2, *model.shape), Given(captions=captions[:2]), noise)
        assert apart(image, ordinary.pixels) < 1e-5
    assert apart(shared.pixels, done.pixels) > 1e-3


@pytest.mark.parametrize("settings", [{}, {"blend": ["cat", "dog"], "start": [0.4, 1]}], ids=str)
def test_a_batch_is_its_rows(model: Backbone, settings: dict[str, Any]) -> None:
    whole = apply(model, settings, range(3))
    for i in range(3):
        one = apply(model, settings, [i])
        assert apart(one.pixels[0], whole.pixels[i]) < 1e-5
        assert apart(one.beside["source"][0], whole.beside["source"][i]) < 1e-5


def test_no_state_survives_a_call(model: Backbone) -> None:
    before = dict(model.network.attn_processors)  # type: ignore[arg-type]
    first, _, again = (apply(model, {"blend": ["cat"], "guidance": g, "steps": 2}) for g in (7.5, 2, 7.5))
    assert torch.equal(first.pixels, again.pixels)
    assert dict(model.network.attn_processors) == before  # type: ignore[arg-type]
    assert model.edit is None


@pytest.mark.parametrize("kind", ["sdxl", "turbo", "deepfloyd"])
def test_other_unets(kind: str, tmp_path: Path) -> None:
    folder = getattr(tiny, kind)(tmp_path / kind)
    other = load_model(ModelConfig(path=str(folder)), "cpu")
    assert isinstance(other, Backbone)
    assert other.attention
    same, edited = (apply(other, {"steps": 2}, edited=captions) for captions in (CAPTIONS, EDITED))
    assert apart(same.pixels, same.beside["source"]) <= 1e-6
    assert apart(edited.pixels, edited.beside["source"]) > 1e-4
    free = apply(other, {"steps": 2, "cross_share": 0, "self_share": 0})
    assert apart(free.beside["source"], edited.beside["source"]) < 1e-5
    assert apart(free.pixels, edited.pixels) > 1e-4
    replaced = apply(other, {"steps": 2, "mode": "replace", "blend": ["cat"]}, [0, 1])
    assert replaced.pixels.isfinite().all()


def reference(
    folder: Any, source: str, target: str, words: dict[int, list[int]], new: list[int], latent: Tensor
) -> Tensor:
    """The paper's algorithm 1 in diffusers' pipeline, in maps: `words` of the target and the source's that they follow.

    5 steps, the first 4 with cross-attention, the first 2 with self-attention. Returns both images, in [-1, 1].
    """
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, requires_safety_checker=False, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.set_attn_processor(AttnProcessor())
    step = 0
    own = Attention.get_attention_scores

    def scores(self: Attention, *args: Any, **options: Any) -> Tensor:
        maps = own(self, *args, **options).unflatten(0, (4, -1)).clone()  # away, away, source, target
        if self.is_cross_attention and step < 4:
            follow = maps[2].clone()
            for place, of in words.items():
                follow[..., place] = maps[2][..., of].sum(-1) / len([p for p, o in words.items() if o == of])
            follow[..., new] = maps[3][..., new]
            maps[3] = follow
        if not self.is_cross_attention and step < 2:
            maps[3] = maps[2]
        return maps.flatten(0, 1)

    def count(*_: Any) -> dict[str, Any]:
        nonlocal step
        step += 1
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attention, "get_attention_scores", scores)
        out = pipe(
            prompt=[source, target], latents=latent.expand(2, -1, -1, -1), num_inference_steps=5, guidance_scale=7.5,
            output_type="pt", callback_on_step_end=count, callback_on_step_end_tensor_inputs=["latents"],
        )  # fmt: skip
    return out.images * 2 - 1  # type: ignore[no-any-return]


ZOO = {2: [2], 3: [2], 4: [2], 5: [3], 6: [4], 7: [5, 6, 7]}  # three tokens


# Places that follow another place than their own, and new ones.
@pytest.mark.parametrize(
    ("mode", "source", "target", "words", "new"),
    [
        ("replace", "a cat on grass", "a dog on grass", {}, []),
        ("replace", "a red dog in snow", "a blue horse in snow", {}, []),
        ("replace", "a cat in snow", "a zoo in snow", ZOO, []),
        ("refine", "a cat on grass", "a dog on grass", {}, [2]),
        ("refine", "a cat", "a red cat", {3: [2], 4: [3]}, [2]),
    ],
)
def test_it_is_the_paper_s_algorithm(
    folder: Any, model: Backbone, mode: Any, source: str, target: str, words: dict[int, list[int]], new: list[int]
) -> None:
    operator = PromptToPrompt(source=source, target=target, mode=mode, steps=5, spacing="model")
    noise, z = normal(1, *model.shape, seed=4), torch.zeros(1, *model.shape)

    class Fixed(KeyedNoise):
        def __call__(self, like: Tensor) -> Tensor:
            return noise

    done = operator(model, z, Given(), Fixed(b"salt", ["k"], "p2p", 0))
    sigma = done.sigmas[0, 0].float()
    images = reference(folder, source, target, words, new, noise * sigma / (1 + sigma**2).sqrt())
    error = max(apart(done.beside["source"].clamp(-1, 1)[0], images[0]), apart(done.pixels.clamp(-1, 1)[0], images[1]))
    assert apart(images[0], images[1]) > 0.01
    assert error < 1e-4, f"off by {error:.2g}"


def test_words_that_do_not_pair_up_are_refused(model: Backbone) -> None:
    fixed = PromptToPrompt(source="a cat", target="a red cat", mode="replace")
    with pytest.raises(UserError, match=r"prompt_to_prompt: mode replace .* 'a cat' has 2, 'a red cat' has 3"):
        fixed.check(model, None)
    done, others = apply(model, {"mode": "replace"}, [0, 1, 2]), apply(model, {"mode": "replace"}, [0, 1])
    assert done.refused == {2: "mode replace needs as many words in both prompts, and 'zebra in snow' has 3, "
                               "'a painting with two in snow' has 6; mode refine takes any"}  # fmt: skip
    assert others.refused == {}
    torch.testing.assert_close(done.pixels[:2], others.pixels, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"target": "a dog", "reweight": {"cat": 2}}, "reweight: 'cat' is not a word of the target 'a dog'"),
        ({"source": "a fox", "target": "a dog", "blend": ["cat"]}, "blend: 'cat' is a word of neither"),
    ],
)
def test_words_that_are_not_there_are_refused(model: Backbone, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        PromptToPrompt(**settings).check(model, None)


def test_models_without_attention_to_words_are_refused(folder: Any, model: Backbone) -> None:
    pixels = ClosedForm(denoise=Gaussian(), levels=model.levels, size=(8, 8))
    blind = Prompted(denoise=Gaussian(), levels=model.levels, size=(8, 8), attention=False)
    for other in (pixels, blind):
        with pytest.raises(UserError, match="no attention to the words of a prompt"):
            PromptToPrompt().check(other, None)
    PromptToPrompt().check(sketch_model(ModelConfig(path=str(folder))), None)


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="invert with solver ancestral, which draws noise"):
        PromptToPrompt(invert=True, solver="ancestral")
    with pytest.raises(ValidationError):
        PromptToPrompt(blend=("two words",))
    assert PromptToPrompt(target="a dog").needs == frozenset()
    assert PromptToPrompt().needs == {"edited"}
    assert PromptToPrompt(invert=True).invertible
    assert not PromptToPrompt(invert=True).stochastic


def test_reweighting_by_1_changes_nothing_and_by_more_does(model: Backbone) -> None:
    plain, same, more = (apply(model, {"reweight": r}).pixels for r in ({}, {"dog": 1.0}, {"dog": 3.0}))
    assert torch.equal(plain, same)
    assert apart(plain[0], more[0]) > 1e-3
    assert torch.equal(plain[1:], more[1:])  # no dog in their edited captions


def test_inversion_brings_the_image_back_without_guidance(model: Backbone) -> None:
    z = normal(3, *model.shape)[:2]
    errors = []
    for steps in (3, 20):
        done = apply(model, {"invert": True, "guidance": 1, "steps": steps, "start": 0.6, "spacing": "trailing"})
        errors.append(apart(done.beside["source"], model.decode(z)))
    assert errors[1] < 0.3 * errors[0]


def test_below_1_both_start_from_the_image(model: Backbone) -> None:
    image = model.decode(normal(3, *model.shape)[:2])
    off = []
    for start in (0.0, 0.05, 0.5):
        done = apply(model, {"start": start, "guidance": 1, "steps": 2})
        off.append(max(apart(done.pixels, image), apart(done.beside["source"], image)))
    assert off[0] < 1e-5
    assert off[0] < off[1] < off[2]


def test_outside_of_its_words_the_target_is_its_source(model: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    left = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    left[..., :4] = True
    monkeypatch.setattr(Blend, "mask", lambda self, size: left)
    ends: list[Tensor] = []
    decode = type(model).decode
    monkeypatch.setattr(type(model), "decode", lambda self, z: (ends.append(z), decode(self, z))[1])
    apply(model, {"blend": ["cat"], "cross_share": 0.0, "self_share": 0.0})
    source, target = ends
    assert torch.equal(source[..., 4:], target[..., 4:])
    assert apart(source[..., :4], target[..., :4]) > 1e-3


def test_the_blend_s_mask() -> None:
    blend = Blend(["cat"])
    maps = torch.zeros(2, 3, 4, 4)
    maps[0, 0, 0, 0], maps[1, 0, 3, 3], maps[1, 0, 0, 3] = 0.01, 5.0, 1.0  # each by its own most; 1 is below .3 of 5
    maps[0, 1] = 1.0
    blend.add(maps / 2)
    blend.add(maps / 2)
    mask = blend.mask((4, 4))
    near = torch.zeros(4, 4, dtype=torch.bool)
    near[:2, :2] = near[2:, 2:] = True
    assert torch.equal(mask[0, 0], near)
    assert mask[1].all()
    assert mask[2].all()  # none of the words: nothing is held back
    assert torch.equal(blend.mask((8, 8))[0, 0], near.repeat_interleave(2, 0).repeat_interleave(2, 1))
    blend.add(torch.ones(2, 3, 2, 2) * 10)  # another layer, coarser and all alike
    assert blend.mask((4, 4)).all()


def best(source: tuple[int, ...], target: tuple[int, ...]) -> int:
    """The highest score of an alignment, by trying all."""

    @cache
    def score(i: int, j: int) -> int:
        if i == len(source) or j == len(target):
            return 0
        return max(score(i + 1, j), score(i, j + 1), score(i + 1, j + 1) + (1 if source[i] == target[j] else -1))

    return score(0, 0)


def test_alignment_is_the_best_there_is() -> None:
    for source in product(range(3), repeat=4):
        for target in product(range(3), repeat=3):
            for a, b in ((source, target), (target, source)):
                partner = align(a, b)
                met = [(i, j) for j, i in enumerate(partner) if i >= 0]
                assert all(a[i] == b[j] for i, j in met)
                assert [i for i, _ in met] == sorted({i for i, _ in met})
                assert len(met) == best(a, b)
    assert align((), (1, 2)) == [-1, -1]
    assert align((1, 2, 3), (1, 9, 2, 3)) == [0, -1, 1, 2]


def tokens(*lengths: int, first: int = 1, start: int = 10) -> Tokens:
    """Words of so many tokens each, all different."""
    numbers = iter(range(start, start + sum(lengths)))
    return Tokens(
        tuple("w" * (i + 1) for i in range(len(lengths))),
        tuple(tuple(next(numbers) for _ in range(n)) for n in lengths),
        first,
    )


@pytest.mark.parametrize("first", [0, 1])
def test_what_follows_what(first: int) -> None:
    a, b = tokens(1, 2, 1, first=first), tokens(1, 1, 1, first=first, start=50)
    for source, target in ((a, b), (b, a), (a, a)):
        matrix, known = followed("replace", source, target, 10)
        assert known.all()
        torch.testing.assert_close(matrix.sum(1), torch.ones(10))  # no attention is lost
        end, other = source.end(10), target.end(10)
        assert matrix[end, other] == 1
        assert torch.equal(matrix[:first, :first], torch.eye(first))
    matrix, _ = followed("replace", b, a, 10)
    assert torch.equal(matrix[first + 1, first : first + 4], torch.tensor([0, 0.5, 0.5, 0]))
    for mode in ("replace", "refine"):
        matrix, known = followed(mode, a, a, 10)  # type: ignore[arg-type]
        assert torch.equal(matrix, torch.eye(10))
        assert known.all()
    _, known = followed("refine", a, b, 10)
    own = [*range(first, first + 3), first + 4]  # its words, and padding where the source has its end mark
    assert known.tolist() == [i not in own for i in range(10)]
    long = tokens(*[3] * 5, first=first)
    matrix, known = followed("refine", long, long, 10)  # cut off
    assert torch.equal(matrix, torch.eye(10))


def test_shares_are_levels_of_each_row() -> None:
    sigmas = torch.tensor([[9.0, 5, 2, 1, 0.0], [4, 3, 2, 0.5, 0]])
    assert until(sigmas, 0).tolist() == [9, 4]
    assert until(sigmas, 0.5).tolist() == [2, 2]
    assert until(sigmas, 0.7).tolist() == [2, 2]  # whole steps
    assert until(sigmas, 1).tolist() == [0, 0]
    assert until(sigmas, torch.tensor([0.3, 0.8])).tolist() == [5, 0.5]
    assert until(torch.zeros(1, 11), 0.7).tolist() == [0]
    assert (torch.arange(10, 0, -1) > until(torch.arange(10, -1, -1)[None], 0.7)).sum() == 7


def test_coarse_layers() -> None:
    assert is_coarse((16, 16), (64, 64))
    assert not is_coarse((32, 32), (64, 64))
    assert is_coarse((32, 32), (128, 128))  # SDXL has none coarser
    assert is_coarse((16, 16), (16, 16))
