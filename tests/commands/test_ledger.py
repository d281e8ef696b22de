"""From a request to the newest model: noted once, sealed, and asked again."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

import rkld
from rkld.cli import main
from rkld.commands import recheck_ledger
from rkld.commands.note_request import ASKING
from rkld.commands.recheck_ledger import Compared, Rechecked, _cut_otherwise, _questions, compared, recheck
from rkld.errors import UserError
from rkld.reporting.keys import make_key, read_ledger_key, read_opening_key
from rkld.reporting.ledger import ERASED, RECHECKED, questions_folder, read_ledger
from rkld.reporting.rechecked import Finding
from rkld.reporting.sealing import unseal
from tests.long.world import AUDIT, FORGET, RUN, make_original
from tests.reporting.signed_run import Signer, report

NAME = FORGET[0]["subject"]

SHORT = {**RUN, "own_words": "no", "reword": 0, "replay": "none", "stop": "last", "checkpoint_minutes": 9.0,
         "max_new_tokens": 40}  # fmt: skip

QUICK = {name: value for name, value in AUDIT.items() if name not in ("attacks", "max_new_tokens")}


@pytest.fixture(autouse=True)
def short_audits(monkeypatch):
    monkeypatch.setattr(recheck_ledger, "audit", partial(rkld.audit, **QUICK))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A model that knows the person, keys, and the request that made it forget."""
    folder = tmp_path_factory.mktemp("world")
    make_original(folder)
    for kind in ("seal", "ledger"):
        make_key(folder / kind, kind)
    unlearn(folder)
    return folder


def unlearn(world: Path, out: str = "run", **given):
    keys = {"ledger": world / "ledger.jsonl", "ledger_key": world / "ledger", "seal_to": world / "seal.pub"}
    values = {**SHORT, "subject": (NAME,), "out": world / out, **keys, **given}
    texts = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    return rkld.unlearn(world / "original", FORGET, **texts)


def key(world: Path) -> bytes:
    return read_ledger_key(world / "ledger")


def test_a_request_is_noted_once_and_names_nobody(world):
    unlearn(world)  # finished already
    (line,) = read_ledger(world / "ledger.jsonl", key(world)).of(ERASED)
    assert line["records"] == len(FORGET) and line["weights"] and line["after"]["facts_said"] is not None
    (sealed,) = questions_folder(world / "ledger.jsonl").iterdir()
    for path in (world / "ledger.jsonl", sealed):
        content = path.read_text(errors="replace").lower()
        known = {text.lower() for row in FORGET for text in (row["subject"], row["answer"], *row["spans"])}
        assert not any(text in content for text in known if len(text) > 6)


def test_the_newest_model_is_asked_what_the_others_have_forgotten(world, tmp_path):
    """What forgot says nothing new; the original says all again."""
    found = {}
    for model in ("run", "original"):
        command = ["ledger", "recheck", world / model, "--ledger", world / "ledger.jsonl", "--unseal", world / "seal",
                   "--ledger-key", world / "ledger", "--attacks", "none", "--out", tmp_path]  # fmt: skip
        found[model] = CliRunner().invoke(main, [str(part) for part in command])
    assert "these are the weights that the run wrote" in found["run"].stdout
    assert not re.search("CAME BACK|not seen then", found["run"].stdout)
    assert "these are" not in found["original"].stdout
    assert found["original"].exit_code == 1 and "CAME BACK: " in found["original"].stdout
    noted = read_ledger(world / "ledger.jsonl", key(world)).of(RECHECKED)
    assert [one["of"] for one in noted] == [1, 1] and noted[0]["weights"] != noted[1]["weights"]
    assert noted[0]["came_back"] == 0 < noted[1]["came_back"] <= noted[1]["said"] <= noted[1]["facts"]
    answers = [row["answer"] for row in FORGET]
    assert not any(answer in path.read_text() for path in tmp_path.rglob("*.json") for answer in answers)
    listed = CliRunner().invoke(main, ["ledger", "list", str(world / "ledger.jsonl")])
    assert listed.exit_code == 0 and listed.stdout.count("rechecked") == 2 and "questions sealed" in listed.stdout
    for one, line in zip(found.values(), re.findall("rechecked .*", listed.stdout)):
        words = one.stdout.strip().split(" - ")[1]
        assert line.endswith(words), "what the recheck said and what is listed are one"


def test_the_runs_own_weights_are_no_alarm_however_long_they_are_asked(world, tmp_path):
    """A run of short answers was asked again for longer ones, and what it had not come to "came back"."""
    short = {"ledger": world / "short.jsonl", "max_new_tokens": 3}
    made = unlearn(world, out="short", **short)
    opening = read_opening_key(world / "seal")

    def found(longest: int | None):
        (one,) = recheck(str(world / "short"), short["ledger"], opening, attacks=("none",), out=tmp_path / str(longest),
                         max_new_tokens=longest)  # fmt: skip
        return one

    sealed = unseal(next(questions_folder(short["ledger"]).iterdir()).read_bytes(), opening)
    assert sealed["asking"].keys() == ASKING.keys() and sealed["asking"]["max_new_tokens"] == 3
    as_then, longer = found(None), found(40)
    facts = made.metrics["after"]["forget"]
    assert as_then.finding.unmeasured == facts["facts_unseen"] == len(sealed["unseen"]) > 0
    assert as_then.finding.said == len(sealed["said"]) and not as_then.clean
    assert "NOT MEASURED" in as_then.line()
    for one in (as_then, longer):
        assert one.finding.came_back == 0 and one.finding.same_weights
        assert "CAME BACK" not in one.line() and "these are the weights that the run wrote" in one.line()
    assert longer.finding.not_seen_then == longer.finding.said - as_then.finding.said


def test_the_text_of_a_template_is_sealed_and_not_where_it_lay(world, tmp_path):
    """A path as it was typed is nothing elsewhere, or years later; or another file's."""
    text = "{% for m in messages %}{{ m['content'] + '\\n' }}{% endfor %}"
    (file := tmp_path / "chat.jinja").write_text(text)
    ledger = tmp_path / "ledger.jsonl"
    unlearn(world, out="templated", ledger=ledger, chat_template=file)
    file.unlink()
    opening = read_opening_key(world / "seal")
    (sealed,) = questions_folder(ledger).iterdir()
    assert unseal(sealed.read_bytes(), opening)["asking"]["chat_template"] == text
    (one,) = recheck(str(world / "templated"), ledger, opening, attacks=("none",), out=tmp_path / "audits")
    assert not one.reason and one.finding.came_back == 0, one.line()
    assert one.path is not None and "messages" not in one.path.read_text(), "a redacted audit holds no text"


def test_an_adapter_is_the_same_model_only_on_the_same_base():
    line, audited = {"weights": "a", "base_weights": "b"}, {"weights": "a", "base": "model", "base_weights": "b"}
    assert recheck_ledger._wrote(line, audited) and recheck_ledger._wrote({"weights": "a"}, {"weights": "a"})
    for other in ({"base_weights": "c"}, {"base_weights": None}, {"weights": "c"}, {"weights": None}):
        assert not recheck_ledger._wrote(line, {**audited, **other})
    assert not recheck_ledger._wrote({"weights": None}, {"weights": None})
    assert not recheck_ledger._wrote({"weights": "a"}, audited), "of an earlier version"


def test_answers_that_were_all_cut_are_not_measured(world, tmp_path):
    """They were called records that hold no fact to look for."""
    (one,) = recheck(str(world / "run"), world / "ledger.jsonl", read_opening_key(world / "seal"), attacks=("none",),
                     out=tmp_path, max_new_tokens=1)  # fmt: skip
    assert not one.reason and one.finding.facts and one.finding.facts == one.finding.unmeasured + one.finding.said
    assert "NOT MEASURED: " in one.line() and not one.clean


def test_what_cannot_be_appended_is_refused_before_anything_is_asked(world, tmp_path, monkeypatch):
    """A recheck of minutes ended without a word of what it had found."""
    asked = []
    monkeypatch.setattr(recheck_ledger, "audit", lambda *given, **_: asked.append(given))

    def refused(*_):
        raise UserError("cannot be written")

    monkeypatch.setattr(recheck_ledger, "check_appendable", refused)
    with pytest.raises(UserError, match="cannot be written"):
        list(recheck(str(world / "run"), world / "ledger.jsonl", read_opening_key(world / "seal"), key=key(world)))
    assert not asked


def test_a_finding_is_shown_before_it_is_appended_and_others_are_found_all_the_same(world, tmp_path, monkeypatch):
    ledger = tmp_path / "ledger.jsonl"
    for name in ("run", "second"):
        unlearn(world, out=name, ledger=ledger, epochs=3 if name == "run" else 2)
    append, full = recheck_ledger.append, []

    def fails_once(*given):
        if not full:
            full.append(given)
            raise UserError("No space left on device")
        return append(*given)

    monkeypatch.setattr(recheck_ledger, "append", fails_once)
    command = ["ledger", "recheck", world / "run", "--ledger", ledger, "--unseal", world / "seal",
               "--ledger-key", world / "ledger", "--attacks", "none", "--out", tmp_path / "out"]  # fmt: skip
    found = CliRunner().invoke(main, [str(part) for part in command])
    assert found.exit_code == 2 and "facts said now" in found.stdout.splitlines()[1]
    assert "what was found of line 1 is not in the ledger: No space left" in found.stderr
    assert [one["of"] for one in read_ledger(ledger, key(world)).of(RECHECKED)] == [2]


def test_without_the_key_sealed_questions_are_not_rechecked(world, tmp_path):
    for one in recheck(str(world / "run"), world / "ledger.jsonl", None, out=tmp_path):
        assert "not rechecked" in one.line() and "--unseal" in one.line() and not one.clean


def test_without_questions_a_line_says_that_it_was_not_rechecked(world, tmp_path):
    ledger, opening = tmp_path / "ledger.jsonl", read_opening_key(world / "seal")
    unlearn(world, ledger=ledger, seal_to=None)
    (one,) = recheck(str(world / "run"), ledger, opening, out=tmp_path)
    assert "not rechecked: its questions were not sealed" in one.line() and not one.clean
    ledger.unlink()
    unlearn(world, ledger=ledger)
    make_key(tmp_path / "other", "seal")
    (one,) = recheck(str(world / "run"), ledger, read_opening_key(tmp_path / "other"), out=tmp_path)
    assert "not rechecked: it is sealed to another key" in one.line() and not one.clean
    (sealed,) = questions_folder(ledger).iterdir()
    sealed.unlink()
    (one,) = recheck(str(world / "run"), ledger, opening, out=tmp_path)
    assert "not rechecked: its sealed questions have been deleted" in one.line()


@pytest.mark.parametrize(
    "given, why",
    [
        ({"ledger_key": None}, "given together"),
        ({"ledger": None}, "given together"),
        ({"ledger": None, "ledger_key": None}, "give that, too"),
        ({"ledger_key": "seal"}, "--for ledger"),
        ({"seal_to": "seal"}, r"ends in \.pub"),
        ({"ledger": "none/ledger.jsonl"}, "there is no folder"),
    ],
)
def test_what_cannot_be_noted_is_refused_before_anything_is_written(world, given, why):
    paths = {name: world / value if value else None for name, value in given.items()}
    for command in (unlearn, check):
        with pytest.raises(UserError, match=why):
            command(world, out="refused", **paths)
    assert not (world / "refused").exists()


def check(world: Path, out: str, **given):
    keys = {"ledger": world / "ledger.jsonl", "ledger_key": world / "ledger", "seal_to": world / "seal.pub", **given}
    return rkld.check(world / "original", FORGET, out=str(world / out), **{k: v and str(v) for k, v in keys.items()})


@pytest.mark.parametrize("content", [b'{"after": {"facts', b"Buy milk.\n", b"\0\0\0"])
def test_what_is_no_whole_ledger_is_not_taken_for_an_empty_one(world, tmp_path, content):
    """An exit code of 0 says that every request was rechecked."""
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_bytes(content)
    with pytest.raises(UserError, match=r"does not hold together: line 1|its last line is not whole"):
        list(recheck(str(world / "run"), ledger, read_opening_key(world / "seal"), out=tmp_path))


def test_what_came_back_is_what_was_seen_not_to_be_said_then():
    other = {"as_long": True, "same": False}
    assert compared({"0/0", "1/0", "1/1"}, {"1/0"}, [], set(), **other) == Compared(2, 0, 0)
    assert compared({"0/0", "1/0", "1/1"}, {"1/0"}, ["1/1", "7/0"], set(), **other) == Compared(1, 0, 1)
    assert compared({"0/0", "1/0", "1/1"}, {"1/0"}, 1, set(), **other) == Compared(1, 0, 1), "how many is all it knows"
    assert compared({"0/0", "1/0"}, set(), 9, set(), **other) == Compared(0, 0, 2)
    assert compared({"0/0"}, {"0/1"}, [], set(), **other) == Compared(1, 0, 0)
    texts = {"0/3", "0/4", "1/0"}, {"0/0"}, [], {"0"}
    assert compared(*texts, **other) == Compared(2, 0, 0), "of a text only how many"
    assert compared(*texts, as_long=False, same=False) == Compared(2, 1, 0)
    assert compared(*texts, as_long=False, same=True) == Compared(0, 0, 2)


def test_a_finding_in_words():
    entry = {"number": 1, "time": "2026-11-28T19:00:00Z", "request": "R\x1b[1m1"}
    finding = Finding(9, 0, 0, 0, 0, 0, 0.3, 0.1, "letter", 0.1, [], False)
    none = Rechecked(entry, finding=finding)
    assert none.clean
    said = (
        "1 2026-11-28 R1 nothing came back: 0 of 9 facts said now (95 %: at most 0.30); asked otherwise (letter) 0.10"
    )
    assert none.line() == said
    for change in ({"came_back": 1}, {"not_seen_then": 1}, {"unmeasured": 1}, {"otherwise": 0.5},
                   {"cut_otherwise": ["unnamed"]}, {"facts": None}):  # fmt: skip
        changed = replace(none, finding=replace(finding, **change))
        assert not changed.clean and "nothing came back" not in changed.line()
    assert not Rechecked(entry, finding=finding, reason="gone").clean and not Rechecked(entry).clean


def test_kinds_of_wording_in_which_answers_were_cut_are_named():
    cut = [{"name": f"audited: {name}", "reason": ""} for name in ("answers", "unnamed", "letter", "poem")]
    figures = {"letter": {"unmeasured": 0}, "poem": {"unmeasured": 2}}
    assert _cut_otherwise([{"name": "membership", "reason": ""}, *cut], figures) == ["poem", "unnamed"]


OLD = {"format": 1, "forget": [], "system_prompt": None, "chat_template": None, "said": ["0/0"], "unseen": 2,
       "worst_kind_facts_said": None}  # fmt: skip


def test_questions_of_the_first_version_are_asked_as_it_noted_them():
    assert _questions(OLD)["asking"] == {"system_prompt": None, "chat_template": None}
    new = {**OLD, "format": 2, "unseen": [], "asking": {"max_new_tokens": 3, "template_date": "2024-07-26"}}
    assert _questions(new) == new
    for wrong in ({"unseen": -1}, {"unseen": [1]}, {"unseen": True}, {"said": "0/0"}, {"format": 3}, {"asking": []},
                  {"asking": {"trust_remote_code": True}}, {"asking": {"max_new_tokens": True}},
                  {"asking": {"template_date": None}}, {"worst_kind_facts_said": 2}, {"template": 3}):  # fmt: skip
        with pytest.raises(UserError, match="no questions of this version"):
            _questions({**new, **wrong})


def test_a_run_with_its_audit_is_signed_and_verified(world, tmp_path):
    """What the commands write, as they write it."""
    found = rkld.audit(world / "run", FORGET, subject=(NAME,), **AUDIT)
    assert found.path == world / "run" / "audit.json"
    report(world / "run")
    signer = Signer(tmp_path)
    signer.sign(world / "run")
    assert "the model is the one that was audited" in signer.verify(world / "run").sentence
    unlearn(world)
    assert signer.verify(world / "run").verified, "to give the same command again changes nothing"
