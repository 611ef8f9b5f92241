"""Where in an image each recogniser looks, as a map that gradients pass: known boxes and eyes, no detector.

A place is an affine map `[F, 2, 3]` from a crop, whose corners are at ±1, to pixels (x, y) of the image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from pipeline.anonymity.faces.detect import RAISED, SIDES

Place = Callable[[Tensor, Tensor], Tensor]
"""The places of F faces, from their boxes `[F, 4]` (left, top, width, height) and eyes `[F, 2, 2]`, as in a
`FaceTable`."""
EYES = ((0.6685425, 0.3141556), (0.3182200, 0.3142659))
"""(x, y) of the person's left and right eye in dlib's chip with a margin of a quarter, as shares of its side: the means
of the corners in dlib's `get_face_chip_details`."""


def boxed(box: Tensor, eyes: Tensor) -> Tensor:
    """The box, turned about its centre until the eyes are level, as deepface cuts faces; without eyes, not turned."""
    left, top, wide, high = box.unbind(1)
    x, y = left + wide / 2 - 0.5, top + high / 2 - 0.5
    line = torch.nan_to_num(eyes[:, 0] - eyes[:, 1], nan=0.0)
    angle = torch.atan2(line[:, 1], line[:, 0])
    cos, sin = angle.cos(), angle.sin()
    return _map(cos * wide / 2, -sin * high / 2, x, sin * wide / 2, cos * high / 2, y)


def squared(box: Tensor, eyes: Tensor) -> Tensor:
    """The square around the box that `faceres` sees (`square_around`)."""
    left, top, wide, high = box.unbind(1)
    half, none = SIDES * wide / 2, torch.zeros_like(wide)
    return _map(half, none, left + wide / 2 - 0.5, none, half, top + (0.5 - RAISED) * high - 0.5)


def chipped(box: Tensor, eyes: Tensor) -> Tensor:
    """The similarity that brings both eyes to where dlib's chips have them (`EYES`)."""
    (left_x, left_y), (right_x, right_y) = ((2 * x - 1, 2 * y - 1) for x, y in EYES)
    dx, dy = left_x - right_x, left_y - right_y
    to_x, to_y = (eyes[:, 0] - eyes[:, 1]).unbind(1)
    real, imaginary = (to_x * dx + to_y * dy) / (dx**2 + dy**2), (to_y * dx - to_x * dy) / (dx**2 + dy**2)
    x, y = eyes[:, 0].unbind(1)
    return _map(
        real, -imaginary, x - real * left_x + imaginary * left_y,
        imaginary, real, y - imaginary * left_x - real * left_y,
    )  # fmt: skip


def _map(*entries: Tensor) -> Tensor:
    return torch.stack(entries, 1).reshape(-1, 2, 3)


PLACES: dict[str, Place] = {"Dlib": boxed, "dlib-chip": chipped, "small": boxed, "faceres": squared}
"""The recognisers that gradients pass, and where they look."""


def crop(images: Tensor, place: Tensor, side: int) -> Tensor:
    """Cuts faces out of `images [F, C, H, W]`, one of each, at `place [F, 2, 3]`: `[F, C, side, side]`, bicubic.

    Beyond its edge an image goes on as at its edge.
    """
    height, width = images.shape[2:]
    scale = place.new_tensor([[2 / width], [2 / height]])
    shift = place.new_tensor([1 / width - 1, 1 / height - 1])
    theta = torch.cat([place[..., :2] * scale, (place[..., 2] * scale[:, 0] + shift)[..., None]], 2)
    grid = affine_grid(theta, [len(images), images.shape[1], side, side], align_corners=False)
    return grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
