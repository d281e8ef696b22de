"""Greedy answers: a model's most likely tokens, the same whatever else is in the batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

from rkld import processes
from rkld.errors import UserError
from rkld.evaluation.likelihood import measuring
from rkld.evaluation.prefix_tree import common_length
from rkld.models.attention import single_tokens_in_float32
from rkld.models.checks import TOLERANCE
from rkld.models.sharded import gathered, is_sharded
from rkld.records.encoding import NEXT_QUESTION, end_of_turn_ids

if TYPE_CHECKING:
    from rkld.evaluation.likelihood import Scores
    from rkld.models.language_model import LanguageModel
    from rkld.records.encoding import Encoded


@dataclass(frozen=True)
class Generated:
    """One answer: its new token ids with the end token, if one came, and its text without special tokens."""

    ids: tuple[int, ...]
    text: str
    finished: bool  # ended by an end token, not cut at the cap
    endless: bool = False  # not cut either, but repeats itself for good (:func:`followed`)


BATCH_SIZE = 48
"""Answers generated together, where :func:`generation_batch_size` does not say otherwise."""

TRIED = 4
"""New tokens that a model must answer alike alone and in a batch, to be asked in batches."""

STEPS = 8
"""New tokens between two looks at which rows of a batch have finished."""

CLEAR_MARGIN = {torch.float64: 1e-6, torch.float32: 1e-2, torch.bfloat16: 1.0, torch.float16: 0.1}
"""Lead in logits that no rounding between two ways of computing them takes away, for the dtype of an answer."""


def greedy(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int] = 200,
    batch_size: int | None = None,
    starts: Sequence[Sequence[int]] | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[Generated]:
    """The most likely next token again and again, from each prompt (token ids), in the order given.

    An answer ends with an end token (:func:`end_ids`), after
    ``max_new_tokens`` (one cap for all or one per prompt; 200 as in TOFU) or where the context is full.
    Temperature, repetition penalty and the like of the model's generation config do not apply. ``starts`` holds the
    tokens each answer is known to begin with (:func:`known_prefixes`), which are not generated again. ``progress`` is
    called with the number of answers just made. Of several processes each answers a part of the prompts. UserError
    where a prompt is empty or fills the context.
    """
    starts = [()] * len(prompts) if starts is None else starts
    caps = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    for name, given in {"max_new_tokens": caps, "starts": starts}.items():
        if len(given) != len(prompts):
            raise ValueError(f"{name} has {len(given)} values for {len(prompts)} prompts")
    caps = [min(cap, left) for cap, left in zip(caps, room(lm, prompts), strict=True)]

    def answers(some: Sequence[int], advance: Callable[[int], object]) -> list[Generated]:
        asked, begun = [prompts[i] for i in some], [starts[i] for i in some]
        most = [caps[i] for i in some]
        return gathered(lm.model, lambda: _greedy(lm, asked, most, begun, batch_size, advance))

    return processes.shared(range(len(prompts)), answers, progress, split=not is_sharded(lm.model))


def _greedy(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    caps: Sequence[int],
    starts: Sequence[Sequence[int]],
    batch_size: int | None,
    progress: Callable[[int], object],
) -> list[Generated]:
    ends = end_ids(lm)
    generated = [cut_at_end_of_sequence(list(start[:cap]), ends) for start, cap in zip(starts, caps, strict=True)]
    unfinished = [i for i, ids in enumerate(generated) if len(ids) < caps[i] and not ended(ids, ends)]
    if len(unfinished) < len(prompts):
        progress(len(prompts) - len(unfinished))
    with answering(lm):
        longest_first = sorted(unfinished, key=lambda i: -len(prompts[i]) - len(generated[i]))
        batch_size = batch_size or generation_batch_size(lm)
        for at in range(0, len(unfinished), batch_size):
            batch = longest_first[at : at + batch_size]
            contexts = [[*prompts[i], *generated[i]] for i in batch]
            more = _generate(lm, contexts, [caps[i] - len(generated[i]) for i in batch], ends)
            for i, ids in zip(batch, more, strict=True):
                generated[i] += ids
            progress(len(batch))
    return [answer(lm, ids, ends, prompt) for ids, prompt in zip(generated, prompts, strict=True)]


def generation_batch_size(lm: LanguageModel) -> int:
    """Answers generated together. A GPU takes as long for a few as for many, if keys and values of many have room."""
    if not supports_left_padding(lm):
        return 1
    small = lm.head.weight.shape[1] <= 1024
    return 4 * BATCH_SIZE if lm.device.type == "cuda" and small else BATCH_SIZE


def supports_left_padding(lm: LanguageModel) -> bool:
    """Whether a prompt in a batch, padded on the left, is continued as it is alone.

    Tried once per model, so that no list of architectures is needed: some recurrent models read padding like text, or
    mix the rows of a batch, and some go wrong only when they go on from what they remember of it.
    """
    if lm.backbone not in _SUPPORTS_LEFT_PADDING:
        batch = (*left_padded([[1, 2], [2, 1, 2, 1, 2]], lm.device), None)
        _SUPPORTS_LEFT_PADDING[lm.backbone] = _goes_on_as_alone(lm, [1, 2], batch)
    return _SUPPORTS_LEFT_PADDING[lm.backbone]


_SUPPORTS_LEFT_PADDING: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()

Begun = tuple[Tensor, Tensor, DynamicCache | None]
"""Ids and attention mask of a batch, both (B, L) int64, and keys and values of their first tokens, if there are any."""


def _goes_on_as_alone(lm: LanguageModel, prompt: Sequence[int], batch: Begun) -> bool:
    """Whether the first row of a batch, which is the prompt, has the next logits that the prompt has alone."""
    config = GenerationConfig(max_new_tokens=TRIED, do_sample=False, pad_token_id=0)
    config.output_logits = config.return_dict_in_generate = True

    def first_row(ids: Tensor, attention: Tensor, cache: DynamicCache | None) -> tuple[Tensor, list[int]]:
        found = lm.inner.generate(
            input_ids=ids, attention_mask=attention, past_key_values=cache, generation_config=config
        )
        new: list[int] = found.sequences[0, ids.shape[1] :].tolist()
        return torch.stack([logits[0] for logits in found.logits]), new  # (TRIED, V)

    with default_generation_config(lm):
        (alone, said), (beside, again) = first_row(*left_padded([prompt], lm.device), None), first_row(*batch)
    # Behind a near tie that rounding decides, the two go on from different tokens.
    same = 1 + next((n for n, pair in enumerate(zip(said, again)) if pair[0] != pair[1]), TRIED - 1)
    # generate gives float32 logits of any weights.
    most = TOLERANCE[lm.head.weight.dtype] * alone.abs().max()
    return bool((alone - beside)[:same].abs().max() <= most)


SHARED = 8
"""Tokens, at least, that all prompts of a batch must begin with to be read once for all: a system prompt, say."""


def begun(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> Begun:
    """The prompts (token ids) as a batch, with what they all begin with read already, where that is worth it.

    Padding stands on the left; of prompts that share their beginning behind it.
    """
    ordered = sorted(map(tuple, prompts))  # what the first and the last begin with, all do
    shared = min(common_length(ordered[0], ordered[-1]), min(map(len, prompts)) - 1)
    if len(prompts) > 1 and shared >= SHARED and _shares_beginnings(lm):
        return _behind(lm, prompts, shared)
    return (*left_padded(prompts, lm.device), None)


def _behind(lm: LanguageModel, prompts: Sequence[Sequence[int]], shared: int) -> Begun:
    ids, attention = left_padded([prompt[shared:] for prompt in prompts], lm.device)
    beginning = torch.tensor([list(prompts[0][:shared])], device=lm.device)
    cache = lm.backbone(input_ids=beginning, use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(prompts))
    ids = torch.cat([beginning.expand(len(prompts), -1), ids], dim=1)
    return ids, F.pad(attention, (shared, 0), value=1), cache


def _shares_beginnings(lm: LanguageModel) -> bool:
    """Whether prompts that go on behind keys and values of their common beginning do so as alone. Tried once per model.

    Not where attention sees but so far back: padding between the two would count.
    """
    if lm.backbone not in _SHARES_BEGINNINGS:
        _SHARES_BEGINNINGS[lm.backbone] = supports_left_padding(lm) and _begins_as_alone(lm)
    return _SHARES_BEGINNINGS[lm.backbone]


_SHARES_BEGINNINGS: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


def _begins_as_alone(lm: LanguageModel) -> bool:
    beginning = [1, 2, 2, 1]
    prompts = [[*beginning, 1, 2], [*beginning, 2, 1, 2, 1, 2]]
    try:
        with default_generation_config(lm):
            batch = _behind(lm, prompts, len(beginning))
        cache = batch[2]
        if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return False
        return _goes_on_as_alone(lm, prompts[0], batch)
    except Exception:  # a model's own, whatever it is
        return False


def known_prefixes(lm: LanguageModel, encoded: Sequence[Encoded], scores: Sequence[Scores]) -> list[tuple[int, ...]]:
    """How the greedy answers are known to begin once the right ones have been read: where these lead by far.

    For each record the first tokens behind ``ids[:prompt_length]`` that are greedy by :data:`CLEAR_MARGIN`.
    ``scores`` are those of :func:`rkld.evaluation.likelihood.answer_scores` with mask "answer".
    """
    clear = CLEAR_MARGIN[lm.answers_in or lm.head.weight.dtype]
    starts = []
    for record, found in zip(encoded, scores, strict=True):
        before = sum(record.answer[: record.prompt_length])  # the scores of earlier answers
        leads = found.margins[before:] >= clear
        marked = record.answer[record.prompt_length :]
        length = next((n for n, m in enumerate(marked) if not m or not leads[n]), len(marked))
        starts.append(record.ids[record.prompt_length : record.prompt_length + length])
    return starts


def _generate(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], caps: Sequence[int], ends: frozenset[int]
) -> list[list[int]]:
    """At most ``caps[i]`` new ids per prompt, up to the first end token.

    Every few steps the rows that have finished leave the batch. None runs past its cap, so learned position
    embeddings never run out.
    """
    ids, attention, cache = begun(lm, prompts)
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        eos_token_id=sorted(ends) or None,
        pad_token_id=0,
        use_cache=True,
        return_dict_in_generate=True,
    )
    answers: list[list[int]] = [[] for _ in prompts]
    rows, steps = list(range(len(prompts))), STEPS
    while rows:
        config.max_new_tokens = min(steps, *(caps[row] - len(answers[row]) for row in rows))
        output = lm.inner.generate(
            input_ids=ids, attention_mask=attention, past_key_values=cache, generation_config=config
        )
        for row, new in zip(rows, output.sequences[:, ids.shape[1] :].tolist(), strict=True):
            answers[row] += cut_at_end_of_sequence(new, ends)
        keep = [n for n, row in enumerate(rows) if len(answers[row]) < caps[row] and not ended(answers[row], ends)]
        kept = torch.tensor(keep, dtype=torch.int64, device=lm.device)
        ids = output.sequences[kept]
        attention = F.pad(attention[kept], (0, ids.shape[1] - attention.shape[1]), value=1)
        cache = output.past_key_values
        if not can_go_on(cache):  # the rest is read again, in one go
            cache, steps = None, max(caps)
        elif len(keep) < len(rows):
            cache.reorder_cache(kept)
        rows = [rows[n] for n in keep]
    return answers


def can_go_on(cache: Any) -> bool:
    """Whether generate() can go on from a cache, some of its rows chosen: not from recurrent states and the like."""
    return type(cache) is DynamicCache and all(isinstance(layer, DynamicLayer) for layer in cache.layers)


@contextlib.contextmanager
def default_generation_config(lm: LanguageModel) -> Iterator[None]:
    """For measuring, and with nothing of the model's own generation config at work; restored afterwards."""
    base, own_config = lm.inner, lm.inner.generation_config
    # generate() fills whatever a config leaves open from the model's own, so that must be neutral as well.
    base.generation_config = GenerationConfig()
    try:
        with measuring(lm.model):
            yield
    finally:
        base.generation_config = own_config


@contextlib.contextmanager
def answering(lm: LanguageModel) -> Iterator[None]:
    """As :func:`default_generation_config`, in the dtype that the model answers in.

    Not where weights are sharded: autocast keeps what it has made of each until it ends.
    """
    dtype = None if is_sharded(lm.model) else lm.answers_in
    with (
        default_generation_config(lm),
        torch.autocast(lm.device.type, dtype=dtype, enabled=dtype is not None),
        single_tokens_in_float32(lm, dtype or lm.dtype),
    ):
        yield


def left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both (B, L) int64, as generation needs them.

    Any id can pad (0 always has an embedding row): the attention mask says what is padding.
    """
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, attention


def answer(lm: LanguageModel, ids: Sequence[int], ends: frozenset[int], prompt: Sequence[int]) -> Generated:
    """The new ids of an answer to a prompt, with its text.

    Without a chat template a base model goes on with a question of its own: the text ends before that, and is finished.
    """
    text = lm.tokenizer.decode(ids, skip_special_tokens=True)
    if NEXT_QUESTION in text and lm.tokenizer.chat_template is None:
        asked = lm.tokenizer.decode(prompt, skip_special_tokens=True)
        if "Answer:" in asked.rpartition(NEXT_QUESTION)[2]:
            return Generated(tuple(ids), text.partition(NEXT_QUESTION)[0], finished=True)
    return Generated(tuple(ids), text, finished=ended(ids, ends))


REPEATS = 4
"""How often an answer says the same at its end, token by token, where it is said to repeat itself."""

FOLLOWED = 1024
"""New tokens up to which an answer that repeats itself is followed."""


def followed(lm: LanguageModel, prompts: Sequence[Sequence[int]], answers: Sequence[Generated]) -> list[Generated]:
    """The answers, of which those that repeat themselves where they were cut are followed further.

    One that says the same over and over up to :data:`FOLLOWED` tokens, or to the end of the context, has no end that
    could be waited for (repetition reinforces itself: Holtzman et al. 2020, arXiv 1904.09751, section 4.2): it is
    ``endless``, and keeps its text. One that goes on otherwise, or ends, has its new text.

    Where more than a tenth repeat themselves nothing is followed: that is a broken model, and takes a long time.
    """
    periods = {i: period(found.ids) for i, found in enumerate(answers) if not found.finished}
    looping = {i: after for i, after in periods.items() if after is not None}
    if not looping or len(looping) > max(1, len(answers) // 10):
        return list(answers)
    starts = [answers[i].ids for i in looping]
    longer = greedy(lm, [prompts[i] for i in looping], max_new_tokens=FOLLOWED, starts=starts)
    found = list(answers)
    for (i, after), more in zip(looping.items(), longer, strict=True):
        new = len(answers[i].ids)
        same = not more.finished and len(more.ids) > new and more.ids[new:] == more.ids[new - after : -after]
        found[i] = replace(answers[i], endless=True) if same else more
    return found


def period(ids: Sequence[int]) -> int | None:
    """The fewest tokens that stand :data:`REPEATS` times at the end, one after another; None where none do."""
    lengths = range(1, len(ids) // REPEATS + 1)
    return next((n for n in lengths if ids[-REPEATS * n : -n] == ids[-(REPEATS - 1) * n :]), None)


def cut_at_end_of_sequence(ids: list[int], ends: frozenset[int]) -> list[int]:
    """The answer up to its first end token."""
    return ids[: next((n for n, token in enumerate(ids, start=1) if token in ends), None)]


def ended(ids: Sequence[int], ends: frozenset[int]) -> bool:
    return bool(ids) and ids[-1] in ends


def room(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[int]:
    """Positions left in the context after each prompt."""
    context = lm.context_length or 2**31
    for number, prompt in enumerate(prompts, start=1):
        if not prompt:
            raise UserError(
                f"Prompt {number} of {len(prompts)} has no tokens, but a model needs one to go on from:"
                " give it a prompt."
            )
        if len(prompt) >= context:
            raise UserError(
                f"Prompt {number} of {len(prompts)} has {len(prompt)} tokens, but the model's context holds"
                f" {context} and the answer needs room in it: shorten the prompt."
            )
    return [context - len(prompt) for prompt in prompts]


def end_ids(lm: LanguageModel) -> frozenset[int]:
    """Tokens that end an answer: what the chat template sets behind one, and what model and tokenizer name.

    In many models the tokenizer's eos is another token than the end of turn, and answers would run on past it.
    """
    configured = lm.inner.generation_config.eos_token_id
    configured = configured if isinstance(configured, (list, tuple)) else [configured]
    turn = end_of_turn_ids(lm.tokenizer)
    return turn | {token for token in (*configured, lm.tokenizer.eos_token_id) if token is not None}
