"""Who may import whom, and who may see the truth."""

from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from source_code import (
    FLOORS,
    INFRASTRUCTURE,
    PROJECT,
    find_own_imports,
    iterate_strings,
    list_imports,
    list_modules,
    list_top_level_imports,
    parse,
)

from tasks.__main__ import STAGES

STAGE_MODULES = {f"tasks/{stage.name}.py" for stage in STAGES}
# the stages that score; ingest writes the truth, reference is trained on it for comparison
SEE_TRUTH = {"ingest", "baseline", "evaluate", "reference"}
# the others are read by commands that must start fast
PREFECT_MODULES = {
    f"flows/{name}.py"
    for name in (
        *("deployments", "limits", "nodes", "orphans", "own_server", "pipeline", "reach", "runner"),
        *("serve", "stages", "story", "triggered"),
    )
}
COMMANDS = {module.as_posix() for module in Path("flows/commands").glob("*.py")}
HEAVY = {"torch", "mlflow", "prefect", "dvc", "matplotlib", "numba", "timm", "lightning", "skimage"}
ALL = [module for floor in FLOORS for module in list_modules(floor)]


def test_imports_go_down_only():
    below = {"dsrg": set(FLOORS) - {"dsrg"}, "tasks": {"flows"}, "flows": set()}
    wrong = [
        f"{module} imports {name}"
        for module in ALL
        for name in list_imports(module)
        if name.split(".")[0] in below[module.parts[0]]
    ]
    assert wrong == []


def test_stages_do_not_import_each_other():
    wrong = [
        f"{module} imports {other}"
        for module in list_modules("tasks")
        if module.as_posix() != "tasks/__main__.py"
        for other in find_own_imports(module)
        if other.as_posix() in STAGE_MODULES and other != module
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        (
            "mlflow",
            {
                f"tasks/tracking{part}.py"
                for part in ("", "_entries", "_model", "_places", "_pyfunc", "_server")
            },
        ),
        ("dvc", {f"flows/versioning{part}.py" for part in ("", "_folders", "_labels", "_repro", "_runs")}),
        ("prefect", PREFECT_MODULES),
        ("distributed", {"tasks/cluster.py"}),
        ("typer", COMMANDS),
        ("rich", {"tasks/console.py"}),
    ],
)
def test_package_is_imported_only_where_it_belongs(package: str, allowed: set[str]):
    users = {
        module.as_posix()
        for module in ALL
        if any(name.split(".")[0] == package for name in list_imports(module))
    }
    assert users <= allowed


KEPT = "dsrg/kept.py"  # keeps copies of what was fetched where the variables of a machine say


def test_algorithm_knows_no_environment():
    forbidden = re.compile(
        r"\bos\.environ\b|\bos\.getenv\b|\bos\.getcwd\b|\bPath\.cwd\b|(?<![.\w])print\(|params\.yaml"
    )
    wrong = [
        f"{module}: {match[0]}"
        for module in list_modules("dsrg")
        if module.as_posix() != KEPT
        for match in forbidden.finditer(_strip_docstrings(module))
    ]
    assert wrong == []


def test_only_scoring_stages_name_the_truth():
    names = {module.as_posix() for module in ALL for text in iterate_strings(module) if "truth.zarr" in text}
    assert names <= {f"tasks/{stage}.py" for stage in SEE_TRUTH}


def test_heavy_packages_are_imported_late_on_the_command_line():
    for name in (
        *COMMANDS,
        "flows/cli.py",
        "flows/__init__.py",
        "flows/runner.py",
        "flows/versioning.py",
        "flows/versioning_labels.py",
        "flows/versioning_repro.py",
        "flows/versioning_runs.py",
        "tasks/__main__.py",
    ):
        assert list_top_level_imports(Path(name)) & HEAVY == set(), name


@pytest.mark.parametrize(
    "program",
    [
        "from flows.cli import app; app(['--help'], standalone_mode=False)",
        "from flows.cli import app; app(['run', '--help'], standalone_mode=False)",
        "from tasks.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass",
    ],
)
def test_help_loads_nothing_heavy(program: str):
    """Help answers in a fraction of a second; `python -m bench.doors` times it."""
    command = [sys.executable, "-c", f"{program}\nimport sys\nprint('loaded', *sys.modules)"]
    said = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    loaded = {name.split(".")[0] for name in said.rpartition("loaded ")[2].split()}
    assert "flows" in loaded or "tasks" in loaded
    heavy = HEAVY | {"numpy", "scipy", "zarr", "PIL", "networkx", "fastapi", "pandas"}
    assert loaded & heavy == set()


def test_every_third_party_import_is_declared():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    declared = {
        re.split(r"[\[<>=!~ ]", entry, maxsplit=1)[0].lower().replace("-", "_")
        for entry in (*project["dependencies"], *project["optional-dependencies"]["cluster"])
    }
    import_names = {
        "PIL": "pillow",
        "skimage": "scikit_image",
        "upath": "universal_pathlib",
        "ruamel": "ruamel.yaml",
        "pydensecrf": "pydensecrf2",
        "networkx": "dvc",
        "dvc_data": "dvc",
    }
    used = {name.split(".")[0] for module in ALL for name in list_imports(module)}
    foreign = used - set(sys.stdlib_module_names) - set(FLOORS)
    assert {import_names.get(name, name) for name in foreign} <= declared


def test_infrastructure_exists():
    assert all((PROJECT / path).is_file() for path in INFRASTRUCTURE)


def _strip_docstrings(module: Path) -> str:
    tree = copy.deepcopy(parse(module))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
