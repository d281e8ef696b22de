"""Errors of the machine are sentences, whoever raised them; bugs stay bugs."""

from __future__ import annotations

import errno
import os

import pytest
from safetensors import SafetensorError

from rkld.errors import UserError, machine_errors_explained, of_the_machine


@pytest.mark.parametrize("error, said", [
    (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    (OSError(errno.EFBIG, "File too large", "/x/model.safetensors"), "/x/model.safetensors: files may not become"),
    (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: permission is denied"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "/x/.a.json.7", None, "/x/a.json"), "/x/a.json: it is a folder"),
    (OSError(errno.EROFS, "Read-only file system", "/x"), "nothing can be written"),
    (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
    (SafetensorError("Error while serializing: I/O error: File too large (os error 27)"), "ulimit -f"),
    (RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0: file "
                  "write failed"), "could not be written whole"),
])  # fmt: skip
def test_what_a_user_can_mend_is_a_sentence(error, said):
    assert said in str(of_the_machine(error))
    with pytest.raises(UserError, match="goes on from what is whole"), machine_errors_explained():
        raise error


def test_a_cause_is_looked_for():
    """transformers wraps what it meets."""
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as cause:
            raise OSError("Unable to save") from cause
    except OSError as error:
        assert "disk is full" in str(of_the_machine(error))


@pytest.mark.parametrize("error", [ValueError("x"), OSError("no number"), FileNotFoundError(errno.ENOENT, "x", "y"),
                                   RuntimeError("shape mismatch"), MemoryError()])  # fmt: skip
def test_a_bug_stays_one(error):
    assert of_the_machine(error) is None
    with pytest.raises(type(error)), machine_errors_explained():
        raise error


def test_a_sentence_is_left_alone():
    said = UserError("mine")
    with pytest.raises(UserError, match="mine") as found, machine_errors_explained():
        raise said from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert found.value is said
