"""Exact mean-field inference in a fully connected CRF, for a batch of small grids on a GPU.

Every pair of cells is counted, by matrix products, where :mod:`dsrg.mean_field` goes through a lattice that
approximates them. The memory is that of the pairs, so this is for the grid of a training step, not for
pictures; and nothing leaves the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from dsrg.crf import PROB_FLOOR

_MOST_PAIRS = 1 << 28  # at a time: 1 GB


def refine_densely(
    probs: Tensor,
    images: Tensor,
    image_labels: Tensor,
    *,
    iterations: int,
    bilateral_weight: float,
    bilateral_xy: float,
    bilateral_rgb: float,
    gaussian_weight: float,
    gaussian_xy: float,
) -> Tensor:
    """Refine the probabilities of a batch, each image over the classes that it holds.

    Unary energy, pairwise terms, their symmetric normalisation, and that a cell counts as its own neighbour
    are those of :func:`dsrg.crf.refine_probs`.

    Parameters
    ----------
    probs : (B, C, h, w) float
        Detached; not modified.
    images : (B, h, w, 3) uint8
        On the device of `probs`.
    image_labels : (B, K) bool
        Foreground classes of each image, ``K = C - 1``; background is always there.
    iterations, bilateral_weight, bilateral_xy, bilateral_rgb, gaussian_weight, gaussian_xy
        As for :func:`dsrg.crf.refine_probs`.

    Returns
    -------
    (B, C, h, w) float32, on the device of `probs`
        Absent classes are 0.

    Raises
    ------
    ValueError
        Shapes do not fit, or `probs` holds NaN or infinite values.

    References
    ----------
    Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
    Potentials", NeurIPS 2011, equation 4.
    """
    count, classes, height, width = probs.shape
    if images.shape != (count, height, width, 3) or image_labels.shape != (count, classes - 1):
        raise ValueError(
            f"`images` and `image_labels` must fit `probs` {tuple(probs.shape)}, "
            f"got {tuple(images.shape)} and {tuple(image_labels.shape)}"
        )
    with torch.no_grad(), torch.autocast(probs.device.type, enabled=False):
        values = probs.detach().float()
        if not bool(torch.isfinite(values).all()):
            raise ValueError("`probs` must be finite")
        held = image_labels.to(values.device)
        present = torch.cat([torch.ones_like(held[:, :1]), held], dim=1)
        logits = values.clamp_min(PROB_FLOOR).log()
        logits = logits.masked_fill(~present[:, :, None, None], -torch.inf)
        parts = []
        positions: list[_Term] = []  # the same for all images
        if gaussian_weight > 0:
            positions.append(_Gaussian(height, width, gaussian_xy, gaussian_weight, values.device))
        step = max(1, _MOST_PAIRS // (height * width) ** 2)
        for start in range(0, count, step):
            rows = slice(start, start + step)
            terms = [*positions]
            if bilateral_weight > 0:
                terms.append(_Bilateral(images[rows], bilateral_xy, bilateral_rgb, bilateral_weight))
            parts.append(_infer(logits[rows], terms, iterations))
        return torch.cat(parts) if parts else values


class _Term(ABC):
    """A Gaussian over pairs of cells, normalised symmetrically."""

    weight: float

    @abstractmethod
    def filter(self, maps: Tensor) -> Tensor:
        """Sum over all cells, each weighted by the Gaussian: (B, C, h, w) to the same."""

    def normalise(self, ones: Tensor) -> None:
        """Prepare the normalisation from a map of ones, (B, 1, h, w)."""
        self._norm = torch.rsqrt(self.filter(ones) + 1e-20)

    def send(self, maps: Tensor) -> Tensor:
        """What every cell gets from all cells."""
        return self.weight * self._norm * self.filter(self._norm * maps)


class _Gaussian(_Term):
    """Of positions: one axis after the other."""

    def __init__(
        self, height: int, width: int, deviation: float, weight: float, device: torch.device
    ) -> None:
        self.weight = weight
        self._down, self._across = (_relate_positions(n, deviation, device) for n in (height, width))
        self.normalise(torch.ones(1, 1, height, width, device=device))

    def filter(self, maps: Tensor) -> Tensor:
        return self._down @ maps @ self._across


class _Bilateral(_Term):
    """Of positions and colours: all pairs."""

    def __init__(self, images: Tensor, xy: float, rgb: float, weight: float) -> None:
        self.weight = weight
        count, height, width, _ = images.shape
        device = images.device
        colours = images.reshape(count, -1, 3).float()
        # Differences of whole grey levels are exact; squares of colours less their products would not be.
        squares = torch.zeros(count, height * width, height * width, device=device)
        for channel in range(3):
            plane = colours[..., channel] / rgb
            squares += (plane[:, :, None] - plane[:, None, :]).square_()
        self._pairs = squares.mul_(-0.5).exp_().view(count, height, width, height, width)
        self._pairs *= _relate_positions(height, xy, device)[:, None, :, None]
        self._pairs *= _relate_positions(width, xy, device)[:, None, :]
        self._pairs = self._pairs.view(count, height * width, height * width)
        self.normalise(torch.ones(count, 1, height, width, device=device))

    def filter(self, maps: Tensor) -> Tensor:
        return (maps.flatten(2) @ self._pairs).view(maps.shape)


def _relate_positions(length: int, deviation: float, device: torch.device) -> Tensor:
    places = torch.arange(length, dtype=torch.float64, device=device)
    return (-0.5 * ((places[:, None] - places) / deviation).square()).exp().float()


def _infer(logits: Tensor, terms: Sequence[_Term], iterations: int) -> Tensor:
    marginals = logits.softmax(1)
    for _ in range(iterations):
        total = logits.clone()
        for term in terms:
            total += term.send(marginals)
        marginals = total.softmax(1)
    return marginals
