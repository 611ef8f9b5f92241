"""Prompt-to-Prompt in diffusers' UNets: for the time of one call, edited layers attend as their source does.

Self-attention with the source's maps is attention with the source's queries and keys: it stays fused, at any size.
Cross-attention takes its maps apart, of the source's and target's rows; all other rows stay fused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pipeline.diffusion.denoisers import Denoiser
from pipeline.diffusion.editing import AttentionEdit, Tokens, WordMaps, followed, is_coarse
from pipeline.diffusion.model import RowCondition
from pipeline.errors import UserError


class Layer(NamedTuple):
    """One attention layer of a network, and the tokens that it works on."""

    module: Any
    """The layer itself, diffusers' `Attention`."""
    kind: Literal["cross", "self", "joint"]
    """What it attends to; `joint` is text and image under one softmax, as in DeepFloyd IF."""
    size: tuple[int, int]
    """Height and width, in tokens, of the grid that z is brought to."""


def layers_of(network: nn.Module, size: tuple[int, int]) -> list[Layer]:
    """The attention layers of a `UNet2DConditionModel` on z of `size`: each block halves the grid for the next one."""
    from diffusers.models.attention_processor import Attention

    blocks: Any = network.down_blocks
    found = []
    for name, module in network.named_modules():
        part, _, rest = name.partition(".")
        if not isinstance(module, Attention) or part not in ("down_blocks", "mid_block", "up_blocks"):
            continue
        lowest = len(blocks) - 1
        index = int(rest.partition(".")[0]) if part != "mid_block" else 0
        depth = index if part == "down_blocks" else lowest - index
        height, width = (-(-side // 2**depth) for side in size)
        joint = module.added_kv_proj_dim is not None
        kind: Any = "joint" if joint else "cross" if module.is_cross_attention else "self"
        found.append(Layer(module, kind, (height, width)))
    return found


def read(tokenizer: Any, prompt: str | None) -> Tokens:
    """Reads a prompt as the pipeline's text encoder gets it: words by white space, tokens of CLIP or T5."""
    words = (prompt or "").split()
    known = tokenizer.get_added_vocab()
    ids = []
    for word in words:
        one = tokenizer(word if word in known else word.lower(), add_special_tokens=False).input_ids
        for token in tokenizer.convert_ids_to_tokens(one):  # a word of textual inversion may have several vectors
            while token in known and (further := f"{token}_{len(one)}") in known:
                one = [*one, known[further]]
        ids.append(tuple(one))
    marked = tokenizer("").input_ids
    first = int(len(marked) > 0 and marked[0] == tokenizer.bos_token_id)
    return Tokens(tuple(words), tuple(ids), first)


@dataclass(frozen=True, kw_only=True)
class Following:
    """An attention processor of diffusers whose rows B … 2B−1 attend as rows 0 … B−1 do."""

    kind: Literal["cross", "self", "joint"]
    cross: Tensor
    """The rows whose cross-attention follows, bool `[B]`."""
    own: Tensor
    """The rows whose self-attention follows, bool `[B]`."""
    words: WordMaps
    see: Callable[[Tensor], None] | None = None
    """A function that is shown the maps of the text, `[2, B, heads, Q, L]`."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, temb: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        if attention_mask is not None:
            raise NotImplementedError("edited attention takes no mask")
        flat = hidden_states.flatten(2).transpose(1, 2) if hidden_states.ndim == 4 else hidden_states
        query, key, value = projected(attn, flat, encoder_hidden_states)
        if self.kind == "self":
            attended = scaled_dot_product_attention(self._copied(query), self._copied(key), value, scale=attn.scale)
        else:
            attended = self._by_maps(attn, query, key, value)
        out = attn.to_out[1](attn.to_out[0](attended.transpose(1, 2).flatten(2)))
        if hidden_states.ndim == 4:
            out = out.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection or self.kind == "joint":
            out = out + hidden_states
        return out / attn.rescale_output_factor

    def _copied(self, heads: Tensor) -> Tensor:
        """Queries or keys `[R, heads, N, d]`, the targets' being the sources' where self-attention follows."""
        source, target, others = heads.tensor_split([len(self.own), 2 * len(self.own)])
        return torch.cat([source, torch.where(self.own[:, None, None, None], source, target), others])

    def _by_maps(self, attn: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows = 2 * len(self.cross)
        scores = attn.get_attention_scores(query[:rows].flatten(0, 1), key[:rows].flatten(0, 1))
        source, target = scores.unflatten(0, (rows, -1)).chunk(2)
        maps = torch.cat([source, self.edited(source, target)])
        if self.see is not None:
            self.see(maps[..., : self.words.known.shape[-1]].unflatten(0, (2, -1)))
        attended = maps @ value[:rows]
        if rows == len(query):
            return attended
        others = scaled_dot_product_attention(query[rows:], key[rows:], value[rows:], scale=attn.scale)
        return torch.cat([attended, others])

    def edited(self, source: Tensor, target: Tensor) -> Tensor:
        """Makes the target's maps of both, `[B, heads, Q, L (+ Q)]` each. Of joint ones each part follows in its own
        steps.
        """
        text = self.words.known.shape[-1]
        follows, copies = self.cross[:, None, None, None], self.own[:, None, None, None]
        words = torch.where(follows, self.words(source[..., :text], target[..., :text]), target[..., :text])
        return torch.cat([words, torch.where(copies, source[..., text:], target[..., text:])], -1)


def projected(attn: Any, hidden: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values `[R, heads, N, d]` of `hidden [R, Q, D]`, as diffusers' processors make them."""
    if context is not None and attn.norm_cross:
        context = attn.norm_encoder_hidden_states(context)
    if attn.group_norm is not None:
        hidden = attn.group_norm(hidden.transpose(1, 2)).transpose(1, 2)
    if attn.added_kv_proj_dim is None:
        keys, values = ([layer(hidden if context is None else context)] for layer in (attn.to_k, attn.to_v))
    else:
        keys, values = [attn.add_k_proj(context)], [attn.add_v_proj(context)]
        if not attn.only_cross_attention:
            keys, values = [*keys, attn.to_k(hidden)], [*values, attn.to_v(hidden)]
    q, k, v = attn.to_q(hidden), torch.cat(keys, 1), torch.cat(values, 1)
    q, k, v = (t.unflatten(2, (attn.heads, -1)).transpose(1, 2) for t in (q, k, v))
    return q, k, v


@contextmanager
def installed(processors: Mapping[Any, Following]) -> Iterator[None]:
    """Lets layers attend by other processors within, and afterwards by their own again, whatever happens."""
    before = {layer: layer.get_processor() for layer in processors}
    try:
        for layer, processor in processors.items():
            layer.set_processor(processor)
        yield
    finally:
        for layer, own in before.items():
            layer.set_processor(own)


def following(
    denoise: Denoiser,
    network: nn.Module,
    tokenizer: Any,
    rows: Sequence[RowCondition],
    edit: AttentionEdit,
    text: Tensor,
) -> Denoiser:
    """Makes the edited denoiser of `rows`, which are embedded as `text [R, L, D]`.

    Raises `UserError` for prompts that don't fit together.
    """
    count, length = len(edit.cross_until), text.shape[1]
    prompts = [read(tokenizer, row) for row in rows[: 2 * count] if isinstance(row, str | None)]
    if len(prompts) < 2 * count:
        raise TypeError(f"edited attention takes {2 * count} prompts of sources and targets, found {len(prompts)}")
    words = word_maps(prompts[:count], prompts[count:], edit, text)
    looked_at = torch.zeros(2, count, 1, 1, length).to(text)
    for prompt, places in zip(prompts, looked_at.flatten(0, 3), strict=True):
        places[[i for word in (edit.blend.words if edit.blend else ()) for i in prompt.places(word, length)]] = 1

    def see(size: tuple[int, int], maps: Tensor) -> None:
        assert edit.blend is not None
        edit.blend.add((maps * looked_at).sum(-1).mean(2).unflatten(-1, size).float())

    layers = cache(partial(layers_of, network))

    def edited(x: Tensor, sigma: Tensor) -> Tensor:
        grid = (x.shape[-2], x.shape[-1])
        cross, own = sigma[:count] > edit.cross_until, sigma[:count] > edit.self_until
        text_follows, image_follows = bool(cross.any()), bool(own.any())
        processors = {}
        for module, kind, size in layers(grid):
            coarse = is_coarse(size, grid)
            seen = edit.blend is not None and coarse and kind != "self"
            if seen or (text_follows and kind != "self") or (image_follows and coarse and kind != "cross"):
                processors[module] = Following(
                    kind=kind, cross=cross, own=own & coarse, words=words, see=partial(see, size) if seen else None
                )
        if edit.blend is not None and not any(processor.see for processor in processors.values()):
            raise UserError("prompt_to_prompt: blend: the model attends to text in fine layers only, at all details")
        with installed(processors):
            return denoise(x, sigma)

    return edited


def word_maps(sources: Sequence[Tokens], targets: Sequence[Tokens], edit: AttentionEdit, text: Tensor) -> WordMaps:
    """Makes the maps of words for B pairs of prompts, on the device and in the dtype of `text [R, L, D]`."""
    length = text.shape[1]
    try:
        both = [followed(edit.mode, s, t, length) for s, t in zip(sources, targets, strict=True)]
    except ValueError as error:
        raise UserError(f"prompt_to_prompt: {error}") from None
    factor = torch.ones(len(targets), length)
    for row, target in zip(factor, targets, strict=True):
        for word, by in edit.reweight.items():
            row[target.places(word, length)] *= by
    matrix, known = (torch.stack(part) for part in zip(*both, strict=True))
    return WordMaps(
        matrix=matrix[:, None].to(text),
        known=known[:, None, None].to(text.device),
        factor=factor[:, None, None].to(text),
    )
