"""The page on which a person marks what was found: one file, no network, only its own script, all of it escaped."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rkld.discovering.findings import ASSOCIATED, COMMON, Discovery, Finding, as_record, limit_of
from rkld.errors import UserError
from rkld.files import DATA

MARKS = ("true", "false", "unsure")
"""What a person says of a value. None of them takes it out: what is false and about somebody is personal data too."""

LONGEST = 2000
"""Characters of a text that is sent from the page."""

MOST = 5000
"""Records that are sent from the page at most."""


def policy(nonce: str) -> str:
    """The content security policy: its own style and script, and this server, nothing else."""
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def page(found: Discovery, nonce: str, token: str) -> str:
    """The page as HTML.

    Args:
        nonce: of its style and script.
        token: sent with what is saved.
    """
    environment = Environment(
        loader=FileSystemLoader(DATA), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    groups = [(ASSOCIATED, "The model says this of the person more than of other names of the same form.", True),
              (COMMON, "The model says this of other such names, too. It is forgotten only where it is ticked.", False),
              ("said, but no more than is made up for anybody",
               "From what the model makes up for other such names it cannot be told.", False),
              ("also said, and not tested",
               "Another value of the topic is likelier, or was said more often.", False)]  # fmt: skip
    rows: list[list[tuple[int, Finding]]] = [[], [], [], []]
    for number, finding in enumerate(found.reviewed):
        untested = number >= len(found.findings)
        rows[3 if untested else {ASSOCIATED: 0, COMMON: 1}.get(finding.label, 2)].append((number, finding))
    return environment.get_template("discovery_review.html.jinja").render(
        found=found,
        groups=[(*group, some) for group, some in zip(groups, rows, strict=True)],
        limits=[(topic, n, limit_of(n)) for topic, n in found.not_found.items()],
        policy=policy(nonce),
        nonce=nonce,
        token=token,
        marks=MARKS,
    )


def records_of(found: Discovery, sent: Any) -> list[dict[str, Any]]:
    """The records to forget, of what a person ticked, corrected and added.

    Args:
        sent: a list of {"number": of a finding, or null for one that was added; "forget", "mark", "question", "value",
            "answer"}.

    Raises:
        UserError: something else was sent, or a value does not stand in its answer; no contents are in the message.
    """
    if not isinstance(sent, list) or len(sent) > MOST:
        raise UserError("what the page sent is no list of values")
    records = []
    for place, row in enumerate(sent, 1):
        if not isinstance(row, dict) or row.get("mark", "unsure") not in MARKS:
            raise UserError(f"value {place} that the page sent has no mark that is known")
        if row.get("forget") is not True:
            continue
        question, value, answer = (row.get(name) for name in ("question", "value", "answer"))
        texts = [text for text in (question, value, answer) if isinstance(text, str) and text.strip()]
        if len(texts) < 3 or max(map(len, texts)) > LONGEST:
            raise UserError(f"value {place} needs a question, an answer and what in it is personal, each of at most "
                            f"{LONGEST} characters")  # fmt: skip
        question, value, answer = (text.strip() for text in texts)
        if value not in answer:
            raise UserError(f"value {place} does not stand in its answer letter by letter: write it there")
        number = row.get("number")
        if number is not None and not (type(number) is int and 0 <= number < len(found.reviewed)):
            raise UserError(f"value {place} belongs to nothing that was found")
        evidence = {"label": "added by hand"} if number is None else found.reviewed[number].evidence()
        evidence["mark"] = row.get("mark", "unsure")
        if number is not None and found.reviewed[number].value != value:
            evidence["corrected_from"] = found.reviewed[number].value
        records.append(as_record(found.subject, found.aliases, question, answer, value, evidence))
    return records
