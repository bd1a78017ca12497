"""Clicks drawn as disk maps, the form in which the networks take them."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
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
    if points.device.type == "cpu" and not torch.compiler.is_compiling():
        maps = np.zeros((len(points), 2, height, width), np.float32)
        draw_disks(maps, points, radius)
        return torch.from_numpy(maps)
    return _compared(points, height, width, radius)


def _compared(points: Tensor, height: int, width: int, radius: float) -> Tensor:
    """Every pixel with every click, without a step that waits for a GPU."""
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


def draw_disks(maps: NDArray[np.float32], points: Tensor, radius: float = DISK_RADIUS) -> None:
    """Draws clicks into maps, click by click: on a CPU the work is that of the disks, not of a map for each click.

    Args:
        maps: (B, 2, H, W) of zeros, for positive clicks and for negative ones; changed in place.
        points: As `disk_maps` takes them, on the CPU.
        radius: Disk radius in pixels.
    """
    height, width = maps.shape[2:]
    grid_rows, grid_columns = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    count, limit = points.shape[1], np.float32(radius**2)
    for clicks, pair in zip(points.detach().float().numpy(), maps, strict=True):
        for place, (row, column, _) in enumerate(clicks):
            if max(row, column) < 0:
                continue
            rows, columns = _around(float(row), radius, height), _around(float(column), radius, width)
            squares = (grid_rows[rows] - row)[:, None] ** 2 + (grid_columns[columns] - column) ** 2
            pair[int(place >= count // 2), rows, columns][squares <= limit] = 1


def _around(middle: float, radius: float, length: int) -> slice:
    """The pixels of an axis that a disk may cover, and one more on each side."""
    return slice(max(0, math.floor(middle - radius)), max(0, min(length, math.ceil(middle + radius) + 1)))
