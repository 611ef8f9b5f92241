"""Prompt-to-Prompt (2208.01626): an edited image whose attention follows that of its source. What follows what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from string import punctuation
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from pipeline.diffusion.denoisers import Denoiser, Joint
from pipeline.diffusion.model import Model, Outline
from pipeline.diffusion.solvers import Noise

Mode = Literal["replace", "refine"]
FINE = 16**2
"""How many tokens a layer may have for its maps to say where things are, and not how they look."""


class Tokens(NamedTuple):
    """A prompt as a network reads it: `first` marks, the tokens of each word, then an end mark and padding."""

    words: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    first: int

    def spans(self, length: int) -> list[range]:
        """Where each word stands among `length` places; what comes after the last but one is cut off."""
        bounds = accumulate(map(len, self.ids), initial=self.first)
        return [range(min(a, length - 1), min(b, length - 1)) for a, b in pairwise(bounds)]

    def end(self, length: int) -> int:
        """The place of the end mark."""
        return min(self.first + sum(map(len, self.ids)), length - 1)

    def places(self, word: str, length: int) -> list[int]:
        """All places of the prompt where `word` stands."""
        spans = zip(self.words, self.spans(length), strict=True)
        return [place for other, span in spans if same_word(word, other) for place in span]


def same_word(a: str, b: str) -> bool:
    """Whether two words are the same, whatever their case and the punctuation around them."""
    return a.strip(punctuation).lower() == b.strip(punctuation).lower()


def require_same_words(source: Sequence[str], target: Sequence[str]) -> None:
    """Raises `ValueError` where a word of one prompt would have no partner in the other."""
    if len(source) != len(target):
        raise ValueError(
            f"mode replace needs as many words in both prompts, and {' '.join(source)!r} has {len(source)}, "
            f"{' '.join(target)!r} has {len(target)}; mode refine takes any"
        )


def align(source: Sequence[int], target: Sequence[int]) -> list[int]:
    """For each target token the source token that it is, −1 for a new one; in order.

    Needleman–Wunsch with gap 0, match 1, mismatch −1: two gaps are better than a mismatch, so only equals meet.
    """
    score = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, a in enumerate(source, 1):
        for j, b in enumerate(target, 1):
            score[i][j] = max(score[i - 1][j], score[i][j - 1], score[i - 1][j - 1] + (1 if a == b else -1))
    partner, i, j = [-1] * len(target), len(source), len(target)
    while i and j:
        if score[i][j] == score[i][j - 1]:
            j -= 1
        elif score[i][j] == score[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            partner[j] = i
    return partner


def followed(mode: Mode, source: Tokens, target: Tokens, length: int) -> tuple[Tensor, Tensor]:
    """M `[length, length]`, bool `[length]`: the target's maps are `source @ M` where True; elsewhere its own.

    replace: word by word; a word of n tokens gives each of its partner's m tokens 1/m of its maps together, or one to
    one where n = m. So M moves attention and loses none: its rows sum to 1 (but where a prompt is cut off).
    refine: token by token, of those that `align` finds in both. In both modes mark follows mark, and padding the
    padding in the same place. Raises `ValueError` for replace with unequal numbers of words.
    """
    matrix = torch.zeros(length, length)
    marks = torch.arange(min(source.first, target.first))
    matrix[marks, marks] = 1
    if mode == "replace":
        require_same_words(source.words, target.words)
        for old, new in zip(source.spans(length), target.spans(length), strict=True):
            if len(old) == len(new):
                matrix[[*old], [*new]] = 1
            elif old and new:
                matrix[old.start : old.stop, new.start : new.stop] = 1 / len(new)
    else:
        old_ids, new_ids = ([i for word in prompt.ids for i in word] for prompt in (source, target))
        pairs = align(old_ids[: source.end(length) - source.first], new_ids[: target.end(length) - target.first])
        for j, i in enumerate(pairs):
            if i >= 0:
                matrix[source.first + i, target.first + j] = 1
    old_end, new_end = source.end(length), target.end(length)
    matrix[old_end, new_end] = 1
    padding = torch.arange(max(old_end, new_end) + 1, length)
    matrix[padding, padding] = 1
    if mode == "refine":
        return matrix, matrix.any(0)
    matrix[old_end + 1 : new_end + 1, new_end] = 1  # padding where the target still has words
    return matrix, torch.ones(length, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class WordMaps:
    """How the cross-attention of B targets follows that of their sources, over L tokens of text."""

    matrix: Tensor
    """Which tokens of the source each token of the target follows, `[B, 1, L, L]` (see `followed`)."""
    known: Tensor
    """Which tokens of the target follow the source at all, bool `[B, 1, 1, L]`."""
    factor: Tensor
    """By what the attention to each token of the target is multiplied, `[B, 1, 1, L]`."""

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """Maps `[B, heads, Q, L]` of both → the target's."""
        return self.factor * torch.where(self.known, source @ self.matrix, target)


class Blend:
    """Keeps the target as its source outside of where some words are looked at: LocalBlend (2208.01626).

    It collects maps over all layers, heads and steps of one walk. A row whose prompts have none of the words is free.
    """

    def __init__(self, words: Sequence[str], threshold: float = 0.3) -> None:
        self.words, self.threshold = tuple(words), threshold
        self._sums: dict[tuple[int, ...], Tensor] = {}

    def add(self, maps: Tensor) -> None:
        """Collects how much source and target attend to their words, `[2, B, h, w]`."""
        size = tuple(maps.shape[-2:])
        self._sums[size] = self._sums[size] + maps if size in self._sums else maps

    def mask(self, size: tuple[int, int]) -> Tensor:
        """Where either of both attends to a word, by `threshold` of its own most: bool `[B, 1, *size]`."""
        finest = max(self._sums)
        maps = sum(interpolate(s, finest, mode="bilinear", align_corners=False) for s in self._sums.values())
        assert isinstance(maps, Tensor)
        near = interpolate(max_pool2d(maps, 3, stride=1, padding=1), size)
        most = near.amax((-2, -1), keepdim=True)
        inside = (near > self.threshold * most).any(0)
        return (inside | (most == 0).all(0))[:, None]

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """A constraint on source and target `[B, 2, C, H, W]`."""
        source, target = x.unbind(1)
        return torch.stack([source, torch.where(self.mask((x.shape[-2], x.shape[-1])), target, source)], 1)


@dataclass(frozen=True, kw_only=True)
class AttentionEdit:
    """How attention is edited in a model that is asked for K·B rows: the first B are sources, the next B their targets;
    all others are left alone.
    """

    mode: Mode = "refine"
    """Which words follow which, see `followed`."""
    cross_until: Tensor
    """The level σ `[B]` above which cross-attention follows."""
    self_until: Tensor
    """The level σ `[B]` above which self-attention follows, in coarse layers (`is_coarse`)."""
    reweight: Mapping[str, float] = field(default_factory=dict)
    """By what the maps of a word of the target are multiplied, where cross-attention follows."""
    blend: Blend | None = None


def is_coarse(layer: tuple[int, int], z: tuple[int, int]) -> bool:
    """Whether a layer has at most 16² tokens, or a quarter of z's sides, where that is more (16² of 64², the
    paper's).
    """
    return layer[0] * layer[1] <= max(FINE, -(-z[0] // 4) * -(-z[1] // 4))


def until(sigmas: Tensor, share: float | Tensor) -> Tensor:
    """The level σ `[B]` that ends the first `share` of the steps of `sigmas [B, n+1]`; `share` in [0, 1] is a number or
    `[B]`.

    A step follows if it begins above that level: none at share 0, all at share 1.
    """
    steps = sigmas.shape[1] - 1
    passed = (torch.as_tensor(share, dtype=torch.float64) * steps + 1e-6).long().expand(len(sigmas))
    return sigmas.gather(1, passed.to(sigmas.device)[:, None])[:, 0]


@runtime_checkable
class HasAttention(Protocol):
    """What is known without its weights of a model whose attention may be edited."""

    @property
    def attention(self) -> bool:
        """Whether its attention can be edited: it then is an `EditsAttention`."""
        ...


@runtime_checkable
class EditsAttention(Protocol):
    """A model whose attention can be edited."""

    def edited(self, edit: AttentionEdit) -> Model:
        """The model whose denoisers follow `edit`."""
        ...


def require_attention(model: Outline) -> None:
    """Raises `ValueError`, one sentence, for a model whose attention can't be edited."""
    if not (isinstance(model, HasAttention) and model.attention):
        raise ValueError(
            "the model has no attention to the words of a prompt that could be edited; UNets have that: "
            "Stable Diffusion 1 and 2, SDXL, DeepFloyd IF"
        )


def alike(noise: Noise) -> Noise:
    """Draws the same noise for source and target, `[B, 2, …]`."""
    return lambda like: noise(like[:, 0])[:, None].expand_as(like)


def side_by_side(estimate: Joint) -> Denoiser:
    """Walks source and target, `[B, 2, …]`, together; `estimate` has two conditions."""
    return lambda x, sigma: torch.stack(list(estimate(x.unbind(1), sigma)), 1)
