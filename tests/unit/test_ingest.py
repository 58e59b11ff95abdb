"""Stage ingest: what it stores, what it refuses, and that bytes depend on pictures and labels alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_data import hash_tree
from tiny_folder import CANVAS, build_params, draw_picture, write_data

from dsrg.sources import SourceError
from dsrg.store import ImageStore, LabelStore
from tasks import ingest
from tasks.__main__ import main
from tasks.params import read_params
from tasks.workspace import Workspace

Ingest = Callable[..., Path]


@pytest.fixture
def run_ingest(tmp_path: Path, project_root: Path) -> Ingest:
    """Run the stage on a folder in a fresh workspace, and return the workspace's root."""

    def run(data: Path, name: str = "work", *, workers: int = 1, **ingest_values: Any) -> Path:
        root = tmp_path / name
        params = build_params(project_root, data, workers=workers, **ingest_values)
        ingest.run(params, Workspace(root))
        return root

    return run


def read_report(root: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((root / "metrics" / "ingest.json").read_text())
    return report


# -- what is stored ----------------------------------------------------------------------------


def test_pictures_labels_and_masks_are_stored(tmp_path: Path, run_ingest: Ingest) -> None:
    root = run_ingest(write_data(tmp_path / "data"))
    images = ImageStore(root / "data" / "images.zarr")
    assert images.index.classes == ("x", "y")
    assert images.index.ids.tolist() == [f"p{i:02d}" for i in range(6)]
    assert images.index.splits.tolist() == ["train", "train", "val"] * 2
    assert images.index.image_labels.tolist() == [[True, False], [False, True]] * 3
    assert images.index.sizes.tolist() == images.index.original_sizes.tolist() == [[24, 32]] * 6
    assert np.array_equal(images.read_image(3), draw_picture(3))
    truth = LabelStore(root / "data" / "truth.zarr", "gt_label", stage="ingest")
    assert truth.attributes["available"] is True
    assert len(truth.attributes["digest"]) == 64
    gt_label = truth.read(3, images.index.sizes[3])
    assert gt_label.shape == (24, 32)
    assert gt_label[0, 0] == 255
    assert (gt_label[4:12, 8:20] == 2).all()
    assert (truth.read(3, (CANVAS, CANVAS))[24:] == 255).all()


def test_the_report(tmp_path: Path, run_ingest: Ingest, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path / "data")
    Image.fromarray(draw_picture(0)).save(data / "images" / "p02.png")
    Image.fromarray(draw_picture(77)).save(data / "images" / "stray.png")
    Image.fromarray(draw_picture(1, 200, 100)).save(data / "images" / "p01.png")
    (data / "masks" / "p01.png").unlink()
    Image.fromarray(np.full((24, 32), 2, np.uint8)).save(data / "masks" / "p04.png")
    text = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(text.replace("p05,y,", "p05,,"))
    report = read_report(run_ingest(data))
    assert report["per_class"] == {"train": {"x": 2, "y": 2}, "val": {"x": 1, "y": 0}}
    assert report["pictures"] == {"train": 4, "val": 2}
    assert report["height"] == {"min": 24, "median": 24, "max": 200}
    assert report["width"] == {"min": 32, "median": 32, "max": 100}
    assert report["scaled_down"] == 1
    assert report["without_class"] == {"count": 1, "first": ["p05"]}
    assert report["without_row"] == {"count": 1, "first": ["stray.png"]}
    assert report["masks"] == {
        "available": True,
        "missing": {"count": 1, "first": ["p01"]},
        "contradict_image_labels": {"count": 2, "first": ["p04", "p05"]},
    }
    assert report["near_duplicates"] == {
        "max_bits": 4,
        "across_splits": 1,
        "first": [{"train": "p00", "val": "p02", "bits": 0}],
    }
    printed = capsys.readouterr().out
    assert "1 pictures have no row or class folder and were left out: stray.png" in printed
    assert "1 near-duplicate pairs across splits" in printed
    assert "p00 and p02" in printed


def test_large_pictures_and_their_masks_are_scaled_down(tmp_path: Path, run_ingest: Ingest) -> None:
    data = write_data(tmp_path / "data")
    Image.fromarray(draw_picture(1, 100, 256)).save(data / "images" / "p01.png")
    mask = np.zeros((100, 256), np.uint8)
    mask[:, 128:] = 2
    Image.fromarray(mask).save(data / "masks" / "p01.png")
    root = run_ingest(data)
    images = ImageStore(root / "data" / "images.zarr")
    assert images.index.sizes[1].tolist() == [25, 64]
    assert images.index.original_sizes[1].tolist() == [
        100,
        256,
    ]
    truth = LabelStore(root / "data" / "truth.zarr", "gt_label", stage="ingest")
    assert np.array_equal(truth.read(1, (25, 64)) == 2, np.arange(64) >= np.full((25, 1), 32))


def test_a_mask_fits_the_picture_as_exif_turns_it(tmp_path: Path, run_ingest: Ingest) -> None:
    data = write_data(tmp_path / "data")
    exif = Image.Exif()
    exif[0x0112] = 6
    (data / "images" / "p01.png").unlink()
    Image.fromarray(draw_picture(1, 32, 24)).save(data / "images" / "p01.jpg", exif=exif)
    assert ImageStore(run_ingest(data) / "data" / "images.zarr").index.sizes[1].tolist() == [24, 32]


def test_saliency_maps_are_stored_beside_the_truth(tmp_path: Path, run_ingest: Ingest) -> None:
    data = write_data(tmp_path / "data", masks=False)
    (data / "saliency").mkdir()
    map_ = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32).astype(np.uint8)
    Image.fromarray(map_).save(data / "saliency" / "p01.png")
    root = run_ingest(data)
    saliency = LabelStore(root / "data" / "saliency.zarr", "saliency", stage="ingest")
    assert saliency.attributes["available"]
    np.testing.assert_array_equal(saliency.read(1, (24, 32)), map_)
    assert (saliency.read(0, (24, 32)) == 255).all()
    assert read_report(root)["saliency"]["missing"]["count"] == 5
    truth = LabelStore(root / "data" / "truth.zarr", "gt_label", stage="ingest")
    assert not truth.attributes["available"]
    images = hash_tree(root / "data" / "images.zarr")
    shutil.rmtree(data / "saliency")
    assert hash_tree(run_ingest(data, "without") / "data" / "images.zarr") == images


def test_without_masks_the_truth_is_empty(tmp_path: Path, run_ingest: Ingest) -> None:
    root = run_ingest(write_data(tmp_path / "data", masks=False))
    truth = LabelStore(root / "data" / "truth.zarr", "gt_label", stage="ingest")
    assert truth.attributes["available"] is False
    assert len(truth) == 6
    assert (truth.read(0, (24, 32)) == 255).all()


def test_synthetic_pictures(tmp_path: Path, project_root: Path) -> None:
    params = read_params(project_root / "params.yaml")
    values = {"num_train": 16, "num_val": 3, "size": 64}
    params = params.model_copy(
        update={
            "source": params.source.model_copy(update=values),
            "compute": params.compute.model_copy(update={"workers": 1}),
        }
    )
    ingest.run(params, Workspace(tmp_path))
    images = ImageStore(tmp_path / "data" / "images.zarr")
    assert len(images.index.rows("train")) == 16
    assert len(images.index.rows("val")) == 3
    report = read_report(tmp_path)
    assert report["masks"]["available"]
    assert not report["masks"]["contradict_image_labels"]["count"]


# -- equal data, equal bytes -------------------------------------------------------------------


def test_images_do_not_depend_on_masks(tmp_path: Path, run_ingest: Ingest) -> None:
    data = write_data(tmp_path / "data", split=False)
    true = run_ingest(data, "true")
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 3, (24, 32), np.uint8)
        Image.fromarray(noise).save(data / "masks" / f"p{number:02d}.png")
    noisy = run_ingest(data, "noisy")
    shutil.rmtree(data / "masks")
    bare = run_ingest(data, "bare")
    trees = [hash_tree(root / "data" / "images.zarr") for root in (true, noisy, bare)]
    assert trees[0] == trees[1] == trees[2]
    truths = [hash_tree(root / "data" / "truth.zarr") for root in (true, noisy, bare)]
    assert truths[0] != truths[1] != truths[2]


def test_bytes_do_not_depend_on_workers_or_order_of_files(tmp_path: Path, run_ingest: Ingest) -> None:
    data = write_data(tmp_path / "data", 70)
    one = run_ingest(data, "one", workers=1)
    copy = tmp_path / "copy"
    (copy / "images").mkdir(parents=True)
    for picture in sorted((data / "images").iterdir(), reverse=True):
        shutil.copy(picture, copy / "images")
    shutil.copytree(data / "masks", copy / "masks")
    shutil.copy(data / "classes.txt", copy)
    header, *rows = (data / "labels.csv").read_text().splitlines()
    (copy / "labels.csv").write_text("\n".join([header, *reversed(rows)]))
    two = run_ingest(copy, "two", workers=2)
    assert hash_tree(one / "data") == hash_tree(two / "data")
    assert read_report(one) == read_report(two)


@pytest.mark.parametrize("changed", ["pixel", "label", "split", "name", "canvas"])
def test_the_digest_follows_all_that_is_stored(tmp_path: Path, run_ingest: Ingest, changed: str) -> None:
    data = write_data(tmp_path / "data")
    before = ImageStore(run_ingest(data, "before") / "data" / "images.zarr").digest
    text = (data / "labels.csv").read_text()
    if changed == "pixel":
        picture = draw_picture(0)
        picture[0, 0, 0] ^= 1
        Image.fromarray(picture).save(data / "images" / "p00.png")
    elif changed == "name":
        (data / "images" / "p00.png").rename(data / "images" / "q.png")
        (data / "masks" / "p00.png").rename(data / "masks" / "q.png")
        (data / "labels.csv").write_text(text.replace("p00", "q"))
    elif changed == "label":
        (data / "labels.csv").write_text(text.replace("p00,x", "p00,x y"))
    elif changed == "split":
        (data / "labels.csv").write_text(text.replace("p00,x,train", "p00,x,val"))
    canvas = 96 if changed == "canvas" else CANVAS
    assert ImageStore(run_ingest(data, "after", canvas=canvas) / "data" / "images.zarr").digest != before


# -- interruption ------------------------------------------------------------------------------


def test_a_stopped_run_continues_and_ends_in_the_same_bytes(
    tmp_path: Path, run_ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_data(tmp_path / "data", 70)
    undisturbed = run_ingest(data, "undisturbed")
    done: list[str] = []

    def write_one_then_stop(job: ingest.ShardJob) -> list[ingest.Outcome]:
        if done:
            raise KeyboardInterrupt
        done.append(job.unit)
        return ingest.write_image_shard(job)

    original = ingest.write_image_shard
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_run_jobs", replace_function(ingest._run_jobs, write_one_then_stop))
        with pytest.raises(KeyboardInterrupt):
            run_ingest(data, "stopped")
    assert not (tmp_path / "stopped" / "data").exists()
    seen: list[str] = []

    def note(job: ingest.ShardJob) -> list[ingest.Outcome]:
        seen.append(job.unit)
        return original(job) if job.unit.startswith("image") else ingest.write_truth_shard(job)

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_run_jobs", replace_function(ingest._run_jobs, note))
        run_ingest(data, "stopped")
    assert done == ["image-00000"]
    assert seen == ["image-00001", "truth-00000"]
    assert hash_tree(tmp_path / "stopped" / "data") == hash_tree(undisturbed / "data")
    assert read_report(tmp_path / "stopped") == read_report(undisturbed)


def replace_function(run_jobs: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    def run(_: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return run_jobs(function, *arguments, **named)

    return run


# -- what is refused ---------------------------------------------------------------------------


def test_one_error_lists_all_bad_files(tmp_path: Path, run_ingest: Ingest) -> None:
    data = write_data(tmp_path / "data", 8)
    whole = (data / "images" / "p00.png").read_bytes()
    (data / "images" / "p00.png").write_bytes(whole[: len(whole) // 2])
    (data / "images" / "p01.png").write_bytes(b"")
    (data / "images" / "p02.png").write_text("no picture")
    (data / "images" / "p03.png").unlink()
    Image.fromarray(np.zeros((32, 24), np.uint8)).save(data / "masks" / "p04.png")
    Image.fromarray(np.full((24, 32), 9, np.uint8)).save(data / "masks" / "p05.png")
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(data / "masks" / "p06.png")
    (data / "masks" / "p07.png").write_bytes(b"")
    (data / "saliency").mkdir()
    Image.fromarray(np.zeros((9, 32), np.uint8)).save(data / "saliency" / "p05.png")
    with pytest.raises(SourceError) as caught:
        run_ingest(data)
    headline, *lines = str(caught.value).splitlines()
    assert headline == f"`{data}` has 9 problems:"
    wanted = [
        "labels.csv line 5 (`p03`): no such picture in `images`: add it, or remove the line",
        "images/p00.png: cannot be decoded (",
        "images/p01.png: is empty (0 bytes): put a whole one in its place, or take it out",
        "images/p02.png: is no picture, or of an unknown format: put a whole one in its place, or",
        "saliency/p05.png: is 9 x 32 pixels, its picture 24 x 32 (height x width): make them equal",
        "masks/p04.png: is 32 x 24 pixels, its picture 24 x 32 (height x width): make them equal",
        "masks/p05.png: holds 9: ids go from 0 to 2 (2 classes), 255 is ignored",
        "masks/p06.png: is a RGB picture: a mask is an 8-bit palette or greyscale PNG that holds class ids",
        "masks/p07.png: is empty (0 bytes)",
    ]
    for line, start in zip(lines, wanted, strict=True):
        assert line.startswith(f"  {start}")
    assert not (tmp_path / "work" / "data").exists()
    assert not (tmp_path / "work" / "metrics").exists()


def test_forgotten_labels_are_refused_unless_the_user_says_otherwise(
    tmp_path: Path, run_ingest: Ingest
) -> None:
    data = write_data(tmp_path / "data")
    Image.fromarray(draw_picture(9)).save(data / "images" / "stray.png")
    text = (data / "labels.csv").read_text().replace("p05,y,", "p05,,").replace("p04,x,", "p04,background,")
    (data / "labels.csv").write_text(text)
    with pytest.raises(SourceError, match=r"stray.png: has no row .* add one, or .*strict=false") as caught:
        run_ingest(data, strict=True)
    assert "p05.png: no class is named" in str(caught.value)
    assert "p04" not in str(caught.value)
    assert not (tmp_path / "work" / "data").exists()
    run_ingest(data, strict=False)


def test_a_mended_folder_goes_through(tmp_path: Path, run_ingest: Ingest) -> None:
    data = write_data(tmp_path / "data")
    (data / "images" / "p01.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"images/p01.png: is empty"):
        run_ingest(data)
    Image.fromarray(draw_picture(1)).save(data / "images" / "p01.png")
    assert len(ImageStore(run_ingest(data) / "data" / "images.zarr")) == 6


def test_a_class_without_pictures_is_refused(tmp_path: Path, run_ingest: Ingest) -> None:
    data = write_data(tmp_path / "data")
    with (data / "classes.txt").open("a") as file:
        file.write("unicorn\n")
    with pytest.raises(SourceError, match=r"class `unicorn`: no picture has it: add some, or take it out"):
        run_ingest(data)


def test_a_class_without_train_pictures_is_refused(tmp_path: Path, run_ingest: Ingest) -> None:
    data = write_data(tmp_path / "data")
    text = (data / "labels.csv").read_text().replace("p01,y,train", "p01,x,train")
    (data / "labels.csv").write_text(text.replace("p03,y,train", "p03,x,train"))
    with pytest.raises(SourceError, match=r"class `y`: none of its 1 pictures is in split train: move some"):
        run_ingest(data)


def test_an_empty_split_is_refused(tmp_path: Path, run_ingest: Ingest) -> None:
    data = write_data(tmp_path / "data")
    (data / "labels.csv").write_text((data / "labels.csv").read_text().replace("val", "train"))
    with pytest.raises(SourceError, match=r"no picture is in split val: mark some"):
        run_ingest(data)


def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, project_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data")
    (data / "images" / "p01.png").write_bytes(b"")
    text = (project_root / "params.yaml").read_text()
    text = text.replace("kind: synthetic", "kind: folder").replace("dsrg/sources/synthetic.py", str(data), 1)
    (tmp_path / "params.yaml").write_text(text)
    assert main(["ingest", "--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert error == (
        f"error: `{data}`: images/p01.png: is empty (0 bytes): put a whole one in its place, or take it out"
    )


def test_an_output_that_cannot_be_written(
    tmp_path: Path, project_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "folder")
    text = (project_root / "params.yaml").read_text()
    text = text.replace("kind: synthetic", "kind: folder").replace("dsrg/sources/synthetic.py", str(data), 1)
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "data").write_text("a file where a folder must be")
    assert main(["ingest", "--root", str(tmp_path)]) == 2
    assert str(tmp_path / "data") in capsys.readouterr().err
    assert not (tmp_path / "metrics").exists()


# -- the split ---------------------------------------------------------------------------------


def test_a_folder_without_split_gets_one(tmp_path: Path, run_ingest: Ingest) -> None:
    data = write_data(tmp_path / "data", 24, split=False)
    Image.fromarray(draw_picture(0)).save(data / "images" / "p02.png")
    root = run_ingest(data)
    index = ImageStore(root / "data" / "images.zarr").index
    assert index.image_labels[index.rows("val")].sum(axis=0).tolist() == [3, 3]
    assert index.splits[0] == index.splits[2]
    report = read_report(root)
    assert report["split"] == "by hash of id"
    assert report["near_duplicates"]["across_splits"] == 0
