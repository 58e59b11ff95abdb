"""Optimisation: one loop for every network.

The loop runs on CPU or GPU through Lightning Fabric, writes a checkpoint every so many steps, and
continues from it to the same bytes: samples are numbered (:mod:`dsrg.samples`) and the generator
that dropout draws from is seeded by the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dsrg.checkpoints import drop_damaged, resume_checkpoint, save_checkpoint
from dsrg.meeting import Meeting
from dsrg.others import OtherEndedError, end_with_starter, start_others
from dsrg.ranks import Rank, average, build_fabric, leave, share_norms
from dsrg.samples import SampleNumbers

Loss = Callable[[nn.Module, Any], tuple[Tensor, dict[str, float]]]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


class TrainingError(Exception):
    """Training cannot go on (the loss is not finite, a loader was killed); the message says where and why."""


@dataclass(frozen=True)
class Progress:
    """What one optimizer step did; handed to `on_step`.

    Attributes
    ----------
    step, steps : int
        Steps done, from 1, and in all.
    losses : dict of str to float
        The loss and its terms.
    lr : float
        Learning rate of the pretrained layers.
    images_per_second : float
        Samples per second of this step, waiting for data included.
    data_wait : float
        Share of the step's time spent waiting for data.
    """

    step: int
    steps: int
    losses: dict[str, float]
    lr: float
    images_per_second: float
    data_wait: float


def build_optimizer(
    model: nn.Module,
    head: Iterable[nn.Module],
    *,
    lr: float,
    head_lr_multiplier: float,
    momentum: float,
    weight_decay: float,
) -> torch.optim.SGD:
    """Build SGD with faster new layers; biases and norms are not decayed.

    Parameters
    ----------
    model : nn.Module
    head : iterable of nn.Module
        The layers without pretrained weights: learning rate times `head_lr_multiplier`.
    """
    new = {id(p) for module in head for p in module.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in new, parameter.ndim > 1), []).append(parameter)
    return torch.optim.SGD(
        [
            {
                "params": parameters,
                "lr": lr * (head_lr_multiplier if is_new else 1.0),
                "weight_decay": weight_decay if is_weight else 0.0,
            }
            for (is_new, is_weight), parameters in groups.items()
        ],
        lr=lr,
        momentum=momentum,
        nesterov=momentum > 0,
    )


def freeze_batch_norm(model: nn.Module) -> None:
    """Keep the running statistics of pretrained batch norms; small batches would spoil them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: Dataset[Any],
    loss: Loss,
    *,
    steps: int,
    batch_size: int,
    poly_power: float,
    warmup_steps: int,
    clip_norm: float,
    frozen_norms: nn.Module | None,
    device: str,
    devices: int = 1,
    meeting: Meeting | None = None,
    precision: Precision,
    loader_workers: int,
    random_seed: int,
    checkpoint: Path | None,
    checkpoint_every: int,
    on_step: Callable[[Progress], None] | None = None,
    on_damage: Callable[[str], None] | None = None,
    on_stuck: Callable[[Exception], None] | None = None,
) -> nn.Module:
    """Run `steps` optimizer steps, continuing from `checkpoint` where there is one.

    Parameters
    ----------
    model, optimizer
        Updated in place.
    samples : Dataset
        Indexed by sample number; step ``t`` (from 0) takes numbers ``t * batch_size ...``.
    loss : callable
        ``(model, batch) -> (scalar loss, named terms)``.
    batch_size : int
        Of a step, over all devices, each of which sees an equal part.
    poly_power : float
        The learning rate falls as ``(1 - t / steps) ** poly_power``.
    warmup_steps : int
        It first rises linearly over so many steps.
    clip_norm : float
        Gradients of a larger norm, over all weights, are scaled down to it; 0 leaves them.
    frozen_norms : nn.Module or None
        The part whose batch norms keep their statistics.
    device : {"auto", "cpu", "cuda"}
    devices : int
        How many of them train together, a process each; on a CPU they share its cores. With more than one,
        `model`, `samples` and `loss` are pickled.
    meeting : Meeting, optional
        Where further machines come to, each with as many devices.
    precision : {"32-true", "bf16-mixed", "16-mixed"}
        Number format of the network, as Lightning Fabric names it.
    loader_workers : int
        Processes that prepare samples, for each device; 0 prepares them in this one.
    checkpoint : Path or None
        Written every `checkpoint_every` steps and at the end; removed by nobody here.
    on_step : callable, optional
        Called after every step, before its checkpoint: a step is told of again if the run is killed
        between the two.
    on_damage : callable, optional
        Called with the reason if `checkpoint` cannot be read; training begins anew then.
    on_stuck : callable, optional
        Called, in another thread, with a :class:`TrainingError` if one of those that train together ended and
        nothing wakes this process, which waits for it. It cannot go on.

    Returns
    -------
    nn.Module
        `model`, on its device, in evaluation mode.

    Raises
    ------
    TrainingError
        The loss or the weights became infinite or NaN, a loader process or one of those that train together
        was killed, or `batch_size` is no multiple of all devices. The last checkpoint is from before.
    """
    nodes = 1 if meeting is None else meeting.nodes
    if batch_size % (nodes * devices):
        which = f"{nodes * devices} devices" + (f" of {nodes} machines" if nodes > 1 else "")
        raise TrainingError(f"{batch_size} samples a step are no multiple of the {which}: change one")
    if checkpoint is not None:
        drop_damaged(checkpoint, on_damage)
    settings = {
        "steps": steps,
        "batch_size": batch_size,
        "poly_power": poly_power,
        "warmup_steps": warmup_steps,
        "clip_norm": clip_norm,
        "device": _name_accelerator(device),  # as it is here: all must have the same
        "precision": precision,
        "loader_workers": loader_workers,
        "random_seed": random_seed,
        "checkpoint": checkpoint,
        "checkpoint_every": checkpoint_every,
    }
    work = (model, optimizer, samples, loss, frozen_norms)

    def tell_stuck(error: Exception) -> None:
        if on_stuck is not None:
            on_stuck(_explain(error, nodes) if isinstance(error, OtherEndedError) else error)

    others = start_others(
        devices,
        _run_steps,
        *work,
        settings,
        meeting=meeting,
        one_a_machine=settings["device"] == "cuda",
        on_stuck=tell_stuck,
    )
    try:
        with others as rank:
            _run_steps(rank, *work, settings, on_step)
    except OtherEndedError as error:
        raise _explain(error, nodes) from error
    return model.eval()


def _explain(error: OtherEndedError, nodes: int) -> TrainingError:
    cause = "memory ran out" if nodes == 1 else "memory ran out there or its machine went away"
    return TrainingError(
        f"{error}, most likely because {cause}: end what else needs memory, lower batch_size, or train on "
        "fewer devices; the last checkpoint was kept"
    )


def _run_steps(
    rank: Rank,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: Dataset[Any],
    loss: Loss,
    frozen_norms: nn.Module | None,
    settings: Mapping[str, Any],
    on_step: Callable[[Progress], None] | None = None,
) -> None:
    """Run all steps, as one of the processes that train together."""
    try:
        with share_norms(model, rank):
            for progress in _iterate_steps(rank, model, optimizer, samples, loss, frozen_norms, **settings):
                # Before the checkpoint: what it was told of is never behind the step that a killed run
                # continues from.
                if on_step is not None:
                    on_step(progress)
    finally:
        leave(rank)


def _iterate_steps(
    rank: Rank,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    samples: Dataset[Any],
    loss: Loss,
    frozen_norms: nn.Module | None,
    *,
    steps: int,
    batch_size: int,
    poly_power: float,
    warmup_steps: int,
    clip_norm: float,
    device: str,
    precision: Precision,
    loader_workers: int,
    random_seed: int,
    checkpoint: Path | None,
    checkpoint_every: int,
) -> Iterator[Progress]:
    """Do step after step; a step's checkpoint is written when the next one is asked for."""
    fabric = build_fabric(rank, accelerator=device, precision=precision)
    model = model.to(memory_format=torch.channels_last)
    wrapped, optimizer = fabric.setup(model, optimizer)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    start = resume_checkpoint(fabric, wrapped, optimizer, checkpoint)
    own = batch_size // rank.count
    loader = DataLoader(
        samples,
        batch_size=own,
        sampler=SampleNumbers(
            start * batch_size, steps * batch_size, every=batch_size, first=rank.number * own, count=own
        ),
        num_workers=loader_workers,
        multiprocessing_context="forkserver" if loader_workers else None,
        worker_init_fn=end_with_starter if loader_workers else None,  # torch watches their server instead
        pin_memory=fabric.device.type == "cuda",
        persistent_workers=False,
    )
    batches = iter(loader)
    for step in range(start, steps):
        wrapped.train()
        if frozen_norms is not None:
            freeze_batch_norm(frozen_norms)
        began = time.perf_counter()
        batch = _move(_load_next(batches, in_processes=loader_workers > 0), fabric.device)
        waited = time.perf_counter() - began
        torch.manual_seed(random_seed * 1_000_003 + step + rank.number * 7_368_787)
        factor = (1 - step / steps) ** poly_power * min(1.0, (step + 1) / max(1, warmup_steps))
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        value, terms = loss(wrapped, batch)
        losses = average(fabric, {"loss": float(value.detach()), **terms})
        if not math.isfinite(losses["loss"]):
            raise TrainingError(
                f"the loss is {losses['loss']} at step {step + 1} of {steps} "
                f"(samples {step * batch_size} to {(step + 1) * batch_size - 1}): lower lr or raise warmup"
            )
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(value)
        if clip_norm:
            fabric.clip_gradients(wrapped, optimizer, max_norm=clip_norm, error_if_nonfinite=False)
        optimizer.step()
        seconds = time.perf_counter() - began
        yield Progress(
            step=step + 1,
            steps=steps,
            losses=losses,
            lr=base_rates[0] * factor,
            images_per_second=batch_size / seconds,
            data_wait=waited / seconds,
        )
        if (step + 1) % checkpoint_every == 0 or step + 1 == steps:
            _check_weights(model, step + 1, steps)
            if checkpoint is not None:
                save_checkpoint(fabric, wrapped, optimizer, step + 1, checkpoint)


def _check_weights(model: nn.Module, step: int, steps: int) -> None:
    bad = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if bad:
        raise TrainingError(
            f"{len(bad)} weights are infinite or NaN after step {step} of {steps}, first {bad[0]!r}: "
            "lower lr or raise warmup"
        )


def _name_accelerator(device: str) -> str:
    return {"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(device, device)


def choose_device(device: str) -> torch.device:
    """Choose the device that ``auto``, ``cpu`` or ``cuda`` means here."""
    return torch.device(_name_accelerator(device))


def _load_next(batches: Iterator[Any], *, in_processes: bool) -> Any:
    """Load a batch; what went wrong in a loader process is said as if it had happened in this one."""
    try:
        return next(batches)
    except Exception as error:
        message = str(error)
        if in_processes and message.startswith(f"Caught {type(error).__name__} in DataLoader worker"):
            own = message.rstrip().rpartition("\n")[2].partition(": ")[2]
            raise type(error)(own) from error
        # A process killed between two batches is noticed by torch, one killed while it hands over a batch
        # only by the socket between the two.
        hung_up = in_processes and isinstance(error, ConnectionError | EOFError)
        if hung_up or (isinstance(error, RuntimeError) and "DataLoader worker (pid" in message):
            raise TrainingError(
                "a process that loads pictures was killed by the system, most likely because memory ran out: "
                "end what else needs it, or set compute.workers=1, which loads without such a process"
            ) from error
        raise


def _move(batch: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    moved = [tensor.to(device, non_blocking=True) for tensor in batch]
    moved[0] = moved[0].to(memory_format=torch.channels_last)
    return moved
