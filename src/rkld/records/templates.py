"""What chat templates read: messages with their fields, modes, and where the texts of a record go. No tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rkld.records.record import ANSWER_ROLES, REASONING, TOOL_CALLS, TOOL_ROLES, Turn

MODE_VALUES = {"reasoning_effort": ("low", "medium", "high")}
"""Variables of chat templates whose values are words, with these (gpt-oss)."""

TOOL_CALL_ENDS = ("<|eom_id|>", "<|call|>")
"""Tokens that end a turn which calls a tool (Llama 3.1; gpt-oss)."""

RESERVED = {
    *("messages", "conversation", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"),
    *("padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
    *("tokenizer_kwargs", "date_string", "strftime_now"),
}
"""Arguments of ``apply_chat_template`` that are not the template's, and what it is given besides."""

MOST_VARIABLES = 16
"""Variables that are tried as modes: a template is foreign text, and each costs two renderings."""

_DATA = {"messages", "tools", "documents", "custom_tools", "builtin_tools", "add_generation_prompt"}
"""Variables of chat templates that are no modes, though they are tested."""


class Slot(NamedTuple):
    """A text of a record that the chat template writes as it is, but for white space at its ends."""

    turn: int
    text: str


def possible_modes(template: str) -> list[dict[str, Any]]:
    """Values of variables that may be modes: given from outside, and only tested (or set to a default), or so named."""
    from jinja2 import Environment, TemplateError, meta, nodes

    without_tags = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", template)  # transformers' own
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(without_tags)
        given = meta.find_undeclared_variables(tree) - _DATA - RESERVED
    except (TemplateError, RecursionError):
        return []
    tests = [branch.test for branch in tree.find_all(nodes.If)] + [one.test for one in tree.find_all(nodes.CondExpr)]
    names = {id(name) for test in tests for name in (test, *test.find_all(nodes.Name))}
    for default in tree.find_all(nodes.Assign):
        own = (name for name in (default.node, *default.node.find_all(nodes.Name)) if isinstance(name, nodes.Name))
        names |= {id(name) for name in own if name.name == getattr(default.target, "name", None)}
    used = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "load" and id(name) not in names}
    modes = sorted(n for n in given - MODE_VALUES.keys() if n not in used or re.search("think|reason", n))
    switches = [{name: value} for name in modes[:MOST_VARIABLES] for value in (True, False)]
    return switches + [{name: word} for name, words in MODE_VALUES.items() if name in given for word in words]


_THOUGHT = re.compile(r"\s*<think>\s*(.*?)\s*</think>\s*(.*)", re.DOTALL)


def thoughts_apart(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns with what answers say between ``<think>`` tags at their beginning as their :data:`REASONING`."""
    return tuple(
        replace(turn, content=match[2], fields={**({REASONING: match[1]} if match[1] else {}), **turn.fields})
        if turn.role in ANSWER_ROLES and REASONING not in turn.fields and (match := _THOUGHT.fullmatch(turn.content))
        else turn
        for turn in turns
    )


def message(turn: Turn, template: str) -> dict[str, Any]:
    """A turn as chat templates take it. Thoughts go by the name that this one reads."""
    found = turn.message()
    if REASONING in found:
        known = (name for name in (REASONING, "reasoning", "thinking") if re.search(rf"\b{name}\b", template))
        found[next(known, REASONING)] = found.pop(REASONING)
    return found


def slots_of(turns: Sequence[Turn]) -> list[Slot]:
    """Thoughts and content of each turn; no content where a turn says all by tool calls."""
    found = []
    for i, turn in enumerate(turns):
        if REASONING in turn.fields:
            found.append(Slot(i, turn.fields[REASONING]))
        if turn.content or TOOL_CALLS not in turn.fields:
            found.append(Slot(i, turn.content))
    return found


def with_texts(turns: Sequence[Turn], texts: Iterable[str]) -> list[Turn]:
    """The turns with other texts in their slots (:func:`slots_of`)."""
    others, found = iter(texts), []
    for turn in turns:
        fields = {**turn.fields, REASONING: next(others)} if REASONING in turn.fields else turn.fields
        content = next(others) if turn.content or TOOL_CALLS not in turn.fields else ""
        found.append(Turn(turn.role, content, fields))
    return found


def is_link(name: str, turn: Turn) -> bool:
    """Whether a field says only which call a tool's result belongs to, which most templates need not write."""
    return turn.role in TOOL_ROLES and name in ("name", "tool_call_id")


def is_written(calls: Any, text: str) -> bool:
    """Whether names and arguments of tool calls stand in a text, as they are or as JSON writes them."""
    functions = [call.get("function", call) for call in calls]
    said = Turn("", "", {"calls": [[f["name"], f.get("arguments")] for f in functions]}).text.split("\n")
    return all(line in text or json.dumps(line, ensure_ascii=False)[1:-1] in text for line in said)


def not_written(where: str, what: str) -> str:
    """What to say of a field (in quotation marks in ``what``) that a template leaves out."""
    if not re.fullmatch(r"[A-Za-z_][\w.-]{0,39}", what.split("'")[1]):
        what = "a message holds a field"  # its name looks like data, which is not printed
    return (
        f"{where}: {what}, which the chat template does not write (or not in full), so it would be left out. Take it "
        "out of the record, or give a template that writes it with --chat-template."
    )
