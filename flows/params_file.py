"""Edits of ``params.yaml`` that keep its comments, checked before a byte is written."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dsrg.places import PlaceError, is_url, parse_place
from tasks.errors import UserError
from tasks.params import check_params, check_source, expand_rounds, read_params
from tasks.presets import read_preset
from tasks.schema import OF_ONE_KIND
from tasks.workspace import replace_whole


def edit_params(
    root: Path,
    *,
    folder: Path | str | None = None,
    preset: str | None = None,
    rounds: int | None = None,
    settings: Sequence[str] = (),
) -> bool:
    """Change ``params.yaml`` below `root`; tell whether anything changed.

    Parameters
    ----------
    root : Path
        The project.
    folder : Path or str, optional
        Pictures of one's own, a folder or a URL: sets ``source.path``, and ``source.kind`` to what they are.
    preset : str, optional
        Name of a set of params, which the other arguments may change.
    rounds : int, optional
        Number of rounds.
    settings : sequence of str
        ``key=value`` with dotted keys; values as in YAML.

    Raises
    ------
    UserError
        The result would not be valid; nothing is written.
    """
    path = root / "params.yaml"
    chosen = read_preset(root, preset) if preset else None
    if chosen and rounds is None:
        rounds = chosen.rounds
    read_params(path, rounds=rounds)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    before = path.read_text(encoding="utf-8")
    values = yaml.load(before)
    kind = values["source"]["kind"]
    if folder is not None:
        place = parse_place(folder).expanduser()
        values["source"]["path"] = str(folder) if is_url(folder) else _locate(place, root)
        if not any(setting.startswith("source.kind=") for setting in settings):
            values["source"]["kind"] = find_kind(place)
    if rounds is not None:
        _set_rounds(values, rounds)
    for key, value in chosen.list_values().items() if chosen else ():
        _put(values, key, value, f"preset {preset}: `{key}`")
    for setting in settings:
        _set(values, setting, path.name)
    if values["source"]["kind"] != kind:
        _forget_kind(values, settings)
    text = io.StringIO()
    yaml.dump(values, text)
    plain = YAML(typ="safe", pure=True).load(text.getvalue())
    check_source(check_params(plain, path=path), root)
    if plain == YAML(typ="safe", pure=True).load(before):
        return False
    with replace_whole(path, mark=str(os.getpid())) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")
    return True


def _forget_kind(values: Any, settings: Sequence[str]) -> None:
    """Forget what concerned the former kind of source only, unless it is set in the same breath."""
    given = {setting.partition("=")[0] for setting in settings}
    for name, value in OF_ONE_KIND.items():
        if f"source.{name}" not in given:
            _put(values, f"source.{name}", value, "source.kind")


def find_kind(folder: Path | str) -> str:
    """Find the kind of source that a folder is, or what lies under a URL.

    One that is not there counts as ``folder``.

    Raises
    ------
    UserError
        The folder could be more than one kind, or the URL cannot be reached.
    """
    from dsrg.sources import SourceError, detect_kind

    try:
        return detect_kind(parse_place(folder))
    except (SourceError, PlaceError) as error:
        raise UserError(str(error)) from None


def _locate(folder: Path, root: Path) -> str:
    """Name a folder as the project sees it: relative if inside, absolute if not."""
    absolute, home = folder.resolve(), root.resolve()
    return absolute.relative_to(home).as_posix() if absolute.is_relative_to(home) else str(absolute)


def _set_rounds(values: Any, count: int) -> None:
    """Write a chain of rounds; one that is right already keeps its comments."""
    from ruamel.yaml.scalarstring import SingleQuotedScalarString as Quoted

    expected = expand_rounds(count)
    if not isinstance(values.get("rounds"), dict):
        values["rounds"] = {}
    current = values["rounds"]
    for key in [key for key in current if current[key] != expected.get(key)]:
        del current[key]
    for key, items in expected.items():
        if key not in current:
            prev = items["prev"]
            current[Quoted(key)] = {**items, "prev": Quoted(prev) if prev.isdigit() else prev}
    if values.get("final_round") != str(count):
        values["final_round"] = Quoted(str(count))


def _set(values: Any, setting: str, file: str) -> None:
    key, separator, text = setting.partition("=")
    if not separator or not key:
        raise UserError(f"`--set` must be KEY=VALUE, such as train.lr=0.01, got {setting!r}")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise UserError(f"`--set {key}`: no valid YAML value: {text!r}") from None
    _put(values, key, value, f"--set {setting}", file)


def _put(values: Any, key: str, value: Any, origin: str, file: str = "params.yaml") -> None:
    *sections, last = key.split(".")
    place = values
    for depth, section in enumerate(sections):
        place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise UserError(f"{file}: `{'.'.join(sections[: depth + 1])}` is no section (in {origin})")
    old = place.get(last)
    if isinstance(old, float) and type(value) is int:
        value = float(value)  # 1 for 1.0 means the same, but would not be found in DVC's run cache
    if isinstance(old, list) and isinstance(value, list):
        _fill(old, value)
    else:
        place[last] = value


def _fill(old: Any, value: list[Any]) -> None:
    """Change a list in its place and on its line: ruamel would spread one that was empty over several."""
    old[:] = value
    old.fa.set_flow_style()
