"""``dsrg export model``, as people call it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_drawing import PROJECT, run_dsrg
from tiny_folder import draw_picture

from dsrg import exporting
from dsrg.exporting import Agreement
from flows.cli import app, guard
from tasks.export_model import choose_format, choose_pictures, export_model


def test_export_checks_the_file_and_says_so(drawing_workspace: Path, tmp_path: Path):
    out = tmp_path / "models/birds.pt"
    arguments = ["export", "model", "--out", str(out), "--json", "--root", str(drawing_workspace)]
    done = run_dsrg(*arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["kept"]
    assert summary["same_class"] > 0.999
    assert summary["bytes"] == out.stat().st_size
    assert len(summary["sizes"]) > 5
    assert summary["milliseconds"] > 0
    assert [path.name for path in out.parent.iterdir()] == ["birds.pt"]


def test_a_file_that_draws_otherwise_is_not_kept(
    drawing_workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    out = tmp_path / "birds.onnx"
    out.write_bytes(b"an earlier file")
    monkeypatch.setattr(exporting, "compare_export", lambda *_: Agreement(1000, 0.999, 0.5, ((8, 8),)))
    monkeypatch.setattr(exporting, "export_segmenter", lambda _, path, **__: path.write_bytes(b"wrong"))
    monkeypatch.setattr(exporting, "load_export", lambda *_, **__: lambda image: image)
    with pytest.raises(SystemExit) as ended:
        app(["export", "model", "--out", str(out), "--root", str(drawing_workspace)])
    assert ended.value.code == 1
    assert "not kept: the class must be the same on more than 99.9%" in capsys.readouterr().err
    assert out.read_bytes() == b"an earlier file"
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x.bin"], "`--out` must end in one of .onnx (onnx), .pt (torchscript), .pt2 (exported)"),
        (["--out", "x.pt", "--format", "onnx"], "`--out` must end in .onnx, got `x.pt`"),
        (["--out", "x.onnx", "--round", "7"], "`rounds` has no round '7', only 1, 2"),
        (["--out", "x.onnx", "--round", "1"], "segmenter.safetensors` not found: run `dsrg run` first"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    drawing_workspace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
):
    command = ["export", "model", *arguments, "--root", str(drawing_workspace)]
    assert guard(lambda: app(command, standalone_mode=False)) == 2
    assert words in capsys.readouterr().err


def test_the_format_is_told_by_the_suffix():
    assert choose_format(Path("a/b.pt2"), None) == "exported"
    assert choose_format(Path("b.onnx"), "onnx") == "onnx"


def test_a_file_is_compared_on_val_pictures_of_many_sizes():
    class Store:
        class index:  # noqa: N801 - stands in for a property
            @staticmethod
            def rows(split: str) -> NDArray[np.int64]:
                return np.arange(100, 120) if split == "val" else np.arange(100)

        read: list[int] = []  # noqa: RUF012

        def read_image(self, row: int) -> NDArray[np.uint8]:
            self.read.append(row)
            return draw_picture(row, 50, 80 if row % 2 else 60)

    store = Store()
    batches = choose_pictures(store, side=64)  # type: ignore[arg-type]
    assert (store.read[0], store.read[-1], len(store.read)) == (100, 119, 6)
    sizes = {batch.shape[1:3] for batch in batches}
    assert {max(size) for size in sizes} == {48, 64, 88}
    assert max(batches[0].shape[1:3]) == 64
    assert len(batches[-1]) == 2
    assert not np.array_equal(*batches[-1])


@pytest.mark.slow
def test_the_programs_of_the_documentation_run(drawing_workspace: Path, tmp_path: Path):
    text = (PROJECT / "docs/predict-and-export.md").read_text(encoding="utf-8")
    programs = re.findall(r"^```python\n(.+?)^```", text, flags=re.MULTILINE | re.DOTALL)
    shutil.copy(drawing_workspace / "model.onnx", tmp_path / "birds.onnx")
    export_model(drawing_workspace, tmp_path / "birds.pt2", kind=None, round_key=None)
    Image.fromarray(draw_picture(0, 64, 48)).save(tmp_path / "a.jpg")
    assert ["onnxruntime" in program for program in programs] == [True, False]
    for program in programs:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        if "onnxruntime" in program:
            shares = dict(line.split() for line in done.stdout.splitlines())
            assert shares.keys() == {"background", "cat", "dog"}
            assert sum(map(float, shares.values())) == pytest.approx(1)
    with Image.open(tmp_path / "a.png") as mask:
        assert (mask.mode, mask.size) == ("P", (48, 64))
        assert len(np.unique(np.asarray(mask))) > 1
