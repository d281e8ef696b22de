"""The tiny model as it comes."""

from __future__ import annotations

import pytest

from rkld.benching.worlds.tiny import tiny_model
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    model, tokenizer = tiny_model(seed=0)
    return load_model(model, tokenizer=tokenizer)
