"""A record said in other words by rules, which need no model: the same fact as a form, a letter, an indirect question.

Each rule makes one :data:`KINDS` of wording. Those that rearrange a sentence are for English and know little grammar:
where a question or an answer is not of a form that they know, they make nothing. Frames around the record's own
question (ticket, form, letter) are for any language. What the frames say, and irregular verbs, are data
(``rkld/data/rewording_frames.json``, ``irregular_verbs.txt``).

An audit's own mechanical rewordings (:mod:`rkld.records.probes`) are none of these.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from rkld.errors import UserError, nearest
from rkld.files import DATA
from rkld.records.names import own_identifiers
from rkld.records.probes import facts_of
from rkld.records.record import Record, Rewording
from rkld.text.matching import mentions
from rkld.text.wording import added_spans, is_english, is_name, name_mentions, sentences, unnamed

KINDS: Mapping[str, str] = {
    "completion": "the sentence of a fact, to be completed",
    "imperative": "the question as an instruction",
    "indirect": "the question in a subordinate clause",
    "short": "the question, answered by the fact alone",
    "yes_no": "whether it is known, answered by yes and the fact",
    "reversed": "who it is of whom the fact is true",
    "text": "running text in the third person, which nobody asks for",
    "turn": "a user's turn that tells the fact: it is forgotten in that turn",
    "ticket": "the question in a ticket",
    "form": "the question in a form",
    "letter": "the question in a letter",
    "span": "the sentence with a gap, answered by the span alone",
}
"""Kind of wording → what it is."""


def check_kinds(kinds: Collection[str]) -> tuple[str, ...]:
    """The kinds in their own order; all, where none is named. UserError for one that there is not."""
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"there is no kind of wording '{kind}'.{nearest(kind, KINDS)} Kinds: {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if not kinds or kind in kinds)


def rewordings_by_rules(
    record: Record, identifiers: Sequence[str] = (), kinds: Collection[str] = (), seed: int = 0
) -> list[Rewording]:
    """Every wording of the record that the rules can make, the same for the same arguments; not yet filtered.

    Args:
        record: of a conversation the last question and answer are reworded, in the context of the others.
        identifiers: the person's names and the like; without any nothing is made that needs a name.
        kinds: of these alone (:data:`KINDS`).
        seed: of the choice among frames.
    """
    parts = _Parts(record, identifiers, seed)
    wanted = check_kinds(kinds)
    if record.answer_index is None or record.turns[record.answer_index].fields:
        return []  # thoughts and calls of tools are not reworded
    return [one for kind in wanted for one in _RULES[kind](parts) if one.answer.strip()]


def located_facts(record: Record, identifiers: Sequence[str]) -> tuple[str, ...]:
    """The facts that the answer adds to its question, as they stand in it: its spans; else names, dates and numbers;
    else what else it adds."""
    found = facts_of(record, identifiers)
    if found or record.spans:
        return found
    answer = record.answer
    given = record.before if record.form != "text" else ""
    return tuple(dict.fromkeys(answer[a:b] for a, b in added_spans(answer, f"{given} {' '.join(identifiers)}")))


@dataclass(frozen=True)
class _Parts:
    """What the rules put together."""

    record: Record
    identifiers: Sequence[str]
    seed: int

    @cached_property
    def question(self) -> str:
        return " ".join(self.record.question.split()) if self.record.form == "chat" else ""

    @cached_property
    def answer(self) -> str:
        return self.record.answer.strip()

    @cached_property
    def own(self) -> tuple[str, ...]:
        return own_identifiers(self.record, [self.record], self.identifiers)

    @cached_property
    def name(self) -> str:
        """The person's name as this record says it, or as it is known; "" without one."""
        for text in (self.question, self.answer):
            full = [text[a:b] for a, b, role in name_mentions(text, self.own) if role == "full"]
            if full:
                return full[0]
        return self.record.subject or next(filter(is_name, self.own), "")

    @cached_property
    def english(self) -> bool:
        return is_english(unnamed(f"{self.question} {self.answer}", self.own))

    @cached_property
    def facts(self) -> tuple[str, ...]:
        return located_facts(self.record, self.identifiers)

    @cached_property
    def statements(self) -> list[tuple[str, list[tuple[int, int]]]]:
        """The answer's sentences that say a fact, each naming the person, and where the facts stand in it."""
        found = []
        for sentence in sentences(self.answer):
            named = self._named(sentence)
            names = name_mentions(named, self.own) if self.names_are_given else []
            places = [(a, b) for a, b in mentions(named, self.facts) if not any(a < e and s < b for s, e, _ in names)]
            if places:
                found.append((named, places))
        return found

    @cached_property
    def names_are_given(self) -> bool:
        """Whether the person's name is no fact, as the question gives it, or nothing was asked. Where it is one, what
        the answer says of it ("That is Jane Doe.") makes no sense without the question."""
        return not self.question or bool(name_mentions(self.question, self.own))

    def _named(self, sentence: str) -> str:
        """A sentence with the name in the place of a pronoun that begins it; "" where it does not name the person."""
        if name_mentions(sentence, self.own):
            return sentence
        if pronoun := self.name and re.match(r"(?:(He|She)|(?:His|Her)) ", sentence):
            return f"{self.name}{'' if pronoun[1] else _possessive(self.name)} {sentence[pronoun.end() :]}"
        return ""

    @cached_property
    def clause(self) -> str:
        """The question as a subordinate clause ("when Jane Doe was born"); "" where its form is not known."""
        return indirect_clause(self.question, self.own) if self.english else ""

    def frame(self, kind: str, **values: str) -> str:
        """One of the frames of a kind, filled in; "" where there is none in this language."""
        frames = _frames()["english" if self.english else "any"].get(kind, [])
        chance = random.Random(f"{self.seed} {self.record.key} {kind}")
        number = str(chance.randint(1000, 9999))
        return chance.choice(frames).format(**values, number=number) if frames else ""


@cache
def _frames() -> dict[str, dict[str, list[str]]]:
    text = (DATA / "rewording_frames.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, list[str]]] = json.loads(text)
    return found


def _possessive(name: str) -> str:
    return "'" if name.endswith("s") else "'s"


# The rules


def _completion(p: _Parts) -> Iterator[Rewording]:
    for statement, places in p.statements if p.english and p.names_are_given else ():
        begin = statement[: places[0][0]].rstrip(" \"'“„«([")
        if len(begin.split()) > 1 and name_mentions(begin, p.own):
            yield Rewording(p.frame("completion", begin=begin), statement[len(begin) :].strip(), "completion")
            return


def _imperative(p: _Parts) -> Iterator[Rewording]:
    asked = re.fullmatch(r"(?:can|could|would|will) you (?:please )?(.+?)\?", p.question, re.I)
    if p.english and asked:
        yield Rewording(p.frame("request", asked=asked[1]), p.answer, "imperative")
    elif p.clause:
        yield Rewording(p.frame("imperative", clause=p.clause), p.answer, "imperative")


def _indirect(p: _Parts) -> Iterator[Rewording]:
    if p.clause:
        yield Rewording(p.frame("indirect", clause=p.clause), p.answer, "indirect")


def _yes_no(p: _Parts) -> Iterator[Rewording]:
    if p.clause and not re.match(r"(?:yes|no)\b", p.answer, re.I):
        yield Rewording(p.frame("yes_no", clause=p.clause), f"Yes. {p.answer}", "yes_no")


def _short(p: _Parts) -> Iterator[Rewording]:
    if p.english and p.question and p.statements:
        statement, places = p.statements[0]
        if len(places) <= 2:
            yield Rewording(
                p.frame("short", question=p.question), ", ".join(statement[a:b] for a, b in places), "short"
            )


def _reversed(p: _Parts) -> Iterator[Rewording]:
    for statement, _ in p.statements if p.english else ():
        names = name_mentions(statement, p.own)
        start, end, _role = names[0]
        whose = re.match(r"['’]s? ", statement[end:])
        tells = statement[end + (whose.end() if whose else 0) :].strip().rstrip(".!")
        if start or len(names) > 1 or not re.match(r"[a-z]+ ", tells):
            continue
        frame = p.frame("reversed_whose" if whose else "reversed", tells=tells)
        yield Rewording(frame, f"That is {p.name}.", "reversed")
        return


def _text(p: _Parts) -> Iterator[Rewording]:
    if p.english and p.question and p.names_are_given and p.statements:
        yield Rewording("", " ".join(statement for statement, _ in p.statements), "text")


def _turn(p: _Parts) -> Iterator[Rewording]:
    if p.english and p.name and p.names_are_given and p.statements:
        told = p.frame("turn", name=p.name, statement=" ".join(statement for statement, _ in p.statements))
        chance = random.Random(f"{p.seed} {p.record.key} acknowledgement")
        yield Rewording(told, chance.choice(list(_frames()["acknowledgements"])), "turn")


def _framed(kind: str) -> Callable[[_Parts], Iterator[Rewording]]:
    def make(p: _Parts) -> Iterator[Rewording]:
        if p.question:
            yield Rewording(p.frame(kind, question=p.question), p.answer, kind)

    return make


GAP = "[...]"


def _span(p: _Parts) -> Iterator[Rewording]:
    for statement, places in p.statements if p.english and p.names_are_given else ():
        for start, end in places:
            gapped = statement
            for a, b in reversed(places):  # the other facts of the sentence would be told
                gapped = gapped[:a] + (GAP if statement[a:b] == statement[start:end] else "…") + gapped[b:]
            yield Rewording(p.frame("span", gap=gapped), statement[start:end], "span")


_RULES: Mapping[str, Callable[[_Parts], Iterator[Rewording]]] = {
    "completion": _completion,
    "imperative": _imperative,
    "indirect": _indirect,
    "short": _short,
    "yes_no": _yes_no,
    "reversed": _reversed,
    "text": _text,
    "turn": _turn,
    "ticket": _framed("ticket"),
    "form": _framed("form"),
    "letter": _framed("letter"),
    "span": _span,
}


# English: from a question to a clause


_BE = ("is", "was", "are", "were")

_DO = ("do", "does", "did")

_HELPERS = (*_BE, *_DO, "has", "had", "have", "can", "could", "will", "would", "should", "must")

_ASKING = re.compile(
    r"(?P<asks>(?:(?:in|on|at|for|to|from|with|by|of|through|during|under|about) )?"
    r"(?:what|which|who|whom|whose|where|when|why|how)\b(?: [^\W\d_][\w'’-]*){0,4}?)"
    rf" (?P<helper>{'|'.join(_HELPERS)}) (?P<rest>.+)",
    re.I,
)

_WHETHER = re.compile(rf"(?P<helper>{'|'.join(_HELPERS)}) (?P<rest>.+)", re.I)

_SUBJECT_ASKED = re.compile(r"(?:who|what|which|whose)\b.+", re.I)

_LEAD = re.compile(r"(?:(?:the|author|writer|mr\.?|mrs\.?|ms\.?|dr\.?) |(?:the )?\w+ (?:and \w+ )?of )*", re.I)
"""What may stand before a name in a subject: "the father of", "author"."""

_NOUN = re.compile(r"(?:the|a|an|his|her|their|its)\b", re.I)

_ADVERBS = re.compile(r"((?: \w+ly| most| first| usually| often)*) (\w+)(.*)")


def indirect_clause(question: str, identifiers: Sequence[str]) -> str:
    """An English question as the clause behind "I know": "When was Jane born?" → "when Jane was born".

    The subject is found by the person's name. "" where the question is no single one, or of a form that is not known.
    """
    asked = question.strip()
    if not asked.endswith("?") or re.search(r"[.!?;:\n]\s", asked[:-1]):
        return ""
    asked = asked[:-1].strip()
    whether = _WHETHER.fullmatch(asked)
    found = whether or _ASKING.fullmatch(asked)
    if found is None:
        return _begun_small(asked) if _SUBJECT_ASKED.fullmatch(asked) else ""
    asks = "whether" if whether else _begun_small(found["asks"])
    helper, rest = found["helper"].lower(), found["rest"]
    if name_mentions(asks, identifiers):
        return ""
    subject, tail = _subject(rest, identifiers)
    if not subject:
        # "Who is the author of …", "Which nurse was born …": no other order is needed.
        return "" if whether or helper in _DO or not _stays(asks, helper, rest) else _begun_small(asked)
    if re.match(r"['’]s?\b", tail):  # whose the subject is, and where it ends, is unknown but before a mere "is"
        return f"{asks} {rest} {helper}" if helper in _BE and asks in ("what", "who") else ""
    if helper not in _DO:
        return f"{asks} {subject} {helper}{tail}" if tail or helper in _BE else ""
    verb = _ADVERBS.fullmatch(tail)
    return f"{asks} {subject}{verb[1]} {inflected(verb[2], helper)}{verb[3]}" if verb else ""


def _stays(asks: str, helper: str, rest: str) -> bool:
    """Whether the question is already a clause: it asks for its own subject."""
    asks_for_subject = re.match(r"(?:who|what|which|whose)\b", asks) is not None
    return asks_for_subject and (helper not in _BE or asks.startswith(("which", "who")) or not _NOUN.match(rest))


def _subject(rest: str, identifiers: Sequence[str]) -> tuple[str, str]:
    """The subject that the rest of a question begins with, up to the person's name, and what follows; "" for none."""
    for start, end, _ in name_mentions(rest, identifiers)[:1]:
        if _LEAD.fullmatch(rest[:start]):
            return rest[:end], rest[end:]
    return "", rest


def _begun_small(text: str) -> str:
    return text[:1].lower() + text[1:]


@cache
def _irregular() -> dict[str, str]:
    lines = (DATA / "irregular_verbs.txt").read_text(encoding="utf-8").split("\n")
    return dict(line.split() for line in lines if line)


def inflected(verb: str, helper: str) -> str:
    """A verb as it is without its helper: "did write" → "wrote", "does live" → "lives"."""
    if helper == "do":
        return verb
    after_consonant = re.search(r"[^aeiou]y$", verb) is not None
    if helper == "does":
        if verb == "have":
            return "has"
        ending = "es" if re.search(r"(?:s|x|z|ch|sh|o)$", verb) else "s"
        return f"{verb[:-1]}ies" if after_consonant else verb + ending
    if verb in _irregular():
        return _irregular()[verb]
    if after_consonant:
        return f"{verb[:-1]}ied"
    doubled = re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", verb)
    return f"{verb}d" if verb.endswith("e") else f"{verb}{verb[-1] if doubled else ''}ed"
