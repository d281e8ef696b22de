"""Keywords of the Python functions with their types, so that editors complete and type checkers check them.

Made by docs/generate.py from the table of settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal, TypedDict


class UnlearnKeywords(TypedDict, total=False):
    """Keywords of :func:`rkld.unlearn`, :func:`rkld.check` and :func:`rkld.continual` beside records and models."""

    subject: str | PathLike[str] | Sequence[str | PathLike[str]]
    """A name of the person, or a file of names, aliases and identifiers."""
    score: Literal["answer", "all", "spans", "added"]
    """What of the records is unlearned."""
    own_words: Literal["no", "join", "replace"]
    reword: int
    rewordings: str | PathLike[str] | None
    """Other wordings of the records: rows with the question of a record, and questions and answers."""
    reword_kinds: str | Sequence[str]
    """A kind of wording that rules make, such as letter."""
    writer: str | PathLike[str] | None
    """A model that writes rewordings: a folder or hub name, or with --writer-endpoint the name it is served under."""
    writer_endpoint: str | None
    """URL of an OpenAI-compatible server of the writer."""
    instead: Literal["nothing", "unknown"]
    """What is said instead; unknown needs --replay DATA or --retain, about people whom the model knows."""
    retain_loss: Literal["auto", "kl", "rt", "none"]
    """The loss on retain records."""
    retain_weight: float
    """λ of the retain term (paper: 1)."""
    replay_weight: float
    """λ of self-replay."""
    keep_replay: bool
    keep_weight: float
    """ρ of the keep term: holds the unscored part of forget answers to the original (score spans, added)."""
    floor: bool | None
    """With score added, spans: the teacher stays above what the original says of other people in the same place."""
    method: str | PathLike[str]
    """Unlearning method: a registered one, or FILE.py:NAME for your own."""
    method_arg: str | Sequence[str]
    """A hyper-parameter of the method that is not its default."""
    method_file: str | PathLike[str] | Sequence[str | PathLike[str]]
    """A method of your own, for a model folder that was made by it: no file is run because a folder names it."""
    gate: Literal["none", "sago"]
    """How the gradient that forgets and the one that holds the rest are put together, weight by weight."""
    sam: float
    """Sharpness-aware forgetting: its gradient is taken this far (L2) up from the weights; its paper takes 0.01."""
    refusals: str | PathLike[str] | None
    """Refusals, one a line, for methods that teach them and --instead unknown."""
    alpha: float
    """Of the teacher: l_o − α · ReLU(l_aug − l_o) (paper: 8 on TOFU)."""
    teacher: str | PathLike[str] | None
    """Folder of the teacher's cache, for runs that differ in alpha or divergence to share."""
    epochs: int
    """Passes over the forget records while distilling (paper: up to 10); a --stop may end them."""
    stop: str | PathLike[str]
    """When to stop: a registered rule, or FILE.py:NAME for your own."""
    check_every: int | None
    """Optimizer steps between the checks of --stop."""
    strengthen_epochs: int
    """Passes over the forget records while strengthening (paper: 5 more)."""
    strengthen_gain: float
    lr: float | None
    """Peak learning rate."""
    strengthen_lr: float | None
    """Peak learning rate of strengthening."""
    batch_size: int
    """Forget records per optimizer step."""
    accumulation: int | None
    """Micro-batches that an optimizer step is split into."""
    lora: bool
    """Train a LoRA adapter in place of all weights."""
    lora_rank: int
    """Rank of the adapter."""
    optim: str
    """Optimizer, by its name in transformers."""
    seed: int
    """Seed of everything drawn."""
    system_prompt: str | None
    """System prompt."""
    chat_template: str | PathLike[str] | None
    """File with a Jinja chat template, or tofu-llama2, tofu-phi, open-unlearning-llama3."""
    template_date: str
    """The date, YYYY-MM-DD, for templates that insert today's."""
    max_length: int | None
    """Cut records to this many tokens."""
    max_new_tokens: int | None
    """Longest generated answer, in tokens."""
    dtype: Literal["auto", "float32", "bfloat16"]
    """Weights while training."""
    bf16: bool | None
    """Compute in bfloat16 over float32 weights."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass, to save memory."""
    shard: bool
    """Under torchrun: split all weights over the processes (FSDP2), for a model that one GPU cannot hold."""
    merge: bool
    """With an adapter: write the merged model."""
    base: str | PathLike[str] | None
    """The model that this one was tuned from, a folder or hub name."""
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"]
    """Weights of the written model."""
    text_only: bool
    """Of a model that does more than write text (it sees, hears, drafts), write the part that does."""
    trust_remote_code: bool
    """Allow models that bring their own code."""
    allow_pickle: bool
    """Allow weights in pickle form, which can run code when they are read."""
    out: str | PathLike[str] | None
    """Run folder."""
    checkpoint_minutes: float
    """Minutes between checkpoints of a long phase."""
    keep_files: bool
    """Keep strengthened weights, cache, checkpoints and replay after the run."""
    share_model: bool
    """Let others on this machine read model/; all else in the run folder stays closed to them."""
    ledger: str | PathLike[str] | None
    """A ledger, to which a line about this run is appended at its end; needs --ledger-key."""
    ledger_key: str | PathLike[str] | None
    """The key of --ledger, which makes pseudonyms of the names (rkld keygen --for ledger)."""
    seal_to: str | PathLike[str] | None
    report_to: str | Sequence[str]
    """A tracker that is told loss, probabilities and the distance from the stop: tensorboard, wandb, trackio."""
    push_to_hub: str | None
    """Push the unlearned model with its card to this repository of the Hugging Face hub, nothing else of the run."""
    hub_private: bool
    """With --push-to-hub: only if the repository is, or will be, private."""
    request: str | PathLike[str] | None
    note: str | None
    """A note that is kept with the request."""


class AuditKeywords(TypedDict, total=False):
    """Keywords of :func:`rkld.audit` beside the model and the forget records."""

    subject: str | PathLike[str] | Sequence[str | PathLike[str]]
    """A name of the person, or a file of names, aliases and identifiers."""
    holdout: Any
    """Records of the same kind that were never trained on: for membership."""
    retain: Any
    """Records that should have been kept."""
    neighbours: Any
    """Records near the forgotten ones: those most easily damaged."""
    real_authors: Any
    """TOFU's real_authors_perturbed: for model utility."""
    world_facts: Any
    """TOFU's world_facts_perturbed: for model utility."""
    original: Any
    """The model before unlearning, to stand beside."""
    control: Any
    """A model that never saw the records (retrained), to stand beside."""
    retain_logs: str | PathLike[str] | None
    """A retrained model's results: TOFU's logs or open-unlearning's TOFU_EVAL.json."""
    endpoint: str | None
    """URL of an OpenAI-compatible server that serves the model."""
    tokenizer: str | PathLike[str] | None
    """With --endpoint: folder of the tokenizer and template, for likelihoods."""
    timeout: float
    """With --endpoint: seconds for one answer, from the connection to its last byte."""
    attacks: str | Sequence[str]
    """An attack, with commas for several, FILE.py:NAME for your own; or standard (those that only ask), all, none."""
    metric: str | PathLike[str] | Sequence[str | PathLike[str]]
    """A metric of your own beside the registered ones: FILE.py:NAME."""
    probes: Any
    """Probes made by rkld probes."""
    general: str | Sequence[str]
    """Tasks of lm-eval, such as piqa; 'paper' for RKLD's seven."""
    k: int
    """Sampled answers of leak@k."""
    samples: int
    """Sampled answers to each question; above k, the more the less noise."""
    top: int
    """Completions of a blank."""
    relearn_share: float
    """Share of the forget records that is learned again."""
    relearn_epochs: int
    """Passes over them."""
    relearn_lr: float | None
    """Learning rate of it."""
    questions: int | None
    """Only the first so many of every set (old TOFU figures: 300)."""
    seed: int
    """Seed of everything drawn."""
    max: str | Sequence[str]
    """Gate in place of the default ones: the metric may be so high at most."""
    min: str | Sequence[str]
    """Gate in place of the default ones: the metric must be so high at least."""
    margin: float
    """Equivalence to the control is claimed within this margin."""
    system_prompt: str | None
    """System prompt."""
    chat_template: str | PathLike[str] | None
    """File with a Jinja chat template, or tofu-llama2, tofu-phi, open-unlearning-llama3."""
    template_date: str
    """The date, YYYY-MM-DD, for templates that insert today's."""
    max_length: int | None
    """Cut records to this many tokens."""
    max_new_tokens: int | None
    """Longest generated answer, in tokens."""
    dtype: Literal["auto", "float32", "bfloat16"]
    """Weights."""
    method_file: str | PathLike[str] | Sequence[str | PathLike[str]]
    """A method of your own, for a model folder that was made by it: no file is run because a folder names it."""
    base: str | PathLike[str] | None
    """The model that this one was tuned from, a folder or hub name."""
    trust_remote_code: bool
    """Allow models that bring their own code."""
    allow_pickle: bool
    """Allow weights in pickle form, which can run code when they are read."""
    out: str | PathLike[str] | None
    """Folder for audit.json."""
    redact: bool
    """Keep all text out of audit.json and delete what was generated."""
    request: str | PathLike[str] | None
    """The request as a form in YAML."""
    note: str | None
    """A note that is kept with the request."""


class DiscoverKeywords(TypedDict, total=False):
    """Keywords of :func:`rkld.discover` beside the model and the person's name."""

    alias: str | Sequence[str]
    """Another name, an e-mail address or a number of the person, which is asked about as well."""
    kind: Literal["private", "employee", "customer", "public"]
    """The kind of person, which decides the questions."""
    questions: str | PathLike[str] | None
    """Questions of your own in their place: a text with one a line, or rows with questions, begins and values."""
    source: str | PathLike[str] | None
    """A document of yours about the person (text, JSON, CSV): what it says is asked for as well."""
    samples: int
    """Sampled answers to each question, beside the greedy one."""
    names: int
    rate: float
    seed: int
    """Seed of everything drawn."""
    system_prompt: str | None
    """System prompt."""
    chat_template: str | PathLike[str] | None
    """File with a Jinja chat template, or tofu-llama2, tofu-phi, open-unlearning-llama3."""
    template_date: str
    """The date, YYYY-MM-DD, for templates that insert today's."""
    max_length: int | None
    """Cut records to this many tokens."""
    dtype: Literal["auto", "float32", "bfloat16"]
    """Weights."""
    method_file: str | PathLike[str] | Sequence[str | PathLike[str]]
    """A method of your own, for a model folder that was made by it: no file is run because a folder names it."""
    base: str | PathLike[str] | None
    """The model that this one was tuned from, a folder or hub name."""
    trust_remote_code: bool
    """Allow models that bring their own code."""
    allow_pickle: bool
    """Allow weights in pickle form, which can run code when they are read."""
