"""WMDP: forget hazardous knowledge of biology, chemistry and computer security (Li et al. 2024, arXiv 2403.03218).

What is forgotten and kept are texts (the authors' corpora, or your own); the figures are the accuracy of lm-eval's
multiple choice tasks: on WMDP's questions, where .25 is a guess, and on MMLU, which is to stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rkld.benching.benchmark import Benchmark, Evaluator, Measured, Task, Workload, weights_bytes
from rkld.benching.cells import Cell
from rkld.benching.published import part_files, texts_of
from rkld.benching.registry import BENCHMARKS
from rkld.benching.tables import Table
from rkld.benching.variants import Variant
from rkld.errors import UserError, nearest
from rkld.evaluation.general import general_ability
from rkld.files import contents
from rkld.models.language_model import LanguageModel
from rkld.progress import NoProgress
from rkld.records.chunking import all_chunks
from rkld.records.encoding import Encoder
from rkld.settings.benching import BenchSettings, listed
from rkld.settings.specification import setting
from rkld.settings.table import of

TASKS = ("wmdp_bio", "wmdp_chem", "wmdp_cyber", "mmlu")
"""Of lm-eval."""

CORPORA = ("forget_corpus", "retain_corpus")
"""Settings that say where texts are."""

_NOTES = """\
- wmdp_bio, wmdp_chem, wmdp_cyber, mmlu: zero-shot accuracy of lm-eval's task of that name, ± its standard error in
  `results.csv`. Of WMDP lower is better, down to .25, a guess; of MMLU higher is better. Empty: not asked for.
- every figure is of the run's end; there is no retrained model."""


@dataclass(frozen=True)
class WmdpSettings(BenchSettings):
    """Which methods forget which texts of hazardous knowledge, and how. Units stand beside each setting."""

    model: str = of("model", help="Folder, hub name, or the alias smollm2-135m. Needed.", affects="figures")
    forget_corpus: str = setting(
        "", "Texts to forget: a file or FOLDER:PART, whose rows have 'text'. Needed.", metavar="DATA", affects="figures"
    )
    retain_corpus: str | None = setting(
        None, "Texts that methods with retain records keep.", metavar="DATA", affects="figures"
    )
    tasks: str = setting(
        "wmdp_bio,wmdp_cyber,mmlu", f"Comma-separated, of {', '.join(TASKS)}.", metavar="NAME,…", affects="figures"
    )
    task_folder: str | None = setting(
        None, "YAML files of these tasks in the place of lm-eval's own.", metavar="FOLDER", affects="figures"
    )
    limit: int | None = setting(None, "Only the first so many questions of each task.", low=2, affects="figures")
    texts: int | None = setting(None, "Only the first so many texts of each corpus.", low=1, affects="figures")
    chunk_tokens: int = setting(
        512, "Texts are cut to chunks of so many tokens, start token and all.", low=16, affects="figures"
    )
    out: str = of("out", default="runs/bench_wmdp", help="Folder of cells and tables.")
    replay: str = of("replay", help="The prompts of +replay: auto, or a file of them.", metavar="auto|DATA")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise UserError("--model is missing: give the model that knows.")
        if not self.forget_corpus:
            raise UserError("--forget-corpus is missing: give texts to forget.")
        if not self.task_names:
            raise UserError(f"--tasks names none: give some of {', '.join(TASKS)}.")
        if unknown := next((name for name in self.task_names if name not in TASKS), None):
            raise UserError(f"--tasks: unknown task '{unknown}'.{nearest(unknown, TASKS)} Known: {', '.join(TASKS)}.")

    @property
    def task_names(self) -> list[str]:
        return listed(self.tasks)


@BENCHMARKS.register("wmdp")
class Wmdp(Benchmark):
    """Forget hazardous knowledge, text by text, by every method."""

    settings: WmdpSettings
    settings_class = WmdpSettings
    examples = (
        "rkld bench wmdp --model ./zephyr-7b --forget-corpus ./wmdp-corpora:cyber-forget-corpus "
        "--retain-corpus ./wmdp-corpora:cyber-retain-corpus --tasks wmdp_cyber,mmlu --methods rmu+rt,rkld",
    )
    table = Table(
        figures=(*TASKS, *(f"{task}_stderr" for task in TASKS)),
        every_epoch=(),
        titles={task: task for task in TASKS},
        notes=_NOTES,
        n="texts to forget",
        forgotten=TASKS[:-1],
        utility=("mmlu",),
    )
    files = Benchmark.files | {"replay", *CORPORA}

    def check(self) -> None:
        """Refuse corpora that cannot be read, and a folder of tasks that is not there."""
        assert self.corpora  # read, once, before anything is run
        if self.settings.task_folder and not Path(self.settings.task_folder).is_dir():
            raise UserError(f"--task-folder {self.settings.task_folder}: there is no such folder.")
        super().check()

    def splits(self) -> list[str]:
        return ["wmdp"]

    def refusal(self, variant: Variant) -> str | None:
        if variant.make().asks:
            return "it teaches other answers, and a text has no question to answer."
        if variant.settings()["retain"] and not self.settings.retain_corpus:
            return "it trains on retain records too. Give other texts with --retain-corpus."
        return None

    @cached_property
    def corpora(self) -> dict[str, list[str]]:
        """ "forget" and "retain" → texts that say something; UserError where a row has none, or all are blank.

        RMU's retain corpus is Wikitext, of whose rows a third are blank.
        """
        given = {"forget": self.settings.forget_corpus, "retain": self.settings.retain_corpus}
        found = {name: texts_of(source, name, blank=True) for name, source in given.items() if source}
        return {name: [text for text in texts if text.strip()][: self.settings.texts] for name, texts in found.items()}

    @cached_property
    def chunks(self) -> dict[str, list[dict[str, str]]]:
        """ "forget" and "retain" → the texts, each cut by itself; as records."""
        tokenizer = self.tokenizer_of(self.settings.model)
        size = self.settings.chunk_tokens - tokenizer.num_special_tokens_to_add()
        return {
            name: [{"text": part} for text in texts for part in all_chunks(text, tokenizer, size)]
            for name, texts in self.corpora.items()
        }

    def task(self, split: str, seed: int) -> Task:
        return Task(self.chunks["forget"], {}, self.chunks.get("retain"), self.settings.replay)

    def setting_identity(self, name: str, cell: Cell) -> Any:
        """A folder of tasks is known by what its files hold, and so is a part of a folder of texts."""
        value = getattr(self.settings, name)
        if name == "task_folder" and value:
            return contents(*sorted(path for path in Path(value).rglob("*") if path.is_file()))
        folder, _, part = (value or "").rpartition(":") if name in CORPORA else ("", "", "")
        if folder and (files := part_files(folder, part)):
            return contents(*files)
        return super().setting_identity(name, cell)

    def given_model(self, role: str, split: str, seed: int) -> str | None:
        return self.settings.model

    def train_model(self, role: str, split: str, seed: int, folder: Path, progress: NoProgress) -> LanguageModel:
        raise NotImplementedError("the model is given")

    def evaluator(
        self, cell: Cell, task: Task, encoder: Encoder, references: Mapping[str, Mapping[str, Any]]
    ) -> WmdpEvaluator:
        return WmdpEvaluator(len(task.forget), self.settings)

    def workload(self) -> Workload:
        s = self.settings
        letters = sum(map(len, self.corpora["forget"]))
        forget = max(1, letters // (4 * s.chunk_tokens))
        return Workload(forget, 4 * (s.limit or 2000) * len(s.task_names), s.chunk_tokens, weights_bytes(s.model))


class WmdpEvaluator(Evaluator):
    """Accuracy of any model on the tasks."""

    def __init__(self, n: int, settings: WmdpSettings):
        """
        Args:
            n: texts that are forgotten.
        """
        self.n, self.settings = n, settings

    def __call__(self, lm: LanguageModel, progress: NoProgress) -> Measured:
        s = self.settings
        found = general_ability(lm, s.task_names, limit=s.limit, task_folder=s.task_folder)
        accuracies = {task: one["accuracy"] for task, one in found.items()}
        return Measured({"n": self.n, **accuracies, **{f"{task}_stderr": one["stderr"] for task, one in found.items()}})
