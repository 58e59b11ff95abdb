"""Write docs/params.md from params classes, params.yaml and presets: ``python -m docs.make_params``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tasks.params import Params, read_params
from tasks.presets import list_presets, read_preset

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "params.md"
INTRODUCTION = """# Params

Every value of [params.yaml](../params.yaml). Change one in the file, by `dsrg run --set train.lr=0.01`, or in
the form of the Prefect UI; DVC runs again only the stages that read it. A key that is unknown, missing,
mistyped or out of range is an error that names it. Written by `python -m docs.make_params` from the
classes in tasks/schema.py.

## Presets

`dsrg run PATH --preset NAME` writes a whole set of values into params.yaml, comments kept; what else is asked
for on the same line wins. A file of your own in presets/, or anywhere, is a preset too. Hours are for all of
VOC 2012 (10,582 pictures to train on), reckoned from steps that were timed, not run; pictures of ever new
sizes and slow disks cost more.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(build_page(ROOT), encoding="utf-8")
    print(PAGE, file=sys.stderr)


def build_page(root: Path) -> str:
    """Build the page as text."""
    defaults = read_params(root / "params.yaml")
    parts = [INTRODUCTION, *_describe_presets(root), "", *_tabulate_presets(root), ""]
    for name, field in Params.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            parts += [
                f"## {name}",
                "",
                *(_describe_section(section, getattr(defaults, name), root, name)),
                "",
            ]
    parts += [
        "## rounds",
        "",
        "Written by `dsrg rounds N` or `dsrg run --rounds N`: a chain in which each round names the one "
        "before, as dvc.yaml reads it. `final_round` is the last of them.",
    ]
    return "\n".join(parts) + "\n"


def _describe_presets(root: Path) -> Iterator[str]:
    yield "| preset | for | needs | reached |"
    yield "|---|---|---|---|"
    for name in list_presets(root):
        preset = read_preset(root, name)
        yield f"| `{name}` | {preset.about} | {preset.needs} | {preset.numbers} |"


def _tabulate_presets(root: Path) -> Iterator[str]:
    presets = {name: read_preset(root, name) for name in list_presets(root)}
    values = {name: {"rounds": preset.rounds, **preset.list_values()} for name, preset in presets.items()}
    yield f"| what differs | {' | '.join(presets)} |"
    yield f"|---|{'---|' * len(presets)}"
    for key in values["demo"]:
        row = [str(values[name][key]) for name in presets]
        if len(set(row)) > 1:
            yield f"| `{key}` | {' | '.join(row)} |"


def _describe_section(section: type[BaseModel], defaults: Any, root: Path, name: str) -> Iterator[str]:
    yield _first_line(section)
    yield ""
    yield "| key | here | takes | what it is |"
    yield "|---|---|---|---|"
    yield from _describe_fields(section, defaults, _read_comments(root), name, "")


def _describe_fields(
    section: type[BaseModel], defaults: Any, comments: dict[str, str], name: str, prefix: str
) -> Iterator[str]:
    for key, field in section.model_fields.items():
        kind = field.annotation
        value = getattr(defaults, key)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _describe_fields(kind, value, comments, name, f"{prefix}{key}.")
        else:
            shown = list(value) if isinstance(value, tuple) else value
            about = comments[f"{name}.{prefix}{key}"]
            yield f"| `{prefix}{key}` | {_show(shown)} | {_describe_type(field)} | {about} |"


def _show(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _describe_type(field: FieldInfo) -> str:
    kind = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if kind is bool:
        return "`true`, `false`"
    if get_origin(kind) is tuple:
        return "list"
    names = {int: "whole number", float: "number", str: "text"}
    return ", ".join([names.get(kind, "value"), *_list_bounds(field)])  # type: ignore[arg-type]


def _list_bounds(field: FieldInfo) -> Iterator[str]:
    for bound in field.metadata:
        match bound:
            case Ge(ge):
                yield f"≥ {ge}"
            case Gt(gt):
                yield f"> {gt}"
            case Le(le):
                yield f"≤ {le}"
            case Lt(lt):
                yield f"< {lt}"
            case MultipleOf(multiple):
                yield f"multiple of {multiple}"


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]


def _read_comments(root: Path) -> dict[str, str]:
    """Read what params.yaml says of every key: dotted key to its comment."""
    found: dict[str, str] = {}
    path: list[str] = []
    for line in (root / "params.yaml").read_text(encoding="utf-8").splitlines():
        match = re.match(r"( *)(\w+):[^#]*(?:# (.*))?$", line)
        if match:
            path = [*path[: len(match[1]) // 2], match[2]]
            found[".".join(path)] = (match[3] or "").replace("|", "\\|")
    return found


if __name__ == "__main__":
    main()
