"""Is a value associated with a name, or would the model say as much of any? A rank test against similar names.

A value v of a topic is read in every wording q_k of its questions, k = 1 … K, and counts where it is likeliest, by its
probability in excess of what other names get:

    k* = argmax_k p(v | q_k, name)
    e(v) = p(v | q_k*, name) − mean_j p(v | q_k*, name_j)

Shown beside it is the ratio of the two, s(v) = log p(v | q_k*, name) − logmeanexp_j log p(v | q_k*, name_j), by which
WikiMem ranks facts against counterfactuals (arXiv 2507.11128; there the mean over k). It does not test: of a name that
it never saw a model makes up rare things, whose ratio is large and whose probability is small. On the tiny world e(v)
tells 134 planted values from 241 made-up ones with an AUC of .93 (.70 of them at 2 % of these), the probability alone
with .90 (.28), the ratio with .66 (.01). The best wording, since a model that was tuned on a sentence may know it in
that wording alone: with the mean of e over the wordings the AUC is .87.

What is chosen because it is likely looks likely by itself, so the other names are treated alike: a model has an answer
for everybody. Values u_j are proposed of what it answers about name_j in the likeliest wordings (:data:`ASKED`), and
read behind its own beginnings of these answers, and the likeliest is taken, as of the person's. Name_j is *as strong*
as v where e_j(u_j) ≥ e(v), or e_j(v) ≥ e(v).

    p = (1 + #{j as strong}) / (M + 1)

The person is asked in all wordings and with samples, name_j in those alone, so this p is somewhat too small. Whether
the model knows the person at all is tested before, with all names asked alike (:mod:`rkld.discovering.recognising`):
without that something was found of 4 of 40 names that a model had never seen, at half the rate.

What the model itself hardly says in any wording (:data:`RARELY`) is given up before any name is asked about, p = 1.
Names are drawn one after another, and a value that :data:`ENOUGH` of the first n names equal is given up at once, with
p = ENOUGH / n (sequential Monte Carlo p-values: Besag & Clifford 1991, Biometrika 78), so that what is made up
costs little. Which values are found is decided over all of them together (:func:`associated`); what cannot be
accepted any more, whatever comes, is not asked on about, and what is accepted after :data:`SURE` names is compared with
the rest as u = v alone, which needs no answers (:func:`run_trials`).
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
"""Names of the first look; what a value gets by itself is measured with these."""

ASKED = 2
"""Wordings in which other names are asked about, and v and their own values read: those in which v is likeliest for the
person. Reading and answering for the other names is most of what a discovery costs."""

SURE = 24
"""Names after which a value that would be found as things stand is not asked on about in this way."""

RARELY = math.log(0.02)
"""A value that is less probable than this in every wording is not asked about: the model hardly says it, whatever it
says of others. (Of names that it had never seen, one of 16 letters was found "associated" at −24 nats.)"""

SHARE = 0.25
"""Of the names that were asked about, more that are as strong mean that a value is not associated, whatever else is."""

LAMBDA = 0.5
"""The p-values above it tell how many values are no more than chance (:func:`associated`)."""

GROWTH = 3
"""Each look has so many times the names of the one before, but for one at :data:`SURE`."""


class Likelihood(NamedTuple):
    """Asks for log p(value | wording, name), (n,)."""

    asked: Sequence[tuple[Wording, str, str]]


class Continuation(NamedTuple):
    """Asks for what the model says of names, with room for a value, n texts."""

    asked: Sequence[tuple[Wording, str, str]]


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
            (Continuation, asker.said),
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
    """K of them; the other names are asked about in :data:`ASKED` of them."""
    values: Sequence[str]
    """V, at least one."""
    propose: Callable[[str, Sequence[Wording], Sequence[str]], tuple[Sequence[Wording], list[str]]]
    """Another name, some of the wordings, and what the model said of it in each → the values that these propose, and
    these wordings with the model's own beginnings of its answers about that name, behind which they are read."""
    others: Sequence[str]
    """At least :data:`FIRST` similar names."""
    given: bool = False
    """Whether the value stands in the user's documents: it is asked about however seldom the model says it."""


class Trial:
    """The likeliest value of a case against the other names, look by look.

    Shapes: K wordings, of which other names are asked about in :data:`ASKED`; n names of a look.

    Args:
        names: M, of which the case has as many, or what it has.
        compared: with how many of them a value that is found early is compared; by default all.
    """

    def __init__(self, case: Case, names: int, compared: int | None = None) -> None:
        self.case = case
        self.tested = Tested(case.values[0])
        self.names = min(names, len(case.others))
        self.compared = min(self.names, compared or self.names)
        self.active = True
        """Whether more names are asked about."""
        self._wordings = case.wordings  # of the other names k* and the next likeliest alone, that first
        self._read: list[np.ndarray] = []  # log p of the value, (ASKED, n) of each look
        self._theirs: dict[tuple[Wording, str], np.ndarray] = {}  # another name's value → p, (FIRST,)

    def look(self) -> Steps:
        """Ask about the next names."""
        one, done = self.tested, self.tested.names
        if not done:
            yield from self._begin()
            if self._hardly_said():
                self.active = False
                return
        upto = max(FIRST, done * GROWTH)
        names = list(self.case.others[done : min(self.names, SURE if done < SURE < upto else upto)])
        log_p = yield from self._values(names, [one.value])
        self._read.append(log_p)
        likely = log_p.max(axis=0) >= one.log_probability
        usual = np.exp(self._read[0]).mean(axis=1, keepdims=True)  # (ASKED, 1)
        excess = math.exp(one.log_probability) - float(usual[0, 0])
        if not done:  # nobody is compared with themselves
            usual = np.stack([np.exp(np.delete(log_p, j, axis=1)).mean(axis=1) for j in range(len(names))], axis=1)
        strong = _at_best(np.exp(log_p), usual) >= excess
        strong |= yield from self._own_values(names, excess, strong, first=not done)
        self._count(strong, likely)
        one.score = one.log_probability - float(_log_mean(np.concatenate(self._read, axis=1))[0])
        self.active = one.strong < ENOUGH and done + len(names) < self.names

    def compare(self) -> Steps:
        """Only read how likely the value is for the names of the first look, whatever these are sure of."""
        yield from self._begin()
        names = self.case.others[:FIRST]
        if not self._hardly_said():
            log_p = yield from self._values(names, [self.tested.value])
            self.tested.likely = int((log_p.max(axis=0) >= self.tested.log_probability).sum())
            self.tested.compared = len(names)
            self.tested.score = self.tested.log_probability - float(_log_mean(log_p)[0])

    def _begin(self) -> Steps:
        """Read the values for the person, and take the likeliest: so is that of the other names."""
        own = yield from self._values([self.case.name], self.case.values)  # (K, V)
        column = int(own.argmax()) % own.shape[1]
        self._wordings = [self.case.wordings[k] for k in np.argsort(-own.max(axis=1), kind="stable")[:ASKED]]
        self.tested.value, self.tested.log_probability = self.case.values[column], float(own.max())

    def _values(self, names: Sequence[str], values: Sequence[str]) -> Steps:
        """log p(value | q_k, name): (wordings, names · values)."""
        asked = [(wording, name, value) for wording in self._wordings for name in names for value in values]
        found = yield Likelihood(asked)
        return found.reshape(len(self._wordings), -1)

    def _own_values(self, names: Sequence[str], excess: float, strong: np.ndarray, *, first: bool) -> Steps:
        """Which names the model answers with as large an excess, with what it says of them: (n,) bool.

        Proposed and read as the person's: the likeliest of them in the wording in which it is likeliest.
        """
        wordings, others = self._wordings, self.case.others[:FIRST]
        left = np.flatnonzero(~strong).tolist()
        said = yield Continuation([(wording, names[j], self.tested.value) for j in left for wording in wordings])
        found = np.zeros_like(strong)
        own: list[tuple[int, Wording, str]] = []
        for at, j in enumerate(left):
            texts = said[at * len(wordings) : (at + 1) * len(wordings)]
            theirs, values = self.case.propose(names[j], wordings, texts)
            own += [(j, wording, value) for wording in theirs for value in values]
        if not own:
            return found
        read = np.exp((yield Likelihood([(wording, names[j], value) for j, wording, value in own])))
        likeliest = {own[at][0]: at for at in np.argsort(read, kind="stable").tolist()}
        # An excess is never more than the probability itself.
        sure = {j: at for j, at in likeliest.items() if read[at] >= excess}
        new = [one for one in dict.fromkeys(own[at][1:] for at in sure.values()) if one not in self._theirs]
        if new:
            base = yield Likelihood([(wording, name, value) for wording, value in new for name in others])
            self._theirs.update(zip(new, np.exp(base).reshape(len(new), -1), strict=True))
        for j, at in sure.items():
            usual = self._theirs[own[at][1:]]
            found[j] = read[at] - (np.delete(usual, j) if first else usual).mean() >= excess
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
        one, names = self.tested, self.case.others[self.tested.names : self.compared]
        if names:
            log_p = yield Likelihood([(self._wordings[0], name, one.value) for name in names])
            one.likely += int((log_p >= one.log_probability).sum())
            one.compared = self.compared
            one.p = max(one.p, (1 + one.likely) / (self.compared + 1))

    def _hardly_said(self) -> bool:
        return not self.case.given and self.tested.log_probability < RARELY

    def least_p(self) -> float:
        """The smallest p that the value can still have."""
        one = self.tested
        if self._hardly_said():
            return one.p
        return one.p if one.strong >= ENOUGH else (1 + one.strong) / (self.names + 1)


def run_trials(asker: Asker, trials: Sequence[Trial], rate: float, advance: Callable[[int], object]) -> None:
    """Ask on until it is decided of every value whether :func:`associated` accepts it.

    What cannot be accepted any more is given up, with the p that it has so far; what is accepted after :data:`SURE`
    names is done.
    """
    left = len(trials)
    while any(trial.active for trial in trials):
        together(asker, [trial.look() for trial in trials if trial.active])
        possible = associated([trial.least_p() for trial in trials], rate)
        accepted = associated([trial.tested.p for trial in trials], rate)
        for trial, may, found in zip(trials, possible, accepted, strict=True):
            trial.active = trial.active and may and not (found and trial.tested.names >= SURE)
        now = sum(trial.active for trial in trials)
        advance(left - now)
        left = now
    accepted = associated([trial.tested.p for trial in trials], rate)
    together(asker, [trial.finish() for trial, found in zip(trials, accepted, strict=True) if found])


def _at_best(p: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """p, (K, n), less what is usual, in the wording in which each is likeliest: (n,)."""
    found: np.ndarray = np.take_along_axis(p - usual, p.argmax(axis=0)[None], axis=0)[0]
    return found


def _log_mean(values: np.ndarray) -> np.ndarray:
    """logmeanexp over the last axis."""
    top = values.max(axis=-1, keepdims=True)
    found: np.ndarray = (top + np.log(np.exp(values - top).mean(axis=-1, keepdims=True)))[..., 0]
    return found


def associated(p: Sequence[float], rate: float) -> list[bool]:
    """Which hypotheses are rejected so that the expected share of false ones among them is at most ``rate``.

    Benjamini & Hochberg at rate / π, where π estimates the share of true hypotheses, of which half have a p above ½
    (Storey, Taylor & Siegmund 2004, J. R. Stat. Soc. B 66, equation 6): π = (1 + #{p > ½}) / (½ m), at most 1. Of a
    name that the model knows well few are true. None with a p above :data:`SHARE` is rejected.
    """
    true = min(1.0, (1 + sum(one > LAMBDA for one in p)) / ((1 - LAMBDA) * len(p))) if p else 1.0
    found = benjamini_hochberg(p, rate / true)
    return [flag and one <= SHARE for flag, one in zip(found, p, strict=True)]


def benjamini_hochberg(p: Sequence[float], rate: float) -> list[bool]:
    """Which hypotheses are rejected so that the expected share of false ones among them is at most ``rate``."""
    order = np.argsort(p, kind="stable")
    bounds = rate * np.arange(1, len(p) + 1) / max(1, len(p))
    passed = np.flatnonzero(np.asarray(p)[order] <= bounds)
    found = np.zeros(len(p), dtype=bool)
    if len(passed):
        found[order[: passed[-1] + 1]] = True
    return [bool(flag) for flag in found]
