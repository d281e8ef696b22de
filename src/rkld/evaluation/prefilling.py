"""Prefilled answers: the prompt with the beginning of an answer, which the model goes on from."""

from __future__ import annotations

from collections.abc import Sequence

from rkld.errors import UserError
from rkld.records.encoding import Encoder
from rkld.records.record import Record


def prefilled(encoder: Encoder, record: Record, prefill: str) -> tuple[int, ...]:
    """The ids that generation continues from where the answer begins with ``prefill``.

    White space at its end is left to what follows. Everything before the answer is as
    :meth:`rkld.records.encoding.Encoder.prompt` has it, and the turn is left open. Of a prompt and its completion,
    ``prefill`` is set off as the record's own completion is. A plain text is cut where its prompt ends, and
    ``prefill`` stands on a new line.

    Raises:
        UserError: naming the record, if no room is left for an answer.
    """
    prefill = prefill.rstrip()
    if record.form == "text":
        text = encoder.tokenizer.decode(encoder.prompt(record), skip_special_tokens=True)
        begun = record.with_answer(f"{text}\n{prefill}")
    else:
        begun = record.with_answer(set_off(record, prefill))
    encoded = encoder.encode(begun)
    first = 0 if record.form == "text" else encoded.prompt_length
    # Up to the last token of the prefill: the template sets an end of turn behind it.
    turns = encoder.locate(begun, lambda text: [(0, len(text))])
    length = next(places[-1] for places in turns if places[0] >= first) + 1
    return encoded.ids[: _with_room(encoder, record, length)]


def open_turn(encoder: Encoder, record: Record) -> tuple[int, ...]:
    """The ids that generation continues a record's last question from: up to where that ends, its turn left open.

    Raises:
        UserError: naming the record, if no room is left behind it.
    """
    encoded = encoder.encode(record)
    turns = encoder.locate(record, lambda text: [(0, len(text))])
    length = [places[-1] for places in turns if places[-1] < encoded.prompt_length][-1] + 1
    return encoded.ids[: _with_room(encoder, record, length)]


def _with_room(encoder: Encoder, record: Record, length: int) -> int:
    limit = encoder.max_length or encoder.context_length
    if limit is not None and length >= limit:
        raise UserError(
            f"{record.where}: its question and the begun answer have {length} tokens and leave no room for the rest "
            f"within {limit}. Shorten it or take it out."
        )
    return length


def set_off(record: Record, prefill: str) -> str:
    """``prefill`` behind the white space that the record's own answer begins with; "" where it says nothing."""
    gap = record.answer[: len(record.answer) - len(record.answer.lstrip())]
    return gap + prefill.strip() if prefill.strip() else ""


def generation_prompts(
    encoder: Encoder, records: Sequence[Record], prefills: Sequence[str] | None = None
) -> list[tuple[int, ...]]:
    """The ids from which each record's answer is generated: its prompt and, where there is one, its prefill.

    ValueError where there is not one prefill per record.
    """
    prefills = [""] * len(records) if prefills is None else prefills
    return [
        prefilled(encoder, record, prefill) if prefill.strip() else encoder.prompt(record)
        for record, prefill in zip(records, prefills, strict=True)
    ]
