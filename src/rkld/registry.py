"""Things of one kind by name: methods, metrics, attacks, stopping rules and benchmarks all register here, the same way.

An entry comes into its registry in one of three ways, and adding one touches one file:

- it stands in a module of the registry's package and registers itself with the decorator;
- another package names it under the registry's entry-point group (``[project.entry-points."rkld.methods"]``);
- the user names a file of theirs as ``FILE.py:NAME`` (:meth:`Registry.resolve`).

A file runs when it is imported, so only what the user typed may name one: a name that was read from a folder goes to
:meth:`Registry.get`, which returns registered entries only.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from rkld.errors import UserError, nearest
from rkld.files import can_be_path, contents

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries of one kind, by name.

    Args:
        kind: what an entry is called in messages ("method").
        package: whose modules hold the shipped entries ("rkld.methods"); none is imported before it is asked for.
        base: the class that an entry is a subclass of, as a dotted name ("rkld.methods.method.Method").
        option: how the command line names one ("--method").
        group: the entry-point group of other packages' entries ("rkld.methods").
        instances: entries are instances of ``base`` instead.
    """

    def __init__(self, kind: str, package: str, base: str, option: str, group: str, *, instances: bool = False):
        self.kind, self.package, self.base, self.option, self.group = kind, package, base, option, group
        self.instances = instances
        self._entries: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a class, or call with an instance: ``@METHODS.register("npo")``.

        Raises:
            ValueError: the name is taken by something else.
        """

        def decorate(entry: T) -> T:
            known = self._entries.get(name)
            if known is not None and _origin(known) != _origin(entry):
                raise ValueError(f"there are two entries of the name '{name}' ({self.kind})")
            self._add(name, entry)
            return entry

        return decorate

    def _add(self, name: str, entry: T) -> None:
        self._entries[name] = entry

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._load()
        return sorted(self._entries)

    def get(self, name: str) -> T:
        """The registered entry of this name; no file of the user's is imported for it.

        The module that bears the name is looked at first, so that a shipped entry needs none of the others; of two
        entries of one name the shipped one counts.

        Raises:
            UserError: there is none; the nearest names are shown.
        """
        if name not in self._entries and name.isidentifier() and not self._loaded:
            package = importlib.import_module(self.package)
            if any(module.name == name for module in pkgutil.iter_modules(package.__path__)):
                importlib.import_module(f"{self.package}.{name}")
        if name in self._entries:
            return self._entries[name]
        self._load()
        if name not in self._entries:
            raise UserError(
                f"unknown {self.kind} '{name}'.{nearest(name, self._entries)} Known: {', '.join(self.names())}; "
                "your own: FILE.py:NAME."
            )
        return self._entries[name]

    def resolve(self, spec: str) -> T:
        """:meth:`get`, or the entry at ``FILE.py:NAME``. Only for what the user typed: the file is run.

        Raises:
            UserError: no such name, file or entry; a file that cannot be imported.
        """
        found = file_and_name(spec)
        return self._from_file(*found) if found else self.get(spec)

    def items(self) -> list[tuple[str, T]]:
        """(name, entry), sorted by name."""
        return [(name, self.get(name)) for name in self.names()]

    def _load(self) -> None:
        """Import every module of the package and every entry point, once."""
        if self._loaded:
            return
        self._loaded = True  # first: a module may ask for names while it is imported
        try:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            for point in importlib.metadata.entry_points(group=self.group):
                if point.name not in self._entries:
                    self._add(point.name, self._from_entry_point(point))
        except BaseException:
            self._loaded = False
            raise

    def _from_entry_point(self, point: importlib.metadata.EntryPoint) -> T:
        where = f"the {self.kind} '{point.name}' of the package {point.dist and point.dist.name}"
        try:
            entry: T = point.load()
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{where} cannot be imported: {type(error).__name__}: {error}. Mend or uninstall that package."
            ) from error
        if problem := self._problem(entry):
            raise UserError(f"{where} {problem}. Mend or uninstall that package.")
        return entry

    def _problem(self, entry: object) -> str | None:
        """Why something cannot be an entry, as the end of a sentence about it; None where it can."""
        module, _, name = self.base.rpartition(".")
        base = getattr(importlib.import_module(module), name)
        if self.instances and not isinstance(entry, base):
            return f"is no {self.kind}, which is an instance of {self.base}"
        if not self.instances and not (isinstance(entry, type) and issubclass(entry, base)):
            return f"is no {self.kind}, which is a class built on {self.base}"
        if missing := sorted(getattr(entry, "__abstractmethods__", ())):
            return f"leaves out what a {self.kind} must define: {', '.join(missing)}"
        return None

    def _from_file(self, path: str, name: str) -> T:
        """The entry ``name`` of a Python file."""
        where = f"{self.option} {path}:{name}"
        if not (can_be_path(path) and Path(path).is_file()):
            raise UserError(f"{where}: there is no file {path}.")
        found = vars(_module(str(Path(path).resolve()), self.option))

        def imported(value: object) -> bool:
            return isinstance(value, type) and value.__module__ != found["__name__"]

        if name not in found:
            own = [n for n, value in found.items() if not imported(value) and not self._problem(value)]
            raise UserError(
                f"{where}: the file defines no {name}.{nearest(name, own)} "
                f"It defines: {', '.join(sorted(own)) or 'none'}."
            )
        entry: T = found[name]
        problem = "is imported, not defined there" if imported(entry) else self._problem(entry)
        if problem:
            raise UserError(f"{where}: {name} {problem}. Mend the file (docs/architecture.md has a recipe).")
        return entry


def _origin(entry: object) -> object:
    """Two imports of one file give two classes of one origin."""
    return (getattr(entry, "__module__", None), getattr(entry, "__qualname__", None) or entry)


def file_and_name(spec: str) -> tuple[str, str] | None:
    """(FILE.py, NAME) of ``FILE.py:NAME``; None for any other name."""
    path, colon, name = spec.rpartition(":")
    return (path, name) if colon and path.endswith(".py") else None


def without_file(spec: str, what: str) -> str:
    """A registered name as it is; of ``FILE.py:NAME``, which may be called by somebody, whose it is.

    Args:
        what: "a method", "the stopping rule".
    """
    return spec if file_and_name(spec) is None else f"{what} of the user's own"


def source_hash(spec: str) -> str | None:
    """A hash of the file that ``FILE.py:NAME`` names; None for a registered name, which goes with the version.

    Raises:
        UserError: the file cannot be read.
    """
    found = file_and_name(spec)
    try:
        return contents(Path(found[0])) if found else None
    except OSError as error:
        raise UserError(f"{spec}: the file cannot be read ({error.strerror}). Check the path.") from None


def catalogue(package: str) -> dict[str, str]:
    """The names that modules of a package register, and what each is, in a line; nothing is imported.

    The line is the entry's ``help`` or ``title``, where its class states one, else the first of its module's docstring.
    An entry whose class states ``benchmarks_only = True`` is left out: no option takes it. {} where there is no such
    package. Entries of other packages are not among them.
    """
    spec = importlib.util.find_spec(package.partition(".")[0])
    found: dict[str, str] = {}
    for root in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(root, *package.split(".")[1:]).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            line = (ast.get_docstring(tree) or "").partition("\n")[0].rstrip(".")
            for name, stated in _registered(tree).items():
                if not stated.get("benchmarks_only"):
                    found[name] = str(stated.get("help") or stated.get("title") or line)
    return dict(sorted(found.items()))


def _registered(tree: ast.Module) -> dict[str, dict[str, object]]:
    """The names in calls of ``REGISTRY.register("name")``, and the constants that a class decorated by one states."""
    classes = {
        id(call): _constants(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for call in node.decorator_list
    }
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "register":
            for arg in node.args:
                if isinstance(arg, ast.Constant) and isinstance(arg.value, str):
                    found[arg.value] = classes.get(id(node), {})
    return found


def _constants(node: ast.ClassDef) -> dict[str, object]:
    """``name = constant`` and ``name: type = constant`` in the body of a class."""
    found: dict[str, object] = {}
    for line in node.body:
        if isinstance(line, ast.Assign | ast.AnnAssign) and isinstance(line.value, ast.Constant):
            targets = line.targets if isinstance(line, ast.Assign) else [line.target]
            found |= {target.id: line.value.value for target in targets if isinstance(target, ast.Name)}
    return found


@lru_cache
def _module(path: str, option: str) -> ModuleType:
    name = f"rkld_user_{hashlib.blake2b(path.encode(), digest_size=8).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # it ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{option} {path}: the file cannot be imported: {type(error).__name__}: {error}") from error
    return module
