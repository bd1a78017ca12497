"""iCMFormer on a Swin backbone."""

from __future__ import annotations

from torch import Tensor, nn

from icmformer.errors import InputSizeError
from icmformer.layers.blocks import CrossBlock, PatchMerging, SwinBlock
from icmformer.layers.embed import PatchEmbed
from icmformer.layers.windows import shifted_window_mask
from icmformer.models.config import SwinConfig
from icmformer.models.head import SegmentationHead
from icmformer.models.network import ClickNetwork, ImageFeatures

_EPS = 1e-5


class SwinStage(nn.Module):
    """Blocks of one resolution, then a downsampling in all but the last stage."""

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__()
        dim = config.embed_dim << stage
        self.window = config.window_size
        self.blocks = nn.ModuleList(
            SwinBlock(
                dim,
                config.num_heads[stage],
                config.window_size,
                shift=config.window_size // 2 if index % 2 else 0,
                mlp_ratio=config.mlp_ratio,
                eps=_EPS,
            )
            for index in range(config.depths[stage])
        )
        self.downsample = PatchMerging(dim, _EPS) if stage < 3 else None

    def forward(self, x: Tensor) -> Tensor:
        """The blocks alone: (B, H, W, C) -> the same shape."""
        rows, columns = (-(-side // self.window) * self.window for side in x.shape[1:3])
        mask = shifted_window_mask(rows, columns, self.window, self.window // 2, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x

    def reduce(self, x: Tensor) -> Tensor:
        """The downsampling: (B, H, W, C) -> (B, H / 2, W / 2, 2C)."""
        assert self.downsample is not None
        reduced: Tensor = self.downsample(x)
        return reduced


class SwinBackbone(nn.Module):
    """Parameters of the Swin backbone, named as published."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config.patch_size, dim, norm_eps=_EPS)
        if config.published_extras:
            self.patch_embed_coords = PatchEmbed(config.patch_size, dim, norm_eps=_EPS)
        self.layers = nn.ModuleList(SwinStage(config, stage) for stage in range(4))
        self.blocks2 = nn.ModuleList(
            CrossBlock(dim * 4, config.cross_num_heads, config.mlp_ratio, _EPS) for _ in range(config.cross_depth)
        )
        self.norm0, self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim << stage, eps=_EPS) for stage in range(4))

    def stages(self) -> list[SwinStage]:
        return [stage for stage in self.layers if isinstance(stage, SwinStage)]

    def cross_blocks(self) -> list[CrossBlock]:
        return [block for block in self.blocks2 if isinstance(block, CrossBlock)]


class ICMFormerSwin(ClickNetwork):
    """iCMFormer on Swin.

    Stages 1 and 2 run, with shared weights, on the image x, the prompt map p and the sum s of their embeddings; the
    head takes s's outputs there. The prompt map goes through the image's patch embedding, as published. At 1/16 the
    cross blocks update p from x; stages 3 and 4 run on x + p.
    """

    config: SwinConfig

    def __init__(self, config: SwinConfig) -> None:
        super().__init__(config)
        self.backbone = SwinBackbone(config)
        dim = config.embed_dim
        self.head = SegmentationHead(
            (dim, dim * 2, dim * 4, dim * 8), config.head_channels, config.upsample, config.published_extras
        )

    def set_stochastic_depth(self, rate: float) -> None:
        """Lets samples skip blocks in training, at a rate that rises linearly over the blocks from 0 to `rate`."""
        blocks = [block for stage in self.backbone.stages() for block in stage.blocks]
        for number, block in enumerate(blocks):
            assert isinstance(block, SwinBlock)
            block.drop_path = rate * number / max(len(blocks) - 1, 1)

    def check_size(self, height: int, width: int) -> None:
        least = self.config.patch_size * 8
        if min(height, width) < least:
            raise InputSizeError(f"an input of {width} x {height} pixels is too small; sides start at {least}")

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """Features: the embedded patches, the image stream at 1/16, then each cross block's keys and values."""
        self.check_size(*image.shape[2:])
        embedded: Tensor = self.backbone.patch_embed(self.normalise(image))
        first, second = self.backbone.stages()[:2]
        x = second.reduce(second(first.reduce(first(embedded))))
        keys_values = tuple(block.keys_values(x.flatten(1, 2)) for block in self.backbone.cross_blocks())
        return ImageFeatures((image.shape[2], image.shape[3]), (embedded, x, *keys_values))

    def decode_map(self, features: ImageFeatures, prompt: Tensor) -> Tensor:
        embedded, x, *keys_values = features.tensors
        first, second, third, fourth = self.backbone.stages()
        p: Tensor = self.backbone.patch_embed(prompt)
        s = first(embedded + p)
        quarter = self.backbone.norm0(s)
        s = second(first.reduce(s))
        eighth = self.backbone.norm1(s)
        p = second.reduce(second(first.reduce(first(p))))
        tokens = p.flatten(1, 2)
        for block, key_value in zip(self.backbone.cross_blocks(), keys_values, strict=True):
            tokens = block(tokens, key_value, 1)
        y = third(x + tokens.view(p.shape))
        sixteenth = self.backbone.norm2(y)
        y = fourth(third.reduce(y))
        maps = (quarter, eighth, sixteenth, self.backbone.norm3(y))
        levels = [m.permute(0, 3, 1, 2).contiguous() for m in maps]  # (B, h, w, C) -> (B, C, h, w)
        logits: Tensor = self.head(levels, features.size)
        return logits
