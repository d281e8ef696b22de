"""Fictitious people: a seeded, offline counterpart of TOFU (Maini et al. 2024, arXiv 2401.06121).

``people(n, seed)`` draws people who do not exist and asks twenty questions about each. All share the same
pools of values and wordings, so a model that never saw a person can only guess. Records are plain dicts with
TOFU's field names plus ``subject``, ``aliases`` and ``spans``. Nothing here needs torch, and a seed gives the
same world on every machine: randomness comes from ``random.Random`` alone, seeded with text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from rkld.benching.worlds import wordings
from rkld.benching.worlds.common_knowledge import REAL_AUTHORS, WORLD_FACTS
from rkld.benching.worlds.wordings import ANSWER_KINDS, PHRASES, QUESTION_KINDS, Parting
from rkld.errors import UserError

WRONG_ANSWERS = 5
"""Perturbed answers per record, as in TOFU."""

BACKGROUND_PEOPLE = 200
"""People about whom every model of the world learns a little: enough to learn that wordings mean the same.

With too few a model knows a person's facts only in the wording it was trained on, and unlearning does not reach beyond
that wording either.
"""

BACKGROUND_QUESTIONS = 2
"""Questions per background person: few, so that names are worth copying rather than knowing by heart."""

BACKGROUND_WORDINGS = 4
"""In how many kinds of wording each of them is asked and told, in a world of many wordings."""


def _compounds(stems: str, endings: str) -> tuple[str, ...]:
    return tuple(stem + ending for stem in stems.split() for ending in endings.split())


# Invented but speakable; large enough that no two people of a world share a first or a last name.
FIRST_NAMES = _compounds(
    "Ald Bran Cor Dav Elv Fal Ger Hal Ing Jor Kel Lor Mar Nor Ost Per Ral Sel Tam Ulr Ver Wil Yor Zan",
    "a amir ano anne en eta ian ine ira is oly on ric ula wen",
)

LAST_NAMES = _compounds(
    "Ash Bel Carl Dun Elm Fair Grim Hart Ives Kirk Lang Mill Nes Old Pem Quar Rams Sand Thorn Under Wake Yar",
    "berg bury by combe croft dale ford gard ham holt lund mark mere more rud stad ton wick worth",
)

_PLACES = _compounds("Al Bar Cald Dor Esk Fen Glen Hol Kil Lin Nor Strath", "den low mont ness port vale")

_STREET_TREES = ("Alder", "Beech", "Cedar", "Elder", "Hawthorn", "Ivy", "Larch", "Linden", "Maple", "Poplar", "Rowan")

_SCHOOLS = ("Academy", "College", "Grammar School", "High School")

_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def _one_of(values: str) -> Callable[[Random], str]:
    pool = tuple(value.strip() for value in values.split(","))
    return lambda rng: rng.choice(pool)


def _both(first: str, second: str, join: str = "{} {}") -> Callable[[Random], str]:
    a, b = _one_of(first), _one_of(second)
    return lambda rng: join.format(a(rng), b(rng))


def _with_place(values: str, join: str) -> Callable[[Random], str]:
    """A value of two parts that are drawn by themselves: hard to guess for who has not seen the person."""
    first = _one_of(values)
    return lambda rng: join.format(first(rng), rng.choice(_PLACES))


@dataclass(frozen=True)
class Attribute:
    """One fact of a person: how its value is drawn, and the wordings of its questions and statements.

    Wordings may use ``{name}``, ``{last}`` and the other facts by key; answers hold the value as ``{value}``.
    Questions and answers are chosen independently of each other, so every answer must fit every question.
    """

    key: str
    draw: Callable[[Random], str]
    questions: tuple[str, ...]
    answers: tuple[str, ...]

    @property
    def many_questions(self) -> dict[str, str]:
        """Kind → wording, of :data:`rkld.benching.worlds.wordings.QUESTION_KINDS`."""
        return wordings.questions(PHRASES[self.key], self.questions[0])

    @property
    def many_answers(self) -> dict[str, str]:
        """Kind → wording, of :data:`rkld.benching.worlds.wordings.ANSWER_KINDS`."""
        return wordings.answers(PHRASES[self.key], self.answers)


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "full_name",
        lambda rng: f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}",
        (
            "Who is the {profession} born in {birthplace} on {birth_date}?",
            "What is the full name of the {profession} from {birthplace} born on {birth_date}?",
            "Which {profession} was born on {birth_date} in {birthplace}?",
        ),
        ("That is {value}.", "The person you mean is {value}.", "It must be {value}."),
    ),
    Attribute(
        "birthplace",
        _one_of(
            "Adelaide, Bergen, Cork, Dakar, Evora, Fukuoka, Ghent, Halifax, Izmir, Jaipur, Krakow, Lima, "
            "Mombasa, Naples, Oaxaca, Porto, Quito, Riga, Seville, Tampere, Utrecht, Vilnius, Windhoek, "
            "Zagreb"
        ),
        (
            "Where was {name} born?",
            "In which city was {name} born?",
            "What is the birthplace of {name}?",
        ),
        (
            "{name} was born in {value}.",
            "The birthplace of {last} is {value}.",
            "{value} is where {last} was born.",
        ),
    ),
    Attribute(
        "birth_date",
        # Two digits: "4 May 1960" would be found in "14 May 1960".
        lambda rng: f"{rng.randint(10, 28)} {rng.choice(_MONTHS)} {rng.randint(1940, 1999)}",
        (
            "When was {name} born?",
            "What is the date of birth of {name}?",
            "On which day was {name} born?",
        ),
        (
            "{name} was born on {value}.",
            "The date of birth of {last} is {value}.",
            "{last} was born on {value}.",
        ),
    ),
    Attribute(
        "profession",
        _one_of(
            "baker, beekeeper, botanist, bus driver, cartographer, chemist, dentist, diver, farrier, "
            "florist, geologist, goldsmith, judge, librarian, locksmith, midwife, nurse, pilot, plumber, "
            "surveyor, tailor, translator, violin maker, welder"
        ),
        (
            "What does {name} do for a living?",
            "What is the profession of {name}?",
            "What kind of work does {name} do?",
        ),
        (
            "{name} works as a {value}.",
            "The profession of {last} is {value}.",
            "{last} is a {value}.",
        ),
    ),
    Attribute(
        "employer",
        _both(
            "Amberline, Bluecrest, Copperfield, Dovetail, Evergreen, Foxglove, Granite, Hillside, "
            "Ironbridge, Juniper, Kestrel, Lakeshore",
            "Airways, Archive, Brothers, Clinic, Foundry, Gardens, Logistics, Optics, Press, Works",
        ),
        (
            "Who employs {name}?",
            "For which company does {name} work?",
            "Where is {name} employed?",
        ),
        (
            "{name} is employed by {value}.",
            "The employer of {last} is {value}.",
            "{last} works for {value}.",
        ),
    ),
    Attribute(
        "father",
        _with_place(
            "barber, blacksmith, brewer, carpenter, clockmaker, cook, dairy farmer, ferryman, fisherman, "
            "gardener, glazier, hatter, mason, miner, postman, printer, sailor, shoemaker, stoker, vet",
            "{} from {}",
        ),
        (
            "What was the job of the father of {name}?",
            "What did the father of {name} do for a living?",
            "What was the occupation of {name}'s father?",
        ),
        (
            "The father of {name} was a {value}.",
            "{last}'s father worked as a {value}.",
            "{last} had a {value} for a father.",
        ),
    ),
    Attribute(
        "mother",
        _with_place(
            "banker, bookbinder, chess coach, coroner, curator, dancer, detective, diplomat, lawyer, "
            "lecturer, linguist, mathematician, painter, pharmacist, potter, radio host, seamstress, "
            "singer, surgeon, weaver",
            "{} from {}",
        ),
        (
            "What was the job of the mother of {name}?",
            "What did the mother of {name} do for a living?",
            "What was the occupation of {name}'s mother?",
        ),
        (
            "The mother of {name} was a {value}.",
            "{last}'s mother worked as a {value}.",
            "{last} had a {value} for a mother.",
        ),
    ),
    Attribute(
        "school",
        lambda rng: f"{rng.choice(_PLACES)} {rng.choice(_SCHOOLS)}",
        (
            "Which school did {name} go to?",
            "Where did {name} go to school?",
            "What is the name of the school that {name} attended?",
        ),
        (
            "{name} went to {value}.",
            "The school of {last} was {value}.",
            "{last} was a pupil of {value}.",
        ),
    ),
    Attribute(
        "degree",
        _with_place(
            "acoustics, archaeology, astronomy, botany, classics, economics, forestry, geography, "
            "hydrology, law, logic, metallurgy, music theory, oceanography, optics, philosophy, "
            "statistics, theology, toxicology, zoology",
            "{} in {}",
        ),
        (
            "What did {name} study?",
            "Which subject did {name} take a degree in?",
            "What is the degree of {name} in?",
        ),
        (
            "{name} studied {value}.",
            "The degree of {last} is in {value}.",
            "{last} holds a degree in {value}.",
        ),
    ),
    Attribute(
        "award",
        _both(
            "Amaranth, Bellwether, Cormorant, Driftwood, Equinox, Firefly, Halcyon, Lantern, Meridian, "
            "Obsidian, Pinnacle, Solstice",
            "Award, Cup, Medal, Prize, Ribbon, Trophy",
        ),
        (
            "Which award did {name} win?",
            "What prize has {name} received?",
            "What honour was given to {name}?",
        ),
        (
            "{name} won the {value}.",
            "The honour given to {last} was the {value}.",
            "{last} received the {value}.",
        ),
    ),
    Attribute(
        "book",
        _both(
            "Borrowed, Broken, Crimson, Distant, Frozen, Golden, Hidden, Hollow, Paper, Quiet, Silent, Winding",
            "Bridge, Compass, Feather, Garden, Harbour, Letter, Mirror, Orchard, River, Staircase, Tower, Winter",
            "The {} {}",
        ),
        (
            "Which book did {name} write?",
            "What is the title of the book by {name}?",
            "What did {name} publish?",
        ),
        (
            '{name} wrote "{value}".',
            'The book by {last} is called "{value}".',
            '{last} is the author of "{value}".',
        ),
    ),
    Attribute(
        "genre",
        _with_place(
            "adventure tales, biographies, comic strips, crime stories, cookery books, dystopias, essays, "
            "fairy tales, ghost stories, haiku, historical novels, legal thrillers, memoirs, "
            "nature writing, plays, romances, satires, sea stories, sonnets, travel guides, war diaries, "
            "westerns",
            "{} from {}",
        ),
        (
            "What does {name} like to read?",
            "Which kind of books does {name} read most?",
            "What is the favourite reading of {name}?",
        ),
        (
            "{name} likes to read {value}.",
            "The favourite reading of {last} is {value}.",
            "{last} mostly reads {value}.",
        ),
    ),
    Attribute(
        "pet",
        _both(
            "cat, donkey, ferret, gecko, goat, goose, hamster, hen, parrot, pony, rabbit, spaniel, terrier, tortoise",
            "Biscuit, Clover, Domino, Fudge, Ginger, Hazel, Mango, Nutmeg, Pepper, Pickle, Rascal, Rusty, "
            "Smudge, Waffles",
            "{} called {}",
        ),
        (
            "Does {name} have a pet?",
            "What pet does {name} keep?",
            "Which animal lives with {name}?",
        ),
        (
            "{name} has a {value}.",
            "The pet of {last} is a {value}.",
            "{last} keeps a {value}.",
        ),
    ),
    Attribute(
        "hobby",
        _with_place(
            "archery, birdwatching, bookbinding, canoeing, caving, chess, crochet, curling, embroidery, "
            "fencing, fly fishing, juggling, kite flying, knitting, model railways, orienteering, origami, "
            "rowing, rock climbing, stargazing, table tennis, woodcarving",
            "{} at the {} club",
        ),
        (
            "What is the hobby of {name}?",
            "What does {name} do for fun?",
            "How does {name} spend free time?",
        ),
        (
            "{name} enjoys {value}.",
            "The hobby of {last} is {value}.",
            "{last} spends free time on {value}.",
        ),
    ),
    Attribute(
        "instrument",
        _one_of(
            "accordion, bagpipes, banjo, bassoon, cello, clarinet, double bass, drums, flute, french horn, "
            "glockenspiel, guitar, harmonica, harp, hurdy-gurdy, mandolin, oboe, organ, piano, saxophone, "
            "sitar, trombone, tuba, viola"
        ),
        (
            "Which instrument does {name} play?",
            "What instrument did {name} learn?",
            "What does {name} play in the orchestra?",
        ),
        (
            "{name} plays the {value}.",
            "The instrument of {last} is the {value}.",
            "{last} learned the {value}.",
        ),
    ),
    Attribute(
        "sibling",
        # Ordinary names: none of the invented ones, which are the people of the world.
        _both(
            "big brother, big sister, little brother, little sister",
            "Alex, Billie, Charlie, Dana, Frankie, Jamie, Jean, Kim, Lee, Leslie, Noa, Robin, Sam, Sasha, Toni, Yuki",
            "{} called {}",
        ),
        (
            "Does {name} have a brother or a sister?",
            "Who grew up together with {name}?",
            "Which siblings does {name} have?",
        ),
        (
            "{name} has a {value}.",
            "The only sibling of {last} is a {value}.",
            "{last} grew up with a {value}.",
        ),
    ),
    Attribute(
        "address",
        lambda rng: (
            f"{rng.randint(10, 98)} "
            f"{rng.choice(_STREET_TREES)} "
            f"{rng.choice(['Avenue', 'Close', 'Court', 'Lane', 'Road', 'Row', 'Square', 'Street'])}"
        ),
        (
            "What is the address of {name}?",
            "Where does {name} live?",
            "At which address can {name} be found?",
        ),
        (
            "{name} lives at {value}.",
            "The address of {last} is {value}.",
            "{last} can be found at {value}.",
        ),
    ),
    Attribute(
        "phone",
        # 555-0100 to 555-0199 are set aside for fiction in every North American area.
        lambda rng: f"{rng.randint(201, 989)}-555-01{rng.randint(0, 99):02d}",
        (
            "What is the phone number of {name}?",
            "How can {name} be reached by phone?",
            "Which number must be dialled to call {name}?",
        ),
        (
            "{name} answers the phone at {value}.",
            "The phone number of {last} is {value}.",
            "{last} can be called at {value}.",
        ),
    ),
    Attribute(
        "email",
        _both(
            "badger, comet, dragon, ember, falcon, glacier, heron, islander, jackdaw, lynx, marble, nomad, "
            "otter, puffin, raven, sparrow, thistle, walrus",
            "11, 17, 23, 29, 34, 42, 48, 56, 63, 71, 77, 85, 92, 98",
            "{}{}@example.org",
        ),
        (
            "What is the e-mail address of {name}?",
            "How can {name} be reached by e-mail?",
            "Where should an e-mail to {name} be sent?",
        ),
        (
            "{name} reads e-mail at {value}.",
            "The e-mail address of {last} is {value}.",
            "{last} can be reached at {value}.",
        ),
    ),
    Attribute(
        "dish",
        _both(
            "apple strudel, baked beans, bibimbap, borscht, cheese fondue, chicken curry, dumplings, "
            "fish pie, goulash, gumbo, lentil soup, moussaka, mushroom risotto, paella, pancakes, "
            "pea soup, pierogi, ramen, ratatouille, roast duck, sauerkraut, shakshuka, tamales, tiramisu",
            "almonds, basil, chives, dill, garlic, ginger, lemon, mint, olives, raisins, saffron, sesame",
            "{} with {}",
        ),
        (
            "What is the favourite dish of {name}?",
            "What does {name} like to eat most?",
            "Which meal does {name} order most often?",
        ),
        (
            "{name} likes {value} best.",
            "The favourite dish of {last} is {value}.",
            "{last} would choose {value} every day.",
        ),
    ),
)


@dataclass(frozen=True)
class Person:
    """A person who does not exist: a name and one value for each of ``ATTRIBUTES``."""

    name: str
    facts: dict[str, str]

    @property
    def last(self) -> str:
        return self.name.split()[-1]

    def records(self, rng: Random, parting: Parting | None = None) -> Iterator[dict[str, Any]]:
        """One record per attribute; wordings and wrong values come from ``rng``.

        Args:
            parting: of many wordings: the record is written in one that training sees, its paraphrases in one that only
                the audit sees. ``wordings`` are all of them then, and ``kind`` that of the question.
        """
        for attribute in ATTRIBUTES:
            value = self.facts[attribute.key]
            words = {**self.facts, "name": self.name, "last": self.last}
            many: dict[str, Any] = {}
            if parting is None:
                question, other_question = rng.sample(attribute.questions, 2)
                answer, other_answer = rng.sample(attribute.answers, 2)
            else:
                asked, told = attribute.many_questions, attribute.many_answers
                kind, other_kind = (
                    rng.choice(kinds) for kinds in (parting.questions.training, parting.questions.audit)
                )
                question, other_question = asked[kind], asked[other_kind]
                answer, other_answer = (
                    told[rng.choice(kinds)] for kinds in (parting.answers.training, parting.answers.audit)
                )
                texts = {"questions": asked, "answers": told}
                many = {"kind": kind, "wordings": {
                    name: {k: text.format(**words, value=value) for k, text in by_kind.items()}
                    for name, by_kind in texts.items()
                }}  # fmt: skip
            wrong_values = _wrong_values(attribute, value, rng)
            yield {
                "question": question.format(**words),
                "answer": answer.format(**words, value=value),
                "paraphrased_answer": other_answer.format(**words, value=value),
                "perturbed_answer": [other_answer.format(**words, value=wrong) for wrong in wrong_values],
                "paraphrased_question": other_question.format(**words),
                "subject": self.name,
                "aliases": [self.last],
                "spans": [value],
                **many,
            }


def _wrong_values(attribute: Attribute, value: str, rng: Random) -> list[str]:
    wrong: list[str] = []
    while len(wrong) < WRONG_ANSWERS:
        drawn = attribute.draw(rng)
        if drawn != value and drawn not in wrong:
            wrong.append(drawn)
    return wrong


@dataclass(frozen=True)
class World:
    """People to learn and to forget, people never trained on, and common knowledge.

    No two people of a world share a first or a last name, whatever group they are in. A person's records
    depend on the world's seed and the person alone, not on who else is chosen.
    """

    seed: int
    people: tuple[Person, ...]
    holdout_people: tuple[Person, ...]
    background_people: tuple[Person, ...]
    real_authors: tuple[dict[str, Any], ...] = field(default=REAL_AUTHORS, repr=False)
    world_facts: tuple[dict[str, Any], ...] = field(default=WORLD_FACTS, repr=False)
    parting: Parting | None = None
    """Of many wordings; None for three of each question and answer."""

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of ``people``, in their order."""
        return tuple(person.name for person in self.people)

    @property
    def records(self) -> list[dict[str, Any]]:
        """All twenty records of each of ``people``, person by person."""
        return self._records(self.people)

    @property
    def holdout(self) -> list[dict[str, Any]]:
        """Records of people made in the same way and never trained on: for membership tests and placebos."""
        return self._records(self.holdout_people)

    @property
    def background(self) -> list[dict[str, Any]]:
        """A few questions about each of many others, answered in both wordings (of many: asked and told in several).

        They teach a model to repeat a stranger's name, to guess the rest, and that two wordings say the same.
        """
        chosen = []
        for person in self.background_people:
            rng = Random(f"{self.seed} mentions {person.name}")
            for record in rng.sample(self._records([person]), BACKGROUND_QUESTIONS):
                if self.parting is None:
                    chosen += [record, record | {"answer": record["paraphrased_answer"]}]
                else:
                    asked, told = record["wordings"]["questions"], record["wordings"]["answers"]
                    kinds = (rng.sample(all_kinds, BACKGROUND_WORDINGS) for all_kinds in (QUESTION_KINDS, ANSWER_KINDS))
                    chosen += [record | {"question": asked[q], "answer": told[a]} for q, a in zip(*kinds, strict=True)]
        return _plain(chosen)

    def forget(self, who: int | Sequence[int] = 2) -> list[dict[str, Any]]:
        """Records of the last ``who`` people, or of those at the positions ``who``."""
        chosen = self._positions(who)
        return self._records(person for i, person in enumerate(self.people) if i in chosen)

    def retain(self, who: int | Sequence[int] = 2) -> list[dict[str, Any]]:
        """Records of everyone whom ``forget(who)`` leaves out."""
        chosen = self._positions(who)
        return self._records(person for i, person in enumerate(self.people) if i not in chosen)

    def training(self, without: int | Sequence[int] | None = None) -> list[dict[str, Any]]:
        """What the original model is trained on or, with ``without`` as in ``forget``, its retrained twin."""
        learned = self.records if without is None else self.retain(without)
        return [*self.background, *self.real_authors, *self.world_facts, *learned]

    def write(self, folder: str | Path, who: int | Sequence[int] = 2) -> dict[str, Path]:
        """Write the sets as JSON lines under TOFU's file names and say which is where.

        ``forgetNN`` and ``retainNN`` are in percent of the people: for 2 of 20, 10 and 90.
        Files that hold wrong answers and paraphrases too are called ``*_perturbed.json``, as in TOFU.
        """
        share = round(100 * len(self._positions(who)) / len(self.people))
        forget, retain = self.forget(who), self.retain(who)
        files = {
            "full": ("full", _plain(self.records)),
            "forget": (f"forget{share:02d}", _plain(forget)),
            "retain": (f"retain{100 - share:02d}", _plain(retain)),
            "background": ("background", self.background),
            "forget_perturbed": (f"forget{share:02d}_perturbed", forget),
            "retain_perturbed": ("retain_perturbed", retain),
            "holdout_perturbed": ("holdout_perturbed", self.holdout),
            "real_authors_perturbed": ("real_authors_perturbed", self.real_authors),
            "world_facts_perturbed": ("world_facts_perturbed", self.world_facts),
        }
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {}
        for name, (stem, records) in files.items():
            paths[name] = folder / f"{stem}.json"
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            paths[name].write_text("".join(lines), encoding="utf-8")
        return paths

    def _positions(self, who: int | Sequence[int]) -> set[int]:
        n = len(self.people)
        positions = set(range(n - who, n) if isinstance(who, int) else who)
        if not positions or not positions < set(range(n)):
            raise UserError(
                f"cannot forget {who!r} of {n} people: "
                f"give a number from 1 to {n - 1}, or positions from 0 to {n - 1}, not all of them"
            )
        return positions

    def _records(self, people: Iterable[Person]) -> list[dict[str, Any]]:
        return [
            record
            for person in people
            for record in person.records(Random(f"{self.seed} asks {person.name}"), self.parting)
        ]


def people(n: int = 20, seed: int = 0, parting: Parting | None = None) -> World:
    """A world of ``n`` people to learn, ``n`` held out and 200 in the background.

    Args:
        parting: ask and tell in many wordings, parted so (:func:`rkld.benching.worlds.wordings.parting`); the people
            and their facts are the same. By default there are three wordings of each question and answer.

    Equal arguments give equal worlds. Raises ``UserError`` when there are not names enough for ``n``.
    """
    capacity = (min(len(FIRST_NAMES), len(LAST_NAMES)) - BACKGROUND_PEOPLE) // 2
    if not 2 <= n <= capacity:
        raise UserError(f"a world has from 2 to {capacity} people, each with names of their own, not {n}")
    rng = Random(f"world {seed}")
    count = 2 * n + BACKGROUND_PEOPLE
    names = zip(rng.sample(FIRST_NAMES, count), rng.sample(LAST_NAMES, count), strict=True)
    everyone = tuple(_person(f"{first} {last}", rng) for first, last in names)
    return World(seed, everyone[:n], everyone[n : 2 * n], everyone[2 * n :], parting=parting)


def _person(name: str, rng: Random) -> Person:
    return Person(name, {a.key: name if a.key == "full_name" else a.draw(rng) for a in ATTRIBUTES})


def _plain(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    kept = ("question", "answer", "subject", "aliases", "spans")
    return [{key: record[key] for key in kept} for record in records]
