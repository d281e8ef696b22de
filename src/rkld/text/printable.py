"""What a model said, made harmless to show: nobody has checked it, and it may hold anything."""

from __future__ import annotations

import re
import unicodedata

ANSWER_LENGTH = 400
"""Characters of an answer that are shown."""

_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # control sequences: colours, cursor
    r"|(?:\x1b[PX\]^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # strings: titles, links
    r"|\x1b[ -/]*[0-~]?"
)

_MARKUP = re.compile(
    r"[&<>\\`*_\[\]|~$]"  # HTML, emphasis, code, links, cells of a table, formulas
    r"|:(?=//)|(?<=www)\.|@",  # what becomes a link by itself
    re.IGNORECASE,
)


def printable(text: str) -> str:
    """``text`` on one line, cut to ``ANSWER_LENGTH``, without what could act on a terminal.

    Escape sequences, control characters and invisible ones (such as those that turn the direction of writing)
    are taken out.
    """
    text = harmless(" ".join(_ESCAPE.sub("", text).split()))
    return text if len(text) <= ANSWER_LENGTH else text[: ANSWER_LENGTH - 1] + "…"


def harmless(text: str) -> str:
    """``text`` with its lines, and without what could act on a terminal, as of :func:`printable`.

    For messages: the names in them, of files and fields, are others' words too.
    """
    kept = (char for char in _ESCAPE.sub("", text) if char in "\n\t" or unicodedata.category(char)[0] != "C")
    return "".join(kept)


def markdown(text: str) -> str:
    """:func:`printable` inside a line or a table's cell of Markdown: what would act there stands as a character entity.

    An entity never is structure (CommonMark 0.31, 2.5), and unlike a backslash every reader knows it.
    """
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable(text))
