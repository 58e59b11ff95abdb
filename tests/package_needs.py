"""What packages require, of what is installed."""

from __future__ import annotations

import re
from importlib.metadata import requires


def close_over(names: list[str]) -> set[str]:
    """Close over what packages require, extras included where they are installed."""
    seen: set[str] = set()
    waiting = [normalise(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            try:
                needs = requires(name) or []
            except ModuleNotFoundError:
                continue
            waiting += [normalise(re.split(r"[^\w.-]", need, maxsplit=1)[0]) for need in needs]
    return seen


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
