"""``rkld compare``: original and unlearned model side by side in the browser."""

from __future__ import annotations

import ipaddress
import webbrowser
from collections.abc import Callable
from contextlib import suppress

from rkld.settings.comparing import CompareSettings
from rkld.side_by_side.pair import open_pair
from rkld.side_by_side.server import address_of, listen, make_app, make_server, new_token


def show_pair(original: str, run: str, settings: CompareSettings, say: Callable[[str], object]) -> None:
    """Load both models and answer the page until Ctrl-C.

    Raises:
        UserError: a model cannot be loaded, or the address cannot be listened at.
    """
    socket = listen(settings.host, settings.port)  # before minutes are spent on loading
    pair = open_pair(original, run, settings)
    if pair.note:
        say(f"Note: {pair.note}")
    if pair.one_base:
        say("One base is in memory: its adapters are switched between the two models.")
    token = new_token() if settings.token else ""
    if not is_loopback(settings.host):
        say(
            f"Warning: {settings.host} can be reached from other machines, and nothing is encrypted: whoever listens "
            "reads questions and answers" + (", the token, too." if token else "; whoever comes may ask.")
        )
    address = address_of(socket, settings.host, token)
    say(f"Open {address}\nCtrl-C ends it.")
    if settings.open:
        webbrowser.open(address)
    with suppress(KeyboardInterrupt):  # the server ends first, then raises it again
        make_server(make_app(pair, token=token, host=settings.host)).run(sockets=[socket])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
