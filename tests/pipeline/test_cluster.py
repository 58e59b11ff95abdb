"""Shards mapped over a Dask cluster: the bytes of one process, whatever becomes of its workers."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dask_cluster import PATHS, DaskCluster, start_cluster
from tiny_project import (
    build_params,
    copy_workspace,
    hash_outputs,
    ingest,
    list_outputs,
    remake_labels,
    run_in_process,
    run_stage,
    without_tracking,
    write_params,
)

from dsrg.groups import StoreError
from tasks import cluster
from tasks.cores import count_workers
from tasks.errors import UserError
from tasks.params import Params
from tasks.prepared import once_per_work
from tasks.shards import map_shards
from tasks.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SCORES = ("metrics/baseline.json", *(f"metrics/rounds/{key}/evaluate.json" for key in ("1", "2")))


@pytest.fixture(autouse=True)
def new_connections() -> Iterator[None]:
    yield
    cluster.disconnect()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with start_cluster(tmp_path_factory.mktemp("cluster"), workers=2) as running:
        yield running


def on(address: str, **changes: object) -> Params:
    return build_params(compute={"cluster": address, **changes})


def double(job: int) -> int:
    return 2 * job


def tell_worker(job: int) -> int:
    time.sleep(0.1)
    return os.getpid()


def test_a_cluster_makes_the_bytes_of_one_process(
    two_workers: DaskCluster, tiny_run: Path, tmp_path: Path
) -> None:
    params, workspace = on(two_workers.address), Workspace(tmp_path)
    with without_tracking():
        ingest(params, workspace)
        for place in ("images", "truth"):
            assert hash_outputs(tmp_path, [f"data/{place}.zarr"]) == hash_outputs(
                tiny_run, [f"data/{place}.zarr"]
            )
        expected = hash_outputs(tiny_run, list_outputs(params))
        workspace = copy_workspace(tiny_run, tmp_path / "copy")
        assert remake_labels(params, workspace) == expected
        for stage in ("baseline", "evaluate@1", "evaluate@2"):
            run_stage(params, workspace, stage)
    assert hash_outputs(workspace.root, SCORES) == hash_outputs(tiny_run, SCORES)


def test_every_stage_that_maps_uses_it(
    two_workers: DaskCluster, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none does the work itself: this process cannot."""
    params, workspace = on(two_workers.address), copy_workspace(tiny_run, tmp_path)
    maps: list[str] = []
    original = cluster.map_on_cluster

    def record(*arguments: object, description: str, **settings: object) -> object:
        maps.append(description)
        return original(*arguments, description=description, **settings)

    monkeypatch.setattr(cluster, "map_on_cluster", record)
    monkeypatch.setattr("dsrg.store.ImageStore.read_image", lambda *_: 1 / 0)
    with without_tracking():
        for stage in ("cams", "cues", "relabel@1", "refine@1"):
            run_stage(params, workspace, stage)
    assert maps == ["cams", "cues", "relabel@1 predict", "relabel@1 grow", "refine@1"]


def test_results_come_in_the_order_of_the_jobs_from_all_workers(two_workers: DaskCluster) -> None:
    compute = on(two_workers.address).compute
    assert list(map_shards(double, range(40), compute=compute, description="order")) == [
        2 * job for job in range(40)
    ]
    pids = list(map_shards(tell_worker, range(12), compute=compute, description="workers"))
    assert set(pids) == {worker.pid for worker in two_workers.workers}


def test_a_cluster_of_this_machine_is_one_word(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params, workspace = on("local", workers=2), copy_workspace(tiny_run, tmp_path)
    with without_tracking():
        for stage in ("cams", "refine@1"):
            run_stage(params, workspace, stage)
    made = ("data/cams.zarr", "data/rounds/1/pseudo_labels.zarr")
    assert hash_outputs(tmp_path, made) == hash_outputs(tiny_run, made)
    assert capsys.readouterr().out.count("Dask     2 workers, dashboard http://127.0.0.1:") == 1


def wait_for_file(job: tuple[Path, int]) -> int:
    place, number = job
    (place / f"begun-{number}-{os.getpid()}").touch()
    while not (place / "go").exists():
        time.sleep(0.02)
    return number


def test_what_a_killed_worker_was_at_another_does_anew(tmp_path: Path) -> None:
    with start_cluster(tmp_path, workers=2) as running:
        compute = on(running.address).compute
        jobs = [(tmp_path, number) for number in range(6)]

        def kill_one() -> None:
            while len(list(tmp_path.glob("begun-*"))) < 2:
                time.sleep(0.02)
            running.workers[0].send_signal(signal.SIGKILL)
            (tmp_path / "go").touch()

        killer = threading.Thread(target=kill_one)
        killer.start()
        found = list(map_shards(wait_for_file, jobs, compute=compute, description="kill"))
        killer.join()
        assert found == list(range(6))
        pid = running.workers[0].pid
        lost = [int(place.name.split("-")[1]) for place in tmp_path.glob(f"begun-*-{pid}")]
        assert len(lost) == 1
        assert len(list(tmp_path.glob(f"begun-{lost[0]}-*"))) == 2, "it was done again"


def test_a_stage_whose_worker_is_killed_makes_the_same_bytes(tiny_run: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    copy_workspace(tiny_run, root)
    with start_cluster(tmp_path, workers=2) as running:
        write_params(on(running.address), root)
        expected = hash_outputs(root, ["data/cams.zarr"])
        for attempt in range(3):
            with run_in_process(root, "cams") as process:
                assert process.stdout is not None
                said = [line for line in process.stdout if not killed_at(line, running, attempt)]
            assert process.returncode == 0, "".join(said)
            assert hash_outputs(root, ["data/cams.zarr"]) == expected


def killed_at(line: str, running: DaskCluster, attempt: int) -> bool:
    if line.startswith("Dask ") and attempt < 2:
        time.sleep(0.2 * attempt)
        running.add_worker()
        running.workers[attempt].send_signal(signal.SIGKILL)
    return False


def die(job: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_work_that_kills_every_worker_is_one_line(tmp_path: Path) -> None:
    with start_cluster(tmp_path, workers=5) as running:
        compute = on(running.address).compute
        with pytest.raises(UserError, match=r"^several Dask workers died one after the other .* memory"):
            list(map_shards(die, [1], compute=compute, description="die"))


def fail(job: int) -> int:
    if job == 3:
        raise StoreError("`data/images.zarr` shard 1 is damaged. Run: dvc repro -f ingest")
    return job


def test_an_error_in_a_job_is_that_error(two_workers: DaskCluster) -> None:
    compute = on(two_workers.address).compute
    with pytest.raises(StoreError, match=r"^`data/images.zarr` shard 1 is damaged"):
        list(map_shards(fail, range(100), compute=compute, description="fail"))
    assert list(map_shards(double, [1], compute=compute, description="after")) == [2]


@once_per_work
def read_once(place: Path) -> str:
    return place.read_text()


def test_workers_do_not_remember_files_of_other_work(two_workers: DaskCluster, tmp_path: Path) -> None:
    compute, place = on(two_workers.address).compute, tmp_path / "place"
    for content in ("before", "after"):
        place.write_text(content)
        found = set(map_shards(read_once, [place] * 6, compute=compute, description="read"))
        assert found == {content}


def count_here(job: int) -> int:
    return count_workers(0)


def test_a_worker_takes_its_threads_and_no_more_cores(two_workers: DaskCluster) -> None:
    compute = on(two_workers.address).compute
    assert list(map_shards(count_here, [1, 2], compute=compute, description="cores")) == [1, 1]


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 2.0)
    compute = on("tcp://127.0.0.1:9").compute
    with pytest.raises(UserError, match=r"^no Dask scheduler answers at tcp://127.0.0.1:9: start one"):
        list(map_shards(double, [1], compute=compute, description="nobody"))


def test_where_all_is_done_nobody_is_needed() -> None:
    assert list(map_shards(double, [], compute=on("tcp://127.0.0.1:9").compute, description="done")) == []


def test_a_cluster_without_workers_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 2.0)
    with (
        start_cluster(tmp_path, workers=0) as running,
        pytest.raises(UserError, match=rf"^the Dask cluster {running.address} has no workers: start some"),
    ):
        list(map_shards(double, [1], compute=on(running.address).compute, description="idle"))


def test_workers_with_other_code_are_refused(tmp_path: Path, project_root: Path) -> None:
    other = tmp_path / "other"
    for folder in ("dsrg", "tasks"):
        shutil.copytree(project_root / folder, other / folder)
    labels = other / "dsrg" / "labels.py"
    labels.write_text(labels.read_text() + "\n# other\n")
    with start_cluster(tmp_path, workers=0) as running:
        running.add_worker(environment={"PYTHONPATH": os.pathsep.join([str(other), PATHS])})
        with pytest.raises(UserError, match=r"^a Dask worker on .* runs other code or other packages"):
            list(map_shards(double, [1], compute=on(running.address).compute, description="other"))


def test_a_cluster_that_cannot_import_the_project_is_one_line(tmp_path: Path) -> None:
    with (
        start_cluster(tmp_path, workers=1, environment={"PYTHONPATH": str(tmp_path)}) as running,
        pytest.raises(UserError, match=rf"^the Dask cluster {running.address} cannot import this project"),
    ):
        list(map_shards(double, [1], compute=on(running.address).compute, description="none"))


def test_a_cluster_that_goes_away_is_one_line(tmp_path: Path) -> None:
    with start_cluster(tmp_path, workers=1) as running:
        compute = on(running.address).compute
        found = map_shards(tell_worker, range(100), compute=compute, description="away")
        next(found)
        running.stop_scheduler()
        with pytest.raises(UserError, match=rf"^the Dask cluster {running.address} went away; finished"):
            list(found)
