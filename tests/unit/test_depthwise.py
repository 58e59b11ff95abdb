"""Depthwise convolutions with gradients of their own: PyTorch's values, whatever the shape."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_data import torch_threads
from torch import Tensor, nn

from dsrg.models.depthwise import DepthwiseConv2d, _is_served


def build_pair(channels: int, size: int, dilation: int, **settings: Any) -> tuple[nn.Conv2d, nn.Conv2d]:
    """PyTorch's and ours, with the same weights."""
    same = dilation * (size // 2)
    torch.manual_seed(0)
    settings = {"padding": same, "dilation": dilation, "groups": channels, **settings}
    theirs = nn.Conv2d(channels, channels, size, **settings)
    ours = DepthwiseConv2d(channels, channels, size, **settings)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    return theirs, ours


def differentiate(conv: nn.Conv2d, x: Tensor) -> list[Tensor]:
    """Output and all gradients of a loss that weighs every output differently."""
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    conv.zero_grad()
    output = conv(leaf)
    (output * torch.linspace(-1, 1, output.numel()).reshape(output.shape)).sum().backward()
    found = [output.detach(), leaf.grad, conv.weight.grad, conv.bias.grad if conv.bias is not None else None]
    return [one.clone() for one in found if one is not None]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    ("channels", "size", "dilation", "height", "width"),
    [
        (64, 3, 2, 10, 10),
        (130, 5, 2, 7, 12),  # blocks that overlap, a picture that is not square
        (96, 5, 1, 9, 5),
        (64, 3, 6, 11, 8),  # reaches far beyond the edge
        (64, 3, 9, 5, 4),  # sees nothing but its centre
        (64, 5, 3, 1, 1),
    ],
)
def test_values_and_gradients_are_those_of_pytorch(
    channels: int, size: int, dilation: int, height: int, width: int, layout: Any, bias: bool
) -> None:
    theirs, ours = build_pair(channels, size, dilation, bias=bias)
    x = torch.randn(3, channels, height, width).contiguous(memory_format=layout)
    assert _is_served(ours, x)
    for found, expected in zip(differentiate(ours, x), differentiate(theirs, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "size", "dilation", "settings"),
    [
        (64, 3, 1, {}),  # PyTorch's is fast
        (64, 5, 2, {"stride": 2}),
        (64, 5, 2, {"padding": 1}),
        (64, 5, 2, {"groups": 1}),
        (64, 5, 2, {"padding_mode": "reflect"}),
        (8, 5, 2, {}),
        (64, 4, 2, {}),
    ],
)
def test_everything_else_is_left_to_pytorch(
    channels: int, size: int, dilation: int, settings: dict[str, Any]
) -> None:
    theirs, ours = build_pair(channels, size, dilation, **settings)
    x = torch.randn(2, channels, 12, 12)
    assert not _is_served(ours, x)
    for found, expected in zip(differentiate(ours, x), differentiate(theirs, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_other_types_are_left_to_pytorch() -> None:
    _, ours = build_pair(64, 3, 2)
    x = torch.randn(1, 64, 8, 8)
    assert not _is_served(ours, x.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not _is_served(ours, x)


@pytest.mark.filterwarnings("ignore")  # PyTorch wants torch.export instead
def test_a_trace_fits_other_sizes() -> None:
    theirs, ours = build_pair(64, 5, 4)
    with torch.no_grad():
        traced = torch.jit.trace(ours, torch.randn(1, 64, 8, 8))  # type: ignore[no-untyped-call]
        larger = torch.randn(2, 64, 21, 13)
        torch.testing.assert_close(traced(larger), theirs(larger), rtol=1e-5, atol=1e-5)


def test_the_number_of_threads_changes_no_bit() -> None:
    _, ours = build_pair(200, 5, 2)
    x = torch.randn(2, 200, 10, 10)
    with torch_threads(1):
        alone = differentiate(ours, x)[2]
    with torch_threads(3):
        shared = differentiate(ours, x)[2]
    assert torch.equal(alone, shared)


def test_gradients_that_nobody_asks_for_are_not_computed() -> None:
    _, ours = build_pair(64, 3, 2)
    ours.weight.requires_grad_(False)
    x = torch.randn(1, 64, 8, 8, requires_grad=True)
    ours(x).sum().backward()
    assert x.grad is not None
    assert ours.weight.grad is None
