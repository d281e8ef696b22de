"""``rkld.unlearn``: make a model forget the records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from transformers import PreTrainedTokenizerBase, TrainerCallback

from rkld import processes
from rkld.auditing.gates import fingerprint
from rkld.commands.note_request import Noting
from rkld.pipeline.preparing import Model, choose
from rkld.pipeline.running import Result, run_unlearning
from rkld.progress import NoProgress, chosen, without_noise
from rkld.records.sources import Source
from rkld.settings.typed import UnlearnKeywords


@without_noise()
def unlearn(
    model: Model | None = None,
    forget: Source | None = None,
    *,
    retain: Source | None = None,
    replay: Source | None = None,
    holdout: Source | None = None,
    control: Model | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    progress: NoProgress | bool | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **settings: Unpack[UnlearnKeywords],
) -> Result:
    """Make a model forget the records.

    Args:
        model: folder, hub name, alias, adapter folder, or a loaded model (trained in place, after a cast to ``dtype``:
            float32 by default).
        forget, retain: a file, a data set, a ``datasets.Dataset`` or a list of dicts.
        replay: "auto", "none", a file, or prompts as data like the others.
        holdout: records of people the model was never trained on, in the same forms (``stop="placebo"``).
        control: a model that has never seen the records, in the forms of ``model`` (``stop="control"``).
        processing_class: the tokenizer, where ``model`` is an object.
        progress: True, or an object that shows what is going on (:class:`rkld.progress.ProgressBars`).
        callbacks: :class:`transformers.TrainerCallback` objects for the distillation.
        settings: everything else, by the names of :class:`rkld.settings.unlearning.Settings`.

    Started by ``torchrun`` or ``accelerate launch``, all processes share the work, and each returns the result.

    Raises:
        UserError: bad input; nothing has been written then.
    """
    data = {"forget": forget, "retain": retain, "replay": replay, "holdout": holdout}
    given = {"model": model, "control": control, **data}
    with processes.together():
        # What cannot be noted is refused before time is spent.
        noting = processes.checked(lambda: Noting.of(*choose(given, settings)))
        result = run_unlearning(
            given,
            settings,
            tokenizer=processing_class,
            progress=progress,
            callbacks=callbacks,
            gates=fingerprint(),
        )
        number = None if noting is None else processes.by_main(lambda: noting.note(result))
        if noting is not None and number and processes.is_main():
            chosen(progress).say(f"Noted as line {number} of {noting.path}")
    return result
