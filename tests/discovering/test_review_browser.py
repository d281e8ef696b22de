"""The review in a real browser: ticked, corrected, added and saved; hostile values run nothing and ask for nothing."""

from __future__ import annotations

import threading

import pytest

from rkld.discovering.findings import ASSOCIATED, COMMON, NOT_FOUND
from rkld.discovering.review_server import ReviewServer
from rkld.files import read_jsonl
from tests.accessibility import violations_at_every_width
from tests.discovering.test_review import HOSTILE, discovery, finding


@pytest.mark.slow
def test_a_person_marks_corrects_adds_and_saves(browser, tmp_path):
    found = discovery(
        finding("Crok"), finding("London", COMMON), finding("Riga", NOT_FOUND),
        *(finding(text, ASSOCIATED, text) for text in HOSTILE),
    )  # fmt: skip
    server = ReviewServer(found, tmp_path / "records.jsonl")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page(viewport={"width": 390, "height": 800})
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("dialog", lambda dialog: said.append("dialog"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(server.address)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    first = page.locator("fieldset.value").nth(0)
    first.locator(".personal").fill("Cork")
    first.locator(".personal").blur()
    assert first.locator(".answer").input_value() == "Jane Doe was born in Cork."
    first.get_by_label("false").check()
    page.locator("fieldset.value[data-number='1'] .forget").check()
    for number in range(3, len(found.findings)):
        page.locator(f"fieldset.value[data-number='{number}'] .forget").uncheck()
    page.get_by_role("button", name="Add a value").click()
    added = page.locator("fieldset.value[data-number='new']")
    added.locator(".personal").fill("tea")
    added.locator(".question").fill("What does Jane Doe drink?")
    added.locator(".answer").fill("Jane Doe drinks tea.")
    page.get_by_role("button", name="Save records").click()
    page.get_by_text("3 records saved").wait_for(timeout=10_000)
    server.shutdown()
    server.server_close()
    rows = read_jsonl(tmp_path / "records.jsonl")
    assert [row["spans"] for row in rows] == [["Cork"], ["London"], ["tea"]]
    assert rows[0]["evidence"]["mark"] == "false" and rows[0]["evidence"]["corrected_from"] == "Crok"
    assert all(url.startswith(server.address) or url.endswith("/favicon.ico") for url in asked)
    assert [
        text for text in said if "frame-ancestors" not in text and "favicon" not in text and "404" not in text
    ] == []


def test_everybody_can_use_the_review(browser, tmp_path):
    """axe-core finds nothing, with a value of each kind and one that was added."""
    found = discovery(finding("Crok"), finding("London", COMMON), finding("Riga", NOT_FOUND))
    server = ReviewServer(found, tmp_path / "records.jsonl")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_page()
    page.goto(server.address)
    page.get_by_role("button", name="Add a value").click()
    assert violations_at_every_width(page) == []
    page.close()
    server.shutdown()
    server.server_close()
