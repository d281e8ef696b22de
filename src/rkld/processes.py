"""Several processes that do one piece of work: what the first does for all, what each does a part of.

``torchrun`` and ``accelerate launch`` start the same program several times. Within :func:`together` all processes go
through the same code in the same order, and meet where one of the functions here is called. So none of them may be
called in a branch that one process takes alone, unless within :func:`alone`; nor where an error is being handled,
which the others may not have. In one process, and outside of :func:`together`, all of it costs and changes nothing.

An error that one process meets in a function here is raised in all of them: as it is where it was met, elsewhere as
one that says nothing more (:attr:`rkld.errors.UserError.elsewhere`). One that is met anywhere else ends its process,
and the launcher ends the others.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

from rkld.errors import UserError, of_the_machine

S = TypeVar("S")
T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""How long a process waits for another: while that one alone asks a writer for its texts, or saves a model. One that
ends wakes those that wait for it."""

_together: ContextVar[bool] = ContextVar("_together", default=False)
_alone: ContextVar[bool] = ContextVar("_alone", default=False)


_imported = time.monotonic()


def seconds_alive() -> float:
    """How long this process has been running: its user has waited so long, imports included."""
    try:
        began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, AttributeError, ValueError, IndexError):  # not on Linux
        return time.monotonic() - _imported


def launched() -> int:
    """As how many processes this program was started."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def cores() -> int:
    """Cores that this process may use: some of the machine's where SLURM or ``taskset`` keeps it to them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_bf16() -> str:
    """The CPU's units for bfloat16, "AMX" or "AVX-512"; "" without any, or where an older torch cannot say."""
    import torch

    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "AMX" if known.get("amx_bf16") else "AVX-512" if known.get("avx512_bf16") else ""


def is_set(variable: str) -> bool:
    """Whether ``accelerate launch`` has switched on what this variable of the environment stands for."""
    return os.environ.get(variable, "false").lower() in ("true", "1")


def uses_deepspeed() -> bool:
    """Whether ``accelerate launch`` has the training handed to DeepSpeed."""
    return is_set("ACCELERATE_USE_DEEPSPEED")


def is_first() -> bool:
    """Whether this process is the first of those that were started: the one that prints."""
    return int(os.environ.get("RANK") or 0) == 0


def require_one(
    why: str = "of rkld's commands only unlearn and audit run in several, and bench starts its own by --jobs",
) -> None:
    """Refuse to be one of several processes.

    Raises:
        UserError: so.
    """
    if launched() > 1:
        found = UserError(
            f"this was started as {launched()} processes, which would all do and write the same: {why}. Start it as "
            "one."
        )
        found.elsewhere = not is_first()
        raise found


def require_alone(n: int, why: str) -> None:
    """Refuse to train in ``n`` processes what no several can.

    Raises:
        UserError: so.
    """
    if n > 1:
        raise UserError(f"{why}, which one process can do: train with one.")


def count() -> int:
    """How many processes do this work."""
    return _distributed().get_world_size() if _together.get() and _joined() else 1


def index() -> int:
    """Which of them this one is, from 0."""
    return _distributed().get_rank() if _together.get() and _joined() else 0


def is_main() -> bool:
    """Whether this process is the one that decides where one must."""
    return index() == 0


def writes() -> bool:
    """Whether this process writes what all of them have: the first one, and one that is :func:`alone`."""
    return _alone.get() or is_main()


@contextmanager
def together() -> Iterator[None]:
    """All processes that were started do what is within, each in the same order."""
    if launched() > 1 and not _joined():
        _join()
    token = _together.set(True)
    try:
        yield
    finally:
        _together.reset(token)


@contextmanager
def alone() -> Iterator[None]:
    """What this process does by itself: nothing within waits for another."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def is_chosen() -> bool:
    """Whether what goes on is done by no other process beside this one: all of it, or within :func:`alone`."""
    return _alone.get() or launched() == 1


def is_alone() -> bool:
    """Whether nothing here waits for another process."""
    return _alone.get() or count() == 1


def by_main(make: Callable[[], T]) -> T:
    """What the first process makes, in all of them; the others wait. It must be possible to pickle it."""
    if is_alone():
        return make()
    found: list[Any] = _everyone(make if is_main() else lambda: None)
    return cast("T", found[0])


def agreed(value: T) -> T:
    """The first process's value, in all of them."""
    return by_main(lambda: value)


def checked(make: Callable[[], T]) -> T:
    """This process's own result, once all have theirs."""
    if is_alone():
        return make()
    made: list[T] = []
    _everyone(lambda: made.append(make()))
    return made[0]


def everyone(make: Callable[[], T]) -> list[T]:
    """The results of all processes, by their index, in each of them."""
    return [make()] if is_alone() else _everyone(make)


def wait() -> None:
    """Go on once all processes are here."""
    everyone(lambda: None)


def part(items: Sequence[S]) -> Sequence[S]:
    """The items that fall to this process: consecutive ones, maybe none."""
    if is_alone():
        return items
    cuts = [round(len(items) * n / count()) for n in range(count() + 1)]
    return items[cuts[index()] : cuts[index() + 1]]


def shared(
    items: Sequence[S],
    work: Callable[[Sequence[S], Callable[[int], object]], Sequence[T]],
    progress: Callable[[int], object] | None = None,
    *,
    split: bool = True,
) -> list[T]:
    """A result for each item, in their order, each made by one of the processes.

    Args:
        work: (items, progress) → a result for each of them.
        progress: called with the number of items just done.
        split: False: every process makes all of them.
    """
    advance = progress or (lambda n: None)
    if is_alone() or not split:
        return list(work(items, advance))
    mine = part(items)
    found = [one for some in everyone(lambda: list(work(mine, advance)) if mine else []) for one in some]
    advance(len(items) - len(mine))
    return found


def leave() -> None:
    """Take leave of the other processes, where all is done; to be called once, at the end."""
    if launched() > 1 and _joined():
        _distributed().destroy_process_group()


class Elsewhere(UserError):
    """What another process met, and has said."""

    elsewhere = True


def _everyone(make: Callable[[], T]) -> list[T]:
    own: Exception | None = None
    outcome: tuple[Any, tuple[type[UserError], str] | None]
    try:
        with alone():
            outcome = make(), None
    except Exception as error:
        own, outcome = error, (None, _told(error))
    outcomes: list[Any] = [None] * count()
    _distributed().all_gather_object(outcomes, outcome)
    failed = [number for number, (_, error) in enumerate(outcomes) if error is not None]
    if not failed:
        return [value for value, _ in outcomes]
    if own is not None and failed[0] == index():
        raise own
    kind, message = outcomes[failed[0]][1]
    copied = kind.__new__(kind)
    copied.args, copied.elsewhere = (message,), True
    raise copied


def _told(error: Exception) -> tuple[type[UserError], str]:
    """An error as another process can raise it: without what it holds."""
    found = error if isinstance(error, UserError) else of_the_machine(error)
    if found is None:
        return Elsewhere, f"process {index()}: {type(error).__name__}: {error}"
    return type(found), str(found)


def _distributed() -> Any:
    import torch.distributed

    return torch.distributed


def _joined() -> bool:
    if "torch" not in sys.modules:
        return False
    found = _distributed()
    return bool(found.is_available() and found.is_initialized())


def _join() -> None:
    """Meet the other processes. Objects travel over the CPU's network also where tensors go from GPU to GPU."""
    import torch

    backend = "gloo"
    if torch.cuda.is_available() and not is_set("ACCELERATE_USE_CPU"):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0))
        backend = "cpu:gloo,cuda:nccl"
    try:
        _distributed().init_process_group(backend, timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"this was started as {launched()} processes, and they do not find each other: {error}. Start it by "
            "torchrun or accelerate launch, or as one process."
        ) from None
