"""Weight files on disk: which they are."""

from __future__ import annotations

import shutil
from pathlib import Path

from rkld.runfolder.checksums import weights_hash


def test_weights_are_known_by_names_and_bytes_wherever_the_folder_lies(tmp_path: Path) -> None:
    """A model card or a tokenizer beside them changes nothing; a byte, a name or another file does."""
    first = tmp_path / "first"
    (first / "part").mkdir(parents=True)
    (first / "model.safetensors").write_bytes(b"a" * 100)
    (first / "part" / "pytorch_model.bin").write_bytes(b"b")
    expected = weights_hash(first)
    shutil.copytree(first, tmp_path / "second")
    (tmp_path / "second" / "README.md").write_text("a card")
    assert weights_hash(tmp_path / "second") == expected
    found = {expected}
    for number, change in enumerate((
        lambda folder: (folder / "model.safetensors").write_bytes(b"a" * 99 + b"c"),
        lambda folder: (folder / "part" / "pytorch_model.bin").rename(folder / "pytorch_model.bin"),
        lambda folder: (folder / "more.bin").write_bytes(b""),
        lambda folder: (folder / "part" / "pytorch_model.bin").unlink(),
    )):  # fmt: skip
        other = tmp_path / str(number)
        shutil.copytree(first, other)
        change(other)
        found.add(weights_hash(other))
    assert len(found) == 5
