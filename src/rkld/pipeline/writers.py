"""Models that write rewordings: here, or behind an OpenAI-compatible server."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rkld.evaluation.backends import GenerationBackend, LocalBackend
from rkld.evaluation.endpoint_backend import EndpointBackend
from rkld.models.language_model import LanguageModel
from rkld.models.loading import resolve
from rkld.pipeline.preparing import load_with_encoder
from rkld.progress import NoProgress
from rkld.records.encoding import Encoder
from rkld.records.record import Record, Rewording
from rkld.records.rewording_prompts import longest_answer, read_rewording, writing_prompts
from rkld.settings.unlearning import Settings

TRIES = 3
"""Sampled texts for each rewording that is wanted: many are copies or lose the fact."""


def check_writer(settings: Settings) -> None:
    """Refuse a writer that cannot be opened.

    Raises:
        UserError: no such model, or no URL.
    """
    if settings.writer_endpoint is not None:
        EndpointBackend(settings.writer_endpoint, settings.writer or "")
    elif settings.writer is not None:
        resolve(settings.writer)


def write_rewordings(
    records: Sequence[Record],
    settings: Settings,
    progress: NoProgress,
    loaded: tuple[LanguageModel, Encoder] | None = None,
) -> dict[str, list[Rewording]]:
    """What the settings' writer says of the records that have too few rewordings, by key; {} without a writer.

    A model here is in memory beside the one that is trained, unless it is that one.

    Args:
        loaded: the model that is trained, in the place of a writer of the same name.
    """
    missing = [record for record in records if len(record.rewordings) < settings.reword]
    if settings.writer is None or not missing:
        return {}
    backend = _backend(settings, loaded if settings.writer == settings.model else None)
    n = TRIES * settings.reword
    with progress.bar("rewordings", n * len(missing)) as advance:
        found = backend.samples(
            writing_prompts(missing),
            n,
            seed=settings.seed,
            max_new_tokens=longest_answer(missing),
            progress=advance,
        )
    return {
        record.key: [one for said in answers if (one := read_rewording(said.text)) is not None]
        for record, answers in zip(missing, found, strict=True)
    }


def _backend(settings: Settings, loaded: tuple[LanguageModel, Encoder] | None) -> GenerationBackend:
    if settings.writer_endpoint is not None:
        return EndpointBackend(settings.writer_endpoint, settings.writer or "")
    if loaded is not None:
        return LocalBackend(*loaded)
    assert settings.writer is not None
    own = dataclasses.replace(settings, chat_template=None, base=None, system_prompt=None, max_length=None)
    return LocalBackend(*load_with_encoder(own, settings.writer))
