"""The pages of Prefect's and MLflow's UI as a person goes through them, in Debian's chromium."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
SIZE = {"width": 1400, "height": 1000}


@contextlib.contextmanager
def launch_browser() -> Iterator[Browser]:
    """Launch a browser without a page."""
    with sync_playwright() as playwright:
        # root, as in a container, has no sandbox
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def open_browser(size: Any = SIZE) -> Iterator[Page]:
    """Open an empty page; pages that a person has not seen yet ask nothing and advertise nothing."""
    with launch_browser() as browser:
        page = browser.new_page(viewport=size)
        page.set_default_timeout(60_000)
        yield page


def open_deployments(page: Page, url: str) -> None:
    page.goto(f"{url}/deployments")
    page.get_by_role("link", name="predict", exact=True).first.wait_for()


def open_form(page: Page, url: str, deployment: str) -> None:
    """Go from the list of deployments to the form of one."""
    open_deployments(page, url)
    page.get_by_role("link", name=deployment, exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.get_by_text("Custom run").click()
    page.get_by_role("button", name="Submit").wait_for()


def find_field(page: Page, title: str) -> Locator:
    """Find the input of a form's field by its title."""
    return page.locator(".p-label", has=page.get_by_text(f"{title} (Optional)", exact=True)).locator("input")


def submit(page: Page) -> str:
    """Submit the form and go to the run; return its id."""
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("button", name="View run").last.click()
    page.wait_for_url("**/runs/flow-run/*")
    return page.url.partition("/flow-run/")[2].partition("?")[0]


def open_run(page: Page, url: str, run: str) -> None:
    page.goto(f"{url}/runs/flow-run/{run}")


def wait_for_state(page: Page, name: str, *, seconds: float) -> None:
    """Wait on a run's page, which keeps itself up to date, until its state is `name`."""
    page.locator(".page-heading, header").get_by_text(name, exact=True).first.wait_for(timeout=1000 * seconds)


def open_tab(page: Page, name: str) -> None:
    page.locator(".p-tab-navigation__tab, .p-tab").get_by_text(name, exact=True).first.click()


def open_artifact(page: Page, key: str) -> None:
    """Open one artifact from a run's tab of them; going back leads there again."""
    page.get_by_text(key, exact=True).first.click()
    page.wait_for_url("**/artifacts/**")


def open_experiment(page: Page, url: str, experiment: str) -> None:
    """Open the list of an experiment's runs in MLflow."""
    page.goto(f"{url}/#/experiments/{experiment}/runs?workflowType=machine_learning")
    page.get_by_text("Run Name").first.wait_for()
    close_assistant(page)


def open_comparison(page: Page, url: str, experiment: str, runs: list[str]) -> None:
    """Open the page that compares runs."""
    chosen, within = json.dumps(runs), json.dumps([experiment])
    page.goto(f"{url}/#/compare-runs?runs={chosen}&experiments={within}")
    page.get_by_text("Run ID:").first.wait_for()
    close_assistant(page)


def show_differences(page: Page) -> None:
    """Have the page that compares runs show what differs only, from its first parameter on."""
    for switch in page.get_by_role("switch").all():
        switch.click()
    page.get_by_text("Parameters", exact=True).last.evaluate("heading => heading.scrollIntoView()")


def open_charts(page: Page, url: str, experiment: str, charts: str) -> None:
    """Open an experiment's charts of all runs: those whose name matches `charts`, a regular expression."""
    page.goto(f"{url}/#/experiments/{experiment}/runs?workflowType=machine_learning&compareRunsMode=CHART")
    search = page.get_by_placeholder("Search metric charts")
    search.wait_for()
    close_assistant(page)
    search.fill(charts)  # only charts in sight are drawn
    page.locator(".js-plotly-plot").first.wait_for()


def close_assistant(page: Page) -> None:
    """Close the panel that MLflow opens for a first visitor."""
    close = page.locator('[data-component-id^="mlflow.assistant"][data-component-id$="close"]')
    if close.count():
        close.first.click()


def read_table(page: Page) -> list[dict[str, Any]]:
    """Read the rows of the first table on a page: heading to text."""
    headings = [cell.strip() for cell in page.locator("table th").all_inner_texts()]
    rows = page.locator("table tbody tr").all()
    return [dict(zip(headings, row.locator("td").all_inner_texts(), strict=False)) for row in rows]


def shoot(page: Page, folder: Path, name: str, *, full: bool = False, rest: float = 1.5) -> None:
    """Take a picture of the page, once it has come to rest: after so many seconds."""
    page.wait_for_timeout(1000 * rest)
    page.screenshot(path=folder / f"{name}.png", full_page=full)
