"""Segmenters for other programs: ONNX, TorchScript and ExportedProgram, and how well a file agrees.

All three hold the same function of pictures of any number and size, normalisation included.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional

from dsrg.models import Segmenter
from dsrg.models.folding import settle_norms
from dsrg.networks import CELLS, INPUT, write_about

FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "exported": ".pt2"}
OUTPUTS = ("label", "probs", CELLS)
_SMALLEST = 32

Answer = tuple[NDArray[Any], ...]
Run = Callable[[NDArray[np.float32]], Answer]


class Exportable(nn.Module):
    """A segmenter as a function of pictures as people have them.

    Parameters
    ----------
    segmenter : Segmenter
        Not modified.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = _spell_out(settle_norms(copy.deepcopy(segmenter).cpu())).eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw pictures.

        Parameters
        ----------
        image : (N, H, W, 3) float32
            RGB in [0, 255].

        Returns
        -------
        label : (N, H, W) uint8
            Likeliest class ids.
        probs : (N, C, H, W) float32
            Class probabilities.
        cells : (N, C, h, w) float32
            The same on the network's grid, before they were interpolated.
        """
        pixels = image.permute(0, 3, 1, 2).contiguous() / 255
        cells = torch.softmax(self.segmenter(pixels), dim=1)
        probs = functional.interpolate(cells, size=pixels.shape[-2:], mode="bilinear", align_corners=False)
        return probs.argmax(dim=1).to(torch.uint8), probs, cells


class _SpelledConvSame(nn.Module):
    """timm's convolution with TensorFlow's padding, in whole numbers: an ExportedProgram knows no ceil."""

    def __init__(self, conv: Conv2dSame) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.dilation, self.groups = conv.stride, conv.dilation, conv.groups
        self.reach = [
            (size - 1) * step + 1 for size, step in zip(conv.kernel_size, conv.dilation, strict=True)
        ]

    def forward(self, x: Tensor) -> Tensor:
        padding = []
        for axis in (1, 0):
            side, stride = x.shape[2 + axis], self.stride[axis]
            needed = (side + stride - 1) // stride * stride - side + self.reach[axis] - stride
            padding += [needed // 2, needed - needed // 2]
        padded = functional.pad(x, padding)
        return functional.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _spell_out(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if not isinstance(child, Conv2dSame):
            _spell_out(child)
        elif all(k >= s for k, s in zip(child.kernel_size, child.stride, strict=True)):
            setattr(module, name, _SpelledConvSame(child))
    return module


def export_segmenter(segmenter: Segmenter, path: Path, *, kind: str, about: dict[str, Any]) -> None:
    """Write a segmenter to a file of another program.

    Parameters
    ----------
    segmenter : Segmenter
        Not modified.
    path : Path
    kind : {'onnx', 'torchscript', 'exported'}
    about : dict
        See `dsrg.networks.describe_network`; texts of the file's metadata.
    """
    texts = write_about(about)
    model = Exportable(segmenter).eval()
    side = max(64, segmenter.input_size)
    example = torch.rand(2, side, side + 32, 3) * 255
    with _quieten(), torch.no_grad():
        if kind == "torchscript":
            traced = torch.jit.trace(model, (example,), check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, str(path), _extra_files={k: v.encode() for k, v in texts.items()})
        elif kind == "exported":
            program = torch.export.export(model, (example,), dynamic_shapes=_free_sizes())
            torch.export.save(program, path, extra_files=texts)
        elif kind == "onnx":
            _export_onnx(model, example, path, texts)
        else:
            raise ValueError(f"`kind` must be one of {', '.join(FORMATS)}, got {kind!r}.")


def _free_sizes() -> dict[str, Any]:
    free = torch.export.Dim
    sides = {1: free("H", min=_SMALLEST), 2: free("W", min=_SMALLEST)}
    return {INPUT: {0: free("N", min=1), **sides}}


def _export_onnx(model: nn.Module, example: Tensor, path: Path, texts: dict[str, str]) -> None:
    import onnx

    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        dynamic_shapes=_free_sizes(),
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, texts)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, str(path))


@contextlib.contextmanager
def _quieten() -> Iterator[None]:
    """Keep the exporters' remarks on their own insides away; what they wrote is checked by running it."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def load_export(path: Path, *, kind: str) -> Run:
    """Load a written file as a function from pictures to its three answers, all of them arrays."""
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda image: tuple(session.run(list(OUTPUTS), {INPUT: image}))
    module: Any
    with _quieten():
        if kind == "torchscript":
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        else:
            module = torch.export.load(path).module()

    def run(image: NDArray[np.float32]) -> Answer:
        with torch.inference_mode():
            return tuple(answer.numpy() for answer in module(torch.from_numpy(image)))

    return run


@dataclass(frozen=True)
class Agreement:
    """How well a written file agrees with the network it was made from.

    Attributes
    ----------
    pixels : int
        Compared.
    same : float
        Share of them with the same class.
    largest : float
        Largest difference of a probability.
    sizes : tuple of (int, int)
        Heights and widths compared.
    """

    pixels: int
    same: float
    largest: float
    sizes: tuple[tuple[int, int], ...]


def compare_export(segmenter: Segmenter, run: Run, batches: Sequence[NDArray[np.uint8]]) -> Agreement:
    """Compare a written file with the network, picture by picture.

    Parameters
    ----------
    segmenter : Segmenter
        In evaluation mode, on the CPU.
    run : callable
        As of `load_export`.
    batches : sequence of (N, H, W, 3) uint8
        Pictures; let their sizes differ.
    """
    pixels, same, largest = 0, 0, 0.0
    for images in batches:
        expected = predict_probs(segmenter, images)
        label, probs, _ = run(images.astype(np.float32))
        same += int((label == expected.argmax(axis=1)).sum())
        pixels += label.size
        # a number that is none differs by all there is
        largest = max(largest, float(np.nan_to_num(np.abs(probs - expected), nan=1.0).max()))
    sizes = dict.fromkeys((images.shape[1], images.shape[2]) for images in batches)
    return Agreement(pixels, same / pixels, largest, tuple(sizes))


def predict_probs(segmenter: Segmenter, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Predict (N, C, H, W) as training and scoring do, by code that no export shares."""
    with torch.inference_mode():
        probs = torch.softmax(segmenter(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255), dim=1)
        probs = functional.interpolate(probs, size=images.shape[1:3], mode="bilinear", align_corners=False)
    return cast("NDArray[np.float32]", probs.numpy())


def time_call(call: Callable[[], object], *, repeats: int = 5) -> float:
    """Time a call in seconds: the median, after three that are not counted (TorchScript compiles in them)."""
    spent = []
    for _ in range(3 + repeats):
        begun = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begun)
    return float(np.median(spent[3:]))
