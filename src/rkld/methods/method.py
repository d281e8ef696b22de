"""What a method is: a loss with a declaration of what it needs, or two models that make one."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rkld.errors import UserError
from rkld.losses.objective import Term, answer, scored
from rkld.losses.targets import Loss, to_labels
from rkld.records.encoding import Encoded

if TYPE_CHECKING:
    from torch import Tensor

    from rkld.models.language_model import LanguageModel
    from rkld.teacher.logits import Teacher


@dataclass(frozen=True)
class OwnAnswers:
    """How a student answers the forget questions at the beginning of an epoch (:data:`rkld.losses.objective.OWN`).

    Attributes:
        samples: drawn of each question, of which one is taken.
        temperature, top_p: of the draw.
        unlike: of the samples, and what was taken before, that is taken which says least of the original's own greedy
            answer (ROUGE-L recall); else the first.
    """

    samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    unlike: bool = False


@dataclass(frozen=True)
class Method:
    """A method that trains a student on terms of its own; the terms on other records (retain, replay, keep) join them.

    Most methods are a loss on the scored tokens of the forget records, and define :meth:`loss` alone. Others define
    :meth:`terms`: on whole answers (:class:`rkld.losses.objective.AnswerTerm`), on refusals, on hidden states
    (:class:`rkld.losses.objective.StateTerm`). Sets of records are called "forget", "replay" and "retain".
    """

    cached: ClassVar[tuple[str, ...]] = ()
    """What of the forget records :meth:`loss` reads from the cache: the hidden states "original" and "strengthened"
    (which makes the strengthening phase run), "reference", the original's log-likelihood of each token, and "rank", the
    share of the record's tokens that are less probable."""
    needs: ClassVar[tuple[str, ...]] = ()
    """At least one of these sets must be there."""
    refusals: ClassVar[tuple[str, ...]] = ()
    """The sets whose questions are also needed with refusals for answers: "forget_refusals", "retain_refusals"."""
    alternates: ClassVar[tuple[str, ...]] = ()
    """The sets whose questions are also needed with answers that read like the recorded ones and are not true:
    "forget_alternates"."""
    retain_loss: ClassVar[Literal["kl", "rt", "none"]] = "kl"
    """The loss on retain records where the user asks for no other; "none" where the method's own terms hold them."""
    start: ClassVar[Literal["original", "base", "negated"]] = "original"
    """What the student starts as: the original; the base, which is the model that it was tuned from (``--base``, or
    what lies under its adapter); or the original less what the forget records change in the base
    (:class:`rkld.methods.base_vector.BaseVector`)."""
    epochs_of: ClassVar[str] = "forget"
    """The set whose passes ``--epochs`` counts, whether or not a term reads it."""
    trains: ClassVar[bool] = True
    """Whether the student is trained on terms; else it is what :attr:`start` says."""
    changes_all: ClassVar[bool] = False
    """Whether all weights change by other ways than training, so that no adapter can be trained."""
    accepts_extra_terms: ClassVar[bool] = True
    """Whether terms that hold the model to the original on other records may join the method's own."""
    weight = 1.0  # neither a field nor a ClassVar, so that a subclass may make it a field
    """Factor of the forget term. A method whose paper sets another makes it a field."""

    name: ClassVar[str] = ""
    """What it is registered as (the registry sets it), else the name of its class."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = cls.__name__

    @property
    def title(self) -> str:
        """What the method's file says of it in its first line."""
        doc = sys.modules[type(self).__module__].__doc__ or type(self).__name__
        return doc.strip().splitlines()[0].rstrip(".")

    @property
    def summary(self) -> str:
        """Its name, and what it does: the title, but for the name that this begins with."""
        return f"{self.name}: {self.title.partition(': ')[2] or self.title}"

    def begin(self, lm: LanguageModel, seed: int) -> None:
        """Change the student's weights before it is trained. The original has been read by then."""

    @property
    def own_answers(self) -> OwnAnswers | None:
        """How the student answers the forget questions itself while it is trained ("forget_own"); None: it does not."""
        return None

    @property
    def asks(self) -> bool:
        """Whether every record to forget must be a question."""
        return bool(self.refusals or self.alternates or self.own_answers)

    @property
    def strengthens(self) -> bool:
        """Whether the original is trained further on the forget records first."""
        return "strengthened" in self.cached

    @property
    def reads_alpha(self) -> bool:
        """Whether ``--alpha`` changes anything."""
        return "strengthened" in self.cached

    @property
    def reads_epochs(self) -> bool:
        """Whether ``--epochs`` does; an assistant is trained by the rules of strengthening."""
        return self.trains

    @property
    def holds_unscored(self) -> bool:
        """Whether what is not scored of an answer is held to the original."""
        return self.trains and self.accepts_extra_terms

    @property
    def needs_base(self) -> bool:
        """Whether the model that the original was tuned from must be at hand."""
        return self.start in ("base", "negated")

    def remarks(self, lm: LanguageModel) -> list[str]:
        """What a user is to know before the method is run on this model, as sentences."""
        return []

    def loss_on_retain(self, asked: Literal["auto", "kl", "rt", "none"], weight: float) -> Literal["kl", "rt", "none"]:
        """The loss that joins the method's own terms on retain records; "none" where its weight is 0, too.

        Args:
            asked, weight: ``--retain-loss`` and ``--retain-weight``.
        """
        return "none" if not weight else self.retain_loss if asked == "auto" else asked

    def require(self, names: Collection[str], retain_loss: str = "auto") -> None:
        """Refuse to go on without the records that the method needs, or with a term that it does not take.

        Args:
            names: of the sets that are there.
            retain_loss: as the user asks for it.

        Raises:
            UserError: none of :attr:`needs` is among them; a retain loss where the method has its own.
        """
        if not self.accepts_extra_terms and retain_loss in ("kl", "rt"):
            raise UserError(
                f"the method {self.name} treats retain records in its own way; it takes no retain loss '{retain_loss}'."
            )
        if self.needs and not set(self.needs) & set(names):
            sources = " or ".join(f"{name} records (--{name} DATA)" for name in self.needs)
            raise UserError(f"the method {self.name} needs {sources}.")

    def loss(self, teacher: Teacher) -> Loss:
        """The loss on scored tokens of the forget records.

        Raises:
            UserError: the method has none; it defines :meth:`terms` then.
        """
        raise UserError(f"the method {type(self).__name__} defines neither loss() nor terms(): define one of them.")

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

    @property
    def reads_epochs(self) -> bool:
        return False

    @property
    def holds_unscored(self) -> bool:
        return False

    def terms(self, teacher: Teacher, sets: Mapping[str, Sequence[Encoded]], lm: LanguageModel) -> list[Term]:
        """What the assistant minimises: cross-entropy on the forget answers, so that it is the strengthened model."""
        return [Term("forget", "forget", answer, to_labels)]


@dataclass(frozen=True)
class WeightArithmetic(Assisted, ABC):
    """The unlearned model's weights are a function of both models' weights."""

    changes_all: ClassVar[bool] = True

    @abstractmethod
    def weights(self, original: Tensor, assistant: Tensor) -> Tensor:
        """One parameter of the unlearned model, in the shape it has in both."""


@dataclass(frozen=True)
class LogitArithmetic(Assisted, ABC):
    """The unlearned model is both models; its logits are a function of theirs (:mod:`rkld.methods.two_models`)."""

    @abstractmethod
    def logits(self, original: Tensor, assistant: Tensor, alpha: float) -> Tensor:
        """The unlearned model's logits (…, V) from the two models' (…, V), which may be overwritten.

        Args:
            alpha: the run's setting of this name.
        """
