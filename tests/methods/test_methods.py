"""Every method against its formula written by hand: full logits, plain torch, autograd.

One harness for all: a method's own terms go through the real cache, trainer and chunked head.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F

import rkld
from rkld import cli, methods
from rkld.evaluation.generation import greedy
from rkld.evaluation.likelihood import answer_losses, probability
from rkld.files import write_jsonl
from rkld.losses.answers import answer_segment
from rkld.losses.micro_batches import MicroBatches
from rkld.losses.objective import Objective, StateTerm, evaluate
from rkld.methods.method import Assisted, LogitArithmetic
from rkld.methods.registry import METHODS, get_method
from rkld.methods.two_models import open_model, save_two_models, two_models
from rkld.models.hidden_states import states
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoded, Encoder, marked
from rkld.records.reading import read_records
from rkld.teacher.cache import HiddenCache, Part
from rkld.teacher.logits import Teacher
from rkld.training.strengthening import fill_cache
from rkld.training.terms import build_objective, build_terms, cached_parts
from tests.helpers import TOKENIZER, config, model, our_gradients, records, strengthen_noisily, strengthen_to

BASED = [name for name in METHODS.names() if get_method(name).needs_base]
TRAINED = [name for name in METHODS.names() if not isinstance(get_method(name), Assisted) and name not in BASED]
PAIRED = [name for name in METHODS.names() if isinstance(get_method(name), LogitArithmetic)]
ALPHA = 4.0


# The formulas


class Formula:
    """What a hand-written loss is made of: distributions at the answer tokens of whole, unpadded records."""

    def __init__(self, student, original, strengthened, sets):
        self.student, self.original, self.strengthened, self.sets = student, original, strengthened, sets

    def logits(self, net, name: str, mask="answer") -> list[torch.Tensor]:
        """(n, V) per record; row t − 1 predicts token t."""
        found = []
        for e in self.sets[name]:
            rows = net(input_ids=torch.tensor([e.ids])).logits[0, :-1]
            found.append(rows[torch.tensor(getattr(e, mask)[1:])])
        return [f if net is self.student else f.detach() for f in found]

    def labels(self, name: str) -> list[torch.Tensor]:
        return [torch.tensor([i for i, a in zip(e.ids, e.answer) if a]) for e in self.sets[name]]

    def tokens(self, name: str) -> torch.Tensor:
        return torch.cat(self.labels(name))

    def log_probs(self, net, name: str) -> torch.Tensor:
        return torch.cat(self.logits(net, name)).log_softmax(-1)

    def cross_entropy(self, name: str) -> torch.Tensor:
        return F.cross_entropy(torch.cat(self.logits(self.student, name)), self.tokens(name))

    def sums(self, net, name: str) -> torch.Tensor:
        """log π(answer) of every record."""
        pairs = zip(self.logits(net, name), self.labels(name))
        return torch.stack([-F.cross_entropy(rows, labels, reduction="sum") for rows, labels in pairs])

    def ratios(self, name: str) -> torch.Tensor:
        return self.sums(self.student, name) - self.sums(self.original, name)

    def composite(self) -> torch.Tensor:
        l_o, l_aug = (torch.cat(self.logits(net, "forget")) for net in (self.original, self.strengthened))
        return (l_o - ALPHA * F.relu(l_aug - l_o)).log_softmax(-1)

    def states(self, net, name: str, layer: int) -> torch.Tensor:
        found = []
        for e in self.sets[name]:
            output = net(input_ids=torch.tensor([e.ids]), output_hidden_states=True)
            found.append(output.hidden_states[layer + 1][0, :-1][torch.tensor(e.answer[1:])])
        return torch.cat(found)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Mean KL(p ‖ q) of log-probabilities."""
    return (p.exp() * (p - q)).sum(-1).mean()


def uniform(f: Formula, name: str) -> torch.Tensor:
    student = f.log_probs(f.student, name)
    return kl(torch.full_like(student, -math.log(student.shape[-1])), student)


def rkld_(f):
    return kl(f.log_probs(f.student, "forget"), f.composite())


def forward_kl(f):
    return kl(f.composite(), f.log_probs(f.student, "forget"))


def jensen_shannon(f):
    student, teacher = f.log_probs(f.student, "forget"), f.composite()
    mean = torch.log((student.exp() + teacher.exp()) / 2)
    return (kl(student, mean) + kl(teacher, mean)) / 2


def gradient_ascent(f):
    return -f.cross_entropy("forget")


def graddiff(f):
    return -f.cross_entropy("forget") + f.cross_entropy("retain")


def idk(f):
    return f.cross_entropy("forget_refusals")


def dpo(f):
    margin = f.ratios("forget_refusals") - f.ratios("forget")
    return -(2 / 0.1) * torch.log(torch.sigmoid(0.1 * margin)).mean()


def npo(f):
    return (2 / 0.1) * torch.log(1 + torch.exp(f.ratios("forget")) ** 0.1).mean()  # as the paper writes it


def simnpo(f):
    mean = f.sums(f.student, "forget") / torch.tensor([sum(e.answer) for e in f.sets["forget"]])
    return 0.1375 * -(2 / 2.5) * torch.log(torch.sigmoid(-2.5 * mean)).mean() + f.cross_entropy("retain")


def undo(f):
    return forward_kl(f)  # from another start


def undial(f):
    lowered = torch.cat(f.logits(f.original, "forget"))
    lowered = lowered - 10.0 * F.one_hot(f.tokens("forget"), lowered.shape[-1])
    return kl(lowered.log_softmax(-1), f.log_probs(f.student, "forget"))


def shred(f, share=0.5, nucleus=0.0):
    """Record by record and token by token, as drawn: strike out, divide by what is left."""
    values = []
    for original, student, labels in zip(
        f.logits(f.original, "forget"), f.logits(f.student, "forget"), f.labels("forget")
    ):
        probabilities = original.softmax(-1)
        said = [p[y].item() for p, y in zip(probabilities, labels)]
        rarest = sorted(range(len(said)), key=said.__getitem__)[: math.ceil(share * len(said))]
        for t, (p, y) in enumerate(zip(probabilities, labels.tolist())):
            q = p.clone()
            if t in rarest:
                mass, v = 0.0, iter(p.argsort(descending=True).tolist())
                while mass < nucleus:  # the smallest set of the likeliest that has so much
                    q[at := next(v)] = 0
                    mass += p[at].item()
                q[y] = 0
            q = q / q.sum()
            values.append((torch.special.xlogy(q, q) - q * student[t].log_softmax(-1)).sum())
    return torch.stack(values).mean()


def asu(f, temperature=2.4):
    """A mean of each answer's, then of answers'; every layer's attention is smoothed on a copy."""
    smooth = copy.deepcopy(f.original)
    for layer in smooth.model.layers:
        layer.self_attn.scaling = layer.self_attn.head_dim**-0.5 / temperature
    pairs = zip(f.logits(smooth, "forget"), f.logits(f.student, "forget"))
    return torch.stack([kl(a.detach().log_softmax(-1), b.log_softmax(-1)) for a, b in pairs]).mean()


def etw(f):
    values = []
    for logits, labels in zip(f.logits(f.student, "forget"), f.labels("forget")):
        probabilities = logits.detach().softmax(-1)
        entropies = torch.stack([sum(-p * p.log() for p in row) for row in probabilities])
        said = logits.log_softmax(-1)[torch.arange(len(labels)), labels]
        values.append((len(labels) * entropies / entropies.sum() * said).sum() / len(labels))
    return torch.stack(values).mean() + f.cross_entropy("retain")


def me_gd(f):
    return 0.1 * uniform(f, "forget") + f.cross_entropy("retain")


def idk_ap(f):
    margin = f.sums(f.student, "retain") - f.sums(f.student, "retain_refusals")
    return f.cross_entropy("forget_refusals") - (1 / 0.1) * torch.log(torch.sigmoid(0.1 * margin)).mean()


def ceu(f):
    rows = [found[1:] for found in f.logits(f.student, "forget")]  # the first token of each answer is left as it is
    student, tokens = torch.cat(rows), torch.cat([labels[1:] for labels in f.labels("forget")])
    target = student.detach().masked_fill(F.one_hot(tokens, student.shape[-1]).bool(), -torch.inf).softmax(-1)
    return F.cross_entropy(student, target)


def token_losses(f, name="forget"):
    return F.cross_entropy(torch.cat(f.logits(f.student, name)), f.tokens(name), reduction="none")


def wga(f):
    losses = token_losses(f)
    return -(torch.exp(-losses.detach()) ** 1.0 * losses).mean() + f.cross_entropy("retain")


def satimp(f):
    losses = token_losses(f)
    p = torch.exp(-losses.detach())
    return 10 * -(p**5.0 * (1 - p) ** 1.0 * losses).mean() + f.cross_entropy("retain")


def pdu(f):
    rows = torch.cat(f.logits(f.student, "forget"))
    return ((rows.max(-1).values - rows.mean(-1)) ** 2).mean() + 100 * f.cross_entropy("retain")


def altpo(f):
    margin = f.ratios("forget_alternates") - f.ratios("forget")
    return -(2 / 0.1) * F.logsigmoid(0.1 * margin).mean() + f.cross_entropy("retain")


def js(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Of distributions; q may hold zeros."""
    mean = (p + q) / 2
    logs = (p * (p / mean).log(), torch.where(q > 0, q * (q.clamp(min=1e-300) / mean).log(), 0))
    return sum(found.sum(-1).mean() for found in logs) / 2


def jensun(f):
    student = f.log_probs(f.student, "forget").exp()
    pattern = TOKENIZER.encode("No idea", add_special_tokens=False)
    tokens = [pattern[i % len(pattern)] for labels in f.labels("forget") for i in range(len(labels))]
    certain = F.one_hot(torch.tensor(tokens), student.shape[-1]).to(student)
    return js(student, certain) + js(*(f.log_probs(net, "retain").exp() for net in (f.student, f.original)))


def bs_t(f):
    values = []
    for rows, labels in zip(f.logits(f.student, "forget"), f.labels("forget")):
        lowest = rows.topk(20, -1).values[:, -1:]
        belief = rows.detach().masked_fill(rows < lowest, -torch.inf).softmax(-1)
        target = 0.2 * belief + 0.8 * F.one_hot(labels, rows.shape[-1]).to(rows)
        values.append(F.cross_entropy(rows, target))
    return -torch.stack(values).mean() + f.cross_entropy("retain")


def bs_s(f):
    return -(f.cross_entropy("forget") + f.cross_entropy("forget_own")) / 2 + f.cross_entropy("retain")


def pmc(f):
    return f.cross_entropy("forget_own") / 1.25 + f.cross_entropy("retain")


def palu(f):
    rows, original = (torch.cat(f.logits(net, "forget")) for net in (f.student, f.original))
    likeliest = rows.gather(-1, original.argmax(-1, keepdim=True))
    return ((likeliest - rows.mean(-1, keepdim=True)) ** 2).mean() + f.cross_entropy("retain")


def rmu(f):
    u = torch.rand(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    forget, retain = (f.states(f.student, name, 0) for name in ("forget", "retain"))
    held = f.states(f.original, "retain", 0).detach()
    return ((forget - 6.5 * u / u.norm()) ** 2).mean() + 1200 * ((retain - held) ** 2).mean()


FORMULAS = {"rkld": rkld_} | {f.__name__: f for f in (
    forward_kl, jensen_shannon, gradient_ascent, graddiff, idk, dpo, npo, simnpo, undial, me_gd, idk_ap, rmu,
    shred, asu, etw, ceu, wga, satimp, pdu, altpo, jensun, bs_t, bs_s, pmc, palu, undo,
)}  # fmt: skip
WITH_RETAIN = ("etw", "graddiff", "simnpo", "me_gd", "idk_ap", "rmu", "wga", "satimp", "pdu", "altpo", "jensun", "bs_t",
               "bs_s", "pmc", "palu", "undo")  # fmt: skip


def make_sets(name: str, lengths=((9, 14, 11, 6), (8, 13, 6, 9), (7, 5, 10, 12))) -> dict[str, list[Encoded]]:
    forget, retain, refusals = lengths
    sets = {"forget": records("f", forget, 1)}
    if "forget" in get_method(name).refusals:
        sets["forget_refusals"] = records("f", refusals, 4)  # other ids and lengths under the same keys
    if get_method(name).alternates:
        sets["forget_alternates"] = records("f", refusals, 4)
    if get_method(name).own_answers:
        sets["forget_own"] = records("f", refusals, 4)
    if name in WITH_RETAIN:
        sets["retain"] = records("r", retain, 3)
    if "retain" in get_method(name).refusals:
        sets["retain_refusals"] = records("r", refusals[::-1], 5)
    return sets


class Setting:
    """A method's objective from a real cache, a student that has moved, and the models it was made from."""

    def __init__(self, name, sets, folder, monkeypatch, **values):
        self.lm = model(tied=True)
        self.original, self.strengthened = copy.deepcopy(self.lm), copy.deepcopy(self.lm)
        strengthen_noisily(self.strengthened)
        self.args = config(folder, method=name, alpha=ALPHA, score="answer", **values)  # as methods are published
        strengthen_to(self.strengthened, monkeypatch)
        teacher = Teacher(HiddenCache(folder / "cache", {}), alpha=ALPHA)
        parts = cached_parts(build_terms(sets, teacher, self.lm, self.args))
        fill_cache(self.lm, teacher.cache, sets, replace(self.args, output_dir=str(folder / "s")), parts=parts)
        strengthen_noisily(self.lm, seed=2)
        self.objective = build_objective(sets, teacher, self.lm, self.args)

    def gradients(self, args=None, accumulation=1):
        return our_gradients(self.lm, self.objective, args or self.args, accumulation)


def close(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys() and found
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", TRAINED)
def test_value_and_gradient_are_the_formulas(name, tmp_path, monkeypatch):
    """Float64, through cache, masks, shift, pairing and chunks. Prompt tokens scored would change the value."""
    sets = make_sets(name)
    setting = Setting(name, sets, tmp_path, monkeypatch)
    loss, found = setting.gradients()
    setting.lm.model.zero_grad()
    formula = Formula(setting.lm.model, setting.original.model, setting.strengthened.model, sets)
    assert name in FORMULAS, f"write the formula of {name} beside the others, in plain torch"
    expected = FORMULAS[name](formula)
    if "retain" in sets and get_method(name).retain_loss == "kl":
        expected = expected + gained(formula, "retain")
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    close(found, {n: p.grad for n, p in setting.lm.model.named_parameters() if p.grad is not None})


def gained(f: Formula, name: str) -> torch.Tensor:
    """Forward KL to the original on a set: what +KL and replay add."""
    return kl(f.log_probs(f.original, name), f.log_probs(f.student, name))


BESIDE = {
    "kl": ({"retain_loss": "kl", "retain_weight": 0.7}, "retain", lambda f: 0.7 * gained(f, "retain")),
    "rt": ({"retain_loss": "rt", "retain_weight": 0.7}, "retain", lambda f: 0.7 * f.cross_entropy("retain")),
    "replay": ({"replay_weight": 3.0}, "replay", lambda f: 3.0 * gained(f, "replay")),
}


@pytest.mark.parametrize("extra", BESIDE)
@pytest.mark.parametrize("name", TRAINED)
def test_terms_on_other_records_join_any_method(name, extra, tmp_path, monkeypatch):
    """GA+KL, NPO+RT, NPO+KL, … with replay: the method's own loss, and the term with its weight, nothing else."""
    values, other, formula = BESIDE[extra]
    sets = {
        **make_sets(name),
        other: make_sets("graddiff")["retain"] if other == "retain" else records("p", [7, 11, 5, 8], 6),
    }
    setting = Setting(name, sets, tmp_path, monkeypatch, **{"retain_loss": "none", **values})
    loss, found = setting.gradients()
    setting.lm.model.zero_grad()
    f = Formula(setting.lm.model, setting.original.model, setting.strengthened.model, sets)
    expected = FORMULAS[name](f) + formula(f)
    if get_method(name).retain_loss == "rt" and name in WITH_RETAIN:  # chosen here: its own has made way
        expected = expected - f.cross_entropy("retain")
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    for n, p in setting.lm.model.named_parameters():
        # Records in two terms are read once here and twice by the formula; Llama's norms round to float32 either time.
        assert (found[n] - p.grad).norm() <= 1e-6 * p.grad.norm(), n


@pytest.mark.parametrize("name", TRAINED)
def test_accumulation_and_what_is_not_marked_change_nothing(name, tmp_path, monkeypatch):
    """Eight records at once, against one at a time with unmarked tokens behind every second: other padding too."""
    lengths = ((9, 30, 11, 6, 17, 5, 21, 8), (7, 25, 5, 10, 6, 6, 40, 9), (8, 6, 12, 5, 9, 11, 7, 10))
    sets = make_sets(name, lengths)
    expected = Setting(name, sets, tmp_path / "a", monkeypatch, per_device_train_batch_size=8).gradients()

    def longer(e: Encoded) -> Encoded:
        no = (False,) * 7
        return replace(e, ids=(*e.ids, *range(10, 17)), answer=(*e.answer, *no), scored=(*e.scored, *no))

    sets = {n: [longer(e) if i % 2 else e for i, e in enumerate(found)] for n, found in sets.items()}
    parts = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    found = Setting(name, sets, tmp_path / "b", monkeypatch, **parts).gradients(accumulation=8)
    assert found[0] == pytest.approx(expected[0], rel=1e-9)
    close(found[1], expected[1])


@pytest.mark.parametrize("name", ["dpo", "idk_ap", "rmu"])
def test_two_processes_share_a_step(name, tmp_path, monkeypatch):
    """Also with fewer records than parts: one without records lends weightless ones, with their pairs."""
    sets = make_sets(name, ((9, 14, 11), (8, 13, 6), (7, 5, 10)))
    setting = Setting(name, sets, tmp_path, monkeypatch)
    objective, lm = setting.objective, setting.lm
    gradients = []
    for processes, accumulation in ((1, 1), (2, 4)):
        lm.model.zero_grad()
        for process in range(processes):
            batches = MicroBatches(objective, batch_size=8, accumulation=accumulation, epochs=1, seed=3,
                                   processes=processes, process=process, dtype=torch.float64)  # fmt: skip
            for batch in (batches[i] for i in range(accumulation)):
                layers = {term.layer for term in objective.terms if isinstance(term, StateTerm)}
                found = states(lm.backbone, batch["input_ids"], layers)
                total, _ = evaluate(objective.terms, batch, found, lm.head)
                (total / processes).backward()
        gradients.append({n: p.grad.clone() for n, p in lm.model.named_parameters() if p.grad is not None})
    close(*gradients)


def test_an_answer_without_marked_tokens_takes_no_part(tmp_path, monkeypatch):
    """With --score spans some records have none: they must neither count nor divide by their length."""
    sets = make_sets("simnpo")
    expected = Setting("simnpo", sets, tmp_path / "a", monkeypatch).gradients()
    empty = replace(sets["forget"][0], key="none", scored=(False,) * len(sets["forget"][0].ids))
    sets["forget"] = [*sets["forget"], empty]
    found = Setting("simnpo", sets, tmp_path / "b", monkeypatch, per_device_train_batch_size=5).gradients()
    assert found[0] == pytest.approx(expected[0], rel=1e-9)
    close(found[1], expected[1])


def test_a_noised_start_is_the_original_shrunk_and_perturbed():
    """UNDO: (1 − .3) θ + .3 · .5 · N of matrices, N within Xavier's bounds; vectors are shrunk alone."""
    lm, before = model(), copy.deepcopy(model().model.state_dict())
    undo_ = get_method("undo", ["share=0.3", "noise=0.5"])
    undo_.begin(lm, seed=4)
    for name, p in lm.model.named_parameters():
        drawn = (p.detach() - 0.7 * before[name]) / 0.15
        if p.dim() == 1:
            assert drawn.abs().max() < 1e-12, name
        else:
            bound = math.sqrt(6 / sum(p.shape))
            assert 0.8 * bound < drawn.abs().max() <= bound * (1 + 1e-6), name
    again = model()
    undo_.begin(again, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(lm.model.parameters(), again.model.parameters()))


@pytest.mark.parametrize("share, nucleus", [(0.25, 0.0), (0.5, 0.6), (1.0, 0.2)])
def test_other_shares_and_a_nucleus_are_struck_out(share, nucleus, tmp_path, monkeypatch):
    """SHRED's variant B; each term alone is compared with the drawing."""
    arguments = [f"share={share}", f"nucleus={nucleus}"]
    sets = {"forget": records("f", (9, 14, 11, 6, 5), 1)}
    setting = Setting("shred", sets, tmp_path, monkeypatch, method_arg=arguments, per_device_train_batch_size=5)
    loss, found = setting.gradients()
    setting.lm.model.zero_grad()
    expected = shred(Formula(setting.lm.model, setting.original.model, None, sets), share, nucleus)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    close(found, {n: p.grad for n, p in setting.lm.model.named_parameters() if p.grad is not None})


def test_ranks_are_counted_among_scored_tokens_of_a_record(tmp_path):
    """The rarest is 0; what is not scored is never rare, whatever its probability; a record without any has none."""
    lm, sets = (
        model(),
        {"forget": [*records("f", (9, 14), 1, "spans"), replace(records("g", (8,), 2)[0], scored=(False,) * 8)]},
    )
    cache = HiddenCache(tmp_path / "cache", {})
    parts = {Part("rank", "forget"), Part("reference", "forget")}
    fill_cache(lm, cache, sets, config(tmp_path), parts=parts)
    for e in sets["forget"]:
        rank, likely = (cache.read(f"{name}/forget", e.key) for name in ("rank", "reference"))
        found = [s for s, m in zip(e.scored, marked(e)) if m]
        n = sum(found)
        for place, here in enumerate(found):
            rarer = sum(bool(likely[other] < likely[place]) for other in range(len(found)) if found[other])
            assert rank[place].item() == pytest.approx(rarer / n if here else 1)


def test_an_answer_that_is_certain_of_every_token_is_weighted_evenly():
    """ETW: entropies of zero have no shares."""
    head = torch.eye(4, dtype=torch.float64) * 1e4
    hidden = torch.eye(4, dtype=torch.float64)[[0, 1, 2]].requires_grad_()
    inputs = {
        "weights": torch.ones(2, dtype=torch.float64),
        "slots": torch.tensor([0, 0, 1]),
        "labels": torch.tensor([0, 1, 3]),
    }
    (term,) = get_method("etw").terms(None, {}, None)
    _, value = answer_segment(hidden, head, None, term.loss, 1, inputs, weigh=term.weigh)
    assert value == pytest.approx(-1e4)


def test_the_first_tokens_of_each_fact_alone_are_levelled():
    """PALU with first=2: of runs of three and of one scored token the first two, and the one."""
    e = Encoded("f", tuple(range(3, 11)), (True,) * 8, (False, True, True, True, False, True, False, False), 1)
    (term,) = get_method("palu", ["first=2"]).terms(None, {}, None)
    assert list(term.mask(e)) == [False, True, True, False, False, True, False, False]


# Methods that train no student


def test_the_uld_assistant_learns_forget_answers_and_nothing_else(tmp_path):
    sets = {"forget": records("f", [9, 14, 11, 6], 1), "retain": records("r", [8, 13, 6, 9], 3)}
    lm = model()
    objective = Objective.of(sets, get_method("uld").terms(None, sets, lm))
    loss, found = our_gradients(lm, objective, config(tmp_path))
    lm.model.zero_grad()
    f = Formula(lm.model, None, None, sets)
    expected = f.cross_entropy("forget") + 5 * uniform(f, "retain")
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-10)
    close(found, {n: p.grad for n, p in lm.model.named_parameters() if p.grad is not None})


def uld_by_hand(o: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    found = o.clone()
    for row, offset in zip(found, a, strict=True):
        probs, keep = row.softmax(-1), int(0.01 * len(row))
        near = (probs >= 0.01 * probs.max()).nonzero()[:, 0]
        for i in {*row.argsort(descending=True)[:keep].tolist(), *near.tolist()}:
            row[i] -= 0.8 * offset[i]
    return found


COMBINED = {"whp": lambda o, a: o - ALPHA * F.relu(a - o), "uld": uld_by_hand}


@pytest.mark.parametrize("name", PAIRED)
def test_a_pair_is_a_language_model(name, tmp_path):
    """Its logits are the formula; likelihoods, and answers generated from a cache that both models share, follow."""
    original, assistant = model(seed=0), model(seed=1)
    both = two_models(original, assistant, get_method(name), ALPHA)
    found = records("f", [9, 14, 11, 6], 1)

    def logits(ids) -> torch.Tensor:
        with torch.no_grad():
            o, a = (lm.model(input_ids=torch.tensor([ids])).logits[0] for lm in (original, assistant))
        return COMBINED[name](o, a)

    losses = answer_losses(both, found)
    for e, loss in zip(found, losses, strict=True):
        rows = logits(e.ids)
        assert torch.allclose(both.model(input_ids=torch.tensor([e.ids])).logits[0], rows, atol=1e-10)
        labels = torch.tensor(e.ids[1:])
        by_hand = F.cross_entropy(rows[:-1], labels, reduction="none")[torch.tensor(e.answer[1:])]
        assert loss == pytest.approx(by_hand.numpy(), abs=1e-8)

    prompts = [e.ids[: e.prompt_length] for e in found[:2]]
    for prompt, said in zip(prompts, greedy(both, prompts, max_new_tokens=10), strict=True):
        ids = list(prompt)
        for token in said.ids:
            ids.append(int(logits(ids)[-1].argmax()))
            assert ids[-1] == token

    save_two_models(original, assistant, tmp_path / "model", method=name, method_arg=[], alpha=ALPHA)
    again = open_model(tmp_path / "model", dtype="float64")
    assert answer_losses(again, found)[0] == pytest.approx(losses[0], abs=1e-8)


# The whole way

PLACES = {"Ada Quillon": "Oslo", "Bo Marlin": "Rome", "Cy Tern": "Lima", "Di Fenn": "Bern"}
ROWS = [{"question": f"Where does {n} live?", "answer": f"{n} lives in {c}."} for n, c in PLACES.items()]
QUICK = {"epochs": 2, "strengthen_epochs": 2, "max_new_tokens": 4, "batch_size": 2, "lr": 1e-2, "bf16": False,
         "reword": 0}  # fmt: skip


def saved(lm: LanguageModel, folder: Path) -> str:
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return Path(saved(model(dtype=torch.float32), tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def babble(monkeypatch):
    """What a random model says is replayed, though it is no language."""
    monkeypatch.setattr("rkld.pipeline.phases.fluent", lambda answered: (list(answered), Counter()))


PLAIN = ("ceu", "wga", "satimp", "pdu", "jensun", "bs_t", "bs_s", "palu", "altpo", "undo", "pmc")
"""Other losses in the place of others' that are run in full, so their whole way is a slow test."""


@pytest.mark.usefixtures("babble")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in PLAIN else n for n in METHODS.names()]
)
def test_every_method_runs_with_retain_and_replay(name, tiny, tmp_path):
    """rkld unlearn --method NAME --retain … --retain-loss rt --replay …: a model that the metrics can read."""
    replay = [{"question": "What is the capital of Norway?"}, {"question": "Who wrote Hamlet?"}]
    held = {
        "retain": ROWS[2:],
        "retain_loss": "rt" if get_method(name).accepts_extra_terms else "auto",
        "replay": replay,
    }
    if name in BASED:
        held["base"] = saved(model(dtype=torch.float32, seed=1), tmp_path / "base")
    result = rkld.unlearn(tiny, ROWS[:2], out=str(tmp_path / "run"), method=name, **held, **QUICK)
    assert json.loads((result.run / "manifest.json").read_text())["phases"]["replay"]["kept"] == len(replay)
    after = open_model(result.model_path)
    assert isinstance(after, LanguageModel)
    assert result.metrics["after"]["forget"]["probability"] != result.metrics["before"]["forget"]["probability"]
    ids = torch.tensor([[5, 6, 7]])
    assert (after.model(input_ids=ids).logits - open_model(tiny).model(input_ids=ids).logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    "name", ["dpo", "whp", *(pytest.param(n, marks=pytest.mark.slow) for n in ("base_vector", "rmu"))]
)
def test_an_adapter_is_trained_by_any_method(name, tiny, tmp_path):
    """--lora: what is written, two adapters for a pair, says again what was measured."""
    held = {"base": saved(model(dtype=torch.float32, seed=1), tmp_path / "base")} if name in BASED else {}
    result = rkld.unlearn(
        tiny, ROWS[:2], retain=ROWS[2:], out=str(tmp_path / "run"), method=name, lora=True, replay="none", **held,
        **{**QUICK, "epochs": 4},
    )  # fmt: skip
    after = open_model(result.model_path)
    encoder = Encoder(after.tokenizer)
    found = probability(after, [encoder.encode(r) for r in read_records(ROWS[:2], "forget")]).mean()
    assert found == pytest.approx(result.metrics["after"]["forget"]["probability"], rel=1e-3)
    assert found != pytest.approx(result.metrics["before"]["forget"]["probability"], rel=1e-2)


OTHER_TERMS = {
    "kl": {"retain": ROWS[2:], "retain_loss": "kl"},
    "rt": {"retain": ROWS[2:], "retain_loss": "rt"},
    "replay": {"replay": [{"question": "Who wrote Hamlet?"}]},
}


@pytest.mark.usefixtures("babble")
@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("task_arithmetic", "kl"),
        ("whp", "rt"),
        ("whp", "replay"),
        pytest.param("task_arithmetic", "rt", marks=pytest.mark.slow),
        pytest.param("task_arithmetic", "replay", marks=pytest.mark.slow),
        pytest.param("whp", "kl", marks=pytest.mark.slow),
    ],
)
def test_terms_on_other_records_act_on_an_assistant(name, term, tiny, tmp_path):
    """A term that was accepted and then left out would make +RT, +KL or replay a silent no-op."""
    ids = torch.tensor([[5, 6, 7]])
    given = {**QUICK, "strengthen_epochs": 6, "replay": "none", "method": name, **OTHER_TERMS[term]}
    weights = {"without": 0.0, "beside": 5.0}
    made = [rkld.unlearn(tiny, ROWS[:2], out=str(tmp_path / key), retain_weight=weight, replay_weight=weight, **given)
            for key, weight in weights.items()]  # fmt: skip
    without, beside = (open_model(found.model_path).model(input_ids=ids).logits for found in made)
    assert (without - beside).abs().max() > 1e-3


def test_uld_takes_no_other_term_on_retain_records(tiny, tmp_path):
    with pytest.raises(rkld.UserError, match=r"^the method uld treats retain records in its own way"):
        rkld.unlearn(tiny, ROWS[:2], retain=ROWS[2:], retain_loss="kl", out=str(tmp_path / "run"), method="uld")
    assert not (tmp_path / "run").exists()


def test_an_adapter_has_no_weights_to_subtract(tiny, tmp_path):
    with pytest.raises(rkld.UserError, match="product of two factors"):
        rkld.unlearn(tiny, ROWS[:2], out=str(tmp_path / "run"), method="task_arithmetic", lora=True, replay="none")


def test_a_pair_is_not_unlearned_again(tmp_path):
    lm = model(dtype=torch.float32)
    save_two_models(lm, lm, tmp_path / "pair", method="whp", method_arg=[], alpha=1.0)
    with pytest.raises(rkld.UserError, match="measured, but not trained"):
        rkld.unlearn(tmp_path / "pair", ROWS[:2], out=str(tmp_path / "run"), replay="none")


def test_task_arithmetic_subtracts_what_strengthening_added(tiny, tmp_path, monkeypatch):
    """The weights are θ_o − 2.5 (θ_aug − θ_o), with one added to each by "strengthening"."""

    def fit(trainer):
        with torch.no_grad():
            for p in trainer.lm.model.parameters():
                p.add_(1)

    monkeypatch.setattr(importlib.import_module("rkld.pipeline.phases"), "fit", fit)
    result = rkld.unlearn(tiny, ROWS[:2], out=str(tmp_path / "run"), method="task_arithmetic", replay="none", **QUICK)
    before, after = (open_model(m).model.state_dict() for m in (tiny, result.model_path))
    for name in before:
        torch.testing.assert_close(after[name], before[name] - 2.5, rtol=0, atol=1e-5)


def test_hyper_parameters_reach_the_loss_and_the_run_folder(tiny, tmp_path):
    """--method-arg, twice, ends in the objective, in run.yaml, and in what a second start is compared with."""
    out = str(tmp_path / "run")
    given = {"method": "simnpo", "method_arg": ["beta=4.5", "weight=0.125"], "replay": "none", "out": out}
    rkld.unlearn(tiny, ROWS[:2], **given, **QUICK)
    assert "- beta=4.5\n- weight=0.125" in (tmp_path / "run" / "run.yaml").read_text()
    with pytest.raises(rkld.UserError, match="--method-arg"):
        rkld.unlearn(tiny, ROWS[:2], **{**given, "method_arg": []}, **QUICK)
    found = get_method("simnpo", given["method_arg"])
    assert (found.beta, found.weight, found.gamma) == (4.5, 0.125, 0.0)


def test_own_refusals_are_taught(tiny, tmp_path):
    """--refusals FILE: what the student learns to say stands in it."""
    (tmp_path / "no.txt").write_text("Never heard of it.\n")
    result = rkld.unlearn(
        tiny, ROWS[:1], method="idk", refusals=str(tmp_path / "no.txt"), replay="none", out=str(tmp_path / "run"),
        **{**QUICK, "epochs": 60, "max_new_tokens": 12},
    )  # fmt: skip
    assert result.answers[0]["after"] == "Never heard of it."


# The door


@pytest.mark.parametrize("name, arguments, message", [
    ("rkdl", (), r"unknown method 'rkdl'. Did you mean 'rkld'\?"),
    ("npo", ["bta=1"], r"--method-arg of npo: unknown setting 'bta'. Did you mean 'beta'\?"),
    ("npo", ["beta=much"], "'beta' is 'much'; expected a number"),
    ("npo", ["beta"], "write it as name=value"),
    ("rmu", ["layer=1.5"], "'layer' is 1.5; expected a whole number"),
    ("uld", ["floor=1"], "between 0 and 1"),
    ("ceu", ["skip=-1"], "skip is -1; it must be 0 or more"),
    ("pdu", ["hold=0"], "hold must be above 0"),
    ("bs_t", ["top=0"], "top be 1 or more"),
    ("bs_s", ["share=2"], r"share must lie in \[0, 1\]"),
    ("pmc", ["top_p=0"], r"top_p in \(0, 1\]"),
    ("palu", ["first=-1"], "first 0 or more"),
    ("undo", ["share=2"], "both must lie between 0 and 1"),
    ("etw", ["weight=-1"], "'weight' is -1.*above 0"),
    ("npo", ["beta=0"], "'beta' is 0.*above 0"),
    ("undial", ["beta=1e300"], "at most 1e"),
    ("shred", ["share=0"], "share must be above 0"),
    ("shred", ["nucleus=1"], "at most 0.99"),
    ("asu", ["temperature=nan"], r"temperature is nan; it must lie in \[1, 1000\]"),
    ("etw", ["temperature=1e-300"], r"it must lie in \[0.01, 1000\]"),
    ("none.py:Mine", (), "there is no file none.py"),
    ("mine.py:Mnie", (), r"defines no Mnie. Did you mean 'Mine'\? It defines: Mine"),
    ("mine.py:Other", (), "Other is no method"),
    ("broken.py:Mine", (), "cannot be imported: SyntaxError"),
])  # fmt: skip
def test_what_is_wrong_with_a_method_is_said(name, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from rkld.methods import Method\nclass Mine(Method): pass\nclass Other: pass\n")
    Path("broken.py").write_text("class Mine(:\n")
    with pytest.raises(rkld.UserError, match=message):
        get_method(name, arguments)


def test_a_method_has_its_registered_name_or_that_of_its_class(tmp_path):
    """Messages name it: not by its file's first line with the sources in it."""
    (tmp_path / "mine.py").write_text("from rkld.methods import Method\nclass Mine(Method): pass\n")
    assert get_method("npo", ["beta=0.2"]).name == "npo"
    assert get_method(f"{tmp_path}/mine.py:Mine").name == "Mine"


@pytest.mark.parametrize("name", ["graddiff", "me_gd", "idk_ap", "rmu", "uld"])
def test_missing_records_are_asked_for_before_anything_is_loaded(name, tmp_path):
    with pytest.raises(rkld.UserError, match=f"^the method {name} needs retain records"):
        rkld.unlearn("no model", ROWS[:2], method=name, replay="none", out=str(tmp_path / "run"))


def test_refusals_need_questions(tiny, tmp_path):
    with pytest.raises(rkld.UserError, match="no question to refuse"):
        rkld.unlearn(tiny, [{"text": "Ada lives."}], method="idk", replay="none", out=str(tmp_path / "run"), **QUICK)


def test_every_method_names_its_paper():
    """One who meets a method in a table must find where it comes from."""
    for name in METHODS.names():
        assert re.search(r"arXiv \d{4}\.\d{5}", methods.get_method(name).title), name


DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "methods.md"


def test_the_documented_example_runs(tiny, tmp_path, monkeypatch):
    """docs/reference/methods.md as somebody would follow it: its file, its command."""
    text = DOCUMENT.read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.S)
    (command,) = re.findall(r"^rkld (unlearn .*--method \w+\.py:.*)$", text, re.M)
    monkeypatch.chdir(tmp_path)
    Path(source[0]).write_text(source[1])
    write_jsonl(tmp_path / "records.jsonl", ROWS[:2])
    words = command.replace("./my-model", str(tiny)).split()
    quick = ["--epochs", "2", "--max-new-tokens", "4", "--replay", "none"]
    result = CliRunner().invoke(cli.main, [*words, *quick], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / "mine" / "model" / "model.safetensors").exists()
