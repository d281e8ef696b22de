"""The table of settings: each once, with its type, default, bounds, choices, group, help, and what it affects.

From it come :class:`rkld.settings.unlearning.Settings`, :class:`rkld.settings.auditing.AuditSettings`, the shared part
of :class:`rkld.training.config.RKLDConfig`, the command line with its grouped help, the keywords of the functions
(:mod:`rkld.settings.typed`), what may change between two starts of a run, the key of the teacher's cache, and
``docs/reference/settings.md``. "Paper" is Wang et al. 2025, RKLD, unless another is named.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Hashable, Mapping
from typing import Any

from rkld.settings.specification import Affects, Spec, fields, flag, kind

TIMEOUT = 300.0
"""Seconds for one answer of a server."""

FULL_RATE, ADAPTER_RATE = 1e-4, 5e-4
"""Peak learning rates where none is given: of all weights of a small model, and of an adapter."""

SMALL = 135_000_000
"""Parameters that :data:`FULL_RATE` was measured with. The paper trains 7B by 1e-5: less by the root of the size."""


def peak_lr(lr: float | None, adapter: bool, parameters: int = SMALL) -> float:
    """The peak learning rate: as given, else the default of what is trained.

    Args:
        parameters: how many the model has.
    """
    if lr is not None:
        return lr
    return ADAPTER_RATE if adapter else float(f"{FULL_RATE * min(1.0, SMALL / max(parameters, 1)) ** 0.5:.2g}")


FORGET = "What is forgotten"
KEEP = "What is kept"
METHOD = "The method"
AUTO_METHOD, DEFAULT_METHOD = "auto", "rkld"
"""``--method`` where none is asked for, and what that is without a base."""
STOP = "When to stop"
TRAINING = "Training"
PROMPTS = "Prompts and answers"
MODEL = "Model and memory"
FILES = "Files"
REQUEST = "The request"
COMPARED = "What it is compared with"
SERVED = "A model behind a server"
ASKED = "Questions and attacks"
GATES = "What it must show"
PAGE = "The page"

_SCORES = {
    "answer": "the answers, with their end of turn",
    "all": "every turn, the user's too",
    "spans": "only the marked parts (spans)",
    "added": "the answers but for the words that their questions give and their end of turn, which are held to the "
    "original",
}
_RETAIN_LOSSES = {
    "auto": "the method's own choice (rkld: kl)",
    "kl": "forward KL divergence to the original model",
    "rt": "fine-tuning: cross-entropy on the answers",
    "none": "no retain term",
}
_OWN_WORDS = {
    "no": "the written records alone",
    "join": "the model's own answers beside the written records",
    "replace": "the model's own answers in place of the written records",
}
_INSTEAD = {
    "nothing": "whatever the model says of people whom it does not know",
    "unknown": "that it has no information: about the person and about strangers alike",
}
_GATES = {
    "none": "both are added up",
    "sago": "what forgets counts where the two agree in sign, and where they do not what holds",
}
_DTYPES = {
    "auto": "float32",
    "float32": "4 bytes a weight",
    "bfloat16": "2 bytes a weight; updates below its precision are lost",
}

_SAVED_DTYPES = {
    "auto": "as in the source (an adapter made here: float32, as PEFT does): what rounding moves is measured and said",
    "float32": "4 bytes a weight",
    "bfloat16": "2 bytes a weight",
    "float16": "2 bytes a weight, finer, up to 65504",
}


def _rate(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-")


def _spec(name: str, type: type, default: Any, affects: Affects, group: str, help: str, **more: Any) -> Spec:
    return Spec(name=name, type=type, default=default, affects=affects, group=group, help=help, **more)


def _optional(name: str, type: type, affects: Affects, group: str, help: str, **more: Any) -> Spec:
    return _spec(name, type, None, affects, group, help, optional=True, **more)


_WEIGHT: dict[str, Any] = {"low": 0, "high": 1_000_000}
_RATE: dict[str, Any] = {"low": 0, "high": 1, "exclusive": "low"}
_EPOCHS: dict[str, Any] = {"low": 1, "high": 100_000, "unit": "epochs"}
_TOKENS: dict[str, Any] = {"low": 1, "high": 10_000_000, "unit": "tokens"}

_ENTRIES = (
    # What is forgotten
    _spec(
        "model",
        str,
        "",
        "teacher",
        FORGET,
        "Folder, hub name, PEFT adapter folder, or the alias smollm2-135m.",
        metavar="MODEL",
    ),
    _spec(
        "forget",
        str,
        "",
        "teacher",
        FORGET,
        "Records to forget: JSONL, JSON, CSV, Parquet, YAML, or a Hugging Face data set.",
        metavar="DATA",
    ),
    _spec(
        "subject",
        tuple,
        (),
        "teacher",
        FORGET,
        "A name of the person, or a file of names, aliases and identifiers.",
        metavar="NAME|FILE",
    ),
    _spec(
        "score", str, "added", "teacher", FORGET, "What of the records is unlearned.", choices=_SCORES, trainer="score"
    ),
    _spec(
        "own_words",
        str,
        "no",
        "teacher",
        FORGET,
        "Whether the model's own answers to the forget questions, facts marked, are unlearned, too; the flag alone "
        "means join.",
        choices=_OWN_WORDS,
        flag_value="join",
    ),
    _spec(
        "reword",
        int,
        3,
        "teacher",
        FORGET,
        "Other wordings of each record that are forgotten along with it: those given, and as many more as are missing, "
        "written by --writer or made by rules. 0: those given alone.",
        low=0,
        high=1000,
        unit="wordings",
    ),
    _optional(
        "rewordings",
        str,
        "teacher",
        FORGET,
        "Other wordings of the records: rows with the question of a record, and questions and answers. Or columns: the "
        "records' own paraphrased_question and paraphrased_answer, which an audit else asks as unseen.",
        metavar="columns|DATA",
    ),
    _spec(
        "reword_kinds",
        tuple,
        (),
        "teacher",
        FORGET,
        "A kind of wording that rules make, such as letter. Default: all.",
        metavar="KIND",
    ),
    _optional(
        "writer",
        str,
        "teacher",
        FORGET,
        "A model that writes rewordings: a folder or hub name, or with --writer-endpoint the name it is served under.",
        metavar="MODEL",
    ),
    _optional(
        "writer_endpoint",
        str,
        "teacher",
        FORGET,
        "URL of an OpenAI-compatible server of the writer. The records are sent to it.",
        metavar="URL",
    ),
    _spec(
        "instead",
        str,
        "nothing",
        "student",
        FORGET,
        "What is said instead; unknown needs --replay DATA or --retain, about people whom the model knows.",
        choices=_INSTEAD,
    ),
    # What is kept
    _optional("retain", str, "teacher", KEEP, "Records to keep, in any of the same forms.", metavar="DATA"),
    _spec(
        "retain_loss",
        str,
        "auto",
        "student",
        KEEP,
        "The loss on retain records.",
        choices=_RETAIN_LOSSES,
        trainer="retain_loss",
    ),
    _spec(
        "retain_weight",
        float,
        1.0,
        "student",
        KEEP,
        "λ of the retain term (paper: 1).",
        trainer="retain_weight",
        **_WEIGHT,
    ),
    _spec(
        "replay",
        str,
        "auto",
        "teacher",
        KEEP,
        "Self-replay, the model's own answers to other prompts held to the original: auto (prompts of its own), none "
        "(as published), or a file of prompts.",
        metavar="auto|none|DATA",
    ),
    _spec("replay_weight", float, 5.0, "student", KEEP, "λ of self-replay.", trainer="replay_weight", **_WEIGHT),
    _spec(
        "keep_replay",
        bool,
        True,
        "nothing",
        KEEP,
        "Keep the screened replay answers for later runs of this model, in rkld/replay of the user's cache; rkld purge "
        "deletes them.",
    ),
    _spec(
        "keep_weight",
        float,
        2.0,
        "student",
        KEEP,
        "ρ of the keep term: holds the unscored part of forget answers to the original (score spans, added).",
        trainer="keep_weight",
        **_WEIGHT,
    ),
    _optional(
        "floor",
        bool,
        "teacher",
        KEEP,
        "With score added, spans: the teacher stays above what the original says of other people in the same place. "
        "Default: with spans.",
    ),
    # The method
    _spec(
        "method",
        str,
        AUTO_METHOD,
        "student",
        METHOD,
        "Unlearning method: a registered one, or FILE.py:NAME for your own. auto: base_vector with --base (of a "
        "model that is no adapter, with replay or retain records, without --lora, --gate and --sam), else rkld.",
        metavar="NAME|FILE.py:NAME",
        entries="rkld.methods",
        trainer="method",
    ),
    _spec(
        "method_arg",
        tuple,
        (),
        "student",
        METHOD,
        "A hyper-parameter of the method that is not its default.",
        metavar="NAME=VALUE",
        trainer="method_arg",
    ),
    _spec(
        "method_file",
        tuple,
        (),
        "nothing",
        METHOD,
        "A method of your own, for a model folder that was made by it: no file is run because a folder names it.",
        metavar="FILE.py:NAME",
    ),
    _spec(
        "gate",
        str,
        "none",
        "student",
        METHOD,
        "How the gradient that forgets and the one that holds the rest are put together, weight by weight.",
        choices=_GATES,
        trainer="gate",
    ),
    _spec(
        "sam",
        float,
        0.0,
        "student",
        METHOD,
        "Sharpness-aware forgetting: its gradient is taken this far (L2) up from the weights; its paper takes 0.01. "
        "0: at the weights.",
        low=0,
        high=1000,
        trainer="sam",
    ),
    _optional(
        "refusals",
        str,
        "student",
        METHOD,
        "Refusals, one a line, for methods that teach them and --instead unknown. Default: a list of 30.",
        metavar="FILE",
        trainer="refusals",
    ),
    _spec(
        "alpha",
        float,
        16.0,
        "student",
        METHOD,
        "Of the teacher: l_o − α · ReLU(l_aug − l_o) (paper: 8 on TOFU).",
        low=0,
        high=10_000,
        trainer="alpha",
    ),
    _optional(
        "teacher",
        str,
        "nothing",
        METHOD,
        "Folder of the teacher's cache, for runs that differ in alpha or divergence to share. It holds personal "
        "data and stays. Default: the run's own, removed in the end.",
        metavar="FOLDER",
    ),
    # When to stop
    _spec(
        "epochs",
        int,
        10,
        "student",
        STOP,
        "Passes over the forget records while distilling (paper: up to 10); a --stop may end them.",
        trainer="num_train_epochs",
        **_EPOCHS,
    ),
    _spec(
        "stop",
        str,
        "placebo",
        "student",
        STOP,
        "When to stop: a registered rule, or FILE.py:NAME for your own.",
        metavar="NAME|FILE.py:NAME",
        entries="rkld.stopping.rules",
    ),
    _optional(
        "check_every",
        int,
        "student",
        STOP,
        "Optimizer steps between the checks of --stop. Default: half an epoch's.",
        low=1,
        high=1_000_000_000,
        unit="steps",
    ),
    _optional(
        "holdout",
        str,
        "student",
        STOP,
        "Records of people the model was never trained on, for --stop placebo. Default: invented people.",
        metavar="DATA",
    ),
    _optional(
        "control",
        str,
        "student",
        STOP,
        "A model that has never seen the forget records, for --stop control.",
        metavar="MODEL",
    ),
    # Training
    _spec(
        "strengthen_epochs",
        int,
        5,
        "teacher",
        TRAINING,
        "Passes over the forget records while strengthening (paper: 5 more).",
        trainer="strengthen_epochs",
        **_EPOCHS,
    ),
    _spec(
        "strengthen_gain",
        float,
        0.0,
        "teacher",
        TRAINING,
        "Strengthening ends after an epoch, from the second on, that lowers the loss of the records' rewordings, which "
        "it does not see, by less than this share, such as 0.02. 0: never; nor where there are no rewordings.",
        low=0,
        high=1,
        trainer="strengthen_gain",
    ),
    _optional(
        "lr",
        float,
        "teacher",
        TRAINING,
        f"Peak learning rate. Default: {_rate(FULL_RATE)} to {SMALL // 10**6}M parameters, above less by the root of "
        f"the size; with an adapter {_rate(ADAPTER_RATE)} (paper: 1e-5 for 7B).",
        trainer="learning_rate",
        **_RATE,
    ),
    _optional(
        "strengthen_lr",
        float,
        "teacher",
        TRAINING,
        "Peak learning rate of strengthening. Default: as --lr.",
        trainer="strengthen_lr",
        **_RATE,
    ),
    _spec(
        "batch_size",
        int,
        8,
        "teacher",
        TRAINING,
        "Forget records per optimizer step.",
        low=1,
        high=100_000,
        unit="records",
        trainer="per_device_train_batch_size",
    ),
    _optional(
        "accumulation",
        int,
        "student",
        TRAINING,
        "Micro-batches that an optimizer step is split into. Default: on a CPU of 4 records or more, else 1.",
        low=1,
        high=100_000,
    ),
    _spec("lora", bool, False, "teacher", TRAINING, "Train a LoRA adapter in place of all weights."),
    _spec("lora_rank", int, 16, "teacher", TRAINING, "Rank of the adapter.", low=1, high=100_000),
    _spec(
        "optim",
        str,
        "adamw_torch_fused",
        "teacher",
        TRAINING,
        "Optimizer, by its name in transformers.",
        trainer="optim",
    ),
    _spec("seed", int, 0, "teacher", TRAINING, "Seed of everything drawn.", low=0, high=2**32 - 1, trainer="seed"),
    # Prompts and answers
    _optional(
        "system_prompt", str, "teacher", PROMPTS, "System prompt. Default: whatever the template does by itself."
    ),
    _optional(
        "chat_template",
        str,
        "teacher",
        PROMPTS,
        "File with a Jinja chat template, or tofu-llama2, tofu-phi, open-unlearning-llama3. Default: the model's own.",
        metavar="FILE|NAME",
    ),
    _spec(
        "template_date",
        str,
        "2024-07-26",
        "teacher",
        PROMPTS,
        "The date, YYYY-MM-DD, for templates that insert today's.",
    ),
    _optional(
        "max_length",
        int,
        "teacher",
        PROMPTS,
        "Cut records to this many tokens. Default: refuse longer than the context.",
        **{**_TOKENS, "low": 2},
    ),
    _optional(
        "max_new_tokens",
        int,
        "teacher",
        PROMPTS,
        "Longest generated answer, in tokens. Default: as long as the recorded one and 64 more; 64 to replay prompts.",
        **_TOKENS,
    ),
    # Model and memory
    _spec("dtype", str, "auto", "teacher", MODEL, "Weights while training.", choices=_DTYPES, trainer="dtype"),
    _optional(
        "bf16",
        bool,
        "teacher",
        MODEL,
        "Compute in bfloat16 over float32 weights. Default: on a GPU that has it.",
        trainer="bf16",
    ),
    _spec(
        "gradient_checkpointing",
        bool,
        False,
        "nothing",
        MODEL,
        "Recompute activations in the backward pass, to save memory.",
    ),
    _spec(
        "shard",
        bool,
        False,
        "nothing",
        MODEL,
        "Under torchrun: split all weights over the processes (FSDP2), for a model that one GPU cannot hold.",
    ),
    _spec("merge", bool, False, "student", MODEL, "With an adapter: write the merged model."),
    _optional(
        "base",
        str,
        "nothing",
        MODEL,
        "The model that this one was tuned from, a folder or hub name. Default: of an adapter what its folder names.",
        metavar="MODEL",
        formerly="base_model",
    ),
    _spec("save_dtype", str, "auto", "student", MODEL, "Weights of the written model.", choices=_SAVED_DTYPES),
    _spec(
        "text_only",
        bool,
        False,
        "student",
        MODEL,
        "Of a model that does more than write text (it sees, hears, drafts), write the part that does.",
    ),
    _spec(
        "trust_remote_code",
        bool,
        False,
        "nothing",
        MODEL,
        "Allow models that bring their own code.",
        permission=True,
    ),
    _spec(
        "allow_pickle",
        bool,
        False,
        "nothing",
        MODEL,
        "Allow weights in pickle form, which can run code when they are read.",
        permission=True,
    ),
    # Files
    _optional("out", str, "nothing", FILES, "Run folder. Default: runs/MODEL.", metavar="FOLDER"),
    _spec(
        "checkpoint_minutes",
        float,
        10.0,
        "nothing",
        FILES,
        "Minutes between checkpoints of a long phase.",
        low=0,
        high=math.inf,
        unit="minutes",
        trainer="checkpoint_minutes",
    ),
    _spec(
        "keep_files",
        bool,
        False,
        "nothing",
        FILES,
        "Keep strengthened weights, cache, checkpoints and replay after the run.",
    ),
    _spec(
        "share_model",
        bool,
        False,
        "nothing",
        FILES,
        "Let others on this machine read model/; all else in the run folder stays closed to them.",
    ),
    _optional(
        "ledger",
        str,
        "nothing",
        FILES,
        "A ledger, to which a line about this run is appended at its end; needs --ledger-key.",
        metavar="FILE",
    ),
    _optional(
        "ledger_key",
        str,
        "nothing",
        FILES,
        "The key of --ledger, which makes pseudonyms of the names (rkld keygen --for ledger). Keep it apart.",
        metavar="FILE",
    ),
    _optional(
        "seal_to",
        str,
        "nothing",
        FILES,
        "The public half of a key (rkld keygen --for seal) to which the records are sealed beside --ledger, for rkld "
        "ledger recheck.",
        metavar="FILE",
    ),
    _spec(
        "report_to",
        tuple,
        (),
        "nothing",
        FILES,
        "A tracker that is told loss, probabilities and the distance from the stop: tensorboard, wandb, trackio.",
        metavar="TRACKER",
    ),
    _optional(
        "push_to_hub",
        str,
        "nothing",
        FILES,
        "Push the unlearned model with its card to this repository of the Hugging Face hub, nothing else of the run.",
        metavar="OWNER/NAME",
    ),
    _spec(
        "hub_private",
        bool,
        True,
        "nothing",
        FILES,
        "With --push-to-hub: only if the repository is, or will be, private.",
    ),
    # The request
    _optional(
        "request",
        str,
        "nothing",
        REQUEST,
        "The request as a form in YAML, which rkld init writes: who asked and when, what serves now, what became of "
        "the copies. It is kept with the evidence.",
        metavar="FILE",
    ),
    _optional("note", str, "nothing", REQUEST, "A note that is kept with the request.", metavar="TEXT"),
    # Of an audit: what it is compared with
    _optional("original", str, "figures", COMPARED, "The model before unlearning, to stand beside.", metavar="MODEL"),
    _optional(
        "retain_logs",
        str,
        "figures",
        COMPARED,
        "A retrained model's results: TOFU's logs or open-unlearning's TOFU_EVAL.json.",
        metavar="FILE",
    ),
    _optional(
        "endpoint", str, "figures", SERVED, "URL of an OpenAI-compatible server that serves the model.", metavar="URL"
    ),
    _optional(
        "tokenizer",
        str,
        "figures",
        SERVED,
        "With --endpoint: folder of the tokenizer and template, for likelihoods.",
        metavar="FOLDER",
    ),
    _spec(
        "timeout",
        float,
        TIMEOUT,
        "nothing",
        SERVED,
        "With --endpoint: seconds for one answer, from the connection to its last byte.",
        low=0,
        high=86_400,
        exclusive="low",
        unit="seconds",
    ),
    # Of an audit: what is asked
    _optional(
        "neighbours",
        str,
        "figures",
        KEEP,
        "Records near the forgotten ones: those most easily damaged.",
        metavar="DATA",
    ),
    _optional(
        "real_authors", str, "figures", KEEP, "TOFU's real_authors_perturbed: for model utility.", metavar="DATA"
    ),
    _optional("world_facts", str, "figures", KEEP, "TOFU's world_facts_perturbed: for model utility.", metavar="DATA"),
    _optional(
        "probes",
        str,
        "figures",
        ASKED,
        "Probes made by rkld probes. Default: made where records have no paraphrases.",
        metavar="DATA",
    ),
    _spec(
        "attacks",
        tuple,
        ("standard",),
        "figures",
        ASKED,
        "An attack, with commas for several, FILE.py:NAME for your own; or standard (those that only ask), all, none.",
        metavar="NAME,…",
        entries="rkld.auditing.attacks",
    ),
    _spec(
        "metric",
        tuple,
        (),
        "figures",
        ASKED,
        "A metric of your own beside the registered ones: FILE.py:NAME.",
        metavar="FILE.py:NAME",
    ),
    _spec(
        "general",
        tuple,
        (),
        "figures",
        ASKED,
        "Tasks of lm-eval, such as piqa; 'paper' for RKLD's seven.",
        metavar="TASK",
    ),
    _spec("k", int, 16, "figures", ASKED, "Sampled answers of leak@k.", low=1, high=100_000),
    _spec(
        "samples",
        int,
        64,
        "figures",
        ASKED,
        "Sampled answers to each question; above k, the more the less noise.",
        low=1,
        high=100_000,
    ),
    _spec("top", int, 5, "figures", ASKED, "Completions of a blank.", low=1, high=100_000),
    _optional(
        "questions",
        int,
        "figures",
        ASKED,
        "Only the first so many of every set (old TOFU figures: 300). Default: all.",
        low=1,
        high=1_000_000_000,
        unit="records",
    ),
    _spec(
        "relearn_share",
        float,
        0.2,
        "figures",
        ASKED,
        "Share of the forget records that is learned again.",
        low=0,
        high=1,
        exclusive="both",
    ),
    _spec("relearn_epochs", int, 10, "figures", ASKED, "Passes over them.", **_EPOCHS),
    _optional(
        "relearn_lr",
        float,
        "figures",
        ASKED,
        "Learning rate of it. Default: as --lr of rkld unlearn.",
        **_RATE,
    ),
    # Of an audit: what it must show
    _spec(
        "max",
        tuple,
        (),
        "figures",
        GATES,
        "Gate in place of the default ones: the metric may be so high at most.",
        metavar="NAME=VALUE",
    ),
    _spec(
        "min",
        tuple,
        (),
        "figures",
        GATES,
        "Gate in place of the default ones: the metric must be so high at least.",
        metavar="NAME=VALUE",
    ),
    _spec(
        "margin",
        float,
        0.1,
        "figures",
        GATES,
        "Equivalence to the control is claimed within this margin.",
        low=0,
        high=1,
        exclusive="both",
    ),
    # Of the page that shows two models
    _spec(
        "host",
        str,
        "127.0.0.1",
        "nothing",
        PAGE,
        "Address that the page listens on. Any other than this machine's own lets others reach it, in plain HTTP.",
        metavar="ADDRESS",
    ),
    _spec("port", int, 0, "nothing", PAGE, "Port that it listens on; 0: any free one.", low=0, high=65_535),
    _spec("token", bool, True, "nothing", PAGE, "Answer only whoever has the token in the address that is printed."),
    _spec("open", bool, False, "nothing", PAGE, "Open the page in the browser."),
    _spec("redact", bool, False, "figures", FILES, "Keep all text out of audit.json and delete what was generated."),
)

TABLE: Mapping[str, Spec] = {spec.name: spec for spec in _ENTRIES}
"""Every setting of a run or an audit, by name. Those of one benchmark alone stand in its own class."""

SHARED: Mapping[str, Spec] = {spec.trainer: spec for spec in _ENTRIES if spec.trainer}
"""The settings of :class:`rkld.training.config.RKLDConfig` that the table has, by their names there."""


def of(name: str, **given: Any) -> Any:
    """A field of a dataclass of settings: the table's entry of this name.

    Args:
        given: attributes of :class:`Spec` that are others here: ``of("alpha", default=4.0)``.
    """
    spec = dataclasses.replace(TABLE[name], **given)
    return dataclasses.field(default=spec.default, metadata={"help": spec.help, "spec": vars(spec)})


def specs(cls: type) -> Mapping[str, Spec]:
    """The specification of every setting of a dataclass, by name.

    Name, type, choices and whether None is a value come from the annotation; what else a field does not say itself
    comes from the table, where that has its name.
    """
    return _specs(cls)


@functools.cache
def _specs(cls: Hashable) -> Mapping[str, Spec]:
    assert isinstance(cls, type)
    found: dict[str, Spec] = {}
    for name, field in fields(cls).items():
        hint, choices, optional = kind(name, cls)
        known = vars(TABLE[name]) if name in TABLE else {"group": "Benchmark", "affects": "student"}
        annotated = {"name": name, "type": hint, "optional": optional}
        given = {**known, **field.metadata["spec"], **annotated}
        if choices and set(given.get("choices") or ()) != set(choices):
            given["choices"] = dict.fromkeys(choices, "")
        found[name] = Spec(**given)
    return found


def check_bounds(settings: Any) -> None:
    """Refuse numbers of a dataclass of settings that are out of their bounds.

    Raises:
        UserError: naming the flag, the value and the bound.
    """
    for name, spec in specs(type(settings)).items():
        spec.check(getattr(settings, name), flag(name))


def without_effect(cls: type) -> frozenset[str]:
    """Settings of which another value changes nothing of the result: they may differ between two starts of a run."""
    return frozenset(name for name, spec in specs(cls).items() if spec.affects == "nothing")
