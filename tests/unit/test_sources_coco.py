"""The coco source: classes, image labels, drawn masks, and what it says of files that are wrong."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from tiny_coco import (
    CATEGORIES,
    annotate,
    draw_crowd,
    draw_object,
    entry,
    write_coco,
    write_json,
    write_picture,
)

from dsrg.image import DecodeError
from dsrg.sources import Source, SourceError
from dsrg.sources.coco import open_coco

SQUARE = [[2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


def show(source: Source) -> dict[str, tuple[str, list[str]]]:
    return {
        record.id[-2:]: (record.split, [source.classes[k] for k in np.flatnonzero(record.image_labels)])
        for record in source.records
    }


def draw(source: Source, row: int) -> Any:
    mask = source.reader.read_gt_label(source.records[row])
    assert mask is not None
    return mask


def write_one(root: Path, annotations: list[Any], **more: Any) -> Path:
    """Write one JSON with one picture beside images/."""
    write_picture(root / "images" / "a.jpg", 0)
    write_json(root, "all", [entry(7, "a.jpg")], annotations, folder="", **more)
    return root


def test_splits_classes_and_image_labels(root: Path) -> None:
    source = open_coco(root)
    assert source.problems == ()
    assert source.classes == ("person", "cat", "dog")
    assert show(source) == {
        "00": ("train", ["cat"]),
        "01": ("train", ["dog"]),
        "02": ("train", ["person", "cat"]),
        "03": ("train", ["dog"]),
        "04": ("train", ["cat"]),
        "05": ("train", ["person", "dog"]),
        "07": ("val", ["dog"]),
        "08": ("val", ["person", "cat"]),
        "09": ("val", ["dog"]),
    }
    assert source.records[0].name == "train2017/000000000000.jpg"
    assert source.reader.read_image(source.records[0]).shape == (24, 32, 3)
    assert "instances_train2017.json: 1 picture without any of the categories, left out" in source.remarks
    assert "categories without an annotation are no classes: toaster" in source.remarks


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools itself
def test_masks_are_those_of_pycocotools(root: Path) -> None:
    source = open_coco(root)
    reference = COCO(root / "annotations" / "instances_train2017.json")
    for record in source.records:
        if record.split == "train":
            mask = source.reader.read_gt_label(record)
            expected = np.zeros((24, 32), np.uint8)
            annotations = reference.loadAnns(reference.getAnnIds(imgIds=int(record.id)))
            for annotation in sorted(annotations, key=lambda found: -found["iscrowd"]):
                class_id = {1: 255, 17: 2, 18: 3}[annotation["category_id"]]
                expected[reference.annToMask(annotation).astype(bool)] = class_id
            assert np.array_equal(mask, expected)
            assert 0 < (mask == 255).sum() + (mask > 0).sum() < mask.size


def test_a_crowd_is_a_label_but_ignored_in_the_truth(root: Path) -> None:
    source = open_coco(root)
    assert source.records[2].image_labels.tolist() == [True, True, False]
    assert set(np.unique(draw(source, 2))) == {0, 2, 255}


def test_a_supercategory_is_one_class(root: Path) -> None:
    source = open_coco(root, categories=["animal", "person"])
    assert source.classes == ("person", "animal")
    assert {tuple(labels) for _, labels in show(source).values()} == {("animal",), ("person", "animal")}
    assert (draw(source, 1)[:, :16] == 2).all()


def test_some_categories_leave_pictures_out_and_others_are_background(root: Path) -> None:
    source = open_coco(root, categories=["dog"])
    assert source.classes == ("dog",)
    assert list(show(source)) == ["01", "03", "05", "07", "09"]
    assert set(np.unique(draw(source, 2))) == {0, 1}
    assert "instances_train2017.json: 4 pictures without any of the categories, left out" in source.remarks


def test_categories_that_there_are_not(root: Path) -> None:
    with pytest.raises(
        SourceError, match=r"names `dogs`, no category or supercategory: did you mean `dog`\?"
    ):
        open_coco(root, categories=["dogs"])
    with pytest.raises(SourceError, match="`cat` would be in animal and cat: name only one of them"):
        open_coco(root, categories=["animal", "cat"])


def test_a_wanted_category_without_pictures_stays_to_be_told(root: Path) -> None:
    source = open_coco(root, categories=["dog", "toaster"])
    assert source.classes == ("dog", "toaster")
    assert source.way_out.startswith("take it out of `source.categories`")


def test_the_smaller_object_is_on_top(tmp_path: Path) -> None:
    large, small = draw_object(0, 24, 32), SQUARE
    pair = [annotate(7, 17, large), annotate(7, 18, small)]
    for ordered in (pair, pair[::-1]):
        source = open_coco(write_one(tmp_path, ordered))
        mask = draw(source, 0)
        assert (mask == 2).sum() == 36
        assert (mask == 1).sum() == 24 * 16 - 36


def test_one_file_beside_images_leaves_the_split_open(tmp_path: Path) -> None:
    source = open_coco(write_one(tmp_path, [annotate(7, 17, SQUARE)]))
    assert [(record.id, record.split) for record in source.records] == [("a", "")]


def test_val_alone_leaves_the_split_open(root: Path) -> None:
    (root / "annotations" / "instances_train2017.json").unlink()
    assert {record.split for record in open_coco(root).records} == {""}


def test_pictures_may_lie_in_images(root: Path) -> None:
    (root / "images").mkdir()
    (root / "train2017").rename(root / "images" / "train2017")
    for picture in list((root / "val2017").iterdir()):
        picture.rename(root / "images" / picture.name)
    (root / "val2017").rmdir()
    assert open_coco(root).problems == ()


def test_an_outline_that_is_missing_leaves_the_picture_unscored(tmp_path: Path) -> None:
    source = open_coco(write_one(tmp_path, [annotate(7, 17, SQUARE), annotate(7, 18, [])]))
    assert source.records[0].image_labels.tolist() == [True, True]
    assert source.reader.read_gt_label(source.records[0]) is None
    assert not source.gt_available
    assert "all.json: 1 picture with an annotation without segmentation: not scored" in source.remarks


def test_run_lengths_of_another_size(tmp_path: Path) -> None:
    source = open_coco(write_one(tmp_path, [annotate(7, 18, draw_object(1, 20, 32))]))
    with pytest.raises(DecodeError, match=r"run lengths are for 20 x 32 pixels, .* entered as 24 x 32"):
        draw(source, 0)


def test_a_worker_gets_little(root: Path) -> None:
    source = open_coco(root)
    assert len(pickle.dumps(source.reader)) < 100
    assert len(pickle.dumps(source.records[0])) < 1500


def test_outlines_change_nothing_but_the_truth(root: Path) -> None:
    before = open_coco(root)
    for path in (root / "annotations").iterdir():
        content = json.loads(path.read_text())
        for annotation in content["annotations"]:
            annotation["segmentation"] = SQUARE
        path.write_text(json.dumps(content))
    after = open_coco(root)
    assert show(before) == show(after)
    assert before.classes == after.classes
    assert not np.array_equal(draw(before, 0), draw(after, 0))


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (annotate(8, 17, SQUARE), "annotations[0]: `image_id` 8 is the id of no image"),
        (annotate(7, 99, SQUARE), "annotations[0] (`a.jpg`): `category_id` 99 is no category's id"),
        ({"image_id": 7}, "annotations[0]: must have an `image_id` and a `category_id`"),
        (
            annotate(7, 17, [[1, 2, 3, 4, 5e9, 6]]),
            "annotations[0] (`a.jpg`): a polygon has a corner farther out",
        ),
        (
            annotate(7, 17, [[1, 2, 3, 4, 5, 6, 7]]),
            "annotations[0] (`a.jpg`): a polygon must hold pairs x, y",
        ),
        (annotate(7, 17, [["x", 2]]), "a polygon must be a flat list of numbers"),
        (annotate(7, 17, "yes"), "`segmentation` must be a list of polygons, or run lengths"),
        (
            annotate(7, 17, {"size": [24], "counts": [1]}),
            "`size` of run lengths must be [height, width], got [24]",
        ),
        (annotate(7, 17, {"size": [24, 32], "counts": [700, 1]}), "add up to 701 pixels, not to 24 x 32"),
        (
            annotate(7, 17, {"size": [24, 32], "counts": "Qf"}),
            "counts` of run lengths is no string that COCO's",
        ),
        (
            annotate(7, 17, {"size": [24, 32], "counts": "11"}),
            "run lengths add up to 2 pixels, not to the 768",
        ),
        (annotate(7, 17, {"size": [24, 32], "counts": 5}), "must be a list of numbers or a string"),
    ],
)
def test_single_bad_annotations_are_told(tmp_path: Path, annotation: dict[str, Any], message: str) -> None:
    good = annotate(7, 18, SQUARE)
    source = open_coco(write_one(tmp_path, [annotation, good]))
    assert len(source.problems) == 1
    assert source.problems[0].startswith("all.json annotations[0]")
    assert message in source.problems[0]
    assert source.classes == ("dog",)


def test_points_and_lines_cover_nothing(tmp_path: Path) -> None:
    source = open_coco(write_one(tmp_path, [annotate(7, 17, [[1, 2, 3, 4], *SQUARE])]))
    assert source.problems == ()
    assert (draw(source, 0) == 1).sum() == 36


def test_single_bad_pictures_are_told(tmp_path: Path) -> None:
    root = tmp_path
    write_picture(root / "images" / "a.jpg", 0)
    write_picture(root / "images" / "b.jpg", 1)
    images = [entry(1, "a.jpg"), entry(1, "b.jpg"), entry(2, "gone.jpg"), {"id": 3}, entry(4, "b.jpg", 0)]
    images.append(entry(5, "../../secret.jpg"))
    write_json(root, "all", images, [annotate(n, 17, SQUARE) for n in (1, 2, 4, 5)], folder="")
    assert open_coco(root).problems == (
        "all.json images[1] (`b.jpg`): id 1 is `a.jpg` already",
        "all.json images[3]: must have an `id` and a `file_name`",
        "all.json (`gone.jpg`): no such picture in `images/`: add it, or take its entry out",
        "all.json (`b.jpg`): has no `height` and `width`: its mask cannot be drawn",
        "all.json (`../../secret.jpg`): no such picture in `images/`: add it, or take its entry out",
    )


def test_a_missing_folder_of_pictures_is_one_problem(root: Path) -> None:
    (root / "train2017").rename(root / "elsewhere")
    assert open_coco(root).problems == (
        "instances_train2017.json: none of its 6 pictures is in `coco`: put them into `train2017/` or "
        "`images/`, or take instances_train2017.json away",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no valid JSON"),
        ("[" * 100_000, "is nested too deeply to be read"),
        ("9" * 5000, r"is no valid JSON \(Exceeds the limit \(4300 digits\)"),
        (
            '{"images": [{"id": 1, "file_name": "\\ud83d"}], "annotations": [], "categories": []}',
            r"holds half of a character \(\\ud83d\): export it again",
        ),
        ("[]", "lacks images, annotations, categories: an instances JSON of COCO holds"),
        ('{"images": [], "annotations": []}', "lacks categories"),
        ('{"images": [], "annotations": [], "categories": []}', "`categories` is empty"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1}]}',
            r"categories\[0\]: must have an `id` .* and a `name`",
        ),
        (
            '{"images": [], "annotations": [], '
            '"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}',
            "category name `a` has several ids",
        ),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no class is named"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "all.json").write_text(text)
    with pytest.raises(SourceError, match=message):
        open_coco(tmp_path)


def test_files_that_contradict_each_other(root: Path) -> None:
    write_json(root, "instances_val2017", [], [], categories=[{"id": 17, "name": "kitten"}])
    with pytest.raises(
        SourceError, match=r"category 17 is `kitten` there, but `cat` in instances_train2017.json"
    ):
        open_coco(root)


def test_folders_that_are_no_coco(tmp_path: Path, root: Path) -> None:
    with pytest.raises(SourceError, match=r"not found. Set `source.path` to the folder"):
        open_coco(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="no instances JSON: expected annotations/instances_train"):
        open_coco(tmp_path)
    write_json(root, "instances_train2014", [], [])
    with pytest.raises(
        SourceError, match=r"holds instances_train2014.json, instances_train2017.json: leave one"
    ):
        open_coco(root)


def test_a_crowd_lies_below_objects(tmp_path: Path) -> None:
    everywhere = {"size": [24, 32], "counts": [0, 24 * 32]}
    source = open_coco(write_one(tmp_path, [annotate(7, 17, SQUARE), annotate(7, 1, everywhere, crowd=1)]))
    mask = draw(source, 0)
    assert (mask == 2).sum() == 36
    assert (mask == 255).sum() == mask.size - 36
    assert draw_crowd(24, 32)["counts"][0] == 24 * 24 + 12
    assert len(CATEGORIES) == 4
