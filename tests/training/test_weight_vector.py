"""The records' weight vector: what tuning the base changes, subtracted from the original; one model's weights alone."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file

from rkld.errors import UserError
from rkld.models.adapters import new_adapter
from rkld.models.language_model import LanguageModel
from rkld.models.state import fingerprint, trainable_state
from rkld.progress import NoProgress
from rkld.training.trainer import fine_tune
from rkld.training.weight_vector import as_base, check_outer_factors, subtract, write_vector
from tests.helpers import config, model, records

RECORDS = records("f", [9, 14, 11, 6], 1)


def values(lm: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainable_state(lm).items()}


def test_the_original_less_what_the_records_change_in_the_base(tmp_path):
    """θ_o − β (θ_tuned − θ_base), written with plain tensors; the original ends as it began."""
    original, base = model(seed=0), model(seed=1)
    args, before = config(tmp_path, num_train_epochs=2, learning_rate=1e-2), fingerprint(original)
    write_vector(original, lambda: copy.deepcopy(base), RECORDS, args, tmp_path / "vector", NoProgress())
    assert fingerprint(original) == before

    tuned, old, start = copy.deepcopy(base), values(original), values(base)
    fine_tune(tuned, RECORDS, config(tmp_path / "again", num_train_epochs=2, learning_rate=1e-2))
    subtract(original, tmp_path / "vector", 0.7)
    for name, p in trainable_state(original).items():
        torch.testing.assert_close(p, old[name] - 0.7 * (trainable_state(tuned)[name] - start[name]))
    assert not torch.equal(values(original)["model.embed_tokens.weight"], old["model.embed_tokens.weight"])


def trained_adapter() -> LanguageModel:
    torch.manual_seed(0)
    lm = new_adapter(model(), rank=2)
    with torch.no_grad():
        for name, p in trainable_state(lm).items():
            if ".lora_B." in name:
                p.normal_(0, 0.1)
    return lm


@pytest.mark.parametrize("apart", [False, True], ids=["base beneath", "base apart"])
def test_an_adapter_is_less_by_an_adapter(apart, tmp_path):
    """The difference is one of the layers' products themselves: no rank is added, no full weight changed."""
    lm, base = trained_adapter(), model(seed=1)
    prompt = torch.tensor([[5, 6, 7]])
    plain = base.model if apart else model().model
    load_base = (lambda: copy.deepcopy(base)) if apart else None
    whole = fingerprint(lm)
    with as_base(lm, load_base, tmp_path / "aside"), torch.no_grad():
        torch.testing.assert_close(lm.model(input_ids=prompt).logits, plain(input_ids=prompt).logits)
    args = config(tmp_path / "tuning", num_train_epochs=2, learning_rate=1e-2)
    write_vector(lm, load_base, RECORDS, args, tmp_path / "vector", NoProgress())
    assert fingerprint(lm) == whole
    changes, old = load_file(tmp_path / "vector"), values(lm)
    subtract(lm, tmp_path / "vector", 2.0)
    assert changes and all(".lora_B." in name for name in changes)
    for name, p in trainable_state(lm).items():
        torch.testing.assert_close(p, old[name] - 2 * changes[name] if name in changes else old[name])
    assert max(change.abs().max() for change in changes.values()) > 1e-3


def test_a_base_of_another_shape_is_refused_and_nothing_changed(tmp_path):
    lm = model()
    other = model()
    other.inner.model.norm.weight = torch.nn.Parameter(torch.ones(8, dtype=torch.float64))
    before = fingerprint(lm)
    with (
        pytest.raises(UserError, match=r"weights of another model: 1 tensors differ.*norm\.weight"),
        as_base(lm, lambda: other, tmp_path),
    ):
        pass
    assert fingerprint(lm) == before


def test_an_adapter_that_is_more_than_two_factors_is_refused():
    lm = trained_adapter()
    check_outer_factors(lm)
    lm.inner.model.norm.weight.requires_grad_(True)
    with pytest.raises(UserError, match=r"more than LoRA's two factors.*merge it first"):
        check_outer_factors(lm)
