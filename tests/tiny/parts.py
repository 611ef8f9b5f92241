"""What the pipelines are made of: tokenizers, text encoders, VAEs, and constants of published checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

SIDE = 16  # of latents, and of low-resolution pixels
CONTEXT = 77  # tokens that every CLIP text encoder reads
_VOCABULARY = """
    a an the photo picture of cat dog horse house person smiling red blue green car on grass in snow painting drawing
    street mountains digit zero one two three four five six seven eight nine with and not riding bicycle
"""
WORDS = tuple(_VOCABULARY.split())

SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD_DDIM = {**SD_BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
LINEAR_BETAS = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
# Cross attention at both resolutions, 16 and 8, with four heads each.
UNET: dict[str, Any] = {
    "sample_size": SIDE,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 4,  # the number of heads: diffusers' old misnomer
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _byte_symbols() -> list[str]:
    """CLIP's 256 printable stand-ins for bytes, in its order: `!` is token 0."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def _merge(pieces: list[str], merges: Sequence[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding: always the earliest listed merge that applies."""
    while found := [pair for pair in merges if pair in pairwise(pieces)]:
        at = next(i for i, pair in enumerate(pairwise(pieces)) if pair == found[0])
        pieces = [*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2 :]]
    return pieces


def clip_tokenizer(*, pad_token: str = "<|endoftext|>") -> transformers.CLIPTokenizer:
    """CLIP's lower-casing byte-level tokenizer: each of `WORDS` is one token, all else falls into its bytes."""
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = _merge([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:  # new merges rank last, so no earlier word changes
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    symbols = _byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *(left + right for left, right in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]  # last, as in CLIP: the pooled token is the largest id
    return transformers.CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        pad_token=pad_token,
        model_max_length=CONTEXT,
    )


def t5_tokenizer() -> transformers.T5Tokenizer:
    """T5's unigram tokenizer: `WORDS` whole, other text by printable ASCII character, the rest unknown."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [("▁" + word, -3.0) for word in WORDS] + [(chr(i), -10.0) for i in range(33, 127)]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=CONTEXT)


def clip_text_settings(tokenizer: transformers.CLIPTokenizer, *, width: int, projection: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "projection_dim": projection,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def clip_text(tokenizer: transformers.CLIPTokenizer) -> transformers.CLIPTextModel:
    """(batch, 77) tokens → (batch, 77, 32)."""
    settings = clip_text_settings(tokenizer, width=32, projection=32)
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings))


def clip_text_pooled(
    tokenizer: transformers.CLIPTokenizer, *, width: int, projection: int
) -> transformers.CLIPTextModelWithProjection:
    settings = clip_text_settings(tokenizer, width=width, projection=projection)
    return transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**settings))


def t5_text(tokenizer: transformers.T5Tokenizer, *, width: int) -> transformers.T5EncoderModel:
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return transformers.T5EncoderModel(config)


def vae(*, scale: int, channels: int = 4, scaling: float = 0.18215, shift: float | None = None) -> Any:
    """`scale` is a power of two; the 16-channel kind has no quantisation convolutions, as in SD 3 and Flux."""
    levels = scale.bit_length()
    if scale != 2 ** (levels - 1):
        raise ValueError(f"vae_scale {scale} is not a power of two")
    return diffusers.AutoencoderKL(
        sample_size=SIDE * scale,
        latent_channels=channels,
        block_out_channels=(16,) * levels,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        scaling_factor=scaling,
        shift_factor=shift,
        use_quant_conv=shift is None,
        use_post_quant_conv=shift is None,
    )


def save(pipe: Any, folder: Path) -> Path:
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder
