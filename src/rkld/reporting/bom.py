"""A bill of materials of the unlearned model: CycloneDX 1.6, as JSON (https://cyclonedx.org/docs/1.6/json).

It says what the model was made from, how, and what was found, in the words of the standard's model card. The library
for CycloneDX has no model card yet, so it is written as it stands in the schema.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rkld.errors import UserError
from rkld.reporting.made_by import in_words
from rkld.reporting.run import as_rkld_writes, read_run
from rkld.reporting.words import number
from rkld.runfolder.checksums import sha256
from rkld.runfolder.lock import MODEL
from rkld.settings.table import specs
from rkld.settings.unlearning import Settings

BOM = "model.cdx.json"

SHOWN = ("worst_kind_facts_said", "facts_said", "probability", "extraction_strength", "retain_kept", "gibberish")
"""Figures of the card, of those that were measured."""


def bill_of_materials(run: str | Path) -> dict[str, Any]:
    """The bill of a run's model: the same as long as its files and what is known of it are.

    Raises:
        UserError: the folder holds no model, or nothing of rkld's.
    """
    folder = Path(run)
    found = read_run(folder)
    if not (folder / MODEL).is_dir():
        raise UserError(f"{folder}: holds no model, so there is no bill of materials. Give the folder of a run.")
    files = sorted(path for path in (folder / MODEL).rglob("*") if path.is_file())
    hashes = [sha256(path) for path in files]
    parts = [
        {
            "type": "file",
            "bom-ref": path.relative_to(folder).as_posix(),
            "name": path.relative_to(folder).as_posix(),
            "hashes": [{"alg": "SHA-256", "content": content}],
        }
        for path, content in zip(files, hashes)
    ]
    with as_rkld_writes(folder):
        audit = {} if found.apart else found.audit or {}  # what was found of another model is no property of this one
        versions = found.manifest.get("versions") or audit.get("versions", {})
        whole = "".join(hashes)
        return {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'rkld:{whole}')}",
            "version": 1,
            "metadata": {
                "tools": {
                    "components": [
                        {"type": "library", "name": name, "version": str(version)} for name, version in versions.items()
                    ]
                },
                "component": {
                    "type": "machine-learning-model",
                    "bom-ref": "model",
                    "name": "unlearned model",
                    "modelCard": _card(found.manifest, audit),
                    "components": parts,
                },
            },
        }


def _card(manifest: Mapping[str, Any], audit: Mapping[str, Any]) -> dict[str, Any]:
    settings = manifest.get("settings", {})
    figures = [
        {
            "type": name,
            "value": f"{value:.6g}",
            "slice": "unlearned model",
            **_interval(figure),
        }
        for name in SHOWN
        if (figure := audit.get("metrics", {}).get(name, {}).get("figures", {}).get("audited"))
        and (value := number(figure.get("value"))) is not None
    ]
    limits = [
        "Whoever holds this model and the original can extract more than from either alone (arXiv 2505.24379).",
        "What was not tested is named in the report beside it; a test of one person says nothing of others.",
    ]
    card: dict[str, Any] = {
        "modelParameters": {
            "approach": {"type": "self-supervised"},
            "task": "text-generation",
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "considerations": {"technicalLimitations": limits},
        "properties": [
            {"name": f"rkld:{name}", "value": in_words(specs(Settings)[name], settings[name])}
            for name in ("method", "alpha", "epochs", "stop", "lora")
            if name in settings
        ]
        + [{"name": "rkld:verdict", "value": str(audit.get("verdict", "not audited"))}],
    }
    if figures:
        card["quantitativeAnalysis"] = {"performanceMetrics": figures}
    return card


def _interval(figure: Mapping[str, Any]) -> dict[str, Any]:
    ends = {
        "lowerBound": number(figure.get("low")),
        "upperBound": number(figure.get("high")),
    }
    found = {name: f"{end:.6g}" for name, end in ends.items() if end is not None}
    return {"confidenceInterval": found} if found else {}
