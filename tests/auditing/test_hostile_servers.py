"""A served model's server may be whom the audit is about: whatever it sends, the audit ends soon, with a sentence."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
from collections.abc import Iterator
from socketserver import StreamRequestHandler

import pytest

from rkld.errors import UserError
from rkld.evaluation import endpoint_backend
from rkld.evaluation.endpoint_backend import ATTEMPTS, EndpointBackend
from tests.server import MODEL, listening

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
TIMEOUT = 0.3
"""Seconds. Servers that would go on for ever are left after so many."""


def whole(content: bytes, *headers: bytes, status: bytes = OK) -> bytes:
    return status + b"".join(h + b"\r\n" for h in headers) + b"Content-Length: %d\r\n\r\n" % len(content) + content


def for_ever(start: bytes, piece: bytes, pause: float = 0.0) -> Iterator[bytes]:
    yield start
    while True:
        time.sleep(pause)
        yield piece


def said(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


SERVERS = {
    "a body of 4 GB": (
        lambda: for_ever(OK + b"Content-Length: 4294967296\r\n\r\n", b"x" * 65536),
        "more than .* bytes",
    ),
    "a body without end": (
        lambda: for_ever(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"8000\r\n" + b" " * 0x8000 + b"\r\n"),
        "more than .* bytes",
    ),
    "a byte now and then": (lambda: for_ever(OK + b"Content-Length: 9999\r\n\r\n", b" ", 0.05), "more than 0.3 s"),
    "headers a byte now and then": (lambda: for_ever(OK, b"x", 0.05), "more than 0.3 s"),
    "headers without end": (lambda: for_ever(OK, b"X: y\r\n" * 5000), "cannot be reached"),
    "it will answer soon, again and again": (
        lambda: for_ever(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.001),
        "more than 0.3 s",
    ),
    "silence": (lambda: for_ever(b"", b"", 0.05), "more than 0.3 s"),
    "an answer of 9 MB": (lambda: [whole(said("isis" * 2_250_000))], "9000000 characters.* 3 tokens"),
    "deep JSON": (lambda: [whole(b"[" * 500_000)], "something else than JSON"),
    "a number without end": (lambda: [whole(b"9" * 500_000)], "something else than JSON"),
    "a compression bomb": (
        lambda: [whole(gzip.compress(b" " * 5_000_000), b"Content-Encoding: gzip")],
        "compressed form",
    ),
    "redirects without end": (
        lambda: [whole(b"", b"Location: /v1/chat/completions", status=b"HTTP/1.1 307 Temporary Redirect\r\n")],
        "status 307",
    ),
    "come back in a thousand years": (
        lambda: [whole(b"", b"Retry-After: 31536000000", status=b"HTTP/1.1 503 Service Unavailable\r\n")],
        "status 503",
    ),
    "no HTTP": (lambda: [b"\x00\xff\x1b[2J" * 99], "cannot be reached"),
    "an error of 4 GB": (
        lambda: for_ever(b"HTTP/1.1 401 No\r\nContent-Length: 4294967296\r\n\r\n", b"x" * 65536),
        "status 401",
    ),
}


@pytest.mark.parametrize("case", SERVERS)
def test_no_server_keeps_an_audit_waiting_or_fills_its_memory(case, monkeypatch, records):
    monkeypatch.setattr(endpoint_backend, "BACKOFF", 0.001)
    monkeypatch.setattr(endpoint_backend, "LONGEST_WAIT", 0.001)
    monkeypatch.setattr(endpoint_backend, "LARGEST", 10_000_000)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    pieces, message = SERVERS[case]
    asked = []

    class Hostile(StreamRequestHandler):
        def handle(self) -> None:
            asked.append(1)
            headers = dict(line.lower().split(b": ") for line in iter(self.rfile.readline, b"\r\n") if b": " in line)
            self.rfile.read(int(headers[b"content-length"]))  # closing with something unread would break the answer
            with contextlib.suppress(OSError):  # the client has gone, which is what it should do
                for piece in pieces():
                    self.request.sendall(piece)

    with listening(Hostile) as url:
        started = time.monotonic()
        with pytest.raises(UserError, match=message) as caught:
            EndpointBackend(url, MODEL, timeout=TIMEOUT).answers(records[:1], max_new_tokens=3)
        assert time.monotonic() - started < 5
    assert len(asked) <= ATTEMPTS
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()
