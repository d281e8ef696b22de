"""Reference pages of what must be imported to be described: commands, Python, metrics, stopping rules, benchmarks."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import click

import rkld
from rkld.benching.registry import BENCHMARKS
from rkld.cli import main
from rkld.commands.options import SettingsCommand
from rkld.evaluation import readings
from rkld.evaluation.metric import BETTER, Metric
from rkld.evaluation.registry import METRICS
from rkld.registry import Registry
from rkld.runfolder.request import RequestForm
from rkld.settings.benching import BenchSettings
from rkld.settings.specification import Spec
from rkld.settings.table import specs
from rkld.stopping.registry import STOPPING_RULES

SCHEMA = Path(rkld.__file__).parent / "auditing" / "schema.json"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)])


# Commands

SETTINGS_OF = {"unlearn": "rkld-unlearn-check-and-bench-continual", "check": "rkld-unlearn-check-and-bench-continual"}
"""Command → the anchor of its settings, where it is not that of its own name."""


def commands() -> str:
    """Every command: what it does, how it is called, its options and examples."""
    context = click.Context(main, info_name="rkld")
    return "\n\n".join(_command(name, main.commands[name], context) for name in sorted(main.commands))


def _command(name: str, command: click.Command, parent: click.Context) -> str:
    context = click.Context(command, info_name=name, parent=parent)
    parts = [f"### {context.command_path}", _paragraphs(command.help or "")]
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    if isinstance(command, click.Group):
        inner = {one: command.get_command(context, one) for one in command.list_commands(context)}
        if name == "bench":
            rows = [(f"`rkld bench {one}`", _first(found)) for one, found in inner.items() if found]
            return "\n\n".join(
                [*parts, table(("benchmark", "what it does"), rows), "Their options: [benchmarks](benchmarks.md)."]
            )
        return "\n\n".join([*parts, *(_command(one, found, context) for one, found in inner.items() if found)])
    parts.append(f"```text\n{usage}\n```")
    if isinstance(command, SettingsCommand):
        anchor = SETTINGS_OF.get(name, f"rkld-{name}")
        parts.append(f"Every setting is an option: [settings](settings.md#{anchor}). Beside them:")
    rows = [_option(option, context) for option in command.params if not hasattr(option, "spec")]
    parts.append(table(("option", "default", "meaning"), rows) if rows else "It has no options.")
    if command.epilog:
        examples = command.epilog.partition("Examples:\n")[2]
        parts.append(f"```text\n{inspect.cleandoc(examples)}\n```")
    return "\n\n".join(parts)


def _option(option: click.Parameter, context: click.Context) -> tuple[str, str, str]:
    shown = "`, `".join([*option.opts, *option.secondary_opts])
    default = option.get_default(context)
    if isinstance(option, click.Argument):
        return f"`{option.human_readable_name}`", "", ""
    assert isinstance(option, click.Option)
    needed = "must be given" if option.required else ""
    value = "" if default in (None, "", (), False) or not isinstance(default, str | int | float) else f"`{default}`"
    return f"`{shown}`", needed or value, " ".join((option.help or "").split())


def _first(command: click.Command) -> str:
    return command.get_short_help_str(200).rstrip(".")


def _paragraphs(text: str) -> str:
    """A docstring's paragraphs, each in one line; a docstring's roles as code."""
    found = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(_roles(" ".join(part.split())) for part in found)


def _roles(text: str) -> str:
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text).replace("``", "`")


# Python


def python() -> str:
    """Every public name: how it is called, and its docstring."""
    names = [name for name in rkld.__all__ if not name.startswith("_")]
    return "\n\n".join(_public(name, getattr(rkld, name)) for name in names)


def _public(name: str, found: Any) -> str:
    parts = [f"### rkld.{name}"]
    if name == "Settings":
        return "\n\n".join([*parts, _paragraphs(found.__doc__ or ""), "Its fields: [settings](settings.md)."])
    if name != "UserError":
        parts.append(f"```python\n{_signature(name, found)}\n```")
    parts.append(_docstring(found.__doc__ or ""))
    return "\n\n".join(parts)


def _signature(name: str, found: Any) -> str:
    if inspect.isclass(found) and issubclass(found, rkld.RKLDConfig):
        return f"rkld.{name}(output_dir, **settings)"
    lines = []
    star = False
    for one in inspect.signature(found).parameters.values():
        if one.kind is inspect.Parameter.KEYWORD_ONLY and not star:
            lines.append("*")
            star = True
        kind = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}.get(one.kind, "")
        default = "" if one.default is inspect.Parameter.empty else f"={_value(one.default)}"
        lines.append(f"{kind}{one.name}{default}")
    return f"rkld.{name}({', '.join(lines)})"


def _value(value: object) -> str:
    """A default, without the addresses and factories that some have."""
    return repr(value) if isinstance(value, str | int | float | tuple | None) else "…"


SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$", re.M)


def _docstring(text: str) -> str:
    """Its sections as lists."""
    before, *sections = SECTION.split(inspect.cleandoc(text))
    parts = [_prose(before)]
    for title, body in zip(sections[::2], sections[1::2]):
        lines = body.strip("\n").splitlines()
        inside = [line for line in lines if line.startswith("    ") or not line.strip()]
        after = lines[len(inside) :] if lines[: len(inside)] == inside else []
        parts += [f"**{title}**", _entries("\n".join(inside)), _prose("\n".join(after))]
    return "\n\n".join(part for part in parts if part)


def _entries(body: str) -> str:
    """``name: meaning`` lines, each with those that go on with it."""
    found: list[str] = []
    for line in inspect.cleandoc(body).splitlines():
        if line.startswith(" ") and found:
            found[-1] += f" {line.strip()}"
        elif line.strip():
            found.append(line)
    return "\n".join(f"- {_entry(line)}" for line in found)


def _entry(line: str) -> str:
    name, colon, meaning = _roles(line).partition(": ")
    return f"`{name}`: {meaning}" if colon and re.fullmatch(r"[\w, *]+", name) else _roles(line)


def _prose(text: str) -> str:
    """Paragraphs; those that are indented are code."""
    parts = [part for part in text.strip("\n").split("\n\n") if part.strip()]
    return "\n\n".join(
        f"```python\n{inspect.cleandoc(part)}\n```" if part.startswith("    ") else _roles(" ".join(part.split()))
        for part in parts
    )


# Registries


def metrics() -> str:
    """Every metric; those that say the same of other attacks share a row."""

    def said(metric: Metric) -> tuple[str, ...]:
        return metric.explanation, metric.direction, metric.unit, metric.risk

    every = sorted((METRICS.get(name) for name in METRICS.names()), key=lambda metric: (said(metric), metric.name))
    rows = [_metric_row(list(group)) for _, group in groupby(every, key=said)]
    return table(("name", "what it is", "better"), sorted(rows))


def reading_columns() -> str:
    """What the rows hold that a metric is made of, as the module that makes them says it."""
    parts = inspect.cleandoc(readings.__doc__ or "").split("\n\n")
    (rows,) = (part for part in parts if part.startswith("- "))
    return f"A model is read once; metrics are made of these rows, one a record, a column a value.\n\n{_roles(rows)}"


def _metric_row(group: Sequence[Metric]) -> tuple[str, ...]:
    first = group[0]
    title = first.title if len(group) == 1 else re.sub(r"(?:,? \(?by |: ).*", "", first.title)
    sources = "; ".join(dict.fromkeys(metric.source for metric in group if metric.source))
    words = title.replace("{}", "*k*").rstrip(".")
    said = (
        f"**{words[:1].upper()}{words[1:]}.**",
        first.explanation,
        f"Unit: {first.unit}.",
        sources and f"{sources}.",
    )
    return (
        ", ".join(f"`{metric.name}`" for metric in group),
        " ".join(part for part in said if part),
        BETTER[first.direction] if first.direction else "neither",
    )


def _shipped(registry: Registry[Any]) -> list[tuple[str, Any]]:
    """The registry's own entries, without those that other packages or tests happen to have registered."""
    return [(name, entry) for name, entry in registry.items() if entry.__module__.startswith(f"{registry.package}.")]


def stopping_rules() -> str:
    """Every rule that a run can take, then those of benchmarks."""
    rows = []
    for name, rule in _shipped(STOPPING_RULES):
        needed = ", ".join(f"`--{setting}`" for setting in rule.required)
        only = "benchmarks alone, with a retrained model" if rule.benchmarks_only else ""
        margin = f"{rule.margin:g}" if rule.steers and not rule.benchmarks_only else ""
        rows.append((f"`{name}`", rule.help, margin, needed or only))
    return table(("`--stop`", "the run ends where the records are", "margin", "needs"), rows)


def benchmarks(reference: Callable[[Sequence[Spec]], str]) -> str:
    """Every shipped benchmark with its own settings, then those that all share.

    Args:
        reference: makes a table of settings.
    """
    shared = specs(BenchSettings)
    parts = []
    for name, benchmark in _shipped(BENCHMARKS):
        own = [spec for spec in specs(benchmark.settings_class).values() if spec != shared.get(spec.name)]
        parts += [f"### rkld bench {name}", _paragraphs(benchmark.__doc__ or ""), reference(own)]
    return "\n\n".join([*parts, "### What all of them share", reference(list(shared.values()))])


# Files


def audit_fields() -> str:
    """The fields of ``audit.json``, of its schema."""
    schema: Mapping[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    rows = [
        (f"`{name}`", _kind(field), "" if name in schema["required"] else "may be absent", field.get("description", ""))
        for name, field in schema["properties"].items()
    ]
    return table(("field", "type", "presence", "what it holds"), rows)


def _kind(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    return f"`{field['const']}`" if "const" in field else str(field.get("type", ""))


def request_fields() -> str:
    """The fields of the form that states what is known of a request."""
    rows = [
        (f"`{field.name}`", field.metadata.get("help", ""), "yes" if field.metadata.get("personal") else "")
        for field in dataclasses.fields(RequestForm)
    ]
    return table(("field", "what is stated", "may name the person"), rows)
