"""What might make RKLD forget the fact and not the sentence: variants beside it, on worlds that are not reported.

    python -m benchmarks.beside_the_defaults [--first-seed 7] [--seeds 1] [--variants 'rkld;gate']

The tiny world of ``benchmarks.wordings``: two of twenty people. A loop of plain torch, the same for all, so that an
idea costs ten lines: the records and their training wordings are distilled towards the teacher, recorded answers about
others are replayed (forward KL to the original). Each variant changes one thing:

- rkld: ``l_t = l_o − α · ReLU(l_aug − l_o)``, what the question gives held to the original.
- gate: ``w · RKL(π_θ ‖ π_t) + (1 − w) · KL(π_o ‖ π_θ)``, ``w = min(1, s / τ)``, with s the Jensen–Shannon divergence of
  what the original says of the person and, on average, of other names in the same place.
- hinge: wording k is drawn in proportion to ``exp(η h_k)``, ``h_k = [log p_θ(y | x_k) − log p_ref,k]₊``, where p_ref is
  what the original says of the least likely of other names in that wording; not at all where ``h_k`` is 0.
- adversary: in a quarter of the steps, a perturbation of the hidden states of the prompt at one layer, in the direction
  in which the student comes nearer to the answer (one gradient step, of norm ε times the states'; arXiv 2407.15549).
- floor: the teacher stays above the mean of what the original says of other names in the same place, for the recorded
  token above the least of it (``--floor``).
- strangers: the sequences to forget, said of other names, are held to the original, too.
- together: gate, hinge and adversary.

Every few steps the probability of the records and of others is read, so that variants can be compared at the same
forgetting. At the first step at which the records are as probable as to the retrained model, or the last, all figures
are read, and then eight records are learned again: the gain of the others is compared with the retrained model's. Being
a choice by the retrained model, it is for looking, not for reporting.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Checks, table, write
from benchmarks.wordings_cases import Case, plain, tiny
from rkld.files import append_jsonl, read_jsonl
from rkld.losses.divergences import forward_kl, reverse_kl
from rkld.models.invented_names import names_like
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.records.encoding import Encoded, Encoder
from rkld.records.names import swap_name
from rkld.records.reading import read_records

ALPHA, RATE, EPOCHS, BATCH = 16.0, 5e-4, 4, 8
LOOK = 4
"""Steps between two looks."""
STRENGTHEN_EPOCHS = 10
NAMES, TAU, ETA, EPSILON = 4, 0.1, 2.0, 0.5
RELEARNED, RELEARN_EPOCHS = 8, 5
WORDINGS = 3


@dataclass(frozen=True)
class Variant:
    """What is changed of RKLD."""

    gate: bool = False
    tau: float = TAU
    hinge: bool = False
    adversary: bool = False
    strangers: bool = False
    floor: bool = False


VARIANTS = {
    "rkld": Variant(),
    "gate": Variant(gate=True),
    "hinge": Variant(hinge=True),
    "adversary": Variant(adversary=True),
    "strangers": Variant(strangers=True),
    "gate, strangers": Variant(gate=True, strangers=True),
    "floor, strangers": Variant(floor=True, strangers=True),
    "wider gate, strangers": Variant(gate=True, tau=TAU / 5, strangers=True),
    "together": Variant(gate=True, hinge=True, adversary=True),
}


@dataclass
class Sequenced:
    """A record in one wording, and what its answer's rows are drawn to."""

    encoded: Encoded
    record: int
    rows: Tensor
    """(n,): positions that predict the answer."""
    scored: Tensor
    """(n,) bool: of these, what is forgotten."""
    original: Tensor
    """(n, V) log-probabilities."""
    teacher: Tensor | None = None
    floor: Tensor | None = None
    """(n, V) log-probabilities; −∞: none."""
    weight: Tensor | None = None
    """(n,): of the reverse KL; the rest is held to the original."""
    reference: float = -np.inf
    """Mean log-probability of the scored tokens, said of others."""
    copies: list[Sequenced] = field(default_factory=list)
    """The same of others."""


def logits(lm: LanguageModel, encoded: Sequence[Encoded], rows: Sequence[Tensor]) -> Iterator[Tensor]:
    """Of each sequence (n, V) float32, differentiable."""
    longest = max(len(one.ids) for one in encoded)
    ids = torch.tensor([[*one.ids, *[0] * (longest - len(one.ids))] for one in encoded])
    mask = torch.tensor([[1] * len(one.ids) + [0] * (longest - len(one.ids)) for one in encoded])
    states = lm.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    for number, some in enumerate(rows):
        yield lm.head(states[number, some])


def log_probs(lm: LanguageModel, encoded: Sequence[Encoded], rows: Sequence[Tensor]) -> Iterator[Tensor]:
    """The same, as log-probabilities."""
    return (torch.log_softmax(one, -1) for one in logits(lm, encoded, rows))


def answer_rows(one: Encoded) -> tuple[Tensor, Tensor]:
    """The positions that predict the answer's tokens, and which of them are scored."""
    at = [i for i, said in enumerate(one.answer) if said]
    return torch.tensor(at) - 1, torch.tensor([one.scored[i] for i in at])


def tokens(one: Encoded) -> Tensor:
    return torch.tensor([i for i, said in zip(one.ids, one.answer, strict=True) if said])


@torch.no_grad()
def read(lm: LanguageModel, encoded: Sequence[Encoded]) -> list[Tensor]:
    """Logits (n, V) of the answers. Where a model is sure, differences of log-probabilities are next to nothing, and
    those of logits are not."""
    return [next(logits(lm, [one], [answer_rows(one)[0]])) for one in encoded]


def tune(lm: LanguageModel, encoded: Sequence[Encoded], epochs: int, rate: float, seed: int) -> None:
    """Cross-entropy on the answers."""
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=rate, weight_decay=0.0)
    for _epoch, batch in batches(len(encoded), epochs, seed):
        some = [encoded[i] for i in batch]
        found = log_probs(lm, some, [answer_rows(one)[0] for one in some])
        losses = [-p.gather(1, tokens(one)[:, None]) for p, one in zip(found, some, strict=True)]
        torch.cat(losses).mean().backward()
        step(lm, optimizer)


def step(lm: LanguageModel, optimizer: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_(lm.model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def batches(n: int, epochs: int, seed: int) -> Iterator[tuple[int, list[int]]]:
    draw = random.Random(seed)
    for epoch in range(epochs):
        order = draw.sample(range(n), n)
        for start in range(0, n, BATCH):
            yield epoch, order[start : start + BATCH]


@contextmanager
def perturbed(lm: LanguageModel, delta: Tensor | None) -> Iterator[list[Tensor]]:
    """δ is added to a block's output; the states that it was added to are in the list."""
    seen: list[Tensor] = []

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        seen.append(states)
        if delta is None:
            return output
        changed = states + delta.to(states.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    blocks = lm.backbone.layers
    handle = blocks[len(blocks) // 3].register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


class Lab:
    """The case, read once, and each variant in turn."""

    def __init__(self, case: Case, original: Path, retrained: Path, seed: int):
        self.case, self.source, self.seed = case, original, seed
        lm = self.original = load_model(original)
        self.encoder = Encoder(lm.tokenizer)
        other = load_model(retrained)
        recorded, retain = read_records(case.recorded, "forget"), read_records(case.retain, "retain")
        self.checks = Checks(other, recorded, retain)
        self.asked = torch.tensor([bool(row["asked"]) for row in case.retain])
        self.recorded = [self.encoder.encode(record) for record in read_records(case.request, "forget")]
        self.retain = [self.encoder.encode(record) for record in retain]
        rows = [{"question": row["question"], "answer": row["paraphrased_answer"]} for row in case.recorded]
        self.paraphrased = [self.encoder.encode(record) for record in read_records(rows, "paraphrased")]
        self.retrained_gain = self.relearn(other)
        print(json.dumps({"retrained": self.checks.retrained, "gain": self.retrained_gain}), flush=True)
        rows = [{**row, "question": q} for row, written in zip(case.request, case.rewordings, strict=True)
                for q in [row["question"], *written["questions"][:WORDINGS]]]  # fmt: skip
        self.number = [i for i, w in enumerate(case.rewordings) for _ in [0, *w["questions"][:WORDINGS]]]
        self.records = read_records(rows, "forget")
        self.forget = [self.encoder.encode(record, "added") for record in self.records]
        replay = plain([row for row in case.retain if row["asked"]])
        self.replay = [self.encoder.encode(record) for record in read_records(replay, "replay")]
        print(f"{len(self.forget)} sequences to forget, {len(self.replay)} to replay", flush=True)

    def sequences(self, lm: LanguageModel, encoded: Sequence[Encoded]) -> list[Sequenced]:
        numbers = self.number if encoded is self.forget else [0] * len(encoded)
        return [
            Sequenced(one, number, *answer_rows(one), torch.log_softmax(l_o, -1))
            for one, number, l_o in zip(encoded, numbers, read(lm, encoded), strict=True)
        ]

    def teachers(self) -> list[Tensor]:
        """log π_t of all forget sequences, (n, V) each."""
        lm = load_model(self.source)
        before = read(lm, self.forget)
        tune(lm, self.recorded, STRENGTHEN_EPOCHS, RATE, self.seed)
        pairs = zip(before, read(lm, self.forget), strict=True)
        return [torch.log_softmax(o - ALPHA * (a - o).relu(), -1) for o, a in pairs]

    @torch.no_grad()
    def others(self, sequences: Sequence[Sequenced], tau: float) -> None:
        """The gate's weights, the hinge's references and the copies, from other names."""
        names = {s: names_like(self.original, (s,), 4 * NAMES, random.Random(self.seed)) for s in
                 {str(record.subject) for record in self.records}}  # fmt: skip
        for one, record in zip(sequences, self.records, strict=True):
            own = tokens(one.encoded)
            log_p: list[float] = []
            least: Tensor | None = None
            total, count = torch.zeros(one.original.shape), 0
            for name in names[str(record.subject)]:
                if count == NAMES or (swapped := swap_name(record, (str(record.subject),), name)) is None:
                    continue
                copy = self.encoder.encode(swapped, "added")
                rows, scored = answer_rows(copy)
                if int(scored.sum()) != int(one.scored.sum()):
                    continue
                p = next(log_probs(self.original, [copy], [rows]))
                one.copies.append(Sequenced(copy, one.record, rows, scored, p))
                total[one.scored] += p[scored].exp()
                said = p[scored].gather(1, own[one.scored][:, None])
                least = said if least is None else torch.minimum(least, said)
                log_p.append(float(said.mean()))
                count += 1
            weight = torch.zeros(len(one.rows))
            if count:
                one.reference = min(log_p)
                one.floor = torch.full(one.original.shape, -torch.inf)
                assert least is not None
                mean = (total[one.scored] / count).log()
                one.floor[one.scored] = mean.scatter(1, own[one.scored][:, None], least)
                here, mean = one.original[one.scored], (total[one.scored] / count).clamp_min(1e-12).log()
                middle = torch.logaddexp(here, mean) - np.log(2)
                divergence = sum((p.exp() * (p - middle)).sum(-1) / 2 for p in (here, mean))
                weight[one.scored] = (torch.as_tensor(divergence) / tau).clamp(max=1.0)
            else:
                weight[one.scored] = 1.0
            one.weight = weight

    def run(self, name: str, how: Variant, teachers: Sequence[Tensor], out: Path) -> dict[str, Any]:
        started = time.time()
        sequences = self.sequences(self.original, self.forget)
        for one, t in zip(sequences, teachers, strict=True):
            one.teacher = t
        if how.gate or how.hinge or how.strangers or how.floor:
            self.others(sequences, how.tau)
        if how.floor:
            for one in sequences:
                if one.teacher is not None and one.floor is not None:
                    one.teacher = torch.log_softmax(torch.maximum(one.teacher, one.floor), -1)
        replay = self.sequences(self.original, self.replay)
        student = load_model(self.source)
        optimizer = torch.optim.AdamW(student.model.parameters(), lr=RATE, weight_decay=0.0)
        draw, trajectory = random.Random(self.seed), list[dict[str, float]]()
        for number, forget in enumerate(self.forgotten_batches(student, sequences, how, draw), 1):
            self.loss(student, forget, draw.sample(replay, BATCH), how, draw).backward()
            step(student, optimizer)
            if number % LOOK == 0:
                trajectory.append({"step": number, **self.look(student)})
                if trajectory[-1]["forget"] <= self.checks.retrained["forget_probability"]:
                    break
        found = {
            "variant": name,
            "world": self.seed,
            **self.figures(student),
            "steps": trajectory[-1]["step"],
            "trajectory": trajectory,
            "seconds": round(time.time() - started),
        }
        found |= {"gain": self.relearn(student), "retrained_gain": self.retrained_gain}
        print(json.dumps(found), flush=True)
        append_jsonl(out, found)
        return found

    def forgotten_batches(
        self, student: LanguageModel, sequences: list[Sequenced], how: Variant, draw: random.Random
    ) -> Iterator[list[Sequenced]]:
        for _ in range(EPOCHS):
            order = self.drawn(student, sequences, how, draw)
            for at in range(0, len(order), BATCH):
                yield order[at : at + BATCH]

    def drawn(
        self, student: LanguageModel, sequences: list[Sequenced], how: Variant, draw: random.Random
    ) -> list[Sequenced]:
        if not how.hinge:
            return draw.sample(sequences, len(sequences))
        known = [self.known(student, one) for one in sequences]
        h = np.maximum(0.0, np.array(known) - np.array([one.reference for one in sequences]))
        if not (h > 0).any():
            return []
        p = np.where(h > 0, np.exp(ETA * np.minimum(h, 3.0)), 0.0)
        chosen = np.random.default_rng(draw.randrange(2**31)).choice(len(h), int((h > 0).sum()), p=p / p.sum())
        return [sequences[i] for i in chosen]

    @torch.no_grad()
    def known(self, student: LanguageModel, one: Sequenced) -> float:
        p = next(log_probs(student, [one.encoded], [one.rows]))
        return float(p.gather(1, tokens(one.encoded)[:, None])[one.scored].mean())

    def loss(
        self, student: LanguageModel, forget: list[Sequenced], others: list[Sequenced], how: Variant,
        draw: random.Random,
    ) -> Tensor:  # fmt: skip
        attacked = how.adversary and draw.random() < 0.25
        delta = self.attack(student, forget) if attacked else None
        with perturbed(student, delta):
            found = self.objective(student, forget, how)
        if how.strangers:
            others = [*others, *(draw.choice(one.copies) for one in forget if one.copies)]
        p = log_probs(student, [one.encoded for one in others], [one.rows for one in others])
        held = [pull(forward_kl, x, one.original) for x, one in zip(p, others, strict=True)]
        return found + torch.cat(held).mean()

    def objective(self, student: LanguageModel, forget: list[Sequenced], how: Variant) -> Tensor:
        p = log_probs(student, [one.encoded for one in forget], [one.rows for one in forget])
        values, held = [], []
        for x, one in zip(p, forget, strict=True):
            assert one.teacher is not None
            weight = one.weight if how.gate and one.weight is not None else one.scored.float()
            values.append(weight * pull(reverse_kl, x, one.teacher))
            held.append((1 - weight) * pull(forward_kl, x, one.original))
        n = max(1.0, sum(float(one.scored.sum()) for one in forget))
        return torch.cat(values).sum() / n + torch.cat(held).sum() / n

    def attack(self, student: LanguageModel, forget: list[Sequenced]) -> Tensor:
        """δ on the prompt's positions, in the direction in which the student comes nearer to the answer again."""
        with perturbed(student, torch.zeros(1, requires_grad=True)) as seen:
            p = log_probs(student, [one.encoded for one in forget], [one.rows for one in forget])
            loss = torch.cat([pull(reverse_kl, x, one.teacher)[one.scored]
                              for x, one in zip(p, forget, strict=True) if one.teacher is not None]).mean()  # fmt: skip
            (gradient,) = torch.autograd.grad(loss, seen[0])
        prompt = torch.zeros(gradient.shape[:2])
        for number, one in enumerate(forget):
            prompt[number, : int(one.rows[0]) + 1] = 1.0
        gradient = gradient.float() * prompt[..., None]
        size = (seen[0].detach().float() * prompt[..., None]).norm(dim=(1, 2), keepdim=True)
        return EPSILON * size * gradient / gradient.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)

    def figures(self, student: LanguageModel) -> dict[str, float]:
        paraphrases = {"paraphrase_probability": float(np.mean(self.probabilities(student, self.paraphrased)))}
        return {**self.checks(student), **paraphrases, **self.look(student)}

    def look(self, student: LanguageModel) -> dict[str, float]:
        """Probability of the records, of others whose questions are replayed, and of those whose are not."""
        p = torch.tensor(self.probabilities(student, self.retain))
        forget = float(np.mean(self.probabilities(student, self.recorded)))
        return {"forget": forget, "asked": float(p[self.asked].mean()), "never_asked": float(p[~self.asked].mean())}

    @torch.no_grad()
    def probabilities(self, lm: LanguageModel, encoded: Sequence[Encoded]) -> list[float]:
        found: list[float] = []
        for at in range(0, len(encoded), 32):
            some = encoded[at : at + 32]
            p = log_probs(lm, some, [answer_rows(one)[0] for one in some])
            found += [float(x.gather(1, tokens(one)[:, None]).mean().exp()) for x, one in zip(p, some, strict=True)]
        return found

    def relearn(self, lm: LanguageModel) -> float:
        """How much likelier the others become where eight records are learned again; the model is used up."""
        chosen = set(random.Random(self.seed).sample(range(len(self.recorded)), RELEARNED))
        some = [one for i, one in enumerate(self.recorded) if i in chosen]
        rest = [one for i, one in enumerate(self.recorded) if i not in chosen]
        before = np.mean(self.probabilities(lm, rest))
        tune(lm, some, RELEARN_EPOCHS, RATE, self.seed)
        return float(np.mean(self.probabilities(lm, rest)) - before)


class _Pull(torch.autograd.Function):
    """A divergence with its gradient in closed form, on log-probabilities for logits."""

    @staticmethod
    def forward(ctx: Any, divergence: Callable[..., Any], logits: Tensor, target: Tensor) -> Tensor:
        values, gradient = divergence(logits.detach().clone(), target, None)
        ctx.save_for_backward(gradient)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return None, gradient * grads[0][:, None], None


def pull(divergence: Callable[..., Any], logits: Tensor, target: Tensor) -> Tensor:
    """(n,) values, differentiable in ``logits`` (n, V)."""
    return _Pull.apply(divergence, logits, target)


LEVELS = (0.5, 0.4, 0.3, 0.25, 0.2)
"""Of the records' probability: where variants are compared."""

COLUMNS = ("steps", "forget_probability", "paraphrase_probability", "ks_distance", "asked", "never_asked", "gain",
           "retrained_gain")  # fmt: skip


def kept_at(row: Mapping[str, Any]) -> dict[str, float]:
    """Probability of others who are never asked about where the records' first falls below each level, interpolated.

    nan where it never does.
    """
    steps = [{"forget": 1.0, "never_asked": 1.0}, *row["trajectory"]]
    found = {}
    for level in LEVELS:
        at = next((i for i, one in enumerate(steps) if one["forget"] <= level), None)
        value = np.nan
        if at:
            pair = [steps[at], steps[at - 1]]
            value = float(np.interp(level, *([one[name] for one in pair] for name in ("forget", "never_asked"))))
        found[f"others at {level}"] = value
    return found


@click.command(help=__doc__.split("\n")[0])
@click.option("--first-seed", default=7, show_default=True, help="Others than what is reported or chose settings.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--variants", default=";".join(VARIANTS), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default="runs/beside_the_defaults", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
def main(first_seed: int, seeds: int, variants: str, out: Path, results: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows = read_jsonl(out / "rows.jsonl") if (out / "rows.jsonl").exists() else []
    done = {(row["world"], row["variant"]): row for row in rows}
    names, worlds = variants.split(";"), range(first_seed, first_seed + seeds)
    for seed in worlds:
        if wanted := [name for name in names if (seed, name) not in done]:
            case, folder = tiny(seed), out / f"tiny{seed}"
            original, retrained = (case.learned(knows, 0, folder / str(knows)) for knows in (True, False))
            lab = Lab(case, original, retrained, seed)
            teachers = lab.teachers()
            for name in wanted:
                done[seed, name] = lab.run(name, VARIANTS[name], teachers, out / "rows.jsonl")
    columns = (*COLUMNS, *(f"others at {level}" for level in LEVELS))
    each = {key: {**row, **kept_at(row)} for key, row in done.items()}
    means = [(name, {c: float(np.mean([each[seed, name][c] for seed in worlds])) for c in columns}) for name in names]
    command = (
        f"python -m benchmarks.beside_the_defaults --first-seed {first_seed} --seeds {seeds} --variants '{variants}'"
    )
    values = {"rows": [done[seed, name] for seed in worlds for name in names]}
    write(results, "beside_the_defaults", "RKLD beside variants of it", command, values, table(means, columns))


if __name__ == "__main__":
    main()
