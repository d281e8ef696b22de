"""What a setting is: its field, its flag, its type, and how loose values become checked settings."""

from __future__ import annotations

import dataclasses
import datetime
import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rkld.errors import UserError, nearest

S = typing.TypeVar("S")


def setting(default: Any, help: str) -> Any:
    """A field of a dataclass of settings."""
    return dataclasses.field(default=default, metadata={"help": help})


def flag(name: str) -> str:
    """The command-line spelling of a setting."""
    return "--" + name.replace("_", "-")


def fields(cls: type) -> dict[str, dataclasses.Field]:
    return {f.name: f for f in dataclasses.fields(cls)}


def kind(name: str, cls: type) -> tuple[type, tuple[str, ...] | None, bool]:
    """A setting's type, its choices (or None), and whether it may be left unset (None)."""
    hint = typing.get_type_hints(cls)[name]
    optional = type(None) in typing.get_args(hint)
    if optional:
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Literal:
        return str, typing.get_args(hint), optional
    return (tuple if typing.get_origin(hint) is tuple else hint), None, optional


def make(values: Mapping[str, Any], where: str, cls: type[S]) -> S:
    """Settings from loose values (a YAML file, keyword arguments), each checked by name and type.

    Args:
        where: what to call the place they came from.
        cls: a dataclass of settings, by default those of a run.

    Raises:
        UserError: an unknown name, with the nearest known one; a value of the wrong kind.
    """
    checked = {}
    for name, value in values.items():
        if name not in fields(cls):
            raise UserError(f"{where}: unknown setting '{name}'.{nearest(str(name), fields(cls))}")
        expected, choices, optional = kind(name, cls)
        if value is None and optional:
            checked[name] = None
            continue
        value = _converted(value, expected, choices)
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            raise UserError(f"{where}: '{name}' is {value!r}; expected {_KINDS[expected]}.")
        if expected is tuple and not all(isinstance(item, str) for item in value):  # not shown: it may be personal
            raise UserError(f"{where}: '{name}' holds something else than text. Put its names between quotes.")
        if choices and value not in choices:
            hint = nearest(value, choices)
            raise UserError(f"{where}: '{name}' is {value!r}; choose one of {', '.join(choices)}.{hint}")
        checked[name] = value
    return cls(**checked)


_KINDS = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", tuple: "text or a list of texts"
}  # fmt: skip


def _converted(value: Any, expected: type, choices: Sequence[str] | None) -> Any:
    """What YAML or Python writes in another type, where it can only mean one thing."""
    if expected is tuple:
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    if expected is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:  # YAML reads 5e-5 as a string
            return float(value)
        except ValueError:
            return value
    if expected is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if expected is str and isinstance(value, datetime.date):  # YAML reads 2024-07-26 as a date
        return value.isoformat()
    if value is False and choices and "no" in choices:  # and no as false
        return "no"
    return value


def read_config(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file, unchecked.

    Raises:
        UserError: missing or broken file, or one that is no mapping.
    """
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise UserError(f"{path} line {line}: not valid YAML. Write settings as 'name: value' lines.") from None
    except ValueError:  # not UTF-8, or a date that does not exist
        raise UserError(f"{path}: not valid YAML in UTF-8. Write settings as 'name: value' lines.") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected settings as 'name: value' lines, found {type(found).__name__}.")
    return found
