"""The two models that are looked at, the request's questions, and what counts as a fact that was said."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rkld.auditing.evidence import model_path
from rkld.auditing.running import check_run_model
from rkld.errors import UserError
from rkld.evaluation.prefilling import generation_prompts
from rkld.models.language_model import LanguageModel
from rkld.models.loading import add_adapter, resolve
from rkld.pipeline.preparing import load_with_encoder
from rkld.records.encoding import Encoder
from rkld.records.identity import identifiers
from rkld.records.probes import facts_of
from rkld.records.reading import read_records, read_subjects
from rkld.records.record import Record, Turn, by_answer
from rkld.runfolder.checksums import same_weights
from rkld.runfolder.manifest import SETTINGS, read_manifest, run_of
from rkld.settings.comparing import CompareSettings
from rkld.settings.config_file import read_config
from rkld.text.matching import Matcher
from rkld.text.printable import printable

logger = logging.getLogger(__name__)

AS_IN_THE_RUN = ("system_prompt", "chat_template", "template_date", "max_length")
"""Settings that a run has, too: its own are taken where nothing else is given."""

OFF = "(off)"
"""In the place of an adapter's name: none is on."""

SHOWN = 120
"""Characters of a plain text that stand for it in the list of questions."""


@dataclass(frozen=True)
class Side:
    """One of the two models, as it is asked."""

    name: str
    source: str
    """As the user calls it."""
    lm: LanguageModel
    encoder: Encoder
    adapter: str | None = None
    """Of a model that both sides share: the adapter that is on for this side, or :data:`OFF`."""

    def active(self) -> AbstractContextManager[Any]:
        """The model is this side's within the block."""
        if self.adapter == OFF:
            return self.lm.model.disable_adapter()
        if self.adapter is not None:
            self.lm.model.set_adapter(self.adapter)
        return nullcontext()

    def prompt(self, record: Record, begins: str = "") -> tuple[int, ...]:
        """Token ids from which the record's answer is generated, where it begins with ``begins``."""
        (found,) = generation_prompts(self.encoder, [record], [begins])
        return found


@dataclass(frozen=True)
class Pair:
    """Original and unlearned model, and what the request asks."""

    sides: tuple[Side, Side]
    records: Sequence[Record] = ()
    """One for each question of the request."""
    names: Sequence[str] = ()
    """Of the person."""
    note: str = ""
    """What the user should know: that the run is of another original, why there are no questions."""

    @property
    def one_base(self) -> bool:
        """Whether both are the same weights in memory, with an adapter on and off."""
        return self.sides[0].lm is self.sides[1].lm

    def questions(self) -> list[str]:
        """What is asked of each record; of a plain text how it begins."""
        return [record.question or record.answer[:SHOWN] for record in self.records]

    def facts(self, record: Record | None) -> tuple[str, ...]:
        """The facts of a record, or of all of them."""
        chosen = self.records if record is None else [record]
        return tuple(dict.fromkeys(fact for one in chosen for fact in facts_of(one, self.names)))


def asked(question: str, encoder: Encoder, plain: bool = False) -> Record:
    """A question of the user's own: in the chat template where there is one, else, or if ``plain``, as bare text."""
    if plain or not encoder.tokenizer.chat_template:
        return Record("0", "completion", (Turn("prompt", question),), where="the question", unanswered=True)
    return Record("0", "chat", (Turn("user", question),), where="the question", unanswered=True)


def parts(text: str, facts: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """The text in pieces, each with the fact that it says, if it says one."""
    end = 0
    for start, stop, number in Matcher.of(facts).find(text) if facts else ():
        if start > end:
            yield text[end:start], None
        yield text[start:stop], facts[number]
        end = stop
    if text[end:]:
        yield text[end:], None


def open_pair(original: str, run: str, settings: CompareSettings) -> Pair:
    """Load both models: one base alone where the second is an adapter on the first, or both are adapters on it.

    Args:
        original: the model before unlearning, as ``rkld unlearn`` takes it.
        run: a run folder, or the unlearned model's own.

    Raises:
        UserError: one cannot be loaded, or the run's model is not the one that the run wrote.
    """
    check_run_model(run)
    folder = run_of(run)
    manifest = (read_manifest(folder) if folder else None) or {}
    settings = _as_in_the_run(settings, manifest.get("settings", {}))
    records, names, note = _request(settings, folder, manifest)
    lm, encoder = load_with_encoder(settings, model_path(run))
    unlearned = Side("unlearned", run, lm, encoder)
    before = _on_one_base(original, unlearned, settings)
    if before is None:  # an adapter's base is what its own folder names
        before = Side("original", original, *load_with_encoder(dataclasses.replace(settings, base=None), original))
    elif before.adapter != OFF:
        unlearned = dataclasses.replace(unlearned, adapter=lm.model.active_adapter)
    return Pair(
        (before, unlearned), records, names, " ".join(filter(None, (_other_original(original, manifest), note)))
    )


def _other_original(original: str, manifest: Mapping[str, Any]) -> str:
    """What to say where the run was made from other weights than these; "" where it was not, or they are not here."""
    own = manifest.get("settings", {}).get("model")
    if not isinstance(own, str) or own == original:
        return ""
    try:
        made_from, given = Path(resolve(own)), Path(resolve(original))
    except UserError:
        return ""
    if made_from == given or not (made_from.is_dir() and given.is_dir()) or same_weights(made_from, given):
        return ""
    return (
        f"The run was made from another original, {printable(own)}: what differs here is not what the run has changed."
    )


def _on_one_base(original: str, unlearned: Side, settings: CompareSettings) -> Side | None:
    """The original where it is the base of the unlearned adapter, or another adapter on it; else None."""
    lm = unlearned.lm
    if not lm.is_adapter:
        return None
    if lm.inner.name_or_path == resolve(original):
        return dataclasses.replace(unlearned, name="original", source=original, adapter=OFF)
    allowed = {"trust_remote_code": settings.trust_remote_code, "allow_pickle": settings.allow_pickle}
    if add_adapter(lm, original, "original", **allowed):
        return dataclasses.replace(unlearned, name="original", source=original, adapter="original")
    return None


def _as_in_the_run(settings: CompareSettings, found: Mapping[str, Any]) -> CompareSettings:
    """The settings, with the run's where nothing else than the default is given."""
    default = CompareSettings()
    taken = {
        name: found[name]
        for name in AS_IN_THE_RUN
        if getattr(settings, name) == getattr(default, name) and name in found
    }
    return dataclasses.replace(settings, **taken)


def _request(
    settings: CompareSettings, folder: Path | None, manifest: Mapping[str, Any]
) -> tuple[list[Record], tuple[str, ...], str]:
    """The request's records, the names of the person, and why there are none."""
    source, subjects = settings.forget, settings.subject
    if source is None:
        source = manifest.get("settings", {}).get("forget", "")
        if not isinstance(source, str) or not source or not Path(source).exists():  # given as objects, purged, or moved
            return [], (), "The request's records are not where the run had them: give them with --forget."
    if not subjects and folder is not None:
        subjects = _subject_of(folder)
    records = by_answer(read_records(source, "forget"))
    return records, identifiers(records, read_subjects(subjects)), ""


def _subject_of(folder: Path) -> tuple[str, ...]:
    """Whom a run is about, as its run.yaml says; nobody where that is gone or purged."""
    try:
        found = read_config(folder / SETTINGS).get("subject", ())
    except UserError as error:
        logger.warning("%s", error)
        return ()
    return tuple(name for name in found if isinstance(name, str)) if isinstance(found, list) else ()
