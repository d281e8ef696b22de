"""The loss alone, forwards and backwards: full logits and autograd, ours, and the chunked losses of other libraries.

    python -m benchmarks.loss [--repeats 5] [--others 1] [--shape 1024x49152 …] [--json FILE]

Final hidden states of T scored tokens (d = 576) and heads over V tokens go in; gradients of the hidden states, and of
the head where it is trained, come out. A trained head is apart from the two heads of the teacher (full fine-tuning), a
frozen one is the same for all (LoRA). Seconds, and memory above what was held before the call; a process of its own for
every measurement. On a GPU if there is one.

Two losses: reverse KL to the composite teacher, which only we have chunked, and the Jensen–Shannon divergence to one
plain teacher, which Liger Kernel (``pip install liger-kernel``) and TRL (1.16 or newer) have, too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import click
import psutil
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import write
from benchmarks.resource_usage import Measured, median, paired, ratio
from rkld.losses.chunked import Segment, linear_divergence
from rkld.losses.divergences import jensen_shannon
from rkld.losses.targets import Loss, Towards
from rkld.methods.registry import get_method
from rkld.models.logit_transform import NONE
from rkld.teacher.logits import Teacher

ALPHA = 8.0
HIDDEN_SIZE = 576
HEADLINE = (1024, 49152)
SHAPES = [(T, V) for V in (32768, 49152, 131072) for T in (256, 1024, 4096)]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BUFFERS = {"naive": 6, "naive_jsd": 11}
"""(T, V) float32 tensors that full logits and autograd hold at their peak, and a margin of one."""


@dataclass
class Problem:
    """T rows of hidden states (T, d) and heads (V, d), float32 by default; each row weighs 1 / T."""

    hidden: Tensor
    original: Tensor
    strengthened: Tensor
    head: Tensor
    original_head: Tensor
    strengthened_head: Tensor

    @classmethod
    def random(
        cls, T: int, V: int, trainable: bool, d: int = HIDDEN_SIZE, dtype: torch.dtype = torch.float32
    ) -> Problem:
        generator = torch.Generator(DEVICE).manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=DEVICE).to(dtype)

        hidden, original, strengthened = normal(3, T, d).unbind()
        head = original_head = strengthened_head = normal(V, d) / d**0.5
        if trainable:
            head, strengthened_head = (original_head + 0.001 * normal(V, d) for _ in range(2))
        found = cls(hidden.clone(), original, strengthened, head, original_head, strengthened_head)
        found.hidden.requires_grad_()
        found.head.requires_grad_(trainable)
        return found

    def teacher(self) -> Teacher:
        """Ours, on these heads; a frozen one is the student's own."""
        heads = {"original": {"weight": self.original_head}, "strengthened": {"weight": self.strengthened_head}}
        heads = {} if self.head is self.original_head else heads
        teacher = Teacher(SimpleNamespace(read_head=heads.get, has_head=heads.__contains__), alpha=ALPHA)
        teacher.attach(SimpleNamespace(head=SimpleNamespace(weight=self.head, bias=None), logit_transform=NONE))
        return teacher


def naive(p: Problem) -> Tensor:
    """Reverse KL to the composite teacher as its formulas read."""

    def teacher() -> Tensor:
        original = F.linear(p.original, p.original_head)
        strengthened = F.linear(p.strengthened, p.strengthened_head)
        return torch.log_softmax(original - ALPHA * torch.relu(strengthened - original), -1)

    with torch.no_grad():
        target = teacher()
    log_probs = torch.log_softmax(F.linear(p.hidden, p.head), -1)
    return (log_probs.exp() * (log_probs - target)).sum(-1).mean()


def ours(p: Problem) -> Tensor:
    return _ours(p, get_method("rkld").loss(p.teacher()))


def naive_jsd(p: Problem) -> Tensor:
    """Jensen–Shannon to the original as its formulas read."""
    with torch.no_grad():
        target = torch.log_softmax(F.linear(p.original, p.original_head), -1)
    log_probs = torch.log_softmax(F.linear(p.hidden, p.head), -1)
    log_mean = torch.log((log_probs.exp() + target.exp()) / 2)
    kl = [F.kl_div(log_mean, rows, log_target=True, reduction="none").sum(-1) for rows in (log_probs, target)]
    return (kl[0] + kl[1]).mean() / 2


def ours_jsd(p: Problem) -> Tensor:
    return _ours(p, Towards(jensen_shannon, p.teacher().original))


def _ours(p: Problem, loss: Loss) -> Tensor:
    rows = {"original": p.original, "strengthened": p.strengthened}
    weights = torch.full((len(p.hidden),), 1 / len(p.hidden), device=DEVICE)
    return linear_divergence(p.hidden, p.head, None, [Segment(weights, loss, rows)])[0]


def liger_jsd(p: Problem) -> Tensor:
    """Liger Kernel's with its own chunk size; compiled on a GPU only, as compiling is not what is measured."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, compiled=DEVICE.type == "cuda")
    labels = torch.zeros(len(p.hidden), dtype=torch.int64, device=DEVICE)
    return loss(p.hidden, p.head, p.original, p.original_head, labels)


def trl_jsd(p: Problem) -> Tensor:
    """That of TRL's distillation trainer."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    values, _ = ChunkedDivergenceFunction.apply(p.hidden, p.head, None, p.original, p.original_head, None, 0.5)
    return values.mean()


LOSSES: dict[str, Callable[[Problem], Tensor]] = {
    "naive": naive, "ours": ours, "naive_jsd": naive_jsd, "ours_jsd": ours_jsd, "liger_jsd": liger_jsd,
    "trl_jsd": trl_jsd,
}  # fmt: skip
LIBRARIES = {"liger_jsd": "liger_kernel.chunked_loss", "trl_jsd": "trl.kernels.chunked_divergence"}


def prepare(name: str, T: int, V: int, trainable: bool) -> Callable[[], float]:
    """One loss, forwards and backwards, on fresh gradients; returns its value."""
    loss = LOSSES[name]

    def step(p: Problem) -> float:
        total = loss(p)
        total.backward()
        p.hidden.grad = p.head.grad = None
        return total.item()

    step(Problem.random(4, V, trainable))  # whatever libraries set up once
    p = Problem.random(T, V, trainable)
    return lambda: step(p)


def not_run(T: int, V: int) -> dict[str, str]:
    """Losses that cannot run here, and why."""
    reasons = {}
    for name, module in LIBRARIES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            reasons[name] = str(error)
    free = torch.cuda.mem_get_info()[0] if DEVICE.type == "cuda" else psutil.virtual_memory().available
    for name, buffers in BUFFERS.items():
        needed = buffers * T * V * 4
        if needed > free:
            reasons[name] = f"needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
    return reasons


def compare(T: int, V: int, trainable: bool, repeats: int) -> tuple[list[dict[str, Measured]], dict[str, str]]:
    reasons = not_run(T, V)
    calls = {name: (prepare, name, T, V, trainable) for name in LOSSES if name not in reasons}
    return paired(calls, repeats, warm_up=int(DEVICE.type == "cuda")), reasons


def ratios(rounds: list[dict[str, Measured]]) -> dict[str, float]:
    """Ours over each other loss of the same kind."""
    found = {}
    for other in rounds[0]:
        mine = "ours_jsd" if other.endswith("_jsd") else "ours"
        if other != mine:
            found[f"memory.vs_{other}"] = round(ratio(rounds, mine, other, "extra_bytes"), 4)
            found[f"time.vs_{other}"] = round(ratio(rounds, mine, other, "seconds"), 4)
    return found


@click.command(help=__doc__.split("\n")[0])
@click.option("--repeats", default=5, show_default=True, help="Paired runs of T = 1024, V = 49152.")
@click.option("--others", default=1, show_default=True, help="Paired runs of every other shape.")
@click.option("--shape", "shapes", multiple=True, help="TxV, e.g. 1024x49152; again for more. Default: all nine.")
@click.option("--json", "results", type=click.Path(path_type=Path), default="benchmarks/results/loss.json",
              show_default=True)  # fmt: skip
def main(repeats: int, others: int, shapes: tuple[str, ...], results: Path) -> None:
    found: dict = {"ratios": {}, "shapes": {}, "measured": {}, "not_run": {}}
    lines = ["| T | V | head | loss | seconds | extra MB | value | ours / it: time | memory |", "|---" * 9 + "|"]
    for T, V in [tuple(map(int, shape.split("x"))) for shape in shapes] or SHAPES:
        for head in ("trainable_head", "frozen_head"):
            rounds, reasons = compare(T, V, head == "trainable_head", repeats if (T, V) == HEADLINE else others)
            key, against = f"{T}x{V}.{head}", ratios(rounds)
            found["shapes"] |= {f"{key}.{name}": value for name, value in against.items()}
            if (T, V) == HEADLINE:
                found["ratios"] |= {f"{head}.{name}": value for name, value in against.items()}
            found["measured"][key] = [{n: (m.seconds, m.extra_bytes, m.value) for n, m in r.items()} for r in rounds]
            found["not_run"] |= {f"{key}.{name}": reason for name, reason in reasons.items()}
            for name in LOSSES:
                if name in reasons:
                    lines.append(f"| {T} | {V} | {head} | {name} | not run: {reasons[name]} |||||")
                else:
                    seconds, extra = (median(rounds, name, what) for what in ("seconds", "extra_bytes"))
                    time, memory = (against.get(f"{what}.vs_{name}", "") for what in ("time", "memory"))
                    lines.append(f"| {T} | {V} | {head} | {name} | {seconds:.2f} | {extra / 1e6:.0f} "
                                 f"| {rounds[0][name].value:.5f} | {time} | {memory} |")  # fmt: skip
                print(lines[-1], flush=True)
    write(results.parent, results.stem, "The loss alone", "python -m benchmarks.loss", found, "\n".join(lines))


if __name__ == "__main__":
    main()
