"""Reports as a browser shows them: nothing acts, nothing is fetched, all of it is there, and everybody can read it.

REPORT_PICTURES=FOLDER python -m pytest tests/reporting/test_browser.py   keeps the pictures to look at
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rkld.reporting.writing import write_report
from rkld.runfolder.checksums import write_sealed
from tests.accessibility import WIDTHS, violations
from tests.reporting.made import HOSTILE, write_audit, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """For the pictures."""
    return Path(os.environ.get("REPORT_PICTURES") or tmp_path_factory.mktemp("pictures"))


def opened(browser, path: Path, **settings):
    """The page, with what it asked for beside itself and what it said."""
    tab, said = browser.new_page(**settings), []
    tab.on("request", lambda request: said.append(request.url) if request.url != path.as_uri() else None)
    tab.on("dialog", lambda dialog: said.append(dialog.message))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(path.as_uri())
    return tab, said


def picture(tab, path: Path) -> None:
    """Of the whole page where somebody is to look at it: that takes seconds."""
    tab.screenshot(path=path, full_page="REPORT_PICTURES" in os.environ)


def laid_out(tab) -> list[str]:
    """What is beyond the page's width, without height, or over what comes after it."""
    return tab.evaluate(
        """() => {
          const wrong = [];
          const say = (what, e) => wrong.push(`${what}: ${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`);
          const aside = ".scroll, svg, [hidden], details:not([open]) > :not(summary)";
          for (const e of document.querySelectorAll("main *")) {
            if (!e.closest(aside) && e.getBoundingClientRect().right > innerWidth + 1) say("beyond", e);
          }
          if (document.documentElement.scrollWidth > innerWidth) wrong.push("the page is wider than the window");
          let last = -Infinity;
          for (const e of document.querySelectorAll("header, section, footer")) {
            const { top, bottom, height } = e.getBoundingClientRect();
            if (height < 10 || top < last - 1) say("over what is before it", e);
            last = bottom;
          }
          return wrong;
        }"""
    )


def test_hostile_records_do_nothing(browser, folder, tmp_path):
    """Thirty of them as questions and answers: no script runs, no request is made, the layout is whole."""
    assert len(HOSTILE) == 30
    written = write_report(write_audit(tmp_path / "audit", texts=HOSTILE, n=30), show_records=True)
    for width in (390, 1280):
        tab, said = opened(browser, written.page, viewport={"width": width, "height": 900})
        for hidden in tab.locator("[data-more]:visible").all():
            hidden.click()
        tab.wait_for_timeout(200)
        assert said == [] and tab.title() == "Report: passed"
        assert tab.locator("[data-records] tbody tr").count() == 60
        assert tab.locator("main img, main iframe, main form, main script, main link, main style").count() == 0
        assert laid_out(tab) == []
        picture(tab, folder / f"hostile-{width}.png")
        tab.close()


def test_it_can_be_read_at_every_width(browser, folder, tmp_path):
    """Pictures of an audited and of an unaudited run; axe-core finds nothing that keeps anybody from reading them."""
    pages = {
        "failed": write_report(write_run(tmp_path / "run", verdict="fail"), show_records=True).page,
        "unaudited": write_report(write_run(tmp_path / "bare", audit=False)).page,
    }
    for name, path in pages.items():
        for width in WIDTHS:
            tab, said = opened(browser, path, viewport={"width": width, "height": 900})
            for scheme in ("light", "dark"):
                tab.emulate_media(color_scheme=scheme)
                picture(tab, folder / f"{name}-{width}-{scheme}.png")
            assert violations(tab) == []
            assert laid_out(tab) == [] and said == []
            tab.close()


def test_records_are_filtered_searched_sorted_and_stepped_through(browser, tmp_path):
    written = write_report(write_run(tmp_path / "run", n=30), show_records=True)
    tab, _ = opened(browser, written.page)
    rows = tab.locator("[data-records] tbody tr:visible")
    assert rows.count() == 20
    tab.get_by_role("button", name="show all").click()
    assert rows.count() == 60
    tab.get_by_role("button", name="still said").click()
    assert 0 < rows.count() < 30 and set(rows.locator(".bucket").all_inner_texts()) == {"still said"}
    tab.get_by_role("button", name="all 60").click()
    tab.get_by_role("searchbox").fill("record 7,")
    assert rows.count() >= 1 and "record 7," in rows.first.inner_text()
    tab.get_by_role("searchbox").fill("")
    tab.get_by_label("Sort").select_option("bucket")
    assert rows.first.locator(".bucket").inner_text() == "forgotten"
    tab.locator("h1").click()
    for key, at in (("j", 0), ("j", 1), ("k", 0)):
        tab.keyboard.press(key)
        assert tab.evaluate("document.activeElement.id") == rows.nth(at).get_attribute("id")
    tab.close()


def test_the_pdf_is_a4_and_says_on_every_page_that_records_are_shown(browser, folder, tmp_path):
    written = write_report(write_run(tmp_path / "run", verdict="fail"), show_records=True, pdf=True)
    assert written.pdf is not None
    content = written.pdf.read_bytes()
    assert content.startswith(b"%PDF") and written.pdf.stat().st_mode & 0o777 == 0o600
    (folder / "failed.pdf").write_bytes(content)
    tab, _ = opened(browser, written.page, viewport={"width": 688, "height": 1000})  # A4 between its margins
    tab.emulate_media(media="print")
    assert laid_out(tab) == []
    tab.evaluate("document.querySelectorAll('details').forEach((e) => (e.open = true))")
    assert tab.evaluate(BROKEN) == [], "a word or a number goes on in the next line"
    assert tab.locator(".shown").evaluate("e => getComputedStyle(e).position") == "fixed"  # repeated on every page
    tab.close()


BROKEN = """() => {
  // Words and numbers in the heads and figures of tables that stand in two lines.
  const found = [], range = document.createRange();
  for (const e of document.querySelectorAll(".plain thead th, .plain .num")) {
    const walker = document.createTreeWalker(e, NodeFilter.SHOW_TEXT);
    for (let node; (node = walker.nextNode());) {
      for (const word of node.data.matchAll(/[\\p{L}\\p{N}]+/gu)) {
        range.setStart(node, word.index);
        range.setEnd(node, word.index + word[0].length);
        const boxes = [...range.getClientRects()].filter((box) => box.width > 0);
        if (new Set(boxes.map((box) => Math.round(box.top))).size > 1) found.push(word[0]);
      }
    }
  }
  return found;
}"""


LINES = """() => {
  // Characters of each line of prose, by where each character stands.
  const found = [];
  for (const e of document.querySelectorAll("main p, main .prose, main .reasons li, main .prose li")) {
    if (e.closest("header, footer, table, .tools, nav, .beside, details")) continue;
    const walker = document.createTreeWalker(e, NodeFilter.SHOW_TEXT);
    const lines = new Map(), range = document.createRange();
    for (let node; (node = walker.nextNode());) {
      for (let i = 0; i < node.length; i++) {
        range.setStart(node, i);
        range.setEnd(node, i + 1);
        const box = range.getClientRects()[0];
        if (box) lines.set(Math.round(box.bottom / 8), (lines.get(Math.round(box.bottom / 8)) ?? "") + node.data[i]);
      }
    }
    found.push(...[...lines.values()].map((line) => line.replace(/\\s+/g, " ").trim()));
  }
  return found;
}"""


def test_prose_has_at_most_seventy_characters_a_line(browser, tmp_path):
    """ "66ch" are 66 noughts: of words more than eighty characters stood in a line."""
    run = write_run(tmp_path / "run", people=["Ada Quill", "Ben Ochre"], n=40)
    written = [write_report(run).page, write_report(run, subject="Ada Quill").page]
    written.append(write_report(write_run(tmp_path / "bare", audit=False)).page)
    for path in written:
        tab, _ = opened(browser, path, viewport={"width": 1280, "height": 900})
        lines = tab.evaluate(LINES)
        assert len(lines) > 10 and max(map(len, lines)) <= 70, max(lines, key=len)
        tab.close()


def test_the_first_screen_of_several_people_has_all_verdicts_and_what_was_not_tested(browser, folder, tmp_path):
    """The list of people and what the run warned of filled it; the numbers began at its end."""
    names = [f"Somebody Else{i}" for i in range(30)]
    run = write_run(tmp_path / "run", people=names, n=60)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["warnings"] = ["Little was forgotten. " * 8] * 3
    write_sealed(run / "manifest.json", {key: value for key, value in manifest.items() if key != "checksum"})
    written = write_report(run)
    for (width, height), latest in (((1280, 900), 0.7), ((390, 844), 1.0)):
        tab, _ = opened(browser, written.page, viewport={"width": width, "height": height})
        picture(tab, folder / f"people-{width}.png")
        assert tab.locator(".people .name").count() == 30 and tab.locator(".people .sign").count() == 3
        for what in (".people", ".opening .verdict", *([".beside table", ".untested"] if width > 700 else [])):
            assert tab.locator(what).first.bounding_box()["y"] < latest * height, what
        assert tab.locator("#warned").bounding_box()["y"] > tab.locator("article").last.bounding_box()["y"]
        assert laid_out(tab) == []
        tab.close()


def test_of_two_people_each_part_says_whose_it_is(browser, folder, tmp_path):
    """To whoever hears the page all sections of one kind had the same name."""
    written = write_report(write_run(tmp_path / "run", people=["Ada Quill", "Ben Ochre"], n=6))
    tab, _ = opened(browser, written.page, viewport={"width": 1280, "height": 900})
    picture(tab, folder / "two.png")
    assert violations(tab) == [] and laid_out(tab) == []
    tab.close()
