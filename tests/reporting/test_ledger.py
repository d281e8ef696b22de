"""The ledger: processes that append at once lose nothing, and whatever was done to its lines is found."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner

import rkld
from rkld.cli import main
from rkld.errors import UserError
from rkld.reporting import ledger as ledgers
from rkld.reporting.keys import make_key, read_ledger_key, read_opening_key, read_sealing_key
from rkld.reporting.ledger import (
    ERASED,
    FIRST,
    LONGEST_LINE,
    RECHECKED,
    append,
    check_appendable,
    described,
    drop_unnamed,
    find_sealed,
    mend,
    pseudonyms,
    questions_folder,
    read_ledger,
    verified,
)
from rkld.reporting.rechecked import Finding
from rkld.reporting.sealing import seal, unseal
from rkld.text.printable import printable

KEY, OTHER = b"k" * 32, b"o" * 32
NAME = "Ostis Belmere"


def entry(n: int = 0) -> dict:
    return {"event": ERASED, "run": f"{n}", "subjects": pseudonyms([NAME], KEY), "sealed": None}


@pytest.fixture
def path(tmp_path) -> Path:
    """Five lines."""
    for n in range(5):
        assert append(tmp_path / "ledger.jsonl", KEY, entry(n)) == n + 1
    return tmp_path / "ledger.jsonl"


def test_lines_hold_on_to_each_other(path):
    found = read_ledger(path, KEY)
    assert [one["number"] for one in found.entries] == [1, 2, 3, 4, 5]
    assert not found.torn and not found.broken and found.whole == path.stat().st_size
    assert [one["previous"] for one in found.entries] == [ledgers.FIRST, *found.hashes[:-1]]
    assert path.stat().st_mode & 0o077 == 0
    assert verified(path, KEY, found.hashes[2])[0] and verified(path)[0]


def test_the_same_run_is_noted_once(path):
    assert append(path, KEY, entry(3), unless="run") is None
    assert append(path, KEY, entry(5), unless="run") == 6


CHILD = """
import sys, time
from pathlib import Path
from rkld.reporting.ledger import append
path, me, go = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
while not go.exists():
    time.sleep(.001)
for n in range(3):
    append(path, b"k" * 32, {"event": "unlearn", "run": f"{me}-{n}"})
"""


def test_ten_processes_that_append_at_once_lose_nothing(tmp_path):
    path, go = tmp_path / "ledger.jsonl", tmp_path / "go"
    environment = {**os.environ, "PYTHONPATH": str(Path(rkld.__file__).parents[1])}
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, path, str(n), go], env=environment) for n in range(10)
    ]  # fmt: skip
    go.touch()
    assert [child.wait(60) for child in children] == [0] * 10
    found = read_ledger(path, KEY)
    assert not found.broken and not found.torn
    assert sorted(one["run"] for one in found.entries) == sorted(f"{n}-{m}" for n in range(10) for m in range(3))


def test_every_flipped_byte_is_found(path):
    before, draw = path.read_bytes(), random.Random(20)
    for _ in range(300):
        place, other = draw.randrange(len(before)), draw.randrange(1, 256)
        path.write_bytes(before[:place] + bytes([before[place] ^ other]) + before[place + 1 :])
        found = read_ledger(path, KEY)
        assert found.broken or found.torn, (place, other)


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_lines_taken_out_added_or_exchanged_are_found(path):
    one, two, three, four, five = lines(path)
    for changed, where in (([one, three, four, five], "line 2"), ([two, three], "line 1"), ([one, one], "line 2"),
                           ([one, three, two], "line 2"), ([one, two, b"\n", three], "line 3 is damaged"),
                           ([one, b"x" * (2 * LONGEST_LINE), b"\n", two], "line 2")):  # fmt: skip
        path.write_bytes(b"".join(changed))
        holds, sentence = verified(path, KEY)
        assert not holds and where in sentence, sentence
        with pytest.raises(UserError, match="Nothing is appended"):
            append(path, KEY, entry(9))
        with pytest.raises(UserError, match="cannot be mended"):
            mend(path)
        assert path.read_bytes() == b"".join(changed)


def test_the_newest_lines_are_missed_by_whoever_noted_the_head(path):
    head = read_ledger(path).head
    path.write_bytes(b"".join(lines(path)[:4]))
    assert verified(path, KEY)[0], "what nobody can see from the file alone"
    holds, sentence = verified(path, KEY, head)
    assert not holds and "the head that was noted is not in it" in sentence


def test_a_line_written_without_the_key_is_found_with_it(path):
    """Whoever can write the file can make a line that holds on; not its checksum."""
    with pytest.raises(UserError, match="somebody without this key"):
        append(path, OTHER, entry(9))
    path.write_bytes(lines(path)[0])
    found = read_ledger(path)
    forged = {**found.entries[0], "number": 2, "previous": found.head}
    with open(path, "ab") as file:
        file.write(ledgers._line(forged))
    assert verified(path)[0] and "by whom they were written was not checked" in verified(path)[1]
    assert not verified(path, KEY)[0]


@pytest.mark.parametrize("cut", [1, 2, 100])
def test_a_torn_last_line_is_seen_and_mended_on_the_users_word(path, cut):
    whole = b"".join(lines(path)[:4])
    os.truncate(path, path.stat().st_size - cut)
    torn = path.read_bytes()
    assert read_ledger(path, KEY).torn == len(torn) - len(whole)
    for refused in (append, check_appendable):
        with pytest.raises(UserError, match="--mend"):
            refused(*(path, KEY, entry(9))[: 3 if refused is append else 2])
    assert path.read_bytes() == torn
    (path.parent / "key").write_text(KEY.hex())
    (path.parent / "key").chmod(0o600)
    command = ["ledger", "verify", str(path), "--ledger-key", str(path.parent / "key")]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 1 and "its last line is not whole" in found.output
    found = CliRunner().invoke(main, [*command, "--mend"])
    assert found.exit_code == 0 and "mended" in found.output and "4 lines" in found.output
    assert path.read_bytes() == whole
    assert append(path, KEY, entry(9)) == 5 and mend(path) == 0


@pytest.mark.parametrize("zeros", [0, 1, 5000])
def test_wherever_writing_ends_the_line_is_torn(path, zeros):
    """Also after its first byte; behind it a file may have zeros after a power failure."""
    *before, last = lines(path)
    for cut in range(0 if zeros else 1, len(last)):
        path.write_bytes(b"".join(before) + last[:cut] + b"\0" * zeros)
        found = read_ledger(path, KEY)
        assert found.torn == cut + zeros and not found.broken, (cut, found.broken)
        without = read_ledger(path)
        assert without.torn == found.torn or (cut == len(last) - 1 and "--ledger-key" in without.broken)
    assert mend(path, KEY) and path.read_bytes() == b"".join(before)


def test_an_edited_last_line_is_never_taken_for_a_torn_one(path):
    """Nor where the editor left its end out, or zeros stand in it."""
    *before, last = lines(path)
    quoted = last.replace(b'"event":"', b'"event":', 1)
    edits = [last.replace(b'"run":"4"', b'"run":"5"'), last.replace(b":", b": ", 1), b"{" + last, quoted, last + b"}",
             last.replace(b'"', b"'", 1), last.replace(b",", b"\0", 1), b"\0" * 40 + last, b"{}", b"{\n",
             last.replace(b'"event"', b'"e\tvent"'), b'{"a":' + b"[" * 60_000]  # fmt: skip
    for edit in edits:
        for changed in (edit, edit.rstrip(b"\n"), edit.rstrip(b"\n") + b"\0\0"):
            if edit == b"{\n" and changed != edit:
                continue
            path.write_bytes(b"".join(before) + changed)
            for key in (KEY, None):
                found = read_ledger(path, key)
                assert not found.torn, (changed, key)
                assert found.broken or (key is None and changed == edits[0]), "which only the key can tell"
                with pytest.raises(UserError, match="cannot be mended") if found.broken else nullcontext():
                    mend(path, key)
            assert path.read_bytes() == b"".join(before) + changed


def test_a_disk_that_fills_up_leaves_the_ledger_as_it_was(path, monkeypatch):
    before, write, writes = path.read_bytes(), os.write, []

    def full(descriptor: int, data) -> int:
        writes.append(len(data))
        if len(writes) > 1:
            raise OSError(28, "No space left on device")
        return write(descriptor, bytes(data[:50]))

    with monkeypatch.context() as patch:
        patch.setattr(ledgers.os, "write", full)
        with pytest.raises(UserError, match="No space left"):
            ledgers._write_end(path, b"x" * 90, len(before))
    assert writes == [90, 40] and path.read_bytes() == before


def test_what_nothing_can_be_appended_to_is_refused_before_time_is_spent(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        check_appendable(tmp_path / "no" / "ledger", KEY)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "other").write_text("Dear diary\n")
    (tmp_path / "more").write_text('{"a": 1}\n{"b": 2}\n')
    for name, why in (("pipe", "no regular file"), ("other", "line 1"), ("more", "line 1"), (".", "no regular file")):
        with pytest.raises(UserError, match=why):
            check_appendable(tmp_path / name, KEY)
    check_appendable(tmp_path / "new", KEY)
    assert not (tmp_path / "new").exists()


def test_pseudonyms_are_of_a_key_and_of_no_spelling():
    assert pseudonyms(["Ostis  BELMÉRE"], KEY) == pseudonyms([NAME], KEY) != pseudonyms([NAME], OTHER)
    assert len(pseudonyms([NAME, "ostis belmere", "ob@example.org"], KEY)) == 2
    assert "ostis" not in str(pseudonyms([NAME], KEY))


HOSTILE = (b"", b"\xff\xfe\n", b"[" * 60_000 + b"\n", b'{"number": ' + b"9" * 10_000 + b"}\n", b"null\n", b"\0" * 4096,
           b'{"format":1,"number":true,"time":"","event":"unlearn","previous":"' + b"0" * 64 + b'"}\n')  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_ledger_is_no_error(tmp_path, content):
    (tmp_path / "ledger").write_bytes(content)
    assert verified(tmp_path / "ledger", KEY)[0] is (content == b"")


def test_what_is_printed_of_a_ledger_acts_on_no_terminal(tmp_path):
    path = tmp_path / "ledger.jsonl"
    append(path, KEY, {**entry(), "request": "\x1b[31m\u202ered", "method": ["\x07"], "subjects": {"a": 1}, "after": 3})
    found = CliRunner().invoke(main, ["ledger", "list", str(path)])
    assert found.exit_code == 0 and "red" in found.output
    assert not {"\x1b", "\u202e", "\x07"} & set(found.output)


# Sealed questions


@pytest.fixture(scope="module")
def seals(tmp_path_factory):
    """Both halves of a key."""
    path = tmp_path_factory.mktemp("keys") / "seal"
    return read_sealing_key(make_key(path, "seal")), read_opening_key(path)


def test_what_is_sealed_is_read_by_the_holder_of_the_key_alone(seals, tmp_path):
    public, private = seals
    sealed = seal({"forget": [NAME]}, public)
    assert NAME.encode() not in sealed and unseal(sealed, private) == {"forget": [NAME]}
    make_key(tmp_path / "other", "seal")
    flipped = sealed[:40] + bytes([sealed[40] ^ 1]) + sealed[41:]
    changes = [(changed, private) for changed in (flipped, sealed[:-1], b"x" + sealed, b"")]
    for changed, key in [(sealed, read_opening_key(tmp_path / "other")), *changes]:
        with pytest.raises(UserError, match="sealed to another key, or damaged"):
            unseal(changed, key)


def test_sealed_questions_can_be_deleted_and_not_exchanged(path):
    append(path, KEY, entry(8), questions=b"one")
    (file,) = questions_folder(path).iterdir()
    assert read_ledger(path, KEY).entries[-1]["sealed"] == (name := file.name)
    assert find_sealed(path, name) == b"one" and file.stat().st_mode & 0o077 == 0
    file.write_bytes(b"two")
    assert "line 6: its sealed questions are damaged, or others" in verified(path, KEY)[1]
    file.unlink()
    assert find_sealed(path, name) is None and verified(path, KEY)[0]
    for other in ("../ledger.jsonl", None, "a" * 63, ["a"]):
        with pytest.raises(UserError, match="names no sealed questions"):
            find_sealed(path, other)


def test_sealed_questions_that_no_line_names_are_said_and_dropped_on_the_users_word(path):
    """What a torn line named is in no line once it is mended; nor is what a killed process was still writing."""
    append(path, KEY, entry(7), questions=b"kept")
    append(path, KEY, entry(8), questions=b"lost")
    os.truncate(path, path.stat().st_size - 9)
    folder = questions_folder(path)
    (path.parent / "key").write_text(KEY.hex())
    (path.parent / "key").chmod(0o600)
    kept, lost = (folder / hashlib.sha256(one).hexdigest() for one in (b"kept", b"lost"))
    (folder / f".{'a' * 64}.12").write_bytes(b"hal")
    (folder / "README").write_text("Mine.")
    with pytest.raises(UserError, match="not whole"):
        drop_unnamed(path, KEY, FIRST)

    def run(*options: str):
        return CliRunner().invoke(main, ["ledger", "verify", str(path), *options])

    for options in ([], ["--mend"], []):
        assert "2 files of sealed questions" in run(*options).output and lost.exists()
    with_key = ["--drop-unnamed", "--ledger-key", str(path.parent / "key")]
    head = read_ledger(path, KEY).head
    for lacking in (["--drop-unnamed", "--head", head], with_key):
        assert "needs --ledger-key" in run(*lacking).output and lost.exists()
    found = run(*with_key, "--head", "0" * 64)
    assert found.exit_code == 2 and "nothing is deleted" in found.output
    with pytest.raises(UserError, match="without this key"):
        drop_unnamed(path, OTHER, head)
    assert lost.exists()
    found = run(*with_key, "--head", head)
    assert (
        found.exit_code == 0 and "no line names: 2 deleted" in found.output and "named by no line" not in found.output
    )
    assert sorted(one.name for one in folder.iterdir()) == sorted([kept.name, "README"])


@pytest.mark.parametrize("left", [b"", b"\0\0\0"])
def test_an_emptied_ledger_costs_nobody_the_sealed_questions(path, left):
    """Its lines named them; that there are none shows nothing, and nobody is told to delete anything."""
    for n in (1, 2):
        append(path, KEY, entry(n), questions=b"%d" % n)
    head, kept = read_ledger(path, KEY).head, sorted(questions_folder(path).iterdir())
    path.write_bytes(left)
    mend(path, KEY)
    holds, sentence = verified(path, KEY)
    assert holds and "has no line" in sentence and "2 files" in sentence and "--drop-unnamed" not in sentence
    assert not verified(path, KEY, head)[0] and "--drop-unnamed" not in verified(path, KEY, head)[1]
    for noted in (head, FIRST):
        with pytest.raises(UserError, match="has no line, so nothing is deleted"):
            drop_unnamed(path, KEY, noted)
    assert sorted(questions_folder(path).iterdir()) == kept


def test_what_others_may_keep_in_a_linked_folder_is_not_dropped(path, tmp_path):
    (tmp_path / "theirs").mkdir()
    (theirs := tmp_path / "theirs" / ("b" * 64)).write_bytes(b"theirs")
    questions_folder(path).symlink_to(theirs.parent)
    with pytest.raises(UserError, match="is a link"):
        drop_unnamed(path, KEY, read_ledger(path, KEY).head)
    assert theirs.exists()


def test_questions_are_kept_while_no_one_can_look_for_what_no_line_names(path, monkeypatch):
    """Between the file and its line nobody else has the ledger; and what no line could be written for is gone again."""
    seen = []

    def full(*_):
        with pytest.raises(UserError, match="have been working on it"):
            drop_unnamed(path, KEY, FIRST)
        seen.extend(questions_folder(path).iterdir())
        raise UserError("No space left on device")

    monkeypatch.setattr(ledgers, "_write_end", full)
    monkeypatch.setattr(ledgers, "WAIT", 0.1)
    with pytest.raises(UserError, match="No space left"):
        append(path, KEY, entry(8), questions=b"one")
    assert len(seen) == 1 and not list(questions_folder(path).iterdir())
    assert append(path, KEY, entry(3), unless="run", questions=b"one") is None
    assert not list(questions_folder(path).iterdir())


def test_a_person_is_found_with_the_key(path, tmp_path):
    append(path, KEY, {**entry(7), "subjects": pseudonyms(["Bo"], KEY)})
    (tmp_path / "key").write_text(KEY.hex())
    (tmp_path / "key").chmod(0o600)
    assert read_ledger_key(tmp_path / "key") == KEY
    found = CliRunner().invoke(
        main, ["ledger", "list", str(path), "--subject", "bo", "--ledger-key", str(tmp_path / "key")]
    )
    assert [line[0] for line in found.stdout.splitlines()] == ["6"]
    assert json.loads(lines(path)[5])["subjects"][0][:8] in found.output
    command = ["ledger", "list", str(path), "--subject", "Nobody", "--ledger-key", str(tmp_path / "key")]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 0 and "no request by this name or identifier is in it: 6 lines searched" in found.stdout
    assert "Nobody" not in found.output
    (tmp_path / "empty").touch()
    found = CliRunner().invoke(main, ["ledger", "list", str(tmp_path / "empty")])
    assert "no erasure is noted in it: 0 lines searched." in found.stdout


def test_what_was_found_is_listed_in_the_words_of_the_recheck(path):
    """A line that said nothing of what was not measured read like one that passed."""
    after = {"facts_said": 0.25, "facts_unseen": 3, "worst_kind_facts_said": 0.5, "worst_kind_facts_unseen": 0}
    assert append(path, KEY, {**entry(5), "after": after}) == 6
    found = [
        Finding(12, 0, 0, 0, 12, 0, 1.0, 0.9, "letter", 0.5, ["unnamed"], True),
        Finding(12, 0, 0, 0, 0, 0, 0.2, 0.0, "letter", 0.0, [], False),
        Finding(12, 5, 2, 3, 0, 1, 0.7, None, None, 0.0, [], False),
    ]
    for one in found:
        append(path, KEY, {"event": RECHECKED, "of": 6, "weights": "ab", **one.stored()})
    old = {"facts": 12, "said": 0, "came_back": 0, "unmeasured": 12, "otherwise": 0.9}
    append(path, KEY, {"event": RECHECKED, "of": 6, **old})
    hostile = {"facts": "\x1b", "said": True, "high": float("nan"), "kind": ["a"], "otherwise": {}, "cut_otherwise": 3}
    append(path, KEY, {"event": RECHECKED, "of": 6, **hostile})
    listed = list(described(path, read_ledger(path)))[5:]
    assert "facts said 0.25 (3 not measured), in other words 0.50" in listed[0]
    for one, line in zip(found, listed[1:]):
        assert line.endswith(printable(one.words()))
    assert [one.clean for one in found] == [False, True, False]
    assert "NOT MEASURED: 12 of 12 facts" in listed[1] and "SAID in other words: 0.90 (letter) (then: 0.50" in listed[1]
    assert "NOT MEASURED in full in other words (unnamed)" in listed[1]
    assert "these are the weights that the run wrote" in listed[1] and "these are" not in listed[2]
    assert "nothing came back: 0 of 12 facts said now (95 %: at most 0.20)" in listed[2]
    assert "CAME BACK: 2 facts that were not said then (1 of them in texts" in listed[3]
    assert "SAID, not seen then: 3 facts" in listed[3] and "nothing measured in other words" in listed[3]
    assert "SAID in other words: 0.90 (then: 0.50" in listed[4] and "NOT MEASURED: 12 of 12" in listed[4]
    assert "NOT STORED" in listed[4] and "nothing came back" not in listed[4] + listed[5]
    assert "? of ? facts said now" in listed[5]


def test_of_an_old_line_is_said_what_it_does_not_hold(path):
    append(path, KEY, {**entry(5), "after": {"facts_said": 0.0}})
    assert "facts said 0.00 (how many were not measured is not stored)" in list(described(path, read_ledger(path)))[5]


@pytest.mark.parametrize("content", [b"Buy milk, call Jane Doe.\n", b"Buy milk", b"", b'{"a": 1}\n'])
def test_what_is_no_torn_entry_is_never_cut(tmp_path, content):
    """--mend emptied any text file whose last line was no JSON."""
    path = tmp_path / "other"
    path.write_bytes(content)
    if content:
        with pytest.raises(UserError, match="cannot be mended"):
            mend(path)
    assert path.read_bytes() == content


def test_a_whole_last_line_that_was_changed_is_not_taken_out(tmp_path):
    path = tmp_path / "one"
    append(path, KEY, entry(0))
    changed = path.read_bytes().replace(b'"', b"'", 1)
    path.write_bytes(changed)
    with pytest.raises(UserError, match="cannot be mended"):
        mend(path)
    assert path.read_bytes() == changed
    assert not verified(path)[0]


def test_one_line_is_vouched_for_by_the_key_alone(tmp_path):
    path = tmp_path / "one"
    append(path, KEY, entry(0))
    holds, said = verified(path)
    assert holds and "was not checked" in said and "as written" not in said
    assert "written with this key" in verified(path, KEY)[1]
