"""What a model said acts neither on a terminal nor in Markdown."""

from __future__ import annotations

from html import unescape

import pytest
from markdown_it import MarkdownIt

from rkld.text.printable import ANSWER_LENGTH, markdown, printable


def test_long_answers_are_cut():
    assert len(printable("word " * 1000)) == ANSWER_LENGTH


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>", "a | b", "![x](http://a.b/c)", "`code`", "**bold** and __bold__", "~~gone~~",
        "<!-- x", "&lt;b&gt;", "\\| x", "line\n\n# head",
    ],
)  # fmt: skip
def test_nothing_acts_in_markdown_and_every_reader_sees_what_was_said(text):
    """A table would break, a picture would tell its server who reads the page, a script would run."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    shown = reader.render(f"| a |\n| --- |\n| {markdown(text)} |\n")
    cell = shown.split("<td>")[1].split("</td>")[0]
    assert shown.count("<td>") == 1
    assert "<" not in cell
    assert unescape(cell) == " ".join(text.split())


@pytest.mark.parametrize(("text", "sign"), [("http://a.b", "://"), ("WWW.a.b", "WWW."), ("a@b.c", "@"), ("$x$", "$")])
def test_nothing_becomes_a_link_or_a_formula_by_itself(text, sign):
    """As some readers make of plain text."""
    assert sign not in markdown(text)
    assert unescape(markdown(text)) == text


def test_control_characters_are_taken_out_of_markdown_as_well():
    assert markdown("a\x1b[31mb\u202ec\x00|") == "abc&#124;"
