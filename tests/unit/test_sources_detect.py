"""Which kind of source a folder is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_coco import write_coco
from tiny_folder import write_data
from tiny_voc import write_devkit

from dsrg.sources import KINDS, SourceError, detect_kind, open_source


@pytest.mark.parametrize("kind", ["folder", "voc", "coco"])
def test_kinds_are_told_apart_and_open(tmp_path: Path, kind: str) -> None:
    write = {"folder": write_data, "voc": write_devkit, "coco": write_coco}[kind]
    path = tmp_path / "data"
    write(path)  # type: ignore[operator]
    assert detect_kind(path) == kind
    assert kind in KINDS
    source = open_source(
        kind, path, image_labels="xml", categories=(), num_train=1, num_val=1, size=64, random_seed=0
    )
    assert source.kind == kind
    assert source.problems == ()
    assert source.fingerprint


def test_every_level_of_a_devkit_is_voc(tmp_path: Path) -> None:
    year = write_devkit(tmp_path)
    assert {detect_kind(path) for path in (tmp_path, tmp_path / "VOCdevkit", year)} == {"voc"}


def test_one_json_in_the_folder_is_coco_if_it_looks_like_it(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "notes.json").write_text('{"author": "me"}')
    assert detect_kind(tmp_path) == "folder"
    (tmp_path / "notes.json").write_text('  {"images": []')
    assert detect_kind(tmp_path) == "coco"


def test_two_kinds_at_once_are_told(tmp_path: Path) -> None:
    write_data(write_coco(tmp_path))
    with pytest.raises(SourceError, match=r"could be folder \(labels.csv\), coco \(annotations/instances_"):
        detect_kind(tmp_path)


def test_nothing_is_folder(tmp_path: Path) -> None:
    assert detect_kind(tmp_path / "nowhere") == "folder"
