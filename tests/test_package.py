"""What is built: every file that belongs there and no other, and the same bytes from the same sources anywhere."""

from __future__ import annotations

import email
import hashlib
import os
import re
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


# The image


def test_the_image_is_built_from_what_it_copies(built, tmp_path):
    """Of exactly these files, which .dockerignore lets through, comes the same wheel."""
    instructions = dockerfile()
    copied = [name for words in instructions["COPY"] if "--from" not in words for name in words.split()[:-1]]
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(let_through)
    for name in copied:
        if (ROOT / name).is_dir():
            for file in sources():
                (tmp_path / "context" / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, tmp_path / "context" / file)
        else:
            (tmp_path / "context").mkdir(exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / "context" / name)
    found = build(tmp_path / "context", tmp_path / "dist", "wheel")
    assert found[".whl"].read_bytes() == built[".whl"].read_bytes()


def test_the_image_runs_as_an_ordinary_user_offline_and_with_pinned_versions():
    found = dockerfile()
    (user,), (tag,), (*_, environment) = found["USER"], found["ARG"], found["ENV"]
    assert user.split(":")[0].isdigit() and int(user.split(":")[0]) > 0
    assert re.fullmatch(r"PYTHON=3\.11\.\d+-slim-[a-z]+", tag) and all("${PYTHON}" in one for one in found["FROM"])
    assert all(
        "-c constraints.txt" in line for run in found["RUN"] for line in run.split("&&") if "pip install" in line
    )
    assert {"HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1"} <= set(environment.split())
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert text.index("\nUSER ") > text.rindex("\nRUN ") and text.index("\nENTRYPOINT ") > text.index("\nUSER ")


def dockerfile() -> dict[str, list[str]]:
    """Instruction → what follows each; continued lines are joined."""
    found: dict[str, list[str]] = {}
    lines = [
        line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line:
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(" ".join(rest.split()))
    return found
