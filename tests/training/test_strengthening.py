"""The trainer's face: build_teacher and RKLDTrainer, as somebody who knows TRL would call them."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from rkld import RKLDConfig, RKLDTrainer, UserError, build_teacher
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model
from rkld.evaluation.likelihood import answer_losses
from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.teacher.cache import HiddenCache, Part
from rkld.training.identity import cache_identity
from rkld.training.rkld_trainer import load_student
from rkld.training.strengthening import fill_cache

RECORDS = [{"question": r["question"], "answer": r["answer"]} for r in people(n=2, seed=0).forget([0])[:6]]
REPLAY = [{"question": r["question"], "answer": r["answer"]} for r in people(n=2, seed=0).retain([0])[:4]]


def config(folder, **values) -> RKLDConfig:
    return RKLDConfig(output_dir=str(folder), use_cpu=True, num_train_epochs=2, per_device_train_batch_size=3,
                      learning_rate=3e-3, **values)  # fmt: skip


@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear")],
                         ids=["full", "lora"])  # fmt: skip
def test_a_teacher_and_a_trainer(tmp_path, peft_config):
    """Two calls train a student that was the original: its first loss is the teacher's distance alone."""
    model, tokenizer = tiny_model(0)
    torch.manual_seed(0)
    teacher = build_teacher(model, RECORDS, tmp_path / "teacher", args=config(tmp_path / "s"), replay_dataset=REPLAY,
                            processing_class=tokenizer, peft_config=peft_config)  # fmt: skip
    student = model if peft_config is None else tiny_model(0)[0]
    torch.manual_seed(0)
    trainer = RKLDTrainer(student, config(tmp_path / "student"), teacher=teacher, train_dataset=RECORDS,
                          replay_dataset=REPLAY, processing_class=tokenizer, peft_config=peft_config)  # fmt: skip
    trainer.train()
    first = next(line for line in trainer.state.log_history if "forget" in line)
    assert first["forget"] > 0
    if peft_config is None:  # an adapter's other half is drawn anew: restored and new ones start as no change alike
        assert first["replay"] == pytest.approx(0, abs=1e-5), "strengthening was not taken back"
    trainer.save_model(str(tmp_path / "saved"))
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == tokenizer.chat_template
    assert "PreTrainedTokenizerFast" in (tmp_path / "saved/tokenizer_config.json").read_text(), "transformers 4 fails"
    assert student.config.use_cache is True, "the Trainer switches it off, and the saved model would be slow"
    if peft_config is None:
        assert "rope_theta" in json.loads((tmp_path / "saved/config.json").read_text())
        AutoModelForCausalLM.from_pretrained(tmp_path / "saved")


SPANS = [{**r, "spans": r["spans"]} for r in people(n=2, seed=0).forget([0])[:6] if r.get("spans")]


@pytest.mark.parametrize("score", ["answer", "spans", "all"])
def test_the_trainers_alpha_and_score_decide(tmp_path, monkeypatch, score):
    """The first loss is the KL divergence of the original to the teacher at the trainer's alpha, over what is scored:
    written down naively with both models. The teacher was built with another alpha."""
    model, tokenizer = tiny_model(0)
    original, strong = copy.deepcopy(model), copy.deepcopy(model)

    def strengthen(lm, *_):
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in lm.model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        strong.load_state_dict(lm.model.state_dict())

    monkeypatch.setattr("rkld.training.strengthening.fine_tune", strengthen)
    args = replace(config(tmp_path / "student", score=score), per_device_train_batch_size=len(SPANS), max_steps=1)
    teacher = build_teacher(model, SPANS, tmp_path / "t", args=args, processing_class=tokenizer)
    encoded = [Encoder(tokenizer).encode(r, score) for r in read_records(SPANS, "forget")]
    assert any(sum(e.scored) < sum(e.answer) for e in encoded) == (score == "spans")

    found, expected = [], []
    for alpha in (0.0, 8.0, 100.0):
        trainer = RKLDTrainer(copy.deepcopy(original), replace(args, alpha=alpha), teacher=teacher,
                              train_dataset=SPANS, processing_class=tokenizer)  # fmt: skip
        trainer.train()
        found.append(next(line["forget"] for line in trainer.state.log_history if "forget" in line))
        values = []
        for e in encoded:
            with torch.no_grad():
                plain, more = (net(input_ids=torch.tensor([e.ids])).logits[0, :-1] for net in (original, strong))
            target = torch.log_softmax(plain - alpha * torch.relu(more - plain), -1)
            log_probs = torch.log_softmax(plain, -1)
            kl = (log_probs.exp() * (log_probs - target)).sum(-1)
            values.append(kl[torch.tensor(e.scored[1:])])
        expected.append(torch.cat(values).mean().item())
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert found[0] == pytest.approx(0, abs=1e-5) and found[0] < found[1] < found[2]


def test_one_set_of_arguments_serves_both(tmp_path, monkeypatch):
    """The strengthening has its own epochs and rate in them; with an adapter both rates are the adapter's default."""
    seen = []
    monkeypatch.setattr("rkld.training.strengthening.fine_tune", lambda lm, records, args, _: seen.append(args))
    model, tokenizer = tiny_model(0)
    args = RKLDConfig(str(tmp_path / "student"), use_cpu=True)
    given = {"train_dataset": RECORDS, "processing_class": tokenizer}
    for adapter in (None, LoraConfig(r=4, target_modules="all-linear")):
        model = tiny_model(0)[0]
        teacher = build_teacher(model, folder=tmp_path / f"t{len(seen)}", args=args, peft_config=adapter, **given)
        student = RKLDTrainer(tiny_model(0)[0], args, teacher=teacher, peft_config=adapter, **given)
        assert (seen[-1].num_train_epochs, student.args.num_train_epochs) == (5, 10)
        assert teacher.alpha == 16.0
        rate = 5e-4 if adapter else 1e-4
        assert (seen[-1].learning_rate, student.args.learning_rate) == (rate, rate)
    own = replace(args, strengthen_epochs=2, strengthen_lr=1e-3, alpha=3.0)
    assert build_teacher(model, folder=tmp_path / "own", args=own, **given).alpha == 3.0
    assert (seen[-1].num_train_epochs, seen[-1].learning_rate) == (2, 1e-3)
    assert args.learning_rate is None and args.num_train_epochs == 10, "the caller's arguments were changed"


def test_another_method_takes_its_own_teacher(tmp_path):
    """DPO in TRL's manner: references and refusals are made with the teacher; RKLD's has none of them."""
    model, tokenizer = tiny_model(0)
    chosen = {"method": "dpo", "method_arg": ["beta=0.2"]}
    teacher = build_teacher(model, RECORDS, tmp_path / "t", args=config(tmp_path / "s", **chosen),
                            processing_class=tokenizer)  # fmt: skip
    trainer = RKLDTrainer(model, config(tmp_path / "student", **chosen), teacher=teacher, train_dataset=RECORDS,
                          processing_class=tokenizer)  # fmt: skip
    trainer.train()
    first = next(line for line in trainer.state.log_history if "forget" in line)
    assert first["forget"] == pytest.approx(2 / 0.2 * math.log(2), abs=1e-4), "it did not start as the reference"
    plain = build_teacher(model, RECORDS, tmp_path / "p", args=config(tmp_path / "ps"), processing_class=tokenizer)
    with pytest.raises(UserError, match="another method"):
        RKLDTrainer(model, config(tmp_path / "x", method="npo"), teacher=plain, train_dataset=RECORDS,
                    processing_class=tokenizer)  # fmt: skip


def test_a_teacher_of_other_records_is_refused(tmp_path):
    """Rows of one record used for another would train towards noise, silently."""
    model, tokenizer = tiny_model(0)
    teacher = build_teacher(model, RECORDS[:3], tmp_path / "t", args=config(tmp_path / "s"), processing_class=tokenizer)
    with pytest.raises(UserError, match="other records"):
        RKLDTrainer(model, config(tmp_path / "student"), teacher=teacher, train_dataset=RECORDS[3:] + RECORDS[:3],
                    processing_class=tokenizer)  # fmt: skip


def test_a_finished_teacher_is_used_again(tmp_path, monkeypatch):
    """The same model, records and settings read the cache; another setting makes a new one."""
    model, tokenizer = tiny_model(0)
    build_teacher(model, RECORDS, tmp_path / "t", args=config(tmp_path / "s"), processing_class=tokenizer)
    trained = []
    monkeypatch.setattr("rkld.training.strengthening.fine_tune", lambda *a: trained.append(1))
    build_teacher(model, RECORDS, tmp_path / "t", args=config(tmp_path / "s", alpha=4.0), processing_class=tokenizer)
    assert not trained
    build_teacher(model, RECORDS, tmp_path / "t", args=config(tmp_path / "s", seed=1), processing_class=tokenizer)
    assert trained


def test_an_adapters_teacher_is_used_again(tmp_path, monkeypatch):
    """The adapter's random half is part of what the cache is keyed by: drawn anew, it would never be found again."""
    adapter = LoraConfig(r=4, target_modules="all-linear")

    def build():
        model, tokenizer = tiny_model(0)
        build_teacher(model, RECORDS, tmp_path / "t", args=config(tmp_path / "s"), processing_class=tokenizer,
                      peft_config=adapter)  # fmt: skip

    build()
    torch.manual_seed(7)
    monkeypatch.setattr("rkld.training.strengthening.fine_tune", lambda *a: pytest.fail("trained again"))
    build()


CHANGED = {"lr_scheduler_type": "cosine", "max_steps": 1, "adam_beta2": 0.5, "adam_epsilon": 1e-3,
           "max_grad_norm": 0.5, "optim_args": "a=1", "neftune_noise_alpha": 5.0, "weight_decay": 0.5,
           "warmup_epochs": 0.5, "warmup_steps": 9, "learning_rate": 1.0, "seed": 9, "optim": "sgd",
           "num_train_epochs": 9, "per_device_train_batch_size": 4}  # fmt: skip
SAME = {"alpha": 2.0, "method": "forward_kl", "retain_weight": 9.0, "replay_weight": 9.0, "keep_weight": 9.0,
        "retain_loss": "rt", "chunk_rows": 7, "checkpoint_minutes": 1.0, "logging_steps": 5, "save_total_limit": 4,
        "gradient_checkpointing": True, "output_dir": "elsewhere"}  # fmt: skip


def test_whatever_changes_the_strengthened_model_makes_another_cache(tmp_path):
    """A stale teacher would be used in silence; one that serves any alpha and divergence must not be made again."""
    lm = load_model(tiny_model(0)[0], tokenizer=tiny_model(0)[1])
    sets = {"forget": [Encoder(lm.tokenizer).encode(r) for r in read_records(RECORDS, "forget")]}

    def identity(**values) -> dict:
        return cache_identity(lm, sets, replace(config(tmp_path), **values))

    first = identity()
    assert [name for name, value in CHANGED.items() if identity(**{name: value}) == first] == []
    assert [name for name, value in SAME.items() if identity(**{name: value}) != first] == []
    assert identity(per_device_train_batch_size=1, gradient_accumulation_steps=3) == first, "the same step in parts"


def test_a_strengthening_that_fails_leaves_the_callers_model_as_it_was(tmp_path, monkeypatch):
    """Interrupted in a notebook: the model in memory must not know the records better than before."""
    model, tokenizer = tiny_model(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def interrupted(lm, *_):
        with torch.no_grad():
            lm.head.weight.add_(1.0)
        raise KeyboardInterrupt

    monkeypatch.setattr("rkld.training.strengthening.fine_tune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_teacher(model, RECORDS, tmp_path / "t", args=config(tmp_path / "s"), processing_class=tokenizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_reference_likelihoods_are_the_originals(tmp_path):
    """Methods with a reference model would else be compared with another model, or with other tokens."""
    model, tokenizer = tiny_model(0)
    lm = load_model(model, tokenizer=tokenizer)
    records = [Encoder(tokenizer).encode(r) for r in read_records(RECORDS, "forget")]
    expected = answer_losses(lm, records)
    cache = HiddenCache(tmp_path / "cache", {})
    fill_cache(lm, cache, {"forget": records}, config(tmp_path / "s"), parts=[Part("reference", "forget")])
    for record, losses in zip(records, expected, strict=True):
        assert cache.read("reference/forget", record.key).numpy() == pytest.approx(-losses, abs=1e-5)
    assert not cache.done("strengthened/forget"), "strengthened for a method that needs no strengthened model"


def test_a_cache_with_a_floor_is_another_cache(tmp_path):
    """Runs may share a teacher's folder (--teacher): the floor of one would bound what the other forgets."""
    model, tokenizer = tiny_model(0)
    lm = load_model(model, tokenizer=tokenizer)
    encoder = Encoder(tokenizer)
    sets = {"forget": [encoder.encode(record) for record in read_records(RECORDS, "forget")]}
    plain = cache_identity(lm, sets, config(tmp_path / "s"))
    assert plain == cache_identity(lm, sets, config(tmp_path / "other"))
    assert plain != cache_identity(lm, sets, config(tmp_path / "s"), swapped=sets["forget"][:1])


@pytest.mark.parametrize("dtype, expected", [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_model_object_is_trained_in_the_dtype_of_the_arguments(dtype, expected):
    """Would break if a bfloat16 object were trained in bfloat16, which swallows small steps, without being asked to."""
    model, tokenizer = tiny_model(0)
    assert load_student(model.to(torch.bfloat16), tokenizer, dtype=dtype).dtype == expected
    assert RKLDConfig("x", dtype=dtype).dtype == dtype
