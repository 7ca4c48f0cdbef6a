"""report.html as a person uses it, in headless Chromium: the threshold, the pictures, the keyboard, a phone."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import WAIT_MS, in_chromium
from made_report import made_page, made_pictures, made_run

from vtad.report.content import Page
from vtad.report.page import write_page
from vtad_runtime.commands.calibrate import calibrate
from vtad_runtime.contract.threshold.trade_off import Count, choice

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
pytestmark = [pytest.mark.service, in_chromium]
ODD = "<b onclick=alert(1)>&amp; \"'.png"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, str]:
    """A page of 21 good and 30 defective pictures, one of them with an odd name; where it is."""
    run = made_run(tmp_path_factory.mktemp("made"))
    page = made_page(run, [*made_pictures(20, 30), (ODD, "good", 9.5)])
    return page, write_page(run, page).as_uri()


@pytest.fixture
def tab(browser: Any, made: tuple[Page, str]) -> Iterator[Any]:
    """The page, opened from disk; whatever it asks for, and whatever the console says, fails the test."""
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    tab.set_default_timeout(WAIT_MS)
    complaints: list[str] = []
    tab.on("pageerror", lambda e: complaints.append(str(e)))
    tab.on("console", lambda m: complaints.append(m.text))
    tab.on("request", lambda r: None if r.url.startswith(("data:", made[1])) else complaints.append(r.url))
    tab.goto(made[1])
    yield tab
    tab.close()
    assert complaints == []


def row(tab: Any, name: str) -> str:
    """A row of the explorer's table, as Python writes it."""
    count, rate, between = tab.locator(f"#cost [data-row={name}] td").all_inner_texts()
    return f"{count}, {rate} ({between.removesuffix(' %')} %)"


def shown(tab: Any) -> list[str]:
    """Names of the tiles that the filters leave, in their order."""
    names: list[str] = tab.evaluate(
        "[...document.querySelectorAll('.gallery li:not([hidden]) .name')].map((e) => e.textContent)"
    )
    return names


def test_every_threshold_costs_what_python_says(tab: Any, made: tuple[Page, str]) -> None:
    explorer = made[0].explorer
    review = explorer.review
    assert review is not None
    for threshold in (-1.5, 0.0, 0.77, review - 0.01, explorer.threshold, 3.2, 5.5, 100.0):
        tab.locator("#typed").fill(repr(threshold))
        cost = choice(threshold, explorer.good, explorer.defective)
        assert row(tab, "alarms") == str(cost.false_alarms)
        assert row(tab, "misses") == str(cost.misses)
        band = tab.locator("#band").inner_text()
        if review < threshold:
            unsure = [sum(review < s <= threshold for s in part) for part in (explorer.good, explorer.defective)]
            assert f"{unsure[0]} good and {unsure[1]} defective" in band
            assert f"Nobody looks at {cost.misses.count - unsure[1]} defective ones" in band
        else:
            assert "above this threshold" in band
        for kind in made[0].kinds:
            missed = sum(e.score <= threshold for e in explorer.entries if e.kind == kind.name)
            assert tab.locator(f"tr[data-kind={kind.name}] .missed").inner_text() == str(missed)


def test_the_interval_of_any_count_is_pythons(tab: Any) -> None:
    asked = [(0, 1), (0, 30), (1, 30), (7, 30), (15, 30), (29, 30), (30, 30), (3, 17), (0, 0)]
    found = tab.evaluate("(asked) => asked.map(([k, n]) => exactInterval(k, n))", asked)
    for (k, n), interval in zip(asked, found, strict=True):
        assert interval == pytest.approx(Count(n, k).interval, abs=1e-9)


def test_the_slider_names_who_changes_sides_and_copies_the_command(tab: Any, made: tuple[Page, str]) -> None:
    explorer = made[0].explorer
    assert tab.locator("#setting").is_hidden()
    tab.locator("#slider").focus()
    for _ in range(3):
        tab.keyboard.press("ArrowLeft")
    words = shlex.split(tab.locator("#command").inner_text())
    threshold = float(words[-1])
    assert threshold < explorer.threshold
    changed = [e.name for e in explorer.entries if threshold < e.score <= explorer.threshold]
    assert len(changed) == 3
    listed = tab.locator("#changed button").all_inner_texts()
    assert sorted(listed) == sorted(changed)
    good = sum(name.startswith("test/good/") for name in changed)
    assert tab.locator("#sides").inner_text() == f"{good} good and {3 - good} defective become NG:"
    assert words[0] == "vtad-calibrate"
    given = calibrate.make_context("vtad-calibrate", words[1:]).params
    assert given["threshold"] == threshold
    assert given["model"].name == "pill.onnx"
    tab.evaluate(
        "() => { navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve() } }"
    )
    tab.locator("#copy").click()
    sync_api.expect(tab.locator("#copy")).to_have_text("Copied")
    assert tab.evaluate("window.copied") == tab.locator("#command").text_content()
    tab.locator("#changed button").first.click()
    sync_api.expect(tab.locator("#large-name")).to_have_text(listed[0])
    tab.keyboard.press("Escape")
    tab.locator("#reset").click()
    assert tab.locator("#value").inner_text() == f"{explorer.threshold:.4g}"
    assert row(tab, "misses") == str(explorer.cost.misses)
    assert tab.locator("#changed li").count() == 0


def test_no_threshold_is_offered_that_vtad_calibrate_refuses(tab: Any, made: tuple[Page, str]) -> None:
    lowest, highest = made[0].explorer.calibration.plausible
    stops = tab.evaluate("stops")
    assert lowest <= min(stops)
    assert max(stops) <= highest
    tab.locator("#typed").fill("5000")
    assert tab.locator("#refused").is_visible()


def test_filters_leave_what_they_say(tab: Any, made: tuple[Page, str]) -> None:
    explorer = made[0].explorer
    tab.locator("#by-verdict").select_option("missed")
    missed = {e.name for e in explorer.entries if e.defective and e.score <= explorer.threshold}
    assert set(shown(tab)) == missed
    assert tab.locator("#count").inner_text() == f"{len(missed)} of {len(explorer.entries)}"
    tab.locator("#by-verdict").select_option("NG")
    tab.locator("#by-kind").select_option("dent")
    expected = {e.name for e in explorer.entries if e.kind == "dent" and e.score > explorer.threshold}
    assert set(shown(tab)) == expected
    tab.locator("#by-name").fill("DENT/002")
    assert shown(tab) == ["test/dent/002.png"]
    tab.locator("#by-kind").select_option("good")
    assert tab.locator("#none").is_visible()
    for name in ("#by-verdict", "#by-kind"):
        tab.locator(name).select_option("")
    tab.locator("#by-name").fill("onclick")
    assert shown(tab) == [f"test/good/{ODD}"]
    tab.locator("#by-layer").select_option("reconstruction")
    tab.locator("#by-name").fill("")
    tile = tab.locator(".tile:not(.wrong)").first
    assert tile.locator(".layer.reconstruction").is_visible()
    assert tile.locator(".layer.heatmap").is_hidden()


def test_wrong_pictures_come_first_at_any_threshold(tab: Any, made: tuple[Page, str]) -> None:
    explorer = made[0].explorer
    before = shown(tab)
    tab.locator("#typed").fill("4.5")
    tab.wait_for_function(
        "(before) => document.querySelector('.gallery .name').textContent !== before", arg=before[0], polling=50
    )
    wrong = [e for e in explorer.entries if e.wrong(4.5)]
    farthest = sorted(wrong, key=lambda e: -abs(e.score - 4.5))
    assert shown(tab)[: len(wrong)] == [e.name for e in farthest]
    assert tab.locator(".tile.wrong").count() == len(wrong)


def test_the_keyboard_reaches_every_picture(tab: Any) -> None:
    names = shown(tab)
    tab.locator(".tile").first.focus()
    focused = "document.activeElement.querySelector('.name').textContent"
    for key, expected in (("ArrowRight", names[1]), ("End", names[-1]), ("ArrowLeft", names[-2]), ("Home", names[0])):
        tab.keyboard.press(key)
        assert tab.evaluate(focused) == expected
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate(focused) == names[1]  # wrong ones have a row each
    tab.keyboard.press("Enter")
    sync_api.expect(tab.get_by_role("dialog")).to_be_visible()
    sync_api.expect(tab.locator("#large-name")).to_have_text(names[1])
    assert tab.locator("#large img").count() == 5
    tab.keyboard.press("ArrowRight")
    sync_api.expect(tab.locator("#large-name")).to_have_text(names[2])
    tab.keyboard.press("Escape")
    sync_api.expect(tab.get_by_role("dialog")).to_be_hidden()
    tab.wait_for_function(f"(name) => {focused} === name", arg=names[2], polling=50)  # browsers say so a moment later


@pytest.mark.parametrize("width", [360, 800])
def test_nothing_is_wider_than_the_screen(tab: Any, width: int) -> None:
    tab.set_viewport_size({"width": width, "height": 740})
    tab.locator("#typed").fill("0.1")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.locator(".tile").first.click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("#large").evaluate("(e) => e.scrollWidth <= e.clientWidth")


def test_paper_has_the_figures_and_no_controls(tab: Any) -> None:
    tab.emulate_media(media="print")
    for name in ("#slider", ".filters", "nav", "#setting"):
        assert tab.locator(name).is_hidden()
    assert tab.locator("#cost").is_visible()
    assert tab.locator(".tile").first.is_visible()


def test_the_page_of_a_training_moves_its_threshold_too(browser: Any, tmp_path: Path) -> None:
    """Synthetic defects have no files: they are counted, and never named."""
    run = made_run(tmp_path)
    page = made_page(run, made_pictures(20, 10))
    entries = tuple(dataclasses.replace(e, name="" if e.defective else e.name) for e in page.explorer.entries)
    page = dataclasses.replace(
        page, test=False, gallery=(), kinds=(), curves={}, explorer=dataclasses.replace(page.explorer, entries=entries)
    )
    tab = browser.new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda e: errors.append(str(e)))
    tab.goto(write_page(run, page).as_uri())
    tab.locator("#typed").fill("100")
    bad = sum(e.defective and e.score > page.explorer.threshold for e in entries)
    good = sum(not e.defective and e.score > page.explorer.threshold for e in entries)
    sync_api.expect(tab.locator("#sides")).to_contain_text(f"{good} good and {bad} defective are NG no more")
    assert tab.locator("#changed li").count() == good
    tab.close()
    assert errors == []
