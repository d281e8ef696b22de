"""In which dtype the unlearned model is written, and what is said of it."""

import json

import pytest
import torch
from safetensors.torch import load_file

import rkld
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.evaluation.summary import measure
from rkld.models import writing
from rkld.models.adapters import new_adapter
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.models.writing import at_random, round_in_place
from rkld.pipeline import phases, rounding
from rkld.pipeline.rounding import HELD, furthest, round_best, saved_dtype
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.runfolder.checksums import weights_hash

FORGET = people(n=2, seed=0).forget([0])[:3]
QUICK = {"epochs": 1, "strengthen_epochs": 1, "lr": 1e-4, "max_new_tokens": 2, "batch_size": 3, "bf16": False,
         "stop": "last", "replay": "none", "reword": 0, "keep_files": True}  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """As models are published: in bfloat16, with a licence."""
    folder, (model, tokenizer) = tmp_path_factory.mktemp("original") / "model", tiny_model(0)
    save_model(load_model(model, tokenizer=tokenizer), folder, dtype=torch.bfloat16)
    (folder / "LICENSE").write_text("licence")
    return folder


def dtypes(folder):
    return {t.dtype for file in folder.rglob("*model.safetensors") for t in load_file(file).values()}


def noted(result):
    return json.loads((result.run / "manifest.json").read_text())["phases"]["model"]


@pytest.mark.parametrize("how", [{}, {"lora": True, "merge": True}, {"method": "whp"}], ids=["whole", "merged", "two"])
def test_a_model_is_written_as_its_source_was(original, tmp_path, how):
    """Would break if a model came back twice as large, without its licence, or told not to use its cache."""
    result = rkld.unlearn(original, FORGET, out=str(tmp_path / "run"), **QUICK, **how)
    assert dtypes(result.model_path) == {torch.bfloat16}
    note = noted(result)
    assert note["saved_dtype"] == "bfloat16" and note["weights"] == weights_hash(result.model_path)
    assert 0 < max(map(abs, note["rounding"].values())) <= HELD
    for config in result.model_path.rglob("config.json"):
        found = json.loads(config.read_text())
        assert found["use_cache"] is True and found["torch_dtype"] == "bfloat16"
        assert (config.parent / "LICENSE").read_text() == "licence"


def adapter_of(original, folder, dtype):
    """A LoRA adapter on it, in this dtype."""
    lm = new_adapter(load_model(original, dtype="float32"), rank=2)
    with torch.no_grad():
        for name, weight in lm.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    save_model(lm, folder, dtype=dtype)
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_adapter_is_written_as_it_came(original, tmp_path, dtype):
    """Would break if only the base's dtype were asked, or the base were rounded with its adapter."""
    given = adapter_of(original, tmp_path / "adapter", dtype)
    result = rkld.unlearn(given, FORGET, out=str(tmp_path / "run"), **QUICK)
    assert dtypes(result.model_path) == {dtype} and noted(result)["saved_dtype"] == str(dtype).removeprefix("torch.")
    assert bool(noted(result)["rounding"]) == (dtype == torch.bfloat16)
    saved = load_model(result.model_path, dtype="float32")
    found = measure(saved, Encoder(saved.tokenizer), read_records(FORGET, "forget"), max_new_tokens=2)
    assert found.values()["probability"] == pytest.approx(result.metrics["after"]["forget"]["probability"], abs=1e-6)


def test_the_dtype_that_is_noted_is_the_adapters_and_its_base_is_opened_in_its_own(original, tmp_path, monkeypatch):
    opened, plain = [], phases.load_with_encoder
    monkeypatch.setattr(phases, "load_with_encoder", lambda s, *a, **k: opened.append(s.dtype) or plain(s, *a, **k))
    result = rkld.unlearn(original, FORGET, out=str(tmp_path / "run"), lora=True, dtype="bfloat16", **QUICK)
    note = noted(result)
    assert (note["dtype"], note["base_dtype"], note["saved_dtype"]) == ("float32", "bfloat16", "float32")
    assert opened == ["bfloat16"]


def test_what_is_compared_with_itself_is_answered_in_full(original, tmp_path, monkeypatch):
    """Of answers in bfloat16 .06 of the words were others the second time, with nothing changed."""
    asked, plain = [], phases.measure

    def measured(lm, encoder, records, **options):
        asked.append((any(r.question == FORGET[0]["question"] for r in records), lm.answers_in))
        return plain(lm, encoder, records, **options)

    monkeypatch.setattr(phases, "measure", measured)
    result = rkld.unlearn(original, FORGET, out=str(tmp_path / "run"), **QUICK | {"bf16": True})
    assert asked == [(True, torch.bfloat16), (False, None)] * 2, "before, and of the model that is opened anew"
    assert result.metrics["before"]["everyday"]["rouge_l"] == 1


def test_an_adapter_that_is_made_here_is_written_as_peft_does(original, tmp_path):
    result = rkld.unlearn(original, FORGET, out=str(tmp_path / "run"), lora=True, **QUICK)
    assert dtypes(result.model_path) == {torch.float32} and noted(result)["rounding"] == {}


def test_of_an_adapters_model_the_adapter_alone_is_rounded(original):
    lm = new_adapter(load_model(original, dtype="float32"), rank=2)
    with torch.no_grad():
        lm.head.weight.add_(1e-5)
    before = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    round_in_place(lm.model, torch.bfloat16)
    for name, weight in lm.model.named_parameters():
        assert torch.equal(weight, before[name].to(torch.bfloat16).float() if "lora_" in name else before[name]), name


def test_what_is_rounded_of_an_adapters_model_is_what_is_written_of_it(original, tmp_path):
    lm = new_adapter(load_model(original, dtype="float32"), rank=2)
    name, config, state = writing.adapter_of(lm.model)
    save_model(lm, tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert stored.keys() == state.keys() and all(torch.equal(stored[key], state[key]) for key in stored)
    assert lm.model.peft_config == {name: config}


def test_what_comes_in_in_bfloat16_comes_out_in_it_and_what_rounding_moves_is_said(original, tmp_path, monkeypatch):
    """Rounding can bring back what was unlearned: the figures after the run must be of the rounded weights."""
    monkeypatch.setattr(phases, "HELD", 0.0)
    monkeypatch.setattr(rounding, "round_in_place", lambda model, dtype, seed: round_in_place(model, dtype))
    result = rkld.unlearn(original, FORGET, out=str(tmp_path / "run"), **QUICK)
    assert dtypes(result.model_path) == {torch.bfloat16} and noted(result)["saved_dtype"] == "bfloat16"
    assert any("written in bfloat16, as the source's, and rounding them moves" in line for line in result.warnings)
    trained, stored = load_file(result.run / phases.STUDENT), load_file(result.model_path / "model.safetensors")
    assert all(torch.equal(trained[name].to(torch.bfloat16), tensor) for name, tensor in stored.items())
    saved = load_model(result.model_path, dtype="float32")
    found = measure(saved, Encoder(saved.tokenizer), read_records(FORGET, "forget"), max_new_tokens=2)
    assert found.values()["probability"] == pytest.approx(result.metrics["after"]["forget"]["probability"], abs=1e-6)


def test_what_the_nearest_would_undo_is_rounded_at_random(original):
    """A short training moves most weights by less than bfloat16 tells apart: rounded to the nearest they went back, and
    with them what was unlearned."""
    lm = load_model(original, dtype="float32")
    records = [Encoder(lm.tokenizer).encode(record) for record in read_records(FORGET, "forget")]
    sets = {"forget": records}
    ids = torch.tensor([records[0].ids])
    lm.model(ids, labels=ids).loss.backward()
    trained = {}
    for name, weight in lm.model.named_parameters():
        apart = torch.exp2(torch.floor(torch.log2(weight.detach().abs().clamp_min(1e-30))) - 7)  # in bfloat16
        trained[name] = weight.detach() + 0.4 * apart * weight.grad.sign()

    def make():
        with torch.no_grad():
            for name, weight in lm.model.named_parameters():
                weight.copy_(trained[name])
        return lm, [lm]

    nearest = rounding.round_and_compare(*make(), sets, torch.bfloat16)
    assert furthest(nearest) > 5 * HELD, "else this shows nothing"
    (made, _), moved = round_best(make, sets, torch.bfloat16, seed=0)
    assert furthest(moved) < furthest(nearest) / 5
    assert all(torch.equal(w, w.to(torch.bfloat16).float()) for w in made.model.parameters())
    again = round_best(make, sets, torch.bfloat16, seed=0)[1]
    assert again == moved
    assert round_best(make, sets, torch.float16, seed=0)[1] == rounding.round_and_compare(*make(), sets, torch.float16)


def test_each_way_of_rounding_starts_from_the_adapters_as_they_were(original, tmp_path, monkeypatch):
    """Of two models the original's adapter was rounded by the first way, so that the third moved nothing of it."""
    given, found, plain = adapter_of(original, tmp_path / "adapter", torch.float32), [], rounding.round_and_compare

    def told(outcome, parts, sets, dtype, seed=None):
        before = {name: weight.clone() for name, weight in writing.adapter_of(parts[0].model)[2].items()}
        moved = plain(outcome, parts, sets, dtype, seed)
        found.append((moved, before))
        return moved if seed is None else dict.fromkeys(moved, float("inf"))

    monkeypatch.setattr(rounding, "round_and_compare", told)
    monkeypatch.setattr(rounding, "HELD", 0.0)
    rkld.unlearn(given, FORGET, out=str(tmp_path / "run"), method="whp", save_dtype="bfloat16", **QUICK)
    (first, before), _, (third, again) = found
    assert first == third and any(first.values())
    assert all(torch.equal(before[name], again[name]) for name in before)
    assert not all(torch.equal(weight, weight.to(torch.bfloat16).float()) for weight in again.values())


def test_rounding_at_random_takes_a_neighbour_and_in_the_mean_the_value():
    low, high = torch.tensor([1.0, -3.0]), torch.tensor([1.0078125, -3.015625])  # neighbours in bfloat16
    draw = torch.Generator().manual_seed(0)
    for share in (0.0, 0.25, 0.9):
        values = (low + share * (high - low)).repeat(4000, 1)
        found = at_random(values, draw)
        assert ((found == low) | (found == high)).all()
        assert torch.equal(found, found.to(torch.bfloat16).float())
        torch.testing.assert_close(found.mean(0), values[0], atol=4 * 0.0157 / 4000**0.5, rtol=0)
    held = torch.tensor([float("inf"), -float("inf"), 0.0, 3e-41])
    assert torch.equal(at_random(held[:3], draw), held[:3])
    again = [at_random(torch.full((64,), 1.003), torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*again)


@pytest.mark.slow
def test_another_dtype_is_written_where_it_is_asked_for_and_what_it_moves_is_said(original, tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "HELD", 0.0)
    result = rkld.unlearn(original, FORGET, out=str(tmp_path / "a"), save_dtype="float16", **QUICK)
    assert dtypes(result.model_path) == {torch.float16}
    assert any("as --save-dtype asks" in line for line in result.warnings)
    result = rkld.unlearn(original, FORGET, out=str(tmp_path / "b"), save_dtype="bfloat16", lora=True, **QUICK)
    assert dtypes(result.model_path) == {torch.bfloat16}


def test_the_dtype_is_never_widened_unasked():
    half, whole = torch.bfloat16, torch.float32
    assert saved_dtype("auto", half, whole) == half and saved_dtype("auto", whole, half) == half
    assert saved_dtype("auto", None, whole) == whole and saved_dtype("float32", half, half) == whole
