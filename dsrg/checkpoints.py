"""Checkpoints of a training: written whole or not at all, and not believed where their bytes are wrong."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import nn

# what zipfile, torch and pickle make of wrong bytes
_DAMAGES = (BadZipFile, RuntimeError, OSError, EOFError, ValueError, KeyError, UnpicklingError, struct.error)


def drop_damaged(checkpoint: Path, on_damage: Callable[[str], None] | None) -> None:
    """Remove a checkpoint that cannot be read, and say why."""
    if not checkpoint.is_file():
        return
    try:
        _check_sums(checkpoint)
        torch.load(checkpoint, map_location="meta", weights_only=True)  # before half of it lies in the model
    except _DAMAGES as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which torch raises where bytes lack
            raise  # the disk's fault: the checkpoint may be whole
        checkpoint.unlink()
        if on_damage is not None:
            on_damage(f"`{checkpoint}` is damaged ({str(error).partition(chr(10))[0]})")


def resume_checkpoint(fabric: Any, model: nn.Module, optimizer: Any, checkpoint: Path | None) -> int:
    """Load a checkpoint, if there is one; return the steps that it has seen."""
    if checkpoint is None or not checkpoint.is_file():
        return 0
    state = {"model": model, "optimizer": optimizer, "step": 0}
    fabric.load(checkpoint, state, weights_only=True)
    step = state["step"]
    assert isinstance(step, int)
    return step


def _check_sums(checkpoint: Path) -> None:
    """Hold the bytes against the checksums in torch's archive, at which torch itself does not look."""
    with ZipFile(checkpoint) as archive:
        record = archive.testzip()
    if record is not None:
        raise ValueError(f"bad checksum of {record}")


def save_checkpoint(fabric: Any, model: nn.Module, optimizer: Any, step: int, checkpoint: Path) -> None:
    """Write a checkpoint, by the first of the processes that train together."""
    partial = checkpoint.with_suffix(".partial")
    fabric.save(partial, {"model": model, "optimizer": optimizer, "step": step})  # by rank 0; all wait for it
    if fabric.global_rank:
        return
    with partial.open("rb") as file:
        os.fsync(file.fileno())  # or a power cut leaves a name without its bytes
    os.replace(partial, checkpoint)
