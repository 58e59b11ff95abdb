"""The fully connected CRF written from its sums: slow, in float64, for comparison only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.crf import PROB_FLOOR


def infer_slowly(
    probs: NDArray[np.float64], picture: NDArray[np.float64], settings: dict[str, Any]
) -> NDArray[np.float64]:
    """Infer the mean field of one image, with its kernels as matrices, in float64.

    Parameters
    ----------
    probs : (P, h, w) float64
    picture : (h, w, 3) float64
    settings : dict
        As for :func:`dsrg.crf.refine_probs`.

    Returns
    -------
    (P, h, w) float64
    """
    height, width, _ = picture.shape
    places = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(np.float64)
    colours = picture.reshape(-1, 3)

    def relate(features: NDArray[np.float64]) -> NDArray[np.float64]:
        kernel = np.exp(-0.5 * ((features[:, None] - features) ** 2).sum(-1))
        norm = 1 / np.sqrt(kernel.sum(1))
        return norm[:, None] * kernel * norm

    both = np.concatenate([places / settings["bilateral_xy"], colours / settings["bilateral_rgb"]], 1)
    pairs = settings["bilateral_weight"] * relate(both)
    pairs = pairs + settings["gaussian_weight"] * relate(places / settings["gaussian_xy"])
    logits = np.log(np.maximum(probs.reshape(len(probs), -1), PROB_FLOOR))
    total = logits
    for _ in range(settings["iterations"] + 1):
        marginals = np.exp(total - total.max(0))
        marginals /= marginals.sum(0)
        total = logits + marginals @ pairs
    return marginals.reshape(probs.shape)
