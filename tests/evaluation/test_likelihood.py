"""Losses per answer token against a plain computation with full logits, one record at a time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rkld.evaluation import likelihood
from rkld.evaluation.likelihood import answer_losses, probability

VOCABULARY = 61


def tiny(dtype=torch.float64):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_dropout=0.5,
        initializer_range=0.5,
    )
    model = LlamaForCausalLM(config).to(dtype).eval()
    return SimpleNamespace(
        model=model, backbone=model.model, head=model.lm_head, logits=model.lm_head, device=model.device
    )


def record(key, ids, answer, scored=None):
    return SimpleNamespace(key=key, ids=tuple(ids), answer=tuple(answer), scored=tuple(scored or answer))


def records(n=9):
    """Records and answers of unequal lengths; all end with id 0, which padding uses too."""
    draw = np.random.default_rng(0)
    made = []
    for key in range(n):
        length = int(draw.integers(4, 40))
        start = int(draw.integers(1, length - 1))
        ids = [*draw.integers(0, VOCABULARY, length - 1).tolist(), 0]
        answer = [position >= start for position in range(length)]
        scored = [marked and position % 2 == 0 for position, marked in enumerate(answer)]
        made.append(record(str(key), ids, answer, scored))
    return made


def plainly(lm, encoded, mask):
    """−log softmax(full logits at t − 1)[id at t] for every marked t, without padding."""
    losses = []
    with torch.no_grad():
        for r in encoded:
            log_p = lm.model(torch.tensor([r.ids])).logits[0].log_softmax(-1)
            losses.append([-log_p[t - 1, r.ids[t]].item() for t, m in enumerate(getattr(r, mask)) if m])
    return losses


@pytest.mark.parametrize("mask", ["answer", "scored"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_losses_are_those_of_the_full_logits_whatever_the_batch(mask, dtype, tolerance, monkeypatch):
    """A mask off by one, padding that is attended to, or an order that gets lost would show here."""
    lm, encoded = tiny(dtype), records()
    expected = plainly(lm, encoded, mask)
    for batch_tokens, rows in [(1, 256), (90, 256), (4096, 256), (4096, 3)]:
        monkeypatch.setattr(likelihood, "ROWS", rows)
        losses = answer_losses(lm, encoded, mask=mask, batch_tokens=batch_tokens)
        assert [loss.shape for loss in losses] == [(len(loss),) for loss in expected]
        assert all(loss.dtype == np.float64 for loss in losses)
        np.testing.assert_allclose(np.concatenate(losses), np.concatenate(expected), rtol=0, atol=tolerance)


def test_a_forward_pass_never_holds_more_than_batch_tokens():
    """Memory would grow with the number of records."""
    lm, encoded, shapes = tiny(), records(), []
    lm.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    answer_losses(lm, encoded, batch_tokens=90)
    assert sum(rows for rows, _ in shapes) == len(encoded)
    assert all(rows * length <= 90 for rows, length in shapes)


def test_the_head_sees_marked_rows_only():
    """Logits of prompts and padding would cost most of the memory."""
    lm, encoded, rows = tiny(), records(), []
    lm.head.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[0]))
    answer_losses(lm, encoded)
    assert sum(rows) == sum(sum(r.answer) for r in encoded)


def test_bfloat16_models_work_and_are_close_to_float32():
    """NumPy has no bfloat16, and a softmax in bfloat16 would be off by whole percents."""
    lm, encoded = tiny(torch.bfloat16), records()
    with torch.no_grad():
        hidden = [lm.backbone(torch.tensor([r.ids[:-1]])).last_hidden_state[0] for r in encoded]
        log_p = [lm.head(h).double().log_softmax(-1) for h in hidden]
    expected = [
        [-p[t - 1, r.ids[t]].item() for t, m in enumerate(r.answer) if m] for p, r in zip(log_p, encoded, strict=True)
    ]
    losses = answer_losses(lm, encoded, batch_tokens=1)
    np.testing.assert_allclose(np.concatenate(losses), np.concatenate(expected), rtol=0, atol=1e-5)


def test_surrounding_autocast_dropout_and_training_do_not_matter_and_come_back():
    """Measured in the middle of training, a model must give the same numbers and train on as before."""
    lm, encoded = tiny(torch.float32), records()
    expected = np.concatenate(answer_losses(lm, encoded))
    lm.model.train()
    lm.head.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = np.concatenate(answer_losses(lm, encoded))
    np.testing.assert_array_equal(losses, expected)
    assert lm.model.training and lm.backbone.layers[0].training and not lm.head.training
    loss = lm.model(torch.tensor([encoded[0].ids]), labels=torch.tensor([encoded[0].ids])).loss
    loss.backward()
    assert lm.head.weight.grad is not None


def test_records_with_nothing_marked_are_empty_and_have_no_probability():
    """The mean of nothing is NaN, which must never pass for a number."""
    lm = tiny()
    full = record("a", [1, 2, 3], [False, True, True])
    none = record("b", [1, 2, 3, 4], [False] * 4)
    losses = answer_losses(lm, [none, full])
    assert [loss.size for loss in losses] == [0, 2]
    assert answer_losses(lm, [none])[0].size == 0
    assert answer_losses(lm, []) == []
    with pytest.raises(ValueError, match="record b has no answer token"):
        probability(lm, [full, none])


def test_probability_is_the_geometric_mean_over_the_answer_tokens():
    """A sum in place of the mean would make long answers improbable."""
    lm, encoded = tiny(), records()
    expected = [np.exp(-np.mean(loss)) for loss in plainly(lm, encoded, "answer")]
    np.testing.assert_allclose(probability(lm, encoded), expected, rtol=1e-10)
