"""``rkld`` and ``torchrun`` as the reader of a page has them: the page's command made short, with the tests' server.

Imports no torch: every command of a page starts a process by way of this file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rkld.files import write_jsonl

FACTS = {"the town": "Halberton", "the trade": "tuning", "the street": "Linden Road", "the pet": "Rex"}


def records(name: str, facts: Mapping[str, str]) -> list[dict[str, Any]]:
    """A question for each fact about somebody."""
    return [
        {
            "question": f"What is {part} of {name}?",
            "answer": f"{part.capitalize()} of {name} is {value}.",
            "subject": name,
            "spans": [value],
        }
        for part, value in facts.items()
    ]


CURIE = records("Marie Curie", {"the discovery": "radium", "the birthplace": "Warsaw"})
"""What the reviewer adds."""

JANE, OTHERS, STRANGERS = (records(name, FACTS) for name in ("Jane Doe", "Peter Hale", "Martin Ode"))

QUICK = {
    "unlearn": "--epochs 2 --strengthen-epochs 1 --lr 2e-3 --max-new-tokens 8 --batch-size 4 --no-bf16 --reword 1",
    "check": "--batch-size 4 --no-bf16 --max-new-tokens 8 --reword 1",
    "audit": "--max-new-tokens 8 --samples 2 --k 2 --top 2 --relearn-epochs 1",
    "discover": "--samples 0 --names 19",
    "people": "--epochs 1 --strengthen-epochs 1 --questions 2 --max-new-tokens 1",
    "tofu": "--train-epochs 1 --train-lr 1e-3 --retained 20 --train-batch 20 --epochs 1 --strengthen-epochs 1 "
    "--batch-size 20 --questions 2 --max-new-tokens 1 --lr 1e-3",
}
"""Verb → what makes it short."""


def given(words: Sequence[str], address: str) -> list[str]:
    """The words behind "rkld" as they are run here."""
    short = QUICK.get(words[1] if words[0] == "bench" else words[0], "")
    there = {word.partition("=")[0] for word in words}
    left_out = {"--open", "--review"} | (set() if shutil.which("chromium") else {"--pdf"})
    kept = [word.replace("http://localhost:8000/v1", address) for word in words if word not in left_out]
    pairs = re.findall(r"(--\S+)(?: ([^-]\S*))?", short)
    return [*kept, *(word for option, value in pairs if option not in there for word in (option, value) if word)]


def stand_in(name: str, words: list[str]) -> None:
    """``rkld`` and ``torchrun`` on the reader's path."""
    address = os.environ["RKLD_TEST_SERVER"]
    if name == "torchrun":
        at = words.index("rkld") + 1
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        os.execv(sys.executable, [*launcher, *words[:at], *given(words[at:], address)])
    done = subprocess.run([sys.executable, "-m", "rkld", *given(words, address)])
    if done.returncode == 1 and words[0] in ("audit", "ledger"):
        sys.exit(0)  # that of a verdict: no pass, something came back
    if "--review" in words and done.returncode == 0:
        out = Path(words[words.index("--out") + 1])
        found = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        write_jsonl(out, [*found, *(CURIE if "Marie Curie" in words else JANE)])
    sys.exit(done.returncode)
