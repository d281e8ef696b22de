"""``rkld doctor``: what this machine and this installation have, and what is broken. No network, and nobody's data.

Folders are named by what decides them (``$HF_HOME/hub``, ``~/.cache/rkld``), never by where they lead: paths hold names
of people. Of the environment only which of :data:`OFFLINE` and of the variables of caches are set is looked at.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rkld.files import readable_size
from rkld.models.smollm2 import ALIAS, model_folder
from rkld.processes import cores, cpu_bf16
from rkld.text.printable import harmless

PACKAGE = "rkld"

EXTRAS = {
    "compare": "rkld compare, two models side by side in the browser",
    "data": "records out of Parquet files and Hugging Face data sets",
    "demo": f"the alias {ALIAS}, which rkld demo works on",
    "general": "rkld audit --general, the standard benchmarks of lm-eval",
    "plots": "pictures of rkld bench",
}
"""Extra → what it brings. Others are for developers."""

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Variables by which nothing is looked for on the hub."""

MODULES = {"pyyaml": "yaml"}
"""Package → what it is imported as, where that is not its own name."""


@dataclass(frozen=True)
class Cache:
    """A folder for what is fetched once.

    Attributes:
        of: what fetches; places: variable → folder below its value, the first that is set decides; default: below home.
    """

    of: str
    places: Mapping[str, str]
    default: str

    def folder(self) -> Path:
        for name, below in self.places.items():
            if value := os.environ.get(name):
                return Path(os.path.expandvars(os.path.expanduser(value))) / below
        return Path(os.path.expanduser(f"~/{self.default}"))  # Path.home() raises where a user has none

    def where(self) -> str:
        """What decides the folder, without its value."""
        name = next((name for name in self.places if os.environ.get(name)), None)
        return f"~/{self.default}" if name is None else f"${name}/{self.places[name]}".rstrip("/")


OWN = Cache("rkld", {"RKLD_CACHE": "", "XDG_CACHE_HOME": "rkld"}, ".cache/rkld")
"""As :func:`rkld.models.smollm2.cache_folder` has it."""

HUB = Cache(
    "the hub",
    {"HF_HUB_CACHE": "", "HUGGINGFACE_HUB_CACHE": "", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub"},
    ".cache/huggingface/hub",
)
"""As huggingface_hub has it; not asked of that, which may be what is broken."""

LITTLE = 2e9
"""Free bytes below which a disk is noted: a run of the demo writes about 1 GB."""

PATIENCE = 300.0
"""Seconds that importing all packages may take, from a slow disk too."""


@dataclass(frozen=True)
class Problem:
    """Something that rkld needs is broken.

    Attributes:
        what: is broken; mend: what to do.
    """

    what: str
    mend: str


DAMAGED = Problem(
    "what pip noted of rkld (its .dist-info) is damaged",
    "Install it again from where you have it: pip install --force-reinstall --no-deps FILE",
)


@dataclass
class Diagnosis:
    """Facts, section by section, as JSON has them; sizes are in bytes.

    Attributes:
        problems: what must be mended before rkld works; notes: what may be well as it is.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.problems

    def document(self) -> dict[str, Any]:
        """All of it, for machines."""
        problems = [{"what": problem.what, "mend": problem.mend} for problem in self.problems]
        return {"sound": self.sound, **self.facts, "problems": problems, "notes": self.notes}

    def lines(self) -> Iterator[str]:
        """The same for people."""
        f = self.facts
        how = ", installed for editing" if f["rkld"]["editable"] else ""
        yield _line("rkld", f"{f['rkld']['version'] or 'not installed'}{how}")
        yield _line("python", f"{f['system']['python']} on {f['system']['os']}, {f['system']['machine']}")
        found = [f"{one['name']} {one['found'] or 'MISSING'}" for one in f["packages"]]
        yield _line("packages", ", ".join(found) or "not known")
        yield from self._of_devices()
        yield _line("disk", ", ".join(f"{readable_size(one['free'])} free for {one['for']}" for one in f["disk"]))
        for n, extra in enumerate(f["extras"]):
            there = "there" if not extra["missing"] else f"no: pip install '{PACKAGE}[{extra['name']}]'"
            yield _line("" if n else "extras", f"{extra['name']:<8} brings {extra['brings']}; {there}")
        for n, cache in enumerate(f["caches"]):
            there = "" if cache["there"] else " (not made yet)"
            holds = "" if cache["holds"] is None else f": {cache['holds']}"
            yield _line("" if n else "caches", f"{cache['of']} in {cache['where']}{there}{holds}")
        yield _line("network", "not used" if f["offline"] else "used by models and data sets that are not in a cache")
        yield from (f"Note: {note}" for note in self.notes)
        for problem in self.problems:
            yield f"Broken: {problem.what}. {problem.mend}"
        yield "Nothing that rkld needs is broken." if self.sound else f"{len(self.problems)} to mend."

    def _of_devices(self) -> Iterator[str]:
        cpu, gpus = self.facts["cpu"], self.facts["gpus"]
        memory = f", {readable_size(cpu['memory'])} of memory" if cpu["memory"] else ""
        units = f", {cpu['instructions']}, bfloat16 {cpu['bf16']}" if cpu.get("instructions") else ""
        yield _line("cpu", f"{cpu['cores']} core{'s' * (cpu['cores'] != 1)} to use{memory}{units}")
        for n, gpu in enumerate(gpus or [{}]):
            said = "none that PyTorch sees" if gpus is not None else "not known"
            if gpu:
                bf16 = "with" if gpu["bf16"] else "without"
                free = f"{readable_size(gpu['free'])} of {readable_size(gpu['memory'])} free"
                said = f"{gpu['name']}, {free}, {bf16} bfloat16"
            yield _line("" if n else "gpu", said)


def _line(title: str, text: str) -> str:
    return f"{title:<10}{text}"


def diagnose() -> Diagnosis:
    """Look at Python, the installation, its packages, the devices, disks, extras and caches. A few seconds."""
    found = Diagnosis()
    requirements = _look_at_installation(found)
    there = _look_at_packages(found, requirements)
    _look_at_devices(found, there)
    _look_at_caches(found)
    _look_at_disks(found)
    if importlib.util.find_spec("pip") is None:
        found.notes.append(
            f"pip is not in this environment, and fetches {ALIAS} and the data of benchmarks: python -m ensurepip"
        )
    return found


# The installation


def _look_at_installation(found: Diagnosis) -> list[str]:
    """Version, Python, and whether all files are there.

    Returns:
        what the package requires, a line each, as its metadata has it.
    """
    system = {"python": platform.python_version(), "os": platform.system(), "machine": platform.machine()}
    found.facts["rkld"] = {"version": None, "editable": False}
    found.facts["system"] = system
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        found.problems.append(Problem("rkld runs from a folder, and is not installed", "pip install . in its folder"))
        return []
    editable = _is_editable(package)
    try:
        version, required, lost = package.version or None, package.requires or [], [] if editable else [*_lost(package)]
    except (KeyError, OSError, TypeError, ValueError):  # whatever importlib.metadata stumbles over
        version, required, lost = None, [], []
    if version is None:
        found.problems.append(DAMAGED)
    found.facts["rkld"] = {"version": version, "editable": editable}
    if lost:
        found.problems.append(
            Problem(
                f"{len(lost)} of rkld's files are lost or changed, {lost[0]} for one",
                "Install it again from where you have it: pip install --force-reinstall --no-deps FILE",
            )
        )
    return required


def _is_editable(package: importlib.metadata.Distribution) -> bool:
    try:
        facts = json.loads(package.read_text("direct_url.json") or "{}")
    except (OSError, ValueError):
        return False
    noted = facts.get("dir_info") if isinstance(facts, dict) else None
    return isinstance(noted, dict) and bool(noted.get("editable"))


def _lost(package: importlib.metadata.Distribution) -> Iterator[str]:
    """Files of the package that are not as they were installed."""
    for file in package.files or []:
        if file.hash is None or file.parts[0] != PACKAGE:  # caches of Python, the command, the package's own record
            continue
        try:
            digest = hashlib.new(file.hash.mode, Path(str(file.locate())).read_bytes()).digest()
        except OSError:
            digest = b""
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
            yield file.as_posix()


# Packages


def _look_at_packages(found: Diagnosis, requirements: Sequence[str]) -> list[str]:
    """Versions of what is required, and what is missing of each extra.

    Returns:
        required packages that are there.
    """
    found.facts["packages"] = []
    found.facts["extras"] = [
        {"name": name, "brings": brings, "missing": []}
        for name, brings in EXTRAS.items()
        if any(f'extra == "{name}"' in one.replace("'", '"') for one in requirements)
    ]
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:
        if requirements:
            found.problems.append(Problem("the package packaging is missing", "pip install packaging"))
        return []
    try:
        needed = list(map(Requirement, requirements))
    except InvalidRequirement:
        found.problems.append(DAMAGED)
        return []
    for one in needed:
        name, version = one.name, _version(one.name)
        fits = version is not None and one.specifier.contains(version, prereleases=True)
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            entry = {"name": name, "needed": str(one.specifier), "found": version, "fits": fits}
            found.facts["packages"].append(entry)
            if not fits:
                has = f"is {version}" if version else "is missing"
                mend = f"pip install '{name}{one.specifier}'"
                found.problems.append(Problem(f"{name} {has}, and {one.specifier} is needed", mend))
        for extra in found.facts["extras"]:
            if one.marker is not None and not fits and one.marker.evaluate({"extra": extra["name"]}):
                extra["missing"].append(f"{name}{one.specifier}")
    return [entry["name"] for entry in found.facts["packages"] if entry["found"] is not None]


def _version(name: str) -> str | None:
    """Of a package that is installed; None where it is not, or what stands there of it is broken."""
    try:
        version = importlib.metadata.version(name)
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError, KeyError):
        return None
    return version or None


# Devices


def _look_at_devices(found: Diagnosis, packages: Sequence[str]) -> None:
    """Import every package in another process, which may crash without taking this one along, and ask PyTorch there."""
    found.facts["cpu"] = {"cores": cores(), "memory": _memory()}
    found.facts["gpus"] = None
    names = [MODULES.get(name.lower(), name.replace("-", "_")) for name in packages]
    seen, ended = _in_another_process(names)
    for module, error in seen["broken"].items():
        mend = f"pip install --force-reinstall {packages[names.index(module)]}"
        found.problems.append(Problem(f"{module} cannot be imported ({error})", mend))
    if ended:
        mend = "install a build of it that is made for this machine"
        found.problems.append(Problem(f"importing {seen['at'] or 'the packages'} {ended}", mend))
    if seen["devices"]:
        found.facts["cpu"] |= seen["devices"]["cpu"]
        found.facts["gpus"] = seen["devices"]["gpus"]
        if not found.facts["gpus"] and Path("/dev/nvidiactl").exists():
            found.notes.append(
                "there is an NVIDIA GPU that PyTorch does not see: it is a build for CPUs, the driver is too old for "
                "it, or CUDA_VISIBLE_DEVICES hides the GPU"
            )


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _in_another_process(modules: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What :func:`report` said of these modules, and how it ended where it did not come to its end."""
    code = f"from {__name__} import report; report({list(modules)!r})"
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    quiet = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    ended = ""
    try:  # -P: nothing is imported out of the folder that it is started in
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-c", code], capture_output=True, env={**os.environ, **quiet},
            timeout=PATIENCE, text=True, errors="replace",
        )  # fmt: skip
        said = done.stdout
        if done.returncode:
            number = -done.returncode
            named = signal.Signals(number).name if number in set(signal.Signals) else f"code {done.returncode}"
            ended = f"ended Python ({named})"
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        ended = f"was not over after {PATIENCE:.0f} s"
    seen: dict[str, Any] = {"broken": {}, "devices": None, "at": ""}
    for line in said.splitlines():
        if line.startswith(MARK):
            kind, *rest = json.loads(line.removeprefix(MARK))
            if kind == "broken":
                seen["broken"][rest[0]] = harmless(rest[1])
            else:
                seen[kind] = rest[0]
    return seen, ended


MARK = "rkld doctor: "
"""What lines begin with that :func:`report` writes; libraries may write others."""


def report(modules: Iterable[str]) -> None:
    """Import them one by one, and print what came of it and what PyTorch sees: for the process that asked."""

    def say(*what: object) -> None:
        print(MARK + json.dumps(what), flush=True)

    for module in modules:
        say("at", module)
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a library raises while it is imported; its text may hold paths
            say("broken", module, type(error).__name__)
    if "torch" in sys.modules:
        say("at", "torch, to ask for the devices,")
        say("devices", _devices())


def _devices() -> dict[str, Any]:
    import torch

    bf16 = f"by {units}, fast" if (units := cpu_bf16()) else "emulated, slow"
    cpu = {"instructions": torch.backends.cpu.get_cpu_capability(), "bf16": bf16, "threads": torch.get_num_threads()}
    gpus = []
    for n in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(n)
        free, memory = torch.cuda.mem_get_info(n)
        with torch.cuda.device(n):
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        capability = f"{facts.major}.{facts.minor}"
        gpus.append({"name": facts.name, "memory": memory, "free": free, "capability": capability, "bf16": has_bf16})
    return {"cpu": cpu, "gpus": gpus}


# Places


def _look_at_caches(found: Diagnosis) -> None:
    """Whether models of earlier runs can be found without a network."""
    found.facts["offline"] = any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in OFFLINE)
    made = _is(Path.exists, model_folder() / "config.json")
    demo = "the demo's model" if made else "not the demo's model (93 MB, fetched once)"
    models = _count(HUB.folder())
    found.facts["caches"] = [
        {"of": cache.of, "where": cache.where(), "there": _is(Path.is_dir, cache.folder()), "holds": holds}
        for cache, holds in ((OWN, demo), (HUB, f"{models} model{'s' * (models != 1)}"))
    ]
    for cache in (OWN, HUB):
        if not _can_be_written(cache.folder()):
            variable = next(iter(cache.places))
            found.notes.append(
                f"{cache.where()} cannot be written: nothing new is kept there; {variable} names another"
            )


def _can_be_written(folder: Path) -> bool:
    try:
        os.stat(folder)
    except FileNotFoundError:  # it is made when it is needed
        pass
    except OSError:
        return False
    try:
        return os.access(_existing(folder), os.W_OK | os.X_OK)
    except OSError:
        return False


def _count(folder: Path) -> int:
    """Of models in the hub's cache: those with at least one version."""
    try:
        return len({path.parents[1] for path in folder.glob("models--*/snapshots/*")})
    except OSError:
        return 0


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there and can be looked at.

    Raises:
        OSError: it is below the folder that this was started in, which has been deleted.
    """
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if _is(Path.exists, path))


def _is(what: Callable[[Path], bool], path: Path) -> bool:
    """What pathlib says of a path; False where nothing can be said: no name of a file, or not for this user."""
    try:
        return what(path)
    except OSError:
        return False


def _look_at_disks(found: Diagnosis) -> None:
    found.facts["disk"] = []
    try:
        here = Path.cwd()
    except OSError:
        mend = "Change to another folder, or give full paths"
        found.problems.append(Problem("the folder that this was started in has been deleted", mend))
        return
    places = {"this folder": here, "caches": OWN.folder(), "temporary files": Path(tempfile.gettempdir())}
    for purpose, folder in places.items():
        free = shutil.disk_usage(_existing(folder)).free
        found.facts["disk"].append({"for": purpose, "free": free})
        if free < LITTLE:
            found.notes.append(f"{readable_size(free)} are free for {purpose}: rkld check says what a run will write")
