"""Windows over a token grid, as pure functions on channels-last maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from icmformer.errors import InputSizeError


def partition(x: Tensor, height: int, width: int) -> Tensor:
    """Cuts a map into windows.

    Args:
        x: (B, H, W, C), H a multiple of `height` and W of `width`.
        height: Rows of a window.
        width: Columns of a window.

    Returns:
        (B * windows, height * width, C), windows in row-major order.
    """
    batch, rows, columns, channels = x.shape
    x = x.view(batch, rows // height, height, columns // width, width, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height * width, channels)


def reverse(windows: Tensor, height: int, width: int, rows: int, columns: int) -> Tensor:
    """Undoes `partition`: (B * windows, height * width, C) -> (B, rows, columns, C)."""
    channels = windows.shape[-1]
    x = windows.view(-1, rows // height, columns // width, height, width, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, rows, columns, channels)


def split(x: Tensor, count: int) -> Tensor:
    """Tokens (B, T, C) in which each of `count` windows lies together -> (B * count, T / count, C)."""
    return x.reshape(x.shape[0] * count, x.shape[1] // count, x.shape[2])


def plain_vit_window(tokens: int, patch_size: int) -> int:
    """The side of a local-attention window, in tokens, for a plain ViT with `tokens` a side.

    A side holds as many windows as windows of 224 pixels fit into it, and they share it evenly: 14 tokens at 448 and
    672 (patch 16), 16 at 512 and 1024.

    Raises:
        InputSizeError: The side is under 224 pixels, or cannot be shared evenly.
    """
    unit = 224 // patch_size
    count = tokens // unit
    if count == 0 or tokens % count:
        side = tokens * patch_size
        raise InputSizeError(
            f"an input side of {side} pixels gives {tokens} tokens, which do not divide into {count or 'any'} windows "
            f"of at least {unit}; sides that work: {', '.join(map(str, allowed_sides(patch_size)))}, ..."
        )
    return tokens // count


def allowed_sides(patch_size: int, limit: int = 1024) -> list[int]:
    """Input sides in pixels, up to `limit`, that `plain_vit_window` accepts."""
    unit = 224 // patch_size
    return [t * patch_size for t in range(unit, limit // patch_size + 1) if t % (t // unit) == 0]


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pads (B, H, W, C) with zeros at the bottom and right until H and W are multiples of `multiple`."""
    bottom, right = -x.shape[1] % multiple, -x.shape[2] % multiple
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def shifted_window_mask(rows: int, columns: int, window: int, shift: int, device: torch.device) -> Tensor:
    """The additive attention mask of Swin's shifted windows on a padded grid.

    Tokens that a cyclic shift brought together without being neighbours must not attend to each other.

    Returns:
        (windows, window**2, window**2) float32: 0 where attention is allowed, -100 elsewhere.
    """

    def bands(length: int) -> Tensor:
        index = torch.arange(length, device=device)
        return (index >= length - window).long() + (index >= length - shift).long()

    region = bands(rows)[:, None] * 3 + bands(columns)[None, :]  # (rows, columns), nine regions
    ids = partition(region[None, :, :, None].float(), window, window)[..., 0]  # (windows, window**2)
    return (ids[:, None, :] != ids[:, :, None]).float() * -100.0
