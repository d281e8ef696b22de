"""The model card of an unlearned model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rkld import methods
from rkld.settings.unlearning import Settings


def model_card(settings: Settings, manifest: Mapping[str, Any]) -> str:
    """What was done to the model, and nothing about whom."""
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    n = manifest["records"]["forget records"]["n"]
    method = methods.get_method(settings.method, settings.method_arg)
    return f"""---
library_name: transformers
tags: [unlearning, rkld]
---
# Unlearned with rkld

Some records ({n}) were unlearned from this model. Method: {method.title}.
Settings: alpha {settings.alpha:g}, {settings.epochs} epochs at a peak learning rate of {settings.peak_lr:g}, batch size
{settings.batch_size}, scored tokens: {settings.score}, self-replay: {"none" if settings.replay == "none" else "yes"}.

Made with {versions}. The run's manifest holds the evidence; this card holds no personal data.
"""
