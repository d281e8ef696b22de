"""Making the teacher: read the original, strengthen it on the forget records, read it again, restore it.

One model in memory throughout: what is needed of each state are its final hidden states and its head, in the cache.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from rkld import processes
from rkld.files import make_folder
from rkld.losses.chunked import Segment, linear_divergence
from rkld.losses.micro_batches import is_reworded, pools, steps_per_epoch
from rkld.losses.targets import to_labels
from rkld.models.language_model import LanguageModel
from rkld.models.sharded import is_sharded, whole
from rkld.models.smoothed_attention import smoothed
from rkld.models.state import restore_state, save_state
from rkld.progress import NoProgress
from rkld.records.encoding import Encoded, marked
from rkld.teacher.cache import HiddenCache, Part, marked_hidden
from rkld.training.callbacks import TrainingBar
from rkld.training.config import RKLDConfig
from rkld.training.floor import floors, write_floors
from rkld.training.held_back import EndWhereLearned, held_back, mean_loss
from rkld.training.trainer import fine_tune

T = TypeVar("T")


def fill_cache(
    lm: LanguageModel,
    cache: HiddenCache,
    sets: Mapping[str, Sequence[Encoded]],
    args: RKLDConfig,
    *,
    parts: Collection[Part] | None = None,
    swapped: Sequence[Encoded] = (),
    progress: NoProgress | None = None,
) -> None:
    """Put into the cache what is missing of it; ``lm`` ends as it began.

    Args:
        sets: the records, "forget" among them.
        args: of the strengthening; its ``output_dir`` takes checkpoints and, beside them, the original weights.
        parts: what is wanted (:func:`rkld.training.terms.cached_parts`): the final states "original" and
            "strengthened" (of "forget" alone; it makes the strengthening run), those that block N puts out under
            "layerN", the final ones under a smoothed attention (:mod:`rkld.models.smoothed_attention`) under
            "smoothedτ", and what is made of the original's (:data:`OF_TOKENS`). Default: what RKLD reads with all
            sets held to the original.
        swapped: the forget records about other people (:func:`rkld.training.floor.swapped_records`), for the floor.
    """
    progress = progress or NoProgress()
    strengthened = Part("strengthened", "forget")
    wanted = [Part("original", name) for name in sets] + [strengthened] if parts is None else sorted(parts)

    def read(part: str, records: Sequence[Encoded], layer: int | None = None) -> None:
        if cache.done(part):
            return
        mine = _mine(lm, records)
        with progress.bar(f"reading {part}", len(mine)) as advance, autocast(lm, args):
            cache.write(part, _kept(lm, _counted(marked_hidden(lm, mine, layer=layer), advance)))

    for states, name in wanted:
        if states == "original" or states in OF_TOKENS:
            read(f"original/{name}", sets[name])
        elif states.startswith("layer"):
            read(f"{states}/{name}", sets[name], int(states.removeprefix("layer")))
        elif states.startswith("smoothed"):
            with smoothed(lm.backbone, float(states.removeprefix("smoothed"))):
                read(f"{states}/{name}", sets[name])
        if states in OF_TOKENS and not cache.done(f"{states}/{name}"):
            cache.write(f"{states}/{name}", _kept(lm, OF_TOKENS[states](lm, name, _mine(lm, sets[name]), cache)))
    if swapped and not cache.done("uninformed/forget"):
        with progress.bar("reading other people", len(swapped)) as advance, autocast(lm, args):
            found = floors(lm, _mine(lm, sets["forget"]), swapped)
            write_floors(cache.write, _kept(lm, found))
            advance(len(swapped))
    if wanted and not lm.is_adapter:
        cache.write_head("original", lm)
    if strengthened not in wanted or cache.done(str(strengthened)):
        return
    with set_aside(lm, Path(str(args.output_dir))):
        strengthen(lm, sets["forget"], args, progress)
        if not lm.is_adapter:
            cache.write_head("strengthened", lm)
        read(str(strengthened), sets["forget"])


def strengthen(lm: LanguageModel, forget: Sequence[Encoded], args: RKLDConfig, progress: NoProgress) -> None:
    """Fine-tune on the records as they were given, in place; on their rewordings not, which are distilled alone.

    What the teacher suppresses is ``l_aug − l_o``, and the original knows the records almost by heart as they are:
    next to wordings that are new to it there is little to learn of them, and it ends *less* sure of them than it was.
    Tiny world, 20 records and as many rewordings, mean of the teacher's probability of the facts (α 8): strengthened
    on the records .36 as recorded and .33 reworded; on both together .82 and .30; on rewordings, then records .72 and
    .28. Forgotten along with rewordings by rules, all wordings sank further than without (.47, .29, .30 as recorded
    and in two other wordings; .37, .21, .21).

    Those rewordings tell when it has learned enough (:class:`rkld.training.held_back.EndWhereLearned`); without any it
    takes all its epochs.
    """
    given, others = [e for e in forget if not is_reworded(e)], held_back(forget)
    steps, epochs = fine_tuning_steps(given, args), int(args.num_train_epochs)
    ending = EndWhereLearned(lambda: mean_loss(lm, others), steps // max(1, epochs), args.strengthen_gain)
    with progress.bar("strengthening", steps) as advance:
        ends = [ending] if others and args.strengthen_gain else []
        fine_tune(lm, given, args, [TrainingBar(advance), *ends])
    if ending.ended_after is not None:
        progress.say(f"Strengthening ended after {ending.ended_after} of {epochs} epochs: other wordings gain no more")


@contextmanager
def set_aside(lm: LanguageModel, folder: Path) -> Iterator[None]:
    """Keep the weights in ``folder`` while the model is trained to be another, and restore them afterwards."""
    make_folder(folder)
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
    head, bias = whole(lm.head.weight.detach()), None if lm.head.bias is None else whole(lm.head.bias.detach())
    for e in records:
        hidden = cache.read(f"original/{name}", e.key).to(lm.device)
        labels = torch.tensor([token for token, m in zip(e.ids, marked(e)) if m], device=lm.device)
        part = Segment(torch.ones(len(labels), device=lm.device), to_labels, {"labels": labels})
        _, losses = linear_divergence(hidden, head, bias, [part], transform=lm.logit_transform)
        yield e.key, -losses.cpu()


def ranks(
    lm: LanguageModel, name: str, records: Sequence[Encoded], cache: HiddenCache
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (record key, (n,) in [0, 1]): the share of a record's scored tokens that the original finds less probable
    than this one, of equals those before it; 1 where a marked token is not scored."""
    for (key, found), e in zip(references(lm, name, records, cache), records, strict=True):
        places = torch.tensor([s for s, m in zip(e.scored, marked(e)) if m]).nonzero()[:, 0]
        order = found[places].argsort(stable=True)
        rank = torch.ones_like(found)
        rank[places[order]] = torch.arange(len(order), dtype=rank.dtype) / max(1, len(order))
        yield key, rank


OF_TOKENS = {"reference": references, "rank": ranks}
"""What of each marked token (n,) is made of the original's final states: its log-likelihood, and how rare that is."""


def autocast(lm: LanguageModel, args: RKLDConfig) -> torch.autocast:
    """The numerics of training, so that a cached state is what the student would compute."""
    return torch.autocast(lm.device.type, dtype=torch.bfloat16, enabled=bool(args.bf16))


def fine_tuning_steps(records: Sequence[Encoded], args: RKLDConfig) -> int:
    """Optimizer steps of a training on these records."""
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return int(args.num_train_epochs) * steps_per_epoch(len(pools(records)), batch)


def _mine(lm: LanguageModel, records: Sequence[Encoded]) -> Sequence[Encoded]:
    """What of the records this process reads: a part, or all of them where all must run equally many forwards."""
    return records if is_sharded(lm.model) else processes.part(records)


def _kept(lm: LanguageModel, items: Iterable[T]) -> Iterator[T]:
    """What this process writes of what it has read."""
    for item in items:
        if processes.is_main() or not is_sharded(lm.model):
            yield item


def _counted(
    items: Iterable[tuple[str, torch.Tensor]], advance: Callable[[], object]
) -> Iterator[tuple[str, torch.Tensor]]:
    for item in items:
        yield item
        advance()
