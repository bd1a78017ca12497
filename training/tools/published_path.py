"""The arithmetic of the published code, as the base line of speed figures: nothing kept, nothing left out.

Attention is written out as matrix products and a softmax, cross-attention computes queries, keys and values of both
streams and uses a third of the one and two thirds of the other, windows are cut and joined around every attention, and
the head enlarges all levels before it fuses them. The logits are the network's own (a test).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from icmformer.errors import ConfigError
from icmformer.layers import windows
from icmformer.layers.attention import CrossAttention, SelfAttention
from icmformer.layers.blocks import Block, CrossBlock
from icmformer.models.head import SegmentationHead
from icmformer.models.vit import ICMFormerViT
from icmformer.weights import Weights

Window = tuple[int, int]


def plain_vit(weights: Weights) -> ICMFormerViT:
    """The network of weights that have a published path.

    Raises:
        ConfigError: Not iCMFormer on a plain ViT.
    """
    network = weights.build()
    if not isinstance(network, ICMFormerViT):
        raise ConfigError(f"{weights.name} is not iCMFormer on a plain ViT, whose published path this is about")
    return network


class PublishedViT:
    """iCMFormer on a plain ViT, computed as published.

    Args:
        network: Its parameters.
    """

    def __init__(self, network: ICMFormerViT) -> None:
        self._network = network

    @torch.inference_mode()
    def __call__(self, image: Tensor, prev_mask: Tensor, points: Tensor) -> Tensor:
        """As `ClickNetwork.forward`."""
        network, depth = self._network, self._network.config.depth
        x = self._run(self._embedded(network.backbone.patch_embed(network.normalise(image))), 1, depth // 2)
        prompt = network.patch_embed_coords(network.prompt_map(prev_mask, points))
        p = self._run(self._embedded(prompt), 1, depth // 2)
        cross = [block for block in network.backbone.blocks2 if isinstance(block, CrossBlock)]
        for number, block in enumerate(cross, 1):
            p = _cross_block(block, p, x, self._window(p, number))
        y = self._run(x + p, depth // 2 + 1, depth)
        levels = network.neck(y.permute(0, 3, 1, 2).contiguous())  # (B, h, w, C) -> (B, C, h, w)
        return _head(network.head, levels, (image.shape[2], image.shape[3]))

    def _embedded(self, tokens: Tensor) -> Tensor:
        return tokens + self._network.backbone.position(*tokens.shape[1:3])

    def _window(self, x: Tensor, number: int) -> Window:
        config = self._network.config
        if number % config.global_every == 0:
            return x.shape[1], x.shape[2]
        rows, columns = (windows.plain_vit_window(side, config.patch_size) for side in x.shape[1:3])
        return rows, columns

    def _run(self, x: Tensor, first: int, last: int) -> Tensor:
        for number in range(first, last + 1):
            block = self._network.backbone.blocks[number - 1]
            assert isinstance(block, Block)
            x = x + _windowed(block.attn, block.norm1(x), self._window(x, number))
            x = x + block.mlp(block.norm2(x))
        return x


def _heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, tokens, channels = qkv.shape
    q, k, v = qkv.reshape(batch, tokens, 3, heads, channels // 3 // heads).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    attended: Tensor = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    return attended


def _windowed(attention: SelfAttention, x: Tensor, window: Window) -> Tensor:
    rows, columns = x.shape[1:3]
    tokens = windows.partition(x, *window)
    out = attention.proj(_attended(*_heads(attention.qkv(tokens), attention.num_heads)))
    return windows.reverse(out, *window, rows, columns)


def _cross_block(block: CrossBlock, p: Tensor, x: Tensor, window: Window) -> Tensor:
    rows, columns = p.shape[1:3]
    p = p + _windowed(block.attn1, block.norm1(p), window)
    attention: CrossAttention = block.attn2
    queries = _heads(attention.qkv(windows.partition(block.norm2(p), *window)), attention.num_heads)[0]
    _, keys, values = _heads(attention.qkv(windows.partition(block.norm2(x), *window)), attention.num_heads)
    out = attention.proj(_attended(queries, keys, values))
    p = p + windows.reverse(out, *window, rows, columns)
    p = p + block.mlp(block.norm3(p))
    return p


def _head(head: SegmentationHead, levels: list[Tensor], size: tuple[int, int]) -> Tensor:
    finest = levels[0].shape[2:]
    maps = [
        F.interpolate(conv(level), size=finest, mode="bilinear", align_corners=False)
        for conv, level in zip(head.convs, levels, strict=True)
    ]
    x = head.fusion_conv(torch.cat(maps, dim=1))
    return F.interpolate(head.conv_seg(x), size=size, mode="bilinear", align_corners=True)
