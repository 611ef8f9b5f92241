"""A training's batch as a model sees it, and the way back: range, channels and size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.errors import UserError
from pipeline.hooks.items import check_range

LUMA = (19595, 38470, 7471)
"""Weights of red, green and blue in grey, out of 65536, as in Pillow."""


def seen(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images `[B, C, H, W]` as the model sees them: uint8 RGB `[B, 3, h, w]` of its `size` (height, width).

    Raises `UserError` unless they are uint8 in [0, 255] or floats in [0, 1].
    """
    if images.is_floating_point():
        check_range(images)
        images = (images.float() * 255).round().to(torch.uint8)
    elif images.dtype != torch.uint8:
        raise UserError(f"images hold {images.dtype}; uint8 [0, 255] or floats [0, 1] are expected")
    return scaled(images.expand(-1, 3, -1, -1), size)


def restored(near: Tensor, like: Tensor) -> Tensor:
    """Brings uint8 RGB neighbours `[B, 3, h, w]` to the size, channels and type of `like [B, C, H, W]`."""
    near = scaled(near, (like.shape[2], like.shape[3]))
    if like.shape[1] == 1:
        weighted = near.int() * torch.tensor(LUMA, device=near.device)[:, None, None].int()
        near = ((weighted.sum(1, keepdim=True) + 0x8000) >> 16).to(torch.uint8)
    return (near.float() / 255).to(like.dtype) if like.is_floating_point() else near


def scaled(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretches uint8 images `[B, C, H, W]` to `size` (height, width), bicubic with antialiasing."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    large = interpolate(images.float(), size=tuple(size), mode="bicubic", antialias=True)
    return large.round().clamp(0, 255).to(torch.uint8)


def rewrapped(output: Tensor, like: Tensor) -> Tensor:
    """`output` as the same class of tensor as `like`, which may be one of torchvision's tv_tensors."""
    if type(like) is Tensor:
        return output
    from torchvision.tv_tensors import wrap

    return wrap(output, like=like)
