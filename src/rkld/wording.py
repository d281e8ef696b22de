"""What in a text may carry a fact: proper nouns, numbers, and the words an answer adds to its question. No model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .records import mentions

_WORD = re.compile(r"[^\W_]+(?:['’\-.][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?:;\n•*\"“(]\s*$")


def words(text: str) -> list[str]:
    """The words of a text, inner hyphens, dots and apostrophes kept, a possessive 's dropped."""
    return [re.sub(r"['’]s$", "", word) for word in _WORD.findall(text)]


def proper_nouns(text: str) -> list[str]:
    """Runs of capitalised words, and numbers of three digits or more, as they stand in the text.

    A single capitalised word at the start of a sentence is passed over: it may be any word.
    """
    found: list[str] = []
    run_start = run_end = None
    opening = False  # whether the run began a sentence

    def close() -> None:
        nonlocal run_start
        if run_start is not None:
            run = text[run_start:run_end]
            if not (opening and " " not in run):
                found.append(run)
            run_start = None

    for match in _WORD.finditer(text):
        word = match.group()
        before = text[: match.start()]
        starts_sentence = not before.strip() or bool(_SENTENCE_END.search(before))
        if sum(c.isdigit() for c in word) >= 3:
            close()
            found.append(word)
        elif word[0].isupper() and word != "I":
            if run_start is not None and not text[run_end : match.start()].strip() and not starts_sentence:
                run_end = match.end()
            else:
                close()
                run_start, run_end, opening = match.start(), match.end(), starts_sentence
        else:
            close()
    close()
    return list(dict.fromkeys(re.sub(r"['’]s$", "", run) for run in found))


def added_words(answer: str, question: str) -> set[str]:
    """Words of four letters or more that the answer adds to the question, case-folded."""
    given = {word.casefold() for word in words(question)}
    return {word.casefold() for word in words(answer) if len(word) >= 4} - given


def holds(text: str, phrases: Iterable[str]) -> bool:
    """Whether any of the phrases stands in the text as whole words."""
    return bool(mentions(text, tuple(phrases)))


def name_parts(identifiers: Sequence[str]) -> dict[str, str]:
    """Each identifier that is a name, and its first and last word, with the role it plays.

    Returns:
        identifier → "full", "first" or "last". E-mail addresses, numbers and the like are no names.
    """
    parts: dict[str, str] = {}
    for identifier in identifiers:
        pieces = identifier.split()
        if not pieces or any(c.isdigit() or c == "@" for c in identifier):
            continue
        if len(pieces) > 1:
            parts[identifier] = "full"
            if len(pieces[0]) >= 3:
                parts.setdefault(pieces[0], "first")
            if len(pieces[-1]) >= 3:
                parts.setdefault(pieces[-1], "last")
        else:
            parts.setdefault(identifier, "last")
    return parts
