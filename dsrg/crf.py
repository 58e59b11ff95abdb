"""Fully connected CRF over the classes of one image, by a lattice of our own or by pydensecrf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from dsrg import mean_field
from dsrg.labels import BACKGROUND
from dsrg.threads import run_in_threads

if TYPE_CHECKING:
    from torch import Tensor

PROB_FLOOR = 1e-5

BatchT = TypeVar("BatchT", "NDArray[np.float32]", "Tensor")
Solver = Literal["lattice", "pydensecrf"]


def refine_probs(
    probs: NDArray[np.float32],
    image: NDArray[np.uint8],
    *,
    iterations: int,
    bilateral_weight: float,
    bilateral_xy: float,
    bilateral_rgb: float,
    gaussian_weight: float,
    gaussian_xy: float,
    foreground_offset: float = 0.0,
    solver: Solver = "lattice",
) -> NDArray[np.float32]:
    """Refine class probabilities by mean-field inference in a fully connected CRF.

    The unary energy is ``-log(max(p, 1e-5))``. Two pixels of different classes pay
    ``bilateral_weight`` times a Gaussian of their distance in space (`bilateral_xy`) and colour
    (`bilateral_rgb`), plus ``gaussian_weight`` times a Gaussian of their distance in space
    (`gaussian_xy`). A weight of 0 leaves its term out.

    Parameters
    ----------
    probs : (P, H, W) float32
        Probabilities (or scores, any positive scale) of the classes that compete: give only the
        present ones. Not modified.
    image : (H, W, 3) uint8
        The picture at the size of `probs`. Not modified.
    iterations : int
        Mean-field steps, at least 1. Five instead of ten change about 5% of the pixels.
    bilateral_weight, gaussian_weight : float
        At least 0.
    bilateral_xy, gaussian_xy : float
        Standard deviations in pixels, over 0.
    bilateral_rgb : float
        Standard deviation in grey levels of 0 to 255, over 0.
    foreground_offset : float
        Added to the log-probability of every class but the first, which is background. A CRF rubs out what
        is small and rare; over 0, less of it.
    solver : {"lattice", "pydensecrf"}
        Both take the same steps on the same lattice and differ by rounding: 99.99% of the pixels and more
        get the same class. :mod:`dsrg.mean_field` is the faster one; pydensecrf is what the field uses.

    Returns
    -------
    (P, H, W) float32
        Marginals; each pixel's add up to 1. All ones when there is one class.

    Raises
    ------
    TypeError, ValueError
        Wrong shape, dtype or setting, or `probs` holds NaN or infinite values.

    Notes
    -----
    Official settings, 10 iterations each. In training, at 41x41 (a twelfth of the sizes):
    bilateral 10, xy 80/12, rgb 13; gaussian 3, xy 3/12. At test, at picture size: bilateral 10,
    xy 80, rgb 13; gaussian 3, xy 3. The official training code takes ``-p`` for the unary energy
    and the offline tool ``-log p``; here it is ``-log p`` everywhere.

    pydensecrf holds the interpreter lock: with it, run pictures in processes, not in threads.

    References
    ----------
    Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
    Potentials", NeurIPS 2011.
    """
    stack = refine_stack(
        probs[None],
        image,
        iterations=iterations,
        bilateral_weight=bilateral_weight,
        bilateral_xy=bilateral_xy,
        bilateral_rgb=bilateral_rgb,
        gaussian_weight=gaussian_weight,
        gaussian_xy=gaussian_xy,
        foreground_offset=foreground_offset,
        solver=solver,
    )
    refined: NDArray[np.float32] = stack[0]
    return refined


def refine_stack(
    stack: NDArray[np.float32],
    image: NDArray[np.uint8],
    *,
    iterations: int,
    bilateral_weight: float,
    bilateral_xy: float,
    bilateral_rgb: float,
    gaussian_weight: float,
    gaussian_xy: float,
    foreground_offset: float = 0.0,
    solver: Solver = "lattice",
) -> NDArray[np.float32]:
    """Refine several maps of one picture; its filters, a third of the work, are built only once.

    Parameters
    ----------
    stack : (M, P, H, W) float32
        Each of the `M` as for `refine_probs`. Not modified.
    image : (H, W, 3) uint8

    Returns
    -------
    (M, P, H, W) float32
        Equal to `refine_probs` of each.
    """
    _check_arrays(stack, image)
    if iterations < 1:
        raise ValueError(f"`iterations` must be at least 1, got {iterations}.")
    _check_term("bilateral_weight", bilateral_weight, bilateral_xy=bilateral_xy, bilateral_rgb=bilateral_rgb)
    _check_term("gaussian_weight", gaussian_weight, gaussian_xy=gaussian_xy)
    classes = stack.shape[1]
    if classes == 1 or stack.size == 0:
        return np.ones(stack.shape, np.float32)
    energies = -np.log(np.maximum(stack, np.float32(PROB_FLOOR)))
    energies[:, BACKGROUND + 1 :] -= np.float32(foreground_offset)
    energies = energies.reshape(len(stack), classes, -1).astype(np.float32, copy=False)
    solve = _solve_by_pydensecrf if solver == "pydensecrf" else _solve_by_lattice
    marginals = solve(
        energies,
        image,
        iterations=iterations,
        bilateral_weight=bilateral_weight,
        bilateral_xy=bilateral_xy,
        bilateral_rgb=bilateral_rgb,
        gaussian_weight=gaussian_weight,
        gaussian_xy=gaussian_xy,
    )
    return marginals.reshape(stack.shape)


def _solve_by_lattice(
    energies: NDArray[np.float32], image: NDArray[np.uint8], *, iterations: int, **pairwise: float
) -> NDArray[np.float32]:
    try:
        terms = mean_field.build_terms(image, **pairwise)
    except OverflowError as error:
        xy, rgb, (height, width, _) = pairwise["bilateral_xy"], pairwise["bilateral_rgb"], image.shape
        raise ValueError(
            f"`bilateral_xy` {xy} and `bilateral_rgb` {rgb} are too small for a picture "
            f"of {width} x {height} pixels: larger ones, or solver pydensecrf."
        ) from error
    return np.stack([mean_field.infer(-energy, terms, iterations=iterations) for energy in energies])


def _solve_by_pydensecrf(
    energies: NDArray[np.float32],
    image: NDArray[np.uint8],
    *,
    iterations: int,
    bilateral_weight: float,
    bilateral_xy: float,
    bilateral_rgb: float,
    gaussian_weight: float,
    gaussian_xy: float,
) -> NDArray[np.float32]:
    import pydensecrf.densecrf as densecrf

    # pydensecrf counts (width, height); its flat arrays run along rows, like ours, and may be written to.
    picture = np.require(image, requirements=["C", "W"])
    height, width, _ = image.shape
    crf = densecrf.DenseCRF2D(width, height, energies.shape[1])
    if gaussian_weight > 0:
        crf.addPairwiseGaussian(sxy=gaussian_xy, compat=gaussian_weight)
    if bilateral_weight > 0:
        crf.addPairwiseBilateral(sxy=bilateral_xy, srgb=bilateral_rgb, rgbim=picture, compat=bilateral_weight)
    marginals = np.empty_like(energies)
    for number, energy in enumerate(energies):
        crf.setUnaryEnergy(energy)
        marginals[number] = np.asarray(crf.inference(iterations))
    return marginals


def refine_batch(
    probs: BatchT,
    images: NDArray[np.uint8],
    presents: Sequence[NDArray[np.int64]],
    *,
    iterations: int,
    bilateral_weight: float,
    bilateral_xy: float,
    bilateral_rgb: float,
    gaussian_weight: float,
    gaussian_xy: float,
    solver: Solver = "lattice",
) -> BatchT:
    """Refine the probabilities of a batch, each image over its present classes; see `refine_probs`.

    Parameters
    ----------
    probs : (B, C, h, w) float32, array or tensor
        Not modified; a tensor is detached.
    images : (B, h, w, 3) uint8, array or tensor
    presents : sequence of B (P,) int64

    Returns
    -------
    (B, C, h, w) float32, of the kind (and device) of `probs`
        Absent classes are 0.
    """
    values = _to_array(probs).astype(np.float32, copy=False)
    pictures = _to_array(images)
    if not len(values) == len(pictures) == len(presents):
        raise ValueError(
            "`probs`, `images` and `presents` must have one entry per image, "
            f"got {len(values)}, {len(pictures)} and {len(presents)}."
        )
    refined = np.zeros(values.shape, np.float32)

    def refine(number: int) -> None:
        present = presents[number]
        refined[number, present] = refine_probs(
            values[number, present],
            pictures[number],
            iterations=iterations,
            bilateral_weight=bilateral_weight,
            bilateral_xy=bilateral_xy,
            bilateral_rgb=bilateral_rgb,
            gaussian_weight=gaussian_weight,
            gaussian_xy=gaussian_xy,
            solver=solver,
        )

    # not `numba.get_num_threads()`, which would start threads of its own and reset the number of torch's
    threads = numba.config.NUMBA_NUM_THREADS if solver == "lattice" else 1  # type: ignore[attr-defined]
    run_in_threads(refine, range(len(values)), threads=threads)
    if isinstance(probs, np.ndarray):
        return refined
    return probs.detach().float().new_tensor(refined)


def _to_array(values: NDArray[np.generic] | Tensor) -> NDArray[np.generic]:
    if isinstance(values, np.ndarray):
        return values
    if values.is_floating_point():
        values = values.float()  # bfloat16 has no NumPy type
    return np.asarray(values.detach().cpu().numpy())


def _check_arrays(stack: NDArray[np.float32], image: NDArray[np.uint8]) -> None:
    shape = stack.shape[1:]
    if stack.ndim != 4 or 0 in stack.shape[:2] or stack.dtype.kind != "f":
        raise TypeError(f"`probs` must be (P, H, W) float32, at least one class, got {shape} {stack.dtype}.")
    if image.dtype != np.uint8:
        raise TypeError(f"`image` must be uint8, got {image.dtype}.")
    if image.shape != (*shape[1:], 3):
        raise ValueError(
            f"`image` must be (H, W, 3) at the size of `probs`, {(*shape[1:], 3)}, got {image.shape}."
        )
    bad = stack.size - int(np.isfinite(stack).sum())
    if bad:
        raise ValueError(f"`probs` must be finite, got {bad} NaN or infinite values.")


def _check_term(weight_name: str, weight: float, **widths: float) -> None:
    if not weight >= 0:
        raise ValueError(f"`{weight_name}` must be at least 0, got {weight}.")
    for name, width in widths.items():
        if not width > 0:
            raise ValueError(f"`{name}` must be over 0, got {width}.")
