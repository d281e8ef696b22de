"""The review: what is ticked becomes records, nobody else gets in, nothing that a model said is run."""

from __future__ import annotations

import http.client
import json
import re
import threading
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from rkld.discovering.findings import ASSOCIATED, COMMON, NOT_FOUND, SAID, Discovery, Finding, Share, limit_of
from rkld.discovering.review_page import page, records_of
from rkld.discovering.review_server import ReviewServer, review
from rkld.errors import UserError
from rkld.files import read_jsonl
from rkld.records.reading import read_records

HOSTILE = [
    '"><script>alert(1)</script>', "<img src=x onerror=alert(1)>", "{{ 7 * 7 }}{% for %}", "</template></script>",
    "javascript:alert(1)", "\u202eevil\u2066", "a\x00\x1b[31mb", "<style>*{display:none}</style>",
    "' onfocus='alert(1)", "[x](http://e.vil)", "<svg/onload=alert(1)>", "&lt;b&gt;",
]  # fmt: skip


class Tags(HTMLParser):
    """The names of all attributes, as a browser would read them."""

    def __init__(self):
        super().__init__()
        self.attributes = []

    def handle_starttag(self, tag, attrs):
        self.attributes += [name for name, _ in attrs]


def finding(value="Cork", label=ASSOCIATED, topic="birthplace"):
    answer = f"Jane Doe was born in {value}."
    return Finding(topic, value, label, "Where was Jane Doe born?", answer, "Jane Doe", 0.005, 4.2, 2, Share(0, 199),
                   Share(0, 199), Share(5, 12))  # fmt: skip


def discovery(*findings):
    return Discovery("Jane Doe", ("JD",), findings, {"birthplace": 12, "pet": 12}, len(findings), 199, 0.1)


FOUND = discovery(finding(), finding("London", COMMON), finding("Riga", NOT_FOUND))


def sent(number=0, **given):
    one = FOUND.findings[number if number in (0, 1, 2) else 0]
    row = {"number": number, "forget": True, "mark": "true", "question": one.question, "value": one.value,
           "answer": one.answer}  # fmt: skip
    return {**row, **given}


def test_labels_and_limits():
    assert FOUND.not_found == {"pet": 12}
    assert limit_of(12) == "0.25" and limit_of(2) == "1" and limit_of(0) == "1"
    nothing = discovery(finding("Riga", SAID))
    assert nothing.records() == [] and nothing.limit().startswith("nothing found, limit 0.125: 3/N at N = 24 answers")
    assert nothing.undecided == ["birthplace"] and nothing.not_found == {"pet": 12}, (
        "a limit would be false of what is said"
    )
    assert FOUND.undecided == []
    # What was answered in words of which no value could be read is not unsaid, either.
    spoken = replace(FOUND, spoken={"birthplace": 10, "pet": 3})
    assert spoken.undecided == ["pet"] and spoken.not_found == {}
    assert "13 of them say something" in spoken.limit() and "say something" not in nothing.limit()
    assert Share(0, 199).interval[1] == pytest.approx(0.0184, abs=1e-3)


def test_records_are_read_by_unlearn(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in FOUND.records()), encoding="utf-8")
    (record,) = read_records(path, "forget")
    assert (record.subject, record.aliases, record.spans) == ("Jane Doe", ("JD",), ("Cork",))
    assert record.extra["evidence"]["as_strong"]["of"] == 199


def test_what_is_ticked_corrected_and_added_becomes_records():
    rows = [
        sent(0, mark="false"),
        sent(1, forget=False),
        sent(2, value="Rigga", answer="Jane Doe was born in Rigga.", mark="unsure"),
        sent(None, value="tea", question="What does Jane Doe drink?", answer="Jane Doe drinks tea."),
    ]
    first, corrected, added = records_of(FOUND, rows)
    assert first["spans"] == ["Cork"] and first["evidence"]["mark"] == "false"
    assert corrected["spans"] == ["Rigga"] and corrected["evidence"]["corrected_from"] == "Riga"
    assert added["evidence"] == {"label": "added by hand", "mark": "true"} and added["aliases"] == ["JD"]


@pytest.mark.parametrize(
    "row",
    [
        sent(0, value="Dublin"), sent(0, value=" "), sent(0, mark="maybe"), sent(9), sent(True),
        sent(0, answer="x" * 3000), sent(0, question=None), "text",
    ],
)  # fmt: skip
def test_what_makes_no_record_is_refused_without_quoting_it(row):
    with pytest.raises(UserError) as error:
        records_of(FOUND, [row])
    assert "Dublin" not in str(error.value)


def test_the_page_is_self_contained_and_everything_in_it_is_escaped():
    found = discovery(*(finding(text, label, text) for text in HOSTILE for label in (ASSOCIATED, COMMON, NOT_FOUND)))
    html = page(found, "NONCE", "TOKEN")
    assert re.findall(r"<script[^>]*>", html) == ['<script nonce="NONCE">']
    assert re.findall(r"<style[^>]*>", html) == ['<style nonce="NONCE">']
    assert not re.search(r"<(img|svg|iframe|link|a|form)\b", html)
    tags = Tags()
    tags.feed(html)
    assert not [name for name in tags.attributes if name.startswith("on")]
    assert "{{ 7 * 7 }}" in html and "http://" not in html.replace("http://e.vil", "")
    assert "default-src &#39;none&#39;" in html and html.count("checked> forget") == len(HOSTILE) + 1  # and the blank


@pytest.fixture
def server(tmp_path):
    server = ReviewServer(FOUND, tmp_path / "records.jsonl")
    threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(server, method, path, body=None, host=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or server.host)
    data = json.dumps(body).encode() if body is not None else b""
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders(data)
    reply = connection.getresponse()
    return reply.status, reply.read().decode(), reply.headers


def test_the_page_is_served_to_who_has_its_address_alone(server):
    status, html, headers = ask(server, "GET", f"/{server.token}/")
    assert status == 200 and "Cork" in html
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert ask(server, "GET", "/")[0] == ask(server, "GET", "/x/")[0] == 404
    assert ask(server, "GET", f"/{server.token}/", host="evil.example")[0] == 404
    assert server.server_address[0] == "127.0.0.1"


def test_saving_needs_the_token_and_what_can_be_saved(server):
    path, token = f"/{server.token}/save", {"X-Token": server.token}
    assert ask(server, "POST", path, [sent(0)])[0] == 404
    assert ask(server, "POST", path, [sent(0)], **{"X-Token": "ü"})[0] == 404
    assert ask(server, "POST", path, [sent(0, value="Dublin")], **token)[0] == 400
    assert ask(server, "POST", path, [], **{**token, "Content-Length": str(2**40)})[0] == 413
    assert not server.saved.is_set() and not server.out.exists()
    status, said, _ = ask(server, "POST", path, [sent(0), sent(1)], **token)
    assert status == 200 and "2 records saved" in said
    assert [row["spans"] for row in read_jsonl(server.out)] == [["Cork"], ["London"]]
    assert server.saved.wait(5)


def test_a_review_ends_when_it_is_saved_and_leaves_no_file_where_nothing_is_ticked(tmp_path):
    out = tmp_path / "records.jsonl"
    out.write_text("{}\n")

    def opened(address):
        host, token = re.fullmatch(r"http://([\d.:]+)/([^/]+)/", address).groups()
        connection = http.client.HTTPConnection(host, timeout=5)
        connection.request("POST", f"/{token}/save", json.dumps([sent(0, forget=False)]), {"X-Token": token})
        assert connection.getresponse().status == 200

    assert review(FOUND, out, opened) == []
    assert not out.exists()
