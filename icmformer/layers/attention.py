"""Multi-head attention in the three forms the networks use; parameter names are timm's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _split_heads(x: Tensor, heads: int) -> Tensor:
    batch, tokens, channels = x.shape
    return x.view(batch, tokens, heads, channels // heads).transpose(1, 2)  # (B, T, C) -> (B, heads, T, C / heads)


def _merge_heads(x: Tensor) -> Tensor:
    batch, heads, tokens, width = x.shape
    return x.transpose(1, 2).reshape(batch, tokens, heads * width)


def _thirds(qkv: nn.Linear, x: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values of a fused layer.

    One product is faster in torch; other runtimes would copy its parts, and get three.
    """
    if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return tuple(qkv(x).chunk(3, dim=-1))
    weights, biases = qkv.weight.chunk(3), qkv.bias.chunk(3)
    return tuple(F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))


class SelfAttention(nn.Module):
    """Multi-head self-attention over (B, T, C) tokens."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (_split_heads(part, self.num_heads) for part in _thirds(self.qkv, x))
        out: Tensor = self.proj(_merge_heads(F.scaled_dot_product_attention(q, k, v)))
        return out


class CrossAttention(nn.Module):
    """Attention of prompt tokens (queries) to image tokens (keys and values).

    The published networks own one fused qkv layer here: its first third makes the queries, from the prompt stream, and
    the other two make keys and values, from the image stream. Only the slices in use are computed.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def keys_values(self, x: Tensor) -> Tensor:
        """Image tokens (..., C) -> keys and values side by side (..., 2C): nothing here depends on the prompt."""
        return F.linear(x, self.qkv.weight[self.dim :], self.qkv.bias[self.dim :])

    def forward(self, p: Tensor, keys_values: Tensor) -> Tensor:
        """Prompt tokens (B, T, C) and `keys_values` (B, S, 2C) -> (B, T, C)."""
        q = _split_heads(F.linear(p, self.qkv.weight[: self.dim], self.qkv.bias[: self.dim]), self.num_heads)
        k, v = (_split_heads(part, self.num_heads) for part in keys_values.chunk(2, dim=-1))
        out: Tensor = self.proj(_merge_heads(F.scaled_dot_product_attention(q, k, v)))
        return out


def relative_position_index(window: int) -> Tensor:
    """Swin's index of each token pair's offset into the bias table: (window**2, window**2) int64."""
    axis = torch.arange(window)
    coords = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)  # (2, window**2)
    offsets = coords[:, :, None] - coords[:, None, :] + window - 1
    return offsets[0] * (2 * window - 1) + offsets[1]


class WindowAttention(nn.Module):
    """Swin's self-attention within windows, with a learned bias by relative position."""

    relative_position_index: Tensor

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Windows (B * n, T, C) -> the same shape; `mask` (n, T, T) is added to the scores of an image's n windows."""
        q, k, v = (_split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        tokens = x.shape[1]
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(tokens, tokens, self.num_heads).permute(2, 0, 1)[None]  # (1, heads, T, T)
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(x.shape[0] // mask.shape[0], 1, 1, 1)  # (B * n, heads, T, T)
        out: Tensor = self.proj(_merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))))
        return out
