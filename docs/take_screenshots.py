"""Take the pictures of ``docs/three-doors.md``: ``python -m docs.take_screenshots``.

Serves a copy of this project, starts a run on the drawn pictures from the form of the Prefect UI and a
second one with another param, and goes through the pages of Prefect and MLflow with Debian's chromium
(``apt-get install chromium``). Fewer pictures and steps than in the demo; 9 minutes on 2 cores.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import ui_pages as ui  # noqa: E402 - lies beside the tests that go through the same pages
from served_project import ServedProject, list_studies  # noqa: E402
from toy_project import commit, copy_project  # noqa: E402

from flows.params_file import edit_params  # noqa: E402

IMAGES = HERE / "images"
SECONDS_OF_A_RUN = 3600.0
SMALL = [
    *(
        "source.num_train=48",
        "source.num_val=16",
        "classify.epochs=8",
        "train.epochs=8",
        "retrain.epochs=4",
        "train.min_steps=1",
        "retrain.min_steps=1",
    ),
    *("train.crop_size=192", "classify.crop_size=192"),
]


def take(served: ServedProject, folder: Path) -> None:
    """Go through all pages; leave the pictures in `folder`."""
    with ui.open_browser() as page:
        ui.open_deployments(page, served.url)
        ui.shoot(page, folder, "prefect-deployments")
        ui.open_form(page, served.url, "whole-pipeline")
        ui.shoot(page, folder, "prefect-form")
        run = ui.submit(page)
        served.wait_for_task(run, "train@1", "Running", timeout=SECONDS_OF_A_RUN)
        page.wait_for_timeout(20_000)
        page.reload()
        ui.shoot(page, folder, "prefect-running", rest=10)  # the graph is drawn beside a training
        page.goto("about:blank")  # the page of a running run is drawn anew all the time, by one of the cores
        served.wait_for(run, "COMPLETED", timeout=SECONDS_OF_A_RUN)
        again = served.trigger("whole-pipeline", relabel_fg_threshold=0.7)
        ui.open_run(page, served.url, run)
        ui.shoot(page, folder, "prefect-run")
        for key in ("scores", "panel-val", "summary"):
            ui.open_run(page, served.url, run)
            ui.open_tab(page, "Artifacts")
            if key == "scores":
                ui.shoot(page, folder, "prefect-artifacts")
            ui.open_artifact(page, key)
            ui.shoot(page, folder, f"prefect-{key}")
        page.goto("about:blank")
        served.wait_for(again, "COMPLETED", timeout=SECONDS_OF_A_RUN)
        ui.open_run(page, served.url, again)
        ui.shoot(page, folder, "prefect-again")

        experiment, studies = list_studies(served.mlflow_url)
        ui.open_experiment(page, served.mlflow_url, experiment)
        ui.shoot(page, folder, "mlflow-runs")
        ui.open_comparison(page, served.mlflow_url, experiment, studies)
        ui.show_differences(page)
        ui.shoot(page, folder, "mlflow-compared")
        ui.open_charts(page, served.mlflow_url, experiment, "^(val|pseudo_labels)/miou")
        ui.shoot(page, folder, "mlflow-charts", rest=5)  # curve after curve


def shrink(picture: Path, target: Path) -> None:
    """Write a screenshot with 128 colours: a third of the bytes, and nobody sees it."""
    with Image.open(picture) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)


def main() -> None:
    """Take the pictures anew."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        root = copy_project(Path(place) / "dsrg")
        edit_params(root, settings=SMALL)
        commit(root)
        shots = Path(place) / "shots"
        shots.mkdir()
        try:
            with ServedProject(root, Path(place) / "prefect") as served:
                take(served, shots)
        finally:  # what was taken before something failed is not lost
            IMAGES.mkdir(exist_ok=True)
            for picture in sorted(shots.glob("*.png")):
                shrink(picture, IMAGES / picture.name)
                print(IMAGES / picture.name)


if __name__ == "__main__":
    main()
