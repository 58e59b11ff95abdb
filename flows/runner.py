"""The flow in a process group of its own, so that it ends tidily.

Ctrl-C on a terminal reaches every process of a group. It would end Prefect's temporary server before
the run could be recorded as stopped, which then takes a minute of failing retries. Here it reaches
the command line only, which passes it on to the flow and, once that is over, clears what is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from flows.own_server import OwnServer, use_server
from flows.reach import find_api, is_there
from flows.versioning import prepare_stages
from tasks import console
from tasks.lifetime import end_with_starter, watched_by_children
from tasks.locking import keep_lock

STOP_SECONDS = 30.0
RETRIES = "3"  # 2, 4 and 8 s; with Prefect's own 5 a dead server holds the run up for more than a minute


def run_flow(root: Path, *, lock: int | None = None) -> int:
    """Run the whole pipeline below `root` in a child process; return its exit status.

    Parameters
    ----------
    root : Path
    lock : int, optional
        Descriptor of the workspace's lock, from :func:`tasks.locking.hold_workspace`. The child keeps
        it: should this process be killed, nobody else begins before the child has ended.
    """
    kept = [] if lock is None else [lock]
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.runner", str(root.resolve()), *map(str, kept)],
        env={"PREFECT_CLIENT_MAX_RETRIES": RETRIES, **os.environ, **watched_by_children()},
        pass_fds=kept,
        process_group=0,
    )
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            child.wait(STOP_SECONDS)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)


def _run(root: str, *kept: str) -> int:
    end_with_starter()
    for lock in kept:
        keep_lock(int(lock))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(root)
    prepare_stages(folder)
    status = _run_with_prefect(folder)
    if status is None:
        from flows.story import say_once
        from flows.unattended import run_alone

        say_once("once it does, `dsrg run` shows there what was done")
        status = run_alone(folder)
        if status == 0:
            _save_run(folder)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # Prefect would go on trying to send what nobody takes, 7 s for each event
    if status == 0:
        _save_run(folder)
    return status


def _run_with_prefect(root: Path) -> int | None:
    """Run the flow; return the exit status, or None where Prefect's server is not there or went away."""
    server = None if os.environ.get("PREFECT_API_URL") else OwnServer(root)
    if server is not None:
        console.say("Prefect  starts for this run")
    from prefect.settings import get_current_settings

    from flows.unattended import quieten

    named = get_current_settings().api.url
    if named and server is not None:  # in Prefect's own settings
        server.stop()
        server = None
    with contextlib.nullcontext() if server is None else use_server(server):
        from flows.pipeline import run_pipeline
        from flows.story import say_once

        if server is None and not is_there(named or ""):
            return None
        if server is not None and not server.is_ready():
            say_once(f"it did not start, {server.log} says why")
            return None
        quieten()
        try:
            state = run_pipeline(root=str(root), return_state=True)
        except Exception:
            if is_there(find_api()):
                raise
            return None
    if not state.is_completed():
        console.fail(state.message or "the run failed; its log says why")
        return 2
    return 0


def _save_run(root: Path) -> None:
    """Keep the finished run as a DVC experiment, unless it made nothing that is not kept already."""
    from flows.versioning_runs import save_experiment
    from tasks.params import read_params
    from tasks.tracking import name_data

    params = read_params(root / "params.yaml")
    name = save_experiment(root, f"{name_data(params)}-r{len(params.rounds)}", by_content=True)
    if name is not None:
        console.say(f"kept as DVC experiment {name}: dvc exp show, dsrg labels restore {name}")


if __name__ == "__main__":
    try:
        sys.exit(_run(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
