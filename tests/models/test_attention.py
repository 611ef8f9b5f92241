"""Edited attention against diffusers' own, on tiny UNets of the three kinds."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnAddedKVProcessor2_0, AttnProcessor2_0
from torch import Tensor

from pipeline.diffusion.editing import AttentionEdit, Blend, Mode
from pipeline.errors import UserError
from pipeline.models import attention
from pipeline.models.attention import Following, following, installed, layers_of, read, word_maps
from tests import tiny

DEEP = {
    "block_out_channels": (8, 8, 8),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 32,
}
UNETS: dict[str, Callable[[], Any]] = {
    "sd": lambda: diffusers.UNet2DConditionModel(**tiny.UNET, cross_attention_dim=32),
    "deep": lambda: diffusers.UNet2DConditionModel(**DEEP),
    "deepfloyd": lambda: diffusers.UNet2DConditionModel(**tiny.PIXEL_UNET, in_channels=3),
}
PROMPTS = ["a cat on grass", "a red dog", "a dog on grass", "a blue dog", None, None]  # 2 sources, their targets, away
LENGTH = 12


@pytest.fixture(params=UNETS, scope="module")
def unet(request: Any) -> Any:
    with tiny.seeded(3):
        return UNETS[request.param]().eval().requires_grad_(False)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


TEXT = normal(6, LENGTH, 32)
SIGMA = torch.tensor([1.0, 3.0, 1.0, 3.0, 1.0, 3.0])


def plain(unet: Any, text: Tensor = TEXT) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, sigma: unet(x, 100 * sigma, text[: len(x)], return_dict=False)[0]


def edit(cross: float = 0.0, own: float = 0.0, mode: Mode = "replace", **options: Any) -> AttentionEdit:
    """Rows follow above these σ: 0 is always, 9 never."""
    return AttentionEdit(mode=mode, cross_until=torch.full((2,), cross), self_until=torch.full((2,), own), **options)


def edited(unet: Any, how: AttentionEdit, prompts: Any = PROMPTS) -> Callable[[Tensor, Tensor], Tensor]:
    return following(plain(unet), unet, tiny.clip_tokenizer(), prompts, how, TEXT)


def x_of(unet: Any, side: int = 16) -> Tensor:
    return normal(6, unet.config.in_channels, side, side, seed=1)


@pytest.mark.parametrize("side", [16, 20, 18])
def test_layers_are_on_the_grids_they_run_on(unet: Any, side: int) -> None:
    seen: dict[Any, int] = {}

    def count(module: Any, args: Any) -> None:
        seen[module] = args[0].shape[2:].numel() if args[0].ndim == 4 else args[0].shape[1]

    hooks = [m.register_forward_pre_hook(count) for m in unet.modules() if isinstance(m, Attention)]
    plain(unet)(x_of(unet, side), SIGMA)
    for hook in hooks:
        hook.remove()
    layers = layers_of(unet, (side, side))
    assert {layer.module: layer.size[0] * layer.size[1] for layer in layers} == seen
    assert len({layer.size for layer in layers}) >= min(2, len(unet.down_blocks) - 1)


def test_processors_that_change_nothing_are_those_of_diffusers(unet: Any) -> None:
    tokens = [read(tiny.clip_tokenizer(), prompt) for prompt in PROMPTS]
    never = torch.zeros(2, dtype=torch.bool)
    words = word_maps(tokens[:2], tokens[2:4], edit(), TEXT)
    how = {m: Following(kind=kind, cross=never, own=never, words=words) for m, kind, _ in layers_of(unet, (16, 16))}
    for x in (x_of(unet), x_of(unet)[:4]):  # without guidance no rows are left alone
        with installed(how):
            ours = plain(unet)(x, SIGMA[: len(x)])
        torch.testing.assert_close(ours, plain(unet)(x, SIGMA[: len(x)]), atol=1e-5, rtol=1e-5)


def test_only_targets_change_and_only_above_their_level(unet: Any) -> None:
    x, before = x_of(unet), plain(unet)(x_of(unet), SIGMA)
    for how, changed in (
        (edit(0.0, 0.0), [2, 3]), (edit(2.0, 2.0), [3]), (edit(9.0, 2.0), [3]), (edit(2.0, 9.0), [3]),
        (edit(9.0, 9.0), []), (edit(9.0, 9.0, blend=Blend(["cat"])), []),
    ):  # fmt: skip
        apart = (edited(unet, how)(x, SIGMA) - before).abs().amax((1, 2, 3))
        assert [i for i, a in enumerate(apart.tolist()) if a > 1e-4] == changed
        assert all(a < 1e-5 for i, a in enumerate(apart.tolist()) if i not in changed)


def test_a_target_that_is_its_source_attends_as_it_does_anyway(unet: Any) -> None:
    text = TEXT[[0, 1, 0, 1, 4, 5]]
    x = x_of(unet)[[0, 1, 0, 1, 4, 5]]
    prompts = [*PROMPTS[:2], *PROMPTS[:2], None, None]
    for how in (edit(), edit(mode="refine"), edit(reweight={"cat": 1.0, "dog": 1.0})):
        out = following(plain(unet, text), unet, tiny.clip_tokenizer(), prompts, how, text)(x, SIGMA)
        torch.testing.assert_close(out[:2], out[2:4], atol=1e-6, rtol=0)
        torch.testing.assert_close(out, plain(unet, text)(x, SIGMA), atol=1e-5, rtol=1e-5)


def test_the_maps_are_the_source_s_and_none_outlives_its_layer(unet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def watched(self: Following, source: Tensor, target: Tensor) -> Tensor:
        nonlocal most
        out = own(self, source, target)
        assert torch.equal(out, source)  # words of one token each: the very maps
        assert not torch.equal(target, source)
        most = max(most, sum(ref() is not None for ref in alive))
        alive.extend(map(weakref.ref, (source, target, out)))
        return out

    def queries(self: Following, heads: Tensor) -> Tensor:
        out = copied(self, heads)
        assert torch.equal(out[2:4], out[:2])
        alive.append(weakref.ref(out))
        return out

    own, copied = Following.edited, Following._copied
    monkeypatch.setattr(Following, "edited", watched)
    monkeypatch.setattr(Following, "_copied", queries)
    edited(unet, edit())(x_of(unet), SIGMA)
    kinds = Counter(layer.kind for layer in layers_of(unet, (16, 16)))
    assert len(alive) == 3 * (kinds["cross"] + kinds["joint"]) + 2 * kinds["self"]
    gc.collect()
    assert not any(ref() is not None for ref in alive)
    assert most == 0  # nor at the time of the next layer


def test_in_fine_joint_layers_only_the_text_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    with tiny.seeded(3):
        unet = UNETS["deepfloyd"]().eval()
    own, sizes = Following.edited, set()

    def watched(self: Following, source: Tensor, target: Tensor) -> Tensor:
        out = own(self, source, target)
        assert torch.equal(out[..., :LENGTH], source[..., :LENGTH])
        follows = source if source.shape[2] <= 16**2 else target
        assert torch.equal(out[..., LENGTH:], follows[..., LENGTH:])
        sizes.add(source.shape[2])
        return out

    monkeypatch.setattr(Following, "edited", watched)
    for side in (16, 40):
        edited(unet, edit())(x_of(unet, side), SIGMA)
    assert sizes == {8**2, 20**2}


def test_layers_that_are_not_edited_keep_their_fused_attention(unet: Any) -> None:
    layers = layers_of(unet, (40, 40))  # 40², 20²: too fine for self-attention to follow; 10² and below
    fused = (AttnProcessor2_0, AttnAddedKVProcessor2_0)
    seen: list[Any] = []
    hooks = [layer.module.register_forward_hook(lambda m, *_: seen.append((m, type(m.processor)))) for layer in layers]
    try:
        for cross, own, follow in (
            (0, 9, {layer.module for layer in layers if layer.kind != "self"}),
            (9, 0, {layer.module for layer in layers if layer.kind != "cross" and layer.size[0] <= 10}),
            (9, 9, set()),
        ):
            seen.clear()
            edited(unet, edit(cross, own))(x_of(unet, 40), SIGMA)
            assert len(seen) == len(layers)
            assert {m for m, kind in seen if kind is Following} == follow
            assert all(kind in fused for m, kind in seen if m not in follow)
    finally:
        for hook in hooks:
            hook.remove()


def test_processors_come_back_whatever_happens(unet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(unet.attn_processors)
    edited(unet, edit())(x_of(unet), SIGMA)
    assert all(unet.attn_processors[name] is processor for name, processor in before.items())

    def fails(*_: Any) -> Tensor:
        raise RuntimeError("on the way")

    monkeypatch.setattr(attention, "projected", fails)
    with pytest.raises(RuntimeError, match="on the way"):
        edited(unet, edit())(x_of(unet), SIGMA)
    assert all(unet.attn_processors[name] is processor for name, processor in before.items())


def test_reweighting_multiplies_the_word_s_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    with tiny.seeded(3):
        unet = UNETS["sd"]().eval()
    seen: list[tuple[Tensor, Tensor]] = []
    own = Following.edited

    def watched(self: Following, source: Tensor, target: Tensor) -> Tensor:
        seen.append((source, own(self, source, target)))
        return seen[-1][1]

    monkeypatch.setattr(Following, "edited", watched)
    edited(unet, edit(reweight={"Dog": -2.0}))(x_of(unet), SIGMA)
    factor = torch.ones(2, 1, 1, LENGTH)
    factor[0, ..., 2] = factor[1, ..., 3] = -2  # start mark, a, dog · start mark, a, blue, dog
    for source, out in seen:
        torch.testing.assert_close(out, source * factor)


def test_blend_sees_its_words_in_both_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    with tiny.seeded(3):
        unet = UNETS["sd"]().eval()
    shown: list[Tensor] = []
    blend = Blend(["cat", "dog"])
    monkeypatch.setattr(blend, "add", shown.append)
    maps: list[Tensor] = []
    own = Following.edited

    def watched(self: Following, source: Tensor, target: Tensor) -> Tensor:
        maps.append(torch.stack([source, own(self, source, target)]))
        return maps[-1][1]

    monkeypatch.setattr(Following, "edited", watched)
    edited(unet, edit(blend=blend))(x_of(unet), SIGMA)
    assert len(shown) == len(maps) == 7
    for sums, both in zip(shown, maps, strict=True):
        side = int(both.shape[3] ** 0.5)
        for row, place in ((0, 2), (1, 3)):  # a cat/dog; a red/blue dog
            expected = both[:, row, :, :, place].mean(1).reshape(2, side, side)
            torch.testing.assert_close(sums[:, row], expected)


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_words_are_read_as_the_encoder_reads_the_prompt(kind: str) -> None:
    tokenizer: Any = {"clip": tiny.clip_tokenizer, "t5": tiny.t5_tokenizer}[kind]()
    for prompt in ("a Cat, riding a bicycle", "  zebra   on grass.", "", None):
        tokens = read(tokenizer, prompt)
        whole = tokenizer((prompt or "").lower().strip()).input_ids
        assert [i for word in tokens.ids for i in word] == whole[tokens.first : -1]
        assert tokens.end(77) == len(whole) - 1
        assert len(tokens.words) == len((prompt or "").split())


def test_a_learned_word_has_all_its_vectors(tmp_path: Path) -> None:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny.sd(tmp_path / "sd"), safety_checker=None)
    file = tiny.textual_inversion(tmp_path / "ti", "<toy>", 32, vectors=3)
    pipe.load_textual_inversion(str(file.parent), weight_name=file.name, token="<toy>")
    prompt = "a <toy> on grass"
    whole = pipe.tokenizer(pipe.maybe_convert_prompt(prompt, pipe.tokenizer)).input_ids
    tokens = read(pipe.tokenizer, prompt)
    assert [len(word) for word in tokens.ids] == [1, 3, 1, 1]
    assert [i for word in tokens.ids for i in word] == whole[1:-1]


def test_prompts_that_do_not_fit_are_refused_with_the_reason(unet: Any) -> None:
    longer = [*PROMPTS[:2], "a dog on green grass", *PROMPTS[3:]]
    with pytest.raises(UserError, match=r"'a cat on grass' has 4, 'a dog on green grass' has 5; mode refine takes any"):
        edited(unet, edit(), longer)
    edited(unet, edit(mode="refine"), longer)
    with pytest.raises(TypeError, match="takes 4 prompts of sources and targets, found 3"):
        edited(unet, edit(), [PROMPTS[0], 1, *PROMPTS[2:]])
