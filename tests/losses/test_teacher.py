"""The cache of hidden states, and the teacher's log-probabilities made from it."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.errors import UserError
from rkld.losses import cache as teacher_module
from rkld.losses.cache import HiddenCache, marked, marked_hidden
from rkld.losses.teacher import Teacher
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded

IDENTITY = {"model": "a", "ids": ("x", 1)}


def model(seed=0, lora=False) -> LanguageModel:
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.3, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    net = LlamaForCausalLM(config).double()
    if lora:
        net = get_peft_model(net, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    return LanguageModel(net.eval(), tokenizer, "test")


def parts(n=3) -> list[tuple[str, torch.Tensor]]:
    return [(str(i), torch.randn(i + 1, 4, generator=torch.Generator().manual_seed(i))) for i in range(n)]


def on_disk(cache: HiddenCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.bool])
def test_tensors_come_back_bit_for_bit(tmp_path, dtype):
    """In the dtype they were computed in, also those that NumPy does not know, and views of larger tensors."""
    whole = torch.randn(6, 4).to(dtype)
    HiddenCache(tmp_path, IDENTITY).write("original/forget", [("0", whole[:4]), ("1", whole.T[1:3])])
    again = HiddenCache(tmp_path, IDENTITY)
    assert again.done("original/forget") and not again.done("original/replay")
    for key, expected in {"0": whole[:4], "1": whole.T[1:3]}.items():
        found = again.read("original/forget", key)
        assert found.dtype == dtype and torch.equal(found, expected)


def test_many_records_go_into_several_files(tmp_path, monkeypatch):
    """No more than a shard is held in memory while writing, and each file is opened only when it is read."""
    monkeypatch.setattr(teacher_module, "SHARD_BYTES", 40)
    held = []

    def items():
        for key, tensor in parts(6):
            held.append(len(list(tmp_path.glob("original-forget-*"))))
            yield key, tensor

    cache = HiddenCache(tmp_path, IDENTITY)
    cache.write("original/forget", items())
    assert held[-1] > 2, "written only at the end"
    opened = []
    monkeypatch.setattr(teacher_module, "safe_open", lambda path, **how: opened.append(path) or safe_open(path, **how))
    again = HiddenCache(tmp_path, IDENTITY)
    for key, tensor in parts(6)[::-1]:
        assert torch.equal(again.read("original/forget", key), tensor)
        assert torch.equal(again.read("original/forget", key), tensor)
    assert len(opened) == len(set(opened)) == len(list(tmp_path.glob("original-forget-*"))) > 3


def test_the_same_key_in_two_sets_is_two_tensors(tmp_path):
    cache = HiddenCache(tmp_path, IDENTITY)
    cache.write("original/forget", [("0", torch.ones(1, 2))])
    cache.write("original/replay", [("0", torch.zeros(1, 2))])
    cache.write("strengthened/forget", [("0", torch.full((1, 2), 2.0))])
    assert [cache.read(p, "0")[0, 0].item() for p in ("original/forget", "original/replay", "strengthened/forget")] == [
        1,
        0,
        2,
    ]


def test_a_part_that_was_interrupted_is_not_done(tmp_path, monkeypatch):
    """Half of the records taken for all of them would fail, or worse, only in the middle of distillation."""
    monkeypatch.setattr(teacher_module, "SHARD_BYTES", 1)

    def interrupted():
        yield "0", torch.full((1, 4), 7.0)
        raise KeyboardInterrupt

    cache = HiddenCache(tmp_path, IDENTITY)
    cache.write("original/replay", parts(1))
    with pytest.raises(KeyboardInterrupt):
        cache.write("original/forget", interrupted())
    for opened in (cache, HiddenCache(tmp_path, IDENTITY)):
        assert not opened.done("original/forget") and opened.done("original/replay")
    again = HiddenCache(tmp_path, IDENTITY)
    again.write("original/forget", parts())
    assert torch.equal(HiddenCache(tmp_path, IDENTITY).read("original/forget", "0"), parts()[0][1])


def test_nothing_stale_is_read(tmp_path):
    """After a change of anything that went in, neither tensors nor heads of before are found, nor left on disk."""
    (tmp_path / "model.safetensors").write_text("of somebody else")
    lm, old = model(), HiddenCache(tmp_path, IDENTITY)
    old.write("original/forget", parts())
    old.write_head("original", lm)
    new = HiddenCache(tmp_path, {**IDENTITY, "model": "b"})
    assert not new.done("original/forget") and new.read_head("original") is None
    with pytest.raises(KeyError):
        new.read("original/forget", "0")
    assert on_disk(new) == {"model.safetensors"}


def test_an_interrupted_change_does_not_revive_the_old_index(tmp_path):
    """The new tensors have the old file's name: the old index would read them as its own."""
    HiddenCache(tmp_path, IDENTITY).write("original/forget", parts())

    def interrupted():
        yield "0", torch.zeros(1, 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        HiddenCache(tmp_path, {"model": "b"}).write("original/forget", interrupted())
    assert not HiddenCache(tmp_path, IDENTITY).done("original/forget")


@pytest.mark.parametrize("text", ['{"weight_map": {}}', '{"identity": ', "[]"])
def test_somebody_elses_index_is_refused_and_stays(tmp_path, text):
    """``--teacher`` at a model's folder must not end in a traceback, and must delete nothing."""
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(UserError, match="no index of a teacher"):
        HiddenCache(tmp_path, {})
    assert (tmp_path / "index.json").read_text() == text


def test_an_unchanged_identity_is_found_again(tmp_path):
    """JSON turns tuples into lists; taken for a change it would have everything computed again."""
    HiddenCache(tmp_path, IDENTITY).write("original/forget", parts())
    assert HiddenCache(tmp_path, json.loads(json.dumps(IDENTITY))).done("original/forget")
    assert HiddenCache(tmp_path, IDENTITY).done("original/forget")


def test_marked_states_do_not_depend_on_the_batch():
    """Each is the state before its token, in the record alone, whatever it was padded to; training mode stays."""
    lm = model()
    lm.model.train()
    g = torch.Generator().manual_seed(0)
    encoded = []
    for i, n in enumerate((5, 11, 7)):
        answer = tuple(t > n // 2 for t in range(n))
        scored = tuple(t == 1 for t in range(n))
        encoded.append(Encoded(str(i), tuple(torch.randint(3, 60, (n,), generator=g).tolist()), answer, scored, 1))
    together, alone = (dict(marked_hidden(lm, encoded, batch_tokens=size)) for size in (1000, 1))
    assert lm.model.training
    for e in encoded:
        with torch.no_grad():
            plain = lm.backbone(torch.tensor([e.ids])).last_hidden_state[0]
        expected = plain[[t - 1 for t, m in enumerate(marked(e)) if m]]
        torch.testing.assert_close(together[e.key], expected)
        torch.testing.assert_close(alone[e.key], expected)
        assert not together[e.key].requires_grad


def inputs(n=5, k=4) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    draw = {name: torch.randn(*shape, generator=g, dtype=torch.float64)
            for name, shape in {"original": (n, 16), "strengthened": (n, 16), "uninformed": (n, k, 16)}.items()}  # fmt: skip
    return {**draw, "floored": torch.tensor([True, False, True, True, False])}


def spare(lm, n=5) -> torch.Tensor:
    return torch.empty(2, n, len(lm.head.weight), dtype=torch.float64)


def test_full_fine_tuning_uses_the_kept_heads_and_lora_the_shared_one(tmp_path):
    """The student's own head moves in full fine-tuning: a teacher made with it would follow the student."""
    before, strong, student, x = model(0), model(1), model(2), inputs()
    full = Teacher(HiddenCache(tmp_path / "full", IDENTITY), alpha=3.0)
    full.cache.write_head("original", before)
    full.cache.write_head("strengthened", strong)
    kept = before.head.weight.detach().clone()
    with torch.no_grad():
        before.head.weight.add_(1)  # what was kept must be a copy
    full.attach(student)
    l_o, l_aug = x["original"] @ kept.T, x["strengthened"] @ strong.head.weight.detach().T
    plain = {name: x[name] for name in ("original", "strengthened")}
    expected = torch.log_softmax(l_o - 3 * F.relu(l_aug - l_o), -1)
    torch.testing.assert_close(full.composite(plain, spare(student)), expected)
    torch.testing.assert_close(full.original(plain, spare(student)), torch.log_softmax(l_o, -1))

    adapted = model(0, lora=True)
    shared = Teacher(HiddenCache(tmp_path / "lora", IDENTITY), alpha=3.0)
    shared.attach(adapted)
    w = adapted.head.weight.detach()
    l_o, l_aug = x["original"] @ w.T, x["strengthened"] @ w.T
    expected = torch.log_softmax(l_o - 3 * F.relu(l_aug - l_o), -1)
    torch.testing.assert_close(shared.composite(plain, spare(adapted)), expected)


def test_the_floor_is_the_mean_of_the_others_where_it_is_flagged(tmp_path):
    """By hand: normalised maximum of teacher and mean distribution in flagged rows, the plain teacher elsewhere."""
    lm, x = model(0), inputs()
    teacher = Teacher(HiddenCache(tmp_path, IDENTITY), alpha=8.0)
    teacher.attach(lm)
    w = lm.head.weight.detach()
    l_o, l_aug = x["original"] @ w.T, x["strengthened"] @ w.T
    plain = torch.softmax(l_o - 8 * F.relu(l_aug - l_o), -1)
    others = torch.softmax(x["uninformed"] @ w.T, -1).mean(1)
    raised = torch.maximum(plain, others)
    raised = raised / raised.sum(-1, keepdim=True)
    expected = torch.where(x["floored"][:, None], raised, plain)
    torch.testing.assert_close(teacher.composite(x, spare(lm)).exp(), expected)
    assert (expected[0] - plain[0]).abs().max() > 1e-3
