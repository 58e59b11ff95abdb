"""Telling Prefect's page what happens must not cost a run."""

from __future__ import annotations

import pytest

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
