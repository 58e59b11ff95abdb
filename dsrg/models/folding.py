"""Batch norms with fixed statistics, folded into the convolutions before them.

Such a norm is affine, channel by channel: scaling the convolution's weights instead of its output gives
the same values and the same gradients with one pass over the activations less. It happens while the norm
is in evaluation mode; in training mode nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from timm.layers.conv2d_same import Conv2dSame, conv2d_same
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional

from dsrg.models.depthwise import DepthwiseConv2d


class _SettledConvSame(nn.Conv2d):
    """A convolution with TensorFlow's padding, reckoned in integers.

    timm reckons it in floats, which a program that computes in bfloat16 rounds: 321 pixels become 20 cells.
    """

    def forward(self, x: Tensor) -> Tensor:
        sides = zip(x.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        (top, bottom), (left, right) = (_pad_same(*side) for side in sides)
        return super().forward(functional.pad(x, (left, right, top, bottom)))


def _pad_same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Reckon how many zeros come before and after; never less than none if a kernel covers its stride."""
    whole = ((size + stride - 1) // stride - 1) * stride + dilation * (kernel - 1) + 1 - size
    return whole // 2, whole - whole // 2


def _covers_stride(conv: nn.Module) -> bool:
    assert isinstance(conv, nn.Conv2d)
    sides = zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
    return all(dilation * (kernel - 1) + 1 >= stride for kernel, stride, dilation in sides)


class _ScaledConv(DepthwiseConv2d):
    """A convolution that does the work of its norm where the norm's statistics are fixed."""

    norm_after: tuple[nn.BatchNorm2d]  # in a tuple, so that it is not registered a second time

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_after[0].training:
            return super().forward(x)
        return self._conv_forward(x, *_scale(self, self.norm_after[0]))


class _ScaledConvSame(Conv2dSame):
    """The same for timm's convolution with TensorFlow's padding."""

    norm_after: tuple[nn.BatchNorm2d]

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_after[0].training:
            return cast(Tensor, super().forward(x))  # type: ignore[no-untyped-call]
        weight, bias = _scale(self, self.norm_after[0])
        settings = (self.stride, self.padding, self.dilation, self.groups)
        return cast(Tensor, conv2d_same(x, weight, bias, *settings))  # type: ignore[arg-type]


class _FoldedNorm(nn.BatchNorm2d):
    """A norm that leaves its work to the convolution before it where its statistics are fixed."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else x


class _FoldedNormAct(BatchNormAct2d):
    """The same for timm's norm with an activation."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return cast(Tensor, super().forward(x))  # type: ignore[no-untyped-call]
        return cast(Tensor, self.act(self.drop(x)))


_CONVS: dict[type, type] = {
    nn.Conv2d: _ScaledConv,
    DepthwiseConv2d: _ScaledConv,
    Conv2dSame: _ScaledConvSame,
}
_PLAIN: dict[type, type] = {
    _ScaledConv: nn.Conv2d,
    DepthwiseConv2d: nn.Conv2d,
    _ScaledConvSame: Conv2dSame,
}
_NORMS: dict[type, type] = {nn.BatchNorm2d: _FoldedNorm, BatchNormAct2d: _FoldedNormAct}


def fold_norms(module: nn.Module, run: Callable[[], Tensor]) -> int:
    """Let convolutions do the work of the batch norms right after them.

    Names, shapes and values of parameters and statistics stay as they are, so state dicts do as well.
    Which norm reads which convolution is seen in one run; a second run proves that the output is the same,
    and where it is not, because something else reads a convolution too, `module` is left as it was.

    Parameters
    ----------
    module : nn.Module
        Changed in place: classes of its convolutions and norms are replaced by subclasses.
    run : callable
        Runs `module` on some input and returns its output. Called in evaluation mode.

    Returns
    -------
    int
        Norms folded. Others (of another kind, or not right after a convolution) work as before.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            pairs, before = _find_pairs(module, run)
            kinds: dict[nn.Module, type] = {part: type(part) for pair in pairs.items() for part in pair}
            for conv, norm in pairs.items():
                conv.norm_after = (norm,)  # type: ignore[assignment]
                conv.__class__, norm.__class__ = _CONVS[type(conv)], _NORMS[type(norm)]
            if torch.allclose(before, run(), rtol=1e-3, atol=1e-3 * float(before.abs().max())):
                return len(pairs)
            for conv in pairs:
                del conv.norm_after
            for changed, kind in kinds.items():
                changed.__class__ = kind
            return 0
    finally:
        for part, mode in modes.items():
            part.training = mode


def settle_norms(module: nn.Module) -> nn.Module:
    """Write what folded norms do into the weights for good, for programs that only run the network.

    Parameters
    ----------
    module : nn.Module
        Changed in place: its convolutions become plain ones, its folded norms their activations.

    Returns
    -------
    nn.Module
        `module`. In evaluation mode its output is as before; it cannot be trained any more.
    """
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, _ScaledConv | _ScaledConvSame):
                weight, bias = _scale(part, part.norm_after[0])
                part.weight, part.bias = nn.Parameter(weight), nn.Parameter(bias)
    for part in [*module.modules()]:
        for name, child in part.named_children():
            if isinstance(child, _FoldedNormAct):
                setattr(part, name, nn.Sequential(child.drop, child.act))
            elif isinstance(child, _FoldedNorm):
                setattr(part, name, nn.Identity())
            elif isinstance(child, _ScaledConv | _ScaledConvSame):
                del child.norm_after
            kind = _PLAIN.get(type(child), type(child))
            child.__class__ = _SettledConvSame if kind is Conv2dSame and _covers_stride(child) else kind
    return module


def _scale(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Compute weights and bias of a convolution that include the norm after it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
    return conv.weight * scale.view(-1, 1, 1, 1), norm.bias - mean * scale


def _find_pairs(
    module: nn.Module, run: Callable[[], Tensor]
) -> tuple[dict[nn.Conv2d, nn.BatchNorm2d], Tensor]:
    """Find norms that are given the very output of a convolution; and the output of the run."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # with the tensor: its number is its own while it lives
    pairs: dict[nn.Conv2d, nn.BatchNorm2d] = {}

    def note_output(conv: nn.Module, _: object, output: Tensor) -> None:
        made[id(output)] = (cast(nn.Conv2d, conv), output)

    def note_input(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        norm = cast(nn.BatchNorm2d, norm)
        if id(inputs[0]) in made and norm.affine and norm.track_running_stats:
            pairs[made[id(inputs[0])][0]] = norm

    hooks = []
    for part in module.modules():
        if type(part) in _CONVS:
            hooks.append(part.register_forward_hook(note_output))
        elif type(part) in _NORMS:
            hooks.append(part.register_forward_pre_hook(note_input))
    try:
        output = run()
    finally:
        for hook in hooks:
            hook.remove()
    return pairs, output
