"""Make a language model forget a person: reverse-KL distillation to a teacher that no longer knows them.

The public names are loaded when they are first used, so that importing rkld costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rkld.auditing.running import Audit, audit
    from rkld.benching.comparing import Bench, bench
    from rkld.benching.request_sequence import Continual, continual
    from rkld.commands.check_run import check
    from rkld.commands.unlearn_records import unlearn
    from rkld.discovering.findings import Discovery
    from rkld.discovering.running import discover
    from rkld.errors import UserError
    from rkld.models.sharding import load_sharded
    from rkld.pipeline.running import Result
    from rkld.runfolder.purging import purge
    from rkld.settings.unlearning import Settings
    from rkld.teacher.logits import Teacher
    from rkld.training.config import RKLDConfig
    from rkld.training.rkld_trainer import RKLDTrainer, build_teacher

    __version__: str

__all__ = [
    "Audit",
    "Bench",
    "Continual",
    "Discovery",
    "RKLDConfig",
    "RKLDTrainer",
    "Result",
    "Settings",
    "Teacher",
    "UserError",
    "__version__",
    "audit",
    "bench",
    "build_teacher",
    "check",
    "continual",
    "discover",
    "load_sharded",
    "purge",
    "unlearn",
]

_HOME = {
    "unlearn": "commands.unlearn_records",
    "check": "commands.check_run",
    "audit": "auditing.running",
    "bench": "benching.comparing",
    "Bench": "benching.comparing",
    "continual": "benching.request_sequence",
    "Continual": "benching.request_sequence",
    "discover": "discovering.running",
    "Discovery": "discovering.findings",
    "purge": "runfolder.purging",
    "Result": "pipeline.running",
    "Audit": "auditing.running",
    "Settings": "settings.unlearning",
    "RKLDTrainer": "training.rkld_trainer",
    "RKLDConfig": "training.config",
    "Teacher": "teacher.logits",
    "build_teacher": "training.rkld_trainer",
    "load_sharded": "models.sharding",
    "UserError": "errors",
}
"""Public name → the module that defines it."""


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
