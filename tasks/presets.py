"""Presets: named sets of params, in ``presets/``; ``dsrg run --preset NAME`` writes one into params.yaml.

Every preset sets the same keys, so that going from one to another leaves nothing of the first behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.errors import UserError
from tasks.params import Params
from tasks.tracking import flatten

FOLDER = "presets"


class Preset(BaseModel):
    """What a file in ``presets/`` holds.

    Attributes
    ----------
    about : str
        What it is for.
    needs : str
        Hardware and hours, and how they were measured.
    numbers : str
        What it reached, and who says so.
    rounds : int
        Number of rounds.
    params : dict
        Sections of ``params.yaml``, with the keys that it sets.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str = Field(min_length=1)
    needs: str = Field(min_length=1)
    numbers: str = Field(min_length=1)
    rounds: int = Field(ge=1, le=99)
    params: dict[str, dict[str, Any]]

    def list_values(self) -> dict[str, Any]:
        """List every key that it sets, dotted, with its value."""
        return flatten(self.params)

    def list_changes(self, params: Params) -> dict[str, tuple[Any, Any]]:
        """List what it would change of `params`: dotted key, value there, value here."""
        there = flatten(params.model_dump(mode="json"))
        here = self.list_values()
        changes = {key: (there.get(key), value) for key, value in here.items() if there.get(key) != value}
        count = len(params.rounds)
        return changes if count == self.rounds else {"rounds": (count, self.rounds), **changes}


def list_presets(root: Path) -> list[str]:
    """List the presets of the project at `root` by name."""
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml"))


def read_preset(root: Path, name: str) -> Preset:
    """Read one preset of the project at `root`, or any file that is one.

    Raises
    ------
    UserError
        No such preset, or a file that is none.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else root / FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"`--preset` must be one of {', '.join(list_presets(root))} or a file, got {name!r}")
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        return Preset.model_validate(values)
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"`{path}`: no valid YAML: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise UserError(f"`{path}`: `{key}`: {problem['msg']}: take presets/demo.yaml as a model") from None
