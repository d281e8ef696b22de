"""Packing into prefix trees: what is shared is read once, and every sequence keeps the values it has alone."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MambaConfig, MistralConfig

from rkld.evaluation import likelihood, prefix_tree
from rkld.evaluation.likelihood import answer_losses, answer_scores
from rkld.evaluation.prefix_tree import ATTENTION, merge, pack

VOCABULARY = 61
TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SMALL = {
    **TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
}
GPT2 = GPT2Config(**TOKENS, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.5)
MAMBA = MambaConfig(**TOKENS, hidden_size=32, num_hidden_layers=2, state_size=4, initializer_range=0.5)


def wrap(model):
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = inner.get_output_embeddings()
    return SimpleNamespace(model=model, backbone=inner.base_model, head=head, logits=head, device=model.device)


def tiny(config, dtype=torch.float64):
    torch.manual_seed(0)
    return wrap(AutoModelForCausalLM.from_config(config).to(dtype).eval())


def record(key, prompt, answer):
    marked = (False,) * len(prompt) + (True,) * len(answer)
    ids = (*prompt, *answer)
    return SimpleNamespace(key=str(key), ids=ids, answer=marked, scored=marked, prompt_length=len(prompt))


def questions(system=6, n=5, answers=4):
    """Questions behind one system prompt, each with answers, some of which begin alike or are part of another."""
    draw = np.random.default_rng(0)
    start, made = draw.integers(1, VOCABULARY, system).tolist(), []
    for number in range(n):
        prompt = start + draw.integers(1, VOCABULARY, int(draw.integers(2, 9))).tolist()
        first = draw.integers(1, VOCABULARY, 12).tolist()
        said = [first, first[:5], [*first[:3], 7, 8], first]
        said += [draw.integers(1, VOCABULARY, int(draw.integers(1, 9))).tolist() for _ in range(answers - 2)]
        made += [record(f"{number}.{i}", prompt, answer) for i, answer in enumerate(said)]
    return made


def plainly(lm, encoded):
    """−log softmax and lead over the next best, from the full logits of one record at a time."""
    found = []
    with torch.no_grad():
        for r in encoded:
            logits = lm.model(torch.tensor([r.ids])).logits[0]
            losses, margins = [], []
            for t in (t for t, marked in enumerate(r.answer) if marked):
                others = logits[t - 1].clone()
                others[r.ids[t]] = -torch.inf
                losses.append(-logits[t - 1].log_softmax(-1)[r.ids[t]].item())
                margins.append((logits[t - 1, r.ids[t]] - others.max()).item())
            found.append((losses, margins))
    return found


def agree(lm, encoded, tolerance, **options):
    scores = answer_scores(lm, encoded, **options)
    for found, expected in zip(scores, plainly(lm, encoded), strict=True):
        np.testing.assert_allclose(found.losses, expected[0], rtol=0, atol=tolerance)
        np.testing.assert_allclose(found.margins, expected[1], rtol=0, atol=tolerance)


@pytest.fixture
def positions(monkeypatch):
    """Positions read so far, padding included."""
    read, shapes = prefix_tree.read, []

    def counted(lm, trees):
        hidden = read(lm, trees)
        shapes.append(hidden.shape[0] * hidden.shape[1])
        return hidden

    monkeypatch.setattr(prefix_tree, "read", counted)
    monkeypatch.setattr(likelihood, "read", counted)
    return shapes


@pytest.mark.parametrize(
    ("dtype", "tolerance", "attention"),
    [(torch.float64, 1e-10, "sdpa"), (torch.float32, 1e-4, "sdpa"), (torch.float32, 1e-4, "eager")],
)
@pytest.mark.parametrize("config", [LlamaConfig(**SMALL), GPT2], ids=["rotary", "learned positions"])
def test_shared_and_plain_scores_are_equal(config, dtype, tolerance, attention, positions):
    """A token that sees another answer, or stands at a wrong position, would change every loss after it."""
    lm, encoded = tiny(config, dtype), questions()
    lm.model.set_attn_implementation(attention)
    for batch_tokens in (4096, 100, 30, 1):
        agree(lm, encoded, tolerance, batch_tokens=batch_tokens)
    positions.clear()
    answer_losses(lm, encoded)
    assert sum(positions) < 0.6 * sum(len(r.ids) for r in encoded), "nothing was shared, so nothing was tested"


def test_odd_groups(positions):
    """Groups of one, an answer that begins another, twice the same, nothing in common, one token only."""
    lm = tiny(LlamaConfig(**SMALL))
    groups = [
        [record(0, [1, 2, 3], [4, 5])],
        [record(0, [1, 2, 3], [4, 5]), record(1, [1, 2, 3], [4, 5, 6, 7]), record(2, [1, 2, 3], [4])],
        [record(0, [1, 2, 3], [4, 5]), record(1, [1, 2, 3], [4, 5])],
        [record(0, [1, 2, 3], [4, 5]), record(1, [6, 7], [1, 2, 3]), record(2, [8], [9])],
        [record(0, [1], [2]), record(1, [1], [3])],
    ]
    for encoded in groups:
        agree(lm, encoded, 1e-10)
    agree(lm, list(itertools.chain(*groups)), 1e-10)


def test_adapters_take_part():
    """Losses would be those of the base."""
    lm = tiny(LlamaConfig(**SMALL))
    base = answer_losses(lm, questions())
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    lm = wrap(get_peft_model(lm.model, config).double())
    agree(lm, questions(), 1e-10)
    assert np.abs(np.concatenate(answer_losses(lm, questions())) - np.concatenate(base)).max() > 1e-3


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(MAMBA, id="recurrent"),
        pytest.param(MistralConfig(**SMALL, sliding_window=5), id="window shorter than the prompts"),
    ],
)
def test_models_that_cannot_share_are_read_plainly(config):
    """A recurrent state would carry one answer into the next; a short window would be overstepped."""
    # float32 tolerance: Mamba computes in float32 whatever its weights
    agree(tiny(config), questions(), 1e-5)


def test_a_window_bounds_the_trees(positions):
    """Within the window nothing depends on it, so sharing goes on there."""
    lm, encoded = tiny(MistralConfig(**SMALL, sliding_window=30)), questions()
    agree(lm, encoded, 1e-10)
    assert sum(positions) < 0.8 * sum(len(r.ids) for r in encoded)


def test_flash_attention_is_never_given_a_tree(monkeypatch):
    """It takes no mask of this shape: on a GPU that ends in an error that cannot be caught."""
    lm, (tree, *_) = tiny(LlamaConfig(**SMALL)), pack([r.ids for r in questions()], 4096)
    assert prefix_tree.reads_trees(lm, tree)
    monkeypatch.setattr(lm.backbone.config, "_attn_implementation_internal", "flash_attention_2")
    assert not prefix_tree.reads_trees(lm, tree)


def test_a_tree_is_written_depth_first():
    """The mask is made from where each node's descendants end."""
    tree = merge({3: (5, 6), 0: (5, 6, 7), 2: (5, 8, 9), 1: (5, 8, 9)})
    assert tree.ids == [5, 6, 7, 8, 9] and tree.depths == [0, 1, 2, 1, 2]
    assert tree.ends == [5, 3, 3, 5, 5]
    assert tree.paths == {3: [0, 1], 0: [0, 1, 2], 2: [0, 3, 4], 1: [0, 3, 4]}
    assert tree.branches and not merge({0: (5, 6), 1: (5, 6, 7)}).branches


@pytest.mark.parametrize(("attention", "repeat", "most"), [(ATTENTION, 60, 7), (0.2, 1, 10)])
def test_packing_is_the_cheapest_of_all_ways_and_loses_nothing(monkeypatch, attention, repeat, most):
    """A greedy cut would tear questions apart; sharing where it does not pay would slow down what shares nothing.

    Where attention is dear, the bound on the width of a tree is what ends the search.
    """
    monkeypatch.setattr(prefix_tree, "ATTENTION", attention)
    draw = np.random.default_rng(1)
    for _ in range(20):
        n = int(draw.integers(1, most))
        sequences = [tuple(draw.integers(0, 2, int(draw.integers(0, 6))).tolist()) * repeat for _ in range(n)]
        widest = int(draw.choice([200, 500, 4096]))
        trees = pack(sequences, widest)
        held = {i: tuple(tree.ids[node] for node in path) for tree in trees for i, path in tree.paths.items()}
        assert held == {i: ids for i, ids in enumerate(sequences) if ids}
        assert all(len(tree.ids) <= widest or not tree.branches for tree in trees)
        order = sorted(held, key=lambda i: sequences[i])
        costs = []
        for cuts in itertools.product([False, True], repeat=max(len(order) - 1, 0)):
            runs, start = [], 0
            for end in [*(n for n, cut in enumerate(cuts, start=1) if cut), len(order)]:
                runs.append(merge({i: sequences[i] for i in order[start:end]}))
                start = end
            if all(len(run.ids) <= widest or len(run.paths) == 1 for run in runs):
                costs.append(sum(len(run.ids) * (1 + attention * len(run.ids)) for run in runs))
        if order:
            assert sum(len(t.ids) * (1 + attention * len(t.ids)) for t in trees) == pytest.approx(min(costs))


def test_what_shares_nothing_is_read_as_before(positions):
    """Trees, their masks and the trial would cost time and save none."""
    lm = tiny(LlamaConfig(**SMALL))
    encoded = [record(i, [i, 1, 2, 3], [4, 5, 6]) for i in range(10)]
    assert all(len(tree.paths) == 1 for tree in pack([r.ids for r in encoded], 4096))
    answer_losses(lm, encoded)
    assert positions == [10 * 6]  # without the last token, which predicts nothing
