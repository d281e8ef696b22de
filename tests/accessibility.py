"""axe-core on a page that a browser shows: what keeps somebody from reading it, at every width and in the dark."""

from __future__ import annotations

from typing import Any

WIDTHS = (390, 1280, 1920)
"""Of windows, in pixels: a telephone, a laptop, a large screen."""

CHECKED = {"light": None, "dark": {"runOnly": {"type": "rule", "values": ["color-contrast"]}}}
"""Colour scheme → options of axe. Of the second only colours differ, and a whole check takes seconds."""


def violations(tab: Any) -> list[str]:
    """What axe-core finds, at the tab's own width and in both colour schemes."""
    from axe_playwright_python.sync_playwright import Axe

    found = []
    for scheme, options in CHECKED.items():
        tab.emulate_media(color_scheme=scheme)
        result = Axe().run(tab, options=options)
        assert result.response["passes"], "nothing was looked at"
        found += [result.generate_report()] if result.response["violations"] else []
    return found


def violations_at_every_width(tab: Any) -> list[str]:
    """The same at each of :data:`WIDTHS`."""
    found = []
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        found += violations(tab)
    return found
