"""Training in several processes, a device each: every one sees an equal part of every batch.

The process that calls is rank 0 and does all that is done once: it tells of steps and writes checkpoints. The
others are started here, work on copies of the same model, samples and loss, and end with it. Batch norms
take their statistics over the parts of all, so that a step is that of one process with the whole batch, but
for the order of sums and what dropout draws.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

_END_SECONDS = 30.0
_TELL_SECONDS = 5.0
_HUNG_UP = re.compile("Connection (closed|reset)|closed by peer")


class OtherEndedError(RuntimeError):
    """A process that trains beside this one ended, and did not say why."""


@dataclass(frozen=True)
class Rank:
    """Which of how many processes this is, and where they meet.

    Attributes
    ----------
    number, count : int
    address : (str, int)
        Host and port of rank 0.
    """

    number: int = 0
    count: int = 1
    address: tuple[str, int] = ("127.0.0.1", 0)


@contextlib.contextmanager
def start_others(count: int, function: Callable[..., None], *arguments: Any) -> Iterator[Rank]:
    """Have ``function(rank, *arguments)`` called in `count` - 1 further processes; give this one's rank.

    Parameters
    ----------
    count : int
    function : callable
        At the top level of a module.
    arguments : object
        Copied whole: nothing is shared.

    Raises
    ------
    OtherEndedError
        One of them was killed. An error in one of them is raised here.
    """
    if count == 1:
        yield Rank()
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    # by itself, torch would have the processes share the memory of tensors, and so of the weights
    copied = pickle.dumps((function, arguments))
    context = multiprocessing.get_context("spawn")
    others, errors = [], []
    for number in range(1, count):
        receiver, sender = context.Pipe(duplex=False)
        others.append(context.Process(target=_work, args=(Rank(number, count, address), copied, sender)))
        errors.append(receiver)
        others[-1].start()
        sender.close()  # so that its end is heard of
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // count))
    try:
        yield Rank(0, count, address)
        for other in others:
            other.join(_END_SECONDS)
    except RuntimeError as error:
        if not _HUNG_UP.search(str(error)):
            raise
        raise _find_reason(errors) from error
    finally:
        torch.set_num_threads(threads)
        for other in others:
            other.kill()
            other.join()


def _find_reason(errors: list[Any]) -> Exception:
    for receiver in connection.wait(errors, _TELL_SECONDS):
        with contextlib.suppress(EOFError):
            reason: Exception = cast(Any, receiver).recv()
            return reason
    return OtherEndedError("a process that trains beside this one ended")


def _work(rank: Rank, copied: bytes, errors: connection.Connection) -> None:
    starter = multiprocessing.parent_process()
    assert starter is not None

    def end_with_starter() -> None:
        connection.wait([starter.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_starter, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // rank.count))
    function, arguments = pickle.loads(copied)  # noqa: S301 - of the process that started this one
    try:
        function(rank, *arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, the first process tells of it
        errors.send(error)


def build_fabric(rank: Rank, *, accelerator: str, precision: Any) -> Any:
    """Build a Lightning Fabric for this process, joined with the others."""
    from lightning.fabric import Fabric

    if rank.count == 1:
        return Fabric(accelerator=accelerator, devices=1, precision=precision)
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    class Environment(LightningEnvironment):
        """Tells Fabric what it would read from variables."""

        creates_processes_externally = True
        main_address, main_port = rank.address

        def world_size(self) -> int:
            return rank.count

        def global_rank(self) -> int:
            return rank.number

        def local_rank(self) -> int:
            return rank.number

        def node_rank(self) -> int:
            return 0

    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell how many have met
    fabric = Fabric(
        accelerator=accelerator,
        devices=rank.count,
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
