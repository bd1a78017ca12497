"""Plain-ViT networks: iCMFormer (Li, Vosselman, Yang, ICCVW 2023) and SimpleClick (Liu et al., ICCV 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from icmformer.errors import InputSizeError
from icmformer.layers import windows
from icmformer.layers.blocks import Block, CrossBlock
from icmformer.layers.embed import PatchEmbed, resize_position_embedding
from icmformer.models.config import ViTConfig
from icmformer.models.head import SegmentationHead, SimplePyramid
from icmformer.models.network import ClickNetwork, ImageFeatures

_EPS = 1e-6


class PlainViT(nn.Module):
    """The shared backbone's parameters: patch and position embedding, blocks and, for iCMFormer, cross blocks."""

    def __init__(self, config: ViTConfig, cross_depth: int) -> None:
        super().__init__()
        dim, heads, ratio = config.embed_dim, config.num_heads, config.mlp_ratio
        side = config.img_size // config.patch_size
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side + 1, dim))
        self.patch_embed = PatchEmbed(config.patch_size, dim)
        if cross_depth:
            self.blocks2 = nn.ModuleList(CrossBlock(dim, heads, ratio, _EPS) for _ in range(cross_depth))
        self.blocks = nn.ModuleList(Block(dim, heads, ratio, _EPS) for _ in range(config.depth))
        if config.published_extras:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
            self.fc_norm = nn.LayerNorm(dim, eps=_EPS)
            self.head = nn.Linear(dim, 1000)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def position(self, rows: int, columns: int) -> Tensor:
        """(1, rows, columns, C): the position embedding for a token grid; the class token's entry is left out."""
        return resize_position_embedding(self.pos_embed[:, 1:], rows, columns)


class _ViTNetwork(ClickNetwork):
    """What both plain-ViT families share: embeddings, block scheduling, neck and head."""

    config: ViTConfig

    def __init__(self, config: ViTConfig, cross_depth: int) -> None:
        super().__init__(config)
        self.patch_embed_coords = PatchEmbed(config.patch_size, config.embed_dim)
        self.backbone = PlainViT(config, cross_depth)
        self.neck = SimplePyramid(config.embed_dim, config.neck_out_dims)
        self.head = SegmentationHead(
            config.neck_out_dims, config.head_channels, config.upsample, config.published_extras
        )

    def check_size(self, height: int, width: int) -> None:
        patch = self.config.patch_size
        for side in (height, width):
            if side % patch:
                raise InputSizeError(f"an input side of {side} pixels is not a multiple of the patch size {patch}")
            windows.plain_vit_window(side // patch, patch)

    def _image_tokens(self, image: Tensor) -> Tensor:
        """(B, 3, H, W), RGB in [0, 1] -> (B, T, C) tokens without positions, window by window.

        Nothing but local attention depends on the tokens' order, so it is theirs from here to the neck.
        """
        self.check_size(*image.shape[2:])
        return self.backbone.patch_embed.windowed(self.normalise(image), *self._window(*self._grid(image.shape[2:])))

    def _prompt_tokens(self, prompt: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, T, C) tokens without positions, window by window."""
        return self.patch_embed_coords.windowed(prompt, *self._window(*self._grid(prompt.shape[2:])))

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """(1, T, C): the position embedding for a grid, window by window."""
        cut = windows.partition(self.backbone.position(*grid), *self._window(*grid))
        return cut.reshape(1, grid[0] * grid[1], cut.shape[2])

    def _window(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of a local window on a token grid."""
        patch = self.config.patch_size
        return windows.plain_vit_window(rows, patch), windows.plain_vit_window(columns, patch)

    def _counts(self, grid: tuple[int, int], first: int, last: int) -> list[int]:
        """Into how many windows blocks `first` .. `last`, counted from 1, cut the tokens of a grid."""
        height, width = self._window(*grid)
        local = (grid[0] // height) * (grid[1] // width)
        return [1 if i % self.config.global_every == 0 else local for i in range(first, last + 1)]

    def _run(self, x: Tensor, grid: tuple[int, int], first: int, last: int) -> Tensor:
        """Blocks `first` .. `last`, counted from 1."""
        blocks: Iterable[nn.Module] = list(self.backbone.blocks)[first - 1 : last]
        for block, count in zip(blocks, self._counts(grid, first, last), strict=True):
            x = block(x, count)
        return x

    def _grid(self, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of tokens of an image's size."""
        return size[0] // self.config.patch_size, size[1] // self.config.patch_size

    def _logits(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        rows, columns = self._grid(size)
        height, width = self._window(rows, columns)
        grid = windows.reverse(x, height, width, rows, columns)
        levels = self.neck(grid.permute(0, 3, 1, 2).contiguous())  # (B, h, w, C) -> (B, C, h, w)
        logits: Tensor = self.head(levels, size)
        return logits


class ICMFormerViT(_ViTNetwork):
    """iCMFormer on a plain ViT.

    The first half of the blocks runs on the image and on the prompt map with shared weights, the cross blocks update
    the prompt stream from the image stream, and the second half runs on the sum of both.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config, config.cross_depth)

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """Features: the image stream after the first half, then each cross block's keys and values."""
        size = image.shape[2], image.shape[3]
        grid = self._grid(size)
        x = self._run(self._image_tokens(image) + self._positions(grid), grid, 1, self.config.depth // 2)
        keys_values = tuple(block.keys_values(x) for block in self._cross_blocks())
        return ImageFeatures(size, (x, *keys_values))

    def decode_map(self, features: ImageFeatures, prompt: Tensor) -> Tensor:
        x, *keys_values = features.tensors
        depth, grid = self.config.depth, self._grid(features.size)
        p = self._run(self._prompt_tokens(prompt) + self._positions(grid), grid, 1, depth // 2)
        counts = self._counts(grid, 1, self.config.cross_depth)
        for block, key_value, count in zip(self._cross_blocks(), keys_values, counts, strict=True):
            p = block(p, key_value, count)
        return self._logits(self._run(x + p, grid, depth // 2 + 1, depth), features.size)

    def _cross_blocks(self) -> list[CrossBlock]:
        return [block for block in self.backbone.blocks2 if isinstance(block, CrossBlock)]


class SimpleClickViT(_ViTNetwork):
    """SimpleClick: one stream, the sum of the image's and the prompt map's embeddings."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config, cross_depth=0)

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """Features: the image's tokens without positions; the prompt enters before the first block."""
        return ImageFeatures((image.shape[2], image.shape[3]), (self._image_tokens(image),))

    def decode_map(self, features: ImageFeatures, prompt: Tensor) -> Tensor:
        (x,) = features.tensors
        grid = self._grid(features.size)
        x = x + self._prompt_tokens(prompt) + self._positions(grid)
        return self._logits(self._run(x, grid, 1, self.config.depth), features.size)
