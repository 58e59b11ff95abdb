"""Run one stage: ``python -m tasks STAGE [--round R]``. DVC runs stages by this command."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # before anything is imported that a warm process has already
    from tasks.warm import hand_over

    status = hand_over(sys.argv[1:])
    if status is not None:
        sys.exit(status)

from tasks import console, journal
from tasks.errors import UserError, describe_os_error
from tasks.graph import fail_if_changed
from tasks.lifetime import Terminated, end_with_starter, raise_on_sigterm
from tasks.locking import hold_workspace
from tasks.memory import keep_freed_memory
from tasks.params import check_round, check_source, read_params
from tasks.schema import NO_CLUSTER
from tasks.shards import prepare_loaders
from tasks.workspace import Workspace


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline."""

    name: str
    about: str
    in_rounds: bool = False
    trains: bool = False


STAGES = (
    Stage("ingest", "read pictures, image labels and (for scoring only) masks into stores"),
    Stage("classify", "train the classifier whose attention becomes CAMs", trains=True),
    Stage("cams", "compute class activation maps"),
    Stage("cues", "pick trusted pixels out of the CAMs"),
    Stage("baseline", "score CAMs, CAM + CRF and cues against the true masks"),
    Stage("train", "train the segmenter with seeded region growing", in_rounds=True, trains=True),
    Stage("relabel", "grow the cues by the segmenter's probabilities", in_rounds=True),
    Stage("refine", "refine grown seeds into pseudo-labels with a CRF", in_rounds=True),
    Stage("evaluate", "score the round against the true masks and draw panels", in_rounds=True),
    Stage("reference", "train the same network on the true masks, to compare with", trains=True),
    Stage("report", "put all numbers into one table"),
)
TRAINING = frozenset(stage.name for stage in STAGES if stage.trains)


def main(arguments: list[str] | None = None) -> int:
    """Run the stage named on the command line; return the exit status.

    ``study`` is no stage, and may be run by a warm process all the same.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["study"]:
        study = importlib.import_module("tasks.study")
        return int(study.main(words[1:]))
    options = _parse(arguments)
    raise_on_sigterm()
    end_with_starter()
    label = options.stage + (f"@{options.round}" if options.round else "")
    try:
        _run(options.stage, options.round, options.root)
    except Terminated:
        return _tell_stopped(label, "SIGTERM", 143)
    except KeyboardInterrupt:
        return _tell_stopped(label, "Ctrl-C", 130)
    except Exception as error:
        message = _describe(error)
        if message is None or os.environ.get("DSRG_TRACEBACK") == "1":
            raise
        console.fail(message)
        return 2
    return 0


def _run(stage: str, round_key: str | None, root: Path) -> None:
    params_file = root / "params.yaml"
    if not params_file.exists():
        read_params(params_file)  # the wrong folder: said before anything is written there
    label = stage if round_key is None else f"{stage}@{round_key}"
    with hold_workspace(root, label):
        params = read_params(params_file)
        if stage == "ingest":
            check_source(params, root)
        if round_key is not None:
            check_round(params, round_key)
        # the workers of a cluster have another current folder
        here = root if params.compute.cluster == NO_CLUSTER else root.resolve()
        with fail_if_changed(root, params, stage, round_key):
            began = time.monotonic()
            if stage in TRAINING:
                prepare_loaders(params.compute.workers)
                keep_freed_memory(of_any_size=True)
            module = importlib.import_module(f"tasks.{stage}")
            module.run(params, Workspace(here), round_key=round_key)
            seconds = round(time.monotonic() - began, 2)
        facts = {"seconds": seconds, "machine": journal.describe_machine()}
        journal.note(Workspace(root), label, facts)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    lines = [f"  {stage.name + (' -r R' if stage.in_rounds else ''):<15} {stage.about}" for stage in STAGES]
    parser = argparse.ArgumentParser(
        prog="python -m tasks",
        description="Run one stage, whether or not DVC thinks it must. Everyday use: dsrg run, or dvc repro.",
        epilog="stages, in order:\n" + "\n".join(lines) + "\n\nexample:\n  python -m tasks train --round 1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", metavar="STAGE", choices=[stage.name for stage in STAGES], help="see below")
    parser.add_argument("-r", "--round", metavar="R", help="round: 1, 2, … (stages that run once per round)")
    parser.add_argument("--root", type=Path, default=Path(), help="folder with params.yaml (default: .)")
    options = parser.parse_args(arguments)
    in_rounds = {stage.name for stage in STAGES if stage.in_rounds}
    if options.stage in in_rounds and options.round is None:
        parser.error(f"stage {options.stage} runs once per round: name one with --round")
    if options.stage not in in_rounds and options.round is not None:
        parser.error(f"stage {options.stage} runs once, not per round: leave out --round")
    return options


def _tell_stopped(label: str, why: str, status: int) -> int:
    console.fail(f"{label} stopped by {why}; what is finished was kept: the same command continues there")
    return status


def _describe(error: Exception) -> str | None:
    """Describe an error that a user can mend; None if it is a fault of the program."""
    if type(error).__name__ == "OutOfMemoryError":  # of torch, which other stages do not load
        return (
            "the GPU has too little memory: lower train.batch_size or train.crop_size (classify.* for the "
            "classifier), end what else runs on it, or set compute.device=cpu"
        )
    if isinstance(error, MemoryError):
        return "memory ran out: end what else needs it, or lower compute.workers; what is finished was kept"
    if isinstance(error, UserError) or type(error).__module__.split(".")[0] == "dsrg":
        return str(error)
    return describe_os_error(error) if isinstance(error, OSError) else None


if __name__ == "__main__":
    sys.exit(main())
