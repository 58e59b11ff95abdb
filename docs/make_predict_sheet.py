"""Draw docs/images/predict-sheet.png: ``python -m docs.make_predict_sheet [PROJECT]``, a finished run.

Twelve drawn pictures that the run has not seen, predicted by its last segmenter.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from docs.take_screenshots import IMAGES
from dsrg.panels import write_png
from dsrg.sources.synthetic import open_synthetic

PICTURES = 12
SIZE = 256
RANDOM_SEED = 7  # not the one of params.yaml


def main() -> None:
    """Draw pictures, predict them by the project named on the command line, keep the sheet."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    source = open_synthetic(num_train=1, num_val=PICTURES, size=SIZE, random_seed=RANDOM_SEED)
    with tempfile.TemporaryDirectory() as place:
        drawn, out = Path(place) / "drawn", Path(place) / "predicted"
        drawn.mkdir()
        for record in source.records:
            if record.split == "val":
                write_png(drawn / f"{record.id}.png", source.reader.read_image(record))
        program = [sys.executable, "-c", "from flows.cli import main; main()"]
        subprocess.run([*program, "predict", str(drawn), "--out", str(out), "--root", str(root)], check=True)
        shutil.copy(out / "sheet.png", IMAGES / "predict-sheet.png")
    print(IMAGES / "predict-sheet.png", file=sys.stderr)


if __name__ == "__main__":
    main()
