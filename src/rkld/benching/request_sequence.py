"""``rkld bench continual``: erasure requests one after another, each from the model that the last one left.

What a service lives with, and one erasure does not show: whether people erased earlier come back, and how the rest
wears off. The folder:

    request-1, …      run folders of :func:`rkld.unlearn`, which resume by themselves
    after-0.json, …   what was measured after each: numbers alone
    continual.csv, continual.md
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from rkld import methods
from rkld.benching.tables import as_csv, as_markdown
from rkld.errors import UserError, machine_errors_explained
from rkld.evaluation.summary import measure
from rkld.files import write_text
from rkld.pipeline.preparing import DATA, Inputs, choose, load_with_encoder, measured_retain, read_inputs
from rkld.pipeline.running import Result, run_unlearning
from rkld.progress import NoProgress, without_noise
from rkld.records.identity import identifiers
from rkld.records.record import Record
from rkld.runfolder.folder import give_up_model
from rkld.runfolder.lock import hold
from rkld.runfolder.manifest import is_finished, read_manifest
from rkld.runfolder.once import ResultFiles, once
from rkld.settings.typed import UnlearnKeywords

FIGURES = {"probability": "probability", "rouge_l": "ROUGE-L", "facts_said": "facts said"}
"""Of :class:`rkld.evaluation.summary.Measurement`, and their titles."""


Measured = Mapping[str, Mapping[str, Any]]
"""Set ("request 1", …, "retain") → its values, of one state of the model."""


@dataclass(frozen=True)
class Continual:
    """What a sequence of requests has made.

    Attributes:
        measured: the original's figures, then those after each request.
        files: the tables.
        model_path: folder of the model after the last request.
        warnings: of each request what the user should know.
    """

    measured: Sequence[Measured]
    files: Sequence[Path]
    model_path: Path
    warnings: Sequence[str]


@machine_errors_explained()
@without_noise()
def continual(
    model: Any = None,
    forget: Any = None,
    *,
    retain: Any = None,
    replay: Any = "auto",
    holdout: Any = None,
    control: Any = None,
    progress: NoProgress | None = None,
    **settings: Unpack[UnlearnKeywords],
) -> Continual:
    """Unlearn every subject of the forget records by itself, in their order, and measure all after each.

    Args:
        model: folder, hub name, alias or adapter folder.
        forget: records of several people, each with its ``subject``, in the forms of
            :func:`rkld.unlearn`.
        retain, replay, holdout, control: as of :func:`rkld.unlearn`, the same for every request.
        progress: shows what is going on.
        settings: everything else, by the names of :class:`rkld.settings.unlearning.Settings`; ``out`` is the
            sequence's folder.

    Raises:
        UserError: bad input; fewer than two people; a folder that holds something else.
    """
    data = {"forget": forget, "retain": retain, "replay": replay, "holdout": holdout}
    chosen, objects = choose({"model": model, "control": control, **data}, settings)
    if "model" in objects:
        raise UserError(
            f"The model is a {type(model).__name__}: a sequence goes from folder to folder, so that it can be resumed. "
            "Save it and give its folder."
        )
    if isinstance(methods.get_method(chosen.method, chosen.method_arg), methods.LogitArithmetic):
        raise UserError(f"the method {chosen.method} leaves two models, from which no other request can go on.")
    if chosen.subject:
        raise UserError("--subject is whom a single run forgets: here each record's own 'subject' says whose it is.")
    if chosen.ledger:
        raise UserError("--ledger notes requests that are run one by one: give it to rkld unlearn.")
    inputs = read_inputs(chosen, **{name: objects.get(name) for name in data})
    sequence = _Sequence(inputs, objects, progress or NoProgress())
    with hold(sequence.folder, marks=("request-1", f"{_state(0)}.json")):
        return sequence.go()


def requests(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each subject, in the order in which they come first.

    Raises:
        UserError: records without a subject, or fewer than two subjects; none is named.
    """
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.subject:
            found.setdefault(record.subject, []).append(record)
    without = sum(not record.subject for record in records)
    if without:
        raise UserError(
            f"{without} of {len(records)} forget records have no 'subject', so it is not known whose they are: give "
            "each record the name of its person."
        )
    if len(found) < 2:
        raise UserError(
            f"the {len(records)} forget records all have the same 'subject': a sequence needs two people or more, each "
            "by one spelling. rkld unlearn forgets one."
        )
    return list(found.values())


class _Sequence:
    """Requests in their order; what is finished is found in the folder."""

    def __init__(self, inputs: Inputs, objects: Mapping[str, Any], progress: NoProgress):
        self.inputs, self.settings, self.objects, self.progress = inputs, inputs.settings, objects, progress
        self.folder = self.settings.run_folder
        self.requests = requests(inputs.forget)
        self.sets = {f"request {number}": records for number, records in enumerate(self.requests, 1)}
        if inputs.retain:
            self.sets["retain"] = measured_retain(inputs)
        sizes = {name: len(records) for name, records in self.sets.items()}
        self.states = ResultFiles(self.folder, {"records": _counts(sizes)})
        self.measured: list[Measured] = []
        self._check_folder()

    def go(self) -> Continual:
        """Unlearn and measure, then write the tables."""
        model, warnings = self.settings.model, []
        for request in range(1, len(self.requests) + 1):
            self.progress.say(f"Request {request} of {len(self.requests)}")
            result = self._unlearn(request, model)
            if request == 1:  # not before: by now its run folder has refused another model or other settings
                self._measure(0, model)
            model = str(result.model_path)
            warnings += [f"request {request}: {warning}" for warning in result.warnings]
            self._measure(request, model)
            if not self.settings.keep_files:  # the next has been made from it
                with hold(self._run(request - 1)):
                    give_up_model(self._run(request - 1))
        return Continual(self.measured, self._write(), Path(model), warnings)

    def _run(self, request: int) -> Path:
        return self.folder / f"request-{request}"

    def _check_folder(self) -> None:
        """Refuse a folder that holds something else, before anything runs.

        Raises:
            UserError: it is a run's, a sequence's of version 0.1, or holds other people's requests.
        """
        if read_manifest(self.folder) is not None:
            raise UserError(f"{self.folder}: holds a run of rkld unlearn. Give another folder with --out.")
        if (self.folder / "continual.json").exists():
            raise UserError(f"{self.folder}: holds a sequence of rkld 0.1. Give another folder with --out.")
        for after in range(len(self.requests) + 1):
            self.states.find(_state(after))

    def _unlearn(self, request: int, model: str) -> Result:
        """One request by itself. The names of those erased before are known to it, so that no replay rehearses them."""
        s, earlier = self.settings, [record for some in self.requests[: request - 1] for record in some]
        manifest = read_manifest(self._run(request))
        if manifest is None or not is_finished(manifest):
            for after in range(request - (request == 1), len(self.requests) + 1):
                self.states.path(_state(after)).unlink(missing_ok=True)  # of a run that was deleted, to be made anew
        values: dict[str, Any] = {field.name: getattr(s, field.name) for field in dataclasses.fields(s)}
        values |= self.objects
        values |= {
            "model": model,
            "forget": [record.row() for record in self.requests[request - 1]],
            "subject": identifiers(earlier, ()),
            "out": str(self._run(request)),
            "teacher": s.teacher and str(Path(s.teacher) / f"request-{request}"),
            "merge": s.merge and request == len(self.requests),  # until then the adapter is trained further
        }
        data = {name: values.pop(name) for name in DATA}
        return run_unlearning(data, values, progress=self.progress)

    def _measure(self, after: int, model: str) -> None:
        """All requests' records and the retain records, unless that has been done after this request."""

        def make() -> dict[str, Any]:
            lm, encoder = load_with_encoder(self.settings, model)
            found = {}
            for name, records in self.sets.items():
                with self.progress.bar(f"after {after}: {name}", len(records)) as advance:
                    found[name] = measure(
                        lm, encoder, records, max_new_tokens=self.settings.max_new_tokens, progress=advance
                    ).values()
            return {"sets": found}

        self.measured.append(once(self.states, _state(after), make)["sets"])

    # Tables ------------------------------------------------------------------------------------------------------

    def _write(self) -> list[Path]:
        rows = [{"after": after, **_flat(state)} for after, state in enumerate(self.measured)]
        last = self.measured[-1]
        back = {
            request: {f: _difference(last[name][f], self.measured[request][name][f]) for f in FIGURES}
            for request, name in enumerate(self.sets, 1)
            if request < len(self.requests)
        }
        came = [{"after": f"came back: request {n}", **_flat({f"request {n}": each})} for n, each in back.items()]
        columns = ["after", *(_column(name, figure) for name in self.sets for figure in FIGURES)]
        texts = {"continual.csv": as_csv(columns, rows + came), "continual.md": self._markdown(back)}
        for name, text in texts.items():
            write_text(self.folder / name, text)
        return [self.folder / name for name in texts]

    def _markdown(self, back: Mapping[int, Mapping[str, float | None]]) -> str:
        s, parts = self.settings, []
        for figure, title in FIGURES.items():
            lines = [
                [str(after) if after else "none", *(_shown(state[name][figure]) for name in self.sets)]
                for after, state in enumerate(self.measured)
            ]
            parts.append(f"## {title}\n\n{as_markdown(['after request', *self.sets], lines)}")
        lines = [[str(request), *(_shown(each[f], "+") for f in FIGURES)] for request, each in back.items()]
        sizes = _counts({name: len(records) for name, records in self.sets.items()})
        return _TEXT.format(
            method=s.method, sizes=sizes, tables="\n\n".join(parts),
            back=as_markdown(["request", *FIGURES.values()], lines),
        )  # fmt: skip


_TEXT = """\
# rkld bench continual

Requests were unlearned one after another by {method}, each from the model that the last one left; earlier records were
neither forgotten again nor replayed. Records: {sizes}. Of those the table has means.

{tables}

## What came back

Of each earlier request: the last state less that just after its own erasure. Above 0 the records came back.

{back}

- probability: of the records' answers, per token. ROUGE-L: recall of the greedy answers. facts said: share of the
  marked spans in these; "–" where none are marked.
- A request's figures in the rows before its own show what later erasures must still find, and what earlier ones took.
"""


def _state(after: int) -> str:
    """The name of what was measured after so many requests."""
    return f"after-{after}"


def _counts(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {n}" for name, n in sizes.items())


def _column(name: str, figure: str) -> str:
    return f"{name.replace(' ', '_')}_{figure}"


def _flat(state: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {_column(name, figure): values[figure] for name, values in state.items() for figure in FIGURES}


def _difference(now: float | None, then: float | None) -> float | None:
    return None if now is None or then is None else now - then


def _shown(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"
