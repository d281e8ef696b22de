"""Command-line options made from settings, and their help: by group, with what each choice means, a line each.

Imports no torch, so that ``rkld --help`` is quick.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from rkld.errors import UserError, shown
from rkld.registry import catalogue
from rkld.settings.config_file import read_config
from rkld.settings.specification import Spec, fields, flag, make, present_names
from rkld.settings.table import specs
from rkld.settings.unlearning import Settings

C = TypeVar("C", bound=Callable[..., Any])

_CITATION = re.compile(r"\s*\([^()]*\d{4}[^()]*\)")

NEEDED = {"model": "MODEL", "forget": "--forget"}
"""Settings without a default, and how they are given."""


class SettingOption(click.Option):
    """An option for a setting."""

    def __init__(self, *args: Any, spec: Spec, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.spec = spec

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Registered names, or files and folders, or what the option's type has."""
        return completions(self.spec, incomplete) or super().shell_complete(ctx, incomplete)


class ModelArgument(click.Argument):
    """MODEL, with what it may be in the help: it is needed first of all."""

    def __init__(self, *args: Any, spec: Spec, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.spec = spec

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return "MODEL", self.spec.help

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Files and folders."""
        return completions(self.spec, incomplete)


class SettingsCommand(click.Command):
    """A command whose help lists its options by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the groups, then the options that are no settings."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is None:
                continue
            group = option.spec.group if isinstance(option, SettingOption | ModelArgument) else "Options"
            rows = groups.setdefault(group, [])
            rows.append(record)
            if isinstance(option, SettingOption):
                rows += [(f"    {value}", meaning) for value, meaning in choices(option.spec).items()]
        for group in sorted(groups, key=lambda name: name == "Options"):
            with formatter.section(group):
                formatter.write_dl(groups[group], col_max=34)


def choices(spec: Spec) -> dict[str, str]:
    """The values of a setting that have a name, and what each means."""
    entries = catalogue(spec.entries) if spec.entries else {}
    return dict(spec.choices or {}) | {name: without_citation(title) for name, title in entries.items()}


def completions(spec: Spec, incomplete: str) -> list[CompletionItem]:
    """What a shell offers as the value of a setting; none where its type says what to offer."""
    if spec.entries:
        return [
            CompletionItem(name, help=meaning) for name, meaning in choices(spec).items() if name.startswith(incomplete)
        ]
    return [CompletionItem(incomplete, type="file")] if spec.takes_paths else []


def without_citation(title: str) -> str:
    """A title without the sources in its parentheses, which the help has no room for."""
    return _CITATION.sub("", title)


def settings_options(cls: type = Settings, argument: bool = True) -> Callable[[C], C]:
    """Decorate a command with --config and one option for every setting.

    Args:
        cls: a dataclass of settings.
        argument: MODEL is an argument, not an option.
    """

    def decorate(command: C) -> C:
        for name, spec in reversed(list(specs(cls).items())):
            if name != "model" or not argument:
                command = _option(name, spec)(command)
        command = click.option("--config", metavar="FILE", help="YAML file of settings; flags go on top of it.")(
            command
        )
        if argument:
            spec = specs(cls)["model"]
            return click.argument("model", required=False, cls=ModelArgument, spec=spec)(command)
        return command

    return decorate


REWORDING = ("subject", "reword", "rewordings", "reword_kinds", "writer", "writer_endpoint", "seed")
"""Settings of a run that ``rkld reword`` has, too."""


def reword_options() -> Callable[[C], C]:
    """Decorate a command with the settings that say how records are reworded."""

    def decorate(command: C) -> C:
        for name in reversed(REWORDING):
            command = _option(name, specs(Settings)[name])(command)
        return command

    return decorate


def _option(name: str, spec: Spec) -> Callable[[C], C]:
    given: dict[str, Any] = {
        "type": click.Choice(list(spec.choices)) if spec.choices else {int: int, float: float}.get(spec.type, str),
        "default": None if spec.default == "" else spec.default,
        "show_default": True,
        "metavar": "NAME" if spec.choices else spec.metavar or None,
        "help": spec.help,
        "cls": SettingOption,
        "spec": spec,
    }
    if spec.type is bool:
        return click.option(f"{flag(name)}/--no-{flag(name)[2:]}", **{**given, "type": bool, "metavar": None})
    if spec.type is tuple:
        given |= {"multiple": True, "help": given["help"] + " May be given several times."}
    if spec.flag_value is not None:
        given |= {"is_flag": False, "flag_value": spec.flag_value}
    return click.option(name, *spec.flags, **given)


def chosen_settings(ctx: click.Context, cls: type = Settings) -> Any:
    """What the command line asks for: its own flags over the configuration file over the defaults.

    Raises:
        UserError: a value is wrong, or MODEL or --forget is missing.
    """
    config = ctx.params["config"]
    values = present_names(read_config(config), config, cls) if config else {}
    given = {
        name: value
        for name, value in ctx.params.items()
        if name in fields(cls) and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    for name, spec in specs(cls).items():
        if name in values and name not in given and spec.runs_code(values[name]):
            raise UserError(
                f"{config}: {flag(name)} {shown(values[name])} has Python run that is not rkld's, and a settings file "
                "may come from others. If you trust it, repeat it on the command line."
            )
    settings: Any = make({**values, **given}, config or "the command line", cls)
    for name, usage in NEEDED.items():
        if "forget" in fields(cls) and not specs(cls)["forget"].optional and not getattr(settings, name):
            verb = ctx.command_path.removeprefix(ctx.find_root().command_path).strip()
            raise UserError(f"{usage} is missing: rkld {verb} MODEL --forget DATA.")
    return settings


def arguments(settings: Any) -> dict[str, Any]:
    """Settings as the keywords of the function that a command calls."""
    return {name: getattr(settings, name) for name in fields(type(settings))}
