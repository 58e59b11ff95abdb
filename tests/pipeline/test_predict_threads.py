"""Pictures drawn several at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tiny_folder import draw_picture
from tiny_project import build_params

from tasks import inference, predict
from tasks.predict import Wishes, predict_pictures


def test_what_is_drawn_does_not_depend_on_how_many_are_drawn_at_a_time(
    drawing_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for number in range(9):
        place = tmp_path / f"photos/{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(draw_picture(number, 50 + number % 3, 70)).save(place)
    monkeypatch.setattr(inference, "_FEW", 2)  # so that OpenVINO draws
    drawn = []
    for workers in (1, 3):
        wishes = Wishes(device="cpu")
        monkeypatch.setattr(
            predict, "_choose_compute", lambda *_, n=workers: build_params(compute={"workers": n}).compute
        )
        predict_pictures([tmp_path / "photos"], tmp_path / str(workers), wishes, root=drawing_workspace)
        files = (file for file in (tmp_path / str(workers)).rglob("*") if file.is_file())
        drawn.append({file.relative_to(tmp_path / str(workers)): file.read_bytes() for file in files})
    assert len(drawn[0]) > 20
    assert drawn[0] == drawn[1]
