"""Synthetic pictures: the same for one seed, exact in their truth, with a small part per class."""

from __future__ import annotations

import numpy as np
import pytest

from dsrg.sources import scenes, synthetic
from dsrg.sources.base import Source, SourceError
from dsrg.sources.emblems import CLASSES, EMBLEMS
from dsrg.sources.scenes import Plan, Shape, cut_shape, draw_gt_label, draw_image
from dsrg.sources.synthetic import open_synthetic, plan_scene

SIZE = 128


@pytest.fixture(scope="module")
def source() -> Source:
    return open_synthetic(num_train=24, num_val=8, size=SIZE, random_seed=0)


def test_records(source: Source) -> None:
    assert [record.id for record in source.records][:2] == ["train-000000", "train-000001"]
    assert [record.split for record in source.records] == ["train"] * 24 + ["val"] * 8
    assert [record.id for record in source.records] == sorted(record.id for record in source.records)
    counts = np.stack([record.image_labels for record in source.records]).sum(axis=1)
    assert counts.min() >= 1
    assert counts.max() == 3


def test_the_same_seed_draws_the_same_pictures_however_many(source: Source) -> None:
    fewer = open_synthetic(num_train=3, num_val=1, size=SIZE, random_seed=0)
    for record in fewer.records:
        twin = next(other for other in source.records if other.id == record.id)
        assert np.array_equal(record.image_labels, twin.image_labels)
        assert np.array_equal(fewer.reader.read_image(record), source.reader.read_image(twin))
        gt_label, twin_gt_label = fewer.reader.read_gt_label(record), source.reader.read_gt_label(twin)
        assert gt_label is not None
        assert twin_gt_label is not None
        assert np.array_equal(gt_label, twin_gt_label)


def test_other_seeds_and_splits_draw_other_pictures(source: Source) -> None:
    other = open_synthetic(num_train=1, num_val=1, size=SIZE, random_seed=1)
    pictures = [
        source.reader.read_image(source.records[0]),
        source.reader.read_image(source.records[24]),
        other.reader.read_image(other.records[0]),
        other.reader.read_image(other.records[1]),
    ]
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_image_labels_are_the_classes_of_the_truth(source: Source) -> None:
    for record in source.records:
        gt_label = source.reader.read_gt_label(record)
        assert gt_label is not None
        assert gt_label.shape == (SIZE, SIZE)
        assert gt_label.dtype == np.uint8
        held = [int(i) for i in np.unique(gt_label) if i]
        assert held == (np.flatnonzero(record.image_labels) + 1).tolist()


def test_pictures_are_rgb(source: Source) -> None:
    image = source.reader.read_image(source.records[0])
    assert image.shape == (SIZE, SIZE, 3)
    assert image.dtype == np.uint8
    assert image.std() > 10


def list_bugs(source: Source) -> list[Shape]:
    plans = [
        plan_scene(size=256, random_seed=0, split=r.split, number=int(r.id[-6:])) for r in source.records
    ]
    return [shape for plan in plans for shape in plan.shapes if shape.class_id]


def test_the_part_is_small_but_visible(source: Source) -> None:
    """A head has 10 to 25% of its bug's area and at least 14 pixels across at 256."""
    shares = []
    for bug in list_bugs(source):
        place = bug.centre + np.arange(-120.0, 120)[:, None]
        whole, head = cut_shape(bug, place[:, 0], place[:, 1])
        shares.append(head.sum() / whole.sum())
        assert 2 * bug.head_radius >= 14
    assert np.quantile(shares, 0.05) > 0.10
    assert np.quantile(shares, 0.95) < 0.25


def test_a_body_does_not_tell_the_class() -> None:
    """Textures are shared by two classes each, and clutter has all of them."""
    textures = {synthetic._TEXTURES[class_id % 3] for class_id in range(1, len(CLASSES) + 1)}
    assert len(CLASSES) == 2 * len(textures)
    plans = [plan_scene(size=64, random_seed=0, split="train", number=n) for n in range(30)]
    clutter = {shape.texture for plan in plans for shape in plan.shapes if not shape.class_id}
    assert clutter == textures


def test_the_truth_follows_the_painted_shape() -> None:
    """Without its bugs the picture differs where the truth says so, and (nearly) nowhere else."""
    for number in range(6):
        plan = plan_scene(size=256, random_seed=3, split="train", number=number)
        bare = Plan(**{**vars(plan), "shapes": tuple(s for s in plan.shapes if not s.class_id)})
        with_bugs = draw_image(plan, size=256).astype(int)
        changed = np.abs(with_bugs - draw_image(bare, size=256)).max(axis=2) > 6
        held = draw_gt_label(plan, size=256) > 0
        assert (changed & held).sum() / (changed | held).sum() > 0.95


def test_every_head_is_seen() -> None:
    for number in range(20):
        plan = plan_scene(size=128, random_seed=5, split="val", number=number)
        gt_label = draw_gt_label(plan, size=128)
        for bug in plan.shapes:
            if bug.class_id:
                row, column = np.floor(bug.head_centre).astype(int)
                assert gt_label[row, column] == bug.class_id


def test_a_missing_photograph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "PHOTOGRAPHS", ("gone.png",))
    plan = plan_scene(size=64, random_seed=0, split="train", number=0)
    with pytest.raises(SourceError, match=r"scikit-image comes without gone.png: install the version"):
        draw_image(plan, size=64)


def test_every_emblem_fits_the_unit_disc() -> None:
    v, u = np.mgrid[-1.5:1.5:301j, -1.5:1.5:301j]
    for name, draw in EMBLEMS.items():
        inside, colour = draw(u, v)
        assert np.hypot(u, v)[inside].max() <= 1.0, name
        assert colour.shape == (301, 301, 3)


def test_photographs_come_with_scikit_image() -> None:
    for name in scenes.PHOTOGRAPHS:
        assert min(scenes._load_photograph(name).shape[:2]) >= 256
