"""Is a value associated with a name, or would the model say as much of any? A rank test against similar names.

A value v of a topic is scored in wordings that did not propose it (q_k, k = 1 … K):

    s(v) = mean_k [log p(v | q_k, name) − logmeanexp_j log p(v | q_k, name_j)]

over M other names, as WikiMem ranks facts against counterfactuals (arXiv 2507.11128). A model has an answer for
everybody: of a name that it never saw, too, something comes out that is likelier for this name than for most. So the
other names are allowed theirs. A name_j is *as strong* as v where some value u, of those proposed for the person or
said of name_j itself, is at least as probable, mean_k log p(u | q_k, name_j) ≥ mean_k log p(v | q_k, name), and at
least as particular, s_j(u) ≥ s(v). With u = v alone this is the rank of s(v) among the s_j(v); with more, p is only
larger.

    p = (1 + #{j as strong}) / (M + 1)

Names are drawn one after another, and a value that :data:`ENOUGH` of the first n names equal is given up at once, with
p = ENOUGH / n (sequential Monte Carlo p-values: Besag & Clifford 1991, Biometrika 78), so that whom the model does not
know costs little. Which values are found is decided over all of them together (Benjamini & Hochberg 1995); what cannot
be accepted any more, whatever comes, is not asked on about (:func:`run_trials`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rkld.discovering.asking import Asker, Wording

ENOUGH = 3
"""Names as strong as the value, after which no more are asked about."""

FIRST = 8
"""Names of the first look; the particularity of values is measured against these."""

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
    """mean_k log p(v | q_k, name), in nats."""
    score: float = 0.0
    """s(v), in nats, over the names asked."""
    strong: int = 0
    """Names as strong as the value."""
    likely: int = 0
    """Names for which the model finds this very value at least as probable as for the person."""
    names: int = 0
    """Names that were asked about."""
    p: float = 1.0


@dataclass
class Case:
    """The values of one topic that are tested in the same wordings."""

    name: str
    """The identifier that is asked about."""
    testing: Sequence[Wording]
    """K wordings, which did not propose the values."""
    proposing: Sequence[Wording]
    """Wordings of those that did: behind them other names' own values are found."""
    values: Sequence[str]
    cut: Callable[[str], list[str]]
    """What the model said behind a beginning → the value in it, if there is one."""
    others: Sequence[str]
    """At least :data:`FIRST` similar names."""


class Trial:
    """The values of one case against the other names, look by look.

    Args:
        names: M, of which the case has as many, or what it has.
    """

    def __init__(self, case: Case, names: int) -> None:
        self.case = case
        self.tested = [Tested(value) for value in case.values]
        self.active = list(self.tested)
        """Values of which more names are still asked about."""
        self.names = min(names, len(case.others))
        self._reader = _Reader(case)
        self._done = 0

    def look(self) -> Steps:
        """Ask about the next names."""
        if not self._done:
            yield from self._reader.begin()
            for one, log_p in zip(self.tested, self._reader.own.mean(axis=0), strict=True):
                one.log_probability = float(log_p)
        upto = min(self.names, max(FIRST, self._done * GROWTH))
        look, values = list(self.case.others[self._done : upto]), [one.value for one in self.active]
        strong, likely = yield from self._reader.compare(look, values, first=self._done == 0)
        for one, s, k in zip(self.active, strong, likely, strict=True):
            _count(one, s, k)
        for one, score in zip(self.tested, self._reader.scores(), strict=True):
            one.score = score
        self._done = upto
        self.active = [one for one in self.active if one.strong < ENOUGH and self._done < self.names]

    def least_p(self, one: Tested) -> float:
        """The smallest p that a value can still have."""
        return one.p if one.strong >= ENOUGH else (1 + one.strong) / (self.names + 1)


def run_trials(asker: Asker, trials: Sequence[Trial], rate: float, advance: Callable[[int], object]) -> None:
    """Ask on until it is decided of every value whether :func:`benjamini_hochberg` at ``rate`` accepts it.

    Of m values the k that are still possible cannot be accepted at more than rate · k / m: what cannot come below that
    any more is given up, with the p that it has so far, and decides nothing.
    """
    total = sum(len(trial.tested) for trial in trials)
    left = total
    while any(trial.active for trial in trials):
        together(asker, [trial.look() for trial in trials if trial.active])
        possible = [(trial, one) for trial in trials for one in trial.tested]
        while True:
            bound = rate * len(possible) / total
            kept = [(trial, one) for trial, one in possible if trial.least_p(one) <= bound]
            if len(kept) == len(possible):
                break
            possible = kept
        alive = {id(one) for _, one in possible}
        for trial in trials:
            trial.active = [one for one in trial.active if id(one) in alive]
        now = sum(len(trial.active) for trial in trials)
        advance(left - now)
        left = now


def _count(one: Tested, strong: np.ndarray, likely: np.ndarray) -> None:
    """Take a look's names, (n,) bool each, up to the one with which there are enough."""
    places = np.flatnonzero(strong)
    missing = ENOUGH - one.strong
    upto = int(places[missing - 1]) + 1 if len(places) >= missing else len(strong)
    one.strong += int(strong[:upto].sum())
    one.likely += int(likely[:upto].sum())
    one.names += upto
    one.p = ENOUGH / one.names if one.strong >= ENOUGH else (1 + one.strong) / (one.names + 1)


class _Reader:
    """Log-probabilities of the values for the other names, kept over the looks.

    Shapes: K wordings, V values of the person, n names of a look.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.own = np.zeros((len(case.testing), len(case.values)))  # (K, V): of the person
        self.read: dict[str, list[np.ndarray]] = {value: [] for value in case.values}  # each (K,), by the names so far
        self.base: dict[str, np.ndarray] = {}  # value → (K, FIRST): of the first names

    def begin(self) -> Steps:
        """Read the values for the person."""
        self.own = yield from _means(self.case, [(self.case.name, value) for value in self.case.values])

    def compare(self, look: Sequence[str], values: Sequence[str], *, first: bool) -> Steps:
        """Which names are as strong as each value, and for which the value is as probable: (len(values), n) bool."""
        case = self.case
        theirs = yield from _means(case, [(name, value) for name in look for value in values])
        theirs = theirs.reshape(len(case.testing), len(look), len(values))  # (K, n, values)
        for column, value in enumerate(values):
            self.read[value] += list(theirs[:, :, column].T)
            if first:
                self.base[value] = theirs[:, :, column]
        mine = np.array([self.own[:, case.values.index(value)].mean() for value in values])
        special = np.array([self._special(value, self.own[:, [case.values.index(value)]])[0] for value in values])
        places = range(len(look)) if first else None
        candidates = {value: theirs[:, :, column] for column, value in enumerate(values)}
        probable = {value: found.mean(axis=0) for value, found in candidates.items()}  # (n,)
        particular = {value: self._special(value, found, places) for value, found in candidates.items()}
        strong = np.zeros((len(values), len(look)), dtype=bool)
        for value in values:
            strong |= (probable[value][None] >= mine[:, None]) & (particular[value][None] >= special[:, None])
        likely = np.stack([probable[value] >= mine[row] for row, value in enumerate(values)])
        own = yield from self._own_answers(look, mine, special, strong, first=first)
        return strong | own, likely

    def _own_answers(
        self, look: Sequence[str], mine: np.ndarray, special: np.ndarray, strong: np.ndarray, *, first: bool
    ) -> Steps:
        """Which names the model answers as strongly as the values, with what it says of them: (len(values), n) bool."""
        case = self.case
        open_ = [j for j in range(len(look)) if not strong[:, j].all()]
        asked = [(wording, look[j]) for j in open_ for wording in case.proposing]
        said = yield Continuation(asked)
        found = np.zeros_like(strong)
        pairs = dict.fromkeys(
            (open_[i // len(case.proposing)], value)
            for i, text in enumerate(said)
            for value in case.cut(text)
            if value not in case.values
        )
        if not pairs:
            return found
        means = yield from _means(case, [(look[j], value) for j, value in pairs])  # (K, pairs)
        likely = [(j, value, means[:, i]) for i, (j, value) in enumerate(pairs) if means[:, i].mean() >= mine.min()]
        new = list(dict.fromkeys(value for _, value, _ in likely if value not in self.base))
        names = case.others[:FIRST]
        base = yield from _means(case, [(name, value) for value in new for name in names])
        base = base.reshape(len(case.testing), len(new), len(names))
        self.base.update((value, base[:, i]) for i, value in enumerate(new))
        for j, value, log_p in likely:
            particular = self._special(value, log_p[:, None], [j] if first else None)[0]
            found[:, j] |= (log_p.mean() >= mine) & (particular >= special)
        return found

    def _special(self, value: str, log_p: np.ndarray, places: Sequence[int] | None = None) -> np.ndarray:
        """s of a value for names whose log-probabilities are (K, n), against the first names: (n,).

        Args:
            places: of the names among the first ones, where they are: nobody is compared with themselves.
        """
        base = self.base[value]  # (K, FIRST)
        if places is None or base.shape[1] < 2:
            usual = _log_mean(base)[:, None]  # (K, 1)
        else:
            usual = np.stack([_log_mean(np.delete(base, place, axis=1)) for place in places], axis=1)  # (K, n)
        found: np.ndarray = (log_p - usual).mean(axis=0)
        return found

    def scores(self) -> list[float]:
        """s(v) of each value, against all names that were asked about."""
        return [
            float((self.own[:, i] - _log_mean(np.stack(self.read[value], axis=1))).mean())
            for i, value in enumerate(self.case.values)
        ]


def _means(case: Case, asked: Sequence[tuple[str, str]]) -> Steps:
    """log p(value | q_k, name) of pairs (name, value): (K, n)."""
    if not asked:
        return np.zeros((len(case.testing), 0))
    each = [(wording, name, value) for wording in case.testing for name, value in asked]
    found = yield Likelihood(each)
    return found.reshape(len(case.testing), len(asked))


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
