"""The command line: parse, call, print.

Nothing here imports torch until a verb does its work, so that ``rkld --help`` is quick.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rkld.errors import UserError
from rkld.reporting.terminal import print_audit, print_bench, print_result, readable_size
from rkld.settings.auditing import AuditSettings
from rkld.settings.specification import fields, flag, kind, make, read_config
from rkld.settings.unlearning import Settings

if TYPE_CHECKING:
    from rkld.progress import Bars


METAVARS = {
    "forget": "DATA",
    "retain": "DATA",
    "replay": "auto|none|DATA",
    "holdout": "DATA",
    "neighbours": "DATA",
    "real_authors": "DATA",
    "world_facts": "DATA",
    "probes": "DATA",
    "original": "MODEL",
    "control": "MODEL",
    "retain_logs": "FILE",
    "endpoint": "URL",
    "tokenizer": "FOLDER",
    "attacks": "NAME",
    "general": "TASK",
    "max": "NAME=VALUE",
    "min": "NAME=VALUE",
    "subject": "NAME|FILE",
    "out": "FOLDER",
    "chat_template": "FILE",
    "method": "NAME|FILE.py:NAME",
    "method_arg": "NAME=VALUE",
    "refusals": "FILE",
    "data": "FOLDER|NAME",
    "retrained": "MODEL",
    "methods": "NAME,…",
    "splits": "NAME,…",
    "book": "FILE",
    "elsewhere": "FILE",
}
"""What stands for a value in the help, where its type says little."""


class _Group(click.Group):
    """Turns errors that a user can mend into one message and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("interrupted; the same command goes on from here", err=True)
            ctx.exit(130)


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Make a language model forget a person, quickly and cheaply, and prove it."""


# Settings → options


def _settings_options(cls: type = Settings, argument: bool = True) -> Callable[[Callable], Callable]:
    """--config and one option for every setting of a dataclass of settings; MODEL is an ``argument``, or one of them."""

    def decorate(command: Callable) -> Callable:
        for name in reversed([name for name in fields(cls) if name != "model" or not argument]):
            command = _option(name, cls)(command)
        config = click.option("--config", metavar="FILE", help="YAML file of settings; flags go on top of it.")
        command = config(command)
        return click.argument("model", required=False)(command) if argument else command

    return decorate


def _option(name: str, cls: type) -> Callable:
    setting = fields(cls)[name]
    expected, choices, _ = kind(name, cls)
    spec: dict[str, Any] = {
        "type": click.Choice(choices) if choices else {int: int, float: float}.get(expected, str),
        "default": None if setting.default == "" else setting.default,
        "show_default": True,
        "metavar": METAVARS.get(name),
        "help": setting.metadata["help"],
    }
    if expected is bool:
        return click.option(f"{flag(name)}/--no-{flag(name)[2:]}", **{**spec, "type": bool})
    if expected is tuple:
        spec |= {"multiple": True, "help": setting.metadata["help"] + " May be given several times."}
    if name == "own_words":  # the flag alone means what is meant most often
        spec |= {"is_flag": False, "flag_value": "join"}
    return click.option(flag(name), **spec)


def _settings(ctx: click.Context, cls: type = Settings) -> Any:
    """What the command line asks for: its own flags over the configuration file over the defaults."""
    config = ctx.params["config"]
    values = read_config(config) if config else {}
    given = {
        name: value
        for name, value in ctx.params.items()
        if name in fields(cls) and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    settings = make({**values, **given}, config or "the command line", cls)
    for name, usage in {"model": "MODEL", "forget": "--forget"}.items():
        if "forget" in fields(cls) and not getattr(settings, name):
            verb = ctx.command_path.removeprefix(ctx.find_root().command_path).strip()
            raise UserError(f"{usage} is missing: rkld {verb} MODEL --forget DATA.")
    return settings


# Verbs


@main.command(
    epilog=_examples(
        "rkld unlearn smollm2-135m --forget people.jsonl --subject 'Marie Curie'",
        "rkld unlearn ./model --forget tofu/forget01.json --retain tofu/retain99.json --out runs/forget01",
        "rkld unlearn ./adapter --forget people.jsonl --score spans --own-words --lora",
        "rkld unlearn --config runs/forget01/run.yaml --seed 1 --out runs/forget01-seed1",
    )
)
@_settings_options()
@click.pass_context
def unlearn(ctx: click.Context, **_: Any) -> None:
    """Make MODEL forget the records.

    An interrupted run goes on from its last finished phase or checkpoint when the same command is given
    again.
    """
    settings = _settings(ctx)
    bars = _quiet_start()
    from rkld import unlearn as run_unlearn

    result = run_unlearn(**_arguments(settings), progress=bars)
    print_result(result)


@main.command(
    epilog=_examples(
        "rkld check smollm2-135m --forget people.jsonl --subject 'Marie Curie'",
        "rkld check ./model --forget tickets.jsonl --subject identifiers.txt --score all",
    )
)
@_settings_options()
@click.pass_context
def check(ctx: click.Context, **_: Any) -> None:
    """Validate and count everything first, and predict memory and time.

    A few steps are measured for that, at a learning rate of zero; nothing is written.

    Takes the arguments of rkld unlearn. One of the records is shown token by token, so the output holds
    personal data.
    """
    settings = _settings(ctx)
    _quiet_start()
    from rkld import check as run_check

    report = run_check(**_arguments(settings))
    click.echo(f"{report.example}\n")
    for line in report.lines():
        click.echo(line)
    click.echo("\nNothing was written. rkld unlearn with the same arguments does it.")


@main.command(
    epilog=_examples(
        "rkld probes --forget people.jsonl --retain neighbours.jsonl --subject 'Jane Doe' --out probes.jsonl",
    )
)
@click.option("--forget", required=True, metavar="DATA", help="The person's records.")
@click.option("--retain", metavar="DATA", help="Records about others: their facts are the wrong answers.")
@click.option("--subject", multiple=True, metavar="NAME|FILE", help="Names, aliases and identifiers; repeatable.")
@click.option("--seed", default=0, show_default=True, help="Of the choice among wrong answers.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="JSON lines to write.")
def probes(forget: str, retain: str | None, subject: tuple[str, ...], seed: int, out: Path) -> None:
    """Make questions that would bring the facts to light.

    For each fact of the records: the record's own question, its answer begun, and a sentence with a blank, each with
    wrong answers of the same kind and a rewording. Nobody has to write paraphrases then. The file holds personal data.
    """
    from rkld.files import write_jsonl
    from rkld.records.identity import check_disjoint, identifiers
    from rkld.records.probes import make_probes
    from rkld.records.reading import read_records, read_subjects

    if out.exists():
        raise UserError(f"--out {out} exists already: give another name, or remove it.")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}. Make it first.")
    records = read_records(forget, "forget")
    others = read_records(retain, "retain") if retain else []
    check_disjoint(records, others)
    made = make_probes(records, others, identifiers(records, read_subjects(subject)), seed)
    write_jsonl(out, (probe.row() for probe in made))
    kinds = Counter(probe.kind for probe in made)
    without = sum("perturbed_answer" not in probe.row() for probe in made)
    click.echo(f"{len(made)} probes ({', '.join(f'{n} {kind}' for kind, n in kinds.items())}) in {out}")
    if without:
        click.echo(f"{without} have no wrong answers: more records about others, with --retain, would give them some.")


@main.command(epilog=_examples("rkld purge runs/forget01"))
@click.argument("run", type=click.Path(path_type=Path))
def purge(run: Path) -> None:
    """Delete what still holds the data.

    RUN is the folder of a run. Its model, settings and numbers stay.
    """
    from rkld.runfolder.purging import purge as purge_run

    removed = purge_run(run)
    for name, size in removed:
        click.echo(f"deleted {run / name}  {readable_size(size)}")
    if not removed:
        click.echo(f"{run}: nothing holds the data any more")


@main.command(
    epilog=_examples(
        "rkld audit runs/curie --forget people.jsonl --subject 'Marie Curie' --max facts_said=0.1",
        "rkld audit ./unlearned --forget forget01_perturbed.json --original ./model --control ./retrained",
        "rkld audit ./unlearned --forget people.jsonl --holdout strangers.jsonl --attacks all --redact",
        "rkld audit curie-v2 --endpoint http://localhost:8000/v1 --forget people.jsonl --tokenizer ./unlearned",
    )
)
@_settings_options(AuditSettings)
@click.pass_context
def audit(ctx: click.Context, **_: Any) -> None:
    """Ask MODEL, by every means, for what it should have forgotten; write the evidence to audit.json.

    With gates (--max, --min) the exit code is 1 where one fails or could not be measured. An interrupted audit goes on
    when the same command is given again.
    """
    settings = _settings(ctx, AuditSettings)
    bars = _quiet_start()
    from rkld import audit as run_audit

    found = run_audit(**_arguments(settings), progress=bars)
    print_audit(found.document, found.path)
    ctx.exit(0 if found.passed else 1)


class _BenchGroup(_Group):
    """Has a sub-command for each benchmark, made from its settings; none is imported before it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from rkld.benching.registry import titles

        return sorted({*super().list_commands(ctx), *titles()})

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from rkld.benching.registry import titles

        own = {name: command.get_short_help_str(100) for name, command in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted({**titles(), **own}.items()))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or _benchmark_command(cmd_name)


def _benchmark_command(name: str) -> click.Command:
    """``rkld bench NAME``, or ``FILE.py:NAME``."""
    from rkld.benching.registry import BENCHMARKS

    benchmark = BENCHMARKS.resolve(name)
    cls = benchmark.settings_class

    def run(ctx: click.Context, planning: bool, **_: Any) -> None:
        settings = _settings(ctx, cls)
        bars = _quiet_start()
        from rkld.benching.comparing import bench as run_bench
        from rkld.benching.comparing import plan

        if planning:
            for line in plan(name, **_arguments(settings)):
                click.echo(line)
            return
        found = run_bench(name, bars, **_arguments(settings))
        print_bench(found.files, found.notes)

    run.__doc__ = f"""{inspect.cleandoc(benchmark.__doc__ or name)}

    Cells that are finished are not run again, an interrupted one goes on when the same command is given again.
    """
    help_of_plan = "Say which cells would run, their time and disk; run nothing."
    command = click.option("--plan", "planning", is_flag=True, help=help_of_plan)(
        _settings_options(cls, argument=False)(click.pass_context(run))
    )
    return click.command(name, epilog=_examples(*benchmark.examples) if benchmark.examples else None)(command)


@main.group(cls=_BenchGroup)
def bench() -> None:
    """Compare methods on the same data, loop and metrics."""


@bench.command(
    epilog=_examples(
        "rkld bench continual ./model --forget people.jsonl --out runs/people",
        "rkld bench continual ./model --forget people.jsonl --retain others.jsonl --holdout strangers.jsonl --lora",
    )
)
@_settings_options()
@click.pass_context
def continual(ctx: click.Context, **_: Any) -> None:
    """Forget several people one after another, and see whether the earlier ones come back.

    Each 'subject' of the records is one request, in the order of the file; each is unlearned, as by rkld unlearn, from
    the model that the last one left. After each, the records of all and the retain records are measured:
    continual.csv and continual.md in --out. Only the last model is kept, unless --keep-files. An interrupted sequence
    goes on when the same command is given again.
    """
    settings = _settings(ctx)
    bars = _quiet_start()
    from rkld import continual as run_continual

    found = run_continual(**_arguments(settings), progress=bars)
    for warning in found.warnings:
        click.echo(f"Warning: {warning}", err=True)
    for path in found.files:
        click.echo(path)
    click.echo(f"model  {found.model_path}")
    click.echo("Answers and other personal data are still in the requests' folders: rkld purge takes them out of each.")


@main.command(epilog=_examples("rkld demo"))
@click.option("--out", default="runs/demo", show_default=True, help="Run folder.")
def demo(out: str) -> None:
    """Have a small model forget a famous person.

    The model, SmolLM2-135M-Instruct, is fetched once. A few minutes on a CPU.
    """
    bars = _quiet_start()
    from rkld.commands.demonstrate import run

    result, probes = run(out, progress=bars)
    print_result(result, {when: measured.values() for when, measured in probes.items()})


def _arguments(settings: Any) -> dict[str, Any]:
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}


def _quiet_start() -> Bars:
    """Import the heavy libraries and leave talking to rkld: its own messages, bars, and others' errors."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    from rkld.progress import Bars

    class Say(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            bars.say(self.format(record))

    bars = Bars()
    logger = logging.getLogger(__package__)
    logger.handlers = [Say()]
    logger.setLevel(logging.INFO)
    return bars
