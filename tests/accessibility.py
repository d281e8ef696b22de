"""axe-core on a page that a browser shows: what keeps somebody from reading it, at every width and in the dark."""

from __future__ import annotations

from typing import Any

WIDTHS = (390, 1280, 1920)
"""Of windows, in pixels: a telephone, a laptop, a large screen."""

CHECKED = {"light": None, "dark": {"runOnly": {"type": "rule", "values": ["color-contrast"]}}}
"""Colour scheme → options of axe. Of the second only colours differ, and a whole check takes seconds."""


def violations(tab: Any) -> list[str]:
    """What axe-core finds, at the tab's own width and in both colour schemes; also where it sees no background."""
    from axe_playwright_python.sync_playwright import Axe

    found = []
    for scheme, options in CHECKED.items():
        tab.emulate_media(color_scheme=scheme)
        result = Axe().run(tab, options=options)
        assert result.response["passes"], "nothing was looked at"
        found += [result.generate_report()] if result.response["violations"] else []
        undecided = [one for rule in result.response["incomplete"] for node in rule["nodes"] for one in node["any"]]
        found += [one["message"] for one in undecided if "1:1 contrast" in one["message"]]
    return found


def violations_at_every_width(tab: Any) -> list[str]:
    """The same at each of :data:`WIDTHS`."""
    found = []
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        found += violations(tab)
    return found
