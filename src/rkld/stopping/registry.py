"""Stopping rules by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rkld.errors import UserError
from rkld.registry import Registry

if TYPE_CHECKING:
    from rkld.stopping.rule import StoppingRule

STOPPING_RULES: Registry[type[StoppingRule]] = Registry(
    "stopping rule", "rkld.stopping.rules", "rkld.stopping.rule.StoppingRule", "--stop", "rkld.stopping_rules"
)
"""Every stopping rule: a class on top of :class:`rkld.stopping.rule.StoppingRule`."""


def get_rule(name: str) -> type[StoppingRule]:
    """The rule called ``name``, or the one at ``FILE.py:NAME``, which is run: for what the user typed.

    Raises:
        UserError: no such rule or file; a rule that is for benchmarks alone.
    """
    rule = STOPPING_RULES.resolve(name)
    if rule.benchmarks_only:
        raise UserError(
            f"--stop {name} needs a retrained model, which no erasure has: it is for benchmarks. "
            f"Take one of {', '.join(selectable_rules())}."
        )
    return rule


def selectable_rules() -> list[str]:
    """The names that ``--stop`` takes, sorted."""
    return [name for name, rule in STOPPING_RULES.items() if not rule.benchmarks_only]
