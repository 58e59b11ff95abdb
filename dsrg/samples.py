"""Training samples: one picture, augmented, reproducible from its number alone.

Sample ``k`` is the same picture with the same augmentation in every process, with any number of
loader workers and after any interruption: its order comes from a shuffle seeded by the epoch, its
augmentation from a generator seeded by ``k``. So a run resumed at step ``t`` sees what an
undisturbed run would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from dsrg.labels import IGNORE_INDEX
from dsrg.store import ImageStore, LabelStore


def order_sample(number: int, *, count: int, random_seed: int) -> tuple[int, int]:
    """Find which picture sample `number` shows: ``(epoch, position in the list of pictures)``."""
    epoch, offset = divmod(number, count)
    return epoch, int(_shuffle(epoch, count, random_seed)[offset])


@lru_cache(maxsize=2)
def _shuffle(epoch: int, count: int, random_seed: int) -> NDArray[np.int64]:
    return np.random.default_rng([random_seed, epoch]).permutation(count)


class ClassifierSamples(Dataset[tuple[Tensor, Tensor]]):
    """Augmented pictures with their image-level labels.

    Parameters
    ----------
    images : Path
        ``images.zarr``.
    rows : (M,) int
        The pictures to draw from.
    crop_size : int
        Side of the sample in pixels.
    min_scale : float
        Smallest share of the picture's area that a random crop may show.
    random_seed : int
    """

    def __init__(
        self, images: Path, rows: NDArray[np.int64], *, crop_size: int, min_scale: float, random_seed: int
    ) -> None:
        self.images = ImageStore(images)
        self.rows = rows
        self.random_seed = random_seed
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(crop_size, scale=(min_scale, 1.0), ratio=(0.75, 1.333), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.02),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        _, position = order_sample(number, count=len(self.rows), random_seed=self.random_seed)
        row = int(self.rows[position])
        picture = torch.from_numpy(self.images.read_image(row).transpose(2, 0, 1).copy())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_mix(self.random_seed, number))
            image = self.transform(picture)
        return image, torch.from_numpy(self.images.index.image_labels[row].astype(np.float32))


class SegmenterSamples(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Augmented crops with their label maps, image-level labels, and where the picture lies.

    A crop keeps the picture's shape: it is scaled at random, then cut or padded to a square.
    Padding is mid-grey in the image, 255 in the label map, and False in the map of valid pixels.

    Parameters
    ----------
    images : Path
        ``images.zarr``.
    targets : LabelStore
        Cues, pseudo-labels, or (for the reference only) truth.
    rows : (M,) int
    crop_size : int
        Side of the crop in pixels.
    min_scale, max_scale : float
        Range of the random scale. At 1 the picture's longer side fills the crop.
    random_seed : int
    """

    def __init__(
        self,
        images: Path,
        targets: LabelStore,
        rows: NDArray[np.int64],
        *,
        crop_size: int,
        min_scale: float,
        max_scale: float,
        random_seed: int,
    ) -> None:
        self.images = ImageStore(images)
        self.targets = targets
        self.rows = rows
        self.crop_size = crop_size
        self.scales = (min_scale, max_scale)
        self.random_seed = random_seed
        self.jitter = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.02),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        _, position = order_sample(number, count=len(self.rows), random_seed=self.random_seed)
        row = int(self.rows[position])
        pixels = self.images.read_image(row)
        label_map = self.targets.read(row, pixels.shape[:2])
        image = tv_tensors.Image(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
        # The second plane is 0 on the picture; padding fills it with 255 as it does the first.
        planes = np.stack([label_map, np.zeros_like(label_map)])
        mask = tv_tensors.Mask(torch.from_numpy(planes))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_mix(self.random_seed, number))
            image, mask = self._crop(image, mask)
            image, mask = self.jitter(image, mask)
        image_labels = torch.from_numpy(self.images.index.image_labels[row])
        planes_now = mask.as_subclass(Tensor)
        return image.as_subclass(Tensor), planes_now[0].long(), image_labels, planes_now[1] == 0

    def _crop(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        side = self.crop_size
        low, high = self.scales
        factor = (low + (high - low) * float(torch.rand(()))) * side / max(image.shape[-2:])
        size = [max(1, round(edge * factor)) for edge in image.shape[-2:]]
        image = v2.functional.resize(image, size, antialias=True)
        # NEAREST would read half a pixel further up and left than the bilinear picture.
        mask = v2.functional.resize(mask, size, interpolation=v2.InterpolationMode.NEAREST_EXACT)
        height, width = size
        top = int(torch.randint(max(0, height - side) + 1, ()))
        left = int(torch.randint(max(0, width - side) + 1, ()))
        image = image[..., top : top + side, left : left + side]
        mask = mask[..., top : top + side, left : left + side]
        # Padding may fall on any side, or the network would learn that padding means "lower right".
        free = [side - edge for edge in image.shape[-2:]]
        above, before = (int(torch.randint(gap + 1, ())) for gap in free)
        edges = [before, above, free[1] - before, free[0] - above]
        image = v2.functional.pad(image, edges, fill=[127])
        mask = v2.functional.pad(mask, edges, fill=[IGNORE_INDEX])
        return tv_tensors.Image(image), tv_tensors.Mask(mask)


def _mix(random_seed: int, number: int) -> int:
    """Derive one well-spread 63-bit seed from two numbers."""
    return int(np.random.SeedSequence([random_seed, number]).generate_state(1, np.uint64)[0] >> 1)


class SampleNumbers(Sampler[int]):
    """Count up through sample numbers; `start` is where an interrupted run goes on.

    Parameters
    ----------
    start, stop : int
    every, first, count : int, optional
        Of every so many numbers only `count`, from the one at `first`: the part of each batch that one of
        several devices sees. By default all.
    """

    def __init__(self, start: int, stop: int, *, every: int = 1, first: int = 0, count: int = 1) -> None:
        self.batches = range(start, stop, every)
        self.first = first
        self.count = count

    def __iter__(self) -> Iterator[int]:
        return (begin + self.first + more for begin in self.batches for more in range(self.count))

    def __len__(self) -> int:
        return len(self.batches) * self.count
