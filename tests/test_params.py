"""params.yaml, the schema, dvc.yaml and what stages read: the same keys. And errors that help."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML
from source_code import list_argument_names, list_param_reads

from tasks.__main__ import STAGES
from tasks.params import Params, ParamsError, check_params, check_source, expand_rounds, read_params

# machine matters: read by stages, a dependency of none
NOT_TRACKED = {"compute"}


@pytest.fixture
def values(project_root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load((project_root / "params.yaml").read_text())
    return loaded


@pytest.fixture
def graph(project_root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load((project_root / "dvc.yaml").read_text())
    return loaded


@pytest.fixture
def dvc_stages(graph: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: spec.get("do", spec) for name, spec in graph["stages"].items()}


@pytest.fixture
def naming(graph: dict[str, Any]) -> set[str]:
    """Keys that name artifacts: no stage reads them."""
    return set(re.findall(r"\$\{(\w+)\}", str(graph["artifacts"])))


def list_leaves(model: type[BaseModel], prefix: str = "") -> set[str]:
    leaves: set[str] = set()
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            leaves |= list_leaves(kind, f"{prefix}{name}.")
        else:
            leaves.add(prefix + name)
    return leaves


def list_keys(values: Any, prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for key, value in values.items():
        if isinstance(value, dict) and prefix + key != "rounds":
            keys |= list_keys(value, f"{prefix}{key}.")
        else:
            keys.add(prefix + key)
    return keys


def covers(section: str, key: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def list_tracked(spec: dict[str, Any]) -> set[str]:
    """List what a stage of dvc.yaml depends on; templates stand for what they can become."""
    tracked: set[str] = set()
    for param in spec["params"]:
        if param == "${item.schedule}":
            tracked |= {"train", "retrain"}
        else:
            tracked.add(re.sub(r"\.\$\{key\}$", "", param))
    return tracked


def test_file_and_schema_have_the_same_keys(values: dict[str, Any]):
    assert list_keys(values) == list_leaves(Params)


def test_every_key_of_the_file_is_commented(project_root: Path):
    lines = (project_root / "params.yaml").read_text().split("rounds:")[0].splitlines()
    bare = [line for line in lines if re.match(r"\s*\w+:", line) and "#" not in line]
    assert bare == []


def test_every_field_is_described():
    def undescribed(model: type[BaseModel]) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += undescribed(kind)
            elif not field.description and name != "rounds":
                found.append(f"{model.__name__}.{name}")
        return found

    assert undescribed(Params) == []


def test_every_key_is_tracked_by_dvc(dvc_stages: dict[str, dict[str, Any]], naming: set[str]):
    tracked = set().union(*(list_tracked(spec) for spec in dvc_stages.values())) | NOT_TRACKED | naming
    untracked = {leaf for leaf in list_leaves(Params) if not any(covers(key, leaf) for key in tracked)}
    assert untracked == set()


def test_every_key_is_read(naming: set[str]):
    reads = set().union(*(list_param_reads(stage.name) for stage in STAGES))
    arguments = list_argument_names("dsrg")

    def is_read(leaf: str) -> bool:
        section, _, name = leaf.rpartition(".")
        return leaf in reads or (any(covers(read, section) for read in reads) and name in arguments)

    unread = {leaf for leaf in list_leaves(Params) if leaf not in naming | {"rounds"} and not is_read(leaf)}
    assert unread == set()


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES])
def test_dvc_tracks_what_the_stage_reads(stage: str, dvc_stages: dict[str, dict[str, Any]]):
    tracked = list_tracked(dvc_stages[stage])
    reads = {"rounds" if read == "round_keys" else read for read in list_param_reads(stage)}
    missing = {
        read
        for read in reads
        if read.split(".")[0] not in NOT_TRACKED and not any(covers(key, read) for key in tracked)
    }
    idle = {key for key in tracked if not any(covers(key, read) or covers(read, key) for read in reads)}
    assert (missing, idle) == (set(), set())


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def edit(values: dict[str, Any]) -> None:
        for key in path[:-1]:
            values = values[key]
        del values[path[-1]]

    return edit


def put(value: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    def edit(values: dict[str, Any]) -> None:
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put(1, "train", "lrr"), "params.yaml: `train.lrr` is no known key; did you mean `lr`?"),
        (put(1, "cuez"), "params.yaml: `cuez` is no known key; did you mean `cues`?"),
        (
            drop("train", "lr"),
            "params.yaml: `train.lr` is missing: learning rate of the trunk at the first step",
        ),
        (drop("refine"), "params.yaml: `refine` is missing"),
        (put("8", "train", "epochs"), "params.yaml: `train.epochs` must be a valid "),
        (
            put(85.0, "train", "fg_threshold"),
            "params.yaml: `train.fg_threshold` must be less than 1, got 85.0",
        ),
        (put(7, "cams", "output_stride"), "params.yaml: `cams.output_stride` must be 8, 16 or 32, got 7"),
        (put([], "cams", "scales"), "params.yaml: `cams.scales` must name at least 1, got []"),
        (put([1.0, 1.0], "cams", "scales"), "params.yaml: `cams.scales` must not name a scale twice"),
        (put("vgg", "backbone", "name"), "params.yaml: `backbone.name` must be one of efficientnet_lite0"),
        (put(3, "cues", "crf"), "params.yaml: `cues.crf` must hold keys of its own, got 3"),
        (put(float("nan"), "train", "lr"), "params.yaml: `train.lr` must be a finite number, got nan"),
        (
            put("pictures", "source", "path"),
            "`path` must be dsrg/sources/synthetic.py where `kind` is synthetic",
        ),
        (
            put({}, "rounds", 3),
            "keys of `rounds` must be quoted ('3': not 3:), or DVC silently makes no stage",
        ),
        (put(3, "rounds"), "`rounds` must be a mapping of rounds, got 3: run `dsrg rounds 3`"),
        (put({}, "rounds"), "`rounds` must hold at least one round: run `dsrg rounds 1`"),
        (
            put("1", "final_round"),
            "`final_round` must be the last of `rounds`, '2', got '1': run `dsrg rounds 2`",
        ),
        (put("2", "rounds", "2", "prev"), "wrong: '2': run `dsrg rounds 2`"),
    ],
)
def test_a_bad_key_is_named_with_its_rule(
    edit: Callable[[dict[str, Any]], None], message: str, values: dict[str, Any]
):
    changed = copy.deepcopy(values)
    edit(changed)
    with pytest.raises(ParamsError, match=re.escape(message)):
        check_params(changed, path=Path("params.yaml"))


def test_all_problems_are_named_at_once(values: dict[str, Any]):
    values["train"]["lrr"] = 1
    values["cams"]["flip"] = 1
    with pytest.raises(ParamsError) as caught:
        check_params(values, path=Path("params.yaml"))
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ParamsError, match=r"params\.yaml` not found"):
        read_params(tmp_path / "params.yaml")


def test_broken_yaml_is_named_with_its_line(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text("train:\n  lr: [1\n")
    with pytest.raises(ParamsError, match=r"params.yaml: line \d: no valid YAML"):
        read_params(path)


def test_a_folder_that_is_not_there_is_named(values: dict[str, Any], tmp_path: Path):
    values["source"] |= {"kind": "folder", "path": "nowhere"}
    params = check_params(values, path=Path("params.yaml"))
    with pytest.raises(ParamsError, match=r"`source.path` must be a folder of pictures, got 'nowhere'"):
        check_source(params, tmp_path)


def test_rounds_form_a_chain(values: dict[str, Any]):
    values["rounds"], values["final_round"] = expand_rounds(3), "3"
    params = check_params(values, path=Path("params.yaml"))
    assert params.round_keys == ("1", "2", "3")
    assert params.rounds["3"].weights == "data/rounds/2/segmenter.safetensors"
