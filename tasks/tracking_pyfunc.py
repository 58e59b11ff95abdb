"""The segmenter as MLflow stores and serves it: pictures in; masks and class tables out.

MLflow copies this file into the model and runs it there, beside a copy of ``dsrg``; it knows nothing
else of the project. An answer holds, per picture, a dict of

* ``mask``: class ids, (H, W) uint8 of the picture's size; as text a palette PNG in base64
* ``height``, ``width``
* ``classes``: a row per class with ``id``, ``name``, ``color`` (of the PNG) and ``share`` of the pixels
"""

from __future__ import annotations

import base64
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray
from PIL import Image

from dsrg.image import read_image
from dsrg.labels import build_palette

MASKS = ("auto", "array", "png")
_SERVED = "__pyfunc_model_path__"  # set by `mlflow models serve`, where a path would be the server's own


class ServedSegmenter(PythonModel):
    """Loads weights once and answers for pictures of any size."""

    def load_context(self, context: Any) -> None:
        """Load the network that the model's artifacts hold."""
        import torch

        from dsrg.models import load_segmenter
        from dsrg.networks import TorchNetwork

        self._settings: dict[str, Any] = json.loads(Path(context.artifacts["settings"]).read_text())
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        segmenter, spec = load_segmenter(Path(context.artifacts["weights"]))
        self._network = TorchNetwork(segmenter, spec.classes, device)
        self._names = self._network.classes
        # the CRF is compiled now, not while the first caller waits
        self._draw(np.zeros((64, 64, 3), np.uint8), crf=True)

    def predict(
        self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Draw masks.

        Parameters
        ----------
        context
            Of MLflow; not used.
        model_input : array
            (H, W, 3) or (B, H, W, 3) uint8; or an array of pictures, each of them such an array, the
            bytes of an image file, these in base64, or (not over HTTP) the path of one.
        params : dict
            ``crf``: sharpen the edges. ``mask``: ``array``, ``png``, or ``auto``, which answers arrays
            with arrays and files with PNGs.

        Returns
        -------
        list of dict
            One per picture.
        """
        chosen = {"crf": True, "mask": "auto", **(params or {})}
        if chosen["mask"] not in MASKS:
            raise ValueError(f"`mask` must be one of {', '.join(MASKS)}, got {chosen['mask']!r}.")
        answers = []
        for picture, is_file in list_pictures(model_input):
            label_map = self._draw(picture, crf=bool(chosen["crf"]))
            as_text = chosen["mask"] == "png" or (chosen["mask"] == "auto" and is_file)
            answers.append(self._describe(label_map, as_text=as_text))
        return answers

    def _draw(self, picture: NDArray[np.uint8], *, crf: bool) -> NDArray[np.uint8]:
        from dsrg.drawing import Style, draw_label_map

        settings = self._settings
        style = Style(
            scales=tuple(settings["scales"]),
            flip=settings["flip"],
            crf=settings["crf"] if crf else None,
            max_side=settings["max_side"],
            tile=None,
            overlap=0,
            min_peak=settings["min_peak"],
        )
        return draw_label_map(self._network, picture, style)

    def _describe(self, label_map: NDArray[np.uint8], *, as_text: bool) -> dict[str, Any]:
        counts = np.bincount(label_map.ravel(), minlength=len(self._names))
        colours = list_colours(len(self._names))
        return {
            "mask": _encode(label_map) if as_text else label_map,
            "height": label_map.shape[0],
            "width": label_map.shape[1],
            "classes": [
                {"id": k, "name": name, "color": colours[k], "share": float(counts[k] / label_map.size)}
                for k, name in enumerate(self._names)
            ],
        }


def list_colours(count: int) -> list[str]:
    """List the colours of the first class ids as ``#rrggbb``.

    Examples
    --------
    >>> list_colours(2)
    ['#000000', '#800000']
    """
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in build_palette()[:count].tolist()]


def list_pictures(model_input: Any) -> Iterator[tuple[NDArray[np.uint8], bool]]:
    """List the pictures of a request, and whether each came as a file."""
    if isinstance(model_input, str | bytes | os.PathLike):
        model_input = [model_input]
    rows = model_input if isinstance(model_input, list) else np.asarray(model_input)
    if isinstance(rows, np.ndarray):
        rows = [rows] if rows.ndim in (0, 3) else list(rows)
    for row in rows:
        given = row.item() if isinstance(row, np.ndarray) and row.ndim == 0 else row
        if isinstance(given, str | bytes | os.PathLike):
            yield _read(given), True
        else:
            yield _check(np.asarray(given)), False


def _check(picture: NDArray[Any]) -> NDArray[np.uint8]:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise ValueError(f"a picture must be (H, W, 3), got an array of shape {picture.shape}.")
    whole = picture if picture.dtype == np.uint8 else picture.astype(np.float64)
    if whole.min() < 0 or whole.max() > 255 or (whole != np.floor(whole)).any():
        raise ValueError("a picture must hold whole numbers from 0 to 255, in red, green, blue.")
    return np.ascontiguousarray(whole, dtype=np.uint8)


def _read(given: str | bytes | os.PathLike[str]) -> NDArray[np.uint8]:
    if not isinstance(given, bytes):
        text = os.fspath(given)
        if _SERVED not in os.environ and len(text) < 4096 and Path(text).is_file():
            return read_image(Path(text))
        try:
            given = base64.b64decode(text.partition("base64,")[2] or text, validate=True)
        except ValueError:
            raise ValueError(f"neither a picture in base64 nor the path of one: {text[:80]!r}.") from None
    with tempfile.NamedTemporaryFile() as file:
        file.write(given)
        file.flush()
        return read_image(Path(file.name))


def _encode(label_map: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(label_map, mode="P")
    picture.putpalette(build_palette().ravel().tolist())
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


set_model(ServedSegmenter())
