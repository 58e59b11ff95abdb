"""Which params differ from the defaults: ``defaults.yaml``, the ``params.yaml`` that the project ships."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tasks.params import describe_key
from tasks.tracking import flatten

DEFAULTS = Path(__file__).with_name("defaults.yaml")
_ROUNDS = ("rounds", "final_round")


@dataclass(frozen=True)
class Change:
    """One param that differs: dotted key, default and value as ``params.yaml`` spells them, what it is."""

    key: str
    default: str
    value: str
    about: str


def list_changes(values: Mapping[str, Any]) -> list[Change]:
    """List the params that differ from the defaults, in the order of ``params.yaml``.

    Parameters
    ----------
    values : mapping
        Sections of params, nested, as for JSON. Sections that are not there are not compared; of
        ``rounds`` their number is.
    """
    defaults = YAML(typ="safe", pure=True).load(DEFAULTS.read_text(encoding="utf-8"))
    changes = []
    if "rounds" in values and len(values["rounds"]) != len(defaults["rounds"]):
        about = "rounds of train, relabel, refine"
        changes.append(Change("rounds", str(len(defaults["rounds"])), str(len(values["rounds"])), about))
    before = flatten({key: value for key, value in defaults.items() if key not in _ROUNDS})
    after = flatten({key: value for key, value in values.items() if key not in _ROUNDS})
    for key, value in after.items():
        if key not in before:
            changes.append(Change(key, "", _spell(value), describe_key(key.split("."))))
        elif before[key] != value:
            changes.append(Change(key, _spell(before[key]), _spell(value), describe_key(key.split("."))))
    return changes


def _spell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
