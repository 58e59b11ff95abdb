"""labels.csv and labels.json in the forms that people have them, and what is told as ambiguous."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dsrg.sources import Source, SourceError
from dsrg.sources.folder import open_folder
from dsrg.sources.tables import split_class_names


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three different pictures in images/."""
    (tmp_path / "images").mkdir()
    for number, name in enumerate("abc"):
        Image.new("RGB", (6, 4), (90 * number, 0, 0)).save(tmp_path / "images" / f"{name}.jpg")
    return tmp_path


def read(root: Path, table: str | Any, *, classes: str = "") -> Source:
    """Write a table, as text or as JSON, and open the folder."""
    if isinstance(table, str) and not table.startswith(("{", "[")):
        (root / "labels.csv").write_text(table, encoding="utf-8")
    else:
        text = table if isinstance(table, str) else json.dumps(table)
        (root / "labels.json").write_text(text, encoding="utf-8")
    if classes:
        (root / "classes.txt").write_text(f"background\n{classes}")
    return open_folder(root)


def show(source: Source) -> dict[str, list[str]]:
    return {
        record.id: [source.classes[k] for k in np.flatnonzero(record.image_labels)]
        for record in source.records
    }


WANTED = {"a": ["cat"], "b": ["cat", "dog"], "c": ["dog"]}


@pytest.mark.parametrize(
    "table",
    [
        "id,classes\na,cat\nb,cat dog\nc,dog\n",
        "image,labels\na.jpg,cat\nb.jpg,cat|dog\nc.jpg,dog\n",
        "filename;tags\na.jpg;cat\nb.jpg;cat,dog\nc.jpg;dog\n",
        "File,Label\na.jpg,cat\nb.jpg,cat;dog\nc.jpg,dog\n",
        'path,class\nimages/a.jpg,cat\nimages/b.jpg,"cat, dog"\nimages/c.jpg,dog\n',
        "file_name\tcategory\na.jpg\tcat\nb.jpg\tdog cat\nc.jpg\tdog\n",
        "id|labels\na|cat\nb|cat dog\nc|dog\n",
        "image,label\na,cat\nb,cat\nb,dog\nc,dog\nc,dog\n",
        "\nimage,cat,dog\na,1,0\nb,1,1\nc,0.0,1.0\n",
        {"a.jpg": ["cat"], "b.jpg": ["dog", "cat"], "c": "dog"},
        {"a": {"labels": ["cat"]}, "b": {"tags": "cat|dog"}, "c": {"class": "dog"}},
        {"a": {"cat": 1, "dog": 0}, "b": {"cat": True, "dog": True}, "c": {"cat": 0, "dog": 1}},
        [
            {"image": "a.jpg", "labels": ["cat"]},
            {"file": "b", "classes": "dog cat"},
            {"id": "c", "tag": "dog"},
        ],
        [
            {"image": "a", "label": "cat"},
            {"image": "b", "label": "cat"},
            {"image": "b", "label": "dog"},
            {"image": "c", "label": "dog"},
        ],
    ],
)
def test_forms_of_the_same_table(root: Path, table: Any) -> None:
    source = read(root, table)
    assert source.problems == ()
    assert source.classes == ("cat", "dog")
    assert show(source) == WANTED
    assert not source.without_row
    assert not source.without_class


def test_a_split_may_be_called_valid(root: Path) -> None:
    source = read(root, "image,label,split\na,cat,Training\nb,cat,valid\nc,cat,validation\n")
    assert [record.split for record in source.records] == ["train", "val", "val"]
    (root / "labels.csv").unlink()
    source = read(root, [{"image": n, "label": "cat", "split": "train"} for n in "ab"])
    assert [record.split for record in source.records] == ["train", "train"]
    assert source.without_row == ("c.jpg",)
    assert source.home == "labels.json"


def test_columns_of_zeros_say_that_a_picture_holds_nothing(root: Path) -> None:
    source = read(root, "image,Cat,dog\na,1,0\nb,0,0\nc,0,1\n")
    assert show(source) == {"a": ["Cat"], "b": [], "c": ["dog"]}
    assert source.without_class == ()


def test_an_empty_list_says_nothing(root: Path) -> None:
    source = read(root, {"a": ["cat"], "b": [], "c": ["background"]})
    assert source.without_class == ("b.jpg",)


def test_names_with_spaces(root: Path) -> None:
    source = read(root, "id,classes\na,red fox\nb,red fox|dog\nc,dog\n")
    assert show(source) == {"a": ["red fox"], "b": ["dog", "red fox"], "c": ["dog"]}
    source = read(root, "id,classes\na,red fox dog\nb,red fox|dog\nc,dog\n")
    assert source.problems == (
        "labels.csv line 2 (`a`): `red fox dog` may be words or hold `red fox`, as other rows have it: "
        "separate by |",
    )


def test_several_rows_are_joined_only_where_all_rows_are_so(root: Path) -> None:
    source = read(root, "id,class\na,cat\nb,cat\nb,dog\nc,dog\n")
    assert source.remarks == ("1 picture in several rows: of the classes of all of them",)
    source = read(root, "id,class\na,cat dog\nb,cat\nb,dog\nc,dog\n")
    assert source.problems == ("labels.csv line 4 (`b`): names `b.jpg` again, as line 3 does: keep one row",)
    source = read(root, "id,class,split\na,cat,train\na,dog,val\n")
    assert "labels.csv line 3 (`a`): names `a.jpg` again, as line 2 does: keep one row" in source.problems
    source = read(root, "id,class\na,cat\na,background\n")
    assert "labels.csv line 3 (`a`): names `a.jpg` again, as line 2 does: keep one row" in source.problems


def test_separators_mixed_in_one_cell_are_told(root: Path) -> None:
    source = read(root, 'id,classes\na,"cat,dog|fox"\nb,cat\n')
    assert source.problems == (
        "labels.csv line 2 (`a`): `cat,dog|fox` is separated by | and ,: use one of them",
    )
    source = read(root, 'id,classes\na,"fox, red|dog"\nb,dog\n', classes="fox, red|dog\ndog\n")
    assert source.problems == ()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "image,cat,dog\na,1,0\nb,0,2\n",
            "line 3: column `dog` holds `2`, other columns 0 and 1: make it 0 or 1 if it is a class, or take",
        ),
        ("image,author,dog\na,me,1\n", "line 2: column `author` holds `me`, other columns 0 and 1"),
        ("image,author\na,me\n", "lacks the column classes, has image, author: the first line must be"),
        ("{", "is no valid JSON"),
        ("[" * 100_000, "is nested too deeply to be read"),
        ('{"a": ["\\udc00"]}', r"holds half of a character \(\\udc00\): export it again"),
        ("[]", "holds no pictures: expected"),
        ("[1]", "entry 0 is no object: expected"),
        ({"images": [], "annotations": []}, r"is an instances JSON of COCO: set source.kind=coco"),
    ],
)
def test_tables_that_make_no_sense(root: Path, table: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read(root, table)


def test_both_halves_of_a_character_are_one(root: Path) -> None:
    source = read(root, '{"a": ["\\ud83d\\ude00"], "b": ["C:\\\\\\\\udcba"]}')
    assert source.classes == ("C:\\\\udcba", "\U0001f600")


def test_cells_left_empty_are_told(root: Path) -> None:
    source = read(root, "image,cat,dog\na,1,\nb,0,1\n")
    assert source.problems == ("labels.csv line 2 (`a`): column `dog` is empty: write 0 or 1",)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('{"a": "cat", "a": "dog"}', "labels.json: `a` stand there twice: keep one"),
        ({"a": ["cat", 3]}, "labels.json (`a`): class 3 must be a name in quotes"),
        ({"a": ["cat"], "b": 3}, "labels.json (`b`): classes must be a list of names, got 3"),
        ({"a": ["cat"], "b": {"cat": 2}}, "labels.json (`b`): names no classes: expected"),
        ({"a": ["cat", "background"]}, "labels.json (`a`): `background` stands beside classes"),
        ({"gone": ["cat"], "a": ["cat"]}, "labels.json (`gone`): no such picture in `images`"),
        (
            [{"image": "a", "label": "cat"}, {"label": "cat"}],
            "labels.json entry 1: must have one key for image",
        ),
        (
            [{"id": 1, "file": "a", "label": "cat"}, {"id": "b", "tag": "cat"}],
            "labels.json entry 0: must have one",
        ),
        ([{"id": "a", "tag": "cat", "label": "cat"}], "labels.json entry 0: must have one key for classes"),
        (
            [{"id": "a", "tag": "cat", "split": "test"}],
            "labels.json (`a`): split `test` must be train or val",
        ),
        (
            [{"id": "a", "tag": ["cat", "dog"]}, {"id": "a", "tag": "cat"}],
            "labels.json (`a`): names `a.jpg` again, as another entry does: keep one row",
        ),
    ],
)
def test_single_bad_entries_are_told(root: Path, table: Any, problem: str) -> None:
    source = read(root, table)
    assert any(found.startswith(problem) for found in source.problems), source.problems


def test_unknown_names_in_json(root: Path) -> None:
    source = read(root, {"a": ["cta"], "b": ["cat"]}, classes="cat\n")
    assert source.problems == ("labels.json (`a`): class `cta` is not in classes.txt: did you mean `cat`?",)


def test_two_tables_are_one_too_many(root: Path) -> None:
    read(root, "id,classes\na,cat\n")
    with pytest.raises(SourceError, match=r"has labels.csv and labels.json: keep one"):
        read(root, {"a": "cat"})


def test_a_table_of_another_name_is_pointed_at(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg")
    (tmp_path / "train.csv").write_text("id,classes\na,cat\n")
    with pytest.raises(SourceError, match=r"is train.csv the table\? Call it labels.csv"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("cell", "names"), [("cat; dog", ("cat", "dog")), ("red fox, dog", ("red fox", "dog"))]
)
def test_cells(cell: str, names: tuple[str, ...]) -> None:
    assert split_class_names(cell) == names


# -- class folders -----------------------------------------------------------------------------


def write(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (grey, grey, grey)).save(path)


def test_copies_in_several_class_folders_are_one_picture_of_all_these_classes(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "1.jpg", 0)
    write(tmp_path / "cat" / "2.jpg", 50)
    write(tmp_path / "dog" / "1.jpg", 100)
    write(tmp_path / "dog" / "both.jpg", 50)
    (tmp_path / "masks" / "dog").mkdir(parents=True)
    Image.fromarray(np.ones((4, 6), np.uint8)).save(tmp_path / "masks" / "dog" / "both.png")
    source = open_folder(tmp_path)
    assert show(source) == {"cat__1": ["cat"], "cat__2": ["cat", "dog"], "dog__1": ["dog"]}
    assert source.remarks == ("1 picture in several class folders: of the classes of all of them",)
    assert source.reader.read_gt_label(source.records[1]) is not None


def test_copies_in_one_class_folder_or_in_both_splits_stay_apart(tmp_path: Path) -> None:
    for name in ("train/cat/1", "train/cat/2", "val/cat/1", "val/dog/1", "train/dog/3"):
        write(tmp_path / f"{name}.jpg", 0 if "3" not in name else 90)
    source = open_folder(tmp_path)
    assert show(source) == {
        "train__cat__1": ["cat"],
        "train__cat__2": ["cat"],
        "train__dog__3": ["dog"],
        "val__cat__1": ["cat", "dog"],
    }


def test_a_copy_in_background_is_told(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "1.jpg", 0)
    write(tmp_path / "background" / "1.jpg", 0)
    assert open_folder(tmp_path).problems == (
        "background/1.jpg: lies in `background`, too, as cat/1.jpg: take one away",
    )
