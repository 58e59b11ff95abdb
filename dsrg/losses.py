"""Losses of seeded training: the balanced seed loss, the boundary loss, and plain cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dsrg.labels import BACKGROUND, IGNORE_INDEX
from dsrg.ranks import average_count, train_together

PROB_FLOOR = 1e-4
COUNT_FLOOR = 1e-4
MIN_RATIO = 0.05
MAX_RATIO = 20.0


def floor_log_probs(logits: Tensor) -> Tensor:
    """Compute log-probabilities by a softmax with a floor, so that no class is ever impossible.

    ``log((softmax + 1e-4) / (1 + C * 1e-4))``. Always in float32, also under mixed precision.

    Parameters
    ----------
    logits : (B, C, h, w) float

    Returns
    -------
    (B, C, h, w) float32
        Log-probabilities; each pixel's probabilities add up to 1.

    References
    ----------
    `SoftmaxLayer` in the authors' ``pylayers.py`` (``min_prob = 0.0001``).

    Examples
    --------
    >>> probs = floor_log_probs(torch.tensor([[[[0.0]], [[100.0]]]])).exp()
    >>> [round(value, 6) for value in probs.flatten().tolist()]
    [0.0001, 0.9999]
    """
    floored = torch.softmax(logits.float(), dim=1) + PROB_FLOOR
    return torch.log(floored / floored.sum(dim=1, keepdim=True))


def balanced_seed_loss(log_probs: Tensor, seeds: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compute the cross-entropy of seeds, background and foreground each by their own mean.

    In each image, the background term is the mean of ``-log p`` over background seeds, the
    foreground term that over all foreground seeds; a term without seeds is 0. The loss is the sum
    of both terms, averaged over the images. A pixel that is a seed of two classes counts twice.

    Parameters
    ----------
    log_probs : (B, C, h, w) float32
        Of `floor_log_probs`; class 0 is background.
    seeds : (B, C, h, w) bool
    valid : (B, h, w) bool, optional
        Pixels that count; False on padding.

    Returns
    -------
    () float32

    References
    ----------
    Huang et al., CVPR 2018, equation 2; `BalancedSeedLossLayer` in ``pylayers.py``.
    """
    _check_same_shape("seeds", seeds, log_probs)
    weights = seeds.to(log_probs.dtype)
    if valid is not None:
        _check_valid(valid, log_probs)
        weights = weights * valid[:, None]
    terms = -(weights * log_probs).sum(dim=(2, 3))
    counts = weights.sum(dim=(2, 3))
    first = BACKGROUND + 1
    background = terms[:, BACKGROUND] / counts[:, BACKGROUND].clamp(min=COUNT_FLOOR)
    foreground = terms[:, first:].sum(dim=1) / counts[:, first:].sum(dim=1).clamp(min=COUNT_FLOOR)
    return (background + foreground).mean()


def measure_log_odds(shares: Sequence[tuple[float, float]]) -> float:
    """Measure by how much the seed loss favours foreground: the log of background's share over foreground's.

    Parameters
    ----------
    shares : sequence of (float, float)
        Of each picture, the shares of its pixels that are background and foreground cues.

    Returns
    -------
    float
        Pictures without foreground cues, which the foreground's term leaves out, count for the background
        only. 0 where there is only one of the two.

    Examples
    --------
    >>> round(measure_log_odds([(0.8, 0.1), (0.6, 0.0)]), 3)  # log(0.7 / 0.1)
    1.946
    """
    background = [share for share, _ in shares if share > 0]
    foreground = [share for _, share in shares if share > 0]
    if not background or not foreground:
        return 0.0
    mean_background = math.fsum(background) / len(shares)
    return math.log(mean_background * len(foreground) / math.fsum(foreground))


def balance_logits(logits: Tensor, *, log_odds: float) -> Tensor:
    """Take `log_odds` off the background's logits, which the balanced seed loss is then given.

    That loss counts a picture's foreground as much as its background, so a network that is trained on it
    directly draws rare classes too large: it answers as if both were equally common. With this between the
    two, it is the network's own logits that follow how common they are [1]_.

    Parameters
    ----------
    logits : (B, C, h, w) float
    log_odds : float
        :func:`measure_log_odds`, or a part of it. 0 changes nothing.

    Returns
    -------
    (B, C, h, w) float

    References
    ----------
    .. [1] Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, equation 10.
    """
    if log_odds == 0:
        return logits
    offset = logits.new_zeros(logits.shape[1])
    offset[BACKGROUND] = log_odds
    return logits - offset[:, None, None]


def boundary_loss(log_probs: Tensor, refined_probs: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compute how far the network is from its own CRF-refined output, by a clipped KL divergence.

    The mean over pixels of ``sum_c q * log(clip(q / p, 0.05, 20))``, with ``q`` the refined
    probabilities, raised to at least 1e-4 and normalised again. No gradient flows through ``q``.

    Parameters
    ----------
    log_probs : (B, C, h, w) float32
        Of `floor_log_probs`.
    refined_probs : (B, C, h, w) float32
        CRF output for the same pixels; absent classes may be 0.
    valid : (B, h, w) bool, optional
        Pixels that count; False on padding.

    Returns
    -------
    () float32
        0 when no pixel is valid. May be slightly negative, because of the clipping.

    Notes
    -----
    Where ``q / p`` is clipped, the pixel's class gives no gradient, as in the official Theano
    code: a network that is very far from the CRF there is corrected through its other classes.
    The official `CRFLayer` also sends some gradient back through the CRF; SEC's authors later
    stopped that ("treat CRF output as ground truth"), and so does this.

    References
    ----------
    Kolesnikov and Lampert, "Seed, Expand and Constrain", ECCV 2016, section 3.4;
    `ConstrainLossLayer` in ``pylayers.py``.
    """
    _check_same_shape("refined_probs", refined_probs, log_probs)
    q = refined_probs.detach().to(log_probs.dtype).clamp(min=PROB_FLOOR)
    q = q / q.sum(dim=1, keepdim=True)
    ratio = (q / log_probs.exp()).clamp(MIN_RATIO, MAX_RATIO)
    divergence = (q * ratio.log()).sum(dim=1)
    if valid is None:
        return divergence.mean()
    _check_valid(valid, log_probs)
    weights = valid.to(divergence.dtype)
    return (divergence * weights).sum() / average_count(weights.sum()).clamp(min=1.0)


def pixel_cross_entropy(logits: Tensor, label_map: Tensor) -> Tensor:
    """Compute the mean cross-entropy over labelled pixels; 0 (with a graph) if there is none.

    Parameters
    ----------
    logits : (B, C, h, w) float
    label_map : (B, h, w) int64
        Class ids, 255 where unlabelled.

    Returns
    -------
    () float32
    """
    if label_map.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            "`label_map` must be (B, h, w) with the sizes of `logits` "
            f"{tuple(logits.shape)}, got {tuple(label_map.shape)}."
        )
    labelled = label_map != IGNORE_INDEX
    if train_together():  # all of them, or some would wait for a count that the others never send
        total = functional.cross_entropy(
            logits.float(), label_map, ignore_index=IGNORE_INDEX, reduction="sum"
        )
        return total / average_count(labelled.sum()).clamp(min=1.0)
    if not bool(labelled.any()):
        return logits.float().sum() * 0.0
    return functional.cross_entropy(logits.float(), label_map, ignore_index=IGNORE_INDEX)


def _check_same_shape(name: str, value: Tensor, log_probs: Tensor) -> None:
    if value.shape != log_probs.shape:
        raise ValueError(
            f"`{name}` must have the shape of `log_probs` {tuple(log_probs.shape)}, got {tuple(value.shape)}."
        )


def _check_valid(valid: Tensor, log_probs: Tensor) -> None:
    expected = (log_probs.shape[0], *log_probs.shape[2:])
    if valid.shape != expected or valid.dtype != torch.bool:
        raise ValueError(f"`valid` must be {tuple(expected)} bool, got {tuple(valid.shape)} {valid.dtype}.")
