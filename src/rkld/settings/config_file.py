"""Settings files and forms: YAML, with limits, as they may come from others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rkld.errors import UserError

LONGEST = 32 * 1024
"""Bytes of a settings file or a form. PyYAML reads the worst of this length in under a second."""

LONGEST_ROWS = 128 * 1024
"""Characters of records in YAML: hand-written ones. PyYAML reads the worst of this length in under five seconds."""

DEEPEST = 8
"""Nodes within each other. Settings need three: the mapping, a list, a text."""


class _TooMuch(yaml.YAMLError):
    """What no settings file needs."""


if TYPE_CHECKING:
    _Composer = yaml.SafeLoader
else:
    _Composer = object


class _Limited(_Composer):
    """Aliases are refused: in a few lines of them stand billions of values. So is what is nested too deeply, and a name
    that has two values."""

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

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """None of two values of a name: PyYAML takes the last."""
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        names = [key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):  # not shown: it may be a record's
            raise _TooMuch(f"a name twice (line {node.start_mark.line + 1}): keep one")
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


class _Loader(_Limited, yaml.SafeLoader):
    """Plain values alone."""


class _TextLoader(_Limited, yaml.BaseLoader):
    """Texts as they are written (2024-07-26, 007, yes)."""


def plain_values(text: str) -> Any:
    """The value of a YAML text that may come from others, without aliases and deep nesting.

    Raises:
        Exception: whatever PyYAML makes of it.
    """
    return yaml.load(text, Loader=_Loader)


def numbered_rows(text: str, what: str) -> list[tuple[int, Any]]:
    """The items of a YAML list, which may come from others, each with its line; texts are as they are written.

    Args:
        what: names the place in messages, such as a file.

    Raises:
        UserError: no YAML, no list, longer than :data:`LONGEST_ROWS`, or nested more deeply than records are.
    """
    advice = "Write a list of records: '- question: …' and below it 'answer: …', with as many spaces before."
    if len(text) > LONGEST_ROWS:
        raise UserError(f"{what}: YAML of more than {LONGEST_ROWS} characters. Give so many records as JSON lines.")
    loader = _TextLoader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.SequenceNode):
            raise UserError(f"{what}: no list. {advice}")
        return [(item.start_mark.line + 1, loader.construct_object(item, deep=True)) for item in node.value]
    except _TooMuch as error:
        raise UserError(f"{what}: it has {error}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{what} line {_line(error)}: not valid YAML. {advice}") from None
    except (ValueError, RecursionError, TypeError):  # a list as the name of a field
        raise UserError(f"{what}: not valid YAML. {advice}") from None


def read_config(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file, unchecked.

    Raises:
        UserError: as of :func:`_read`.
    """
    return _read(path, "--config", "settings", _Loader)


def read_form(path: str | Path, option: str, what: str) -> dict[str, Any]:
    """The fields of a form in YAML, unchecked: each a text as it is written, or a list or mapping of such.

    Args:
        option: by which the file is given; what: is in it, as the messages call it ("fields").

    Raises:
        UserError: as of :func:`_read`; a field that is given twice.
    """
    return _read(path, option, what, _TextLoader)


def _read(path: str | Path, option: str, what: str, loader: type[Any]) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: missing or broken file; one that is no mapping, or larger or more deeply nested than settings are.
    """
    advice = f"Write {what} as 'name: value' lines."
    try:
        with open(path, "rb") as file:
            text = file.read(LONGEST + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError:  # NUL
        raise UserError(f"{option} is no name of a file.") from None
    if len(text) > LONGEST:
        raise UserError(f"{path}: longer than {LONGEST} bytes, so it is no file of {what}.")
    try:
        found = yaml.load(text.decode("utf-8-sig"), Loader=loader)
    except _TooMuch as error:
        raise UserError(f"{path}: it has {error}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} line {_line(error)}: not valid YAML. {advice}") from None
    except Exception:  # not UTF-8; a date that does not exist; !!bool or !!int before something else: any error
        raise UserError(f"{path}: not valid YAML in UTF-8. {advice}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected {what} as 'name: value' lines, found {type(found).__name__}.")
    return found


def _line(error: yaml.YAMLError) -> int:
    """Where PyYAML found something wrong."""
    line: int = getattr(getattr(error, "problem_mark", None), "line", 0)
    return line + 1
