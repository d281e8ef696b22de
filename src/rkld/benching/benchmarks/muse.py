"""MUSE: forget news articles or books, and everything they taught (Shi et al. 2024, arXiv 2407.06460).

Figures, as the authors' code has them: *VerbMem*, ROUGE-L F1 (no stemming) of 128 greedy tokens behind a passage's
beginning; *KnowMem*, the same of 32 tokens behind ten answered questions, on what is forgotten and on what is kept;
*PrivLeak*, how far the AUC of Min-40% (forget against never-seen text) is from the retrained model's, in percent.
*Scalability* is the same on larger sets to forget (``--splits scal_2,scal_3,scal_4``), *sustainability* on sets that
are forgotten one after another, each from the model that the last one left (``--splits sust_1,sust_2,sust_3,sust_4``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rkld.benching.benchmark import Benchmark, Evaluator, Measured, Task, Workload, weights_bytes
from rkld.benching.cells import Cell
from rkld.benching.fine_tuned import learn
from rkld.benching.published import data_identity, fields_of, need_folder, texts_of
from rkld.benching.registry import BENCHMARKS
from rkld.benching.tables import Table
from rkld.benching.variants import Variant
from rkld.errors import Diverged, UserError
from rkld.evaluation.generation import greedy
from rkld.evaluation.likelihood import answer_losses
from rkld.evaluation.membership import auc, min_k_scores, priv_leak
from rkld.methods import LogitArithmetic
from rkld.models.language_model import LanguageModel
from rkld.progress import NoProgress
from rkld.records.chunking import all_chunks
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records
from rkld.settings.benching import BenchSettings, listed
from rkld.settings.specification import setting
from rkld.settings.table import of

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from transformers import PreTrainedTokenizerBase

FOLDS = {kind: {f"{kind}_{n}": f"{kind}/forget_{n}" for n in (1, 2, 3, 4)} for kind in ("scal", "sust")}

SPLITS = {"forget": "raw/forget", **FOLDS["scal"], **FOLDS["sust"]}
"""Split → the part of the data that is forgotten; scal_1 and sust_1 are the same as forget."""

SUSTAINED = list(FOLDS["sust"])
"""Splits that are forgotten one after another."""

QUESTIONS = ("knowmem/forget_qa", "knowmem/forget_qa_icl", "knowmem/retain_qa", "knowmem/retain_qa_icl")

PARTS = ("raw/retain1", "raw/retain2", "verbmem/forget", "privleak/forget", "privleak/holdout", *QUESTIONS)
"""What every split needs besides."""

VERBMEM_TOKENS, KNOWMEM_TOKENS = 128, 32
"""New tokens of a continuation and of an answer."""

ENDS = ("\n\n", "\nQuestion", "Question:")
"""Where an answer has ended, whatever the model goes on with."""

MIN_K = 0.4

_NOTES = """\
- VerbMem, KnowMem: ROUGE-L F1 without stemming, times 100; of the forget set the retrained model's is the aim. KnowMem
  of the retain set is the utility: higher is better.
- PrivLeak: 100 · (AUC − AUC of the retrained) / AUC of the retrained, AUC as MUSE counts it (the chance that never-seen
  text looks more like a member than what is to be forgotten). 0 is best, below 0 it still remembers, above it
  over-forgot. Empty where the retrained model's AUC is 0. The column privleak_auc is 1 less that AUC: the chance that
  what is to be forgotten looks more like a member.
- one seed; every figure is of the run's end. scal_2 to scal_4 are larger sets; sust_2 to sust_4 are each
  forgotten by the model that the same method has made of the one before."""


@dataclass(frozen=True)
class MuseSettings(BenchSettings):
    """Which methods forget MUSE's texts, and how. Units stand beside each setting; defaults are the paper's, for 7B."""

    data: str = setting(
        "", "A local folder of MUSE-News or MUSE-Books, as on the hub. Needed.", metavar="FOLDER", affects="figures"
    )
    splits: str = setting(
        "forget",
        f"Comma-separated, of {', '.join(SPLITS)} (scal, sust: News alone).",
        metavar="NAME,…",
        affects="nothing",
    )
    original: str | None = of("original", help="The target model (muse-bench/MUSE-News_target); {split} is filled in.")
    retrained: str | None = setting(
        None,
        "The retrained model (muse-bench/MUSE-News_retrain); {split} is filled in.",
        metavar="MODEL",
        affects="figures",
    )
    model: str | None = of(
        "model",
        default=None,
        help="Else: what is fine-tuned to the original and the retrained models.",
        affects="figures",
    )
    chunk_tokens: int = setting(
        2048, "Texts are cut to chunks of so many tokens, start token and all (paper: 2048).", low=16, affects="figures"
    )
    measured: int | None = setting(
        None, "At most so many are measured of each set. Default: all (100 each).", low=1, affects="figures"
    )
    train_epochs: int = setting(10, "Passes when original and retrained are made.", low=1, affects="figures")
    train_lr: float = setting(
        1e-5, "Their peak learning rate (SmolLM2: 2e-4).", low=0, high=1, exclusive="low", affects="figures"
    )
    train_batch: int = setting(32, "Their chunks per step.", low=1, affects="figures")
    out: str = of("out", default="runs/bench_muse", help="Folder of models, cells and tables.")
    replay: str = of("replay", help="The prompts of +replay: auto, or a file of them.", metavar="auto|DATA")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.split_names or set(self.split_names) - set(SPLITS):
            raise UserError(f"--splits is '{self.splits}': give some of {', '.join(SPLITS)}.")
        for before, split in pairwise(SUSTAINED):
            if split in self.split_names and before not in self.split_names:
                raise UserError(f"--splits has {split}, which goes on from {before}: give that, too.")
        if not (self.model or (self.original and self.retrained)):
            raise UserError("no model: give --original and --retrained, or --model to make them from.")

    @property
    def split_names(self) -> list[str]:
        return listed(self.splits)


@BENCHMARKS.register("muse")
class Muse(Benchmark):
    """Forget MUSE's news or books, chunk by chunk, by every method."""

    settings: MuseSettings
    settings_class = MuseSettings
    examples = (
        "rkld bench muse --data ./MUSE-News --original muse-bench/MUSE-News_target "
        "--retrained muse-bench/MUSE-News_retrain --methods rkld,npo+kl --plan",
        "rkld bench muse --data ./MUSE-News --original muse-bench/MUSE-News_target "
        "--retrained muse-bench/MUSE-News_retrain --splits sust_1,sust_2,sust_3,sust_4 --methods rkld+replay",
        "rkld bench muse --data ./MUSE-Books --model smollm2-135m --chunk-tokens 512 --train-lr 2e-4",
    )
    references = ("retrained", "original")
    table = Table(
        figures=("verbmem", "knowmem_forget", "knowmem_retain", "privleak_auc", "privleak"),
        every_epoch=(),
        titles={
            "verbmem": "VerbMem",
            "knowmem_forget": "KnowMem, forget",
            "privleak": "PrivLeak",
            "knowmem_retain": "KnowMem, retain",
        },
        notes=_NOTES,
        n="passages to recite",
        forgotten=("knowmem_forget",),
        utility=("knowmem_retain",),
        remaining="knowmem_forget",
    )
    files = Benchmark.files | {"replay"}

    def check(self) -> None:
        """Refuse a folder that lacks a part of MUSE, and rows that are none of it."""
        need_folder(self.settings.data, self._parts(), "MUSE, such as MUSE-News")
        assert self.questions.passages  # read, once, before anything is made
        super().check()

    def splits(self) -> list[str]:
        return self.settings.split_names

    def comes_after(self, split: str) -> str | None:
        return {after: before for before, after in pairwise(SUSTAINED)}.get(split)

    def refusal(self, variant: Variant) -> str | None:
        method = variant.make()
        if method.asks:
            return "it teaches other answers, and a text has no question to answer."
        if isinstance(method, LogitArithmetic) and any(map(self.comes_after, self.splits())):
            return "it leaves two models, from which no other set can be forgotten."
        return None

    # Data

    @staticmethod
    def _learned(split: str) -> tuple[str, ...]:
        """What the original knows of what is to be forgotten: of sets that come one after another all."""
        return tuple(SPLITS[one] for one in (SUSTAINED if split in SUSTAINED else (split,)))

    def _parts(self, split: str | None = None) -> tuple[str, ...]:
        """Of the data: what one split needs, or all of them do."""
        splits = self.splits() if split is None else [split]
        return (*dict.fromkeys(part for one in splits for part in self._learned(one)), *PARTS)

    def _texts(self, part: str) -> list[str]:
        """What is learned or forgotten; one of MUSE-News' 889 articles is blank."""
        return texts_of(f"{self.settings.data}:{part}", part, blank=True)

    @cached_property
    def questions(self) -> Questions:
        """What models are asked, whatever was forgotten. UserError where a row is none of MUSE's."""
        data, most = self.settings.data, self.settings.measured
        passages = fields_of(f"{data}:verbmem/forget", "verbmem", ("prompt", "gt"))[:most]
        asked = {}
        for name in ("forget", "retain"):
            shown, rows = (
                fields_of(f"{data}:knowmem/{name}_qa{end}", "knowmem", ("question", "answer")) for end in ("_icl", "")
            )
            asked[name] = [(knowmem_prompt(shown, row["question"]), row["answer"]) for row in rows[:most]]
        members = {name: texts_of(f"{data}:privleak/{name}", "privleak")[:most] for name in ("forget", "holdout")}
        return Questions([(row["prompt"], row["gt"]) for row in passages], asked, members)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """By which texts are cut: the original's."""
        return self.tokenizer_of(self.given_model("original", self.splits()[0], 0) or str(self.settings.model))

    @cached_property
    def _cut(self) -> dict[str, list[dict[str, str]]]:
        """Part → its chunks, of those that were asked for: every cell asks."""
        return {}

    def _chunks(self, part: str) -> list[dict[str, str]]:
        """All texts of a part behind one another, cut; as records."""
        if part not in self._cut:
            size = self.settings.chunk_tokens - self.tokenizer.num_special_tokens_to_add()
            text = "\n\n".join(self._texts(part))
            self._cut[part] = [{"text": chunk} for chunk in all_chunks(text, self.tokenizer, size)]
        return self._cut[part]

    def task(self, split: str, seed: int) -> Task:
        return Task(self._chunks(SPLITS[split]), {}, self._chunks("raw/retain1"), self.settings.replay)

    def setting_identity(self, name: str, cell: Cell) -> Any:
        if name != "data":
            return super().setting_identity(name, cell)
        return data_identity(self.settings.data, self._parts(cell.split))

    # Models

    def given_model(self, role: str, split: str, seed: int) -> str | None:
        given: str | None = getattr(self.settings, role)
        return given and given.replace("{split}", split)

    def model_place(self, role: str, split: str, seed: int) -> str:
        return SUSTAINED[0] if split in SUSTAINED else split  # one pair of models for all of them

    def model_identity(self, role: str, split: str, seed: int) -> dict[str, Any]:
        names = ("data", "model", "chunk_tokens", "train_epochs", "train_lr", "train_batch", "bf16")
        cell = Cell(split, seed, role)
        return {"benchmark": self.name, **{name: self.setting_identity(name, cell) for name in names}}

    def train_model(self, role: str, split: str, seed: int, folder: Path, progress: NoProgress) -> LanguageModel:
        """Both learn both retain sets; the original also what is to be forgotten."""
        parts = ("raw/retain1", "raw/retain2", *(self._learned(split) if role == "original" else ()))
        return learn(
            self.settings,
            read_records([row for part in parts for row in self._chunks(part)], "training"),
            folder,
            encoder=lambda lm: Encoder(lm.tokenizer, context_length=lm.context_length),
            title=role,
            progress=progress,
        )

    # Measuring

    def evaluator(
        self, cell: Cell, task: Task, encoder: Encoder, references: Mapping[str, Mapping[str, Any]]
    ) -> MuseEvaluator:
        retrained = references.get("retrained", {}).get("privleak_auc")
        return MuseEvaluator(self.questions, encoder, retrained, is_reference=cell.name == "retrained")

    def workload(self) -> Workload:
        s, size = self.settings, self.settings.chunk_tokens
        parts = (SPLITS[self.splits()[0]], "raw/retain1", "raw/retain2")
        forget, *retain = (max(1, sum(map(len, self._texts(part))) // (4 * size)) for part in parts)
        return Workload(
            forget,
            answers=5 * (s.measured or 100),
            tokens=size,
            model_bytes=weights_bytes(s.original, s.model),
            training_records=(forget + sum(retain)) * s.train_epochs,
        )


@dataclass(frozen=True)
class Questions:
    """What is measured. Holds the texts."""

    passages: Sequence[tuple[str, str]]
    """Beginning, and how it goes on."""
    asked: Mapping[str, Sequence[tuple[str, str]]]
    """Set → prompts with their answers."""
    members: Mapping[str, Sequence[str]]
    """"forget" and "holdout" → texts."""


class MuseEvaluator(Evaluator):
    """MUSE's four figures of any model."""

    def __init__(self, questions: Questions, encoder: Encoder, retrained_auc: float | None, *, is_reference: bool):
        """
        Args:
            retrained_auc: the retrained model's ``privleak_auc``; None where it is not known.
            is_reference: whether the model to be measured is that one.
        """
        self.questions, self.tokenizer = questions, encoder.tokenizer
        self.retrained_auc, self.is_reference = retrained_auc, is_reference
        self.passages = self._prompts([prompt for prompt, _ in questions.passages], "verbmem/forget", encoder)
        self.prompts = {
            name: self._prompts([prompt for prompt, _ in asked], f"knowmem/{name}_qa", encoder)
            for name, asked in questions.asked.items()
        }
        cut = Encoder(encoder.tokenizer, max_length=encoder.context_length)
        self.members = {
            name: [
                cut.encode(record) for record in read_records([{"text": text} for text in texts], f"privleak {name}")
            ]
            for name, texts in questions.members.items()
        }

    def __call__(self, lm: LanguageModel, progress: NoProgress) -> Measured:
        value = self._auc(lm)
        retrained = value if self.is_reference else self.retrained_auc
        figures: dict[str, float | int | None] = {"n": len(self.questions.passages), "privleak_auc": value}
        # MUSE divides by 1 − AUC as it is counted here.
        figures["privleak"] = priv_leak(value, retrained) if retrained is not None and retrained < 1 else None
        figures["verbmem"] = self._verbmem(lm, progress)
        for name in self.questions.asked:
            figures[f"knowmem_{name}"] = self._knowmem(lm, name, progress)
        return Measured(figures, compared_with={"privleak_auc": value} if self.is_reference else {})

    def _auc(self, lm: LanguageModel) -> float:
        losses = {name: answer_losses(lm, encoded) for name, encoded in self.members.items()}
        if any(bool((one != one).any()) for some in losses.values() for one in some):
            raise Diverged("the likelihoods of the texts are no numbers")
        scores = {name: min_k_scores([-one for one in some], MIN_K) for name, some in losses.items()}
        return auc(scores["forget"], scores["holdout"])

    def _prompts(self, texts: Sequence[str], part: str, encoder: Encoder) -> list[list[int]]:
        """The ids of plain texts with the start token, without a chat template. UserError where one is too long."""
        found = [self.tokenizer(text, verbose=False).input_ids for text in texts]
        room = encoder.context_length
        for number, ids in enumerate(found, 1):
            if room is not None and len(ids) >= room:
                raise UserError(
                    f"{part} record {number} is asked with {len(ids)} tokens, and the model reads {room}: give a model "
                    "with a longer context, or take the record out."
                )
        return found

    def _verbmem(self, lm: LanguageModel, progress: NoProgress) -> float:
        gold = (self.tokenizer(text, verbose=False).input_ids[:VERBMEM_TOKENS] for _, text in self.questions.passages)
        said = self._said(lm, self.passages, VERBMEM_TOKENS, "passages", progress)
        return 100 * fmean(map(rouge_l, said, map(self._text, gold)))

    def _knowmem(self, lm: LanguageModel, name: str, progress: NoProgress) -> float:
        said = self._said(lm, self.prompts[name], KNOWMEM_TOKENS, f"{name}: questions", progress)
        gold = [answer for _, answer in self.questions.asked[name]]
        return 100 * fmean(map(rouge_l, map(first_answer, said), gold))

    def _said(
        self, lm: LanguageModel, prompts: Sequence[Sequence[int]], most: int, title: str, progress: NoProgress
    ) -> list[str]:
        """Greedy continuations."""
        with progress.bar(title, len(prompts)) as advance:
            found = greedy(lm, prompts, max_new_tokens=most, progress=advance)
        return [self._text(one.ids) for one in found]

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text


def knowmem_prompt(shown: Sequence[Mapping[str, str]], question: str) -> str:
    """Answered questions, then the one that is asked."""
    before = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in shown)
    return f"{before}Question: {question}\nAnswer: "


def first_answer(text: str) -> str:
    """What stands before the next paragraph or question."""
    for end in ENDS:
        text = text.partition(end)[0]
    return text


def rouge_l(said: str, gold: str) -> float:
    """ROUGE-L F1 of rouge-score on Latin letters and digits, without stemming: 0 to 1."""
    return float(_scorer().score(gold, said)["rougeL"].fmeasure)


@cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)
