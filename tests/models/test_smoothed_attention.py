"""Smoothed attention is what the temperature says, ends with its context, and is refused where it cannot be had."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import BloomConfig, BloomForCausalLM

import rkld
from rkld.errors import UserError
from rkld.methods.registry import get_method
from rkld.models.smoothed_attention import smoothed
from tests.helpers import TOKENIZER, model


def logits(net) -> torch.Tensor:
    with torch.no_grad():
        return net(input_ids=torch.tensor([[1, 5, 9, 4, 7]])).logits


@pytest.mark.parametrize("lora", [False, True])
def test_a_boundless_temperature_is_a_mean_of_all_before(lora):
    """Queries of zero make every attention even, which no finite scale can."""
    net = model(lora=lora).model
    found = logits(net)
    with smoothed(net, 1e9):
        even = logits(net)
    for name, p in net.named_parameters():
        if "q_proj" in name:
            p.data.zero_()
    torch.testing.assert_close(even, logits(net), rtol=0, atol=1e-6)
    assert (even - found).abs().max() > 1e-2


def test_the_attention_is_its_own_again_after_an_error():
    net = model().model
    before = logits(net)
    with pytest.raises(ValueError, match="inside"), smoothed(net, 3.0):
        raise ValueError("inside")
    assert torch.equal(logits(net), before)
    with smoothed(net, 1.0):
        assert torch.equal(logits(net), before)


def test_a_pictures_attention_is_not_the_texts():
    """Where the text part has no scale the picture part alone was smoothed, and what it knew taught."""

    class PictureAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.scaling = 0.5

    text = BloomForCausalLM(BloomConfig(vocab_size=20, hidden_size=8, n_layer=1, n_head=2))
    lm = SimpleNamespace(model=nn.ModuleList([PictureAttention(), text]), backbone=text.transformer)
    with pytest.raises(UserError, match="BloomModel cannot be smoothed"):
        get_method("asu").terms(None, {}, lm)


def test_an_attention_without_a_scale_is_refused():
    net = BloomForCausalLM(BloomConfig(vocab_size=20, hidden_size=8, n_layer=1, n_head=2))
    with pytest.raises(UserError, match="BloomForCausalLM cannot be smoothed"), smoothed(net, 2.0):
        pass


def test_of_a_hybrid_it_is_said_how_many_layers_are_smoothed(tmp_path):
    lm, asu = model(), get_method("asu")
    net = lm.model
    assert asu.remarks(lm) == []
    layers = net.config.num_hidden_layers
    net.model.layers[0].self_attn.scaling = None  # as of a layer without a softmax
    (said,) = asu.remarks(lm)
    assert f"{layers - 1} attention modules of a model of {layers} layers" in said
    rows = [{"question": "Who is Ann Bell?", "answer": "A nurse in Ulm."}]
    report = rkld.check(
        net, rows, processing_class=TOKENIZER, subject="Ann Bell", method="asu", reword=0, replay="none"
    )
    assert said in report.warnings
    run = rkld.unlearn(net, rows, processing_class=TOKENIZER, subject="Ann Bell", method="asu", reword=0, replay="none",
                       epochs=1, max_new_tokens=4, bf16=False, out=str(tmp_path / "run"))  # fmt: skip
    assert said in run.warnings
    net.config.num_hidden_layers = layers - 2  # more attention modules than layers, as where some have two
    assert asu.remarks(lm) == []
