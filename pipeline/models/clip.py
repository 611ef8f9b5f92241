"""CLIP (2103.00020) as a judge: images and texts as unit vectors of one space, whose cosines say how well they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from pipeline.errors import UserError
from pipeline.models.config import ModelConfig
from pipeline.models.folder import find_model, hash_model, read_json

BICUBIC = 3
"""The number of bicubic resampling, as Pillow counts; the only one that CLIP was trained with."""

TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""The files that a tokenizer comes in, either way."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What the folder's image processor does to an image before the network sees it."""

    shortest_edge: int
    crop: int
    """The side of the square in the centre, in pixels, no larger than `shortest_edge`."""
    mean: Tensor
    """The mean of each channel, `[3]`, of values in [0, 1]."""
    std: Tensor

    def __call__(self, pixels: Tensor) -> Tensor:
        """`[B, 3, H, W]` in [-1, 1] → `[B, 3, crop, crop]`, normalised; on the device of `pixels`."""
        height, width = pixels.shape[-2:]
        edge, short = self.shortest_edge, min(height, width)
        size = (int(edge * height / short), int(edge * width / short))
        small = (pixels.float() + 1).div(2).clamp(0, 1)
        for step in ((height, size[1]), size):  # bicubic overshoots; 8-bit images cannot, after either direction
            small = interpolate(small, step, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        top, left = (size[0] - self.crop) // 2, (size[1] - self.crop) // 2
        centre = small[..., top : top + self.crop, left : left + self.crop]
        mean, std = (values.to(pixels.device)[:, None, None] for values in (self.mean, self.std))
        return (centre - mean) / std


@dataclass(frozen=True, kw_only=True)
class ClipJudge:
    """A loaded CLIP that judges images and texts. It is not for training: no gradients pass."""

    model: Any
    """The network, `transformers.CLIPModel` in float32."""
    tokenizer: Any
    prepare: Preparation
    hash: str
    """The sha256 of weights and configuration."""

    @torch.no_grad()
    def images(self, pixels: Tensor) -> Tensor:
        """Makes unit vectors `[B, D]`, on the judge's device, of `[B, 3, H, W]` in [-1, 1] on any device."""
        seen = self.model.vision_model(pixel_values=self.prepare(pixels.to(self.model.device)))
        return normalize(self.model.visual_projection(seen.pooler_output), dim=-1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Makes unit vectors `[B, D]`; what goes beyond the encoder's limit (77 tokens, as a rule) is cut off."""
        limit = self.model.config.text_config.max_position_embeddings
        # always padded to the limit: a text's vector must not depend on its neighbours in the batch
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
        ).to(self.model.device)
        read = self.model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return normalize(self.model.text_projection(read.pooler_output), dim=-1)


def load_clip(path: str, revision: str | None, device: str) -> ClipJudge:
    """Loads a transformers `CLIPModel` with tokenizer and image processor from a folder or hub id, safetensors only.

    Raises `UserError` where the folder holds no complete CLIP.
    """
    import transformers

    library: Any = transformers  # typed in part, and not as it is
    folder = find_model(ModelConfig(path=path, revision=revision))
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "clip":  # transformers would go on with random weights
        raise UserError(f"{folder / 'config.json'}: model_type is {kind!r}; a 'clip' with both encoders is expected")
    if not any(all((folder / file).is_file() for file in files) for files in TOKENIZERS):  # nor would it stop here
        raise UserError(f"{folder}: {' or '.join(' and '.join(files) for files in TOKENIZERS)} is missing")
    try:
        model, found = library.CLIPModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        tokenizer = library.CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
        images = library.CLIPImageProcessor.from_pretrained(folder, local_files_only=True).to_dict()
    except Exception as error:  # damaged weights and senseless options break the loaders anywhere
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder}: no CLIP can be loaded from it ({why})") from None
    if len(tokenizer) > (known := model.config.text_config.vocab_size):
        raise UserError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, the text encoder {known}")
    if found["missing_keys"]:
        raise UserError(f"{folder}: the weights lack {len(found['missing_keys'])} tensors that config.json asks for")
    prepare = _preparation(images, model.config.vision_config.image_size, folder)
    return ClipJudge(model=model.eval().to(device), tokenizer=tokenizer, prepare=prepare, hash=hash_model(folder))


def _preparation(options: dict[str, Any], side: int, folder: Path) -> Preparation:
    """From an image processor's options; `side` is what the network takes."""
    edge = options["size"].get("shortest_edge")
    expected: dict[str, Any] = {"do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True}
    expected |= {"resample": BICUBIC, "rescale_factor": 1 / 255, "crop_size": {"height": side, "width": side}}
    for name, value in expected.items():
        if options.get(name) != value:
            raise UserError(f"{folder}: {name} of the image processor is {options.get(name)}; {value} is expected")
    if edge is None or edge < side:
        raise UserError(
            f"{folder}: size of the image processor is {options['size']}; shortest_edge ≥ {side} is expected"
        )
    mean, std = torch.tensor(options["image_mean"]), torch.tensor(options["image_std"])
    return Preparation(shortest_edge=edge, crop=side, mean=mean, std=std)
