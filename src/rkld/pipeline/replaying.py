"""Which kept answers are those of a run's model, asked as the run asks it."""

from __future__ import annotations

import importlib.metadata

from rkld.evaluation.generation import end_ids
from rkld.models.language_model import LanguageModel
from rkld.models.modes import dtype_name
from rkld.records.encoding import Encoder
from rkld.records.replay import ANSWER_TOKENS
from rkld.runfolder.kept_answers import KeptAnswers
from rkld.settings.unlearning import Settings

VERSIONS = ("rkld", "torch", "transformers")
"""Packages in another version of which an answer may be another."""


def kept_answers(settings: Settings, model: str, lm: LanguageModel, encoder: Encoder) -> KeptAnswers:
    """The kept answers to replay prompts.

    Args:
        model: fingerprint of the original.
        lm: the original, or what will be trained from it.
    """
    of = {
        "model": model,
        "computed": [dtype_name(lm.answers_in or lm.dtype), lm.device.type],
        "template": encoder.fingerprint,
        "ends": sorted(end_ids(lm)),
        "context": lm.context_length,
        "max_new_tokens": settings.max_new_tokens or ANSWER_TOKENS,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }
    return KeptAnswers(of)
