"""What is built: every file that belongs there and no other, and the same bytes from the same sources anywhere."""

from __future__ import annotations

import email
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAME = f"{PROJECT['name']}-{PROJECT['version']}"
EPOCH = "1700000000"
BESIDE = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "constraints.txt", ".gitignore")
"""What a source distribution holds beside the package; hatchling reads .gitignore again when it builds the wheel."""


def sources() -> list[str]:
    """Files of the package that are in the repository, or will be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src/rkld"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()


def build(folder: Path, into: Path, *kinds: str, umask: int = 0o022) -> dict[str, Path]:
    """Kind of archive → its file."""
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-d",
        str(into),
        *(arg for kind in kinds for arg in ("-t", kind)),
    ]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, umask=umask)
    return {path.suffix: path for path in into.iterdir() if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """Built in a copy in which there lies what a working folder has, too."""
    copy = tmp_path_factory.mktemp("sources")
    for name in (*BESIDE, *sources()):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    for name in (
        "src/rkld/__pycache__/cli.cpython-311.pyc",
        "runs/jane/answers.json",
        "build/x.py",
        ".venv/pyvenv.cfg",
    ):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("no part of it")
    return build(copy, tmp_path_factory.mktemp("built"), "sdist", "wheel")


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = wheel.namelist()
        facts = email.message_from_bytes(wheel.read(f"{NAME}.dist-info/METADATA"))
        entry_points = wheel.read(f"{NAME}.dist-info/entry_points.txt").decode()
    package = [name for name in names if not name.startswith(f"{NAME}.dist-info/")]
    assert sorted(package) == sorted(name.removeprefix("src/") for name in sources())
    assert len(set(names)) == len(names)
    assert {"rkld/py.typed", "rkld/auditing/schema.json", "rkld/data/demo/charles_darwin.jsonl"} <= set(package)
    assert {name.partition("/")[2] for name in names if name not in package} == {
        "METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip
    assert facts["License-Expression"] == "Apache-2.0" and facts["License-File"] == "LICENSE"
    assert facts["Requires-Python"] == PROJECT["requires-python"]
    assert set(facts.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert "rkld = rkld.cli:main" in entry_points


def test_the_source_distribution_holds_what_a_wheel_is_built_from(built, tmp_path):
    with tarfile.open(built[".gz"]) as archive:
        names = [member.name.removeprefix(f"{NAME}/") for member in archive if member.isfile()]
        archive.extractall(tmp_path, filter="data")
    assert sorted(names) == sorted([*sources(), *BESIDE, "PKG-INFO"])
    again = build(tmp_path / NAME, tmp_path / "again", "wheel")
    assert again[".whl"].read_bytes() == built[".whl"].read_bytes()


def test_the_same_sources_give_the_same_bytes(built, tmp_path):
    """Of the working folder itself, with other times and permissions of files than the copy has."""
    again = build(ROOT, tmp_path / "built", "sdist", "wheel", umask=0o077)
    for suffix, path in built.items():
        digests = [hashlib.sha256(one.read_bytes()).hexdigest() for one in (path, again[suffix])]
        assert digests[0] == digests[1], f"{path.name} differs: is there a file in src/ that is no part of the package?"
