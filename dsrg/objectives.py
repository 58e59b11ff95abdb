"""What each network learns from: a batch and a model in, one loss and its named terms out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsrg.crf import refine_batch
from dsrg.dense_field import refine_densely
from dsrg.growing import grow_seeds_batch
from dsrg.labels import IGNORE_INDEX, list_present
from dsrg.losses import (
    balance_logits,
    balanced_seed_loss,
    boundary_loss,
    floor_log_probs,
    pixel_cross_entropy,
)


class SeedingLoss:
    """Round 1: grow the cues by what the network sees, then learn from the grown seeds.

    Parameters
    ----------
    num_classes : int
        ``C``.
    fg_threshold, bg_threshold : float
        Growing thresholds; see :func:`dsrg.growing.grow_seeds`.
    grow_on : {"probs", "refined", "none"}
        Grow by the network's own probabilities, or by their CRF refinement as the official code does;
        ``none`` learns from the cues as they are.
    log_odds : float
        What the seed loss sees is :func:`dsrg.losses.balance_logits`; 0 as published.
    boundary_weight : float
        Weight of the boundary loss; 0 leaves it out.
    crf : mapping
        Keyword values of `refine_on_grid`, in cells of the network's grid.

    References
    ----------
    .. [1] Huang et al., "Weakly-Supervised Semantic Segmentation Network with Deep Seeded Region
       Growing", CVPR 2018, section 3; official ``pylayers.py``.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        fg_threshold: float,
        bg_threshold: float,
        grow_on: Literal["probs", "refined", "none"],
        log_odds: float,
        boundary_weight: float,
        crf: Mapping[str, Any],
    ) -> None:
        self.num_classes = num_classes
        self.log_odds = log_odds
        self.thresholds = {"fg_threshold": fg_threshold, "bg_threshold": bg_threshold}
        self.grow_on = grow_on
        self.boundary_weight = boundary_weight
        self.crf = crf

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        images, cue_maps, image_labels, valid_pixels = batch
        logits = model(images).float()
        log_probs = floor_log_probs(logits)
        grid = log_probs.shape[-2:]
        valid = shrink_valid(valid_pixels, grid)
        cues = shrink_label_maps(cue_maps, grid, num_classes=self.num_classes)
        presents = [list_present(row) for row in image_labels.cpu().numpy()]
        probs = log_probs.detach().exp()
        refined = None
        if self.boundary_weight or self.grow_on == "refined":
            refined = refine_on_grid(probs, images, image_labels, crf=self.crf)
        seeds = cues.cpu().numpy()
        if self.grow_on != "none":
            grown_by = refined if self.grow_on == "refined" and refined is not None else probs
            grown_by = grown_by * valid[:, None]  # nothing is confident on padding, so nothing grows there
            seeds = grow_seeds_batch(seeds, grown_by.cpu().numpy(), presents, **self.thresholds)
        balanced = floor_log_probs(balance_logits(logits, log_odds=self.log_odds))
        loss = seed = balanced_seed_loss(balanced, torch.from_numpy(seeds).to(images.device), valid)
        terms = {
            "seed_loss": float(seed.detach()),
            "cue_share": float(cues.any(1).float().mean()),
            "seed_share": float(seeds.any(1).mean()),
        }
        if self.boundary_weight and refined is not None:
            boundary = boundary_loss(log_probs, refined, valid)
            loss = loss + self.boundary_weight * boundary
            terms["boundary_loss"] = float(boundary.detach())
        return loss, terms


class LabelLoss:
    """Later rounds (and the reference): learn from label maps at full crop size.

    Parameters
    ----------
    balance : {"none", "picture"}
        Cross-entropy of all pixels, as published; or background and foreground of each picture each by
        their own mean, as in round 1.
    log_odds : float
        Of balance "picture": what the loss sees is :func:`dsrg.losses.balance_logits`.
    boundary_weight : float
        Weight of the boundary loss; 0 leaves it out.
    crf : dict
        As for :class:`SeedingLoss`.
    """

    def __init__(
        self,
        *,
        balance: Literal["none", "picture"],
        log_odds: float,
        boundary_weight: float,
        crf: Mapping[str, Any],
    ) -> None:
        self.balance = balance
        self.log_odds = log_odds
        self.boundary_weight = boundary_weight
        self.crf = crf

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        images, label_maps, image_labels, valid_pixels = batch
        logits = model(images).float()
        large = functional.interpolate(
            logits, size=label_maps.shape[-2:], mode="bilinear", align_corners=False
        )
        if self.balance == "none":
            loss = pixel_cross_entropy(large, label_maps)
            terms = {"cross_entropy": float(loss.detach())}
        else:
            balanced = floor_log_probs(balance_logits(large, log_odds=self.log_odds))
            loss = balanced_seed_loss(balanced, spread_classes(label_maps, logits.shape[1]))
            terms = {"label_loss": float(loss.detach())}
        if self.boundary_weight:
            log_probs = floor_log_probs(logits)
            valid = shrink_valid(valid_pixels, log_probs.shape[-2:])
            refined = refine_on_grid(log_probs.detach().exp(), images, image_labels, crf=self.crf)
            boundary = boundary_loss(log_probs, refined, valid)
            loss = loss + self.boundary_weight * boundary
            terms["boundary_loss"] = float(boundary.detach())
        return loss, terms


def spread_classes(label_maps: Tensor, num_classes: int) -> Tensor:
    """Give each class a plane: (B, H, W) int64, 255 where unlabelled, to (B, C, H, W) bool."""
    ids = torch.arange(num_classes, device=label_maps.device)
    return _mark_unlabelled(label_maps, num_classes)[:, None] == ids[:, None, None]


def _mark_unlabelled(label_maps: Tensor, num_classes: int) -> Tensor:
    """Write `num_classes` for 255, so that nothing larger is left."""
    marked = torch.where(label_maps == IGNORE_INDEX, num_classes, label_maps)
    largest = int(marked.max())
    if largest > num_classes:
        raise ValueError(f"`label_maps` must hold classes under {num_classes} and 255, got {largest}")
    return marked


def shrink_label_maps(label_maps: Tensor, grid: Sequence[int], *, num_classes: int) -> Tensor:
    """Bring label maps to the network's grid: a cell takes the class that most of its pixels have.

    Unlabelled pixels vote as well, so that a cell is labelled only where it is mostly labelled.

    Parameters
    ----------
    label_maps : (B, H, W) int64
    grid : (rows, columns)

    Returns
    -------
    (B, C, h, w) bool
    """
    marked = _mark_unlabelled(label_maps, num_classes)
    count, height, width = label_maps.shape
    rows, columns = grid
    if height % rows or width % columns:  # cells overlap
        votes = functional.one_hot(marked, num_classes + 1).permute(0, 3, 1, 2).float()
        winner = functional.adaptive_avg_pool2d(votes, (rows, columns)).argmax(1)
    else:
        down = torch.arange(height, device=marked.device) // (height // rows)
        across = torch.arange(width, device=marked.device) // (width // columns)
        cells = torch.arange(count, device=marked.device)[:, None, None] * rows * columns
        cells = cells + down[:, None] * columns + across
        ballots = (cells * (num_classes + 1) + marked).flatten()
        votes = torch.bincount(ballots, minlength=count * rows * columns * (num_classes + 1))
        winner = votes.view(count, rows, columns, num_classes + 1).argmax(-1)
    return spread_classes(winner, num_classes)


def shrink_valid(valid: Tensor, grid: Sequence[int]) -> Tensor:
    """Tell which cells lie mostly on the picture: (B, H, W) bool to (B, h, w) bool."""
    return functional.adaptive_avg_pool2d(valid[:, None].float(), (grid[0], grid[1]))[:, 0] > 0.5


def refine_on_grid(probs: Tensor, images: Tensor, image_labels: Tensor, *, crf: Mapping[str, Any]) -> Tensor:
    """Refine the network's probabilities by a CRF on pictures shrunk to its grid.

    Parameters
    ----------
    probs : (B, C, h, w) float
        No gradient flows through.
    images : (B, 3, H, W) float
        RGB in [0, 1].
    image_labels : (B, K) bool
        Foreground classes of each picture; the others get probability 0.
    crf : mapping
        Keyword values of :func:`dsrg.crf.refine_probs`. Its `solver` may be ``dense`` as well,
        :func:`dsrg.dense_field.refine_densely`, or ``auto``: dense on a GPU, which nothing has to leave
        for it, and the lattice on a CPU.

    Returns
    -------
    (B, C, h, w) float32, on the device of `probs`
    """
    small = functional.interpolate(images.float(), size=probs.shape[-2:], mode="area")
    pixels = (small * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
    settings = {name: value for name, value in crf.items() if name != "solver"}
    solver = crf.get("solver", "auto")
    if solver == "auto":
        solver = "lattice" if probs.device.type == "cpu" else "dense"
    if solver == "dense":
        return refine_densely(probs, pixels, image_labels, **settings)
    presents = [list_present(row) for row in image_labels.cpu().numpy()]
    refined = refine_batch(
        probs.float().cpu().numpy(), pixels.cpu().numpy(), presents, **settings, solver=solver
    )
    return torch.from_numpy(refined).to(probs.device)
