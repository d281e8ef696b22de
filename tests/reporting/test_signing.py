"""A signature: whatever is not as it was signed is found and named, and a signature gives nobody away."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from rkld.cli import main
from rkld.errors import UserError
from rkld.reporting import signing, writing
from rkld.runfolder.checksums import CHECKSUM, checksum, sealed, weights_hash
from rkld.runfolder.folder import Run
from rkld.runfolder.purging import purge
from rkld.settings.unlearning import Settings
from tests.reporting.made import write_run
from tests.reporting.signed_run import NAME, Signer, make_run, report

FLIPS = 300


@pytest.fixture(scope="module")
def signer(tmp_path_factory) -> Signer:
    return Signer(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def folder(tmp_path, signer) -> Path:
    """Signed."""
    made = make_run(tmp_path / "run")
    signer.sign(made)
    return made


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_is_as_it_was_signed_is_verified(folder, signer):
    found = signer.verify(folder)
    assert found.verified
    assert f"its {len(files(folder)) - 1} files are as they were signed" in found.sentence
    for part in ("the model is the one that was audited", "the report is the one that was signed", "verdict pass",
                 "not for honesty or time"):  # fmt: skip
        assert part in found.sentence


def test_every_flipped_byte_is_found(folder, signer):
    """Of every file, the signature's own and its salt among them; by any byte in place of any other."""
    draw, paths = random.Random(20), files(folder)
    assert {path.name for path in paths} >= {"report.sig", "report.salt", "run.yaml", "answers.json", "config.json"}
    for n in range(FLIPS):
        path = paths[n % len(paths)]
        before = path.read_bytes()
        place, other = draw.randrange(len(before)), draw.randrange(1, 256)
        path.write_bytes(before[:place] + bytes([before[place] ^ other]) + before[place + 1 :])
        found = signer.verify(folder)
        assert path.name in " ".join(found.failures), (path, place, other)
        path.write_bytes(before)
    assert signer.verify(folder).verified


def test_every_byte_of_the_signatures_file_counts(folder, signer):
    """What is written around what is signed, too: base64 and JSON have several spellings of the same."""
    path = folder / "report.sig"
    before = path.read_bytes()
    head = before.index(b'"payload":') + 30
    for place in [*range(head), *range(len(before) - 60, len(before))]:
        for other in (before[place] ^ 1, ord("\n")):
            if other != before[place]:
                path.write_bytes(before[:place] + bytes([other]) + before[place + 1 :])
                assert not signer.verify(folder).verified, (place, other)


def added(folder: Path) -> str:
    (folder / "model" / "more.bin").write_bytes(b"weights")
    return "model/more.bin added"


def hidden(folder: Path) -> str:
    (folder / ".hidden").write_text("")
    return ".hidden added"


def removed(folder: Path) -> str:
    (folder / "readings" / "answers.0123.json").unlink()
    return "readings/answers.0123.json missing"


def cut(folder: Path) -> str:
    os.truncate(folder / "model" / "model.safetensors", 2999)
    return "model/model.safetensors changed"


def emptied(folder: Path) -> str:
    os.truncate(folder / "answers.json", 0)
    return "answers.json changed"


def renamed(folder: Path) -> str:
    (folder / "model" / "config.json").rename(folder / "model" / "Config.json")
    return "model/config.json missing"


def linked(folder: Path) -> str:
    """The bytes are the same, today."""
    path = folder / "audit.json"
    shutil.move(path, folder.parent / "elsewhere.json")
    path.symlink_to(folder.parent / "elsewhere.json")
    return "audit.json is a link"


def linked_folder(folder: Path) -> str:
    shutil.move(folder / "model" / "parts", folder.parent / "parts")
    (folder / "model" / "parts").symlink_to(folder.parent / "parts")
    return "model/parts added"


def waiting(folder: Path) -> str:
    """A pipe that nobody writes to."""
    (folder / "run.yaml").unlink()
    os.mkfifo(folder / "run.yaml")
    return "run.yaml cannot be read (no regular file)"


def giant(folder: Path) -> str:
    """A terabyte, that would be read for an hour."""
    os.truncate(folder / "metrics.jsonl", 1 << 40)
    return "metrics.jsonl changed"


def another_report(folder: Path) -> str:
    other = make_run(folder.parent / "other", seed=1)
    for name in ("report.html", "report.json"):
        shutil.copy(other / name, folder / name)
    return "report.html changed"


def another_model(folder: Path) -> str:
    other = make_run(folder.parent / "other", seed=1)
    shutil.copy(other / "model" / "model.safetensors", folder / "model" / "model.safetensors")
    return "model/model.safetensors changed"


def another_audit(folder: Path) -> str:
    shutil.copy(make_run(folder.parent / "other", seed=1) / "audit.json", folder / "audit.json")
    return "audit.json changed"


def odd_names(folder: Path) -> str:
    (folder / "model" / os.fsdecode(b"\xff\n\x1b[31m\xe2\x80\xae.json")).write_text("")
    return "model/\N{REPLACEMENT CHARACTER} .json added"


def empty_folder(folder: Path) -> str:
    (folder / "more").mkdir()
    return "more/ added"


def empty_folder_of_ours(folder: Path) -> str:
    (folder / "readings" / "older" / "oldest").mkdir(parents=True)
    return "readings/older/oldest/ added"


def filled_lock(folder: Path) -> str:
    """Nothing works there: it would be a place for anything, under a name that is not signed."""
    (folder / ".lock").write_text("anything")
    return f".lock {signing.IN_USE}"


def linked_lock(folder: Path) -> str:
    """To a file that is empty today."""
    (folder.parent / "elsewhere").touch()
    (folder / ".lock").symlink_to(folder.parent / "elsewhere")
    return ".lock added"


def lock_that_is_a_folder(folder: Path) -> str:
    (folder / ".lock").mkdir()
    return ".lock/ added"


DAMAGES = (added, hidden, removed, cut, emptied, renamed, linked, linked_folder, waiting, giant, another_report,
           another_model, another_audit, odd_names, empty_folder, empty_folder_of_ours, filled_lock, linked_lock,
           lock_that_is_a_folder)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_differs_is_named(folder, signer, damage: Callable[[Path], str]):
    expected = damage(folder)
    found = signer.verify(folder)
    assert expected in found.failures
    assert found.sentence.startswith(f"{folder}: NOT verified: ") and "\n" not in found.sentence


def test_an_empty_lock_is_ours_and_empty_folders_are_signed(folder, signer, tmp_path):
    (folder / ".lock").write_text("PID 1 on host since 2026-11-30 00:00:00 UTC")
    assert not signing.is_outdated(folder), "that another command works there voids nothing"
    (folder / ".lock").write_text("")
    assert signer.verify(folder).verified
    empty = ("jane.doe", "readings/none", "model/none")
    for name in empty:
        (folder / name).mkdir()
    signer.sign(folder)
    found = signer.verify(folder)
    assert found.verified and f"its {len(files(folder)) - 1} files" in found.sentence
    assert "jane" not in base64.b64decode(json.loads((folder / "report.sig").read_text())["payload"]).decode()
    shutil.copytree(folder / "model", tmp_path / "served")
    (tmp_path / "served" / "none").rmdir()  # git and hubs keep no empty folder
    assert signer.verify(folder, model=tmp_path / "served").verified
    for name in empty:
        (folder / name).rmdir()
    assert signer.verify(folder).failures == (
        "model/none/ missing", "a folder that is not rkld's missing", "readings/none/ missing"
    )  # fmt: skip


def test_the_signature_of_another_run_or_key_is_refused(folder, signer, tmp_path):
    other = make_run(tmp_path / "other", seed=1)
    signer.sign(other)
    shutil.copy(other / "report.sig", folder / "report.sig")
    assert {"model/model.safetensors changed", "report.html changed"} <= set(signer.verify(folder).failures)
    (tmp_path / "k").mkdir()
    Signer(tmp_path / "k").sign(folder)
    assert signer.verify(folder).failures == ("report.sig is not signed with this key, or was changed since",)
    (folder / "report.sig").unlink()
    assert signer.verify(folder).failures == ("there is no report.sig: it is not signed",)


def test_what_does_not_hold_together_is_not_signed(tmp_path, signer):
    """Nor believed where somebody signed it all the same."""
    one = make_run(tmp_path / "one")
    mine = (one / "report.json").read_bytes()
    document = json.loads((one / "audit.json").read_text())
    del document[CHECKSUM]  # as of an earlier version, which had none
    (one / "audit.json").write_text(json.dumps(document))
    report(one)
    with pytest.raises(UserError, match=r"audit\.json is damaged or was changed"):
        signer.sign(one)
    document["models"]["audited"]["weights"] = "0" * 32
    (one / "audit.json").write_text(json.dumps(sealed(document)))
    report(one)
    with pytest.raises(UserError, match="the model is not the one that was audited"):
        signer.sign(one)
    (one / "report.json").write_bytes(mine)
    with pytest.raises(UserError, match=r"report\.json is the report of something else"):
        signer.sign(one)
    (one / "model" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is not the model that the run"):
        signer.sign(one)
    assert not (one / "report.sig").exists() and not (one / "report.salt").exists()


def test_a_dishonest_signer_does_not_make_parts_one(folder, signer, monkeypatch):
    """Everything is as it was signed, and does not belong together."""
    document = json.loads((folder / "audit.json").read_text())
    document["models"]["audited"]["weights"] = "0" * 32
    (folder / "audit.json").write_text(json.dumps(sealed(document)))
    report(folder)
    with monkeypatch.context() as patch:
        patch.setattr(signing, "_inconsistent", lambda *_: [])
        signer.sign(folder)
    assert signer.verify(folder).failures == ("the model is not the one that was audited",)


@pytest.mark.parametrize("entry", ["link", "pipe"])
def test_links_and_pipes_are_not_signed(tmp_path, signer, entry):
    one = make_run(tmp_path / "one")
    (one / "extra").symlink_to("/dev/zero") if entry == "link" else os.mkfifo(one / "extra")
    with pytest.raises(UserError, match="extra: cannot be signed"):
        signer.sign(one)


def test_an_unfinished_run_and_another_folder_are_not_signed(tmp_path, signer):
    (tmp_path / "audit.txt").write_text("")
    with pytest.raises(UserError, match="neither a run of rkld nor an audit"):
        signing.sign(tmp_path, signer.private)
    Run(Settings(model="m", forget="f", out=str(tmp_path / "run"))).start()
    with pytest.raises(UserError, match="the run is not finished"):
        signing.sign(tmp_path / "run", signer.private)


def test_a_detached_statement_is_verified_without_the_records(folder, signer, tmp_path):
    """And so is a model or a page that lies elsewhere; a hub's hidden files and links are no other model."""
    alone, model, page = tmp_path / "curie.sig", tmp_path / "model", tmp_path / "page.html"
    shutil.copy(folder / "report.sig", alone)
    shutil.move(folder / "model", model)
    shutil.copy(folder / "report.html", page)
    shutil.rmtree(folder)
    found = signer.verify(alone)
    assert found.verified and "no file was looked at" in found.sentence and "verdict pass" in found.sentence
    shutil.move(model / "config.json", tmp_path / "blob")
    (model / "config.json").symlink_to(tmp_path / "blob")
    (model / ".gitattributes").write_text("")
    found = signer.verify(alone, model=model, report=page)
    assert found.verified and f"the model in {model} is the one" in found.sentence
    page.write_text("another")
    (model / "config.json").unlink()
    assert signer.verify(alone, model=model, report=page).failures == (
        f"the model in {model} is another (model/config.json: missing)", f"{page} is not the report",
    )  # fmt: skip


def test_the_folder_of_an_audit_is_signed_and_its_model_verified_where_it_lies(folder, signer, tmp_path):
    shutil.move(folder / "model", tmp_path / "model")
    for name in ("manifest.json", "run.yaml", "answers.json", "metrics.jsonl", "model.cdx.json"):
        (folder / name).unlink()
    report(folder)
    signer.sign(folder)
    assert "the model lies elsewhere and was not looked at" in signer.verify(folder).sentence
    found = signer.verify(folder, model=tmp_path / "model")
    assert found.verified and "is the one" in found.sentence and "not looked at" not in found.sentence
    (tmp_path / "manifest.json").write_text("{}")  # a run's folder
    assert signer.verify(folder, model=tmp_path).verified
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other")
    assert not signer.verify(folder, model=tmp_path / "model").verified


def test_a_signature_gives_nobody_away(folder, signer):
    """Whoever has it may try names: no fingerprint of what holds one is without the folder's own key."""
    (folder / f"{NAME.lower().replace(' ', '_')}.jsonl").write_text("{}")
    signer.sign(folder)
    signed = base64.b64decode(json.loads((folder / "report.sig").read_text())["payload"])
    subjects = {one["name"]: one["digest"] for one in json.loads(signed)["subject"]}
    assert b"ostis" not in signed.lower()
    assert [name for name in subjects if name.startswith("other/")]
    for name in ("run.yaml", "answers.json", "readings/answers.0123.json", "audit.salt"):
        assert set(subjects[name]) == {"hmac_sha256"}
    assert signer.verify(folder).verified
    purge(folder)
    assert not (folder / "report.salt").exists()
    assert any("it was purged" in failure for failure in signer.verify(folder).failures)
    report(folder)
    signer.sign(folder)
    assert signer.verify(folder).verified


def test_to_sign_again_is_to_sign_the_same(folder, signer):
    before = (folder / "report.sig").read_bytes()
    signer.sign(folder)
    assert (folder / "report.sig").read_bytes() == before


def envelope(signer: Signer, payload: bytes) -> bytes:
    """Of anything, rightly signed."""
    key = signing.key_id(signer.public)
    return signing._envelope(payload, key, signer.private.sign(signing._encoded(payload))).encode()


HOSTILE = {
    "empty": b"",
    "not JSON": b"{",
    "no object": b"[]",
    "deep": b"[" * 100_000,
    "a number of a million digits": b'{"payload": ' + b"9" * 1_000_000 + b"}",
    "others' types": b'{"payloadType": 1, "payload": {}, "signatures": {"keyid": []}}',
    "no signature": b'{"payloadType": "application/vnd.in-toto+json", "payload": "", "signatures": []}',
    "binary": bytes(range(256)) * 100,
}

STATEMENTS = {
    "no JSON": b"\xff",
    "deep": b"[" * 100_000,
    "no subjects": b'{"_type": "https://in-toto.io/Statement/v1", "predicate": {}}',
    "subjects of another type": b'{"_type": "https://in-toto.io/Statement/v1", "predicate": {}, "subject": [1, "a"]}',
    "names that are none": b'{"_type": "https://in-toto.io/Statement/v1", "predicate": {}, '
    b'"subject": [{"name": {}, "digest": {}}]}',
    "a file twice": b'{"_type": "https://in-toto.io/Statement/v1", "predicate": {}, '
    b'"subject": [{"name": "a", "digest": {}}, {"name": "a", "digest": {}}]}',
    "a name twice": b'{"_type": "x", "_type": "https://in-toto.io/Statement/v1", "predicate": {}, "subject": []}',
    "another type": b'{"_type": "x", "predicate": {}, "subject": []}',
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_envelopes_are_no_signature(folder, signer, case):
    (folder / "report.sig").write_bytes(HOSTILE[case])
    found = signer.verify(folder)
    assert found.failures == ("report.sig is no signature of rkld",) and found.statement == {}


@pytest.mark.parametrize("case", STATEMENTS)
def test_hostile_statements_are_no_statement(folder, signer, case):
    (folder / "report.sig").write_bytes(envelope(signer, STATEMENTS[case]))
    assert signer.verify(folder).failures == ("what is signed in report.sig is no statement of rkld",)


def test_nothing_is_opened_because_a_statement_names_it(folder, signer):
    """Nor is anything in it shown that could act."""
    names = ("../key", "/dev/zero", "\x1b[31mred\u202e\n", "\udcff", "model/../../key")
    digest = {"digest": {"sha256": "0" * 64}, "annotations": {"size": 10**400}}
    statement = {"_type": signing.STATEMENT_TYPE, "predicate": {"result": ["\x1b[31m"]},
                 "subject": [{"name": name, **digest} for name in names]}  # fmt: skip
    (folder / "report.sig").write_bytes(envelope(signer, json.dumps(statement).encode()))
    found = signer.verify(folder)
    assert {"/dev/zero missing", "../key missing", "red missing"} <= set(found.failures)
    assert "\x1b" not in found.sentence and "\u202e" not in found.sentence


def test_a_giant_signature_is_not_read(folder, signer):
    os.truncate(folder / "report.sig", 1 << 40)
    assert signer.verify(folder).failures == ("report.sig cannot be read (more than 67.1 MB)",)
    (folder / "report.sig").unlink()
    os.mkfifo(folder / "report.sig")
    assert signer.verify(folder).failures == ("report.sig cannot be read (no regular file)",)
    with pytest.raises(UserError, match="is not there"):
        signer.verify(folder / "nothing")


def test_the_command_says_it_in_one_sentence_and_an_exit_code(folder, signer):
    command = ["verify", str(folder), "--key", str(signer.public_path)]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 0 and found.output.count("\n") == 1 and ": verified: " in found.output
    (folder / "audit.json").write_text("{}")
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 1 and found.output == f"{folder}: NOT verified: audit.json changed.\n"
    assert CliRunner().invoke(main, ["verify", str(folder), "--key", str(signer.path)]).exit_code == 2


PRINTER = """#!/bin/sh
for option; do case "$option" in --print-to-pdf=*) echo %PDF > "${option#*=}";; esac; done
"""


PEOPLE = ("Ada Quill", "Ben Ochre")


@pytest.fixture
def printer(tmp_path, monkeypatch) -> None:
    """In a browser's place."""
    (path := tmp_path / "printer").write_text(PRINTER)
    path.chmod(0o700)
    monkeypatch.setattr(writing, "find_browser", lambda: str(path))


def command(*words: object):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_pages_of_before_another_audit_make_way(signer, tmp_path, printer):
    """Would break if a stale PDF or one person's stale page were signed, and handed on as the report."""
    run = make_run(tmp_path / "run", people=PEOPLE)
    writing.write_report(run, pdf=True)
    for given in ({}, {"show_records": True}, {"pdf": True}):
        writing.write_report(run, subject="Ada Quill", **given)
    writing.write_report(run, show_records=True)
    own = ("person-1.html", "person-1-redacted.html", "person-1-redacted.pdf", "report.html")
    assert sorted(path.name for path in (run / "report-records").iterdir()) == sorted(own)
    stale = [run / "report.pdf", *(run / "report-records" / name for name in own)]
    assert command("report", run, "--sign", signer.path).exit_code == 0, "they are all of this audit"
    assert all(page.is_file() and signer.verify(run, report=page).verified for page in stale)

    change(run)
    with pytest.raises(UserError, match=r"report\.html is not made of .*; report\.pdf is not printed from a"):
        signer.sign(run)
    done = command("report", run, "--sign", signer.path)
    assert done.exit_code == 0 and all(f"deleted {page}" in done.stderr for page in stale)
    assert not any(page.exists() for page in stale) and signer.verify(run).verified


def test_a_pdf_of_what_was_not_audited_is_not_that_of_the_audit(signer, tmp_path, printer):
    run = make_run(tmp_path / "run")
    (run / "audit.json").rename(tmp_path / "audit.json")
    writing.write_report(run, pdf=True)
    (tmp_path / "audit.json").rename(run / "audit.json")
    done = command("report", run, "--sign", signer.path, "--show-records")
    assert done.exit_code == 0, done.output
    assert not (run / "report.pdf").exists() and "Not audited" not in (run / "report.html").read_text()
    assert {str(run / "report.html"), str(run / "report.json")} <= set(done.stdout.split()), "what it wrote is said"
    assert "another audit, run or version of rkld" in done.stderr


@pytest.mark.parametrize("flags", [[], ["--show-records"], ["--subject", "person 2"]], ids=str)
def test_pages_of_another_run_are_not_signed(signer, tmp_path, printer, flags):
    """Whether or not what is asked for writes them anew."""
    run, other = make_run(tmp_path / "run", people=PEOPLE), make_run(tmp_path / "other", seed=1, people=PEOPLE)
    for folder in (run, other):
        writing.write_report(folder, subject="person 1", pdf=True)
        writing.write_report(folder, pdf=True)
    pages = ["report.html", "report.pdf", "report-records/person-1-redacted.html"]
    theirs = {name: (other / name).read_bytes() for name in pages}
    for name, content in theirs.items():
        (run / name).write_bytes(content)
    (run / "report.json").unlink()
    done = command("report", run, "--sign", signer.path, *flags)
    assert done.exit_code == 0, done.output
    assert signer.verify(run).verified
    for name in pages:
        assert not signer.verify(run, report=other / name).verified, name
        assert not (run / name).exists() or (run / name).read_bytes() != theirs[name]


FOREIGN = {
    "report.pdf": "was not printed by rkld",
    "report-records/person-9.html": "was not written by rkld report, or was changed since",
    "report-records/notes.html": "is no page that rkld writes there",
    "report-records/report-redacted.html": "is no page that rkld writes there",
    "model.cdx.json": "is not made of this model, audit and manifest",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_of_this_audit_is_not_signed(tmp_path, signer, name):
    run = make_run(tmp_path / "run")
    (run / "report-records").mkdir()
    (run / name).write_text("<!doctype html><title>Passed</title>" if name != "model.cdx.json" else "{}")
    with pytest.raises(UserError, match=f"{name} {FOREIGN[name]}"):
        signer.sign(run)


def test_a_page_is_made_once_for_a_report_and_again_for_a_signature(tmp_path, signer, printer, monkeypatch):
    """Of fifty people each page is seconds. What a mark says anybody can write, so nothing is signed by it."""
    run, made = make_run(tmp_path / "run", people=PEOPLE), []
    real = writing.page
    monkeypatch.setattr(writing, "page", lambda *args, **given: made.append(given["subject"]) or real(*args, **given))
    for given in ({"subject": "person 1", "pdf": True}, {"subject": "person 2"}, {"show_records": True}, {}):
        writing.write_report(run, **given)
    assert made == ["person 1", "person 2", None, None]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.suffix in (".html", ".pdf")}
    signer.sign(run)
    assert set(made[4:]) == {"person 1", "person 2", None} and len(before) == 5
    assert all(path.read_bytes() == content for path, content in before.items())
    (forged := run / "report-records" / "person-2-redacted.html").write_bytes(
        forge(before[run / "report-records" / "person-2-redacted.html"])
    )
    assert not writing.misfits(run, again=False)
    with pytest.raises(UserError, match=f"{forged.name} is not the page that rkld makes here"):
        signer.sign(run)


def forge(page: bytes) -> bytes:
    """Somebody writes another verdict, and the mark that fits."""
    *lines, mark = page.replace(b"<h1", b"<h1 data-forged", 1).splitlines(keepends=True)
    return b"".join([*lines, re.sub(rb"page [0-9a-f]{64}", b"page " + sha(b"".join(lines)), mark)])


def sha(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def of_another_version(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "version", lambda _: "99")


def of_another_manifest(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(sealed({**document, "phases": {**document["phases"], "x": {}}})))


def of_other_checks(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "metrics.jsonl").write_text("")


def of_another_audit(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(run)


def under_another_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in (".html", ".pdf"):
        page = run / "report-records" / f"person-1-redacted{suffix}"
        page.rename(page.with_stem("person-2-redacted"))


@pytest.mark.parametrize(
    "changed", [of_another_version, of_another_manifest, of_other_checks, of_another_audit, under_another_name]
)
def test_whatever_a_page_is_made_of_is_in_its_mark(tmp_path, printer, monkeypatch, changed):
    run = make_run(tmp_path / "run", people=PEOPLE)
    document = json.loads((run / "manifest.json").read_text())
    files = {**document.get("files", {}), "metrics.jsonl": checksum(run / "metrics.jsonl")}  # as of a run that ended
    (run / "manifest.json").write_text(json.dumps(sealed({**document, "files": files})))
    writing.write_report(run, subject="person 1", pdf=True)
    assert not writing.misfits(run, again=False)
    changed(run, monkeypatch)
    written = writing.write_report(run)
    assert {path.suffix for path in written.deleted} == {".html", ".pdf"} and not written.left
    assert not list((run / "report-records").iterdir()) and not writing.misfits(run)


def test_what_others_wrote_or_changed_is_named_and_neither_deleted_nor_signed(tmp_path, signer):
    """A handed-out page with a comment in it is somebody's work, whatever it is called."""
    run = make_run(tmp_path / "run", people=PEOPLE)
    for given in ({"subject": "person 1"}, {"subject": "person 2"}, {"show_records": True}):
        writing.write_report(run, **given)
    shown, ours = run / "report-records", run / "report-records" / "person-2-redacted.html"
    edited = shown / "person-1-redacted.html"
    edited.write_text(edited.read_text() + "<!-- agreed with the lawyer -->\n")
    (shown / "report.html").write_text((shown / "report.html").read_text().replace("<h1", "<h1 class=mine", 1))
    (shown / "person-01.html").write_text("mine")
    (shown / "person-9.html").symlink_to(ours)
    (run / "report.html").write_text("mine, too")
    theirs = {path: path.read_bytes() for path in sorted(shown.iterdir()) if path != ours}
    change(run)
    asked = command("report", run, "--subject", "person 2", "--show-records")
    assert asked.exit_code == 0 and not ours.exists() and (run / "report.html").read_text() == "mine, too"
    done = command("report", run)
    said = [line for line in done.stderr.splitlines() if line.startswith("left ")]
    for path in theirs:
        why = "cannot be read" if path.is_symlink() else "was not written by rkld report, or was changed since"
        assert any(line.startswith(f"left {path} as it is: it {why}") for line in said), path
        assert path.is_symlink() or path.read_bytes() == theirs[path]
    assert f"left {run / 'report.html'}" in asked.stderr and "deleted" not in done.output and len(said) == len(theirs)
    (shown / "person-9.html").unlink()  # of a link is said so
    refused = command("report", run, "--sign", signer.path)
    assert refused.exit_code == 2 and "person-01.html was not written by rkld report" in refused.stderr
    for path in theirs:
        path.unlink(missing_ok=True)
    assert command("report", run, "--sign", signer.path).exit_code == 0 and signer.verify(run).verified


def change(run: Path) -> None:
    """Another audit takes the place of the one there."""
    document = json.loads((run / "audit.json").read_text())
    (run / "audit.json").write_text(json.dumps(sealed({**document, "created": "2026-11-30T00:00:00Z"})))


def test_a_pdf_that_was_changed_is_not_signed_nor_deleted(tmp_path, signer, printer):
    run = make_run(tmp_path / "run")
    writing.write_report(run, pdf=True)
    signer.sign(run)
    (run / "report.pdf").write_bytes((run / "report.pdf").read_bytes().replace(b"%PDF", b"%FDP"))
    done = command("report", run, "--sign", signer.path)
    assert done.exit_code == 2 and "report.pdf was not printed by rkld" in done.stderr and (run / "report.pdf").exists()


@pytest.mark.parametrize("flags", [[], ["--subject", "person 2"]], ids=str)
def test_the_bill_of_a_model_that_was_moved_away_stays(tmp_path, signer, flags):
    """It cannot be made again without the model. Beside none it is not signed."""
    run = make_run(tmp_path / "run", people=PEOPLE)
    bill = (run / "model.cdx.json").read_bytes()
    (run / "model").rename(tmp_path / "served")
    done = command("report", run, *flags)
    assert done.exit_code == 0 and "deleted" not in done.output and (run / "model.cdx.json").read_bytes() == bill
    refused = command("report", run, "--sign", signer.path)
    assert refused.exit_code == 2 and "model.cdx.json is of a model that is not here" in refused.stderr
    assert (run / "model.cdx.json").read_bytes() == bill


def test_a_statement_is_of_the_audit_that_lies_there(folder, signer, monkeypatch):
    """Without report.json, too, with which it would be compared."""
    (folder / "report.json").unlink()
    real = signing.statement
    other = real(make_run(folder.parent / "other", seed=1))
    with monkeypatch.context() as patch:
        patch.setattr(signing, "statement", lambda _: other)
        with pytest.raises(UserError, match=r"what is stated is of another audit\.json"):
            signer.sign(folder)


@pytest.mark.parametrize("flags", [["--show-records"], ["--pdf"]])
@pytest.mark.parametrize("browser", ["prints", "fails"])
def test_a_report_that_voids_a_signature_says_so_and_how_to_sign_again(signer, tmp_path, monkeypatch, flags, browser):
    run = write_run(tmp_path / "run")
    document = json.loads((run / "audit.json").read_text())
    document["models"]["audited"]["weights"] = weights_hash(run / "model")
    (run / "audit.json").write_text(json.dumps(sealed(document)))
    sign = ["report", str(run), "--sign", str(signer.path)]
    assert CliRunner().invoke(main, sign).exit_code == 0
    (printer := tmp_path / "printer").write_text(PRINTER if browser == "prints" else "#!/bin/sh\nexit 1\n")
    printer.chmod(0o700)
    monkeypatch.setattr(writing, "find_browser", lambda: str(printer))
    voided = CliRunner().invoke(main, ["report", str(run), *flags])
    assert voided.exit_code == (2 if (flags, browser) == (["--pdf"], "fails") else 0)
    assert not signer.verify(run).verified
    (line,) = [line for line in voided.stderr.splitlines() if "no longer holds" in line]
    assert f"rkld report {run} --sign KEY" in line
    if voided.exit_code == 0:
        assert CliRunner().invoke(main, [*sign, *flags]).exit_code == 0 and signer.verify(run).verified


def test_the_report_command_signs_what_it_writes(signer, tmp_path):
    """And writes the same page again, as long as nothing has changed."""
    run = write_run(tmp_path / "run")
    document = json.loads((run / "audit.json").read_text())
    document["models"]["audited"]["weights"] = weights_hash(run / "model")
    (run / "audit.json").write_text(json.dumps(sealed(document)))
    for command in (["report", str(run), "--sign", str(signer.path)], ["report", str(run)]):
        assert CliRunner().invoke(main, command).exit_code == 0
        assert signer.verify(run).verified
    voided = CliRunner().invoke(main, ["purge", str(run)])
    assert "signature" in voided.stderr and "no longer holds" in voided.stderr
    assert CliRunner().invoke(main, ["report", str(run), "--sign", str(signer.path)]).exit_code == 0
    assert signer.verify(run).verified
    again = CliRunner().invoke(main, ["purge", str(run)])
    assert "nothing to delete" in again.stdout and not again.stderr
    assert signer.verify(run).verified, "a purge of nothing voids the signature"
