"""The classifier whose activations become CAMs."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dsrg.models.backbones import Backbone


class Classifier(nn.Module):
    """Backbone, 1x1 class scores, global average pooling.

    The scores before pooling *are* the class activation maps (Zhou et al., CVPR 2016): pooling is
    linear, so training the pooled score trains every cell.

    Parameters
    ----------
    backbone : Backbone
    num_foreground : int
        ``K``.
    """

    def __init__(self, backbone: Backbone, *, num_foreground: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.top_channels, num_foreground, 1, bias=False)
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Score RGB images in [0, 1], ``(B, 3, H, W)``: logits ``(B, K)``."""
        return functional.adaptive_avg_pool2d(self.activate(images), 1).flatten(1)

    def activate(self, images: Tensor) -> Tensor:
        """Compute the class activations before pooling, ``(B, K, h, w)``."""
        _, deep = self.backbone(images)
        return self.score(deep)

    def score(self, deep: Tensor) -> Tensor:
        """Compute the class activations of the backbone's deep features, ``(B, D, h, w)``."""
        activations: Tensor = self.head(self.backbone.top(deep))
        return activations
