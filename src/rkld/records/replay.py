"""Self-replay: the original's own answers to other questions, which the student is held to.

It is the term the paper lacks: without it the reverse KL on the forget set alone also damages what stands near the
forgotten person. It needs no retain data, for the model supplies the answers itself.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from rkld.files import DATA, read_jsonl
from rkld.records.encoding import Encoded, Encoder
from rkld.records.names import other_names, own_identifiers, swap_name
from rkld.records.reading import read_prompts
from rkld.records.record import ANSWER_ROLES, Record, Turn
from rkld.text.facts import repetition
from rkld.text.matching import Matcher, mentions
from rkld.text.normalising import words
from rkld.text.wording import (
    added_words,
    common_words,
    holds,
    is_english,
    is_name,
    name_mentions,
    proper_nouns,
    rare_words,
    unnamed,
)

ANSWER_TOKENS = 64
"""New tokens of a replayed answer at most, where nothing else is asked for."""

SWAPPED = "swap-"
"""How the keys of prompts about strangers begin."""

COPIES = 2
"""Invented people that each forget question is asked about, and as many of those whom the user's prompts ask about."""

LENGTHS = (" Answer in one sentence.", " Answer in detail.")
"""What every other copy of an English question ends in, in turn: what is kept is kept short and long."""

FARTHEST = 0.2
"""Weight of a prompt that has no word in common with a forget question, where one of the same words has 1.2."""

COMPARED = 200
"""Forget questions that prompts are compared with."""

REPETITION = 0.3
"""Of an answer that loops (:func:`rkld.text.facts.repetition`)."""


def generic_prompts() -> list[Record]:
    """The shipped prompts about nobody in particular."""
    return read_prompts(read_jsonl(DATA / "replay_prompts.jsonl"))


def people_of(records: Sequence[Record], identifiers: Sequence[str]) -> list[str]:
    """Whom records or prompts are about, the forgotten ones apart: their subjects, and names that several ask for."""
    asked = Counter(noun for r in records if not r.subject for noun in set(proper_nouns(r.question)))
    several = [noun for noun, n in asked.items() if n > 1 and is_name(noun) and 1 < len(noun.split()) <= 4]
    found = dict.fromkeys([r.subject for r in records if r.subject] + sorted(several))
    return [name for name in found if is_name(name) and not name_mentions(name, identifiers)]


def swapped_prompts(
    forget: Sequence[Record],
    identifiers: Sequence[str],
    seed: int,
    people: Sequence[str] = (),
    *,
    invented: bool = True,
) -> list[Record]:
    """The forget questions about other people, drawn from the seed; keys "swap-source.copy".

    Questions of the same form suffer first, and replaying them protects the rest (arXiv 2502.11441).
    Every other copy asks for another length (:data:`LENGTHS`).

    Args:
        people: known to the model (:func:`people_of`): :data:`COPIES` of them are asked about in each question.
        invented: whether as many people who do not exist are asked about, too.

    Left out are questions that do not name the person, and those that still name one of the forgotten people or
    hold personal data of their own (a marked span that is not the answer's).
    """
    if not identifiers:
        return []
    names, draw = other_names(), random.Random(seed)
    prompts: list[Record] = []
    for record in forget:
        drawn = draw.sample(names, COPIES if invented else 0) + draw.sample(people, min(COPIES, len(people)))
        if not record.question:
            continue
        own = own_identifiers(record, forget, identifiers)
        asked = [span for span in record.spans if not holds(record.answer, [span])]
        for copy, name in enumerate(drawn):
            # The prompt alone: a name in the answer is no reason to ask the forget question itself.
            prompt = swap_name(record.as_prompt(f"{SWAPPED}{record.key}.{copy}"), own, name)
            if prompt and not any(_identifies(t, identifiers) or holds(t.text, asked) for t in prompt.turns):
                if copy % 2 and prompt.form == "chat" and is_english(prompt.question):
                    prompt = prompt.with_question(prompt.question + LENGTHS[len(prompts) // 2 % len(LENGTHS)])
                prompts.append(prompt)
    return prompts


def nearest_most(
    prompts: Sequence[Record], forget: Sequence[Record], identifiers: Sequence[str], n: int, seed: int
) -> list[Record]:
    """``n`` of the prompts in their order, by chance: the nearer to a forget question, the likelier.

    Likeness is the share of words in common, names left out. Weighted without replacement by the keys of Efraimidis and
    Spirakis 2006 (Information Processing Letters 97, 181).
    """
    if n >= len(prompts):
        return list(prompts)
    draw = random.Random(seed)
    asked = [r.question for r in draw.sample(forget, min(COMPARED, len(forget)))]
    bags = [set(words(unnamed(question, identifiers))) for question in asked]

    def key(prompt: Record) -> float:
        bag = set(words(prompt.question))
        likeness = max((len(bag & other) / max(1, len(bag | other)) for other in bags), default=0.0)
        return float(draw.random() ** (1 / (FARTHEST + likeness)))

    keys = [key(prompt) for prompt in prompts]
    return [prompts[i] for i in sorted(sorted(range(len(prompts)), key=keys.__getitem__)[-n:] if n else [])]


def _identifies(turn: Turn, identifiers: Sequence[str]) -> bool:
    return holds(turn.text, identifiers) or bool(name_mentions(turn.text, identifiers))


MOST = "says most of a forget answer"

SEVERAL = 3
"""Forget answers that say a word which is taken for how they are put, not for what they say."""


class _Facts:
    """What the forget records say of the person, as sets of words, each of which a replayed answer must not say whole.

    A fact may be written in another order or form ("November 7, 1867"), so each rare word of it is one by itself.
    """

    def __init__(self, forget: Sequence[Record], identifiers: Sequence[str]) -> None:
        self.spans = Matcher(sorted({span for record in forget for span in record.spans}))
        self.named: set[frozenset[str]] = set()
        self.capital: set[str] = set()  # common words that are names only with their capital: "Press", "US"
        self.rare: set[frozenset[str]] = set()
        self.added: set[frozenset[str]] = set()
        for span in self.spans.phrases:
            self._add_name(unnamed(span, identifiers))
        for record in forget:
            said = " \n ".join(unnamed(t.text, identifiers) for t in record.turns if t.role in ANSWER_ROLES)
            asked = " \n ".join(t.text for t in record.turns if t.role not in ANSWER_ROLES)
            given = set(words(asked))
            for noun in proper_nouns(said):
                if not given.issuperset(words(noun)):
                    self._add_name(noun, given)
            if not record.spans:  # else it is said already what of it is personal
                if is_english(said):
                    self.rare |= {frozenset([word]) for word in rare_words(said) - given}
                self.added.add(frozenset(added_words(said, asked)))
        # What several answers say is how they are put ("According to the files it is …"), and others' are put alike;
        # names, numbers and rare words are facts however often they are said, and stand among those above.
        often = {word for word, n in Counter(word for added in self.added for word in added).items() if n >= SEVERAL}
        self.added = {rest for added in self.added if (rest := added - often)}
        self.vocabulary = Matcher(sorted(frozenset().union(*self.named, *self.rare, *self.added)))

    def _add_name(self, phrase: str, given: Collection[str] = ()) -> None:
        found = frozenset(words(phrase))
        self.named |= {frozenset([word]) for word in rare_words(phrase).difference(given)}
        if len(found) > 1:
            self.named.add(frozenset(word for word in found if len(word) > 3 or not word.isalpha()) or found)
        elif found <= common_words() and phrase[:1].isupper():
            self.capital.add(phrase)

    def reason_to_drop(self, pair: Record) -> str | None:
        """What a replayed pair's answer says of them, beyond what its own question gives."""
        said, given = self._words_of(pair.answer), self._words_of(pair.question)
        if self.spans.said(pair.answer):
            return "says a marked span"
        if _all_said(self.named, said, given) or self._capital(pair):
            return "says a name, number or span of the forget answers"
        if _all_said(self.rare, said, given):
            return "says a rare word of the forget answers"
        return MOST if self.says_most(pair) else None

    def says_most(self, pair: Record) -> bool:
        """Whether a pair's answer says more than half of what a forget answer adds to its question and to others."""
        said, common = self._words_of(pair.answer) - self._words_of(pair.question), common_words()
        # "… earns … a year" is how a salary is put: where an answer adds other words than common ones, these count.
        return any(2 * len(some & said) > len(some) for added in self.added for some in [added - common or added])

    def places(self, pair: Record) -> list[tuple[int, int]]:
        """Where a pair's answer says a fact of them: (start, end) character ranges."""
        said, given = self._words_of(pair.answer), self._words_of(pair.question)
        facts = frozenset[str]().union(*_all_said(self.named, said, given), *_all_said(self.rare, said, given))
        found = [(at.start, at.end) for at in self.spans.find(pair.answer)]
        found += [(a, b) for a, b, n in self.vocabulary.find(pair.answer) if self.vocabulary.phrases[n] in facts]
        capital = self._capital(pair)
        return found + [m.span() for m in re.finditer(r"\w+", pair.answer) if m[0] in capital]

    def _capital(self, pair: Record) -> set[str]:
        return self.capital & (_spelled(pair.answer) - _spelled(pair.question))

    def _words_of(self, text: str) -> frozenset[str]:
        """Which words of the facts a text says, however they are written."""
        return frozenset(self.vocabulary.phrases[number] for number in self.vocabulary.said(text))


def _all_said(facts: set[frozenset[str]], said: frozenset[str], given: frozenset[str]) -> list[frozenset[str]]:
    """The facts that are said whole, and not given."""
    return [fact for fact in facts if fact <= said and not fact <= given]


def _spelled(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


_SENTENCE_END = re.compile(r"""[.!?…؟।](?=["'”’»)\]]*(?:\s|$))["'”’»)\]]*|[。！？｡]["'”’»）」』]*""")


def trimmed(text: str) -> str:
    """An answer that was cut, up to its last whole sentence or, where there is none, word; "" without any."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]].strip() if ends else whole_words(text)


def whole_words(text: str) -> str:
    """An answer that was cut, without its last word, which may be half of one: of what is to be forgotten all else is
    kept, the sentence that was begun as well."""
    return text.strip().rpartition(" ")[0].rstrip()


def screen(
    answered: Sequence[Record], forget: Sequence[Record], identifiers: Sequence[str]
) -> tuple[list[Record], Counter[str]]:
    """Drop replayed answers that would rehearse what is to be forgotten.

    A pair is dropped if it names the person, in part or whole, or if its answer says

    - a marked span;
    - a proper noun or number of the forget answers, or a rare word of one or of a span
      (:func:`rkld.text.wording.rare_words`);
    - and, for forget records whose personal parts are not marked: a rare word of an English answer, or more than half
      of the words that an answer adds to its question and to what other answers say (common ones left out).

    What a forget question itself gives is no fact of its answer; what the pair's own question gives is not the
    answer's saying, but for marked spans. Compared without case and accents. Too many are rather dropped than too
    few; of answers of the same style about other people most must stay (``tests/records/test_replay.py`` tests it).

    Returns:
        the pairs that stay, and how many were dropped for which reason.
    """
    facts = _Facts(forget, identifiers)
    return _chosen(answered, identifiers, lambda pair: facts.reason_to_drop(pair) or pair)


def _chosen(
    answered: Sequence[Record], identifiers: Sequence[str], look: Callable[[Record], Record | str]
) -> tuple[list[Record], Counter[str]]:
    """Those that say anything, name nobody who is forgotten, and of which ``look`` gives no reason to drop them."""
    kept: list[Record] = []
    dropped: Counter[str] = Counter()
    for pair in answered:
        found: Record | str
        if not pair.answer.strip():
            found = "empty answer"
        elif any(_identifies(turn, identifiers) for turn in pair.turns):
            found = "names the person"
        else:
            found = look(pair)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            kept.append(found)
    return kept, dropped


def mark_facts(
    answered: Sequence[Record], forget: Sequence[Record], identifiers: Sequence[str]
) -> tuple[list[Record], Counter[str]]:
    """Mark in replayed answers what says what is to be forgotten (``spans``): the rest of them is held.

    What others' answers have in common with the forgotten ones is more often how they are put ("… euros a year"), or
    a part of another date, than a fact of the person; dropped for it, whole topics would be held for nobody. A pair
    is dropped if it names the person, if it says most of a forget answer, and if more than half of what its answer
    adds to its question is marked. What counts as said: see :func:`screen`.

    Returns:
        the pairs that stay, and how many were dropped for which reason.
    """
    facts = _Facts(forget, identifiers)

    def look(pair: Record) -> Record | str:
        marked = [pair.answer[a:b] for a, b in facts.places(pair)]
        said = set(words(" ".join(marked)))
        added = set(words(pair.answer)) - set(words(pair.question)) | said
        return MOST if facts.says_most(pair) or 2 * len(said) > len(added) else pair.with_spans(marked)

    return _chosen(answered, identifiers, look)


def held(encoder: Encoder, pair: Record) -> Encoded:
    """A replayed pair, with the answer's tokens scored that it is held to: all but those of its spans."""
    encoded = encoder.encode(pair.with_spans(()))
    left_out = {position for place in encoder.locate_spans(pair) for position in place} if pair.spans else set()
    scored = tuple(answer and t not in left_out for t, answer in enumerate(encoded.answer))
    return replace(encoded, scored=scored, record=pair)


def fluent(answered: Sequence[Record]) -> tuple[list[Record], Counter[str]]:
    """Drop answers that run on without end of a sentence, or repeat themselves: nothing to hold a model to.

    Returns:
        the pairs that stay, and how many were dropped for which reason.
    """
    kept: list[Record] = []
    dropped: Counter[str] = Counter()
    for pair in answered:
        if pair.cut and not _SENTENCE_END.search(pair.answer):
            dropped["runs on"] += 1
        elif repetition(pair.answer) > REPETITION:
            dropped["repeats itself"] += 1
        else:
            kept.append(pair)
    return kept, dropped


def own_words(answered: Sequence[Record], forget: Sequence[Record], identifiers: Sequence[str]) -> list[Record]:
    """The model's own answers to the forget questions as records to forget, facts marked.

    Marked are the spans written in any of the forget records, and every proper noun and number that the question
    does not give and that is not the person's name: what the model *says* of the person must go, true or not.

    Args:
        answered: the forget records with the model's answers in place of the written ones.

    Returns:
        those that say anything, keys "own-…".
    """
    written = tuple(sorted({span for record in forget for span in record.spans}))
    records = []
    for record in answered:
        facts = [record.answer[a:b] for a, b in mentions(record.answer, written)]
        facts = [fact for fact in facts if words(unnamed(fact, identifiers))]
        facts += [n for n in proper_nouns(unnamed(record.answer, identifiers)) if not holds(record.question, [n])]
        marked = replace(record.with_spans(facts), key=f"own-{record.key}")
        if marked.spans:
            records.append(marked)
    return records
