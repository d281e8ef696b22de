"""Methods by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rkld.errors import UserError
from rkld.registry import Registry
from rkld.settings.specification import make

if TYPE_CHECKING:
    from rkld.methods.method import Method

METHODS: Registry[type[Method]] = Registry(
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
    found = METHODS.resolve(name)
    if name in METHODS.names():
        found.name = name
    return make(_values(arguments), f"--method-arg of {name}", found)


def _values(arguments: Sequence[str]) -> dict[str, object]:
    import yaml

    values = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--method-arg is '{argument}'; write it as name=value.")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            values[key.strip()] = value
    return values
