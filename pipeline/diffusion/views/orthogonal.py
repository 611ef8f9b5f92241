"""Which linear maps keep white noise white."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

LinearMap = Callable[[Tensor], Tensor]
"""`[B, C, H, W]` → the same shape, each sample for itself."""


def orthogonality_error(linear_map: LinearMap, shape: tuple[int, int, int]) -> float:
    """‖AAᵀ − I‖ (spectral norm) of a linear map on images `shape` (C, H, W), by trying every unit image: small ones.

    The share by which the map changes the variance of white noise in the direction that suffers most; 1 where it
    loses one.
    """
    size = shape[0] * shape[1] * shape[2]
    columns = linear_map(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).reshape(size, size)
    return float(torch.linalg.matrix_norm(columns.T @ columns - torch.eye(size, dtype=torch.float64), 2))


def require_orthogonal(linear_map: LinearMap, shape: tuple[int, int, int], what: str) -> None:
    """Raises `ValueError` with the measured figure."""
    error = orthogonality_error(linear_map, shape)
    if error > 1e-6:
        raise ValueError(
            f"{what} is not a view, it is not orthogonal: ‖AAᵀ − I‖ = {error:.3f} on {shape[1]}×{shape[2]} pixels"
        )


def bilinear_rotation(x: Tensor, degrees: float) -> Tensor:
    """`x [B, C, H, W]` turned counter-clockwise with interpolation: what is not orthogonal."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=x.dtype, device=x.device))
    aspect = x.shape[-2] / x.shape[-1]
    rows = [[angle.cos(), -angle.sin() * aspect, 0.0], [angle.sin() / aspect, angle.cos(), 0.0]]
    theta = x.new_tensor(rows).expand(len(x), 2, 3)
    return grid_sample(x, affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
