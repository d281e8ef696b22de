"""Attacks by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rkld.errors import UserError
from rkld.registry import Registry, source_hash

if TYPE_CHECKING:
    from rkld.auditing.reading import Attack
    from rkld.settings.auditing import AuditSettings

ATTACKS: Registry[type[Attack]] = Registry(
    "attack", "rkld.auditing.attacks", "rkld.auditing.reading.Attack", "--attacks", "rkld.attacks"
)
"""Every attack: a class on top of :class:`rkld.auditing.reading.Attack`."""

SETS = ("standard", "all", "none")
"""What ``--attacks`` takes beside names."""


def known_attacks(settings: AuditSettings) -> list[Attack]:
    """All registered attacks, by name, then those at ``FILE.py:NAME`` that the user typed.

    Raises:
        UserError: a name that is not known, a file without such an attack, or one with the name of another.
    """
    found = {name: attack(name) for name, attack in ATTACKS.items()}
    for spec in _listed(settings.attacks):
        if spec in SETS or spec in found:
            continue
        attack, name = ATTACKS.resolve(spec), spec.rpartition(":")[2]
        if name in found:
            raise UserError(f"--attacks {spec}: there is an attack '{name}' already. Give it another name.")
        found[name] = attack(name, source_hash(spec) or "")
    return list(found.values())


def chosen_attacks(settings: AuditSettings) -> list[Attack]:
    """The attacks to run, in the order of :func:`known_attacks`; UserError as there."""
    asked = {spec.rpartition(":")[2] for spec in _listed(settings.attacks)}
    everything, standard = "all" in asked, "standard" in asked
    return [
        attack
        for attack in known_attacks(settings)
        if everything or attack.name in asked or (standard and attack.standard)
    ]


def _listed(values: tuple[str, ...]) -> list[str]:
    """Names given one by one or with commas between them."""
    return [name.strip() for value in values for name in value.split(",") if name.strip()]
