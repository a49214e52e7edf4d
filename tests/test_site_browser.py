"""The page in a headless Chromium: sorting, filters, links, keyboard, phone, light and dark.

With OFFLINE_MARL_SCREENSHOTS=FOLDER pictures are left there to be looked at.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import CHROMIUM, Browser
from tests.records import TASK
from tests.test_site import OMAR, Elements, full_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def shown(browser: Browser, tmp_path: Path) -> Iterator[Browser]:
    """The full page, opened; nothing may be complained of in any test."""
    (tmp_path / "page.html").write_text(full_page())
    browser.resize(1300, 900)
    browser.prefer("light")
    browser.open(tmp_path / "page.html")
    browser.complaints.clear()
    yield browser
    assert browser.complaints == []


BOARD = f"document.querySelector('[data-task=\"{TASK}\"]')"


def each(selector: str, expression: str) -> str:
    """A script: an expression of every element x of the board of TASK."""
    return f"[...{BOARD}.querySelectorAll('{selector}')].map((x) => {expression})"


def until(browser: Browser, expression: str) -> None:
    end = time.monotonic() + 20
    while not browser.run(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        time.sleep(0.02)


LABELS = each("tr.algorithm:not([hidden]) th a[href]:not(.note)", "x.textContent")


def test_a_board_is_sorted_by_a_click_and_by_the_keyboard(shown: Browser) -> None:
    shown.run("document.getElementById('level').value = '0'")
    shown.run("document.getElementById('level').dispatchEvent(new Event('input'))")
    before = shown.run(LABELS)
    assert sorted(before) == ["madiff", "omar"]
    groups = each("tbody.ranked", "x.textContent.includes('madiff')")
    assert shown.run(groups) == [False, True]  # executions are never mixed
    fixed = each("tbody.fixed th", "x.textContent.trim().split(/ |\\n/)[0]")
    assert shown.run(fixed) == ["expert", "bc", "dataset", "random"]
    head = f"[...{BOARD}.querySelectorAll('thead button')].find((b) => b.textContent === 'score')"
    shown.run(f"{head}.focus()")
    shown.press("Enter")
    assert shown.run(f"{head}.parentNode.getAttribute('aria-sort')") == "descending"
    assert shown.run(fixed) == ["expert", "bc", "random", "dataset"]  # no value: last
    shown.run(f"{head}.click()")
    assert shown.run(f"{head}.parentNode.getAttribute('aria-sort')") == "ascending"
    assert shown.run(fixed) == ["random", "bc", "expert", "dataset"]


def test_boards_rows_and_claims_are_filtered(shown: Browser) -> None:
    count = "document.getElementById('count').textContent"
    assert shown.run(LABELS) == ["omar"]  # the one that is verified
    assert shown.run(count) == "1 of 2 boards"
    level = "document.getElementById('level')"
    shown.run(f"{level}.value = '0'; {level}.dispatchEvent(new Event('input'))")
    assert shown.run(count) == "2 of 2 boards"
    shown.press("/")
    assert shown.run("document.activeElement.id") == "search"
    for letter in "madiff":
        shown.press(letter)
    assert shown.run(LABELS) == ["madiff"]
    assert shown.run(count) == "1 of 2 boards"
    claims = "[...document.querySelectorAll('tr.claim:not([hidden])')].map((tr) => tr.id)"
    assert shown.run(claims)
    assert all(name.startswith("claim-madiff") for name in shown.run(claims))
    task = "document.querySelector('[data-filter=task]')"
    shown.run("document.getElementById('search').value = ''")
    shown.run(f"{task}.value = '{OMAR}'; {task}.dispatchEvent(new Event('input'))")
    assert shown.run(count) == "1 of 2 boards"
    assert shown.run(f"{BOARD}.hidden")


def test_a_column_is_switched_off_and_on(shown: Browser) -> None:
    hidden = f"[...{BOARD}.querySelectorAll('td[data-column=params]')].every((td) => td.hidden)"
    assert shown.run(hidden)
    shown.run("document.querySelector('#columns input[value=params]').click()")
    assert not shown.run(hidden)


def test_links_open_a_run_and_a_claim(shown: Browser, tmp_path: Path) -> None:
    text = (tmp_path / "page.html").read_text()
    run = next(str(a["id"]) for a in Elements(text).all("details") if a.get("class") == "run")
    for name in (run, "claim-omar-helps"):
        shown.open(tmp_path / "page.html", f"#{name}")
        opened = f"document.getElementById('{name}')"
        # What runs open is unpacked after the page is there; then the page opens it and goes to it.
        until(shown, f"{opened} !== null")
        inner = f"({opened}.matches('details') ? {opened} : {opened}.querySelector('details'))"
        until(shown, f"{inner}.open")
        until(shown, f"Math.abs({opened}.getBoundingClientRect().top - 425) < 475")
    shown.run(f"location.hash = '#{run}'")
    assert shown.run("document.querySelector(':target').id") == run


def test_the_page_is_wide_as_a_phone_and_light_or_dark(shown: Browser) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    shots = []
    for width, scheme, colour in (
        (1300, "light", "rgb(255, 255, 255)"),
        (1300, "dark", "rgb(20, 23, 27)"),
        (390, "light", "rgb(255, 255, 255)"),
    ):
        shown.resize(width, 900)
        shown.prefer(scheme)
        assert shown.run(paper) == colour
        assert shown.run("document.documentElement.scrollWidth") <= width
        with Image.open(io.BytesIO(shown.screenshot())) as image:
            shots.append(image.convert("RGB"))
    for shot, width in zip(shots, (1300, 1300, 390), strict=True):
        assert shot.size == (width, 900)
        assert len(shot.getcolors(1_000_000) or []) > 100  # text and bars, no blank page
    assert shown.run("[...document.querySelectorAll('td[data-column=score]')].length") > 0
    shown.run("document.getElementById('theme').click()")
    assert shown.run(paper) == "rgb(20, 23, 27)"
    if folder := os.environ.get("OFFLINE_MARL_SCREENSHOTS"):
        for name, shot in zip(("light", "dark", "phone"), shots, strict=True):
            shot.save(Path(folder) / f"{name}.png")
