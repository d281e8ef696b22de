"""One cell: unlearn once, to the last epoch, and measure at three moments of the same run.

The run itself is :func:`rkld.pipeline.phases`. Two callbacks watch it without ending it: the calibrated rule
(:class:`Passing`), which sees what a real erasure sees, and the oracle (:class:`Peak`), which sees the retrained model
and, every epoch, all likelihoods. Each keeps its own best state so far; answers are generated from these at the end.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rkld.benching import result_store as finished
from rkld.benching.case_study import choose_cases, tell
from rkld.benching.cells import Cell, assisted
from rkld.benching.tasks import Task, model_folder
from rkld.errors import Diverged
from rkld.evaluation.arrays import harmonic_mean
from rkld.evaluation.questions import encode_answers, mean_losses, question_scores
from rkld.evaluation.summary import measure
from rkld.evaluation.tofu import (
    forget_quality,
    forget_truth_ratio,
    model_utility,
    normalised_probability,
    probability,
    truth_ratio,
    utility_truth_ratio,
)
from rkld.files import read_jsonl, write_jsonl
from rkld.methods.two_models import open_model
from rkld.models.language_model import LanguageModel
from rkld.models.state import restore_state
from rkld.pipeline.phases import unlearn
from rkld.pipeline.preparing import check_every, choose, read_inputs, stop_comparison
from rkld.progress import Silent
from rkld.records.encoding import Encoder
from rkld.records.identity import identifiers
from rkld.records.reading import read_records
from rkld.records.record import Record
from rkld.settings.benching import SETS, BenchSettings
from rkld.settings.book import BookSettings
from rkld.stopping.calibration import calibrate
from rkld.stopping.callback import StoppingCallback
from rkld.stopping.evidence import Evidence
from rkld.stopping.registry import get_rule
from rkld.stopping.rule import Decision, simulate
from rkld.stopping.rules.oracle import Oracle
from rkld.text.matching import mentions

Losses = Mapping[str, Mapping[str, np.ndarray]]
"""Set → "gold_loss" (n,), "paraphrase_loss" (n,), "perturbed_loss" (n, k); "rouge" (n,) where answers were made, and
of the forget set "named" (m,), see :func:`named`."""


DIVERGED = "diverged"
"""The note of a cell without figures."""


class Asker:
    """Asks any model the questions of a task, which are encoded once."""

    def __init__(self, task: Task, encoder: Encoder, max_new_tokens: int, cases: int = 0):
        """
        Args:
            cases: of the case study.
        """
        self.asked, self.encoder, self.max_new_tokens = task.asked, encoder, max_new_tokens
        self.names = identifiers(task.asked["forget"], task.subject)
        self.encoded = {name: encode_answers(encoder, task.asked[name]) for name in SETS}
        self.cases = choose_cases(task.asked["forget"], self.names, encoder, cases) if cases else []

    def __call__(self, lm: LanguageModel, answers: bool) -> Losses:
        """Losses of all answers and, if ``answers``, ROUGE-L recall of what the model says itself."""
        found = {}
        for name, records in self.asked.items():
            scores = question_scores(lm, self.encoder, records, self.encoded[name])
            found[name] = mean_losses(scores)
            if answers:
                own = [each[0] for each in scores]
                said = measure(lm, self.encoder, records, max_new_tokens=self.max_new_tokens, scores=own)
                found[name] = {**found[name], "rouge": np.array(said.rouge_l_recalls)}
                if name == "forget":
                    found[name] |= {"named": named(records, said.answers, self.names)}
        return found

    def told(self, lm: LanguageModel) -> dict[str, Any]:
        """ "cases": what the model says in the cases of the case study (:func:`rkld.benching.case_study.tell`); {} for none."""
        return {"cases": tell(lm, self.cases, self.max_new_tokens)} if self.cases else {}


def named(records: Sequence[Record], answers: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Whether an answer has the names whole (m,), of those m records whose question and right answer both have any.

    The question gives the name away, so a model that was never trained on the person can write it as well: names that
    come out garbled are harm that neither forget quality nor a low probability shows.
    """
    found = []
    for record, answer in zip(records, answers, strict=True):
        expected = [name for name in names if mentions(record.question, [name]) and mentions(record.answer, [name])]
        if expected:
            found.append(all(mentions(answer, [name]) for name in expected))
    return np.array(found)


def ratios(losses: Losses) -> np.ndarray:
    """Truth ratios (n,) of the forget set."""
    return truth_ratio(losses["forget"]["paraphrase_loss"], losses["forget"]["perturbed_loss"])


def figures(losses: Losses, retrained: Sequence[float]) -> dict[str, float]:
    """TOFU's values, by the names of the table's columns; model utility and ROUGE-L where answers were made.

    Args:
        retrained: the retrained model's truth ratios on the forget set.

    Raises:
        Diverged: a likelihood is no number.
    """
    if any(np.isnan(each).any() for found in losses.values() for each in found.values()):
        raise Diverged("the likelihoods of the answers are no numbers")
    test = forget_quality(ratios(losses), retrained)
    found: dict[str, float] = {"n": test.n, "forget_quality": test.pvalue, "ks": test.statistic}
    for name in SETS:
        gold, wrong = losses[name]["gold_loss"], losses[name]["perturbed_loss"]
        each = truth_ratio(losses[name]["paraphrase_loss"], wrong)
        plain = name in ("forget", "retain")
        found[f"{name}_probability"] = float(
            (probability(gold) if plain else normalised_probability(gold, wrong)).mean()
        )
        if "rouge" in losses[name]:
            found[f"{name}_rouge"] = float(losses[name]["rouge"].mean())
        if len(losses[name].get("named", ())):
            found[f"{name}_named"] = float(losses[name]["named"].mean())
        found[f"{name}_truth_ratio"] = (forget_truth_ratio if name == "forget" else utility_truth_ratio)(each)
    six = [found[f"{name}_{part}"] for name in SETS[1:] for part in ("probability", "truth_ratio")]
    found["likelihood_utility"] = harmonic_mean(six)
    if all("rouge" in losses[name] for name in SETS):
        found["model_utility"] = model_utility(**{name: losses[name] for name in SETS[1:]}).value
    return found


def run_reference(settings: BenchSettings, cell: Cell, task: Task, retrained: Sequence[float] | None) -> dict:
    """Measure the original or the retrained model as it is.

    Args:
        retrained: None for the retrained model itself.
    """
    started = time.time()
    lm, encoder = _load(settings, model_folder(settings, cell.name, cell.split, cell.seed))
    asker = Asker(task, encoder, settings.value("max_new_tokens"), cell.cases(settings))
    losses = asker(lm, answers=True)
    own = ratios(losses).tolist()
    values = figures(losses, own if retrained is None else retrained) | asker.told(lm)
    return _finish(settings, cell, started, {"model": values}, [], truth_ratios=own)


def run_cell(
    settings: BenchSettings, cell: Cell, task: Task, retrained: Sequence[float], progress: Silent
) -> dict[str, Any]:
    """Unlearn and measure; an interrupted cell goes on from its last phase or checkpoint.

    Returns:
        what stands in ``cell.json``; of a training that diverged a note in place of figures.
    """
    started, folder = time.time(), cell.folder(settings)
    values = cell.unlearning(settings)
    original = str(model_folder(settings, "original", cell.split, cell.seed))
    retain, replay = values.pop("retain"), values.pop("replay")
    data = {
        "forget": task.forget,
        "retain": task.retain if retain else None,
        "replay": task.replay if replay else "none",
        "holdout": task.holdout,
    }
    values |= {
        "out": str(folder / "run"),
        "seed": cell.seed,
        "subject": task.subject,
        "keep_files": settings.keep_models,
        "teacher": str(teacher_folder(settings, cell, cell.unlearning(settings))),
    }
    lm, encoder = _load(settings, original)
    asker = Asker(task, encoder, settings.value("max_new_tokens"), cell.cases(settings))
    per_epoch = -(-len(read_records(task.forget, "forget")) // values["batch_size"])
    watches: dict[str, StoppingCallback] = {}
    if not assisted(cell):
        calibrated = _calibrated(lm, encoder, {**values, "stop": settings.stop}, data, original, per_epoch, folder)
        watches = {"stop": calibrated} if calibrated else {}
        watches["oracle"] = _oracle(asker, retrained, per_epoch, folder)
    del lm

    def look(lm: LanguageModel) -> dict[str, Any]:  # the tuning goes by likelihoods alone
        return figures(asker(lm, answers=not cell.tuning), retrained) | asker.told(lm)

    try:
        result = unlearn(
            original, stop="last", progress=progress, callbacks=list(watches.values()),
            **{name: source for name, source in data.items() if name != "holdout"}, **values,
        )  # fmt: skip
        made, _ = _load(settings, result.model_path)
        moments = _moments(made, look, watches, per_epoch, values["epochs"], assisted(cell))
    except Diverged as error:
        progress.say(f"{cell.name}: {error}")
        names = ("single",) if assisted(cell) else ("last", "stop", "oracle")
        moments = {name: {"note": DIVERGED} for name in names}
    trajectory = [{"epoch": row["step"] / per_epoch, **row} for row in read_jsonl(folder / "trajectory.jsonl")]
    return _finish(settings, cell, started, moments, trajectory)


def teacher_folder(settings: BenchSettings | BookSettings, cell: Cell, values: Mapping[str, Any]) -> Path:
    """Of the cache that cells on the same records share, whatever their alpha and divergence.

    Args:
        values: the cell's settings of the unlearning. Any that could decide what a cache holds decides the folder.
    """
    method = cell.variant.make()
    sets = ["forget", *(name for name in ("retain", "replay") if values[name])]
    sets += [f"{name}_refusals" for name in sets if name in method.refusals]
    other = {name: value for name, value in values.items() if name not in _ONE_CACHE}
    number = hashlib.blake2b(json.dumps(other, sort_keys=True).encode(), digest_size=4).hexdigest()
    return settings.folder / "teachers" / cell.split / f"seed{cell.seed}" / f"{'+'.join(sets)}-{number}"


_ONE_CACHE = ("method", "method_arg", "alpha", "retain", "replay", "retain_loss", "retain_weight", "replay_weight",
              "keep_weight")  # fmt: skip
"""Settings that differ between runs that share a cache. (Which sets there are stands in its folder's name.)"""


def _load(settings: BenchSettings, source: str | Path) -> tuple[LanguageModel, Encoder]:
    lm = open_model(source, chat_template=settings.chat_template)
    encoder = Encoder(
        lm.tokenizer,
        system_prompt=settings.system_prompt,
        template_date=settings.template_date,
        context_length=lm.context_length,
    )
    return lm, encoder


def _calibrated(
    lm: LanguageModel, encoder: Encoder, values: Mapping[str, Any], data: Mapping[str, Any], model: str, per_epoch: int,
    folder: Path,
) -> StoppingCallback | None:  # fmt: skip
    """The rule as ``rkld unlearn --stop`` would follow it, aimed by the original ``lm``.

    None where that would take the last step: with nothing to compare with, or an aim that cannot steer.
    """
    chosen, objects = choose({"model": model, **data}, values)
    found = stop_comparison(read_inputs(chosen, **{name: objects.get(name) for name in data}), encoder)
    if found is None:
        return None
    calibration = calibrate(get_rule(chosen.stop), found, lm)
    if calibration.refusal:
        return None
    every = check_every(chosen, per_epoch)
    return StoppingCallback(found.read, calibration.rule, every, folder / "stop", ends_training=False)


def _oracle(asker: Asker, retrained: Sequence[float], per_epoch: int, folder: Path) -> StoppingCallback:
    """Every epoch: all likelihoods, into ``trajectory.jsonl``; the state of the smallest KS distance is kept."""
    path = folder / "trajectory.jsonl"

    def check(student: LanguageModel, step: int) -> Evidence:
        losses = asker(student, answers=False)
        earlier = [row for row in read_jsonl(path) if row["step"] < step]
        write_jsonl(path, [*earlier, {"step": step, **figures(losses, retrained)}])
        return Evidence.from_arrays(step, losses["forget"])

    rule = Oracle(retrained=tuple(retrained))
    return StoppingCallback(check, rule, per_epoch, folder / "oracle", ends_training=False)


def _moments(
    lm: LanguageModel, look: Callable[[LanguageModel], dict[str, Any]], watches: Mapping[str, StoppingCallback], per_epoch: int, epochs: int,
    single: bool,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The figures of the last state (``lm`` as it comes) and of those kept; equal states once.

    Args:
        look: reads the figures of a model as it is.
    """
    if single:
        return {"single": look(lm)}
    last = per_epoch * epochs
    found = {last: look(lm)}
    moments = {"last": {"step": last}, "stop": {"step": last, "note": "no rule applies: the last step"}, "oracle": {}}
    for name, watch in watches.items():
        decision: Decision = simulate(watch.rule, watch.evidence)
        if decision.step not in found:
            restore_state(lm, watch.best)
            found[decision.step] = look(lm)
        reached = decision.stop or name == "oracle"
        moments[name] = {"step": decision.step, **({} if reached else {"note": "not reached: the nearest check"})}
    for moment in moments.values():
        moment |= {"epoch": moment["step"] / per_epoch, **found[moment["step"]]}
    return moments


def _finish(
    settings: BenchSettings,
    cell: Cell,
    started: float,
    moments: Mapping[str, Any],
    trajectory: Sequence[Mapping[str, Any]],
    **more: Any,
) -> dict[str, Any]:
    """Write ``cell.json``, which says that the cell is finished, and remove what it was made with.

    What was said in the case study stands there apart from the moments' figures.
    """
    told = {name: values["cases"] for name, values in moments.items() if "cases" in values}
    numbers = {name: {k: v for k, v in values.items() if k != "cases"} for name, values in moments.items()}
    written = finished.write(
        cell.folder(settings) / "cell.json", cell.identity(settings), started,
        moments=numbers, trajectory=trajectory, **({"cases": told} if told else {}), **more,
    )  # fmt: skip
    clean(settings, cell)
    return written


def clean(settings: BenchSettings, cell: Cell) -> None:
    """Remove models, states and answers; also after a cell that was killed before it came to this."""
    if not settings.keep_models:
        for name in ("run", "stop", "oracle"):
            shutil.rmtree(cell.folder(settings) / name, ignore_errors=True)
        (cell.folder(settings) / "trajectory.jsonl").unlink(missing_ok=True)
