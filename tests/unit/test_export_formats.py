from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from exported import expect_maps, export
from PIL import Image
from ruamel.yaml import YAML
from tiny_labels import CLASSES, PICTURES, build_labelled

from dsrg.image import read_image, read_mask
from dsrg.labels import build_palette
from tasks.params import Params
from tasks.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
FORMATS = ("voc", "coco", "png", "yolo", "nnunet", "zarr")
NNUNET = "Dataset501_Tiny"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Params, Workspace]:
    """Not to be changed."""
    return build_labelled(tmp_path_factory.mktemp("labelled"))


# -- each format is read by the program it is for, or by what stands for it ---------------------


def test_voc_is_read_by_torchvision(labelled: tuple[Params, Workspace], tmp_path: Path):
    from torchvision.datasets import VOCSegmentation

    export(labelled, tmp_path / "out", "voc")
    expected = expect_maps(labelled)
    data = VOCSegmentation(str(tmp_path / "out"), year="2012", image_set="train", download=False)
    assert len(data) == len(PICTURES)
    for path, (image, target) in zip(data.masks, data, strict=True):
        name = Path(path).name.removesuffix(".png")
        assert target.mode == "P"
        assert (np.array(target) == expected[name]).all()
        assert image.size == target.size
        palette = np.array(target.getpalette()).reshape(-1, 3)
        assert (palette == build_palette()[: len(palette)]).all()
    for image_set, count in (("trainval", len(PICTURES)), ("val", 0)):
        assert len(VOCSegmentation(str(tmp_path / "out"), image_set=image_set)) == count
    root = tmp_path / "out" / "VOCdevkit" / "VOC2012"
    assert (root / "classes.txt").read_text().splitlines() == ["background", *CLASSES]
    assert "cat:128,0,0::" in (root / "labelmap.txt").read_text().splitlines()


def test_coco_masks_are_read_exactly(labelled: tuple[Params, Workspace], tmp_path: Path):
    out = tmp_path / "out"
    export(labelled, out, "coco")
    coco, expected = read_coco(out), expect_maps(labelled)
    assert [(c["id"], c["name"]) for c in coco.dataset["categories"]] == list(enumerate(CLASSES, 1))
    assert {image["file_name"] for image in coco.dataset["images"]} == {name for name, *_ in PICTURES}
    for image in coco.dataset["images"]:
        shown = read_image(out / "images" / image["file_name"])
        assert shown.shape[:2] == (image["height"], image["width"])
        label_map = expected[name_id(image["file_name"])]
        held = set()
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            mask = coco.annToMask(annotation).astype(bool)
            assert (mask == (label_map == annotation["category_id"])).all()
            assert annotation["area"] == mask.sum()
            x, y, w, h = annotation["bbox"]
            assert mask[y : y + h, x : x + w].sum() == mask.sum()
            held.add(annotation["category_id"])
        assert held == set(np.unique(label_map).tolist()) - {0, 255}


@pytest.mark.parametrize("simplify", [0.0, 1.0])
def test_coco_polygons_are_read_closely(labelled: tuple[Params, Workspace], tmp_path: Path, simplify: float):
    out = tmp_path / "out"
    export(labelled, out, "coco", segmentation="polygons", simplify=simplify)
    coco, expected = read_coco(out), expect_maps(labelled)
    for image in coco.dataset["images"]:
        label_map = expected[name_id(image["file_name"])]
        drawn = np.zeros((4, *label_map.shape), bool)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            assert annotation["iscrowd"] == 0
            drawn[annotation["category_id"]] |= coco.annToMask(annotation).astype(bool)
        for class_id in set(np.unique(label_map).tolist()) - {0, 255}:
            mask = label_map == class_id
            iou = (drawn[class_id] & mask).sum() / (drawn[class_id] | mask).sum()
            assert iou > 0.98 if simplify else iou == 1


def read_coco(out: Path) -> Any:
    from pycocotools.coco import COCO

    return COCO(str(out / "annotations" / "instances_train.json"))


def name_id(file_name: str) -> str:
    return str(Path(file_name).with_suffix("")).replace("/", "__")


def test_png_masks_hold_ids_as_grey_levels(labelled: tuple[Params, Workspace], tmp_path: Path):
    out = tmp_path / "out"
    export(labelled, out, "png")
    expected = expect_maps(labelled)
    for name, label_map in expected.items():
        with Image.open(out / "masks" / "train" / f"{name}.png") as mask:
            assert mask.mode == "L"
            assert (np.array(mask) == label_map).all()
        assert read_image(out / "images" / "train" / f"{name}.jpg").shape[:2] == label_map.shape
    assert (out / "train.txt").read_text(encoding="utf-8").splitlines() == list(expected)
    settings = YAML(typ="safe").load(out / "data.yaml")
    assert settings["names"] == dict(enumerate(["background", *CLASSES]))
    assert (settings["masks_dir"], settings["train"]) == ("masks", "images/train")


def test_yolo_polygons_are_filled_back(labelled: tuple[Params, Workspace], tmp_path: Path):
    from skimage.draw import polygon2mask

    out = tmp_path / "out"
    export(labelled, out, "yolo", simplify=0.0)
    settings = YAML(typ="safe").load(out / "data.yaml")
    assert settings["names"] == dict(enumerate(CLASSES))
    assert "path" not in settings
    for name, label_map in expect_maps(labelled).items():
        drawn = np.zeros_like(label_map)
        for line in (out / "labels" / "train" / f"{name}.txt").read_text().splitlines():
            words = line.split()
            points = np.array(words[1:], float).reshape(-1, 2)
            assert len(points) >= 3
            assert ((points >= 0) & (points <= 1)).all()
            corners = points[:, ::-1] * label_map.shape - 0.5  # skimage: (row, column) of pixel centres
            drawn[polygon2mask(label_map.shape, corners)] = int(words[0]) + 1
        assert (drawn == np.where(label_map == 255, 0, label_map)).mean() > 0.999
        assert len(list((out / "images" / "train").glob(f"{glob_escape(name)}.*"))) == 1
    assert (out / "labels" / "train" / "only background.txt").read_bytes() == b""


def glob_escape(name: str) -> str:
    import glob

    return glob.escape(name)


def test_nnunet_gets_consecutive_ids(labelled: tuple[Params, Workspace], tmp_path: Path):
    from skimage import io

    out = tmp_path / NNUNET
    export(labelled, out, "nnunet")
    about = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
    names = ["background", *CLASSES, "ignore"]
    assert about["labels"] == {name: number for number, name in enumerate(names)}
    assert about["numTraining"] == len(PICTURES) == len(list((out / "imagesTr").iterdir()))
    for name, label_map in expect_maps(labelled).items():
        # read as nnU-Net's NaturalImage2DIO does
        image = io.imread(out / "imagesTr" / f"{name}_0000{about['file_ending']}")
        mask = io.imread(out / "labelsTr" / f"{name}{about['file_ending']}")
        assert image.shape == (*label_map.shape, 3)
        assert (mask == np.where(label_map == 255, 4, label_map)).all()


def test_nnunet_declares_ignore_only_where_something_is(labelled: tuple[Params, Workspace], tmp_path: Path):
    out = tmp_path / NNUNET
    export(labelled, out, "nnunet", unlabelled="background", images="none")
    assert "ignore" not in json.loads((out / "dataset.json").read_text())["labels"]
    assert max(read_mask(place).max() for place in (out / "labelsTr").iterdir()) == len(CLASSES)


def test_zarr_holds_an_array_for_each_picture(labelled: tuple[Params, Workspace], tmp_path: Path):
    out = tmp_path / "out"
    export(labelled, out, "zarr", images="none")
    group = zarr.open_group(str(out / "labels.zarr"), mode="r")
    assert group.attrs["classes"] == ["background", *CLASSES]
    expected = expect_maps(labelled)
    assert list(group["id"][:]) == list(expected)
    for name, array in zip(group["id"][:], group["array"][:], strict=True):
        assert (group[array][:] == expected[name]).all()
        assert group[array].attrs["id"] == name
    assert set(group["file_name"][:]) == {name for name, *_ in PICTURES}
