"""Networks at work in stages: on the device and by the engine that params name, a few pictures at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.cores import count_workers
from tasks.schema import Compute

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dsrg.inference import Forward

_FEW = 32  # pictures: with fewer, OpenVINO takes longer to begin than it saves
_MOST_STREAMS = 8  # each holds the features of a picture; beyond that, several cores see each picture


@dataclass(frozen=True)
class Ready:
    """A network ready to be run.

    Attributes
    ----------
    forward : callable
        See :func:`dsrg.engines.prepare_network`.
    device : torch.device
        Where it takes and leaves tensors.
    streams : int
        How many threads may call it at a time.
    batch_size : int
        Pictures of a size that should go through it at once.
    """

    forward: Forward
    device: torch.device
    streams: int
    batch_size: int


def make_ready(network: nn.Module, compute: Compute, *, pictures: int) -> Ready:
    """Prepare a network, which cannot be trained any more, to see so many pictures.

    Parameters
    ----------
    network : nn.Module
        As for :func:`dsrg.engines.prepare_network`.
    compute : Compute
    pictures : int
        All of the stage's, also those that an earlier try has seen: few of them are seen by torch, and how
        many are left must change no number.
    """
    from dsrg.engines import prepare_network
    from dsrg.inference import choose_batch_size
    from dsrg.training import choose_device

    device = choose_device(compute.device)
    prepared = prepare_network(network, device=device, **choose_engine(compute, pictures=pictures))
    return Ready(prepared.forward, device, prepared.streams, choose_batch_size(device))


def choose_engine(compute: Compute, *, pictures: int) -> dict[str, Any]:
    """Choose how :func:`dsrg.engines.prepare_network` prepares a network to see so many pictures on a CPU."""
    return {
        "engine": "torch" if pictures < _FEW else compute.engine,
        "inference_precision": compute.inference_precision,
        "streams": choose_threads(compute, pictures=pictures),
        "threads": count_workers(compute.workers),
    }


def choose_threads(compute: Compute, *, pictures: int) -> int:
    """Choose how many pictures are worked on at a time."""
    return max(1, min(count_workers(compute.workers), pictures, _MOST_STREAMS))
