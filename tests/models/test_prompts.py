"""How much of a prompt is cut off, by the tokenizers of a pipeline."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.models.prompts import cut_by


class CLIPTokenizer:
    """One token for each word, and one at the end."""

    model_max_length = 5

    def __call__(self, text: str, **options: Any) -> SimpleNamespace:
        assert options["truncation"] is False
        return SimpleNamespace(input_ids=[*text.split(), "<end>"])


class T5Tokenizer(CLIPTokenizer):
    model_max_length = 1 << 60


def without_words(prompt: str) -> None: ...
def with_words(prompt: str, max_sequence_length: int = 8) -> None: ...


@pytest.mark.parametrize(
    ("tokenizers", "encode", "words", "limit"),
    [
        ([CLIPTokenizer], without_words, None, 5),
        ([CLIPTokenizer, CLIPTokenizer], without_words, None, 5),
        ([CLIPTokenizer, CLIPTokenizer, T5Tokenizer], with_words, None, 8),
        ([CLIPTokenizer, T5Tokenizer], with_words, 12, 12),
        ([T5Tokenizer], without_words, None, 77),
    ],
    ids=["clip", "sdxl", "sd3", "flux", "deepfloyd"],
)
def test_the_encoder_that_reads_most_says_what_is_cut(
    tokenizers: Any, encode: Any, words: int | None, limit: int
) -> None:
    names = ("tokenizer", "tokenizer_2", "tokenizer_3")
    pipe = SimpleNamespace(encode_prompt=encode, **dict(zip(names, (kind() for kind in tokenizers), strict=False)))
    for count in (1, limit - 1, limit, limit + 6):
        assert cut_by(pipe, words, " ".join(["word"] * count)) == max(0, count + 1 - limit)
