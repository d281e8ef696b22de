"""Making the teacher: read the original, strengthen it on the forget records, read it again, restore it.

One model in memory throughout: what is needed of each state are its final hidden states and its head, in the cache.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import torch

from .encoding import Encoded
from .floor import floors
from .linear_divergence import Segment, linear_divergence
from .models import LanguageModel, fingerprint, restore_state, save_state
from .objective import to_labels
from .progress import Silent, TrainingBar
from .teacher import HiddenCache, Teacher, marked, marked_hidden
from .trainer import RKLDConfig, build_terms, cached_parts, encode_sets, fine_tune, load_student


def fill_cache(
    lm: LanguageModel,
    cache: HiddenCache,
    sets: Mapping[str, Sequence[Encoded]],
    args: RKLDConfig,
    *,
    parts: Collection[str] | None = None,
    swapped: Sequence[Encoded] = (),
    progress: Silent | None = None,
) -> None:
    """Put into the cache what is missing of it; ``lm`` ends as it began.

    Args:
        sets: the records, "forget" among them.
        args: of the strengthening; its ``output_dir`` takes checkpoints and, beside them, the original weights.
        parts: what is wanted, as "PART/SET" (:func:`rkld.trainer.cached_parts`): the final hidden states "original"
            and "strengthened" (of "forget" alone; it makes the strengthening run), those that block N puts out under
            "layerN", and "reference", the original's log-likelihood of each marked token (n,). Default: what RKLD
            reads with all sets held to the original.
        swapped: the forget records about other people (:func:`rkld.floor.swapped_records`), for the floor.
    """
    progress = progress or Silent()
    wanted = [f"original/{name}" for name in sets] + ["strengthened/forget"] if parts is None else sorted(parts)

    def read(part: str, records: Sequence[Encoded], layer: int | None = None) -> None:
        if cache.done(part):
            return
        with progress.bar(f"reading {part}", len(records)) as advance, autocast(lm, args):
            cache.write(part, _counted(marked_hidden(lm, records, layer=layer), advance))

    for part, name in (found.split("/") for found in wanted):
        if part in ("original", "reference"):
            read(f"original/{name}", sets[name])
        elif part.startswith("layer"):
            read(f"{part}/{name}", sets[name], int(part.removeprefix("layer")))
        if part == "reference" and not cache.done(f"reference/{name}"):
            cache.write(f"reference/{name}", references(lm, name, sets[name], cache))
    if swapped and not cache.done("uninformed/forget"):
        with progress.bar("reading other people", len(swapped)) as advance, autocast(lm, args):
            states, flags = floors(lm, sets["forget"], swapped)
            advance(len(swapped))
        cache.write("floored/forget", flags)
        cache.write("uninformed/forget", states)
    if wanted and not lm.is_adapter:
        cache.write_head("original", lm)
    if "strengthened/forget" not in wanted or cache.done("strengthened/forget"):
        return
    with set_aside(lm, Path(args.output_dir)):
        with progress.bar("strengthening", fine_tuning_steps(sets["forget"], args)) as advance:
            fine_tune(lm, sets["forget"], args, [TrainingBar(advance)])
        if not lm.is_adapter:
            cache.write_head("strengthened", lm)
        read("strengthened/forget", sets["forget"])


@contextmanager
def set_aside(lm: LanguageModel, folder: Path) -> Iterator[None]:
    """Keep the weights in ``folder`` while the model is trained to be another, and restore them afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    save_state(lm, folder / "original.safetensors")
    try:
        yield
    finally:  # the model may be the caller's own, whose weights must not stay those of a training that failed
        restore_state(lm, folder / "original.safetensors")
        gc.collect()


def references(
    lm: LanguageModel, name: str, records: Sequence[Encoded], cache: HiddenCache
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (record key, log-likelihoods (n,) of its marked tokens under the original), from the set's cached states.

    In float32 at least, in nats: what NPO, DPO and their kin compare the student with.
    """
    head, bias = lm.head.weight.detach(), None if lm.head.bias is None else lm.head.bias.detach()
    for e in records:
        hidden = cache.read(f"original/{name}", e.key).to(lm.device)
        labels = torch.tensor([token for token, m in zip(e.ids, marked(e)) if m], device=lm.device)
        part = Segment(torch.ones(len(labels), device=lm.device), to_labels, {"labels": labels})
        _, losses = linear_divergence(hidden, head, bias, [part])
        yield e.key, -losses.cpu()


def build_teacher(
    model,
    train_dataset,
    folder: str | Path,
    *,
    args: RKLDConfig | None = None,
    replay_dataset=None,
    retain_dataset=None,
    processing_class=None,
    peft_config=None,
    alpha: float = 8.0,
    score: str = "answer",
) -> Teacher:
    """Make a teacher for :class:`rkld.trainer.RKLDTrainer`, which takes the same model and data sets.

    Args:
        folder: of the cache; a finished one is used again if nothing it was made from has changed.
        args: of the strengthening, and the method if it is not RKLD. Default: the paper's, 5 epochs.
        alpha: ``l_t = l_o − α · ReLU(l_aug − l_o)``; the cache serves any.

    Other arguments as of :class:`rkld.trainer.RKLDTrainer`.
    """
    lm = load_student(model, processing_class, peft_config)
    args = args or RKLDConfig(output_dir=str(Path(folder) / "strengthened"))
    args = replace(args, score=score)
    sets = encode_sets(lm, args, train_dataset, replay_dataset, retain_dataset)
    identity = cache_identity(lm, sets, args)
    # A place of their own: checkpoints of other records or settings must not be gone on from.
    name = hashlib.blake2b(repr(identity).encode(), digest_size=8).hexdigest()
    cache = HiddenCache(Path(folder), identity)
    teacher = Teacher(cache, alpha=alpha)
    held = {f"original/{name}" for name in sets}  # whatever the student's settings will be
    parts = held | cached_parts(build_terms(sets, teacher, lm, args))
    fill_cache(lm, cache, sets, replace(args, output_dir=str(Path(args.output_dir) / name)), parts=parts)
    return teacher


def cache_identity(
    lm: LanguageModel, sets: Mapping[str, Sequence[Encoded]], args: RKLDConfig, swapped: Sequence[Encoded] = ()
) -> dict:
    """All that decides what a cache holds: the model, the ids and masks of the records, the strengthening, the floor.

    Args:
        swapped: as of :func:`fill_cache`. A cache made with a floor must not serve a run without one.
    """
    floor = [(e.key, e.ids, e.scored) for e in swapped]
    ids = [(name, e.key, e.ids, e.answer, e.scored) for name, records in sets.items() for e in records]
    return {
        "model": fingerprint(lm),
        "records": hashlib.blake2b(repr(ids).encode(), digest_size=16).hexdigest(),
        "strengthening": {
            "batch_size": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
            **{f.name: str(getattr(args, f.name)) for f in fields(args) if not _of_no_account(f.name)},
        },
        "numerics": [str(lm.head.weight.dtype), args.bf16],
        "floor": hashlib.blake2b(repr(floor).encode(), digest_size=16).hexdigest(),
    }  # fmt: skip


def _of_no_account(name: str) -> bool:
    """Whether a setting of the training cannot change what it ends with, beyond rounding. One that is new in
    transformers is taken to matter: a cache that is made again costs minutes, a stale one costs the result."""
    return name in _UNIMPORTANT or name.startswith(("log", "save_", "eval_", "do_", "hub_", "push_", "dataloader_"))


_UNIMPORTANT = {
    # of the student's training: the cache serves any
    "method", "method_arg", "alpha", "score", "retain_loss", "retain_weight", "replay_weight", "keep_weight",
    # how it is computed, and what is said of it
    "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "chunk_rows", "use_cpu",
    "gradient_checkpointing_kwargs", "local_rank", "ddp_backend", "ddp_find_unused_parameters", "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers", "ddp_timeout", "fsdp", "fsdp_config", "deepspeed", "accelerator_config", "parallelism_config",
    "output_dir", "checkpoint_minutes", "report_to", "run_name", "project", "trackio_space_id", "disable_tqdm",
    "per_device_eval_batch_size", "torch_empty_cache_steps", "skip_memory_metrics", "ignore_data_skip",
    "resume_from_checkpoint", "remove_unused_columns", "load_best_model_at_end", "metric_for_best_model",
    "greater_is_better", "batch_eval_metrics", "prediction_loss_only", "restore_callback_states_from_checkpoint",
    "enable_jit_checkpoint", "auto_find_batch_size", "activation_checkpointing", "activation_checkpointing_kwargs",
    "include_num_input_tokens_seen", "trackio_bucket_id", "trackio_static_space_id", "include_for_metrics", "debug",
    "bf16_full_eval", "fp16_full_eval", "label_names",
}  # fmt: skip


def autocast(lm: LanguageModel, args: RKLDConfig) -> torch.autocast:
    """The numerics of training, so that a cached state is what the student would compute."""
    return torch.autocast(lm.device.type, dtype=torch.bfloat16, enabled=args.bf16)


def fine_tuning_steps(records: Sequence[Encoded], args: RKLDConfig) -> int:
    """Optimizer steps of a training on these records."""
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return int(args.num_train_epochs) * -(-len(records) // batch)


def _counted(items, advance):
    for item in items:
        yield item
        advance()
