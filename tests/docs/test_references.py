"""What the documents name is there: commands and their options, modules, symbols, paths and links."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from functools import cache
from pathlib import Path

import click
import pytest

from benchmarks.wordings import main as wordings
from rkld.cli import main

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"```.*?```|`[^`\n]+(?:\n[^`\n]+)?`", re.S)
"""Fenced blocks and code in a line, which may go on in the next."""

EVERY_DOCUMENT = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def code_of(path: Path) -> list[str]:
    """Every piece of code of a document, without continued and broken lines."""
    pieces = CODE.findall(path.read_text(encoding="utf-8"))
    return [re.sub(r"\\\n\s*", " ", piece.strip("`")) for piece in pieces]


def command_lines(path: Path) -> list[list[str]]:
    """The words of every ``rkld VERB …`` behind "rkld", to the end of its line, comments left out."""
    found = []
    for piece in code_of(path):
        lines = piece.splitlines() if "\n" in piece and piece.count("\n") > 1 else [piece.replace("\n", " ")]
        found += [match[1].split("#")[0].split() for line in lines if (match := re.match(r"\s*rkld +([a-z].*)", line))]
    return found


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that these words call, and the words behind its name."""
    command: click.Command = main
    while isinstance(command, click.Group) and words:
        name = words[0].rstrip(",;.")
        if ".py" in name or not re.fullmatch(r"[a-z]+", name):  # a benchmark of the reader's own
            break
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"there is no command rkld … {name}"
        command, words = found, words[1:]
    return command, words


@EVERY_DOCUMENT
def test_every_command_has_the_options_it_is_shown_with(path: Path) -> None:
    for words in command_lines(path):
        command, rest = resolve(words)
        if isinstance(command, click.Group):
            continue
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        named = {re.split(r"[=,)]", word)[0] for word in rest if word.startswith("--")}
        assert named <= known, f"{path.name}: rkld {' '.join(words)}: {named - known}"


def shown_commands(path: Path) -> list[list[str]]:
    """Every whole ``rkld`` command in a block of code, as a shell splits it; placeholders ("…") are none."""
    found = []
    for block in re.findall(r"^( *)```\w*\n(.*?)^\1```", path.read_text(encoding="utf-8"), re.S | re.M):
        text = re.sub(r"<<'(\w+)'.*?^\1$", "", re.sub(r" *\\\n\s*", " ", block[1]), flags=re.S | re.M)
        for line in text.splitlines():
            match = re.match(r"\s*(?:- run: )?(?:(?:torchrun|accelerate launch) .*?-m )?rkld +([a-z].*)", line)
            if match and "…" not in line and "[OPTIONS]" not in line and "[ARGS]" not in line:
                words = shlex.split(match[1], comments=True)
                found.append(words[: next((i for i, word in enumerate(words) if word in ("||", "&&", "|", ">")), None)])
    return found


@EVERY_DOCUMENT
def test_every_command_in_a_block_is_parsed(path: Path) -> None:
    """By click, as if it were given: its values are of their kind, and nothing that it needs is missing."""
    for words in shown_commands(path):
        command, rest = resolve(words)
        if isinstance(command, click.Group) and ".py:" in rest[0]:  # a benchmark of the reader's own
            continue
        try:
            command.make_context("rkld", rest)
        except click.exceptions.Exit as done:
            assert done.exit_code == 0
        except click.UsageError as error:
            raise AssertionError(f"{path.name}: rkld {' '.join(words)}: {error.format_message()}") from None


def test_commands_are_found_in_blocks(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(
        "```\nrkld report runs/jane \\\n     --open  # the page\nrkld unlearn …\n```\n"
        "```bash\ncat > a.jsonl <<'END'\nrkld nonsense\nEND\n"
        "torchrun --nproc_per_node 2 -m rkld purge 'a b' || true\n```\n"
    )
    assert shown_commands(document) == [["report", "runs/jane", "--open"], ["purge", "a b"]]


@cache
def every_option() -> set[str]:
    """The options of all commands."""
    verbs = [command for command in main.commands.values() if not isinstance(command, click.Group)]
    for group in (command for command in main.commands.values() if isinstance(command, click.Group)):
        context = click.Context(group)
        verbs += [found for name in group.list_commands(context) if (found := group.get_command(context, name))]
    return {name for verb in verbs for option in verb.params for name in (*option.opts, *option.secondary_opts)}


@EVERY_DOCUMENT
def test_every_option_in_the_text_is_one_of_some_command(path: Path) -> None:
    """`--stop exposure` was shown long after it was gone; an option's name at least must be there."""
    known = every_option()
    others = {"--help", "--version", "--check"}
    text = path.read_text(encoding="utf-8")
    if path.name == "open-unlearning.md":  # the options of benchmarks.open_unlearning
        others |= {"--split", "--logs", "--ours", "--world"}
    if path.name == "experiments.md":
        others |= {name for option in wordings.params for name in option.opts}
    inline = re.findall(r"(?<!`)`(--[a-z][a-z0-9-]*)", text)
    missing = set(inline) - known - others
    assert not missing, f"{path.name}: {missing}"


@EVERY_DOCUMENT
def test_every_value_of_a_registered_option_is_registered(path: Path) -> None:
    from rkld.auditing.registry import ATTACKS, SETS
    from rkld.methods.registry import METHODS
    from rkld.stopping.registry import selectable_rules

    values = {
        "--method": METHODS.names(),
        "--stop": selectable_rules(),
        "--attacks": [*ATTACKS.names(), *SETS],
    }
    text = "" if path.name == "CHANGELOG.md" else "\n".join(code_of(path))  # that one names what is gone
    for option, value in re.findall(r"(--method|--stop|--attacks) +([a-z0-9][a-z0-9_]*)(?![\w.:])", text):
        assert value in values[option], f"{path.name}: {option} {value}"


def test_every_method_has_a_row() -> None:
    from rkld.methods.registry import METHODS

    text = (ROOT / "docs" / "reference" / "methods.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text, re.M)
    assert sorted(rows) == METHODS.names()


@EVERY_DOCUMENT
def test_every_module_that_is_run_is_there(path: Path) -> None:
    for module in re.findall(r"python -m ([\w.]*\w)", path.read_text(encoding="utf-8")):
        assert importlib.util.find_spec(module), f"{path.name}: python -m {module}"


GROUPS = {"rkld.methods", "rkld.metrics", "rkld.attacks", "rkld.stopping_rules", "rkld.benchmarks"}
"""Entry-point groups, which look like modules."""


@EVERY_DOCUMENT
def test_every_dotted_name_imports(path: Path) -> None:
    for name in sorted(set(re.findall(r"\brkld(?:\.[A-Za-z_]\w*)+", path.read_text(encoding="utf-8"))) - GROUPS):
        if name.endswith((".py", ".jsonl", ".md")):
            continue
        parts = name.split(".")
        found = importlib.import_module("rkld")
        for i, part in enumerate(parts[1:], 2):
            found = getattr(found, part, None) or importlib.import_module(".".join(parts[:i]))


@EVERY_DOCUMENT
def test_every_import_of_an_example_works(path: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
        for line in re.findall(r"^(?:from rkld[\w.]* import .*|import rkld.*)$", block, re.M):
            exec(line, {})


@EVERY_DOCUMENT
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), f"{path.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{path.name}: {target}"


@EVERY_DOCUMENT
def test_every_source_file_in_the_text_is_there(path: Path) -> None:
    """Named by its path in the repository, in the package or below one of the rooms; or by its bare name if shipped."""
    whole = path.read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", whole, flags=re.S)
    made = "".join(re.findall(r"```.*?```", whole, re.S))  # what the document itself has its reader write
    for name in re.findall(r"`([\w/.-]+\.(?:py|txt|json|jinja))`", text):
        if (
            Path(name).name in OF_RUNS
            or name in made
            or name.startswith(("FILE.py", "mine.py"))
            or ("/src/" in f"/{name}" and path.name == "open-unlearning.md")
        ):
            continue
        found = any((root / name).exists() for root in (ROOT, ROOT / "src/rkld", ROOT / "docs"))
        assert found, f"{path.name}: {name}"


OF_RUNS = {
    "bench.json",
    "TOFU_EVAL.MOMENT.json",
    "answers.json",
    "checksums.json",
    "manifest.json",
    "audit.json",
    "report.json",
    "model.cdx.json",
    "cell.json",
    "pair.json",
    "index.json",
    "refusals.txt",
} | {
    "README.txt",
    "TOFU_EVAL.json",
    "TOFU_SUMMARY.json",
    "NAME.json",
    "NAME_perturbed.json",
    "NAME_retain.json",
    "SPLIT_retain.json",
}
"""Files that commands write, and whose names stand for the user's own."""
