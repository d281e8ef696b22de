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
    text = " ".join(_ESCAPE.sub("", text).split())
    text = "".join(char for char in text if not unicodedata.category(char).startswith("C"))
    return text if len(text) <= ANSWER_LENGTH else text[: ANSWER_LENGTH - 1] + "…"


def markdown(text: str) -> str:
    """:func:`printable` inside a line or a table's cell of Markdown: what would act there stands as a character entity.

    An entity never is structure (CommonMark 0.31, 2.5), and unlike a backslash every reader knows it.
    """
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable(text))
