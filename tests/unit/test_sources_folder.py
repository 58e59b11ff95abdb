"""The folder source: its layouts, and what it says of lists that are wrong."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsrg.sources import Source, SourceError, open_source
from dsrg.sources.folder import open_folder
from dsrg.sources.lists import read_classes
from dsrg.sources.tables import split_class_names

Build = Callable[..., Path]


def write_picture(path: Path) -> None:
    """Write a picture whose colour is its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), tuple(hashlib.sha256(str(path).encode()).digest()[:3])).save(path)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Build a folder: pictures at the given paths, then text files."""

    def build_folder(*pictures: str, **texts: str) -> Path:
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        for name in pictures:
            write_picture(root / name)
        for name, text in texts.items():
            suffix = "csv" if name == "labels" else "txt"
            (root / f"{name}.{suffix}").write_text(text, encoding="utf-8")
        return root

    return build_folder


def show(source: Source) -> dict[str, tuple[str, list[str]]]:
    """Show id -> (split, classes)."""
    return {
        record.id: (
            record.split,
            [n for n, held in zip(source.classes, record.image_labels, strict=True) if held],
        )
        for record in source.records
    }


def test_a_name_that_is_no_utf8_is_told(build: Build) -> None:
    root = build("cat/a.png", "dog/b.png")
    try:
        (root / "dog" / "b.png").rename(os.fsdecode(os.fsencode(root / "dog") + b"/\xe9.png"))
    except OSError:
        pytest.skip("this file system holds UTF-8 names only")
    with pytest.raises(SourceError, match=r"b'dog/\\xe9.png': this name is no UTF-8: rename the file"):
        open_folder(root)


# -- layouts -----------------------------------------------------------------------------------


def test_table_with_images_folder(build: Build) -> None:
    root = build(
        "images/b.jpg",
        "images/a.png",
        labels="id,classes,split\nb,dog cat,val\na.png,dog,train\n",
        classes="background\ndog\ncat\n",
    )
    source = open_folder(root)
    assert source.classes == ("dog", "cat")
    assert show(source) == {"a": ("train", ["dog"]), "b": ("val", ["dog", "cat"])}
    assert not source.problems
    assert not source.gt_available
    assert source.reader.read_image(source.records[0]).shape == (4, 6, 3)
    assert source.reader.read_gt_label(source.records[0]) is None


def test_pictures_beside_the_table_and_classes_from_it(build: Build) -> None:
    source = open_folder(
        build("a.jpg", "b.jpg", labels="classes,id,author\ndog|red fox,a,me\n dog ,b.jpg,you\n")
    )
    assert source.classes == ("dog", "red fox")
    assert show(source) == {"a": ("", ["dog", "red fox"]), "b": ("", ["dog"])}


def test_one_folder_per_class(build: Build) -> None:
    source = open_folder(build("dog/1.jpg", "cat/1.jpg", "cat/more/2.jpg", "stray.jpg"))
    assert source.classes == ("cat", "dog")
    assert show(source) == {"cat__1": ("", ["cat"]), "cat__more__2": ("", ["cat"]), "dog__1": ("", ["dog"])}
    assert source.without_row == ("stray.jpg",)


def test_class_folders_below_train_and_val(build: Build) -> None:
    source = open_folder(build("train/dog/1.jpg", "val/dog/1.jpg", "train/cat/1.jpg"))
    assert show(source) == {
        "train__cat__1": ("train", ["cat"]),
        "train__dog__1": ("train", ["dog"]),
        "val__dog__1": ("val", ["dog"]),
    }


def test_classes_file_orders_class_folders(build: Build) -> None:
    source = open_folder(build("dog/1.jpg", "cat/1.jpg", classes="background\ndog\ncat\n"))
    assert source.classes == ("dog", "cat")
    wrong = open_folder(build("cow/1.jpg"))
    assert wrong.problems == ("cow: the class folder is not in classes.txt: add it there",)


def test_split_lists(build: Build) -> None:
    root = build(
        "images/a.jpg",
        "images/b.jpg",
        "images/c.jpg",
        labels="id,classes\na,x\nb,x\nc,x\n",
        train="a.jpg\n\n",
        val="b\n",
    )
    source = open_folder(root)
    assert show(source) == {"a": ("train", ["x"]), "b": ("val", ["x"])}
    assert source.remarks == ("c.jpg: in neither train.txt nor val.txt, left out",)


def test_pictures_in_folders_of_their_own(build: Build) -> None:
    source = open_folder(
        build("images/2021/a.jpg", "images/b.jpg", labels="id,classes\n2021\\a,x\n./b.jpg,x\n")
    )
    assert list(show(source)) == ["2021__a", "b"]
    assert not source.problems


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path, build: Build) -> None:
    write_picture(tmp_path / "elsewhere" / "1.jpg")
    root = build("cat/1.jpg")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    assert list(show(open_folder(root))) == ["cat__1", "dog__1"]


def test_windows_and_mac_habits(tmp_path: Path, build: Build) -> None:
    """A byte order mark, CRLF, decomposed accents, hidden files and upper-case suffixes."""
    root = build("images/Z.JPG", f"images/{unicodedata.normalize('NFD', 'é')}.jpg")
    (root / "images" / "._Z.JPG").write_bytes(b"junk")
    (root / "labels.csv").write_bytes("\ufeffID,Classes\r\nZ,x\r\né,x\r\n".encode())
    source = open_folder(root)
    assert list(show(source)) == ["Z", "é"]
    assert not source.problems
    assert not source.without_row


def test_a_picture_may_hold_no_class(build: Build) -> None:
    source = open_folder(build("a.jpg", "b.jpg", "c.jpg", labels="id,classes\na,background\nb,\nc,x\n"))
    assert show(source) == {"a": ("", []), "b": ("", []), "c": ("", ["x"])}
    assert not source.problems


def test_masks_change_nothing_but_the_truth(build: Build) -> None:
    root = build("images/a.jpg", "images/b.jpg", labels="id,classes\na,x\nb,x\n")
    before = open_folder(root)
    (root / "masks").mkdir()
    Image.fromarray(np.full((4, 6), 1, np.uint8)).save(root / "masks" / "a.png")
    Image.fromarray(np.full((4, 6), 1, np.uint8)).save(root / "masks" / "zebra.png")
    (root / "masks" / "b.jpg").touch()
    after = open_folder(root)
    assert show(after) == show(before)
    assert after.classes == before.classes
    assert after.gt_available
    assert after.without_row == ()
    gt_label = after.reader.read_gt_label(after.records[0])
    assert gt_label is not None
    assert np.array_equal(gt_label, np.full((4, 6), 1, np.uint8))
    assert after.reader.read_gt_label(after.records[1]) is None
    assert after.remarks == ("masks/zebra.png: belongs to no picture", "masks/b.jpg: is no PNG, left out")


def test_fingerprint_follows_the_files(build: Build) -> None:
    root = build("a.jpg", labels="id,classes\na,x\n")
    before = open_folder(root).fingerprint
    assert open_folder(root).fingerprint == before
    Image.new("RGB", (60, 40)).save(root / "a.jpg")
    assert open_folder(root).fingerprint != before


# -- class cells and class lists ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("cat dog", ("cat", "dog")),
        ("cat|dog", ("cat", "dog")),
        (" cat |  red fox|", ("cat", "red fox")),
        ("cat cat", ("cat",)),
        ("", ()),
    ],
)
def test_class_cells(cell: str, names: tuple[str, ...]) -> None:
    assert split_class_names(cell) == names


def test_a_whole_cell_that_is_a_class_wins() -> None:
    assert split_class_names("red fox", ["fox", "red fox"]) == ("red fox",)
    assert split_class_names("red fox", ["fox", "red"]) == ("red", "fox")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ndog\n", r"classes.txt`: line 1 \(id 0\) must be `background`, got `cat`"),
        ("", "line 1 .id 0. must be `background`, got ``"),
        ("background\n", "no class is named: give at least one"),
        ("background\ncat\ncat\n", "class names given twice: cat"),
        ("background\ncat\n\ndog\n", r"positions \[1\] are empty"),
        ("background\n" + "\n".join(f"c{i}" for i in range(255)), "255 classes named, but .* at most 254"),
    ],
)
def test_class_lists_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(SourceError, match=message):
        read_classes(tmp_path / "classes.txt")


def test_254_classes_fit(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("Background\n" + "\n".join(f"c{i}" for i in range(254)))
    assert len(read_classes(tmp_path / "classes.txt")) == 254


# -- tables that make no sense as a whole ------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: the first line must be `id,classes`"),
        ("name,label\na,x\n", "lacks the column id, has name, label: the first line must be"),
        ("id,file,label\n1,a,x\n", "has the columns id and file, each of which may name the picture: rename"),
        ("id,label,tags\na,x,y\n", "has the columns label and tags, each of which may name its classes"),
        ("a,x\nb,x\n", "lacks the column id and classes"),
        ("id,classes,id\na,x,b\n", "has the column id twice"),
        ("id,classes\n", "has a header but no rows"),
        ('id,classes\na,"x\n', "line 2: unexpected end of data"),
    ],
)
def test_tables_that_make_no_sense(build: Build, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_folder(build("a.jpg", labels=text))


def test_a_table_that_is_not_utf8(build: Build) -> None:
    root = build("a.jpg")
    (root / "labels.csv").write_bytes("id,classes\na,é\n".encode("latin-1"))
    with pytest.raises(SourceError, match=r"labels.csv`: is not UTF-8 text .* save it as UTF-8"):
        open_folder(root)


def test_folders_that_make_no_sense(tmp_path: Path, build: Build) -> None:
    with pytest.raises(SourceError, match=r"nowhere`: not found. Set `source.path` to the folder"):
        open_folder(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"file`: is a file, not a folder"):
        open_folder(tmp_path / "file")
    with pytest.raises(SourceError, match=r"no labels.csv and no class folders with pictures: expected"):
        open_folder(build("a.jpg"))


def test_split_given_twice_or_by_half(build: Build) -> None:
    root = build("a.jpg", labels="id,classes,split\na,x,train\n", train="a\n")
    with pytest.raises(SourceError, match=r"has train.txt but no val.txt: give both, or neither"):
        open_folder(root)
    with pytest.raises(SourceError, match=r"the split is given twice"):
        open_folder(build(val=""))


def test_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"`zip`: is no kind of source: set `source.kind` to one of folder"):
        open_source(
            "zip",
            tmp_path,
            image_labels="xml",
            categories=(),
            num_train=1,
            num_val=1,
            size=64,
            random_seed=0,
        )


# -- single bad rows are all collected ---------------------------------------------------------


def test_every_bad_row_is_named(build: Build) -> None:
    rows = [
        "ok,cat,train",
        "gone,cat,train",
        "ok.jpg,dog,val",
        "two,cat,train",
        "two.png,cta,train",
        "late,cat,test",
        "../secret,cat,train",
        "/etc/passwd,cat,train",
        ",cat,train",
        "ok,cat,dog,train",
        "heic,cat,train",
        "both,background cat,train",
        ".,cat,train",
    ]
    root = build(
        "images/ok.jpg",
        "images/two.jpg",
        "images/two.png",
        "images/late.jpg",
        "images/both.jpg",
        labels="\n".join(["id,classes,split", *rows]),
        classes="background\ncat\ndog\n",
    )
    (root / "images" / "heic.heic").touch()
    assert list(open_folder(root).problems) == [
        "labels.csv line 3 (`gone`): no such picture in `images`: add it, or remove the line",
        "labels.csv line 4 (`ok.jpg`): names `ok.jpg` again, as line 2 does: keep one row",
        "labels.csv line 5 (`two`): could be two.jpg or two.png: write it with its suffix",
        "labels.csv line 6 (`two.png`): class `cta` is not in classes.txt: did you mean `cat`?",
        "labels.csv line 7 (`late`): split `test` must be train or val",
        "labels.csv line 8 (`../secret`): leads out of the folder: write the path below it",
        "labels.csv line 9 (`/etc/passwd`): leads out of the folder: write the path below it",
        "labels.csv line 10: the id is empty",
        "labels.csv line 11: has 4 cells, the header has 3: separate classes by | or spaces",
        "labels.csv line 12 (`heic`): `heic.heic` is of no known format "
        "(.jpg .jpeg .png .bmp .gif .webp .tif .tiff .ppm .pgm)",
        "labels.csv line 13 (`both`): `background` stands beside classes: write it alone or not at all",
        "labels.csv line 14 (`.`): names no file: write a picture's name",
    ]


def test_ids_that_clash_without_their_suffix(build: Build) -> None:
    source = open_folder(build("a.jpg", "a.png", labels="id,classes\na.jpg,x\na.png,x\n"))
    assert source.problems == ("a.jpg and a.png: both become the id `a`: rename one",)


def test_no_class_at_all(build: Build) -> None:
    with pytest.raises(SourceError, match=r"no class is named: give at least one foreground class"):
        open_folder(build("a.jpg", labels="id,classes\na,\n"))


def test_lists_that_leave_no_picture(build: Build) -> None:
    with pytest.raises(SourceError, match=r"the lists leave no picture: put ids into them"):
        open_folder(build("a.jpg", labels="id,classes\na,x\n", train="", val=""))


def test_bad_split_lists(build: Build) -> None:
    root = build("a.jpg", "b.jpg", labels="id,classes\na,x\n", train="a\nb\ngone\n", val="a\n")
    assert open_folder(root).problems == (
        "train.txt (`b`): has no class: give it one, or remove the line",
        "train.txt (`gone`): no such picture in `data`: add it, or remove the line",
        "val.txt (`a`): stands in both lists: keep one",
    )


def test_class_folder_without_pictures(build: Build) -> None:
    root = build("cat/1.jpg")
    (root / "dog").mkdir()
    assert open_folder(root).problems == ("dog: the class folder has no picture: add one, or remove it",)


def test_pictures_without_row_are_listed(build: Build) -> None:
    assert open_folder(build("a.jpg", "b.jpg", labels="id,classes\na,x\n")).without_row == ("b.jpg",)


def test_a_long_list_of_problems_is_cut() -> None:
    message = str(SourceError("data", [f"{i}.jpg: broken" for i in range(60)]))
    assert message.startswith("`data` has 60 problems:\n  0.jpg: broken\n")
    assert message.endswith("  49.jpg: broken\n  ... and 10 more")
