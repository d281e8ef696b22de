"""A gate before a model is released: it is asked again for everybody who was erased so far.

    pip install rkld
    python examples/ci_gate.py ./candidate --requests requests --original ./first-model --summary summary.md

Every folder in `requests` is one request, named by its number and never by the person, as `rkld init` lays it out:
records.yaml (or .jsonl, .csv …) holds what must not be known, others.yaml what must, holdout.yaml people that no model
saw; the last two may be missing, though without records to keep no verdict is a pass. The exit code is 0 where every
verdict is a pass. What is printed and written names no person: it may go into the log of a build. As a step of a build:

    - run: python examples/ci_gate.py ./candidate --requests requests --summary "$GITHUB_STEP_SUMMARY" --junit gate.xml
"""

from __future__ import annotations

import argparse
import html
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import rkld

NOT_AUDITED = "not audited"


@dataclass(frozen=True)
class Outcome:
    """Of one request: its folder's name, the verdict, and why."""

    request: str
    verdict: str
    reasons: Sequence[str]

    @property
    def passed(self) -> bool:
        return self.verdict == "pass"


def records(request: Path, name: str) -> str | None:
    """The file of that name in a request's folder, whatever its form."""
    found = [path for path in sorted(request.glob(f"{name}.*")) if path.suffix in (".yaml", ".jsonl", ".json", ".csv")]
    if len(found) > 1:
        sys.exit(f"{request} holds several files of {name}: {', '.join(path.name for path in found)}. Keep one.")
    return str(found[0]) if found else None


def audited(model: str, request: Path, original: str | None, attacks: str, out: Path, **settings: object) -> Outcome:
    """One request's verdict. What cannot be audited is no pass."""
    forget = records(request, "records")
    if forget is None:
        return Outcome(request.name, NOT_AUDITED, [f"{request} holds no records"])
    try:
        audit = rkld.audit(
            model,
            forget,
            retain=records(request, "others"),
            holdout=records(request, "holdout"),
            original=original,
            attacks=attacks,
            redact=True,  # the evidence keeps the figures and leaves what was said out
            out=str(out / request.name),
            **settings,
        )
    except rkld.UserError as error:
        return Outcome(request.name, NOT_AUDITED, [str(error)])
    return Outcome(request.name, audit.document["verdict"], audit.document["reasons"])


def summary(outcomes: Sequence[Outcome]) -> str:
    """A table in Markdown."""
    lines = ["| request | verdict | why |", "|---|---|---|"]
    for one in outcomes:
        request, why = (
            html.escape(" ".join(text.split())).replace("|", "\\|") for text in (one.request, "; ".join(one.reasons))
        )
        lines.append(f"| {request} | {'' if one.passed else '**'}{one.verdict}{'' if one.passed else '**'} | {why} |")
    return "\n".join([*lines, ""])


def junit(outcomes: Sequence[Outcome]) -> ElementTree.ElementTree:
    """The same as a test report, which build servers show."""
    suite = ElementTree.Element(
        "testsuite", name="erasures", tests=str(len(outcomes)), failures=str(sum(not one.passed for one in outcomes))
    )
    for one in outcomes:
        case = ElementTree.SubElement(suite, "testcase", classname="erasures", name=one.request)
        if not one.passed:
            ElementTree.SubElement(case, "failure", message=one.verdict).text = re.sub(
                r"[^\S\n]|[^\n\x20-\U0010ffff]", " ", "\n".join(one.reasons)
            )
    return ElementTree.ElementTree(suite)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="the model that is to be released")
    parser.add_argument("--requests", type=Path, required=True, help="folder of one folder for each request")
    parser.add_argument("--original", help="the model before the erasures: without it no verdict is a pass")
    parser.add_argument("--attacks", default="standard", help="attacks, with commas between them")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gate"), help="folder of this model's evidence: give each model its own"
    )
    parser.add_argument("--summary", type=Path, help="file to which the table is appended")
    parser.add_argument("--junit", type=Path, help="file of the test report")
    given = parser.parse_args()
    folders = sorted(path for path in given.requests.iterdir() if not path.name.startswith("."))
    if files := [path.name for path in folders if not path.is_dir()]:
        sys.exit(f"{given.requests} holds what is no folder, and would not be asked: {', '.join(files)}.")
    if not folders:
        sys.exit(f"{given.requests} holds no request: a gate that asks nothing must not pass.")
    outcomes = []
    for folder in folders:
        outcomes.append(audited(given.model, folder, given.original, given.attacks, given.out))
        print(f"{outcomes[-1].request}: {outcomes[-1].verdict}", flush=True)
    if given.summary:
        with given.summary.open("a", encoding="utf-8") as file:
            file.write(summary(outcomes))
    if given.junit:
        junit(outcomes).write(given.junit, encoding="utf-8", xml_declaration=True)
    return 0 if all(one.passed for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
