"""The doctor: what is broken is found and can be mended by what is said; nothing personal, no secret, no network."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import tomllib
from importlib.metadata import PackagePath
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from rkld.cli import main
from rkld.commands import diagnose_machine
from rkld.commands.diagnose_machine import EXTRAS, HUB, OWN, diagnose
from rkld.models.smollm2 import cache_folder

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEVICES = {"cpu": {"instructions": "AVX512", "bf16": "by AMX, fast", "threads": 1}, "gpus": []}
SEEN = {"broken": {}, "devices": DEVICES, "at": "torch"}


def requirements(**others: list[str]) -> list[str]:
    """What the built package says that it requires, and of extras whatever is given."""
    extras = {**PROJECT["optional-dependencies"], **others}
    return [*PROJECT["dependencies"], *(f'{one}; extra == "{name}"' for name in extras for one in extras[name])]


@pytest.fixture
def machine(monkeypatch):
    """An installation whose package is as the function that is returned is told; no process is started."""
    monkeypatch.setattr(diagnose_machine, "_in_another_process", lambda modules: (SEEN, ""))
    real = importlib.metadata.distribution

    def installed(requires=None, files=(), editable=True):
        facts = json.dumps({"dir_info": {"editable": editable}})
        package = SimpleNamespace(
            version="1.2", requires=requires or requirements(), files=files, read_text=lambda name: facts
        )
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: package if name == "rkld" else real(name))

    installed()
    return installed


def doctor(*arguments: str):
    result = CliRunner().invoke(main, ["doctor", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_sound_machine_is_said_to_be_sound(machine):
    result = doctor("--json")
    facts = json.loads(result.stdout)
    assert result.exit_code == 0 and facts["sound"] and not facts["problems"], facts["problems"]
    assert {one["name"] for one in facts["packages"]} >= {"torch", "transformers", "packaging"}
    assert all(one["fits"] and one["found"] for one in facts["packages"])
    assert facts["cpu"]["cores"] >= 1 and all(one["free"] > 0 for one in facts["disk"])
    shown = doctor()
    assert shown.exit_code == 0 and shown.stdout.endswith("Nothing that rkld needs is broken.\n")
    assert "AVX512" in shown.stdout and "none that PyTorch sees" in shown.stdout


def test_a_package_that_is_missing_or_too_old_is_broken_and_an_extra_is_not(machine):
    needs = [*requirements(plots=["no-such-plots>=2"]), "no-such-package>=3", "click>=99"]
    machine(needs)
    result = doctor("--json")
    facts = json.loads(result.stdout)
    assert result.exit_code == 1
    said = {problem["what"]: problem["mend"] for problem in facts["problems"]}
    assert said["no-such-package is missing, and >=3 is needed"] == "pip install 'no-such-package>=3'"
    assert f"click is {importlib.metadata.version('click')}, and >=99 is needed" in said and len(said) == 2
    missing = {extra["name"]: extra["missing"] for extra in facts["extras"]}
    assert missing["plots"] == ["no-such-plots>=2"]
    shown = doctor().stdout
    assert "no: pip install 'rkld[plots]'" in shown and "no-such-package MISSING" in shown and "2 to mend." in shown


def test_files_that_were_lost_or_changed_are_broken(machine, tmp_path):
    (tmp_path / "rkld").mkdir()

    def file(name: str, content: bytes | None, digest: str) -> PackagePath:
        path = PackagePath("rkld", name)
        path.hash = importlib.metadata.FileHash(f"sha256={digest}")
        path.dist = SimpleNamespace(locate_file=lambda path: tmp_path / path)
        if content is not None:
            (tmp_path / "rkld" / name).write_bytes(content)
        return path

    empty = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
    whole, changed, lost = file("py.typed", b"", empty), file("a.json", b"{}", empty), file("b.json", None, empty)
    machine(files=[whole], editable=False)
    assert diagnose().sound
    machine(files=[whole, changed, lost], editable=False)
    (problem,) = diagnose().problems
    assert problem.what.startswith("2 of rkld's files") and "rkld/a.json" in problem.what
    assert "pip install --force-reinstall --no-deps" in problem.mend


def test_a_package_that_cannot_be_imported_or_ends_python_is_broken(machine, monkeypatch):
    seen = {"broken": {"yaml": "ImportError"}, "devices": None, "at": "torch"}
    monkeypatch.setattr(diagnose_machine, "_in_another_process", lambda modules: (seen, "ended Python (SIGILL)"))
    found = diagnose()
    assert [problem.what for problem in found.problems] == [
        "yaml cannot be imported (ImportError)",
        "importing torch ended Python (SIGILL)",
    ]
    assert found.problems[0].mend == "pip install --force-reinstall pyyaml"
    assert "gpu       not known" in "\n".join(found.lines())


def test_a_gpu_is_described(machine, monkeypatch):
    gpu = {"name": "H200", "memory": 150e9, "free": 149e9, "capability": "9.0", "bf16": True}
    seen = {**SEEN, "devices": {**DEVICES, "gpus": [gpu]}}
    monkeypatch.setattr(diagnose_machine, "_in_another_process", lambda modules: (seen, ""))
    assert "gpu       H200, 149.0 GB of 150.0 GB free, with bfloat16" in diagnose().lines()


def test_what_happens_in_the_other_process_is_reported(tmp_path, monkeypatch):
    """One module that is there, one that raises, one that ends Python, and none out of the folder it is started in."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.py").write_text("print('never')")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "raises.py").write_text("print('noise'); raise RuntimeError('/home/jane/secret')")
    (tmp_path / "path" / "ends.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    seen, ended = diagnose_machine._in_another_process(["json", "raises", "here"])
    assert (ended, seen["devices"]) == ("", None)
    assert seen["broken"] == {"raises": "RuntimeError", "here": "ModuleNotFoundError"}
    seen, ended = diagnose_machine._in_another_process(["json", "ends", "raises"])
    assert (ended, seen["at"], seen["broken"]) == ("ended Python (SIGKILL)", "ends", {})


def test_the_devices_are_what_pytorch_says():
    import torch

    found = diagnose_machine._devices()
    assert found["cpu"]["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert len(found["gpus"]) == torch.cuda.device_count()


def test_nothing_personal_no_secret_and_no_network(machine, monkeypatch, tmp_path):
    """Neither a folder nor a variable's value is told, nor is anything asked of the network."""
    home, secret = tmp_path / "jane.doe", "hf_s3cr3t"
    (home / "cache" / "models--jane--private" / "snapshots" / "1").mkdir(parents=True)
    (home / "cache" / "models--begun" / "blobs").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "cache"))
    monkeypatch.setenv("RKLD_CACHE", str(home / "own"))
    monkeypatch.chdir(home)

    def network(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", network)
    monkeypatch.setattr(socket, "getaddrinfo", network)
    for result in (doctor(), doctor("--json")):
        assert result.exit_code == 0
        assert not any(part in result.stdout for part in ("jane", secret, "private", str(tmp_path)))
        assert "$HF_HUB_CACHE" in result.stdout and "$RKLD_CACHE" in result.stdout and "1 model" in result.stdout


@pytest.mark.parametrize(
    "given",
    [{}, {"XDG_CACHE_HOME": "xdg"}, {"HF_HOME": "hf"}, {"HF_HOME": "hf", "HF_HUB_CACHE": "hub"}, {"RKLD_CACHE": "own"}],
)
def test_caches_are_looked_for_where_they_are(given, monkeypatch, tmp_path):
    for name in {*OWN.places, *HUB.places}:
        monkeypatch.delenv(name, raising=False)
    for name, folder in given.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    assert OWN.folder() == cache_folder()
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert str(HUB.folder()) == asked.stdout.strip()


def test_little_room_and_missing_pip_are_noted_and_break_nothing(machine, monkeypatch):
    monkeypatch.setattr(diagnose_machine.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1e9))
    monkeypatch.setattr(diagnose_machine.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = diagnose()
    assert found.sound
    said = "\n".join(found.lines())
    assert said.count("1.0 GB are free") == 3 and "ensurepip" in said and said.count("cannot be written") == 2


def test_every_extra_for_users_is_described():
    extras = PROJECT["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"dev", "docs"}
    whole = {name.split("[")[0] for name in extras}
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")):
        text = document.read_text(encoding="utf-8")
        named = {
            extra.strip() for part in text.split("rkld[")[1:] if "]" in part for extra in part.split("]")[0].split(",")
        }
        assert {name for name in named if name.replace("-", "").isalpha()} <= whole, document


@pytest.mark.slow
def test_this_machine_is_sound():
    found = diagnose()
    assert not [problem for problem in found.problems if "import" in problem.what], found.problems
    assert found.facts["cpu"]["instructions"]


def test_places_that_cannot_be_looked_at_are_said(machine, monkeypatch, tmp_path):
    """A doctor that ends in a traceback helps nobody; and paths hold names of people."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / ("a" * 300)))
    found = doctor()
    assert "$HF_HOME/hub cannot be written" in found.output and "aaaa" not in found.output

    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = doctor()
    assert found.exit_code == 1 and "has been deleted" in found.output


@pytest.mark.parametrize(
    "files",
    [{}, {"METADATA": "Name: rkld\nVersion: 1\nRequires-Dist: !!bad\n"}, {"METADATA": b"\xff\xfe"},
     {"METADATA": "Name: rkld\nVersion: 1\n", "direct_url.json": "[1]", "RECORD": "a,b,c,d"}],
)  # fmt: skip
def test_a_damaged_note_of_pips_is_said(monkeypatch, tmp_path, files):
    monkeypatch.setattr(diagnose_machine, "_in_another_process", lambda modules: (SEEN, ""))
    for package in ("rkld", "torch"):
        note = tmp_path / f"{package}-9.dist-info"
        note.mkdir()
        for name, content in files.items():
            (note / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.syspath_prepend(str(tmp_path))
    found = doctor()
    assert found.exit_code == 1 and "(its .dist-info) is damaged" in found.output
