"""The ablation harness: its rows, its data sets, its table. Rows are run in tests/pipeline."""

from __future__ import annotations

import csv
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_project import PROJECT

from bench.quality.__main__ import is_done
from bench.quality.data import SIZES, prepare_data
from bench.quality.defects import CLASSES, draw_folder
from bench.quality.rows import REFERENCE, ROWS, choose_rows, list_jobs
from bench.quality.table import describe_share, describe_spread, write_table
from flows.params_file import edit_params
from tasks.errors import UserError
from tasks.params import read_params
from tasks.tracking import flatten


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def defects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "defects"
    draw_folder(folder, num_train=24, num_val=8, size=64, random_seed=3)
    return folder


# -- what is done --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "done", "done_if_older_are_kept"),
    [
        ("params-code", True, True),
        ("params-older", False, True),
        ("others-code", False, False),
        ("", False, False),
    ],
)
def test_a_row_is_done_if_nothing_changed_or_nothing_but_code(
    known: str, done: bool, done_if_older_are_kept: bool
) -> None:
    assert is_done(known, "params-code", keep_older=False) == done
    assert is_done(known, "params-code", keep_older=True) == done_if_older_are_kept


# -- rows --------------------------------------------------------------------------------------


def test_rows_have_names_of_their_own_and_are_measured_against_one_another() -> None:
    names = [row.name for row in (*ROWS, REFERENCE)]
    assert len(set(names)) == len(names)
    for number, row in enumerate(ROWS):
        assert row.against in {"", *names[:number]}, f"{row.name} comes before what it is measured against"


@pytest.mark.parametrize("row", [row for row in ROWS if row.changes or row.scaled], ids=lambda row: row.name)
def test_a_row_changes_what_it_says_and_nothing_that_is_so_already(row: object, tmp_path: Path) -> None:
    assert isinstance(row, type(ROWS[0]))
    shutil.copy(PROJECT / "tasks" / "defaults.yaml", tmp_path / "params.yaml")
    edit_params(tmp_path, settings=[f"{key}={value}" for key, value in SIZES["small"].changes.items()])
    before = flatten(read_params(tmp_path / "params.yaml").model_dump(mode="json"))
    values = {**row.changes, **{key: round(before[key] * by) for key, by in row.scaled.items()}}
    edit_params(tmp_path, settings=[f"{key}={str(value).lower()}" for key, value in values.items()])
    after = flatten(read_params(tmp_path / "params.yaml").model_dump(mode="json"))
    assert {key for key in after if after[key] != before[key]} == set(values)


def test_some_rows_are_run_with_the_first_seed_only() -> None:
    rows = choose_rows(["boundary", "cams-finer"])
    jobs = [[(seed, row.name) for row in own] for seed, own in list_jobs(rows, [7, 8])]
    assert jobs == [[(7, "boundary"), (7, "cams-finer")], [(8, "boundary")]]
    assert [seed for seed, _ in list_jobs(choose_rows(["cams-finer"]), [7, 8])] == [7]


def test_rows_are_chosen_by_name_or_group() -> None:
    assert choose_rows(["all"]) == [*ROWS, REFERENCE]
    assert [row.name for row in choose_rows(["chain"])] == [row.name for row in ROWS if row.group == "chain"]
    assert choose_rows(["reference"]) == [REFERENCE]
    with pytest.raises(UserError, match="got 'no-such'"):
        choose_rows(["no-such"])


# -- data --------------------------------------------------------------------------------------


def test_defects_are_grey_small_and_told_by_their_labels(defects: Path) -> None:
    rows = read_table(defects)
    assert [row["split"] for row in rows] == ["train"] * 24 + ["val"] * 8
    found = set()
    shares = []
    for row in rows:
        with Image.open(defects / "images" / f"{row['id']}.png") as picture:
            assert picture.mode == "L"
        mask = np.asarray(Image.open(defects / "masks" / f"{row['id']}.png"))
        held = {CLASSES[class_id - 1] for class_id in np.unique(mask) if class_id}
        assert held == set(filter(None, row["classes"].split("|")))
        found |= held
        shares.append((mask > 0).mean())
    assert found == set(CLASSES)
    assert shares.count(0.0) > 2
    assert max(shares) < 0.2


def test_defects_are_the_same_for_one_seed(defects: Path, tmp_path: Path) -> None:
    def digest(folder: Path) -> str:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    draw_folder(tmp_path / "again", num_train=24, num_val=8, size=64, random_seed=3)
    draw_folder(tmp_path / "other", num_train=24, num_val=8, size=64, random_seed=4)
    assert digest(tmp_path / "again") == digest(defects) != digest(tmp_path / "other")


def test_a_second_command_leaves_held_out_pictures_that_are_there(defects: Path, tmp_path: Path) -> None:
    data = prepare_data(str(defects), SIZES["small"], tmp_path, held_out=(12, 6))
    assert data.folder is not None
    (data.folder / "in-use").touch()
    assert prepare_data(str(defects), SIZES["small"], tmp_path, held_out=(12, 6)) == data
    assert (data.folder / "in-use").exists()
    prepare_data(str(defects), SIZES["small"], tmp_path, held_out=(11, 6))
    assert not (data.folder / "in-use").exists()
    assert [path.name for path in tmp_path.glob("*-held-out*")] == [data.folder.name]


def test_held_out_pictures_are_training_pictures(defects: Path, tmp_path: Path) -> None:
    data = prepare_data(str(defects), SIZES["small"], tmp_path, held_out=(12, 6))
    assert data.folder is not None
    rows, all_rows = read_table(data.folder), {row["id"]: row for row in read_table(defects)}
    assert sorted(row["split"] for row in rows) == ["train"] * 12 + ["val"] * 6
    assert len({row["id"] for row in rows}) == 18
    for row in rows:
        assert all_rows[row["id"]]["split"] == "train"
        assert all_rows[row["id"]]["classes"] == row["classes"]
    for part in ("images", "masks"):
        assert {path.stem for path in (data.folder / part).iterdir()} == {row["id"] for row in rows}
    with pytest.raises(UserError, match="24 training pictures, fewer than 30"):
        prepare_data(str(defects), SIZES["small"], tmp_path, held_out=(20, 10))


def test_a_name_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder with labels\.csv"):
        prepare_data(str(tmp_path / "nothing"), SIZES["small"], tmp_path)


# -- table -------------------------------------------------------------------------------------


def make_numbers(**numbers: float) -> dict[str, float]:
    return {"seconds": 60.0, "cues": 30.0, "pseudo_labels": 40.0, "val": 35.0, "val_crf": 36.0, **numbers}


def test_the_table_tells_gains_from_noise(tmp_path: Path) -> None:
    results = {
        "synthetic small": {
            "cues": {"0": make_numbers(), "1": make_numbers(val_crf=38.0)},
            "growing": {"0": make_numbers(val_crf=40.0), "1": make_numbers(val_crf=41.0)},
            "boundary": {"0": make_numbers(val_crf=41.0), "1": make_numbers(val_crf=41.5)},
            "reference": {seed: {"seconds": 60.0, "val": 70.0, "val_crf": 72.0} for seed in "01"},
        }
    }
    write_table(results, tmp_path / "table.md")
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in (tmp_path / "table.md").read_text().splitlines()
        if line.startswith("|")
    }
    columns = lines["row"]
    value = {name: dict(zip(columns, cells, strict=True)) for name, cells in lines.items()}
    assert value["+ growing"]["Δ val + CRF"] == "+3.5 (+3.0 to +4.0)"
    assert value["+ growing"]["Δ val"] == "noise: +0.0 (+0.0 to +0.0)"
    assert value["+ growing"]["val + CRF"] == "40.5 ± 0.5"
    assert value["+ growing"]["against"] == "cues"
    assert value["+ boundary loss = round 1"]["Δ val + CRF"] == "noise: +0.8 (+0.5 to +1.0)"
    assert value["cues only"]["of ref"] == "50, 51"
    assert value["the same network on the true masks"]["val + CRF"] == "72.0 ± 0.0"
    assert describe_spread([]) == describe_share({}, {}) == ""
