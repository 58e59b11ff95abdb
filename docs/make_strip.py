"""Draw README's strip from a finished run: ``python -m docs.make_strip [PROJECT]``.

Two training pictures, on each step of the last round; the true masks are not opened.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dsrg.labels import list_present
from dsrg.panels import choose_rows, draw_panel, overlay, overlay_cam, stack_panels, write_png
from dsrg.scaling import scale_maps
from dsrg.store import ImageStore, LabelStore, ScoreStore, count_cells
from tasks.params import read_params

PICTURES = 2
TARGET = Path(__file__).resolve().parent / "images" / "strip.png"


def main() -> None:
    """Draw the strip of the project named on the command line, or of this folder."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    last = root / "data" / "rounds" / read_params(root / "params.yaml").final_round
    images = ImageStore(root / "data" / "images.zarr")
    index = images.index
    cams = ScoreStore(root / "data" / "cams.zarr", "cam", stage="cams")
    labels = {
        "cues": LabelStore(root / "data" / "cues.zarr", "cue", stage="cues"),
        "grown seeds": LabelStore(last / "seeds.zarr", "seed", stage="relabel"),
        "pseudo-label": LabelStore(last / "pseudo_labels.zarr", "pseudo_label", stage="refine"),
    }
    panels = []
    for row in choose_rows(index.rows("train").tolist(), index.ids, index.image_labels, count=PICTURES):
        size, picture = index.sizes[row], images.read_image(row)
        held = list_present(index.image_labels[row])[1:]
        maps = cams.read(row, len(held), count_cells(size, int(cams.attributes["stride"])))
        columns = [("picture", picture), ("CAM", overlay_cam(picture, scale_maps(maps, size)))]
        columns += [(title, overlay(picture, store.read(row, size))) for title, store in labels.items()]
        names = [index.classes[number - 1] for number in held]
        legend = list(zip(names, held.tolist(), strict=True))
        panels.append(draw_panel(columns, caption=f"given: {', '.join(names)}", legend=legend))
    write_png(TARGET, stack_panels(panels))
    print(TARGET, file=sys.stderr)


if __name__ == "__main__":
    main()
