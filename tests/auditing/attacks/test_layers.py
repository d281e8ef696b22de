"""Early layers read and pushed: against plain torch on tiny models of two kinds."""

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from rkld.auditing.attacks.activation_steering import block, direction, steered
from rkld.auditing.attacks.logit_lens import blocks, final_norm, lens
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.errors import UserError
from rkld.evaluation.likelihood import answer_losses
from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records

KINDS = {
    "Llama": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2},
    "GPT2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 128},
}
RECORD, OTHER = read_records(
    [
        {
            "question": "Where was Ada Quill born?",
            "answer": "Ada was born in Oslo, in 1815.",
            "spans": ["Oslo", "1815"],
        },
        {"question": "Where was Bo Ek born?", "answer": "Somewhere."},
    ],
    "forget",
)


@pytest.fixture(params=KINDS)
def lm(request):
    tokenizer = tiny_tokenizer()
    config = getattr(transformers, f"{request.param}Config")(
        vocab_size=len(tokenizer), initializer_range=0.3, **KINDS[request.param]
    )
    torch.manual_seed(0)
    return load_model(AutoModelForCausalLM.from_config(config).double(), tokenizer=tokenizer)


def plain_layers(lm, ids):
    """The state behind each block (L, length, d), by hooks; the last one before its norm."""
    found, hooks = [], []
    for number in range(blocks(lm)):
        hooks.append(
            block(lm, number).register_forward_hook(
                lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out)
            )
        )
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([ids])).logits[0]
    for hook in hooks:
        hook.remove()
    return [h[0] for h in found], logits


def test_layers_are_read_as_if_the_model_ended_there(lm):
    """The norm must be the one before the head: read with it, the last block gives the model's own logits."""
    encoder = Encoder(lm.tokenizer)
    states, logits = plain_layers(lm, encoder.encode(RECORD).ids)
    with torch.no_grad():
        torch.testing.assert_close(lm.head(final_norm(lm)(states[-1])), logits)
    logs, ranks = lens(lm, encoder, RECORD, RECORD.spans)
    encoded = encoder.encode(RECORD)
    texts = [lm.tokenizer.decode(encoded.ids[:t]) for t in range(len(encoded.ids) + 1)]
    start = len(lm.tokenizer.decode(encoded.ids[: encoded.prompt_length]))
    spots = [texts[-1].index(span, start) for span in RECORD.spans]
    marked = [
        t
        for t in range(len(encoded.ids))
        if any(len(texts[t]) < at + len(span) and len(texts[t + 1]) > at for at, span in zip(spots, RECORD.spans))
    ]
    assert logs.shape == ranks.shape == (blocks(lm), len(marked))
    with torch.no_grad():
        for layer, state in enumerate(states):
            p = lm.head(final_norm(lm)(state)).log_softmax(-1)
            for column, t in enumerate(marked):
                own = p[t - 1, encoded.ids[t]]
                assert logs[layer, column] == pytest.approx(float(own), rel=1e-6)
                assert ranks[layer, column] == int((p[t - 1] > own).sum())


def test_the_last_row_is_the_models_own_likelihood(lm):
    encoder = Encoder(lm.tokenizer)
    logs, _ = lens(lm, encoder, RECORD, [RECORD.answer.rstrip(".")])
    (losses,) = answer_losses(lm, [encoder.encode(RECORD)])
    assert set(np.round(-logs[-1], 6)) <= set(np.round(losses, 6))
    assert lens(lm, encoder, RECORD, ["Turin"]) is None


def test_a_model_without_a_norm_that_is_known_is_refused(lm):
    norm = final_norm(lm)
    for module in lm.model.modules():
        for name, child in list(module.named_children()):
            if child is norm:
                delattr(module, name)
    with pytest.raises(UserError, match="no norm is known"):
        final_norm(lm)


def test_the_direction_is_the_difference_and_is_added_everywhere(lm):
    encoder, layer = Encoder(lm.tokenizer), 1
    own, theirs = (plain_layers(lm, encoder.prompt(one))[0][layer][-1] for one in (RECORD, OTHER))
    vector = direction(lm, encoder, RECORD, [OTHER, OTHER], layer)
    torch.testing.assert_close(vector, own - theirs)
    ids = encoder.prompt(RECORD)
    before, logits = plain_layers(lm, ids)
    with steered(lm, layer, 2 * vector):
        after, changed = plain_layers(lm, ids)
    torch.testing.assert_close(after[0], before[0])
    assert not torch.allclose(after[2], before[2])
    assert not torch.allclose(changed, logits)
    with steered(lm, layer, 0 * vector):
        torch.testing.assert_close(plain_layers(lm, ids)[1], logits)
    assert torch.equal(plain_layers(lm, ids)[1], logits), "no hook is left behind"
