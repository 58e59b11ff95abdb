"""``dsrg predict``, as people call it."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_data import CRF, write_segmenter
from tiny_drawing import PROJECT, SPEC, run_dsrg, write_mlflow_model
from tiny_folder import draw_picture

from dsrg.labels import build_palette
from flows.cli import app, guard
from tasks.errors import UserError
from tasks.predict import Wishes, choose_style, main, predict_pictures
from tasks.predict_models import find_model
from tasks.predict_pictures import list_pictures

FAST = Wishes(crf=False, device="cpu", scales=(1.0,), flip=False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two folders that hold a picture of the same name, another size each; one file is broken."""
    for number, place in enumerate(("photos/a.jpg", "photos/one/b.png", "photos/two/b.png")):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_picture(number, 50 + 9 * number, 70)).save(path)
    (tmp_path / "photos/broken.jpg").write_bytes(b"no picture")
    return tmp_path / "photos"


def read_ids(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[:768] == build_palette().ravel().tolist()
        return np.array(mask)


def test_a_folder_gets_masks_overlays_a_legend_and_areas(
    drawing_workspace: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    assert main([str(photos), "--out", str(out), "--root", str(drawing_workspace), "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "3 label maps drawn, 0 were there, 1 unreadable" in said.out
    assert "broken.jpg: is no picture" in said.err
    sizes = {"a": (50, 70), "one/b": (59, 70), "two/b": (68, 70)}
    found = {
        str(path.relative_to(out / "masks").with_suffix("")): read_ids(path)
        for path in (out / "masks").rglob("*.png")
    }
    assert {name: ids.shape for name, ids in found.items()} == sizes
    assert all(len(np.unique(ids)) > 1 for ids in found.values())
    for name, (height, width) in sizes.items():
        with Image.open(out / "overlays" / f"{name}.jpg") as overlay:
            assert overlay.width == width
            assert overlay.height > height, "a legend stands below"
    assert (out / "classes.txt").read_text() == ("0\tbackground\t#000000\n1\tcat\t#800000\n2\tdog\t#008000\n")
    assert all((out / name).is_file() for name in ("legend.png", "sheet.png", "settings.json"))
    assert not [path for path in out.rglob("*") if "partial" in path.name]

    with (out / "areas.csv").open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"a.jpg", "one/b.png", "two/b.png"}
    for name, row in rows.items():
        ids = found[name.rpartition(".")[0]]
        assert int(row["cat pixels"]) == (ids == 1).sum()
        assert float(row["dog share"]) == pytest.approx((ids == 2).mean(), abs=1e-6)
    areas = json.loads((out / "areas.json").read_text())
    assert [area["image"] for area in areas] == sorted(rows)
    for area in areas:
        assert sum(found["pixels"] for found in area["classes"]) == area["height"] * area["width"]
        assert read_ids(out / area["mask"]).shape == (area["height"], area["width"])
        assert (out / area["overlay"]).is_file()


def test_a_stopped_run_continues_and_finished_masks_are_left(
    drawing_workspace: Path, photos: Path, tmp_path: Path
):
    first = predict_pictures([photos], tmp_path / "out", FAST, root=drawing_workspace)
    mask = tmp_path / "out/masks/a.png"
    again = tmp_path / "out/masks/one/b.png"
    before, ids = mask.stat().st_mtime_ns, read_ids(again)
    again.unlink()
    areas = (tmp_path / "out/areas.csv").read_bytes()
    second = predict_pictures([photos], tmp_path / "out", FAST, root=drawing_workspace)
    assert (first["drawn"], second["drawn"], second["left"]) == (3, 1, 2)
    assert mask.stat().st_mtime_ns == before
    assert np.array_equal(read_ids(again), ids)
    assert (tmp_path / "out/areas.csv").read_bytes() == areas
    assert second["classes"] == first["classes"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flip": True}, "flip false there, true now"),
        ({"tile": 64}, "tile off there, 64 now"),
        ({"model": "other"}, 'model "........... there, "........... now'),
    ],
)
def test_masks_made_otherwise_are_neither_left_nor_lost(
    drawing_workspace: Path, photos: Path, tmp_path: Path, change: dict[str, Any], words: str
):

    out = tmp_path / "out"
    predict_pictures([photos], out, FAST, root=drawing_workspace)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    if "model" in change:
        other = tmp_path / "other.safetensors"
        write_segmenter(other, SPEC, random_seed=1)
        change = {"model": str(other)}
    wishes = Wishes(**{**FAST.__dict__, **change})
    with pytest.raises(UserError, match=f"and 2 more made otherwise.*{words.replace('...........', '.+')}"):
        predict_pictures([photos], out, wishes, root=drawing_workspace)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    overwriting = Wishes(**{**wishes.__dict__, "overwrite": True})
    assert predict_pictures([photos], out, overwriting, root=drawing_workspace)["drawn"] == 3
    assert predict_pictures([photos], out, wishes, root=drawing_workspace)["left"] == 3


def test_a_mask_of_another_picture_of_that_name_is_not_taken_for_its_own(
    drawing_workspace: Path, photos: Path, tmp_path: Path
):

    predict_pictures([photos / "one/b.png"], tmp_path / "out", FAST, root=drawing_workspace)
    with pytest.raises(UserError, match=r"masks/b\.png` made otherwise \(of another picture of that name\)"):
        predict_pictures([photos / "two/b.png"], tmp_path / "out", FAST, root=drawing_workspace)


def test_names_stay_apart_and_results_are_no_pictures(photos: Path):
    def list_stems(*given: Path) -> list[str]:
        return [picture.stem for picture in list_pictures(given, leave_out=photos / "out")]

    (photos / "out/masks").mkdir(parents=True)
    Image.new("P", (4, 4)).save(photos / "out/masks/a.png")
    Image.new("RGB", (4, 4)).save(photos / "A.png")
    assert list_stems(photos / "one/b.png") == ["b"]
    assert list_stems(photos / "one", photos / "two/b.png") == ["one/b", "two/b"]
    assert list_stems(photos / "one", photos / "one/b.png") == ["b"]
    assert list_stems(photos) == ["A.png", "a.jpg", "broken", "one/b", "two/b"]


def test_a_name_that_is_no_utf8_is_told(photos: Path):
    strange = os.fsdecode(os.fsencode(photos / "one") + b"/\xe9.png")
    try:
        (photos / "one/b.png").rename(strange)
    except OSError:
        pytest.skip("this file system holds UTF-8 names only")
    for given in (Path(strange), photos):
        with pytest.raises(UserError, match=r"\\xe9\.png': this name is no UTF-8: rename the file"):
            list_pictures([given], leave_out=photos / "out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.jpg"], "`none.jpg` not found: name pictures, or folders of pictures"),
        (["workspace/params.yaml"], "`workspace/params.yaml` must be a picture"),
        (["empty"], "`empty` must be a folder with pictures"),
        (["photos", "--model", "x.pth"], "`--model` must be a checkpoint (segmenter.safetensors)"),
        (["photos", "--model", "x.onnx"], "`x.onnx` not found"),
        (["photos", "--model", "x.safetensors"], "`x.safetensors` not found"),
        (["photos", "--model", "models:/none@champion"], "`models:/none@champion`: no MLflow at"),
        (["photos", "--root", "empty"], "no model and no params.yaml here: name one with --model"),
        (["photos", "--overlap", "3"], "`--overlap` means nothing without --tile"),
        (["photos", "--tile", "64", "--overlap", "33"], "`--overlap` must be from 0 to half of --tile (32)"),
        (["photos", "--tile", "3"], "`--tile` must be at least 64 pixels, got 3"),
        (["photos", "--scales", "big"], "`--scales` must be numbers, such as 0.75,1,1.25, got 'big'"),
        (["photos", "--cluster", "10.0.0.5"], "`--cluster` must be none, local or the address of a Dask"),
        (["photos", "--scales", "0"], "`--scales` must be from 0.1 to 8, got 0.0"),
        (["photos", "--max-side", "3"], "`--max-side` must be at least 64 pixels, got 3"),
        (["photos/broken.jpg"], "none of 1 pictures can be read, such as `broken.jpg`"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    drawing_workspace: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
):
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "DSRG_TRACKING_ROOT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "empty").mkdir()
    root = [] if "--root" in arguments else ["--root", "workspace"]
    command = ["predict", *arguments, "--out", "out", "--device", "cpu", *root]
    assert guard(lambda: app(command, standalone_mode=False)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert words in line


def test_settings_come_from_the_wish_the_model_the_params_or_the_defaults(
    drawing_workspace: Path, tmp_path: Path
):
    from tasks.params import read_params

    project = read_params(PROJECT / "params.yaml").evaluate
    style = choose_style(Wishes(), {}, log_odds=2.0, root=tmp_path)
    assert (style.scales, style.flip) == (project.scales, project.flip)
    offset = project.crf_adjustment * 2
    assert style.crf == {**project.crf.model_dump(), "foreground_offset": offset}
    assert offset > 0
    assert choose_style(Wishes(), {}, log_odds=0.0, root=drawing_workspace).scales == (1.0,)
    style = choose_style(Wishes(), {}, log_odds=0.0, root=drawing_workspace)
    assert style.crf == {**CRF, "solver": "lattice", "foreground_offset": 0.0}
    of_model = {"scales": [0.5], "flip": False, "crf": {"foreground_offset": 0.1}, "max_side": 99}
    style = choose_style(Wishes(), of_model, log_odds=2.0, root=drawing_workspace)
    assert (style.scales, style.flip, style.max_side) == ((0.5,), False, 99)
    assert style.crf == {"foreground_offset": 0.1}
    style = choose_style(
        Wishes(scales=(2.0,), flip=True, max_side=512, crf=False),
        of_model,
        log_odds=2.0,
        root=drawing_workspace,
    )
    assert (style.scales, style.flip, style.max_side, style.crf) == ((2.0,), True, 512, None)


def test_an_onnx_file_draws_elsewhere_as_the_checkpoint_does_without_torch(
    drawing_workspace: Path, photos: Path, tmp_path: Path
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(drawing_workspace / "model.onnx", elsewhere)
    program = (
        "import sys\nfrom flows.cli import app\n"
        f"app(['predict', {str(photos)!r}, '--model', 'model.onnx', '--out', 'o'], standalone_mode=False)\n"
        "print('loaded', *sys.modules)"
    )
    variables = {**os.environ, "PYTHONPATH": str(PROJECT)}
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=elsewhere,
        env=variables,
        check=True,
        capture_output=True,
        text=True,
    )
    loaded = {name.split(".")[0] for name in said.stdout.rpartition("loaded ")[2].split()}
    assert "onnxruntime" in loaded
    assert loaded & {"torch", "timm", "mlflow", "prefect", "dvc"} == set()

    wishes = Wishes(model=str(drawing_workspace / "data/rounds/2/segmenter.safetensors"), device="cpu")
    predict_pictures([photos], tmp_path / "out", wishes, root=drawing_workspace)
    for path in (tmp_path / "out/masks").rglob("*.png"):
        other = read_ids(elsewhere / "o/masks" / path.relative_to(tmp_path / "out/masks"))
        assert (read_ids(path) == other).mean() > 0.999


def test_json_has_stdout_to_itself(drawing_workspace: Path, photos: Path, tmp_path: Path):
    model = str(drawing_workspace / "model.onnx")
    arguments = ["predict", str(photos), "--out", "out", "--model", model, "--json", "--no-crf"]
    done = run_dsrg(*arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["drawn"], summary["unreadable"]) == (3, ["broken.jpg"])
    assert summary["classes"].keys() == {"background", "cat", "dog"}
    assert sum(found["share"] for found in summary["classes"].values()) == pytest.approx(1, abs=1e-5)
    assert "predict: 4/4" in done.stderr


def test_a_folder_of_mlflow_draws_with_its_own_settings(
    drawing_workspace: Path, photos: Path, tmp_path: Path
):
    folder = write_mlflow_model(drawing_workspace, tmp_path / "model")
    predict_pictures([photos], tmp_path / "out", Wishes(model=str(folder)), root=tmp_path)
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    assert (settings["scales"], settings["flip"], settings["max_side"]) == ([1.0], False, 64)
    assert settings["crf"] == CRF


@pytest.mark.filterwarnings("ignore")  # mlflow's own imports warn, version by version
def test_the_champion_of_mlflow_draws(
    drawing_workspace: Path, photos: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from mlflow import MlflowClient

    for name in ("MLFLOW_TRACKING_URI", "DSRG_TRACKING_ROOT"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(empty_mlflow, drawing_workspace / "mlflow.db")
    folder = write_mlflow_model(drawing_workspace, tmp_path / "model")
    client = MlflowClient(f"sqlite:///{drawing_workspace / 'mlflow.db'}")
    client.create_registered_model("birds")
    client.set_registered_model_alias(
        "birds", "champion", client.create_model_version("birds", folder.as_uri()).version
    )
    wishes = Wishes(**{**FAST.__dict__, "model": "models:/birds@champion"})
    assert predict_pictures([photos], tmp_path / "out", wishes, root=drawing_workspace)["drawn"] == 3
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    assert (settings["source"], settings["max_side"]) == ("models:/birds@champion", 64)
    with pytest.raises(UserError, match=r"`models:/fish@champion` cannot be had from MLflow: [^\n]+$"):
        find_model("models:/fish@champion", root=drawing_workspace, place=tmp_path / "place")


@pytest.mark.slow
def test_the_deployment_predicts_with_the_same_code(
    drawing_workspace: Path, photos: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
):
    from flows import triggered

    removed: list[str] = []
    shown: list[Path] = []
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("DSRG_PROJECT", str(drawing_workspace))
    monkeypatch.setattr(triggered, "open_run_folder", lambda project, name, base="": drawing_workspace)
    monkeypatch.setattr(triggered, "remove_run_folder", lambda project, name: removed.append(name))
    monkeypatch.setattr(triggered, "show_overlays", shown.append)
    monkeypatch.setattr(triggered, "end_with_starter", lambda: None)
    state = triggered.predict_folder(str(photos), out="drawn", crf=False, device="cpu", return_state=True)
    assert state.is_completed(), state.message
    assert shown == [drawing_workspace / "drawn"]
    assert read_ids(drawing_workspace / "drawn/masks/two/b.png").shape == (68, 70)
    assert len(removed) == 1
    failed = triggered.predict_folder(str(photos), out="drawn", crf=True, device="cpu", return_state=True)
    assert failed.is_failed()
    assert "name another --out, or --overwrite" in failed.message


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--no-crf",), ("--tile", "512"), ("--tile", "512", "--no-crf")])
@pytest.mark.parametrize("kind", ["checkpoint", "onnx"])
def test_twelve_megapixels_take_less_than_two_gigabytes(
    drawing_workspace: Path, tmp_path: Path, kind: str, more: tuple[str, ...]
):
    Image.fromarray(draw_picture(0, 3000, 4000)).save(tmp_path / "large.jpg")
    model = {"checkpoint": "data/rounds/2/segmenter.safetensors", "onnx": "model.onnx"}[kind]
    fast = ("--scales", "1", "--no-flip", "--device", "cpu")
    arguments = [
        "predict",
        "large.jpg",
        "--out",
        "out",
        "--model",
        str(drawing_workspace / model),
        *fast,
        *more,
    ]
    program = (
        "import resource, subprocess, sys\n"
        f"subprocess.run([sys.executable, '-m', 'flows.cli', *{arguments!r}], check=True)\n"
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        check=True,
        capture_output=True,
        text=True,
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(said.stdout.rpartition("peak ")[2]) * unit < 2e9
    assert read_ids(tmp_path / "out/masks/large.png").shape == (3000, 4000)
