"""Settings files: YAML, with limits, as they may come from others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rkld.errors import UserError

LONGEST = 32 * 1024
"""Bytes of a settings file. PyYAML reads the worst of this length in under a second."""

DEEPEST = 8
"""Nodes within each other. Settings need three: the mapping, a list, a text."""


class _TooMuch(yaml.YAMLError):
    """What no settings file needs."""


class _Loader(yaml.SafeLoader):
    """Plain values alone. Aliases are refused: in a few lines of them stand billions of values."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _TooMuch("an alias (*name): write the value itself")
        if self._depth == DEEPEST:
            raise _TooMuch(f"more than {DEEPEST} lists or mappings within each other")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def plain_values(text: str) -> Any:
    """The value of a YAML text that may come from others, without aliases and deep nesting.

    Raises:
        Exception: whatever PyYAML makes of it.
    """
    return yaml.load(text, Loader=_Loader)


def read_config(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file, unchecked.

    Raises:
        UserError: missing or broken file; one that is no mapping, or larger or more deeply nested than settings are.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(LONGEST + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError:  # NUL
        raise UserError("--config is no name of a file.") from None
    if len(text) > LONGEST:
        raise UserError(f"{path}: longer than {LONGEST} bytes, so it is no settings file.")
    try:
        found = plain_values(text.decode("utf-8-sig"))
    except _TooMuch as error:
        raise UserError(f"{path}: it has {error}.") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise UserError(f"{path} line {line}: not valid YAML. Write settings as 'name: value' lines.") from None
    except Exception:  # not UTF-8; a date that does not exist; !!bool or !!int before something else: any error
        raise UserError(f"{path}: not valid YAML in UTF-8. Write settings as 'name: value' lines.") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected settings as 'name: value' lines, found {type(found).__name__}.")
    return found
