"""Training samples: the same sample for the same number, picture and label map never apart."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_data import write_images, write_label_maps
from torch.utils.data import DataLoader

from dsrg.samples import ClassifierSamples, SampleNumbers, SegmenterSamples, order_sample

CANVAS = 48
RED, GREEN, BLUE = (250, 10, 10), (10, 250, 10), (10, 10, 250)


def draw_flag(height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Three coloured parts, none like its mirror image, and the label map that the colours say."""
    label_map = np.zeros((height, width), np.uint8)
    label_map[:, width // 3 :] = 1
    label_map[height // 2 :, : width // 2] = 2
    return np.array([RED, GREEN, BLUE], np.uint8)[label_map], label_map


@pytest.fixture
def images(tmp_path: Path) -> Path:
    pictures = [draw_flag(*size)[0] for size in ((48, 30), (24, 48), (48, 48), (40, 41))]
    return write_images(tmp_path / "images.zarr", pictures, [[1, 1], [0, 1], [1, 0], [0, 0]], canvas=CANVAS)


def open_segmenter_samples(images: Path, **changes: Any) -> SegmenterSamples:
    path = images.with_name("cues.zarr")
    label_maps = [draw_flag(*size)[1] for size in ((48, 30), (24, 48), (48, 48), (40, 41))]
    settings = {"crop_size": 32, "min_scale": 0.75, "max_scale": 1.5, "random_seed": 3} | changes
    return SegmenterSamples(
        images, write_label_maps(path, label_maps, canvas=CANVAS), np.arange(4), **settings
    )


def open_classifier_samples(images: Path) -> ClassifierSamples:
    return ClassifierSamples(images, np.arange(4), crop_size=32, min_scale=0.5, random_seed=3)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_epoch_shows_every_picture_once(count: int) -> None:
    seen = [order_sample(number, count=count, random_seed=0) for number in range(3 * count)]
    assert [epoch for epoch, _ in seen] == [number // count for number in range(3 * count)]
    for epoch in range(3):
        assert sorted(position for e, position in seen if e == epoch) == list(range(count))


def test_epochs_and_random_seeds_have_orders_of_their_own() -> None:
    def order(epoch: int, random_seed: int) -> list[int]:
        return [order_sample(50 * epoch + k, count=50, random_seed=random_seed)[1] for k in range(50)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != order(0, 1)


@pytest.mark.parametrize("open_samples", [open_classifier_samples, open_segmenter_samples])
def test_a_sample_depends_on_its_number_alone(images: Path, open_samples: Any) -> None:
    first = open_samples(images)
    in_order = [first[number] for number in range(8)]
    torch.manual_seed(17)
    state = torch.get_rng_state()
    second = open_samples(images)
    for number in (5, 0, 7, 5):
        for a, b in zip(in_order[number], second[number], strict=True):
            assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(in_order[0][0], in_order[4][0])


def test_loader_processes_hand_out_the_same_samples(images: Path) -> None:
    samples = open_segmenter_samples(images)
    loader = DataLoader(
        samples,
        batch_size=2,
        sampler=SampleNumbers(2, 8),
        num_workers=2,
        multiprocessing_context="forkserver",
    )
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    for step, batch in enumerate(batches):
        for k in range(2):
            for made_there, made_here in zip(batch, samples[2 + 2 * step + k], strict=True):
                assert torch.equal(made_there[k], made_here)


def test_samples_are_float_rgb_with_their_own_image_labels(images: Path) -> None:
    samples = open_classifier_samples(images)
    expected = [[1, 1], [0, 1], [1, 0], [0, 0]]
    for number in range(4):
        image, image_labels = samples[number]
        _, row = order_sample(number, count=4, random_seed=3)
        assert image.shape == (3, 32, 32)
        assert image.dtype == torch.float32
        assert 0 <= float(image.min()) < float(image.max()) <= 1
        assert image_labels.tolist() == expected[row]


def test_segmenter_samples_have_the_shapes_of_the_network(images: Path) -> None:
    samples = open_segmenter_samples(images)
    assert len(samples) == 4
    image, label_map, image_labels, valid = samples[0]
    assert (image.shape, image.dtype) == ((3, 32, 32), torch.float32)
    assert (label_map.shape, label_map.dtype) == ((32, 32), torch.int64)
    assert (image_labels.shape, image_labels.dtype) == ((2,), torch.bool)
    assert (valid.shape, valid.dtype) == ((32, 32), torch.bool)
    assert type(image) is type(label_map) is torch.Tensor
    assert 0 <= float(image.min()) < float(image.max()) <= 1


def test_picture_and_label_map_are_cut_and_mirrored_together(images: Path) -> None:
    """The colours say the class; jitter changes them, but the largest channel stays the largest."""
    samples = open_segmenter_samples(images)
    wrong = total = 0
    for number in range(40):
        image, label_map, _, _ = samples[number]
        known = label_map != 255
        wrong += int((image.argmax(0) != label_map)[known].sum())
        total += int(known.sum())
    assert wrong / total < 0.01  # bilinear edges only


def test_shrunk_label_maps_do_not_lean_to_a_side(tmp_path: Path) -> None:
    """A white part of 27 to 29 columns, shrunk to a third: both must call it as wide, on average."""
    label_maps = [np.tile((np.arange(48) >= edge).astype(np.uint8), (48, 1)) for edge in (19, 20, 21)]
    pictures = [np.repeat(255 * label_map[..., None], 3, axis=2) for label_map in label_maps]
    path = write_images(tmp_path / "images.zarr", pictures, [[1]] * 3, canvas=CANVAS)
    targets = write_label_maps(tmp_path / "cues.zarr", label_maps, canvas=CANVAS)
    samples = SegmenterSamples(
        path, targets, np.arange(3), crop_size=16, min_scale=1.0, max_scale=1.0, random_seed=0
    )
    samples.jitter = lambda image, mask: (image.float() / 255, mask)
    leans = [
        float(image[0].mean() - label_map.float().mean())
        for image, label_map, _, _ in map(samples.__getitem__, range(3))
    ]
    assert abs(np.mean(leans)) * 16 < 0.1


def test_padding_is_grey_and_unlabelled_and_on_any_side(images: Path) -> None:
    samples = open_segmenter_samples(images, min_scale=0.6, max_scale=0.7)
    sides = np.zeros(4, bool)
    for number in range(40):
        image, label_map, _, _ = samples[number]
        padded = label_map == 255
        assert padded.any()
        shades = image[:, padded]
        assert float((shades - shades[:, :1]).abs().max()) < 1e-6
        known = ~padded
        rows, columns = known.any(1), known.any(0)
        assert torch.equal(known, rows[:, None] & columns[None])
        sides |= [not rows[0], not rows[-1], not columns[0], not columns[-1]]
    assert sides.all()


def test_about_half_of_the_samples_are_mirrored(images: Path) -> None:
    samples = open_segmenter_samples(images, min_scale=1.0, max_scale=1.0, crop_size=48)
    mirrored = 0
    for number in range(60):
        _, label_map, _, _ = samples[number]
        _, columns = np.nonzero(label_map.numpy() == 2)  # lower left in the picture
        known = np.nonzero((label_map != 255).any(0).numpy())[0]
        mirrored += columns.mean() > known.mean()
    assert 15 <= mirrored <= 45


def test_a_crop_larger_than_the_picture_holds_all_of_it(images: Path) -> None:
    samples = open_segmenter_samples(images, min_scale=0.5, max_scale=0.5, crop_size=96)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image, label_map, _, valid = samples[0]
    assert image.shape == (3, 96, 96)
    assert set(label_map.unique().tolist()) == {0, 1, 2, 255}
    assert torch.equal(valid, label_map != 255)


def test_numbers_go_on_where_an_interrupted_run_stopped() -> None:
    assert list(SampleNumbers(3, 6)) == [3, 4, 5]
    assert list(SampleNumbers(6, 6)) == []
    assert len(SampleNumbers(3, 6)) == 3
