"""``dsrg check``: it agrees with ingest, and says what a person should know."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_coco import annotate, entry, write_coco, write_json
from tiny_folder import build_params, draw_picture, write_data
from tiny_voc import draw_mask, write_annotation, write_devkit, write_list, write_mask
from typer.testing import CliRunner

from dsrg.sources import SourceError, detect_kind
from dsrg.store import ImageStore
from flows.cli import app
from tasks import ingest
from tasks.check import check, choose_source
from tasks.errors import UserError
from tasks.params import Params
from tasks.workspace import Workspace


def build(project_root: Path, data: Path, **source: Any) -> Params:
    params = build_params(project_root, data, strict=True)
    changes = {"kind": detect_kind(data), **source}
    return params.model_copy(update={"source": params.source.model_copy(update=changes)})


def refuse(params: Params, root: Path) -> list[str]:
    """What ingest refuses."""
    try:
        ingest.run(params, Workspace(root))
    except SourceError as error:
        return list(error.problems)
    return []


# -- ingest refuses exactly what check finds -----------------------------------------------------


def spoil(path: Path, content: bytes = b"") -> None:
    path.write_bytes(content)


def change_table(data: Path, old: str, new: str) -> None:
    table = data / "labels.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))


FOLDERS: dict[str, Callable[[Path], None]] = {
    "nothing": lambda data: None,
    "empty picture": lambda data: spoil(data / "images" / "p01.png"),
    "no picture": lambda data: spoil(data / "images" / "p01.png", b"text"),
    "all pictures broken": lambda data: [spoil(p) for p in (data / "images").iterdir()] and None,
    "picture without row": lambda data: Image.fromarray(draw_picture(9)).save(data / "images" / "q.png"),
    "row without picture": lambda data: (data / "images" / "p01.png").unlink(),
    "row without class": lambda data: change_table(data, "p05,y", "p05,"),
    "background": lambda data: change_table(data, "p05,y", "p05,background"),
    "unknown class": lambda data: change_table(data, "p05,y", "p05,z"),
    "unknown split": lambda data: change_table(data, "p05,y,val", "p05,y,test"),
    "no split val": lambda data: change_table(data, "val", "train"),
    "a class without train pictures": lambda data: change_table(data, "y,train", "x,train"),
    "a class without pictures": lambda data: (
        (data / "classes.txt").write_text("background\nx\ny\nz\n") and None
    ),
    "classes without background": lambda data: (data / "classes.txt").write_text("x\ny\n") and None,
    "broken mask": lambda data: spoil(data / "masks" / "p01.png"),
    "mask of another size": lambda data: Image.new("L", (9, 9)).save(data / "masks" / "p01.png"),
    "mask of another class": lambda data: Image.new("L", (32, 24), 9).save(data / "masks" / "p01.png"),
    "mask that contradicts": lambda data: Image.new("L", (32, 24), 1).save(data / "masks" / "p01.png"),
    "no masks": lambda data: shutil.rmtree(data / "masks"),
    "copies in both splits": lambda data: Image.fromarray(draw_picture(0)).save(data / "images" / "p02.png"),
    "two tables": lambda data: (data / "labels.json").write_text("{}") and None,
    "no labels": lambda data: (data / "labels.csv").unlink(),
    "mask without picture": lambda data: Image.new("L", (9, 9)).save(data / "masks" / "q.png"),
}
FINE = {
    "nothing",
    "background",
    "mask that contradicts",
    "no masks",
    "copies in both splits",
    "mask without picture",
}


@pytest.mark.parametrize("what", FOLDERS)
def test_ingest_refuses_what_check_finds(tmp_path: Path, project_root: Path, what: str) -> None:
    data = write_data(tmp_path / "data")
    params = build(project_root, data)
    FOLDERS[what](data)
    report = check(params, data)
    assert report["problems"] == refuse(params, tmp_path / "work")
    assert bool(report["problems"]) == (what not in FINE)


VOCS: dict[str, Callable[[Path], None]] = {
    "nothing": lambda year: None,
    "no annotation": lambda year: (year / "Annotations" / "2007_000001.xml").unlink(),
    "no object": lambda year: write_annotation(year, "2007_000001", []),
    "in both lists": lambda year: write_list(year, "val", ["2007_000001"]),
    "broken picture": lambda year: spoil(year / "JPEGImages" / "2007_000001.jpg", b"\xff\xd8\xff"),
    "id of no class": lambda year: write_mask(
        year / "SegmentationClass" / "2007_000001.png", draw_mask(99, (24, 32))
    ),
    "no list": lambda year: (year / "ImageSets" / "Segmentation" / "val.txt").unlink(),
}


@pytest.mark.parametrize("image_labels", ["xml", "masks"])
@pytest.mark.parametrize("what", VOCS)
def test_ingest_refuses_what_check_finds_in_voc(
    tmp_path: Path, project_root: Path, what: str, image_labels: str
) -> None:
    year = write_devkit(tmp_path)
    params = build(project_root, tmp_path / "VOCdevkit", image_labels=image_labels)
    VOCS[what](year)
    report = check(params, tmp_path / "VOCdevkit")
    assert report["problems"] == refuse(params, tmp_path / "work")
    needless = what == "nothing" or (image_labels == "masks" and what in ("no annotation", "no object"))
    assert bool(report["problems"]) == (not needless)


COCOS: dict[str, Callable[[Path], None]] = {
    "nothing": lambda root: None,
    "missing picture": lambda root: (root / "train2017" / "000000000001.jpg").unlink(),
    "broken picture": lambda root: spoil(root / "train2017" / "000000000001.jpg"),
    "another size": lambda root: Image.new("RGB", (9, 9)).save(root / "train2017" / "000000000001.jpg"),
    "broken JSON": lambda root: spoil(root / "annotations" / "instances_val2017.json", b"{"),
    "strange category": lambda root: (
        write_json(root, "instances_val2017", [entry(9, "000000000009.jpg")], [annotate(9, 77, [])]) and None
    ),
}


@pytest.mark.parametrize("what", COCOS)
def test_ingest_refuses_what_check_finds_in_coco(tmp_path: Path, project_root: Path, what: str) -> None:
    root = write_coco(tmp_path / "coco")
    params = build(project_root, root)
    COCOS[what](root)
    report = check(params, root)
    assert report["problems"] == refuse(params, tmp_path / "work")
    assert bool(report["problems"]) == (what != "nothing")


# -- what it says --------------------------------------------------------------------------------


def test_it_describes_what_ingest_makes(tmp_path: Path, project_root: Path) -> None:
    data = write_data(tmp_path / "data", 24, split=False)
    params = build(project_root, data)
    report = check(params, data)
    ingest.run(params, Workspace(tmp_path / "work"))
    index = ImageStore(tmp_path / "work" / "data" / "images.zarr").index
    assert report["kind"] == "folder"
    assert report["split"] == "chosen"
    for split in ("train", "val"):
        assert report["pictures"][split] == len(index.rows(split))
        assert (
            list(report["per_class"][split].values()) == index.image_labels[index.rows(split)].sum(0).tolist()
        )
    assert report["height"] == {"min": 24, "median": 24, "max": 24}
    assert report["estimate"]["seconds"]["total"] > 0
    json.dumps(report)
    assert not (data / ".work").exists()


def test_imbalance_duplicates_and_contradictions_are_said_in_words(
    tmp_path: Path, project_root: Path
) -> None:
    data = write_data(tmp_path / "data", 30)
    lines = [f"p{n:02d},{'y' if n in (0, 29) else 'x'},{'val' if n > 27 else 'train'}" for n in range(30)]
    (data / "labels.csv").write_text("\n".join(["id,classes,split", *lines]))
    Image.fromarray(draw_picture(3)).save(data / "images" / "p28.png")
    Image.fromarray(draw_picture(0)).save(data / "images" / "p04.png")
    (data / "masks" / "p28.png").unlink()
    report = check(build(project_root, data), data)
    assert report["problems"] == []
    text = "\n".join(report["warnings"])
    assert "`x` has 27 times as many training pictures as `y` (27 and 1)" in text
    assert "fewer than 10 training pictures: y" in text
    assert "1 pair of equal or nearly equal pictures in both splits" in text
    assert "1 pair of equal or nearly equal pictures with different classes" in text
    assert "1 picture without a mask: not scored" in text
    assert "with other classes than the image labels" in text
    pairs = report["duplicates"]["first"]
    assert pairs[0] == {
        "pictures": ["images/p03.png", "images/p28.png"],
        "equal": True,
        "bits": 0,
        "across_splits": True,
        "same_classes": True,
    }
    assert pairs[1]["pictures"] == ["images/p00.png", "images/p04.png"]


def test_whole_pictures_are_described_beside_broken_ones(tmp_path: Path, project_root: Path) -> None:
    data = write_data(tmp_path / "data")
    spoil(data / "images" / "p01.png")
    report = check(build(project_root, data), data)
    assert report["pictures"] == {"train": 3, "val": 2}
    assert report["pictures_listed"] == 6


# -- the command -----------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, project_root: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    text = (project_root / "params.yaml").read_text()
    (root / "params.yaml").write_text(
        text.replace("workers: 0", "workers: 1").replace("num_train: 120", "num_train: 8")
    )
    return root


def invoke(project: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["check", *arguments, "--root", str(project)], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def test_a_whole_folder(tmp_path: Path, project: Path) -> None:
    data = write_data(tmp_path / "data")
    status, shown, _ = invoke(project, str(data))
    assert status == 0
    assert f"{data}: a folder of pictures (source.kind: folder)" in shown
    assert "6 pictures: 4 train and 2 val (split given)" in shown
    assert f"nothing is wrong. Next: dsrg run {data}" in shown


def test_a_broken_folder_exits_with_1_and_json_only(tmp_path: Path, project: Path) -> None:
    data = write_data(tmp_path / "data")
    spoil(data / "images" / "p01.png")
    status, shown, progress = invoke(project, str(data), "--json")
    assert status == 1
    report = json.loads(shown)
    assert report["problems"] == [
        "images/p01.png: is empty (0 bytes): put a whole one in its place, or take it out"
    ]
    assert "check pictures" in progress
    status, shown, _ = invoke(project, str(data))
    assert status == 1
    assert "wrong (1):\n  images/p01.png: is empty (0 bytes)" in shown


def test_problems_of_one_reason_are_told_together(tmp_path: Path, project: Path) -> None:
    data = write_data(tmp_path / "data", 12)
    for number in range(6):
        change_table(data, f"p{number:02d},{'xy'[number % 2]}", f"p{number:02d},")
    status, shown, _ = invoke(project, str(data))
    assert status == 1
    assert "6 files: no class is named: name one" in shown
    assert "p00.png, p01.png, p02.png, p03.png, p04.png, p05.png\n" in shown
    assert f"or, if it is meant so: dsrg run {data} --set ingest.strict=false" in shown


def test_coco_with_categories(tmp_path: Path, project: Path) -> None:
    root = write_coco(tmp_path / "coco")
    status, shown, _ = invoke(project, str(root), "--categories", "animal, person")
    assert status == 0
    assert "animal" in shown
    assert f'dsrg run {root} --set \'source.categories=["animal", "person"]\'' in shown
    status, _, _ = invoke(project, str(root), "--kind", "folder")
    assert status == 1


def test_voc_from_masks(tmp_path: Path, project: Path) -> None:
    write_devkit(tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "VOCdevkit" / "VOC2012" / "Annotations")
    assert invoke(project, str(tmp_path / "data"))[0] == 1
    status, shown, _ = invoke(project, str(tmp_path / "data"), "--image-labels", "masks")
    assert status == 0
    assert "image labels are made from the masks (source.image_labels: masks)" in shown


def test_what_params_yaml_names(project: Path) -> None:
    status, shown, _ = invoke(project)
    assert status == 0
    assert "8 train and 40 val" in shown


def test_values_that_do_not_go_together(tmp_path: Path, project_root: Path) -> None:
    data = write_data(tmp_path / "data")
    params = build(project_root, data)
    with pytest.raises(UserError, match=r"`categories` must be \[\] where `kind` is folder"):
        choose_source(params, data, categories=["cat"])
    with pytest.raises(UserError, match="nowhere` not found"):
        choose_source(params, tmp_path / "nowhere")
    write_coco(data)
    with pytest.raises(
        UserError, match=r"could be folder .* or set source.kind to one of them .here: --kind."
    ):
        choose_source(params, data)
    assert choose_source(params, data, kind="coco", categories=["cat"]).source.categories == ("cat",)


def test_a_mask_may_be_checked_without_a_picture_of_its_class(tmp_path: Path, project_root: Path) -> None:
    """Masks decide nothing: noise in them changes neither split nor counts."""
    data = write_data(tmp_path / "data", split=False)
    params = build(project_root, data)
    before = check(params, data)
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 3, (24, 32), np.uint8)
        Image.fromarray(noise).save(data / "masks" / f"p{number:02d}.png")
    after = check(params, data)
    assert before["per_class"] == after["per_class"]
    assert before["pictures"] == after["pictures"]
