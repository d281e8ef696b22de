"""Greedy answers against a loop that takes the argmax of the full logits, one prompt at a time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    PreTrainedTokenizerFast,
    RwkvConfig,
    RwkvForCausalLM,
)

from rkld.errors import UserError
from rkld.evaluation import generation
from rkld.evaluation.generation import (
    CLEAR_MARGIN,
    SHARED,
    STEPS,
    Generated,
    greedy,
    known_prefixes,
    period,
    supports_left_padding,
)
from rkld.evaluation.likelihood import Scores, answer_scores
from rkld.evaluation.sampling import sample
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded

VOCABULARY = 37
CONTEXT = 48


def tokenizer():
    words = {"<end>": 0, **{f"w{i}": i for i in range(1, VOCABULARY)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<end>")


def wrap(model):
    return LanguageModel(model.double().eval(), tokenizer(), "test")


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


def mamba():
    torch.manual_seed(3)
    config = MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=5,
        pad_token_id=0,
    )
    return wrap(MambaForCausalLM(config))


def rwkv():
    torch.manual_seed(2)
    config = RwkvConfig(
        vocab_size=VOCABULARY, hidden_size=32, attention_hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        initializer_range=0.5, bos_token_id=None, eos_token_id=5,
    )  # fmt: skip
    return wrap(RwkvForCausalLM(config))


@pytest.fixture(scope="module")
def trained():
    """A model and records: one half it has learned by heart, of the other it knows beginnings at most.

    Answers of 2 to 30 tokens and an end.
    """
    draw, records, prompt, answer = np.random.default_rng(2), [], [], []
    for key in range(16):
        begins = answer[: len(answer) // 2] if key % 4 == 1 else []
        if not begins:
            prompt = draw.integers(6, VOCABULARY, int(draw.integers(2, 7))).tolist()
        answer = [*begins, *draw.integers(6, VOCABULARY, int(draw.integers(2, 31 - len(begins)))).tolist(), 5]
        mask = (False,) * len(prompt) + (True,) * len(answer)
        records.append(
            SimpleNamespace(key=str(key), ids=(*prompt, *answer), answer=mask, scored=mask, prompt_length=len(prompt))
        )
    lm = llama()
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=5e-3)
    for _ in range(80):
        for record in records[::2]:
            ids = torch.tensor([record.ids])
            lm.model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return lm, records


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


@pytest.mark.parametrize(("dtype", "taken"), [(torch.bfloat16, True), (torch.float32, False)])
def test_what_bfloat16_rounds_keeps_no_model_from_being_asked_in_batches(dtype, taken):
    """Logits come as float32 whatever the weights are, and differ by what the weights' dtype rounds."""
    lm = LanguageModel(llama().inner.to(dtype), tokenizer(), "test")
    lm.inner.lm_head.register_forward_hook(lambda head, args, logits: logits * (1.01 if len(logits) > 1 else 1))
    assert supports_left_padding(lm) is taken


@pytest.mark.parametrize("make", [mamba, rwkv])
def test_models_whose_cache_cannot_be_continued_answer_the_same(make):
    """A recurrent state given back without its rows, or read twice, would change what comes after it; so would padding
    that is read like text."""
    lm, given = make(), [[1 + i % 30, 7, 9][: 1 + i % 3] for i in range(12)]
    assert (
        supports_left_padding(lm) == (make is mamba)
        and supports_left_padding(llama())
        and supports_left_padding(gpt2())
    )
    answers = greedy(lm, given, max_new_tokens=3 * STEPS)
    assert [a.ids for a in answers] == [plainly(lm, p, 3 * STEPS, {0, 5}) for p in given]
    assert max(len(a.ids) for a in answers) > STEPS


def mistral(window):
    torch.manual_seed(3)
    config = MistralConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, sliding_window=window, eos_token_id=5, bos_token_id=1,
        pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    return wrap(MistralForCausalLM(config))


@pytest.mark.parametrize(
    ("make", "shared"),
    [(llama, True), (gpt2, True), (lambda: mistral(None), True), (lambda: mistral(16), False), (mamba, False)],
    ids=["llama", "gpt2", "mistral", "window", "mamba"],
)
def test_what_prompts_begin_with_alike_is_read_once_and_answers_are_the_same(make, shared, monkeypatch):
    """Padding behind the beginning that is attended to, or counted as a position, would change answers."""
    lm, rng = make(), np.random.default_rng(2)
    beginning = [int(n) for n in rng.integers(6, VOCABULARY, SHARED + 1)]
    given = [beginning, *([*beginning, *rng.integers(6, VOCABULARY, n).tolist()] for n in (1, 7, 3, 1, 12))]
    read, forward = [], lm.inner.get_input_embeddings().forward
    monkeypatch.setattr(
        lm.inner.get_input_embeddings(), "forward", lambda ids: read.append(tuple(ids.shape)) or forward(ids)
    )
    answers = greedy(lm, given, max_new_tokens=2 * STEPS)
    assert [a.ids for a in answers] == [plainly(lm, p, 2 * STEPS, {0, 5}) for p in given]
    assert len({a.ids for a in answers}) > 3
    assert ((1, SHARED) in read) is shared, "the first prompt needs one token of its own"
    read.clear()
    drawn = sample(lm, given, 3, seed=1, max_new_tokens=6)
    assert (max(width for _, width in read) <= len(given[-1]) - SHARED) is shared, "what was read is gone on from"
    monkeypatch.setattr(generation, "SHARED", CONTEXT)
    read.clear()
    assert sample(lm, given, 3, seed=1, max_new_tokens=6) == drawn
    assert (1, SHARED) not in read


def test_rows_that_have_finished_leave_the_batch(monkeypatch):
    """One answer that goes on and on would keep the whole batch at work."""
    lm, given, rows = llama(), prompts(40), []
    lm.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    answers = greedy(lm, given, max_new_tokens=[4] * 10 + [25] * 30)
    steps = [len(a.ids) for a in answers]
    assert sum(rows) <= sum(STEPS * -(-n // STEPS) for n in steps) < 0.9 * len(given) * max(steps)


def test_what_is_known_of_an_answer_is_not_generated_again(trained, monkeypatch):
    """Answers must be those of plain generation: known to the end, known in part, unknown, cut at a cap."""
    lm, records = trained
    given = [record.ids[: record.prompt_length] for record in records]
    starts = known_prefixes(lm, records, answer_scores(lm, records))
    known = [start == record.ids[record.prompt_length :] for start, record in zip(starts, records, strict=True)]
    assert 4 <= sum(known) < len(records) and any(start and not k for start, k in zip(starts, known, strict=True))
    for cap in (1, 6, 40):
        caps = [min(cap, CONTEXT - len(p)) for p in given]
        expected = [plainly(lm, p, c, {0, 5}) for p, c in zip(given, caps, strict=True)]
        answers = greedy(lm, given, max_new_tokens=caps, starts=starts)
        assert [a.ids for a in answers] == expected
        assert answers == greedy(lm, given, max_new_tokens=caps)
    monkeypatch.setattr(lm.model, "generate", None)
    by_heart = [i for i, k in enumerate(known) if k]
    done = []
    answers = greedy(lm, [given[i] for i in by_heart], starts=[starts[i] for i in by_heart], progress=done.append)
    assert all(a.finished for a in answers) and done == [len(by_heart)]


def test_only_a_clear_lead_is_known():
    """Between two ways of computing them, rounding may turn round tokens that lie close together."""
    lm = SimpleNamespace(answers_in=None, head=SimpleNamespace(weight=torch.zeros(1)))
    margin = CLEAR_MARGIN[torch.float32]
    record = SimpleNamespace(
        ids=tuple(range(9)), prompt_length=4, answer=(False, True, False, False, True, True, True, True, False)
    )  # an earlier answer (id 1) and a last one (ids 4 to 7), with a token behind it
    for leads, expected in [
        ([1.0, 1.0, 1.0, 1.0], (4, 5, 6, 7)),
        ([1.0, 1.0, margin / 2, 1.0], (4, 5)),
        ([-1.0, 1.0, 1.0, 1.0], ()),
    ]:
        scores = Scores(np.zeros(5), np.array([-9.0, *leads]))
        assert known_prefixes(lm, [record], [scores]) == [expected]


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


def test_a_context_of_another_name_counts():
    """MPT calls it max_seq_len; an answer would run past what the model has learned to read."""
    config = MptConfig(vocab_size=VOCABULARY, d_model=16, n_heads=2, n_layers=1, max_seq_len=CONTEXT)
    lm = wrap(MptForCausalLM(config))
    (answer,) = greedy(lm, [[3] * (CONTEXT - 2)], max_new_tokens=9)
    assert len(answer.ids) <= 2
    with pytest.raises(UserError, match="has 48 tokens, but the model's context holds 48"):
        greedy(lm, [[1] * CONTEXT])


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
    with pytest.raises(ValueError, match="starts has 1 values for 2 prompts"):
        greedy(llama(), [[1], [2]], starts=[[3]])
    assert greedy(llama(), []) == []


@pytest.mark.parametrize(("ids", "after"), [
    ([9, 8, 1, 2, 1, 2, 1, 2, 1, 2], 2), ([7, 7, 7, 7], 1), ([7, 7, 7], None), ([1, 2, 1, 2, 1, 2, 1, 3], None),
    ([5, 5, 1, 5, 5, 1, 5, 5, 1, 5, 5, 1], 3), ([], None),
])  # fmt: skip
def test_what_repeats_itself_at_its_end(ids, after):
    assert period(tuple(ids)) == after


def test_an_answer_that_repeats_itself_is_followed_to_see_whether_it_ends(monkeypatch):
    """Would break if one that ends its loop with a fact counted as measured, or one without end as cut."""
    forever, then_a_fact, ends, told = (5, 6) * 8, (7,) * 16, (8,) * 16, (1, 2, 3)
    continued = {forever: forever * 4, then_a_fact: (*then_a_fact, *then_a_fact, 9, 4), ends: (*ends, 8, 0)}

    def greedy(lm, prompts, *, max_new_tokens, starts):
        assert max_new_tokens == generation.FOLLOWED and len(prompts) == len(starts)
        return [Generated(continued[ids], "longer", finished=continued[ids][-1] == 0) for ids in starts]

    monkeypatch.setattr(generation, "greedy", greedy)
    given = [Generated(ids, "text", finished=False) for ids in (forever, then_a_fact, ends, told)]
    given += [Generated((1, 0), "text", finished=True)] * 26
    found = generation.followed(None, [[1]] * 30, given)
    assert (found[0].text, found[0].endless, found[0].finished) == ("text", True, False)
    assert (found[1].text, found[1].endless, found[1].finished) == ("longer", False, False)
    assert (found[2].text, found[2].finished) == ("longer", True)
    assert found[3:] == given[3:], "cut, and not measured"
    assert generation.followed(None, [[1]] * 4, given[:4]) == given[:4], "most repeat themselves: a broken model"


@pytest.mark.parametrize(
    "prompt, said, text, finished",
    [
        ("Question: Who?\nAnswer:", " Ada.\nQuestion: And who else?\nAnswer: Bo.", " Ada.", True),
        ("Question: Who?\nAnswer: It was", " Ada.\nQuestion: And", " Ada.", True),  # a forced beginning
        ("Question: Who?\nAnswer:", " Ada, she said", " Ada, she said", False),
        ("From the survey:", " Ada.\nQuestion: And who else?", " Ada.\nQuestion: And who else?", False),  # plain text
    ],
)
def test_without_a_template_an_answer_ends_before_the_next_question(prompt, said, text, finished):
    """A base model has learned no end of turn: scored with the question that it asks itself, it would say more."""
    lm = SimpleNamespace(tokenizer=SimpleNamespace(chat_template=None, decode=lambda ids, **_: "".join(map(chr, ids))))
    found = generation.answer(lm, list(map(ord, said)), frozenset(), list(map(ord, prompt)))
    assert (found.text, found.finished) == (text, finished)
    lm.tokenizer.chat_template = "{{ messages }}"
    assert generation.answer(lm, list(map(ord, said)), frozenset(), list(map(ord, prompt))).text == said


@pytest.mark.parametrize("ask", ["greedy", "sampled"])
def test_answers_in_bfloat16_leave_likelihoods_and_weights_in_theirs(ask):
    model = llama().model.float()
    lm, narrow = (LanguageModel(model, tokenizer(), "test", answers_in=dtype) for dtype in (None, torch.bfloat16))
    computed = []
    handle = model.model.layers[0].mlp.register_forward_hook(lambda _, __, out: computed.append(out.dtype))
    asked = [[5, 6, 7], [9, 3, 2, 8]]

    def answers(of):
        if ask == "greedy":
            return greedy(of, asked, max_new_tokens=6)
        return [one for some in sample(of, asked, 2, seed=0, max_new_tokens=6) for one in some]

    found = answers(narrow)
    assert computed[-1] == torch.bfloat16 and all(one.ids for one in found)
    encoded = [Encoded("a", (5, 6, 7, 1, 2), (False, False, False, True, True), (False,) * 5, 3)]
    scores = answer_scores(narrow, encoded)
    assert computed[-1] == torch.float32 and (scores[0].losses == answer_scores(lm, encoded)[0].losses).all()
    assert not torch.is_autocast_enabled("cpu") and model.dtype == torch.float32
    answers(lm)
    assert computed[-1] == torch.float32
    handle.remove()


def test_of_what_is_computed_in_bfloat16_only_a_clear_lead_is_known():
    """In float32 a lead of .5 is certain; an answer in bfloat16 may go on otherwise."""
    lm = LanguageModel(llama().model.float(), tokenizer(), "test")
    record = Encoded("a", (5, 6, 7, 1, 2), (False, False, False, True, True), (False,) * 5, 3)
    scores = [Scores(np.zeros(2), np.array([0.5, 0.5]))]
    assert known_prefixes(lm, [record], scores) == [(1, 2)]
    lm.answers_in = torch.bfloat16
    assert known_prefixes(lm, [record], scores) == [()]
