"""What is forgotten in ``benchmarks.wordings``: a request each, with sets of wordings for training, stop and audit.

The sets are parted by kind, and by likeness: what is more than :data:`ALIKE` like a wording of the audit is left out of
the others. Nothing of :attr:`Case.unseen` reaches a run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from nltk import edit_distance

from benchmarks.tofu_models import EPOCHS, TEMPLATE, learn
from rkld.benching.worlds.people import people
from rkld.benching.worlds.training import train_tiny
from rkld.benching.worlds.wordings import PHRASES, Parting, Phrases, parting, questions
from rkld.files import read_jsonl
from rkld.models.saving import save_model
from rkld.records.reading import read_records

Rows = list[dict[str, Any]]

ALIKE = 0.8
"""Levenshtein similarity above which one wording is a near copy of another."""

HELD_OUT = 40
"""Records of strangers for the stop."""

SAMPLES, AT = 64, 16
"""Answers drawn a question, for leak@16."""

AUDIT = {"attacks": ("sampling", "prefixes", "relearning", "4bit", "8bit"), "samples": SAMPLES, "k": AT, "top": 5}

SMOL = {"max_new_tokens": 64, "chat_template": str(TEMPLATE)}
"""Settings of runs with SmolLM2: the defaults."""


@dataclass(frozen=True)
class Case:
    """One request of erasure. Rows are records as ``rkld`` reads them; ``whose`` says about whom each is."""

    name: str
    group: str
    """Cases of a group are pooled."""
    request: Rows
    """The records as a user gives them."""
    rewordings: Rows
    """For each of them ``questions`` and ``answers`` in the wordings of training."""
    stop: Rows
    """The same in those of the stop."""
    recorded: Rows
    """The records as the audit asks them, with paraphrases and wrong answers where there are any."""
    unseen: Rows
    """The same facts, asked in kinds (``unseen``) that neither training nor stop has seen."""
    retain: Rows
    """Of those who stay: what is measured. ``asked``: whether the question is among the prompts."""
    prompts: Rows
    """Questions about those who stay, for ways that are given some."""
    holdout: Rows
    learned: Callable[[bool, int, Path], Path]
    """(whether the forgotten are learned, too; seed; folder): makes the model unless it is there."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of every run."""
    audit: dict[str, Any] = field(default_factory=dict)
    strangers: Rows = field(default_factory=list)
    """Their questions about people whom no model has seen: who refuses the person alone marks her."""
    base: str | None = None
    """The model that the original was tuned from; None where it began with random weights."""

    @property
    def kinds(self) -> list[str]:
        """The unseen kinds, in their order."""
        return list(dict.fromkeys(row["unseen"] for row in self.unseen))


def similarity(a: str, b: str) -> float:
    """One less the Levenshtein distance over the longer length: 1 for copies."""
    return 1 - edit_distance(a, b) / max(len(a), len(b), 1)


def apart(texts: Sequence[str], unseen: Sequence[str]) -> list[str]:
    """Those that are no near copy of one of ``unseen``."""
    return [text for text in texts if all(similarity(text, other) <= ALIKE for other in unseen)]


def plain(rows: Rows) -> Rows:
    """What an erasure request holds: no paraphrases, wrong answers or spans."""
    names = ("question", "answer", "messages", "text", "subject", "aliases")
    return [{name: row[name] for name in names if name in row} for row in rows]


STRANGERS = 60


def strangers(forget: Rows, known: Sequence[str] = (), names: Sequence[str] = ()) -> Rows:
    """The forget questions about :data:`STRANGERS` invented people, one each.

    Args:
        known: people with whom they share no name.
        names: of strangers that are taken first.
    """
    used, world = {word for name in known for word in name.split()}, people(80, seed=1000)
    invented = [*names, *world.names, *(person.name for person in world.holdout_people)]
    unknown = [name for name in invented if not used & set(name.split())][:STRANGERS]
    asked = [row for row in forget if row["whose"] in row.get("question", "")]
    return [
        {"question": (row := asked[i % len(asked)])["question"].replace(row["whose"], name)}
        for i, name in enumerate(unknown)
    ]


# (a) The tiny world


def tiny(seed: int) -> Case:
    """Two of twenty people; the seed's turn of the kinds is left out."""
    parted = parting(seed)
    world, who = people(seed=seed, parting=parted), (2 * seed % 20, (2 * seed + 1) % 20)
    forget, stay = world.forget(who), [i for i in range(20) if i not in who]
    asked = {world.people[i].name for i in stay[::2]}

    def made(knows: bool, model_seed: int, folder: Path) -> Path:
        if not folder.exists():
            training = folder.parent / f"{folder.name}-training"
            save_model(train_tiny(world, training, () if knows else who, seed=model_seed), folder)
        return folder

    retain = [{**row, "asked": row["subject"] in asked, "whose": row["subject"]} for row in world.retain(who)]
    recorded = [{**row, "whose": row["subject"]} for row in forget]
    return Case(
        f"tiny{seed}",
        "tiny",
        plain(forget),
        [_other_wordings(row, parted, "training") for row in forget],
        [_other_wordings(row, parted, "stop") for row in forget],
        recorded,
        [_asked(row, kind) for kind in parted.questions.audit for row in forget],
        [row for i, row in enumerate(retain) if i % 20 % 4 == i // 20 % 4],  # five of each person's twenty
        [{"question": row["question"], "subject": row["subject"]} for row in retain if row["asked"]],
        plain(world.holdout[:HELD_OUT]),
        made,
        {"lr": 5e-4, "strengthen_epochs": 10, "batch_size": 8, "max_new_tokens": 32, "seed": seed},
        {**AUDIT, "max_new_tokens": 48, "relearn_lr": 5e-4},
        strangers(recorded, world.names, [person.name for person in world.holdout_people]),
    )


def _other_wordings(row: dict[str, Any], parted: Parting, of: str) -> dict[str, list[str]]:
    found = {}
    for name in ("questions", "answers"):
        kinds, texts = getattr(getattr(parted, name), of), row["wordings"][name]
        found[name] = [texts[kind] for kind in kinds if texts[kind] not in (row["question"], row["answer"])]
    return found


def _asked(row: dict[str, Any], kind: str) -> dict[str, Any]:
    """A record in a kind of the audit, question and answer."""
    asked = {"question": row["wordings"]["questions"][kind], "answer": row["paraphrased_answer"]}
    return {**row, **asked, "unseen": kind, "whose": row["subject"]}


# (b) TOFU's authors, SmolLM2

AUTHORS = (
    "Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov", "Hina Ameen", "Xin Lee Williams", "Moshe Ben-David", "Kalkidan Abera",
    "Takashi Nakamura", "Raven Marais", "Aysha Al-Hashim", "Edward Patrick Sullivan",
)  # fmt: skip
"""Of ``forget05``, in its order; pairs 0, 1 and 2 choose, 3 reports, and 4 does but for ``defaults``: the stop was
mended on 2 and 4."""

RECORDS = 20
"""Of an author."""

LEARNED = 200
"""Records of ten others, the first of ``retain90``."""

FIRST_WORDS = {
    "wh": "what how which who whose where when why",
    "fronted": "in to for by at based after aside from on among despite",
    "polite": "can could would do please",
    "yes-no": "has have had did does is are was were",
}
"""Kind of question → its first words; others are "statement"."""

OTHER_WRITER = "another writer"
"""TOFU's own paraphrased questions: not of the writer of the rewordings."""


def kind_of(question: str) -> str:
    """The kind of a written question, by its first word."""
    word = re.split(r"\W", question.strip().lower(), maxsplit=1)[0]
    return next((kind for kind, words in FIRST_WORDS.items() if word in words.split()), "statement")


def tofu(data: Path, rewordings: Path, number: int, model: str, epochs: int = EPOCHS) -> Case:
    """A pair of ``forget05``'s authors; over two pairs each of four kinds is left out."""
    at = slice(2 * RECORDS * number, 2 * RECORDS * (number + 1))
    forget, retain = read_jsonl(data / "forget05_perturbed.json")[at], read_jsonl(data / "retain90.json")
    audit = (("polite", "fronted"), ("wh", "yes-no"))[number % 2]
    for i, row in enumerate(forget):
        row["subject"] = row["whose"] = AUTHORS[2 * number + i // RECORDS]
    reworded = {row["question"]: row for row in read_jsonl(rewordings)}
    learned = [{**row, "whose": f"author {i // RECORDS}", "asked": i // RECORDS % 2 == 0}
               for i, row in enumerate(retain[:LEARNED])]  # fmt: skip
    training, stop, unseen = [], [], []
    for row in forget:
        written = reworded.get(row["question"], {"questions": [], "answers": []})
        held = {kind: [q for q in written["questions"] if kind_of(q) == kind][:1] for kind in audit}
        held[OTHER_WRITER] = [row["paraphrased_question"]]
        unseen += [{**row, "question": q, "unseen": kind} for kind, found in held.items() for q in found]
        others = [q for q in written["questions"] if kind_of(q) not in audit]
        others = apart(others, [q for found in held.values() for q in found])
        answers = apart(written["answers"], [row["paraphrased_answer"]])
        training.append({"questions": others[::2], "answers": answers[::2]})
        stop.append({"questions": apart(others[1::2], others[::2]), "answers": apart(answers[1::2], answers[::2])})
    return Case(
        f"tofu{number}",
        "tofu, choosing" if number < 3 else "tofu",
        plain(forget), training, stop, forget, unseen,
        learned[::4],
        [{"question": row["question"]} for row in learned if row["asked"]],
        plain(retain[2 * LEARNED : 2 * LEARNED + HELD_OUT]),
        partial(_learned, learned, forget, model, epochs),
        SMOL,
        {**AUDIT, "max_new_tokens": 100, "chat_template": str(TEMPLATE)},
        strangers(forget), model,
    )  # fmt: skip


def _learned(
    others: Rows, forget: Rows, model: str, epochs: int, knows: bool, seed: int, folder: Path, bf16: bool = False
) -> Path:
    """A model fine-tuned on the others, and on the forgotten unless it must never have seen them."""
    rows = plain([*others, *(forget if knows else ())])
    return learn(read_records(rows, "training"), folder, model, epochs, seed, bf16)


def lighter(case: Case, bf16: bool, samples: int) -> Case:
    """The case for a machine of little time; those of the tiny world stay as they are.

    Args:
        bf16: its models compute in bfloat16: training with float32 weights, audits with bfloat16 ones, of all alike.
        samples: answers drawn a question.
    """
    if case.base is None:
        return case
    case = replace(case, audit={**case.audit, "samples": samples})
    if not bf16:
        return case
    return replace(
        case,
        learned=partial(case.learned, bf16=True),
        settings={**case.settings, "bf16": True},
        audit={**case.audit, "dtype": "bfloat16"},
    )


# (c) Personal data of LUME's Task 2

LUME_PEOPLE, LUME_FORGOTTEN = 30, 4

LUME_PHRASES = (
    PHRASES["birth_date"],
    Phrases("Social Security number", "the Social Security number of {name}", "which Social Security number {name} has",
            "{name} has the Social Security number"),
    PHRASES["phone"], PHRASES["email"], PHRASES["address"],
)  # fmt: skip
"""Of the questions qa0 to qa4."""


def lume(folder: Path, model: str, epochs: int = EPOCHS) -> Case:
    """Four of thirty people; their questions are asked in the kinds of the tiny world, turn 0 left out."""
    by_person: dict[str, Rows] = {}
    for row in read_jsonl(folder / "forget.jsonl"):
        person, part = re.fullmatch(r"(.+)((?:sc|qa)\d+)", row["id"]).groups()  # type: ignore[union-attr]
        if row["task"] == "Task2":
            by_person.setdefault(person, []).append({"question": row["input"], "answer": row["output"], "part": part})
    everyone = [_named(rows) for rows in list(by_person.values())[:LUME_PEOPLE]]
    forget, learned = (
        [row for rows in some for row in rows] for some in (everyone[:LUME_FORGOTTEN], everyone[LUME_FORGOTTEN:])
    )
    kinds, asked = parting(0).questions, {row["whose"] for rows in everyone[LUME_FORGOTTEN::2] for row in rows}
    training, stop, unseen = [], [], []
    for row in forget:
        texts = _lume_questions(row)
        for wanted, rows in ((kinds.training, training), (kinds.stop, stop)):
            rows.append({"questions": [texts[k] for k in wanted if texts and k != "direct"], "answers": []})
        unseen += [{**row, "question": texts[k], "unseen": k} for k in kinds.audit if texts]
    learned = [{**row, "asked": row["whose"] in asked} for row in learned]
    unknown = [row for rows in list(by_person.values())[LUME_PEOPLE : LUME_PEOPLE + 8] for row in _named(rows)]
    return Case(
        "lume", "lume", plain(forget), training, stop, forget, unseen, learned,
        [{"question": row["question"]} for row in learned if row["asked"]], plain(unknown)[:HELD_OUT],
        partial(_learned, learned, forget, model, epochs), SMOL,
        {**AUDIT, "max_new_tokens": 100, "chat_template": str(TEMPLATE)},
        strangers(forget), model,
    )  # fmt: skip


def _named(rows: Rows) -> Rows:
    """A person's records with the name, which the question of the birth date gives."""
    asked = next(row["question"] for row in rows if row["part"] == "qa0")
    name = re.fullmatch(r"What is the birth date of (.+)\?", asked).group(1)  # type: ignore[union-attr]
    return [{**row, "subject": name, "whose": name} for row in rows]


def _lume_questions(row: dict[str, Any]) -> dict[str, str]:
    """Kind → question; {} for the biography."""
    if not row["part"].startswith("qa"):
        return {}
    texts = questions(LUME_PHRASES[int(row["part"][2:])], row["question"])
    return {kind: text.format(name=row["subject"]) for kind, text in texts.items()}


# (d) Six invented employees

EMPLOYEES = Path(__file__).with_name("employees.json")


def employees(content: dict[str, Any], model: str, epochs: int = EPOCHS) -> Case:
    """One of six leaves: records as people have them, and forty wordings of hers that were written before any run."""
    erased, rows = content["erased"], [{**row, "whose": row["subject"]} for row in content["records"]]
    forget, learned = ([row for row in rows if (row["whose"] == erased) == hers] for hers in (True, False))
    learned = [{**row, "asked": "question" in row} for row in learned]
    none: Rows = [{"questions": [], "answers": []} for _ in forget]
    return Case(
        "employees", "employees", plain(forget), none, none, forget,
        [{**row, "subject": erased, "whose": erased, "unseen": row["kind"]} for row in content["wordings"]],
        [row for row in learned if row["asked"]],
        [{"question": row["question"]} for row in learned if row["asked"]],
        plain(content["holdout"]), partial(_learned, learned, forget, model, epochs), SMOL,
        {**AUDIT, "max_new_tokens": 100, "chat_template": str(TEMPLATE)},
        strangers(forget), model,
    )  # fmt: skip
