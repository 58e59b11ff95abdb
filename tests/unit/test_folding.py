"""Norms folded into convolutions: the same network, with one pass less."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dsrg.models import folding
from dsrg.models.backbones import Backbone, create_backbone

NORMS = {"efficientnet_lite0": 49, "timm:resnet18": 20, "resnet50": 53}


def build_pair(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Backbone, Backbone]:
    """Build a backbone with lively norms, folded and not."""
    folded = create_backbone(name, output_stride=16, weights="none")
    with monkeypatch.context() as patch:
        patch.setattr(folding, "fold_norms", lambda *_: 0)
        plain = create_backbone(name, output_stride=16, weights="none")
    generator = torch.Generator().manual_seed(0)
    for part in folded.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values in (part.weight.data, part.running_var):
                values.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
            for values in (part.bias.data, part.running_mean):
                values.normal_(0, 0.1, generator=generator)  # type: ignore[union-attr]
    plain.load_state_dict(folded.state_dict())
    return folded.double(), plain.double()


def encode(backbone: Backbone) -> Tensor:
    picture = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return backbone.top(backbone(picture)[1])  # type: ignore[no-any-return]


def collect_gradients(backbone: Backbone) -> dict[str, Tensor]:
    encode(backbone).pow(2).mean().backward()
    return {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", NORMS)
def test_values_and_gradients_are_those_of_the_norms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folded, plain = build_pair(name, monkeypatch)
    assert sum(type(part).__module__ == folding.__name__ for part in folded.modules()) == 2 * NORMS[name]
    assert not any(type(part).__module__ == folding.__name__ for part in plain.modules())
    assert list(folded.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(encode(folded.eval()), encode(plain.eval()))
    found, expected = collect_gradients(folded), collect_gradients(plain)
    assert set(found) == set(expected)
    for key, gradient in expected.items():
        error = (found[key] - gradient).norm() / gradient.norm().clamp_min(1e-12)
        assert error < 1e-6, key


def test_norms_in_training_mode_work_and_count_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    folded, plain = build_pair("efficientnet_lite0", monkeypatch)
    with torch.no_grad():
        assert torch.equal(encode(folded.train()), encode(plain.train()))
    for name, values in plain.state_dict().items():
        assert torch.equal(folded.state_dict()[name], values), name


def test_creating_a_backbone_leaves_statistics_and_modes() -> None:
    backbone = create_backbone("efficientnet_lite0", output_stride=16, weights="none")
    counts = [b for name, b in backbone.named_buffers() if name.endswith("num_batches_tracked")]
    assert len(counts) == NORMS["efficientnet_lite0"]
    assert not any(int(count) for count in counts)
    assert backbone.training


def test_a_copy_folds_its_own_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    folded, _ = build_pair("timm:resnet18", monkeypatch)
    twin = copy.deepcopy(folded.eval())
    with torch.no_grad():
        before = encode(twin)
        for part in folded.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.zero_()
        assert torch.equal(encode(twin), before)
        assert not torch.equal(encode(folded), before)


class _Forked(nn.Module):
    """A convolution that a norm and a sum read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=True)
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean += 3.0  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y + self.norm(y)  # type: ignore[no-any-return]


def test_a_convolution_that_others_read_too_is_left_alone() -> None:
    module, x = _Forked(), torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        expected = module.eval()(x)
        assert folding.fold_norms(module, lambda: module(x)) == 0  # type: ignore[no-any-return]
        assert torch.equal(module(x), expected)
    assert (type(module.conv), type(module.norm)) == (nn.Conv2d, nn.BatchNorm2d)
    assert not hasattr(module.conv, "norm_after")


def test_a_convolutions_bias_is_scaled_with_it() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4)).eval()
    module[1].running_mean += 3.0  # type: ignore[operator]
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        expected = module(x)
        assert folding.fold_norms(module, lambda: module(x)) == 1  # type: ignore[no-any-return]
        torch.testing.assert_close(module(x), expected)
