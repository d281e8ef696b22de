"""What a setting is: its type, bounds, choices and help, and how loose values become checked settings."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rkld.errors import UserError, nearest, shown
from rkld.files import can_be_path
from rkld.settings.habits import instead

S = typing.TypeVar("S")

LONGEST_TEXT = 100_000
"""Characters of a text that is given as a setting; a longer one belongs into a file."""
Affects = Literal["nothing", "student", "teacher", "figures"]
"""What another value changes: nothing of a result (paths, checkpoints); the unlearned model; the teacher's cache, and
so the unlearned model as well; or only what is measured of a model."""


@dataclass(frozen=True)
class Spec:
    """Everything there is to know of one setting.

    Attributes:
        type: of its value: str, int, float, bool, or tuple (of strings).
        default: None where :attr:`optional` and nothing is given.
        help: one sentence or two, ending in a full stop; the values of :attr:`choices` have their own.
        group: under which heading the help and the reference list it.
        affects: what another value changes (:data:`Affects`).
        optional: None is a value.
        low, high: the bounds, None for none. ``high=math.inf`` allows infinity.
        exclusive: which bounds are themselves refused.
        choices: value → what it means.
        entries: the package whose registered names are values, beside others (``FILE.py:NAME``); they are only looked
            up where the setting is used.
        metavar: what stands for a value in the help. A name such as FILE or FOLDER in it says that paths are taken.
        flag_value: what the flag alone means.
        unit: of a number: "tokens", "records", ….
        permission: True is a permission to run what others wrote: only the user gives it, no settings file.
        trainer: the name of the same setting in :class:`rkld.training.config.RKLDConfig`, if it is one of training.
        formerly: the name that it had before, which is still taken.
    """

    name: str
    type: type
    default: Any
    help: str
    group: str
    affects: Affects
    optional: bool = False
    low: float | None = None
    high: float | None = None
    exclusive: Literal["none", "low", "both"] = "none"
    choices: Mapping[str, str] | None = None
    entries: str = ""
    metavar: str = ""
    flag_value: str | None = None
    unit: str = ""
    permission: bool = False
    trainer: str = ""
    formerly: str = ""

    @property
    def flags(self) -> tuple[str, ...]:
        """Its spellings on the command line, the present one first."""
        return tuple(flag(name) for name in (self.name, self.formerly) if name)

    def runs_code(self, value: Any) -> bool:
        """Whether a value has Python run that is not of rkld or an installed package: FILE.py:NAME, or a permission."""
        values = value if isinstance(value, list | tuple) else [value]
        return (self.permission and value is not False) or any(isinstance(v, str) and ".py:" in v for v in values)

    @property
    def is_path(self) -> bool:
        """Whether values are paths of files or folders, but for a few words."""
        return self.type is str and set(self.metavar.split("|")) <= {"FILE", "FOLDER", "DATA", "MODEL", "auto", "none"}

    @property
    def takes_paths(self) -> bool:
        """Whether a value may name a file or folder, among other things."""
        return any(part in self.metavar for part in ("FILE", "FOLDER", "DATA", "MODEL"))

    def check(self, value: Any, label: str) -> None:
        """Refuse a value out of bounds, whoever gave it: the command line, a settings file or Python.

        Args:
            label: what to call the setting in the message ("--alpha").

        Raises:
            UserError: a number that is too low or too high, or not finite; a text with what no file and no model can
                hold; a path that no system has.
        """
        if isinstance(value, tuple):
            for item in value:
                self._check_text(item, label)
        elif isinstance(value, str):
            self._check_text(value, label)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            self._check_number(value, label)

    def _check_text(self, value: str, label: str) -> None:
        """The value is in no message: it may be a name."""
        if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
            raise UserError(f"{label} holds a NUL character or bytes that are not UTF-8: write it in UTF-8 text.")
        if len(value) > LONGEST_TEXT:
            raise UserError(f"{label} has {len(value)} characters; it must have at most {LONGEST_TEXT}.")
        if self.is_path and not can_be_path(value):
            raise UserError(f"{label} is no path: a name in it is too long, or ~ stands before a user who is none.")

    def _check_number(self, value: float, label: str) -> None:
        if isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and self.high != math.inf)):
            raise UserError(f"{label} is {value}; it must be a finite number.")
        low, high = self.low, self.high
        too_low = low is not None and (value <= low if self.exclusive != "none" else value < low)
        too_high = high is not None and (value >= high if self.exclusive == "both" else value > high)
        if not (too_low or too_high):
            return
        found = f"{label} is {shown(value)}; it must"
        if self.exclusive == "both":
            raise UserError(f"{found} lie between {low} and {high}.")
        if too_high:
            raise UserError(f"{found} be at most {high}.")
        raise UserError(f"{found} be {'above' if self.exclusive == 'low' else 'at least'} {low}.")


def setting(default: Any, help: str, **given: Any) -> Any:
    """A field of a dataclass of settings, for a setting that only this class has.

    Args:
        given: other attributes of :class:`Spec`.
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "spec": {"default": default, "help": help, **given}}
    )


def flag(name: str) -> str:
    """The command-line spelling of a setting."""
    return "--" + name.replace("_", "-")


def fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a dataclass by name."""
    return {f.name: f for f in dataclasses.fields(cls)}


def kind(name: str, cls: type) -> tuple[type, tuple[str, ...] | None, bool]:
    """A setting's type, its choices (or None), and whether it may be left unset (None), by its annotation."""
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
        cls: a dataclass of settings.

    Raises:
        UserError: an unknown name, with the nearest known one; a value of the wrong kind.
    """
    checked: dict[str, Any] = {}
    for name, value in known_names(values, where, cls).items():
        expected, choices, optional = kind(name, cls)
        if value is None and optional:
            checked[name] = None
            continue
        value = _converted(value, expected, choices)
        fits = isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
        if not fits:
            found = f"a {type(value).__name__}" if expected is tuple else shown(value)  # names may be personal
            raise UserError(f"{where}: '{name}' is {found}; expected {_KINDS[expected]}.")
        if expected is tuple and not all(isinstance(item, str) for item in value):  # not shown: it may be personal
            raise UserError(f"{where}: '{name}' holds something else than text. Put its names between quotes.")
        if choices and value not in choices:
            hint = nearest(value, choices)
            raise UserError(f"{where}: '{name}' is {shown(value)}; choose one of {', '.join(choices)}.{hint}")
        checked[name] = value
    return cls(**checked)


def known_names(values: Mapping[str, Any], where: str, cls: type) -> dict[str, Any]:
    """:func:`present_names`, where all of them are settings.

    Raises:
        UserError: one is not, with what to write instead; a setting stands under two of its names.
    """
    found = present_names(values, where, cls)
    for name in found:
        if name not in fields(cls):
            raise UserError(f"{where}: unknown setting {shown(name)}.{instead(str(name), 'run', fields(cls))}")
    return found


def present_names(values: Mapping[str, Any], where: str, cls: type) -> dict[str, Any]:
    """Loose values, each under the name that its setting has now; those of transformers and TRL are taken, too.

    Raises:
        UserError: a setting stands under two of its names.
    """
    entries = {name: field.metadata.get("spec", {}) for name, field in fields(cls).items()}
    now = {then: name for name, entry in entries.items() if (then := entry.get("formerly"))}
    now |= {theirs: name for name, entry in entries.items() if (theirs := entry.get("trainer")) and theirs not in OTHER}
    found: dict[str, Any] = {}
    for given, value in values.items():
        name = now.get(given, given)
        if name in found:
            raise UserError(f"{where}: '{name}' stands there twice, under another of its names as well.")
        found[name] = value
    return found


OTHER = ("per_device_train_batch_size",)
"""Names of the Trainer's whose values mean something else there: of one process and one micro-batch."""

_KINDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "text or a list of texts",
}


def _converted(value: Any, expected: type, choices: Sequence[str] | None) -> Any:
    """What YAML or Python writes in another type, where it can only mean one thing."""
    if expected is tuple:
        if isinstance(value, str | os.PathLike):
            return (os.fspath(value),)
        if isinstance(value, list | tuple):
            return tuple(os.fspath(item) if isinstance(item, os.PathLike) else item for item in value)
        return value
    if expected is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:  # YAML reads 5e-5 as a string
            return float(value)
        except (ValueError, OverflowError):
            return value
    if expected is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if expected is str and isinstance(value, datetime.date):  # YAML reads 2024-07-26 as a date
        return value.isoformat()
    if value is False and choices and "no" in choices:  # and no as false
        return "no"
    return value
