"""Stores, pictures and DVC's remote on an object store: a server of S3's kind, spoken to as in earnest."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_folder
from dask_cluster import start_cluster
from object_store import ObjectStore, start_object_store
from PIL import Image
from tiny_project import (
    build_params,
    copy_workspace,
    hash_outputs,
    list_label_stages,
    list_outputs,
    run_in_process,
    run_stage,
    without_tracking,
    write_params,
)
from toy_project import build_environment, commit, copy_project, run_dsrg, run_dvc

from dsrg import kept
from dsrg.places import PlaceError, read_note
from dsrg.store import ImageStore, LabelStore, create_score_store
from tasks import cluster
from tasks.params import Params
from tasks.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CUES = "data/cues.zarr"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with start_object_store(tmp_path_factory.mktemp("objects")) as running:
        yield running


@pytest.fixture
def objects(server: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The server, as the environment of this test names it; copies are kept for this test alone."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DSRG_CACHE", str(tmp_path / "copies"))
    monkeypatch.setattr(kept, "_opened", {})
    return server


def read_far(objects: ObjectStore, place: Path) -> dict[str, bytes]:
    """Read the objects that the note at `place` is about; their names are relative."""
    note = read_note(place)
    assert note is not None, f"{place} is no note"
    prefix = note.store.removeprefix(f"{objects.url}/") + "/"
    found = {key.removeprefix(prefix): objects.read(key) for key in objects.list(prefix)}
    assert found.pop("objects.json", None) is not None
    assert note.objects == len(found)
    assert note.bytes == sum(map(len, found.values()))
    return found


def read_near(place: Path) -> dict[str, bytes]:
    return {f.relative_to(place).as_posix(): f.read_bytes() for f in place.rglob("*") if f.is_file()}


def on(objects: ObjectStore, prefix: str, **changes: object) -> Params:
    return build_params(compute={"stores": f"{objects.url}/{prefix}", **changes})


def test_the_whole_method_makes_the_same_bytes_there(objects: ObjectStore, tmp_path: Path) -> None:
    params = on(objects, "whole")
    near, far = Workspace(tmp_path / "near"), Workspace(tmp_path / "far")
    for settings, workspace in ((build_params(), near), (params, far)):
        workspace.root.mkdir()
        with without_tracking():
            for stage in ("ingest", *list_label_stages(params), "baseline", "evaluate@2"):
                run_stage(settings, workspace, stage)
    stores = sorted(place.relative_to(near.root) for place in near.path("data").rglob("*.zarr"))
    assert len(stores) == 11
    for store in stores:
        assert read_far(objects, far.path(store)) == read_near(near.path(store)), store
    others = [name for name in list_outputs(params) if not name.endswith(".zarr")]
    others += ["metrics/ingest.json", "metrics/baseline.json", "metrics/rounds/2/evaluate.json"]
    assert hash_outputs(far.root, others) == hash_outputs(near.root, others)
    assert {key.split("/")[1] for key in objects.list("whole")} == {
        *("ingest", "cams", "cues", "relabel-1", "relabel-2", "refine-1", "refine-2", "contents")
    }


def test_a_picture_is_read_without_asking_for_it(
    objects: ObjectStore, tiny_run: Path, tmp_path: Path
) -> None:
    """Shards come whole, once for all processes and all time; what is asked for does not grow with reads."""
    workspace = Workspace(tmp_path)
    with without_tracking():
        run_stage(on(objects, "reads"), workspace, "ingest")
    images = ImageStore(workspace.path("data/images.zarr"))
    images.read_image(0)
    before = len(objects.list_requests())
    for _ in range(3):
        again = ImageStore(workspace.path("data/images.zarr"))
        for row in range(len(again)):
            again.read_image(row)
    assert len(objects.list_requests()) == before
    program = (
        "import sys; from pathlib import Path; from dsrg.store import ImageStore\n"
        "store = ImageStore(Path(sys.argv[1])); [store.read_image(row) for row in range(len(store))]"
    )
    command = [os.sys.executable, "-c", program, str(workspace.path("data/images.zarr"))]  # type: ignore[attr-defined]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    asked = {path for _, path in objects.list_requests()[before:]}
    assert asked, "another process asks for the metadata"
    assert not [path for path in asked if "/c/" in path], "and for nothing else"


def test_workers_of_a_cluster_read_and_write_there(objects: ObjectStore, tmp_path: Path) -> None:
    """Each keeps copies of its own: they share no folder for it."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    params = on(objects, "cluster")
    with without_tracking():
        for stage in ("ingest", "classify"):
            run_stage(params, Workspace(one), stage)
        shutil.copytree(one / "data", other / "data")
        for stage in ("cams", "cues"):
            run_stage(params, Workspace(one), stage)
        with start_cluster(tmp_path, workers=0) as running:
            for number in range(2):
                running.add_worker(environment={"DSRG_CACHE": str(tmp_path / f"copies-{number}")})
            shared = build_params(compute={"stores": f"{objects.url}/cluster", "cluster": running.address})
            try:
                for stage in ("cams", "cues"):
                    run_stage(shared, Workspace(other), stage)
            finally:
                cluster.disconnect()
    for store in ("cams.zarr", "cues.zarr"):
        assert read_far(objects, other / "data" / store) == read_far(objects, one / "data" / store)
    kept_there = {file.name for number in range(2) for file in (tmp_path / f"copies-{number}").rglob("*")}
    assert kept_there, "workers read by way of copies of their own"


@pytest.mark.parametrize("stage", ["ingest", "cams", "cues"])
def test_a_stage_that_was_killed_goes_on_and_leaves_nothing_behind(
    objects: ObjectStore, tiny_run: Path, tmp_path: Path, stage: str
) -> None:
    prefix = f"killed-{stage}"
    workspace = copy_workspace(tiny_run, tmp_path / "killed")
    write_params(on(objects, prefix), workspace.root)
    shards = "import dsrg.store as store\nstore.SHARD_IMAGES = store.SHARD_LABEL_MAPS = 2\n"
    kill = (
        "import os, signal\nfrom tasks import workspace\noriginal = workspace.StageWork.mark_done\n"
        "def mark(self, unit, count=[0]):\n"
        "    original(self, unit)\n    count[0] += 1\n"
        "    if count[0] == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "workspace.StageWork.mark_done = mark\n"
    )
    process = run_in_process(workspace.root, stage, before=shards + kill)
    said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    begun = set(objects.list(prefix))
    assert begun
    process = run_in_process(workspace.root, stage, before=shards)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    ended = set(objects.list(prefix))
    assert begun <= ended, "what was written is not written again elsewhere"
    undisturbed = copy_workspace(tiny_run, tmp_path / "undisturbed")
    write_params(on(objects, f"un{prefix}"), undisturbed.root)
    process = run_in_process(undisturbed.root, stage, before=shards)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    made = [
        f"data/{name}.zarr" for name in (("images", "truth", "saliency") if stage == "ingest" else [stage])
    ]
    for place in made:
        found = read_far(objects, workspace.path(place))
        assert found == read_far(objects, undisturbed.path(place))
    notes = [read_note(workspace.path(place)) for place in made]
    prefixes = tuple(note.store.removeprefix(f"{objects.url}/") + "/" for note in notes if note is not None)
    prefixes += (f"{prefix}/contents/",)
    assert [key for key in ended if not key.startswith(prefixes)] == [], "left behind"


def test_a_store_out_of_reach_is_one_line(tiny_run: Path, tmp_path: Path) -> None:
    workspace = copy_workspace(tiny_run, tmp_path / "project")
    with start_object_store(tmp_path / "objects") as objects:
        write_params(on(objects, "gone"), workspace.root)
        environment = objects.environment | {"DSRG_CACHE": str(tmp_path / "copies")}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            for stage in ("cams", "cues"):
                process = run_in_process(workspace.root, stage)
                said, _ = process.communicate()
                assert process.returncode == 0, said
            shutil.rmtree(tmp_path / "copies")
            missing = read_note(workspace.path(CUES))
            assert missing is not None
            for key in objects.list(missing.store.removeprefix(f"{objects.url}/")):
                objects.delete(key)
            said = fail(workspace.root, "baseline")
            assert re.search(r"`s3://\S+/cues.zarr` is gone from there. Run: dvc repro -f cues\n", said)
            patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            said = fail(workspace.root, "cues")
            assert "cannot be used: Could not connect to the endpoint URL" in said
            patch.setenv("AWS_ENDPOINT_URL", objects.address)
            write_params(build_params(compute={"stores": "s3://no-such-bucket/project"}), workspace.root)
            said = fail(workspace.root, "cams")
            assert "`s3://no-such-bucket/project/cams/" in said
            assert "not found (The specified bucket does not exist)" in said
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.delenv(name)
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            patch.setenv("HOME", str(tmp_path))
            said = fail(workspace.root, "cams")
            assert "cannot be used: Unable to locate credentials" in said


def fail(root: Path, stage: str) -> str:
    process = run_in_process(root, stage)
    said, _ = process.communicate()
    assert process.returncode == 2, said
    assert "Traceback" not in said
    return said


def test_reading_on_without_the_server(objects: ObjectStore, tmp_path: Path) -> None:
    """What is not kept and cannot be fetched is no empty shard."""
    workspace = Workspace(tmp_path)
    with without_tracking():
        run_stage(on(objects, "without"), workspace, "ingest")
    images = ImageStore(workspace.path("data/images.zarr"))
    assert len(images) == 13
    (shard,) = [key for key in objects.list("without") if "/image/c/" in key]
    objects.delete(shard)
    with pytest.raises(PlaceError, match=r"image/c/0/0/0/0` is gone: bring it back"):
        images.read_image(0)


def test_dvc_versions_what_lies_there(objects: ObjectStore, tmp_path: Path) -> None:
    """Pictures, stores and the remote: a run, a change, a clone elsewhere, an earlier run brought back."""
    photos = tiny_folder.write_data(tmp_path / "photos")
    url = objects.put_tree(photos, "photos")
    root = copy_project(tmp_path / "project")
    write_params(
        build_params(
            source={"kind": "folder", "path": url},
            compute={"stores": f"{objects.url}/stores"},
            reference={"enabled": False},
        ),
        root,
    )
    run_dvc(root, "remote", "add", "-d", "objects", f"{objects.url}/dvc")
    commit(root)
    run_dvc(root, "repro")
    assert "up to date" in run_dvc(root, "status")
    assert "ingest" not in re.findall(r"Running stage '(\w+)'", run_dvc(root, "repro"))
    run_dvc(root, "push")
    commit(root)
    subprocess.run(["git", "-C", str(root), "tag", "first"], check=True)
    first = {place: read_far(objects, root / place) for place in ("data/images.zarr", CUES)}

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(photos / "images" / "p00.png")
    objects.put_tree(photos, "photos")
    assert "ingest" in run_dvc(root, "status")
    run_dvc(root, "repro", "cues")
    assert read_far(objects, root / "data/images.zarr") != first["data/images.zarr"]
    commit(root)

    listed = {found["url"]: found["named_by"] for found in list_stores(root)}
    assert sorted(listed.values()) == ["an earlier run"] * 3 + ["this project"] * 11, "masks are the same"
    assert {read_note(place).store for place in (root / "data").rglob("*.zarr")} <= set(listed)  # type: ignore[union-attr]

    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(root), str(clone)], check=True)
    subprocess.run(["git", "-C", str(clone), "checkout", "-q", "first"], check=True)
    run_dvc(clone, "pull")
    for place, expected in first.items():
        assert read_far(objects, clone / place) == expected
    said = run_dvc(clone, "status")
    assert [line for line in said.splitlines() if line and not line.startswith((" ", "\t"))] == ["ingest:"], (
        said
    )
    out = tmp_path / "exported"
    run_dsrg(clone, "labels", "restore", "first", "--out", str(tmp_path / "restored"))
    said = run_dsrg(
        clone, "export", "labels", "--format", "voc", "--out", str(out),
        *("--labels", str(tmp_path / "restored" / "pseudo_labels.zarr")),
    )  # fmt: skip
    assert len(list(out.rglob("SegmentationClass/*.png"))) == 4
    assert len(list(out.rglob("JPEGImages/*"))) == 4
    assert build_environment(clone)["AWS_ENDPOINT_URL"] == objects.address


def test_a_run_of_pictures_that_lie_there(objects: ObjectStore, tmp_path: Path) -> None:
    url = objects.put_tree(tiny_folder.write_data(tmp_path / "photos"), "run")
    root = copy_project(tmp_path / "project")
    write_params(build_params(compute={"stores": f"{objects.url}/run-stores"}), root)
    commit(root)
    assert "nothing is wrong. Next: dsrg run s3://" in run_dsrg(root, "check", url)
    run_dsrg(root, "run", url, "--rounds", "1", "--set", "reference.enabled=false")
    assert read_note(root / "data/rounds/1/pseudo_labels.zarr") is not None
    assert f"folder {url}" in run_dsrg(root, "doctor")
    out = tmp_path / "exported"
    run_dsrg(root, "export", "labels", "--format", "coco", "--out", str(out))
    assert len(list(out.rglob("*.png"))) >= 4


def list_stores(root: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(run_dsrg(root, "stores", "list", "--json"))
    return found


def test_stores_that_nothing_names_are_removed(objects: ObjectStore, tmp_path: Path) -> None:
    root = copy_project(tmp_path / "project")
    params = on(objects, "pruned")
    write_params(params, root)
    workspace = Workspace(root)
    with without_tracking():
        for stage in ("ingest", "classify", "cams", "cues"):
            run_stage(params, workspace, stage)
        before = {found["url"] for found in list_stores(root)}
        run_stage(
            build_params(compute={"stores": f"{objects.url}/pruned"}, cues={"spread": 2.0}), workspace, "cues"
        )
    with (
        pytest.raises(InterruptedError),
        workspace.stage("cams", fingerprint={}, stores=params.compute.stores) as w,
    ):
        create_score_store(w.partial("cams.zarr"), "cam", count=3, planes=1, grid=4, attributes={})
        raise InterruptedError
    named = {found["url"]: found["named_by"] for found in list_stores(root)}
    assert len(named) == len(before) + 2
    (old,) = [url for url, by in named.items() if not by]
    assert "/cues/" in old
    assert [by for url, by in named.items() if "/cams/" in url and url not in before] == [
        "work to go on with"
    ]
    assert "nothing to remove" in run_dsrg(root, "stores", "prune")
    assert "nothing was removed" in run_dsrg(root, "stores", "prune", "--days", "0")
    assert set(named) == {found["url"] for found in list_stores(root)}
    assert "removed 1 of them" in run_dsrg(root, "stores", "prune", "--days", "0", "--yes")
    assert set(named) - {old} == {found["url"] for found in list_stores(root)}
    prefix = old.removeprefix(f"{objects.url}/")
    left = objects.list("pruned")
    assert not [key for key in left if key.startswith(prefix)]
    assert not [key for key in left if "/contents/" in key and old.encode() in objects.read(key)]
    LabelStore(root / CUES, "cue", stage="cues").read(0, (96, 96))
