"""Synthetic scenes: what a plan holds, and how its picture and its truth are drawn.

Shapes are formulas. A pixel belongs to a shape if its centre does (the truth); its colour is the mean
over 2 x 2 points (the picture). Backgrounds are crops of photographs that come with scikit-image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dsrg.labels import BACKGROUND
from dsrg.sources.base import SourceError
from dsrg.sources.emblems import CLASSES, EMBLEMS, Float

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
_SUBSAMPLES = 2
_HEAD_AT = 0.85

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shape:
    """A bug, or clutter where `class_id` is 0. Lengths in pixels, colours in [0, 1].

    Attributes
    ----------
    class_id : int
    centre : (2,) float
        Row and column of the body's centre.
    axes : (2,) float
        Half length (along the axis, towards the head) and half width of the body.
    angle : float
        Direction of the head, radians.
    waves : (4, 2) float
        Amplitude and phase of the outline's waves 2 to 5.
    tones : (2, 3) float
        The two colours of the texture.
    texture : str
    frequency : float
        Periods of the texture over the body.
    head_radius : float
    head_turn : float
        Turn of the emblem, radians.
    """

    class_id: int
    centre: Float
    axes: Float
    angle: float
    waves: Float
    tones: Float
    texture: str
    frequency: float
    head_radius: float
    head_turn: float

    @property
    def reach(self) -> float:
        """Radius of a circle around `centre` that holds the whole shape."""
        body = (1 + self.waves[:, 0].sum()) * self.axes[0]
        return float(max(body, _HEAD_AT * self.axes[0] + self.head_radius) + 1)

    @property
    def head_centre(self) -> Float:
        """Row and column of the head's centre, near the body's front end."""
        front = np.array([np.sin(self.angle), np.cos(self.angle)])
        return np.asarray(self.centre + _HEAD_AT * self.axes[0] * front)


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that decides one picture: the background's crop and the shapes, from back to front."""

    photograph: str
    crop: tuple[float, float, float]
    flip: bool
    light: tuple[float, float]
    tint: Float
    shapes: tuple[Shape, ...]
    noise_seed: int


# A layer maps a shape and positions (rows, columns) to (inside, colour).
Layer = Callable[[Shape, Float, Float], tuple[NDArray[np.bool_], Float]]


# -- geometry ----------------------------------------------------------------------------------


def find_window(centre: Float, reach: float, size: int) -> tuple[Indices, Indices]:
    """Find the rows and columns of a square picture within `reach` of `centre`."""
    low = np.clip(np.floor(centre - reach).astype(int), 0, size)
    high = np.clip(np.ceil(centre + reach).astype(int), 0, size)
    return np.arange(low[0], high[0]), np.arange(low[1], high[1])


def _measure_body(shape: Shape, y: Float, x: Float) -> tuple[Float, Float, Float]:
    """Measure positions (rows y, columns x) against a body.

    Returns
    -------
    radius : (h, w)
        Relative to the outline: below 1 inside.
    along, across : (h, w)
        In half lengths, turned into the body's axis.
    """
    dy, dx = y[:, None] - shape.centre[0], x[None, :] - shape.centre[1]
    cosine, sine = np.cos(shape.angle), np.sin(shape.angle)
    along = (dx * cosine + dy * sine) / shape.axes[0]
    across = (dy * cosine - dx * sine) / shape.axes[0]
    point = along + 1j * across * (shape.axes[0] / shape.axes[1])
    radius = np.abs(point)
    unit = point / np.maximum(radius, 1e-9)
    power, outline = unit, np.ones_like(radius)
    for amplitude, phase in shape.waves:
        power = power * unit
        outline += amplitude * (power * np.exp(1j * phase)).real
    return radius / outline, along, across


def _draw_head(shape: Shape, y: Float, x: Float) -> tuple[NDArray[np.bool_], Float]:
    """Draw the head at positions (rows y, columns x): inside (h, w) bool, colour (h, w, 3)."""
    centre = shape.head_centre
    dy, dx = y[:, None] - centre[0], x[None, :] - centre[1]
    cosine, sine = np.cos(shape.head_turn) / shape.head_radius, np.sin(shape.head_turn) / shape.head_radius
    return EMBLEMS[CLASSES[shape.class_id - 1]](dx * cosine + dy * sine, dy * cosine - dx * sine)


def cut_shape(shape: Shape, y: Float, x: Float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Cut out a shape at the given positions: the whole, and its head, (h, w) bool each."""
    body = _measure_body(shape, y, x)[0] < 1
    head = _draw_head(shape, y, x)[0] if shape.class_id else np.zeros_like(body)
    return body | head, head


# -- painting ----------------------------------------------------------------------------------


def draw_gt_label(plan: Plan, *, size: int) -> NDArray[np.uint8]:
    """Draw the truth: a pixel has the class of the front-most shape that its centre lies in.

    Returns
    -------
    (size, size) uint8
        0 for background and clutter.
    """
    gt_label = np.full((size, size), BACKGROUND, np.uint8)
    for shape in plan.shapes:
        rows, columns = find_window(shape.centre, shape.reach, size)
        whole, _ = cut_shape(shape, rows + 0.5, columns + 0.5)
        window = np.ix_(rows, columns)
        gt_label[window] = np.where(whole, shape.class_id, gt_label[window])
    return gt_label


def draw_image(plan: Plan, *, size: int) -> NDArray[np.uint8]:
    """Draw the picture, every shape sampled at 2 x 2 points per pixel.

    Returns
    -------
    (size, size, 3) uint8
    """
    image = _draw_background(plan, size)
    for shape in plan.shapes:
        _paint_layer(image, shape, shape.centre, shape.reach, _draw_body)
        if shape.class_id:
            _paint_layer(image, shape, shape.head_centre, shape.head_radius + 1, _draw_head)
    rng = np.random.default_rng(plan.noise_seed)
    image += 0.012 * rng.standard_normal(image.shape, dtype=np.float32)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _paint_layer(image: Float, shape: Shape, centre: Float, reach: float, draw: Layer) -> None:
    """Paint one layer over `image` in place, every pixel the mean of its sample points."""
    rows, columns = find_window(centre, reach, image.shape[0])
    if not len(rows) or not len(columns):
        return
    steps = (np.arange(_SUBSAMPLES) + 0.5) / _SUBSAMPLES
    inside, colour = draw(shape, (rows[:, None] + steps).ravel(), (columns[:, None] + steps).ravel())
    cells = (len(rows), _SUBSAMPLES, len(columns), _SUBSAMPLES)
    share = inside.reshape(cells).mean(axis=(1, 3))[..., None]
    painted = (colour * inside[..., None]).reshape(*cells, 3).mean(axis=(1, 3))
    window = np.ix_(rows, columns)
    image[window] = image[window] * (1 - share) + painted


def _draw_body(shape: Shape, y: Float, x: Float) -> tuple[NDArray[np.bool_], Float]:
    """Draw the body at positions (rows y, columns x): inside (h, w) bool, colour (h, w, 3)."""
    radius, along, across = _measure_body(shape, y, x)
    inside = radius < 1
    radius = radius[inside]
    second = _paint_texture(shape, along[inside], across[inside])[:, None]
    painted = shape.tones[0] + (shape.tones[1] - shape.tones[0]) * second
    painted *= (1.06 - 0.18 * radius**2)[:, None]
    if shape.class_id:
        painted[radius > 1 - 2.2 / shape.axes.min()] = shape.tones[1] * 0.45
    colour = np.zeros((*inside.shape, 3))
    colour[inside] = painted
    return inside, colour


def _paint_texture(shape: Shape, along: Float, across: Float) -> Float:
    """Paint the share of the second tone at points of the body, in [0, 1]."""
    a, b = shape.frequency * np.pi * along, shape.frequency * np.pi * across
    if shape.texture == "stripes":
        return np.asarray(np.sin(a) > 0.2, float)
    if shape.texture == "spots":
        return np.asarray(np.cos(a) * np.cos(b) > 0.35, float)
    waves = np.sin(0.8 * a + 1.5 * np.sin(0.6 * b)) + np.sin(0.9 * b + 1.2 * np.sin(0.5 * a))
    return np.asarray(0.5 + 0.25 * waves)


def _draw_background(plan: Plan, size: int) -> Float:
    photograph = _load_photograph(plan.photograph)
    height, width = photograph.shape[:2]
    side = plan.crop[0] * min(height, width)
    top, left = plan.crop[1] * (height - side), plan.crop[2] * (width - side)
    box = (left, top, left + side, top + side)
    crop = Image.fromarray(photograph).resize((size, size), Image.Resampling.BICUBIC, box=box)
    image = np.asarray(crop, dtype=np.float64) / 255
    image = image[:, ::-1] if plan.flip else image
    brightness, contrast = plan.light
    mean = image.mean()
    return np.asarray((mean + (image - mean) * contrast) * brightness * plan.tint)


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _load_photograph(name: str) -> NDArray[np.uint8]:
    path = files("skimage").joinpath("data", name)
    try:
        with path.open("rb") as stream, Image.open(stream) as image:
            return np.array(image.convert("RGB"))
    except FileNotFoundError as error:
        raise SourceError(
            "synthetic", [f"scikit-image comes without {name}: install the version in constraints.txt"]
        ) from error
