"""Put many small runs into the queue of ``dsrg serve``: ``python -m bench.queue``.

A project with the real graph, servers and command line, and toy bodies for its stages, is served. Runs are
asked for all at once, as impatient people do. None may be lost, they begin in the order in which they were
asked for, each leaves its study and its DVC experiment, and the server's memory stays level: the least
that it had when one of the first runs ended, and one of the last, as at other times the next run's
process is just being started. Writes ``bench/queue.json``.

    python -m bench.queue
    python -m bench.queue --runs 10 --limit 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.results import write_result
from tests.served_project import FINAL, ServedProject
from tests.toy_project import build_toy, commit, run_dvc

MEGABYTE = 2**20
SOME = 10  # runs, at each end
PATIENCE = 300.0  # seconds until the next run ends


def serve_runs(served: ServedProject, count: int) -> tuple[list[dict[str, Any]], list[float]]:
    """Ask for runs, wait for all; return them in the order asked for, and the memory after each end, MB."""
    names = [
        served.trigger("whole-pipeline", rounds=1, cues_spread=1.0 + number / 100) for number in range(count)
    ]
    ended: set[str] = set()
    memory = []
    deadline = time.monotonic() + PATIENCE
    while len(ended) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(ended)} of {count} runs ended\n{served.read_log()[-5000:]}")
        time.sleep(2)
        found = served.request(
            "POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": names}}, "limit": 200}
        )
        now = {run["id"] for run in found if run["state"]["type"] in FINAL}
        if now - ended:
            deadline = time.monotonic() + PATIENCE
            memory.append(served.measure_memory() / MEGABYTE)
            print(f"{len(now)} of {count} · {memory[-1]:.0f} MB", flush=True)
        ended = now
    runs = {run["id"]: run for run in found}
    return [runs[name] for name in names], memory


def count_disorder(runs: list[dict[str, Any]]) -> int:
    """Count the runs that began before one that was asked for earlier."""
    began = [run["start_time"] for run in runs]
    return sum(now < max(began[:number], default="") for number, now in enumerate(began))


def main() -> None:
    """Measure, print what was seen, write the numbers; status 1 where something was lost."""
    parser = argparse.ArgumentParser(prog="python -m bench.queue", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--limit", type=int, default=1, help="runs that go at once (default: 1)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = build_toy(Path(name) / "toy")
        with (root / ".gitignore").open("a") as file:
            file.write("/bodies.log\n")
        commit(root)
        began = time.perf_counter()
        with ServedProject(root, Path(name) / "prefect", "--limit", str(options.limit)) as served:
            runs, memory = serve_runs(served, options.runs)
            seconds = time.perf_counter() - began
        experiments = run_dvc(root, "exp", "list", "-A")
    numbers = {
        "runs": len(runs),
        "at_once": options.limit,
        "completed": sum(run["state"]["type"] == "COMPLETED" for run in runs),
        "kept_as_experiments": sum(f"synthetic-r1-{run['id'][:4]}" in experiments for run in runs),
        "out_of_order": count_disorder(runs),
        "seconds_a_run": round(seconds / len(runs), 1),
        "memory_mb": {
            "at_first": round(min(memory[:SOME])),
            "at_last": round(min(memory[-SOME:])),
            "most": round(max(memory)),
        },
    }
    for what, value in numbers.items():
        print(f"{what:<20} {value}")
    write_result(__file__, **numbers)
    if not numbers["completed"] == numbers["kept_as_experiments"] == len(runs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
