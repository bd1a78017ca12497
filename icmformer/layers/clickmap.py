"""Clicks drawn as disk maps, the form in which the networks take them."""

from __future__ import annotations

import torch
from torch import Tensor

DISK_RADIUS = 5.0
"""Pixels of the network's input around a click that are set to one (RITM, SimpleClick and iCMFormer alike)."""


def disk_maps(points: Tensor, height: int, width: int, radius: float = DISK_RADIUS) -> Tensor:
    """Draws clicks as two maps, one of the positive clicks and one of the negative ones.

    Args:
        points: (B, 2N, 3) float; N positive then N negative clicks as (row, column, order) in pixels of the network's
            input, not rounded. A click whose row and column are both negative is absent.
        height: Rows of the maps.
        width: Columns of the maps.
        radius: Disk radius in pixels.

    Returns:
        (B, 2, height, width): 1 where the distance to a click is at most `radius`, else 0; positive clicks first.
    """
    batch, count, _ = points.shape
    rows, columns = points[..., 0].float(), points[..., 1].float()
    absent = torch.maximum(rows, columns) < 0
    far = torch.full_like(rows, 1e6)
    rows, columns = torch.where(absent, far, rows), torch.where(absent, far, columns)
    grid_rows = torch.arange(height, device=points.device, dtype=torch.float32)
    grid_columns = torch.arange(width, device=points.device, dtype=torch.float32)
    row_squares = (grid_rows - rows[..., None]) ** 2  # (B, 2N, H)
    column_squares = (grid_columns - columns[..., None]) ** 2  # (B, 2N, W)
    squares = row_squares[..., :, None] + column_squares[..., None, :]  # (B, 2N, H, W)
    nearest = squares.view(batch, 2, count // 2, height, width).amin(dim=2)
    return (nearest <= radius**2).float()
