"""What ``dsrg run PATH`` writes into params.yaml: the kind of source that the folder is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_coco import write_coco
from tiny_folder import write_data
from tiny_voc import write_devkit

from flows.forms import list_settings
from flows.params_file import edit_params
from tasks.errors import UserError
from tasks.params import ParamsError, read_params
from tasks.schema import Source


@pytest.fixture
def project(tmp_path: Path, project_root: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    shutil.copy(project_root / "params.yaml", root)
    return root


def read_source(project: Path) -> Source:
    return read_params(project / "params.yaml").source


def test_the_kind_follows_the_folder(tmp_path: Path, project: Path) -> None:
    for kind, write in (("folder", write_data), ("voc", write_devkit), ("coco", write_coco)):
        data = tmp_path / kind
        write(data)
        edit_params(project, folder=data)
        assert (read_source(project).kind, read_source(project).path) == (kind, str(data))
    comments = [line for line in (project / "params.yaml").read_text().splitlines() if "kind:" in line]
    assert "# synthetic | folder | voc" in comments[0]


def test_what_concerns_one_kind_is_kept_for_it_and_forgotten_for_others(
    tmp_path: Path, project: Path
) -> None:
    coco, other, folder = write_coco(tmp_path / "a"), write_coco(tmp_path / "b"), write_data(tmp_path / "c")
    edit_params(project, folder=coco, settings=["source.categories=[cat, dog]"])
    assert read_source(project).categories == ("cat", "dog")
    edit_params(project, folder=other)
    assert read_source(project).categories == ("cat", "dog")
    edit_params(project, folder=folder)
    assert read_source(project).categories == ()
    year = write_devkit(tmp_path / "d")
    edit_params(project, folder=year, settings=["source.image_labels=masks"])
    assert read_source(project).image_labels == "masks"
    edit_params(
        project, settings=["source.kind=synthetic", "source.path=dsrg/sources/synthetic.py", "train.lr=0.01"]
    )
    assert read_source(project).image_labels == "xml"


def test_values_of_another_kind_are_refused(tmp_path: Path, project: Path) -> None:
    data = write_data(tmp_path / "data")
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(ParamsError, match=r"`categories` must be \[\] where `kind` is folder"):
        edit_params(project, folder=data, settings=["source.categories=[cat]"])
    with pytest.raises(ParamsError, match=r"`image_labels` must be xml where `kind` is folder"):
        edit_params(project, folder=data, settings=["source.image_labels=masks"])
    assert (project / "params.yaml").read_bytes() == before


def test_a_folder_of_two_kinds_needs_a_word(tmp_path: Path, project: Path) -> None:
    data = write_coco(write_data(tmp_path / "data"))
    with pytest.raises(UserError, match=r"could be folder .labels.csv., coco"):
        edit_params(project, folder=data)
    edit_params(project, folder=data, settings=["source.kind=coco"])
    assert read_source(project).kind == "coco"


def test_the_form_finds_the_kind_too(tmp_path: Path, project: Path) -> None:
    data = write_coco(tmp_path / "data")
    edit_params(project, settings=list_settings({"source": str(data)}, project))
    assert (read_source(project).kind, read_source(project).path) == ("coco", str(data))
