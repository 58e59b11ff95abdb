"""Run one row of the ablation by DVC, in a folder of its own, and read what it reached.

The folder is a git worktree that shares the project's DVC cache, as a run from the Prefect UI has: what
rows have in common (pictures, classifier, CAMs, earlier rounds) is made once and restored after that. Every
training and every round is told to the project's MLflow, under the tags ``bench.row`` and ``bench.seed``.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.quality.data import DataSet, Size
from bench.quality.rows import REFERENCE, Row
from flows.params_file import edit_params
from flows.run_folders import open_run_folder, remove_run_folder
from flows.versioning import run_child
from tasks.cores import count_workers
from tasks.errors import UserError
from tasks.params import read_params
from tasks.tracking import digest_study, flatten
from tasks.warm import owned_by_children

Numbers = dict[str, float]
_OPENING = threading.Lock()  # git's worktrees are made and removed one at a time


@dataclass(frozen=True)
class Bench:
    """A folder in which rows of one data set and size run, one after the other.

    Attributes
    ----------
    project : Path
    name : str
        Of the folder among those of runs.
    folder : Path
    data : DataSet
    size : Size
    code : str
        Digest of the code that decides results.
    cores : int
        How many of the cores to use; 0 is all of them.
    """

    project: Path
    name: str
    folder: Path
    data: DataSet
    size: Size
    code: str
    cores: int

    @classmethod
    def open(cls, project: Path, data: DataSet, size: Size, *, mark: str = "", at_once: int = 1) -> Bench:
        """Make the folder anew from the project as it is on disk.

        Parameters
        ----------
        project : Path
        data : DataSet
        size : Size
        mark : str
            Tells the folder from those of other benches of the same data set and size.
        at_once : int
            How many benches share this machine.
        """
        name = "-".join(filter(None, ("quality", data.name, size.name, mark)))
        cores = max(1, count_workers(0) // at_once) if at_once > 1 else 0
        with _OPENING:
            remove_run_folder(project, name)
            folder = open_run_folder(project, name)
        return cls(project, name, folder, data, size, digest_code(project), cores)

    def close(self) -> None:
        """Remove the folder; results stay in DVC's cache."""
        with _OPENING:
            remove_run_folder(self.project, self.name)

    def configure(self, row: Row, seed: int) -> str:
        """Write the params of a row; return what identifies its result: params and rounds, then code.

        They start from the defaults of when the folder was made: the project may be edited meanwhile.
        """
        (self.folder / "params.yaml").write_bytes((self.folder / "tasks" / "defaults.yaml").read_bytes())
        settings = {
            **self.size.changes,
            "ingest.strict": False,
            "report.panels": 0,
            "compute.workers": self.cores or read_params(self.project / "params.yaml").compute.workers,
            "reference.enabled": row is REFERENCE,
            "classify.random_seed": seed,
            "train.random_seed": seed,
            **row.changes,
        }
        defaults = flatten(read_params(self.folder / "params.yaml").model_dump(mode="json"))
        for key, factor in row.scaled.items():
            value = settings.get(key, defaults[key])
            settings[key] = round(value * factor) if isinstance(value, int) else round(value * factor, 1)
        if self.data.folder is None:
            settings |= {
                "source.num_train": self.size.train,
                "source.num_val": self.size.val,
                "source.size": self.size.drawn,
            }
        edit_params(
            self.folder,
            folder=self.data.folder,
            rounds=row.rounds,
            settings=[f"{key}={json.dumps(value)}" for key, value in settings.items()],
        )
        params = read_params(self.folder / "params.yaml")
        settings_digest = hashlib.sha256(f"{digest_study(params)} {row.rounds}".encode()).hexdigest()[:16]
        return f"{settings_digest}-{self.code}"

    def run(self, row: Row, seed: int, *, on_line: Callable[[str], None]) -> dict[str, Any]:
        """Bring the stages of a configured row up to date; return its numbers in percent, and seconds.

        Raises
        ------
        UserError
            A stage failed; what it said.
        """
        if row is REFERENCE:
            targets = ["reference"]
        else:
            targets = [f"evaluate@{number}" for number in range(1, row.rounds + 1)]
            targets += ["baseline"] if row.scores_cams else []
        limited = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS") if self.cores else ()
        began = time.monotonic()
        status, lines = run_child(
            [sys.executable, "-m", "dvc", "repro", *targets],
            self.folder,
            on_line=on_line,
            environment={
                "DSRG_TRACKING_ROOT": str(self.project),
                "DSRG_BENCH_ROW": row.name,
                "DSRG_BENCH_SEED": str(seed),
                **owned_by_children(),
                **dict.fromkeys(limited, str(self.cores)),
            },
        )
        if status:
            own = [line for line in lines if line.startswith(("error:", "ERROR:"))]
            raise UserError(f"row {row.name}, seed {seed}: " + "\n".join(own or lines[-3:]))
        return {"seconds": round(time.monotonic() - began, 1), **self._read(row)}

    def _read(self, row: Row) -> Numbers:
        def load(name: str) -> Any:
            return json.loads((self.folder / "metrics" / name).read_text(encoding="utf-8"))

        if row is REFERENCE:
            scores = load("reference.json")
            return {"val": _percent(scores["raw"]["miou"]), "val_crf": _percent(scores["crf"]["miou"])}
        scores = load(f"rounds/{row.rounds}/evaluate.json")
        train, val = scores["train"], scores["val"]
        found = {
            "cues": train["cues"]["unlabelled_as_background"]["miou"],
            "cues_fg_precision": train["cues"]["foreground"]["precision"],
            "cues_fg_recall": train["cues"]["foreground"]["recall"],
            "pseudo_labels": train["pseudo_labels"]["unlabelled_as_background"]["miou"],
            "val": val["raw"]["miou"],
            "val_crf": val["crf"]["miou"],
        }
        if row.scores_cams:
            baseline = load("baseline.json")
            found |= {"cam": baseline["cam"]["miou"], "cam_crf": baseline["cam_crf"]["miou"]}
        return {name: _percent(value) for name, value in found.items()}


def digest_code(project: Path) -> str:
    """Digest the code that decides results: what the stages but ``ingest`` and ``report`` depend on."""
    from ruamel.yaml import YAML

    stages: Mapping[str, Any] = YAML(typ="safe", pure=True).load(project / "dvc.yaml")["stages"]
    files = {
        dep
        for name, stage in stages.items()
        if name not in ("ingest", "report")
        for dep in stage.get("do", stage)["deps"]
        if dep.endswith(".py")
    }
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0".encode() + (project / name).read_bytes())
    return digest.hexdigest()[:16]


def _percent(value: float) -> float:
    return round(100 * value, 2)
