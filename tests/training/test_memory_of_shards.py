"""A model of 200 MB on two real processes (torchrun, gloo, FSDP2): what the second one's memory grows by.

From loading over teacher, training and a checkpoint to the saved model. Run as a script this file is what each of the
processes does.
"""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from rkld import RKLDConfig, RKLDTrainer, build_teacher, load_sharded, processes
from rkld.benching.worlds.tiny import tiny_tokenizer
from tests.helpers import in_processes

pytestmark = pytest.mark.slow

BLOCKS = 41
"""What is gathered at once is a block or two: small beside the whole, as in the models that need this."""

RECORDS = [{"question": f"Who is {name}?", "answer": f"{name} is the baker."} for name in ("Ann", "Bob", "Cid", "Dan")]

MOST = 0.75
"""Peak growth, in sizes of the model: half of its weights, and what is gathered meanwhile.

Measured on two busy cores: .70, .55 of it once it is loaded; with 28 blocks .70, with 64 .74. Less than .7 was aimed
at, and is not reached: beside .54 of tensors there are .1 of buffers and objects.
"""


def size_of(model: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def resident(what: str) -> int:
    """Bytes of this process that lie in memory: now ("VmRSS") or at most ("VmHWM"), since :func:`forget_peak`."""
    (kilobytes,) = re.findall(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def save_new(folder: Path, blocks: int, width: int) -> None:
    """A random Llama with the tiny tokenizer."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=8 * width // 3, num_hidden_layers=blocks,
        num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    save_new(folder / "model", BLOCKS, 320)
    save_new(folder / "small", 2, 48)
    return folder


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not say a process's peak")
def test_no_process_but_the_first_holds_the_model_whole(folder):
    # What is freed goes back to the system at once: it is not the allocator's stock that is measured.
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "4096"}
    done = in_processes(2, [__file__, str(folder)], seconds=900, **malloc)
    assert done.returncode == 0, done.stderr[-3000:]
    grown = json.loads((folder / "grown.json").read_text())
    assert grown["size"] == pytest.approx(200e6, rel=0.05)
    assert 0.4 < grown["save"] < MOST, grown
    before, after = (AutoModelForCausalLM.from_pretrained(folder / name) for name in ("model", "big/saved"))
    with torch.no_grad():
        logits = [model(torch.arange(3, 20)[None]).logits for model in (before, after)]
    assert (logits[1] - logits[0]).abs().max() > 1e-3, "nothing was learned, or saved"


def steps(model_folder: Path, out: Path) -> Iterator[tuple[str, torch.nn.Module]]:
    """Load, make a teacher, train and save: each when it is done."""
    adapter = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    model = load_sharded(str(model_folder), peft_config=adapter)
    yield "load", model
    args = RKLDConfig(
        str(out / "student"), num_train_epochs=1, strengthen_epochs=1, per_device_train_batch_size=1,
        learning_rate=1e-3, use_cpu=True, checkpoint_minutes=0.0, gradient_checkpointing=True,
    )  # fmt: skip
    teacher = build_teacher(model, RECORDS, out / "teacher", args=args)
    yield "teacher", model
    trainer = RKLDTrainer(model, args, teacher=teacher, train_dataset=RECORDS)
    trainer.train()
    yield "train", model
    trainer.save_model(str(out / "saved"))
    yield "save", model


def work(folder: Path) -> None:
    for _ in steps(folder / "small", folder / "warm-up"):
        pass  # libraries are loaded, and have what they keep
    gc.collect()
    with processes.together():
        processes.wait()
        before, grown = resident("VmRSS"), {}
        forget_peak()
    for name, model in steps(folder / "model", folder / "big"):
        grown[name] = round((resident("VmHWM") - before) / size_of(model), 3)
        grown["size"] = size_of(model)
    print(torch.distributed.get_rank(), grown, flush=True)
    if torch.distributed.get_rank() == 1:
        (folder / "grown.json").write_text(json.dumps(grown))
    processes.leave()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
