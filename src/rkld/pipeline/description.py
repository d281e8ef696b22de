"""What a model is opened as, in words: its base, the dtype of its weights, and whose format its prompts have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from transformers import PreTrainedTokenizerBase

from rkld.models.language_model import LanguageModel
from rkld.models.modes import dtype_name
from rkld.records.record import Record
from rkld.text.printable import printable

_CHAT_TOKENS = ("im_start", "start_header_id", "start_of_turn", "turn|", "inst]", "user|", "assistant|")
"""What tokens of published chat formats hold, in lower case."""


def described(lm: LanguageModel) -> Iterator[tuple[str, str]]:
    """(what, how it is) of a model."""
    if lm.is_adapter:
        yield "base", printable(lm.inner.name_or_path) or "the object's own"
    yield "weights", weights(lm)
    yield "prompts", prompts(lm.template_source)


def weights(lm: LanguageModel) -> str:
    """The dtype in use, and the stored one where it is another."""
    if lm.is_quantised:
        return "quantised"
    stored = f", from {dtype_name(lm.stored_dtype)}" if lm.stored_dtype not in (None, lm.dtype) else ""
    return dtype_name(lm.dtype) + stored


def prompts(template_source: str | None) -> str:
    """How conversations are written.

    Args:
        template_source: as of a :class:`rkld.models.language_model.LanguageModel`.
    """
    if template_source is not None:
        return f"in the chat template {template_source}"
    return "as 'Question: …', new line, 'Answer: …', as there is no chat template"


def template_warning(
    template_source: str | None, tokenizer: PreTrainedTokenizerBase, records: Iterable[Record]
) -> str | None:
    """What is to be known where conversations are written without a chat template; else None.

    A model that answers in a template knows little in another format, so what it knows would be measured as unknown. A
    base model has none.
    """
    if template_source is not None or not any(record.form == "chat" for record in records):
        return None
    text = (
        "the model has no chat template, so records are written as 'Question: …', new line, 'Answer: …'. If it answers "
        "in a format of its own, put its chat_template.jinja into the model's folder, or give it with --chat-template"
    )
    tokens = (token.content for token in tokenizer.added_tokens_decoder.values())
    found = next((token for token in tokens if any(mark in token.lower() for mark in _CHAT_TOKENS)), None)
    return text + (f"; its tokenizer has tokens of one ({printable(found)}), so it may be lost." if found else ".")
