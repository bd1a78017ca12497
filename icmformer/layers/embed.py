"""Patch and position embeddings."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Image to patch tokens by one strided convolution, optionally followed by a LayerNorm (Swin).

    Input (B, 3, H, W), padded with zeros at the bottom and right to whole patches; output (B, H / p, W / p, C).
    """

    def __init__(self, patch_size: int, embed_dim: int, in_channels: int = 3, norm_eps: float | None = None) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps) if norm_eps is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        bottom, right = -x.shape[2] % self.patch_size, -x.shape[3] % self.patch_size
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        tokens: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))  # (B, C, h, w) -> (B, h, w, C)
        return tokens

    def windowed(self, x: Tensor, height: int, width: int) -> Tensor:
        """The same tokens, window by window: pixels are put in that order, which spares moving the wider tokens.

        Args:
            x: (B, C, H, W), of whole windows.
            height: Rows of tokens of a window.
            width: Columns of tokens of a window.

        Returns:
            (B, T, C), windows in row-major order.
        """
        side, (batch, channels, rows, columns) = self.patch_size, x.shape
        x = x.reshape(batch, channels, rows // side // height, height, side, columns // side // width, width, side)
        patches = x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(batch, -1, channels * side**2)
        tokens: Tensor = self.norm(F.linear(patches, self.proj.weight.flatten(1), self.proj.bias))
        return tokens


def resize_position_embedding(embedding: Tensor, rows: int, columns: int) -> Tensor:
    """Fits a square position embedding to another token grid (bicubic, align_corners=False, no antialias).

    Args:
        embedding: (1, T * T, C), without the class token's entry.
        rows: Token rows wanted.
        columns: Token columns wanted.

    Returns:
        (1, rows, columns, C); the values themselves when the grid is the embedding's own.
    """
    side = math.isqrt(embedding.shape[1])
    grid = embedding.view(1, side, side, -1)
    if (rows, columns) == (side, side):
        return grid
    resized = F.interpolate(grid.permute(0, 3, 1, 2).float(), size=(rows, columns), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).to(embedding.dtype)
