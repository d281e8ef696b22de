"""Keys: nobody else can read them, none is written over, and one of another kind is refused by name."""

from __future__ import annotations

import os
import stat

import pytest

from rkld.errors import UserError
from rkld.reporting import keys

READERS = {
    "sign": (keys.read_signing_key, keys.read_verifying_key),
    "seal": (keys.read_opening_key, keys.read_sealing_key),
    "ledger": (keys.read_ledger_key, None),
}


@pytest.fixture
def made(tmp_path):
    """One of each kind, by its name, with its public half."""
    return {kind: (tmp_path / kind, keys.make_key(tmp_path / kind, kind)) for kind in keys.KINDS}


@pytest.mark.parametrize("kind", READERS)
def test_a_key_is_its_owners_and_read_again(made, kind):
    path, public = made[kind]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    private, reader = READERS[kind]
    assert private(path)
    if reader is None:
        assert public is None and len(private(path)) == 32
    else:
        assert reader(public).public_bytes_raw() == private(path).public_key().public_bytes_raw()


@pytest.mark.parametrize("kind", READERS)
def test_a_key_of_another_kind_is_refused(made, kind):
    for other, (path, public) in made.items():
        private, reader = READERS[kind]
        if other != kind:
            with pytest.raises(UserError, match=f"rkld keygen KEY --for {kind}"):
                private(path)
            if reader and public:
                with pytest.raises(UserError, match="is no key that"):
                    reader(public)
        if reader and other != "ledger":
            with pytest.raises(UserError, match=r"ends in \.pub"):
                reader(path)


@pytest.mark.parametrize("there", ["key", "key.pub"])
def test_nothing_is_written_over_or_left(tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(UserError, match="there already"):
        keys.make_key(tmp_path / "key")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "mine")]


def test_a_link_to_nowhere_is_not_followed(tmp_path):
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="there already"):
        keys.make_key(tmp_path / "key")
    assert not (tmp_path / "elsewhere").exists()


def test_a_passphrase_is_asked_for_and_never_guessed(tmp_path, monkeypatch):
    monkeypatch.delenv(keys.PASSPHRASE, raising=False)
    path, phrase = tmp_path / "key", "correct horse battery"
    with pytest.raises(UserError, match="5 characters is guessed"):
        keys.make_key(path, "sign", "short")
    keys.make_key(path, "sign", phrase)
    for ask in (None, lambda: ""):
        with pytest.raises(UserError, match="has a passphrase"):
            keys.read_signing_key(path, ask)
    with pytest.raises(UserError, match="the passphrase is another"):
        keys.read_signing_key(path, lambda: "another horse")
    key = keys.read_signing_key(path, lambda: phrase)
    monkeypatch.setenv(keys.PASSPHRASE, phrase)
    assert keys.read_signing_key(path).private_bytes_raw() == key.private_bytes_raw()


def test_what_is_no_key_is_refused(tmp_path):
    for content in (b"", b"-----BEGIN PUBLIC KEY-----\n", b"\xff" * 100, b"A" * 20_000):
        (tmp_path / "key").write_bytes(content)
        for read in (keys.read_signing_key, keys.read_verifying_key, keys.read_ledger_key):
            with pytest.raises(UserError, match=r"is no key|cannot be read"):
                read(tmp_path / "key")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", "a\0b"):
        with pytest.raises(UserError, match="cannot be read"):
            keys.read_verifying_key(path)


def test_a_key_that_others_can_read_is_said(made, caplog):
    path, _ = made["sign"]
    path.chmod(0o644)
    keys.read_signing_key(path)
    assert "can be read by others" in caplog.text
