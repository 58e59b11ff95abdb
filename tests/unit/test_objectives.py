"""What the segmenter learns from: grown seeds in round 1, label maps later."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_data import CRF, build_tiny_backbone
from torch import Tensor, nn

from dsrg.models.segmenter import Segmenter
from dsrg.objectives import LabelLoss, SeedingLoss, refine_on_grid, shrink_label_maps, spread_classes


def draw(text: str) -> NDArray[np.uint8]:
    """Digits are classes, a dot is unlabelled."""
    rows = text.split()
    return np.array([[255 if letter == "." else int(letter) for letter in row] for row in rows], np.uint8)


def shrink(text: str, grid: tuple[int, int]) -> str:
    planes = shrink_label_maps(torch.from_numpy(draw(text).astype(np.int64))[None], grid, num_classes=3)
    assert planes.dtype == torch.bool
    assert int(planes.sum(1).max()) <= 1
    labelled = planes[0].any(0)
    classes = planes[0].int().argmax(0)
    return " ".join(
        "".join(str(int(c)) if known else "." for c, known in zip(row, row_known, strict=True))
        for row, row_known in zip(classes, labelled, strict=True)
    )


@pytest.mark.parametrize(
    ("label_map", "grid", "expected"),
    [
        ("0011 0011 2222 2222", (2, 2), "01 22"),
        ("01.. 112. 0... ....", (2, 2), "1. .."),  # three of four; one of four
        ("1... 1..2 .... ..22", (2, 2), "1. .2"),  # two of four: the class wins the tie
        (".... .... .... ....", (2, 2), ".. .."),
        ("012 012 012", (3, 3), "012 012 012"),
        ("001122", (1, 3), "012"),
        ("0 1 2", (3, 1), "0 1 2"),
    ],
)
def test_a_cell_takes_what_most_of_its_pixels_are(
    label_map: str, grid: tuple[int, int], expected: str
) -> None:
    assert shrink(label_map, grid) == expected


@pytest.mark.parametrize(
    "function", [spread_classes, lambda maps, c: shrink_label_maps(maps, (1, 1), num_classes=c)]
)
def test_a_class_that_there_is_not_is_no_label(function: Any) -> None:
    with pytest.raises(ValueError, match="classes under 3 and 255, got 7"):
        function(torch.tensor([[[0, 7], [255, 1]]]), 3)


@pytest.mark.parametrize(("size", "grid"), [((24, 16), (6, 4)), ((24, 16), (5, 7)), ((9, 9), (9, 9))])
def test_the_vote_is_that_of_shares(size: tuple[int, int], grid: tuple[int, int]) -> None:
    label_maps = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 4, 255], (3, *size)))
    marked = torch.where(label_maps == 255, 5, label_maps)
    votes = torch.nn.functional.one_hot(marked, 6).permute(0, 3, 1, 2).float()
    winner = torch.nn.functional.adaptive_avg_pool2d(votes, grid).argmax(1)
    planes = shrink_label_maps(label_maps, grid, num_classes=5)
    for c in range(5):
        torch.testing.assert_close(planes[:, c], winner == c)


def test_a_tie_of_classes_goes_to_the_lower_one() -> None:
    assert shrink("21 21", (1, 1)) == "1"


def test_absent_classes_get_nothing_on_the_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    probs = torch.softmax(torch.rand(2, 4, 6, 5, generator=generator), dim=1)
    images = torch.rand(2, 3, 24, 20, generator=generator)
    refined = refine_on_grid(probs, images, torch.tensor([[False, True, False], [False] * 3]), crf=CRF)
    assert refined.shape == probs.shape
    assert refined.dtype == torch.float32
    assert not refined.requires_grad
    assert float(refined[0, [1, 3]].abs().max()) == 0
    assert float(refined[1, 1:].abs().max()) == 0
    torch.testing.assert_close(refined.sum(1), torch.ones(2, 6, 5))


# -- losses ------------------------------------------------------------------------------------


def build_segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(
        build_tiny_backbone(),
        num_classes=3,
        aspp_channels=6,
        aspp_rates=(1, 2),
        aspp_separable=True,
        dropout=0.0,
        skip_channels=4,
        input_size=32,
    ).eval()


def make_batch(label_maps: Tensor, image_labels: list[list[int]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(len(label_maps), 3, 32, 32, generator=generator)
    valid = torch.ones(label_maps.shape, dtype=torch.bool)
    return [images, label_maps, torch.tensor(image_labels, dtype=torch.bool), valid]


def build_seeding(**changes: Any) -> SeedingLoss:
    settings: dict[str, Any] = {
        "num_classes": 3,
        "fg_threshold": 0.85,
        "bg_threshold": 0.99,
        "grow_on": "probs",
        "log_odds": 0.0,
        "boundary_weight": 1.0,
        "crf": CRF,
    }
    return SeedingLoss(**{**settings, **changes})


def measure_gradients(model: nn.Module, loss: Tensor) -> list[float]:
    model.zero_grad()
    loss.backward()
    return [float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None]


UNLABELLED = torch.full((2, 32, 32), 255)


def draw_cues() -> Tensor:
    cues = UNLABELLED.clone()
    cues[:, :8] = 0
    cues[0, 16:24, 8:24] = 2
    return cues


@pytest.mark.parametrize("grow_on", ["probs", "refined"])
@pytest.mark.parametrize("boundary_weight", [0.0, 1.0])
def test_seeding_gives_a_finite_gradient_and_names_its_terms(grow_on: str, boundary_weight: float) -> None:
    model = build_segmenter()
    loss, terms = build_seeding(grow_on=grow_on, boundary_weight=boundary_weight)(
        model, make_batch(draw_cues(), [[0, 1], [0, 0]])
    )
    assert math.isfinite(float(loss.detach()))
    expected = {"seed_loss", "cue_share", "seed_share"} | ({"boundary_loss"} if boundary_weight else set())
    assert set(terms) == expected
    assert 0 < terms["cue_share"] <= terms["seed_share"] <= 1
    gradients = measure_gradients(model, loss)
    assert all(math.isfinite(value) for value in gradients)
    assert sum(gradients) > 0


@pytest.mark.parametrize("boundary_weight", [0.0, 1.0])
def test_a_batch_without_any_cue_does_no_harm(boundary_weight: float) -> None:
    model = build_segmenter()
    loss, terms = build_seeding(boundary_weight=boundary_weight)(
        model, make_batch(UNLABELLED, [[1, 1], [0, 0]])
    )
    assert terms["seed_loss"] == terms["cue_share"] == terms["seed_share"] == 0
    assert all(math.isfinite(value) for value in measure_gradients(model, loss))


def test_seeds_grow_as_far_as_the_network_is_sure() -> None:
    class Sure(nn.Module):
        """Says class 2 in the right half, background in the left."""

        def forward(self, images: Tensor) -> Tensor:
            logits = torch.zeros(len(images), 3, 8, 8)
            logits[:, 2, :, 4:] = 20
            logits[:, 0, :, :4] = 20
            return logits.requires_grad_()

    cues = UNLABELLED.clone()
    cues[:, :4, 28:] = 2  # one cell in the corner
    loss = build_seeding(boundary_weight=0.0)
    _, terms = loss(Sure(), make_batch(cues, [[0, 1], [0, 1]]))
    assert terms["cue_share"] == pytest.approx(1 / 64)
    assert terms["seed_share"] == pytest.approx(0.5)
    _, terms = loss(Sure(), make_batch(cues, [[0, 1], [1, 0]]))
    assert terms["seed_share"] == pytest.approx((0.5 + 1 / 64) / 2)
    _, terms = build_seeding(boundary_weight=0.0, grow_on="none")(Sure(), make_batch(cues, [[0, 1], [0, 1]]))
    assert terms["seed_share"] == terms["cue_share"] == pytest.approx(1 / 64)


@pytest.mark.parametrize("boundary_weight", [0.0, 1.0])
def test_later_rounds_learn_from_label_maps(boundary_weight: float) -> None:
    model = build_segmenter()
    loss, terms = LabelLoss(balance="none", log_odds=0.0, boundary_weight=boundary_weight, crf=CRF)(
        model, make_batch(draw_cues(), [[0, 1], [0, 0]])
    )
    assert terms["cross_entropy"] == pytest.approx(math.log(3), abs=0.5)
    assert ("boundary_loss" in terms) == bool(boundary_weight)
    assert sum(measure_gradients(model, loss)) > 0


def test_later_rounds_are_as_balanced_as_the_first() -> None:
    """A tenth of alike pixels is foreground: the network ends at 1/10, or part of the way to 1/2."""

    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2))

        def forward(self, images: Tensor) -> Tensor:
            return self.bias[None, :, None, None].expand(len(images), 2, 10, 10)

    label_map = torch.zeros(1, 10, 10, dtype=torch.int64)
    label_map[0, 0] = 1
    shares = math.log(0.9 / 0.1)
    for followed, expected in ((1.0, 0.1), (0.5, 0.25), (0.0, 0.5)):
        model = Bias()
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100)
        criterion = LabelLoss(balance="picture", log_odds=followed * shares, boundary_weight=0.0, crf=CRF)

        def close() -> float:
            optimizer.zero_grad()  # noqa: B023
            loss, _ = criterion(model, make_batch(label_map, [[1]]))  # noqa: B023
            loss.backward()
            return float(loss.detach())

        optimizer.step(close)
        assert torch.softmax(model.bias, 0)[1].item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("balance", ["none", "picture"])
def test_unlabelled_pictures_teach_nothing_in_later_rounds(balance: Any) -> None:
    model = build_segmenter()
    criterion = LabelLoss(balance=balance, log_odds=0.7, boundary_weight=0.0, crf=CRF)
    loss, terms = criterion(model, make_batch(UNLABELLED, [[1, 1], [0, 0]]))
    assert list(terms.values()) == [0]
    assert sum(measure_gradients(model, loss)) == 0


def test_classes_get_planes_and_unlabelled_pixels_none() -> None:
    planes = spread_classes(torch.tensor([[[0, 2], [255, 1]]]), 3)
    assert planes.shape == (1, 3, 2, 2)
    assert planes.sum(1).tolist() == [[[1, 1], [0, 1]]]
    assert planes.int().argmax(1)[0, 0].tolist() == [0, 2]


def test_padding_neither_grows_nor_counts() -> None:
    cues = torch.full((1, 32, 32), 255)
    cues[:, 0, 0] = 0
    batch = make_batch(cues, [[0, 0]])
    batch[3][:, :, 16:] = False

    class Sure(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack(
                [torch.full((1, 32, 32), 20.0), torch.zeros(1, 32, 32), torch.zeros(1, 32, 32)], 1
            )

    _, terms = build_seeding(boundary_weight=0.0)(Sure(), batch)
    assert terms["seed_share"] == pytest.approx(0.5)
