"""Losses against numbers worked out by hand and a float64 NumPy form of the official layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dsrg.losses import (
    balance_logits,
    balanced_seed_loss,
    boundary_loss,
    floor_log_probs,
    measure_log_odds,
    pixel_cross_entropy,
)


def draw_inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 4, 5, 3, generator=generator)
    seeds = torch.rand(2, 4, 5, 3, generator=generator) < 0.2
    refined = torch.softmax(4 * torch.randn(2, 4, 5, 3, generator=generator), dim=1)
    return logits, seeds, refined


def test_floored_probabilities_add_up_to_one_and_are_never_zero() -> None:
    probs = floor_log_probs(torch.tensor([[[[-1e4]], [[1e4]]]])).exp().flatten()
    assert probs.sum().item() == pytest.approx(1.0)
    assert probs[0].item() == pytest.approx(1e-4 / 1.0002, rel=1e-4)


def test_log_probs_are_float32_under_half_precision() -> None:
    assert floor_log_probs(torch.zeros(1, 2, 1, 1, dtype=torch.bfloat16)).dtype == torch.float32


def test_background_and_foreground_count_equally_whatever_their_sizes() -> None:
    log_probs = torch.log(
        torch.tensor([[[[0.5, 0.5, 0.5, 0.2]], [[0.3, 0.3, 0.3, 0.7]], [[0.2, 0.2, 0.2, 0.1]]]])
    )
    seeds = torch.zeros(1, 3, 1, 4, dtype=torch.bool)
    seeds[0, 0, 0, :3] = True
    seeds[0, 1, 0, 3] = True
    loss = balanced_seed_loss(log_probs, seeds).item()
    assert loss == pytest.approx(-math.log(0.5) - math.log(0.7), rel=1e-5)


def test_seed_loss_equals_the_official_formula() -> None:
    logits, seeds, _ = draw_inputs()
    log_probs = floor_log_probs(logits)
    lp, s = log_probs.double().numpy(), seeds.double().numpy()
    bg = -(lp * s)[:, 0].sum((1, 2)) / np.maximum(s[:, 0].sum((1, 2)), 1e-4)
    fg = -(lp * s)[:, 1:].sum((1, 2, 3)) / np.maximum(s[:, 1:].sum((1, 2, 3)), 1e-4)
    assert balanced_seed_loss(log_probs, seeds).item() == pytest.approx(bg.mean() + fg.mean(), rel=1e-5)


def test_log_odds_are_those_of_cues_whose_foreground_is_rare() -> None:
    shares = [(0.5, 0.01), (0.7, 0.03), (0.9, 0.0)]  # the last picture holds no class
    assert measure_log_odds(shares) == pytest.approx(math.log(0.7 / 0.02))
    assert measure_log_odds([(0.2, 0.6)]) == pytest.approx(math.log(0.2 / 0.6))
    assert measure_log_odds([(1.0, 0.0)]) == measure_log_odds([(0.0, 1.0)]) == measure_log_odds([]) == 0


def test_a_network_learns_how_common_classes_are_through_balanced_logits() -> None:
    """Where pixels look alike, the balanced loss alone ends at 1/2, with log-odds taken off at the share."""
    seeds = torch.zeros(1, 2, 10, 10, dtype=torch.bool)
    seeds[0, 0] = True
    seeds[0, :, 0] = False
    seeds[0, 1, 0] = True  # a tenth is foreground
    log_odds = measure_log_odds([(0.9, 0.1)])
    for given, expected in ((0.0, 0.5), (log_odds, 0.1), (log_odds / 2, 0.25)):
        bias = torch.zeros(2, requires_grad=True)
        optimizer = torch.optim.LBFGS([bias], max_iter=100)
        _minimise(optimizer, bias, seeds, given)
        assert torch.softmax(bias, 0)[1].item() == pytest.approx(expected, abs=1e-3)


def _minimise(optimizer: torch.optim.LBFGS, bias: Tensor, seeds: Tensor, log_odds: float) -> None:
    def close() -> float:
        optimizer.zero_grad()
        logits = bias[None, :, None, None].expand(1, 2, 10, 10)
        loss = balanced_seed_loss(floor_log_probs(balance_logits(logits, log_odds=log_odds)), seeds)
        loss.backward()
        return loss.item()

    optimizer.step(close)


def test_an_image_without_seeds_adds_nothing_and_no_nan() -> None:
    logits, seeds, _ = draw_inputs()
    logits.requires_grad_()
    loss = balanced_seed_loss(floor_log_probs(logits), torch.zeros_like(seeds))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_boundary_loss_equals_the_official_formula() -> None:
    logits, _, refined = draw_inputs()
    refined = refined * (torch.arange(4) != 3).view(1, 4, 1, 1)  # an absent class
    log_probs = floor_log_probs(logits)
    q = np.maximum(refined.double().numpy(), 1e-4)
    q /= q.sum(axis=1, keepdims=True)
    ratio = np.clip(q / log_probs.double().exp().numpy(), 0.05, 20.0)
    expected = (q * np.log(ratio)).sum(axis=1).mean()
    assert boundary_loss(log_probs, refined).item() == pytest.approx(expected, rel=1e-5)


def test_boundary_loss_vanishes_where_both_agree() -> None:
    log_probs = floor_log_probs(draw_inputs()[0])
    assert boundary_loss(log_probs, log_probs.exp()).item() == pytest.approx(0.0, abs=1e-4)


def test_no_gradient_flows_through_the_refined_probabilities_or_the_clipped_ratios() -> None:
    refined = torch.tensor([[[[0.5]], [[0.5]]]], requires_grad=True)
    log_probs = torch.log(torch.tensor([[[[0.99]], [[0.01]]]])).requires_grad_()
    boundary_loss(log_probs, refined).backward()
    assert refined.grad is None
    assert log_probs.grad is not None
    assert log_probs.grad[0, 0].item() == pytest.approx(-0.5)
    assert log_probs.grad[0, 1].item() == 0.0  # q / p = 50 is clipped to 20


@pytest.mark.parametrize("loss", ["seed", "boundary"])
def test_pixels_that_are_not_valid_never_matter(loss: str) -> None:
    logits, seeds, refined = draw_inputs()
    valid = torch.ones(2, 5, 3, dtype=torch.bool)
    valid[:, 3:] = False
    other_logits, other_seeds, other_refined = draw_inputs(seed=1)
    for ours, theirs in ((logits, other_logits), (seeds, other_seeds), (refined, other_refined)):
        theirs[:, :, :3] = ours[:, :, :3]
    if loss == "seed":
        values = [
            balanced_seed_loss(floor_log_probs(lg), s, valid)
            for lg, s in ((logits, seeds), (other_logits, other_seeds))
        ]
        cut = balanced_seed_loss(floor_log_probs(logits[:, :, :3]), seeds[:, :, :3])
    else:
        values = [
            boundary_loss(floor_log_probs(lg), q, valid)
            for lg, q in ((logits, refined), (other_logits, other_refined))
        ]
        cut = boundary_loss(floor_log_probs(logits[:, :, :3]), refined[:, :, :3])
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], cut)


def test_no_valid_pixel_gives_zero() -> None:
    logits, _, refined = draw_inputs()
    nowhere = torch.zeros(2, 5, 3, dtype=torch.bool)
    assert boundary_loss(floor_log_probs(logits), refined, nowhere).item() == 0.0


def test_losses_pass_a_numeric_gradient_check() -> None:
    _, seeds, refined = draw_inputs()
    log_probs = torch.log_softmax(torch.randn(2, 4, 5, 3, dtype=torch.float64), dim=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda lp: balanced_seed_loss(lp, seeds), log_probs)
    assert torch.autograd.gradcheck(lambda lp: boundary_loss(lp, refined.double()), log_probs)


def test_cross_entropy_leaves_unlabelled_pixels_out() -> None:
    logits = torch.tensor([[[[0.0, 9.0]], [[0.0, -9.0]]]])
    label_map = torch.tensor([[[1, 255]]])
    assert pixel_cross_entropy(logits, label_map).item() == pytest.approx(math.log(2))


def test_cross_entropy_of_nothing_is_zero_with_a_graph() -> None:
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 3, 3), 255))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_errors_name_the_argument() -> None:
    log_probs = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"`seeds` must have the shape of `log_probs` \(1, 2, 3, 4\)"):
        balanced_seed_loss(log_probs, torch.zeros(1, 2, 4, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="`refined_probs` must have the shape"):
        boundary_loss(log_probs, torch.zeros(1, 3, 3, 4))
    with pytest.raises(ValueError, match=r"`valid` must be \(1, 3, 4\) bool"):
        boundary_loss(log_probs, log_probs, torch.ones(1, 3, 4))
    with pytest.raises(ValueError, match=r"`label_map` must be \(B, h, w\) .*got \(1, 4, 3\)"):
        pixel_cross_entropy(log_probs, torch.zeros(1, 4, 3, dtype=torch.int64))
