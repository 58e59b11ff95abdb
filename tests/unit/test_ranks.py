"""Training in two processes: the steps of one process, each sample once, one writer."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_data import FIT, build_tiny_backbone
from torch import Tensor, nn
from torch.utils.data import Dataset

from dsrg import others, ranks
from dsrg.classification import classification_loss
from dsrg.groups import StoreError
from dsrg.models.classifier import Classifier
from dsrg.ranks import Rank, number_ranks
from dsrg.samples import SampleNumbers
from dsrg.training import Progress, TrainingError, build_optimizer, fit

pytestmark = pytest.mark.timeout(300)
STEPS, BATCH = 5, 4


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Noise drawn by the number alone; each process notes what it was asked for."""

    def __init__(self, notes: Path | None = None, killed_at: int | None = None) -> None:
        self.notes, self.killed_at = notes, killed_at

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        if number == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.notes is not None:
            with (self.notes / str(os.getpid())).open("a") as file:
                file.write(f"{number}\n")
        generator = torch.Generator().manual_seed(number)
        label = torch.tensor([number % 2 == 0, number % 3 == 0]).float()
        return torch.rand(3, 48, 48, generator=generator) + label.sum(), label


class Normed(nn.Module):
    """A network whose norms learn from the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3)
        )

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.layers(images).mean(dim=(2, 3))
        return found


def normed_loss(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
    images, labels = batch
    loss = nn.functional.binary_cross_entropy_with_logits(model(images), labels)
    return loss, {"term": 2 * float(loss.detach())}


def build(kind: str) -> tuple[nn.Module, list[nn.Module], Any]:
    torch.manual_seed(0)
    if kind == "classifier":
        model = Classifier(build_tiny_backbone(), num_foreground=2)
        return model, [model.head], classification_loss
    normed = Normed()
    return normed, [], normed_loss


def train(
    kind: str, devices: int, checkpoint: Path | None = None, samples: Any = None, **changes: Any
) -> tuple[nn.Module, list[Progress]]:
    model, head, loss = build(kind)
    optimizer = build_optimizer(model, head, lr=0.05, head_lr_multiplier=2.0, momentum=0.9, weight_decay=1e-4)
    seen: list[Progress] = []
    settings = {
        **FIT,
        "steps": STEPS,
        "batch_size": BATCH,
        "clip_norm": 1.0,
        "checkpoint": checkpoint,
        "on_step": seen.append,
    } | changes
    fit(model, optimizer, samples or Samples(), loss, devices=devices, **settings)
    return model, seen


def compare(one: nn.Module, other: nn.Module) -> None:
    for (name, mine), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normed", "classifier"])
def test_two_processes_take_the_steps_of_one(kind: str) -> None:
    alone, curve = train(kind, 1)
    together, shared = train(kind, 2)
    assert [step.step for step in shared] == list(range(1, STEPS + 1))
    for mine, theirs in zip(curve, shared, strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=1e-4)
    compare(alone, together)
    assert not together.training
    assert not torch.distributed.is_initialized()
    assert type(together) is type(alone)
    assert {type(module) for module in together.modules()} == {type(module) for module in alone.modules()}


@pytest.mark.slow
def test_what_two_began_one_ends(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("normed", 2, path, on_step=stop)
    assert torch.load(path, weights_only=True)["step"] == 2
    resumed, seen = train("normed", 1, path)
    assert [step.step for step in seen] == [3, 4, 5]
    compare(resumed, train("normed", 1)[0])
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"], "one process writes"


@pytest.mark.slow
def test_each_sample_is_seen_once(tmp_path: Path) -> None:
    train("normed", 2, samples=Samples(tmp_path))
    seen = {
        int(place.name): [int(line) for line in place.read_text().split()] for place in tmp_path.iterdir()
    }
    assert len(seen) == 2
    assert sorted(number for numbers in seen.values() for number in numbers) == list(range(STEPS * BATCH))
    assert seen[os.getpid()][:4] == [0, 1, 4, 5]


@pytest.mark.slow
def test_a_process_that_the_system_kills_is_one_line() -> None:
    with pytest.raises(TrainingError, match=r"^a process that trains beside this one ended"):
        train("normed", 2, samples=Samples(killed_at=10))
    assert not torch.distributed.is_initialized()


class Hanging(Samples):
    """A part of them never comes, in the other process."""

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        if number == 10:
            time.sleep(300)
        return super().__getitem__(number)


@pytest.mark.slow
def test_a_process_that_takes_no_part_any_more_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_SILENT", timedelta(seconds=20))
    with pytest.raises(TrainingError, match=r"^a process that trains beside this one ended \(.*[Tt]ime"):
        train("normed", 2, samples=Hanging())
    assert not torch.distributed.is_initialized()


class Damaged(Samples):
    """A shard of them is damaged, in the part that the other process reads."""

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        if number == 10:
            raise StoreError("`data/images.zarr` shard 1 is damaged. Run: dvc repro -f ingest")
        return super().__getitem__(number)


@pytest.mark.slow
@pytest.mark.parametrize("loaders", [0, 1])
def test_what_goes_wrong_in_the_other_process_is_told_here(loaders: int) -> None:
    with pytest.raises(StoreError, match=r"^`data/images.zarr` shard 1 is damaged"):
        train("normed", 2, samples=Damaged(), loader_workers=loaders)


def test_batches_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"^4 samples a step are no multiple of the 3 devices"):
        train("normed", 3)


@pytest.mark.parametrize(("nodes", "devices"), [(1, 1), (2, 1), (3, 4)])
def test_ranks_of_all_machines_are_numbered_once(nodes: int, devices: int) -> None:
    store = ("10.0.0.5", 29500)
    ranks = [
        rank
        for node in range(nodes)
        for rank in number_ranks(node, nodes=nodes, devices=devices, store=store)
    ]
    assert [rank.number for rank in ranks] == list(range(nodes * devices))
    assert {(rank.count, rank.beside, rank.store) for rank in ranks} == {(nodes * devices, devices, store)}
    assert [rank.local for rank in ranks] == [*range(devices)] * nodes


def end_at_once(rank: Rank) -> None:
    os._exit(1)


@pytest.mark.slow
def test_who_waits_in_vain_for_another_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "STUCK_SECONDS", 0.2)
    told: list[Exception] = []
    with others.start_others(2, end_at_once, on_stuck=told.append):
        deadline = time.monotonic() + 60  # nothing wakes this process, as with a GPU
        while not told and time.monotonic() < deadline:
            time.sleep(0.05)
    assert [str(error) for error in told] == ["a process that trains beside this one ended"]


def test_parts_of_batches_make_up_the_batches() -> None:
    parts = [list(SampleNumbers(4, 12, every=4, first=first, count=2)) for first in (0, 2)]
    assert parts == [[4, 5, 8, 9], [6, 7, 10, 11]]
    assert len(SampleNumbers(4, 12, every=4, count=2)) == 4
