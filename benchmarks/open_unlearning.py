"""The comparison with the field's own code, locuslab/open-unlearning: our data and models out, its results in.

    python -m benchmarks.open_unlearning export --data FOLDER --split pair1 --original MODEL --retrained MODEL --out OUT
    sh OUT/run.sh CHECKOUT                                     # there: needs a GPU, and nothing of rkld
    python -m benchmarks.open_unlearning import --split pair1 --ours runs/tofu_pairs/results.csv \\
        --retain-logs …/TOFU_EVAL.json --logs NPO=…/TOFU_EVAL.json --logs original=…/TOFU_EVAL.json

FOLDER holds a split as ``rkld bench`` takes it: TOFU's files, or those of benchmarks.tofu_pairs. What is exported are
the questions that the bench asks, and models whose texts, as their code writes them, were found equal to ours token by
token. What comes back are losses of every question, from which our code makes its figures, beside those that theirs
states. See docs/open-unlearning.md. Nothing of open-unlearning is imported, copied or run here.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.common import write
from benchmarks.open_unlearning_configs import card, configs, script
from rkld.benching.question_figures import SETS, question_figures
from rkld.benching.registry import open_benchmark
from rkld.errors import UserError
from rkld.evaluation.tofu import logged_ratios, read_logs
from rkld.files import new_folder, write_jsonl, write_text
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.records.encoding import PLAIN_CHAT_TEMPLATE, Encoder
from rkld.records.reading import read_records
from rkld.records.record import Record
from rkld.records.refusals import read_refusals

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Export


@dataclass(frozen=True)
class Theirs:
    """A question and answer as src/data/utils.py of open-unlearning (preprocess_chat_instance) makes it."""

    ids: list[int]
    """(T,)"""
    prompt_length: int
    """Their labels are ``ids[prompt_length:]``, and their loss is the mean over these."""


def their_example(tokenizer: PreTrainedTokenizerBase, args: Mapping[str, Any], record: Record) -> Theirs:
    """What their code reads with ``apply_chat_template``: all of what the template writes, and EOS if that is not last.

    A template that writes a new line after the last end of turn (ChatML) so has both, and an EOS more, in the loss.
    """
    chat = [{"role": "user", "content": record.question}, {"role": "assistant", "content": record.answer}]

    def read(turns: list[dict[str, str]], asking: bool) -> list[int]:
        text = tokenizer.apply_chat_template(
            turns, add_generation_prompt=asking, tokenize=False, date_string=args["date_string"]
        )
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # as tokenize=True does

    ids = read(chat, asking=False)
    closed = ids[-1:] == [tokenizer.eos_token_id]
    return Theirs(ids if closed else [*ids, tokenizer.eos_token_id], len(read(chat[:-1], asking=True)))


def ending(template: str) -> str:
    """A chat template that ends where the last answer does: without white space after its end of turn."""
    # transformers' trim_blocks takes the new line after a block, and Jinja a last one in the source.
    body = template.removesuffix("\n")
    return "{% set written %}\n" + body + "{% endset %}\n{{ written if add_generation_prompt else written.rstrip() }}"


def free_padding(tokenizer: PreTrainedTokenizerBase, examples: Iterable[Theirs]) -> str:
    """A special token that stands nowhere in the examples but at their end.

    src/data/collators.py hides every padding id from attention, wherever it stands: an end of turn that serves as
    padding too (SmolLM2) would be invisible after the question. UserError where there is none.
    """
    used = {token for example in examples for token in example.ids[:-1]}
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for token in filter(None, (tokenizer.pad_token, tokenizer.unk_token, *added)):
        if tokenizer.convert_tokens_to_ids(token) not in used:
            return token
    raise UserError(
        f"every one of the tokenizer's {len(added)} special tokens stands within the texts, and open-unlearning would "
        "hide the one it pads with. Add a padding token to the model's tokenizer."
    )


def variants(record: Record) -> list[Record]:
    """The record with each of its answers: the right, the paraphrased, the wrong ones."""
    paraphrase = record.extra.get("paraphrased_answer")
    others = [*([paraphrase] if paraphrase else []), *record.extra.get("perturbed_answer", [])]
    return [record, *map(record.with_answer, others)]


def template_args(day: str) -> dict[str, Any]:
    """Of configs/model/*.yaml. With apply_chat_template all their tags are ignored; no system_prompt: none is added.

    Args:
        day: of templates with a date, ISO format.
    """
    return {"apply_chat_template": True, "date_string": f"{date.fromisoformat(day):%d %b %Y}"}


def adapt(tokenizer: PreTrainedTokenizerBase, records: Sequence[Record], day: str) -> int:
    """Give the tokenizer the template and padding with which their code reads what ours does.

    Args:
        day: as of :func:`template_args`.

    Returns:
        how many texts were compared: all answers of all records, ids and scored tokens.

    Raises:
        UserError: one differs.
    """
    ours = Encoder(tokenizer, template_date=day)
    texts = [variant for record in records for variant in variants(record)]
    expected = [ours.encode(text) for text in texts]
    tokenizer.chat_template = ending(tokenizer.get_chat_template() if tokenizer.chat_template else PLAIN_CHAT_TEMPLATE)
    found = [their_example(tokenizer, template_args(day), text) for text in texts]
    for text, mine, yours in zip(texts, expected, found, strict=True):
        last = max(t for t, answered in enumerate(mine.answer) if answered)  # a new line may come after it
        if list(mine.ids[: last + 1]) != yours.ids or mine.prompt_length != yours.prompt_length:
            raise UserError(
                f"{text.where}: open-unlearning would read {len(yours.ids)} tokens, {yours.prompt_length} of them the "
                f"prompt, where rkld reads {last + 1} and {mine.prompt_length}, or other ones. Its chat template must "
                "close an answer with the tokenizer's EOS, begin as the tokenizer does, and take its date from "
                "date_string: train the models with another --chat-template."
            )
    tokenizer.pad_token = free_padding(tokenizer, found)
    return len(texts)


def export(data: str, split: str, original: str, retrained: str, out: Path, questions: int | None = None) -> str:
    """Write the folder. It appears whole or not at all.

    Args:
        data, split, questions: as of ``rkld bench tofu``.

    Returns:
        what was found, as README.txt has it.

    Raises:
        UserError: the folder is there, the data or models are not, the two models write records differently, or
            open-unlearning would read them differently than rkld.
    """
    if out.exists():
        raise UserError(f"--out {out} exists already: give another name, or remove it.")
    given = {"data": data, "splits": split, "original": original, "retrained": retrained, "questions": questions}
    benchmark = open_benchmark("tofu", given)
    found = benchmark.task(split, 0)
    forget, retain = read_records(found.forget, "forget"), read_records(found.retain, "retain")
    parts = {split: forget, f"{split}_retain": retain}
    parts |= {f"{split if name == 'forget' else name}_perturbed": list(found.asked[name]) for name in SETS}
    everything, day = [record for records in parts.values() for record in records], benchmark.settings.template_date
    fingerprints, compared = set(), 0
    with new_folder(out) as folder:
        for role, source in {"original": original, "retrained": retrained}.items():
            lm = load_model(source)
            fingerprints.add(Encoder(lm.tokenizer, template_date=day).fingerprint)
            if len(fingerprints) > 1:
                raise UserError(
                    f"the original {original} and the retrained model {retrained} write records differently: make both "
                    "with the same tokenizer and chat template."
                )
            compared = adapt(lm.tokenizer, everything, day)
            save_model(lm, folder / "models" / role, merge=True)  # they load no adapter
            del lm
        (folder / "data").mkdir()
        for name, records in parts.items():
            write_jsonl(folder / "data" / f"{name}.json", map(row, records))
        write_text(folder / "data" / "README.md", card(list(parts)))
        write_text(folder / "refusals.txt", "".join(f"{line}\n" for line in read_refusals()))
        for name, text in configs(split, template_args(day)).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_text(folder / name, text)
        write_text(folder / "run.sh", script(split))
        counts = ", ".join(f"{name} {len(records)}" for name, records in parts.items())
        readme = _README.format(split=split, texts=compared, counts=counts)
        write_text(folder / "README.txt", readme)
    return readme


_README = """\
For a checkout of locuslab/open-unlearning, made by rkld (docs/open-unlearning.md). Split: {split}.

  sh run.sh CHECKOUT

copies configs/ over the checkout's (it replaces its TOFU_QA_*.yaml: use a checkout of its own), evaluates both models,
and unlearns and evaluates by each trainer with its own defaults, into CHECKOUT/saves. The commands stand in run.sh.

Found equal to rkld, token by token, prompt and scored tokens: {texts} texts.
Records: {counts}. This folder holds what is to be forgotten: keep it as the records are kept.

Not verified: nothing of open-unlearning was run. Its forms were read in stored copies of its files; a version that
names trainers, metrics or keys otherwise needs them changed here. run.sh stops at a trainer that a checkout lacks:
take its lines out.
"""


def row(record: Record) -> dict[str, Any]:
    """As TOFU has it, with what their metrics read and nothing else."""
    kept = ("paraphrased_answer", "perturbed_answer")
    extra = {name: record.extra[name] for name in kept if name in record.extra}
    return {"question": record.question, "answer": record.answer, **extra}


# Import

RESULTS = "benchmarks/results/open_unlearning.md"

# Ours → theirs, in TOFU_SUMMARY.json: the names of configs/eval/tofu_metrics/*.yaml (the @package line).
STATED = {
    "forget_quality": "forget_quality", "ks_distance": "", "forget_probability": "forget_Q_A_Prob",
    "forget_rouge_l": "forget_Q_A_ROUGE", "forget_truth_ratio": "forget_truth_ratio",
    "retain_probability": "retain_Q_A_Prob", "retain_rouge_l": "retain_Q_A_ROUGE", "model_utility": "model_utility",
}  # fmt: skip
BY_OURS, BY_THEIRS = "theirs, by our code", "theirs, as stated"


def computed(path: Path, retrained: Sequence[float]) -> dict[str, float]:
    """Figures of their log, by our code: the columns of the bench.

    Args:
        retrained: the retrained model's truth ratios (m,).

    Raises:
        UserError: no such log, or it lacks what they are made of.
    """
    logs = read_logs(path)
    losses = {}
    for name in SETS:
        found = dict(logs.get(name, {}))
        if name in ("real_authors", "world_facts") and "gold_loss" in found:
            found.setdefault("paraphrase_loss", found["gold_loss"])  # the right answer stands in
        missing = [field for field in ("gold_loss", "paraphrase_loss", "perturbed_loss", "rouge") if field not in found]
        if missing:
            raise UserError(
                f"{path} lacks {', '.join(missing)} of {name}: evaluate with the exported configs/eval/rkld.yaml."
            )
        losses[name] = found
    try:
        return question_figures(losses, retrained)
    except ValueError as error:  # NaN, unequal numbers of questions
        raise UserError(f"{path}: {error}. Evaluate the model again.") from error


def stated(path: Path) -> dict[str, float]:
    """What TOFU_SUMMARY.json beside the log says, by our names; without one, the log's own ``agg_value`` of each."""
    summary = path.with_name("TOFU_SUMMARY.json")
    source = summary if summary.is_file() else path
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        found = {name: content.get(theirs) for name, theirs in STATED.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{source} cannot be read ({error}): it must be as open-unlearning wrote it.") from error
    values = {name: value.get("agg_value") if isinstance(value, Mapping) else value for name, value in found.items()}
    return {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}


def our_rows(path: Path, split: str) -> list[dict[str, Any]]:
    """The bench's rows of a split, from its ``results.csv``. UserError where it has none."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        splits = sorted({row["split"] for row in rows})
        here = [row for row in rows if row["split"] == split]
        found = [
            {
                "method": row["method"], "from": f"rkld bench, {row['moment']}, seed {row['seed']}", "n": int(row["n"]),
                **{name: float(row[name]) for name in STATED if row.get(name)},
            }
            for row in here
        ]  # fmt: skip
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"--ours {path} is no results.csv of rkld bench ({error!r}).") from error
    if not found:
        raise UserError(f"--ours {path} has no row of the split {split}. Its splits: {', '.join(splits) or 'none'}.")
    return found


def compare(logs: Mapping[str, Path], retain_logs: Path, ours: Path, split: str) -> list[dict[str, Any]]:
    """Rows: what their code trained, by both codes' metrics, then ours. UserError for files that are not these."""
    try:
        retrained = logged_ratios(read_logs(retain_logs))
    except ValueError as error:
        raise UserError(f"--retain-logs {retain_logs}: {error}. Evaluate the retrained model with run.sh.") from error
    rows = []
    for name, path in {"retrained": retain_logs, **logs}.items():
        rows.append({"method": name, "from": BY_OURS, **computed(path, retrained)})
        rows.append({"method": name, "from": BY_THEIRS, **stated(path)})
    return rows + our_rows(ours, split)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; a dash where a code does not say a figure."""
    columns = ("n", *STATED)
    lines = ["| method | figures | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for found in rows:
        cells = (_cell(found.get(name)) for name in columns)
        lines.append(f"| {found['method']} | {found['from']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}" if value == 0 or value >= 5e-4 else f"{value:.0e}"


_NOTES = """
- The models "original" and "retrained" are the same in both codes: where their figures differ, the codes do.
- forget_quality and ks_distance are of the retrained model as the same code measured it. Its own row is 1 and 0 by
  definition.
- ROUGE-L: theirs generates up to 200 tokens; ours as many as the bench was given.
- Methods of theirs ran with their defaults, or with what run.sh was given; none was tuned here unless that says so."""


# Commands


@click.group(help=__doc__.split("\n")[0])
def main() -> None:
    pass


@main.command("export")
@click.option("--data", required=True, help="TOFU's files or those of benchmarks.tofu_pairs.")
@click.option("--split", required=True, help="What is forgotten: forget01, or NAME of NAME.json in --data.")
@click.option("--original", required=True, help="The model that learned everything.")
@click.option("--retrained", required=True, help="The model that never learned the split.")
@click.option("--questions", type=int, help="As given to the bench: per set beside forget. Default: all.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
def export_command(data: str, split: str, original: str, retrained: str, questions: int | None, out: Path) -> None:
    """Write data, models, configs and commands for open-unlearning."""
    print(export(data, split, original, retrained, out, questions))


@main.command("import")
@click.option("--logs", multiple=True, required=True, metavar="METHOD=FILE", help="TOFU_EVAL.json; may be repeated.")
@click.option("--retain-logs", type=click.Path(path_type=Path), required=True, help="That of the retrained model.")
@click.option("--ours", type=click.Path(path_type=Path), required=True, help="results.csv of rkld bench.")
@click.option("--split", required=True, help="The split that was exported.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="The table, .md.")
def import_command(logs: Sequence[str], retain_logs: Path, ours: Path, split: str, out: Path) -> None:
    """Make a table of its results beside ours."""
    rows = compare(by_method(logs), retain_logs, ours, split)
    command = f"python -m benchmarks.open_unlearning import --split {split}"
    title, body = f"open-unlearning beside rkld bench, {split}", f"{table(rows)}\n{_NOTES}"
    write(out.parent, out.stem, title, command, {"rows": rows}, body)
    print(table(rows))


def by_method(logs: Sequence[str]) -> dict[str, Path]:
    """METHOD=FILE, each once."""
    found: dict[str, Path] = {}
    for text in logs:
        name, _, path = text.partition("=")
        if not name or not path or name in found:
            raise UserError(f"--logs is '{text}': give METHOD=FILE, each method once.")
        found[name] = Path(path)
    return found


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"Error: {error}")
