"""How the published code initialises what no pretrained weights fill."""

from __future__ import annotations

from torch import nn

from icmformer.models import ClickNetwork
from icmformer.models.config import ViTConfig


def initialise_as_published(network: ClickNetwork) -> None:
    """Draws a network's parameters anew, as iCMFormer's and SimpleClick's code does, from torch's generator.

    In plain ViTs (as in MAE's code), linear layers are Xavier-uniform (Glorot and Bengio, 2010) with biases zero, cross
    blocks among them; so is the kernel of the image's patch embedding, taken as a matrix; class token and position
    embedding are normal with 0.02. Swin's linear layers stay as `build_network` made them, which is as published:
    truncated normal with 0.02, biases zero. The head's level and fusion convolutions are He-normal by their outputs (as
    mmcv's `ConvModule` has them), biases zero. Click embedding, neck and logit keep torch's defaults.

    RITM's convolutional networks use another Xavier rule (`XavierGluon`), which neither of the two applies.

    Args:
        network: Changed in place.
    """
    head = network.get_submodule("head")
    for module in [*head.get_submodule("convs").modules(), *head.get_submodule("fusion_conv").modules()]:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    if not isinstance(network.config, ViTConfig):
        return
    backbone = network.get_submodule("backbone")
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in backbone.named_parameters():
        if name == "patch_embed.proj.weight":
            nn.init.xavier_uniform_(parameter.flatten(1))  # a view: the kernel changes
        elif name in ("pos_embed", "cls_token"):
            nn.init.normal_(parameter, std=0.02)
