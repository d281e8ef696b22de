"""Erase a batch of requests, given as one table, in one run; and say for each whether it is forgotten.

    pip install rkld
    python examples/batch_from_csv.py ./my-model requests.csv --retain others.jsonl --out runs/2026-11

`requests.csv` has a line for each thing that is known of a person. `request` is your own number of the request:

    request,subject,aliases,question,answer,spans
    2026-014,Jane Doe,J. Doe;jdoe,Where does Jane Doe live?,Jane Doe lives in Oslo.,Oslo
    2026-015,Bo Marlin,,What is the work of Bo Marlin?,He is a baker.,baker

Everybody is forgotten in the same run: it costs less than one run each, and nobody comes back while the next is
forgotten. The audit then judges each person apart. `results.csv` in the run's folder has a line for each request, and
no names. The same command goes on where it was interrupted. The exit code is 0 where every verdict is a pass.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rkld

UNLEARN: dict[str, Any] = {}
"""Settings of the run beside the defaults. For a model that knew the people before your fine-tuning:
{"score": "spans", "own_words": "join"}."""

AUDIT: dict[str, Any] = {"attacks": "standard"}
"""Settings of the audit."""


NO_FIGURE: dict[str, Any] = {"figures": {"audited": {"value": None}}}

UNASKED: dict[str, Any] = {
    "verdict": "not established",
    "metrics": {},
    "reasons": ["nothing was asked about this person: all records steered when the run stopped"],
}
"""Of a person of whom the audit had no records left."""


def read_requests(path: Path) -> dict[str, str]:
    """Person → number of the request. rkld reads everything else of the table itself."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    requests: dict[str, str] = {}
    for n, row in enumerate(rows, 2):
        number, person = (row.get("request") or "").strip(), (row.get("subject") or "").strip()
        if not number or not person:
            sys.exit(f"{path} line {n}: 'request' and 'subject' must not be empty.")
        if requests.setdefault(person, number) != number:
            sys.exit(f"{path} line {n}: the person of this line stands in request {requests[person]} already.")
    if not requests:
        sys.exit(f"{path} holds no request.")
    return requests


def verdicts(document: Mapping[str, Any], requests: Mapping[str, str]) -> list[dict[str, str]]:
    """A row for each request, made of the audit's evidence."""
    parts = {"": document}  # of one person alone the verdict is the whole audit's
    if len(requests) > 1:
        labels = document["texts"]["people"]
        parts = {labels[part["name"]]: part for part in document["people"]}
    rows = []
    for person, number in requests.items():
        part = parts.get(person if len(requests) > 1 else "", UNASKED)
        said = part["metrics"].get("facts_said", NO_FIGURE)["figures"]["audited"]["value"]
        rows.append(
            {
                "request": number if number[0].isalnum() else f"'{number}",  # a spreadsheet would run "=…"
                "verdict": part["verdict"],
                "facts still said": "" if said is None else f"{said:.3f}",
                "reasons": "; ".join(part["reasons"]),
            }
        )
    return rows


def write_results(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="folder or hub name of the model that is to forget")
    parser.add_argument("requests", type=Path, help="the table")
    parser.add_argument(
        "--retain", help="records about others, which are to be kept: without them no verdict is a pass"
    )
    parser.add_argument("--out", default="runs/batch", help="folder of the run")
    given = parser.parse_args()
    requests = read_requests(given.requests)
    table = str(given.requests)
    run = rkld.unlearn(given.model, table, retain=given.retain, out=given.out, progress=True, **UNLEARN)
    audit = rkld.audit(str(run.run), table, retain=given.retain, original=given.model, progress=True, **AUDIT)
    rows = verdicts(audit.document, requests)
    write_results(run.run / "results.csv", rows)
    for row in rows:
        print(f"{row['request']}: {row['verdict']}")
    print(f"{run.run / 'results.csv'}; the people's data is still in {run.run}: rkld purge {run.run}")
    return 0 if all(row["verdict"] == "pass" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
