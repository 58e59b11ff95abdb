"""``dsrg predict`` over a Dask cluster: the bytes of one process, whatever becomes of its workers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask_cluster import DaskCluster, start_cluster
from PIL import Image
from tiny_drawing import PROJECT, write_mlflow_model
from tiny_folder import draw_picture
from tiny_project import build_params

from flows.cli import app, guard
from tasks import cluster, predict_drawing, prepared
from tasks.errors import UserError
from tasks.predict import Wishes, choose_style, predict_pictures
from tasks.predict_drawing import DRAFTS, Drawing, Lot, Unreadable, draw_lot, open_drafts, share_model
from tasks.predict_models import find_model
from tasks.predict_outputs import Outputs
from tasks.predict_pictures import Picture, list_pictures

PICTURES = 40  # over the number from which on OpenVINO draws, and over those on the sheet
BROKEN = 3
WISHES = Wishes(device="cpu")


@pytest.fixture(autouse=True)
def new_connections() -> Iterator[None]:
    yield
    cluster.disconnect()
    prepared.forget()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with start_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as running:
        yield running


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of several sizes in two folders; one cannot be read."""
    folder = tmp_path / "photos"
    for place in (folder / "a", folder / "b"):
        place.mkdir(parents=True)
    for number in range(PICTURES):
        picture = Image.fromarray(draw_picture(number, 50 + number % 5, 70 - number % 3))
        picture.save(folder / "ab"[number % 2] / f"{number:02d}.png")
    (folder / "b" / f"{BROKEN:02d}.png").write_bytes(b"no picture")
    return folder


def read_all(folder: Path) -> dict[str, bytes]:
    """Read all that lies in a folder, hidden or not; a folder in it is nothing."""
    places = {str(place.relative_to(folder)): place for place in folder.rglob("*")}
    return {name: place.read_bytes() if place.is_file() else b"" for name, place in places.items()}


def count_masks(folder: Path) -> int:
    return len(list((folder / "masks").rglob("[!.]*.png")))


def forbid_drawing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("draw_label_map", "open_network", "read_image"):
        monkeypatch.setattr(predict_drawing, name, lambda *_, **__: 1 / 0)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("model", [None, "model.onnx", "mlflow"])
def test_a_cluster_makes_the_bytes_of_one_process(
    two_workers: DaskCluster,
    drawing_workspace: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: str | None,
):
    """And this process draws nothing; paths are relative to a folder that is not the workers'."""
    monkeypatch.chdir(drawing_workspace)
    write_mlflow_model(drawing_workspace, drawing_workspace / "mlflow")
    wishes = replace(WISHES, model=model)
    here = predict_pictures([photos], Path("here"), wishes, root=Path())
    expected = read_all(Path("here"))
    said = capsys.readouterr()
    monkeypatch.setattr("tasks.predict.open_network", lambda *_, **__: 1 / 0)
    forbid_drawing_here(monkeypatch)
    there = predict_pictures(
        [photos], Path("there"), replace(wishes, cluster=two_workers.address), root=Path()
    )
    assert read_all(Path("there")) == expected
    assert {name for name in expected if name.startswith("masks/a/")} > {"masks/a/00.png", "masks/a/38.png"}
    assert "sheet.png" in expected
    different = ("out", "seconds")
    assert {key: value for key, value in there.items() if key not in different} == {
        key: value for key, value in here.items() if key not in different
    }
    assert (there["drawn"], there["unreadable"]) == (PICTURES - 1, [f"b/{BROKEN:02d}.png"])
    said_there = capsys.readouterr()
    (line,) = said_there.err.splitlines()
    assert line.startswith(f"warning: b/{BROKEN:02d}.png: is no picture")
    assert line.endswith(": left out")
    assert said_there.err == said.err
    assert f"predict: {PICTURES}/{PICTURES} (100%)" in said_there.out
    assert "Dask     2 workers, dashboard http://127.0.0.1:" in said_there.out


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_param_of_the_workspace_names_the_cluster(
    two_workers: DaskCluster, drawing_workspace: Path, photos: Path, tmp_path: Path, capfd: Any
):
    """Also for ``python -m tasks.predict``, and a cluster of this machine is one word."""
    place = drawing_workspace / "params.yaml"
    text, count = re.subn(r"cluster: none", f"cluster: {two_workers.address}", place.read_text())
    assert count == 1
    place.write_text(text)
    command = [sys.executable, "-m", "tasks.predict", str(photos), "--device", "cpu", "--no-crf"]
    for out, more in (("param", []), ("local", ["--cluster", "local"]), ("none", ["--cluster", "none"])):
        arguments = ["--root", str(drawing_workspace), "--out", out, *more]
        done = subprocess.run(
            [*command, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert f"{PICTURES - 1} label maps drawn, 0 were there, 1 unreadable" in done.stdout
        assert ("Dask     " in done.stdout) == (out != "none")
    assert read_all(tmp_path / "param") == read_all(tmp_path / "local") == read_all(tmp_path / "none")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # mlflow's own imports warn, version by version
def test_workers_get_what_mlflow_keeps(
    two_workers: DaskCluster,
    drawing_workspace: Path,
    photos: Path,
    empty_mlflow: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    from mlflow import MlflowClient

    for name in ("MLFLOW_TRACKING_URI", "DSRG_TRACKING_ROOT"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(empty_mlflow, drawing_workspace / "mlflow.db")
    folder = write_mlflow_model(drawing_workspace, tmp_path / "model")
    client = MlflowClient(f"sqlite:///{drawing_workspace / 'mlflow.db'}")
    client.create_registered_model("birds")
    client.create_model_version("birds", folder.as_uri())
    wishes = replace(WISHES, model="models:/birds/1")
    predict_pictures([photos], tmp_path / "here", wishes, root=drawing_workspace)
    forbid_drawing_here(monkeypatch)
    shared: list[Path] = []

    def share(*given: Any) -> Any:
        model = share_model(*given)
        shared.append(model.path)
        return model

    monkeypatch.setattr(predict_drawing, "share_model", share)
    wishes = replace(wishes, cluster=two_workers.address)
    predict_pictures([photos], tmp_path / "there", wishes, root=drawing_workspace)
    assert read_all(tmp_path / "there") == read_all(tmp_path / "here")
    (place,) = shared
    assert place.parent.parent == tmp_path / "there", "not in a folder that only this machine has"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_a_killed_worker_was_at_another_does(drawing_workspace: Path, photos: Path, tmp_path: Path):
    predict_pictures([photos], tmp_path / "here", WISHES, root=drawing_workspace)
    out, seen = tmp_path / "there", []
    with start_cluster(tmp_path, workers=2) as running:

        def kill_one() -> None:
            while count_masks(out) < 3:
                time.sleep(0.005)
            running.workers[0].kill()
            running.workers[0].wait()
            seen.append(count_masks(out))

        killer = threading.Thread(target=kill_one)
        killer.start()
        wishes = replace(WISHES, cluster=running.address)
        summary = predict_pictures([photos], out, wishes, root=drawing_workspace)
        killer.join()
        assert running.workers[0].returncode == -signal.SIGKILL
        assert running.workers[1].poll() is None
    assert 3 <= seen[0] < PICTURES - 10, "killed in mid-run"
    assert summary["drawn"] == PICTURES - 1
    assert read_all(out) == read_all(tmp_path / "here")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_stop_with_the_command_which_goes_on_later(
    two_workers: DaskCluster, drawing_workspace: Path, photos: Path, tmp_path: Path
):
    out = tmp_path / "there"
    command = [sys.executable, "-m", "flows.cli", "predict", "photos", "--out", "there", "--scales", "1,2,3"]
    command += ["--root", str(drawing_workspace), "--device", "cpu", "--cluster", two_workers.address]
    variables = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=variables, stderr=subprocess.PIPE, text=True)
    while count_masks(out) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "error: stopped; what is drawn was kept: the same command continues there" in said
    assert "Traceback" not in said
    there = count_masks(out)
    assert there < PICTURES - 10, "stopped in mid-run"
    time.sleep(2)
    assert count_masks(out) == there, "workers stopped as well"
    assert not list(out.rglob(".*")), "and left nothing half written"
    wishes = replace(WISHES, scales=(1.0, 2.0, 3.0))
    predict_pictures([photos], tmp_path / "here", wishes, root=drawing_workspace)
    wishes = replace(wishes, cluster=two_workers.address)
    summary = predict_pictures([photos], out, wishes, root=drawing_workspace)
    assert (summary["left"], summary["drawn"]) == (there, PICTURES - 1 - there)
    for kind in ("masks", "overlays"):
        assert read_all(out / kind) == read_all(tmp_path / "here" / kind)
    for name in ("areas.csv", "areas.json"):
        assert (out / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    (photos / "b" / f"{BROKEN:02d}.png").unlink()
    wishes = replace(wishes, cluster="tcp://127.0.0.1:9")  # where nobody is, nor need be
    assert predict_pictures([photos], out, wishes, root=drawing_workspace)["left"] == PICTURES - 1


def test_a_scheduler_that_is_not_there_is_one_line(
    drawing_workspace: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    command = ["predict", str(photos), "--out", str(tmp_path / "out"), "--root", str(drawing_workspace)]
    command += ["--cluster", "tcp://127.0.0.1:9"]
    assert guard(lambda: app(command, standalone_mode=False)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no Dask scheduler answers at tcp://127.0.0.1:9: start one")
    assert not [name for name in read_all(tmp_path / "out") if DRAFTS in name]


# -- a worker's part, called here ---------------------------------------------------------------


def plan_drawing(workspace: Path, tmp_path: Path) -> Drawing:
    model = find_model(None, root=workspace, place=tmp_path / "fetched")
    style = choose_style(replace(WISHES, crf=False), {}, log_odds=0.0, root=workspace)
    return Drawing(model, style, build_params().compute, 5, {"digest": model.digest})


def pick(photos: Path, count: int) -> tuple[Picture, ...]:
    return tuple(list_pictures([photos / "a"], leave_out=photos / "out")[:count])


def test_a_lot_that_a_lost_worker_began_is_gone_on_with(
    drawing_workspace: Path, photos: Path, tmp_path: Path
):
    drawing, pictures = plan_drawing(drawing_workspace, tmp_path), pick(photos, 5)
    out = tmp_path / "out"
    with open_drafts(out) as drafts:
        before = draw_lot(drawing, drafts, Lot(pictures, tiles=2))
        outputs = Outputs(out, drawing.model.classes, drawing.settings)
        outputs.locate_mask(pictures[1]).unlink()
        kept = {place: place.stat().st_mtime_ns for place in (out / "masks").iterdir()}
        after = draw_lot(drawing, drafts, Lot(pictures, tiles=2))
        assert not list(drafts.iterdir())
    assert len(kept) == 4
    assert {place: place.stat().st_mtime_ns for place in kept} == kept, "drawn once"
    for first, second in zip(before, after, strict=True):
        assert not isinstance(first, Unreadable)
        assert not isinstance(second, Unreadable)
        assert first.size == second.size
        assert first.counts.sum() == first.size[0] * first.size[1]
        assert np.array_equal(first.counts, second.counts)
        assert (first.tile is None) == (second.tile is None)
        assert first.tile is None or np.array_equal(first.tile, second.tile)
    tiles = [seen.tile is not None for seen in before if not isinstance(seen, Unreadable)]
    assert tiles == [True, True, False, False, False], "pixels travel for the sheet only"
    assert list(out.glob(".*")) == []


def test_a_worker_writes_nothing_once_the_command_has_ended(
    drawing_workspace: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    drawing, lot = plan_drawing(drawing_workspace, tmp_path), Lot(pick(photos, 2), tiles=0)
    out = tmp_path / "out"
    with open_drafts(out) as drafts:

        def end_meanwhile(*given: Any, **settings: Any) -> Any:
            drafts.rename(tmp_path / "ended")
            return original(*given, **settings)

        original = predict_drawing.draw_label_map
        monkeypatch.setattr(predict_drawing, "draw_label_map", end_meanwhile)
        with pytest.raises(FileNotFoundError):
            draw_lot(drawing, drafts, lot)
        assert [place for place in out.rglob("*") if place.is_file()] == []
    with pytest.raises(UserError, match=rf"^`{out}` on {socket.gethostname()} is another folder than here"):
        draw_lot(drawing, drafts, lot)


def test_what_a_worker_does_not_find_is_one_line(
    drawing_workspace: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    drawing, pictures = plan_drawing(drawing_workspace, tmp_path), pick(photos, 1)
    gone = replace(pictures[0], path=photos / "gone.png")
    host, out = socket.gethostname(), tmp_path / "out"
    with open_drafts(out) as drafts:
        (found,) = draw_lot(drawing, drafts, Lot((gone,), tiles=0))
        assert isinstance(found, Unreadable)
        assert found.missing_on == host
        prepared.forget()
        other = replace(drawing, model=replace(drawing.model, digest="other"))
        with pytest.raises(UserError, match=rf"segmenter.safetensors` on {host} is not there, or another"):
            draw_lot(other, drafts, Lot(pictures, tiles=0))
        onnx = find_model(str(drawing_workspace / "model.onnx"), root=tmp_path, place=tmp_path / "fetched")
        cuda = replace(drawing, model=onnx, compute=build_params(compute={"device": "cuda"}).compute)
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
        with pytest.raises(UserError, match=rf"^a Dask worker on {host}: this onnxruntime runs on no GPU"):
            draw_lot(cuda, drafts, Lot(pictures, tiles=0))

    def answer(*_: Any, **__: Any) -> Iterator[list[Unreadable]]:
        return iter([[found]])

    monkeypatch.setattr(cluster, "begin_on_cluster", answer)
    monkeypatch.setattr(cluster, "count_threads", lambda **_: 1)
    wishes = replace(WISHES, cluster="tcp://10.0.0.5:8786")
    with pytest.raises(UserError, match=rf"^`{pictures[0].path}` is here, but not on {host}: workers must"):
        predict_pictures([pictures[0].path], tmp_path / "there", wishes, root=drawing_workspace)
