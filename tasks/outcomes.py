"""What became of the pictures, masks and saliency maps of a source that was read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one picture, mask or saliency map; sizes are (height, width), None where it is broken.

    Attributes
    ----------
    problem : str
        One line that begins with the file, or empty.
    digest : str
        Of its pixels on the canvas.
    size, original_size : (2,) list of int or None
    look : int
        Perceptual hash (pictures only).
    held : list of int or None
        Class ids in the mask, or None if there is no mask (masks only).
    """

    problem: str = ""
    digest: str = ""
    size: Sequence[int] | None = None
    original_size: Sequence[int] | None = None
    look: int = 0
    held: Sequence[int] | None = None


class Outcomes:
    """The outcomes of all, packed: 72 bytes each. Before anything is put there, nothing is known of any.

    Parameters
    ----------
    count : int
        ``N``

    Attributes
    ----------
    sizes, original_sizes : (N, 2) int32
        0 where a picture is broken.
    looks : (N,) uint64
    held : list of N (tuple of int, or None)
    """

    def __init__(self, count: int) -> None:
        self.sizes = np.zeros((count, 2), np.int32)
        self.original_sizes = np.zeros((count, 2), np.int32)
        self.looks = np.zeros(count, np.uint64)
        self.held: list[tuple[int, ...] | None] = [None] * count
        self._digests = np.zeros((count, 32), np.uint8)
        self._problems: dict[int, str] = {}
        self._sets: dict[
            tuple[int, ...], tuple[int, ...]
        ] = {}  # few sets of classes occur: each is kept once

    def put(self, first: int, outcomes: Sequence[Outcome]) -> None:
        """Put the outcomes of rows from `first` on."""
        for row, outcome in enumerate(outcomes, start=first):
            if outcome.problem:
                self._problems[row] = outcome.problem
            if outcome.digest:
                self._digests[row] = np.frombuffer(bytes.fromhex(outcome.digest), np.uint8)
            if outcome.size is not None and outcome.original_size is not None:
                self.sizes[row], self.original_sizes[row] = outcome.size, outcome.original_size
            if outcome.held is not None:
                held = tuple(outcome.held)
                self.held[row] = self._sets.setdefault(held, held)
            self.looks[row] = outcome.look

    @property
    def problems(self) -> list[str]:
        """What is wrong, in the order of rows."""
        return [self._problems[row] for row in sorted(self._problems)]

    @property
    def whole(self) -> NDArray[np.int64]:
        """Rows of pictures that are not broken."""
        return np.flatnonzero(self.sizes.all(axis=1))

    def take(self, rows: NDArray[np.int64]) -> Outcomes:
        """Take those of some rows, in their order."""
        taken = Outcomes(0)
        taken.sizes, taken.original_sizes = self.sizes[rows], self.original_sizes[rows]
        taken.looks, taken._digests = self.looks[rows], self._digests[rows]
        taken.held = [self.held[row] for row in rows]
        taken._problems = {
            number: self._problems[row] for number, row in enumerate(rows.tolist()) if row in self._problems
        }
        return taken

    def __len__(self) -> int:
        return len(self.looks)

    @property
    def digests(self) -> Iterator[str]:
        """Digests of pixels, in the order of rows; empty where nothing was read."""
        return (found.tobytes().hex() if found.any() else "" for found in self._digests)
