"""Where a finished run's results lie."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from tasks.params import read_params


def list_panels(root: Path) -> list[Path]:
    """List the last round's panels: one picture per split, of all its rows."""
    last = read_params(root / "params.yaml").round_keys[-1]
    folder = root / "data" / "rounds" / last / "panels"
    return [path for path in (folder / "train.png", folder / "val.png") if path.exists()]


def encode_panel(panel: Path, *, max_side: int = 1400) -> str:
    """Encode a panel as a data URI, small enough for an artifact: Prefect drops events over about 1 MB."""
    with Image.open(panel) as picture:
        small = picture.convert("RGB")
    small.thumbnail((max_side, max_side))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
