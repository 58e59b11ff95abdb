"""Training in several processes, a device each: every one sees an equal part of every batch.

Rank 0 does all that is done once: it tells of steps and writes checkpoints. Batch norms take their
statistics over the parts of all, so that a step is that of one process with the whole batch, but for the
order of sums and what dropout draws. :mod:`dsrg.others` starts the processes.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

_SILENT = timedelta(minutes=10)  # after which one that is there, but does not take its part, is given up


class DevicesError(RuntimeError):
    """A machine does not have the devices that are to train on it."""


@dataclass(frozen=True)
class Rank:
    """Which of how many processes this is, and where they meet.

    Attributes
    ----------
    number, count : int
    local, beside : int
        The same among those of its machine, each of which has as many.
    store : (str, int)
        Host and port of rank 0, where all find each other.
    """

    number: int = 0
    count: int = 1
    local: int = 0
    beside: int = 1
    store: tuple[str, int] = ("127.0.0.1", 0)


def number_ranks(node: int, *, nodes: int, devices: int, store: tuple[str, int]) -> list[Rank]:
    """Number the processes of one machine among those of all.

    Parameters
    ----------
    node : int
        Which machine, from 0.
    nodes, devices : int
        How many machines, and processes on each.
    store : (str, int)

    Examples
    --------
    >>> [rank.number for rank in number_ranks(1, nodes=3, devices=2, store=("10.0.0.5", 29500))]
    [2, 3]
    """
    return [Rank(node * devices + local, nodes * devices, local, devices, store) for local in range(devices)]


def open_store(host: str = "127.0.0.1", port: int = 0, *, first: bool = False) -> Any:
    """Open the store in which all processes find each other; the first one makes it, on a free port."""
    untyped: Any = distributed
    return untyped.TCPStore(host, port, is_master=first, wait_for_workers=False, timeout=_SILENT)


def build_fabric(rank: Rank, *, accelerator: str, precision: Any) -> Any:
    """Build a Lightning Fabric for this process, joined with the others.

    Raises
    ------
    DevicesError
        This machine has fewer GPUs than are to train on it.
    """
    from lightning.fabric import Fabric

    if accelerator == "cuda" and torch.cuda.device_count() < rank.beside:
        raise DevicesError(
            f"{socket.gethostname()} has {torch.cuda.device_count()} GPUs, compute.devices is {rank.beside}"
        )
    if rank.count == 1:
        return Fabric(accelerator=accelerator, devices=1, precision=precision)
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    class Environment(LightningEnvironment):
        """Tells Fabric what it would read from variables."""

        creates_processes_externally = True

        def world_size(self) -> int:
            return rank.count

        def global_rank(self) -> int:
            return rank.number

        def local_rank(self) -> int:
            return rank.local

        def node_rank(self) -> int:
            return rank.number // rank.beside

    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell how many have met
    distributed.init_process_group(
        "nccl" if accelerator == "cuda" else "gloo",
        store=open_store(*rank.store),
        rank=rank.number,
        world_size=rank.count,
        timeout=_SILENT,
    )
    fabric = Fabric(
        accelerator=accelerator,
        devices=rank.beside,
        num_nodes=rank.count // rank.beside,
        strategy="ddp",
        precision=precision,
        plugins=[Environment()],
    )
    fabric.launch()
    return fabric


def average(fabric: Any, losses: dict[str, float]) -> dict[str, float]:
    """Average losses over the processes that train together."""
    if fabric.world_size == 1:
        return losses
    mine = torch.tensor(list(losses.values()), dtype=torch.float64, device=fabric.device)
    return dict(zip(losses, fabric.all_reduce(mine, reduce_op="mean").tolist(), strict=True))


def train_together() -> bool:
    """Tell whether this process trains together with others."""
    return distributed.is_available() and distributed.is_initialized()


def average_count(count: Tensor) -> Tensor:
    """Average a count over the processes that train together: then the mean of their losses is that of all.

    Parameters
    ----------
    count : () Tensor
        Of what a loss is divided by.
    """
    if not train_together():
        return count
    total = count.detach().float().clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def leave(rank: Rank) -> None:
    """Part from the others."""
    if rank.count > 1 and train_together():
        distributed.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over all processes, of values and, backwards, of gradients."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradients: Tensor) -> Tensor:
        total = gradients.clone()
        distributed.all_reduce(total)
        return total


def _add_up(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total


class _SharedNorm(nn.BatchNorm2d):
    """A batch norm over the parts of all processes, which are of one size."""

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise (B, C, h, w)."""
        if not self.training:
            return super().forward(maps)
        count = distributed.get_world_size()
        values = maps.float()
        mean = _add_up(values.mean(dim=(0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _add_up(centred.square().mean(dim=(0, 2, 3))) / count
        if self.running_mean is not None and self.running_var is not None:
            number = count * maps.numel() // maps.shape[1]
            unbiased = variance.detach() * number / max(1, number - 1)
            assert self.momentum is not None
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
        found = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        if self.affine:
            found = found * self.weight[:, None, None] + self.bias[:, None, None]
        answer: Tensor = found.to(maps.dtype)
        return answer


@contextlib.contextmanager
def share_norms(model: nn.Module, rank: Rank) -> Iterator[None]:
    """Have batch norms that learn their statistics take them over all processes, as long as this lasts."""
    norms = [module for module in model.modules() if type(module) is nn.BatchNorm2d] if rank.count > 1 else []
    for norm in norms:
        norm.__class__ = _SharedNorm
    try:
        yield
    finally:
        for norm in norms:
            norm.__class__ = nn.BatchNorm2d
