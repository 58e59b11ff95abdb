"""``baseline``, ``evaluate`` and ``report`` on stores small enough to know every number beforehand."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dsrg.models import SegmenterSpec, save_model
from dsrg.store import Index, count_cells, create_image_store, create_label_store, create_score_store
from tasks import baseline, evaluate, report, tracking
from tasks.params import Params, read_params
from tasks.workspace import Workspace

CANVAS = 64
CAM_STRIDE = 4
SIZES = np.array([[64, 48], [40, 64], [64, 64], [48, 64], [64, 40]], np.int32)
CLASSES = ("cat", "dog")
LOG_ODDS = 2.0
PROJECT = Path(__file__).resolve().parents[2]


def draw_truth(row: int) -> NDArray[np.uint8]:
    """A box of class 1 or 2 in the middle, with one unknown pixel in the corner."""
    height, width = SIZES[row]
    truth = np.zeros((height, width), np.uint8)
    truth[10:30, 12:36] = row % 2 + 1
    truth[0, 0] = 255
    return truth


def fill_workspace(root: Path, *, available: bool = True) -> Workspace:
    """Write the stores of five pictures, three of them train; cues are right but cover half."""
    count = len(SIZES)
    labels = np.zeros((count, 2), bool)
    labels[np.arange(count), np.arange(count) % 2] = True
    splits = np.array(["train", "train", "train", "val", "val"])
    ids = np.array([f"folder/picture {row}" for row in range(count)])
    index = Index(CLASSES, ids, splits, SIZES, SIZES, labels)
    data = root / "data"
    images = create_image_store(data / "images.zarr", index, canvas=CANVAS, source="test")
    images.attrs["digest"] = "images"
    stores = {
        "truth": create_label_store(
            data / "truth.zarr",
            "gt_label",
            count=count,
            canvas=CANVAS,
            attributes={"available": available, "digest": "truth"},
        )
    }
    places = {
        "cue": "cues.zarr",
        "seed": "rounds/1/seeds.zarr",
        "pseudo_label": "rounds/1/pseudo_labels.zarr",
    }
    for name, place in places.items():
        stores[name] = create_label_store(
            data / place, name, count=count, canvas=CANVAS, attributes={"digest": name}
        )
    cams = create_score_store(
        data / "cams.zarr",
        "cam",
        count=count,
        planes=1,
        grid=CANVAS // CAM_STRIDE,
        attributes={"digest": "cams", "stride": CAM_STRIDE},
    )
    rng = np.random.default_rng(0)
    for row, (height, width) in enumerate(SIZES):
        truth = draw_truth(row)
        picture = rng.integers(0, 30, (CANVAS, CANVAS, 3), np.uint8)
        picture[:height, :width][truth == row % 2 + 1] += 180
        images["image"][row] = picture  # type: ignore[index]
        if available:
            write_map(stores["truth"], row, truth)
        if splits[row] == "train":
            cue = np.where(np.arange(width) % 2 == 0, truth, 255).astype(np.uint8)
            write_map(stores["cue"], row, cue)
            write_map(stores["seed"], row, cue)
            write_map(stores["pseudo_label"], row, np.where(truth == 255, 0, truth).astype(np.uint8))
            rows, columns = count_cells((height, width), CAM_STRIDE)
            cam = np.zeros((CANVAS // CAM_STRIDE, CANVAS // CAM_STRIDE), np.float16)
            cam[:rows, :columns][10 // 4 : 30 // 4, 12 // 4 : 36 // 4] = 1
            cams[row] = cam[None]
    spec = SegmenterSpec(
        backbone="efficientnet_lite0",
        classes=CLASSES,
        output_stride=16,
        aspp_channels=8,
        aspp_rates=(1,),
        aspp_separable=True,
        dropout=0.0,
        skip_channels=0,
        input_size=64,
        log_odds=LOG_ODDS,
    )
    torch.manual_seed(0)
    save_model(
        data / "rounds/1/segmenter.safetensors", spec.build(weights="none").eval(), spec, digest="segmenter"
    )
    return Workspace(root)


def write_map(store: Any, row: int, label_map: NDArray[np.uint8]) -> None:
    canvas = np.full((CANVAS, CANVAS), 255, np.uint8)
    canvas[: label_map.shape[0], : label_map.shape[1]] = label_map
    store[row] = canvas


class Recorder:
    """Stands in for an MLflow run and remembers what was logged."""

    reached = False

    def __init__(self) -> None:
        self.points: dict[str, dict[int, float]] = {}
        self.files: dict[str, dict[str, Path]] = {}
        self.models: list[dict[str, Any]] = []

    def log_points(self, points: dict[str, dict[int, float]]) -> None:
        for name, curve in points.items():
            self.points.setdefault(name, {}).update(curve)

    def log_files(self, group: str, files: dict[str, Path]) -> None:
        assert all(path.is_file() for path in files.values())
        self.files[group] = files

    def log_model(self, weights: Path, **about: Any) -> None:
        assert weights.is_file()
        self.models.append(about)

    def log_params(self, params: dict[str, Any]) -> None:
        assert params["train"]

    def set_tags(self, tags: dict[str, str]) -> None:
        assert all(isinstance(value, str) for value in tags.values())

    def log_dataset(self, name: str, digest: str, source: str) -> None:
        assert (name, digest) == ("synthetic", "images")


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    run = Recorder()
    monkeypatch.setattr(tracking, "study_run", lambda *_, **__: contextlib.nullcontext(run))
    return run


@pytest.fixture
def params() -> Params:
    values = read_params(PROJECT / "params.yaml").model_dump()
    values["compute"]["workers"] = 1
    values["compute"]["device"] = "cpu"
    values["evaluate"]["scales"] = (1.0,)
    values["report"]["panels"] = 2
    values["rounds"] = {"1": values["rounds"]["1"]}
    values["final_round"] = "1"
    return Params.model_validate(values)


def read_json(workspace: Workspace, relative: str) -> Any:
    return json.loads(workspace.path(relative).read_text())


def write_other_metrics(workspace: Workspace, reference: dict[str, Any]) -> None:
    for stage in ("ingest", "cues"):
        workspace.write_json(f"metrics/{stage}.json", {})
    workspace.write_json("metrics/classify.json", {"val": {"map": 0.9, "accuracy": 0.8}})
    workspace.write_json("metrics/reference.json", reference)
    curve = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    workspace.write_json("metrics/rounds/1/train.json", {"loss": curve})


def test_baseline_scores_cams_and_cues(tmp_path: Path, params: Params) -> None:
    workspace = fill_workspace(tmp_path)
    baseline.run(params, workspace)
    found = read_json(workspace, "metrics/baseline.json")
    assert found["images"] == 3
    assert found["cues"]["foreground"] == {
        "coverage": pytest.approx(0.0807, abs=0.01),
        "precision": 1.0,
        "recall": 0.5,
    }
    assert found["cues"]["unlabelled_excluded"]["miou"] == 1.0
    assert 0.5 < found["cam"]["miou"] == max(found["cam"]["miou_by_threshold"].values())
    refined = found["cam_crf"]
    assert set(refined["miou_by_exponent"]) == {"cues", "refine"}
    assert refined["miou"] == max(max(of_one.values()) for of_one in refined["miou_by_exponent"].values())
    best = refined["miou_by_exponent"][refined["oracle_crf"]][f"{refined['oracle_exponent']:g}"]
    assert best == refined["miou"]

    assert len(found["cam"]["miou_by_threshold"]) == 19
    assert found["cam"]["miou_by_threshold"][f"{found['cam']['oracle_threshold']:g}"] == found["cam"]["miou"]


def test_baseline_tries_a_crf_only_once(tmp_path: Path, params: Params) -> None:
    workspace = fill_workspace(tmp_path)
    same = params.model_copy(update={"refine": params.refine.model_copy(update={"crf": params.cues.crf})})
    baseline.run(same, workspace)
    found = read_json(workspace, "metrics/baseline.json")
    assert set(found["cam_crf"]["miou_by_exponent"]) == {"cues"}


@pytest.fixture
def evaluated(tmp_path: Path, params: Params) -> Workspace:
    workspace = fill_workspace(tmp_path)
    evaluate.run(params, workspace, round_key="1")
    return workspace


def test_evaluate_scores_labels_and_network(evaluated: Workspace) -> None:
    found = read_json(evaluated, "metrics/rounds/1/evaluate.json")
    assert found["train"]["pseudo_labels"]["unlabelled_as_background"]["miou"] == 1.0
    assert found["train"]["seeds"]["foreground"]["recall"] == 0.5
    assert found["val"]["images"] == 2
    known = sum(int((draw_truth(row) != 255).sum()) for row in (3, 4))
    for kind in ("raw", "crf"):
        assert np.sum(found["val"][kind]["confusion"]) == known
        assert 0 <= found["val"][kind]["miou"] <= 1


def test_evaluate_draws_a_png_per_picture_and_a_sheet_per_split(evaluated: Workspace) -> None:
    folder = evaluated.path("data/rounds/1/panels")
    names = sorted(file.name for file in folder.iterdir())
    assert "train.png" in names
    assert "val.png" in names
    assert sum(name.startswith("train-") for name in names) == 2
    assert all(" " not in name and "/" not in name for name in names)
    with Image.open(folder / "train.png") as sheet:
        assert sheet.width > 1000
    assert not list(evaluated.path(".work/evaluate@1").glob("*/partial"))


def test_a_round_is_logged_under_its_number(evaluated: Workspace, recorder: Recorder) -> None:
    found = read_json(evaluated, "metrics/rounds/1/evaluate.json")
    assert recorder.points["val/miou_crf"] == {1: found["val"]["crf"]["miou"]}
    assert recorder.points["seeds/fg_recall"] == {1: 0.5}
    keys = {Path(name).name.split("+step+1+")[0] for name in recorder.files["round.1"]}
    assert keys == {"train-00", "train-01", "val-00", "val-01"}
    assert sum("+step+0+" in name for name in recorder.files["newest"]) == 2 * len(keys)


def test_the_same_inputs_give_the_same_bytes(evaluated: Workspace, params: Params) -> None:
    def read_all() -> dict[str, bytes]:
        files = [
            *(file for file in evaluated.path("data/rounds/1/panels").rglob("*") if file.is_file()),
            evaluated.path("metrics/rounds/1/evaluate.json"),
        ]
        return {file.name: file.read_bytes() for file in files}

    before = read_all()
    evaluate.run(params, evaluated, round_key="1")
    assert read_all() == before


def test_a_killed_evaluation_continues_and_ends_in_the_same_numbers(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = fill_workspace(tmp_path)
    calls: list[int] = []
    whole: Callable[..., Any] = evaluate.draw_panels

    def stop(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        raise InterruptedError

    monkeypatch.setattr("tasks.workspace.hash_code", lambda: "the same code")
    monkeypatch.setattr(evaluate, "draw_panels", stop)
    with pytest.raises(InterruptedError):
        evaluate.run(params, workspace, round_key="1")
    kept = sorted(path.name for path in workspace.path(".work").rglob("*.npz"))
    assert kept == ["3.npz", "3.refined.npz", "4.npz", "4.refined.npz"]
    assert not workspace.path("metrics/rounds/1/evaluate.json").exists()
    monkeypatch.setattr(evaluate, "draw_panels", whole)
    monkeypatch.setattr("dsrg.inference.predict_probs", stop)
    evaluate.run(params, workspace, round_key="1")
    assert len(calls) == 1
    assert read_json(workspace, "metrics/rounds/1/evaluate.json")["val"]["images"] == 2


@pytest.mark.parametrize("with_reference", [True, False])
def test_the_report_has_every_row(
    evaluated: Workspace, params: Params, recorder: Recorder, with_reference: bool
) -> None:
    baseline.run(params, evaluated)
    val = read_json(evaluated, "metrics/rounds/1/evaluate.json")["val"]
    write_other_metrics(evaluated, {"available": True, **val} if with_reference else {"available": False})
    report.run(params, evaluated)
    summary = read_json(evaluated, "metrics/summary.json")
    page = evaluated.path("reports/summary.md").read_text()
    assert summary["rounds"]["1"]["val"]["share_of_reference"] == (1.0 if with_reference else None)
    assert summary["gain"]["pseudo_labels_over_cam"] == pytest.approx(
        1 - summary["baseline"]["cam_miou"], abs=1e-5
    )
    assert recorder.points.get("val/share_of_reference") == ({1: 1.0} if with_reference else None)
    assert recorder.points["baseline/cam_miou"] == {0: summary["baseline"]["cam_miou"]}
    assert "reports/confusion.png" in recorder.files["report"]
    assert recorder.models[0]["classes"] == ["background", *CLASSES]
    offset = params.evaluate.crf_adjustment * LOG_ODDS
    assert recorder.models[0]["settings"]["crf"]["foreground_offset"] == offset > 0
    assert recorder.models[0]["scores"]["val/miou"] == val["raw"]["miou"]
    for text in (
        "train cues",
        "train 1 pseudo-labels",
        "val 1 network + CRF",
        "mlflow ui --backend-store-uri",
    ):
        assert text in page
    assert ("val reference" in page) == with_reference
    for line in page.splitlines():
        if line.startswith("!["):
            link = line.split("](")[1].rstrip(")")
            assert (evaluated.path("reports") / link).is_file(), link


def test_without_masks_nothing_is_scored_and_all_of_it_says_so(
    tmp_path: Path, params: Params, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = fill_workspace(tmp_path, available=False)
    baseline.run(params, workspace)
    evaluate.run(params, workspace, round_key="1")
    write_other_metrics(workspace, {"available": False})
    report.run(params, workspace)
    assert read_json(workspace, "metrics/baseline.json") == {"available": False}
    found = read_json(workspace, "metrics/rounds/1/evaluate.json")
    assert set(found) == {"available", "image_labels"}
    assert found["available"] is False
    assert found["image_labels"]["images"] == 2
    summary = read_json(workspace, "metrics/summary.json")
    assert summary["available"] is False
    assert summary["agreement"] == {"1": found["image_labels"]["raw"]["agreement"]}
    assert workspace.path("data/rounds/1/panels/train.png").is_file()
    assert "no true masks" in capsys.readouterr().out
    assert recorder.models[0]["scores"] == {}
    scores = {name for name in recorder.points if name.startswith(("val/", "pseudo_labels/"))}
    assert all(name.startswith("val/image_labels/") for name in scores)
    assert "cannot be scored" in workspace.path("reports/summary.md").read_text()
