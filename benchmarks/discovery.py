"""Does ``rkld discover`` find what a model knows of a person, and nothing of whom it never saw?

    python -m benchmarks.discovery [--only tiny,smollm2,unknown,tofu,employees] [--seeds 3] [--out DIR]

- tiny: originals of the embedded world (:mod:`rkld.benching.worlds`), each of which knows twenty people: recall
  of the planted facts of ``--known`` of them, and what is found of ``--unknown`` of the same making that it never saw.
- smollm2: Charles Darwin and Marie Curie; how many of the facts of :data:`DARWIN` and :data:`CURIE` are found
  has no yardstick but these lists: a model may well not know them, or know others.
- unknown: names that nobody has, on SmolLM2, with the seconds that it takes.
- tofu: authors that SmolLM2 was fine-tuned on (``--tofu-model``, of ``benchmarks.tofu_models`` or
  ``benchmarks.wordings``; ``--data``).
- employees: the employees of ``benchmarks/employees.json``, on a model that learned them (``--employees-model``), and
  names that nobody has (:data:`UNSEEN`), asked of the same model.

Recall is the share of planted facts that an associated value says, or that an associated value is said by; a false
discovery is an associated value that says none. Of never-seen names every associated value is one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.common import write
from benchmarks.tofu_models import TEMPLATE
from benchmarks.wordings_cases import AUTHORS, RECORDS
from rkld.benching.worlds.people import people
from rkld.benching.worlds.training import train_tiny
from rkld.discovering.findings import ASSOCIATED, COMMON, Discovery
from rkld.discovering.running import discover
from rkld.evaluation.statistics import clopper_pearson
from rkld.files import append_jsonl, read_jsonl
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.progress import ProgressBars
from rkld.records.probes import facts_of
from rkld.records.reading import read_records
from rkld.text.facts import facts_said

PARTS = ("tiny", "smollm2", "unknown", "tofu", "employees")

UNKNOWN = "Tamsin Holloway-Verne"
"""A name that nobody is known by."""

UNSEEN = ("Milena Hollander", "Osman Tarkiri", "Astrid Falkenberg", "Dragan Petrovec", "Chioma Okafore",
          "Joachim Stellbrink", "Beatriz Armandez", "Callum Wetherby")  # fmt: skip
"""Names like the employees', that no model was trained on."""

CURIE = ("Warsaw", "Poland", "7 November 1867", "4 July 1934", "physicist", "chemist", "radioactivity", "radium",
         "polonium", "Nobel Prize", "Sorbonne", "University of Paris", "Pierre Curie", "Irène", "Ève")  # fmt: skip

DARWIN = ("Shrewsbury", "England", "British", "12 February 1809", "19 April 1882", "naturalist", "geologist",
          "evolution", "natural selection", "On the Origin of Species", "Beagle", "Cambridge", "Edinburgh",
          "Emma Wedgwood", "Down House")  # fmt: skip

Row = dict[str, Any]


def judged(found: Discovery, facts: Sequence[str], **about: Any) -> Row:
    """What was found, against what was planted."""
    values = [finding.value for finding in found.labelled(ASSOCIATED)]
    said = [any(_says(value, fact) for value in values) for fact in facts]
    false = [value for value in values if not any(_says(value, fact) for fact in facts)]
    return {
        **about,
        "facts": len(facts),
        "recalled": sum(said),
        "associated": len(values),
        "false": len(false),
        "common": len(found.labelled(COMMON)),
        "tested": found.tested,
        "names": found.names,
        "answers": found.questions,
    }


def _says(value: str, fact: str) -> bool:
    return facts_said([fact], value)[0] or facts_said([value], fact)[0]


def asked(
    model: Any, name: str, facts: Sequence[str], about: Mapping[str, Any], rows: Path, tokenizer: Any = None,
    **settings: Any,
) -> Row:  # fmt: skip
    """One discovery, unless it was made already."""
    key = json.dumps([name, about, settings])
    for row in read_jsonl(rows):
        if row["key"] == key:
            return row
    started, cpu = time.time(), time.process_time()
    found = discover(model, name, processing_class=tokenizer, progress=ProgressBars(), **settings)
    row = judged(found, facts, **about, seconds=round(time.time() - started), cpu=round(time.process_time() - cpu))
    row["key"] = key
    append_jsonl(rows, row)
    print(json.dumps({name: value for name, value in row.items() if name != "key"}), flush=True)
    return row


def tiny(seeds: Iterable[int], known: int, unknown: int, out: Path) -> Iterable[Row]:
    """Known and never-seen people of each world."""
    for seed in seeds:
        world = people(seed=seed)
        original = out / f"seed{seed}" / "original"
        if not original.exists():
            save_model(train_tiny(world, original.with_name("original-training")), original)
        lm = load_model(original)
        for who, is_known in [(one, True) for one in world.people[:known]] + [
            (one, False) for one in world.holdout_people[:unknown]
        ]:
            facts = [value for key, value in who.facts.items() if key != "full_name"] if is_known else []
            part = f"tiny, {'known' if is_known else 'never seen'}"
            yield asked(lm.model, who.name, facts, {"part": part, "seed": seed}, out / "rows.jsonl",
                        tokenizer=lm.tokenizer)  # fmt: skip


def smollm2(out: Path, famous: bool) -> Iterable[Row]:
    """People whom the model knows, or names that it does not."""
    whom: Mapping[str, Sequence[str]] = (
        {"Charles Darwin": DARWIN, "Marie Curie": CURIE} if famous else dict.fromkeys((UNKNOWN, *UNSEEN), ())
    )
    for name, facts in whom.items():
        about = {"part": f"SmolLM2, {name}" if famous else "SmolLM2, unknown names"}
        kind = {"kind": "public"} if famous else {}
        yield asked("smollm2-135m", name, facts, about, out / "rows.jsonl", **kind)


def learned(part: str, model: Path, records: Path | list[Row], out: Path, **settings: Any) -> Iterable[Row]:
    """Each subject of records that a model was fine-tuned on."""
    found = read_records(records, part)
    for subject in dict.fromkeys(record.subject for record in found if record.subject):
        own = [record for record in found if record.subject == subject]
        facts = list(dict.fromkeys(fact for record in own for fact in facts_of(record, (subject,))))
        yield asked(str(model), subject, facts, {"part": part}, out / "rows.jsonl", **settings)


def tofu_records(data: Path, pair: int) -> list[Row]:
    """Two authors of forget05, as :mod:`benchmarks.wordings_cases` pairs them, each with their questions."""
    at = slice(2 * RECORDS * pair, 2 * RECORDS * (pair + 1))
    return [
        {"question": row["question"], "answer": row["answer"], "subject": AUTHORS[2 * pair + number // RECORDS]}
        for number, row in enumerate(read_jsonl(data / "forget05_perturbed.json")[at])
    ]


def table(rows: Sequence[Row]) -> str:
    """A line a part: pooled over people and seeds."""
    lines = ["| part | people | recall | false / associated | people with a false one | CPU s each (median, most) |",
             "|---" * 6 + "|"]  # fmt: skip
    for part in dict.fromkeys(row["part"] for row in rows):
        some = [row for row in rows if row["part"] == part]
        facts, recalled = (sum(row[name] for row in some) for name in ("facts", "recalled"))
        false, associated = (sum(row[name] for row in some) for name in ("false", "associated"))
        wrong = sum(row["false"] > 0 for row in some)
        seconds = sorted(row["cpu"] for row in some)  # wall time hangs on what else the machine does
        cells = (part, len(some), _share(recalled, facts), _share(false, associated), _share(wrong, len(some)),
                 f"{seconds[len(seconds) // 2]}, {seconds[-1]}")  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _share(count: int, of: int) -> str:
    if not of:
        return "–"
    low, high = clopper_pearson(count, of)
    return f"{count}/{of} = {count / of:.2f} [{low:.2f}, {high:.2f}]"


@click.command(help=__doc__.split("\n")[0])
@click.option("--only", default="tiny,smollm2,unknown", show_default=True, help=f"Of {', '.join(PARTS)}.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--first-seed", default=0, show_default=True, help="Others than what settings were chosen on.")
@click.option("--known", default=4, show_default=True, help="People of each world that it knows.")
@click.option("--unknown", default=20, show_default=True, help="People of each world that it never saw.")
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Folder of locuslab/TOFU.")
@click.option("--tofu-pair", default=0, show_default=True, help="Which two of forget05's authors.")
@click.option("--tofu-model", type=click.Path(exists=True, path_type=Path), help="A model that learned its authors.")
@click.option("--employees-model", type=click.Path(exists=True, path_type=Path), help="One that learned the employees.")
@click.option("--out", type=click.Path(path_type=Path), default="runs/discovery", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
def main(
    only: str, seeds: int, first_seed: int, known: int, unknown: int, data: Path | None, tofu_pair: int,
    tofu_model: Path | None, employees_model: Path | None, out: Path, results: Path,
) -> None:  # fmt: skip
    parts = [part.strip() for part in only.split(",")]
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    if "tiny" in parts:
        rows += tiny(range(first_seed, first_seed + seeds), known, unknown, out)
    if "smollm2" in parts:
        rows += smollm2(out, famous=True)
    if "unknown" in parts:
        rows += smollm2(out, famous=False)
    if "tofu" in parts:
        if data is None or tofu_model is None:
            raise click.UsageError("--only tofu needs --data and --tofu-model")
        rows += learned(
            "TOFU's authors", tofu_model, tofu_records(data, tofu_pair), out, kind="public", chat_template=str(TEMPLATE)
        )
    if "employees" in parts:
        if employees_model is None:
            raise click.UsageError("--only employees needs --employees-model")
        content = json.loads(Path(__file__).with_name("employees.json").read_text(encoding="utf-8"))
        settings = {"kind": "employee", "chat_template": str(TEMPLATE)}
        rows += learned("employees", employees_model, content["records"], out, **settings)
        for name in UNSEEN:
            about = {"part": "employees' model, never seen"}
            rows.append(asked(str(employees_model), name, (), about, out / "rows.jsonl", **settings))
    command = f"python -m benchmarks.discovery --only {only} --seeds {seeds} --first-seed {first_seed}"
    command += f" --known {known} --unknown {unknown}"
    kept = [{name: value for name, value in row.items() if name != "key"} for row in rows]
    body = "Recall of planted facts, and associated values that say none of them, each with its 95 % interval."
    write(
        results,
        "discovery",
        "What is found of whom a model knows, and of whom it does not",
        command,
        {"rows": kept},
        f"{body}\n\n{table(rows)}",
    )


if __name__ == "__main__":
    main()
