"""What a process makes once for many jobs, such as a network or open stores, until other work begins."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")

_lock = threading.RLock()
_kept: dict[str, Any] = {}
_caches: list[Any] = []
_work = ""


def once_per_work(function: Callable[Arguments, Made]) -> Callable[Arguments, Made]:
    """Have a function keep its last answer until :func:`forget` is called; threads wait for each other."""
    cached = lru_cache(maxsize=1)(function)
    _caches.append(cached)

    @wraps(function)
    def ask(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Made:
        with _lock:
            return cached(*args, **kwargs)  # type: ignore[arg-type]

    return ask


def prepare_once(key: str, prepare: Callable[[], Made]) -> Made:
    """Prepare something the first time that `key` is asked for, and keep it until :func:`forget` is called.

    Parameters
    ----------
    key : str
        One for each thing of the same work.
    prepare : callable
    """
    with _lock:  # threads that begin together wait for the first
        if key not in _kept:
            _kept[key] = prepare()
        found: Made = _kept[key]
        return found


def forget() -> None:
    """Forget all that is kept: other work begins, for which other files may lie in the same places."""
    with _lock:
        _kept.clear()
        for cached in _caches:
            cached.cache_clear()


def begin_work(work: str) -> None:
    """Forget what was kept for other work than this; the same work may begin any number of times."""
    global _work
    with _lock:
        if work != _work:
            forget()
            _work = work
