"""A study's run is filled from results; its final model is registered, loads elsewhere, and is served."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient
from package_needs import close_over, normalise
from PIL import Image
from ruamel.yaml import YAML
from tiny_project import PROJECT, build_params, copy_workspace

from tasks import study, tracking
from tasks.params import Params, read_params
from tasks.tracking_model import CHAMPION, SCORE, register_model
from tasks.tracking_places import locate_tracking
from tasks.workspace import Workspace

# mlflow's own imports warn, version by version
pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS = {"scales": [1.0], "flip": False, "crf": {}, "max_side": 64, "min_peak": 0.01}

# what a user's own program does: nothing of this project is on its path
LOAD = """
import json, sys
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/synthetic@champion")
rng = np.random.default_rng(0)
one, other = (rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in ((70, 50), (40, 90)))
asked = {
    "one": one,
    "batch": np.stack([one, one]),
    "ragged": np.array([one, other], dtype=object),
    "path": np.array([sys.argv[2]]),
    "bytes": np.array([open(sys.argv[2], "rb").read()], dtype=object),
}
found = {name: model.predict(given, params={"mask": "array"}) for name, given in asked.items()}
shapes = {name: [list(answer["mask"].shape) for answer in answers] for name, answers in found.items()}
kinds = {str(answer["mask"].dtype) for answers in found.values() for answer in answers}
same = all(np.array_equal(found["one"][0]["mask"], found[name][0]["mask"]) for name in ("batch", "ragged"))
print(json.dumps({
    "shapes": shapes, "kinds": sorted(kinds), "same": same,
    "auto": type(model.predict(asked["path"])[0]["mask"]).__name__,
    "metadata": model.metadata.metadata, "classes": found["one"][0]["classes"],
    "dsrg": sys.modules["dsrg"].__file__, "modules": sorted({name.split(".")[0] for name in sys.modules}),
}))
"""


@pytest.fixture
def params() -> Params:
    return build_params()


@pytest.fixture
def workspace(
    tiny_run: Path, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    for name in ("MLFLOW_TRACKING_URI", "DSRG_TRACKING_ROOT", "DSRG_MLFLOW_URL"):
        monkeypatch.delenv(name, raising=False)
    workspace = copy_workspace(tiny_run, tmp_path)
    for name in ("metrics", "reports"):
        shutil.copytree(tiny_run / name, tmp_path / name)
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    return workspace


def connect(workspace: Workspace) -> MlflowClient:
    return MlflowClient(locate_tracking(workspace))


def read_study(workspace: Workspace) -> Any:
    place = json.loads(workspace.path(study.TRACKED).read_text())
    return connect(workspace).get_run(place["run_id"])


def list_steps(workspace: Workspace, name: str) -> list[int]:
    run_id = read_study(workspace).info.run_id
    return [point.step for point in connect(workspace).get_metric_history(run_id, name)]


def write_lock(workspace: Workspace, params: Params) -> None:
    """Write what DVC would have recorded of two stages."""
    path = "metrics/cues.json"
    stages = {
        "ingest": {"cmd": "", "outs": [{"path": "data/images.zarr", "md5": "0" * 32 + ".dir"}]},
        "cues": {
            "cmd": "",
            "deps": [{"path": "data/images.zarr", "md5": "0" * 32 + ".dir"}],
            "params": {"params.yaml": {"cues": params.cues.model_dump(mode="json")}},
            "outs": [{"path": path, "md5": study._hash(workspace.path(path))}],
        },
    }
    with workspace.path("dvc.lock").open("w") as file:
        YAML().dump({"schema": "2.0", "stages": stages}, file)


def test_a_study_holds_what_the_results_say_however_often_it_is_told(
    workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch
):
    write_lock(workspace, params)
    monkeypatch.setenv("DSRG_MLFLOW_URL", "http://127.0.0.1:5000")
    study.log_round(params, workspace, "1")
    study.log_study(params, workspace)
    client, found = connect(workspace), read_study(workspace)
    images = {file.path for file in client.list_artifacts(found.info.run_id, "images")}

    study.log_study(params, workspace)
    again = read_study(workspace)
    assert again.info.run_id == found.info.run_id
    assert again.info.end_time == found.info.end_time >= found.info.start_time
    assert {file.path for file in client.list_artifacts(found.info.run_id, "images")} == images
    for name in ("val/miou", "val/miou_crf", "pseudo_labels/miou", "cues/fg_precision", "val/iou/background"):
        assert list_steps(workspace, name) == [1, 2], name
    assert list_steps(workspace, "baseline/cam_crf_miou") == [0]
    assert len(client.search_model_versions("name='synthetic'")) == 1

    written = read_params(workspace.path("params.yaml")).model_dump(mode="json")
    assert set(found.data.params) == set(tracking.flatten(written))
    assert found.data.params["compute.device"] == "cpu"
    assert found.data.tags["dvc.md5.cues"].startswith("metrics/cues.json ")
    assert found.inputs.dataset_inputs[0].dataset.digest == "0" * 32 + ".dir"
    keys = {re.sub(r"\+.*", "", Path(name).name) for name in images}
    assert {"train-00", "val-00", "confusion", "miou_by_round"} <= keys
    assert all(
        re.search(r"\+step\+[012]\+timestamp\+\d+\+[0-9a-f-]{36}(\+compressed)?\.\w+$", name)
        for name in images
    )
    place = json.loads(workspace.path(study.TRACKED).read_text())
    assert place["experiment_id"] == found.info.experiment_id
    assert place["url"] == "http://127.0.0.1:5000"


def test_the_command_refuses_results_of_other_params(
    workspace: Workspace, params: Params, capsys: pytest.CaptureFixture[str]
):
    write_lock(workspace, params)
    assert study.list_stale(params, workspace) == []
    workspace.path("metrics/cues.json").write_text("{}")
    assert study.list_stale(params, workspace) == ["cues"]
    other = params.model_copy(update={"cues": params.cues.model_copy(update={"spread": 3.0})})
    assert study.list_stale(other, workspace) == ["cues"]
    assert study.main(["--root", str(workspace.root)]) == 2
    assert "results are not those of params.yaml (cues): run dvc repro first" in capsys.readouterr().err


def test_the_command_without_mlflow_keeps_everything_for_later(
    workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*_: object) -> None:
        raise ConnectionError("nobody there")

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "reach", fail)
        assert study.main(["--root", str(workspace.root)]) == 0
        assert study.main(["--root", str(workspace.root)]) == 0
    assert "what MLflow lacks of 1 run waits" in capsys.readouterr().err
    assert not workspace.path(study.TRACKED).exists()
    with tracking.stage_run(workspace, params, "train@3"):
        pass
    client = connect(workspace)
    experiment = client.get_experiment_by_name("synthetic").experiment_id
    (found,) = client.search_runs([experiment], "tags.`dsrg.stage` = 'study'")
    assert {"val/miou", "best/val/miou", "baseline/cam_miou"} <= set(found.data.metrics)
    assert client.get_model_version_by_alias("synthetic", CHAMPION).run_id == found.info.run_id


def test_the_best_round_so_far_is_a_curve_of_its_own():
    points = {"val/miou": {1: 0.5, 3: 0.4, 2: 0.6}, "train/loss": {1: 2.0}}
    assert study.list_best(points) == {"best/val/miou": {1: 0.5, 2: 0.6, 3: 0.6}}


def test_the_champion_changes_only_for_a_higher_score(
    workspace: Workspace, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    client = connect(workspace)
    with tracking.study_run(workspace, params) as run:
        pass
    register = {"data": "birds", "settings": SETTINGS, "classes": ["background", "cat"], "step": 1}

    def offer(content: str, **scores: float) -> str:
        weights = tmp_path / "segmenter.safetensors"
        weights.write_text(content)
        return register_model(client, str(run.run_id), str(weights), scores=scores, **register)

    def champion() -> str:
        version = client.get_model_version_by_alias("birds", CHAMPION)
        return str(version.tags.get(SCORE))

    assert "champion" in offer("a, without truth")
    assert "champion" not in offer("b, without truth either")
    assert champion() == "None"
    assert "champion" in offer("c", **{SCORE: 0.5})
    assert "champion" not in offer("d", **{SCORE: 0.4})
    assert "champion" not in offer("e", **{SCORE: 0.5})
    assert "champion" not in offer("f, without truth")
    assert champion() == "0.5"
    assert "champion" in offer("g", **{SCORE: 0.6})
    assert champion() == "0.6"
    assert offer("g", **{SCORE: 0.6}) == ""
    assert offer("c", **{SCORE: 0.5}) == ""
    assert champion() == "0.6"
    assert len(client.search_model_versions("name='birds'")) == 7


@pytest.mark.slow
def test_the_champion_loads_in_a_process_of_its_own_with_what_it_lists(
    workspace: Workspace, params: Params, tmp_path: Path
):
    study.log_study(params, workspace)
    picture = tmp_path / "one.png"
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(picture)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, locate_tracking(workspace), str(picture)],
        cwd=tmp_path / "reports",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    found = json.loads(done.stdout)
    assert found["shapes"] == {
        "one": [[70, 50]],
        "batch": [[70, 50], [70, 50]],
        "ragged": [[70, 50], [40, 90]],
        "path": [[30, 20]],
        "bytes": [[30, 20]],
    }
    assert found["kinds"] == ["uint8"]
    assert found["same"]
    assert found["auto"] == "str"
    assert found["metadata"]["classes"][0] == "background"
    assert sum(row["share"] for row in found["classes"]) == pytest.approx(1)
    assert "mlartifacts" in found["dsrg"], "the code that came with the model must be what is used"

    (listed,) = tmp_path.rglob("requirements.txt")
    allowed = close_over(re.findall(r"^([\w.-]+)", listed.read_text(), flags=re.MULTILINE))
    homes = packages_distributions()
    used = {normalise(home) for module in found["modules"] for home in homes.get(module, [])}
    ours = {normalise(re.split(r"[^\w.-]", need, maxsplit=1)[0]) for need in requires("dsrg") or []}
    ours.discard("dsrg")  # an extra that names another one; its code came with the model
    assert (used & ours) - allowed == set()


SERVERS = {
    "mlflow": [
        "-m",
        "mlflow",
        "models",
        "serve",
        "--env-manager",
        "local",
        "-h",
        "127.0.0.1",
        "-p",
        "{port}",
        "-m",
    ],
    "dsrg": [
        "-c",
        "from flows.cli import main; main()",
        "serve-model",
        "--port",
        "{port}",
        "--max-megabytes",
        "1",
    ],
}


@pytest.fixture(params=SERVERS)
def served(
    request: pytest.FixtureRequest, workspace: Workspace, params: Params, tmp_path: Path
) -> Iterator[str]:
    """Serve the champion as the documentation says; give the address."""
    study.log_study(params, workspace)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = [word.format(port=port) for word in SERVERS[request.param]]
    command = [sys.executable, *words, f"models:/synthetic@{CHAMPION}"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "MLFLOW_TRACKING_URI": locate_tracking(workspace), "PATH": path}
    environment["PYTHONPATH"] = str(PROJECT) if request.param == "dsrg" else ""
    with (tmp_path / "serve.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path / "reports", env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            assert server.poll() is None, (tmp_path / "serve.log").read_text()
            assert time.monotonic() < deadline
            try:
                urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.mark.slow
def test_the_served_champion_answers_files_and_arrays_but_reads_none_of_the_servers_own(
    served: str, tmp_path: Path, request: pytest.FixtureRequest
):
    def ask(**content: Any) -> Any:
        body = json.dumps(content).encode()
        asked = Request(served, body, {"Content-Type": "application/json"})
        with urlopen(asked, timeout=120) as answer:
            return json.loads(answer.read())["predictions"]

    picture = np.random.default_rng(0).integers(0, 255, (45, 61, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    (answer,) = ask(inputs=[base64.b64encode(stream.getvalue()).decode()])
    with Image.open(io.BytesIO(base64.b64decode(answer["mask"]))) as mask:
        assert (mask.mode, mask.size) == ("P", (61, 45))
        from_file = np.asarray(mask)
    assert [row["id"] for row in answer["classes"]] == list(range(len(answer["classes"])))
    assert answer["classes"][1]["color"] == "#800000"

    (answer,) = ask(inputs=picture[None].tolist())
    assert np.array_equal(np.array(answer["mask"], np.uint8), from_file)

    Image.fromarray(picture).save(tmp_path / "secret.png")
    with pytest.raises(OSError, match="400"):
        ask(inputs=[str(tmp_path / "secret.png")])
    if "dsrg" in request.node.name:
        with pytest.raises(OSError, match="413"):
            ask(inputs=["A" * 2_000_000])
        assert ask(inputs=picture[None].tolist())


@pytest.mark.slow
@pytest.mark.parametrize("served", ["dsrg"], indirect=True)
def test_two_thousand_requests_are_answered_each_by_its_own_mask_in_level_memory(served: str) -> None:
    port = served.split(":")[2].partition("/")[0]
    words = {"serve-model", port}
    # of a process that ends meanwhile, this is None
    (server,) = (
        found for found in psutil.process_iter(["cmdline"]) if words <= set(found.info["cmdline"] or [])
    )

    def ask(number: int) -> bool:
        height, width = 24 + number % 13, 24 + number % 17
        stream = io.BytesIO()
        Image.fromarray(
            np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
        ).save(stream, "PNG")
        body = json.dumps({"inputs": [base64.b64encode(stream.getvalue()).decode()]}).encode()
        asked = Request(served, body, {"Content-Type": "application/json"})
        with urlopen(asked, timeout=120) as answer:
            (found,) = json.loads(answer.read())["predictions"]
        with Image.open(io.BytesIO(base64.b64decode(found["mask"]))) as mask:
            return mask.size == (width, height) and found["height"] == height

    memory = []
    with ThreadPoolExecutor(8) as callers:
        for start in range(0, 2000, 250):
            assert all(callers.map(ask, range(start, start + 250)))
            memory.append(server.memory_info().rss)
    print(f"MiB after each 250: {[round(size / 2**20) for size in memory]}")
    assert memory[-1] < 1.05 * memory[1]
