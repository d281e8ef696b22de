"""A discovery from the questions to the records: with a model of tables, and with a real one that knows nothing."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rkld import cli, processes
from rkld.calling import command
from rkld.commands.discover_person import UNDECIDED, _print_next, _reviewed, print_discovery
from rkld.discovering import running, testing
from rkld.discovering.asking import Answer, Asker, Wording
from rkld.discovering.findings import ASSOCIATED, COMMON, NOT_FOUND, NOT_TESTED, SAID, Recognition, Share
from rkld.discovering.proposing import propose, proposing
from rkld.discovering.questions import Topic, shipped_topics
from rkld.discovering.review_page import page, records_of
from rkld.errors import UserError
from rkld.evaluation.likelihood import answer_losses
from rkld.files import read_jsonl
from rkld.models.loading import computes_fast_in_bf16
from rkld.models.saving import save_model
from rkld.progress import NoProgress
from rkld.records.encoding import Encoded, Encoder
from rkld.records.reading import read_records
from rkld.settings.discovering import DiscoverSettings
from tests.helpers import TOKENIZER, model

PLACE = Topic("birthplace", "names", ("Where was {name} born?", "Of what place is {name}?"), ("{name} was born in",))
WORK = Topic("work", "words", ("What does {name} do?", "What work has {name}?"), ("{name} works as a",))
HOME = Topic("home", "names", ("Where does {name} live?", "What is the home of {name}?"), ("{name} lives in",))
DAY = Topic("day", "dates", ("When was {name} born?", "Which is {name}'s birthday?"), ("{name} was born on",))
MADE_UP = "3 May 1970"


class Knowing:
    """Knows of Jane Doe alone where she was born and lives; takes everybody for a teacher; makes up a birthday for
    everybody."""

    lm, samples = None, 0

    def expected(self, *args):
        return 1

    def answers(self, questions, texts, name, samples, seed, advance):
        self.samples = samples
        said = {
            "born?": f"{name} was born in Cork.",
            "place": "Doe was born in Cork.",
            "live?": f"{name} lives in Lund.",
            "home": "Doe lives in Lund.",
            "do?": f"{name} works as a teacher.",
            "account": "I cannot say.",
            "has": "She works as a teacher.",
            "When": f"{name} was born on {MADE_UP}.",
            "day": "I cannot say.",
        }

        def answer(question):
            key = "When" if question.startswith("When") else next(key for key in said if key in question)
            return said[key]

        return [Answer(Wording(q), answer(q), False) for q in questions] + [
            Answer(Wording("", (t,)), " x", False) for t in texts
        ]

    def said(self, asked):
        return [
            f"{name} was born on {1900 + len(name)} May 1"
            if "When" in wording.question
            else f"{name} lives in {'Lund' if name == 'Jane Doe' else 'Oslo'}."
            if "live" in wording.question or "home" in wording.question
            else f"{name} was born in {'Cork' if name == 'Jane Doe' else 'Oslo'}."
            for wording, name, _ in asked
        ]

    def log_probabilities(self, asked):
        known = {("Jane Doe", "Cork"): -0.2, ("Jane Doe", "Lund"): -0.3}
        usual = {"Cork": -8.0, "Lund": -8.0, "teacher": -0.7, "Oslo": -3.0}
        return np.array([known.get((name, value), usual.get(value, -3.5)) for _, name, value in asked])


@pytest.fixture
def found(monkeypatch):
    monkeypatch.setattr(running, "similar_names", lambda lm, name, known, n, seed: [f"A{i} B" for i in range(n)])
    settings = DiscoverSettings(subject="Jane Doe", names=99, rate=0.1)
    asker = Knowing()
    found = running._Discovering(settings, ("Jane Doe",), asker, NoProgress()).run([PLACE, HOME, WORK, DAY])
    assert asker.samples == settings.samples > 0
    return found


def test_labels_say_what_is_hers_alone_and_what_is_everybodys(found):
    labels = {finding.value: finding.label for finding in found.findings}
    assert labels == {"Cork": ASSOCIATED, "Lund": ASSOCIATED, "teacher": COMMON, MADE_UP: COMMON}
    cork, _ = found.labelled(ASSOCIATED)
    assert (cork.strong.count, cork.strong.of, cork.likely.of, cork.said.count) == (0, testing.SURE, 99, 2)
    assert not found.labelled(NOT_FOUND)


def test_values_are_compared_first_with_names_that_did_not_make_the_person_known(monkeypatch):
    """Of those that did the model was less sure, or the person would not be known: no fair draw."""
    monkeypatch.setattr(running, "similar_names", lambda lm, name, known, n, seed: [f"A{i} B" for i in range(n)])
    told, cases = list[str](), list[list[str]]()
    recognise, case = running.recognise, running._case
    monkeypatch.setattr(running, "recognise", lambda *given: told.extend(given[3]) or recognise(*given))
    monkeypatch.setattr(running, "_case", lambda one, others: cases.append(others) or case(one, others))
    settings = DiscoverSettings(subject="Jane Doe", names=99, rate=0.1)
    running._Discovering(settings, ("Jane Doe",), Knowing(), NoProgress()).run([PLACE, HOME, WORK, DAY])
    assert len(cases) == 4
    for others in cases:
        fresh = [name for name in others if name not in told]
        assert fresh and others[: len(fresh)] == fresh and len(set(others)) == 99


def test_what_is_said_and_not_tested_is_shown_to_who_reviews(monkeypatch):
    """A false statement about somebody is personal data, too: nothing is dropped because another is likelier."""
    monkeypatch.setattr(running, "similar_names", lambda lm, name, known, n, seed: [f"A{i} B" for i in range(n)])

    class Rambling(Knowing):
        def answers(self, questions, texts, name, samples, seed, advance):
            said = super().answers(questions, texts, name, samples, seed, advance)
            return [*said, Answer(Wording(PLACE.questions[0]), f"{name} was born in Riga.", True)]

    settings = DiscoverSettings(subject="Jane Doe", names=99, rate=0.1)
    found = running._Discovering(settings, ("Jane Doe",), Rambling(), NoProgress()).run([PLACE, HOME, WORK, DAY])
    (riga,) = found.also_said
    assert (riga.value, riga.label, str(riga.said)[:6], found.untested) == ("Riga", NOT_TESTED, "1 of 4", 1)
    assert "not tested" in riga.beside_names and "Riga" in riga.answer
    number = found.reviewed.index(riga)
    row = {"number": number, "forget": True, "question": riga.question, "value": "Riga", "answer": riga.answer}
    (record,) = records_of(found, [row])
    assert record["spans"] == ["Riga"] and not {"p", "s", "as_strong"} & set(record["evidence"]), "nobody compared it"
    assert "Riga" not in {span for record in found.records() for span in record["spans"]}
    shown = page(found, "nonce", "token")
    assert shown.index("Also said, and not tested (1)") < shown.index(riga.answer)


def test_a_documents_value_that_the_model_says_of_nobody_is_not_common(monkeypatch):
    """As improbable for everybody is not "said of other such names, too"."""
    monkeypatch.setattr(running, "similar_names", lambda lm, name, known, n, seed: [f"A{i} B" for i in range(n)])

    class NeverSaid(Knowing):
        def log_probabilities(self, asked):
            return np.where([value == "DE44" for _, _, value in asked], -30.0, super().log_probabilities(asked))

    account = Topic("account", "words", ("Which account has {name}?",), ("{name} has the account",), given="DE44")
    settings = DiscoverSettings(subject="Jane Doe", names=99, rate=0.1)
    found = running._Discovering(settings, ("Jane Doe",), NeverSaid(), NoProgress()).run([PLACE, HOME, account])
    (one,) = [finding for finding in found.findings if finding.from_document]
    assert (one.label, one.said.count) == (NOT_FOUND, 0) and one.likely.count == one.likely.of > 0


def test_of_a_name_that_the_model_does_not_know_nothing_is_found(monkeypatch):
    """Would break if a value that it makes up for one name alone were found of a name that it knows no better."""
    monkeypatch.setattr(running, "similar_names", lambda lm, name, known, n, seed: [f"A{i} B" for i in range(n)])

    def sure(name):
        """Of each name two things: of this where it was born and lives, of all others what they do, and when born."""
        return ("Cork", "Lund") if name == "Jane Doe" else (f"weaver{name.split()[0]}", f"{1900 + len(name)} May 1")

    class Unknowing(Knowing):
        def said(self, asked):
            return [
                f"{name} works as a {sure(name)[0]}." if wording.question in WORK.questions else text
                for (wording, name, _), text in zip(asked, super().said(asked), strict=True)
            ]

        def log_probabilities(self, asked):
            return np.array([-0.2 if value in sure(name) else -8.0 for _, name, value in asked])

    asker, settings = Unknowing(), DiscoverSettings(subject="Jane Doe", names=99, rate=0.1)
    found = running._Discovering(settings, ("Jane Doe",), asker, NoProgress()).run([PLACE, HOME, WORK, DAY])
    assert asker.samples == 0, "they would only say more of what is made up"
    assert {one.label for one in found.findings} == {SAID}, "said, so not to be called not found"
    (name,) = found.recognised.values()
    assert (name.known, name.as_sure.count) == (False, 2)
    assert (found.tested, found.untested) == (0, 4) and not any("by chance" in line for line in found.described())
    assert "not asked of names: the model does not know the name" in {one.beside_names for one in found.findings}
    assert "does not know the subject" in found.described()[0] and "Jane" not in found.described()[0]
    of_alias = replace(found, subject="Another Name", aliases=("Jane Doe",))
    assert "does not know alias 1" in of_alias.described()[0]


def test_ones_own_few_questions_do_not_decide_alone_whether_the_name_is_known(monkeypatch):
    monkeypatch.setattr(running, "similar_names", lambda lm, name, known, n, seed: [f"A{i} B" for i in range(n)])
    asked = {}
    monkeypatch.setattr(running, "recognise", lambda asker, topics, *_: asked.update(topics=topics) or
                        Recognition(Share(0, 19), known=True))  # fmt: skip
    for questions in (None, "mine.txt"):
        settings = DiscoverSettings(subject="Jane Doe", names=99, questions=questions)
        running._Discovering(settings, ("Jane Doe",), Knowing(), NoProgress()).run([PLACE])
        assert asked["topics"] == [PLACE, *(shipped_topics("private") if questions else ())]


def test_what_documents_say_is_tested_whether_the_name_is_known_or_not(monkeypatch):
    monkeypatch.setattr(running, "similar_names", lambda lm, name, known, n, seed: [f"A{i} B" for i in range(n)])

    class Unsure(Knowing):
        def said(self, asked):
            return ["I cannot say." for _ in asked]

    settings = DiscoverSettings(subject="Jane Doe", names=99, rate=0.1)
    topics = [replace(PLACE, given="Cork"), WORK]
    found = running._Discovering(settings, ("Jane Doe",), Unsure(), NoProgress()).run(topics)
    assert [one.value for one in found.labelled(ASSOCIATED)] == ["Cork"]
    assert not found.recognised["Jane Doe"].known


def test_names_beyond_those_asked_for_are_for_what_needs_them(monkeypatch):
    """Twelve values need 119 names to be told apart; what is found early is compared with the 39 all the same."""
    monkeypatch.setattr(running, "similar_names", lambda lm, name, known, n, seed: [f"A{i} B" for i in range(n)])
    settings = DiscoverSettings(subject="Jane Doe", names=39, rate=0.1)
    topics = [replace(some, name=f"{some.name} {n}") for some in (PLACE, HOME) for n in range(6)]
    found = running._Discovering(settings, ("Jane Doe",), Knowing(), NoProgress()).run(topics)
    assert found.names == 119
    assert {one.likely.of for one in found.labelled(ASSOCIATED)} == {39}


def test_the_record_asks_and_answers_in_the_models_words(found):
    row, _ = found.records()
    assert (row["question"], row["answer"]) == ("Where was Jane Doe born?", "Jane Doe was born in Cork.")
    assert row["spans"] == ["Cork"] and row["evidence"]["label"] == ASSOCIATED


def test_values_of_both_halves_are_tested_together_in_all_wordings():
    answers = Knowing().answers(DAY.questions, (), "Jane Doe", 0, 0, None)
    (case,), left = propose(DAY, "Jane Doe", ("Jane Doe",), answers)
    assert left == []
    assert case.values == [MADE_UP]
    assert [wording.question for wording in case.wordings] == list(DAY.questions)


def test_a_value_that_one_wording_alone_brings_out_is_read_as_well():
    """Would break if of each half only the value that is said most were read: a fact known in one wording was lost."""
    said = {DAY.questions[0]: ["3 May 1970", "3 May 1970", "4 June 1980", "5 July 1990", "6 August 1950", "7 May 1940"],
            DAY.questions[1]: ["8 May 1930"]}  # fmt: skip
    answers = [Answer(Wording(question), f"On {day}.", False) for question, days in said.items() for day in days]
    answers += [Answer(Wording(DAY.questions[1]), "On 9 May 1920.", True)]
    (case,), left = propose(DAY, "Jane Doe", ("Jane Doe",), answers)
    assert case.values == ["3 May 1970", "4 June 1980", "5 July 1990", "6 August 1950", "8 May 1930"]
    assert len(left) == 2, "the fifth of the first half, and what one sampled answer says"


def test_a_value_is_read_behind_its_article_and_behind_no_words_about_others():
    """ "The Nobel Peace Prize", said in 5 of 10 answers, was read without its article, and called hardly said."""
    award = Topic("award", "names", ("Which award did {name} win?", "What was {name} given?"), ("{name} won the",))
    said = ["The Nobel Peace Prize, which is well known.", "The Nobel Peace Prize is a prize.",
            "It was in Oslo that he got the Booker Prize."]  # fmt: skip
    answers = [Answer(Wording(question), text, False) for question in award.questions for text in said]
    (case,), _ = propose(award, "Jane Doe", ("Jane Doe",), answers)
    assert "Nobel Peace Prize" in case.values and case.wordings[0].begins == ("The",)


def test_what_was_said_and_is_not_tested_is_kept():
    """A value of plain text alone has a second text to be read behind, or it is left out."""
    only = replace(PLACE, begins=PLACE.begins[:1])
    answers = [Answer(Wording("", only.begins), " Cork.", sampled) for sampled in (False, True)]
    assert propose(only, "Jane Doe", ("Jane Doe",), answers) == ([], ["Cork"])
    two = replace(PLACE, begins=(*PLACE.begins, "{name} comes from"))
    (one,), left = propose(two, "Jane Doe", ("Jane Doe",), answers)
    assert (one.values, left) == (["Cork"], [])


def test_an_answer_that_was_cut_within_a_value_or_before_one_goes_on():
    """Would break a telephone number of a tokenizer that has a token a digit: 583-555-01 was proposed."""

    class Cut(Knowing):
        went_on = ()

        def longer(self, answers):
            self.went_on = [answer.text for answer in answers]
            return [replace(answer, text=f"{answer.text}06.") for answer in answers]

    topic = Topic("phone", "numbers", ("What is {name}'s number?", "Which number has {name}?"), ())
    texts = ["It is 583-555-01", "The number at which one reaches Jane Doe is", "It is 583-555-0106. Ask",
             "I do not know that number, as I am", "It is 583-555-01"]  # fmt: skip
    answers = [Answer(Wording(topic.questions[n % 2]), text, False, (1,), (2,), n < 4) for n, text in enumerate(texts)]
    asker = Cut()
    one = running._Discovering(DiscoverSettings(subject="Jane Doe"), ("Jane Doe",), asker, NoProgress())
    found = [answer.text for answer in one._whole([topic], answers)]
    assert asker.went_on == texts[:2], "whole ones, refusals and those that ended stay"
    assert found == [f"{texts[0]}06.", f"{texts[1]}06.", *texts[2:]]


def test_what_is_said_of_other_names_is_proposed_and_read_as_the_persons():
    """Would break if another's value were read behind the person's beginnings, which suit it less."""
    own = ["She was born on 3 May 1970.", "I cannot say."]
    answers = [Answer(Wording(question), text, False) for question, text in zip(DAY.questions, own)]
    (hers,), _ = propose(DAY, "Jane Doe", ("Jane Doe",), answers)
    wordings, values = proposing(hers)(
        "Ann Lee", hers.wordings, ["The day on which Lee was born: 1 June 1980.", "4 May 1990."]
    )
    assert values == ["1 June 1980", "4 May 1990"]
    assert {wording.question for wording in wordings} == set(DAY.questions)
    assert "The day on which {last} was born:" in wordings[0].begins
    (only,), _ = proposing(hers)("Ann Lee", hers.wordings[1:], ["4 May 1990."])
    assert only.question == DAY.questions[1], "it is read in the wordings that it was asked in"
    assert proposing(hers)("Ann Lee", hers.wordings, ["I cannot say."] * 2) == ((), [])
    given = replace(DAY, given="3 May 1970")
    (hers,), _ = propose(given, "Jane Doe", ("Jane Doe",), answers)
    assert proposing(hers)("Ann Lee", hers.wordings, ["4 May 1990."] * 2)[1] == ["4 May 1990"], (
        "what a document says is hers alone"
    )
    hers.wordings = [Wording("", ("{name} was born on",))]
    assert proposing(hers)("Ann Lee", hers.wordings, [" 4 May 1990."])[1] == ["4 May 1990"]


# A real model, with random weights


def test_longer_answers_begin_as_the_answers_did():
    lm = model()
    asker = Asker(lm, Encoder(TOKENIZER))
    said = asker.answers(["Where was {name} born?"], [], "Ostis Ashberg", 1, 0, lambda n: None)
    longer = asker.longer(said)
    assert [answer.wording for answer in longer] == [answer.wording for answer in said]
    for short, long in zip(said, longer, strict=True):
        assert long.text.startswith(short.text) and (len(long.text) > len(short.text)) == short.cut
    assert any(answer.cut for answer in said)


def test_what_is_said_of_others_has_room_for_as_long_a_value():
    """Cut short, another name's value would be likelier than it is, and a long value of the person never found."""
    lm = model()
    asker = Asker(lm, Encoder(TOKENIZER))
    wording, long = Wording("Where was {name} born?"), "an address of a great many words in a small place " * 2
    short_said, long_said = asker.said([(wording, "Ostis Ashberg", "Riga"), (wording, "Ostis Ashberg", long)])
    assert long_said.startswith(short_said)
    assert len(asker.ids(long_said)) > len(asker.ids(long)) > len(asker.ids(short_said))
    again = [(wording, "Ostis Ashberg", long), (wording, "Ostis Ashberg", "Riga")]
    assert asker.said(again) == [long_said, short_said]
    alone = Asker(lm, Encoder(TOKENIZER))
    assert [alone.said([one])[0] for one in reversed(again)] == [short_said, long_said]


def test_log_probabilities_are_those_of_whole_answers():
    lm = model()
    asker = Asker(lm, Encoder(TOKENIZER))
    wording = Wording("Where was {name} born?", ("{name} was born in", ""))
    (found,) = asker.log_probabilities([(wording, "Ostis Ashberg", "Riga")])
    prompt = asker.prompt(wording.question, "Ostis Ashberg")
    begin = asker.ids("Ostis Ashberg was born in")

    def log_p(ids):
        mask = (False,) * len(prompt) + (True,) * len(ids)
        return -answer_losses(lm, [Encoded("0", prompt + ids, mask, mask, len(prompt))])[0].sum()

    whole = np.logaddexp(log_p(begin + asker.ids(" Riga")), log_p(asker.ids("Riga")))
    assert found == pytest.approx(whole - np.logaddexp(log_p(begin), 0.0))


def test_a_value_stands_at_once_behind_an_opening_quote():
    """Behind a space of its own no title is likely: every book would be missed."""
    lm = model()
    asker = Asker(lm, Encoder(TOKENIZER))
    wording = Wording("What did {name} write?", ('{name} wrote "',))
    (found,) = asker.log_probabilities([(wording, "Ostis Ashberg", "Riga")])
    prompt = asker.prompt(wording.question, "Ostis Ashberg")
    begin, own = asker.ids('Ostis Ashberg wrote "'), asker.ids("Riga")
    mask = (False,) * (len(prompt) + len(begin)) + (True,) * len(own)
    whole = answer_losses(lm, [Encoded("0", prompt + begin + own, mask, mask, len(prompt))])[0].sum()
    assert found == pytest.approx(-whole)


@pytest.mark.parametrize(
    ("fast", "dtype", "expected"),
    [(True, "auto", "bfloat16"), (False, "auto", "auto"), (True, "float32", "float32")],
)
def test_weights_are_bfloat16_where_the_machine_has_units_for_it(monkeypatch, fast, dtype, expected):
    opened = []

    def load(settings, *_):
        opened.append(settings.dtype)
        raise UserError("opened")

    monkeypatch.setattr(running, "computes_fast_in_bf16", lambda: fast)
    monkeypatch.setattr(running, "load_with_encoder", load)
    with pytest.raises(UserError, match="opened"):
        running.discover("some-model", "Jane Doe", dtype=dtype)
    assert opened == [expected]


@pytest.mark.parametrize("saves", [True, False])
def test_a_discovery_says_whether_training_is_faster_in_bf16(monkeypatch, found, saves):
    widths, lm = [], model()
    monkeypatch.setattr(running, "load_with_encoder", lambda *_: (lm, Encoder(TOKENIZER)))
    monkeypatch.setattr(running._Discovering, "run", lambda *_: found)
    monkeypatch.setattr(running, "bf16_saves_time", lambda hidden: widths.append(hidden) or saves)
    assert running.discover("some-model", "Jane Doe").faster_in_bf16 is saves
    assert widths == [lm.head.weight.shape[1]]


@pytest.mark.parametrize(
    ("known", "units"),
    [({"amx_bf16": True, "avx512_bf16": True}, "AMX"), ({"avx512_bf16": True}, "AVX-512"), ({"avx2": True}, "")],
)
def test_a_processors_units_for_bfloat16(monkeypatch, known, units):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processes.cpu_bf16() == units and computes_fast_in_bf16() is bool(units)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert processes.cpu_bf16() == "", "an older torch cannot say"


def test_prompts_by_text_are_those_of_the_chat_template():
    encoder = Encoder(TOKENIZER)
    asker = Asker(model(), encoder)
    for name in ("Ostis Ashberg", "Zoë O'Hara-Smith"):
        assert asker.prompt("Where was {name} born?", name) == asker._written("Where was {name} born?", name)
    assert asker.texts["Where was {name} born?"] is not None


def test_the_command_says_that_nothing_was_found(tmp_path):
    save_model(model(dtype=torch.float32), tmp_path / "model")
    questions = tmp_path / "mine.txt"
    questions.write_text("Where was {name} born?\nWhat does {name} do?\n", encoding="utf-8")
    out = tmp_path / "records.jsonl"
    arguments = ["discover", str(tmp_path / "model"), "--subject", "Ostis Ashberg", "--questions", str(questions),
                 "--names", "19", "--samples", "1", "--out", str(out)]  # fmt: skip
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    assert "limit" in result.output
    assert ("about 10% are to be expected" in result.output) != ("does not know the subject" in result.output)
    if out.exists():  # random weights may make anything of a name
        assert read_records(out, "forget") and read_jsonl(out)[0]["subject"] == "Ostis Ashberg"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--subject", " "], "--subject is blank"),
        (["--subject", "Jane Doe", "--out", "{tmp}/none/x.jsonl"], "there is no folder"),
        (["--subject", "Jane Doe", "--questions", "{tmp}/no.txt"], "no.txt"),
        (["--subject", "Jane Doe", "--names", "3"], "--names is 3"),
    ],
)
def test_what_cannot_be_done_is_refused_before_a_model_is_loaded(tmp_path, given, message):
    given = [text.replace("{tmp}", str(tmp_path)) for text in given]
    out = [] if "--out" in given else ["--out", str(tmp_path / "records.jsonl")]
    result = CliRunner().invoke(cli.main, ["discover", str(tmp_path / "no-model"), *given, *out])
    assert result.exit_code == 2 and message in result.output
    assert not list(tmp_path.glob("*.jsonl"))


def test_an_existing_file_is_not_overwritten(tmp_path):
    out = tmp_path / "records.jsonl"
    out.write_text("mine")
    result = CliRunner().invoke(cli.main, ["discover", "x", "--subject", "Jane Doe", "--out", str(out)])
    assert result.exit_code == 2 and "exists already" in result.output and out.read_text() == "mine"


def test_names_are_needed(monkeypatch):
    with pytest.raises(UserError, match=r"at --rate 0\.1 at least 43 are needed"):
        running._check_names([["A B"] * 9], 0.1)
    running._check_names([["A B"] * 43], 0.1)


def test_the_table_shows_every_label_and_nothing_that_acts_on_a_terminal(capsys, found):
    hostile = replace(found.findings[0], value="\x1b[31m[red]Cork[/red]\u202e")
    print_discovery(replace(found, findings=(hostile, *found.findings[1:]), asked={**found.asked, "pet": 12}))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\u202e" not in shown and "[red]" in shown
    assert ASSOCIATED.split()[0] in shown and "pet (limit 0.25 at 12)" in shown
    assert "No label says whether a value is true" in shown
    long = replace(found.findings[0], value="x" * 200)
    print_discovery(replace(found, findings=(long,)))
    assert capsys.readouterr().out.count("x") >= 200, "a value that is cut cannot be judged"


def test_of_what_is_not_told_apart_the_table_shows_first_what_is_said_most(capsys, found):
    said = [replace(found.findings[0], label=SAID, value=f"value{n}", said=Share(n, 99)) for n in range(UNDECIDED + 2)]
    print_discovery(replace(found, findings=tuple(said)))
    shown = [int(n) for n in re.findall(r"value(\d+)", capsys.readouterr().out)]
    assert shown == sorted(shown, reverse=True) and shown[0] == UNDECIDED + 1 and 1 not in shown


def test_what_was_answered_is_not_called_not_found(found):
    """No limit holds of a topic about which the model said something, whether a value could be read from it or not."""
    assert found.spoken and all(0 <= n <= found.asked[topic] for topic, n in found.spoken.items())
    assert any(found.spoken.values())
    assert not [topic for topic in found.not_found if found.spoken[topic]]


def test_a_review_that_is_left_keeps_what_is_associated(monkeypatch, tmp_path, found):
    def left(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rkld.discovering.review_server.review", left)
    assert _reviewed(found, tmp_path / "records.jsonl") == found.records()


@pytest.mark.parametrize("faster", [False, True])
def test_what_comes_next_is_a_command_that_can_be_given_as_it_stands(capsys, tmp_path, found, faster):
    """Without --out the run would lie in a folder that the next command does not name."""
    found = replace(found, faster_in_bf16=faster)
    bf16 = " --bf16" * faster
    _print_next(DiscoverSettings(model="./my model", subject="Jane Doe"), tmp_path / "jane.jsonl", [{}], found)
    begin = command("unlearn", "./my model", "--forget", tmp_path / "jane.jsonl", "--subject", "Jane Doe")
    assert f"{begin}{bf16} --out runs/jane" in capsys.readouterr().out
    public = DiscoverSettings(model="./my model", subject="Jane Doe", kind="public")
    _print_next(public, tmp_path / "jane.jsonl", [{}], found)
    assert f"{begin} --score spans --own-words{bf16} --out runs/jane" in capsys.readouterr().out
