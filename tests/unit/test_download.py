"""``dsrg download voc``: torchvision's archive, and what is said where it cannot be had."""

from __future__ import annotations

import hashlib
import tarfile
import threading
import urllib.error
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tiny_voc import write_devkit
from torchvision.datasets import voc as published

from dsrg.sources.voc import open_voc
from flows.cli import guard
from tasks.download import download_voc
from tasks.errors import UserError


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


NAME = "VOCtrainval_11-May-2012.tar"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Publish a tiny archive, on this machine."""
    write_devkit(tmp_path / "published")
    path = tmp_path / "published" / NAME
    with tarfile.open(path, "w") as tar:
        tar.add(tmp_path / "published" / "VOCdevkit", "VOCdevkit")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(path.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    entry: dict[str, Any] = {
        **published.DATASET_YEAR_DICT["2012"],
        "url": f"http://127.0.0.1:{server.server_port}/{NAME}",
        "md5": hashlib.md5(path.read_bytes()).hexdigest(),
    }
    monkeypatch.setitem(published.DATASET_YEAR_DICT, "2012", entry)
    yield path
    server.shutdown()
    server.server_close()


def test_the_archive_is_fetched_unpacked_and_readable(tmp_path: Path, archive: Path) -> None:
    year = download_voc(tmp_path / "here")
    assert year == tmp_path / "here" / "VOCdevkit" / "VOC2012"
    assert open_voc(tmp_path / "here").problems == ()
    assert not (tmp_path / "here" / ".unpacking").exists()
    archive.unlink()
    assert download_voc(tmp_path / "here") == year


def test_an_archive_put_there_by_hand_is_taken(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / NAME).write_bytes(archive.read_bytes())
    archive.unlink()
    assert open_voc(download_voc(here)).problems == ()


def test_what_is_half_unpacked_is_done_again(tmp_path: Path, archive: Path) -> None:
    half = tmp_path / "here" / ".unpacking" / "VOCdevkit" / "VOC2012" / "ImageSets"
    half.mkdir(parents=True)
    (half / "stale").touch()
    year = download_voc(tmp_path / "here")
    assert not (year / "ImageSets" / "stale").exists()


def test_offline_one_line_names_file_address_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(UserError) as caught:
        download_voc(tmp_path)
    message = str(caught.value)
    assert message == (
        f"`{NAME}` cannot be fetched (<urlopen error no network>): fetch it from "
        f"https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/{NAME} on a machine that is online, put it at "
        f"`{tmp_path / NAME}` and run the same command again"
    )
    assert guard(lambda: download_voc(tmp_path)) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "VOCdevkit").exists()


def test_another_file_than_the_published_one_is_refused(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"cannot be fetched .File not found or corrupted"):
        download_voc(tmp_path / "here")
