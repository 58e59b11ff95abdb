"""Prefect's UI from the run form to the artifacts, and two runs compared in MLflow, as a person sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from served_project import ServedProject, list_studies
from tiny_project import build_params, write_params
from toy_project import commit, copy_project

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(2400)]
MINUTES_OF_A_RUN = 15


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProject]:
    root = copy_project(tmp_path_factory.mktemp("browser") / "project")
    write_params(build_params(reference={"enabled": False}), root)
    commit(root)
    with ServedProject(root, tmp_path_factory.mktemp("prefect")) as project:
        yield project


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for pictures of the pages, to be looked at: ``DSRG_SHOTS``, or a temporary one."""
    folder = Path(os.environ.get("DSRG_SHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def page(shots: Path) -> Iterator[Page]:
    import ui_pages

    if ui_pages.CHROMIUM is None:
        pytest.fail("chromium not found: apt-get install chromium")
    with ui_pages.open_browser() as opened:
        yield opened
        ui_pages.shoot(opened, shots, "last")  # where it failed, if it did


def test_a_run_from_the_form_to_its_artifacts_and_two_compared(
    served: ServedProject, page: Page, shots: Path
) -> None:
    import ui_pages as ui

    ui.open_deployments(page, served.url)
    for name in ("whole-pipeline", "one-more-round", "re-evaluate", "predict"):
        assert page.get_by_role("link", name=name, exact=True).count()
    ui.shoot(page, shots, "deployments")

    # the form refuses, in words, what it says it refuses
    ui.open_form(page, served.url, "whole-pipeline")
    assert ui.find_field(page, "Rounds").input_value() == "2"
    ui.find_field(page, "Rounds").fill("99")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("99 is greater than the maximum of 20").first.wait_for()
    ui.shoot(page, shots, "refused")

    ui.open_form(page, served.url, "whole-pipeline")
    ui.find_field(page, "Rounds").fill("1")
    ui.shoot(page, shots, "form")
    run = ui.submit(page)
    ui.wait_for_state(page, "Running", seconds=120)
    ui.wait_for_state(page, "Completed", seconds=60 * MINUTES_OF_A_RUN)
    assert page.get_by_text("synthetic-r1").count()
    ui.shoot(page, shots, "run")

    ui.open_tab(page, "Artifacts")
    for key in ("scores", "summary", "panel-train", "panel-val"):
        page.get_by_text(key, exact=True).first.wait_for()
    ui.shoot(page, shots, "artifacts")
    ui.open_artifact(page, "scores")
    page.get_by_text("train CAM + CRF *").wait_for()
    rows = ui.read_table(page)
    assert [row["of"] for row in rows if "pseudo" in row["of"]] == ["train 1 pseudo-labels"]
    assert all(0 <= float(row["mIoU %"]) <= 100 for row in rows)
    ui.shoot(page, shots, "scores")

    page.go_back()
    ui.open_tab(page, "Artifacts")
    ui.open_artifact(page, "panel-val")
    picture = page.locator("img[src^='data:image/jpeg']")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 100
    ui.shoot(page, shots, "panel")

    page.go_back()
    ui.open_tab(page, "Artifacts")
    ui.open_artifact(page, "summary")
    name = f"synthetic-r1-{run[:4]}"
    page.get_by_text(f"dsrg labels restore {name}").wait_for()
    ui.shoot(page, shots, "summary")
    assert page.locator("img[src^='data:image/jpeg']").count() >= 2, "plots"
    with page.expect_popup() as opened:
        page.get_by_role("link", name="parameters, curves, pictures, model").click()
    page = opened.value
    page.set_viewport_size(ui.SIZE)
    page.get_by_text("val/miou", exact=True).first.wait_for()
    ui.close_assistant(page)
    ui.shoot(page, shots, "mlflow-run")

    # one value changed: what does not depend on it is not computed again
    again = served.trigger("whole-pipeline", rounds=1, retrain_epochs=2, refine_min_confidence=0.3)
    served.wait_for(again, "COMPLETED", timeout=60 * MINUTES_OF_A_RUN)
    assert served.read_tasks(again)["train@1"] in ("UpToDate", "Cached")
    assert served.read_tasks(again)["refine@1"] == "Completed"

    experiment, studies = list_studies(served.mlflow_url)
    assert len(studies) == 2
    ui.open_experiment(page, served.mlflow_url, experiment)
    ui.shoot(page, shots, "mlflow-runs")
    ui.open_comparison(page, served.mlflow_url, experiment, studies)
    page.get_by_text("Comparing 2 Runs").wait_for()
    page.get_by_text("refine.min_confidence", exact=True).first.wait_for()
    # the list of metrics draws only the rows in sight: its first ones
    page.get_by_text("best/val/miou", exact=True).first.wait_for(state="attached")
    ui.show_differences(page)
    page.get_by_role("rowheader", name="classify.epochs", exact=True).wait_for(state="detached")
    page.get_by_role("rowheader", name="refine.min_confidence", exact=True).wait_for()
    page.get_by_text("pseudo_labels/coverage", exact=True).first.wait_for(state="attached")
    ui.shoot(page, shots, "mlflow-compared", full=True)
