"""Every causal language model of the installed ``transformers``: does it give what a plain three-model RKLD gives?

    python -m benchmarks.architectures [--only llama,gemma2] [--results benchmarks/results]

A tiny model with random weights is made of each configuration, loaded as any other (which tries its head, its causality
and its training mode), and compared with full logits of three copies: the loss, its gradients in every weight (full
fine-tuning) and in every weight of an adapter (LoRA), and the answers in a batch with those given alone. Each
configuration *works*, is *refused* with the reason a user reads, or was *not tried*: no tiny model could be made.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from benchmarks.common import write
from rkld.benching.tables import as_markdown
from rkld.benching.worlds.tiny import tiny_tokenizer
from rkld.errors import UserError
from rkld.evaluation.generation import greedy, supports_left_padding
from rkld.losses.chunked import Segment, linear_divergence
from rkld.losses.divergences import reverse_kl
from rkld.losses.targets import Towards
from rkld.models.adapters import new_adapter, reach
from rkld.models.hidden_states import hidden_at
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.models.state import trainable_state
from rkld.teacher.cache import HiddenCache
from rkld.teacher.logits import Teacher

ALPHA = 8.0
LENGTHS = (9, 6)
"""Tokens of the two records; the shorter one is padded."""

TOLERANCE = 1e-4
"""Largest relative difference from the plain computation, in float32."""

SMALL: dict[str, Any] = {
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "dim": 32, "n_inner": 48, "intermediate_size": 48, "ffn_dim": 48,
    "ffn_hidden_size": 48, "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "num_key_value_heads": 2, "num_kv_heads": 2,
    "head_dim": 8, "kv_channels": 8, "max_position_embeddings": 64, "n_positions": 64, "max_seq_len": 64,
    "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "moe_k": 2, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8,
    "state_size": 8, "time_step_rank": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "attention_head_size": 8, "lru_width": 32, "sliding_window": 16,
    "attention_window_size": 16, "vocab_size_per_layer_input": 0, "hidden_size_per_layer_input": 8, "laurel_rank": 4,
    "altup_num_inputs": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "num_kv_shared_layers": 0, "rotary_dim": 8, "conv_L_cache": 3,
    "word_embed_proj_dim": 32, "dropout": 0.0, "embedding_size": 32, "d_ff": 48, "d_kv": 8,
    "decoder_layers": 2, "encoder_layers": 2, "decoder_attention_heads": 4, "encoder_attention_heads": 4,
    "decoder_ffn_dim": 48, "encoder_ffn_dim": 48, "attn_layer_period": 2, "attn_layer_offset": 1,
}  # fmt: skip
"""Sizes by the names that configurations give them; each takes those that it has."""

LARGEST = 5_000_000
"""Weights of a model that is tiny."""

ALSO: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "falcon": {"num_kv_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "minicpm3": {"dim_model_base": 32},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "rembert": {"output_embedding_size": 32, "input_embedding_size": 32},
}
"""What single configurations need beside :data:`SMALL`."""


@dataclass(frozen=True)
class Outcome:
    """What was found of one configuration."""

    kind: str
    """Its ``model_type``."""
    state: str
    """"works", "refused" or "not tried"."""
    note: str = ""
    """Of a refusal the message; else what is special."""
    full: float | None = None
    """Largest relative difference of loss and gradients from plain ones; full fine-tuning."""
    lora: float | None = None
    reached: float | None = None
    """Share of the weights in layers that the adapter reaches."""
    batched: bool | None = None
    """Whether it answers in batches as it does alone; else it is asked one question at a time."""


def tiny(kind: str) -> PreTrainedModel:
    """A random model of a configuration, in float32, with weights large enough that its layers matter."""
    tokenizer = tiny_tokenizer()
    config_class = CONFIG_MAPPING[kind]
    default = config_class()
    text = default.get_text_config(decoder=True)
    found = {name: value for name, value in SMALL.items() if has(text, name)}
    if "kv_lora_rank" in found:  # latent attention has as many heads of keys
        found["num_key_value_heads"] = SMALL["num_attention_heads"]
    if "vocab_size_per_layer_input" in found:
        found["vocab_size_per_layer_input"] = len(tokenizer)
    found |= layers(text)
    found |= {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    found = {n: v for n, v in found.items() if getattr(getattr(type(text), n, None), "fset", True) is not None}
    try:
        config = type(text)(**found | ALSO.get(kind, {}))
    except AttributeError:  # the kinds of its layers are derived
        del found["layer_types"]
        config = type(text)(**found | ALSO.get(kind, {}))
    if hasattr(config, "is_decoder"):
        config.is_decoder = True
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"it has sizes of its own, and {size / 1e6:.0f} million weights")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()


def has(config: Any, name: str) -> bool:
    """Whether a configuration has one such size; some have one a layer, and say so by raising."""
    try:
        return hasattr(config, name)
    except Exception:
        return False


def layers(text: Any) -> dict[str, Any]:
    """Two layers of as many kinds as there are, the attention that remembers everything among them."""
    kinds = list(dict.fromkeys(getattr(text, "layer_types", None) or ()))
    if len(kinds) < 2:
        return {}
    whole = next((kind for kind in kinds if kind in ("full_attention", "attention", "hybrid")), kinds[1])
    return {"layer_types": [next(kind for kind in kinds if kind != whole), whole]}


def moved(lm: LanguageModel, seed: int) -> LanguageModel:
    """A copy whose trained weights are others."""
    other = copy.deepcopy(lm)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable_state(other).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return other


def records(vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Padded ids (2, L), where their tokens are predicted (T,), flattened, and weights (T,)."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, vocabulary, (2, max(LENGTHS)), generator=generator)
    rows = torch.tensor([i * ids.shape[1] + t for i, n in enumerate(LENGTHS) for t in range(n // 3, n - 1)])
    return ids, rows, torch.rand(len(rows), generator=generator)


def plain(
    lms: tuple[LanguageModel, LanguageModel, LanguageModel], ids: Tensor, rows: Tensor, weights: Tensor
) -> Tensor:
    """The loss as written: full logits of the original, the strengthened model and the student (2401.06121, eq. 4)."""
    flat = [lm.model(input_ids=ids, use_cache=False).logits.flatten(0, 1)[rows].float() for lm in lms]
    l_o, l_aug, student = flat[0].detach(), flat[1].detach(), flat[2]
    teacher = torch.log_softmax(l_o - ALPHA * F.relu(l_aug - l_o), -1)
    log_probs = torch.log_softmax(student, -1)
    return (weights * (log_probs.exp() * (log_probs - teacher)).sum(-1)).sum()


def ours(
    lms: tuple[LanguageModel, LanguageModel, LanguageModel], ids: Tensor, rows: Tensor, weights: Tensor, folder: Path
) -> Tensor:
    """The same from hidden states, by the cached heads and the chunked loss."""
    original, strengthened, student = lms
    teacher = Teacher(HiddenCache(folder, {"of": "architectures"}), alpha=ALPHA)
    if not student.is_adapter:
        teacher.cache.write_head("original", original)
        teacher.cache.write_head("strengthened", strengthened)
    teacher.attach(student)
    with torch.no_grad():
        inputs = {n: hidden_at(lm.backbone, ids, rows) for n, lm in zip(("original", "strengthened"), lms)}
    hidden = hidden_at(student.backbone, ids, rows)
    segment = Segment(weights, Towards(reverse_kl, teacher.composite), inputs)
    head = student.head
    return linear_divergence(hidden, head.weight, head.bias, [segment], 3, student.logit_transform)[0]


def difference(lm: LanguageModel) -> float:
    """Largest relative difference of loss and gradients between :func:`plain` and :func:`ours`."""
    lms = (lm, moved(lm, 2), moved(lm, 3))
    ids, rows, weights = records(lm.vocab_rows)
    trained = [p for p in trainable_state(lms[2]).values() if p.requires_grad]
    with tempfile.TemporaryDirectory() as folder:
        losses = [plain(lms, ids, rows, weights), ours(lms, ids, rows, weights, Path(folder))]
    gradients = [torch.autograd.grad(loss, trained, allow_unused=True, retain_graph=True) for loss in losses]
    largest = max((g.abs().max() for g in gradients[0] if g is not None), default=torch.zeros(()))
    found = [abs(losses[0] - losses[1]) / abs(losses[0])]
    for expected, mine in zip(*gradients):
        if (expected is None) != (mine is None):
            expected, mine = (torch.zeros(()) if g is None else g for g in (expected, mine))
        if expected is not None:
            found.append((expected - mine).abs().max() / largest)
    return float(max(found))


def tried(kind: str) -> Outcome:
    """One configuration."""
    try:
        net = tiny(kind)
    except Exception as error:  # whatever a foreign configuration raises
        return Outcome(kind, "not tried", f"no tiny model: {type(error).__name__}: {str(error)[:90]}")
    try:
        lm = load_model(net, tokenizer=tiny_tokenizer())
    except UserError as error:
        return Outcome(kind, "refused", str(error).split(". Choose")[0])
    full = difference(lm)
    batched = supports_left_padding(lm)
    prompts = [[5, 6, 7, 8, 9], [7, 5], [9, 9, 4]]
    together = [answer.ids for answer in greedy(lm, prompts, max_new_tokens=6)]
    alone = [answer.ids for prompt in prompts for answer in greedy(lm, [prompt], max_new_tokens=6)]
    if together != alone:
        return Outcome(kind, "wrong", "answers in a batch are others", full, batched=batched)
    try:
        adapted = new_adapter(copy.deepcopy(lm), rank=2)
        lora, share, note = difference(adapted), reach(adapted), ""
    except UserError as error:
        lora = share = None
        note = f"no adapter: {error}"
    worst = max(full, lora or 0.0)
    return Outcome(kind, "works" if worst < TOLERANCE else "wrong", note, full, lora, share, batched)


def outcomes(kinds: list[str]) -> Iterator[Outcome]:
    for kind in kinds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield tried(kind)
            except Exception as error:  # the table must say so, and go on
                yield Outcome(kind, "wrong", f"{type(error).__name__}: {str(error)[:120]}")


def table(found: list[Outcome]) -> str:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.1e}"

    rows = [
        [o.kind, o.state, number(o.full), number(o.lora), "" if o.reached is None else f"{o.reached:.0%}",
         {True: "yes", False: "one at a time", None: ""}[o.batched], o.note]
        for o in found
    ]  # fmt: skip
    return as_markdown(["configuration", "", "full", "LoRA", "reached by it", "answers in batches", "note"], rows)


@click.command(help=__doc__.split("\n")[0])
@click.option("--only", default="", help="Model types, with commas; all by default.")
@click.option("--results", type=click.Path(path_type=Path), default="benchmarks/results", show_default=True)
def main(only: str, results: Path) -> None:
    kinds = only.split(",") if only else sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    found = []
    for outcome in outcomes(kinds):
        print(outcome, flush=True)
        found.append(outcome)
    counts = {state: sum(o.state == state for o in found) for state in ("works", "refused", "wrong", "not tried")}
    print(counts)
    if not only:
        write(results, "architectures", "Architectures", "python -m benchmarks.architectures",
              {o.kind: vars(o) for o in found}, table(found))  # fmt: skip


if __name__ == "__main__":
    main()
