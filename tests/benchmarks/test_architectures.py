"""Architectures beyond those of the other tests: loss, gradients, adapters and answers as of plain models."""

from __future__ import annotations

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from benchmarks.architectures import outcomes

CAPPED_OR_SCALED = ["gemma2", "cohere", "granite", "recurrent_gemma"]
ODD = ["llama4_text", "phimoe", "mamba", "minimax"]
"""Another prefix; a router that returns several; weights that kernels read; batches that go wrong after one token."""


@pytest.mark.parametrize("kind", CAPPED_OR_SCALED + ODD)
def test_single_architectures(kind):
    (found,) = outcomes([kind])
    assert found.state == "works", found
    assert found.lora is not None and 0 < found.reached <= 1


def test_of_what_an_adapter_reaches_experts_in_one_tensor_are_no_part():
    (found,) = outcomes(["gpt_oss"])
    assert found.state == "works" and found.reached < 0.2


@pytest.mark.slow
def test_every_architecture_works_or_is_refused():
    found = list(outcomes(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)))
    assert sum(one.state == "works" for one in found) >= 130
    assert not [one for one in found if one.state == "wrong" and one.kind not in ("deepseek_v4", "xlstm")]
