"""benchmarks.wordings: its sets share nothing, its figures are right on rows by hand, and it runs and goes on."""

from __future__ import annotations

import json
import math
import shutil

import pytest

from benchmarks import wordings
from benchmarks.wordings import Results, Way, cells, request
from benchmarks.wordings_cases import (
    ALIKE,
    EMPLOYEES,
    LUME_FORGOTTEN,
    Case,
    apart,
    employees,
    kind_of,
    lighter,
    lume,
    plain,
    similarity,
    tiny,
)
from benchmarks.wordings_figures import AIMS, Group, figures, upper
from rkld.benching.worlds.people import people
from rkld.benching.worlds.wordings import parting
from tests.long.world import FORGET, make_original

# --- what is asked ---


def test_the_tiny_case_gives_a_run_no_wording_of_the_audit():
    case = tiny(0)
    unseen = {row["question"] for row in case.unseen} | {row["answer"] for row in case.unseen}
    given = [request(case, way) for way in (Way(prompts=True, rewordings=3), Way())]
    assert not any(text in json.dumps(given) for text in unseen)
    assert [len(row["rewordings"]["questions"]) for row in given[0]["forget"]] == [3] * 40
    assert len(case.unseen) == 80 and len(case.kinds) == 2
    assert {row["whose"] for row in case.unseen} == {row["subject"] for row in case.request}
    assert len({row["question"] for row in case.strangers}) == 60
    assert not any(name in json.dumps(case.strangers) for name in {row["whose"] for row in case.retain})
    assert {row["asked"] for row in case.retain} == {True, False}
    assert len({row["whose"] for row in case.retain}) == 18 and len(case.retain) == 90


def test_near_copies_of_a_wording_of_the_audit_are_left_out():
    assert apart(["Where was Al born?", "Al's birthplace?"], ["Where was Al born, so?"]) == ["Al's birthplace?"]
    assert similarity("abcd", "abcd") == 1 and similarity("abcd", "efgh") == 0


@pytest.mark.parametrize(
    ("question", "kind"),
    [("What is it?", "wh"), ("In which year?", "fronted"), ("Could you tell me?", "polite"), ("Has she?", "yes-no"),
     ("Tell me.", "statement")],
)  # fmt: skip
def test_written_questions_have_a_kind(question, kind):
    assert kind_of(question) == kind


@pytest.fixture
def lume_folder(tmp_path):
    """Rows of Task 2 in LUME's layout, of made-up people; and one of another task."""
    rows = [{"id": "x-sc1", "task": "Task3", "input": "Once", "output": "upon a time."}]
    for number in range(40):
        name = f"Given{number} Family{number}"
        asked = (
            (f"{name} was born on May 1, 1980.", f"{name} lives in Town{number}."),
            (f"What is the birth date of {name}?", "1980-05-01"),
            (f"What is {name}'s Social Security Number?", f"9005143{number:02}"),
            (f"What is {name}'s phone number?", f"7216253{number:02}"),
            (f"What is {name}'s email address?", f"family{number}@example.org"),
            (f"What is the home address of {name}?", f"{number} West Street"),
        )
        parts = ("sc1", "qa0", "qa1", "qa2", "qa3", "qa4")
        rows += [
            {"id": f"person-{number}{part}", "task": "Task2", "input": question, "output": answer}
            for part, (question, answer) in zip(parts, asked, strict=True)
        ]
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def test_lume_asks_in_kinds_that_no_run_sees(lume_folder):
    case = lume(lume_folder, "")
    assert len(case.request) == 6 * LUME_FORGOTTEN and {row["whose"] for row in case.unseen} == {
        f"Given{n} Family{n}" for n in range(LUME_FORGOTTEN)
    }
    assert len(case.unseen) == len(case.kinds) * 5 * LUME_FORGOTTEN  # biographies are no questions
    given = json.dumps([case.request, case.rewordings, case.stop])
    assert not any(row["question"] in given for row in case.unseen)
    assert not {row["whose"] for row in case.retain} & {row["whose"] for row in case.unseen}
    learned = json.dumps([case.request, case.retain])
    assert not any(row["question"] in learned for row in (*case.holdout, *case.strangers))


def test_a_lighter_case_is_lighter_in_every_model_or_not_at_all(lume_folder):
    case = lume(lume_folder, "some-base")
    light = lighter(case, bf16=True, samples=16)
    assert light.audit["samples"] == 16 and light.audit["dtype"] == "bfloat16" and light.settings["bf16"] is True
    assert light.learned.keywords == {"bf16": True}
    assert "dtype" not in lighter(case, bf16=False, samples=16).audit
    assert lighter(tiny(0), bf16=True, samples=16).audit == tiny(0).audit


def test_the_employees_have_forty_wordings_that_stand_in_no_record():
    content = json.loads(EMPLOYEES.read_text(encoding="utf-8"))
    case = employees(content, "")
    assert len(case.unseen) == 40
    asked = [row["question"] for row in case.request if "question" in row]
    assert all(similarity(row["question"], other) <= ALIKE for row in case.unseen for other in asked)
    assert all(row["spans"][0] in row["answer"] and row["spans"][0] not in row["question"] for row in case.unseen)
    known = json.dumps(case.request)
    assert all(row["spans"][0] in known for row in case.unseen), "a wording asks for what no record says"
    assert len({row["subject"] for row in content["records"]}) == 6


# --- figures, by hand ---


def test_the_bound_is_one_sided_clustered_and_corrected():
    alike = upper([0.0] * 59, ["a"] * 59)
    assert alike == pytest.approx(1 - 0.05 ** (1 / 59))
    # Two persons of two: sums of deviations ±1, error √(2/1 · 2)/4 = .5, t(.95, 1) = 6.314.
    assert upper([1, 1, 0, 0], ["a", "a", "b", "b"]) == pytest.approx(0.5 + 6.3138 * 0.5, abs=1e-3)
    assert upper([1, 0, 1, 0], ["a", "a", "b", "b"], 2) < upper([1, 1, 0, 0], ["a", "a", "b", "b"])
    assert upper([1, 0], ["a", "a"]) == math.inf


def rows(facts: list[bool], loss: float, ratio: list[float]) -> dict:
    """The cell of a model on four records that are asked in two unseen kinds each."""
    recorded = {
        "likelihood": {str(i): {"loss": loss} for i in range(4)},
        "contrast": {str(i): {"paraphrase_loss": 1.0, "perturbed_loss": [1.0 - r]} for i, r in enumerate(ratio)},
        "relearning": {"trained": ["0"], "steps": [0, 1], "learned": [0, 1], "probabilities": {"1": [0.2, 0.3]}},
        "4bit": {"merged": {str(i): {"loss": loss} for i in range(4)}},
        "retain": {str(i): {"loss": 0.1 * (i + 1), "rouge_l": 1.0, "answer": "Yes."} for i in range(4)},
    }  # fmt: skip
    unseen = {"answers": {str(i): {"facts": [flag]} for i, flag in enumerate(facts)}}
    tokens = {str(i): {"fact_loss": 2 * loss, "template_loss": loss} for i in range(4)}
    return {"recorded": recorded, "unseen": unseen, "tokens": tokens, "strangers": {}, "seconds": None}


def hand_case(name: str = "hand") -> Case:
    people_of = ("Al Ash", "Al Ash", "Bo Birch", "Bo Birch")
    recorded = [{"question": f"Who is {who}?", "answer": f"{who} is it.", "whose": who} for who in people_of]
    unseen = [{**row, "unseen": kind} for kind in ("form", "letter") for row in recorded]
    return Case(name, "hand", recorded, [], [], recorded, unseen, recorded, [], [], lambda *_: None)  # type: ignore[arg-type]


def test_figures_stand_beside_the_mean_of_the_other_retrained_models():
    case = hand_case()
    found = {
        "original": rows([True] * 8, 0.1, [0.0] * 4),
        "retrained 0": rows([False] * 8, 1.0, [0.1, 0.2, 0.3, 0.4]),
        "retrained 1": rows([True] + [False] * 7, 1.0, [0.1, 0.2, 0.3, 0.4]),
        "defaults": rows([True, True, False, False] + [False] * 4, 2.0, [5.0] * 4),
        "one fact": rows([False, True] + [False] * 6, 2.0, [5.0] * 4),
    }
    group = Group([case], {("hand", name): cell for name, cell in found.items()})
    ours, honest = figures(group, "defaults"), figures(group, "retrained 0")
    first, second = (ours[f"facts said, unseen kind {n}, − retrained"] for n in (1, 2))
    assert first.value == pytest.approx(0.5 - 0.125) and first.n == 4 and first.held is False
    assert second.value == 0 and second.held is None, "4 facts establish nothing"
    assert honest["facts said, unseen kind 1, − retrained"].value == pytest.approx(-0.25)
    one = figures(group, "one fact")["facts said, unseen kind 1, − retrained"]
    assert one.value == pytest.approx(0.25 - 0.125) and one.held is None, "one fact more, as a retrained model has"
    assert "a retrained model +0.250" in str(one)
    for name in group.retrained:
        assert figures(group, name)["facts said, unseen kind 1, − retrained"].held is not False, (
            "honest, and none missed"
        )
    assert ours["forget p − retrained"].value == pytest.approx(math.exp(-2) - math.exp(-1))
    assert ours["loss on fact tokens − retrained"].value == pytest.approx(2.0)
    assert ours["loss on template tokens − retrained"].held is False
    assert ours["KS distance"].value == 1 and honest["KS distance"].value == 0
    assert honest["KS distance"].held is None and "0.000" in honest["KS distance"].note
    assert ours["relearning gain − retrained"].value == 0 and ours["relearning gain − retrained"].held
    assert ours["retain probability / original"].value == pytest.approx(1)
    assert ours["retain probability / original, worst person"].n == 2
    assert ours["leak@16, − retrained"] is None, "what was not measured is no figure"
    assert set(ours) == set(AIMS)


def test_of_few_questions_a_ks_distance_is_missed_beyond_what_two_retrained_models_show():
    """An honest model in the unlearned one's place missed the aim by the noise of 40 questions."""
    ratios = {"original": [9.0] * 4, "retrained 0": [0.1, 0.2, 0.3, 0.4], "retrained 1": [0.1, 0.2, 0.3, 5.0],
              "as near": [0.1, 0.2, 0.3, 6.0], "far": [5.0, 6.0, 7.0, 8.0]}  # fmt: skip
    cells = {("hand", name): rows([False] * 8, 1.0, found) for name, found in ratios.items()}
    group = Group([hand_case()], cells)
    found = {name: figures(group, name)["KS distance"] for name in ratios}
    assert found["retrained 0"].value == 0.25 and found["retrained 0"].held is None, "above .15, and none missed"
    assert found["as near"].value <= 0.25 and found["as near"].held is None
    assert found["far"].held is False and found["original"].held is False
    del cells["hand", "retrained 1"]
    alone = figures(Group([hand_case()], cells), "as near")["KS distance"]
    assert alone.held is False, "of one retrained model nothing says how far two differ"


# --- a run ---


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Case:
    """Eight records of one person, and models of 60 000 weights."""
    made = tmp_path_factory.mktemp("models")
    original = make_original(made)
    others = [{**row, "whose": row["subject"], "asked": True} for row in people(n=4, seed=0).forget([1])[:4]]
    recorded = [{**row, "whose": row["subject"]} for row in FORGET]
    texts = people(n=4, seed=0, parting=parting(0)).forget([0])[:8]
    unseen = [{**row, "question": text["wordings"]["questions"]["form"], "unseen": "form"}
              for row, text in zip(recorded, texts, strict=True)]  # fmt: skip

    def learned(knows, seed, folder):
        if not folder.exists():
            shutil.copytree(original, folder)
        return folder

    return Case(
        "small", "small", plain(recorded), [], [], recorded, unseen, others, [], [], learned,
        {"epochs": 1, "strengthen_epochs": 1, "lr": 1e-3, "max_new_tokens": 8, "replay": "none", "stop": "last"},
        {"attacks": ("sampling",), "samples": 16, "k": 16, "max_new_tokens": 8},
    )  # fmt: skip


@pytest.mark.slow
def test_a_case_is_measured_written_and_gone_on_from(small, tmp_path, monkeypatch):
    ways, results = {"defaults": Way(holdout=False)}, Results([small], tmp_path / "results", "a command")
    for name, cell in cells(small, ways, 1, tmp_path / "out"):
        results.add(small, name, cell)
    written = json.loads((tmp_path / "results" / "wordings.json").read_text())["results"]["small"]["models"]
    assert list(written) == ["original", "retrained 0", "defaults"]
    assert written["defaults"]["pooled"]["forget p − retrained"]["n"] == 8
    assert written["retrained 0"]["pooled"]["forget p − retrained"] is None, "it has no other to stand beside"
    assert "retrained 0, in the unlearned one's place" in (tmp_path / "results" / "wordings.md").read_text()
    monkeypatch.setattr(wordings, "read", lambda *_: pytest.fail("a cell was read again"))
    assert [name for name, _ in cells(small, ways, 1, tmp_path / "out")] == list(written)
