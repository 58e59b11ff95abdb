"""Telling Prefect's page what happens must not cost a run."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from flows import story


@pytest.fixture(autouse=True)
def _talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "_silent_until", 0.0)
    monkeypatch.setattr(story, "_said", False)
    monkeypatch.setattr(story, "_probe", lambda: None)


def refuse() -> None:
    raise ConnectionError("all connection attempts failed")


def test_what_was_told_comes_back():
    assert story.tell(lambda: 3) == 3


def test_a_server_that_does_not_answer_is_named_once_and_left_alone(capsys: pytest.CaptureFixture[str]):
    calls = []
    assert story.tell(refuse) is None
    assert story.tell(lambda: calls.append("too soon")) is None
    said = capsys.readouterr()
    text = said.out + said.err
    assert calls == []
    assert text.count("does not answer") == 1
    assert "all connection attempts failed" in text


def test_it_is_tried_again_after_a_while_and_not_named_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(story, "RETRY_SECONDS", -1.0)
    story.tell(refuse)
    story.tell(refuse)
    assert story.tell(lambda: "back") == "back"
    said = capsys.readouterr()
    assert (said.out + said.err).count("does not answer") == 1


def test_plots_of_the_report_stand_in_the_page(tmp_path: Path):
    Image.new("RGB", (1600, 400), "red").save(tmp_path / "loss.png")
    (tmp_path / "summary.md").write_text("# Plots\n\n![loss](loss.png)\n[a link](loss.png)\n")
    page = story._inline_plots(tmp_path / "summary.md")
    picture = re.search(r"!\[loss\]\(data:image/jpeg;base64,([^)]+)\)", page)
    assert picture is not None
    with Image.open(io.BytesIO(base64.b64decode(picture[1]))) as shown:
        assert shown.size == (900, 225)
    assert "[a link](loss.png)" in page
