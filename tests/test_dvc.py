"""dvc.yaml: the stages, what each is given, and which code it depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from source_code import FLOORS, INFRASTRUCTURE, PROJECT, collect_code

from tasks.__main__ import STAGES
from tasks.changes import DEFAULTS
from tasks.page import TEMPLATES
from tasks.plot_rows import list_plots
from tasks.schema import SYNTHETIC_PATH

TRUTH = "data/truth.zarr"
FOREGROUND = {"foreground": {"precision": 0.9, "recall": 0.5}}
SCORED: dict[str, Any] = {
    "baseline": {"cues": FOREGROUND},
    "rounds": {
        "1": {
            "train": {"loss": [{"step": 3, "loss": 2.0}, {"step": 6, "loss": 1.0}]},
            "evaluate": {
                "available": True,
                "train": {
                    kind: {**FOREGROUND, "unlabelled_as_background": {"miou": 0.7}}
                    for kind in ("seeds", "pseudo_labels")
                },
                "val": {
                    kind: {"miou": 0.6, "iou": {"background": 0.8, "cat": 0.4}} for kind in ("raw", "crf")
                },
            },
        }
    },
}
NO_RESULT = INFRASTRUCTURE | {"dsrg/__init__.py"}


@pytest.fixture
def graph(project_root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load((project_root / "dvc.yaml").read_text())
    return loaded["stages"]


def spec_of(graph: dict[str, Any], stage: str) -> dict[str, Any]:
    found: dict[str, Any] = graph[stage].get("do", graph[stage])
    return found


def list_outs(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """List all that a stage makes, with DVC's options for it."""
    found: dict[str, dict[str, Any]] = {}
    for kind in ("outs", "metrics", "plots"):
        for entry in spec.get(kind, []):
            found |= {entry: {}} if isinstance(entry, str) else entry
    return found


def test_stages_are_those_of_the_command_line(graph: dict[str, Any]):
    assert list(graph) == [stage.name for stage in STAGES]
    assert {name for name in graph if "foreach" in graph[name]} == {
        stage.name for stage in STAGES if stage.in_rounds
    }


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_runs_its_own_command(stage: Any, graph: dict[str, Any]):
    expected = f"python -m tasks {stage.name}" + (" --round ${key}" if stage.in_rounds else "")
    assert spec_of(graph, stage.name)["cmd"] == expected


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES])
def test_a_stage_depends_on_the_code_it_imports(stage: str, graph: dict[str, Any]):
    deps = spec_of(graph, stage)["deps"]
    own = [PROJECT / dep for dep in deps if dep.split("/")[0] in FLOORS]
    files = [file for dep in own for file in (dep.rglob("*.py") if dep.is_dir() else [dep])]
    listed = {file.relative_to(PROJECT).as_posix() for file in files if file.suffix == ".py"}
    needed = collect_code(Path(f"tasks/{stage}.py"), stop=NO_RESULT)
    # the drawn source is a dependency by its params: source.path
    assert listed == needed - {SYNTHETIC_PATH}


def test_the_report_depends_on_the_files_its_page_is_made_of(graph: dict[str, Any]):
    for place in (TEMPLATES, DEFAULTS):
        assert place.relative_to(PROJECT).as_posix() in graph["report"]["deps"]


def test_only_scoring_stages_are_given_the_truth(graph: dict[str, Any]):
    given = {name for name in graph if TRUTH in spec_of(graph, name)["deps"]}
    assert given == {"baseline", "evaluate", "reference"}


def test_nothing_made_from_the_truth_reaches_labels_or_segmenter(graph: dict[str, Any]):
    tainted = {
        out for name in ("baseline", "evaluate", "reference") for out in list_outs(spec_of(graph, name))
    }
    users = {
        name
        for name in graph
        if any(
            dep.startswith(out) or out.startswith(f"{dep}/")
            for dep in spec_of(graph, name)["deps"]
            for out in tainted
        )
    }
    assert users <= {"report"}


def test_numbers_are_kept_in_git(graph: dict[str, Any]):
    for name in graph:
        spec = spec_of(graph, name)
        for path, options in list_outs(spec).items():
            assert (options.get("cache") is False) == path.startswith("metrics/"), path
        # DVC restores no run with other outputs outside of the cache
        assert not any(isinstance(out, dict) and "cache" in str(out) for out in spec.get("outs", []))


def test_an_artifact_is_an_out_of_the_last_round(project_root: Path, graph: dict[str, Any]):
    text = (project_root / "dvc.yaml").read_text()
    artifacts = YAML(typ="safe", pure=True).load(text)["artifacts"]
    outs = {
        out.replace("${key}", "${final_round}") for name in graph for out in list_outs(spec_of(graph, name))
    }
    assert {artifact["path"] for artifact in artifacts.values()} <= outs


def test_a_plot_names_columns_of_its_rows(graph: dict[str, Any], project_root: Path):
    plots = {path: options for entry in graph["report"]["plots"] for path, options in entry.items()}
    rows = list_plots(SCORED)
    assert {f"metrics/plots/{name}.json" for name in rows} == set(plots)
    for name, points in rows.items():
        options = plots[f"metrics/plots/{name}.json"]
        assert options["cache"] is False
        assert {options["x"], options["y"]} <= set(points[0])
