"""Segmenters in the formats of other programs, run by those programs at several sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from tiny_data import write_segmenter
from tiny_folder import draw_picture

from dsrg.drawing import Style, draw_label_map, predict_picture
from dsrg.exporting import FORMATS, compare_export, export_segmenter, load_export
from dsrg.inference import ProbabilityMaps, predict_probs, view_images
from dsrg.models import Segmenter, SegmenterSpec
from dsrg.models.folding import settle_norms
from dsrg.networks import NetworkError, OnnxNetwork, TorchNetwork, describe_network, scale_view

CPU = torch.device("cpu")
CLASSES = ("background", "cat", "dog")
SPEC: dict[str, Any] = {
    "classes": CLASSES[1:],
    "output_stride": 16,
    "aspp_channels": 8,
    "aspp_rates": (1, 2),
    "aspp_separable": True,
    "dropout": 0.5,
    "skip_channels": 4,
    "input_size": 64,
}
SETTINGS = {"scales": [0.75, 1.0], "flip": True, "crf": {}}
ABOUT = describe_network(CLASSES, input_size=64, settings=SETTINGS, source="birds", round="2")


def build(backbone: str, folder: Path, **changes: Any) -> Segmenter:
    spec = SegmenterSpec(backbone=backbone, **{**SPEC, **changes})
    return write_segmenter(folder / "segmenter.safetensors", spec)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return build("efficientnet_lite0", tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(scope="module")
def onnx_file(segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_segmenter(segmenter, path, kind="onnx", about=ABOUT)
    return path


def draw_batches() -> list[NDArray[np.uint8]]:
    sizes = [(1, 64, 64), (2, 50, 71), (3, 33, 90), (1, 131, 97), (1, 32, 32)]
    return [
        np.stack([draw_picture(number + 10 * n, height, width) for n in range(count)])
        for number, (count, height, width) in enumerate(sizes)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "changes"),
    [
        ("vgg16", {"output_stride": 8, "skip_channels": 0, "aspp_separable": False}),
        pytest.param("resnet50", {}, marks=pytest.mark.slow),
        pytest.param("timm:mobilenetv3_small_100", {}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kind", FORMATS)
def test_backbones_draw_the_same_in_every_format(
    backbone: str, changes: dict[str, Any], kind: str, tmp_path: Path
):
    segmenter = build(backbone, tmp_path, **changes)
    path = tmp_path / f"model{FORMATS[kind]}"
    export_segmenter(segmenter, path, kind=kind, about=ABOUT)
    found = compare_export(segmenter, load_export(path, kind=kind), draw_batches())
    assert found.same > 0.999
    assert found.largest < 1e-4
    assert len(found.sizes) == 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.load` is:FutureWarning")
@pytest.mark.parametrize("kind", ["torchscript", "exported"])
def test_the_usual_network_draws_the_same_in_formats_of_torch(
    kind: str, segmenter: Segmenter, tmp_path: Path
):
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    path = tmp_path / "model"
    export_segmenter(segmenter, path, kind=kind, about=ABOUT)
    found = compare_export(segmenter, load_export(path, kind=kind), draw_batches())
    assert found.same > 0.999
    assert found.largest < 1e-4
    assert all(torch.equal(value, before[name]) for name, value in segmenter.state_dict().items())
    texts = dict.fromkeys(["classes", "round"], "")
    if kind == "torchscript":
        torch.jit.load(str(path), _extra_files=texts)
    else:
        torch.export.load(path, extra_files=texts)
    assert json.loads(texts["classes"]) == list(CLASSES)


def test_an_onnx_file_says_what_it_is(onnx_file: Path, segmenter: Segmenter):
    onnx.checker.check_model(onnx.load(onnx_file), full_check=True)
    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert (image.name, image.type, len(image.shape), image.shape[3]) == ("image", "tensor(float)", 4, 3)
    assert all(isinstance(side, str) for side in image.shape[:3]), "number and size are free"
    assert [output.name for output in session.get_outputs()] == ["label", "probs", "cells"]
    texts = session.get_modelmeta().custom_metadata_map
    assert json.loads(texts["classes"]) == list(CLASSES)
    assert json.loads(texts["palette"])[1] == [128, 0, 0]
    assert (texts["source"], texts["input_size"]) == ("birds", "64")
    found = compare_export(segmenter, load_export(onnx_file, kind="onnx"), draw_batches())
    assert found.same > 0.999
    assert found.largest < 1e-4


def test_label_and_probs_have_the_size_of_the_picture(onnx_file: Path):
    label, probs, cells = load_export(onnx_file, kind="onnx")(np.zeros((2, 50, 71, 3), np.float32))
    assert (label.shape, label.dtype) == ((2, 50, 71), np.uint8)
    assert probs.shape == (2, 3, 50, 71)
    assert cells.shape[:2] == (2, 3)
    assert np.allclose(probs.sum(axis=1), 1, atol=1e-5)


def test_another_network_is_told_from_the_right_one(onnx_file: Path, tmp_path: Path):
    other = write_segmenter(
        tmp_path / "s.safetensors", SegmenterSpec(backbone="efficientnet_lite0", **SPEC), random_seed=1
    )
    found = compare_export(other, load_export(onnx_file, kind="onnx"), draw_batches())
    assert found.same < 0.9
    assert found.largest > 0.1


def test_a_number_that_is_none_is_no_agreement(segmenter: Segmenter):
    def run(image: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        shape = image.shape[:3]
        return np.full(shape, 9, np.uint8), np.full((shape[0], 3, *shape[1:]), np.nan), np.zeros(1)

    found = compare_export(segmenter, run, draw_batches()[:1])
    assert (found.same, found.largest) == (0.0, 1.0)


def test_an_unknown_format_is_refused(segmenter: Segmenter, tmp_path: Path):
    with pytest.raises(ValueError, match="`kind` must be one of onnx, torchscript, exported, got 'tflite'"):
        export_segmenter(segmenter, tmp_path / "x", kind="tflite", about=ABOUT)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.5)])
@pytest.mark.parametrize("flip", [False, True])
def test_onnx_and_torch_draw_alike_and_as_scoring_does(
    onnx_file: Path, segmenter: Segmenter, scales: tuple[float, ...], flip: bool
):
    picture = draw_picture(3, 90, 120)
    style = Style(scales, flip, None, 1024, None, 0, 0.0)
    views: Any = {"long_side": segmenter.input_size, "scales": scales, "flip": flip}
    scored = predict_probs(ProbabilityMaps(segmenter), picture, **views, device=CPU)
    assert len(np.unique(scored.argmax(axis=0))) > 1
    for network in (TorchNetwork(segmenter, CLASSES[1:], CPU), OnnxNetwork(onnx_file)):
        assert network.classes == CLASSES
        _, probs = predict_picture(network, picture, style)
        assert np.abs(probs - scored).max() < 1e-3
        assert (draw_label_map(network, picture, style) == scored.argmax(axis=0)).mean() > 0.999


@pytest.mark.parametrize("long_side", [40.0, 64.0, 150.5])
def test_views_are_scaled_as_torch_does(long_side: float):
    picture = draw_picture(0, 60, 93)
    view = view_images(lambda maps: maps, picture[None], long_side=long_side, flip=False, device=CPU)
    expected = view[0].permute(1, 2, 0).numpy() * 255
    found = scale_view(picture, long_side)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 0.02


def test_a_foreign_or_broken_file_is_refused_in_one_line(tmp_path: Path):
    node = onnx.helper.make_node("Identity", ["a"], ["b"])
    sides = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "ab"]
    graph = onnx.helper.make_graph([node], "g", sides[:1], sides[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    with pytest.raises(NetworkError, match="was not written by `dsrg export model`: it names no classes"):
        OnnxNetwork(tmp_path / "foreign.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(NetworkError, match=r"`.*broken\.onnx` cannot be read as ONNX: [^\n]+$"):
        OnnxNetwork(tmp_path / "broken.onnx")
    with pytest.raises(NetworkError, match="not found"):
        OnnxNetwork(tmp_path / "none.onnx")


def test_settled_norms_draw_as_before(tmp_path: Path):
    segmenter = build("efficientnet_lite0", tmp_path)
    picture = torch.rand(1, 3, 64, 80)
    with torch.inference_mode():
        before = segmenter(picture)
    settle_norms(segmenter)
    assert not any(type(part).__name__.startswith(("_Scaled", "_Folded")) for part in segmenter.modules())
    with torch.inference_mode():
        assert torch.allclose(segmenter(picture), before, atol=1e-5)
