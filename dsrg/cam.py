"""Class activation maps: where the classifier looked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsrg.labels import list_present

CAM_STRIDE = 4


def normalise_cams(activations: NDArray[np.float32], image_labels: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Keep the present classes' activations and divide each by its maximum.

    Parameters
    ----------
    activations : (K, h, w) float32
        Rectified; not modified.
    image_labels : (K,) bool

    Returns
    -------
    (P, h, w) float32
        CAMs in [0, 1] of the present foreground classes, ascending. A class that is active nowhere
        stays 0.

    Notes
    -----
    Max-normalisation as in Zhou et al., "Learning Deep Features for Discriminative Localization",
    CVPR 2016, and all DSRG code.
    """
    kept = activations[list_present(image_labels)[1:] - 1]
    peaks = kept.max(axis=(1, 2), keepdims=True) if len(kept) else np.ones((0, 1, 1), np.float32)
    normalised: NDArray[np.float32] = kept / np.maximum(peaks, 1e-5)
    return normalised


def add_background(cams: NDArray[np.float32], *, exponent: float) -> NDArray[np.float32]:
    """Put a background score ``(1 - largest CAM) ** exponent`` before the foreground CAMs.

    Parameters
    ----------
    cams : (F, H, W) float32
        In [0, 1]. Not modified.
    exponent : float
        The larger, the more foreground.

    Returns
    -------
    (F + 1, H, W) float32
    """
    largest = cams.max(axis=0) if len(cams) else np.zeros(cams.shape[1:], np.float32)
    background = np.clip(1 - largest, 0, 1) ** np.float32(exponent)
    return np.concatenate([background[None], cams]).astype(np.float32, copy=False)
