"""Pushing images until no recogniser takes their faces for those of their people: pure functions of tensors.

An adversarial perturbation would do that, too, and change no face. So each face is seen in several views, moved, scaled
and blurred, only smooth gradients count, and what the model makes of a pushed estimate in its next steps stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from pipeline.anonymity.faces.places import crop
from pipeline.diffusion.denoisers import per_row


class View(NamedTuple):
    """How a crop is changed before a recogniser sees it."""

    scale: float = 1.0
    right: float = 0.0
    """Shift, as a share of half the crop's side."""
    down: float = 0.0
    turn: float = 0.0
    """The angle that the crop is turned by, in radians."""
    blur: int = 1
    """Side of the box of pixels of the image that each pixel becomes the mean of; odd."""


STRAIGHT = View()
"""The crop as the recogniser itself would cut it."""
VIEWS = (
    View(1.08, 0.05, -0.04, 0.06, 3), View(0.93, -0.05, 0.05, -0.06), View(1.05, -0.04, -0.05, 0.0, 3),
    View(1.0, 0.05, 0.05, 0.05), View(1.12, 0.0, 0.03, -0.04, 3),
)  # fmt: skip
"""What comes beside it, one view at a time and in turn; the same for all images, so that nothing needs to be drawn."""
SMOOTH = 0.02
"""Deviation of the Gaussian that gradients are smoothed by, as a share of the image's shorter side."""


@dataclass(frozen=True, kw_only=True)
class Witness:
    """A recogniser in front of F faces, and whom it must not see in them."""

    features: Callable[[Tensor], Tensor]
    """Embeds `[F, 3, side, side]`, RGB in [-1, 1], as `[F, D]`; differentiable."""
    side: int
    place: Tensor
    """`[F, 2, 3]`: where it looks (`pipeline.anonymity.faces.places`), on the CPU."""
    known: Tensor
    """`[F, K, D]`: unit vectors of all known faces of each face's person; those with fewer repeat one."""
    goal: float
    """The cosine distance from all of them that is far enough."""

    def lacking(self, images: Tensor, view: View, device: torch.device) -> Tensor:
        """How much of the way is missing for each of `images [F, 3, H, W]`, in one view: `[F]`, 0 where it is done."""
        around = view.blur // 2
        blurred = avg_pool2d(pad(images, (around,) * 4, "replicate"), view.blur, 1) if around else images
        found = self.features(crop(blurred, changed(self.place, view), self.side).to(device)).cpu()
        unit = found / found.norm(dim=1, keepdim=True).clamp(min=1e-12)
        distance = 1 - (self.known @ unit[:, :, None])[:, :, 0].amax(1)
        return (1 - distance / self.goal).clamp(min=0)


def changed(place: Tensor, view: View) -> Tensor:
    """The places `[F, 2, 3]` of the crops that a view sees."""
    cos, sin = view.scale * math.cos(view.turn), view.scale * math.sin(view.turn)
    return place @ place.new_tensor([[cos, -sin, view.right], [sin, cos, view.down], [0, 0, 1]])


def pushed(
    images: Tensor, owner: Tensor, reach: Tensor, witnesses: Sequence[Witness], *, scale: float, pushes: int, turn: int
) -> Tensor:
    """The images `[B, 3, H, W]` in [-1, 1] after some pushes away from the people in their F faces.

    `owner [F]` is the image of each face. Each push goes down the gradient of what is lacking, meant over witnesses and
    two views, times `reach [B, 1, H, W]`; `scale` is its root mean square where all of the way is missing, and it
    shrinks with what is. An image with nothing lacking is not touched. `turn` says which views are next. May be called
    in inference mode.
    """
    device, images = images.device, images.cpu()  # on CUDA the gradients of crops add up in any order
    for push in range(pushes):
        views = (STRAIGHT, VIEWS[(turn * pushes + push) % len(VIEWS)])
        with torch.inference_mode(False), torch.enable_grad():
            point = images.detach().clone().requires_grad_()
            faces = point.index_select(0, owner.clone())  # autograd keeps it, and no tensor of inference mode
            found = [witness.lacking(faces, view, device) for witness in witnesses for view in views]
            lacking = torch.stack(found).mean(0)
            (slope,) = torch.autograd.grad(lacking.sum(), point)
        lack = torch.zeros(len(images)).index_add(0, owner, lacking.detach())
        slope = smooth(slope * reach) * reach
        size = slope.square().flatten(1).mean(1).sqrt().clamp(min=1e-12)
        there = (images - per_row(scale * lack.clamp(max=1).sqrt() / size, slope) * slope).clamp(-1, 1)
        images = torch.where(slope == 0, images, there)  # estimates may go beyond, and stay there
    return images.to(device)


def smooth(x: Tensor) -> Tensor:
    """Blurs `[B, C, H, W]` by a Gaussian of `SMOOTH`, with zeros beyond the edge."""
    deviation = SMOOTH * min(x.shape[2:])
    reach = max(1, math.ceil(3 * deviation))
    bell = torch.exp(-torch.arange(-reach, reach + 1, dtype=x.dtype).square() / (2 * deviation**2))
    bell = (bell / bell.sum()).repeat(x.shape[1], 1)
    x = conv2d(x, bell[:, None, None, :], padding=(0, reach), groups=x.shape[1])
    return conv2d(x, bell[:, None, :, None], padding=(reach, 0), groups=x.shape[1])
