"""Attention of single tokens in float32, beside what transformers computes in bfloat16."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rkld.evaluation.generation import greedy
from rkld.models.attention import SDPA, single_tokens_in_float32
from rkld.models.language_model import LanguageModel
from tests.helpers import TOKENIZER


@pytest.fixture
def lm():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    return LanguageModel(LlamaForCausalLM(config).bfloat16().eval(), TOKENIZER, "test")


@pytest.fixture
def computed(monkeypatch):
    """(dtype, tokens) of every attention that is computed."""
    seen, own = [], ALL_ATTENTION_FUNCTIONS[SDPA]

    def look(module, query, *args, **kwargs):
        seen.append((query.dtype, query.shape[2]))
        return own(module, query, *args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, SDPA, look)
    return seen


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_answers_attend_in_float32_behind_their_prompts(lm, computed, dtype, wanted):
    lm.model.to(dtype)
    own = ALL_ATTENTION_FUNCTIONS[SDPA]
    found = greedy(lm, [[5, 6, 7, 8], [9, 3]], max_new_tokens=4)
    assert all(answer.ids for answer in found) and ALL_ATTENTION_FUNCTIONS[SDPA] is own
    single, prompts = ({one for one, tokens in computed if (tokens == 1) is new} for new in (True, False))
    assert single == {wanted} and prompts == {dtype}


@pytest.mark.parametrize("masked", [True, False])
def test_the_values_are_those_of_bfloat16_up_to_rounding(lm, masked):
    """With an additive and a boolean mask, and keys and values shared by heads."""
    module = lm.model.model.layers[0].self_attn
    draw = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(3, h, n, 8, generator=draw).bfloat16() for h, n in ((4, 1), (2, 9), (2, 9)))
    seen = torch.rand(3, 1, 1, 9, generator=draw) < 0.6
    seen[..., 0] = True
    added = torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill(~seen, torch.finfo(torch.bfloat16).min)
    for mask in (seen, added) if masked else (None,):
        plain, _ = ALL_ATTENTION_FUNCTIONS[SDPA](module, query, key, value, mask)
        exact, _ = ALL_ATTENTION_FUNCTIONS[SDPA](module, query.double(), key.double(), value.double(),
                                                 mask if mask is None else seen)  # fmt: skip
        with single_tokens_in_float32(lm, torch.bfloat16), torch.autocast("cpu", torch.bfloat16):
            found, _ = ALL_ATTENTION_FUNCTIONS[SDPA](module, query, key, value, mask)
        assert found.dtype == torch.bfloat16 and found.shape == plain.shape
        torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-6)


def test_an_error_leaves_transformers_as_it_was(lm):
    own = ALL_ATTENTION_FUNCTIONS[SDPA]
    with pytest.raises(ZeroDivisionError), single_tokens_in_float32(lm, torch.bfloat16):
        assert ALL_ATTENTION_FUNCTIONS[SDPA] is not own
        raise ZeroDivisionError
    assert ALL_ATTENTION_FUNCTIONS[SDPA] is own
