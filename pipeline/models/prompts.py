"""From rows of conditions to what a network takes: each distinct prompt is embedded once, and remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from pipeline.diffusion.model import Between, RowCondition, Rows

Embedding = Mapping[str, Tensor]
"""What a network takes for one prompt, by the name of the argument: `[L, D]` hidden states, `[D]` pooled …"""

T5_WORDS = 77
"""How many tokens DeepFloyd asks a T5 for; its pipeline cannot be told another number."""
BUDGET = 1 << 28
"""How many bytes of embeddings are kept: captions of a long stream would fill the memory."""


class Prompts:
    """Embeds rows of prompts for a network.

    Prompts are embedded one at a time: in a batch, an embedding's last bits would depend on which others were new.
    """

    def __init__(
        self, embed: Callable[[str | None], Embedding], budget: int = BUDGET, pipe: Any = None, words: int | None = None
    ) -> None:
        """`embed(prompt)`, None for the unconditional estimate, on the network's device; `pipe` has the tokenizers, and
        `words` is the most tokens that a T5 is asked for.
        """
        self._embed, self._budget = embed, budget
        self.cut = partial(cut_by, pipe, words)
        self._known: OrderedDict[str | None, Embedding] = OrderedDict()

    def __call__(self, rows: Rows) -> Embedding:
        """`[B, …]` of each tensor; `[1, …]` for rows None. Raises `TypeError` for a class."""
        if rows is None:
            rows = [None]
        if isinstance(rows, Tensor) or any(isinstance(row, int) for row in rows):
            raise TypeError("the model takes prompts, not classes")
        distinct = list(dict.fromkeys(rows))
        each = [self._row(row) for row in distinct]
        place = [distinct.index(row) for row in rows]
        return {name: torch.stack([one[name] for one in each])[place] for name in each[0]}

    def _row(self, row: RowCondition) -> Embedding:
        if isinstance(row, Between):
            first, second = self._one(row.first), self._one(row.second)
            return {name: between(first[name], second[name], row.share) for name in first}
        assert not isinstance(row, int)
        return self._one(row)

    def _one(self, prompt: str | None) -> Embedding:
        if prompt not in self._known:
            self._known[prompt] = self._embed(prompt)
            used = sum(map(size_of, self._known.values()))
            while used > self._budget and len(self._known) > 1:
                used -= size_of(self._known.popitem(last=False)[1])
        self._known.move_to_end(prompt)
        return self._known[prompt]


def cut_by(pipe: Any, words: int | None, prompt: str) -> int:
    """How many tokens at the end of a prompt no text encoder of a diffusers pipeline reads.

    A T5 reads `words` tokens, by default as many as the pipeline's `encode_prompt` asks for where it is told nothing;
    others read what their tokenizer knows as the longest.
    """
    asked = signature(pipe.encode_prompt).parameters.get("max_sequence_length")
    lost = list[int]()
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        if (tokenizer := getattr(pipe, name, None)) is None:
            continue
        limit = tokenizer.model_max_length
        if type(tokenizer).__name__.startswith("T5"):
            limit = words or (asked.default if asked else T5_WORDS)
        text = pipe.maybe_convert_prompt(prompt, tokenizer) if hasattr(pipe, "maybe_convert_prompt") else prompt
        lost.append(max(0, len(tokenizer(text, truncation=False, verbose=False).input_ids) - limit))
    return min(lost, default=0)


def between(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The point between two embeddings on the straight line; of masks, what either lets through."""
    return torch.lerp(a, b, share) if a.is_floating_point() else torch.maximum(a, b)


def size_of(embedding: Embedding) -> int:
    """How many bytes an embedding takes."""
    return sum(tensor.nbytes for tensor in embedding.values())
