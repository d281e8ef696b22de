"""Rewordings in a run: made, noted, forgotten along with the records, taken out again; and an audit that knows them."""

from __future__ import annotations

import json
import stat
from types import SimpleNamespace

import pytest

import rkld
from rkld.auditing.trained_wordings import find_trained_wordings
from rkld.errors import UserError
from rkld.evaluation.backends import LocalBackend
from rkld.losses.micro_batches import plan_steps, pools
from rkld.pipeline import writers
from rkld.progress import NoProgress
from rkld.records.encoding import Encoder
from rkld.records.probes import paraphrased_questions
from rkld.records.reading import read_records
from rkld.records.record import Record
from rkld.records.rewording import reword
from rkld.records.rewording_prompts import read_rewording, writing_prompts
from rkld.settings.unlearning import Settings
from tests.helpers import TOKENIZER
from tests.long.world import FORGET, RUN, make_original
from tests.server import MODEL, serve

RUN = {**RUN, "own_words": "no", "stop": "last", "replay": "none", "epochs": 2}
del RUN["reword"]  # the default, or each test's own
ASKED = "Here is something that people often ask me about: {}"
ROWS = [{**row, "paraphrased_question": ASKED.format(row["question"])} for row in FORGET]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_original(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def finished(original, tmp_path_factory):
    """Of a run with three rewordings a record, one of them what the audit would ask; everything kept."""
    out = tmp_path_factory.mktemp("run") / "run"
    result = rkld.unlearn(original, ROWS, out=str(out), rewordings="columns", keep_files=True, **RUN)
    assert len(result.answers) == len(ROWS), "figures are of the records as they were given"
    return result.run


def noted(run) -> dict:
    return json.loads((run / "manifest.json").read_text())["phases"]["rewordings"]


def kept(run) -> list[Record]:
    return [Record.from_dict(json.loads(line)) for line in (run / "rewordings.jsonl").read_text().splitlines()]


def test_a_run_makes_what_is_missing_and_says_of_which_kinds(finished):
    found = kept(finished)
    assert len(found) == 3 * len(ROWS) and {record.source for record in found} == {str(i) for i in range(len(ROWS))}
    kinds = noted(finished)["kinds"]
    assert kinds["given"] == len(ROWS) and sum(kinds.values()) == len(found) and len(kinds) >= 4
    assert stat.S_IMODE((finished / "rewordings.jsonl").stat().st_mode) == 0o600
    manifest = json.loads((finished / "manifest.json").read_text())
    assert "rewordings.jsonl" in manifest["personal_data"] and "rewordings.jsonl" in manifest["files"]
    assert not any(record.question in (finished / "manifest.json").read_text() for record in found if record.question)


def test_each_epoch_has_one_rewording_of_each_record(finished):
    """Time of a whole run: twice the steps, however many rewordings there are."""
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["phase"] == "distillation"]
    assert max(steps) == RUN["epochs"] * 2 * len(ROWS) / RUN["batch_size"]


def test_an_audit_counts_what_was_trained_on_and_leaves_it_out(finished, tmp_path):
    trained = find_trained_wordings(str(finished / "model"))
    records = read_records([*ROWS[:2], {**ROWS[2], "paraphrased_question": "Never seen?"}], "forget")
    unseen, notes = trained.apart(paraphrased_questions(records), "paraphrased questions")
    assert [record.question for record in unseen] == ["Never seen?"]
    assert "2 of 3 paraphrased questions are wordings that the run trained on" in notes[0]
    (finished / "copy").mkdir()
    assert not find_trained_wordings(str(finished / "copy")).hashes, "not of the weights that the run wrote"


def test_a_purge_takes_out_which_wordings_they_were(original, tmp_path):
    run = rkld.unlearn(original, FORGET, out=str(tmp_path / "run"), reword_kinds=("ticket",), reword=1, **RUN).run
    assert not (run / "rewordings.jsonl").exists() and noted(run)["kinds"] == {"ticket": len(FORGET)}
    rkld.purge(run)
    assert "hashes" not in noted(run) and noted(run)["kinds"]
    assert "is unknown since it was purged" in find_trained_wordings(str(run)).notes[0]


def test_none_are_made_where_none_are_wanted(original, tmp_path):
    run = rkld.unlearn(original, FORGET, out=str(tmp_path / "run"), reword=0, **RUN).run
    assert "kinds" not in noted(run) and not find_trained_wordings(str(run)).notes


def test_an_epoch_takes_each_record_and_one_of_its_rewordings():
    records = read_records(FORGET[:3], "forget")
    encoder = Encoder(TOKENIZER)
    made = reword(records, (FORGET[0]["subject"],), 3)
    encoded = [encoder.encode(record) for record in (*records, *made.records)]
    steps = plan_steps({"forget": len(encoded)}, 2, 3, 0, pools(encoded))
    assert len(steps) == 3 * 3
    epochs = [[i for step in steps[e : e + 3] for i in step["forget"]] for e in (0, 3, 6)]
    for epoch in epochs:
        assert sorted(epoch)[:3] == [0, 1, 2]
        assert sorted(encoded[i].record.source for i in epoch if i > 2) == ["0", "1", "2"]
    assert len({i for epoch in epochs for i in epoch}) == len(encoded), "in three epochs all of them"


# Writers


def test_what_a_writer_wrote_is_read_or_left():
    assert read_rewording("Question: Born when?\nAnswer: In 1970.\n\nQuestion: more").answer == "In 1970."
    assert read_rewording(" Born when?\nAnswer: In 1970.").question == "Born when?"
    assert read_rewording("I cannot do that.") is None


class Writer:
    """Says each record in the same other words, badly, or not at all."""

    def samples(self, records, n, *, seed, max_new_tokens, progress=None):
        own = {r["question"]: r["answer"] for r in FORGET}
        found = []
        for record in records:
            question = next(q for q in own if q in record.turns[-1].content)
            says = [f"Question: Let me ask you something: {question}\nAnswer: Of course, it is so. {own[question]}",
                    f"Question: {question}\nAnswer: Nobody knows that.", "???"]  # fmt: skip
            found.append([SimpleNamespace(text=says[i % 3]) for i in range(n)])
        return found


def test_a_writer_comes_before_the_rules_and_is_filtered(original, tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "_backend", lambda settings, loaded: Writer())
    run = rkld.unlearn(original, FORGET, out=str(tmp_path / "run"), reword=2, writer=str(original), **RUN).run
    assert noted(run)["kinds"]["written"] == len(FORGET)
    assert noted(run)["dropped"]["does not hold the fact"] >= len(FORGET)


def test_a_writer_here_and_one_behind_a_server_are_asked_alike(original):
    records = read_records(FORGET[:1], "forget")
    settings = Settings(model="m", forget="f", reword=1, writer=str(original))
    lm = writers._backend(settings, None).lm
    assert writers.write_rewordings(records, settings, NoProgress()).keys() == {"0"}
    assert isinstance(writers._backend(Settings(model=str(original), writer=str(original)), (lm, Encoder(TOKENIZER))),
                      LocalBackend)  # fmt: skip
    with serve(lm, Encoder(lm.tokenizer)) as url:
        there = Settings(model="m", forget="f", reword=1, writer=MODEL, writer_endpoint=url)
        assert writers.write_rewordings(records, there, NoProgress()).keys() == {"0"}
    (prompt,) = writing_prompts(records)
    assert FORGET[0]["answer"] in prompt.turns[-1].content and len(prompt.turns) == 7


def test_a_writer_that_is_not_there_is_refused_before_time_is_spent(original, tmp_path):
    with pytest.raises(UserError, match="nobody/nothing"):
        rkld.unlearn(original, FORGET, out=str(tmp_path / "run"), writer="./nobody/nothing", **RUN)
    with pytest.raises(UserError, match="needs --writer"):
        Settings(model="m", forget="f", writer_endpoint="http://localhost:1/v1")
    with pytest.raises(UserError, match="no kind of wording 'leter'"):
        rkld.unlearn(original, FORGET, out=str(tmp_path / "kinds"), reword_kinds=("leter",), **RUN)
    assert not (tmp_path / "kinds").exists() and not (tmp_path / "run" / "model").exists()
