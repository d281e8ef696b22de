"""The request that a run answers, as a form: who asked and when, what serves now, what became of copies and data.

Nothing of it is measured and nothing of it is checked: it is what the people who run the erasure state. What is empty
is not stated. ``rkld init`` writes the form, ``--request FILE`` reads it, ``--note`` adds to it; a run keeps it in its
manifest, an audit in ``audit.json``.
"""

from __future__ import annotations

import dataclasses
import datetime
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rkld.errors import UserError, nearest, shown
from rkld.settings.config_file import read_form

LONGEST = 4000
"""Characters of a field."""

MOST_COPIES = 100

NOT_STATED = "not stated"
"""How an empty field is shown."""

REQUEST = "request"
"""The key in a manifest and in audit.json."""

_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Turn the direction of writing: what is read is not what stands there."""


def _field(label: str, help: str, *, personal: bool = False) -> Any:
    """A field of the form.

    Args:
        label: as a page shows it; help: as the form explains it.
        personal: it may name the person who is forgotten, so that a purge takes it out.
    """
    return dataclasses.field(default="", metadata={"label": label, "help": help, "personal": personal})


@dataclass(frozen=True)
class Copy:
    """A copy of the weights: what it is, its fingerprint where that is known, and whether it was replaced."""

    what: str = ""
    fingerprint: str = ""
    replaced: str = ""


@dataclass(frozen=True)
class RequestForm:
    """What is stated of a request; every field is a text, empty where nothing is stated.

    Each field's metadata has its "label", its "help", and whether it is "personal". Articles are the GDPR's.
    """

    id: str = _field("Request", "Your number of the request. It stands for the person: write no name here.")
    received: str = _field(
        "Received", "The date, YYYY-MM-DD. Article 12(3) gives one month from it, three where you say why."
    )
    asked_by: str = _field("Asked by", "Who asked: the person, a lawyer, an authority.", personal=True)
    run_by: str = _field("Run by", "Who runs the erasure: a name or a role.")
    identity_checked: str = _field("Identity checked", "How, when and by whom.", personal=True)
    exceptions_considered: str = _field(
        "Exceptions considered (Article 17(3))",
        "Freedom of expression, legal duties, public health, archives, legal claims: which were considered, and why "
        "none applies.",
        personal=True,
    )
    recipients_told: str = _field(
        "Recipients told (Article 19)", "To whom weights or data were given, and when they were told.", personal=True
    )
    weights_in_use: str = _field("Weights in use", "Which weights serve now: a name and, where known, a fingerprint.")
    in_use_since: str = _field("In use since", "Since when they serve.")
    copies: tuple[Copy, ...] = dataclasses.field(
        default=(),
        metadata={
            "label": "Copies",
            "help": "Adapters, merged, quantised and served copies of the old weights, one each.",
            "personal": False,
        },
    )
    training_data_deleted: str = _field("Training data deleted", "Whether, when and where the person's data was.")
    barred_from_next_training: str = _field(
        "Barred from the next training", "How the data is kept out of the next training: a list, a filter, nothing."
    )
    languages_asked: str = _field("Languages asked", "In which languages the model was asked about the person.")
    compared_with: str = _field(
        "Compared with", "What stands in for a model that never saw the person, where the audit has no control."
    )
    looked_at_again: str = _field("Looked at again", "When the model is audited again, or after what event.")
    evidence_kept_until: str = _field("Evidence kept until", "When this evidence is deleted.")
    note: str = _field("Note", "Anything else; --note TEXT is put here.", personal=True)

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> RequestForm:
        """The form from loose values, each checked.

        Args:
            where: what to call the place that they came from.

        Raises:
            UserError: an unknown field, with the nearest known one; a value that is no text, too long, or holds
                characters that are not what they look like; ``received`` that is no date.
        """
        _check_names(values, cls, where)
        given = {name: _text(value, f"{where}: '{name}'") for name, value in values.items() if name != "copies"}
        received = given.get("received", "")
        if received and not _is_date(received):
            raise UserError(f"{where}: 'received' is {shown(received)}; write a date as YYYY-MM-DD.")
        return cls(**given, copies=_copies(values.get("copies"), where))

    @classmethod
    def read(cls, path: str | None, note: str | None, beneath: RequestForm | None = None) -> RequestForm:
        """The form in a YAML file, with a note in the place of its own.

        Args:
            path: of the file; None: ``beneath``, an empty form by default, is taken.

        Raises:
            UserError: it cannot be read (:func:`rkld.settings.config_file.read_form`), or as of :meth:`of`.
        """
        form = beneath or cls()
        if path is not None:
            form = cls.of(read_form(path, "--request", "fields"), path)
        return form if note is None else dataclasses.replace(form, note=_text(note, "--note"))

    @property
    def is_stated(self) -> bool:
        """Whether anything is."""
        return self != NOTHING_STATED

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, as JSON has it: the form's shape is the same whatever is stated."""
        found: dict[str, Any] = {**dataclasses.asdict(self), "copies": [dataclasses.asdict(c) for c in self.copies]}
        return found

    @property
    def is_personal(self) -> bool:
        """Whether something is stated in a field that may name the person."""
        return any(getattr(self, field.name) for field in dataclasses.fields(self) if field.metadata["personal"])

    def without_personal(self, instead: str) -> RequestForm:
        """The form with ``instead`` in every field that is stated and may name the person."""
        named = [field.name for field in dataclasses.fields(self) if field.metadata["personal"]]
        purged: dict[str, Any] = {name: instead for name in named if getattr(self, name)}
        return dataclasses.replace(self, **purged)

    def lasting_texts(self) -> dict[str, str]:
        """Field → text of what a purge leaves, of those that are stated."""
        left = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for field in dataclasses.fields(self):
            if field.metadata["personal"]:
                del left[field.name]
        left["copies"] = "\n".join("\n".join(dataclasses.astuple(copy)) for copy in self.copies)
        return {name: text for name, text in left.items() if text}


NOTHING_STATED = RequestForm()


def request_in(*documents: Mapping[str, Any]) -> RequestForm:
    """The request in the first of these documents (audit.json, a manifest) that has one; an empty form where none has.

    Raises:
        UserError: what stands there is no form: the document was changed.
    """
    for document in documents:
        found = document.get(REQUEST)
        if isinstance(found, Mapping):
            return RequestForm.of(found, "the request in the run's folder")
    return NOTHING_STATED


def _check_names(values: Mapping[str, Any], cls: type, where: str) -> None:
    known = [field.name for field in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            raise UserError(f"{where}: unknown field {shown(name)}.{nearest(str(name), known)}")


def _text(value: object, where: str) -> str:
    """A text without what surrounds it. It is in no message: it may be personal."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where} is a {type(value).__name__}; write a text.")
    if len(value) > LONGEST:
        raise UserError(f"{where} has {len(value)} characters; it must have at most {LONGEST}.")
    if any(char in _BIDI or (unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t") for char in value):
        raise UserError(f"{where} holds control characters, or some that turn the direction of writing: take them out.")
    return value.strip()


def _copies(value: object, where: str) -> tuple[Copy, ...]:
    if value is None or value == "":
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(one, Mapping) for one in value):
        raise UserError(f"{where}: 'copies' is no list of copies: write '- what: …' with 'fingerprint' and 'replaced'.")
    if len(value) > MOST_COPIES:
        raise UserError(f"{where}: 'copies' has {len(value)} entries; it must have at most {MOST_COPIES}.")
    found = []
    for number, one in enumerate(value, 1):
        of = f"{where}: copy {number}"
        _check_names(one, Copy, of)
        found.append(Copy(**{name: _text(text, f"{of}: '{name}'") for name, text in one.items()}))
    return tuple(copy for copy in found if any(dataclasses.astuple(copy)))


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
