"""The voc source: lists, image labels, masks, and what it says of a devkit that is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_voc import draw_mask, write_annotation, write_devkit, write_list, write_mask

from dsrg.image import DecodeError
from dsrg.sources import Source, SourceError
from dsrg.sources.voc import VOC_CLASSES, open_voc


@pytest.fixture
def year(tmp_path: Path) -> Path:
    return write_devkit(tmp_path)


def show(source: Source) -> dict[str, tuple[str, list[str]]]:
    return {
        record.id: (record.split, [source.classes[k] for k in np.flatnonzero(record.image_labels)])
        for record in source.records
    }


def test_a_devkit_is_read(year: Path) -> None:
    source = open_voc(year)
    assert source.problems == ()
    assert source.classes == ("cat", "dog")
    assert show(source) == {
        **{f"2007_{n:06d}": ("train", [("cat", "dog")[n % 2]]) for n in range(6)},
        **{f"2007_{n:06d}": ("val", [("cat", "dog")[n % 2]]) for n in range(6, 9)},
    }
    assert source.gt_available
    assert source.reader.read_image(source.records[0]).shape == (24, 32, 3)
    assert source.remarks[:2] == (
        "train: 6 pictures of ImageSets/Segmentation/train.txt",
        "val: 3 pictures of ImageSets/Segmentation/val.txt",
    )


def test_any_level_of_the_devkit_may_be_named(tmp_path: Path, year: Path) -> None:
    trees = [open_voc(path) for path in (tmp_path, tmp_path / "VOCdevkit", year)]
    assert len({source.fingerprint for source in trees}) == 1


def test_ids_of_masks_become_class_ids_and_borders_stay_ignored(year: Path) -> None:
    source = open_voc(year)
    mask = source.reader.read_gt_label(source.records[1])
    assert mask is not None
    stored = np.asarray(Image.open(year / "SegmentationClass" / "2007_000001.png"))
    assert np.array_equal(mask == 2, stored == VOC_CLASSES.index("dog") + 1)
    assert np.array_equal(mask == 255, stored == 255)
    assert (mask == 255).any()


def test_all_twenty_classes_keep_vocs_order(tmp_path: Path) -> None:
    year = write_devkit(tmp_path, train=40, val=20, classes=VOC_CLASSES)
    source = open_voc(year)
    assert source.classes == VOC_CLASSES
    record = source.records[19]
    mask = source.reader.read_gt_label(record)
    stored = np.asarray(Image.open(year / "SegmentationClass" / f"{record.id}.png"))
    assert np.array_equal(mask, stored)


def test_pixels_of_a_class_that_no_picture_is_labelled_with_are_ignored(year: Path) -> None:
    write_mask(year / "SegmentationClass" / "2007_000000.png", draw_mask(20, (24, 32)))
    source = open_voc(year)
    mask = source.reader.read_gt_label(source.records[0])
    assert mask is not None
    assert set(np.unique(mask)) == {0, 255}
    assert any("tvmonitor: no classes here, and ignored in masks" in remark for remark in source.remarks)


def test_an_id_that_no_class_has_is_refused(year: Path) -> None:
    write_mask(year / "SegmentationClass" / "2007_000000.png", draw_mask(21, (24, 32)))
    source = open_voc(year)
    with pytest.raises(DecodeError, match="holds 21: ids go from 0 to 20"):
        source.reader.read_gt_label(source.records[0])


def test_difficult_objects_count_and_parts_do_not(year: Path) -> None:
    write_annotation(year, "2007_000000", ["cat", "sheep"], difficult=["sheep"])
    source = open_voc(year)
    assert source.classes == ("cat", "dog", "sheep")
    assert show(source)["2007_000000"] == ("train", ["cat", "sheep"])


def test_trainaug_and_its_masks_win(year: Path) -> None:
    names = [f"2007_{number:06d}" for number in range(4)]
    write_list(year, "trainaug", names)
    (year / "SegmentationClassAug").mkdir()
    grey = draw_mask(VOC_CLASSES.index("cat") + 1, (24, 32))
    grey[-1] = 255
    Image.fromarray(grey).save(year / "SegmentationClassAug" / "2007_000000.png")
    source = open_voc(year)
    assert [record.id for record in source.records if record.split == "train"] == names
    assert "train: 4 pictures of ImageSets/Segmentation/trainaug.txt" in source.remarks
    first, second = source.records[:2]
    assert (first.mask_name, second.mask_name) == (
        "SegmentationClassAug/2007_000000.png",
        "SegmentationClass/2007_000001.png",
    )
    mask = source.reader.read_gt_label(first)
    assert mask is not None
    assert (mask[-1] == 255).all()


def test_lists_of_paths_name_pictures(year: Path) -> None:
    lines = [f"/JPEGImages/2007_{n:06d}.jpg /SegmentationClassAug/2007_{n:06d}.png" for n in range(3)]
    write_list(year, "train_aug", lines)
    assert sum(record.split == "train" for record in open_voc(year).records) == 3


def test_pictures_without_annotation_are_told_with_the_way_out(year: Path) -> None:
    (year / "Annotations" / "2007_000003.xml").unlink()
    assert open_voc(year).problems == (
        "train.txt (`2007_000003`): no Annotations/2007_000003.xml to take image labels from: add it, or "
        "set source.image_labels=masks, which makes image labels from the masks",
    )
    shutil.rmtree(year / "Annotations")
    with pytest.raises(SourceError, match=r"has no Annotations to take image labels from: add them, or set"):
        open_voc(year)


def test_image_labels_from_masks_only_when_asked_for(year: Path) -> None:
    write_mask(year / "SegmentationClass" / "2007_000000.png", draw_mask(12, (24, 32)))
    assert show(open_voc(year))["2007_000000"] == ("train", ["cat"])
    source = open_voc(year, image_labels="masks")
    assert show(source)["2007_000000"] == ("train", ["dog"])
    assert "image labels are made from the masks (source.image_labels: masks)" in source.remarks
    shutil.rmtree(year / "Annotations")
    assert show(open_voc(year, image_labels="masks")) == show(source)


def test_image_labels_from_masks_need_masks(year: Path) -> None:
    (year / "SegmentationClass" / "2007_000001.png").unlink()
    (year / "SegmentationClass" / "2007_000002.png").write_bytes(b"")
    assert [problem.split(":")[0] for problem in open_voc(year, image_labels="masks").problems] == [
        "train.txt (`2007_000001`)",
        "SegmentationClass/2007_000002.png",
    ]


def test_masks_change_nothing_but_the_truth(year: Path) -> None:
    before = open_voc(year)
    for number in range(9):
        noise = np.random.default_rng(number).integers(0, 21, (24, 32), np.uint8)
        write_mask(year / "SegmentationClass" / f"2007_{number:06d}.png", noise)
    noisy = open_voc(year)
    shutil.rmtree(year / "SegmentationClass")
    bare = open_voc(year)
    assert show(before) == show(noisy) == show(bare)
    assert before.classes == noisy.classes == bare.classes
    assert not bare.gt_available


def test_other_names_than_vocs_are_sorted(year: Path) -> None:
    for number in range(9):
        write_annotation(year, f"2007_{number:06d}", [("zebra", "dog")[number % 2]])
    assert open_voc(year).classes == ("dog", "zebra")
    (year / "classes.txt").write_text("background\nzebra\ndog\n")
    assert open_voc(year).classes == ("zebra", "dog")
    (year / "classes.txt").write_text("background\nzebra\ndgo\n")
    assert (
        "Annotations/2007_000001.xml: class `dog` is not in classes.txt: did you mean `dgo`?"
        in open_voc(year).problems
    )


def test_annotations_that_make_no_sense(year: Path) -> None:
    (year / "Annotations" / "2007_000000.xml").write_text("<annotation><object>")
    write_annotation(year, "2007_000001", [""])
    write_annotation(year, "2007_000002", [])
    (year / "Annotations" / "2007_000003.xml").write_text('<?xml version="1.0" encoding="utf-7"?><a/>')
    (year / "Annotations" / "2007_000004.xml").write_text('<?xml version="1.0" encoding="no"?><a/>')
    source = open_voc(year)
    assert [problem.split(" (")[0] for problem in source.problems] == [
        "Annotations/2007_000000.xml: is no valid XML",
        "Annotations/2007_000001.xml: an object has no name: give it one, or take it out",
        "Annotations/2007_000003.xml: is no valid XML",
        "Annotations/2007_000004.xml: is no valid XML",
    ]
    assert "JPEGImages/2007_000002.jpg" in source.without_class


def test_lists_that_make_no_sense(year: Path) -> None:
    write_list(year, "train", ["2007_000000", "2007_000000", "2007_000007", "gone"])
    source = open_voc(year)
    assert source.problems == (
        "train.txt (`gone`): no such picture in `JPEGImages`: add it, or remove the line",
        "val.txt (`2007_000007`): stands in train.txt, too: keep one",
    )
    assert "train.txt: 1 line with a name that stands there already" in source.remarks
    (year / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(SourceError, match=r"has no ImageSets/Segmentation/val.txt: write one name a line"):
        open_voc(year)


def test_folders_that_are_no_devkit(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"not found. Set `source.path` to the devkit"):
        open_voc(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="no VOC: expected VOCdevkit/VOC2012 with JPEGImages"):
        open_voc(tmp_path)
    for name in ("VOC2007", "VOC2012"):
        (tmp_path / name / "ImageSets" / "Segmentation").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"holds VOC2007, VOC2012: set `source.path` to one of them"):
        open_voc(tmp_path)
    with pytest.raises(SourceError, match="has no JPEGImages"):
        open_voc(tmp_path / "VOC2012")
