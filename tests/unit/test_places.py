"""Stores and pictures under URLs: objects like files, notes that are followed, copies that are kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tiny_coco
import tiny_folder
import tiny_voc
from tiny_project import build_params, hash_outputs, run_stage

from dsrg import kept
from dsrg.groups import StoreError, finish_store, iterate_shards, write_rows
from dsrg.places import (
    PlaceError,
    digest_below,
    fetch,
    follow,
    is_remote,
    is_url,
    list_below,
    parse_place,
    read_note,
    write_manifest,
)
from dsrg.sources.detect import detect_kind
from dsrg.store import LabelStore, create_label_store
from tasks.workspace import Workspace

COUNT, CANVAS = 600, 8  # three shards
URL = "memory://bucket/project"


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What lies under ``memory://``, by name."""
    monkeypatch.setenv("DSRG_CACHE", str(tmp_path / "copies"))
    monkeypatch.setattr(kept, "_opened", {})
    fs: Any = fsspec.filesystem("memory")
    objects: dict[str, Any] = fs.store
    yield objects
    objects.clear()
    fs.pseudo_dirs[:] = [""]


def draw_maps() -> np.ndarray:
    maps = np.random.default_rng(0).integers(0, 3, (COUNT, CANVAS, CANVAS), np.uint8)
    maps[256:512] = 255  # a shard of nothing
    return maps


def write_labels(place: Path) -> np.ndarray:
    maps = draw_maps()
    create_label_store(place, "cue", count=COUNT, canvas=CANVAS, attributes={"rule": "agreement"})
    for _, rows in iterate_shards(COUNT, 256):
        write_rows(place, "cue", rows, maps[rows])
    finish_store(place, digest="abc")
    return maps


def list_files(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def list_objects(memory: dict[str, Any], prefix: str) -> dict[str, bytes]:
    start = f"/{prefix.removeprefix('memory://')}/"
    return {name.removeprefix(start): f.getvalue() for name, f in memory.items() if name.startswith(start)}


def test_urls_are_told_from_paths(tmp_path: Path) -> None:
    assert parse_place("data/birds") == Path("data/birds")
    assert parse_place(tmp_path) is tmp_path or parse_place(tmp_path) == tmp_path
    assert parse_place("file:///data/birds") == Path("/data/birds")
    assert is_url("s3://bucket/birds")
    assert not is_url("C:/birds")
    assert not is_url(Path("s3:/bucket"))
    assert is_remote(parse_place(URL))
    assert not is_remote(tmp_path)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nowhere://a/b", "`nowhere://a/b` cannot be used: Unsupported filesystem: 'nowhere': check"),
        ("gs://a/b", "Please install gcsfs to access Google Storage: install the package"),
    ],
)
def test_a_url_that_nothing_knows_is_one_line(url: str, said: str) -> None:
    with pytest.raises(PlaceError) as caught:
        parse_place(url)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_objects_are_the_files_of_a_folder(tmp_path: Path, memory: dict[str, Any]) -> None:
    write_labels(tmp_path / "cues.zarr")
    write_labels(parse_place(f"{URL}/cues.zarr"))
    files = list_files(tmp_path / "cues.zarr")
    assert list_objects(memory, f"{URL}/cues.zarr") == files
    assert sorted(files) == ["cue/c/0/0/0", "cue/c/2/0/0", "cue/zarr.json", "zarr.json"]


def test_readers_follow_a_note(tmp_path: Path) -> None:
    maps = write_labels(parse_place(f"{URL}/cues.zarr"))
    note = write_manifest(parse_place(f"{URL}/cues.zarr"))
    (tmp_path / "cues.zarr").write_text(note.format())
    assert read_note(tmp_path / "cues.zarr") == note
    assert (note.objects, note.attributes["digest"], note.store) == (4, "abc", f"{URL}/cues.zarr")
    labels = LabelStore(tmp_path / "cues.zarr", "cue", stage="cues")
    assert str(labels.path) == f"{URL}/cues.zarr"
    assert len(labels) == COUNT
    for row in (0, 300, 599):
        assert np.array_equal(labels.read(row, (CANVAS, CANVAS)), maps[row])


def test_what_is_no_note_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "cues.zarr").write_text('{"store": 3}')
    assert follow(tmp_path / "cues.zarr") == tmp_path / "cues.zarr"
    with pytest.raises(StoreError, match="is no readable Zarr store"):
        LabelStore(tmp_path / "cues.zarr", "cue", stage="cues")


def test_a_store_that_is_gone_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"`memory://bucket/project/cues.zarr` is gone from there. Run: dvc"):
        LabelStore(parse_place(f"{URL}/cues.zarr"), "cue", stage="cues")


# -- copies ------------------------------------------------------------------------------------


def open_labels() -> tuple[LabelStore, np.ndarray]:
    maps = write_labels(parse_place(f"{URL}/cues.zarr"))
    write_manifest(parse_place(f"{URL}/cues.zarr"))
    return LabelStore(parse_place(f"{URL}/cues.zarr"), "cue", stage="cues"), maps


def test_a_shard_is_fetched_once(memory: dict[str, Any]) -> None:
    labels, maps = open_labels()
    labels.read(0, (CANVAS, CANVAS))
    shard = memory.pop("/bucket/project/cues.zarr/cue/c/0/0/0")
    again = LabelStore(labels.path, "cue", stage="cues")
    assert np.array_equal(again.read(255, (CANVAS, CANVAS)), maps[255])
    copies = list_files(kept.locate_copies(f"{URL}/cues.zarr"))
    assert copies == {"cue/c/0/0/0": shard.getvalue()}


def test_a_shard_that_is_gone_is_not_taken_for_an_empty_one(memory: dict[str, Any]) -> None:
    labels, _ = open_labels()
    assert (labels.read(256, (CANVAS, CANVAS)) == 255).all(), "never was there"
    del memory["/bucket/project/cues.zarr/cue/c/2/0/0"]
    with pytest.raises(PlaceError, match=r"cues.zarr/cue/c/2/0/0` is gone: bring it back, or run"):
        labels.read(599, (CANVAS, CANVAS))


def test_a_store_that_goes_while_it_is_read_is_no_empty_one(memory: dict[str, Any]) -> None:
    labels, _ = open_labels()
    memory.clear()
    with pytest.raises(PlaceError, match=r"cues.zarr` is gone from there: run the stage again"):
        labels.read(0, (CANVAS, CANVAS))


def test_before_there_is_a_list_of_its_objects_a_shard_may_be_empty() -> None:
    write_labels(parse_place(f"{URL}/cues.zarr"))
    labels = LabelStore(parse_place(f"{URL}/cues.zarr"), "cue", stage="cues")
    assert (labels.read(256, (CANVAS, CANVAS)) == 255).all()


def test_a_damaged_copy_is_fetched_anew(memory: dict[str, Any]) -> None:
    labels, maps = open_labels()
    labels.read(0, (CANVAS, CANVAS))
    copy = kept.locate_copies(str(labels.path)) / "cue/c/0/0/0"
    copy.write_bytes(copy.read_bytes()[:100])
    assert np.array_equal(labels.read(7, (CANVAS, CANVAS)), maps[7])
    memory["/bucket/project/cues.zarr/cue/c/0/0/0"].truncate(100)
    copy.write_bytes(b"nonsense")
    with pytest.raises(StoreError, match="shard 0 is damaged"):
        labels.read(7, (CANVAS, CANVAS))


def test_a_copy_that_was_removed_is_fetched_again() -> None:
    labels, maps = open_labels()
    labels.read(0, (CANVAS, CANVAS))
    kept.make_room(kept.locate_copies(), 0)
    assert list_files(kept.locate_copies()) == {}
    assert np.array_equal(labels.read(7, (CANVAS, CANVAS)), maps[7])


def test_room_is_made_by_removing_what_was_used_longest_ago(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    kept.make_room(tmp_path, 20)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["middle", "new"]


def test_no_more_is_kept_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSRG_CACHE_GB", "0")
    monkeypatch.setattr(kept, "_FETCHES", 1)
    labels, maps = open_labels()
    for row in (0, 599, 0, 599):
        assert np.array_equal(labels.read(row, (CANVAS, CANVAS)), maps[row])
    assert list_files(kept.locate_copies()) == {}


def test_without_room_for_copies_reading_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DSRG_CACHE", str(tmp_path / "file"))
    labels, maps = open_labels()
    with pytest.warns(RuntimeWarning, match="nothing is kept of memory://bucket/project/cues.zarr"):
        assert np.array_equal(labels.read(7, (CANVAS, CANVAS)), maps[7])


# -- stages ------------------------------------------------------------------------------------


def build_cues(workspace: Workspace, *, stores: str = URL, stop: bool = False, code: int = 0) -> None:
    with workspace.stage("cues", fingerprint={"code": code}, stores=stores) as work:
        place = work.partial("cues.zarr")
        if not work.is_done("cues"):
            write_labels(place)
            work.mark_done("cues")
        if stop:
            raise InterruptedError
        work.publish("cues.zarr", "data/cues.zarr")


def list_stores(memory: dict[str, Any]) -> set[str]:
    return {name.partition("/cues.zarr/")[0] for name in memory if "/contents/" not in name}


def test_a_stage_leaves_a_note_and_the_store_it_names(tmp_path: Path, memory: dict[str, Any]) -> None:
    workspace = Workspace(tmp_path)
    build_cues(workspace)
    note = read_note(workspace.path("data/cues.zarr"))
    assert note is not None
    assert note.store.startswith(f"{URL}/cues/")
    assert list_stores(memory) == {note.store.removeprefix("memory:/").removesuffix("/cues.zarr")}
    assert [place.name for place in workspace.path(".work/cues").iterdir()] == ["lock"]


def test_equal_stores_leave_equal_notes(
    tmp_path: Path, memory: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that DVC runs nothing after a stage that made the same again, by other code perhaps."""
    monkeypatch.setattr("dsrg.places._find_checksum", lambda about: "as an object store says")
    workspace = Workspace(tmp_path)
    build_cues(workspace)
    before = workspace.path("data/cues.zarr").read_bytes()
    stores = list_stores(memory)
    build_cues(workspace, code=1)
    assert workspace.path("data/cues.zarr").read_bytes() == before
    assert list_stores(memory) == stores


def test_a_note_about_a_store_that_is_gone_is_replaced(
    tmp_path: Path, memory: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsrg.places._find_checksum", lambda about: "as an object store says")
    workspace = Workspace(tmp_path)
    build_cues(workspace)
    memory.clear()
    build_cues(workspace)
    LabelStore(workspace.path("data/cues.zarr"), "cue", stage="cues").read(0, (CANVAS, CANVAS))


def test_work_that_was_stopped_goes_on_where_it_was_built(tmp_path: Path, memory: dict[str, Any]) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(InterruptedError):
        build_cues(workspace, stop=True)
    built = list_stores(memory)
    build_cues(workspace)
    assert list_stores(memory) == built


@pytest.mark.parametrize("change", [{"code": 1}, {"stores": "memory://other"}, {"stores": "none"}])
def test_what_stopped_work_built_is_removed_by_other_work(
    tmp_path: Path, memory: dict[str, Any], change: dict[str, Any]
) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(InterruptedError):
        build_cues(workspace, stop=True)
    stopped = list_stores(memory)
    build_cues(workspace, **change)
    assert stopped & list_stores(memory) == set()
    LabelStore(workspace.path("data/cues.zarr"), "cue", stage="cues").read(0, (CANVAS, CANVAS))


def test_stores_move_where_the_next_run_puts_them(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for stores in ("none", URL, "none"):
        build_cues(workspace, stores=stores)
        assert workspace.path("data/cues.zarr").is_dir() == (stores == "none")
        LabelStore(workspace.path("data/cues.zarr"), "cue", stage="cues").read(0, (CANVAS, CANVAS))


def test_a_note_is_equal_json(tmp_path: Path) -> None:
    build_cues(Workspace(tmp_path))
    text = (tmp_path / "data/cues.zarr").read_text()
    assert list(json.loads(text)) == ["attributes", "bytes", "content", "objects", "store"]


# -- pictures ----------------------------------------------------------------------------------


def put_tree(folder: Path, url: str) -> str:
    fsspec.filesystem("memory").put(f"{folder}/", url, recursive=True)
    return url


def write_source(kind: str, folder: Path) -> Path:
    if kind == "folder":
        return tiny_folder.write_data(folder)
    if kind == "coco":
        return tiny_coco.write_coco(folder)
    if kind.startswith("voc"):
        tiny_voc.write_devkit(folder)
        return folder
    for name, first in (("cat", 0), ("dog", 5)):
        (folder / name).mkdir(parents=True)
        for number in range(first, first + 5):
            tiny_coco.write_picture(folder / name / f"{number}.png", number)
    return folder


@pytest.mark.parametrize("kind", ["folder", "class folders", "voc", "voc by masks", "coco"])
def test_pictures_under_a_url_are_ingested_like_a_folder(tmp_path: Path, kind: str) -> None:
    folder = write_source(kind, tmp_path / "photos")
    url = put_tree(folder, "memory://photos")
    made = ["data/images.zarr", "data/truth.zarr", "data/saliency.zarr", "metrics/ingest.json"]
    hashes = []
    for name, path in (("near", str(folder)), ("far", url)):
        source = {"kind": detect_kind(parse_place(path)), "path": path}
        if kind == "voc by masks":
            source["image_labels"] = "masks"
        workspace = Workspace(tmp_path / name)
        workspace.root.mkdir()
        run_stage(build_params(source=source), workspace, "ingest")
        hashes.append(hash_outputs(workspace.root, made))
    assert hashes[0] == hashes[1]


def test_a_picture_that_is_gone_or_broken_is_named(tmp_path: Path, memory: dict[str, Any]) -> None:
    url = put_tree(tiny_folder.write_data(tmp_path / "photos"), "memory://photos")
    memory["/photos/images/p01.png"].truncate(40)
    params = build_params(source={"kind": "folder", "path": url})
    with pytest.raises(Exception, match=r"`memory://photos`: images/p01.png: ") as caught:
        run_stage(params, Workspace(tmp_path), "ingest")
    assert type(caught.value).__name__ == "SourceError"


def test_a_url_without_pictures_is_named(tmp_path: Path) -> None:
    params = build_params(source={"kind": "folder", "path": "memory://photos/none"})
    with pytest.raises(
        Exception, match=r"`memory://photos/none`: not found. Set `source.path` to the folder"
    ):
        run_stage(params, Workspace(tmp_path), "ingest")


def test_what_lies_below_a_url_is_listed_fetched_and_digested(memory: dict[str, Any]) -> None:
    place = parse_place("memory://photos")
    for name in ("b/1.png", "a.txt"):
        fsspec.filesystem("memory").pipe_file(f"/photos/{name}", name.encode())
    assert list_below(place) == ["a.txt", "b/1.png"]
    wanted = [place / "a.txt", place / "none", place / "b" / "1.png"]
    assert fetch(wanted) == [b"a.txt", None, b"b/1.png"]
    assert fetch([place / "none"]) == [None]
    assert fetch([]) == []
    assert len(digest_below("memory://photos")) == 64
