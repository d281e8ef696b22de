"""Every unlearning method, one file each; this registry finds them.

A method is a module with a class ``METHOD`` of :class:`Method`. Adding one means adding its file.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol

from ..errors import UserError, nearest


class Method(Protocol):
    """What a method tells the phases of :mod:`rkld.unlearn`.

    Attributes:
        cached: what of the forget records its loss reads from the cache: the hidden states "original" and
            "strengthened" (which makes the strengthening phase run), and "reference", the original's log-likelihood
            of each scored token.
    """

    cached: tuple[str, ...]

    def loss(self, teacher):
        """The loss on scored tokens of the forget records (:data:`rkld.linear_divergence.RowLoss`)."""
        ...


def method_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get_method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        UserError: no such method.
    """
    if name not in method_names():
        raise UserError(f"unknown method '{name}'.{nearest(name, method_names())} Known: {', '.join(method_names())}.")
    return importlib.import_module(f"{__name__}.{name}").METHOD
