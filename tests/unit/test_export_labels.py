from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from exported import export, list_files
from numpy.typing import NDArray
from PIL import Image
from tiny_labels import PICTURES, build_labelled, write_label_store
from typer.testing import CliRunner

from dsrg.image import read_image, read_mask
from dsrg.store import ImageStore
from flows.cli import app
from tasks import export_pictures
from tasks.errors import UserError
from tasks.export_labels import NOTE
from tasks.params import Params
from tasks.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
FORMATS = ("voc", "coco", "png", "yolo", "nnunet", "zarr")
NNUNET = "Dataset501_Tiny"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Params, Workspace]:
    """Not to be changed."""
    return build_labelled(tmp_path_factory.mktemp("labelled"))


# -- what is exported --------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["background", "nearest"])
@pytest.mark.parametrize("format_", ["voc", "png", "zarr"])
def test_no_unlabelled_pixel_is_left(
    labelled: tuple[Params, Workspace], tmp_path: Path, format_: str, rule: Any
):
    summary = export(labelled, tmp_path / "out", format_, unlabelled=rule, images="none")
    assert summary["share_of_pixels"]["unlabelled"] == 0
    kept = export(labelled, tmp_path / "kept", format_, images="none")["share_of_pixels"]
    assert kept["unlabelled"] > 0.05
    more = {key: summary["share_of_pixels"][key] - kept[key] for key in ("foreground", "background")}
    if rule == "background":
        assert more == {"foreground": 0, "background": pytest.approx(kept["unlabelled"], abs=2e-6)}
    else:
        assert more["foreground"] > 0
    for place in (tmp_path / "out").rglob("*.png"):
        assert 255 not in read_mask(place)


def test_seeds_and_cues_are_exported_too(labelled: tuple[Params, Workspace], tmp_path: Path):
    for what, title in (("seeds", "seeds of data set, round 1"), ("cues", "cues of data set")):
        key = "1" if what == "seeds" else None
        summary = export(labelled, tmp_path / what, "png", what=what, round_key=key, images="none")
        assert summary["title"] == title
        assert summary["pictures"] == len(list((tmp_path / what / "masks" / "train").iterdir()))


def test_labels_of_an_earlier_run_are_exported(labelled: tuple[Params, Workspace], tmp_path: Path):
    _, workspace = labelled
    old = shutil.copytree(workspace.path("data/rounds/1/pseudo_labels.zarr"), tmp_path / "old" / "p.zarr")
    zarr.open_group(str(old), mode="r+")["pseudo_label"][0, 0, 0] = 0  # type: ignore[index]
    summary = export(labelled, tmp_path / "out", "png", labels=old, images="none")
    assert summary["labels_digest"] == "1"
    assert (read_mask(tmp_path / "out" / "masks" / "train" / "deep.png")[0, 0]) == 0


def test_labels_of_other_pictures_are_refused(labelled: tuple[Params, Workspace], tmp_path: Path):
    _, workspace = labelled
    old = shutil.copytree(workspace.path("data/rounds/1/pseudo_labels.zarr"), tmp_path / "p.zarr")
    maps = zarr.open_group(str(old), mode="r+")["pseudo_label"]
    maps[:] = np.roll(maps[:], 1, axis=0)  # type: ignore[index]
    with pytest.raises(UserError, match=r"as class \d, which the picture does not hold"):
        export(labelled, tmp_path / "out", "png", labels=old)
    short = tmp_path / "short.zarr"
    write_short(short)
    with pytest.raises(
        UserError, match=r"holds 3 label maps of 32 pixels, data/images\.zarr 12 pictures of 64"
    ):
        export(labelled, tmp_path / "other", "png", labels=short)


def write_short(place: Path) -> None:
    from dsrg.groups import finish_store
    from dsrg.store import create_label_store

    create_label_store(place, "pseudo_label", count=3, canvas=32, attributes={})
    finish_store(place, digest="short")


# -- pictures ----------------------------------------------------------------------------------


def test_pictures_are_copied_as_they_are_where_that_fits(labelled: tuple[Params, Workspace], tmp_path: Path):
    params, _ = labelled
    images = Path(params.source.path) / "images"
    summary = export(labelled, tmp_path / "out", "coco")
    assert summary["picture_files"] == {"as it is": 9, "turned upright": 1}
    for name, *_ in PICTURES:
        same = (tmp_path / "out" / "images" / name).read_bytes() == (images / name).read_bytes()
        assert same == (name != "turned.jpg")


def test_a_picture_that_exif_turns_is_written_upright(labelled: tuple[Params, Workspace], tmp_path: Path):
    params, _ = labelled
    source = Path(params.source.path) / "images" / "turned.jpg"
    with Image.open(source) as image:
        assert image.size == (50, 80)  # as stored: on its side
    export(labelled, tmp_path / "out", "coco", images="link")
    written = tmp_path / "out" / "images" / "turned.jpg"
    assert not written.is_symlink()
    with Image.open(written) as image:
        assert image.size == (80, 50)
        assert image.getexif().get(0x0112, 1) == 1
        difference = np.abs(np.array(image).astype(int) - read_image(source))
    assert difference.mean() < 2


def test_pictures_are_linked(labelled: tuple[Params, Workspace], tmp_path: Path):
    params, _ = labelled
    summary = export(labelled, tmp_path / "out", "voc", images="link")
    place = tmp_path / "out" / "VOCdevkit" / "VOC2012" / "JPEGImages"
    linked = {file.name for file in place.iterdir() if file.is_symlink()}
    assert linked == {
        *("plain.jpg", "large.jpg", "sub folder__two words.jpg", "more.dots.v2.jpg"),
        "only background.jpg",
    }
    assert (place / "large.jpg").resolve() == (Path(params.source.path) / "images" / "large.jpg").resolve()
    assert summary["picture_files"] == {"as it is": 5, "turned upright": 1, "converted": 4}
    assert {look_at_format(file) for file in place.iterdir()} == {"JPEG"}


def look_at_format(place: Path) -> str | None:
    with Image.open(place) as image:
        return image.format


def test_pictures_can_be_left_out(labelled: tuple[Params, Workspace], tmp_path: Path):
    for format_ in FORMATS:
        out = tmp_path / format_ / NNUNET
        export(labelled, out, format_, images="none")
        assert not [f for f in list_files(out) if "mages" in f and not f.startswith("labels")]


def test_drawn_pictures_are_written_as_png(tmp_path: Path):
    from tiny_project import build_params, run_stage

    params, workspace = build_params(), Workspace(tmp_path / "drawn")
    run_stage(params, workspace, "ingest")
    write_label_store(workspace, "data/rounds/2/pseudo_labels.zarr", "pseudo_label", digest="drawn")
    summary = export((params, workspace), tmp_path / "out", "coco")
    assert summary["picture_files"] == {"drawn": 10}
    image = read_image(tmp_path / "out" / "images" / "train-000003.png")
    images = ImageStore(workspace.path("data/images.zarr"))
    assert (image == images.read_image(list(images.index.ids).index("train-000003"))).all()


def test_one_suffix_stays_where_all_have_it():
    from tasks.export_layouts import _choose_suffix

    def choose(*names: str) -> str:
        return _choose_suffix([type("Named", (), {"file_name": name}) for name in names])  # type: ignore[misc]

    assert choose("a.png", "b/c.png") == ".png"
    assert choose("a.jpeg", "b.jpeg") == ".jpeg"
    assert choose("a.jpg", "b.png") == choose("a.bmp", "b.bmp") == ".jpg"


@pytest.mark.parametrize("harm", ["gone", "other size", "no picture"])
def test_a_picture_that_changed_since_ingest_is_named(tmp_path: Path, harm: str):
    labelled = build_labelled(tmp_path / "work")
    place = Path(labelled[0].source.path) / "images" / "large.jpg"
    if harm == "gone":
        place.unlink()
    elif harm == "no picture":
        place.write_text("gone")
    else:
        Image.new("RGB", (10, 20)).save(place)
    with pytest.raises(UserError, match="large"):
        export(labelled, tmp_path / "out", "coco")
    assert not (tmp_path / "out" / "annotations").exists()


# -- the folder --------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
def test_an_export_that_was_cut_off_goes_on(
    labelled: tuple[Params, Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str
):
    whole, cut = tmp_path / "whole" / NNUNET, tmp_path / "cut" / NNUNET
    export(labelled, whole, format_)
    written: list[Path] = []
    write = export_pictures._write

    def fail_at_third(image: NDArray[np.uint8], path: Path, kind: str) -> None:
        written.append(path)
        if len(written) == 2:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(path))
        write(image, path, kind)

    # the first picture that is written anew is the eighth: make all of them so
    monkeypatch.setattr(export_pictures, "look_at", look_at_turned)
    monkeypatch.setattr(export_pictures, "_write", fail_at_third)
    with pytest.raises(OSError, match="No space"):
        export(labelled, cut, format_)
    assert json.loads((cut / NOTE).read_text())["complete"] is False
    assert not {"dataset.json", "data.yaml", "labels.zarr", "annotations"} & {f.name for f in cut.iterdir()}
    monkeypatch.undo()
    first = {f: (cut / f).stat().st_mtime_ns for f in list_files(cut) if f.endswith((".jpg", ".png"))}
    export(labelled, cut, format_)
    assert list_files(cut) == list_files(whole)
    assert {f: (cut / f).stat().st_mtime_ns for f in first if (cut / f).exists()}.items() <= first.items()
    assert json.loads((cut / NOTE).read_text())["complete"] is True
    before = {f: (cut / f).read_bytes() for f in list_files(cut)}
    export(labelled, cut, format_)
    assert {f: (cut / f).read_bytes() for f in list_files(cut)} == before


def look_at_turned(path: Path) -> export_pictures.Kind:
    from dataclasses import replace

    return replace(LOOK_AT(path), upright=False)


LOOK_AT = export_pictures.look_at


def test_a_folder_with_something_else_is_refused(labelled: tuple[Params, Workspace], tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else already: name an empty or new folder"):
        export(labelled, out, "voc")
    assert list_files(out) == {"thesis.txt"}
    with pytest.raises(UserError, match="must be a folder"):
        export(labelled, out / "thesis.txt", "voc")


def test_another_export_is_not_mixed_in(labelled: tuple[Params, Workspace], tmp_path: Path):
    out = tmp_path / "out"
    export(labelled, out, "png", images="none")
    before = list_files(out)
    with pytest.raises(UserError, match=r"another export \(other title, round, labels_digest\)"):
        export(labelled, out, "png", images="none", round_key="1")
    with pytest.raises(UserError, match=r"other unlabelled"):
        export(labelled, out, "png", images="none", unlabelled="nearest")
    assert list_files(out) == before


def test_other_labels_meanwhile_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tasks import export_labels as module

    params, workspace = build_labelled(tmp_path / "work")
    write = module.export_lot

    def change(lot: module.Lot) -> list[module.Done]:
        done = write(lot)
        zarr.open_group(str(lot.store), mode="r+").attrs["digest"] = "another"
        return done

    monkeypatch.setattr(module, "export_lot", change)
    with pytest.raises(UserError, match="changed meanwhile"):
        export((params, workspace), tmp_path / "out", "png")


# -- the command -------------------------------------------------------------------------------


def run_command(*arguments: str, root: Path) -> Any:
    return CliRunner().invoke(app, ["export", "labels", *arguments, "--root", str(root)])


def test_json_is_all_that_stdout_holds(labelled: tuple[Params, Workspace], tmp_path: Path):
    root = labelled[1].root
    result = run_command("--format", "voc", "--out", str(tmp_path / "out"), "--json", root=root)
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert summary["pictures"] == len(PICTURES)
    assert summary["read_with"][0].startswith("torchvision.datasets.VOCSegmentation(")
    assert "export voc: " in result.stderr


def test_what_was_exported_is_said(labelled: tuple[Params, Workspace], tmp_path: Path):
    root = labelled[1].root
    result = run_command("--format", "png", "--out", str(tmp_path / "out"), root=root)
    assert "exported pseudo-labels of data set, round 2: 10 pictures to" in result.stdout
    assert "pictures 5 as it is, 1 turned upright, 4 converted\n" in result.stdout
    assert "so they look black; --format voc gives coloured ones" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "png", "--round", "7"], "there are those of round 1, 2; or run `dvc repro refine@7`"),
        (["--format", "png", "--round", "1", "--what", "cues"], "cues belong to no round"),
        (["--format", "nnunet"], "--out must be named as nnU-Net names data sets"),
        (
            ["--format", "png", "--labels", "nowhere"],
            "--labels must be a store such as",
        ),
    ],
)
def test_what_cannot_be_exported_is_said(
    labelled: tuple[Params, Workspace], tmp_path: Path, arguments: list[str], message: str
):
    result = run_command(*arguments, "--out", str(tmp_path / "out"), root=labelled[1].root)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_masks_are_never_opened(
    labelled: tuple[Params, Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened: list[str] = []
    open_ = Image.open

    def note(place: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(str(place))
        return open_(place, *arguments, **options)

    monkeypatch.setattr(Image, "open", note)
    export(labelled, tmp_path / "out", "voc")
    assert opened
    assert not [place for place in opened if "masks" in place]
