"""The rewordings of a run: made, written out as token ids, and known again by whoever audits the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rkld.errors import UserError
from rkld.records.encoding import Encoded, Encoder, Score
from rkld.records.record import Record, Rewording
from rkld.records.rewording import Made, reword
from rkld.records.rewording_rules import check_kinds
from rkld.runfolder.manifest import salted
from rkld.settings.unlearning import Settings
from rkld.text.normalising import words


def check_rewording(settings: Settings) -> None:
    """Refuse a kind of wording that there is not.

    Raises:
        UserError: so.
    """
    check_kinds(settings.reword_kinds)


def make_rewordings(
    forget: Sequence[Record],
    identifiers: Sequence[str],
    settings: Settings,
    encoder: Encoder,
    *,
    asked_only: bool,
    written: Mapping[str, Sequence[Rewording]] | None = None,
) -> tuple[Made, list[Encoded]]:
    """The records' rewordings, and the same as token ids. Those that cannot be written as such are dropped, counted.

    Args:
        asked_only: each must have a question, as methods need that teach refusals.
        written: what a model wrote, by the record's key.
    """
    made = reword(
        forget,
        identifiers,
        settings.reword,
        kinds=settings.reword_kinds,
        written=written,
        seed=settings.seed,
        asked_only=asked_only,
    )
    kept, encoded = [], []
    for record in made.records:
        score = score_of(record, settings.score)
        if score == "spans" and not record.spans:
            made.dropped["no marked span stands in it"] += 1
            continue
        try:
            encoded.append(encoder.encode(record, score))
        except UserError:
            made.dropped["cannot be written as tokens: too long, or refused by the template"] += 1
            continue
        kept.append(record)
    made.records = kept
    return made, encoded


def score_of(record: Record, score: Score) -> Score:
    """What of a rewording is unlearned: as of the records, but of running text and of what a user tells the facts
    alone, as there no question gives the rest."""
    return "spans" if record.kind in ("text", "turn") else score


def wording_hash(text: str, salt: str) -> str:
    """A wording that was trained on, under a run's salt: the same in another case, spacing and punctuation."""
    return salted(salt, ["wording", words(text)])


def wording_hashes(records: Sequence[Record], salt: str) -> list[str]:
    """Of the questions and the answers of rewordings; sorted, equal ones once."""
    texts = [text for record in records for text in (record.question, record.answer) if text]
    return sorted({wording_hash(text, salt) for text in texts})
