"""Results in the terminal: figures before and after, an audit's table and verdict, where files lie."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rkld import calling
from rkld.reporting.words import CUT, unseen
from rkld.text.printable import harmless, printable

if TYPE_CHECKING:
    from rich.table import Table

    from rkld.pipeline.running import Result

ANSWERS_SHOWN = 3

OTHERWISE = "in the worst of two other wordings"

LABELS = {
    "probability": "probability",
    "rouge_l": "ROUGE-L",
    "facts_said": "facts still said",
    "worst_kind_facts_said": f"… {OTHERWISE}",
}
"""Figure of a run → how its row is called."""

BESIDE = {
    f"… {OTHERWISE}": "The same share where the facts are asked for in two other kinds of wording: of the kind that "
    "brings out more. What is hidden from the question as it stood alone shows here.",
    CUT: "Facts that no answer came to, as answers end after --max-new-tokens: they are not counted as said, and might "
    "have been. Raise it where there are many.",
}
"""Row of no metric's → what it means."""


def print_result(
    result: Result,
    probes: Mapping[str, Mapping[str, float | None]] | None = None,
    *,
    explain: bool = False,
    said: Collection[str] = (),
) -> None:
    """The figures before and after, some answers side by side, and where everything lies.

    Args:
        explain: what each figure means is said below them.
        said: lines that were shown while it ran: their warnings are counted, and not repeated.
    """
    from rich.console import Console

    before: dict[str, Mapping[str, float | None]] = dict(result.metrics["before"])
    after: dict[str, Mapping[str, float | None]] = dict(result.metrics["after"])
    if probes:
        before["probes"], after["probes"] = probes["before"], probes["after"]
    console = Console(highlight=False)
    console.print(_before_and_after(before, after))
    if explain:
        from rkld.evaluation.registry import METRICS

        of_answers = {name: METRICS.get(name) for name in LABELS if name in METRICS.names()}
        explained = {LABELS[name]: metric.explanation for name, metric in of_answers.items()} | BESIDE
        _print_explanations({label: (text, "") for label, text in explained.items()})
    if result.answers:
        console.print(_answers_table(result.answers[:ANSWERS_SHOWN]))
    for line in verdict(result):
        click.echo(line)
    new = [warning for warning in result.warnings if f"Warning: {warning}" not in said]
    for warning in new:
        click.echo(f"\nWarning: {harmless(warning)}", err=True)
    if n := len(result.warnings) - len(new):
        click.echo(f"\n{n} {'warning stands' if n == 1 else 'warnings stand'} above.", err=True)
    # Not in a table: it would break the paths.
    click.echo(f"\nrun    {result.run}")
    click.echo(f"model  {result.model_path}")
    if result.answers:
        click.echo(
            f"Answers and other personal data are still in the run folder: {calling.command('purge', result.run)}"
        )
    else:
        click.echo("The answers have been purged.")


def verdict(result: Result) -> Iterator[str]:
    """What a run shows by itself, in a sentence or two: what is still said, and what is known of the others."""
    then, now = result.metrics["before"]["forget"], result.metrics["after"]["forget"]
    if result.unknown:
        yield "Verdict: the model did not seem to know the records before the run, so nothing is shown to be forgotten."
    elif then.get("facts_said") is not None and now.get("facts_said") is not None:
        yield (
            f"Verdict: its own answers say {now['facts_said']:.0%} of the facts, {then['facts_said']:.0%} before"
            f"{_left_open(now)}. Whether they come back when asked otherwise: rkld audit."
        )
    else:
        yield (
            f"Verdict: the recorded answers have a probability of {now['probability']:.3f} a token, "
            f"{then['probability']:.3f} before. Whether they come back when asked otherwise: rkld audit."
        )
    if result.steered:
        yield (
            f"{result.steered} of the {then['n']} records decided how far the run went, so of these the figures are no "
            "evidence; an audit leaves them out."
        )
    if "retain" not in result.metrics["after"]:
        yield "Damage to people near the person: not measured (give records about them with --retain)."


def _left_open(now: Mapping[str, float | None]) -> str:
    n, of = now.get("facts_unseen"), now.get("facts")
    return f"; {unseen(int(n), int(of) if of else None)}" if n else ""


def _before_and_after(
    before: Mapping[str, Mapping[str, float | None]], after: Mapping[str, Mapping[str, float | None]]
) -> Table:
    from rich.table import Table

    from rkld.evaluation.metric import BETTER

    table = Table()
    table.add_column("", min_width=max(map(len, " ".join(LABELS.values()).split())))  # no word of a label is broken
    for name, entry in before.items():
        better = BETTER["low" if name == "forget" else "high"]
        table.add_column(f"{name} ({entry['n']})\nbetter: {better}\nbefore", justify="right")
        table.add_column("\n\nafter", justify="right")
    for key, label in LABELS.items():
        values = [when[name].get(key) for name in before for when in (before, after)]
        if any(value is not None for value in values):
            table.add_row(label, *("–" if value is None else f"{value:.3f}" for value in values))
    entries = [when[name] for name in before for when in (before, after)]
    for said, label in (("facts", CUT), ("worst_kind_facts", f"… {OTHERWISE}")):
        if any(entry.get(f"{said}_unseen") for entry in entries):  # they might have said them: unseen is not forgotten
            cells = (_of_all(entry.get(f"{said}_unseen", 0), entry.get(said)) for entry in entries)
            known = (entry.get(f"{said}_said") is not None for entry in entries)
            table.add_row(label, *(cell if there else "–" for cell, there in zip(cells, known)))
    return table


def _of_all(n: float | None, of: float | None) -> str:
    return f"{n or 0:.0f}" + (f" of {of:.0f}" if n and of else "")


def print_bench(files: Sequence[Path], notes: Sequence[str]) -> None:
    """Where a benchmark's tables lie, and what must be known of them."""
    for line in (*files, *notes):
        click.echo(line)


def print_audit(document: Mapping[str, Any], path: Path, *, explain: bool = False) -> None:
    """Every figure of every model, what was not run, the gates and the verdict.

    Args:
        explain: what each figure means is said below them.
    """
    from rich.console import Console

    from rkld.auditing.gates import NO_PART, reason

    roles = list(document["models"])
    click.echo(headline(document["metrics"], roles))
    console = Console(highlight=False)
    table = _figures_table(document["metrics"], roles)
    if console.measure(table, options=console.options.update(width=WIDEST)).maximum > console.width:
        table = _figures_table(document["metrics"], roles, narrow=True)
    console.print(table)
    click.echo("Where neither lower nor higher is better, read the figure beside the control's.")
    if explain:
        unmeasured = {gate["name"]: gate for gate in document["gates"] if gate["name"] not in document["metrics"]}
        figures = {**document["metrics"], **unmeasured}.items()
        _print_explanations({name: (entry.get("explanation", ""), entry.get("title", "")) for name, entry in figures})
    else:
        click.echo("What each means: --explain")
    notes = document["membership"] or {}
    if notes.get("note"):
        click.echo(f"Membership: {notes['note']} (text-only AUC {notes['text_auc']['value']:.2f})")
    if document["inputs"]["left_out"]:
        click.echo(f"Left out: {len(document['inputs']['left_out'])} records that decided how far the run went")
    for note in document["inputs"]["notes"]:
        click.echo(f"Note: {note}")
    if left_out := document["not_run"]:
        click.echo(_not_run(left_out))
    for gate in document["gates"]:
        click.echo(_gate(gate, document["metrics"].get(gate["name"], gate).get("title")))
    of_limits = {reason(gate) for gate in document["gates"]}  # which the lines above say
    others = [one for one in document["reasons"] if one not in of_limits and not one.startswith(NO_PART)]
    click.echo(f"\nverdict  {document['verdict']}" + "".join(f"\n         {one}" for one in others))
    click.echo(f"evidence {path}")


WIDEST = 10_000
"""Columns of a terminal in which every table has room."""

NAME_COLUMNS = 17
"""Of a figure's name on a narrow terminal; a longer one goes on in the next line, from one of its words on."""


def _figures_table(metrics: Mapping[str, Any], roles: Sequence[str], *, narrow: bool = False) -> Table:
    """A row for each figure.

    Args:
        narrow: no lines between the columns, and long names in several lines; none is cut.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)) if narrow else Table()
    table.add_column("", overflow="fold", no_wrap=not narrow, min_width=NAME_COLUMNS if narrow else None)
    for name in (*roles, "n", "better"):
        table.add_column(name)
    for name, entry in metrics.items():
        figures = entry["figures"]
        n, better = str(next(iter(figures.values()))["n"]), _better(entry["forgotten"])
        cells = [name, *(_interval(figures.get(role)) for role in roles)]
        if narrow:
            cells = [_in_lines(name), *(cell.replace(" [", "\n[") for cell in cells[1:])]
        table.add_row(*cells, n, better)
    return table


BETTER_COLUMNS = 16
"""Of what is better: "as a model that never saw them" goes on in the next line."""


def _better(forgotten: str) -> str:
    """What is better, in the words of the report."""
    from rkld.evaluation.metric import BETTER

    return textwrap.fill(BETTER.get(forgotten, BETTER[""]), BETTER_COLUMNS)


def _in_lines(name: str) -> str:
    """A name of words and underscores in lines of at most :data:`NAME_COLUMNS`, each but the last ending with one."""
    *before, last = name.split("_")
    lines = [""]
    for word in (*(f"{word}_" for word in before), last):
        if lines[-1] and len(lines[-1] + word) > NAME_COLUMNS:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


NAMED = 6
"""Of what was not run so many are named in the terminal; the rest is counted."""


def _not_run(entries: Sequence[Mapping[str, str]]) -> str:
    """How many tests were not run, and how they can be; why each of them stands in the report."""
    unasked = [entry for entry in entries if entry["reason"].startswith("not asked for")]
    others = [printable(entry["name"]) for entry in entries if entry not in unasked]
    parts = [f"{len(unasked)} attacks that were not asked for (--attacks all runs them)"] if unasked else []
    if others:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        parts.append(f"{', '.join(others[:NAMED])}{more}")
    return f"Not run, or not whole: {'; '.join(parts)}. Why each of them: rkld report, or not_run in audit.json."


def headline(metrics: Mapping[str, Any], roles: Sequence[str]) -> str:
    """What was said in the worst kind of wording, of every model."""
    figures = metrics.get("worst_kind_facts_said", {}).get("figures", {})
    said = [f"{role} {_interval(figures[role])} ({figures[role]['kind']})" for role in roles if role in figures]
    return f"Facts said in the worst kind of wording: {', '.join(said) or 'not measured'}"


def _print_explanations(of: Mapping[str, tuple[str, str]]) -> None:
    """A line for each figure: what it means, for who has never heard of it; else its title."""
    for name, (explanation, title) in of.items():
        click.echo(f"{name}: " + (f"{title}. {explanation}" if title and explanation else explanation or title))


def _gate(gate: Mapping[str, Any], title: str | None) -> str:
    """How a gate ended, with its figure and limit, why it is open, and what the figure is in words."""
    from rkld.auditing.gates import why_open

    what = f"{gate['state']}: {gate['name']}" + (f" less the {gate['against']}'s" if gate["against"] else "")
    found = "" if gate["state"] == "not measured" else f" {_interval(gate)}, n = {gate['n']}"
    if gate["unmeasured"]:
        found += f" of which {gate['unmeasured']} were not measured"
    limit = f"{'default ' if gate['default'] else ''}{gate['kind']} {gate['limit']:g}"
    if gate["state"] == "not measured" and not gate["required"]:
        limit += ", no part of the verdict"
    why = f": {why_open(gate)}" if why_open(gate) else ""
    return f"{what}{found}, {limit}{why}" + (f" ({title})" if title else "")


def _interval(figure: Mapping[str, Any] | None) -> str:
    """A value and its interval; open ends are left empty."""
    if figure is None:
        return "–"

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    low, high = number(figure["low"]), number(figure["high"])
    return (
        f"{number(figure['value']) or 'never'} [{low}, {high}]" if low or high else number(figure["value"]) or "never"
    )


def _answers_table(answers: Sequence[Mapping[str, str]]) -> Table:
    """What a model said is not to be trusted: markup in it is text, and control characters are taken out."""
    from rich.table import Table
    from rich.text import Text

    table = Table("question", "before", "after", show_lines=True)
    for row in answers:
        table.add_row(*(Text(printable(row[column])) for column in ("question", "before", "after")))
    return table
