"""The report's page in a browser: on a phone only tables scroll sideways; dark, printed, by keyboard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tiny_project import run_everything

from tasks.page import write_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
ALIEN = "a picture with a very long name that has " + "no_space_" * 12


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a tiny run, whose data set and pictures have names that break no line by themselves."""
    import json

    params, workspace = run_everything(tmp_path_factory.mktemp("report"))
    place = "data/rounds/2/panels/pictures.json"
    pictures = json.loads(workspace.path(place).read_text())
    pictures["ranked"]["worst"][0] |= {"id": ALIEN, "classes": [ALIEN.replace(" ", "_")]}
    workspace.write_json(place, pictures)
    return write_page(params, workspace).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    import ui_pages

    if ui_pages.CHROMIUM is None:
        pytest.fail("chromium not found: apt-get install chromium")
    with ui_pages.launch_browser() as opened:
        yield opened


def open_page(browser: Browser, address: str, size: Any, scheme: Any = "light") -> Page:
    """Open the page without scripts and without a network; fail on anything that it asks for."""
    context = browser.new_context(viewport=size, color_scheme=scheme, java_script_enabled=False)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    assert [url for url in asked if url != address and not url.startswith("data:")] == []
    folder = os.environ.get("DSRG_SHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"report-{size['width']}-{scheme}.png", full_page=True)
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"width": 320, "height": 600}, PHONE, DESK], ids=lambda size: size["width"])
def test_the_body_never_scrolls_sideways(browser: Browser, address: str, size: Any, scheme: str) -> None:
    page = open_page(browser, address, size, scheme)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= size["width"]
    table = page.locator("#rounds .scroll")
    inside, outside = table.evaluate("box => [box.scrollWidth, box.clientWidth]")
    assert outside < size["width"]
    assert (inside > outside) == (size["width"] < 600)
    assert page.locator("img").count() > 0
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")


def test_on_a_phone_pictures_are_large_enough_and_text_can_be_read(browser: Browser, address: str) -> None:
    page = open_page(browser, address, PHONE)
    widths = page.evaluate("[...document.images].map(image => image.getBoundingClientRect().width)")
    assert min(widths) > 140
    sizes = page.evaluate(
        "[...document.querySelectorAll('p, td, th, li, dd, figcaption')].map("
        "one => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert min(sizes) >= 13
    drawn = page.evaluate(
        "[...document.querySelectorAll('svg')].map(svg => 11 * svg.getBoundingClientRect().width / 360)"
    )
    assert min(drawn) > 9.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Browser, address: str, scheme: str) -> None:
    """Contrast of at least 4.5, as WCAG asks for."""
    page = open_page(browser, address, DESK, scheme)
    contrast = page.evaluate(
        """() => {
          const parse = colour => colour.match(/[\\d.]+/g).map(Number);
          const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
            v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
          ).reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
          const ground = one => {
            for (let node = one; node; node = node.parentElement) {
              const colour = parse(getComputedStyle(node).backgroundColor);
              if (colour.length === 3 || colour[3] > 0) return colour;
            }
          };
          return [...document.querySelectorAll('h1, h2, p, td, th, dd, a, figcaption, .soft')].map(one => {
            const [dark, bright] = [parse(getComputedStyle(one).color), ground(one)].map(light).sort(
              (a, b) => a - b
            );
            return (bright + 0.05) / (dark + 0.05);
          });
        }"""
    )
    assert min(contrast) >= 4.5


def test_the_keyboard_reaches_links_and_tables(browser: Browser, address: str) -> None:
    page = open_page(browser, address, PHONE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#result"
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.getAttribute('aria-label')"))
    assert {"table of rounds", "time by stage", "precision and recall of labels"} & seen


def test_it_prints_on_paper(browser: Browser, address: str) -> None:
    page = open_page(browser, address, DESK)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 20_000
