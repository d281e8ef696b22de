"""Writing a model so that plain ``from_pretrained`` loads it."""

from __future__ import annotations

import copy
from pathlib import Path

from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from rkld.files import new_folder
from rkld.models.language_model import LanguageModel
from rkld.models.loading import lasting_reference
from rkld.models.writing import write_model, write_tokenizer


def save_model(lm: LanguageModel, folder: Path, *, merge: bool = False, card: str = "") -> None:
    """Write a folder that plain ``from_pretrained`` loads. It appears whole or not at all.

    Weights are written in the dtype they were trained in (float32 by default): rounding them to the
    checkpoint's would undo the smallest of the changes. With them go the tokenizer, its chat template, the
    generation config and README.md. An adapter names its base by absolute path or hub name.

    Args:
        folder: where to; what it held before is replaced.
        merge: write an adapter's model with the adapter merged in; needs memory for a second copy.
        card: text of README.md.
    """
    with new_folder(folder) as new:
        if lm.is_adapter and not merge:
            _save_adapter(lm, new)
        else:
            model = copy.deepcopy(lm.model).merge_and_unload() if lm.is_adapter else lm.model
            write_model(model, lm.tokenizer, new)
        (new / "README.md").write_text(card, encoding="utf-8")


def _save_adapter(lm: LanguageModel, folder: Path) -> None:
    # Not PeftModel.save_pretrained: it writes a card of its own and asks the hub about the base model.
    ((name, config),) = lm.model.peft_config.items()
    state = get_peft_model_state_dict(lm.model, adapter_name=name, save_embedding_layers=False)
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "adapter_model.safetensors", {"format": "pt"})
    config = copy.deepcopy(config)
    config.base_model_name_or_path = lasting_reference(lm.inner.name_or_path)
    config.inference_mode = True
    config.save_pretrained(folder)
    write_tokenizer(lm.tokenizer, folder)
