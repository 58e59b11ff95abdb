"""``params.yaml``, read once and strictly: every value in it is checked, and none is defaulted.

An unknown, missing, mistyped or out-of-range key is an error that names the file, the key, the
value and the rule; all problems at once, one line each.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dsrg.places import is_url
from tasks.errors import UserError
from tasks.schema import Crf, Params, Round, expand_rounds

__all__ = [
    "Crf",
    "Params",
    "ParamsError",
    "Round",
    "check_params",
    "check_round",
    "check_source",
    "describe_key",
    "expand_rounds",
    "read_params",
]


class ParamsError(UserError):
    """``params.yaml`` cannot be used; one line per problem."""


def read_params(path: Path, *, rounds: int | None = None) -> Params:
    """Read and check a params file.

    Parameters
    ----------
    path : Path
    rounds : int, optional
        Check it as if it had that many rounds, whatever it says about rounds.

    Raises
    ------
    ParamsError
        Not there, not YAML, or a key is unknown, missing, mistyped or out of range: one line per
        problem, all problems at once.
    """
    values = _load_yaml(path)
    if rounds is not None and isinstance(values, dict):
        values = {**values, "rounds": expand_rounds(rounds), "final_round": str(rounds)}
    return check_params(values, path=path)


def check_params(values: Any, *, path: Path) -> Params:
    """Check values as if read from `path`, which only names them in errors."""
    if not isinstance(values, dict):
        raise ParamsError(f"{path.name}: must be a mapping of stages to their params, got {values!r}")
    rounds = values.get("rounds")
    if rounds is not None and not isinstance(rounds, dict):
        raise ParamsError(
            f"{path.name}: `rounds` must be a mapping of rounds, got {rounds!r}: run `dsrg rounds {rounds}`"
            if isinstance(rounds, int)
            else f"{path.name}: `rounds` must be a mapping of rounds, got {rounds!r}"
        )
    bare = [key for key in rounds or {} if not isinstance(key, str)]
    if bare:
        raise ParamsError(
            f"{path.name}: keys of `rounds` must be quoted ('{bare[0]}': not {bare[0]}:), "
            f"or DVC silently makes no stage of them: run `dsrg rounds {len(rounds or {})}`"
        )
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = [_describe(problem, path.name) for problem in error.errors()]
        raise ParamsError("\n".join(lines)) from None


def check_round(params: Params, key: str) -> None:
    """Refuse a round that there is not.

    Raises
    ------
    ParamsError
    """
    if key not in params.rounds:
        raise ParamsError(
            f"params.yaml: `rounds` has no round {key!r}, only {', '.join(params.rounds)}: "
            "run `dsrg rounds N` for more"
        )


def check_source(params: Params, root: Path) -> None:
    """Refuse a source of one's own that is not there.

    Raises
    ------
    ParamsError
        ``source.path`` names no directory; relative paths start at `root`. URLs are not looked at.
    """
    if is_url(params.source.path):
        return  # ingest reaches for it, and says in one line if it cannot
    folder = root / params.source.path
    if params.source.kind != "synthetic" and not folder.is_dir():
        what = "is a file" if folder.is_file() else "not found"
        raise ParamsError(
            f"params.yaml: `source.path` must be a folder of pictures, got {params.source.path!r} ({what}). "
            "Run: dsrg run PATH"
        )


def _load_yaml(path: Path) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"`{path}` not found: go to the project's folder, or name it with --root") from None
    except (YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}:" if where else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ParamsError(f"{path.name}:{line} no valid YAML: {what}") from None


def _describe(problem: Mapping[str, Any], file: str) -> str:
    place: Sequence[str | int] = problem["loc"]
    key = ".".join(str(part) for part in place)
    value = problem["input"]
    kind = problem["type"]
    if kind == "missing":
        about = describe_key(place)
        return f"{file}: `{key}` is missing" + (f": {about}" if about else "")
    if kind == "extra_forbidden":
        known = _list_keys(place[:-1])
        close = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(known)}"
        return f"{file}: `{key}` is no known key; {hint}"
    if kind == "value_error":
        rule = str(problem["ctx"]["error"])
        prefix = f"`{key}`" if key and not rule.startswith("`") else f"{key}:" if key else ""
        got = f", got {value!r}" if rule.startswith("must") else ""
        return f"{file}: {prefix + ' ' if prefix else ''}{rule}{got}"
    return f"{file}: `{key}` {_phrase_rule(problem)}, got {value!r}"


def _phrase_rule(problem: Mapping[str, Any]) -> str:
    kind = problem["type"]
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "must hold keys of its own"
    if kind == "too_short":
        return f"must name at least {problem['ctx']['min_length']}"
    return str(problem["msg"]).replace("Input should be", "must be").replace("String should", "must")


def _find_section(place: Sequence[str | int]) -> type[BaseModel] | None:
    section: type[BaseModel] | None = Params
    for part in place:
        if section is None:
            return None
        field = section.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        elif section is Params and field is None:
            return None
        elif field is None:
            annotation = section
        section = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return section


def describe_key(place: Sequence[str | int]) -> str:
    """Say what a param is, in the words of its schema; empty for what is none."""
    section = _find_section(place[:-1])
    field = section.model_fields.get(str(place[-1])) if section else None
    return (field.description or "") if field else ""


def _list_keys(place: Sequence[str | int]) -> list[str]:
    section = _find_section(place)
    return sorted(section.model_fields) if section else []
