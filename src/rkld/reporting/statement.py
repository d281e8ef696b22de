"""What was found, for machines: an in-toto statement over the fingerprints of the model and of the evidence.

The predicate is ``test-result`` (in-toto attestation framework, predicates/test-result v0.1; statement v1). It holds no
record and no name, so it can be handed on, and verified, without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rkld.reporting.run import Run, as_rkld_writes, read_run
from rkld.runfolder.checksums import sha256
from rkld.runfolder.lock import MODEL
from rkld.runfolder.manifest import AUDIT, MANIFEST, REPORT, check_model

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"

RESULTS = {"pass": "PASSED", "fail": "FAILED", "not established": "WARNED"}
"""Verdict → the predicate's word. There is none for what is not established: it is never "passed"."""

NOT_AUDITED = "not audited"
"""In the verdict's place, of a run that nobody has audited: it states what was made, and no result."""

TESTS = {
    "held": "passedTests",
    "failed": "failedTests",
    "not established": "warnedTests",
    "not measured": "warnedTests",
}
"""State of a gate → the predicate's list."""


def statement(run: str | Path) -> dict[str, Any]:
    """The statement of a run's or an audit's folder: the same as long as the files in it are.

    ``subject``: every file of the model in the folder, and the page, by SHA-256; of a model that lies elsewhere the
    fingerprint of its weights, and so where the audit is of another model than lies there (:attr:`Run.apart`).
    ``predicate``: the verdict, the gates by how they ended, and the evidence; of a run that was not audited that it was
    not (:data:`NOT_AUDITED`).

    Raises:
        UserError: neither a run nor an audit, it is damaged, or the model is not the one that the run wrote.
    """
    folder = Path(run)
    found = read_run(folder)
    check_model(folder)
    with as_rkld_writes(folder):
        return _stated(found)


def _stated(run: Run) -> dict[str, Any]:
    folder, audit = run.folder, run.audit
    tests: dict[str, list[str]] = {name: [] for name in sorted(set(TESTS.values()))}
    noted: dict[str, str] = {}
    if audit is None:
        result = RESULTS["not established"]
        tests[TESTS["not measured"]].append(NOT_AUDITED)
        annotations: dict[str, Any] = {"verdict": NOT_AUDITED}
    else:
        result = RESULTS[audit["verdict"]]
        for gate in audit["gates"]:
            tests[TESTS[gate["state"]]].append(_test(gate))
        for person in audit.get("people", ()):  # a limit that all keep to together, and one of them does not
            failed = [gate for gate in person["gates"] if gate["state"] == "failed"]
            tests[TESTS["failed"]] += [f"{person['name']}: {_test(gate)}" for gate in failed]
        audited = audit["models"]["audited"]
        noted = {name: audited[name] for name in ("weights", "fingerprint", "base_weights") if audited.get(name)}
        annotations = {"verdict": audit["verdict"], "created": audit["created"], "audited": noted}
    evidence = [_described(folder, name) for name in (AUDIT, MANIFEST) if (folder / name).is_file()]
    evidence[0]["annotations"] = annotations
    return {
        "_type": STATEMENT_TYPE,
        "subject": list(_subjects(run, noted)),
        "predicateType": PREDICATE,
        "predicate": {"result": result, "configuration": evidence, **tests},
    }


def _test(gate: Mapping[str, Any]) -> str:
    """A limit, as the predicate names it."""
    return f"{gate['name']} {gate['kind']} {gate['limit']:g}"


def _subjects(run: Run, noted: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    folder, model = run.folder, run.folder / MODEL
    here = model.is_dir() and not run.apart
    files = sorted(path for path in model.rglob("*") if path.is_file()) if here else []
    for path in files:
        yield _described(folder, path.relative_to(folder).as_posix())
    if not files and noted:
        yield {"name": "weights", "digest": {f"rkld-{name}": value for name, value in noted.items()}}
    if (folder / REPORT).is_file():
        yield _described(folder, REPORT)


def _described(folder: Path, name: str) -> dict[str, Any]:
    """A file as in-toto describes it."""
    return {"name": name, "digest": {"sha256": sha256(folder / name)}}
