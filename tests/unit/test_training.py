"""The training loop."""

from __future__ import annotations

import errno
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_data import FIT, build_tiny_backbone
from torch import Tensor, nn
from torch.utils.data import Dataset

from dsrg.classification import classification_loss
from dsrg.groups import StoreError
from dsrg.models.classifier import Classifier
from dsrg.training import Progress, TrainingError, build_optimizer, choose_device, fit, freeze_batch_norm

STEPS = 6


class ToySamples(Dataset[tuple[Tensor, Tensor]]):
    """Noise that is brighter in the channel of its class; drawn by the number alone."""

    def __init__(self, *, broken_from: int | None = None) -> None:
        self.broken_from = broken_from

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(number)
        image = torch.rand(3, 32, 32, generator=generator) / 2
        image[number % 2] += 0.5
        if self.broken_from is not None and number >= self.broken_from:
            image = image * math.nan
        return image, torch.nn.functional.one_hot(torch.tensor(number % 2), 2).float()


class DroppingClassifier(Classifier):
    """A classifier with dropout, so that the state of the generator matters."""

    def activate(self, images: Tensor) -> Tensor:
        _, deep = self.backbone(images)
        return self.head(nn.functional.dropout(deep, 0.3, self.training))


def train(checkpoint: Path | None = None, **changes: Any) -> Classifier:
    torch.manual_seed(0)
    model = DroppingClassifier(build_tiny_backbone(), num_foreground=2)
    optimizer = build_optimizer(
        model, [model.head], lr=0.05, head_lr_multiplier=2.0, momentum=0.9, weight_decay=1e-4
    )
    settings = {
        **FIT,
        "samples": ToySamples(),
        "loss": classification_loss,
        "steps": STEPS,
        "checkpoint": checkpoint,
    } | changes
    torch.manual_seed(int.from_bytes(b"noise"))  # what others drew must not matter
    fit(model, optimizer, **settings)
    return model


def read_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_weights(one: nn.Module, other: nn.Module) -> None:
    expected = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_training_brings_the_loss_down_and_tells_every_step() -> None:
    told: list[Progress] = []
    model = train(on_step=told.append, steps=30)
    assert not model.training
    assert [progress.step for progress in told] == list(range(1, 31))
    losses = [progress.losses["loss"] for progress in told]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert all(0 <= progress.data_wait <= 1 and progress.images_per_second > 0 for progress in told)
    rates = [progress.lr for progress in told]
    assert rates[0] == pytest.approx(0.025)
    assert rates[1] == max(rates)
    assert 0 < rates[-1] < 0.05 * 0.1


@pytest.mark.parametrize(
    ("stop_after", "loader_workers", "goes_on_at"),
    [(1, 0, 1), (4, 0, 3), (5, 0, 5), pytest.param(5, 1, 5, marks=pytest.mark.slow)],
)
def test_a_stopped_run_continues_to_the_same_weights(
    tmp_path: Path, stop_after: int, loader_workers: int, goes_on_at: int
) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == stop_after:
            raise KeyboardInterrupt

    told: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "last.ckpt", on_step=stop, loader_workers=loader_workers)
    resumed = train(
        tmp_path / "last.ckpt",
        on_step=lambda progress: told.append(progress.step),
        loader_workers=loader_workers,
    )
    assert told[0] == goes_on_at
    assert_equal_weights(resumed, train())


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    told: list[Progress] = []
    finished = train(tmp_path / "last.ckpt")
    again = train(tmp_path / "last.ckpt", on_step=told.append)
    assert told == []
    assert_equal_weights(again, finished)
    assert not list(tmp_path.glob("*.partial"))


def flip_bit(content: bytes, place: float) -> bytes:
    changed = bytearray(content)
    changed[int(place * len(content))] ^= 16
    return bytes(changed)


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda whole, keep=keep: whole[:keep] for keep in (0, 100, -1)),
        lambda whole: whole[: len(whole) // 2],
        *(lambda whole, place=place: flip_bit(whole, place) for place in (0.3, 0.5, 0.7)),
        lambda _: b"no archive at all",
    ],
)
def test_training_begins_anew_where_its_checkpoint_is_damaged(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "last.ckpt"
    train(path)
    path.write_bytes(damage(path.read_bytes()))
    told: list[int] = []
    reasons: list[str] = []
    again = train(path, on_step=lambda progress: told.append(progress.step), on_damage=reasons.append)
    assert told[0] == 1
    assert len(reasons) == 1
    assert reasons[0].startswith(f"`{path}` is damaged (")
    assert "\n" not in reasons[0]
    assert_equal_weights(again, train())


def test_a_checkpoint_that_may_not_be_read_now_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    train(path)
    whole = path.read_bytes()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(PermissionError):
        train(path)
    assert path.read_bytes() == whole


class KilledSamples(ToySamples):
    """Their process is killed, as the system does when memory runs out."""

    def __getitem__(self, number: int) -> Any:
        if number == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(number)


class BrokenSamples(ToySamples):
    """Code of theirs is wrong."""

    def __getitem__(self, number: int) -> Any:
        raise RuntimeError("stack expects each tensor to be equal size")


class DamagedSamples(ToySamples):
    """A shard of them is damaged."""

    def __getitem__(self, number: int) -> Any:
        raise StoreError("`data/images.zarr` shard 1 is damaged (bad checksum). Run: dvc repro -f ingest")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("samples", "kind", "message"),
    [
        (KilledSamples(), TrainingError, r"^a process that loads pictures was killed .* compute.workers=1"),
        (
            DamagedSamples(),
            StoreError,
            r"^`data/images.zarr` shard 1 is damaged .*\. Run: dvc repro -f ingest$",
        ),
        (BrokenSamples(), RuntimeError, r"^stack expects each tensor to be equal size$"),
    ],
)
def test_what_goes_wrong_in_a_loader_is_one_line(
    samples: ToySamples, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        train(samples=samples, loader_workers=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [ConnectionResetError, EOFError])
def test_a_loader_killed_while_it_hands_over_a_batch_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """torch passes the socket's error on if the killed process still counts as alive for a moment."""

    class Loader:
        def __iter__(self) -> Iterator[Any]:
            raise error("[Errno 104] Connection reset by peer")
            yield

    monkeypatch.setattr("dsrg.training.DataLoader", lambda *_args, **_settings: Loader())
    with pytest.raises(TrainingError, match=r"^a process that loads pictures was killed"):
        train(loader_workers=1)
    with pytest.raises(error):  # of a store that is read over a network, from this process
        train(loader_workers=0)


def test_a_loss_that_is_no_number_names_its_step_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with pytest.raises(
        TrainingError, match=r"the loss is nan at step 4 of 6 \(samples 12 to 15\): lower lr or raise warmup"
    ):
        train(path, samples=ToySamples(broken_from=12))
    assert torch.load(path, weights_only=True)["step"] == 2
    assert_equal_weights(train(path), train())


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    """The loss is fine, the gradient is not: a square root at zero."""

    def explode(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        loss, terms = classification_loss(model, batch)
        return loss + (loss - loss.detach()).sqrt(), terms

    with pytest.raises(TrainingError, match=r"\d+ weights are infinite or NaN after step 1 of 1, first"):
        train(tmp_path / "last.ckpt", loss=explode, steps=1)
    assert not (tmp_path / "last.ckpt").exists()


def test_frozen_norms_keep_their_statistics_but_learn_their_scale() -> None:
    torch.manual_seed(0)
    model = Classifier(build_tiny_backbone(), num_foreground=2)
    before = read_weights(model.backbone)
    optimizer = build_optimizer(
        model, [model.head], lr=0.05, head_lr_multiplier=1.0, momentum=0.0, weight_decay=0.0
    )
    fit(
        model,
        optimizer,
        ToySamples(),
        classification_loss,
        steps=2,
        batch_size=4,
        poly_power=0.9,
        warmup_steps=0,
        clip_norm=0.0,
        frozen_norms=model.backbone,
        device="cpu",
        precision="32-true",
        loader_workers=0,
        random_seed=0,
        checkpoint=None,
        checkpoint_every=10,
    )
    after = read_weights(model.backbone)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(after[f"stages.norm.{name}"], before[f"stages.norm.{name}"])
    assert not torch.equal(after["stages.norm.weight"], before["stages.norm.weight"])
    free = train(steps=2)
    assert int(free.state_dict()["backbone.stages.norm.num_batches_tracked"]) == 2


def test_long_gradients_are_scaled_down_and_short_ones_left() -> None:
    start = read_weights(train(steps=0))
    free, loose = read_weights(train(steps=1)), read_weights(train(steps=1, clip_norm=1e6))
    short = read_weights(train(steps=1, clip_norm=1e-3))
    assert all(torch.equal(free[name], loose[name]) for name in free)
    weights = [name for name, _ in train(steps=0).named_parameters()]
    moved = sum(float((free[name] - start[name]).abs().sum()) for name in weights)
    assert 0 < sum(float((short[name] - start[name]).abs().sum()) for name in weights) < 0.1 * moved


def test_freezing_reaches_the_norms_of_timm() -> None:
    from timm.layers import BatchNormAct2d

    model = nn.Sequential(BatchNormAct2d(3), nn.BatchNorm2d(3)).train()
    freeze_batch_norm(model)
    assert [module.training for module in model] == [False, False]


def test_new_layers_learn_faster_and_only_kernels_are_decayed() -> None:
    model = Classifier(build_tiny_backbone(), num_foreground=2)
    optimizer = build_optimizer(
        model, [model.head], lr=0.1, head_lr_multiplier=10.0, momentum=0.9, weight_decay=0.01
    )
    rates = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    found = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert found["head.weight"] == (1.0, 0.01)
    assert found["backbone.stages.deep.weight"] == (0.1, 0.01)
    assert found["backbone.stages.deep.bias"] == found["backbone.stages.norm.weight"] == (0.1, 0.0)
    assert len(found) == len(rates)


def test_auto_is_a_device_that_is_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
