"""What the classifier learns from."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional


def classification_loss(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
    """Multi-label loss: binary cross-entropy over all classes of each picture.

    Parameters
    ----------
    model : nn.Module
        Pictures (B, 3, H, W) in, logits (B, K) out.
    batch : (Tensor, Tensor)
        Pictures and image labels (B, K) float32 in {0, 1}.

    Returns
    -------
    (Tensor, dict)
        The loss, and no further terms.
    """
    images, image_labels = batch
    logits = model(images)
    return functional.binary_cross_entropy_with_logits(logits.float(), image_labels), {}
