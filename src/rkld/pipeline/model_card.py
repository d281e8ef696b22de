"""The model card of an unlearned model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from rkld.methods.registry import get_method
from rkld.models.language_model import LanguageModel
from rkld.registry import without_file
from rkld.settings.table import peak_lr
from rkld.settings.unlearning import Settings

_TEXT = """\
---
{{ card_data }}
---
# Unlearned with rkld

Some records ({{ n }}) were unlearned from this model. Method: {{ method }}.
Settings: {{ settings }}a peak learning rate of {{ lr }}, batch size {{ batch_size }}, \
scored tokens: {{ score }}, self-replay: {{ replay }}.

Made with {{ versions }}. The run's manifest holds the evidence; this card holds no personal data.
"""


def model_card(settings: Settings, manifest: Mapping[str, Any], lm: LanguageModel) -> str:
    """What was done to the model, and nothing about whom.

    ``base_model`` is named where it is a hub name: the path of a folder may tell whose it is.
    """
    name = lm.inner.name_or_path
    base = name if name and not Path(name).is_absolute() and "/" in name else None
    data = ModelCardData(library_name="transformers", tags=["unlearning", "rkld"], base_model=base)
    card = ModelCard.from_template(
        data,
        template_str=_TEXT,
        n=manifest["records"]["forget records"]["n"],
        method=without_file(settings.method, "a method"),
        settings=_read(settings),
        lr=f"{peak_lr(settings.lr, lm.is_adapter, lm.parameters):g}",
        batch_size=settings.batch_size,
        score=settings.score,
        replay="yes" if manifest["phases"]["replay"].get("kept") else "none",
        versions=", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
    )
    return str(card)


def _read(settings: Settings) -> str:
    """α and epochs, where the method reads them."""
    method = get_method(settings.method, settings.method_arg)
    found = [f"alpha {settings.alpha:g}"] if method.reads_alpha else []
    found += [f"{settings.epochs} epochs"] if method.reads_epochs else []
    return "".join(f"{one}, " for one in found)
