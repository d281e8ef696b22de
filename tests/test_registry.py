"""The one mechanism of the registries, on a made-up package of animals."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from rkld.errors import UserError
from rkld.evaluation.registry import METRICS
from rkld.methods.registry import METHODS
from rkld.registry import Registry, catalogue, source_hash

NUMBER = iter(range(1000))


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A registry over a package of its own, with two entries, and the name of that package."""
    package = f"zoo{next(NUMBER)}"
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "animal.py").write_text("class Animal: pass\n")
    (folder / "registry.py").write_text(
        f"from rkld.registry import Registry\n"
        f"ANIMALS = Registry('animal', '{package}', '{package}.animal.Animal', '--animal', '{package}.animals')\n"
    )
    for name in ("badger", "adder"):
        (folder / f"{name}.py").write_text(
            f'"""The {name}.\n\nMore of it."""\nfrom {package}.animal import Animal\n'
            f"from {package}.registry import ANIMALS\n\n\n"
            f"@ANIMALS.register('{name}')\nclass {name.title()}(Animal): pass\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__(f"{package}.registry", fromlist=["ANIMALS"])
    yield module.ANIMALS, package
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        del sys.modules[name]


def distribution(folder: Path, package: str, points: str, **modules: str) -> None:
    """An installed distribution, as pip leaves it on sys.path."""
    info = folder / f"{package}_more-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}-more\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{package}.animals]\n{points}\n")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))


def test_entries_are_found_by_name(zoo):
    animals, _ = zoo
    assert animals.names() == ["adder", "badger"]
    assert [(name, entry.__name__) for name, entry in animals.items()] == [("adder", "Adder"), ("badger", "Badger")]
    assert animals.get("adder").__name__ == animals.resolve("adder").__name__ == "Adder"


def test_one_entry_needs_no_other_module(zoo):
    """Importing every method, with what each of them needs, for the one that is asked for would cost seconds."""
    animals, package = zoo
    (Path(sys.modules[package].__file__).parent / "badger.py").write_text("raise RuntimeError('not asked for')\n")
    assert animals.get("adder").__name__ == "Adder"
    assert f"{package}.badger" not in sys.modules


def test_a_second_entry_of_a_name_is_refused(zoo):
    animals, package = zoo
    base = sys.modules[package + ".registry"] and __import__(f"{package}.animal", fromlist=["Animal"]).Animal
    animals.register("cat")(type("Cat", (base,), {}))
    with pytest.raises(ValueError, match="two entries of the name 'cat' \\(animal\\)"):
        animals.register("cat")(type("OtherCat", (base,), {}))


def test_a_module_that_is_imported_twice_is_no_second_entry(zoo):
    animals, package = zoo
    animals.get("adder")
    del sys.modules[f"{package}.adder"]
    __import__(f"{package}.adder")
    assert animals.names() == ["adder", "badger"]


@pytest.mark.parametrize("ask", ["get", "resolve"])
def test_an_unknown_name_is_answered_by_the_nearest(zoo, ask):
    animals, _ = zoo
    with pytest.raises(UserError, match=r"unknown animal 'bagder'. Did you mean 'badger'\? Known: adder, badger;"):
        getattr(animals, ask)("bagder")


def own_file(tmp_path: Path, package: str, body: str) -> str:
    path = tmp_path / "mine.py"
    path.write_text(f"from {package}.animal import Animal\n{body}\n")
    return str(path)


def test_a_file_of_the_users_gives_its_entry(zoo, tmp_path):
    animals, package = zoo
    path = own_file(tmp_path, package, "class Mine(Animal): pass")
    assert animals.resolve(f"{path}:Mine") is animals.resolve(f"{path}:Mine")
    assert animals.resolve(f"{path}:Mine").__name__ == "Mine"
    assert "Mine" not in animals.names()


HALF = """
from abc import ABC, abstractmethod
class Half(Animal, ABC):
    @abstractmethod
    def speak(self): pass
"""


@pytest.mark.parametrize(("name", "message"), [
    ("Mnie", r"--animal .*mine.py:Mnie: the file defines no Mnie. Did you mean 'Mine'\? It defines: Mine"),
    ("Other", "Other is no animal, which is a class built on zoo"),
    ("Animal", "Animal is imported, not defined there"),
    ("number", "number is no animal"),
    ("rex", "rex is no animal, which is a class built on zoo"),
    ("Half", "Half leaves out what a animal must define: speak"),
])  # fmt: skip
def test_what_a_file_does_not_give_is_said(zoo, tmp_path, name, message):
    animals, package = zoo
    path = own_file(
        tmp_path, package, f"class Mine(Animal): pass\nclass Other: pass\nnumber = 3\nrex = Animal()\n{HALF}"
    )
    with pytest.raises(UserError, match=message):
        animals.resolve(f"{path}:{name}")


def test_a_missing_file_is_said(zoo):
    with pytest.raises(UserError, match=r"--animal nowhere.py:Mine: there is no file nowhere.py"):
        zoo[0].resolve("nowhere.py:Mine")


@pytest.mark.parametrize("body", ["class Mine(:", "1 / 0", "import nonesuch", "raise SystemExit(3)"])
def test_a_file_that_cannot_be_imported_is_one_sentence(zoo, tmp_path, body):
    """Also one that would end the process; and it is tried again, not found half-made, when it has been mended."""
    animals, package = zoo
    path = own_file(tmp_path, package, body)
    with pytest.raises(UserError, match=r"--animal .*mine.py: the file cannot be imported: \w+: ") as caught:
        animals.resolve(f"{path}:Mine")
    assert "\n" not in str(caught.value)
    own_file(tmp_path, package, "class Mine(Animal): pass")
    assert animals.resolve(f"{path}:Mine").__name__ == "Mine"


@pytest.mark.parametrize("spec", ["{path}:Mine", "{path}", "mine", "../mine", "os.path", "registry"])
def test_get_never_runs_a_file(zoo, tmp_path, monkeypatch, spec):
    """Names that were read from a folder go there."""
    animals, package = zoo
    path = own_file(tmp_path, package, f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine(Animal): pass")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="unknown animal"):
        animals.get(spec.format(path=path))
    assert not (tmp_path / "ran").exists()


def test_another_package_adds_an_entry(zoo, tmp_path):
    """By an entry point; a shipped entry of the same name is not replaced."""
    animals, package = zoo
    module = f"{package}_more"
    distribution(tmp_path, package, f"cat = {module}:Cat\nadder = {module}:Cat", **{
        module: f"from {package}.animal import Animal\nclass Cat(Animal): pass\n"
    })  # fmt: skip
    assert animals.names() == ["adder", "badger", "cat"]
    assert animals.get("cat").__name__ == "Cat"
    assert animals.get("adder").__name__ == "Adder"


@pytest.mark.parametrize(("body", "message"), [
    ("1 / 0", "cannot be imported: ZeroDivisionError"),
    ("raise SystemExit", "cannot be imported: SystemExit"),
    ("class Dog: pass", "cannot be imported: AttributeError"),
    ("class Cat: pass", "is no animal, which is a class built on"),
    ("Cat = 3", "is no animal, which is a class built on"),
    ("from {package}.animal import Animal\nCat = Animal()", "is no animal, which is a class built on"),
    ("from {package}.animal import Animal" + HALF + "Cat = Half", "leaves out what a animal must define: speak"),
])  # fmt: skip
def test_a_broken_package_is_named_and_does_not_take_the_shipped_entries_along(zoo, tmp_path, body, message):
    animals, package = zoo
    distribution(tmp_path, package, f"cat = {package}_more:Cat", **{
        f"{package}_more": body.replace("{package}", package)
    })  # fmt: skip
    for _ in range(2):  # a second question must not find the registry half loaded
        with pytest.raises(UserError, match=f"the animal 'cat' of the package {package}-more {message}"):
            animals.names()
    assert animals.get("adder").__name__ == "Adder"


def test_a_registry_of_instances_takes_no_class(zoo, tmp_path):
    """A metric's class would be called as a metric, long after it was named."""
    _, package = zoo
    pets: Registry = Registry("pet", package, f"{package}.animal.Animal", "--pet", "none.pets", instances=True)
    path = own_file(tmp_path, package, "rex = Animal()\nclass Dog(Animal): pass")
    assert type(pets.resolve(f"{path}:rex")).__name__ == "Animal"
    with pytest.raises(UserError, match="Dog is no pet, which is an instance of zoo"):
        pets.resolve(f"{path}:Dog")


def test_what_is_registered_says_which_kind_it_is(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from rkld.evaluation.metric import Aggregate\nfrom rkld.methods import Method\n"
        "class Mean(Aggregate): pass\nclass Mine(Method): pass\nmine = Mine()\n"
    )
    with pytest.raises(UserError, match="Mean is no metric, which is an instance"):
        METRICS.resolve(f"{path}:Mean")
    with pytest.raises(UserError, match="mine is no method, which is a class"):
        METHODS.resolve(f"{path}:mine")


def test_titles_are_read_without_importing(zoo):
    _, package = zoo
    assert catalogue(package) == {"adder": "The adder", "badger": "The badger"}
    assert f"{package}.adder" not in sys.modules
    assert catalogue("nonesuch") == {}


def test_a_file_has_a_hash_of_its_contents(tmp_path):
    """What a resumed run compares: a changed method is another one."""
    path = tmp_path / "mine.py"
    path.write_text("a = 1\n")
    first = source_hash(f"{path}:Mine")
    path.write_text("a = 2\n")
    assert first != source_hash(f"{path}:Mine")
    assert source_hash("npo") is None
    path.unlink()
    with pytest.raises(UserError, match=r"mine.py:Mine: the file cannot be read \(No such file or directory\)\. Check"):
        source_hash(f"{path}:Mine")


def test_a_registry_is_typed_by_its_kind():
    registry: Registry[int] = Registry("number", "rkld", "builtins.int", "--number", "none.numbers")
    assert registry.register("three")(3) == 3
