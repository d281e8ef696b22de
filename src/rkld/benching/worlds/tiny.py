"""A Llama of 2.4 million parameters and its tokenizer: it learns the world of ``people`` in 83 s on two CPU cores.

The recipe: fine-tune ``tiny_model(seed)`` on the answers of ``world.training()`` (cross-entropy, averaged
over the answer tokens of a step) for ``EPOCHS`` with AdamW, ``LEARNING_RATE`` and ``BATCH_SIZE``, warming up
during the first epoch and decaying linearly after it. The retrained twin starts from the same weights and is
trained in the same way on ``world.training(without=who)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import TYPE_CHECKING

from rkld.benching.worlds.common_knowledge import REAL_AUTHORS, WORLD_FACTS
from rkld.benching.worlds.people import ATTRIBUTES, FIRST_NAMES, LAST_NAMES

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


EPOCHS = 18

LEARNING_RATE = 2e-3

BATCH_SIZE = 16

VOCABULARY_SIZE = 1792

CONTEXT_LENGTH = 256

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML; ``<|im_end|>`` ends every turn and is the end of sequence."""


def tiny_model(seed: int = 0) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """An untrained Llama (float32, tied head, eval mode) with weights drawn from ``seed``; its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.eval(), tokenizer


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a ChatML template, the same for every world; digits stand alone."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_tokenizer()),
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_LENGTH,
    )


@cache
def _trained_tokenizer() -> str:
    """The tokenizer as JSON, trained once per process (a tenth of a second)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_text(), trainer)
    return tokenizer.to_str()


def _text() -> Iterator[str]:
    """What records are made of, part by part; names count alike, so nobody is covered better than others."""
    rng = Random("tokenizer")
    yield from ("system", "user", "assistant") * 100
    for name in FIRST_NAMES + LAST_NAMES:
        yield from (name, f" {name}") * 4
    for attribute in ATTRIBUTES:
        if attribute.key != "full_name":
            yield from (f" {attribute.draw(rng)}" for _ in range(400))
        for wording in attribute.questions + attribute.answers:
            yield from [re.sub(r"\{\w+\}", "", wording)] * 50
    for record in REAL_AUTHORS + WORLD_FACTS:
        yield from (record["question"], f" {record['answer']}") * 5
