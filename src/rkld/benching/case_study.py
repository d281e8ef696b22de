"""The case study: what each model says in the place of a fact, answering itself and going on with the right answer.

RKLD's (arXiv 2406.01983): after "Hina Ameen was born in" the five likeliest completions of IDK, DPO, NPO and task
arithmetic still hold the true city, RKLD's do not; and what is answered to the question itself. What models said is
kept here, in ``cell.json`` as it was, in ``cases.md`` harmless to show.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rkld.auditing.inputs import people_of, person_of
from rkld.benching.cells import Found
from rkld.benching.tables import MOMENTS, as_markdown
from rkld.errors import UserError
from rkld.evaluation.generation import greedy
from rkld.evaluation.memorisation import Blank, blanks, fill_in, filled
from rkld.files import write_text
from rkld.records.encoding import Encoder
from rkld.records.probes import facts_of
from rkld.records.record import Record
from rkld.text.facts import facts_said
from rkld.text.normalising import words
from rkld.text.printable import markdown
from rkld.text.wording import added_spans, rare_words

if TYPE_CHECKING:
    from rkld.models.language_model import LanguageModel


TOP = 5
"""Completions of a blank, as in the paper."""

LONGEST = 4
"""Words of a fact that no name or number marks: a longer clause, said in other words, would look forgotten."""


@dataclass(frozen=True)
class Case:
    """One fact, with the question and the blank that test for it. Holds personal data."""

    record: Record
    prompt: tuple[int, ...]
    """The question's tokens."""
    blank: Blank
    beginning: str
    """What stands between them: the right answer up to the fact."""


def choose_cases(records: Sequence[Record], names: Sequence[str], encoder: Encoder, count: int) -> list[Case]:
    """``count`` of the records that a blank can be made of, or all; the same for the same records, in their order.

    People take turns, drawn by chance, so that few cases are not all about one; fewer cases are a part of more.

    Args:
        names: of the people to forget (:func:`rkld.records.identity.identifiers`), which are no facts
            where a question has them.

    Raises:
        UserError: no record has such a fact.
    """
    people, of_person = people_of(names), dict[Hashable, list[Record]]()
    for record in random.Random("cases").sample(records, len(records)):
        of_person.setdefault(person_of(record, people), []).append(record)
    # Nothing is read before its turn: few cases of many records cost little.
    able = [filter(None, (_case(record, names, encoder) for record in some)) for some in of_person.values()]
    turns = (case for each in zip_longest(*able) for case in each if case)
    found = list(islice(turns, count))
    if not found:
        raise UserError(
            f"--cases {count}: none of the {len(records)} forget questions has an answer with a fact that a blank can "
            "be made of. Mark the facts as 'spans' in the records, or leave --cases out."
        )
    place = {record.key: i for i, record in enumerate(records)}
    return sorted(found, key=lambda case: place[case.record.key])


def _case(record: Record, names: Sequence[str], encoder: Encoder) -> Case | None:
    """The first fact behind the beginning of the answer, as in "Hina Ameen was born in"; else one that begins it."""
    if not record.question:
        return None
    encoded = encoder.encode(record)
    given = blanks(encoder, record, facts_of(record, names) or _added(record))
    if not given:
        return None
    start = encoded.prompt_length
    blank = next((one for one in given if len(one.ids) > start), given[0])
    beginning = encoder.tokenizer.decode(blank.ids[start:], skip_special_tokens=True).strip()
    return Case(record, encoded.ids[:start], blank, beginning)


def _added(record: Record) -> list[str]:
    """What an answer without names and numbers adds to its question, if few texts hold it: "florist", not "Yes".

    The last first: what is new mostly stands behind what is known.
    """
    found = [record.answer[start:end] for start, end in added_spans(record.answer, record.question)]
    return [text for text in reversed(found) if rare_words(text) and len(words(text)) <= LONGEST]


def complete_cases(lm: LanguageModel, cases: Sequence[Case], max_new_tokens: int) -> list[dict[str, Any]]:
    """The model's completion of each case, beside its question.

    Returns:
        "question", "beginning", "fact"; "answer" (greedy, to the question) and "said" (whether it says the fact);
        "completions" (:data:`TOP`, likeliest first) and "filled" (whether one of them says it).
    """
    given = [case.blank for case in cases]
    answers = [said.text.strip() for said in greedy(lm, [c.prompt for c in cases], max_new_tokens=max_new_tokens)]
    completions = fill_in(lm, given, TOP)
    return [
        {
            "question": case.record.question,
            "beginning": case.beginning,
            "fact": case.blank.fact,
            "answer": answer,
            "said": facts_said([case.blank.fact], answer)[0],
            "completions": list(texts),
            "filled": there,
        }
        for case, answer, texts, there in zip(cases, answers, completions, filled(given, completions).tolist())
    ]


# The page


def write_cases(folder: Path, found: Found) -> Path:
    """``cases.md``: the shares of all methods, then case by case who said what. The same cells give the same bytes."""
    rows = [
        {"split": cell.split, "seed": cell.seed, "method": cell.name, "moment": MOMENTS[moment], **case}
        for cell, content in found.items()
        for moment in MOMENTS
        for case in content.get("cases", {}).get(moment, ())
    ]
    parts = [_HEAD, as_markdown(_SHARES, _shares(rows))]
    asked = _grouped(rows, ("split", "question", "beginning", "fact"))
    for number, ((split, question, beginning, fact), some) in enumerate(asked.items(), 1):
        parts.append(
            f"## Case {number} ({split})\n\n- question: {markdown(question)}\n- fact: {markdown(fact)}\n"
            f"- blank: {markdown(beginning)} …"
        )
        parts.append(as_markdown(_SAID, map(_said, some)))
    path = folder / "cases.md"
    write_text(path, "\n\n".join(parts) + "\n")
    return path


_HEAD = f"""\
# rkld bench: case study

The direct answer is the greedy one to the question. Behind the blank's beginning of the right answer stand the {TOP}
likeliest first tokens, each continued greedily. "yes": the fact is there, as words. What is shown here was said by
models, and the facts are personal data; what would act in Markdown stands as entities, and long texts are cut."""

_SHARES = ("split", "method", "moment", "cases", f"fact in the top {TOP}", "fact in the direct answer")

_SAID = (
    "method",
    "moment",
    "seed",
    "direct answer",
    "fact in it",
    *map(str, range(1, TOP + 1)),
    f"fact in the top {TOP}",
)


def _grouped(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[tuple, list[Mapping[str, Any]]]:
    found: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def _shares(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """One line per split, method and moment, over cases and seeds."""
    lines = []
    for key, some in _grouped(rows, ("split", "method", "moment")).items():
        shares = [f"{sum(row[name] for row in some) / len(some):.3f}" for name in ("filled", "said")]
        lines.append([*key, str(len(some)), *shares])
    return lines


def _said(row: Mapping[str, Any]) -> list[str]:
    texts = [markdown(text) or "–" for text in (row["answer"], *row["completions"])]
    there = ["yes" if row[name] else "no" for name in ("said", "filled")]
    return [row["method"], row["moment"], str(row["seed"]), texts[0], there[0], *texts[1:], there[1]]
