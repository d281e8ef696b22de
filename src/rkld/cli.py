"""The command line: parse, call, print.

Nothing here imports torch until a verb does its work, so that ``rkld --help`` is quick.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rkld import calling, processes
from rkld.commands.options import (
    SettingsCommand,
    arguments,
    chosen_settings,
    reword_options,
    settings_options,
    without_citation,
)
from rkld.errors import UserError, machine_errors_explained
from rkld.files import readable_size
from rkld.reporting.keys import KINDS as KEYS
from rkld.reporting.terminal import print_audit, print_bench, print_result
from rkld.settings.auditing import AuditSettings
from rkld.settings.benching import BenchSettings
from rkld.settings.comparing import CompareSettings
from rkld.settings.discovering import DiscoverSettings
from rkld.text.printable import harmless, printable

if TYPE_CHECKING:
    from rkld.progress import NoProgress
    from rkld.reporting.writing import Written


MOST_LEFT = 10
"""Files that are named one by one."""

LONGEST_MESSAGE = 2000
"""Characters of an error that are printed: it quotes what it was given, which may be long."""


class _Group(click.Group):
    """Turns errors that a user can mend into one message and exit code 2; lists its commands with whole sentences."""

    def titles(self) -> dict[str, str]:
        """Command → what it does, in a line."""
        return {name: command.get_short_help_str(200).rstrip(".") for name, command in self.commands.items()}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them; none is cut short."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(self.titles().items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with machine_errors_explained():
                return super().invoke(ctx)
        except UserError as error:
            if error.elsewhere:  # it is said there
                ctx.exit(2)
            message = harmless(str(error))
            message = message if len(message) <= LONGEST_MESSAGE else message[:LONGEST_MESSAGE] + " …"
            click.echo(f"Error: {message}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            if processes.is_first():
                click.echo("interrupted; the same command goes on from here", err=True)
            ctx.exit(130)


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


_explain = click.option("--explain", is_flag=True, help="Say in a sentence what each figure means.")


def _not_blank(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Refuse an option that is given with nothing, such as a variable of the shell that is not set.

    Left out, it would mean less: nothing signed, nothing compared with a key.

    Raises:
        UserError: so.
    """
    if value is not None and not value.strip():
        raise UserError(f"{option.opts[0]} is blank: give {option.metavar}, or leave the option out.")
    return value


def _meanings(choices: Mapping[str, str]) -> str:
    """What each value of an option means, for its help."""
    return "; ".join(f"{name}: {meaning}" for name, meaning in choices.items()) + "."


COMPLETION = """\b
Commands, options and files can be completed by the tabulator key. In bash, once:
  _RKLD_COMPLETE=bash_source rkld > ~/.rkld-completion.bash
  echo '. ~/.rkld-completion.bash' >> ~/.bashrc
In zsh and fish: zsh_source and fish_source (docs/install.md)."""


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=COMPLETION,
)
@click.version_option(package_name="rkld", prog_name="rkld")
def main() -> None:
    """Make a language model forget a person, quickly and cheaply, and see that it did."""


@main.command(
    cls=SettingsCommand,
    epilog=_examples(
        "rkld unlearn smollm2-135m --forget people.jsonl --subject 'Marie Curie'",
        "rkld unlearn ./model --forget tofu/forget01.json --retain tofu/retain99.json --out runs/forget01",
        "rkld unlearn ./adapter --forget people.jsonl --score spans --own-words --lora",
        "rkld unlearn --config runs/forget01/run.yaml --seed 1 --out runs/forget01-seed1",
    ),
)
@settings_options()
@_explain
@click.pass_context
def unlearn(ctx: click.Context, **_: Any) -> None:
    """Make MODEL forget the records.

    An interrupted run goes on from its last finished phase or checkpoint when the same command is given
    again.
    """
    settings = chosen_settings(ctx)
    bars = _quiet_start(several=True)
    from rkld import unlearn as run_unlearn

    result = run_unlearn(**arguments(settings), progress=bars)
    processes.leave()
    if processes.is_first():
        with processes.alone():
            print_result(result, explain=ctx.params["explain"], said=bars.said)
            _report_after(result.run)


@main.command(
    cls=SettingsCommand,
    epilog=_examples(
        "rkld check smollm2-135m --forget people.jsonl --subject 'Marie Curie'",
        "rkld check ./model --forget tickets.jsonl --subject identifiers.txt --score all",
    ),
)
@settings_options()
@click.option("--tokens", is_flag=True, help="Show a record token by token.")
@click.pass_context
def check(ctx: click.Context, **_: Any) -> None:
    """Validate the inputs of rkld unlearn, and predict its memory and time.

    A few steps are measured for that, at a learning rate of zero; nothing is written.

    Takes the arguments of rkld unlearn. One of the records is shown with what is unlearned of it in [brackets], so the
    output holds personal data.
    """
    settings = chosen_settings(ctx)
    _quiet_start()
    from rkld import check as run_check

    starting = processes.seconds_alive()
    report = run_check(**arguments(settings)).from_start(starting)
    click.echo(f"{report.tokens if ctx.params['tokens'] else printable(report.example)}\n")
    for line in report.lines():
        click.echo(harmless(line))
    click.echo("\nNothing was written. rkld unlearn with the same arguments does it.")


@main.command(
    epilog=_examples(
        "rkld probes --forget people.jsonl --retain neighbours.jsonl --subject 'Jane Doe' --out probes.jsonl",
    )
)
@click.option("--forget", required=True, type=click.Path(), metavar="DATA", help="The person's records.")
@click.option(
    "--retain", type=click.Path(), metavar="DATA", help="Records about others: their facts are the wrong answers."
)
@click.option("--subject", multiple=True, metavar="NAME|FILE", help="Names, aliases and identifiers; repeatable.")
@click.option("--seed", default=0, show_default=True, help="Of the choice among wrong answers.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="JSON lines to write.")
def probes(forget: str, retain: str | None, subject: tuple[str, ...], seed: int, out: Path) -> None:
    """Make questions that test for the facts of the records.

    For each fact of the records: the record's own question, its answer begun, and a sentence with a blank, each with
    wrong answers of the same kind and a rewording. Nobody has to write paraphrases then. The file holds personal data.
    """
    from rkld.commands.make_probes import write_probes

    written = write_probes(forget, retain, subject, seed, out)
    kinds = ", ".join(f"{n} {kind}" for kind, n in written.kinds.items())
    click.echo(f"{sum(written.kinds.values())} probes ({kinds}) in {out}")
    if written.without:
        click.echo(
            f"{written.without} have no wrong answers: more records about others, with --retain, would give them some."
        )


@main.command(
    epilog=_examples(
        "rkld reword people.jsonl --subject 'Jane Doe' --out reworded.jsonl",
        "rkld reword people.jsonl --reword 5 --writer ./chat-model --out reworded.jsonl",
        "rkld unlearn ./model --forget reworded.jsonl --subject 'Jane Doe'",
    )
)
@click.argument("records", type=click.Path())
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="JSON lines to write.")
@reword_options()
def reword(records: str, out: Path, **given: Any) -> None:
    """Say every record in other words, for review.

    What is written are RECORDS with their rewordings in the field 'rewordings': read it, strike out or mend what is
    wrong, and give the file to rkld unlearn --forget. The file holds personal data.
    """
    _quiet_start()
    from rkld.commands.reword_records import write_rewordings

    made = write_rewordings(records, out=out, **given)
    for line in made.described():
        click.echo(line)
    click.echo(f"in {out}")


@main.command(
    cls=SettingsCommand,
    epilog=_examples(
        "rkld discover smollm2-135m --subject 'Marie Curie' --kind public --out curie.jsonl",
        "rkld discover ./model --subject 'Jane Doe' --alias jane.doe@example.org --kind employee --review",
        "rkld discover ./model --subject 'Jane Doe' --source letters.txt --questions mine.txt --out jane.jsonl",
        "rkld unlearn ./model --forget jane.jsonl",
    ),
)
@settings_options(DiscoverSettings)
@click.pass_context
def discover(ctx: click.Context, **_: Any) -> None:
    """Find what MODEL associates with a person, and write it as records to forget.

    The model is asked in many wordings; of each topic the likeliest value
    is tested in all of them against names of the same form. What is
    associated above chance goes to --out, with the evidence; --review opens all as a page, to tick, correct and add.

    The output holds personal data. The exit code is 0 where nothing is found, too.
    """
    settings = chosen_settings(ctx, DiscoverSettings)
    bars = _quiet_start()
    from rkld.commands.discover_person import write_discovery

    write_discovery(settings, bars)


@main.command(epilog=_examples("rkld init jane", "rkld unlearn --config jane/run.yaml"))
@click.argument("folder", type=click.Path(path_type=Path), default=".")
def init(folder: Path) -> None:
    """Write everything that a request needs into FOLDER, commented and ready to edit.

    Settings of the run and the audit, the request form, and examples of records: to forget, to keep, of strangers, and
    questions that the audit asks. No file is written over.
    """
    from rkld.commands.write_forms import write_forms

    for path in write_forms(folder):
        click.echo(path)
    click.echo(f"Edit them, then: {calling.command('check', '--config', folder / 'run.yaml')}")


@main.command(
    epilog=_examples(
        "rkld report runs/curie --open",
        "rkld report runs/curie --pdf",
        "rkld report runs/curie --sign erasures.key",
        "rkld report runs/curie --subject 'Marie Curie' --show-records",
    )
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--open", "open_it", is_flag=True, help="Show it in the browser.")
@click.option("--pdf", is_flag=True, help="Also as a PDF, printed by an installed Chromium.")
@click.option("--show-records", is_flag=True, help="With what was asked and said: personal data, kept apart.")
@click.option("--subject", metavar="NAME", help="Of one person of several alone, with nothing about the others.")
@click.option(
    "--sign",
    "key",
    type=click.Path(),
    metavar="FILE",
    callback=_not_blank,
    help="Sign report, evidence and model with this key (rkld keygen).",
)
def report(run: Path, open_it: bool, pdf: bool, show_records: bool, subject: str | None, key: str | None) -> None:
    """Write what was found as one page, for people to read and hand on.

    RUN is the folder of a run or an audit; report.html goes there, and for machines report.json (an in-toto statement)
    and model.cdx.json (CycloneDX). No record is in them, and no name but those that you wrote into the request form.
    With --show-records or --subject the page goes into the folder report-records, which rkld purge deletes. With --sign
    everything in the folder is signed, for rkld verify; give it again with whatever is written later.
    """
    from rkld.reporting.keys import read_signing_key
    from rkld.reporting.signing import sign
    from rkld.reporting.writing import write_report

    signing = read_signing_key(key, _ask_passphrase) if key else None  # what is wrong with it is said first

    try:
        written = write_report(run, show_records=show_records, subject=subject, pdf=pdf)
    except UserError:
        _say_if_outdated(run)  # the page may be written, and its PDF not
        raise
    for path in (written.page, *filter(None, [written.pdf]), *written.others):
        click.echo(path)
    _say_others(written)
    if signing is not None:
        click.echo(sign(run, signing))
    else:
        _say_if_outdated(run)
    if written.shows:
        click.echo("It shows records and answers, which are personal data.", err=True)
    if open_it and not calling.has_screen():
        click.echo("There is no screen here to open it on: open the page in a browser.", err=True)
    elif open_it:
        click.launch(written.page.resolve().as_uri())


def _report_after(run: Path) -> None:
    """The page of what has just been done; where it cannot be written nothing else is lost."""
    from rkld.reporting.writing import write_report

    try:
        written = write_report(run)
        click.echo(f"report {written.page}")
        _say_others(written)
    except Exception as error:
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        click.echo(f"Warning: the report could not be written, and nothing else is lost: {harmless(said)}", err=True)
        click.echo(f"Try again: {calling.command('report', run)}", err=True)
    _say_if_outdated(run)


def _say_others(written: Written) -> None:
    """Pages that made way as they were not made of what lies beside them now, and what lies among them still."""
    for path in written.deleted:
        why = "rkld makes another of the audit and manifest here: it was of another audit, run or version of rkld"
        click.echo(f"deleted {path}: {why}", err=True)
    for path, why in written.left[:MOST_LEFT]:
        click.echo(harmless(f"left {path} as it is: it {why}, and would not be signed"), err=True)
    if (more := len(written.left) - MOST_LEFT) > 0:
        click.echo(f"and {more} more", err=True)


def _say_if_outdated(run: Path) -> None:
    """What was signed and has been changed by what was just done."""
    from rkld.reporting.signing import is_outdated

    if is_outdated(run):
        click.echo(
            f"Warning: the signature in {run} no longer holds, as files were changed since. Sign again: "
            f"rkld report {run} --sign KEY",
            err=True,
        )


@main.command(epilog=_examples("rkld purge runs/forget01"))
@click.argument("run", type=click.Path(path_type=Path))
def purge(run: Path) -> None:
    """Delete what still holds personal data in the folder of a run or an audit.

    RUN is that folder. Its model, settings and figures stay. The exit code is not 0 where something could not be
    deleted.
    """
    from rkld.runfolder.purging import ELSEWHERE, IncompletePurge
    from rkld.runfolder.purging import purge as purge_run

    error, removed = None, []
    try:
        removed = purge_run(run)
    except IncompletePurge as incomplete:
        error, removed = incomplete, incomplete.removed
    for name, size in removed:
        click.echo(f"deleted {run / name}  {readable_size(size)}")
    if not removed and error is None:
        click.echo(f"{run}: nothing to delete, no personal data is left")
    elif error is None and any((run / name).parent == run for name, _ in removed):  # else elsewhere alone
        _report_after(run)  # of what is left
    click.echo("What is not known of here, and may hold the data:")
    for place in ELSEWHERE:
        click.echo(f"- {place}")
    if error:
        raise error


@main.command(epilog=_examples("rkld keygen erasures.key", "rkld keygen ledger.key --for ledger"))
@click.argument("key", type=click.Path(path_type=Path))
@click.option("--for", "kind", type=click.Choice(list(KEYS)), default="sign", show_default=True, help=_meanings(KEYS))
@click.option("--passphrase", is_flag=True, help="Ask for a passphrase that the private half is encrypted with.")
def keygen(key: Path, kind: str, passphrase: bool) -> None:
    """Make a key: KEY, for you alone, and KEY.pub, for whoever verifies or seals.

    Nothing is overwritten. A passphrase is asked for, or read from RKLD_PASSPHRASE.
    """
    from rkld.reporting.keys import key_id, make_key, passphrase_from, read_verifying_key

    public = make_key(key, kind, passphrase_from(_ask_new_passphrase) if passphrase else "")
    click.echo(f"private  {key}: keep it apart, and a copy of it")
    if public is not None:
        click.echo(f"public   {public}")
    if public is not None and kind == "sign":
        click.echo(f"id       {key_id(read_verifying_key(public))}")


@main.command(
    epilog=_examples(
        "rkld verify runs/curie --key erasures.key.pub",
        "rkld verify report.sig --key erasures.key.pub --model ./served --report report.html",
    )
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(), metavar="FILE", help="The public half of the key that signed.")
@click.option("--model", type=click.Path(path_type=Path), metavar="FOLDER", help="A model that lies elsewhere.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="A report that lies elsewhere.")
@click.pass_context
def verify(ctx: click.Context, run: Path, key: str, model: Path | None, report: Path | None) -> None:
    """Check that a signed run is as it was signed: every file, the model, the report.

    RUN is the folder of a run or an audit; or a report.sig by itself, which needs no record. Nothing is written and
    nothing is fetched. The exit code is 0 where all that was looked at is as it was signed, 1 where something is not.
    """
    from rkld.reporting.keys import read_verifying_key
    from rkld.reporting.signing import verify as verify_run

    found = verify_run(run, read_verifying_key(key), model=model, report=report)
    click.echo(harmless(found.sentence))
    ctx.exit(0 if found.verified else 1)


@main.group(cls=_Group)
def ledger() -> None:
    """Keep track of requests: list them, verify the list, ask the newest model again.

    rkld unlearn --ledger FILE --ledger-key KEY appends to it. A ledger is personal data still.
    """


@ledger.command(
    "list", epilog=_examples("rkld ledger list erasures.jsonl --subject 'Jane Doe' --ledger-key ledger.key")
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--subject", callback=_not_blank, metavar="NAME", help="Only requests about this person; needs --ledger-key."
)
@click.option(
    "--ledger-key", type=click.Path(), callback=_not_blank, metavar="FILE",
    help="The key that the ledger was written with.",
)  # fmt: skip
def list_ledger(file: Path, subject: str | None, ledger_key: str | None) -> None:
    """List the requests in FILE, and what was found when they were rechecked."""
    from rkld.reporting.keys import read_ledger_key
    from rkld.reporting.ledger import about, described, nothing_listed, read_ledger

    key = read_ledger_key(ledger_key) if ledger_key else None
    found = listed = read_ledger(file, key)
    if subject is not None:
        if key is None:
            raise UserError(
                "--subject needs --ledger-key: in the ledger people stand by what that makes of their names."
            )
        listed = about(found, subject, key)
    lines = list(described(file, listed))
    for line in lines or [harmless(f"{file}: {nothing_listed(found, subject is not None)}")]:
        click.echo(line)
    if found.broken or found.torn:
        raise UserError(f"{file}: {found.broken or 'its last line is not whole'}: rkld ledger verify says more.")


@ledger.command("verify", epilog=_examples("rkld ledger verify erasures.jsonl --ledger-key ledger.key --head 3f7a…"))
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--ledger-key",
    type=click.Path(),
    callback=_not_blank,
    metavar="FILE",
    help="The key that it was written with: who wrote it is checked, too.",
)
@click.option(
    "--head",
    callback=_not_blank,
    metavar="HASH",
    help="A head that was noted earlier: nothing up to it may be missing.",
)
@click.option("--mend", "mending", is_flag=True, help="Take a last line out that was not written whole.")
@click.option(
    "--drop-unnamed", "dropping", is_flag=True,
    help="Delete sealed questions that no line names; needs --ledger-key, and as --head the newest that was noted.",
)  # fmt: skip
@click.pass_context
def verify_ledger(
    ctx: click.Context, file: Path, ledger_key: str | None, head: str | None, mending: bool, dropping: bool
) -> None:
    """Check that nothing in FILE was changed, added or taken out.

    Its newest lines can be taken out unseen: note the head that is printed, and give it with --head the next time. The
    exit code is 0 where FILE holds, else 1.
    """
    from rkld.reporting.keys import read_ledger_key
    from rkld.reporting.ledger import drop_unnamed, mend, verified

    key = read_ledger_key(ledger_key) if ledger_key else None
    if dropping and (key is None or head is None):
        raise UserError(
            "--drop-unnamed needs --ledger-key, which tells that the lines name all that they named, and as --head the "
            "newest head that was noted, which tells that no line before it was lost."
        )
    if mending and (size := mend(file, key)):
        click.echo(f"{file}: mended: {size} bytes of a line that was not written whole are taken out.")
    if dropping and key is not None and head is not None:
        click.echo(f"{file}: files of sealed questions that no line names: {drop_unnamed(file, key, head)} deleted.")
    holds, sentence = verified(file, key, head)
    click.echo(harmless(sentence))
    ctx.exit(0 if holds else 1)


@ledger.command(
    "recheck",
    epilog=_examples("rkld ledger recheck ./newest --ledger erasures.jsonl --unseal questions.key"),
)
@click.argument("model", type=click.Path())
@click.option("--ledger", "file", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The ledger.")
@click.option(
    "--unseal", type=click.Path(), callback=_not_blank, metavar="FILE",
    help="The private half of the key of --seal-to; without it nothing that is sealed is rechecked.",
)  # fmt: skip
@click.option(
    "--ledger-key", type=click.Path(), callback=_not_blank, metavar="FILE",
    help="The ledger's key: what is found is appended to it.",
)  # fmt: skip
@click.option("--attacks", multiple=True, default=["standard"], show_default=True, help="As of rkld audit.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1),
    metavar="N",
    help="Longest answer, in tokens. Default: as the run asked.",
)
@click.option("--out", default="runs/recheck", show_default=True, type=click.Path(path_type=Path), help="Audits.")
@click.pass_context
def recheck_ledger(
    ctx: click.Context,
    model: str,
    file: Path,
    unseal: str | None,
    ledger_key: str | None,
    attacks: tuple[str, ...],
    max_new_tokens: int | None,
    out: Path,
) -> None:
    """Audit MODEL, the newest one, for everybody who was erased, and say what came back.

    A request whose questions were not sealed is not rechecked. The audits in --out hold no text. The exit code is 0
    where every request was rechecked, every fact measured, and nothing came back, else 1.
    """
    from rkld.reporting.keys import read_ledger_key, read_opening_key

    opening = read_opening_key(unseal, _ask_passphrase) if unseal else None
    key = read_ledger_key(ledger_key) if ledger_key else None
    bars = _quiet_start()
    from rkld.commands.recheck_ledger import recheck

    clean, n = True, 0
    asked: dict[str, Any] = {"attacks": attacks, "max_new_tokens": max_new_tokens}
    for found in recheck(model, file, opening, key=key, out=out, progress=bars, **asked):
        click.echo(found.line())
        clean &= found.clean
        n += 1
    if not n:
        click.echo(f"{file}: no erasure is noted in it.")
    ctx.exit(0 if clean else 1)


def _ask_new_passphrase() -> str:
    return str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True))


def _ask_passphrase() -> str:
    """ "" where nobody is there to be asked."""
    return str(click.prompt("Passphrase", hide_input=True, err=True)) if sys.stdin.isatty() else ""


@main.command(
    cls=SettingsCommand,
    epilog=_examples(
        "rkld audit runs/curie --forget curie.jsonl --subject 'Marie Curie' --original ./model --retain others.jsonl",
        "rkld audit ./unlearned --forget forget01_perturbed.json --original ./model --control ./retrained",
        "rkld audit ./unlearned --forget people.jsonl --holdout strangers.jsonl --attacks all --redact",
        "rkld audit curie-v2 --endpoint http://localhost:8000/v1 --forget people.jsonl --tokenizer ./unlearned",
    ),
)
@settings_options(AuditSettings)
@_explain
@click.pass_context
def audit(ctx: click.Context, **_: Any) -> None:
    """Measure what MODEL still knows, and write the evidence to audit.json.

    The records' likelihood, the model's own answers, attacks that bring back what was only hidden, and what was kept.

    The exit code is 0 where the verdict is a pass, else 1. A pass needs --original and records to keep; gates are the
    default ones, or those of --max and --min. An interrupted audit goes on when the same command is given again.
    """
    settings = chosen_settings(ctx, AuditSettings)
    bars = _quiet_start(several=True)
    from rkld import audit as run_audit

    found = run_audit(**arguments(settings), progress=bars)
    processes.leave()
    if not processes.is_first():  # the first one's exit code is the launcher's
        return
    with processes.alone():
        print_audit(found.document, found.path, explain=ctx.params["explain"])
        _report_after(found.path.parent)
    ctx.exit(0 if found.passed else 1)


@main.command(
    cls=SettingsCommand,
    epilog=_examples(
        "rkld compare ./my-model runs/jane --open",
        "rkld compare ./my-model runs/jane --forget records.jsonl --subject 'Jane Doe' --port 8080",
    ),
)
@click.argument("original", type=click.Path())
@click.argument("run", type=click.Path())
@settings_options(CompareSettings, argument=False)
@click.pass_context
def compare(ctx: click.Context, original: str, run: str, **_: Any) -> None:
    """Show two models side by side in the browser, to ask them anything.

    ORIGINAL is the model before unlearning, RUN a run folder or the unlearned model. The page answers this machine
    alone, and whoever has the token in its address.
    """
    settings = chosen_settings(ctx, CompareSettings)
    _quiet_start()
    from rkld.commands.compare_models import show_pair

    show_pair(original, run, settings, click.echo)


@main.command(
    epilog=_examples(
        "rkld export runs/jane --gguf",
        "rkld export runs/jane --gguf --outtype q8_0 --converter ~/llama.cpp/convert_hf_to_gguf.py --out jane.gguf",
    )
)
@click.argument("run", type=click.Path())
@click.option("--gguf", is_flag=True, required=True, help="As a GGUF file, for llama.cpp, Ollama and others.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: beside the run folder.")
@click.option("--converter", type=click.Path(path_type=Path), metavar="FILE", help="llama.cpp's convert_hf_to_gguf.py.")
@click.option("--outtype", default="auto", show_default=True, metavar="TYPE", help="Of the weights: f16, q8_0, …")
@click.option("--base", type=click.Path(), metavar="MODEL", help="Base of an adapter. Default: what its folder names.")
def export(run: str, gguf: bool, out: Path | None, converter: Path | None, outtype: str, base: str | None) -> None:
    """Write the unlearned model in the form of other programs.

    RUN is a run folder or a model folder. An adapter is merged into its base. The converter of llama.cpp must be
    installed: in the folder that LLAMA_CPP names, or given. Fewer bits may bring back what was forgotten: rkld audit
    --attacks 4bit,8bit looks.
    """
    _quiet_start()
    from rkld.commands.export_model import write_gguf

    click.echo(write_gguf(run, out, converter, outtype, base))


class _BenchGroup(_Group):
    """Has a sub-command for each benchmark, made from its settings; none is imported before it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from rkld.benching.registry import titles

        return sorted({*super().list_commands(ctx), *titles()})

    def titles(self) -> dict[str, str]:
        """Command → what it does, in a line: of benchmarks the title of their file."""
        from rkld.benching.registry import titles

        return {name: without_citation(line) for name, line in titles().items()} | super().titles()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is None and ctx.resilient_parsing:  # a shell completes: nobody waits for torch after a tabulator
            shared = settings_options(BenchSettings, argument=False)(lambda **_: None)
            return click.command(cmd_name, short_help=self.titles().get(cmd_name, ""))(shared)
        return found or _benchmark_command(cmd_name)


def _benchmark_command(name: str) -> click.Command:
    """``rkld bench NAME``, or ``FILE.py:NAME``."""
    from rkld.benching.registry import BENCHMARKS

    benchmark = BENCHMARKS.resolve(name)
    cls = benchmark.settings_class

    def run(ctx: click.Context, planning: bool, **_: Any) -> None:
        settings = chosen_settings(ctx, cls)
        bars = _quiet_start()
        from rkld.benching.comparing import bench as run_bench
        from rkld.benching.comparing import plan

        if planning:
            for line in plan(name, **arguments(settings)):
                click.echo(line)
            return
        found = run_bench(name, bars, **arguments(settings))
        print_bench(found.files, found.notes)

    run.__doc__ = f"""{inspect.cleandoc(benchmark.__doc__ or name)}

    Cells that are finished are not run again, an interrupted one goes on when the same command is given again.
    """
    help_of_plan = "Say which cells would run, their time and disk; run nothing."
    command = click.option("--plan", "planning", is_flag=True, help=help_of_plan)(
        settings_options(cls, argument=False)(click.pass_context(run))
    )
    return click.command(
        name, cls=SettingsCommand, epilog=_examples(*benchmark.examples) if benchmark.examples else None
    )(command)


@main.group(cls=_BenchGroup)
def bench() -> None:
    """Compare unlearning methods on the same data, training loop and metrics.

    COMMAND is a benchmark, or FILE.py:NAME for your own. rkld bench COMMAND --help lists its options.
    """


@bench.command(
    cls=SettingsCommand,
    epilog=_examples(
        "rkld bench continual ./model --forget people.jsonl --out runs/people",
        "rkld bench continual ./model --forget people.jsonl --retain others.jsonl --holdout strangers.jsonl --lora",
    ),
)
@settings_options()
@click.pass_context
def continual(ctx: click.Context, **_: Any) -> None:
    """Forget several people one after another, and see whether the earlier ones come back.

    Each 'subject' of the records is one request, in the order of the file; each is unlearned, as by rkld unlearn, from
    the model that the last one left. After each, the records of all and the retain records are measured:
    continual.csv and continual.md in --out. Only the last model is kept, unless --keep-files. An interrupted sequence
    goes on when the same command is given again.
    """
    settings = chosen_settings(ctx)
    bars = _quiet_start()
    from rkld import continual as run_continual

    found = run_continual(**arguments(settings), progress=bars)
    for warning in found.warnings:
        click.echo(f"Warning: {harmless(warning)}", err=True)
    for path in found.files:
        click.echo(path)
    click.echo(f"model  {found.model_path}")
    click.echo("Answers and other personal data are still in the requests' folders: rkld purge takes them out of each.")


@bench.command(
    "report",
    epilog=_examples(
        "rkld bench report runs/bench_people runs/bench_lume --out leaderboard.html",
        "rkld bench report benchmarks/results/bench_methods_results.csv --out methods.html",
    ),
)
@click.argument("sources", nargs=-1, required=True, metavar="FOLDER|TABLE…")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("leaderboard.html"), show_default=True, help="The page."
)
def report_benchmarks(sources: tuple[str, ...], out: Path) -> None:
    """Write one page over finished benchmarks: a table and a chart for each, to be filtered and sorted.

    Each is the folder of a benchmark, or its table under another name, which ends in results.csv.
    """
    from rkld.benching.leaderboard_page import write_leaderboard

    click.echo(write_leaderboard(sources, out))


@main.command(epilog=_examples("rkld demo"))
@click.option("--out", default="runs/demo", show_default=True, type=click.Path(), help="Run folder.")
def demo(out: str) -> None:
    """Have a small model forget a famous person.

    The model, SmolLM2-135M-Instruct, is fetched once. A few minutes on a CPU.
    """
    bars = _quiet_start()
    from rkld.commands.demonstrate import run

    result, probes = run(out, progress=bars)
    figures = {when: measured.values() for when, measured in probes.items()}
    print_result(result, figures, explain=True, said=bars.said)
    _report_after(result.run)
    click.echo(f"\nLook at it:\n  {calling.command('report', result.run, '--open')}")


@main.command(epilog=_examples("rkld doctor", "rkld doctor --json > doctor.json"))
@click.option("--json", "as_json", is_flag=True, help="As JSON, for machines: to attach to a report of a problem.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say what this machine has for rkld, and what is broken.

    Versions, devices, free disk, what each extra would bring, and whether models can be found without a network. It
    names no folder, no user and no variable's value, and asks nothing of the network. The exit code is 0, or 1 where
    something that rkld needs is broken.
    """
    from rkld.commands.diagnose_machine import diagnose

    found = diagnose()
    if as_json:
        click.echo(json.dumps(found.document(), indent=2))
    else:
        for line in found.lines():
            click.echo(harmless(line))
    ctx.exit(0 if found.sound else 1)


NO_BARS = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
"""Variables of the environment by which libraries show no bars of their own."""


def _quiet_start(*, several: bool = False) -> NoProgress:
    """Import the heavy libraries; only their errors are printed beside rkld's own messages and progress.

    A download keeps its bar in a terminal; where the output is no terminal there are lines and no bars at all.

    Args:
        several: whether the command runs in several processes, too.

    Raises:
        UserError: there are several, and it does not.
    """
    if not several:
        processes.require_one()
    import logging
    import os
    import sys
    import warnings

    warnings.filterwarnings("ignore")
    if sys.stderr is None or not sys.stderr.isatty():
        for name in NO_BARS:  # read when the libraries are imported
            os.environ.setdefault(name, "1")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    from rkld.progress import progress_for_stderr

    class Say(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            bars.say(harmless(self.format(record)))

    bars = progress_for_stderr()
    logger = logging.getLogger(__package__)
    logger.handlers = [Say()]
    logger.setLevel(logging.INFO if processes.is_first() else logging.ERROR)
    return bars
