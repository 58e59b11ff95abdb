"""Atrous spatial pyramid pooling: the same features seen at several dilations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dsrg.models.depthwise import DepthwiseConv2d


class Aspp(nn.Module):
    """Sum the class logits of several atrous branches, as DeepLab-v2 does.

    Each branch is a 3x3 atrous convolution, a 1x1 convolution and the class scores; the branches
    differ in their rate only.

    Parameters
    ----------
    in_channels : int
        Channels of the deep features.
    channels : int
        Width of each branch (1024 in the paper's VGG16).
    num_classes : int
        ``C``, background included.
    rates : sequence of int
        Dilations, one branch each (6, 12, 18, 24 at output stride 8 in the paper).
    separable : bool
        Factor the atrous convolution into a depthwise and a pointwise one with batch norm, which
        small trunks on CPUs want (Chen et al., DeepLab-v3+, 2018). False: as in the paper.
    dropout : float
        Probability, in each branch.

    References
    ----------
    .. [1] Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous
       Convolution, and Fully Connected CRFs", TPAMI 2018.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: int,
        num_classes: int,
        rates: Sequence[int],
        separable: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        build = _build_separable_branch if separable else _build_branch
        self.branches = nn.ModuleList(
            build(in_channels, channels, num_classes, rate, dropout) for rate in rates
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(B, F, h, w)`` to logits ``(B, C, h, w)``."""
        logits: Tensor = self.branches[0](features)
        for branch in self.branches[1:]:
            logits = logits + branch(features)
        return logits


def _build_branch(in_channels: int, channels: int, num_classes: int, rate: int, dropout: float) -> nn.Module:
    scores = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(scores.weight, std=0.01)
    nn.init.zeros_(scores.bias)  # type: ignore[arg-type]
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=rate, dilation=rate),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
        nn.Conv2d(channels, channels, 1),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
        scores,
    )


def _build_separable_branch(
    in_channels: int, channels: int, num_classes: int, rate: int, dropout: float
) -> nn.Module:
    scores = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(scores.weight, std=0.01)
    nn.init.zeros_(scores.bias)  # type: ignore[arg-type]
    return nn.Sequential(
        DepthwiseConv2d(
            in_channels, in_channels, 3, padding=rate, dilation=rate, groups=in_channels, bias=False
        ),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
        scores,
    )
