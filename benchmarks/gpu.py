"""On a GPU, in bfloat16: the loss alone, and training steps of models with LLaMA's shapes, against what is promised.

    python -m benchmarks.gpu [--minutes 9] [--json FILE]
    python -m benchmarks.gpu --dry-run          # tiny, on a CPU: does all of it run?

GPU time is rare and short: the most telling cases come first, every figure is written as soon as it is there, and what
no time is left for is listed as not run. A step is 8 or 32 records of 512 tokens, of which about 480 are scored, by the
same variants as benchmarks/step.py. The 7B shape is trained by LoRA of rank 16, with gradient checkpointing on all
sides. One process; the mean of up to five calls after one to warm up, with one wait for the GPU at the end; peaks are
what torch has allocated.
"""

from __future__ import annotations

import gc
import json
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import click
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import write
from benchmarks.loss import DEVICE, LOSSES, Problem
from benchmarks.step import Case, naive, ours, plain_sft, sft_on_answers, toggled
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.losses.chunked import Segment, linear_divergence
from rkld.losses.divergences import reverse_kl
from rkld.losses.targets import Towards
from rkld.models.adapters import new_adapter
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.teacher.kept import Kept
from rkld.training.config import RKLDConfig

MINUTES = 9.0
RESERVE = 20.0
"""Seconds before the end in which nothing more is begun."""
NOT_RUN = "not run: no time was left"


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    length: int
    """Tokens of a record."""
    shapes: Mapping[str, Mapping[str, Any]]
    large: tuple[int, int, int]
    """T, V and hidden size of the loss that bars are set for."""
    small: tuple[int, int, int]
    rows: tuple[int, ...]
    """Of a chunk, that are tried beside those that the rule gives."""
    bf16: bool = True
    calls: int = 5
    """In a row, as in training: the next step's records are read while the GPU is at work on this one's."""


REAL = Sizes(
    length=512,
    shapes={  # Llama-3.2-1B and LLaMA-2-7B
        "1B": {
            "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
            "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True,
        },
        "7B": {
            "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
            "intermediate_size": 11008, "vocab_size": 32000, "tie_word_embeddings": False,
        },
    },
    large=(4096, 128256, 2048),
    small=(4096, 32000, 4096),
    rows=(256, 512, 768, 1536, 2048),
)  # fmt: skip
_TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
         "intermediate_size": 16, "vocab_size": 1792}  # fmt: skip
TINY = Sizes(40, {"1B": _TINY | {"tie_word_embeddings": True}, "7B": _TINY | {"tie_word_embeddings": False}},
             (20, 301, 16), (20, 64, 16), (7,), bf16=False, calls=1)  # fmt: skip


@dataclass(frozen=True)
class Shape(Case):
    """A case of benchmarks/step.py, with random weights; ``model`` names the shape."""

    sizes: Sizes = REAL

    def load(self) -> LanguageModel:
        torch.manual_seed(0)
        config = LlamaConfig(**self.sizes.shapes[self.model], max_position_embeddings=4096)
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16 if self.bf16 else default)
        try:
            with DEVICE:
                model = LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(default)
        tokenizer = tiny_tokenizer()
        tokenizer.model_max_length = 4096
        if self.model == "7B":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        lm = load_model(model, tokenizer=tokenizer)
        return new_adapter(lm) if self.lora else lm

    def args(self, parts: int = 1) -> RKLDConfig:
        return replace(super().args(parts), num_train_epochs=8)  # as many steps as are measured, of 32 records

    def records(self) -> dict:
        words = " ".join(["one", "two", "three", "four"] * self.sizes.length)
        tokenizer = tiny_tokenizer()

        def record(number: int) -> dict:
            ids = tokenizer(f"{number} {words}", add_special_tokens=False).input_ids[: self.sizes.length - 32]
            return {"question": f"What is number {number}?", "answer": tokenizer.decode(ids)}

        sets = {"forget": [record(i) for i in range(32)]}
        return sets | ({"replay": [record(100 + i) for i in range(32)]} if self.replay else {})


Prepare = Callable[[], Callable[[], Any]]
"""Makes everything ready, and gives what is measured."""


@dataclass(frozen=True)
class Comparison:
    """Ours and others on the same work, the most telling first.

    Attributes:
        memory: the figure that memory is compared by: "extra_bytes" above the state before, or "peak_bytes" in all.
        bars: what is promised: "time.vs_OTHER" or "memory.vs_OTHER", at most so many times the other's; or "peak_gb".
    """

    key: str
    variants: Mapping[str, Prepare]
    memory: str
    bars: Mapping[str, float] = field(default_factory=dict)


def comparisons(sizes: Sizes, folder: Path) -> Iterator[Comparison]:
    """All of them, the most telling first."""
    large, small = sizes.large, sizes.small
    T, V, _ = large
    yield _losses("rkl", sizes, large, True, ("naive",), {"time.vs_naive": 1.0, "memory.vs_naive": 0.35})
    yield _losses("jsd", sizes, large, True, ("liger_jsd", "naive_jsd", "trl_jsd"), {"time.vs_liger_jsd": 1.0})
    yield _steps("1B", sizes, folder, {"time.vs_answer_only_sft": 1.10}, "answer_only_sft")
    yield _steps("1B", sizes, folder, {"time.vs_answer_only_sft": 1.05}, "answer_only_sft", lora=True)
    yield _steps("7B", sizes, folder, {"peak_gb": 24.0}, "answer_only_sft", lora=True)
    rows = {f"{n}_rows": partial(loss_alone, "ours", sizes, large, True, n) for n in sizes.rows}
    yield Comparison(f"rows.{T}x{V}", {"ours": partial(loss_alone, "ours", sizes, large, True), **rows}, "extra_bytes")
    yield _losses("rkl", sizes, large, False, ("naive",), {"time.vs_naive": 1.0, "memory.vs_naive": 0.35})
    yield _losses("jsd", sizes, large, False, ("liger_jsd", "naive_jsd"), {"time.vs_liger_jsd": 1.0})
    for trainable in (True, False):
        kept = {"ours": partial(kept_teacher, sizes, large, trainable),
                "teacher_made_anew": partial(loss_alone, "ours", sizes, large, trainable)}  # fmt: skip
        yield Comparison(f"kept.{T}x{V}.{_head(trainable)}", kept, "extra_bytes")
    yield _steps("1B", sizes, folder, {}, "teacher_made_anew")
    yield _steps("1B", sizes, folder, {}, "naive", "sft")
    yield _steps("1B", sizes, folder, {}, "answer_only_sft", "naive", replay=True)
    yield _steps("1B", sizes, folder, {}, "toggled", "naive", lora=True)
    yield _losses("rkl", sizes, small, True, ("naive",))
    yield _losses("jsd", sizes, small, True, ("liger_jsd", "naive_jsd"))
    yield _steps("1B", sizes, folder, {}, "answer_only_sft", records=32)
    yield _steps("1B", sizes, folder, {}, "answer_only_sft", lora=True, records=32)
    yield _steps("7B", sizes, folder, {}, "answer_only_sft", lora=True, records=32)


OURS = {"rkl": "ours", "jsd": "ours_jsd"}
"""Reverse KL to the composite teacher, and Jensen–Shannon to a plain one as the libraries have it."""


def _head(trainable: bool) -> str:
    return f"{'trainable' if trainable else 'frozen'}_head"


def _losses(
    what: str,
    sizes: Sizes,
    shape: tuple[int, int, int],
    trainable: bool,
    others: tuple[str, ...],
    bars: Mapping[str, float] | None = None,
) -> Comparison:
    variants = {"ours": OURS[what], **{name: name for name in others}}
    prepared = {name: partial(loss_alone, loss, sizes, shape, trainable) for name, loss in variants.items()}
    return Comparison(f"loss.{what}.{shape[0]}x{shape[1]}.{_head(trainable)}", prepared, "extra_bytes", bars or {})


def problem_of(sizes: Sizes, shape: tuple[int, int, int], trainable: bool) -> Problem:
    T, V, d = shape
    return Problem.random(T, V, trainable, d, torch.bfloat16 if sizes.bf16 else torch.float32)


def loss_alone(
    name: str, sizes: Sizes, shape: tuple[int, int, int], trainable: bool, rows: int | None = None
) -> Callable[[], None]:
    """A loss of benchmarks/loss.py by its name; ours in chunks of so many rows, where a number is given."""
    p = problem_of(sizes, shape, trainable)
    if rows is not None:
        states = {"original": p.original, "strengthened": p.strengthened}
        return lambda: _backward(p, Towards(reverse_kl, p.teacher().composite), states, rows)
    loss = LOSSES[name]

    def work() -> None:
        loss(p).backward()
        p.hidden.grad = p.head.grad = None

    return work


def kept_teacher(sizes: Sizes, shape: tuple[int, int, int], trainable: bool) -> Callable[[], None]:
    """Ours, with the teacher's log-probabilities at hand."""
    p = problem_of(sizes, shape, trainable)
    teacher, T, V = p.teacher(), *shape[:2]
    log_probs = torch.empty((T, V), dtype=p.head.dtype, device=DEVICE)
    with torch.no_grad():
        for a in range(0, T, 256):
            states = {"original": p.original[a : a + 256], "strengthened": p.strengthened[a : a + 256]}
            part = log_probs[a : a + 256]
            part.copy_(teacher.composite(states, torch.empty((2, *part.shape), device=DEVICE)))
    loss, numbers = Towards(reverse_kl, Kept(log_probs, "kept")), torch.arange(T, device=DEVICE)
    return lambda: _backward(p, loss, {"kept": numbers}, None)


def _backward(p: Problem, loss: Towards, inputs: dict[str, torch.Tensor], rows: int | None) -> None:
    weights = torch.full((len(p.hidden),), 1 / len(p.hidden), device=DEVICE)
    linear_divergence(p.hidden, p.head, None, [Segment(weights, loss, inputs)], rows)[0].backward()
    p.hidden.grad = p.head.grad = None


def made_anew(case: Case) -> Callable[[], Any]:
    """Ours, where no room is for keeping the teacher's log-probabilities."""
    with patch("rkld.training.terms.room_for", lambda device: 0):
        return ours(case)


VARIANTS: dict[str, Callable[[Case], Callable[[], Any]]] = {
    "naive": naive, "sft": plain_sft, "answer_only_sft": sft_on_answers, "toggled": toggled,
    "teacher_made_anew": made_anew,
}  # fmt: skip


def _steps(
    shape: str, sizes: Sizes, folder: Path, bars: Mapping[str, float], *others: str, lora: bool = False,
    replay: bool = False, records: int = 8,
) -> Comparison:  # fmt: skip
    name = f"{shape}.{'lora' if lora else 'full'}{'.replay' if replay else ''}.batch{records}"
    case = Shape(shape, Path(), lora, replay, folder / name, sizes.bf16, records, sizes)
    variants = {"ours": partial(ours, case), **{other: partial(VARIANTS[other], case) for other in others}}
    return Comparison(name, variants, "peak_bytes", bars)


class TimeUp(Exception):
    """No time is left."""


@contextmanager
def ends_after(seconds: float) -> Iterator[None]:
    """Raise :class:`TimeUp` wherever the work is by then."""

    def stop(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_CPU = SimpleNamespace(
    synchronize=lambda: None, reset_peak_memory_stats=lambda: None, memory_allocated=lambda: 0,
    max_memory_allocated=lambda: 0, empty_cache=lambda: None,
)  # fmt: skip


def measured(prepare: Prepare, most: int, until: float) -> dict[str, float] | str:
    """Mean seconds and peak bytes of ``prepare()()``; what stood in the way, where something did.

    Args:
        most: calls.
        until: by the clock of ``time.monotonic``, when calls end if one has been measured.
    """
    gpu, work = torch.cuda if DEVICE.type == "cuda" else _CPU, None
    try:
        work = prepare()
        work()
        gpu.synchronize()
        gc.collect()
        gpu.reset_peak_memory_stats()
        before, started, calls = gpu.memory_allocated(), time.perf_counter(), 0
        while calls < most and (not calls or time.monotonic() < until):
            work()
            calls += 1
        gpu.synchronize()
        seconds, peak = (time.perf_counter() - started) / calls, gpu.max_memory_allocated()
        return {"seconds": seconds, "peak_bytes": peak, "extra_bytes": peak - before, "calls": calls}
    except torch.OutOfMemoryError:
        return "out of memory"
    except ImportError as error:
        return f"not run: {error}"
    finally:
        work = None
        gc.collect()
        gpu.empty_cache()


def judge(comparison: Comparison, figures: Mapping[str, dict[str, float] | str]) -> tuple[dict, dict]:
    """Ours over each other's figures, and what each bar says: found, the most that is promised, and how it stands."""
    mine, ratios, bars = figures.get("ours"), {}, {}
    for name, other in figures.items():
        if name != "ours" and isinstance(other, dict) and isinstance(mine, dict):
            ratios[f"{comparison.key}.time.vs_{name}"] = round(mine["seconds"] / other["seconds"], 4)
            if other[comparison.memory]:
                ratio = mine[comparison.memory] / other[comparison.memory]
                ratios[f"{comparison.key}.memory.vs_{name}"] = round(ratio, 4)
    for bar, most in comparison.bars.items():
        found = ratios.get(f"{comparison.key}.{bar}")
        if bar == "peak_gb" and isinstance(mine, dict) and mine["peak_bytes"]:  # of a CPU none is measured
            found = round(mine["peak_bytes"] / 1e9, 2)
        stands = "not run" if found is None else "holds" if found <= most else "missed"
        bars[f"{comparison.key}.{bar}"] = {"most": most, "found": found, "stands": stands}
    return ratios, bars


def run(sizes: Sizes, minutes: float, show: Callable[[dict], None]) -> dict:
    """Measure as much as there is time for.

    Args:
        show: called with all that has been found, after every figure.
    """
    found: dict = {"ratios": {}, "bars": {}, "measured": {}}
    began = time.monotonic()
    until = began + 60 * minutes - RESERVE
    with tempfile.TemporaryDirectory() as folder:
        planned = list(comparisons(sizes, Path(folder)))
        for comparison in planned:
            listed = found["measured"].setdefault(comparison.key, {})  # several may add variants to the same case
            listed |= dict.fromkeys(comparison.variants, NOT_RUN)
            found["bars"] |= judge(comparison, {})[1]
        show(found)
        try:
            with ends_after(60 * minutes - RESERVE / 4):
                for comparison in planned:
                    figures = found["measured"][comparison.key]
                    for name, prepare in comparison.variants.items():
                        if figures[name] != NOT_RUN:
                            continue
                        if time.monotonic() >= until:
                            return found
                        figures[name] = measured(prepare, sizes.calls, until)
                        ratios, bars = judge(comparison, figures)
                        found["ratios"] |= ratios
                        found["bars"] |= bars
                        show(found)
                        print(comparison.key, name, figures[name], f"{time.monotonic() - began:.0f} s", flush=True)
        except TimeUp:
            pass
    return found


def table(found: dict) -> str:
    lines = ["| promised | at most | found | |", "|---" * 4 + "|"]
    for bar, state in found["bars"].items():
        shown = "" if state["found"] is None else state["found"]
        lines.append(f"| {bar} | {state['most']} | {shown} | {state['stands']} |")
    lines += [
        "",
        "| case | variant | ms | peak GB | above the state before, GB | ours / it: time | memory |",
        "|---" * 7 + "|",
    ]
    for key, variants in found["measured"].items():
        for name, figures in variants.items():
            if isinstance(figures, str):
                lines.append(f"| {key} | {name} | {figures} |||||")
                continue
            cells = [
                f"{1e3 * figures['seconds']:.1f}",
                *(f"{figures[n] / 1e9:.2f}" for n in ("peak_bytes", "extra_bytes")),
            ]
            against = [str(found["ratios"].get(f"{key}.{what}.vs_{name}", "")) for what in ("time", "memory")]
            lines.append("| " + " | ".join([key, name, *cells, *against]) + " |")
    return "\n".join(lines)


@click.command(help=__doc__.split("\n")[0])
@click.option("--minutes", default=MINUTES, show_default=True, help="All of it takes at most so long.")
@click.option("--dry-run", is_flag=True, help="Tiny shapes, on a CPU too: whether all runs. Its figures say nothing.")
@click.option("--json", "results", type=click.Path(path_type=Path),
              help="Default: benchmarks/results/gpu.json; of a dry run nothing is written.")  # fmt: skip
def main(minutes: float, dry_run: bool, results: Path | None) -> None:
    if not dry_run and not torch.cuda.is_available():
        raise click.ClickException(
            "this needs a GPU, and torch sees none. benchmarks.step and benchmarks.loss measure on a CPU; --dry-run "
            "tries whether all of this one runs."
        )
    into = results or (None if dry_run else Path("benchmarks/results/gpu.json"))
    title = "Dry run: tiny shapes, figures that say nothing" if dry_run else "The loss and a step on a GPU, bfloat16"

    def show(found: dict) -> None:
        if into is not None:
            write(into.parent, into.stem, title, "python -m benchmarks.gpu", found, table(found))

    found = run(TINY if dry_run else REAL, minutes, show)
    print(json.dumps(found["bars"], indent=1))


if __name__ == "__main__":
    main()
