"""When to stop forgetting, without the retrained model that the paper needs for it.

The paper takes the epoch with the best forget quality (arXiv 2406.01983, section 4): an oracle, for a real erasure has
no retrained model. A rule here sees the student's losses on some of the forget records, check by check
(:class:`Evidence`), and an aim that was read before the distillation began:

- ``placebo``, **the default, chosen before any rule was compared with another**: the student gives the records the
  probability that the original gives to never-trained people of the same kind. These are records of others
  (``--holdout``), each forget record's the nearest in wording and length; or, without them, the forget records
  themselves under invented names, so that nothing but the person differs (refused where the original says the same of
  anybody: :meth:`Calibration.refusal`).
- ``control``: the probability that a model gives them which has never seen them. It must have been trained like the
  original on everything else: a base model may lack the domain's style, so that its level is too low and it stops late.
- ``exposure``: the true answers are ranked among wrong ones of their kind as by chance. Needs no other data.
- ``last``: the last step.
- ``oracle``: the smallest KS distance to the retrained model, for comparison.

The run ends at the first check that is not above the aim, and the check nearest to it is kept. Rules are pure functions
of the recorded evidence, so all of them can be replayed on one run. What steers is no evidence afterwards:
:func:`split` sets records apart, and the run's manifest names their keys for the audit to leave out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from transformers import TrainerCallback

from .encoding import Encoded, Encoder
from .errors import Diverged, UserError
from .evaluation.likelihood import probability
from .evaluation.probes import facts_of, make_probes, split_probes
from .evaluation.questions import question_losses
from .evaluation.tofu import forget_quality, probability as of_loss, truth_ratio
from .files import read_jsonl, write_jsonl
from .models import LanguageModel, save_state
from .records import Record, identifiers as known_identifiers, mentions
from .replay import other_names, own_identifiers, swap_name
from .wording import unnamed, words

NEAREST = 10
"""Holdout records that each steering record is compared with; one alone is mostly chance. Chosen on seeds 0
and 1 of the tiny world; the margin of :class:`Level` on all six runs of benchmarks/stopping.py."""

NAMES = 4
"""Invented names that each steering record is asked about, where there is no holdout."""

SAID_OF_ANYBODY = 0.5
"""Where the probability under invented names is more than this share of that under the person's own, the model says the
answers of anybody who is asked about so: no placebo. Overfitted models do (SmolLM2 on TOFU: .86 of .99)."""

FEWEST = 4
"""Forget records from which on some are set apart for the audit; of fewer, all steer."""


# Evidence and rules: pure


@dataclass(frozen=True)
class Evidence:
    """What a model makes of the steering records at one optimizer step. Losses are nats per scored token."""

    step: int
    gold_loss: tuple[float, ...]
    """(n,): of each record's answer."""
    paraphrase_loss: tuple[float, ...] = ()
    """(m,): of the true answer of each question that has wrong ones of its kind."""
    perturbed_loss: tuple[tuple[float, ...], ...] = ()
    """(m, k): of the wrong ones."""

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Evidence:
        """What :func:`dataclasses.asdict` gave, also after a journey through JSON."""
        wrong = tuple(tuple(losses) for losses in row["perturbed_loss"])
        return cls(row["step"], tuple(row["gold_loss"]), tuple(row["paraphrase_loss"]), wrong)

    @property
    def probability(self) -> float:
        """Mean over records of ``exp(−loss)``. ValueError without records, or where a loss is no number."""
        return float(of_loss(self.gold_loss).mean())

    @property
    def truth_ratios(self) -> np.ndarray:
        """(m,), as of TOFU. ValueError without questions, or where a loss is no number."""
        return truth_ratio(self.paraphrase_loss, self.perturbed_loss)

    @property
    def beaten(self) -> float:
        """Share of wrong answers less likely than the true one, ties by half: ½ by chance. Raises as above."""
        self.truth_ratios  # noqa: B018 checks the losses
        true, wrong = np.array(self.paraphrase_loss)[:, None], np.array(self.perturbed_loss)
        return float((np.greater(wrong, true) + 0.5 * np.equal(wrong, true)).mean())


@dataclass(frozen=True)
class Rule:
    """Says of one check how far the student is from the aim; a subclass is a rule.

    The run ends at the first check whose gap is not above the ``margin``.
    """

    margin: ClassVar[float] = 0.0

    def gap(self, evidence: Evidence) -> float:
        """Distance to the aim: positive where the records are still known too well, negative below it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Level(Rule):
    """``placebo`` and ``control``: the mean probability of the answers comes down to ``aim``."""

    aim: float
    margin: ClassVar[float] = 0.02

    def gap(self, evidence: Evidence) -> float:
        return evidence.probability - self.aim


@dataclass(frozen=True)
class Exposure(Rule):
    """The true answers are ranked among the wrong ones as by chance: neither above nor far below."""

    margin: ClassVar[float] = 0.05

    def gap(self, evidence: Evidence) -> float:
        return evidence.beaten - 0.5


@dataclass(frozen=True)
class Last(Rule):
    """The last of ``steps``."""

    steps: int

    def gap(self, evidence: Evidence) -> float:
        return self.steps - evidence.step


@dataclass(frozen=True)
class Oracle(Rule):
    """The best forget quality of the whole run; ``retrained`` holds the retrained model's truth ratios."""

    retrained: tuple[float, ...]
    margin: ClassVar[float] = -math.inf

    def gap(self, evidence: Evidence) -> float:
        return forget_quality(evidence.truth_ratios, self.retrained).statistic


@dataclass(frozen=True)
class Decision:
    """What a rule makes of the checks so far."""

    stop: bool
    step: int
    """Of the check nearest to the aim, the earliest of several."""
    gap: float
    """There."""
    margin: float


def decide(rule: Rule, evidence: Sequence[Evidence]) -> Decision:
    """The rule's decision after these checks, in their order. ValueError without any, or where a gap is no number."""
    gaps = [rule.gap(one) for one in evidence]
    if not gaps or any(map(math.isnan, gaps)):
        raise ValueError(f"a rule needs checks whose gaps are numbers, found {gaps}")
    best = min(range(len(gaps)), key=lambda i: abs(gaps[i]))
    return Decision(gaps[-1] <= rule.margin, evidence[best].step, gaps[best], rule.margin)


def replayed(rule: Rule, evidence: Sequence[Evidence]) -> Decision:
    """The decision that a run with these checks would have ended with."""
    found = (decide(rule, evidence[:n]) for n in range(1, len(evidence) + 1))
    return next((decision for decision in found if decision.stop), None) or decide(rule, evidence)


# Which records steer, and what they are compared with


@dataclass(frozen=True)
class Steering:
    """The forget records that steer, and the keys of all that the audit leaves out for it."""

    records: tuple[Record, ...]
    keys: tuple[str, ...]


def split(forget: Sequence[Record], identifiers: Sequence[str], seed: int) -> Steering:
    """Set apart the records that steer, from the seed alone.

    Facts are dealt out (:func:`rkld.evaluation.probes.split_probes`); records whose answers say no audited fact steer,
    and the audit leaves out all whose answers say a steering one. Where that gives less than a quarter of the records
    to either side, the records themselves are dealt out. Of fewer than :data:`FEWEST` all steer and none are left.
    """
    everyone = tuple(record.key for record in forget)
    if len(forget) < FEWEST:
        return Steering(tuple(forget), everyone)
    try:
        halves = split_probes(make_probes(forget, (), identifiers, seed), seed)
    except UserError:  # no facts, or all in one
        halves = ((), ())
    steered, audited = ({probe.fact for probe in half} for half in halves)

    def says(record: Record, facts: set[str]) -> bool:
        return any(mentions(record.answer, (f,)) and not mentions(record.question, (f,)) for f in facts)

    steering = [record for record in forget if not says(record, audited)]
    keys = [r.key for r in forget if says(r, steered) or (r in steering)]
    if min(len(steering), len(forget) - len(keys)) < max(1, len(forget) // 4) or not steered:
        steering = random.Random(seed).sample(list(forget), len(forget) // 2)
        keys = [record.key for record in steering]
    return Steering(tuple(steering), tuple(key for key in everyone if key in set(keys)))


def alternatives(
    steering: Steering, others: Sequence[Record], identifiers: Sequence[str], seed: int
) -> list[Record]:
    """Questions about the steering records with ``perturbed_answer``: their own, else mechanical ones.

    Args:
        others: records about other people, whose facts are the wrong answers (retain, holdout).
    """
    own = [record for record in steering.records if record.extra.get("perturbed_answer")]
    if own and len({len(record.extra["perturbed_answer"]) for record in own}) == 1:
        return own
    if not any(facts_of(record, identifiers) for record in steering.records):
        return []
    probes = make_probes(steering.records, others, identifiers, seed)
    return [p.record for p in probes if p.kind == "question" and p.record.extra.get("perturbed_answer")]


@dataclass(frozen=True)
class Placebo:
    """Steering records and what each is compared with; the ``scored`` tokens of both are comparable."""

    records: list[Encoded]
    others: list[list[Encoded]]

    def level(self, lm: LanguageModel) -> float:
        """Probability that ``lm`` gives to the others: the mean over records of the mean over theirs."""
        unique = list({e.key: e for found in self.others for e in found}.values())
        found = dict(zip([e.key for e in unique], probability(lm, unique, mask="scored")))
        return float(np.mean([np.mean([found[e.key] for e in some]) for some in self.others]))


def from_holdout(
    steering: Sequence[Record], holdout: Sequence[Record], encoder: Encoder, identifiers: Sequence[str], score: str
) -> Placebo:
    """Each record beside the :data:`NEAREST` of the holdout: most words in common, names left out, and as long."""
    ours, theirs = ([scorable(r, encoder, score) for r in records] for records in (steering, holdout))
    bags = [_bag(record, known_identifiers([record], ())) for record in holdout]

    def near(record: Record, encoded: Encoded) -> list[Encoded]:
        bag, length = _bag(record, identifiers), sum(encoded.scored)

        def likeness(i: int) -> float:
            lengths = sorted((length, sum(theirs[i].scored)))
            return len(bag & bags[i]) / max(1, len(bag | bags[i])) * lengths[0] / lengths[1]

        return [theirs[i] for i in sorted(range(len(theirs)), key=likeness, reverse=True)[:NEAREST]]

    return Placebo(ours, [near(record, encoded) for record, encoded in zip(steering, ours, strict=True)])


def from_names(
    steering: Sequence[Record],
    forget: Sequence[Record],
    encoder: Encoder,
    identifiers: Sequence[str],
    score: str,
    seed: int,
) -> Placebo | None:
    """Each record beside its copies under invented names; None where no record names the person.

    Compared are the tokens that a record and all its copies share: a stranger's name is no part of what is known.
    """
    names, draw = other_names(), random.Random(seed)
    records, others = [], []
    for record in steering:
        own, source = own_identifiers(record, forget, identifiers), scorable(record, encoder, score)
        swapped = [swap_name(record, own, name) for name in draw.sample(names, NAMES)]
        copies = [
            replace(scorable(copy, encoder, score), key=f"{record.key}.{n}")
            for n, copy in enumerate(swapped)
            if copy is not None
        ]
        pairs = [_shared(source, copy) for copy in copies]
        common = set.intersection(*map(set, pairs)) if pairs else set()
        if common:
            records.append(_marked(source, common))
            others.append([_marked(copy, {pair[i] for i in common}) for copy, pair in zip(copies, pairs)])
    return Placebo(records, others) if records else None


def scorable(record: Record, encoder: Encoder, score: str) -> Encoded:
    """Encoded, ``scored`` marking what its likelihood is taken of: with "spans" the spans, else the answers."""
    return encoder.encode(record, "spans" if score == "spans" else "answer")


def _bag(record: Record, identifiers: Sequence[str]) -> frozenset[str]:
    return frozenset(words(unnamed(f"{record.question} {record.answer}", identifiers)))


def _shared(source: Encoded, copy: Encoded) -> dict[int, int]:
    """Positions of the scored tokens that both have, in the source → in the copy."""
    blocks = SequenceMatcher(None, source.ids, copy.ids, autojunk=False).get_matching_blocks()
    pairs = ((block.a + n, block.b + n) for block in blocks for n in range(block.size))
    return {a: b for a, b in pairs if source.scored[a] and copy.scored[b]}


def _marked(encoded: Encoded, positions: set[int]) -> Encoded:
    return replace(encoded, scored=tuple(i in positions for i in range(len(encoded.ids))))


@dataclass(frozen=True)
class Calibration:
    """What the checks of a run read, and the rule that is made of them. Made anew from the seed when a run goes on."""

    name: str
    """Of the rule."""
    source: str
    """What it compares with."""
    steering: Steering
    records: Sequence[Encoded]
    placebo: Placebo | None = None
    questions: Sequence[Record] = ()

    def rule(self, aim: float | None) -> Rule:
        return Exposure() if aim is None else Level(aim)

    def refusal(self, aim: float | None, original: Evidence) -> str | None:
        """Why the rule cannot steer, if it cannot: what ``original``, the model before any change, shows of the aim."""
        if decide(self.rule(aim), [original]).stop:
            return "by it the original has forgotten the records already"
        if self.source == "invented names" and aim > SAID_OF_ANYBODY * original.probability:
            return "the original gives these answers about anybody. Give records of others with --holdout"
        return None

    def check(self, lm: LanguageModel, encoder: Encoder, step: int) -> Evidence:
        return read(lm, encoder, self.records, self.questions, step)


def calibration(
    name: str,
    forget: Sequence[Record],
    holdout: Sequence[Record],
    retain: Sequence[Record],
    identifiers: Sequence[str],
    encoder: Encoder,
    score: str,
    seed: int,
) -> Calibration | None:
    """For the rules ``placebo``, ``control`` and ``exposure``; None where there is nothing to compare with."""
    steering = split(forget, identifiers, seed)
    if name == "placebo":
        if holdout:
            source, made = "holdout", from_holdout(steering.records, holdout, encoder, identifiers, score)
        else:
            source, made = "invented names", from_names(steering.records, forget, encoder, identifiers, score, seed)
        return made and Calibration(name, source, steering, made.records, placebo=made)
    records = [scorable(record, encoder, score) for record in steering.records]
    if name == "control":
        return Calibration(name, "control", steering, records)
    questions = alternatives(steering, [*retain, *holdout], identifiers, seed)
    return Calibration(name, "alternatives", steering, records, questions=questions) if questions else None


def read(
    lm: LanguageModel, encoder: Encoder, records: Sequence[Encoded], questions: Sequence[Record], step: int
) -> Evidence:
    """One check of a model. It reads, and changes nothing: no gradients, no dropout, no random numbers."""
    gold = -np.log(probability(lm, records, mask="scored"))
    if not questions:
        return Evidence(step, tuple(gold.tolist()))
    losses = question_losses(lm, encoder, questions)
    wrong = tuple(map(tuple, losses["perturbed_loss"].tolist()))
    return Evidence(step, tuple(gold.tolist()), tuple(losses["paraphrase_loss"].tolist()), wrong)


# During the run


class Stop(TrainerCallback):
    """Checks the student every few steps, keeps its state nearest to the aim, and ends the training.

    Evidence and state lie in ``folder``, so a resumed run goes on with the same checks and decides the same: what has
    been measured is not measured again.
    """

    def __init__(self, lm: LanguageModel, check: Callable[[int], Evidence], rule: Rule, every: int, folder: Path):
        """
        Args:
            check: :func:`read` of the student as it is, given the step.
            every: optimizer steps between checks; the last step is always one.
        """
        self.lm, self.check, self.rule, self.every, self.folder = lm, check, rule, every, folder
        self.evidence = [Evidence.from_dict(row) for row in read_jsonl(self._file)]

    @property
    def _file(self) -> Path:
        return self.folder / "evidence.jsonl"

    @property
    def decision(self) -> Decision:
        return decide(self.rule, self.evidence)

    @property
    def best(self) -> Path:
        """The state of the check that the rule has chosen (:func:`rkld.models.restore_state`)."""
        return self.folder / f"best-{self.decision.step}.safetensors"

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step
        due = step % self.every == 0 or step == state.max_steps
        if due and all(one.step != step for one in self.evidence):
            found = self.check(step)
            if np.isnan(found.gold_loss).any():
                raise Diverged(f"at step {step} the records have no likelihood")
            self._add(found)
        if self.evidence and self.decision.stop:
            control.should_training_stop = True

    def _add(self, found: Evidence) -> None:
        self.evidence.append(found)
        # The state first: evidence without its state would be of no use to a resumed run.
        if self.decision.step == found.step:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_state(self.lm, self.best)
        write_jsonl(self._file, map(asdict, self.evidence))
        for path in self.folder.glob("best-*.safetensors"):
            if path != self.best:
                path.unlink()
