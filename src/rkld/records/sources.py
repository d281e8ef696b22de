"""Where rows come from: files, folders, data sets and the hub.

Records hold personal data. So local files are read directly, hub data sets are streamed, neither leaves a
copy in a shared cache, and no message quotes what a record says: it names the file and the line.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import importlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rkld.errors import UserError, nearest
from rkld.files import LFS, NameTwice, can_be_path, names_once, nearest_path
from rkld.records.record import REWORDINGS, TEMPLATE_ARGUMENTS, TEMPLATE_FIELDS
from rkld.settings.config_file import numbered_rows

if TYPE_CHECKING:
    from datasets import Dataset

Source: TypeAlias = "str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Dataset"
"""What records are read from: a file, a folder, a hub name, rows, or a data set."""

Located = tuple[str, Any]
"""Where a row stands ("people.jsonl line 4") and the row as it was read."""

FORMATS = (("question", "answer"), ("prompt", "completion"), ("messages",), ("text",))

_FORMAT_FIELDS = frozenset(name for names in FORMATS for name in names)

REWORDED, WRONG = ("paraphrased_question", "paraphrased_answer"), "perturbed_answer"
"""Optional fields, as TOFU names them: texts, and a list of texts. What an audit and TOFU's evaluation ask."""

_OPTIONAL = ("subject", "aliases", "spans", REWORDINGS, WRONG, TEMPLATE_ARGUMENTS)

_READ = _FORMAT_FIELDS.union(_OPTIONAL, REWORDED, TEMPLATE_FIELDS)
"""Every field that is read; any other one may hold whatever it likes."""

FORMATS_HINT = "a record needs 'question' and 'answer', 'prompt' and 'completion', 'messages', or 'text'"

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

HAND_WRITTEN = (".yaml", ".yml")
"""Endings of files that are given by name alone: in a folder with a data set they hold other things."""


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """All of a text file in UTF-8. UserError where there is no such file, or nothing in it."""
    return text_of(existing_file(local_path(path, what), what))


def read_lines(path: str | os.PathLike[str], what: str) -> list[str]:
    """The lines of a text file that are not blank. UserError where there is no such file, or nothing in it."""
    return [line for _, line in numbered_lines(read_text(path, what))]


# Sources: where rows come from


def rows_of(source: Source, what: str) -> list[Located]:
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
        raise UserError(f"{what}: the data set is empty: {FORMATS_HINT}")
    return rows


def _rows_of_path(source: str, what: str) -> list[Located]:
    path, part = local_path(source, what), ""
    if not path.exists() and ":" in source:
        head, _, tail = source.rpartition(":")
        if (can_be_path(head) and Path(head).expanduser().is_dir()) or _is_hub_name(head):
            path, part = Path(head).expanduser(), tail
    if path.is_dir():
        return _rows_of_folder(path, part, what)
    if not path.exists() and _is_hub_name(str(path)):
        return _rows_of_hub(str(path), part, what)
    return _rows_of_file(existing_file(path, what), what)


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
        if path.suffix.lower() in SUFFIXES and path.is_file() and not metadata and not hidden:
            # data/train-00000-of-00002.parquet → data/train
            name = re.sub(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$", "", inside.with_suffix("").as_posix())
            parts.setdefault(name, []).append(path)
    if not parts:
        raise UserError(f"{what}: the folder {folder} holds no records: they come as {', '.join(SUFFIXES)}")
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

    def values(column: str) -> list[Any]:
        return [row[column] for row in dataset.select_columns([column]).to_list()]

    rows = _rows_of_columns(dataset.column_names, values, name)
    return [(f"{where} {n}", row) for n, row in enumerate(rows, 1)]


def _rows_of_columns(names: Sequence[str], values: Callable[[str], Sequence[Any]], where: str) -> list[dict[str, Any]]:
    """Rows of a table. A column that is not read is left out where Python cannot hold its values (dates, bytes)."""
    columns = {}
    for name in names:
        try:
            columns[name] = values(name)
        except (ValueError, OverflowError, ImportError) as error:
            if name in _READ:
                raise UserError(
                    f"{where}: the column '{name}' holds what cannot be read as text ({type(error).__name__}): "
                    "write it again, or give JSON lines"
                ) from None
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


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
    looks_local = path.suffix.lower() in (*SUFFIXES, *HAND_WRITTEN, ".txt") or path.parent.is_dir()
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


def local_path(source: str | os.PathLike[str], what: str) -> Path:
    """What was given, as a path that the system can be asked for. UserError where it is none."""
    if not can_be_path(os.fspath(source)):
        raise UserError(
            f"{what}: what is given is no path of a file or folder (a name in it has too many or impossible "
            "characters, or ~ stands before a user who is not there): check it"
        )
    return Path(source).expanduser()


def existing_file(path: Path, what: str) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{what}: {path} is a folder, where a file is needed")
    if path.exists():
        raise UserError(f"{what}: {path} is a device or a pipe, where a file is needed")
    raise UserError(f"{what}: there is no file {path}.{nearest_path(path)} Check the path")


def _rows_of_file(path: Path, what: str) -> list[Located]:
    suffix = path.suffix.lower()
    _check_fetched(path)
    if suffix in (".jsonl", ".json"):
        text = text_of(path)
        rows: Iterable[Located] = _json_list(path, text) if text.lstrip().startswith("[") else _json_lines(path, text)
    elif suffix == ".csv":
        rows = _csv_rows(path, text_of(path))
    elif suffix in HAND_WRITTEN:
        rows = ((f"{path} line {line}", row) for line, row in numbered_rows(text_of(path), str(path)))
    elif suffix == ".parquet":
        rows = _parquet_rows(path)
    else:
        endings = ", ".join((*SUFFIXES, HAND_WRITTEN[0]))
        raise UserError(
            f"{what}: {path} has the unknown ending '{suffix}': records come as {endings}, and {FORMATS_HINT}. "
            "rkld init FOLDER writes examples; of a document, saved as a text, rkld discover MODEL --subject NAME "
            f"--source {path.stem}.txt --out records.jsonl makes records"
        )
    found = list(rows)
    if not found:
        raise UserError(f"{what}: {path} holds no records: {FORMATS_HINT}")
    return found


def _check_fetched(path: Path) -> None:
    """Refuse a file that stands for another one. One that cannot be read is said by whoever reads it."""
    try:
        with open(path, "rb") as file:
            begin = file.read(len(LFS))
    except OSError:
        return
    if begin == LFS:
        raise UserError(
            f"{path} is a pointer of Git LFS in the place of the records: run 'git lfs pull' there, or fetch the file"
        )


def text_of(path: Path) -> str:
    """The text of a UTF-8 file, with or without byte order mark; never blank."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        why = "look at how its name is written" if isinstance(error, FileNotFoundError) else "check its permissions"
        raise UserError(f"{path} cannot be read ({error.strerror}): {why}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {line} is not UTF-8: save the file with the encoding UTF-8") from None
    if not text.strip():
        raise UserError(f"{path} is empty: give a file that holds something")
    return text


def whole_characters(text: str, name: str, where: str) -> str:
    """A text of whole characters: no file, tokenizer or hash takes half of one."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise UserError(f"{where}: {name} holds half of a Unicode surrogate pair: write the whole character")
    return text


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that are not blank. (``splitlines`` would break at U+2028 in a string.)"""
    return ((n, line.strip()) for n, line in enumerate(text.split("\n"), 1) if line.strip())


def _json_lines(path: Path, text: str) -> Iterator[Located]:
    for number, line in numbered_lines(text):
        try:
            row = json.loads(line, object_pairs_hook=names_once)
        except (ValueError, RecursionError) as error:
            raise _broken_json(path, number, error) from None
        yield f"{path} line {number}", row


def _json_list(path: Path, text: str) -> Iterator[Located]:
    """The items of one JSON list, read one by one for the sake of their line numbers."""
    decoder, space = json.JSONDecoder(object_pairs_hook=names_once), re.compile(r"[ \t\r\n]*")

    def after_space(start: int) -> int:
        found = space.match(text, start)
        assert found is not None  # it may be empty
        return found.end()

    position = after_space(text.index("[") + 1)
    if text.startswith("]", position):
        return
    number, line, counted = 0, 1, 0
    try:
        while True:
            number, line, counted = number + 1, line + text.count("\n", counted, position), position
            row, position = decoder.raw_decode(text, position)
            yield f"{path} record {number} (line {line})", row
            position = after_space(position)
            if text.startswith("]", position):
                break
            if not text.startswith(",", position):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
            position = after_space(position + 1)
        if text[position + 1 :].strip():
            raise json.JSONDecodeError("Extra data after the list", text, position + 1)
    except (ValueError, RecursionError) as error:
        raise _broken_json(path, line, error) from None


def _broken_json(path: Path, line: int, error: ValueError | RecursionError) -> UserError:
    """Of what reading JSON raised, of which only a JSONDecodeError knows its place."""
    if isinstance(error, json.JSONDecodeError):
        line, problem = max(line, error.lineno), f"{error.msg}, column {error.colno}"
    elif isinstance(error, NameTwice):
        return UserError(f"{path} line {line}: an object has two values of one name: keep one")  # not shown: personal
    elif isinstance(error, RecursionError):
        problem = "lists or objects nested too deeply"
    else:
        problem = "a number of too many digits"
    return UserError(
        f"{path} line {line}: broken JSON ({problem}): "
        "put one whole JSON object on each line, or all of them into one list"
    )


def _csv_rows(path: Path, text: str) -> Iterator[Located]:
    """Rows as dicts; cells that mean lists are read as lists, empty cells of optional fields are left out."""
    rows = csv_table(path, text)
    _, header = next(rows)
    if not _FORMAT_FIELDS.intersection(header):  # not shown: it may be a record, the header forgotten
        raise UserError(f"{path} line 1 must name the columns, separated by commas: {FORMATS_HINT}")
    for where, cells in rows:
        yield where, _csv_row(dict(zip(header, cells, strict=True)))


def csv_table(path: Path, text: str) -> Iterator[tuple[str, list[str]]]:
    """Where each row of a CSV text stands, and its cells: the columns' names first, then as many cells a row.

    Raises:
        UserError: it is broken, names a column twice, or has a row of more or fewer cells.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))  # the default refuses long texts
    try:
        header = [name.strip() for name in next(reader, [])]
        yield f"{path} line 1", header
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
                yield where, cells
    except csv.Error as error:
        line = reader.line_num
        raise UserError(f"{path} line {line}: broken CSV ({error}): check the double quotes") from None
    finally:
        csv.field_size_limit(limit)


def _csv_row(row: dict[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, cell in row.items():
        if name in ("aliases", "spans", "messages", WRONG, REWORDINGS) and cell.lstrip().startswith(("[", "{")):
            try:
                values[name] = json.loads(cell, object_pairs_hook=names_once)
                continue
            except (ValueError, RecursionError):
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
            table = file.read()
            rows = _rows_of_columns(table.column_names, lambda name: table[name].to_pylist(), str(path))
    except (OSError, errors) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({type(error).__name__}): write it again, or give JSON lines"
        ) from error
    return ((f"{path} record {n}", row) for n, row in enumerate(rows, 1))


# Fields that are not read, but kept: plug-ins may read them


_DEEPEST = 20


def plain(value: Any, depth: int = _DEEPEST) -> Any:
    """A value as JSON and UTF-8 can hold it, the same one for the same value.

    Columns that nobody reads may hold dates, bytes, images, half of a surrogate pair, lists within lists without end.
    They are written and hashed with the record after hours, and must not end the work then.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < 10_000 else f"<{type(value).__name__}>"  # Python writes 4300 digits
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, Mapping) and depth:
        return {str(plain(name, 0)): plain(item, depth - 1) for name, item in value.items()}
    if isinstance(value, list | tuple) and depth:
        return [plain(item, depth - 1) for item in value]
    return f"<{type(value).__name__}>"
