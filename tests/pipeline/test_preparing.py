"""What cannot work is refused by check and unlearn alike, before the model answers anything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

import rkld
from rkld.benching.worlds.tiny import tiny_model
from rkld.models import adapters, loading
from rkld.models.adapters import check_adapter_fits
from rkld.models.loading import load_model
from rkld.pipeline import preparing
from rkld.pipeline.plan import plan
from rkld.settings.specification import make
from rkld.settings.unlearning import Settings

FORGET = [
    {"question": "Where does Ada Quillon live?", "answer": "Ada Quillon lives in Oslo."},
    {"question": "What is her work?", "answer": "Ada Quillon is a painter."},
]
TEXT = [{"text": "Ada Quillon lives in Oslo and paints."}]
OTHERS = [{"question": "Is Ada Quillon well?", "answer": "Ada Quillon is."}]

REFUSED = {
    "nothing to merge": ({"merge": True}, "nothing to merge"),
    "weight arithmetic with LoRA": ({"method": "task_arithmetic", "lora": True}, "changes all weights"),
    "no such optimizer": ({"optim": "adamm"}, "unknown optimizer"),
    "optimizer without what it needs": ({"optim": "galore_adamw"}, "the training cannot be set up"),
    "no question to refuse": ({"method": "idk", "forget": TEXT}, "no question to refuse"),
    "no refusals": ({"method": "idk", "refusals": "nowhere.txt"}, "nowhere.txt"),
    "holdout about the person": ({"holdout": OTHERS}, "mention the person"),
    "no retain records": ({"method": "graddiff"}, "needs retain records"),
    "teacher is a file": ({"teacher": "file"}, "is a file"),
    "teacher is something else's": ({"teacher": "foreign"}, "no index of a teacher"),
    "run folder under a file": ({"out": "file/run"}, "is a file"),
    "no control": ({"stop": "control", "control": "./nowhere"}, "no model folder"),
    "record longer than the context": (
        {"forget": [{"question": "Who?", "answer": "Ada " * 4000}]},
        "the model reads at most",
    ),
}


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """A tiny model in a folder of its own, and the forward passes that records have had through it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "index.json").write_text("[]", encoding="utf-8")
    monkeypatch.setattr(loading, "check_outputs", lambda lm: None)  # the check of a model runs it, on no record
    model, tokenizer = tiny_model()
    passes = []
    model.base_model.register_forward_pre_hook(lambda module, args: passes.append(1))
    return model, tokenizer, passes


@pytest.mark.parametrize("case", REFUSED)
def test_check_and_unlearn_refuse_alike_before_the_model_is_run(counted, case):
    model, tokenizer, passes = counted
    given, reason = REFUSED[case]
    arguments = {"forget": FORGET, "subject": ("Ada Quillon",), "processing_class": tokenizer, "out": "run", **given}
    said = []
    for command in (rkld.check, rkld.unlearn):
        with pytest.raises(rkld.UserError, match=reason) as error:
            command(model, **arguments)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert passes == []


def test_what_no_adapter_fits_and_quantised_weights_are_refused_alike(counted, monkeypatch):
    _, tokenizer, _ = counted
    quantised, _ = tiny_model()
    quantised.is_quantized = True
    cases = [
        (tiny_model()[0], {"lora": True}, "No adapter fits"),
        (quantised, {}, "quantised, so they cannot be trained"),
        (quantised, {"lora": True, "merge": True}, "would be rounded away"),
    ]

    def none_fits(*_):
        raise ValueError("no layer")

    monkeypatch.setattr(adapters, "get_peft_model", none_fits)
    for model, given, reason in cases:
        passes = []
        model.base_model.register_forward_pre_hook(  # of more than an adapter is tried with
            lambda module, args, given, seen=passes: seen.append(1) if given["input_ids"].numel() > 2 else None,
            with_kwargs=True,
        )
        for command in (rkld.check, rkld.unlearn):
            with pytest.raises(rkld.UserError, match=reason):
                command(model, FORGET, processing_class=tokenizer, out="run", **given)
        assert passes == []


def test_a_model_without_gradient_checkpointing_is_refused_alike(counted):
    model, tokenizer, passes = counted
    model.supports_gradient_checkpointing = False
    for command in (rkld.check, rkld.unlearn):
        with pytest.raises(rkld.UserError, match="leave out --gradient-checkpointing"):
            command(model, FORGET, processing_class=tokenizer, out="run", gradient_checkpointing=True)
    assert passes == []


def test_two_adapters_on_a_model_without_a_folder_are_refused_alike(counted):
    """Neither could be measured from the saved folder: nothing says what they sit on. Merged they can be."""
    model, tokenizer, passes = counted
    for method in ("whp", "uld"):
        given = {
            "method": method,
            "lora": True,
            "processing_class": tokenizer,
            "out": "run",
        }
        for command in (rkld.check, rkld.unlearn):
            with pytest.raises(rkld.UserError, match="could not be loaded from anywhere"):
                command(model, FORGET, subject=("Ada Quillon",), **given)
    assert passes == []


def test_a_broken_control_is_refused_before_the_model_is_loaded(counted, monkeypatch):
    """Read in the phase "stop" alone, it would end the run after the whole of the phase before."""
    _, _, passes = counted
    Path("control").mkdir()
    Path("control/config.json").write_text("{", encoding="utf-8")
    loaded = []
    monkeypatch.setattr(preparing, "open_model", lambda model, **_: loaded.append(str(model)) or load_model(model))
    said = []
    for command in (rkld.check, rkld.unlearn):
        with pytest.raises(rkld.UserError) as error:
            command("./model", FORGET, stop="control", control="control", out="run")
        said.append(str(error.value))
    assert "control" in said[0]
    assert said[0] == said[1]
    assert loaded == ["control", "control"]
    assert passes == []


def test_records_longer_than_the_controls_context_are_refused(counted):
    model, tokenizer, passes = counted
    control, _ = tiny_model()
    control.config.max_position_embeddings = 8
    given = {"stop": "control", "control": control, "processing_class": tokenizer, "out": "run"}
    for command in (rkld.check, rkld.unlearn):
        with pytest.raises(rkld.UserError, match="the model reads at most 8"):
            command(model, FORGET, subject=("Ada Quillon",), **given)
    assert passes == []


def test_what_a_method_needs_is_said_before_a_model_is_sought(tmp_path, monkeypatch):
    """Gigabytes would be fetched for a run that cannot be."""
    monkeypatch.chdir(tmp_path)
    for command in (rkld.check, rkld.unlearn):
        with pytest.raises(rkld.UserError, match="the method graddiff needs retain records"):
            command("./no-such-model", FORGET, method="graddiff")


@pytest.mark.parametrize("folder", ["out", "teacher"])
def test_a_folder_that_cannot_be_written_to_is_refused_alike(counted, monkeypatch, folder):
    """The teacher's is written to after minutes alone."""
    model, tokenizer, passes = counted
    writable = preparing.os.access
    monkeypatch.setattr(
        preparing.os, "access", lambda path, mode: writable(path, mode) and not str(path).endswith("/closed")
    )
    Path("closed").mkdir()
    given = {"out": "run", folder: "closed/new"}
    for command in (rkld.check, rkld.unlearn):
        with pytest.raises(rkld.UserError, match=f"closed cannot be written to.*--{folder}"):
            command(model, FORGET, processing_class=tokenizer, **given)
    assert passes == []


def test_trying_an_adapter_changes_nothing():
    model, tokenizer = tiny_model()
    lm = load_model(model, tokenizer=tokenizer)
    before = [(name, p.requires_grad, p.data_ptr()) for name, p in model.named_parameters()]
    check_adapter_fits(lm, rank=16)
    assert before == [(name, p.requires_grad, p.data_ptr()) for name, p in model.named_parameters()]


@pytest.mark.parametrize(
    ("values", "adapted", "gpu", "wanted"),
    [
        ({}, False, False, None),
        ({}, False, True, torch.bfloat16),
        ({"bf16": True}, False, False, torch.bfloat16),
        ({"bf16": False}, False, True, None),
        ({"bf16": True, "lora": True}, False, False, None),
        ({"bf16": True}, True, False, None),
        ({"bf16": True, "dtype": "bfloat16"}, False, False, None),
    ],
)
def test_a_run_answers_in_what_it_trains_in(monkeypatch, values, adapted, gpu, wanted):
    """Nine tenths of what measuring takes are answers. Frozen weights would be cast again for every token."""
    monkeypatch.setattr(preparing, "gpu_computes_in_bf16", lambda: gpu)
    model, tokenizer = tiny_model()
    if adapted:
        model = get_peft_model(model, LoraConfig(target_modules="all-linear"))
    settings = make({"model": "x", "forget": "<list>", "out": "run", **values}, "test", Settings)
    lm, _ = preparing.load(settings, model, tokenizer)
    assert lm.answers_in == wanted


def test_what_the_model_is_opened_as_is_said_first_and_how_long_it_takes_last(monkeypatch):
    """Would break if the dtype or the format of prompts went unsaid."""
    model, tokenizer = tiny_model()
    tokenizer.chat_template = None
    given = {"model": "x", "forget": "<list>", "out": "run", "own_words": "join"}
    inputs = preparing.read_inputs(make(given, "test", Settings), FORGET)
    prepared = preparing.prepare(inputs, model.to(torch.bfloat16), tokenizer)
    told: dict[str, float] = {}
    said, how, *others, time = plan(prepared, told.update)
    assert how.startswith("Method   rkld: reverse KL to the composite teacher")
    steps = next(line for line in others if line.startswith("Train"))
    assert "of strengthening, then at most" in steps and steps.endswith("before the model's own words are added")
    assert said.endswith(
        "weights float32, from bfloat16, prompts as 'Question: …', new line, 'Answer: …', as there is no chat template"
    )
    assert re.fullmatch(r"Time     roughly .* s to .* s", time)
    monkeypatch.setattr("rkld.models.loading.cpu_computes_in_bf16", lambda: True)
    assert list(plan(prepared, told.update))[-1].endswith(" s"), "of a narrow model it saves little"
    monkeypatch.setattr("rkld.models.loading.WIDE", 8)
    assert list(plan(prepared, told.update))[-1].endswith("; about half with --bf16")
    assert told["before"] > 0 and told["distillation"] > 0
    assert prepared.template_warning
