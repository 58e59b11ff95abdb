"""Source ``synthetic``: drawn bugs on crops of real photographs, any number, the same for one seed.

A bug has a small head that its class alone has, and a body several times as large whose outline and
colour vary from picture to picture and whose texture it shares with other classes: a classifier needs
no more than the head, so CAMs miss much of the body. Clutter repeats bodies' textures without a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsrg.sources.base import SPLITS, Reader, Source
from dsrg.sources.emblems import CLASSES, Float
from dsrg.sources.records import Record, pack_records
from dsrg.sources.scenes import PHOTOGRAPHS, Plan, Shape, cut_shape, draw_gt_label, draw_image, find_window

_TEXTURES = ("stripes", "spots", "marble")
_MIN_HEAD_SEEN = 0.85
_MIN_OBJECT_SEEN = 0.55
_TRIES = 12
_TRIES_FIRST = 1000


def plan_scene(*, size: int, random_seed: int, split: str, number: int) -> Plan:
    """Plan one picture from its own random stream, so that it is the same however many are made.

    Bugs that would hide another's head (15% of it) or nearly half of its body are moved; after some
    tries a bug is left out, but never the first one.
    """
    rng = np.random.default_rng([random_seed, SPLITS.index(split), number])
    photograph = str(rng.choice(PHOTOGRAPHS))
    crop = (float(rng.uniform(0.45, 1)), float(rng.uniform()), float(rng.uniform()))
    light = (float(rng.uniform(0.6, 1.05)), float(rng.uniform(0.45, 0.85)))
    tint = rng.uniform(0.75, 1.0, 3)
    clutter = [_plan_shape(rng, 0, size, scale=0.55) for _ in range(rng.integers(0, 4))]
    wanted = rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25])
    bugs: list[Shape] = []
    for class_id in rng.permutation(len(CLASSES))[:wanted] + 1:
        for _ in range(_TRIES if bugs else _TRIES_FIRST):
            bug = _plan_shape(rng, int(class_id), size, scale=1.0 if wanted == 1 else 0.82)
            if _are_visible([*bugs, bug], size):
                bugs.append(bug)
                break
    flip, noise_seed = bool(rng.integers(2)), int(rng.integers(2**31))
    return Plan(photograph, crop, flip, light, tint, (*clutter, *bugs), noise_seed)


def _plan_shape(rng: np.random.Generator, class_id: int, size: int, *, scale: float) -> Shape:
    length = scale * size * rng.uniform(0.17, 0.27)
    width = length * rng.uniform(0.5, 0.75)
    margin = 0.2 if class_id else 0.08
    texture = _TEXTURES[class_id % len(_TEXTURES)] if class_id else str(rng.choice(_TEXTURES))
    base = _convert_hue(rng.uniform(), rng.uniform(0.45, 0.9), rng.uniform(0.4, 0.9))
    amplitudes = rng.uniform(0.02, [0.1, 0.08, 0.05, 0.03])
    if not class_id:
        amplitudes[[1, 2]] = rng.permutation([0.03, 0.18])
    return Shape(
        class_id=class_id,
        centre=rng.uniform(margin, 1 - margin, 2) * size,
        axes=np.array([length, width]),
        angle=float(rng.uniform(0, 2 * np.pi)),
        waves=np.stack([amplitudes, rng.uniform(0, 2 * np.pi, 4)], axis=1),
        tones=np.stack([base, base * rng.uniform(0.6, 0.75)]),
        texture=texture,
        frequency=float(rng.uniform(4, 7)),
        head_radius=float(max(0.46 * np.sqrt(length * width), 0.03 * size)) if class_id else 0.0,
        head_turn=float(rng.uniform(0, 2 * np.pi)),
    )


def _convert_hue(hue: float, saturation: float, value: float) -> Float:
    """Convert hue, saturation and value, each in [0, 1], to (3,) RGB."""
    offsets = np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    return np.asarray(value * (1 - saturation * (1 - np.clip(offsets, 0, 1))))


def _are_visible(shapes: list[Shape], size: int) -> bool:
    """Say whether every bug shows its head and most of its body, and lies mostly in the picture."""
    margin = size // 2
    wide = size + 2 * margin
    owner = np.zeros((wide, wide), np.int64)
    heads = np.zeros((wide, wide), bool)
    totals = []
    for number, shape in enumerate(shapes, start=1):
        rows, columns = find_window(shape.centre + margin, shape.reach, wide)
        object_, head = cut_shape(shape, rows - margin + 0.5, columns - margin + 0.5)
        window = np.ix_(rows, columns)
        owner[window] = np.where(object_, number, owner[window])
        heads[window] = np.where(object_, head, heads[window])
        totals.append((int(object_.sum()), int(head.sum())))
    inner = owner[margin:-margin, margin:-margin]
    head_inner = heads[margin:-margin, margin:-margin]
    for number, (whole, head_whole) in enumerate(totals, start=1):
        seen = inner == number
        if seen.sum() < _MIN_OBJECT_SEEN * whole or (seen & head_inner).sum() < _MIN_HEAD_SEEN * head_whole:
            return False
    return True


@dataclass(frozen=True)
class SyntheticReader(Reader):
    """Draws pictures; holds only what a plan needs."""

    size: int
    random_seed: int

    def plan(self, record: Record) -> Plan:
        """Plan the picture of one record."""
        assert isinstance(record.picture, int)
        return plan_scene(
            size=self.size, random_seed=self.random_seed, split=record.split, number=record.picture
        )

    def read_image(self, record: Record) -> NDArray[np.uint8]:
        """Draw one picture: (size, size, 3) uint8."""
        return draw_image(self.plan(record), size=self.size)

    def read_saliency(self, record: Record) -> None:
        """Drawn scenes come without saliency maps."""

    def read_gt_label(self, record: Record) -> NDArray[np.uint8] | None:
        """Draw one mask: (size, size) uint8."""
        return draw_gt_label(self.plan(record), size=self.size)


def open_synthetic(*, num_train: int, num_val: int, size: int, random_seed: int) -> Source:
    """List synthetic pictures; planning them takes a few milliseconds each, drawing comes later.

    Parameters
    ----------
    num_train, num_val : int
        How many; the two splits draw from different random streams.
    size : int
        Side of a picture in pixels.
    random_seed : int

    Returns
    -------
    Source
    """
    reader = SyntheticReader(size, random_seed)
    records = (
        _list_record(random_seed, size, split, number)
        for split, count in zip(SPLITS, (num_train, num_val), strict=True)
        for number in range(count)
    )
    return Source(
        kind="synthetic",
        where="synthetic",
        classes=CLASSES,
        records=pack_records(records),
        reader=reader,
        gt_available=True,
        fingerprint=f"synthetic {num_train} {num_val} {size} {random_seed}",
    )


def _list_record(random_seed: int, size: int, split: str, number: int) -> Record:
    plan = plan_scene(size=size, random_seed=random_seed, split=split, number=number)
    image_labels = np.zeros(len(CLASSES), bool)
    image_labels[[class_id - 1 for class_id in _list_class_ids(plan)]] = True
    name = f"{split}-{number:06d}"
    return Record(id=name, split=split, image_labels=image_labels, name=name, picture=number)


def _list_class_ids(plan: Plan) -> Iterator[int]:
    return (shape.class_id for shape in plan.shapes if shape.class_id)
