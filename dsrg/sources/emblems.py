"""Heads of synthetic bugs: one small emblem per class, unlike all others in colour and pattern."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]
# An emblem maps points (u, v) of the unit disc to (inside, colour): (h, w) bool, (h, w, 3) in [0, 1].
Emblem = Callable[[Float, Float], tuple[NDArray[np.bool_], Float]]

_COLOURS = {
    name: np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    for name, code in {
        "white": "f8f8f4",
        "black": "141418",
        "red": "e01b24",
        "yellow": "ffd60a",
        "orange": "ff7b00",
        "magenta": "e6179b",
        "green": "12a150",
        "blue": "1769e0",
        "cyan": "16c7e8",
    }.items()
}


def _paint(shape: tuple[int, ...], base: str, *layers: tuple[NDArray[np.bool_], str]) -> Float:
    """Paint layers of named colours over each other."""
    colour = np.broadcast_to(_COLOURS[base], (*shape, 3)).copy()
    for inside, name in layers:
        colour[inside] = _COLOURS[name]
    return colour


def _draw_bloom(u: Float, v: Float) -> tuple[NDArray[np.bool_], Float]:
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    inside = radius < 0.72 + 0.28 * np.cos(5 * angle)
    return inside, _paint(u.shape, "magenta", (radius < 0.5, "white"), (radius < 0.3, "yellow"))


def _draw_chess(u: Float, v: Float) -> tuple[NDArray[np.bool_], Float]:
    inside = np.maximum(np.abs(u), np.abs(v)) < 0.7
    odd = (np.floor((u + 0.7) / 0.35) + np.floor((v + 0.7) / 0.35)) % 2 == 1
    return inside, _paint(u.shape, "white", (odd, "black"))


def _draw_cross(u: Float, v: Float) -> tuple[NDArray[np.bool_], Float]:
    inside = np.hypot(u, v) < 0.95
    arms = np.minimum(np.abs(u), np.abs(v)) < 0.24
    return inside, _paint(u.shape, "white", (arms & (np.hypot(u, v) < 0.8), "green"))


def _draw_eye(u: Float, v: Float) -> tuple[NDArray[np.bool_], Float]:
    radius = np.hypot(u, v)
    layers = ((radius < 0.66, "cyan"), (radius < 0.34, "black"), (np.hypot(u - 0.2, v + 0.2) < 0.13, "white"))
    return radius < 0.95, _paint(u.shape, "white", *layers)


def _draw_ring(u: Float, v: Float) -> tuple[NDArray[np.bool_], Float]:
    radius = np.hypot(u, v)
    layers = ((radius < 0.72, "white"), (radius < 0.48, "red"), (radius < 0.22, "white"))
    return radius < 0.95, _paint(u.shape, "red", *layers)


def _draw_sun(u: Float, v: Float) -> tuple[NDArray[np.bool_], Float]:
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    inside = radius < 0.76 + 0.24 * np.cos(9 * angle)
    return inside, _paint(u.shape, "orange", (radius < 0.52, "yellow"))


EMBLEMS: dict[str, Emblem] = {
    "bloom_bug": _draw_bloom,
    "chess_bug": _draw_chess,
    "cross_bug": _draw_cross,
    "eye_bug": _draw_eye,
    "ring_bug": _draw_ring,
    "sun_bug": _draw_sun,
}
CLASSES = tuple(EMBLEMS)
