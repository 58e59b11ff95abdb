"""Networks, and files that say how to rebuild them.

A model file is ``safetensors``: tensors, plus metadata that names the architecture and the classes.
Loading it runs no code from the file and needs no params.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dsrg.models.backbones import Backbone, WeightsError, create_backbone
from dsrg.models.classifier import Classifier
from dsrg.models.segmenter import Segmenter

__all__ = [
    "Backbone",
    "Classifier",
    "ClassifierSpec",
    "ModelFileError",
    "Segmenter",
    "SegmenterSpec",
    "WeightsError",
    "create_backbone",
    "load_classifier",
    "load_segmenter",
    "load_segmenter_spec",
    "save_model",
]

_KEY = "dsrg"


class ModelFileError(Exception):
    """A model file is missing, damaged, or of another kind; the message names it."""


@dataclass(frozen=True)
class ClassifierSpec:
    """What is needed to rebuild a classifier.

    Attributes
    ----------
    backbone : str
        Name in the table of :mod:`dsrg.models.backbones`.
    classes : tuple of K str
        Foreground classes.
    """

    backbone: str
    classes: tuple[str, ...]

    def build(self, *, output_stride: int, weights: str) -> Classifier:
        """Build the network at an output stride; parameters do not depend on the stride."""
        backbone = create_backbone(self.backbone, output_stride=output_stride, weights=weights)
        return Classifier(backbone, num_foreground=len(self.classes))


@dataclass(frozen=True)
class SegmenterSpec:
    """What is needed to rebuild a segmenter; see :class:`dsrg.models.segmenter.Segmenter`.

    Attributes
    ----------
    log_odds : float
        How much more common background is than foreground in what it was trained on, see
        :func:`dsrg.losses.measure_log_odds`; 0 in files that do not say.
    """

    backbone: str
    classes: tuple[str, ...]
    output_stride: int
    aspp_channels: int
    aspp_rates: tuple[int, ...]
    aspp_separable: bool
    dropout: float
    skip_channels: int
    input_size: int
    log_odds: float = 0.0

    def build(self, *, weights: str) -> Segmenter:
        """Build the network."""
        backbone = create_backbone(self.backbone, output_stride=self.output_stride, weights=weights)
        return Segmenter(
            backbone,
            num_classes=len(self.classes) + 1,
            aspp_channels=self.aspp_channels,
            aspp_rates=self.aspp_rates,
            aspp_separable=self.aspp_separable,
            dropout=self.dropout,
            skip_channels=self.skip_channels,
            input_size=self.input_size,
        )


def save_model(path: Path, model: nn.Module, spec: ClassifierSpec | SegmenterSpec, *, digest: str) -> None:
    """Write tensors and `spec` to `path` (atomically); equal models give equal bytes."""
    from safetensors.torch import save_file

    about = {"kind": type(spec).__name__, "spec": dataclasses.asdict(spec), "digest": digest}
    # One key only: safetensors writes several in random order, and equal models must give equal bytes.
    metadata = {_KEY: json.dumps(about, sort_keys=True)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata=metadata)
    os.replace(partial, path)


def read_model_digest(path: Path) -> str:
    """Read the provenance digest a model was saved with."""
    return str(_read_metadata(path)["digest"])


def load_classifier(path: Path, *, output_stride: int) -> tuple[Classifier, ClassifierSpec]:
    """Load a classifier for inference.

    Raises
    ------
    ModelFileError
        Missing, damaged, or no classifier.
    """
    spec = ClassifierSpec(**_read_spec(path, ClassifierSpec))
    model = spec.build(output_stride=output_stride, weights="none")
    _load_tensors(model, path)
    return model.eval(), spec


def load_segmenter_spec(path: Path) -> SegmenterSpec:
    """Read a segmenter's architecture and classes without its tensors."""
    return SegmenterSpec(**_read_spec(path, SegmenterSpec))


def load_segmenter(path: Path) -> tuple[Segmenter, SegmenterSpec]:
    """Load a segmenter for inference.

    Raises
    ------
    ModelFileError
        Missing, damaged, or no segmenter.
    """
    spec = load_segmenter_spec(path)
    model = spec.build(weights="none")
    _load_tensors(model, path)
    return model.eval(), spec


def _read_metadata(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelFileError(f"model file `{path}` not found: run the stage that makes it with dvc repro")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ModelFileError(
            f"model file `{path}` is damaged ({error}): delete it and run dvc repro"
        ) from error
    if _KEY not in metadata:
        raise ModelFileError(f"model file `{path}` was not written by this program: it names no architecture")
    about: dict[str, Any] = json.loads(metadata[_KEY])
    return about


def _read_spec(path: Path, kind: type) -> dict[str, Any]:
    metadata = _read_metadata(path)
    if metadata["kind"] != kind.__name__:
        raise ModelFileError(f"model file `{path}` holds a {metadata['kind']}, not a {kind.__name__}")
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in metadata["spec"].items()
    }


def _load_tensors(model: nn.Module, path: Path) -> None:
    from safetensors.torch import load_model

    try:
        load_model(model, path, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise ModelFileError(f"model file `{path}` does not fit its own architecture: {first}") from error
