"""The help as a user reads it: a line for each choice, and nothing that cannot be chosen."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from rkld.auditing.registry import ATTACKS
from rkld.cli import main
from rkld.commands.options import chosen_settings, settings_options
from rkld.methods.registry import METHODS
from rkld.settings.auditing import AuditSettings
from rkld.settings.unlearning import Settings
from rkld.stopping.registry import STOPPING_RULES, selectable_rules


def help_of(*words: str) -> str:
    done = CliRunner().invoke(main, [*words, "--help"], terminal_width=100)
    assert done.exit_code == 0, done.output
    return re.sub(r"\s+", " ", done.output)


def test_stopping_rules_are_listed_with_what_they_mean_and_the_oracle_is_not() -> None:
    text = help_of("unlearn")
    for name in selectable_rules():
        assert f" {name} {STOPPING_RULES.get(name).help}" in text
    assert "oracle" not in text


def test_every_attack_and_method_is_listed_with_a_line_of_its_own() -> None:
    text, titles = help_of("audit"), [attack.title for _, attack in ATTACKS.items()]
    assert len(set(titles)) == len(titles)
    for name, attack in ATTACKS.items():
        assert f" {name} {attack.title}" in text
    assert all(f" {name} " in help_of("unlearn") for name in METHODS.names())


@pytest.mark.parametrize("cls", [Settings, AuditSettings])
def test_the_former_flag_of_a_setting_is_taken_and_goes_over_a_settings_file(tmp_path, cls) -> None:
    found, file = [], tmp_path / "run.yaml"
    file.write_text("base_model: of-the-file\n")

    @click.command()
    @settings_options(cls)
    @click.pass_context
    def command(ctx: click.Context, **given: object) -> None:
        found.append(chosen_settings(ctx, cls).base)

    for flags in ([], ["--base-model", "b"], ["--base", "b"]):
        CliRunner().invoke(command, ["m", "--forget", "f", "--config", str(file), *flags], catch_exceptions=False)
    assert found == ["of-the-file", "b", "b"]


@pytest.mark.parametrize(
    ("words", "expected"), [(("unlearn",), "MODEL Folder, hub name"), (("audit",), "a run folder")]
)
def test_the_model_is_explained(words: tuple[str, ...], expected: str) -> None:
    assert expected in help_of(*words)


@pytest.mark.parametrize("words", [(), ("bench",)])
def test_no_line_about_a_command_is_cut_short(words: tuple[str, ...]) -> None:
    assert "..." not in help_of(*words).partition("Commands:")[2]


@pytest.mark.parametrize("verb", ["unlearn", "audit", "check"])
def test_the_help_imports_no_torch(verb: str) -> None:
    code = (
        f"import sys; from click.testing import CliRunner; from rkld.cli import main; "
        f"CliRunner().invoke(main, ['{verb}', '--help']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
