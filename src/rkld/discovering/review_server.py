"""Serves the review page to this machine alone, until its records are saved.

On the loopback address, behind a token that stands in the page's address and is sent with what is saved; a request
under another host's name is refused, so that no web page can reach it by rebinding a name. A page by itself could only
offer a download, and the next command would have to be told where that lies.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rkld.discovering.findings import Discovery
from rkld.discovering.review_page import page, policy, records_of
from rkld.errors import UserError
from rkld.files import write_jsonl

LARGEST = 32 * 2**20
"""Bytes that are read of what the page sends."""

SECONDS = 30
"""That a request may take to arrive."""


def review(found: Discovery, out: Path, opened: Callable[[str], object]) -> list[dict[str, Any]]:
    """Show what was found and wait until the records are saved.

    Args:
        out: where they are written, whatever is there.
        opened: called with the page's address; :func:`webbrowser.open`, or what prints it.

    Returns:
        the records that were saved; where none was ticked the file is deleted.
    """
    server = ReviewServer(found, out)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        opened(server.address)
        server.saved.wait()
    finally:
        server.shutdown()
        server.server_close()
    return server.records


class ReviewServer(ThreadingHTTPServer):
    """The server of one review."""

    daemon_threads = True  # a browser keeps connections open on which it asks nothing

    def __init__(self, found: Discovery, out: Path) -> None:
        self.found, self.out = found, out
        self.token, self.nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(16)
        self.saved = threading.Event()
        self.lock = threading.Lock()
        self.records: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def host(self) -> str:
        """Address and port, as a browser names them."""
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def address(self) -> str:
        """Of the page, with its token."""
        return f"http://{self.host}/{self.token}/"

    def save(self, sent: Any) -> str:
        """Write the records; what to tell the person. UserError: as of :func:`records_of`."""
        records = records_of(self.found, sent)
        with self.lock:
            if records:
                write_jsonl(self.out, records)
            else:
                self.out.unlink(missing_ok=True)
            self.records = records
        where = f"in {self.out}" if records else "no file is left"
        return f"{len(records)} records saved, {where}. This page can be closed."


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    timeout = SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address holds the token."""

    def _refused(self, *, path: str, token: str | None = None) -> bool:
        """Whether the request does not come from the page; then it is answered."""
        allowed = self.headers.get("Host") == self.server.host
        own = secrets.compare_digest(self.path.encode(), f"/{self.server.token}/{path}".encode())
        sent = token is None or secrets.compare_digest(token.encode(), self.server.token.encode())
        if allowed and own and sent:
            return False
        self._answer(404, "not found")
        return True

    def do_GET(self) -> None:
        if not self._refused(path=""):
            html = page(self.server.found, self.server.nonce, self.server.token)
            self._answer(200, html, "text/html")

    def do_POST(self) -> None:
        if self._refused(path="save", token=self.headers.get("X-Token", "")):
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST:
            self._answer(413, "Not saved: too much was sent.")
            return
        try:
            said = self.server.save(json.loads(self.rfile.read(int(length))))
        except (ValueError, RecursionError):
            self._answer(400, "Not saved: what was sent is no JSON.")
        except UserError as error:
            self._answer(400, f"Not saved: {error}.")
        else:
            self._answer(200, said)
            self.server.saved.set()

    def _answer(self, status: int, text: str, kind: str = "text/plain") -> None:
        body = text.encode("utf-8")
        self.send_response(status)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy(self.server.nonce),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
