"""Segmenters that draw, from a checkpoint or from an ONNX file: :class:`dsrg.drawing.Network`.

An ONNX file is run by onnxruntime, without torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dsrg.labels import build_palette

INPUT, CELLS = "image", "cells"
_SMALLEST = 32  # as `dsrg.inference.view_images` has it


class NetworkError(Exception):
    """A file holds no segmenter that can be run here; the message says why."""


class TorchNetwork:
    """A segmenter of this program, run by torch or OpenVINO.

    Parameters
    ----------
    segmenter : dsrg.models.Segmenter
        In evaluation mode; moved to `device`, and not to be trained any more.
    classes : tuple of K str
        Foreground classes.
    device : torch.device
    engine : {'openvino', 'torch'}
        What runs it on a CPU.
    **settings
        As for :func:`dsrg.engines.prepare_network`.
    """

    def __init__(
        self, segmenter: Any, classes: tuple[str, ...], device: Any, *, engine: Any = "torch", **settings: Any
    ) -> None:
        self.classes = ("background", *classes)
        self.input_size = int(segmenter.input_size)
        from dsrg.engines import prepare_network  # imports timm, which takes seconds
        from dsrg.inference import ProbabilityMaps

        prepared = prepare_network(ProbabilityMaps(segmenter), device=device, engine=engine, **settings)
        self._forward = prepared.forward
        self._device = device

    def view(self, images: NDArray[np.uint8], *, scale: float, flip: bool) -> NDArray[np.float32]:
        """See pictures (B, H, W, 3) uint8 at `scale` times the input size; (B, C, h, w) float32."""
        from dsrg.inference import view_images

        maps = view_images(
            lambda view: self._forward(view)[0],
            images,
            long_side=self.input_size * scale,
            flip=flip,
            device=self._device,
        )
        return cast("NDArray[np.float32]", maps.cpu().numpy())


class OnnxNetwork:
    """A segmenter that :mod:`dsrg.exporting` wrote.

    Parameters
    ----------
    path : Path
        The file.
    cuda : bool
        Run it on a GPU.
    threads : int
        Cores that it takes; 0 is all.

    Attributes
    ----------
    about : dict
        What the file says of itself, see :func:`dsrg.exporting.describe_network`.

    Raises
    ------
    NetworkError
        Not there, damaged, not written by this program, or no GPU for onnxruntime.
    """

    def __init__(self, path: Path, *, cuda: bool = False, threads: int = 0) -> None:
        self._session = _open_session(path, cuda=cuda, intra_op_num_threads=threads)
        self.about = _read_session_about(self._session, path)
        self.classes: tuple[str, ...] = tuple(self.about["classes"])
        self.input_size = int(self.about["input_size"])

    def view(self, images: NDArray[np.uint8], *, scale: float, flip: bool) -> NDArray[np.float32]:
        """See pictures (B, H, W, 3) uint8 at `scale` times the input size; (B, C, h, w) float32."""
        view = np.stack([scale_view(image, self.input_size * scale) for image in images])
        maps = self._run(view)
        if flip:
            maps = (maps + self._run(view[:, :, ::-1])[..., ::-1]) / np.float32(2)
        return maps

    def _run(self, view: NDArray[np.float32]) -> NDArray[np.float32]:
        (cells,) = self._session.run([CELLS], {INPUT: np.ascontiguousarray(view)})
        return cast("NDArray[np.float32]", cells)


def read_onnx_about(path: Path) -> dict[str, Any]:
    """Read what an ONNX file says of itself, see :func:`dsrg.exporting.describe_network`.

    Raises
    ------
    NetworkError
        Not there, damaged, or not written by this program.
    """
    from onnxruntime import GraphOptimizationLevel

    plain = GraphOptimizationLevel.ORT_DISABLE_ALL  # it is not to be run
    session = _open_session(path, cuda=False, graph_optimization_level=plain, intra_op_num_threads=1)
    return _read_session_about(session, path)


def _open_session(path: Path, *, cuda: bool, **settings: Any) -> Any:
    import onnxruntime

    if not path.is_file():
        raise NetworkError(f"`{path}` not found")
    provider = "CUDAExecutionProvider" if cuda else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise NetworkError("this onnxruntime runs on no GPU: install onnxruntime-gpu, or --device cpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, value in settings.items():
        setattr(options, name, value)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime raises classes of its own that share no base
        raise NetworkError(f"`{path}` cannot be read as ONNX: {str(error).splitlines()[0]}") from error


def _read_session_about(session: Any, path: Path) -> dict[str, Any]:
    about = read_about(session.get_modelmeta().custom_metadata_map)
    if not about:
        raise NetworkError(f"`{path}` was not written by `dsrg export model`: it names no classes")
    return about


def scale_view(image: NDArray[np.uint8], long_side: float) -> NDArray[np.float32]:
    """Scale a picture to a longer side, as `dsrg.inference.view_images` does, but without torch.

    Parameters
    ----------
    image : (H, W, 3) uint8
    long_side : float
        Pixels.

    Returns
    -------
    (h, w, 3) float32
        In [0, 255], bilinear, antialiased where it shrinks; not rounded.
    """
    height, width = image.shape[:2]
    factor = long_side / max(height, width)
    size = (max(_SMALLEST, round(width * factor)), max(_SMALLEST, round(height * factor)))
    planes = [
        Image.fromarray(np.ascontiguousarray(image[..., channel], dtype=np.float32)).resize(
            size, Image.Resampling.BILINEAR
        )
        for channel in range(3)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def describe_network(
    classes: tuple[str, ...], *, input_size: int, settings: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """Describe a network for those who run its file elsewhere.

    Parameters
    ----------
    classes : tuple of C str
        By class id, background first.
    input_size : int
        Longer side that pictures had in training.
    settings : dict
        How label maps are drawn with it, unless asked otherwise.
    more
        Where it comes from; values as for JSON.
    """
    palette = build_palette()[: len(classes)].tolist()
    about = {"classes": list(classes), "palette": palette, "input_size": input_size, "settings": settings}
    return {**about, **more}


def write_about(about: dict[str, Any]) -> dict[str, str]:
    """Write a description as the texts that model files hold: JSON, but for what is text anyway."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


def read_about(texts: dict[str, str]) -> dict[str, Any]:
    """Read a description from a file's texts; empty where it is not one of ours."""
    if not {"classes", "input_size", "settings"} <= texts.keys():
        return {}
    about: dict[str, Any] = {}
    for key, text in texts.items():
        try:
            about[key] = json.loads(text)
        except json.JSONDecodeError:
            about[key] = text
    return about
