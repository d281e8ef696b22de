"""Attacks and metrics from outside the package, and names that are mistyped."""

import pytest

import rkld
from rkld.auditing.metrics import audit_metrics
from rkld.auditing.registry import ATTACKS, chosen_attacks
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.errors import UserError
from rkld.evaluation.registry import METRICS
from rkld.settings.auditing import AuditSettings

FORGET = people(n=2, seed=0).forget([0])[:3]
PLUG_IN = '''
from rkld.auditing.reading import Attack
from rkld.evaluation.metric import RecordMetric, column


class politely(Attack):
    """Asks with a please before every question."""

    title = "a please before the question"
    weights = False
    metric_names = ("facts_said", "answer_length")

    def missing(self, task):
        return None if task.forget else "needs records"

    def read(self, reader):
        records = [record.with_question("Please: " + record.question) for record in reader.task.forget]
        return reader.answers(self.name, records)


answer_length = RecordMetric(
    "answer_length",
    "characters of the model's own answer",
    "answers",
    lambda rows: {key: float(len(row["answer"])) for key, row in rows.items()},
    bounds=(0.0, float("inf")),
)
'''


def names(*attacks):
    return [attack.name for attack in chosen_attacks(AuditSettings(attacks=attacks))]


def test_attacks_are_chosen_by_name_and_by_set():
    """What a user asks for must run, and nothing that costs hours unasked."""
    assert names("standard") == ["continued", "frames", "paraphrases", "prefixes", "sampling"]
    assert names("all") == ATTACKS.names()
    assert names("none") == []
    assert names("4bit,context", "sampling") == ["4bit", "context", "sampling"]
    assert [attack.name for attack in chosen_attacks(AuditSettings())] == names("standard")


def test_an_unknown_attack_is_refused_before_anything_is_read(tmp_path):
    """With the name that was meant: an audit of hours would otherwise miss it."""
    with pytest.raises(UserError, match=r"unknown attack 'relern'.*relearning"):
        rkld.audit("no-model", FORGET, attacks=("relern",), out=str(tmp_path / "audit"))
    assert not (tmp_path / "audit").exists()


@pytest.fixture
def metric(tmp_path, monkeypatch):
    """The file of a user, whose metric is registered as another package's would be."""
    path = tmp_path / "mine.py"
    path.write_text(PLUG_IN)
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS.items()))
    METRICS.register("answer_length")(METRICS.resolve(f"{path}:answer_length"))
    return path


def test_an_attack_and_a_metric_from_outside_are_in_the_evidence(metric, tmp_path):
    """One file of the user's, found by name: nothing in the package knows of it."""
    model, tokenizer = tiny_model(0)
    found = rkld.audit(
        model, FORGET, processing_class=tokenizer, attacks=(f"{metric}:politely",), min=("politely_answer_length=1",),
        max_new_tokens=4, out=str(tmp_path / "audit"),
    ).document  # fmt: skip
    lengths = found["metrics"]["answer_length"]["records"]["audited"]
    assert len(lengths) == 3
    assert all(length > 0 for length in lengths.values())
    assert "politely_answer_length" in found["metrics"]
    assert "politely_facts_said" not in found["metrics"], "all its answers were cut"
    assert "relearning" in {entry["name"] for entry in found["not_run"]}


def test_an_attack_whose_file_has_changed_is_made_anew(tmp_path):
    """A kept reading of what it asked before would pass for what it asks now."""
    model, tokenizer = tiny_model(0)
    path = tmp_path / "mine.py"
    attack = PLUG_IN.replace('"facts_said", "answer_length"', '"facts_said",')
    for asked in ("Please", "Kindly"):
        path.write_text(attack.replace("Please", asked))
        for _ in range(2):
            rkld.audit(model, FORGET[:1], processing_class=tokenizer, attacks=(f"{path}:politely",), max_new_tokens=1,
                       out=str(tmp_path / "audit"))  # fmt: skip
    assert len(list((tmp_path / "audit" / "readings").glob("politely.*.json"))) == 2


def test_an_attack_of_the_users_with_the_name_of_another_is_refused(tmp_path):
    """One of the two would silently be left out."""
    path = tmp_path / "mine.py"
    path.write_text(PLUG_IN.replace("class politely", "class sampling"))
    with pytest.raises(UserError, match="there is an attack 'sampling' already"):
        names(f"{path}:sampling")


def test_a_metric_of_the_users_file_is_computed_where_it_is_named(tmp_path):
    """Without being registered, and only then."""
    path = tmp_path / "mine.py"
    path.write_text(PLUG_IN)
    assert "answer_length" in audit_metrics(AuditSettings(metric=(f"{path}:answer_length",)))
    assert "answer_length" not in audit_metrics(AuditSettings())
    with pytest.raises(UserError, match="the file defines no answer_lenght"):
        audit_metrics(AuditSettings(metric=(f"{path}:answer_lenght",)))


def test_two_metrics_of_one_name_are_refused(tmp_path):
    """One would silently take the other's place in gates and evidence."""
    path = tmp_path / "mine.py"
    path.write_text(PLUG_IN.replace('"answer_length",\n    "char', '"rouge_l",\n    "char'))
    with pytest.raises(UserError, match="two metrics of the name 'rouge_l'"):
        audit_metrics(AuditSettings(metric=(f"{path}:answer_length",)))
