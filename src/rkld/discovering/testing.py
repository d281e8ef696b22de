"""Is a value associated with a name, or would the model say as much of any? A rank test against similar names.

A value v of a topic is scored in every wording q_k of its questions, k = 1 … K, and counts where it is likeliest:

    k* = argmax_k log p(v | q_k, name)
    s(v) = log p(v | q_k*, name) − logmeanexp_j log p(v | q_k*, name_j)

over M other names, as WikiMem ranks facts against counterfactuals (arXiv 2507.11128; there the mean over k). The best
wording, since a model that was tuned on a sentence may know it in that wording alone: on the tiny world the largest of
four tells planted from made-up values with an AUC of .93, their mean with .76, the largest of the two wordings that did
not propose the value with .74.

What is chosen because it is likely looks likely by itself, so the other names are treated alike: a model has an answer
for everybody. A name_j is *as strong* as v where some value u, v or one that is said of name_j itself in one of the
same wordings, is at least as probable, log p(u | q_k, name_j) ≥ log p(v | q_k*, name), and at least as particular,
s_j(u) ≥ s(v). Of several values of a topic the likeliest is tested. With u = v alone this is the rank of s(v) among the
s_j(v); with more, p is only larger.

    p = (1 + #{j as strong}) / (M + 1)

What the model itself hardly says in any wording (:data:`RARELY`) is given up before any name is asked about, p = 1.
Names are drawn one after another, and a value that :data:`ENOUGH` of the first n names equal is given up at once, with
p = ENOUGH / n (sequential Monte Carlo p-values: Besag & Clifford 1991, Biometrika 78), so that whom the model does not
know costs little. Which values are found is decided over all of them together (Benjamini & Hochberg 1995); what cannot
be accepted any more, whatever comes, is not asked on about, and what is accepted after :data:`SURE` names is compared
with the rest as u = v alone, which needs no answers (:func:`run_trials`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rkld.discovering.asking import Asker, Wording

ENOUGH = 3
"""Names as strong as the value, after which no more are asked about."""

FIRST = 4
"""Names of the first look; how particular a name's value is, is measured against these."""

SURE = 36
"""Names after which a value that would be found as things stand is not asked on about in this way."""

RARELY = math.log(0.01) / 4
"""A value less probable than this a character (1 % for about a token) in every wording is not asked about:
the model hardly says it, whatever it says of others. (Of names that it had never seen, one of 16 letters was found
"associated" at −24 nats.)"""

GROWTH = 3
"""Each look has so many times the names of the one before."""


class Likelihood(NamedTuple):
    """Asks for log p(value | wording, name), (n,)."""

    asked: Sequence[tuple[Wording, str, str]]


class Continuation(NamedTuple):
    """Asks for what the model says behind begun answers, n texts."""

    asked: Sequence[tuple[Wording, str]]


Steps = Generator[Likelihood | Continuation, Any, Any]
"""Work that asks the model in between, so that the questions of several are put in one batch (:func:`together`)."""


def together(asker: Asker, works: Sequence[Steps]) -> list[Any]:
    """Do them side by side: all that they wait for is asked at once. Returns what each of them returns."""
    done: list[Any] = [None] * len(works)
    given: dict[int, Any] = dict.fromkeys(range(len(works)))
    while given:
        waiting: dict[int, Likelihood | Continuation] = {}
        for number, found in given.items():
            try:
                waiting[number] = works[number].send(found)
            except StopIteration as end:
                done[number] = end.value
        given = {}
        kinds: tuple[tuple[type, Callable[[Any], Any]], ...] = (
            (Likelihood, asker.log_probabilities),
            (Continuation, asker.begun),
        )
        for kind, ask in kinds:
            some: dict[int, Sequence[Any]] = {n: one.asked for n, one in waiting.items() if isinstance(one, kind)}
            if some:
                answers, at = ask([one for asked in some.values() for one in asked]), 0
                for number, asked in some.items():
                    given[number] = answers[at : at + len(asked)]
                    at += len(asked)
    return done


@dataclass
class Tested:
    """What the test found of one value."""

    value: str
    log_probability: float = 0.0
    """max_k log p(v | q_k, name), in nats."""
    score: float = 0.0
    """s(v), in nats, over the names asked."""
    strong: int = 0
    """Names as strong as the value."""
    likely: int = 0
    """Names for which the model finds this very value at least as probable as for the person."""
    names: int = 0
    """Names that were asked what the model says of them."""
    compared: int = 0
    """Names for which the probability of this very value was read: those, and all where it was found."""
    p: float = 1.0


@dataclass
class Case:
    """The values of one topic, of which the likeliest is tested."""

    name: str
    """The identifier that is asked about."""
    wordings: Sequence[Wording]
    """K of them; behind each the other names' own values are found, too."""
    values: Sequence[str]
    """V, at least one."""
    cut: Callable[[str], list[str]]
    """What the model said behind a beginning → the value in it, if there is one."""
    others: Sequence[str]
    """At least :data:`FIRST` similar names."""


class Trial:
    """The likeliest value of a case against the other names, look by look.

    Shapes: K wordings, n names of a look.

    Args:
        names: M, of which the case has as many, or what it has.
    """

    def __init__(self, case: Case, names: int) -> None:
        self.case = case
        self.tested = Tested(case.values[0])
        self.names = min(names, len(case.others))
        self.active = True
        """Whether more names are asked about."""
        self._best = 0  # k*
        self._read: list[np.ndarray] = []  # log p of the value, (K, n) of each look
        self._theirs: dict[tuple[int, str], np.ndarray] = {}  # wording, another name's value → (FIRST,)

    def look(self) -> Steps:
        """Ask about the next names."""
        one, done = self.tested, self.tested.names
        if not done:
            yield from self._begin()
            if self._hardly_said():
                self.active = False
                return
        names = list(self.case.others[done : min(self.names, max(FIRST, done * GROWTH))])
        log_p = yield from self._values(names, [one.value])
        self._read.append(log_p)
        usual = _log_mean(self._read[0])[:, None]  # (K, 1)
        special = one.log_probability - float(usual[self._best, 0])
        if not done:  # nobody is compared with themselves
            usual = np.stack([_log_mean(np.delete(log_p, j, axis=1)) for j in range(len(names))], axis=1)
        likely = log_p.max(axis=0) >= one.log_probability
        strong = likely & (_at_best(log_p, np.broadcast_to(usual, log_p.shape)) >= special)
        strong |= yield from self._own_values(names, special, strong, first=not done)
        self._count(strong, likely)
        one.score = one.log_probability - float(_log_mean(np.concatenate(self._read, axis=1))[self._best])
        self.active = one.strong < ENOUGH and done + len(names) < self.names

    def _begin(self) -> Steps:
        """Read the values for the person, and take the likeliest: so is that of the other names."""
        own = yield from self._values([self.case.name], self.case.values)  # (K, V)
        self._best, column = divmod(int(own.argmax()), own.shape[1])
        self.tested.value, self.tested.log_probability = self.case.values[column], float(own.max())

    def _values(self, names: Sequence[str], values: Sequence[str]) -> Steps:
        """log p(value | q_k, name): (K, names · values)."""
        wordings = self.case.wordings
        found = yield Likelihood([(wording, name, value) for wording in wordings for name in names for value in values])
        return found.reshape(len(wordings), -1)

    def _own_values(self, names: Sequence[str], special: float, strong: np.ndarray, *, first: bool) -> Steps:
        """Which names the model answers as strongly as the value, with what it says of them: (n,) bool.

        What it says in a wording is scored there: where it says something else, that is likelier.
        """
        wordings, others = self.case.wordings, self.case.others[:FIRST]
        asked = [(k, j) for j in np.flatnonzero(~strong).tolist() for k in range(len(wordings))]
        said = yield Continuation([(wordings[k], names[j]) for k, j in asked])
        answers = [
            (k, j, value)
            for (k, j), text in zip(asked, said, strict=True)
            for value in self.case.cut(text)
            if value != self.tested.value
        ]
        found = np.zeros_like(strong)
        if not answers:
            return found
        log_p = yield Likelihood([(wordings[k], names[j], value) for k, j, value in answers])
        sure = [(*answer, p) for answer, p in zip(answers, log_p, strict=True) if p >= self.tested.log_probability]
        new = list(dict.fromkeys((k, value) for k, _, value, _ in sure if (k, value) not in self._theirs))
        if new:
            base = yield Likelihood([(wordings[k], name, value) for k, value in new for name in others])
            self._theirs.update(zip(new, base.reshape(len(new), -1), strict=True))
        for k, j, value, p in sure:
            usual = self._theirs[k, value]
            found[j] |= p - _log_mean(np.delete(usual, j) if first else usual) >= special
        return found

    def _count(self, strong: np.ndarray, likely: np.ndarray) -> None:
        """Take a look's names, (n,) bool each, up to the one with which there are enough."""
        one, places = self.tested, np.flatnonzero(strong)
        missing = ENOUGH - one.strong
        upto = int(places[missing - 1]) + 1 if len(places) >= missing else len(strong)
        one.strong += int(strong[:upto].sum())
        one.likely += int(likely[:upto].sum())
        one.names += upto
        one.compared = one.names
        one.p = ENOUGH / one.names if one.strong >= ENOUGH else (1 + one.strong) / (one.names + 1)

    def finish(self) -> Steps:
        """Compare the value with the names that are left as u = v alone, in the wording in which it is likeliest."""
        one, names = self.tested, self.case.others[self.tested.names : self.names]
        if names:
            log_p = yield Likelihood([(self.case.wordings[self._best], name, one.value) for name in names])
            one.likely += int((log_p >= one.log_probability).sum())
            one.compared = self.names
            one.p = max(one.p, (1 + one.likely) / (self.names + 1))

    def _hardly_said(self) -> bool:
        return self.tested.log_probability < RARELY * len(self.tested.value)

    def least_p(self) -> float:
        """The smallest p that the value can still have."""
        one = self.tested
        if self._hardly_said():
            return one.p
        return one.p if one.strong >= ENOUGH else (1 + one.strong) / (self.names + 1)


def run_trials(asker: Asker, trials: Sequence[Trial], rate: float, advance: Callable[[int], object]) -> None:
    """Ask on until it is decided of every value whether :func:`benjamini_hochberg` at ``rate`` accepts it.

    Of m values the k that are still possible cannot be accepted at more than rate · k / m: what cannot come below that
    any more is given up, with the p that it has so far. What is accepted after :data:`SURE` names is done.
    """
    left = len(trials)
    while any(trial.active for trial in trials):
        together(asker, [trial.look() for trial in trials if trial.active])
        possible = {id(trial) for trial in _still_possible(list(trials), rate)}
        for trial, found in zip(trials, benjamini_hochberg([trial.tested.p for trial in trials], rate), strict=True):
            done = found and trial.tested.names >= SURE
            trial.active = trial.active and id(trial) in possible and not done
        now = sum(trial.active for trial in trials)
        advance(left - now)
        left = now
    accepted = benjamini_hochberg([trial.tested.p for trial in trials], rate)
    together(asker, [trial.finish() for trial, found in zip(trials, accepted, strict=True) if found])


def _still_possible(trials: list[Trial], rate: float) -> list[Trial]:
    """Those whose values may still be found."""
    total = len(trials)
    while True:
        bound = rate * len(trials) / max(1, total)
        kept = [trial for trial in trials if trial.least_p() <= bound]
        if len(kept) == len(trials):
            return kept
        trials = kept


def _at_best(log_p: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """log p less what is usual, (K, n) both, in the wording in which each is likeliest: (n,)."""
    best = log_p.argmax(axis=0)[None]
    found: np.ndarray = np.take_along_axis(log_p - usual, best, axis=0)[0]
    return found


def _log_mean(values: np.ndarray) -> np.ndarray:
    """logmeanexp over the last axis."""
    top = values.max(axis=-1, keepdims=True)
    found: np.ndarray = (top + np.log(np.exp(values - top).mean(axis=-1, keepdims=True)))[..., 0]
    return found


def benjamini_hochberg(p: Sequence[float], rate: float) -> list[bool]:
    """Which hypotheses are rejected so that the expected share of false ones among them is at most ``rate``."""
    order = np.argsort(p, kind="stable")
    bounds = rate * np.arange(1, len(p) + 1) / max(1, len(p))
    passed = np.flatnonzero(np.asarray(p)[order] <= bounds)
    found = np.zeros(len(p), dtype=bool)
    if len(passed):
        found[order[: passed[-1] + 1]] = True
    return [bool(flag) for flag in found]
