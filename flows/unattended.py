"""The work goes on where Prefect's server does not: the rest of a run through DVC alone.

What the server missed it learns from the next run, which shows every finished stage as "UpToDate".
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from flows.versioning import StageKilledError, is_up_to_date, list_stages, reproduce_stage, run_child
from tasks import console
from tasks.errors import UserError

# these repeat for every event that nothing answers, and would bury what the stages say
_NOISY = ("prefect.events.clients", "prefect._internal.concurrency", "prefect.flow_runs")
_UNREACHABLE = ("Unable to connect", "failed to process item", "Still processing items", "ConnectError")


def run_alone(root: Path) -> int:
    """Bring every stage up to date without Prefect, as ``dvc repro`` would; return the exit status.

    Parameters
    ----------
    root : Path
        Folder with ``params.yaml`` and ``dvc.yaml``.
    """
    try:
        for stage in list_stages(root):
            if is_up_to_date(root, stage):
                continue
            outcome = reproduce_stage(root, stage, on_line=_show)
            if outcome.error is not None:
                raise UserError(f"{stage}: {outcome.error}")
    except (UserError, StageKilledError) as error:
        console.fail(str(error))
        return 2
    run_child([sys.executable, "-m", "tasks", "study"], root, on_line=_show)
    return 0


def _show(line: str) -> None:
    if console.parse_progress(line) is None:
        console.say(line)


def quieten() -> None:
    """Have Prefect's client not report, line after line, that its server does not answer."""
    for name in _NOISY:
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Reachable) for known in logger.filters):
            logger.addFilter(_Reachable())


class _Reachable(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not any(words in record.getMessage() for words in _UNREACHABLE)
