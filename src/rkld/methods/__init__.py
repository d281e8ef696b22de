"""Every unlearning method, one file each; this registry finds them.

A method is a module with a class ``METHOD``, a frozen dataclass on top of :class:`Method`: its fields are the method's
hyper-parameters, its class variables say what it needs. Adding one means adding its file, here or anywhere
(``--method FILE.py:NAME``); ``docs/methods.md`` shows how.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ..encoding import Encoded
from ..errors import UserError, nearest
from ..files import contents
from ..linear_divergence import RowLoss
from ..objective import Term, answer, scored, to_labels
from ..settings import make

if TYPE_CHECKING:
    from torch import Tensor

    from ..language_model import LanguageModel
    from ..teacher import Teacher


@dataclass(frozen=True)
class Method:
    """A method that trains a student on terms of its own; the terms on other records (retain, replay, keep) join them.

    Most methods are a loss on the scored tokens of the forget records, and define :meth:`loss` alone. Others define
    :meth:`terms`: on whole answers (:class:`rkld.objective.AnswerTerm`), on refusals, on hidden states
    (:class:`rkld.objective.StateTerm`). Sets of records are called "forget", "replay" and "retain".
    """

    cached: ClassVar[tuple[str, ...]] = ()
    """What of the forget records :meth:`loss` reads from the cache: the hidden states "original" and "strengthened"
    (which makes the strengthening phase run), and "reference", the original's log-likelihood of each token."""
    needs: ClassVar[tuple[str, ...]] = ()
    """At least one of these sets must be there."""
    refusals: ClassVar[tuple[str, ...]] = ()
    """The sets whose questions the method also wants answered by a refusal: "forget_refusals", "retain_refusals"."""
    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "kl"
    """The loss on retain records where the user asks for no other; "none" where the method's own terms hold them."""
    held: ClassVar[bool] = True
    """Whether terms that hold the model to the original on other records may join the method's own."""
    weight: ClassVar[float] = 1.0
    """Factor of the forget term. A method whose paper sets another makes it a field."""

    @property
    def name(self) -> str:
        """What the method's file says of it in its first line."""
        doc = sys.modules[type(self).__module__].__doc__ or type(self).__name__
        return doc.strip().splitlines()[0].rstrip(".")

    @property
    def strengthens(self) -> bool:
        """Whether the original is trained further on the forget records first."""
        return "strengthened" in self.cached

    def require(self, names: Collection[str], retain_loss: str = "auto") -> None:
        """Refuse to go on without the records that the method needs, or with a term that it does not take.

        Args:
            names: of the sets that are there.
            retain_loss: as the user asks for it.

        Raises:
            UserError: none of :attr:`needs` is among them; a retain loss where the method has its own.
        """
        if not self.held and retain_loss in ("kl", "rt"):
            raise UserError(
                f"the method {self.name} treats retain records in its own way; it takes no retain loss '{retain_loss}'."
            )
        if self.needs and not set(self.needs) & set(names):
            sources = " or ".join(f"{name} records (--{name} DATA)" for name in self.needs)
            raise UserError(f"the method {self.name} needs {sources}.")

    def loss(self, teacher: Teacher) -> RowLoss:
        """The loss on scored tokens of the forget records."""
        raise NotImplementedError(f"{type(self).__name__} defines neither loss() nor terms()")

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        """What the student minimises, before the terms that any method can be given.

        Args:
            teacher: turns cached states into distributions; its cache need not be filled yet.
            sets: the records there are, by the name of their set.
            lm: the model, for its shape.
        """
        return [Term("forget", "forget", scored, self.loss(teacher), self.weight, cached=self.cached)]


@dataclass(frozen=True)
class Assisted(Method):
    """A method that trains no student, but an *assistant*: the original, trained further by the rules of strengthening.

    The unlearned model is made from both: see :class:`WeightArithmetic` and :class:`LogitArithmetic`. Terms on other
    records (retain, replay) join the assistant's, so that it differs from the original by the forget records alone.
    """

    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "none"

    @property
    def strengthens(self) -> bool:
        return True

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        """What the assistant minimises: cross-entropy on the forget answers, so that it is the strengthened model."""
        return [Term("forget", "forget", answer, to_labels)]


@dataclass(frozen=True)
class WeightArithmetic(Assisted):
    """The unlearned model's weights are a function of both models' weights."""

    def weights(self, original: Tensor, assistant: Tensor) -> Tensor:
        """One parameter of the unlearned model, in the shape it has in both."""
        raise NotImplementedError


@dataclass(frozen=True)
class LogitArithmetic(Assisted):
    """The unlearned model is both models; its logits are a function of theirs (:mod:`rkld.pair`)."""

    def logits(self, original: Tensor, assistant: Tensor, alpha: float) -> Tensor:
        """The unlearned model's logits (…, V) from the two models' (…, V), which may be overwritten.

        Args:
            alpha: the run's setting of this name.
        """
        raise NotImplementedError


def method_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get_method(name: str, arguments: Sequence[str] = ()) -> Method:
    """The method called ``name``, or the one at ``FILE.py:NAME``.

    Args:
        arguments: its hyper-parameters where they are not the defaults, as "name=value".

    Raises:
        UserError: no such file, method or hyper-parameter, or a value of the wrong kind.
    """
    path, colon, own = name.rpartition(":")
    if colon and path.endswith(".py"):
        cls = _from_file(path, own)
    elif name in method_names():
        cls = importlib.import_module(f"{__name__}.{name}").METHOD
    else:
        hint = nearest(name, method_names())
        raise UserError(
            f"unknown method '{name}'.{hint} Known: {', '.join(method_names())}; your own: FILE.py:NAME."
        )
    return make(_values(arguments), f"--method-arg of {name}", cls)


def source_hash(name: str) -> str | None:
    """A hash of the file of a method at ``FILE.py:NAME``; None for the registry's, which go with the version."""
    path, colon, _ = name.rpartition(":")
    return contents(Path(path)) if colon else None


def _values(arguments: Sequence[str]) -> dict[str, object]:
    import yaml

    values = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--method-arg is '{argument}'; write it as name=value.")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            values[key.strip()] = value
    return values


def _from_file(path: str, name: str) -> type[Method]:
    """The class ``name`` of a Python file."""
    if not Path(path).is_file():
        raise UserError(f"--method {path}:{name}: there is no file {path}.")
    found = vars(_module(str(Path(path).resolve())))
    classes = {n: v for n, v in found.items() if isinstance(v, type) and issubclass(v, Method)}
    own = {n: v for n, v in classes.items() if v.__module__ == found["__name__"]}
    if name not in found:
        raise UserError(
            f"--method {path}:{name}: the file defines no {name}.{nearest(name, own)} "
            f"Its methods: {', '.join(sorted(own)) or 'none'}."
        )
    if name not in own:
        raise UserError(
            f"--method {path}:{name}: {name} is no method. Make it a class on top of rkld.methods.Method "
            "(docs/methods.md)."
        )
    return own[name]


@lru_cache
def _module(path: str):
    name = f"rkld_method_{hashlib.blake2b(path.encode(), digest_size=8).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"--method {path}: the file cannot be imported: {type(error).__name__}: {error}") from error
    return module
