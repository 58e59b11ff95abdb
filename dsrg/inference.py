"""Running networks over whole pictures, at several scales and mirrored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dsrg.models.classifier import Classifier
from dsrg.models.segmenter import Segmenter
from dsrg.store import count_cells

Forward = Callable[[Tensor], tuple[Tensor, ...]]


def group_by_size(rows: Sequence[int], sizes: NDArray[np.int32], *, batch_size: int) -> Iterator[list[int]]:
    """Group pictures of equal size into batches, in a fixed order; no picture is padded.

    Parameters
    ----------
    rows : sequence of int
    sizes : (N, 2) int32
        Height and width of every picture.
    batch_size : int
        Largest batch.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for row in rows:
        groups.setdefault((int(sizes[row][0]), int(sizes[row][1])), []).append(int(row))
    for size in sorted(groups):
        members = groups[size]
        for start in range(0, len(members), batch_size):
            yield members[start : start + batch_size]


def choose_batch_size(device: torch.device) -> int:
    """Choose how many pictures of a size go through a network at once: on a CPU each by itself is fastest."""
    return 1 if device.type == "cpu" else 8


def average_over_views(
    forward: Callable[[Tensor], Tensor],
    images: NDArray[np.uint8],
    *,
    long_side: int,
    scales: Sequence[float],
    flip: bool,
    cells: Sequence[int],
    device: torch.device,
) -> Tensor:
    """Average a network's maps over scaled and mirrored views, on one grid.

    Parameters
    ----------
    forward : callable
        Maps ``(B, 3, h, w)`` RGB in [0, 1] to ``(B, M, h', w')``.
    images : (B, H, W, 3) uint8
        Pictures of one size.
    long_side : int
        Longer side, in pixels, of a view at scale 1; pictures are enlarged or shrunk to it.
    scales : sequence of float
    flip : bool
        Also average over the mirrored view.
    cells : (rows, columns)
        Size of the maps returned.
    device : torch.device

    Returns
    -------
    (B, M, rows, columns) float32, on `device`
    """
    pixels = _upload(images, device)
    total: Tensor | None = None
    with torch.inference_mode():
        for scale in scales:
            maps = _view(forward, pixels, long_side=long_side * scale, flip=flip)
            maps = functional.interpolate(maps, size=tuple(cells), mode="bilinear", align_corners=False)
            total = maps if total is None else total + maps
    assert total is not None
    return total / len(scales)


def view_images(
    forward: Callable[[Tensor], Tensor],
    images: NDArray[np.uint8],
    *,
    long_side: float,
    flip: bool,
    device: torch.device,
) -> Tensor:
    """Compute a network's maps of one scaled view, averaged with the mirrored one, on the network's grid.

    Parameters
    ----------
    forward, images, flip, device
        As for `average_over_views`.
    long_side : float
        Longer side of the view, in pixels.

    Returns
    -------
    (B, M, h', w') float32, on `device`
    """
    with torch.inference_mode():
        return _view(forward, _upload(images, device), long_side=long_side, flip=flip)


def _upload(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Upload pictures, (B, H, W, 3) uint8, as (B, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 255


def _view(forward: Callable[[Tensor], Tensor], pixels: Tensor, *, long_side: float, flip: bool) -> Tensor:
    view = functional.interpolate(
        pixels,
        size=_size_view(pixels.shape[-2:], long_side),
        mode="bilinear",
        align_corners=False,
        antialias=long_side < max(pixels.shape[-2:]),
    ).contiguous(memory_format=torch.channels_last)
    maps = forward(view)
    if flip:
        maps = (maps + forward(view.flip(-1)).flip(-1)) / 2
    return maps.float()


def _size_view(size: Sequence[int], long_side: float) -> tuple[int, int]:
    factor = long_side / max(size)
    return max(32, round(size[0] * factor)), max(32, round(size[1] * factor))


class ActivationMaps(nn.Module):
    """A classifier that answers with maps: rectified class activations, then shallow and deep features.

    Parameters
    ----------
    classifier : Classifier
    features : bool
        Answer with the features too, which are larger than all the rest.
    """

    def __init__(self, classifier: Classifier, *, features: bool = True) -> None:
        super().__init__()
        self.classifier = classifier
        self.features = features

    def forward(self, view: Tensor) -> tuple[Tensor, ...]:
        """Map RGB in [0, 1], ``(B, 3, h, w)``, to ``(B, K, h', w')`` and perhaps the trunk's two maps."""
        shallow, deep = self.classifier.backbone(view)
        maps = torch.relu(self.classifier.score(deep))
        return (maps, shallow, deep) if self.features else (maps,)


class ProbabilityMaps(nn.Module):
    """A segmenter that answers with class probabilities."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, view: Tensor) -> tuple[Tensor]:
        """Map RGB in [0, 1], ``(B, 3, h, w)``, to ``(B, C, h', w')``."""
        return (torch.softmax(self.segmenter(view).float(), dim=1),)


def activate_views(
    forward: Forward,
    images: NDArray[np.uint8],
    *,
    long_side: int,
    scales: Sequence[float],
    flip: bool,
    stride: int,
    device: torch.device,
) -> NDArray[np.float32]:
    """Average a classifier's rectified class activations over views.

    Parameters
    ----------
    forward : callable
        `ActivationMaps`, prepared by `dsrg.engines.prepare_network`.
    images, long_side, scales, flip, device
        As for `average_over_views`.
    stride : int

    Returns
    -------
    (B, K, h, w) float32
        On a grid of `stride` pixels of the picture; not normalised.
    """
    maps = average_over_views(
        lambda view: forward(view)[0],
        images,
        long_side=long_side,
        scales=scales,
        flip=flip,
        cells=count_cells(images.shape[1:3], stride),
        device=device,
    )
    return maps.cpu().numpy()


def activate_and_describe(
    forward: Forward,
    images: NDArray[np.uint8],
    *,
    long_side: int,
    scales: Sequence[float],
    flip: bool,
    stride: int,
    cells: tuple[int, int],
    device: torch.device,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Do what `activate_views` does, and keep the trunk's features of the largest view.

    Parameters
    ----------
    forward, images, long_side, scales, flip, stride, device
        As for `activate_views`.
    cells : (rows, columns)
        Grid of the features returned.

    Returns
    -------
    activations : (B, K, h, w) float32
    shallow : (B, S, rows, columns) float32
        Means over the cells; not of the mirrored view.
    deep : (B, D, rows, columns) float32
        Interpolated; not of the mirrored view.
    """
    largest = _size_view(images.shape[1:3], long_side * max(scales))
    described: list[NDArray[np.float32]] = []

    def activate(view: Tensor) -> Tensor:
        activations, shallow, deep = forward(view)
        if not described and view.shape[-2:] == largest:  # a view comes before its mirror image
            pooled = functional.adaptive_avg_pool2d(shallow, cells)
            scaled = functional.interpolate(deep, size=cells, mode="bilinear", align_corners=False)
            described.extend(maps.float().cpu().numpy() for maps in (pooled, scaled))
        return activations

    maps = average_over_views(
        activate,
        images,
        long_side=long_side,
        scales=scales,
        flip=flip,
        cells=count_cells(images.shape[1:3], stride),
        device=device,
    )
    return maps.cpu().numpy(), described[0], described[1]


def predict_batch(
    forward: Forward,
    images: NDArray[np.uint8],
    *,
    long_side: int,
    scales: Sequence[float],
    flip: bool,
    cells: Sequence[int],
    device: torch.device,
) -> NDArray[np.float32]:
    """Predict class probabilities of pictures of one size, averaged over views.

    Parameters
    ----------
    forward : callable
        `ProbabilityMaps`, prepared by `dsrg.engines.prepare_network`.
    images : (B, H, W, 3) uint8
    long_side : int
        Longer side of a view at scale 1: the segmenter's ``input_size``.
    cells : (rows, columns)
        Size of the maps returned, ``(H, W)`` for the picture's own.

    Returns
    -------
    (B, C, rows, columns) float32
        Sums to 1 over ``C``.
    """
    maps = average_over_views(
        lambda view: forward(view)[0],
        images,
        long_side=long_side,
        scales=scales,
        flip=flip,
        cells=cells,
        device=device,
    )
    return maps.cpu().numpy()


def predict_probs(
    forward: Forward,
    image: NDArray[np.uint8],
    *,
    long_side: int,
    scales: Sequence[float],
    flip: bool,
    device: torch.device,
) -> NDArray[np.float32]:
    """Predict one picture's class probabilities at its own size: (H, W, 3) uint8 to (C, H, W) float32."""
    batch = predict_batch(
        forward,
        image[None],
        long_side=long_side,
        scales=scales,
        flip=flip,
        cells=image.shape[:2],
        device=device,
    )
    probs: NDArray[np.float32] = batch[0]
    return probs


def score_images(
    classifier: Classifier, images: NDArray[np.uint8], *, long_side: int, device: torch.device
) -> NDArray[np.float32]:
    """Score pictures of one size: (B, H, W, 3) uint8 to probabilities (B, K) float32, classes independent."""
    pooled = average_over_views(
        lambda view: classifier(view)[:, :, None, None],
        images,
        long_side=long_side,
        scales=(1.0,),
        flip=True,
        cells=(1, 1),
        device=device,
    )
    return torch.sigmoid(pooled)[:, :, 0, 0].cpu().numpy()
