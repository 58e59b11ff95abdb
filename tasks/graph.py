"""What ``dvc.yaml`` names for a stage, and whether it changed while the stage worked.

DVC hashes dependencies and reads params AFTER a stage's command has ended. What changed in between is
recorded as if the result had been made from it: the new value beside the old output, with a clean
status. So the stage itself compares both ends and fails, which makes DVC record nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from dsrg.places import digest_below, is_url
from tasks.errors import UserError
from tasks.params import Params, read_params

_READ_WHOLE_BYTES = 4_000_000  # files up to this size are compared by content, larger ones by size and time
_TEMPLATE = re.compile(r"\$\{([^}]+)\}")
_SHOWN = 3


@contextlib.contextmanager
def fail_if_changed(root: Path, params: Params, stage: str, round_key: str | None) -> Iterator[None]:
    """Fail at the end of the block if what ``dvc.yaml`` names for the stage changed within it.

    Parameters
    ----------
    root : Path
        The workspace; without a ``dvc.yaml`` nothing is compared.
    params : Params
        What the stage works with.
    stage : str
        Without its round.
    round_key : str or None

    Raises
    ------
    UserError
        A dependency or a param changed: its name.
    """
    if not (root / "dvc.yaml").is_file():
        yield
        return
    values = params.model_dump()
    deps, keys = list_inputs(root, values, stage, round_key)
    before = _look_at(root, deps, values, keys)
    yield
    after = _look_at(root, deps, read_params(root / "params.yaml").model_dump(), keys)
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        shown = ", ".join(f"`{name}`" for name in changed[:_SHOWN])
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        label = stage if round_key is None else f"{stage}@{round_key}"
        raise UserError(
            f"{shown}{more} changed while {label} worked, so its result does not count: run it again"
        )


def list_inputs(
    root: Path, values: Mapping[str, Any], stage: str, round_key: str | None
) -> tuple[list[str], list[str]]:
    """List the dependencies (paths) and params (dotted keys) of a stage, templates filled in.

    Parameters
    ----------
    root : Path
        Folder with ``dvc.yaml``.
    values : mapping
        All params, nested.
    stage : str
        Without its round.
    round_key : str or None

    Raises
    ------
    UserError
        ``dvc.yaml`` does not hold the stage, or uses a name that the params do not hold.
    """
    graph = YAML(typ="safe").load((root / "dvc.yaml").read_text(encoding="utf-8"))
    try:
        spec = graph["stages"][stage]
    except (KeyError, TypeError):
        raise UserError(f"dvc.yaml: no stage `{stage}`") from None
    names = dict(values)
    if "foreach" in spec:
        spec = spec["do"]
        names |= {"key": round_key, "item": values["rounds"][round_key]}

    def resolve(text: str) -> str:
        return _TEMPLATE.sub(lambda match: str(_look_up(names, match[1])), text)

    return [resolve(dep) for dep in spec.get("deps", [])], [resolve(key) for key in spec.get("params", [])]


def _look_at(
    root: Path, deps: Sequence[str], values: Mapping[str, Any], keys: Sequence[str]
) -> dict[str, str]:
    seen = {dep: digest_below(dep) if is_url(dep) else _digest(root / dep) for dep in deps}
    return seen | {f"params.yaml: {key}": repr(_look_up(values, key)) for key in keys}


def _look_up(values: Mapping[str, Any], key: str) -> Any:
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise UserError(f"dvc.yaml: `{key}` is not in params.yaml")
        found = found[part]
    return found


def _digest(place: Path) -> str:
    """Digest a file by its content, a large one or a folder by the names, sizes and times of its files."""
    if not place.exists():
        return "missing"
    if place.is_file():
        status = place.stat()
        if status.st_size <= _READ_WHOLE_BYTES:
            return hashlib.sha256(place.read_bytes()).hexdigest()
        return f"{status.st_size} {status.st_mtime_ns}"
    digest = hashlib.sha256()
    for line in sorted(_list_files(str(place), "")):
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _list_files(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir():
                if entry.name != "__pycache__":
                    yield from _list_files(entry.path, f"{name}/")
            else:
                yield f"{name}\0{_describe(entry)}\n"


def _describe(entry: os.DirEntry[str]) -> str:
    try:
        status = entry.stat()
    except FileNotFoundError:  # removed just now, or a link to nowhere
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"
