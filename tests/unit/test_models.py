"""Networks, and the files that rebuild them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_data import build_tiny_backbone

from dsrg.models import (
    ClassifierSpec,
    ModelFileError,
    SegmenterSpec,
    load_classifier,
    load_segmenter,
    load_segmenter_spec,
    read_model_digest,
    save_model,
)
from dsrg.models.aspp import Aspp
from dsrg.models.classifier import Classifier
from dsrg.models.segmenter import Segmenter

ASPP: dict[str, Any] = {
    "aspp_channels": 8,
    "aspp_rates": (1, 2),
    "aspp_separable": True,
    "dropout": 0.5,
    "skip_channels": 4,
    "input_size": 64,
}
CLASSIFIER = ClassifierSpec("efficientnet_lite0", ("cat", "dog"))
SEGMENTER = SegmenterSpec(backbone="efficientnet_lite0", classes=("cat", "dog"), output_stride=16, **ASPP)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def build_segmenter(**changes: Any) -> Segmenter:
    return Segmenter(build_tiny_backbone(), num_classes=3, **{**ASPP, **changes}).eval()


def test_a_segmenter_comes_back_with_its_architecture_and_digest(
    tmp_path: Path, images: torch.Tensor
) -> None:
    model = SEGMENTER.build(weights="none").eval()
    save_model(tmp_path / "segmenter.safetensors", model, SEGMENTER, digest="abc")
    loaded, spec = load_segmenter(tmp_path / "segmenter.safetensors")
    assert spec == SEGMENTER == load_segmenter_spec(tmp_path / "segmenter.safetensors")
    assert read_model_digest(tmp_path / "segmenter.safetensors") == "abc"
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))
    assert [file.name for file in tmp_path.iterdir()] == ["segmenter.safetensors"]


def test_a_classifier_comes_back_at_another_output_stride(tmp_path: Path, images: torch.Tensor) -> None:
    model = CLASSIFIER.build(output_stride=32, weights="none").eval()
    save_model(tmp_path / "classifier.safetensors", model, CLASSIFIER, digest="abc")
    loaded, spec = load_classifier(tmp_path / "classifier.safetensors", output_stride=32)
    finer, _ = load_classifier(tmp_path / "classifier.safetensors", output_stride=16)
    assert spec == CLASSIFIER
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))
        assert finer.activate(images).shape == (2, 2, 4, 6)


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    files = []
    for number in range(8):  # what safetensors does at random it does not do at random eight times
        torch.manual_seed(0)
        path = tmp_path / f"{number}.safetensors"
        model = Classifier(build_tiny_backbone(), num_foreground=2).to(memory_format=torch.channels_last)
        save_model(path, model, CLASSIFIER, digest="abc")
        files.append(path.read_bytes())
    assert len(set(files)) == 1


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    path = tmp_path / "segmenter.safetensors"
    with pytest.raises(ModelFileError, match=f"model file `{path}` not found: run the stage"):
        load_segmenter(path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"some text instead"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "segmenter.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=f"model file `{path}` is damaged"):
        load_segmenter(path)


def test_half_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "classifier.safetensors"
    save_model(path, Classifier(build_tiny_backbone(), num_foreground=2), CLASSIFIER, digest="abc")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelFileError, match=f"model file `{path}` is damaged"):
        load_classifier(path, output_stride=32)


def test_a_file_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "classifier.safetensors"
    save_model(path, Classifier(build_tiny_backbone(), num_foreground=2), CLASSIFIER, digest="abc")
    with pytest.raises(ModelFileError, match="holds a ClassifierSpec, not a SegmenterSpec"):
        load_segmenter(path)


def test_a_strangers_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match="was not written by this program"):
        load_classifier(path, output_stride=32)


def test_tensors_that_do_not_fit_the_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "classifier.safetensors"
    save_model(path, Classifier(build_tiny_backbone(), num_foreground=2), CLASSIFIER, digest="abc")
    with pytest.raises(ModelFileError, match=f"`{path}` does not fit its own architecture"):
        load_classifier(path, output_stride=32)


@pytest.mark.parametrize("separable", [True, False])
def test_the_pyramid_sums_its_branches(separable: bool) -> None:
    torch.manual_seed(0)
    features = torch.rand(2, 5, 9, 7)
    aspp = Aspp(5, channels=4, num_classes=3, rates=(1, 2, 4), separable=separable, dropout=0.5).eval()
    with torch.inference_mode():
        expected = torch.stack([branch(features) for branch in aspp.branches]).sum(0)
        torch.testing.assert_close(aspp(features), expected)
    assert expected.shape == (2, 3, 9, 7)
    rates = [branch[0].dilation[0] for branch in aspp.branches]  # type: ignore[index]
    assert rates == [1, 2, 4]


def test_the_segmenters_grid_is_the_deep_one_or_the_shallow_one(images: torch.Tensor) -> None:
    with torch.inference_mode():
        assert build_segmenter(skip_channels=0)(images).shape == (2, 3, 8, 12)
        assert build_segmenter(skip_channels=4)(images).shape == (2, 3, 16, 24)


def test_the_shallow_branch_starts_as_a_plain_enlargement(images: torch.Tensor) -> None:
    model = build_segmenter()
    with torch.inference_mode():
        deep = model.aspp(model.backbone(images)[1])
        expected = torch.nn.functional.interpolate(deep, size=(16, 24), mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(images), expected)


def test_a_class_scores_the_mean_of_its_activations(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = Classifier(build_tiny_backbone(), num_foreground=4).eval()
    with torch.inference_mode():
        activations = model.activate(images)
        assert activations.shape == (2, 4, 8, 12)
        torch.testing.assert_close(model(images), activations.mean(dim=(2, 3)))
