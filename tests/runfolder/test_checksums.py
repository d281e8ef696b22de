"""Checksums: whatever differs is found, whoever changed it."""

from __future__ import annotations

import json

import pytest

from rkld.runfolder.checksums import (
    checksum,
    checksums,
    content_checksum,
    differing,
    read_sealed,
    same_weights,
    sealed,
    unsealed,
    write_sealed,
)

DOCUMENT = {"b": [1, 2.5, None, True], "a": {"x": "Þór", "10": 1, "9": 2}, "nan": [1e300]}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "weights").write_bytes(bytes(1000))
    (tmp_path / "model" / "deep" / "more").write_bytes(b"more")
    (tmp_path / "model" / "README.md").write_text("card")
    (tmp_path / "answers").write_text("x")
    return tmp_path


NAMES = ["model", "answers"]


def test_files_and_folders_are_noted_by_their_paths(folder):
    noted = checksums(folder, NAMES)
    assert set(noted) == {"model/weights", "model/deep/more", "model/README.md", "answers"}
    assert noted["model/weights"] == checksum(folder / "model" / "weights")
    assert differing(folder, noted, NAMES) == {}


def test_every_way_to_differ_has_its_name(folder):
    """Also 200 bytes of a file that is as long as before, which nothing else would notice."""
    noted = checksums(folder, NAMES)
    with open(folder / "model" / "weights", "r+b") as file:
        file.seek(300)
        file.write(b"\1" * 200)
    (folder / "model" / "deep" / "more").unlink()
    (folder / "model" / "adapter_config.json").write_text("{}")
    assert differing(folder, noted, NAMES) == {
        "model/weights": "changed", "model/deep/more": "missing", "model/adapter_config.json": "added",
    }  # fmt: skip
    assert differing(folder, noted, ["answers"]) == {}, "what was not asked for"


def test_what_people_and_file_managers_write_is_no_damage(folder):
    noted = checksums(folder, NAMES)
    (folder / "model" / "README.md").write_text("a better card")
    (folder / "model" / ".DS_Store").write_text("")
    (folder / "modelling").mkdir()
    (folder / "modelling" / "x").write_text("")
    assert differing(folder, noted, NAMES) == {}


def test_a_document_is_read_as_it_was_written(tmp_path):
    write_sealed(tmp_path / "x.json", DOCUMENT)
    assert read_sealed(tmp_path / "x.json") == DOCUMENT
    assert unsealed(json.loads(json.dumps(sealed({1: "a", 10: "b", 9: "c"})))) == {"1": "a", "10": "b", "9": "c"}


def test_every_flipped_bit_of_a_document_is_found_or_changes_nothing(tmp_path):
    write_sealed(path := tmp_path / "x.json", {"a": [1.5, "text"], "b": None})
    whole, same = path.read_bytes(), 0
    for bit in range(8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        found = read_sealed(path)
        assert found is None or {name: found.get(name) for name in ("a", "b")} == {"a": [1.5, "text"], "b": None}
        same += found is not None
    assert same < 0.1 * 8 * len(whole), "space between the values, and the name of the checksum"


@pytest.mark.parametrize(
    "content", ["", "[1]", "{", "\xff", "[" * 100_000, '{"checksum": 1}', '{"a": 1, "checksum": ""}']
)
def test_what_is_no_document_is_damaged(tmp_path, content):
    (tmp_path / "x.json").write_text(content, encoding="latin-1")
    assert read_sealed(tmp_path / "x.json") is None


def test_without_the_key_nobody_can_seal(tmp_path):
    """An audit's readings are believed of oneself alone; whoever changed one can make every other checksum."""
    key = "ab" * 32
    write_sealed(tmp_path / "x.json", DOCUMENT, key)
    assert read_sealed(tmp_path / "x.json", key) == DOCUMENT
    for forged in (DOCUMENT, sealed(DOCUMENT), sealed(DOCUMENT, "cd" * 32)):
        assert unsealed(forged, key) is None
    assert content_checksum(DOCUMENT) != content_checksum(DOCUMENT, key)


def test_the_same_weights_are_the_same_files_and_no_more_is_read_than_is_needed(tmp_path, monkeypatch):
    """Every comparison with an original of another name read all weights of both models."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "assistant").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "assistant" / "model.safetensors").write_bytes(b"others")
        (folder / "config.json").write_text(folder.name)
    assert same_weights(one, other)
    (other / "model.safetensors").write_bytes(b"Weights")
    assert not same_weights(one, other)
    monkeypatch.setattr("rkld.runfolder.checksums.filecmp.cmp", None)
    assert same_weights(one, one)
    (other / "model.safetensors").write_bytes(b"longer weights")
    assert not same_weights(one, other)
    (other / "model.safetensors").unlink()
    assert not same_weights(one, other)
