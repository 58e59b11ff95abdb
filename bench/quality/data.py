"""The data sets of the ablation: drawn ones that need nothing, and folders of one's own."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.quality.defects import draw_folder
from tasks.errors import UserError

DRAWN = ("synthetic", "defects")


@dataclass(frozen=True)
class DataSet:
    """A data set of the ablation.

    Attributes
    ----------
    name : str
        As in files and in MLflow.
    folder : Path or None
        None where the pipeline draws it.
    """

    name: str
    folder: Path | None


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes
    ----------
    name : str
    train, val : int
        Pictures of the drawn data sets.
    drawn : int
        Their side, pixels.
    changes : dict
        Dotted params and their values.
    """

    name: str
    train: int
    val: int
    drawn: int
    changes: dict[str, Any]


def _shrink(factor: float) -> dict[str, Any]:
    """Params of pictures that are smaller by `factor`; the reach of a CRF shrinks along."""
    side = {"ingest.canvas": 320, "classify.crop_size": 224, "train.crop_size": 256}
    reach = {"cues": 60.0, "refine": 49.0, "evaluate": 49.0}
    return {
        **{key: round(value * factor / 32) * 32 for key, value in side.items()},
        "cams.size": round(320 * factor / 16) * 16,
        **{f"{stage}.crf.bilateral_xy": round(value * factor, 1) for stage, value in reach.items()},
    }


SIZES = {
    # everything of params.yaml but the sizes; one view where params.yaml has six, and segmenters trained for
    # half as many steps (120 and 60), or the table would take five hours instead of three
    "small": Size(
        "small",
        train=120,
        val=60,
        drawn=192,
        changes={
            **_shrink(0.6),
            "train.min_steps": 1,
            "retrain.min_steps": 1,
            "relabel.scales": [1.0],
            "evaluate.scales": [1.0],
        },
    ),
    "full": Size("full", train=120, val=40, drawn=256, changes={}),
}


def prepare_data(name: str, size: Size, place: Path, *, held_out: tuple[int, int] | None = None) -> DataSet:
    """Find or draw a data set.

    Parameters
    ----------
    name : str
        ``synthetic``, ``defects``, or the path of a folder with ``labels.csv``, images and masks.
    size : Size
    place : Path
        Where folders are made.
    held_out : (int, int), optional
        Of a folder: use so many of its *training* pictures to train on and so many others of them to
        score on, picked by a hash of their ids. So settings are chosen without a look at its val split.

    Raises
    ------
    UserError
        There is no such folder.
    """
    if name == "synthetic":
        return DataSet(name, None)
    if name == "defects":
        folder = place / f"defects-{size.name}"
        if not (folder / "labels.csv").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            draw_folder(folder, num_train=size.train, num_val=size.val, size=size.drawn, random_seed=0)
        return DataSet(folder.name, folder)
    source = Path(name).expanduser().resolve()
    if not (source / "labels.csv").is_file():
        raise UserError(
            f"`{name}` is none of {', '.join(DRAWN)} and no folder with labels.csv, images and masks"
        )
    if held_out is None:
        return DataSet(source.name, source)
    folder = place / f"{source.name}-held-out"
    made = folder.with_name(f"{folder.name}.{os.getpid()}")
    split_training(source, made, *held_out)
    if _read_table(folder) == _read_table(made):
        shutil.rmtree(made)  # another command may be reading what is there
    else:
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return DataSet(folder.name, folder)


def _read_table(folder: Path) -> str | None:
    table = folder / "labels.csv"
    return table.read_text(encoding="utf-8") if table.is_file() else None


def split_training(source: Path, folder: Path, num_train: int, num_val: int) -> None:
    """Link some training pictures of `source` into a folder of their own, split anew.

    Pictures of the source's val split are not in it at all.

    Raises
    ------
    UserError
        There are too few.
    """
    with (source / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    if len(rows) < num_train + num_val:
        raise UserError(f"`{source}` has {len(rows)} training pictures, fewer than {num_train + num_val}")
    rows.sort(key=lambda row: hashlib.sha256(row["id"].encode()).hexdigest())
    chosen = rows[: num_train + num_val]
    shutil.rmtree(folder, ignore_errors=True)
    files = {path.stem: path for path in (source / "images").iterdir()}
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    if (source / "classes.txt").is_file():
        (folder / "classes.txt").symlink_to(source / "classes.txt")
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("id", "classes", "split"))
        for number, row in enumerate(chosen):
            table.writerow((row["id"], row["classes"], "val" if number < num_val else "train"))
            (folder / "images" / files[row["id"]].name).symlink_to(files[row["id"]])
            mask = source / "masks" / f"{row['id']}.png"
            if mask.is_file():
                (folder / "masks" / mask.name).symlink_to(mask)
