"""Depthwise convolutions that are fast on CPUs.

PyTorch's gradients take up to ten times as long as they could where kernels are dilated, and twice where they
are large: for EfficientNet-Lite0 at an output stride of 16, a third of a training step. Where kernels reach
far beyond the edge, as at an output stride of 8, inference takes up to fifty times as long too. Nothing else
changes: names, shapes and values of parameters, and what GPUs do.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dsrg.threads import run_in_threads

_NEAR = 4  # pixels: with kernels that are dilated and reach further, PyTorch takes ten to fifty times as long
_CHANNELS = 64  # at a time; a constant, and this one, because then the compiler vectorises the innermost loop


class DepthwiseConv2d(nn.Conv2d):
    """A convolution like any other; if it is depthwise and keeps the size, fast on CPUs."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _is_served(self, x):
            return cast(Tensor, super()._conv_forward(x, weight, bias))
        if not torch.is_grad_enabled():
            return _convolve(x, weight, bias, self.dilation[0])
        arguments = (x, weight, bias, self.dilation[0])
        return cast(Tensor, _DepthwiseConvolution.apply(*arguments))


def _is_served(conv: nn.Conv2d, x: Tensor) -> bool:
    size, dilation = conv.kernel_size[0], conv.dilation[0]
    same = dilation * (size // 2)
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        # what is done depends on the size of `x`, which a trace would fix
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.compiler.is_compiling()
        and conv.groups == conv.in_channels == conv.out_channels >= _CHANNELS
        and conv.kernel_size == (size, size)
        and size % 2 == 1
        and (dilation > 1 or size > 3)
        and conv.stride == (1, 1)
        and conv.dilation == (dilation, dilation)
        and conv.padding == (same, same)
        and conv.padding_mode == "zeros"
    )


class _DepthwiseConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return _convolve(x, weight, bias, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        grad = grad.contiguous(memory_format=torch.channels_last)
        if ctx.needs_input_grad[0]:
            of_x = _convolve(grad, weight.flip((2, 3)), None, ctx.dilation)
        if ctx.needs_input_grad[1]:
            of_weight = _correlate(x, grad, weight.shape[-1], ctx.dilation)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    size, (count, channels, height, width) = weight.shape[-1], x.shape
    same = dilation * (size // 2)
    if dilation == 1 or same <= _NEAR:
        return functional.conv2d(x, weight, bias, padding=same, dilation=dilation, groups=channels)
    # every dilation-th pixel by itself
    rows, columns = -(-height // dilation), -(-width // dilation)
    padded = functional.pad(
        x.permute(0, 2, 3, 1), (0, 0, 0, columns * dilation - width, 0, rows * dilation - height)
    )
    parts = padded.reshape(count, rows, dilation, columns, dilation, channels).permute(2, 4, 0, 1, 3, 5)
    parts = parts.reshape(-1, rows, columns, channels).permute(0, 3, 1, 2)
    parts = functional.conv2d(parts, weight, bias, padding=size // 2, groups=channels).permute(0, 2, 3, 1)
    whole = parts.reshape(dilation, dilation, count, rows, columns, channels).permute(2, 3, 0, 4, 1, 5)
    whole = whole.reshape(count, rows * dilation, columns * dilation, channels)[:, :height, :width]
    return whole.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _correlate(x: Tensor, grad: Tensor, size: int, dilation: int) -> Tensor:
    """Compute the gradient of weights (C, 1, size, size) in as many threads as torch has."""
    _, channels, height, width = x.shape
    near, here = (_list_pixels(tensor) for tensor in (x, grad))
    found = np.empty((size, size, channels), np.float32)
    # the last block overlaps the one before where channels are no multiple
    starts = np.minimum(np.arange(0, channels, _CHANNELS), channels - _CHANNELS)

    def correlate(part: NDArray[np.int64]) -> None:
        _correlate_blocks(near, here, height, width, dilation, part, found)

    threads = min(torch.get_num_threads(), len(starts))
    run_in_threads(correlate, np.array_split(starts, threads), threads=threads)
    return torch.from_numpy(found).permute(2, 0, 1)[:, None]


def _list_pixels(x: Tensor) -> NDArray[np.float32]:
    """View (N, C, H, W) as (N, H * W, C)."""
    pixels = x.detach().contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    listed: NDArray[np.float32] = pixels.reshape(len(x), -1, x.shape[1]).numpy()
    return listed


@njit(cache=True, nogil=True, fastmath=True)
def _correlate_blocks(
    x: NDArray[np.float32],
    grad: NDArray[np.float32],
    height: int,
    width: int,
    dilation: int,
    starts: NDArray[np.int64],
    found: NDArray[np.float32],
) -> None:
    """Correlate x and grad (N, H * W, C) over all shifts of a kernel, into found (size, size, C)."""
    size = found.shape[0]
    reach = dilation * (size // 2)
    total = np.empty((size * size, _CHANNELS), np.float32)
    # a block of one picture, so that it stays in the fastest cache for all shifts
    near = np.empty((height * width, _CHANNELS), np.float32)
    here = np.empty((height * width, _CHANNELS), np.float32)
    for start in starts:
        for shift in range(size * size):
            for c in range(_CHANNELS):
                total[shift, c] = 0
        for picture in range(len(x)):
            for pixel in range(height * width):
                for c in range(_CHANNELS):
                    near[pixel, c] = x[picture, pixel, start + c]
                    here[pixel, c] = grad[picture, pixel, start + c]
            for shift in range(size * size):
                down = dilation * (shift // size) - reach
                right = dilation * (shift % size) - reach
                for row in range(max(0, -down), min(height, height - down)):
                    for column in range(max(0, -right), min(width, width - right)):
                        pixel = row * width + column
                        other = pixel + down * width + right
                        for c in range(_CHANNELS):
                            total[shift, c] += near[other, c] * here[pixel, c]
        for shift in range(size * size):
            for c in range(_CHANNELS):
                found[shift // size, shift % size, start + c] = total[shift, c]
