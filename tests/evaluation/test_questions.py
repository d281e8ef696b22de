"""A question's answers are scored together, and every metric takes its share of the one reading."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rkld.evaluation import questions
from rkld.evaluation.questions import mean_losses, question_losses, question_scores, truth_ratios
from rkld.records.reading import read_records

ROWS = [
    {"question": "1 2 3", "answer": "4 5", "paraphrased_answer": "5 4 6", "perturbed_answer": ["7", "4 8"]},
    {"question": "1 9", "answer": "3", "perturbed_answer": ["2 2", "6"]},
]


class Encoder:
    """Words are ids; an answer ends with 0."""

    def encode(self, record):
        prompt, answer = [int(w) for w in record.question.split()], [*map(int, record.answer.split()), 0]
        mask = (False,) * len(prompt) + (True,) * len(answer)
        return SimpleNamespace(key=record.key, ids=(*prompt, *answer), answer=mask, prompt_length=len(prompt))


@pytest.fixture(scope="module")
def lm():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=10, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2, initializer_range=0.5)  # fmt: skip
    model = LlamaForCausalLM(config).double().eval()
    return SimpleNamespace(
        model=model, backbone=model.model, head=model.lm_head, logits=model.lm_head, device=model.device
    )


def plainly(lm, question, answer):
    """Mean loss per answer token, from the full logits."""
    prompt, said = [int(w) for w in question.split()], [*map(int, answer.split()), 0]
    with torch.no_grad():
        log_p = lm.model(torch.tensor([prompt + said])).logits[0].log_softmax(-1)
    return -np.mean([log_p[len(prompt) + n - 1, token].item() for n, token in enumerate(said)])


def test_every_loss_is_that_of_its_answer(lm):
    """A mixed-up order would compare right answers with wrong ones."""
    losses = question_losses(lm, Encoder(), read_records(ROWS, "forget"))
    for n, row in enumerate(ROWS):
        right = [row["answer"], row.get("paraphrased_answer", row["answer"])]
        found = [losses["gold_loss"][n], losses["paraphrase_loss"][n], *losses["perturbed_loss"][n]]
        expected = [plainly(lm, row["question"], answer) for answer in right + row["perturbed_answer"]]
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_one_reading_serves_every_metric(lm, monkeypatch):
    """The right answers would be read once for the probability and again for the truth ratio."""
    records = read_records(ROWS, "forget")
    scores = question_scores(lm, Encoder(), records)
    ratios = truth_ratios(lm, Encoder(), records)
    monkeypatch.setattr(questions, "answer_scores", None)
    losses = mean_losses(scores)
    assert losses["perturbed_loss"].shape == (2, 2)
    np.testing.assert_allclose(ratios, np.exp(losses["paraphrase_loss"] - losses["perturbed_loss"].mean(1)))


def test_unequal_numbers_of_wrong_answers_are_refused(lm):
    """They would be averaged as if they belonged to other questions."""
    rows = [ROWS[0], {**ROWS[1], "perturbed_answer": ["2"]}]
    with pytest.raises(ValueError, match="has 1 perturbed answers"):
        question_scores(lm, Encoder(), read_records(rows, "forget"))
