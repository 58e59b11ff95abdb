"""What a machine knows of results besides what is in them: how long each took, when, where, at which commit.

None of it may be in the results themselves, which are to be the same wherever they are made. So it is kept
apart, in ``.work/journal.json``, under the hash of a small file that each result holds: results that DVC
brings back find what was noted when this machine made them, and others find nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import console
from tasks.cores import count_workers
from tasks.tracking_places import locate_home
from tasks.workspace import WORK, Workspace, replace_whole

STUDY = "report"  # the stage whose entry is about the whole run
_FILE = "journal.json"
_KEPT = 50  # results of one stage
_WITNESSES = {
    "cams": "data/cams.zarr",
    "relabel": "data/rounds/{}/seeds.zarr",
    "refine": "data/rounds/{}/pseudo_labels.zarr",
    "train": "metrics/rounds/{}/train.json",
    "evaluate": "metrics/rounds/{}/evaluate.json",
    "report": "metrics/summary.json",
}


def note(workspace: Workspace, label: str, facts: Mapping[str, Any], *, once: Sequence[str] = ()) -> None:
    """Note facts about the result of a stage as it is on disk; without a result, nothing.

    Parameters
    ----------
    workspace : Workspace
    label : str
        The stage, with its round: ``train@1``.
    facts : mapping
        Values as for JSON; None is left out.
    once : sequence of str
        Facts that stay as they were noted first.
    """
    witness = _hash_witness(workspace, label)
    if witness is None:
        return
    place = _locate(workspace)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            journal = _read(place)
            entries = journal.setdefault(label, {})
            entry = entries.pop(witness, {})  # the newest is the last
            entry |= {
                key: v for key, v in facts.items() if v is not None and not (key in once and key in entry)
            }
            entries[witness] = entry
            journal[label] = dict(list(entries.items())[-_KEPT:])
            with replace_whole(place) as partial:
                partial.write_text(json.dumps(journal, indent=1), encoding="utf-8")
    except OSError as error:
        console.warn(f"how long {label} took is not kept: {error}")


def recall(workspace: Workspace, label: str) -> dict[str, Any]:
    """Recall what was noted about the result of a stage as it is on disk; empty where nothing was."""
    witness = _hash_witness(workspace, label)
    found = _read(_locate(workspace)).get(label, {}).get(witness, {})
    return dict(found)


def describe_machine() -> str:
    """Describe the machine in a few words: its cores, and its GPU if a network can use one."""
    count = count_workers(0)
    cores = f"{count} core{'s' * (count > 1)}"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {cores}"
    return cores


def _locate(workspace: Workspace) -> Path:
    return locate_home(workspace) / WORK / _FILE


def _hash_witness(workspace: Workspace, label: str) -> str | None:
    stage, _, round_key = label.partition("@")
    place = workspace.path(_WITNESSES.get(stage, f"metrics/{stage}.json").format(round_key))
    if place.is_dir():  # a store; one that lies elsewhere left a note, a file
        place /= "zarr.json"
    return hashlib.sha256(place.read_bytes()).hexdigest()[:16] if place.is_file() else None


def _read(place: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(place.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}
