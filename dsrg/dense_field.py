"""Exact mean-field inference in a fully connected CRF, for a batch of small grids on a GPU.

Every pair of cells is counted, by matrix products, where :mod:`dsrg.mean_field` goes through a lattice that
approximates them, and in float64: ten iterations make up to 1e-3 of the last digits of float32. The memory is
that of the pairs, so this is for the grid of a training step, not for pictures; and all but two numbers stays
on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from dsrg.crf import PROB_FLOOR

_MOST_PAIRS = 1 << 27  # at a time: 1 GB


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
        values = probs.detach().double()
        held = image_labels.to(values.device)
        present = torch.cat([torch.ones_like(held[:, :1]), held], dim=1)
        # The only wait for the device: are all finite, and how many classes has the picture that has most?
        finite, most = torch.stack([torch.isfinite(values).all().long(), present.sum(1).max()]).tolist()
        if not finite:
            raise ValueError("`probs` must be finite")
        # Classes that a picture holds come first; no other is inferred but to fill up to the most.
        chosen = present.long().argsort(dim=1, descending=True, stable=True)[:, :most]
        places = chosen[:, :, None, None].expand(-1, -1, height, width)
        logits = values.clamp_min(PROB_FLOOR).log().masked_fill_(~present[:, :, None, None], -torch.inf)
        logits = logits.gather(1, places)
        refined = torch.zeros_like(values, dtype=torch.float32)
        positions: list[_Term] = []  # the same for all images
        if gaussian_weight > 0:
            positions.append(_Gaussian(height, width, gaussian_xy, gaussian_weight, values.device))
        step = max(1, _MOST_PAIRS // (height * width) ** 2)
        for start in range(0, count, step):
            rows = slice(start, start + step)
            terms = [*positions]
            if bilateral_weight > 0:
                terms.append(_Bilateral(images[rows], bilateral_xy, bilateral_rgb, bilateral_weight))
            refined[rows].scatter_(1, places[rows], _infer(logits[rows], terms, iterations).float())
        return refined


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
        self.normalise(torch.ones(1, 1, height, width, dtype=torch.float64, device=device))

    def filter(self, maps: Tensor) -> Tensor:
        return self._down @ maps @ self._across


def _relate_positions(length: int, deviation: float, device: torch.device) -> Tensor:
    places = torch.arange(length, dtype=torch.float64, device=device)
    return (-0.5 * ((places[:, None] - places) / deviation).square()).exp()


class _Bilateral(_Term):
    """Of positions and colours: all pairs."""

    def __init__(self, images: Tensor, xy: float, rgb: float, weight: float) -> None:
        self.weight = weight
        count, height, width, _ = images.shape
        down, across = (torch.arange(n, dtype=torch.float64, device=images.device) for n in (height, width))
        places = torch.cartesian_prod(down, across).expand(count, -1, -1)
        features = torch.cat([places / xy, images.reshape(count, -1, 3).double() / rgb], dim=2)
        # -|a - b|^2 / 2 = ab - |a|^2 / 2 - |b|^2 / 2, by one product: memory is gone through once, and
        # float64 leaves 12 digits of the difference.
        halves = features.square().sum(2, keepdim=True) / -2
        ones = torch.ones_like(halves)
        one, other = torch.cat([features, halves, ones], dim=2), torch.cat([features, ones, halves], dim=2)
        self._pairs = (one @ other.mT).exp_()
        self.normalise(torch.ones(count, 1, height, width, dtype=torch.float64, device=images.device))

    def filter(self, maps: Tensor) -> Tensor:
        return (maps.flatten(2) @ self._pairs).view(maps.shape)


def _infer(logits: Tensor, terms: Sequence[_Term], iterations: int) -> Tensor:
    marginals = logits.softmax(1)
    for _ in range(iterations):
        total = logits.clone()
        for term in terms:
            total += term.send(marginals)
        marginals = total.softmax(1)
    return marginals
