"""Transformer blocks; parameter names are timm's.

Those of plain ViTs take tokens (B, T, C) in which the tokens of each attention window lie together, so that windows are
mere views; Swin's take channels-last maps (B, H, W, C), since its windows move.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icmformer.layers import windows
from icmformer.layers.attention import CrossAttention, SelfAttention, WindowAttention


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """A pre-norm ViT block whose attention is global (one window) or within windows."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, count: int) -> Tensor:
        """Tokens (B, T, C) in `count` windows of T / count tokens, one after the other -> the same shape."""
        x = x + _attend(self.attn, self.norm1(x), count)
        x = x + self.mlp(self.norm2(x))
        return x


class CrossBlock(nn.Module):
    """A cross-modality block: the prompt stream p is updated from the image stream x.

    p += SelfAttn(LN1(p)); p += Attn(q from LN2(p), k and v from LN2(x)); p += MLP(LN3(p)).
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn1 = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.attn2 = CrossAttention(dim, num_heads)
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def keys_values(self, x: Tensor) -> Tensor:
        """Image tokens (B, T, C) -> this block's keys and values (B, T, 2C), which no prompt changes."""
        return self.attn2.keys_values(self.norm2(x))

    def forward(self, p: Tensor, keys_values: Tensor, count: int) -> Tensor:
        """Prompt tokens (B, T, C) in `count` windows, and keys and values of the image's -> the same shape."""
        p = p + _attend(self.attn1, self.norm1(p), count)
        queries = windows.split(self.norm2(p), count)
        p = p + self.attn2(queries, windows.split(keys_values, count)).reshape(p.shape)
        p = p + self.mlp(self.norm3(p))
        return p


def _attend(attention: SelfAttention, x: Tensor, count: int) -> Tensor:
    attended: Tensor = attention(windows.split(x, count))
    return attended.reshape(x.shape)


class SwinBlock(nn.Module):
    """A Swin block. Padding comes after norm1 and is not masked, and the shift is kept on maps of a single window:
    both as the published networks were trained.

    Attributes:
        drop_path: Probability with which a sample skips the attention, and the MLP, in training (stochastic depth).
    """

    drop_path = 0.0

    def __init__(self, dim: int, num_heads: int, window: int, shift: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = WindowAttention(dim, num_heads, window)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, shift_mask: Tensor) -> Tensor:
        rows, columns = x.shape[1:3]
        y = windows.pad_to_multiple(self.norm1(x), self.window)
        padded_rows, padded_columns = y.shape[1:3]
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), dims=(1, 2))
        y = self.attn(windows.partition(y, self.window, self.window), shift_mask if self.shift else None)
        y = windows.reverse(y, self.window, self.window, padded_rows, padded_columns)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), dims=(1, 2))
        x = x + self._dropped(y[:, :rows, :columns])
        x = x + self._dropped(self.mlp(self.norm2(x)))
        return x

    def _dropped(self, branch: Tensor) -> Tensor:
        """In training, samples of (B, H, W, C) at random zero, the others scaled up so that the mean stays."""
        if not self.training or not self.drop_path:
            return branch
        kept = branch.new_empty(len(branch), 1, 1, 1).bernoulli_(1 - self.drop_path)
        return branch * (kept / (1 - self.drop_path))


class PatchMerging(nn.Module):
    """Swin's downsampling: (B, H, W, C) -> (B, H / 2, W / 2, 2C), odd sides padded with zeros."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        x = windows.pad_to_multiple(x, 2)
        parts = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        merged: Tensor = self.reduction(self.norm(torch.cat(parts, dim=-1)))
        return merged
