"""Draw a folder of grey surfaces with small defects: ``python -m bench.quality.defects FOLDER``.

What inspection cameras give: grey pictures of one surface after the other, few classes, defects of a
few per mille of the picture, and pictures without any. Nothing in the project is tuned on it beside the
other data sets; it is there because photographs of animals and bugs are unlike it in every respect.
The folder is one of the project's own (docs/data.md); the same seed draws the same bytes.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

CLASSES = ("scratch", "pit", "stain")
SURFACES = ("brushed", "cast", "woven")
FREE_SHARE = 0.3  # pictures without a defect
Float = NDArray[np.float64]


def draw_surface(rng: np.random.Generator, size: int) -> Float:
    """Draw a surface without defects, (size, size), around 0.5, lit from one side."""
    kind = rng.choice(SURFACES)
    noise = rng.standard_normal((size, size))
    if kind == "brushed":
        grain = ndimage.gaussian_filter(noise, (0.6, rng.uniform(6, 14)), mode="wrap")
    elif kind == "cast":
        grain = sum(ndimage.gaussian_filter(noise, s, mode="wrap") * s**0.8 for s in (1, 3, 9))
    else:
        period = rng.uniform(5, 9)
        y, x = np.mgrid[:size, :size] * (2 * np.pi / period)
        grain = np.sin(x + 0.2 * np.sin(y)) * np.sin(y) + 0.4 * ndimage.gaussian_filter(noise, 0.7)
    grain = np.asarray(grain) / np.std(grain) * rng.uniform(0.02, 0.05)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] / size - 0.5
    light = rng.uniform(0, 0.2) * (x * np.cos(angle) + y * np.sin(angle))
    return np.asarray(rng.uniform(0.4, 0.65) + light + grain)


def draw_defect(rng: np.random.Generator, class_id: int, size: int) -> tuple[NDArray[np.bool_], Float]:
    """Draw one defect: where it is, (size, size) bool, and what it adds to the grey value there."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    centre = rng.uniform(0.12, 0.88, 2) * size
    name = CLASSES[class_id - 1]
    if name == "scratch":
        angle, bend = rng.uniform(0, np.pi), rng.uniform(-0.004, 0.004)
        along = (x - centre[1]) * np.cos(angle) + (y - centre[0]) * np.sin(angle)
        across = (y - centre[0]) * np.cos(angle) - (x - centre[1]) * np.sin(angle) + bend * along**2
        half, width = rng.uniform(0.08, 0.2) * size, rng.uniform(1.2, 2.6)
        inside = (np.abs(along) < half) & (np.abs(across) < width)
        change = rng.choice([-1, 1]) * rng.uniform(0.18, 0.35) * np.exp(-((across / width) ** 2))
    else:
        radius = rng.uniform(0.015, 0.035) if name == "pit" else rng.uniform(0.05, 0.11)
        turn = np.arctan2(y - centre[0], x - centre[1])
        outline = 1 + sum(rng.uniform(0, 0.15) * np.cos(k * turn + rng.uniform(0, 6.3)) for k in (2, 3, 5))
        distance = np.hypot(y - centre[0], x - centre[1]) / (radius * size * outline)
        inside = distance < 1
        if name == "pit":
            change = -rng.uniform(0.2, 0.35) * (1 - 0.5 * distance)
        else:
            change = -rng.uniform(0.07, 0.14) * np.clip(1.4 - distance, 0, 0.6) / 0.6
    return inside, np.where(inside, change, 0.0)


def draw_picture(seed: int, number: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one picture, (size, size) uint8 grey, and its mask."""
    rng = np.random.default_rng([seed, number])
    surface, mask = draw_surface(rng, size), np.zeros((size, size), np.uint8)
    kinds = 0 if rng.uniform() < FREE_SHARE else rng.choice([1, 2], p=[0.7, 0.3])
    for class_id in sorted(rng.permutation(len(CLASSES))[:kinds] + 1, reverse=True):  # stains lie below
        for _ in range(rng.integers(1, 4)):
            inside, change = draw_defect(rng, int(class_id), size)
            surface = surface + ndimage.gaussian_filter(change, 0.6)
            mask[inside] = class_id
    surface = surface + 0.01 * rng.standard_normal(surface.shape)
    return np.round(np.clip(surface, 0, 1) * 255).astype(np.uint8), mask


def draw_folder(folder: Path, *, num_train: int, num_val: int, size: int, random_seed: int) -> None:
    """Draw a folder of pictures, ``labels.csv``, ``classes.txt`` and masks."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(("background", *CLASSES)) + "\n", encoding="utf-8")
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("id", "classes", "split"))
        for number in range(num_train + num_val):
            picture, mask = draw_picture(random_seed, number, size)
            Image.fromarray(picture).save(folder / "images" / f"{number:05d}.png")
            Image.fromarray(mask).save(folder / "masks" / f"{number:05d}.png")
            held = "|".join(CLASSES[class_id - 1] for class_id in np.unique(mask) if class_id)
            table.writerow((f"{number:05d}", held, "train" if number < num_train else "val"))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=160)
    parser.add_argument("--val", type=int, default=60)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw_folder(
        options.folder,
        num_train=options.train,
        num_val=options.val,
        size=options.size,
        random_seed=options.seed,
    )


if __name__ == "__main__":
    main()
