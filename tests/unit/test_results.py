"""What a finished run shows."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from flows.results import encode_panel


def test_a_large_panel_becomes_a_small_artifact(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3000, 1500, 4), np.uint8)
    Image.fromarray(noise).save(tmp_path / "panel.png")
    uri = encode_panel(tmp_path / "panel.png")
    kind, data = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    assert len(uri) < 1_000_000
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (700, 1400)
