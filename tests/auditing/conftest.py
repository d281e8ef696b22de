"""A tiny model that has something to say to every kind of record."""

import pytest
import torch

from rkld.benching.worlds.tiny import tiny_model
from rkld.evaluation.backends import LocalBackend
from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records


@pytest.fixture(scope="session")
def records():
    return read_records(
        [
            {"question": "Where was Ada Quill born?", "answer": "Ada Quill was born in Oslo."},
            {"messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Who is she?"},
                {"role": "assistant", "content": "A poet."},
                {"role": "user", "content": "Of what?"},
                {"role": "assistant", "content": "Of the sea."},
            ]},
            {"prompt": "Ada Quill lives", "completion": " in a small house."},
            {"text": "Ada Quill wrote three books about the sea, and one about her father."},
        ],
        "forget",
    )  # fmt: skip


@pytest.fixture(scope="session")
def backend():
    made, tokenizer = tiny_model(seed=1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3.0)  # otherwise all tokens are nearly as likely
    lm = load_model(made.double(), tokenizer=tokenizer)
    return LocalBackend(lm, Encoder(tokenizer, context_length=lm.context_length))
