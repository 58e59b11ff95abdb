"""A toy project on the real graph: DVC through its own command line, and which bodies ran."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from tasks.__main__ import STAGES

PROJECT = Path(__file__).resolve().parent.parent
# the baseline is not later, but is scored with the CRF of `refine` too
LATER_THAN_REFINE = [
    *["refine@1", "train@2", "relabel@2", "refine@2", "evaluate@1", "evaluate@2"],
    *["baseline", "report"],
]

# stands in for MLflow, whose database takes longer to create than a toy run
TOY_STUDY = """
from pathlib import Path


def main(arguments=None):
    Path(".work").mkdir(exist_ok=True)
    Path(".work/tracked.json").write_text('{"run_id": "toy", "experiment_id": "1"}')
    return 0
"""


def copy_project(root: Path) -> Path:
    """Copy what a fresh clone holds of graph, params and code into a repository of its own."""
    root.mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(PROJECT / name, root)
    (root / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(PROJECT / ".dvc" / name, root / ".dvc")
    shutil.copytree(PROJECT / ".dvc" / "plots", root / ".dvc" / "plots")
    for folder in ("dsrg", "tasks", "flows"):
        shutil.copytree(PROJECT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


def build_toy(root: Path) -> Path:
    """Build a project with the real graph, params and command line, and toy bodies for the stages."""
    copy_project(root)
    shutil.copy(PROJECT / "tests" / "toy_stage.py", root / "tasks")
    (root / "tasks" / "study.py").write_text(TOY_STUDY)
    warm = root / "tasks" / "warm.py"  # no toy stage needs torch and the like
    code, imports = warm.read_text(), ", *_IMPORTED_WHEN_NEEDED)"
    assert imports in code
    warm.write_text(code.replace(imports, ",)"))
    for stage in STAGES:
        module = root / "tasks" / f"{stage.name}.py"
        kept = (
            module.read_text() if stage.name == "report" else ""
        )  # the doors read its results with its code
        module.write_text(
            f"{kept}\n\nfrom tasks.toy_stage import run_toy\n\n\n"
            "def run(params, workspace, *, round_key=None):\n"
            f"    run_toy({stage.name!r}, params, workspace, round_key)\n"
        )
    return root


def commit(root: Path) -> None:
    """Commit all that lies in a project."""
    who = {f"GIT_{role}_{item}": "a@b" for role in ("AUTHOR", "COMMITTER") for item in ("NAME", "EMAIL")}
    for command in (["add", "-A"], ["commit", "-qm", "as it is", "--allow-empty"]):
        subprocess.run(["git", "-C", str(root), *command], env={**os.environ, **who}, check=True)


def run_dvc(root: Path, *arguments: str) -> str:
    """Run DVC in a project as a person would; return what it said."""
    with start_in(root, "dvc", *arguments) as process:
        said, errors = process.communicate()
    assert process.returncode == 0, said + errors
    return said


def run_dsrg(root: Path, *arguments: str) -> str:
    """Run the command line as a person would, with its own Prefect home; return all it said."""
    environment = {**build_environment(root), "PREFECT_HOME": str(root / ".prefect")}
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build_environment(root: Path) -> dict[str, str]:
    """Build the environment in which a project's own code is what runs."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(root)}


def start_in(root: Path, module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start ``python -m MODULE`` in a project, with the project's own code."""
    variables = {**build_environment(root), "PYTHONUNBUFFERED": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=root,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process: subprocess.Popen[str], words: str, *, errors: bool = False) -> None:
    """Read what a process says until it says some words; `errors` are where Prefect's log goes."""
    stream = process.stderr if errors else process.stdout
    assert stream is not None
    said = []
    for line in stream:
        said.append(line)
        if words in line:
            return
    raise AssertionError("".join(said))


def take_bodies(root: Path) -> list[str]:
    """List the stage bodies that ran since the last call, in order."""
    log = root / "bodies.log"
    lines = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def change_params(root: Path, **changes: object) -> None:
    """Change values of a project's params.yaml; ``refine__crf__iterations=5`` names a nested key."""
    yaml = YAML()
    values = yaml.load(root / "params.yaml")
    for name, value in changes.items():
        *sections, last = name.split("__")
        place = values
        for section in sections:
            place = place[section]
        assert place[last] != value, f"{name} is {value} already: nothing would be tested"
        place[last] = value
    yaml.dump(values, root / "params.yaml")
