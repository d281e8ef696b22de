"""What decides the contents of a teacher's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from rkld.models.language_model import LanguageModel
from rkld.models.state import fingerprint
from rkld.records.encoding import Encoded
from rkld.settings.table import SHARED
from rkld.training.config import RKLDConfig
from rkld.training.floor import TOKENS


def cache_identity(
    lm: LanguageModel, sets: Mapping[str, Sequence[Encoded]], args: RKLDConfig, swapped: Sequence[Encoded] = ()
) -> dict[str, Any]:
    """All that decides what a cache holds: the model, the ids and masks of the records, the strengthening, the floor.

    Args:
        swapped: as of :func:`fill_cache`. A cache made with a floor must not serve a run without one.
    """
    floor = [TOKENS, *((e.key, e.ids, e.scored) for e in swapped)]
    ids = [(name, e.key, e.ids, e.answer, e.scored) for name, records in sets.items() for e in records]
    return {
        "model": fingerprint(lm),
        "records": hashlib.blake2b(repr(ids).encode(), digest_size=16).hexdigest(),
        "strengthening": {
            "batch_size": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
            **{f.name: str(getattr(args, f.name)) for f in fields(args) if not _without_effect(f.name)},
        },
        "numerics": [str(lm.head.weight.dtype), args.bf16],
        "floor": hashlib.blake2b(repr(floor).encode(), digest_size=16).hexdigest(),
    }


def _without_effect(name: str) -> bool:
    """Whether a setting of the training cannot change what it ends with, beyond rounding. One that is new in
    transformers is taken to matter: a cache that is made again costs minutes, a stale one costs the result."""
    if name in _AS_STRENGTHENED:
        return False
    if name in SHARED and SHARED[name].affects != "teacher":
        return True
    return name in _UNIMPORTANT or name.startswith(("log", "save_", "eval_", "do_", "hub_", "push_", "dataloader_"))


_AS_STRENGTHENED = ("num_train_epochs", "learning_rate")
"""These are the strengthening's own in its arguments."""

_UNIMPORTANT = {
    # have become the two above
    "strengthen_epochs",
    "strengthen_lr",
    # how it is computed, and what is said of it
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "chunk_rows",
    "use_cpu",
    "gradient_checkpointing_kwargs",
    "local_rank",
    "ddp_backend",
    "ddp_find_unused_parameters",
    "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
    "ddp_timeout",
    "fsdp",
    "fsdp_config",
    "deepspeed",
    "accelerator_config",
    "parallelism_config",
    "output_dir",
    "report_to",
    "run_name",
    "project",
    "trackio_space_id",
    "disable_tqdm",
    "per_device_eval_batch_size",
    "torch_empty_cache_steps",
    "skip_memory_metrics",
    "ignore_data_skip",
    "resume_from_checkpoint",
    "remove_unused_columns",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "batch_eval_metrics",
    "prediction_loss_only",
    "restore_callback_states_from_checkpoint",
    "enable_jit_checkpoint",
    "auto_find_batch_size",
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "include_num_input_tokens_seen",
    "trackio_bucket_id",
    "trackio_static_space_id",
    "include_for_metrics",
    "debug",
    "bf16_full_eval",
    "fp16_full_eval",
    "label_names",
}
