"""Completion in a shell: commands, options, names and files are offered, and nothing heavy is loaded for it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete

from rkld.benching.registry import titles
from rkld.cli import main
from rkld.methods.registry import METHODS

SOURCE = str(Path(__file__).resolve().parents[1] / "src")


def offered(*words: str) -> list[tuple[str, str]]:
    """Kind and value of what is offered for the last word."""
    *before, incomplete = words
    complete = BashComplete(main, {}, "rkld", "_RKLD_COMPLETE")
    return [(item.type, item.value) for item in complete.get_completions(before, incomplete)]


def names(*words: str) -> set[str]:
    return {value for kind, value in offered(*words) if kind == "plain"}


def test_commands_and_options_are_offered():
    assert names("") == set(main.commands)
    assert names("un") == {"unlearn"}
    assert {"--forget", "--method", "--config"} <= names("unlearn", "--")
    assert names("ledger", "") == {"list", "recheck", "verify"}


def test_values_are_offered_by_what_they_are():
    """Names of registered things, meanings of choices, and files where a file is asked for."""
    assert {"npo", "dpo"} <= names("unlearn", "--method", "") <= set(METHODS.names())
    assert names("unlearn", "--score", "sp") == {"spans"}
    assert "paraphrases" in names("audit", "--attacks", "")
    for words in (["unlearn", "./m"], ["unlearn", "--forget", "./m"], ["probes", "--forget", "./m"], ["report", "./m"]):
        assert offered(*words) == [("file", "./m")]
    assert offered("unlearn", "--epochs", "") == []


def test_benchmarks_are_offered_with_the_options_that_all_have():
    assert {*titles(), "continual", "report"} == names("bench", "")
    assert "--methods" in names("bench", "people", "--")
    real = main.commands["bench"].get_command(click.Context(main.commands["bench"]), "people")
    own = {name for option in real.params for name in (*option.opts, *option.secondary_opts)}
    assert names("bench", "people", "--") - {"--help"} <= own, "no option is offered that is not there"


@pytest.mark.parametrize("words", ["rkld ", "rkld bench ", "rkld bench people --", "rkld unlearn --method "])
def test_nothing_heavy_is_loaded_between_two_keys(words):
    code = (
        "import sys\nfrom rkld.cli import main\ntry: main(prog_name='rkld')\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'rich.console', 'cryptography'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    asked = {"_RKLD_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked, "PYTHONPATH": SOURCE}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "plain," in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_lists_the_commands(tmp_path):
    """The script that the help says to write, read by a real bash, as the tabulator key would call it."""
    command = tmp_path / "rkld"
    command.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(SOURCE)} exec {shlex.quote(sys.executable)} -m rkld "$@"\n')
    command.chmod(0o755)
    script = f"""
        export PATH={shlex.quote(str(tmp_path))}:$PATH
        _RKLD_COMPLETE=bash_source rkld > {shlex.quote(str(tmp_path / "completion.bash"))}
        . {shlex.quote(str(tmp_path / "completion.bash"))}
        COMP_WORDS=(rkld ""); COMP_CWORD=1
        _rkld_completion rkld
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True)
    assert set(done.stdout.split()) == set(main.commands), done.stderr
