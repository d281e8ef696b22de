"""Is a fact forgotten, or a sentence? Ways of unlearning, asked in wordings that neither training nor stop has seen.

    python -m benchmarks.wordings [--only tiny] [--seeds 3] [--ways NAME,…] [--out runs/wordings]
    python -m benchmarks.wordings --data FOLDER --rewordings FILE --lume FOLDER        # with SmolLM2-135M, hours

- tiny: two of twenty people of the tiny world in many wordings; each seed is another world and another pair, and leaves
  out other kinds (over four seeds each of question once).
- tofu: pairs of TOFU's authors in ``forget05`` (``--data``, a folder of locuslab/TOFU; ``--rewordings``, JSON lines of
  ``question``, ``questions``, ``answers``): pairs 0 to 2 choose, the others report. Twelve authors are learned.
- lume: 4 of 30 people of LUME's Task 2 (``--lume``, a folder with its ``forget.jsonl``).
- employees: one of six invented employees (``employees.json``): described, not tested.

Of each case there are an original, several retrained models that never saw the forgotten, and a model of each way. Each
is audited once; the figures are computed of what these audits read. Models, audits and cells are found again in
``--out``, so that a run can be had in pieces; results are written after every cell.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

import rkld
from benchmarks.common import write
from benchmarks.tofu_models import EPOCHS
from benchmarks.wordings_cases import EMPLOYEES, SAMPLES, Case, Rows, employees, lighter, lume, tiny, tofu
from benchmarks.wordings_figures import AIMS, Group, beside_audit, figures
from rkld.benching.tables import as_markdown
from rkld.errors import UserError, nearest
from rkld.progress import ProgressBars
from rkld.runfolder.checksums import read_sealed
from rkld.runfolder.manifest import READINGS
from rkld.runfolder.once import ResultFiles, once, own_key

READ = ("likelihood", "answers", "contrast", "retain", "sampling", "prefixes", "relearning", "4bit", "8bit")
"""Readings of an audit that figures are made of."""


@dataclass(frozen=True)
class Way:
    """How a model is made to forget: settings of ``rkld.unlearn``, and what it is given beside the records."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    prompts: bool = False
    """Questions about those who stay are replayed; else what the defaults replay."""
    holdout: bool = False
    """Records of strangers steer the stop; else those that the run makes of the records."""
    rewordings: int = 0
    """So many rewordings of each record, as a user has written them, stand in the records."""
    base: bool = False
    """The model from before is given; cases without one are left out."""


WAYS: dict[str, Way] = {
    "defaults": Way(),
    "holdout": Way(holdout=True),
    "retain prompts": Way(prompts=True),
    "no rewordings": Way({"reword": 0}),
    "user's rewordings": Way(prompts=True, rewordings=3),
    "version 0.1": Way({"reword": 0, "score": "answer", "alpha": 8.0}),
    "published": Way({"reword": 0, "score": "answer", "alpha": 8.0, "replay": "none", "stop": "last"}),
    "published, retain prompts": Way({"score": "answer", "alpha": 8.0}, prompts=True),
    "base vector": Way({"method": "base_vector"}, prompts=True, base=True),
    "base vector, no prompts": Way({"method": "base_vector"}, base=True),
    "own words": Way({"own_words": "join"}, prompts=True),
    "instead unknown": Way({"instead": "unknown"}, prompts=True),
    "npo, retain prompts": Way({"method": "npo"}, prompts=True),
    "simnpo, retain prompts": Way({"method": "simnpo"}, prompts=True),
}
"""Name → way. A new setting is an entry here, alone and together with others.

Other methods get the rewordings, the stop and, with "retain prompts", the replay of the defaults, which holds them to
the original's own answers: an erasure has no records about others to train on, as NPO+RT would.
"""


def request(case: Case, way: Way) -> dict[str, Any]:
    """Arguments of ``rkld.unlearn`` beside the model and the folder."""
    rows: Rows = case.request
    if way.rewordings:
        given = [{name: texts[: way.rewordings] for name, texts in row.items()} for row in case.rewordings]
        rows = [{**row, "rewordings": one} for row, one in zip(rows, given, strict=True)]
    replay = {"replay": case.prompts} if way.prompts else {}
    holdout = {"holdout": case.holdout} if way.holdout else {}
    base = {"base": case.base} if way.base else {}
    # Ways are timed: each has its own replay prompts answered.
    return {"forget": rows, "keep_replay": False, **replay, **holdout, **base, **case.settings, **way.settings}


def unlearned(case: Case, way: Way, original: Path, folder: Path) -> tuple[Path, float]:
    """The model of one way, and the seconds that the run took, as it noted them when it was made."""
    noted, started = folder.with_name(f"{folder.name}.seconds.json"), time.perf_counter()
    result = rkld.unlearn(str(original), out=str(folder), progress=ProgressBars(), **request(case, way))
    if not noted.exists():
        noted.write_text(json.dumps(time.perf_counter() - started))
    return result.model_path, float(json.loads(noted.read_text()))


def read(case: Case, model: Path, folder: Path) -> dict[str, Any]:
    """Both audits of a model: of the records as they stand, and in the unseen kinds."""
    sets = {"recorded": {"forget": case.recorded, "retain": case.retain}, "unseen": {"forget": case.unseen}}
    asked = {"unseen": {"attacks": ("sampling",)}}
    found = beside_audit(model, case)
    for part, records in sets.items():
        settings = {**case.audit, **asked.get(part, {})}
        audit = rkld.audit(str(model), **records, **settings, out=str(folder / part), progress=ProgressBars())
        files = audit.document["readings"]["audited"]
        found[part] = {
            name: read_sealed(folder / part / READINGS / files[name]["file"], own_key())
            for name in READ
            if name in files
        }
    return found


def cell(
    case: Case, name: str, make: Callable[[], tuple[Path, float | None]], out: Path, **noted: Any
) -> dict[str, Any]:
    """What was read of one model on one case, made unless it is there. Others' settings are refused."""

    def made() -> dict[str, Any]:
        model, seconds = make()
        return {
            "seconds": seconds,
            "prompts": noted.get("prompts", False),
            **read(case, model, out / case.name / "audits" / name.replace(" ", "_")),
        }

    audit = {setting: str(value) for setting, value in case.audit.items() if setting != "chat_template"}
    settings = {"case": case.name, "kinds": case.kinds, "audit": audit, **noted}
    return once(ResultFiles(out / case.name / "cells", settings), name.replace(" ", "_"), made)


def cells(case: Case, ways: Mapping[str, Way], retrained: int, out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(model, cell) of the original, the retrained models and every way."""
    models = out / case.name / "models"

    def learned(name: str, knows: bool, seed: int) -> Path:
        return case.learned(knows, seed, models / name)

    yield "original", cell(case, "original", lambda: (learned("original", True, 0), None), out)
    for seed in range(retrained):
        name = f"retrained {seed}"
        yield name, cell(case, name, lambda n=name, s=seed: (learned(n.replace(" ", ""), False, s), None), out)
    for name, way in ways.items():
        if way.base and case.base is None:
            continue
        folder = out / case.name / "runs" / name.replace(" ", "_")
        given = json.loads(json.dumps(way.settings))  # as it is read again
        yield name, cell(
            case, name, lambda w=way, f=folder: unlearned(case, w, learned("original", True, 0), f), out,
            way=given, holdout=way.holdout, base=way.base, rewordings=way.rewordings, prompts=way.prompts,
        )  # fmt: skip


def table(group: Group) -> str:
    """A row for each figure, a column for each model: the ways, and the retrained ones in their place."""
    models = [name for name in group.models if name != "original"]
    found = {name: figures(group, name) for name in ("original", *models)}
    shown = [title for title in AIMS if any(each[title] for each in found.values())]
    lines = [[title, AIMS[title][0], *(str(found[name][title] or "not measured") for name in found)] for title in shown]
    return as_markdown(["figure", "aim", *(_title(name) for name in found)], lines)


def _title(name: str) -> str:
    return f"{name}, in the unlearned one's place" if name.startswith("retrained") else name


def as_values(group: Group) -> dict[str, Any]:
    """Model → figure → its values, pooled and case by case."""
    alone = {case.name: Group([case], group.cells) for case in group.cases}
    return {
        name: {"pooled": _plain(group, name), **{case: _plain(one, name) for case, one in alone.items()}}
        for name in group.models
    }


def _plain(group: Group, model: str) -> dict[str, Any]:
    found = {title: None if each is None else dict(vars(each)) for title, each in figures(group, model).items()}
    for each in found.values():
        if each and each["bound"] == math.inf:  # of a single person, and JSON has no infinity
            each["bound"] = None
    return found


@dataclass
class Results:
    """All that was read so far, written after every cell."""

    cases: Sequence[Case]
    folder: Path
    command: str
    cells: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def add(self, case: Case, model: str, cell: dict[str, Any]) -> None:
        self.cells[case.name, model] = cell
        values, parts = {}, []
        for name in dict.fromkeys(case.group for case in self.cases):
            here = [case for case in self.cases if case.group == name and (case.name, "original") in self.cells]
            if here:
                group = Group(here, self.cells)
                values[name] = {"kinds left out": {case.name: case.kinds for case in here}, "models": as_values(group)}
                parts.append(f"## {name}: {', '.join(case.name for case in here)}\n\n{table(group)}")
        write(self.folder, "wordings", "Facts in wordings that nobody trained on", self.command, values,
              "\n\n".join([NOTE, *parts]))  # fmt: skip


NOTE = """Bounds are one-sided, 95 %, clustered by person and corrected for the number of unseen kinds. "Not
established": the estimate is within the aim, or no further from it than a retrained model's, and n or the interval
does not show it. A retrained model in the unlearned one's place is compared with the others."""


def cases_of(
    only: Sequence[str], seeds: int, data: Path | None, rewordings: Path | None, lume_data: Path | None,
    pairs: Sequence[int], model: str, epochs: int,
) -> list[Case]:  # fmt: skip
    """Every case that is asked for and whose data are there."""
    found = [tiny(seed) for seed in range(seeds)] if "tiny" in only else []
    if "tofu" in only and data and rewordings:
        found += [tofu(data, rewordings, number, model, epochs) for number in pairs]
    if "lume" in only and lume_data:
        found.append(lume(lume_data, model, epochs))
    if "employees" in only:
        found.append(employees(json.loads(EMPLOYEES.read_text(encoding="utf-8")), model, epochs))
    if not found:
        raise UserError("nothing to measure: tofu needs --data and --rewordings, lume --lume.")
    return found


def chosen(names: str) -> dict[str, Way]:
    """The ways of these names, with semicolons between; all for "all". UserError for one that is not there."""
    wanted = list(WAYS) if names == "all" else [name.strip() for name in names.split(";") if name.strip()]
    for name in wanted:
        if name not in WAYS:
            raise UserError(f"there is no way '{name}'.{nearest(name, WAYS)} Known: {'; '.join(WAYS)}.")
    return {name: WAYS[name] for name in wanted}


@click.command(help=__doc__.split("\n")[0])
@click.option("--only", default="tiny,tofu,lume,employees", show_default=True, help="Which cases, with commas.")
@click.option("--seeds", default=3, show_default=True, help="Worlds of the tiny model.")
@click.option("--retrained", default=3, show_default=True, help="Retrained models of each case.")
@click.option("--ways", default="all", show_default=True, help="Names, with semicolons between.")
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Folder of locuslab/TOFU.")
@click.option(
    "--rewordings", type=click.Path(exists=True, path_type=Path), help="JSON lines of its questions reworded."
)
@click.option("--lume", "lume_data", type=click.Path(exists=True, path_type=Path), help="Folder of LUME's JSON lines.")
@click.option("--pairs", default="0,1,2,3,4", show_default=True, help="Of TOFU's authors.")
@click.option(
    "--model", default="smollm2-135m", show_default=True, help="What TOFU's, LUME's and employees' start from."
)
@click.option("--epochs", default=EPOCHS, show_default=True, help="In which these learn their records.")
@click.option("--bf16", is_flag=True, help="SmolLM2's models compute in bfloat16: twice as fast on CPUs with AMX.")
@click.option("--samples", default=SAMPLES, show_default=True, help="Answers of SmolLM2 drawn a question.")
@click.option("--out", type=click.Path(path_type=Path), default="runs/wordings", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
@click.option("--plan", "planning", is_flag=True, help="Say what would be made; make nothing.")
def main(
    only: str, seeds: int, retrained: int, ways: str, data: Path | None, rewordings: Path | None,
    lume_data: Path | None, pairs: str, model: str, epochs: int, bf16: bool, samples: int, out: Path, results: Path,
    planning: bool,
) -> None:  # fmt: skip
    wanted = chosen(ways)
    numbers = [int(number) for number in pairs.split(",")]
    asked = cases_of(only.split(","), seeds, data, rewordings, lume_data, numbers, model, epochs)
    cases = [lighter(case, bf16, samples) for case in asked]
    if planning:
        for case in cases:
            print(f"{case.name}: {len(case.request)} records; {len(case.unseen)} questions in unseen kinds "
                  f"({', '.join(case.kinds)}); {1 + retrained} models, {len(wanted)} ways")  # fmt: skip
        return
    command = f"python -m benchmarks.wordings --only {only} --seeds {seeds} --retrained {retrained} --ways '{ways}'"
    command += f" --samples {samples}" * (samples != SAMPLES) + " --bf16" * bf16
    command += f" --pairs {pairs} --data FOLDER --rewordings FILE" * ("tofu" in only) + " --lume FOLDER" * (
        "lume" in only
    )
    found = Results(cases, results, command)
    for case in cases:
        for name, one in cells(case, wanted, retrained, out):
            found.add(case, name, one)
            print(f"{case.name}: {name}", flush=True)


if __name__ == "__main__":
    main()
