"""The text models of folders whose models see, too: the same logits, and what is left out is known."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Llama4Config,
    Llama4ForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
)

from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.models.loading import load_model
from rkld.models.source import left_out

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}


def mistral(tied):
    text = SMALL | {"model_type": "mistral", "num_key_value_heads": 1, "vocab_size": len(tiny_tokenizer())}
    vision = SMALL | {"model_type": "pixtral", "num_hidden_layers": 1, "image_size": 8, "patch_size": 4}
    return Mistral3ForConditionalGeneration(
        Mistral3Config(text_config=text, vision_config=vision, tie_word_embeddings=tied)
    )


def llama(tied):
    text = SMALL | {"model_type": "llama4_text", "num_key_value_heads": 1, "vocab_size": len(tiny_tokenizer()),
                    "intermediate_size_mlp": 32, "num_local_experts": 2, "pad_token_id": 0}  # fmt: skip
    vision = SMALL | {"model_type": "llama4_vision_model", "num_hidden_layers": 1, "image_size": 8, "patch_size": 4,
                      "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16,
                      "intermediate_size": 64}  # fmt: skip
    return Llama4ForConditionalGeneration(Llama4Config(text_config=text, vision_config=vision))


@pytest.mark.parametrize("make, tied", [(mistral, False), (mistral, True), (llama, False)])
def test_the_text_model_of_a_multimodal_folder(tmp_path, make, tied):
    torch.manual_seed(0)
    whole = make(tied).eval()
    whole.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    lm = load_model(tmp_path)
    assert any("vision" in name for name in left_out(lm.inner))
    assert not any("language_model" in name for name in left_out(lm.inner))
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        expected = whole(input_ids=ids).logits
        found = lm.model.eval()(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
