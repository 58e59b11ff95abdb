"""Take docs/images/report.png: ``python -m docs.take_report PAGE``, a report.html; needs chromium."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from docs.take_screenshots import IMAGES, shrink, ui


def main() -> None:
    """Take the top of the page named on the command line."""
    page_file = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as place, ui.open_browser({"width": 1100, "height": 1500}) as page:
        page.goto(page_file.as_uri())
        page.wait_for_load_state("load")
        page.screenshot(path=Path(place) / "report.png")
        shrink(Path(place) / "report.png", IMAGES / "report.png")
    print(IMAGES / "report.png", file=sys.stderr)


if __name__ == "__main__":
    main()
