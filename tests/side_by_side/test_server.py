"""Who is let in, and what the page does with what models say: driven by a real browser where there is one."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rkld.commands import compare_models
from rkld.commands.compare_models import is_loopback, show_pair
from rkld.errors import UserError
from rkld.settings.comparing import CompareSettings
from rkld.side_by_side import asking
from rkld.side_by_side.server import listen, new_token
from tests.accessibility import violations, violations_at_every_width
from tests.side_by_side.conftest import listening

TOKEN = new_token()

HOSTILE = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>\u202eabc {{7*7}} [a](//x)"


@pytest.fixture(scope="module")
def address(pair):
    with listening(pair, TOKEN) as found:
        yield found


def status(address: str, path: str, body: object = None, **headers: str) -> int:
    given = {"Authorization": f"Bearer {TOKEN}"} | {k.replace("_", "-"): v for k, v in headers.items()}
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address.partition("#")[0] + path, data, given)
    try:
        with urllib.request.urlopen(request) as answer:
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        assert "Content-Security-Policy" in error.headers
        return error.code


def test_only_the_page_itself_with_its_token_is_answered(address):
    netloc, ask = urlsplit(address).netloc, {"question": "a", "max_new_tokens": 1}
    assert status(address, "", Authorization="") == 200  # it holds nothing
    assert status(address, "api/about") == 200
    assert status(address, "api/stream", ask) == 200
    assert status(address, "api/stream", ask, Origin=f"http://{netloc}") == 200
    for wrong in ("", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer ä"):
        assert status(address, "api/about", Authorization=wrong) == 401
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.", "", "[", "evil.example:80@127.0.0.1"):
        assert status(address, "", Host=host) == 421
    assert status(address, "", Host=f"localhost:{urlsplit(address).port}") == 200
    for origin in ("http://evil.example", "null", f"https://evil.example/{netloc}"):
        assert status(address, "api/about", Origin=origin) == 403
    assert status(address, "api/stream", b"[" * 100_000) == 400
    assert status(address, "api/stream", b"x" * 1_000_000) == 400
    assert status(address, "api/stream", {"question": "a " * 9000}) == 200  # an event says that it is too long
    assert status(address, "../pair.py") == status(address, "page/index.html") == 404


def test_without_a_token_on_request_alone(pair):
    with listening(pair, "") as address:
        assert "#" not in address
        assert status(address, "api/about", Authorization="") == 200
        assert status(address, "api/about", Origin="http://evil.example") == 403


def test_the_command_says_where_the_page_is(folders, monkeypatch):
    original, adapter, records = folders
    served, opened, lines = [], [], []

    class Server:
        def run(self, sockets):
            served.append(sockets[0].getsockname())
            sockets[0].close()

    monkeypatch.setattr(compare_models, "make_server", lambda app: Server())
    monkeypatch.setattr(compare_models.webbrowser, "open", opened.append)
    show_pair(str(original), str(adapter), CompareSettings(forget=str(records), open=True), lines.append)
    (host, port), (url,) = served[0], opened
    assert host == "127.0.0.1"
    assert url.startswith(f"http://127.0.0.1:{port}/#") and len(urlsplit(url).fragment) > 40
    assert url in lines[-1]
    assert not any("Warning" in line for line in lines)
    show_pair(str(original), str(adapter), CompareSettings(host="0.0.0.0", token=False), lines.append)
    assert any("Warning" in line and "may ask" in line for line in lines)
    assert [is_loopback(name) for name in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")] == (
        [True, True, True, False, False]
    )


def test_an_address_that_is_taken_is_refused():
    with listen("127.0.0.1", 0) as taken, pytest.raises(UserError, match="--port"):
        listen("127.0.0.1", taken.getsockname()[1])


@pytest.fixture
def page(browser, address):
    found = browser.new_page(viewport={"width": 390, "height": 800})
    found.set_default_timeout(120_000)  # machines that do other things as well
    found.problems, found.asked = [], []
    found.on("console", lambda message: found.problems.append(message.text) if message.type == "error" else None)
    found.on("pageerror", lambda error: found.problems.append(str(error)))
    found.on("request", lambda request: found.asked.append(request.url))
    found.goto(address)
    yield found
    here = f"http://{urlsplit(address).netloc}/"
    assert all(url.startswith((here, "blob:")) for url in found.asked), found.asked
    assert [text for text in found.problems if "favicon" not in text and "404" not in text] == []
    found.close()


def done(page) -> None:
    page.wait_for_selector("#stop:disabled")


def test_a_person_asks_both_models(page, pair, tmp_path: Path):
    """From the question to the transcript, as somebody would who has never seen it."""
    page.wait_for_selector("text=one base in memory")
    assert TOKEN not in page.url
    assert page.locator("#questions").inner_text() == ""  # hidden, and not even sent, until shown
    page.click("#request summary")
    page.click("#questions button >> nth=0")
    question = pair.records[0].question
    assert page.input_value("#question") == question
    page.click("#sampling summary")
    page.fill("#max_new_tokens", "24")
    page.fill("#n", "4")

    page.click("#ask")
    done(page)
    original = page.locator("article .side.original .said").inner_text()
    marked = page.locator("article .side.original mark").all_inner_texts()
    assert set(marked) & set(pair.facts(pair.records[0]))
    assert page.locator("article .side.unlearned .said").inner_text() != original

    page.click("#next")
    done(page)
    page.click("article table button >> nth=0")  # go on behind the likeliest word
    done(page)
    assert page.input_value("#begins") != ""
    widths = page.eval_on_selector_all("article td.original .bar", "bars => bars.map(bar => bar.offsetWidth)")
    assert max(widths) > 5

    page.fill("#begins", "")
    page.fill("#temperature", "0.01")
    page.click("#many")
    done(page)
    assert "4 of 4" in page.locator("article table >> nth=0").inner_text()

    with page.expect_download() as download:
        page.click("#json")
    download.value.save_as(tmp_path / "transcript.json")
    exchanges = json.loads((tmp_path / "transcript.json").read_text())["exchanges"]
    assert [one["kind"] for one in exchanges] == ["ask", "next words", "next words", "count"]
    assert exchanges[0]["answers"]["original"]["text"].strip() == original.strip()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # fits a phone


def test_everybody_can_use_the_page(page):
    """axe-core finds nothing, before anything was asked and with answers."""
    page.wait_for_selector("text=one base in memory")
    assert violations(page) == []
    page.click("#request summary")
    page.click("#questions button >> nth=0")
    page.click("#sampling summary")
    page.fill("#max_new_tokens", "2")
    page.click("#ask")
    done(page)
    page.click("#next")
    done(page)
    assert violations_at_every_width(page) == []


def test_what_a_model_says_is_text(page, monkeypatch):
    monkeypatch.setattr(asking, "parts", lambda text, facts: [(HOSTILE, None), (HOSTILE, HOSTILE)])
    page.click("#sampling summary")
    page.fill("#max_new_tokens", "2")
    page.fill("#question", HOSTILE)
    page.click("#ask")
    done(page)
    assert page.locator("article .side.original .said").text_content() == HOSTILE * 2
    assert page.locator("article h2").text_content() == HOSTILE
    assert page.locator("article img, article script").count() == 0
    assert page.title() == "rkld compare"


def test_an_answer_is_stopped_and_the_next_one_begins(page):
    page.fill("#question", "x")
    page.click("#sampling summary")
    page.fill("#max_new_tokens", "150")
    page.fill("#temperature", "5")
    page.fill("#n", "100")
    page.click("#many")
    page.click("#stop")
    done(page)
    page.fill("#max_new_tokens", "2")
    page.click("#ask")
    done(page)
    assert page.locator("#problem").text_content() == ""
    assert page.locator("article >> nth=0").locator(".note >> nth=0").inner_text() in (
        "finished",
        "cut at the longest answer",
    )


def test_a_wrong_token_and_a_long_question_are_said(page, address):
    page.fill("#question", "word " * 3000)
    page.click("#ask")
    page.wait_for_selector("#problem:not(:empty)")
    assert "tokens" in page.locator("#problem").inner_text()
    page.evaluate("sessionStorage.clear()")
    page.reload()
    page.wait_for_selector("text=Not connected.")
    assert "token" in page.locator("#problem").inner_text()
    page.problems.clear()  # Chromium logs the refusal
