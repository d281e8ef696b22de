"""Methods by name."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rkld.errors import UserError
from rkld.registry import Registry, file_and_name
from rkld.settings.specification import make

if TYPE_CHECKING:
    from rkld.methods.method import Method


class _Methods(Registry["type[Method]"]):
    """Tells each method what it is registered as; of several names the first counts."""

    def _add(self, name: str, entry: type[Method]) -> None:
        if entry not in self._entries.values():
            entry.name = name
        super()._add(name, entry)


METHODS: Registry[type[Method]] = _Methods(
    "method", "rkld.methods", "rkld.methods.method.Method", "--method", "rkld.methods"
)
"""Every unlearning method: a class on top of :class:`rkld.methods.method.Method`."""


def get_method(name: str, arguments: Sequence[str] = ()) -> Method:
    """The method called ``name``, or the one at ``FILE.py:NAME``, which is run: for what the user typed.

    Args:
        arguments: its hyper-parameters where they are not the defaults, as "name=value".

    Raises:
        UserError: no such file, method or hyper-parameter, or a value of the wrong kind.
    """
    return _made(METHODS.resolve(name), arguments, "--method-arg", f"--method-arg of {name}")


def method_of_folder(name: object, arguments: object, where: str, method_files: Sequence[str] = ()) -> Method:
    """The method that a model's folder names. No file is run because a folder names it.

    Args:
        name: of a registered method, or of one in ``method_files``. Version 0.1 wrote "FILE.py:NAME": the NAME counts.
        arguments: its hyper-parameters, as of :func:`get_method`.
        where: the file that says so.
        method_files: the user's own methods, each as ``FILE.py:NAME``: for what the user typed.

    Raises:
        UserError: as of :func:`get_method`, or what is no name, and no list of simple values.
    """
    own = _own_methods(method_files)
    if not isinstance(name, str) or not _NAME.fullmatch(bare := (file_and_name(name) or ("", name))[1]):
        raise UserError(f"{where} is broken: its 'method' is no name of a method. Make the model again.")
    if not isinstance(arguments, list) or len(arguments) > _MOST_ARGUMENTS:
        raise UserError(f"{where} is broken: its 'method_arg' is no list of hyper-parameters. Make the model again.")
    for argument in arguments:
        if not isinstance(argument, str) or not _ARGUMENT.fullmatch(argument):
            raise UserError(f"{where} is broken: its 'method_arg' holds something else than 'name=value'.")
    if bare in own:
        cls = own[bare]
    elif file_and_name(name) or bare not in METHODS.names():
        raise UserError(
            f"{where} was made by the method {bare}, which is not among those that rkld knows, and no file is run "
            f"because a folder names it. If you have the file, and trust it: --method-file FILE.py:{bare}."
        )
    else:
        cls = METHODS.get(bare)
    return _made(cls, arguments, where, f"{where}: method_arg")


def _made(cls: type[Method], arguments: Sequence[str], where: str, of: str) -> Method:
    method = make(_values(arguments, where), of, cls)
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{of}: '{field.name}' is {value}; expected a finite number.")
        if field.name in _POSITIVE and cls.__module__.startswith("rkld.") and not 0 < value <= _MOST:
            raise UserError(f"{of}: '{field.name}' is {value}; expected a number above 0 and at most {_MOST:g}.")
    return method


_POSITIVE, _MOST = ("beta", "weight"), 1e6
"""What shipped methods divide by or multiply with: turned round it teaches the records, and 0 or infinity break off."""

_NAME = re.compile(r"\w{1,100}")
_MOST_ARGUMENTS = 100
_ARGUMENT = re.compile(r"\s*\w{1,100}\s*=[^\[\]{}&*!|>\r\n]{0,200}")
"""A scalar: YAML's collections and aliases could grow without bound."""


def _own_methods(specs: Sequence[str]) -> dict[str, type[Method]]:
    found = {}
    for spec in specs:
        named = file_and_name(spec)
        if named is None:
            raise UserError(f"--method-file is '{spec}'; write it as FILE.py:NAME.")
        found[named[1]] = METHODS.resolve(spec)
    return found


def _values(arguments: Sequence[str], where: str) -> dict[str, object]:
    import yaml

    values: dict[str, object] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{where} is '{argument}'; write it as name=value.")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError, RecursionError):  # a date that does not exist is a ValueError
            values[key.strip()] = value
    return values
