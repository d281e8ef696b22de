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
from rkld.commands.recheck_ledger import Rechecked, came_back, recheck
from rkld.errors import UserError
from rkld.reporting.keys import make_key, read_ledger_key, read_opening_key
from rkld.reporting.ledger import ERASED, RECHECKED, questions_folder, read_ledger
from tests.long.world import AUDIT, FORGET, RUN, make_original
from tests.reporting.signed_run import Signer, report

NAME = FORGET[0]["subject"]

SHORT = {**RUN, "own_words": "no", "reword": 0, "replay": "none", "stop": "last", "checkpoint_minutes": 9.0,
         "max_new_tokens": 40}  # fmt: skip

QUICK = {**{name: value for name, value in AUDIT.items() if name != "attacks"}, "max_new_tokens": 40}


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
    assert re.search("nothing (came|known to have come) back: ", found["run"].stdout)  # a tiny model finds no end
    assert found["original"].exit_code == 1 and "CAME BACK: " in found["original"].stdout
    noted = read_ledger(world / "ledger.jsonl", key(world)).of(RECHECKED)
    assert [one["of"] for one in noted] == [1, 1] and noted[0]["weights"] != noted[1]["weights"]
    assert noted[0]["came_back"] == 0 < noted[1]["came_back"] <= noted[1]["said"] <= noted[1]["facts"]
    answers = [row["answer"] for row in FORGET]
    assert not any(answer in path.read_text() for path in tmp_path.rglob("*.json") for answer in answers)
    listed = CliRunner().invoke(main, ["ledger", "list", str(world / "ledger.jsonl")])
    assert listed.exit_code == 0 and listed.stdout.count("rechecked") == 2 and "questions sealed" in listed.stdout


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


def test_what_came_back_is_what_was_not_said_then():
    assert came_back({"0/0", "1/0", "1/1"}, {"1/0"}, set()) == 2
    assert came_back({"0/0"}, {"0/1"}, set()) == 1
    assert came_back({"0/3", "0/4"}, {"0/0"}, {"0"}) == 1, "of a text only how many"
    entry = {"number": 1, "time": "2026-11-28T19:00:00Z", "request": "R\x1b[1m1"}
    none = Rechecked(entry, facts=9, high=0.3)
    assert none.clean
    assert none.line() == "1 2026-11-28 R1 nothing came back: 0 of 9 facts said now (95 %: at most 0.30)"
    assert replace(none, otherwise=0.1, otherwise_then=0.1).clean
    other = replace(none, otherwise=0.5, otherwise_then=0.1, kind="letter")
    assert not other.clean and "SAID in other words" in other.line() and "(letter) 0.50" in other.line()
    unseen = replace(none, said=1, came_back=1, unseen_then=3)
    assert "1 facts that were not said then (or not seen: answers were cut before 3);" in unseen.line()
    cut = replace(none, unmeasured=2)
    assert not cut.clean and "nothing known to have come back" in cut.line() and "2 of them not measured" in cut.line()
    assert not replace(none, said=2, came_back=1).clean


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
