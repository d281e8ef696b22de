"""Membership by gradients, ReCaLL and neighbours, and at few false alarms: by hand, and against plain torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rkld.evaluation.membership import (
    NEIGHBOURS,
    SHOTS,
    further_scores,
    neighbourhood_scores,
    recall_scores,
    true_positive_rate,
)
from rkld.evaluation.metric import Measured
from rkld.evaluation.registry import METRICS
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from tests.helpers import model

FORGET = read_records(
    [{"question": f"Where is {n}?", "answer": f"{n} is in Oslo{'.' * i}"} for i, n in enumerate(("Ada", "Bo", "Cy"))],
    "forget",
)
HOLDOUT = read_records([{"question": f"Who is {n}?", "answer": f"{n} is tall."} for n in "DEFGHIJ"], "holdout")


def test_a_record_that_strangers_disturb_most_is_a_member():
    """ReCaLL by hand: lower for members, as all scores are; a loss of 0 does not divide by 0."""
    assert recall_scores([[1.0, 3.0], [4.0]], [[4.0, 8.0], [4.0]]) == pytest.approx([-3.0, -1.0])
    assert np.isfinite(recall_scores([[0.0]], [[1.0]])).all()
    with pytest.raises(ValueError, match="about 1 records"):
        recall_scores([[1.0]], [[1.0], [2.0]])


def test_a_record_below_its_neighbours_is_a_member():
    assert neighbourhood_scores([[1.0, 3.0], [5.0]], [[[4.0], [6.0, 2.0]], [[5.0]]]) == pytest.approx([-2.0, 0.0])
    with pytest.raises(ValueError, match="none of them empty"):
        neighbourhood_scores([[1.0]], [[]])


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.0, 0.25), (0.2499, 0.25), (0.25, 0.5), (0.5, 0.75)],  # below 2; still; below 4, past one; below 6, past two
)
def test_the_threshold_lets_no_more_of_the_others_pass(rate, expected):
    """Four others: up to a quarter none of them may lie below it. A tie with one is not below it."""
    assert true_positive_rate([1.0, 3.0, 5.0, 9.0], [6.0, 2.0, 4.0, 8.0], rate) == expected
    assert true_positive_rate([2.0], [2.0, 3.0], 0.0) == 0
    with pytest.raises(ValueError, match="rate is 1"):
        true_positive_rate([1.0], [1.0], 1)


def test_scores_of_a_model_are_those_of_plain_passes():
    """Gradients by backward(), ReCaLL on the others' tokens before the record's, neighbours one token at a time."""
    lm = model()
    lm.model.requires_grad_(False)
    encoder = Encoder(lm.tokenizer, context_length=lm.context_length)
    found = further_scores(lm, encoder, FORGET, HOLDOUT)
    assert not any(p.requires_grad for p in lm.model.parameters())
    lm.model.requires_grad_(True)

    def loss(ids, marks):
        logits = lm.model(input_ids=torch.tensor([ids])).logits[0, :-1]
        return F.cross_entropy(logits[torch.tensor(marks[1:])], torch.tensor(ids[1:])[torch.tensor(marks[1:])])

    others = [encoder.encode(record) for record in HOLDOUT][:SHOTS]
    before = tuple(token for e in others for token in e.ids)
    for i, e in enumerate(encoder.encode(record) for record in FORGET):
        lm.model.zero_grad()
        alone = loss(e.ids, e.answer)
        alone.backward()
        norms = [p.grad.norm() for p in lm.model.parameters()]
        assert found["gradient_norm"][i] == pytest.approx(torch.stack(norms).mean().item(), rel=1e-6)
        with torch.no_grad():
            behind = loss(before + e.ids, (False,) * len(before) + e.answer)
            assert found["recall"][i] == pytest.approx(-(behind / alone).item(), rel=1e-6)
            places = [t for t, a in enumerate(e.answer) if a]
            chosen = sorted({places[n * len(places) // NEIGHBOURS] for n in range(min(NEIGHBOURS, len(places)))})
            logits, near = lm.model(input_ids=torch.tensor([e.ids])).logits[0], []
            for t in chosen:
                row = logits[t - 1].clone()
                row[e.ids[t]] = -torch.inf
                near.append(loss((*e.ids[:t], int(row.argmax()), *e.ids[t + 1 :]), e.answer))
        assert found["neighbourhood"][i] == pytest.approx((alone - torch.stack(near).mean()).item(), rel=1e-5)


def test_a_stranger_is_never_put_before_itself(monkeypatch):
    """A holdout record behind itself would be recited: all would pass for strangers that strangers do not disturb."""
    seen = []

    def losses(lm, encoded, **_):
        seen.append(encoded)
        return [np.ones(sum(e.answer)) for e in encoded]

    monkeypatch.setattr("rkld.evaluation.membership.answer_losses", losses)
    lm = model()
    encoder = Encoder(lm.tokenizer)
    further_scores(lm, encoder, HOLDOUT, HOLDOUT)
    behind = next(some for some in seen if len(some[0].ids) > 60)
    for record, e in zip(HOLDOUT, behind, strict=True):
        ids, whole = encoder.encode(record).ids, e.ids
        assert whole[-len(ids) :] == ids
        assert sum(whole[t : t + len(ids)] == ids for t in range(len(whole))) == 1


def rows(scores):
    return {str(i): {"recall": score} for i, score in enumerate(scores)}


def test_further_attacks_have_the_figures_that_cheap_ones_have():
    """And do not enter `priv`, which is OpenUnlearning's of four attacks; without theirs it is not made."""
    read = {"forget": rows([1.0, 2.0, 3.0]), "holdout": rows([2.5, 4.0])}
    measured = Measured({"audited": {"further_membership": read}, "control": {"further_membership": read}})
    assert METRICS.get("recall_auc").figures(measured)["audited"].value == pytest.approx(5 / 6)
    assert METRICS.get("recall_auc_distance").figures(measured)["audited"].value == 0
    figure = METRICS.get("recall_tpr@0.01").figures(measured)["audited"]
    assert figure.value == pytest.approx(2 / 3) and figure.low < figure.value
    assert METRICS.get("loss_auc").figures(measured) == {} == METRICS.get("priv").figures(measured)
    assert METRICS.get("loss_tpr@0.001").figures(measured) == {}
