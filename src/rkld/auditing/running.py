"""The audit: one command from a model and a file of records to ``audit.json``, the evidence.

Models are read one after another (audited, control, original), reading by reading; each reading is written at once and
found again when the same audit is started again. Then all metrics are computed of the readings, gates are judged, and
the document is written (schema: ``schema.json`` beside this file).
"""

from __future__ import annotations

import gc
import importlib.metadata
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from rkld.auditing.backends import GenerationBackend, LocalBackend
from rkld.auditing.control import check_control, check_folders
from rkld.auditing.endpoint_backend import EndpointBackend
from rkld.auditing.evidence import document, model_path, plain
from rkld.auditing.inputs import UTILITY, Task, read_task
from rkld.auditing.metrics import audit_metrics
from rkld.auditing.reading import Reader, Reading
from rkld.auditing.readings import OWN_ANSWERS, READINGS, own_answer_rows
from rkld.auditing.registry import chosen_attacks, known_attacks
from rkld.errors import UserError, nearest
from rkld.evaluation.tofu import logged_ratios, read_logs
from rkld.files import write_json, write_text
from rkld.models.loading import load_tokenizer, read_template, resolve
from rkld.models.state import fingerprint
from rkld.pipeline.preparing import load_with_encoder, make_encoder
from rkld.progress import NoProgress
from rkld.runfolder.manifest import AUDIT, run_of, salted
from rkld.runfolder.once import HashedFiles, once, own_key
from rkld.settings.auditing import AuditSettings
from rkld.settings.specification import flag, make
from rkld.settings.table import specs
from rkld.settings.typed import AuditKeywords

SALT, KEPT = "audit.salt", "readings"
"""Names in the audit's folder. ``readings/`` holds what was generated, so it holds personal data."""

READING_FORMAT = 3
"""Of the files in ``readings/``: those of another format are made anew."""

VERSIONS = ("rkld", "torch", "transformers", "peft", "tokenizers")
"""Packages whose versions stand in audit.json."""


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        verdict: "pass", "fail" or "not established".
        path: of audit.json.
        document: its content.
    """

    verdict: str
    path: Path
    document: Mapping[str, Any] = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether every gate is held and what they judged is evidence: the exit code's meaning."""
        return self.verdict == "pass"


def audit(
    model: Any = None,
    forget: Any = None,
    *,
    processing_class: Any = None,
    progress: NoProgress | None = None,
    **keywords: Unpack[AuditKeywords],
) -> Audit:
    """Ask a model, by all means there are, for what it should have forgotten.

    Args:
        model: folder, hub name, adapter folder, run folder, or a loaded model; with ``endpoint`` the served name.
        forget: the records, as :func:`rkld.pipeline.phases` takes them.
        processing_class: the tokenizer, where ``model`` is an object.
        progress: shows what is going on (:class:`rkld.progress.ProgressBars` in a terminal).
        keywords: everything else, by the names of :class:`rkld.settings.auditing.AuditSettings`; ``original`` and
            ``control`` may be loaded models, sets of records data.

    Raises:
        UserError: bad input; nothing has been written then.
    """
    given: dict[str, Any] = {"model": model, "forget": forget, **keywords}
    data = {
        name: given[name]
        for name in ("model", "forget", "holdout", *UTILITY, "probes", "original", "control")
        if given.get(name) is not None and not isinstance(given[name], str | Path)
    }
    named = {name: f"<{type(data[name]).__name__}>" if name in data else value for name, value in given.items()}
    settings = make(
        {name: str(v) if isinstance(v, Path) else v for name, v in named.items()}, "arguments", AuditSettings
    )
    for name in ("model", "forget"):
        if not getattr(settings, name):
            raise UserError(f"No {name} is given: rkld.audit(model, forget=…) and rkld audit MODEL --forget need both.")
    _check_names(settings)
    _check_served(settings)
    if settings.retain_logs:
        _check_logs(settings.retain_logs)
    run = _AuditRun(settings, read_task(settings, data), data, processing_class, progress or NoProgress())
    return run.go()


def _check_names(settings: AuditSettings) -> None:
    """Attacks, metrics and gates, before anything is read."""
    known = audit_metrics(settings)
    for kind, name, _ in settings.gates():
        if name not in known:
            raise UserError(f"there is no metric '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
        if instead := known[name].distance:
            raise UserError(
                f"--{kind} {name}: a model gives the records away by how far it is from one that never saw them, above "
                f"or below. Give --max {instead}=0.25, or another distance."
            )


ENCODING = ("system_prompt", "chat_template", "template_date", "max_length")
"""Settings of the encoder: of a served model there is none without its tokenizer."""


def _check_served(settings: AuditSettings) -> None:
    """What would say nothing to a served model."""
    if not settings.endpoint or settings.tokenizer:
        return
    known = specs(AuditSettings)
    for name in ENCODING:
        if getattr(settings, name) != known[name].default:
            raise UserError(
                f"{flag(name)} does nothing with --endpoint and without --tokenizer: the server writes the prompts in "
                f"its own format. Give the folder of the served model's tokenizer with --tokenizer, or leave it out."
            )


def _check_logs(path: str) -> None:
    """They are read last, but must not fail then."""
    try:
        logged_ratios(read_logs(path))
    except ValueError as error:
        raise UserError(f"--retain-logs {path}: {error}. Give a log of the forget set.") from None


def audit_folder(settings: AuditSettings) -> Path:
    """Where audit.json goes: beside the run that made the model, where there is one."""
    if settings.out:
        return Path(settings.out)
    return run_of(settings.model) or Path("runs") / f"{Path(settings.model).name or 'model'}-audit"


class _AuditRun:
    """One audit: the roles share the task and the folder."""

    def __init__(
        self, settings: AuditSettings, task: Task, data: Mapping[str, Any], tokenizer: Any, progress: NoProgress
    ):
        self.settings, self.task, self.data, self.tokenizer, self.progress = settings, task, data, tokenizer, progress
        self.folder = audit_folder(settings)
        self.models: dict[str, dict[str, Any]] = {}
        self.readings: dict[str, dict[str, Any]] = {}
        self.not_run: dict[str, str] = {}
        self.reasons: dict[str, str | None] = {}
        """Of the model that is open: why a reading is not made of it."""
        self.served: list[Path] = []
        attacks, chosen = known_attacks(settings), {attack.name for attack in chosen_attacks(settings)}
        self.all_readings: list[Reading] = [*READINGS, *attacks]
        self.left_out_attacks = {attack.name for attack in attacks} - chosen

    def go(self) -> Audit:
        started = time.time()
        self._check_sources()
        reader = self._open("audited")  # what cannot be loaded ends it before anything is written
        self._start()
        self._read(reader)
        for role in ("control", "original"):
            if getattr(self.settings, role):
                del reader
                gc.collect()
                reader = self._open(role)
                check_control(self.models, {})
                self._read(reader)
            else:
                self.not_run[role] = f"no --{role} was given"
        self._own_answers(reader if reader.role == "original" else None)
        content = document(
            self.task,
            self.readings,
            models=self.models,
            inputs=self._inputs(),
            not_run=[{"name": name, "reason": reason} for name, reason in self.not_run.items()],
            versions={name: importlib.metadata.version(name) for name in VERSIONS},
            seconds=round(time.time() - started, 1),
        )
        path = self.folder / AUDIT
        write_json(path, content)
        if self.settings.redact:
            self._remove_readings()
        for reading in self.served:  # another model may be served there by the time of the next audit
            reading.unlink(missing_ok=True)
        return Audit(content["verdict"], path, content)

    def _remove_readings(self) -> None:
        try:
            shutil.rmtree(self.folder / KEPT)
        except OSError as error:
            raise UserError(
                f"{self.folder / KEPT}: cannot be removed ({error.strerror}), and it holds what was asked and said, "
                f"which is personal data. Delete it; {AUDIT} is written and holds none."
            ) from None

    # The folder ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        try:
            (self.folder / KEPT).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be made ({error.strerror}). Give another folder with --out."
            ) from None
        salt = self.folder / SALT
        if not salt.exists():
            write_text(salt, secrets.token_hex(16))
        self.salt = salt.read_text(encoding="utf-8").strip()
        self.key = own_key()  # the folder may have come from whoever is audited, with readings in it

    def _salted(self, value: object) -> str:
        return salted(self.salt, value)

    def _inputs(self) -> dict[str, Any]:
        sets = {name: {"n": len(rows), "hash": self._salted(rows)} for name, rows in self.task.contents().items()}
        return {**sets, "subject": {"n": len(self.task.identifiers), "hash": self._salted(self.task.identifiers)}}

    # Models --------------------------------------------------------------------------------------------------------

    def _open(self, role: str) -> Reader:
        s, name = self.settings, "model" if role == "audited" else role
        source = self.data[name] if name in self.data else getattr(s, name)
        if role == "audited" and s.endpoint:
            self.progress.say(f"Connecting to {s.endpoint}")
            encoder = make_encoder(s, self._tokenizer(s.tokenizer)) if s.tokenizer else None
            backend: GenerationBackend = EndpointBackend(s.endpoint, s.model, encoder=encoder)
            self.models[role] = {"source": s.model, "endpoint": s.endpoint, "fingerprint": None}
            if encoder is not None:
                self.models[role]["template"] = encoder.fingerprint
            return self._prepared(Reader(role, backend, encoder, None, self.task, self.progress))
        self.progress.say(f"Loading the {role} model")
        if isinstance(source, str):
            lm, encoder = load_with_encoder(s, model_path(source))
        else:
            lm, encoder = load_with_encoder(s, source, self.tokenizer)
        self.models[role] = {
            "source": source if isinstance(source, str) else f"<{type(source).__name__}>",
            "fingerprint": fingerprint(lm),
            "template": encoder.fingerprint,
        }
        return self._prepared(Reader(role, LocalBackend(lm, encoder), encoder, lm, self.task, self.progress))

    def _check_sources(self) -> None:
        """Refuse models that are not there, and a control that is none, before the first of them is loaded."""
        folders = {}
        if "model" not in self.data and not self.settings.endpoint:
            folders["audited"] = resolve(model_path(self.settings.model))
        for role in ("control", "original"):
            source = getattr(self.settings, role)
            if source and role not in self.data:
                folders[role] = resolve(model_path(source))
        check_folders(folders)

    def _prepared(self, reader: Reader) -> Reader:
        """The same, with all that it will be asked encoded: what the encoder refuses ends the audit before an answer.

        Readings that this model cannot give are noted.
        """
        self.reasons = {reading.name: self._not_run(reading, reader) for reading in self.all_readings}
        if reader.encoder is not None:
            for reading in self.all_readings:
                if self.reasons[reading.name] is None:
                    reading.encode(self.task, reader.encoder)
        return reader

    def _tokenizer(self, folder: str) -> Any:
        """That of the served model."""
        tokenizer = load_tokenizer(Path(resolve(folder)), self.settings.trust_remote_code)
        if self.settings.chat_template:
            tokenizer.chat_template = read_template(self.settings.chat_template)
        return tokenizer

    # Readings ------------------------------------------------------------------------------------------------------

    def _not_run(self, reading: Reading, reader: Reader) -> str | None:
        if reading.name in self.left_out_attacks:
            return f"not asked for with --attacks {reading.name}"
        reason = reading.not_run(self.task, served=reader.lm is None)
        return reason if reason or reader.lm is None else reading.why_not_applicable(reader.lm)

    def _read(self, reader: Reader) -> None:
        started = time.time()
        found, failed = self.readings.setdefault(reader.role, {}), None
        for reading in self.all_readings:
            reason = self.reasons[reading.name]
            if reason is None:
                try:
                    values = [getattr(self.settings, name) for name in reading.settings]
                    read = partial(reading.read, reader)
                    found[reading.name] = self._once(reader.role, reading.name, read, reading.version, values)
                except UserError as error:  # a library or an ability of the server that is not there
                    reason, failed = str(error), error
                else:
                    if not found[reading.name]:
                        reason = "gave nothing: no record it applies to, or the server returns no such numbers"
            if reason is not None:
                found.pop(reading.name, None)
                if reader.role == "audited":
                    self.not_run[reading.name] = reason
                elif reading.name in self.readings["audited"]:  # else it was noted of the audited model
                    self.not_run[f"{reader.role}: {reading.name}"] = reason
            if reading.name == "membership":  # losses of forget and holdout records are known now
                check_control(self.models, self.readings)
        if failed and not found:  # nothing at all: a server that is not there
            raise failed
        self.models[reader.role]["seconds"] = round(time.time() - started, 1)
        if isinstance(reader.backend, EndpointBackend):
            self.models[reader.role]["own_settings"] = reader.backend.own_settings

    def _once(self, role: str, name: str, read: Callable[[], Any], *also: object) -> Any:
        """A reading, made now or found where an audit in this folder made it before: its name tells what it is of.

        Args:
            also: what it depends on beside model, template, the context's cut and all that the task holds.
        """
        model, task = [self.models[role].get(key) for key in ("fingerprint", "template", "endpoint")], self.task
        if model[0] is None:
            model.append(self.models[role]["source"])
        of = self._salted(
            [
                self.key,
                READING_FORMAT,
                model,
                self.settings.max_length,
                task.contents(),
                task.identifiers,
                dict(task.facts),
                *also,
            ]
        )
        notes = HashedFiles(self.folder / KEPT, of)
        if self.models[role]["fingerprint"] is None:
            self.served.append(notes.path(name))
        return once(notes, name, lambda: plain(read()))

    def _own_answers(self, original: Reader | None) -> None:
        """Every model's answers about the person, under the original."""
        if original is None:
            self.not_run[OWN_ANSWERS] = "needs --original"
            return
        of = [self.models["original"][key] for key in ("fingerprint", "template")]
        sound = [
            row["answer"] for name in ("answers", *UTILITY) for row in self.readings["original"].get(name, {}).values()
        ]
        for role, found in self.readings.items():
            if answers := found.get("answers"):
                read = partial(own_answer_rows, original, self.task.forget, answers, sound)
                found[OWN_ANSWERS] = self._once(role, OWN_ANSWERS, read, of, answers, sound)
