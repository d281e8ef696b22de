"""A method with what the benchmark lets one add to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import yaml

from rkld.errors import UserError
from rkld.methods.method import Method
from rkld.methods.registry import METHODS, get_method
from rkld.settings.benching import listed
from rkld.settings.specification import make
from rkld.settings.unlearning import Settings

VARIANTS = ("rkld+replay", "gradient_ascent+kl", "idk+rt", "npo+rt", "npo+kl", "simnpo+rt")
"""What ``all`` has beside every method by itself: ours, and others with the retain terms of their papers."""

GROUPS: Mapping[str, Callable[[], Sequence[str]]] = {
    "all": lambda: (*(name for name in METHODS.names() if not METHODS.get(name)().needs_base), *VARIANTS),
    "alphas": lambda: tuple(f"rkld@alpha={alpha}" for alpha in (1, 2, 4, 6, 8, 10, 12)),
    "divergences": lambda: ("rkld", "jensen_shannon", "forward_kl"),
}
"""What ``--methods`` takes for several at once; the last two are the paper's sweep of α and its ablation."""

EXTRAS = ("rt", "kl", "replay")

SETTINGS = frozenset(one.name for one in fields(Settings))


@dataclass(frozen=True)
class Variant:
    """A method with what the benchmark lets one add: NAME[+rt|+kl][+replay][@SETTING=VALUE…].

    A SETTING may be a hyper-parameter of the method.
    """

    name: str
    """As it was written."""
    method: str
    extras: tuple[str, ...] = ()
    values: tuple[tuple[str, str], ...] = ()
    """Settings of :class:`rkld.settings.unlearning.Settings` that are not the benchmark's."""

    def make(self) -> Method:
        arguments = [value for name, value in self.values if name == "method_arg"]
        return get_method(self.method, arguments)

    def settings(self) -> dict[str, Any]:
        """By the names of :class:`rkld.settings.unlearning.Settings`; "retain" and "replay" say whether, not what."""
        method = self.make()
        values: dict[str, Any] = {"method": self.method, "score": "answer", "reword": 0}  # as methods are published
        for name, value in self.values:
            values[name] = (*values.get(name, ()), value) if name == "method_arg" else yaml.safe_load(value)
        loss = next((extra for extra in self.extras if extra in ("rt", "kl")), None)
        values["retain_loss"] = loss or "auto"
        values["replay"] = "replay" in self.extras
        # Records that a method cannot do without it gets unasked; replay will do where it says so.
        unasked = "retain" in method.needs and not (values["replay"] and "replay" in method.needs)
        values["retain"] = bool(loss) or unasked
        return values


def variant(name: str) -> Variant:
    """Read a variant's name.

    Raises:
        UserError: an unknown method, extra or setting, with the nearest known one.
    """
    head, *given = name.split("@")
    method, *extras = head.split("+")
    for extra in extras:
        if extra not in EXTRAS:
            raise UserError(f"'{name}': a method can be given +{', +'.join(EXTRAS)}, not '+{extra}'.")
    if {"rt", "kl"} <= set(extras):
        raise UserError(f"'{name}': one loss on retain records, +rt or +kl, not both.")
    values = []
    for one in given:
        key, equals, value = one.partition("=")
        key = key.replace("-", "_")
        if not equals:
            raise UserError(f"'{name}': write a setting as @name=value, not '@{one}'.")
        if key in ("method", "retain", "replay", "retain_loss", "out", "seed", "stop", "model", "forget"):
            raise UserError(f"'{name}': '{key}' is the benchmark's to set.")
        own = key not in SETTINGS and key in {one.name for one in fields(get_method(method))}
        values.append(("method_arg", f"{key}={value}") if own else (key, value))
    named = [value.partition("=")[0] if key == "method_arg" else key for key, value in values]
    if twice := next((key for key in named if named.count(key) > 1), None):
        raise UserError(f"'{name}': it sets '{twice}' twice.")
    found = Variant(name, method, tuple(extras), tuple(values))
    found.make().require(("retain", "replay"), found.settings()["retain_loss"])
    checked = {key: value for key, value in found.settings().items() if key not in ("retain", "replay")}
    make(checked, f"'{name}'", Settings)
    return found


def variants(methods: str) -> list[Variant]:
    """All that ``--methods`` names, in the order given, groups written out.

    Raises:
        UserError: as of :func:`variant`; none is named.
    """
    names: list[str] = []
    for name in listed(methods):
        names += GROUPS[name]() if name in GROUPS else (name,)
    if not names:
        raise UserError("--methods names none.")
    return [variant(name) for name in dict.fromkeys(names)]
