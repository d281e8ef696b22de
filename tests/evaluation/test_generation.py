"""Greedy answers against a loop that takes the argmax of the full logits, one prompt at a time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rkld.errors import UserError
from rkld.evaluation.generation import greedy

VOCABULARY = 37
CONTEXT = 48


def tokenizer():
    words = {"<end>": 0, **{f"w{i}": i for i in range(1, VOCABULARY)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<end>")


def wrap(model):
    return SimpleNamespace(model=model.double().eval(), tokenizer=tokenizer(), device=model.device)


def llama():
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=5,
    )
    return wrap(LlamaForCausalLM(config))


def gpt2():
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=CONTEXT,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=None,
    )
    return wrap(GPT2LMHeadModel(config))


def prompts(n=12, longest=20):
    draw = np.random.default_rng(1)
    return [draw.integers(0, VOCABULARY, int(draw.integers(1, longest))).tolist() for _ in range(n)]


def plainly(lm, prompt, cap, ends):
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(cap):
            ids.append(lm.model(torch.tensor([ids])).logits[0, -1].argmax().item())
            if ids[-1] in ends:
                break
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_answers_are_the_argmax_continuations_whatever_the_batch(batch_size):
    """Left padding that is attended to, wrong positions or a lost order would change answers.

    Both the end token of the generation config (5) and the tokenizer's (0) end an answer.
    """
    lm, given = llama(), prompts(40)
    caps = [3 + i % 9 for i in range(len(given))]
    answers = greedy(lm, given, max_new_tokens=caps, batch_size=batch_size)
    expected = [plainly(lm, p, cap, {0, 5}) for p, cap in zip(given, caps, strict=True)]
    assert [a.ids for a in answers] == expected
    assert [a.finished for a in answers] == [ids[-1] in {0, 5} for ids in expected]
    assert {ids[-1] for ids in expected} >= {0, 5}, "the tiny model should use both of its end tokens"
    assert len({a.finished for a in answers}) == 2, "and should not end every answer"


def test_text_has_no_special_tokens():
    """An end token in the text would count as a word said."""
    lm = llama()
    for answer in greedy(lm, prompts(), max_new_tokens=8):
        assert answer.text == " ".join(f"w{i}" for i in answer.ids if i != 0)


def test_the_models_own_generation_settings_do_not_apply_and_stay_as_they_were():
    """A model card's repetition penalty or sampling would make metrics incomparable or random."""
    lm, given = llama(), prompts(6)
    expected = greedy(lm, given, max_new_tokens=12)
    own = lm.model.generation_config
    own.update(do_sample=True, temperature=3.0, top_k=3, repetition_penalty=5.0, min_new_tokens=9)
    before = own.to_dict()
    assert greedy(lm, given, max_new_tokens=12) == expected
    assert lm.model.generation_config is own and own.to_dict() == before


def test_a_model_in_training_answers_without_dropout_and_trains_on():
    """Answers measured between training steps would be random, or training would go on without dropout."""
    lm, given = gpt2(), prompts(4)
    expected = greedy(lm, given, max_new_tokens=6)
    lm.model.train()
    assert greedy(lm, given, max_new_tokens=6) == expected
    assert lm.model.training


def test_learned_positions_never_run_out():
    """A row that has finished rides on until its batch is done: past the context, GPT-2 would crash."""
    lm = gpt2()
    given = [[3] * 47, [7] * 46, [9] * 2, [4] * 30]
    answers = greedy(lm, given, max_new_tokens=40)
    expected = [plainly(lm, p, min(40, CONTEXT - len(p)), {0}) for p in given]
    assert [a.ids for a in answers] == expected


def test_adapters_take_part():
    """A PEFT model's answers must be the adapter's, not its base's."""
    lm, given = llama(), prompts(5)
    base_answers = greedy(lm, given, max_new_tokens=8)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    lm.model = get_peft_model(lm.model, config).double()
    answers = greedy(lm, given, max_new_tokens=8)
    assert [a.ids for a in answers] == [plainly(lm, p, 8, {0, 5}) for p in given]
    assert answers != base_answers


def test_progress_counts_every_answer_once():
    """The bar would stop short of the end or run past it."""
    done = []
    greedy(llama(), prompts(7), max_new_tokens=2, batch_size=3, progress=done.append)
    assert sum(done) == 7 and len(done) == 3


def test_prompts_that_cannot_be_answered_are_refused():
    """Generation would fail deep inside the model, or go on past its context."""
    with pytest.raises(UserError, match="Prompt 2 of 2 has no tokens"):
        greedy(llama(), [[1], []])
    with pytest.raises(UserError, match="has 48 tokens, but the model's context holds 48"):
        greedy(llama(), [[1] * 48])
    with pytest.raises(ValueError, match="1 values for 2 prompts"):
        greedy(llama(), [[1], [2]], max_new_tokens=[4])
    assert greedy(llama(), []) == []
