"""``python -m flows.versioning_repro STAGE``: DVC's ``dvc repro --single-item STAGE``, forked if possible.

Before a process that has imported DVC is asked, next to nothing is imported here: this runs for every stage.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tasks.warm import Kind, hand_over

# What a `dvc repro` imports, most of it only when it comes to that.
_DVC = Kind(
    "flows.versioning_repro",
    (
        *("tasks.locking", "dvc.cachemgr", "dvc.cli.parser", "dvc.commands.repro", "dvc.data_cloud"),
        *("dvc.repo.datasets", "dvc.repo.reproduce", "dvc.rwlock", "dvc.scm", "dvc.stage.cache"),
        *("dvc.stage.run", "dvc.utils.strictyaml", "scmrepo.git"),
    ),
    beside_gpu=True,
)


def main(arguments: list[str]) -> int:
    """Have DVC bring one stage up to date, as the child process that this is."""
    from dvc.cli import main as run_dvc

    from tasks.lifetime import end_with_starter, watched_by_children
    from tasks.locking import find_holder

    end_with_starter()
    os.environ.update(watched_by_children())
    holder = find_holder(Path())
    if holder is not None:  # what a `dvc repro` that meets this one is told: its command line
        sys.argv = [f"{holder}; `dsrg wait` waits for it"]
    return int(run_dvc(["repro", "--single-item", *arguments]))


if __name__ == "__main__":
    status = hand_over(sys.argv[1:], _DVC)
    sys.exit(main(sys.argv[1:]) if status is None else status)
