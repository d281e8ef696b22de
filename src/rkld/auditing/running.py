"""The audit: one command from a model and a file of records to ``audit.json``, the evidence.

Models are read one after another (audited, control, original), reading by reading; each reading is written at once and
found again when the same audit is started again. Then all metrics are computed of the readings, gates are judged, and
the document is written (schema: ``schema.json`` beside this file).
"""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Unpack

from rkld import processes
from rkld.auditing.control import check_control, check_other_folder, one_model
from rkld.auditing.evidence import REDACTED, document, model_path, plain
from rkld.auditing.gates import check_limits
from rkld.auditing.inputs import Task, read_task
from rkld.auditing.metrics import audit_metrics
from rkld.auditing.reading import Reader, Reading
from rkld.auditing.readings import OF_EVERY_MODEL, OWN_ANSWERS, own_answer_rows
from rkld.auditing.registry import chosen_attacks, known_attacks
from rkld.auditing.steering import run_manifest
from rkld.errors import UserError, machine_errors_explained, nearest
from rkld.evaluation.backends import GenerationBackend, LocalBackend
from rkld.evaluation.endpoint_backend import EndpointBackend
from rkld.evaluation.metric import KEPT
from rkld.evaluation.tofu import logged_ratios, read_logs
from rkld.files import make_own_folder, write_json, write_text
from rkld.models.language_model import LanguageModel
from rkld.models.loading import read_tokenizer, resolve
from rkld.models.state import fingerprint
from rkld.pipeline.description import described, prompts, template_warning, weights
from rkld.pipeline.preparing import load_with_encoder, make_encoder
from rkld.progress import NoProgress, chosen, without_noise
from rkld.records.encoding import Encoder
from rkld.records.identity import check_request
from rkld.runfolder.checksums import checksum, read_sealed, sealed, weights_hash
from rkld.runfolder.lock import MODEL, hold
from rkld.runfolder.manifest import (
    AUDIT,
    MANIFEST,
    READINGS,
    SALT,
    check_model,
    check_outside,
    read_manifest,
    run_of,
    salted,
)
from rkld.runfolder.once import HashedFiles, Notes, once, own_key
from rkld.runfolder.request import RequestForm, request_in
from rkld.settings.auditing import AuditSettings
from rkld.settings.specification import flag, make
from rkld.settings.table import specs
from rkld.settings.typed import AuditKeywords

logger = logging.getLogger(__name__)

READING_FORMAT = 5
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


@machine_errors_explained()
@without_noise()
def audit(
    model: Any = None,
    forget: Any = None,
    *,
    processing_class: Any = None,
    progress: NoProgress | bool | None = None,
    **keywords: Unpack[AuditKeywords],
) -> Audit:
    """Ask a model, by all means there are, for what it should have forgotten.

    Args:
        model: folder, hub name, adapter folder, run folder, or a loaded model; with ``endpoint`` the served name.
        forget: the records, as :func:`rkld.pipeline.phases` takes them.
        processing_class: the tokenizer, where ``model`` is an object.
        progress: True, or an object that shows what is going on (:class:`rkld.progress.ProgressBars`).
        keywords: everything else, by the names of :class:`rkld.settings.auditing.AuditSettings`; ``original`` and
            ``control`` may be loaded models, sets of records data.

    Started by ``torchrun`` or ``accelerate launch``, all processes share the questions, and each returns the result.

    Raises:
        UserError: bad input; nothing has been written then.
    """
    with processes.together():
        return processes.checked(lambda: _prepared_run(model, forget, processing_class, progress, keywords)).go()


def _prepared_run(
    model: Any, forget: Any, processing_class: Any, progress: NoProgress | bool | None, keywords: Mapping[str, Any]
) -> _AuditRun:
    """All that can be known of an audit before a model is opened, as of :func:`audit`."""
    given: dict[str, Any] = {"model": model, "forget": forget, **keywords}
    data = {
        name: given[name]
        for name in ("model", "forget", "holdout", *KEPT, "probes", "original", "control")
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
    if "model" not in data and not settings.endpoint:
        check_run_model(settings.model)
    shown = chosen(progress) if processes.is_first() else NoProgress()
    return _AuditRun(settings, read_task(settings, data), data, processing_class, shown)


def _check_names(settings: AuditSettings) -> None:
    """Attacks, metrics and gates, before anything is read."""
    check_limits(settings.gates())
    known = audit_metrics(settings)
    for kind, name, limit in settings.gates():
        if name not in known:
            raise UserError(f"there is no metric '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
        low, high = known[name].bounds
        if not low <= limit <= high:
            raise UserError(f"--{kind} {name}={limit:g} says nothing: the figure lies between {low:g} and {high:g}.")
        if instead := known[name].distance:
            raise UserError(
                f"--{kind} {name}: a model gives the records away by how far it is from one that never saw them, above "
                f"or below. Give --max {instead}=0.25, or another distance."
            )


ENCODING = ("system_prompt", "chat_template", "template_date", "max_length")
"""Settings of the encoder: of a served model there is none without its tokenizer."""


def _check_served(settings: AuditSettings) -> None:
    """What would say nothing to a served model, and several processes that would ask it the same."""
    if not settings.endpoint:
        return
    processes.require_one("a served model is asked by one")
    if settings.tokenizer:
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


def check_run_model(source: str) -> None:
    """Refuse the model of a run that is another by now: what the run's manifest says does not hold for it.

    Raises:
        UserError: so.
    """
    run = run_of(source)
    if run is not None and Path(source).resolve() in (run.resolve(), (run / MODEL).resolve()):
        check_model(run)


def audit_folder(settings: AuditSettings, weights: str | None) -> Path:
    """Where audit.json goes, unless a place is given: beside the run that made the model, where there is one.

    Else a folder named by the model and by what it holds, so that two that are called the same do not share one.

    Args:
        weights: the hash of the model's weight files, where it has any.
    """
    of = salted("", _identity({"weights": weights, "endpoint": settings.endpoint, "source": settings.model}))[:8]
    return run_of(settings.model) or Path("runs") / f"{Path(settings.model).name or 'model'}-{of}-audit"


def _weights(source: str) -> str | None:
    """The hash of a model's weight files; None where it is no folder."""
    try:
        folder = Path(resolve(model_path(source)))
    except UserError:  # said when it is opened
        return None
    return weights_hash(folder) if folder.is_dir() else None


def _identity(model: Mapping[str, Any]) -> list[Any]:
    """Which model it is, as far as audit.json says: its weights, or where it is served."""
    held = model.get("weights") or model.get("fingerprint")
    return [held, model.get("base_weights")] if held else [model.get("endpoint"), model.get("source")]


class _Shared:
    """Notes that the first process keeps, and all read."""

    def __init__(self, notes: Notes):
        self.notes = notes

    def find(self, name: str) -> Any | None:
        return processes.by_main(lambda: self.notes.find(name))

    def note(self, name: str, made: Any) -> Any:
        return processes.by_main(lambda: self.notes.note(name, made))


class _AuditRun:
    """One audit: the roles share the task and the folder."""

    def __init__(
        self, settings: AuditSettings, task: Task, data: Mapping[str, Any], tokenizer: Any, progress: NoProgress
    ):
        self.settings, self.task, self.data, self.tokenizer, self.progress = settings, task, data, tokenizer, progress
        self.folder = Path(settings.out) if settings.out else audit_folder(settings, self.weights)
        if not settings.endpoint:
            check_outside(self.folder, model_path(settings.model))
        self.models: dict[str, dict[str, Any]] = {}
        self.readings: dict[str, dict[str, Any]] = {}
        self.not_run: dict[str, str] = {}
        self.reasons: dict[str, str | None] = {}
        """Of the model that is open: why a reading is not made of it."""
        self.held: dict[str, str | None] = {}
        """Role → :meth:`_held`, of those that were asked for."""
        self.noted: dict[str, dict[str, Path]] = {}
        """Role → reading → its file."""
        self.request = self._stated()
        attacks, chosen = known_attacks(settings), {attack.name for attack in chosen_attacks(settings)}
        self.all_readings: list[Reading] = [*OF_EVERY_MODEL, *attacks]
        self.left_out_attacks = {attack.name for attack in attacks} - chosen

    def _stated(self) -> RequestForm:
        """What is stated of the request: here, or to the run that wrote the model.

        Raises:
            UserError: as of :meth:`rkld.runfolder.request.RequestForm.read`.
        """
        of_the_run = {} if self.settings.endpoint else run_manifest(self.settings.model) or {}
        found = RequestForm.read(self.settings.request, self.settings.note, request_in(of_the_run))
        check_request(found, self.task.identifiers)
        return found

    @cached_property
    def weights(self) -> str | None:
        """The hash of the audited model's files, where it has any."""
        return None if "model" in self.data or self.settings.endpoint else _weights(self.settings.model)

    def go(self) -> Audit:
        self.folder = processes.agreed(self.folder)
        with ExitStack() as held:

            def take() -> None:
                held.enter_context(hold(self.folder, marks=(MANIFEST, SALT, AUDIT), shared=True))

            processes.by_main(take)
            return self._go()

    def _go(self) -> Audit:
        started = time.time()
        processes.checked(self._check_folder)
        processes.checked(self._check_sources)
        reader = self._open("audited")  # what cannot be loaded ends it before anything is written
        self.salt, self.key, self.earlier = processes.by_main(self._start)
        self._read(reader)
        for role in ("control", "original"):
            if getattr(self.settings, role):
                del reader
                gc.collect()
                reader = self._open(role)
                check_control(self.models, {})
                if role == "original" and (same := one_model(self.models)):
                    self.progress.say(f"Warning: {same}.")
                self._read(reader)
            else:
                self.not_run[role] = f"no --{role} was given"
        self._own_answers(reader if reader.role == "original" else None)
        content = processes.by_main(lambda: self._written(started))
        return Audit(content["verdict"], self.folder / AUDIT, content)

    def _written(self, started: float) -> dict[str, Any]:
        """Judge what was read, and write the evidence: audit.json's content.

        Args:
            started: when the audit began, in seconds of ``time.time()``.
        """
        found = document(
            self.task,
            self.readings,
            models=self.models,
            inputs=self._inputs(),
            not_run=[{"name": name, "reason": reason} for name, reason in self.not_run.items()],
            versions={name: importlib.metadata.version(name) for name in VERSIONS},
            seconds=round(time.time() - started, 1),
            request=self.request,
        )
        if not self.settings.redact:
            found["readings"] = {
                role: {name: {"file": path.name, "checksum": checksum(path)} for name, path in files.items()}
                for role, files in self.noted.items()
            }
        content = sealed(found)
        write_json(self.folder / AUDIT, content)
        if self.settings.redact:
            self._remove_readings()
        return content

    def _remove_readings(self) -> None:
        try:
            shutil.rmtree(self.folder / READINGS)
        except OSError as error:
            raise UserError(
                f"{self.folder / READINGS}: cannot be removed ({error.strerror}), and it holds what was asked and "
                f"said, which is personal data. Delete it; {AUDIT} is written and holds none."
            ) from None

    # The folder ----------------------------------------------------------------------------------------------------

    def _check_folder(self) -> None:
        """Refuse the folder of a run that wrote another model: its report would show this verdict as that one's.

        Raises:
            UserError: so.
        """
        model, run = self.folder / MODEL, run_of(self.settings.model)
        if self.weights is None or not model.is_dir() or read_manifest(self.folder) is None:
            return
        if (run is None or run.resolve() != self.folder.resolve()) and weights_hash(model) != self.weights:
            raise UserError(
                f"--out {self.folder} is the folder of a run that wrote another model, and its report would show this "
                "verdict as that one's. Give another folder with --out."
            )

    def _start(self) -> tuple[str, str, str | None]:
        """Make the folder ready: the salt of its hashes, the key of its readings, and :meth:`_earlier`."""
        salt = self.folder / SALT
        found = salt.read_text(encoding="utf-8", errors="replace").strip() if salt.is_file() else ""
        if salt.exists() and not re.fullmatch("[0-9a-f]{32}", found):
            logger.warning("%s is damaged: another is made, and everything is read anew.", salt)
            found = ""
        earlier = self._earlier(found)
        try:
            make_own_folder(self.folder / READINGS)
        except OSError as error:
            raise UserError(
                f"{self.folder / READINGS}: cannot be made ({error.strerror}). Give another folder with --out."
            ) from None
        if not found:
            write_text(salt, found := secrets.token_hex(16))
        return found, own_key(), earlier  # the folder may have come from whoever is audited, with readings in it

    def _earlier(self, salt: str) -> str | None:
        """The checksum of the evidence that lies there; that of another model or of other records is not replaced.

        Args:
            salt: of the hashes in it; "" where it is gone, so that only their number tells the records from others.

        Raises:
            UserError: so.
        """
        path = self.folder / AUDIT
        if not path.is_file():
            return None
        earlier = checksum(path)
        found = read_sealed(path)
        if found is None and (self.folder / SALT).exists():
            logger.warning("%s is damaged: it is written anew.", path)
            return earlier
        models = found.get("models") if found else None
        then = models.get("audited") if isinstance(models, dict) else None
        if not isinstance(then, dict):
            raise UserError(f"{path} is no audit of rkld. Give another folder with --out.")
        now = {"fingerprint": None, **self.models["audited"]}
        if "weights" not in then:  # of an earlier version
            now.pop("weights", None)
        if "base" not in then:  # of an earlier version, or no adapter
            now.pop("base_weights", None)
        if then.get("source") == REDACTED:
            now["source"] = REDACTED
        if _identity(then) != _identity(now):
            raise UserError(
                f"{self.folder} holds the audit of another model, which would be lost. Give another folder with --out, "
                f"or delete that {AUDIT}."
            )
        self._refuse_other_records(found, salt)
        return earlier

    def _refuse_other_records(self, earlier: Mapping[str, Any] | None, salt: str) -> None:
        """Refuse to replace evidence about other forget records, or about more or fewer of them."""
        inputs = earlier.get("inputs") if earlier else None
        then = inputs.get("forget") if isinstance(inputs, dict) else None
        if not isinstance(then, dict):
            return
        rows = self.task.contents().get("forget", [])
        if then.get("n") != len(rows) or (salt and then.get("hash") != salted(salt, rows)):
            raise UserError(
                f"{self.folder} holds the audit of other records ({then.get('n')} then, {len(rows)} now), which would "
                f"be lost, and its report with it. Give another folder with --out, or delete that {AUDIT}."
            )
        if not salt:
            logger.warning("Whether %s is about these records is not known any more; it is replaced.", AUDIT)

    def _salted(self, value: object) -> str:
        return salted(self.salt, value)

    def _inputs(self) -> dict[str, Any]:
        sets = {name: {"n": len(rows), "hash": self._salted(rows)} for name, rows in self.task.contents().items()}
        return {**sets, "subject": {"n": len(self.task.identifiers), "hash": self._salted(self.task.identifiers)}}

    # Models --------------------------------------------------------------------------------------------------------

    def _open(self, role: str) -> Reader:
        return processes.checked(lambda: self._opened(role))

    def _opened(self, role: str) -> Reader:
        s, source = self.settings, self._source(role)
        if role == "audited" and s.endpoint:
            self.progress.say(f"Connecting to {s.endpoint}")
            encoder, template_source = self._served_encoder()
            backend: GenerationBackend = EndpointBackend(s.endpoint, s.model, encoder=encoder, timeout=s.timeout)
            self.models[role] = {"source": s.model, "endpoint": s.endpoint, "fingerprint": None}
            if encoder is not None:
                self.models[role] |= self._format(template_source, encoder)
            return self._prepared(Reader(role, backend, encoder, None, self.task, self.progress))
        self.progress.say(f"Loading the {role} model")
        if isinstance(source, str):
            lm, encoder = load_with_encoder(s, model_path(source))
        else:
            lm, encoder = load_with_encoder(s, source, self.tokenizer)
        self.models[role] = {
            "source": source if isinstance(source, str) else f"<{type(source).__name__}>",
            "fingerprint": fingerprint(lm),
            "dtype": weights(lm),
            **self._format(lm.template_source, encoder),
        }
        for what, how in described(lm):
            self.progress.say(f"{what.capitalize()}: {how}")
        held = self.weights if role == "audited" else _weights(source) if isinstance(source, str) else None
        if held:
            self.models[role]["weights"] = held
        if lm.is_adapter:  # its own files are the least of what answers
            base = lm.inner.name_or_path
            self.models[role]["base"] = base or "<object>"
            if base and (beneath := _weights(base)):
                self.models[role]["base_weights"] = beneath
        backend = LocalBackend(lm, encoder)
        return self._prepared(Reader(role, backend, encoder, lm, self.task, self.progress, self._beside))

    def _beside(self, role: str) -> LanguageModel:
        """Another model, opened anew while one is read: both are in memory then."""
        self.progress.say(f"Loading the {role} model beside it")
        source = self._source(role)
        if isinstance(source, str):
            return load_with_encoder(self.settings, model_path(source))[0]
        return load_with_encoder(self.settings, source, self.tokenizer)[0]

    def _source(self, role: str) -> Any:
        name = "model" if role == "audited" else role
        return self.data[name] if name in self.data else getattr(self.settings, name)

    def _held(self, role: str) -> str | None:
        """What tells a model from others before it is opened: the hash of its files; of an object its fingerprint."""
        if role not in self.held:
            source = self._source(role)
            self.held[role] = _weights(source) if isinstance(source, str) else fingerprint(self._beside(role))
        return self.held[role]

    def _format(self, template_source: str | None, encoder: Encoder) -> dict[str, str]:
        """How the model's records are written; said where it is without a chat template."""
        records = self.task.forget
        if warning := template_warning(template_source, encoder.tokenizer, records):
            self.progress.say(f"Warning: {warning}")
        return {"template": encoder.fingerprint, "prompts": prompts(template_source)}

    def _check_sources(self) -> None:
        """Refuse models that are not there, and a control that is none, before the first of them is loaded."""
        folders = {}
        if "model" not in self.data and not self.settings.endpoint:
            folders["audited"] = resolve(model_path(self.settings.model))
        for role in ("control", "original"):
            source = getattr(self.settings, role)
            if source and role not in self.data:
                check_run_model(source)
                folders[role] = resolve(model_path(source))
        check_other_folder(folders)

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

    def _served_encoder(self) -> tuple[Encoder | None, str | None]:
        """The served model's, and whose chat template it has; None without its tokenizer."""
        s = self.settings
        if not s.tokenizer:
            return None, None
        tokenizer, template_source = read_tokenizer(
            s.tokenizer, trust_remote_code=s.trust_remote_code, chat_template=s.chat_template
        )
        return make_encoder(s, tokenizer), template_source

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
                    values += [[getattr(self.settings, of), self._held(of)] for of in getattr(reading, "beside", ())]
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
        if model[0] is None:  # another may be served there by now, unless this goes on with an interrupted audit
            model += [self.models[role]["source"], self.earlier]
        of = self._salted(
            [
                self.key,
                READING_FORMAT,
                model,
                self.settings.max_length,
                task.contents(),
                task.identifiers,
                dict(task.facts),
                task.of_others,
                *also,
            ]
        )
        notes = HashedFiles(self.folder / READINGS, of, self.key)
        found = once(_Shared(notes), name, lambda: plain(read()))
        self.noted.setdefault(role, {})[name] = notes.path(name)
        return found

    def _own_answers(self, original: Reader | None) -> None:
        """Every model's answers about the person, under the original."""
        if original is None:
            self.not_run[OWN_ANSWERS] = "needs --original"
            return
        of = [self.models["original"][key] for key in ("fingerprint", "template")]
        sound = [
            row["answer"] for name in ("answers", *KEPT) for row in self.readings["original"].get(name, {}).values()
        ]
        for role, found in self.readings.items():
            if answers := found.get("answers"):
                read = partial(own_answer_rows, original, self.task.asked, answers, sound)
                found[OWN_ANSWERS] = self._once(role, OWN_ANSWERS, read, of, answers, sound)
