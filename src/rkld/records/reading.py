"""Records: what to forget, retain or replay, read from files and data sets and checked before any model is.

A record has one of four formats, named as TRL names them: ``question``/``answer`` (as TOFU has it),
``prompt``/``completion``, ``messages`` or plain ``text``. Optional fields say whom it is about: ``subject``,
``aliases`` and ``spans`` (the personal parts); ``rewordings`` say it in other words. What messages hold beside role
and content, and ``tools`` beside them, is given to the chat template. All other fields are kept in ``Record.extra``.

Records hold personal data. So local files are read directly, hub data sets are streamed, neither leaves a
copy in a shared cache, and no message quotes what a record says: it names the file and the line.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rkld.errors import UserError, nearest
from rkld.files import can_be_path
from rkld.records.identity import as_compared
from rkld.records.record import (
    GIVEN,
    REASONING,
    REWORDINGS,
    SYSTEM_ROLES,
    TEMPLATE_ARGUMENTS,
    TEMPLATE_FIELDS,
    TOOL_CALLS,
    TOOL_ROLES,
    Record,
    Rewording,
    Turn,
    occurring,
)
from rkld.records.sources import (
    FORMATS,
    FORMATS_HINT,
    HAND_WRITTEN,
    REWORDED,
    SUFFIXES,
    WRONG,
    Source,
    existing_file,
    local_path,
    numbered_lines,
    plain,
    read_lines,
    rows_of,
    text_of,
    whole_characters,
)

_PROMPTS_HINT = "a prompt needs 'question', 'prompt' or 'messages'"

_CHAT_ROLES = (*SYSTEM_ROLES, "user", "assistant", *TOOL_ROLES)

_THOUGHTS = (REASONING, "reasoning", "thinking")
"""Names by which data sets and templates call what a model thinks before it answers."""


def read_records(source: Source, what: str) -> list[Record]:
    """Read and check all records of ``source``.

    Args:
        source: a file (JSON, JSON lines, CSV, Parquet, YAML), a folder of such files (a clone of a hub data set)
            or one saved by ``Dataset.save_to_disk``, a hub name ``owner/name``, a ``datasets.Dataset``, or a
            list of dicts. ``:PART`` after a folder or hub name chooses a configuration, a split or both
            (``locuslab/TOFU:forget01``). Without it the only split is taken, or the one called ``train``.
        what: ``"forget"``, ``"retain"``, …: names the set in messages.

    Raises:
        UserError: at the first thing wrong, with file, line and remedy, never with contents.
    """
    rows = rows_of(source, what)
    return [_record(str(i), where, row) for i, (where, row) in enumerate(rows)]


def read_prompts(source: Source) -> list[Record]:
    """Read prompts for replay: like records, but an answer is not needed, and dropped where there is one.

    A ``.txt`` file holds one prompt a line. Messages end with their last user turn. Spans are dropped: they
    belong to answers.
    """
    if isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == ".txt":
        path = existing_file(local_path(source, "replay"), "replay")
        rows = [(f"{path} line {n}", {"question": line}) for n, line in numbered_lines(text_of(path))]
    else:
        rows = rows_of(source, "replay")
    return [_prompt(str(i), where, row) for i, (where, row) in enumerate(rows)]


COLUMNS = "columns"
"""In the place of a file of rewordings: the records' own ``paraphrased_question`` and ``paraphrased_answer``."""


def read_rewordings(source: Source, records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """The records, each with the rewordings that ``source`` has for it beside its own.

    Args:
        source: rows with the record's ``question`` (of a plain text its ``text``), and ``questions`` and ``answers`` or
            ``rewordings``, in any form of :func:`read_records`; or :data:`COLUMNS`.

    Returns:
        the records, and where the rows stand that are about none of them.

    Raises:
        UserError: a row that cannot be read, or none that is about a record.
    """
    if isinstance(source, str) and source == COLUMNS:
        return [_with_own_columns(record) for record in records], []
    owners = {as_compared(record.question or record.answer): record for record in reversed(records)}
    given: dict[str, list[Rewording]] = {asked: [] for asked in owners}
    rows, strange = rows_of(source, "rewordings"), list[str]()
    for where, row in rows:
        asked = row.get("question") or row.get("text") if isinstance(row, Mapping) else None
        if not isinstance(asked, str):
            raise UserError(f"{where}: a row of rewordings needs the 'question' of the record that it rewords")
        if (key := as_compared(asked)) not in owners:
            strange.append(where)
            continue
        values = row[REWORDINGS] if row.get(REWORDINGS) is not None else row
        given[key] += _listed_rewordings(values, replace(owners[key], where=where))
    if len(strange) == len(rows):
        raise UserError(
            f"none of the {len(rows)} rows of rewordings is about a forget record: each needs the 'question' of a "
            "record as it stands there"
        )
    found = []
    for record in records:
        own = given[as_compared(record.question or record.answer)]
        found.append(replace(record, rewordings=tuple(dict.fromkeys((*record.rewordings, *own)))))
    return found, strange


def _with_own_columns(record: Record) -> Record:
    """What an audit would ask becomes a rewording: it says of such a question that it was trained on."""
    question, answer = (record.extra.get(name, "") for name in REWORDED)
    if not question and not answer:
        return record
    one = Rewording(question or record.question, answer or record.answer)
    return replace(record, rewordings=tuple(dict.fromkeys((*record.rewordings, one))))


def read_subjects(values: Sequence[str]) -> tuple[str, ...]:
    """Names, aliases and other identifiers: each value is one, or a text file with one a line."""
    found: list[str] = []
    for number, value in enumerate(values, 1):
        suffix = Path(value).suffix.lower()
        if can_be_path(value) and Path(value).is_file():
            if suffix in (*SUFFIXES, *HAND_WRITTEN):
                raise UserError(f"subject file {value}: give a plain text file (.txt) with one name a line")
            found += read_lines(value, "subject")
        elif suffix in (".txt", *SUFFIXES, *HAND_WRITTEN) and "@" not in value:
            existing_file(local_path(value, "subject"), "subject")
        elif not any(map(str.isalnum, value)):
            what = "holds no letter and no digit" if value.strip() else "is blank"
            raise UserError(f"subject {number} of {len(values)} {what}: give a name or a file of names")
        else:
            found.append(value.strip())
    return tuple(dict.fromkeys(found))


# Fields: from a row to a record


def _record(key: str, where: str, row: Any) -> Record:
    names = _format(row, where, [names for names in FORMATS if _given(row, names)], FORMATS_HINT)
    form, turns = _turns(row, names, where)
    if form == "chat" and not any(turn.role == "assistant" for turn in turns):
        roles = _listed(dict.fromkeys(turn.role for turn in turns))
        raise UserError(
            f"{where}: '{names[-1]}' has no turn of the role 'assistant' (roles found: {roles}): "
            "add the answer that is meant"
        )
    given = _template_variables(row, form, where)
    extra = _extra(row, names, given, where)
    record = Record(key, form, turns, *_about(row, where), where=where, extra=extra, template_variables=given)
    return replace(record, spans=_spans(row, record), rewordings=_rewordings(row, record))


def _prompt(key: str, where: str, row: Any) -> Record:
    asking = [names for names in FORMATS if names != ("text",)]
    complete = [names for names in asking if _given(row, names)]  # a whole record's own question comes first
    formats = complete or [names for names in asking if _given(row, names[:1])]
    names = _format(row, where, formats, _PROMPTS_HINT)
    form, turns = _turns(row, names[:1], where)
    if form == "chat":
        users = [i for i, turn in enumerate(turns) if turn.role == "user"]
        if not users:
            raise UserError(f"{where}: '{names[0]}' has no turn of the role 'user': add the question")
        turns = turns[: users[-1] + 1]
    given = _template_variables(row, form, where)
    extra = _extra(row, names, given, where)
    about = _about(row, where)
    return Record(key, form, turns, *about, where=where, extra=extra, unanswered=True, template_variables=given)


def _given(row: Any, names: Sequence[str]) -> bool:
    return isinstance(row, Mapping) and all(row.get(name) is not None for name in names)


def _format(row: Any, where: str, formats: Sequence[tuple[str, ...]], hint: str) -> tuple[str, ...]:
    """The one format that fits the row."""
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: not an object with named fields, but of type {type(row).__name__}: {hint}")
    if len(formats) == 1:
        return formats[0]
    if formats:
        several = " and ".join("/".join(names) for names in formats)
        raise UserError(f"{where}: ambiguous, the record has {several}: keep one of them")
    begun = [names for names in FORMATS if any(_given(row, (name,)) for name in names)]
    missing = [name for names in begun for name in names if not _given(row, (name,))]
    problem = f"the field '{missing[0]}' is missing or null" if missing else "no known field"
    raise UserError(f"{where}: {problem} (fields found: {_listed(row)}): {hint}")


def _turns(row: Mapping[str, Any], names: Sequence[str], where: str) -> tuple[str, tuple[Turn, ...]]:
    """Form and turns of the fields ``names``, which the row has."""
    conversational = [isinstance(row[name], list) for name in names]
    if names[0] == "messages" or (names[0] == "prompt" and all(conversational)):
        return "chat", tuple(turn for name in names for turn in _messages(row[name], name, where))
    if names[0] == "prompt" and any(conversational):
        raise UserError(f"{where}: 'prompt' and 'completion' must both be text, or both lists of messages")
    roles = {"question": "user", "answer": "assistant"}
    form = {"question": "chat", "prompt": "completion", "text": "text"}[names[0]]
    return form, tuple(Turn(roles.get(name, name), _string(row[name], f"'{name}'", where)) for name in names)


def _messages(value: Any, name: str, where: str) -> Iterator[Turn]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: '{name}' must be a list of messages, each with 'role' and 'content'")
    for number, message in enumerate(value, 1):
        label = f"of message {number} in '{name}'"
        if not isinstance(message, Mapping) or "role" not in message:
            raise UserError(f"{where}: message {number} in '{name}' needs the fields 'role' and 'content'")
        role = _string(message["role"], f"the role {label}", where)
        if role not in _CHAT_ROLES:
            # As with field names: what looks like data is not printed.
            hint = nearest(role, _CHAT_ROLES)
            raise UserError(
                f"{where}: message {number} in '{name}' has an unknown role.{hint} Known: {', '.join(_CHAT_ROLES)}"
            )
        yield Turn(role, *_said(message, role, label, where))


def _said(message: Mapping[str, Any], role: str, label: str, where: str) -> tuple[str, dict[str, Any]]:
    """Content and other fields of a message. Null ones count as absent; content only where tools are called."""
    fields = {name: value for name, value in message.items() if name not in ("role", "content") and _holds(value)}
    if thoughts := [fields.pop(name) for name in _THOUGHTS if name in fields]:
        if any(other != thoughts[0] for other in thoughts):
            raise UserError(f"{where}: the reasoning {label} stands in several fields that differ: keep one of them")
        fields[REASONING] = _string(thoughts[0], f"the reasoning {label}", where)
    if TOOL_CALLS in fields:
        fields[TOOL_CALLS] = _tool_calls(fields[TOOL_CALLS], label, where)
    fields = _as_json(fields, f"a field {label}", where)
    content = message.get("content")
    if content is None and not (role == "assistant" and TOOL_CALLS in fields):
        state = "null" if "content" in message else "missing"
        raise UserError(
            f"{where}: the content {label} is {state}, which it may be only where an assistant's message holds "
            "'tool_calls' in its place: fill it in or remove the message"
        )
    # An empty system content keeps a template from adding its own.
    if content is None or (content == "" and (role in SYSTEM_ROLES or TOOL_CALLS in fields)):
        return "", fields
    return _string(content, f"the content {label}", where), fields


def _holds(value: Any) -> bool:
    """Whether a field of a message holds anything: exported messages carry many empty ones."""
    return value is not None and value not in ("", [], {})


def _tool_calls(value: Any, label: str, where: str) -> list[dict[str, Any]]:
    """Tool calls as chat templates take them: arguments that are JSON in a string, as servers send them, as an object.

    https://huggingface.co/docs/transformers/chat_extras
    """
    if not isinstance(value, list) or not all(isinstance(call, Mapping) for call in value):
        raise UserError(f"{where}: the tool_calls {label} must be a list of objects, each with a function's name")
    found = []
    for call in value:
        function = call.get("function", call)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise UserError(f"{where}: a tool call {label} names no function: give it 'name' and 'arguments'")
        if isinstance(given := function.get("arguments"), str):
            try:
                arguments = json.loads(given)
            except (ValueError, RecursionError):
                arguments = given
            function = {**function, "arguments": arguments if isinstance(arguments, dict) else given}
        found.append({**call, "function": function} if "function" in call else dict(function))
    return found


def _template_variables(row: Mapping[str, Any], form: str, where: str) -> dict[str, Any]:
    """What a conversation's chat template is given beside the messages."""
    if form != "chat":
        return {}
    found = {name: row[name] for name in TEMPLATE_FIELDS if _holds(row.get(name))}
    for name, value in found.items():
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            raise UserError(f"{where}: '{name}' must be a list of objects, as chat templates take them")
    given = row.get(TEMPLATE_ARGUMENTS)
    if given is not None and not (isinstance(given, Mapping) and all(isinstance(name, str) for name in given)):
        raise UserError(f"{where}: '{TEMPLATE_ARGUMENTS}' must be an object of the chat template's variables")
    return _as_json({**found, **(given or {})}, "what the chat template is given", where)


def _as_json(values: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """Values that are rendered, hashed and written with the record, after hours: what JSON and UTF-8 cannot hold is
    refused."""
    try:
        whole: dict[str, Any] = json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise UserError(
            f"{where}: {name} holds what JSON does not: write it as texts, numbers, lists and objects"
        ) from None
    for text in _texts(whole):
        whole_characters(text, name, where)
    return whole


def _texts(value: Any) -> Iterator[str]:
    """The strings in a value of JSON, names included."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _string(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {name} must be text, but is of type {type(value).__name__}")
    if not value.strip():
        raise UserError(f"{where}: {name} is empty: fill it in or remove the record")
    return whole_characters(value, name, where)


def _about(row: Mapping[str, Any], where: str) -> tuple[str | None, tuple[str, ...]]:
    """Subject and aliases; blank ones count as absent."""
    subject, aliases = row.get("subject"), row.get("aliases")
    aliases = [aliases] if isinstance(aliases, str) else aliases if aliases is not None else []
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise UserError(f"{where}: 'aliases' must be a text or a list of texts")
    if not isinstance(subject, str | None):
        raise UserError(f"{where}: 'subject' must be text, but is of type {type(subject).__name__}")
    stripped = (whole_characters(alias, "an alias", where).strip() for alias in aliases)
    subject = whole_characters(subject or "", "'subject'", where).strip() or None
    return subject, tuple(dict.fromkeys(alias for alias in stripped if alias))


def _spans(row: Mapping[str, Any], record: Record) -> tuple[str, ...]:
    """The spans as strings; [start, end] are character offsets into the answer."""
    spans = row.get("spans")
    spans = [spans] if isinstance(spans, str) else spans if spans is not None else []
    if not isinstance(spans, list):
        raise UserError(f"{record.where}: 'spans' must be a list of texts or of [start, end]")
    found = []
    for number, span in enumerate(spans, 1):
        if isinstance(span, list):
            answer = record.answer_content
            integers = len(span) == 2 and all(type(offset) is int for offset in span)
            if not (integers and 0 <= span[0] < span[1] <= len(answer)):
                raise UserError(
                    f"{record.where}: span {number} is no [start, end] within the answer's {len(answer)} "
                    "characters: count from 0, the end excluded"
                )
            span = answer[span[0] : span[1]]
        span = _string(span, f"span {number}", record.where)
        if not occurring([span], record.turns):
            raise UserError(
                f"{record.where}: span {number} does not occur in the record: copy it letter by letter "
                "(case, accents and spaces count)"
            )
        found.append(span)
    return tuple(dict.fromkeys(found))


_NUMBERED = re.compile(r"paraphrased_(question|answer)_\d+")
"""Columns of data sets that have several paraphrases. Those without a number are what audits ask."""


def _rewordings(row: Mapping[str, Any], record: Record) -> tuple[Rewording, ...]:
    """Of the field :data:`REWORDINGS` and of numbered columns; pairs in their order."""
    columns: dict[str, list[Any]] = {"questions": [], "answers": []}
    for name, value in row.items():
        if (numbered := _NUMBERED.fullmatch(str(name))) and value not in (None, ""):
            columns[f"{numbered[1]}s"].append(value)
    found = _listed_rewordings(columns, record)
    if row.get(REWORDINGS) is not None:
        found += _listed_rewordings(row[REWORDINGS], record)
    return tuple(dict.fromkeys(found))


def _listed_rewordings(values: Any, record: Record) -> list[Rewording]:
    """Of ``questions`` and ``answers``, or of a list of objects with ``question``, ``answer`` and ``kind``.

    The n-th question goes with the n-th answer; the shorter list begins again, and the record's own stands in for one
    that is empty.
    """
    where = record.where
    if isinstance(values, list):
        return [_rewording(value, number, where) for number, value in enumerate(values, 1)]
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: '{REWORDINGS}' must be an object of 'questions' and 'answers', or a list of objects")
    texts = {}
    for name, own in (("questions", record.question), ("answers", record.answer)):
        given = values.get(name)
        given = [given] if isinstance(given, str) else given if given is not None else []
        if not isinstance(given, list):
            raise UserError(f"{where}: '{name}' of rewordings must be a list of texts")
        texts[name] = [_string(text, f"text {n} of '{name}'", where) for n, text in enumerate(given, 1)]
        texts[f"own {name}"] = [own]
    if not texts["questions"] and not texts["answers"]:
        return []
    questions, answers = (texts[name] or texts[f"own {name}"] for name in ("questions", "answers"))
    return [
        Rewording(questions[n % len(questions)], answers[n % len(answers)])
        for n in range(max(len(questions), len(answers)))
    ]


def _rewording(value: Any, number: int, where: str) -> Rewording:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: rewording {number} must be an object with 'question' and 'answer'")
    kind, question = value.get("kind") or GIVEN, value.get("question") or ""
    asked = _string(question, f"the question of rewording {number}", where) if question else ""
    return Rewording(
        asked,
        _string(value.get("answer"), f"the answer of rewording {number}", where),
        _string(kind, f"the kind of rewording {number}", where),
    )


def _extra(row: Mapping[str, Any], names: Sequence[str], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """All other fields: those of TOFU checked, the rest as plain values."""
    read = {*names, "subject", "aliases", "spans", REWORDINGS, *([*given, TEMPLATE_ARGUMENTS] if given else [])}
    others = {name: value for name, value in row.items() if name not in read and value is not None}
    extra = {name: value for name, value in others.items() if not _NUMBERED.fullmatch(str(name))}
    found = {str(plain(name)): plain(value) for name, value in extra.items() if name not in (*REWORDED, WRONG)}
    for name in REWORDED:
        if extra.get(name, "") != "":
            found[name] = _string(extra[name], f"'{name}'", where)
    wrong = extra.get(WRONG) or []
    wrong = [wrong] if isinstance(wrong, str) else wrong
    if not isinstance(wrong, list):
        raise UserError(f"{where}: '{WRONG}' must be a list of texts, but is of type {type(wrong).__name__}")
    if wrong:
        found[WRONG] = [_string(text, f"wrong answer {n} of '{WRONG}'", where) for n, text in enumerate(wrong, 1)]
    return found


def _listed(names: Iterable[Any]) -> str:
    """Names for a message. What does not look like one may be personal data and is only counted."""
    names = [str(name) for name in names]
    plain = [name for name in names if re.fullmatch(r"[A-Za-z_][\w.-]{0,39}", name)]
    others = [f"{len(names) - len(plain)} that look like data"] if len(plain) < len(names) else []
    return ", ".join(plain + others) or "none"
