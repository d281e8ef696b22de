"""Making the teacher: read the original, strengthen it on the forget records, read it again, restore it.

One model in memory throughout: what is needed of each state are its final hidden states and its head, in the cache.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from .encoding import Encoded
from .floor import floors
from .linear_divergence import Segment, linear_divergence
from .models import LanguageModel, fingerprint, restore_state, save_state
from .progress import Silent, TrainingBar
from .teacher import HiddenCache, Teacher, marked, marked_hidden
from .trainer import RKLDConfig, encode_sets, fine_tune, load_student, to_labels


def fill_cache(
    lm: LanguageModel,
    cache: HiddenCache,
    sets: Mapping[str, Sequence[Encoded]],
    args: RKLDConfig,
    *,
    parts: Collection[str] = ("original", "strengthened"),
    swapped: Sequence[Encoded] = (),
    progress: Silent | None = None,
) -> None:
    """Put into the cache what is missing of it; ``lm`` ends as it began.

    Args:
        sets: "forget" first; the original's states are kept for all of them.
        args: of the strengthening; its ``output_dir`` takes checkpoints and, beside them, the original weights.
        parts: what the method reads of the forget records (:class:`rkld.methods.Method`): "strengthened" makes the
            strengthening run, "reference" keeps the original's log-likelihood of each marked token (n,).
        swapped: the forget records about other people (:func:`rkld.floor.swapped_records`), for the floor.
    """
    progress = progress or Silent()

    def read(part: str, records: Sequence[Encoded]) -> None:
        if cache.done(part):
            return
        with progress.bar(f"reading {part}", len(records)) as advance, autocast(lm, args):
            cache.write(part, _counted(marked_hidden(lm, records), advance))

    for name, records in sets.items():
        read(f"original/{name}", records)
    if swapped and not cache.done("uninformed/forget"):
        with progress.bar("reading other people", len(swapped)) as advance, autocast(lm, args):
            states, flags = floors(lm, sets["forget"], swapped)
            advance(len(swapped))
        cache.write("floored/forget", flags)
        cache.write("uninformed/forget", states)
    if not lm.is_adapter:
        cache.write_head("original", lm)
    if "reference" in parts and not cache.done("reference/forget"):
        cache.write("reference/forget", references(lm, sets["forget"], cache))
    if "strengthened" not in parts or cache.done("strengthened/forget"):
        return
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    save_state(lm, folder / "original.safetensors")
    with progress.bar("strengthening", fine_tuning_steps(sets["forget"], args)) as advance:
        fine_tune(lm, sets["forget"], args, [TrainingBar(advance)])
    if not lm.is_adapter:
        cache.write_head("strengthened", lm)
    read("strengthened/forget", sets["forget"])
    restore_state(lm, folder / "original.safetensors")
    gc.collect()


def references(
    lm: LanguageModel, records: Sequence[Encoded], cache: HiddenCache
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (record key, log-likelihoods (n,) of its marked tokens under the original), from its cached states.

    In float32 at least, in nats: what NPO, DPO and their kin compare the student with.
    """
    head, bias = lm.head.weight.detach(), None if lm.head.bias is None else lm.head.bias.detach()
    for e in records:
        hidden = cache.read("original/forget", e.key).to(lm.device)
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
        args: of the strengthening. Default: the paper's, 5 epochs.
        alpha: ``l_t = l_o − α · ReLU(l_aug − l_o)``; the cache serves any.

    Other arguments as of :class:`rkld.trainer.RKLDTrainer`.
    """
    lm = load_student(model, processing_class, peft_config)
    args = args or RKLDConfig(output_dir=str(Path(folder) / "strengthened"))
    sets = encode_sets(lm, score, train_dataset, replay_dataset, retain_dataset)
    identity = cache_identity(lm, sets, args)
    # A place of their own: checkpoints of other records or settings must not be gone on from.
    name = hashlib.blake2b(repr(identity).encode(), digest_size=8).hexdigest()
    cache = HiddenCache(Path(folder), identity)
    fill_cache(lm, cache, sets, replace(args, output_dir=str(Path(args.output_dir) / name)))
    return Teacher(cache, alpha=alpha)


def cache_identity(lm: LanguageModel, sets: Mapping[str, Sequence[Encoded]], args: RKLDConfig) -> dict:
    """All that decides what a cache holds: the model, the ids and masks of the records, the strengthening."""
    ids = [(name, e.key, e.ids, e.answer, e.scored) for name, records in sets.items() for e in records]
    return {
        "model": fingerprint(lm),
        "records": hashlib.blake2b(repr(ids).encode(), digest_size=16).hexdigest(),
        "strengthening": [
            args.num_train_epochs, args.learning_rate, args.weight_decay, args.warmup_epochs, str(args.optim),
            args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size, args.seed,
        ],
        "numerics": [str(lm.head.weight.dtype), args.bf16],
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
