"""Make a language model forget a person: reverse-KL distillation to a teacher that no longer knows them.

The public names are loaded when they are first used, so that importing rkld costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .audit.suite import Audit, audit
    from .bench.continual import Continual, continual
    from .bench.suite import Bench, bench
    from .check import check
    from .errors import UserError
    from .run import purge
    from .settings import Settings
    from .strengthening import build_teacher
    from .teacher import Teacher
    from .trainer import RKLDConfig, RKLDTrainer
    from .unlearn import Result, unlearn

    __version__: str

_HOME = {
    "unlearn": "unlearn",
    "check": "check",
    "audit": "audit.suite",
    "bench": "bench.suite",
    "Bench": "bench.suite",
    "continual": "bench.continual",
    "Continual": "bench.continual",
    "purge": "run",
    "Result": "unlearn",
    "Audit": "audit.suite",
    "Settings": "settings",
    "RKLDTrainer": "trainer",
    "RKLDConfig": "trainer",
    "Teacher": "teacher",
    "build_teacher": "strengthening",
    "UserError": "errors",
}
"""Public name → the module that defines it."""

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version(__name__)
    elif name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Lets ``rkld.unlearn`` and ``rkld.check`` be the functions: importing a submodule makes it an attribute
    of its package, which would put the modules of these names in their place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
