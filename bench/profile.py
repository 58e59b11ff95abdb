"""Where the time goes: ``python -m bench.profile``.

A whole run by ``dvc repro``, in a copy of the project with an empty cache, watched by py-spy (``pip install
py-spy``), which looks at every Python thread of every process a few times a second. What a thread does is
told by the functions that it is in, the innermost that says anything first. Writes ``bench/profile.json``,
a table of seconds by stage and by what was done; seconds of threads, so that two that work side by side
count twice.

    python -m bench.profile
    python -m bench.profile --name butterfly10 ~/birds
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from bench.results import write_result
from flows.params_file import edit_params
from flows.versioning import list_stages
from tasks.journal import recall
from tasks.workspace import Workspace
from tests.toy_project import build_environment, copy_project

RATE = 20  # looks a second
# What a frame says about the work, `function (file)`; the innermost frame that matches counts.
KINDS = {
    "waiting": r"^(wait|select|poll|recv|acquire|read|_recv|accept|_wait_for_stage|serve) "
    r"\((threading|selectors|multiprocessing/|subprocess|socket|tasks/warm|queue|concurrent/)",
    "backward pass": r"\(torch/autograd/|dsrg/models/depthwise.py.*backward|^backward \(",
    "optimizer": r"\(torch/optim/",
    "CRF": r"\(dsrg/(crf|mean_field|lattice|dense_field|crf_params)\.py",
    "growing": r"\(dsrg/growing",
    "boundary and seed losses": r"\(dsrg/(losses|objectives)\.py",
    "forward pass": r"\((torch/nn/|timm/|dsrg/models/|torchvision/)",
    "crops and scaling of samples": r"\(dsrg/(samples|augment)",
    "stores": r"\((dsrg/store\.py|zarr/|numcodecs/)",
    "pictures read and scaled": r"\((dsrg/image\.py|PIL/)|dsrg/(sources|synthetic|duplicates)",
    "CAMs and cues": r"\(dsrg/(cam|cues|affinity|inference|drawing)\w*\.py",
    "scores": r"\((dsrg/(metrics|scoring)|torchmetrics/)",
    "panels and plots": r"\((dsrg/panels|matplotlib/)",
    "imports": r"<frozen importlib|^_find_and_load|<module> \(",
    "MLflow": r"\((mlflow/|tasks/tracking|sqlalchemy/)",
    "compiling": r"\((numba|llvmlite)/",
    "DVC": r"\((dvc|dvc_data|dvc_objects|scmrepo|pygit2|git)/",
}
COMPILED = {kind: re.compile(pattern) for kind, pattern in KINDS.items()}
STAGE = re.compile(r"^run \(tasks/(\w+)\.py")


def watch(root: Path, place: Path) -> tuple[float, dict[str, float]]:
    """Run the project under py-spy; return the seconds of the whole and, by the journal, of each stage."""
    said = place / "said.log"
    command = [
        *("py-spy", "record", "--subprocesses", "--rate", str(RATE), "--format", "raw", "--full-filenames"),
        *("--output", str(place / "stacks.txt"), "--", sys.executable, "-m", "dvc", "repro"),
    ]
    began = time.perf_counter()
    with said.open("w") as log:
        done = subprocess.run(command, cwd=root, env=build_environment(root), stdout=log, stderr=log)
    if done.returncode:
        raise SystemExit(said.read_text()[-3000:])
    seconds = time.perf_counter() - began
    workspace = Workspace(root)
    return seconds, {stage: recall(workspace, stage)["seconds"] for stage in list_stages(root)}


def sort_out(stacks: Path, root: Path) -> dict[str, Counter[str]]:
    """Count seconds of threads by stage and kind of work."""
    seconds: dict[str, Counter[str]] = defaultdict(Counter)
    for line in stacks.read_text(encoding="utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [shorten(frame, root) for frame in stack.split(";")]
        kind = next((kind for frame in reversed(frames) if (kind := name_kind(frame))), "the rest")
        stage = next((match[1] for frame in frames if (match := STAGE.match(frame))), "")
        if not stage:
            stage = "loaders" if any("_worker_loop" in frame for frame in frames) else "around the stages"
        if kind != "waiting":
            seconds[stage][kind] += int(count) / RATE
    return seconds


def shorten(frame: str, root: Path) -> str:
    """Write a frame as `function (package/module.py:line)`."""
    frame = frame.replace(f"{root}/", "")
    return re.sub(r"\((?:/[^)]*?/(?:site-packages|python3\.\d+)/)", "(", frame)


def name_kind(frame: str) -> str | None:
    """Name the work that a frame belongs to; None where it does not say."""
    return next((kind for kind, pattern in COMPILED.items() if pattern.search(frame)), None)


def print_table(seconds: dict[str, Counter[str]], order: list[str]) -> None:
    """Print seconds by stage and kind in Markdown, the largest kinds first."""
    totals: Counter[str] = Counter()
    for found in seconds.values():
        totals.update(found)
    print("| seconds of threads | " + " | ".join(order) + " | in all |")
    print("|---|" + "---:|" * (len(order) + 1))
    for kind, total in totals.most_common():
        cells = [f"{seconds[stage][kind]:.0f}" if seconds[stage][kind] >= 0.5 else "" for stage in order]
        print(f"| {kind} | {' | '.join(cells)} | {total:.0f} |")
    sums = [f"{sum(seconds[stage].values()):.0f}" for stage in order]
    print(f"| in all | {' | '.join(sums)} | {sum(totals.values()):.0f} |")


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
        whole, stages = watch(root, Path(name))
        seconds = sort_out(Path(name) / "stacks.txt", root)
    order = list(dict.fromkeys([*(stage.partition("@")[0] for stage in stages), *seconds]))
    print_table(seconds, [stage for stage in order if seconds[stage]])
    print(f"\n{whole:.0f} s by the clock, of these in stages {sum(stages.values()):.0f}")
    kept = Path(__file__).with_suffix(".json")
    earlier = json.loads(kept.read_text(encoding="utf-8"))["runs"] if kept.exists() else {}
    found = {
        "seconds": round(whole),
        "stages": stages,
        "thread_seconds": {
            stage: {kind: round(value, 1) for kind, value in kinds.most_common()}
            for stage, kinds in seconds.items()
        },
        "cores": os.cpu_count(),
    }
    write_result(__file__, runs={**earlier, options.name or (folder.name if folder else "demo"): found})


if __name__ == "__main__":
    main()
