"""Records: what to forget, retain or replay, read from files and data sets and checked before any model is.

A record has one of four formats, named as TRL names them: ``question``/``answer`` (as TOFU has it),
``prompt``/``completion``, ``messages`` or plain ``text``. Optional fields say whom it is about: ``subject``,
``aliases`` and ``spans`` (the personal parts). All other fields are kept in ``Record.extra``.

Records hold personal data. So local files are read directly, hub data sets are streamed, neither leaves a
copy in a shared cache, and no message quotes what a record says: it names the file and the line.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

    Source = str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Dataset

Located = tuple[str, Any]
"""Where a row stands ("people.jsonl line 4") and the row as it was read."""

_FORMATS = (("question", "answer"), ("prompt", "completion"), ("messages",), ("text",))
_FORMAT_FIELDS = frozenset(name for names in _FORMATS for name in names)
_FORMATS_HINT = "a record needs 'question' and 'answer', 'prompt' and 'completion', 'messages', or 'text'"
_PROMPTS_HINT = "a prompt needs 'question', 'prompt' or 'messages'"
_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_CHAT_ROLES = ("system", "developer", "user", "assistant", "tool", "function", "environment", "ipython")
_ANSWER_ROLES = ("assistant", "completion", "text")


@dataclass(frozen=True)
class Turn:
    """One turn of a record."""

    role: str
    """Of a chat: ``system``, ``user``, ``assistant``, …; else ``prompt``, ``completion``, ``text``."""
    content: str


@dataclass(frozen=True)
class Record:
    """One checked record; every span occurs in one of its turns."""

    key: str
    """Unique and stable within its set: the position in the source, from "0"."""
    form: str
    """``chat`` (rendered with the chat template), ``completion`` (plain strings, no template) or ``text``."""
    turns: tuple[Turn, ...]
    subject: str | None = None
    aliases: tuple[str, ...] = ()
    spans: tuple[str, ...] = ()
    """The personal parts, letter by letter as they stand in the record."""
    where: str = ""
    """For messages, such as "people.jsonl line 4"."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """All other fields, such as ``paraphrased_answer`` and ``perturbed_answer``."""
    unanswered: bool = False
    """True for a prompt (``read_prompts``): the model is to answer its last turn."""

    @property
    def question(self) -> str:
        """The last turn before the answer that is not an answer itself; "" where there is none."""
        index = self._question_index()
        return "" if index is None else self.turns[index].content

    @property
    def answer(self) -> str:
        """The last assistant turn, the completion or the text; "" for a prompt."""
        index = self._answer_index()
        return "" if index is None else self.turns[index].content

    def with_answer(self, text: str) -> Record:
        """The same record with another last answer, a prompt with one. Spans no longer there are dropped."""
        index = self._answer_index()
        if index is None:
            role = "completion" if self.form == "completion" else "assistant"
            return replace(self, turns=(*self.turns, Turn(role, text)), unanswered=False)
        return self._with_turn(index, text)

    def with_question(self, text: str) -> Record:
        """The same record with another last question. Spans no longer there are dropped."""
        index = self._question_index()
        if index is None:
            raise ValueError(f"a record of form '{self.form}' without a question cannot get another one")
        return self._with_turn(index, text)

    def with_spans(self, spans: Iterable[str]) -> Record:
        """The same record with other personal parts, of those that occur in it."""
        return replace(self, spans=tuple(dict.fromkeys(_occurring(spans, self.turns))))

    def as_prompt(self, key: str) -> Record:
        """The record up to its last question, as a prompt of its own; spans are dropped with the answer."""
        index = self._question_index()
        if index is None:
            raise ValueError(f"a record of form '{self.form}' without a question makes no prompt")
        return replace(self, key=key, turns=self.turns[: index + 1], spans=(), unanswered=True)

    def map_text(self, function: Callable[[str], str]) -> Record:
        """``function`` applied to every turn and every span. Spans no longer there are dropped."""
        turns = tuple(Turn(turn.role, function(turn.content)) for turn in self.turns)
        return replace(self, turns=turns, spans=_occurring(map(function, self.spans), turns))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` makes the record again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """The record that ``to_dict`` wrote, also after a journey through JSON."""
        turns = tuple(Turn(**turn) for turn in values["turns"])
        tuples = {name: tuple(values[name]) for name in ("aliases", "spans")}
        return cls(**{**values, "turns": turns, **tuples})

    def _answer_index(self) -> int | None:
        if self.unanswered:
            return None
        return max((i for i, turn in enumerate(self.turns) if turn.role in _ANSWER_ROLES), default=None)

    def _question_index(self) -> int | None:
        before = self.turns[: self._answer_index()]
        return max((i for i, turn in enumerate(before) if turn.role not in _ANSWER_ROLES), default=None)

    def _with_turn(self, index: int, text: str) -> Record:
        turns = (*self.turns[:index], Turn(self.turns[index].role, text), *self.turns[index + 1 :])
        return replace(self, turns=turns, spans=_occurring(self.spans, turns))


def read_records(source: Source, what: str) -> list[Record]:
    """Read and check all records of ``source``.

    Args:
        source: a file (JSON, JSON lines, CSV, Parquet), a folder of such files (a clone of a hub data set)
            or one saved by ``Dataset.save_to_disk``, a hub name ``owner/name``, a ``datasets.Dataset``, or a
            list of dicts. ``:PART`` after a folder or hub name chooses a configuration, a split or both
            (``locuslab/TOFU:forget01``). Without it the only split is taken, or the one called ``train``.
        what: ``"forget"``, ``"retain"``, …: names the set in messages.

    Raises:
        UserError: at the first thing wrong, with file, line and remedy, never with contents.
    """
    rows = _rows(source, what)
    return [_record(str(i), where, row) for i, (where, row) in enumerate(rows)]


def read_prompts(source: Source) -> list[Record]:
    """Read prompts for replay: like records, but an answer is not needed, and dropped where there is one.

    A ``.txt`` file holds one prompt a line. Messages end with their last user turn. Spans are dropped: they
    belong to answers.
    """
    if isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == ".txt":
        path = _existing(Path(source).expanduser(), "replay")
        rows = [(f"{path} line {n}", {"question": line}) for n, line in _lines(_text(path))]
    else:
        rows = _rows(source, "replay")
    return [_prompt(str(i), where, row) for i, (where, row) in enumerate(rows)]


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """All of a text file in UTF-8. UserError where there is no such file, or nothing in it."""
    return _text(_existing(Path(path), what))


def read_lines(path: str | os.PathLike[str], what: str) -> list[str]:
    """The lines of a text file that are not blank. UserError where there is no such file, or nothing in it."""
    return [line for _, line in _lines(read_text(path, what))]


def read_subjects(values: Sequence[str]) -> tuple[str, ...]:
    """Names, aliases and other identifiers: each value is one, or a text file with one a line."""
    found: list[str] = []
    for number, value in enumerate(values, 1):
        suffix = Path(value).suffix.lower()
        if Path(value).is_file():
            if suffix in _SUFFIXES:
                raise UserError(f"subject file {value}: give a plain text file (.txt) with one name a line")
            found += read_lines(value, "subject")
        elif suffix in (".txt", *_SUFFIXES) and "@" not in value:
            _existing(Path(value), "subject")
        elif not any(map(str.isalnum, value)):
            raise UserError(f"subject {number} of {len(values)} is blank: give a name or a file of names")
        else:
            found.append(value.strip())
    return tuple(dict.fromkeys(found))


def identifiers(records: Iterable[Record], subjects: Iterable[str]) -> tuple[str, ...]:
    """Every name, alias and identifier known from the flags and the records, each once, the longest first."""
    known = [*subjects]
    for record in records:
        known += [record.subject] if record.subject else []
        known += record.aliases
    unique = {_normal(name): name for name in reversed(known)}  # reversed: the first spelling stays
    return tuple(sorted(unique.values(), key=lambda name: (-len(name), name)))


def mentions(text: str, identifiers: Sequence[str]) -> list[tuple[int, int]]:
    """Where ``text`` mentions someone: sorted (start, end) character ranges of the original text.

    Whole words only, without a possessive 's; of ranges that overlap the longest stays. Differences of case,
    of Unicode form, of accents, of apostrophes and of what stands between words (any white space, any hyphen)
    do not matter, nor do the separators within a phone number or a date. E-mail addresses must be complete.
    Scripts written without spaces need no word boundary. Rather one mention too many than one missed: a
    single missed one can let a fact pass.
    """
    folded, starts, ends = _fold(text)
    found = []
    for pattern in _patterns(tuple(identifiers)):
        for match in pattern.finditer(folded):
            after = folded[match.end() : match.end() + 1]
            goes_on = after and unicodedata.category(after).startswith("M")  # a vowel sign: for re a boundary
            if not goes_on:
                found.append((starts[match.start()], ends[match.end() - 1]))
    chosen: list[tuple[int, int]] = []
    for start, end in sorted(found, key=lambda span: (span[0] - span[1], span[0])):
        if all(end <= taken_start or taken_end <= start for taken_start, taken_end in chosen):
            chosen.append((start, end))
    return sorted(chosen)


def check_disjoint(
    forget: Iterable[Record], retain: Iterable[Record], names: tuple[str, str] = ("forget", "retain")
) -> None:
    """Refuse records that are to be both forgotten and retained, whatever their format, case and spacing.

    ``names`` are those of the two sets, for the message.
    """
    forgotten: dict[tuple[str, ...], Record] = {}
    for record in forget:
        forgotten.setdefault(_identity(record), record)
    shared = [(forgotten[_identity(record)], record) for record in retain if _identity(record) in forgotten]
    if shared:
        first, second = shared[0]
        raise UserError(
            f"{len(shared)} record(s) stand in both the {names[0]} and the {names[1]} data, the first is "
            f"{first.where} and {second.where}: remove them from one of the two"
        )


# Sources: where rows come from


def _rows(source: Source, what: str) -> list[Located]:
    datasets = sys.modules.get("datasets")  # a Dataset can only be given once its package is imported
    if isinstance(source, str | os.PathLike):
        rows = _rows_of_path(os.fspath(source), what)
    elif datasets and isinstance(source, datasets.Dataset | datasets.DatasetDict):
        rows = _rows_of_dataset(source, "", f"the {what} data set", f"{what} record")
    elif isinstance(source, Sequence):
        rows = [(f"{what} record {n}", row) for n, row in enumerate(source, 1)]
    else:
        raise UserError(
            f"{what} records are of type {type(source).__name__}: give a file, a folder, a hub name, "
            "a datasets.Dataset or a list of dicts"
        )
    if not rows:
        raise UserError(f"{what}: the data set is empty: {_FORMATS_HINT}")
    return rows


def _rows_of_path(source: str, what: str) -> list[Located]:
    path, part = Path(source).expanduser(), ""
    if not path.exists() and ":" in source:
        head, _, tail = source.rpartition(":")
        if Path(head).expanduser().is_dir() or _is_hub_name(head):
            path, part = Path(head).expanduser(), tail
    if path.is_dir():
        return _rows_of_folder(path, part, what)
    if not path.exists() and _is_hub_name(str(path)):
        return _rows_of_hub(str(path), part, what)
    return _rows_of_file(_existing(path, what), what)


def _rows_of_folder(folder: Path, part: str, what: str) -> list[Located]:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        datasets = _package("datasets")
        try:
            return _rows_of_dataset(datasets.load_from_disk(folder), part, str(folder), f"{folder} record")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{what}: {folder} looks saved by save_to_disk but cannot be loaded "
                f"({type(error).__name__}): save it again, or give a JSON lines file"
            ) from error
    parts: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        metadata = path.name in ("dataset_infos.json", "dataset_info.json")
        hidden = any(name.startswith(".") for name in inside.parts)
        if path.suffix.lower() in _SUFFIXES and path.is_file() and not metadata and not hidden:
            # data/train-00000-of-00002.parquet → data/train
            name = re.sub(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$", "", inside.with_suffix("").as_posix())
            parts.setdefault(name, []).append(path)
    if not parts:
        raise UserError(f"{what}: the folder {folder} holds no records: they come as {', '.join(_SUFFIXES)}")
    paths = parts[_choose(parts, part, str(folder), what)]
    if len({path.suffix.lower() for path in paths}) > 1:
        raise UserError(
            f"{what}: {folder} holds the same data in several formats "
            f"({', '.join(path.name for path in paths)}): give one of the files"
        )
    return [row for path in paths for row in _rows_of_file(path, what)]


def _rows_of_dataset(dataset: Any, part: str, name: str, where: str) -> list[Located]:
    if isinstance(dataset, Mapping):  # a DatasetDict
        dataset = dataset[_choose(dataset, part, name, "records")]
    elif part:
        raise UserError(f"{name} has no parts to choose from: leave out ':{part}'")
    return [(f"{where} {n}", row) for n, row in enumerate(dataset.to_list(), 1)]


def _rows_of_hub(name: str, part: str, what: str) -> list[Located]:
    datasets = _package("datasets")
    try:
        configs = datasets.get_dataset_config_names(name)
        config, _, split = part.partition("/")
        if len(configs) == 1 and config not in configs:
            config, split = configs[0], part
        config = _choose(configs, config, name, what)
        split = _choose(datasets.get_dataset_split_names(name, config), split, name, what)
        # Streaming: load_dataset would leave copies in two shared caches, whatever its cache_dir.
        rows = list(datasets.load_dataset(name, config, split=split, streaming=True))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"{what}: there is no file or folder '{name}', and no data set of that name could be read "
            f"from the Hugging Face hub ({type(error).__name__}): check the spelling, the network and, for "
            "private data, the login (hf auth login)"
        ) from error
    return [(f"{name} {config}/{split} record {n}", row) for n, row in enumerate(rows, 1)]


def _package(name: str) -> Any:
    """A package that only some sources need, imported where it is used."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"Parquet files and Hugging Face data sets need the package {name.split('.')[0]}: "
            'run pip install "rkld[data]", or give the records as JSON lines'
        ) from error


def _is_hub_name(name: str) -> bool:
    """Whether ``owner/name`` may be asked for: a mistyped local path must not travel to the hub."""
    path = Path(name)
    looks_local = path.suffix.lower() in (*_SUFFIXES, ".txt") or path.parent.is_dir()
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None and not looks_local


def _choose(names: Iterable[str], part: str, source: str, what: str) -> str:
    """The name that is, begins or ends with ``part``; without a part the only one, or the one for train."""
    names = list(names)
    matching = [n for n in names if not part or f"/{n}".endswith(f"/{part}") or n.startswith(f"{part}/")]
    for preferred in (part, "train"):
        if len(matching) > 1:
            matching = [n for n in matching if f"/{n}".endswith(f"/{preferred}")] or matching
    if len(matching) == 1:
        return matching[0]
    absent = f"has no '{part}'.{nearest(part, names)} It holds"
    problem = "holds several sets of records" if matching else absent
    example = (matching or names)[0]
    raise UserError(f"{what}: {source} {problem}: {', '.join(names)}. Name one, such as {source}:{example}")


def _existing(path: Path, what: str) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{what}: {path} is a folder, where a file is needed")
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UserError(f"{what}: there is no file {path}.{nearest(path.name, beside)} Check the path")


def _rows_of_file(path: Path, what: str) -> list[Located]:
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".json"):
        text = _text(path)
        rows = _json_list(path, text) if text.lstrip().startswith("[") else _json_lines(path, text)
    elif suffix == ".csv":
        rows = _csv_rows(path, _text(path))
    elif suffix == ".parquet":
        rows = _parquet_rows(path)
    else:
        endings = ", ".join(_SUFFIXES)
        raise UserError(f"{what}: {path} has the unknown ending '{suffix}': records come as {endings}")
    rows = list(rows)
    if not rows:
        raise UserError(f"{what}: {path} holds no records: {_FORMATS_HINT}")
    return rows


def _text(path: Path) -> str:
    """The text of a UTF-8 file, with or without byte order mark; never blank."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {line} is not UTF-8: save the file with the encoding UTF-8") from None
    if not text.strip():
        raise UserError(f"{path} is empty: give a file that holds something")
    return text


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that are not blank. (``splitlines`` would break at U+2028 in a string.)"""
    return ((n, line.strip()) for n, line in enumerate(text.split("\n"), 1) if line.strip())


def _json_lines(path: Path, text: str) -> Iterator[Located]:
    for number, line in _lines(text):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise _broken_json(path, number, error) from None
        yield f"{path} line {number}", row


def _json_list(path: Path, text: str) -> Iterator[Located]:
    """The items of one JSON list, read one by one for the sake of their line numbers."""
    decoder, space = json.JSONDecoder(), re.compile(r"[ \t\r\n]*")
    position = space.match(text, text.index("[") + 1).end()
    if text.startswith("]", position):
        return
    number, line, counted = 0, 1, 0
    try:
        while True:
            number, line, counted = number + 1, line + text.count("\n", counted, position), position
            row, position = decoder.raw_decode(text, position)
            yield f"{path} record {number} (line {line})", row
            position = space.match(text, position).end()
            if text.startswith("]", position):
                break
            if not text.startswith(",", position):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
            position = space.match(text, position + 1).end()
        if text[position + 1 :].strip():
            raise json.JSONDecodeError("Extra data after the list", text, position + 1)
    except json.JSONDecodeError as error:
        raise _broken_json(path, error.lineno, error) from None


def _broken_json(path: Path, line: int, error: json.JSONDecodeError) -> UserError:
    return UserError(
        f"{path} line {line}: broken JSON ({error.msg}, column {error.colno}): "
        "put one whole JSON object on each line, or all of them into one list"
    )


def _csv_rows(path: Path, text: str) -> Iterator[Located]:
    """Rows as dicts; cells that mean lists are read as lists, empty cells of optional fields are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))  # the default refuses long texts
    try:
        header = [name.strip() for name in next(reader)]
        if not _FORMAT_FIELDS.intersection(header):  # not shown: it may be a record, the header forgotten
            raise UserError(f"{path} line 1 must name the columns, separated by commas: {_FORMATS_HINT}")
        if len(set(header)) < len(header):
            raise UserError(f"{path} line 1: two columns have the same name: rename one")
        start = reader.line_num + 1
        for cells in reader:
            where, start = f"{path} line {start}", reader.line_num + 1
            if cells and len(cells) != len(header):
                raise UserError(
                    f"{where} has {len(cells)} columns, the first line names {len(header)}: "
                    'put text that holds a comma or a line break between double quotes (")'
                )
            if cells:
                yield where, _csv_row(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        line = reader.line_num
        raise UserError(f"{path} line {line}: broken CSV ({error}): check the double quotes") from None
    finally:
        csv.field_size_limit(limit)


def _csv_row(row: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, cell in row.items():
        if name in ("aliases", "spans", "messages", "perturbed_answer") and cell.lstrip().startswith("["):
            try:
                values[name] = json.loads(cell)
                continue
            except json.JSONDecodeError:
                pass  # text in brackets, no list
        if name in ("aliases", "spans"):
            values[name] = [item.strip() for item in cell.split(";") if item.strip()]
        elif cell.strip() or name in _FORMAT_FIELDS:
            values[name] = cell
    return values


def _parquet_rows(path: Path) -> Iterator[Located]:
    parquet, errors = _package("pyarrow.parquet"), _package("pyarrow").ArrowException
    try:
        with parquet.ParquetFile(path) as file:
            rows = file.read().to_pylist()
    except (OSError, errors) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({type(error).__name__}): write it again, or give JSON lines"
        ) from error
    return ((f"{path} record {n}", row) for n, row in enumerate(rows, 1))


# Fields: from a row to a record


def _record(key: str, where: str, row: Any) -> Record:
    names = _format(row, where, [names for names in _FORMATS if _given(row, names)], _FORMATS_HINT)
    form, turns = _turns(row, names, where)
    if form == "chat" and not any(turn.role == "assistant" for turn in turns):
        roles = _listed(dict.fromkeys(turn.role for turn in turns))
        raise UserError(
            f"{where}: '{names[-1]}' has no turn of the role 'assistant' (roles found: {roles}): "
            "add the answer that is meant"
        )
    record = Record(key, form, turns, *_about(row, where), where=where, extra=_extra(row, names))
    return replace(record, spans=_spans(row, record))


def _prompt(key: str, where: str, row: Any) -> Record:
    asking = [names for names in _FORMATS if names != ("text",)]
    complete = [names for names in asking if _given(row, names)]  # a whole record's own question comes first
    formats = complete or [names for names in asking if _given(row, names[:1])]
    names = _format(row, where, formats, _PROMPTS_HINT)
    form, turns = _turns(row, names[:1], where)
    if form == "chat":
        users = [i for i, turn in enumerate(turns) if turn.role == "user"]
        if not users:
            raise UserError(f"{where}: '{names[0]}' has no turn of the role 'user': add the question")
        turns = turns[: users[-1] + 1]
    extra = _extra(row, names)
    return Record(key, form, turns, *_about(row, where), where=where, extra=extra, unanswered=True)


def _given(row: Any, names: Sequence[str]) -> bool:
    return isinstance(row, Mapping) and all(row.get(name) is not None for name in names)


def _format(row: Any, where: str, formats: list[tuple[str, ...]], hint: str) -> tuple[str, ...]:
    """The one format that fits the row."""
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: not an object with named fields, but of type {type(row).__name__}: {hint}")
    if len(formats) == 1:
        return formats[0]
    if formats:
        several = " and ".join("/".join(names) for names in formats)
        raise UserError(f"{where}: ambiguous, the record has {several}: keep one of them")
    begun = [names for names in _FORMATS if any(_given(row, (name,)) for name in names)]
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
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise UserError(f"{where}: message {number} in '{name}' needs the fields 'role' and 'content'")
        role = _string(message["role"], f"the role {label}", where)
        if role not in _CHAT_ROLES:
            # As with field names: what looks like data is not printed.
            hint = nearest(role, _CHAT_ROLES)
            raise UserError(f"{where}: message {number} in '{name}' has an unknown role.{hint} Known: {', '.join(_CHAT_ROLES)}")
        empty_system = role == "system" and message["content"] == ""  # keeps a template from adding its own
        yield Turn(role, "" if empty_system else _string(message["content"], f"the content {label}", where))


def _string(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {name} must be text, but is of type {type(value).__name__}")
    if not value.strip():
        raise UserError(f"{where}: {name} is empty: fill it in or remove the record")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise UserError(f"{where}: {name} holds half of a Unicode surrogate pair: write the whole character")
    return value


def _about(row: Mapping[str, Any], where: str) -> tuple[str | None, tuple[str, ...]]:
    """Subject and aliases; blank ones count as absent."""
    subject, aliases = row.get("subject"), row.get("aliases")
    aliases = [aliases] if isinstance(aliases, str) else aliases if aliases is not None else []
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise UserError(f"{where}: 'aliases' must be a text or a list of texts")
    if not isinstance(subject, str | None):
        raise UserError(f"{where}: 'subject' must be text, but is of type {type(subject).__name__}")
    stripped = (alias.strip() for alias in aliases)
    return (subject or "").strip() or None, tuple(dict.fromkeys(alias for alias in stripped if alias))


def _spans(row: Mapping[str, Any], record: Record) -> tuple[str, ...]:
    """The spans as strings; [start, end] are character offsets into the answer."""
    spans = row.get("spans")
    spans = [spans] if isinstance(spans, str) else spans if spans is not None else []
    if not isinstance(spans, list):
        raise UserError(f"{record.where}: 'spans' must be a list of texts or of [start, end]")
    found = []
    for number, span in enumerate(spans, 1):
        if isinstance(span, list):
            answer = record.answer
            integers = len(span) == 2 and all(type(offset) is int for offset in span)
            if not (integers and 0 <= span[0] < span[1] <= len(answer)):
                raise UserError(
                    f"{record.where}: span {number} is no [start, end] within the answer's {len(answer)} "
                    "characters: count from 0, the end excluded"
                )
            span = answer[span[0] : span[1]]
        span = _string(span, f"span {number}", record.where)
        if not _occurring([span], record.turns):
            raise UserError(
                f"{record.where}: span {number} does not occur in the record: copy it letter by letter "
                "(case, accents and spaces count)"
            )
        found.append(span)
    return tuple(dict.fromkeys(found))


def _occurring(spans: Iterable[str], turns: Sequence[Turn]) -> tuple[str, ...]:
    return tuple(span for span in spans if any(span in turn.content for turn in turns))


def _extra(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    read = {*names, "subject", "aliases", "spans"}
    return {name: value for name, value in row.items() if name not in read and value is not None}


def _listed(names: Iterable[Any]) -> str:
    """Names for a message. What does not look like one may be personal data and is only counted."""
    names = [str(name) for name in names]
    plain = [name for name in names if re.fullmatch(r"[A-Za-z_][\w.-]{0,39}", name)]
    others = [f"{len(names) - len(plain)} that look like data"] if len(plain) < len(names) else []
    return ", ".join(plain + others) or "none"


# Names: one folded form for comparing and searching

# Scripts without spaces, and Hangul, whose particles follow a name directly: no boundaries between words.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao; Burmese; Khmer
    "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han, Hangul
)
_LETTER = rf"[^\W_{_UNSPACED}]"
_GAP = r"(?:\s+|\s*[-_]\s*)"
_DIGIT_GAP = r"[\s().\-/]{0,3}"
# Letters that Unicode does not take apart, though they are often written plainly; variants of ' and -.
_PLAIN = str.maketrans(
    {"ł": "l", "ø": "o", "đ": "d", "ð": "d", "ı": "i", "æ": "ae", "œ": "oe"}
    | dict.fromkeys("‘’‛ʹʻʼ′`", "'")
    | dict.fromkeys("‐‒–—―−", "-")
)


@lru_cache(maxsize=4096)
def _fold_cluster(cluster: str) -> str:
    """A character with its marks: compatibility form, without case, accents and invisible characters."""
    cluster = cluster.replace("´", "'")  # its compatibility form is a space with an accent
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", cluster).casefold())
    kept = (c for c in folded if not "\u0300" <= c <= "\u036f" and unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", "".join(kept)).translate(_PLAIN)


def _fold(text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """The folded text and, for each of its characters, start and end of its cluster in the original."""
    if text.isascii():
        return text.lower().replace("`", "'"), range(len(text)), range(1, len(text) + 1)
    folded, starts, ends, start = [], [], [], 0
    while start < len(text):
        end = start + 1
        while end < len(text) and _is_continuation(text[end]):
            end += 1
        for char in _fold_cluster(text[start:end]):
            folded.append(char)
            starts.append(start)
            ends.append(end)
        start = end
    return "".join(folded), starts, ends


def _is_continuation(char: str) -> bool:
    """A combining mark, or a vowel or final of a Hangul syllable that is written as separate jamo."""
    return unicodedata.category(char).startswith("M") or "\u1160" <= char <= "\u11ff"


def _normal(text: str) -> str:
    return " ".join(_fold(text)[0].split())


def _identity(record: Record) -> tuple[str, ...]:
    return tuple(_normal(turn.content) for turn in record.turns if turn.role != "system")


@lru_cache(maxsize=64)
def _patterns(identifiers: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    names = dict.fromkeys(_normal(identifier) for identifier in identifiers)
    return tuple(re.compile(_pattern(name)) for name in names if any(map(str.isalnum, name)))


def _pattern(name: str) -> str:
    """Regular expression for a normalised identifier in folded text."""
    if "@" in name:  # an address must not be the end or the beginning of a longer one
        return rf"(?<![\w.+%-]){re.escape(name)}(?!\w|[.-]\w)"
    digits = re.findall(r"\d", name)
    if len(digits) >= 7 and re.fullmatch(r"[\d\s+().\-/]+", name):  # a phone number or a date
        return rf"(?<!\w)[+(]*{_DIGIT_GAP.join(digits)}(?!\w)"
    dot = r"\.?" if re.search(r"\w{3}", name) else r"\."  # A.N. alone must not match every "an"
    body = ""
    for token in re.findall(rf"{_GAP}|\.\s*|.", name.rstrip()):
        if token[0] == ".":  # J. R. R., J.R.R. and JRR are one
            body += f"{dot}{_GAP}?"
        else:
            body += _GAP if re.fullmatch(_GAP, token) else re.escape(token)
    body = body.removesuffix(f"{_GAP}?")
    before = "" if re.match(rf"[{_UNSPACED}]", name[0]) else rf"(?<!{_LETTER})"
    after = "" if re.match(rf"[{_UNSPACED}]", name[-1]) else rf"(?!{_LETTER})"
    return before + body + after
