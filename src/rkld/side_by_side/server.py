"""The page's server: a few routes, a token, and nothing for pages of other places.

The page itself holds no data and asks for no token. Everything else does, in a header: the token stands in the part of
the address behind #, which browsers do not send, and no cookie is set. So no other page can ask in the user's name. A
page whose name was made to lead here (DNS rebinding) is refused by its Host header, and no other origin is allowed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rkld.errors import UserError, machine_errors_explained
from rkld.side_by_side.asking import LONGEST_QUESTION, MOST, Asked, Say, count, next_words, stream
from rkld.side_by_side.pair import Pair
from rkld.text.printable import harmless, printable

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError:
    raise UserError("rkld compare needs the packages of the extra 'compare': pip install 'rkld[compare]'.") from None

logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page")

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

LARGEST_BODY = 8 * LONGEST_QUESTION
"""Bytes of a request: two texts, in UTF-8 and escaped."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer. No markup can be made of a text on the page: trusted types allow none."""


class _Gone(Exception):
    """Nobody listens any more."""


class Gate:
    """Lets in what asks for this machine by an address or a known name, from its own page, with the token."""

    def __init__(self, app: ASGIApp, token: str, names: frozenset[str]) -> None:
        self.app, self.token, self.names = app, token, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self.app)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if len(request.headers.getlist("host")) != 1 or not self._is_ours(host):
            return JSONResponse({"error": "This page is not known under that name: use the printed address."}, 421)
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return JSONResponse({"error": "Pages of other places may not ask."}, 403)
        if request.url.path.startswith("/api/") and self.token:
            given = request.headers.get("authorization", "")
            if not secrets.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
                return JSONResponse({"error": "The token is missing or wrong: use the printed address."}, 401)
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this machine: an address does, for no name was asked for it."""
        try:
            name = "" if "@" in host else urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True


def make_app(pair: Pair, *, token: str, host: str = "127.0.0.1") -> ASGIApp:
    """The page and what it asks.

    Args:
        token: what has to be sent with each question; "" for none.
        host: the name or address that it is reached by, beside this machine's own.
    """
    busy = threading.Lock()  # one question at a time: the models are shared

    def api(work: Callable[[Pair, Asked, Say], None]) -> Route:
        async def answer(request: Request) -> Response:
            try:
                what = Asked.of(json.loads(await _body(request)), pair)
            except UserError as error:
                return JSONResponse({"error": harmless(str(error))}, 400)
            except (ValueError, RecursionError):  # no JSON, or no UTF-8
                return JSONResponse({"error": "A question is sent as JSON."}, 400)
            return StreamingResponse(
                _events(lambda say: work(pair, what, say), busy), media_type="application/x-ndjson"
            )

        return Route(f"/api/{work.__name__}", answer, methods=["POST"])

    async def about(request: Request) -> Response:
        return JSONResponse(_about(pair))

    async def questions(request: Request) -> Response:
        return JSONResponse({"questions": pair.questions()})

    def file(path: str, name: str) -> Route:
        content, kind = (PAGE / name).read_bytes(), KINDS[Path(name).suffix]

        async def answer(request: Request) -> Response:
            return Response(content, media_type=kind)

        return Route(path, answer)

    routes = [
        file("/", "index.html"), file("/page.css", "page.css"), file("/page.js", "page.js"),
        Route("/api/about", about), Route("/api/questions", questions),
        api(stream), api(count), api(next_words),
    ]  # fmt: skip
    names = frozenset({"localhost", host.lower(), socket.gethostname().lower()})
    return Gate(Starlette(routes=routes), token, names)


def _about(pair: Pair) -> Mapping[str, Any]:
    return {
        "models": {side.name: printable(side.source) for side in pair.sides},
        "one_base": pair.one_base,
        "template": bool(pair.sides[0].encoder.tokenizer.chat_template),
        "questions": len(pair.records),
        "note": pair.note,
        "most": MOST,
    }


async def _body(request: Request) -> bytes:
    """What was sent, as long as it is no longer than a question can be."""
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > LARGEST_BODY:
            raise UserError(f"A question has at most {LARGEST_BODY} bytes.")
    return bytes(found)


async def _events(work: Callable[[Say], None], busy: threading.Lock) -> AsyncIterator[str]:
    """What ``work`` says, a line of JSON each; it ends where the browser has gone."""
    loop, queue, gone = asyncio.get_running_loop(), asyncio.Queue[Mapping[str, Any] | None](), threading.Event()

    def put(event: Mapping[str, Any] | None) -> None:
        if gone.is_set():
            raise _Gone
        loop.call_soon_threadsafe(queue.put_nowait, event)

    def run() -> None:
        try:
            with busy:
                _explained(work, put)
            put(None)
        except _Gone:
            pass

    threading.Thread(target=run, daemon=True).start()
    try:
        while (event := await queue.get()) is not None:
            yield json.dumps(event) + "\n"
    finally:
        gone.set()


def _explained(work: Callable[[Say], None], say: Say) -> None:
    """Do it; what goes wrong is said to the browser."""
    try:
        with machine_errors_explained():
            work(say)
    except UserError as error:
        say({"error": harmless(str(error))})
    except _Gone:
        raise
    except Exception as error:  # the page goes on with the next question
        logger.error("A question could not be answered: %s", type(error).__name__)
        say({"error": f"The model could not answer: {type(error).__name__}."})


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: the address is not this machine's, or the port is taken.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        found = socket.socket(family, kind)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        raise UserError(
            f"Nothing can listen at {host} port {port}: {error.strerror or error}. Give another --port or --host."
        ) from None
    return found


def address_of(found: socket.socket, host: str, token: str) -> str:
    """The address of the page, with its token."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{found.getsockname()[1]}/" + (f"#{token}" if token else "")


def new_token() -> str:
    """256 bits of chance."""
    return secrets.token_urlsafe(32)


def make_server(app: ASGIApp) -> uvicorn.Server:
    """A server of the page: ``run(sockets=[…])`` answers until it is interrupted. Nothing that is asked is logged."""
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=1)
    return uvicorn.Server(config)
