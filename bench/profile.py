"""Where the time goes: ``python -m bench.profile``.

Every stage of a run, in a process of its own, in a copy of the project, watched by py-spy (``pip install
py-spy``), which looks at every Python thread of every process a few times a second. What a thread does is
told by the functions that it is in, the innermost that says anything first. Prints seconds of threads by
stage and by what was done, so that two threads that work side by side count twice, and one that waits counts
not; what torch and OpenVINO do in threads of their own is the caller's. Imports count in every stage; a run
through a door imports once for all. Writes ``bench/profile.json``.

    python -m bench.profile
    python -m bench.profile --name butterfly10 ~/birds
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench.results import draw_table, read_result, write_result
from bench.speed import list_profile
from flows.params_file import edit_params
from flows.versioning import list_stages
from tests.toy_project import build_environment, copy_project

RATE = 20  # looks a second
IDLE = re.compile(r"^_worker \(concurrent/futures/")  # if innermost: a pool's thread without work
SHOWN = 25  # functions of no kind
# What a frame says about the work, `function (file)`; the innermost frame that matches counts.
KINDS = {
    "waiting": r"^(.*\.)?(wait|select|poll|recv|acquire|read|_recv|accept|_wait_for_stage|serve) "
    r"\((threading|selectors|multiprocessing/|subprocess|socket|tasks/warm|queue|concurrent/)",
    "backward pass": r"\(torch/autograd/|dsrg/models/depthwise.py.*backward|^backward \(",
    "optimizer": r"\(torch/optim/",
    "CRF": r"\(dsrg/(crf|mean_field|lattice|dense_field|crf_params)\.py",
    "growing": r"\(dsrg/growing",
    "boundary and seed losses": r"\(dsrg/(losses|objectives)\.py",
    "forward pass": r"\((torch/nn/|timm/|dsrg/models/|dsrg/engines|torchvision/)",
    "crops and scaling of samples": r"\(dsrg/(samples|augment)",
    "stores": r"\((dsrg/store\.py|zarr/|numcodecs/)",
    "pictures read and scaled": r"\((dsrg/image\.py|PIL/)|dsrg/(sources|synthetic|duplicates)",
    "CAMs and cues": r"\(dsrg/(cam|cues|affinity|inference|drawing)\w*\.py",
    "maps scaled": r"\(dsrg/scaling",
    "scores": r"\((dsrg/(metrics|scoring)|torchmetrics/)",
    "panels and plots": r"\((dsrg/panels|matplotlib/)",
    "imports": r"<frozen importlib|^_find_and_load|<module> \(|^ *main\(\d+, \d+, \[",  # also a forkserver's
    "MLflow": r"\((mlflow/|tasks/tracking|sqlalchemy/)",
    "compiling": r"\((numba|llvmlite)/",
    "DVC": r"\((dvc|dvc_data|dvc_objects|scmrepo|pygit2|git)/",
}
COMPILED = {kind: re.compile(pattern) for kind, pattern in KINDS.items()}


def watch(root: Path, label: str, stacks: Path) -> float:
    """Run one stage under py-spy; return its seconds by the clock."""
    stage, _, key = label.partition("@")
    command = [
        *("py-spy", "record", "--subprocesses", "--rate", str(RATE), "--format", "raw", "--full-filenames"),
        *("--output", str(stacks), "--", sys.executable, "-m", "tasks", stage),
        *(["--round", key] if key else []),
    ]
    said = stacks.with_suffix(".log")
    began = time.perf_counter()
    with said.open("w") as log:
        done = subprocess.run(command, cwd=root, env=build_environment(root), stdout=log, stderr=log)
    if done.returncode:
        raise SystemExit(said.read_text()[-3000:])
    return time.perf_counter() - began


def sort_out(stacks: Path, root: Path, rest: Counter[str]) -> Counter[str]:
    """Count seconds of threads by kind of work; of what is of no kind, by innermost function in `rest`."""
    seconds: Counter[str] = Counter()
    for line in stacks.read_text(encoding="utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [shorten(frame, root) for frame in stack.split(";")]
        kind = next((kind for frame in reversed(frames) if (kind := name_kind(frame))), None)
        if IDLE.match(frames[-1]):
            kind = "waiting"
        if kind != "waiting":
            seconds[kind or "the rest"] += int(count) / RATE
        if kind is None:
            rest[" < ".join(reversed(frames[-3:]))] += int(count) / RATE
    return seconds


def shorten(frame: str, root: Path) -> str:
    """Write a frame as `function (package/module.py:line)`."""
    frame = frame.replace(f"{root}/", "")
    return re.sub(r"\((?:/[^)]*?/(?:site-packages|python3\.\d+)/)", "(", frame)


def name_kind(frame: str) -> str | None:
    """Name the work that a frame belongs to; None where it does not say."""
    return next((kind for kind, pattern in COMPILED.items() if pattern.search(frame)), None)


def main() -> None:
    """Watch a run, print the table, write the numbers beside those of other data sets."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", type=Path, help="folder of pictures (default: drawn ones)")
    parser.add_argument("--name", help="of the data, in the numbers (default: the folder's)")
    parser.add_argument("--preset", help="see dsrg presets")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    options = parser.parse_args()
    if shutil.which("py-spy") is None:
        raise SystemExit("py-spy is missing: pip install py-spy")
    folder = options.path.expanduser().resolve() if options.path else None
    with tempfile.TemporaryDirectory() as name:
        root = copy_project(Path(name).resolve() / "project")
        shutil.copytree(Path(__file__).parent.parent / "presets", root / "presets")
        edit_params(root, folder=folder, preset=options.preset, settings=options.settings)
        clock, threads = {}, {}
        rest: Counter[str] = Counter()
        for label in list_stages(root):
            stacks = Path(name) / f"{label}.txt"
            clock[label] = round(watch(root, label, stacks), 1)
            threads[label] = sort_out(stacks, root, rest)
            print(f"{label:<12} {clock[label]:>8.1f} s", flush=True)
    earlier = read_result(__file__).get("runs", {})
    found = {
        "seconds": clock,
        "thread_seconds": {
            label: {kind: round(value, 1) for kind, value in kinds.most_common()}
            for label, kinds in threads.items()
        },
    }
    run = options.name or (folder.name if folder else "demo")
    write_result(__file__, runs={**earlier, run: found})
    head, *rows = list_profile(run)
    print(draw_table(head, rows))
    print("\nthe rest:")
    for frames, seconds in rest.most_common(SHOWN):
        print(f"{seconds:>8.1f} s  {frames}")


if __name__ == "__main__":
    main()
