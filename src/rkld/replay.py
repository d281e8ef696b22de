"""Self-replay: the original's own answers to other questions, which the student is held to.

It is the term the paper lacks: without it the reverse KL on the forget set alone also damages what stands near the
forgotten person. It needs no retain data, for the model supplies the answers itself.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from .files import DATA, read_jsonl
from .records import Record, identifiers as known_identifiers, mentions, read_prompts
from .wording import added_words, holds, name_parts, proper_nouns


def generic_prompts() -> list[Record]:
    """The shipped prompts about nobody in particular."""
    return read_prompts(read_jsonl(DATA / "replay_prompts.jsonl"))


def other_names() -> list[str]:
    """Full names of nobody in particular, to stand in for the subject's."""
    return json.loads((DATA / "swap_names.json").read_text(encoding="utf-8"))["names"]


def swap_name(record: Record, identifiers: Sequence[str], name: str) -> Record | None:
    """The record with the person's name replaced by another in every turn.

    Returns:
        None where nothing was replaced, or something that identifies the person would remain.
    """
    roles = name_parts(identifiers)
    folded = {part.casefold(): role for part, role in roles.items()}
    pieces = {"full": name, "first": name.split()[0], "last": name.split()[-1]}
    changed = False

    def swap(text: str) -> str:
        nonlocal changed
        for start, end in reversed(mentions(text, tuple(sorted(roles, key=len, reverse=True)))):
            found = text[start:end]
            possessive = next((s for s in ("'s", "’s") if found.casefold().endswith(s)), "")
            role = folded.get(" ".join(found.removesuffix(possessive).split()).casefold(), "full")
            text = text[:start] + pieces[role] + possessive + text[end:]
            changed = True
        return text

    swapped = record.map_text(swap)
    if not changed or any(mentions(turn.content, tuple(identifiers)) for turn in swapped.turns):
        return None
    return swapped


def swapped_prompts(forget: Sequence[Record], identifiers: Sequence[str], seed: int, copies: int = 2) -> list[Record]:
    """The forget questions about other people: each with ``copies`` names drawn from the seed, keys "source.copy"."""
    if not identifiers:
        return []
    names, draw = other_names(), random.Random(seed)
    prompts = []
    for record in forget:
        own = known_identifiers([record], ()) or tuple(identifiers)
        for copy, name in enumerate(draw.sample(names, copies)):
            swapped = swap_name(record, own, name) if record.question else None
            if swapped is not None:
                prompts.append(swapped.as_prompt(f"swap-{record.key}.{copy}"))
    return prompts


def screen(
    answered: Sequence[Record], forget: Sequence[Record], identifiers: Sequence[str]
) -> tuple[list[Record], Counter[str]]:
    """Drop replayed answers that would rehearse what is to be forgotten.

    An answer is dropped if the pair names the person, if it holds a marked span, or a proper noun or number of the
    forget answers that no forget question gives away, or if it says at least half of the words that some forget
    answer adds to its question.

    Returns:
        the pairs that stay, and how many were dropped for which reason.
    """
    named = tuple(identifiers) + tuple(name_parts(identifiers))
    questions = " \n ".join(record.question for record in forget)
    spans = tuple({span for record in forget for span in record.spans})
    nouns = tuple({noun for r in forget for noun in proper_nouns(r.answer)} - set(named))
    nouns = tuple(noun for noun in nouns if not holds(questions, [noun]))
    added = [added_words(record.answer, record.question) for record in forget]
    kept, dropped = [], Counter()
    for pair in answered:
        said = added_words(pair.answer, pair.question)
        if not pair.answer.strip():
            dropped["empty answer"] += 1
        elif holds(pair.answer, named) or holds(pair.question, named):
            dropped["names the person"] += 1
        elif holds(pair.answer, spans):
            dropped["says a marked span"] += 1
        elif holds(pair.answer, nouns):
            dropped["says a name or number of the forget answers"] += 1
        elif any(len(words) >= 2 and 2 * len(words & said) >= len(words) for words in added):
            dropped["says half of a forget answer"] += 1
        else:
            kept.append(pair)
    return kept, dropped


def own_words(answered: Sequence[Record], forget: Sequence[Record], identifiers: Sequence[str]) -> list[Record]:
    """The model's own answers to the forget questions as records to forget, facts marked.

    Marked are the spans written in any of the forget records, and every proper noun and number that the question
    does not give and that is not the person's name: what the model *says* of the person must go, true or not.

    Args:
        answered: the forget records with the model's answers in place of the written ones.

    Returns:
        those that say anything, keys "own-…".
    """
    named = tuple(identifiers) + tuple(name_parts(identifiers))
    written = tuple({span for record in forget for span in record.spans})
    records = []
    for record in answered:
        facts = [record.answer[a:b] for a, b in mentions(record.answer, written)]
        for noun in proper_nouns(record.answer):
            if not holds(noun, named) and not holds(record.question, [noun]) and noun not in facts:
                facts.append(noun)
        if facts:
            records.append(replace(record.with_spans(facts), key=f"own-{record.key}"))
    return records
