"""Which modules are split by themselves; what one process can say of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BioGptConfig, BioGptForCausalLM, MambaConfig, MambaForCausalLM

from rkld.errors import UserError
from rkld.models import sharding


def model(kind, config):
    with torch.device("meta"):
        return kind(config)


def split(monkeypatch, net) -> list[nn.Module]:
    done = []
    monkeypatch.setattr(sharding, "fully_shard", lambda module, mesh: done.append(module))
    monkeypatch.setattr(sharding, "init_device_mesh", lambda kind, shape: None)
    sharding.shard(net, torch.device("cpu"))
    return done


def test_inner_blocks_are_split_before_those_around_them(monkeypatch):
    """FSDP2 has to have the inner ones first ("Invariant encountered")."""
    net = model(MambaForCausalLM, MambaConfig(hidden_size=8, num_hidden_layers=2, vocab_size=16))
    monkeypatch.setattr(type(net), "_no_split_modules", ["MambaBlock", "MambaMixer"])
    done = split(monkeypatch, net)
    assert [type(one).__name__ for one in done[:4]].count("MambaMixer") == 2
    for block in net.backbone.layers:
        assert done.index(block.mixer) < done.index(block)
    assert done[-1] is net


def test_a_model_whose_blocks_nobody_names_is_split_by_its_longest_list(monkeypatch):
    """It was gathered whole, unsaid."""
    config = BioGptConfig(hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8, vocab_size=16)
    net = model(BioGptForCausalLM, config)
    monkeypatch.setattr(type(net), "_no_split_modules", [])
    done = split(monkeypatch, net)
    assert [one for one in done if one in list(net.biogpt.layers)] == list(net.biogpt.layers)
    net.biogpt.layers = nn.Identity()
    with pytest.raises(UserError, match="BioGptForCausalLM has no blocks"):
        split(monkeypatch, net)
