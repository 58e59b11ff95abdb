"""The report as one page: all of it there, nothing outside of it, whatever the run was like."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from page_reader import PageReader
from ruamel.yaml import YAML
from tiny_project import build_params, copy_workspace, run_stage, without_tracking
from typer.testing import CliRunner

from tasks import journal
from tasks.page import KEPT, PAGE, build_page, write_page
from tasks.params import Params, check_params, expand_rounds
from tasks.summary import read_metrics
from tasks.workspace import Workspace

SECTIONS = [
    "result",
    "rounds",
    "pictures",
    "classes",
    "labels",
    "training",
    "time",
    "params",
    "links",
    "reading",
]
MAX_BYTES = 5_000_000
ODD = ("a<b>&amp;", "grün 雪豹", '"quoted" {{ 1 }}', "</style><script>alert(1)</script>")


@pytest.fixture
def params() -> Params:
    return build_params()


@pytest.fixture
def workspace(tiny_run: Path, tmp_path: Path) -> Workspace:
    for name in ("metrics", "reports"):
        shutil.copytree(tiny_run / name, tmp_path / name)
    return copy_workspace(tiny_run, tmp_path)


def read_page(params: Params, workspace: Workspace) -> PageReader:
    page = write_page(params, workspace)
    assert page.stat().st_size < MAX_BYTES
    reader = PageReader(page.read_text(encoding="utf-8"))
    check(reader)
    return reader


def check(reader: PageReader) -> None:
    """Nothing is loaded from anywhere, all tags are closed, all pictures decode and are described."""
    assert reader.broken == []
    assert [address for address in reader.loaded if not address.startswith("data:")] == []
    assert "script" not in reader.tags
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)
    assert len(set(reader.ids)) == len(reader.ids)
    for image, picture in zip(reader.images, reader.decode(), strict=True):
        assert picture.size == (int(image["width"]), int(image["height"]))
        assert image["alt"]


def with_rounds(params: Params, count: int) -> Params:
    values = params.model_dump() | {"rounds": expand_rounds(count), "final_round": str(count)}
    return check_params(values, path=Path("params.yaml"))


def read_pictures(workspace: Workspace, round_key: str = "2") -> Any:
    return json.loads(workspace.path(f"data/rounds/{round_key}/panels/pictures.json").read_text())


def test_the_page_of_a_run_has_all_parts(params: Params, workspace: Workspace) -> None:
    reader = read_page(params, workspace)
    assert reader.sections == SECTIONS
    assert len(reader.images) == (1 + 1 + 1) * 4 + 1 * 6  # best, median, worst; one train picture, every step
    summary = json.loads(workspace.path("metrics/summary.json").read_text())
    last = summary["rounds"]["2"]
    for value in (last["val"]["miou_crf"], last["pseudo_labels"]["miou_as_background"]):
        assert f"{100 * value:.1f}" in reader.text
    for text in ("synthetic-r2", "10 train, 3 val", "Loss by step, round 2", "mIoU by round", "train.epochs"):
        assert text in reader.text, text
    pictures = read_pictures(workspace)
    for group in pictures["ranked"].values():
        for picture in group:
            assert picture["id"] in reader.text
            assert f"IoU {100 * picture['iou']:.1f} %" in reader.text


def test_pictures_are_ranked_by_the_iou_of_each(workspace: Workspace) -> None:
    pictures = read_pictures(workspace)
    assert pictures["measure"] == "iou"
    by_id = {picture["id"]: picture["iou"] for picture in pictures["pictures"]}
    shown = [pictures["ranked"][group][0]["id"] for group in ("best", "median", "worst")]
    assert shown == sorted(by_id, key=lambda name: -by_id[name])
    assert all(0 <= picture["disagreement"] <= 1 for picture in pictures["pictures"])
    network = pictures["ranked"]["best"][0]["tiles"][1]
    assert sum(share for _, share in network["held"]) == pytest.approx(1, abs=1e-4)


def test_the_page_that_dvc_keeps_depends_on_params_and_results_alone(
    params: Params, workspace: Workspace
) -> None:
    kept = workspace.path(KEPT).read_text()
    reader = PageReader(kept)
    check(reader)
    assert reader.sections == [name for name in SECTIONS if name != "time"]
    journal.note(workspace, journal.STUDY, {"made": "2031-01-02T03:04:05+00:00", "commit": "c0ffee" * 7})
    found = read_metrics(workspace, params.round_keys)
    assert build_page(params, found, workspace) == kept
    elsewhere = params.model_copy(update={"compute": params.compute.model_copy(update={"workers": 3})})
    assert build_page(elsewhere, found, workspace) == kept
    assert "2031-01-02 03:04 UTC" in read_page(params, workspace).text


def test_without_a_truth_pictures_are_ranked_by_what_the_crf_changes(
    params: Params, workspace: Workspace
) -> None:
    import zarr

    zarr.open_group(workspace.path("data/truth.zarr"), mode="r+").attrs["available"] = False
    with without_tracking():
        for stage in ("baseline", "evaluate@1", "evaluate@2", "reference", "report"):
            run_stage(params, workspace, stage)
    reader = read_page(params, workspace)
    assert reader.sections == [name for name in SECTIONS if name != "rounds"]
    assert "no true masks" in reader.text
    assert "Least agreement" in reader.text
    pictures = read_pictures(workspace)
    assert pictures["measure"] == "disagreement"
    assert all(picture["iou"] is None for picture in pictures["pictures"])
    changed = [pictures["ranked"][group][0]["disagreement"] for group in ("best", "median", "worst")]
    assert changed == sorted(changed)
    assert all(len(picture["tiles"]) == 3 for group in pictures["ranked"].values() for picture in group)
    assert "truth" not in {tile["title"] for picture in pictures["steps"] for tile in picture["tiles"]}


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_rounds(params: Params, workspace: Workspace, count: int) -> None:
    if count == 3:
        for folder in ("metrics/rounds", "data/rounds"):
            shutil.copytree(workspace.path(folder) / "2", workspace.path(folder) / "3")
    reader = read_page(with_rounds(params, count), workspace)
    assert reader.sections == SECTIONS
    assert f"pseudo-labels, round {count}" in reader.text
    assert f"pseudo-labels, round {count + 1}" not in reader.text
    assert ("mIoU by round" in reader.text) == (count > 1)


@pytest.mark.parametrize("number", [80, len(ODD)])
def test_any_classes(params: Params, workspace: Workspace, number: int) -> None:
    """Eighty of them, or such as would break a page that does not escape them."""
    names = ODD if number == len(ODD) else tuple(f"class number {k}" for k in range(number))
    ingest = json.loads(workspace.path("metrics/ingest.json").read_text())
    ingest |= {"classes": names, "per_class": {"train": dict.fromkeys(names, 5), "val": {}}}
    workspace.write_json("metrics/ingest.json", ingest)
    for key in params.round_keys:
        place = f"metrics/rounds/{key}/evaluate.json"
        found = json.loads(workspace.path(place).read_text())
        scores = dict.fromkeys(("background", *names), 0.5)
        for kind in ("raw", "crf"):
            found["val"][kind]["iou"] = scores
        found["train"]["pseudo_labels"]["unlabelled_as_background"]["iou"] = scores
        workspace.write_json(place, found)
    pictures = read_pictures(workspace)
    changed = copy.deepcopy(pictures)
    best = changed["ranked"]["best"][0]
    best |= {"id": "a/<i>b&c", "classes": names}
    best["tiles"][2]["held"] = [(name, 1 / number) for name in names]
    changed["colours"] |= dict.fromkeys(names, "#102030")
    workspace.write_json("data/rounds/2/panels/pictures.json", changed)
    reader = read_page(params, workspace)
    for name in ("a/<i>b&c", *names):
        assert name in reader.text
    assert f"network + CRF of a/<i>b&c: {names[0]}" in {
        re.sub(r" \d+ %.*", "", image["alt"]) for image in reader.images
    }


def test_without_tiles_the_page_does_without(params: Params, workspace: Workspace) -> None:
    """Panels that an older version made hold none."""
    workspace.path("data/rounds/2/panels/pictures.json").unlink()
    reader = read_page(params, workspace)
    assert reader.images == []
    assert "pictures" not in reader.sections


def test_links_and_times_are_those_of_the_results_on_disk(params: Params, workspace: Workspace) -> None:
    facts = {
        "run_id": "abc",
        "experiment_id": "7",
        "url": "http://mlflow:5000",
        "flow_run_url": "http://prefect:4200/runs/flow-run/x",
        "experiment": "birds-r2-3f9c",
    }
    journal.note(workspace, journal.STUDY, facts)
    journal.note(workspace, "train@1", {"seconds": 75.0, "machine": "2 cores"})
    reader = read_page(params, workspace)
    assert "http://mlflow:5000/#/experiments/7/runs/abc?workflowType=machine_learning" in reader.links
    assert facts["flow_run_url"] in reader.links
    for text in ("dvc exp apply birds-r2-3f9c", "1 min 15 s", "0.133", "Not timed"):  # 10 pictures in 75 s
        assert text in reader.text, text
    workspace.write_json(
        "metrics/summary.json", {**json.loads(workspace.path("metrics/summary.json").read_text()), "x": 1}
    )
    reader = read_page(params, workspace)
    assert "birds-r2-3f9c" not in reader.text
    assert "1 min 15 s" in reader.text


def run_dsrg(*arguments: str) -> Any:
    from flows.cli import app

    return CliRunner().invoke(app, ["report", *arguments])


def test_the_command_writes_the_page_and_says_where(workspace: Workspace, tmp_path: Path) -> None:
    root = str(workspace.root)
    done = run_dsrg("--root", root)
    assert (done.exit_code, done.stdout.strip()) == (0, str(workspace.path(PAGE)))
    copy_of_it = tmp_path / "elsewhere" / "birds.html"
    told = json.loads(run_dsrg("--root", root, "--out", str(copy_of_it), "--json").stdout)
    assert told["page"] == str(copy_of_it)
    assert told["kept_by_dvc"] == str(workspace.path(KEPT))
    assert told["stale"] == []
    assert copy_of_it.read_bytes() == workspace.path(PAGE).read_bytes()
    before = workspace.path(KEPT).read_bytes()
    refused = run_dsrg("--root", root, "--out", str(workspace.path("reports")))
    assert "must not lie in `reports/`" in str(refused.exception)
    assert workspace.path(KEPT).read_bytes() == before


def test_results_of_other_params_are_told(workspace: Workspace, params: Params) -> None:
    stages = {"cues": {"cmd": "", "params": {"params.yaml": {"cues.spread": params.cues.spread + 1}}}}
    with workspace.path("dvc.lock").open("w") as file:
        YAML().dump({"schema": "2.0", "stages": stages}, file)
    done = run_dsrg("--root", str(workspace.root))
    assert "results are not those of params.yaml (cues)" in done.stderr
    assert "not the results of params.yaml as it is now: cues" in workspace.path(PAGE).read_text()


def test_a_stage_that_did_not_run_is_named(workspace: Workspace) -> None:
    workspace.path("metrics/rounds/2/evaluate.json").unlink()
    done = run_dsrg("--root", str(workspace.root))
    assert str(done.exception) == "`metrics/rounds/2/evaluate.json` not found. Run: dvc repro evaluate@2"
