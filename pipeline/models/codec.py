"""Linear patch codecs: images ↔ the smaller grid that a pixel model really works on. Stored in the model's folder.

A patch codec makes CPU training practical (as in Patched Diffusion, 2207.04316). Space-to-depth loses nothing; the
linear patch latent keeps the strongest principal components of all patches, each at unit variance, and decodes by
the exact transpose.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from pipeline.errors import UserError
from pipeline.models.folder import read_json
from pipeline.tensors import write_tensors

FOLDER, CONFIG, TENSORS = "codec", "config.json", "codec.safetensors"
Kind = Literal["none", "space_to_depth", "linear_patch"]


class PatchCodec(Protocol):
    """A linear way between images and the grid that a network works on."""

    @property
    def kind(self) -> Kind:
        """The name under which the codec is recorded."""
        ...

    @property
    def patch(self) -> int:
        """The side of a patch, in pixels."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """Makes the grid `[B, K, H/patch, W/patch]` of pixels `[B, C, H, W]` in [-1, 1]."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Makes pixels `[B, C, H, W]`, about [-1, 1], of a grid."""
        ...

    def to(self, device: torch.device | str) -> PatchCodec:
        """The same codec on `device`."""
        ...

    def channels(self, grid_channels: int) -> int:
        """How many channels the pixels have, given those of the grid."""
        ...


@dataclass(frozen=True, kw_only=True)
class SpaceToDepth:
    """Moves each patch into channels; patch 1 is the identity."""

    patch: int = 1

    @property
    def kind(self) -> Kind:
        return "none" if self.patch == 1 else "space_to_depth"

    def encode(self, pixels: Tensor) -> Tensor:
        return pixel_unshuffle(pixels, self.patch)

    def decode(self, z: Tensor) -> Tensor:
        return pixel_shuffle(z, self.patch)

    def to(self, device: torch.device | str) -> PatchCodec:
        return self

    def channels(self, grid_channels: int) -> int:
        return grid_channels // self.patch**2


@dataclass(frozen=True, kw_only=True)
class LinearPatch:
    """Projects each patch (as a vector of C·patch² values) on K orthonormal directions."""

    patch: int
    mean: Tensor
    """The mean of all patches, `[C·patch²]`."""
    components: Tensor
    """The directions, `[K, C·patch²]`: orthonormal rows."""
    std: Tensor
    """What the share of each direction is divided by, `[K]`."""
    kind: Kind = "linear_patch"

    def encode(self, pixels: Tensor) -> Tensor:
        centred = pixel_unshuffle(pixels, self.patch) - self.mean[:, None, None]
        return torch.einsum("kc,bchw->bkhw", self.components / self.std[:, None], centred)

    def decode(self, z: Tensor) -> Tensor:
        vectors = torch.einsum("kc,bkhw->bchw", self.components * self.std[:, None], z)
        return pixel_shuffle(vectors + self.mean[:, None, None], self.patch)

    def to(self, device: torch.device | str) -> PatchCodec:
        mean, components, std = self.mean.to(device), self.components.to(device), self.std.to(device)
        return LinearPatch(patch=self.patch, mean=mean, components=components, std=std)

    def channels(self, grid_channels: int) -> int:
        return len(self.mean) // self.patch**2


def fit_linear_patch(pixels: Tensor, *, patch: int, components: int) -> LinearPatch:
    """Finds the principal components of all patches of `pixels [N, C, H, W]`; small deviations are floored at 5 % of
    the largest.

    Each direction points where its largest entry is positive: the same images give the same codec everywhere.
    """
    vectors = pixel_unshuffle(pixels.double(), patch).movedim(1, -1).flatten(0, -2)
    if not 1 <= components <= vectors.shape[1]:
        raise UserError(f"codec.components is {components}: a patch has 1 to {vectors.shape[1]} of them")
    variances, directions = torch.linalg.eigh(torch.cov(vectors.T, correction=0))
    strongest = variances.argsort(descending=True)[:components]
    std = variances[strongest].clamp(min=0).sqrt()
    if not std[0] > 1e-6:
        raise UserError("data: all patches are alike, codec linear_patch has nothing to go by")
    rows = directions[:, strongest].T
    rows = rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    return LinearPatch(
        patch=patch,
        mean=vectors.mean(0).float(),
        components=rows.float().contiguous(),
        std=std.clamp(min=0.05 * std[0].item()).float(),
    )


def save_codec(codec: PatchCodec, model_folder: Path) -> None:
    """Records the codec in a model folder."""
    folder = model_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps({"kind": codec.kind, "patch": codec.patch}, indent=2) + "\n")
    if isinstance(codec, LinearPatch):
        tensors = {"mean": codec.mean, "components": codec.components, "std": codec.std}
        write_tensors({name: t.cpu().contiguous() for name, t in tensors.items()}, folder / TENSORS)


def load_codec(model_folder: Path) -> PatchCodec:
    """Reads the codec recorded in a model folder; a folder without one works on pixels."""
    folder = model_folder / FOLDER
    if not folder.is_dir():
        return SpaceToDepth()
    config = read_json(folder / CONFIG)
    kind, patch = config.get("kind"), config.get("patch")
    if kind not in get_args(Kind):
        raise UserError(f"{folder / CONFIG}: kind is {kind!r}; known are {', '.join(get_args(Kind))}")
    if not isinstance(patch, int) or patch < 1:
        raise UserError(f"{folder / CONFIG}: patch is {patch!r}; a whole number of pixels is expected")
    return _load_linear(folder / TENSORS, patch) if kind == "linear_patch" else SpaceToDepth(patch=patch)


def _load_linear(file: Path, patch: int) -> LinearPatch:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        saved = load_file(file)
        return LinearPatch(patch=patch, mean=saved["mean"], components=saved["components"], std=saved["std"])
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{file}: no codec can be read from it ({error})") from None
