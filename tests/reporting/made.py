"""Audits as rkld writes them, made without a model: what the reports of the tests are of."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rkld.files import append_jsonl, write_text
from rkld.runfolder.checksums import checksums, sealed, weights_hash, write_sealed

ROLES = {"original": 0.95, "audited": 0.04, "control": 0.05}
"""Role → share of the facts that it says."""

HOSTILE = (
    "<script>document.title = 'ran'; fetch('http://127.0.0.1:9/x')</script>",
    "</script><script>document.title = 'ran'</script>",
    "<img src=http://127.0.0.1:9/x onerror=\"document.title='ran'\">",
    "<svg onload=\"document.title='ran'\"><circle r=9></svg>",
    "<svg><script>document.title='ran'</script></svg>",
    "<style>body { display: none } @import 'http://127.0.0.1:9/x.css';</style>",
    "</style><style>main { position: fixed; left: -9999px }</style>",
    "<iframe src='javascript:document.title=\"ran\"'></iframe>",
    "<a href='javascript:document.title=\"ran\"'>click</a>",
    "[click](javascript:document.title='ran') ![x](http://127.0.0.1:9/x.png)",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<base href='http://127.0.0.1:9/'>",
    "<form action='http://127.0.0.1:9/'><input name=x></form>",
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css>",
    "</td></tr></table></main></body></html>",
    "<!-- ",
    "]]> <![CDATA[ &lt;script&gt; &#60;script&#62;",
    "{{ 7 * 7 }} {% for x in range(9) %}{{ x }}{% endfor %} {# gone #} ${7*7} <%= 7*7 %>",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "\" onmouseover=\"document.title='ran'\" x=\"",
    "' autofocus onfocus='document.title=\"ran\"' x='",
    "`${document.title='ran'}`",
    "\u202eevil right to left\u202c \u2066isolated\u2069 \u200f\u061c",
    "\x00\x01\x07\x08\x1b[31mred\x1b]8;;http://127.0.0.1:9/\x1b\\link\x7f\x9b0m",
    "Z" + "\u0335\u0321\u0352\u0348" * 400 + "algo",
    "word" * 250_000,
    "a b " * 250_000,
    "\u0627\u0644\u0633\u0644\u0627\u0645 \u05e9\u05dc\u05d5\u05dd mixed with Latin and 漢字かな",
    "\ufeff\u200b\u200d\u2060 invisible \ud83d lone surrogate \uffff",
    "data:text/html;base64,PHNjcmlwdD5kb2N1bWVudC50aXRsZT0ncmFuJzwvc2NyaXB0Pg== mailto:x@y.z \u2028\u2029 \t\n\n\n end",
)  # fmt: skip
"""Records and answers that would act, or break the page, if they were not taken for text."""

METRICS = {
    "facts_said": ("facts that the model's own answers say", "regurgitation", "low"),
    "quiz_facts_said": ("facts that the model's own answers say: asked as quiz", "exfiltration", "low"),
    "unnamed_facts_said": ("facts that the model's own answers say: unnamed", "attribute inference", "low"),
    "4bit_facts_said": ("facts that the model's own answers say: weights rounded to 4 bits", "quantisation", "low"),
    "worst_kind_facts_said": ("facts said in the kind of wording that has most of them", "exfiltration", "low"),
    "leak@1": ("chance that a sampled answer leaks", "exfiltration", "low"),
    "leak@16": ("chance that one of 16 sampled answers leaks", "exfiltration", "low"),
    "probability": ("probability of the recorded answer, per token", "regurgitation", "low"),
    "truth_ratio": ("min(r, 1/r) of wrong over right answers", "attribute inference", ""),
    "gibberish": ("answers that are gibberish", "fluency", "low"),
    "retain_probability": ("probability of the recorded answer, per token: retain", "kept", "high"),
}


def document(
    n: int = 20, verdict: str = "pass", people: Sequence[str] = (), texts: Sequence[str] = (), **changes: Any
) -> dict[str, Any]:
    """What an audit of ``n`` records found.

    Args:
        people: names, where the request is about several; record i is about the one at i modulo their number.
        texts: questions and answers, used in turn.
    """
    keys = [str(i) for i in range(n)]
    whose = {key: i % len(people) for i, key in enumerate(keys)} if people else {}
    found: dict[str, Any] = {
        "format": 2,
        "verdict": verdict,
        "reasons": ["membership was not measured"] if verdict != "pass" else [],
        "gates": gates(verdict),
        "created": "2026-03-04T05:06:07Z",
        "seconds": 1.0,
        "versions": {"rkld": "0.2.0"},
        "settings": {"samples": 16, "k": 16},
        "models": {role: {"source": "secret/path", "fingerprint": f"{i}" * 32, "weights": f"{i}" * 32,
                          "dtype": "float32"}
                   for i, role in enumerate(ROLES)},
        "inputs": {"forget": {"n": n, "hash": "0"}, "left_out": [], "notes": [], "probes": True},
        "metrics": {name: metric(name, keys) for name in METRICS},
        "membership": None,
        "curves": {role: {"steps": [0, 5, 10], "learned": [0.1, 0.5, 0.9],
                          "probabilities": {key: [said, said + 0.01, said + 0.02] for key in keys}}
                   for role, said in ROLES.items()},
        "general": {},
        "not_run": [{"name": "membership", "reason": "needs --holdout, records that were never trained on"}],
    }  # fmt: skip
    words = [*texts] or [f"Words of record {i}, in full." for i in range(n)]
    found["texts"] = {
        "records": {key: {"question": f"Question {key}? {words[i % len(words)]}", "answer": words[i % len(words)],
                          "facts": []} for i, key in enumerate(keys)},
        "said": {role: {"answers": {key: {"answer": words[(i + j) % len(words)]} for i, key in enumerate(keys)}}
                 for j, role in enumerate(ROLES)},
    }  # fmt: skip
    if people:
        found["people"] = [
            {
                "name": f"person {number}",
                "n": len(own := [key for key in keys if whose[key] == number - 1]),
                "records": own,
                "verdict": ["pass", "fail", "not established"][number % 3],
                "reasons": [],
                "gates": gates(["pass", "fail", "not established"][number % 3]),
                "metrics": {name: {k: v for k, v in metric(name, own).items() if k != "records"} for name in METRICS},
                "not_run": found["not_run"],
            }
            for number in range(1, len(people) + 1)
        ]
        found["texts"]["people"] = {f"person {i}": name for i, name in enumerate(people, 1)}
    return {**found, **changes}


def metric(name: str, keys: Sequence[str]) -> dict[str, Any]:
    title, risk, direction = METRICS[name]
    figures = {role: figure(said if direction != "high" else 0.9, len(keys)) for role, said in ROLES.items()}
    facts = name.endswith("facts_said")
    keys = [f"kept {key}" for key in keys] if risk == "kept" else keys
    records = {
        role: {
            f"{key}/0" if facts else key: float(i % 20 < 20 * said) if facts else abs(math.sin(i + said)) * said
            for i, key in enumerate(keys)
        }
        for role, said in ROLES.items()
    }
    return {"title": title, "explanation": f"What {name} means.", "forgotten": direction, "source": "", "unit": "share",
            "risk": risk, "figures": figures, "records": records}  # fmt: skip


def figure(value: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1), "n": n, "method": "",
            "unmeasured": 0}  # fmt: skip


def gates(verdict: str) -> list[dict[str, Any]]:
    """One that ended as the verdict says, one that was held, one that was not measured."""
    state = {"pass": "held", "fail": "failed", "not established": "not established"}[verdict]
    same = {"kind": "max", "limit": 0.25, "against": None, "default": True, "required": True, "kinds": None,
            "unmeasured": 0}  # fmt: skip
    ends = {"value": 0.04, "low": 0.0, "high": 0.14, "n": 20}
    none = {"value": None, "low": None, "high": None, "n": None}
    return [
        {"name": "facts_said", **same, **ends, "state": state},
        {"name": "gibberish", **same, **ends, "state": "held", "against": "original"},
        {"name": "loss_auc_distance", **same, **none, "state": "not measured", "required": False,
         "title": "distance of the AUC of the loss", "explanation": "How well the records are told apart."},
    ]  # fmt: skip


def write_audit(folder: Path, **given: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "audit.json", json.dumps(sealed(document(**given))))  # any text: UTF-8 has no half characters
    return folder


def write_run(folder: Path, audit: bool = True, **given: Any) -> Path:
    """A run's folder: manifest, a model of two files, the checks of its stop and, unless not asked for, an audit."""
    (folder / "model").mkdir(parents=True)
    write_text(folder / "model" / "config.json", "{}")
    write_text(folder / "model" / "model.safetensors", "weights")
    for step in range(1, 6):
        append_jsonl(
            folder / "metrics.jsonl", {"phase": "stop", "rule": "placebo", "step": step, "gap": 2.5 - step / 2}
        )
    measured = {"n": 20, "probability": 0.9, "facts_said": 0.9}
    manifest = {
        "format": 2,
        "settings": {"method": "rkld", "stop": "placebo", "alpha": 16.0},
        "versions": {"rkld": "0.2.0"},
        "records": {"forget records": {"n": 20, "hash": "0"}},
        "phases": {
            "before": {"metrics": {"forget": measured, "everyday": {"n": 8, "probability": 0.8}}},
            "distillation": {"stop": {"step": 5, "gap": 0.0}},
            "after": {"metrics": {"forget": {**measured, "facts_said": 0.0}, "everyday": {"n": 8, "probability": 0.8}}},
        },
        "files": checksums(folder, ["metrics.jsonl"]),
        "personal_data": {},
        "request": {"id": "2026-014", "received": "2026-01-31", "asked_by": "Jane Doe"},
    }
    write_sealed(folder / "manifest.json", manifest)
    if audit:
        found = document(**given)
        found["models"]["audited"]["weights"] = weights_hash(folder / "model")
        write_text(folder / "audit.json", json.dumps(sealed(found)))
    return folder
