"""The network that draws: DeepLab-ASPP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsrg.models.aspp import Aspp
from dsrg.models.backbones import Backbone


class Segmenter(nn.Module):
    """Backbone and atrous pyramid; optionally a shallow branch that sharpens edges.

    Parameters
    ----------
    backbone : Backbone
        Loses its top, which only a classifier reads.
    num_classes : int
        ``C``, background included.
    aspp_channels, aspp_rates, aspp_separable, dropout
        See :class:`dsrg.models.aspp.Aspp`.
    skip_channels : int
        Width of the branch that reads the shallow features and refines the pyramid's logits at
        output stride 4. 0 leaves it out, as the paper does.
    input_size : int
        The longer side of a picture, in pixels, that the network was trained to see.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        aspp_channels: int,
        aspp_rates: Sequence[int],
        aspp_separable: bool,
        dropout: float,
        skip_channels: int,
        input_size: int,
    ) -> None:
        super().__init__()
        backbone.replace_top(nn.Identity(), channels=backbone.deep_channels)
        self.backbone = backbone
        self.input_size = input_size
        self.aspp = Aspp(
            backbone.deep_channels,
            channels=aspp_channels,
            num_classes=num_classes,
            rates=aspp_rates,
            separable=aspp_separable,
            dropout=dropout,
        )
        self.skip = (
            _Skip(backbone.shallow_channels, num_classes, channels=skip_channels) if skip_channels else None
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map RGB images in [0, 1], ``(B, 3, H, W)``, to logits ``(B, C, h, w)``."""
        shallow, deep = self.backbone(images)
        logits: Tensor = self.aspp(deep)
        if self.skip is not None:
            logits = self.skip(shallow, logits)
        return logits


class _Skip(nn.Module):
    """Add a residual read from shallow features and the upsampled logits (after DeepLab-v3+)."""

    def __init__(self, in_channels: int, num_classes: int, *, channels: int) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        last = nn.Conv2d(channels, num_classes, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.mix = nn.Sequential(
            nn.Conv2d(channels + num_classes, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            last,
        )

    def forward(self, shallow: Tensor, logits: Tensor) -> Tensor:
        logits = functional.interpolate(logits, size=shallow.shape[-2:], mode="bilinear", align_corners=False)
        mixed: Tensor = self.mix(torch.cat([self.project(shallow), logits], dim=1))
        return logits + mixed
