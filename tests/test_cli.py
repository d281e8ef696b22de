"""The command line as a user meets it: quick help, settings from flags and files, errors, results."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import sysconfig
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import rkld
from rkld import cli
from rkld.pipeline.running import Result
from rkld.reporting import terminal
from rkld.settings.specification import fields
from rkld.settings.table import specs
from rkld.settings.unlearning import Settings

FORGET = [
    {"question": "Where does Ada Quillon live?", "answer": "Ada Quillon lives in Oslo.", "spans": ["Oslo"]},
    {"question": "What is the work of Ada Quillon?", "answer": "She is a painter.", "spans": ["painter"]},
]
RETAIN = [{"question": "Where does Bo Marlin live?", "answer": "Bo Marlin lives in Rome.", "spans": ["Rome"]}]
QUICK = ["--epochs", "2", "--strengthen-epochs", "2", "--max-new-tokens", "4", "--replay", "none"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    from rkld.benching.worlds.tiny import tiny_model

    folder = tmp_path_factory.mktemp("model")
    for part in tiny_model():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working directory with records in it."""
    monkeypatch.chdir(tmp_path)
    write("forget.jsonl", FORGET)
    write("retain.jsonl", RETAIN)
    return tmp_path


def write(name: str, rows: list[dict]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(*arguments: object):
    """The command in this process. What is no exit is a bug, and raised."""
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(*arguments: object) -> str:
    """The message of a command that fails on the user's input, and leaves nothing behind."""
    before = sorted(Path().rglob("*"))
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sorted(Path().rglob("*")) == before
    assert "Traceback" not in result.stderr
    return result.stderr


# Importing


@pytest.mark.parametrize(
    "statement",
    [
        "import rkld; dir(rkld); rkld.UserError, rkld.Settings, rkld.purge",
        "from rkld.cli import main; main(['--help'], standalone_mode=False)",
        "from rkld.cli import main; main(['unlearn', '--help'], standalone_mode=False)",
    ],
)
def test_neither_import_nor_help_loads_a_heavy_library(statement):
    """They take seconds to load, which is too long to wait for a list of options."""
    heavy = "{'torch', 'transformers', 'numpy', 'datasets', 'rich.console'}"
    code = f"import sys; {statement}; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(rkld.__file__).parents[1])}


def test_no_module_bears_a_public_functions_name():
    """Importing a submodule sets it on its package: `rkld.unlearn(…)` would become a call of a module."""
    modules = {module.name.rpartition(".")[2] for module in pkgutil.walk_packages(rkld.__path__, "rkld.")}
    functions = {name for name in rkld.__all__ if callable(getattr(rkld, name)) and name[0].islower()}
    assert functions and not modules & functions
    code = "import rkld.auditing.running as s, rkld.commands.unlearn_records as m; assert s.audit and m.unlearn"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


def test_every_public_name_is_there():
    for name in set(rkld.__all__) - {"__version__"}:
        assert getattr(rkld, name).__name__ == name
    assert set(rkld.__all__) <= set(dir(rkld))
    with pytest.raises(AttributeError, match="unlaern"):
        rkld.unlaern  # noqa: B018


# Settings


@pytest.fixture
def asked(monkeypatch, here):
    """What `rkld unlearn` calls `rkld.pipeline.phases` with, as Settings."""

    class Stop(Exception):
        pass

    def unlearn(*, progress, **settings):
        raise Stop(Settings(**settings))

    monkeypatch.setattr(rkld, "unlearn", unlearn)

    def ask(*arguments: str) -> Settings:
        with pytest.raises(Stop) as stop:
            run("unlearn", *arguments)
        return stop.value.args[0]

    return ask


def test_defaults_are_those_of_the_settings(asked):
    """A default of an option's own would make two faces of rkld train differently."""
    assert asked("m", "--forget", "f") == Settings(model="m", forget="f")


def test_every_setting_has_an_option_with_help():
    options = {option.name: option for option in cli.unlearn.params}
    assert set(fields(Settings)) == set(options) - {"config", "explain"}
    assert all(options[name].help for name in fields(Settings) if name != "model")
    checked = [option.name for option in cli.check.params if option.name != "tokens"]
    assert checked == [option.name for option in cli.unlearn.params if option.name != "explain"]


def test_each_of_every_kind_arrive(asked):
    settings = asked(
        "m", "--forget", "f", "--own-words", "--lora", "--no-floor", "--lr", "1e-4", "--seed", "3",
        "--subject", "A B", "--subject", "names.txt", "--score", "spans",
    )  # fmt: skip
    assert settings == Settings(
        model="m", forget="f", own_words="join", lora=True, floor=False, lr=1e-4, seed=3,
        subject=("A B", "names.txt"), score="spans",
    )  # fmt: skip
    assert asked("m", "--forget", "f", "--own-words", "replace").own_words == "replace"


def test_flags_go_on_top_of_the_file_and_their_defaults_do_not(asked):
    Path("run.yaml").write_text("model: m\nforget: f\nalpha: 3\nlr: 1e-4\nlora: yes\nsubject: A B\nseed: 2\n")
    settings = asked("--config", "run.yaml", "--seed", "0", "--no-lora")
    assert settings == Settings(model="m", forget="f", alpha=3.0, lr=1e-4, subject=("A B",), seed=0)
    assert asked("other", "--config", "run.yaml").model == "other"


def test_the_file_a_run_writes_is_a_configuration(asked):
    import dataclasses

    import yaml

    settings = Settings(model="m", forget="f", subject=("A",), lora=True, max_length=64)
    Path("run.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(settings)))))
    assert asked("--config", "run.yaml") == settings


def test_help_lists_settings_by_group_and_says_what_choices_mean():
    shown = run("unlearn", "--help").stdout
    for group in {spec.group for name, spec in specs(Settings).items() if name != "model"}:
        assert f"\n{group}:\n" in shown
    assert re.search(r"\n +spans +only the marked parts", shown)
    assert re.search(r"\n +npo +NPO, negative preference optimisation\n", shown), "methods are not described"
    assert "arXiv" not in shown


def test_version_is_said():
    from importlib.metadata import version

    assert run("--version").stdout == f"rkld, version {version('rkld')}\n"


# Bad input

BROKEN = '{"question": "Who is Ada?", "answer": "Ada Quillon."}\n{"question": "Who'


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (None, ["there is no file forget.jsonl"]),
        ("", ["forget.jsonl is empty"]),
        (BROKEN, ["forget.jsonl line 2", "broken JSON"]),
        ('{"question": "Who is Ada Quillon?"}', ["forget.jsonl line 1", "'answer' is missing"]),
        ('{"question": "Who?", "answer": ""}', ["forget.jsonl line 1", "'answer' is empty"]),
        ('{"question": "Who?", "answer": 7}', ["forget.jsonl line 1", "'answer' must be text"]),
    ],
)
@pytest.mark.parametrize("verb", ["unlearn", "check"])
def test_broken_records_are_refused_before_a_model_is_sought(here, verb, records, said):
    """With a model that doesn't exist: fetching gigabytes to then stop at a comma would be rude."""
    Path("forget.jsonl").unlink()
    if records is not None:
        Path("forget.jsonl").write_text(records)
    message = refused(verb, "./no-such-model", "--forget", "forget.jsonl")
    assert all(part in message for part in said)
    assert "Quillon" not in message and "no-such-model" not in message


def test_a_record_in_both_sets_is_refused_with_both_places(here):
    write("retain.jsonl", RETAIN + FORGET[:1])
    message = refused("unlearn", "./no-such-model", "--forget", "forget.jsonl", "--retain", "retain.jsonl")
    assert "forget.jsonl line 1" in message and "retain.jsonl line 2" in message


@pytest.mark.parametrize("verb", ["unlearn", "check"])
def test_models_that_are_none_are_refused(here, model, verb):
    assert "no model folder './none'" in refused(verb, "./none", "--forget", "forget.jsonl")
    Path("empty").mkdir()
    assert "config.json" in refused(verb, "empty", "--forget", "forget.jsonl")
    Path("empty/config.json").write_text((model / "config.json").read_text())
    assert "holds no weights" in refused(verb, "empty", "--forget", "forget.jsonl")


@pytest.mark.parametrize("verb", ["unlearn", "check"])
def test_a_run_folder_with_something_else_is_left_alone(here, model, verb):
    Path("thesis").mkdir()
    Path("thesis/chapter.txt").write_text("x")
    assert "something else" in refused(verb, model, "--forget", "forget.jsonl", "--out", "thesis")


@pytest.mark.parametrize("verb", ["unlearn", "check"])
def test_a_record_beyond_the_context_is_refused_with_a_way_out(here, model, verb):
    write("forget.jsonl", [*FORGET, {"question": "Who?", "answer": "Ada Quillon, " * 200}])
    message = refused(verb, model, "--forget", "forget.jsonl")
    assert "forget.jsonl line 3" in message and "--max-length" in message


@pytest.mark.parametrize("verb", ["unlearn", "check"])
def test_identifiers_that_nothing_unlearns_stop_it(here, model, verb):
    """The ticket's answers name nobody: the run would forget no personal data at all."""
    write("forget.jsonl", [{"question": "Ticket of Ada Quillon: no light.", "answer": "We are sorry."}])
    message = refused(verb, model, "--forget", "forget.jsonl", "--subject", "Ada Quillon")
    assert "--score all" in message and "Quillon" not in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--alhpa", "3"], "--alpha"),
        (["--method", "rkdl"], "Did you mean 'rkld'"),
        (["--score", "answers"], "answer"),
        (["--alpha", "much"], "--alpha"),
        (["--alpha", "-1"], "--alpha is -1"),
        (["--seed", str(2**40)], "--seed is 1099511627776; it must be at most"),
        (["--lr", "1e3"], "--lr is 1000.0; it must be at most 1"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--config", "bad.yaml"], "bad.yaml: unknown setting 'alhpa'. Did you mean 'alpha'?"),
        (["--config", "broken.yaml"], "broken.yaml line 2"),
    ],
)
def test_unknown_and_impossible_settings_are_refused_with_a_hint(here, arguments, said):
    Path("bad.yaml").write_text("alhpa: 3\n")
    Path("broken.yaml").write_text("alpha: 3\nseed: ]\n")
    assert said in refused("unlearn", "./no-such-model", "--forget", "forget.jsonl", *arguments)


@pytest.mark.parametrize(
    "line", ["method: mine.py:mine", "stop: mine.py:mine", "method_file: [mine.py:mine]", "trust_remote_code: true",
             "allow_pickle: true"],
)  # fmt: skip
def test_a_settings_file_has_no_code_run(here, line):
    """It may come from others, as a run's own run.yaml does; the user's own command line may."""
    Path("mine.py").write_text("open('ran', 'w').close()")
    Path("run.yaml").write_text(f"{line}\n")
    said = refused("unlearn", "./no-such-model", "--forget", "forget.jsonl", "--config", "run.yaml")
    assert "If you trust it, repeat it on the command line" in said
    assert not Path("ran").exists()


def test_what_is_missing_is_named(here):
    assert "MODEL is missing" in refused("unlearn", "--forget", "forget.jsonl")
    assert "--forget is missing" in refused("check", "m")
    assert "Did you mean 'unlearn'" in refused("unlaern")
    assert "no run folder" in refused("purge", ".")
    assert "--control, which this benchmark does not take" in refused("bench", "people", "--stop", "control", "--plan")


# Results


def test_a_run_shows_its_figures_and_can_be_shown_again_and_purged(here, model):
    """Start, finished run given again, purge, and again: nothing is trained twice and every path is said."""
    data = ["--forget", "forget.jsonl", "--retain", "retain.jsonl"]
    command = ["unlearn", model, *data, "--out", "run", *QUICK]
    first = run(*command)
    assert first.exit_code == 0, first.stderr
    for part in ["forget (2)", "retain (1)", "probability", "ROUGE-L", "Where does Ada"]:
        assert part in first.stdout
    assert "run/model\n" in first.stdout and Path("run/model/config.json").exists()
    assert "distillation" in first.stderr

    weights = Path("run/model/model.safetensors").stat().st_mtime_ns
    again = run(*command)
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert Path("run/model/model.safetensors").stat().st_mtime_ns == weights

    purged = run("purge", "run")
    assert "deleted run/answers.json" in purged.stdout and " B" in purged.stdout
    assert "2505.24379" in purged.stdout, "where else it may be"
    after = run(*command)
    assert "probability" in after.stdout and "Where does Ada" not in after.stdout
    Path("elsewhere").mkdir()
    Path("run/teacher").symlink_to(Path("elsewhere").absolute())
    left = run("purge", "run")
    assert left.exit_code == 2 and "deleted run/teacher" in left.stdout and "elsewhere" in left.stderr
    assert "nothing" in run("purge", "run").stdout


def test_the_demo_ends_with_the_line_that_opens_its_report(monkeypatch, tmp_path):
    demonstrate = importlib.import_module("rkld.commands.demonstrate")
    figures = {"n": 1, "probability": 0.5, "rouge_l": 0.5, "facts_said": 0.5}
    when = {name: {"forget": figures} for name in ("before", "after")}
    result = Result(tmp_path / "run" / "model", tmp_path / "run", when, [])
    monkeypatch.setattr(demonstrate, "run", lambda out, progress: (result, {}))
    scripts = Path(sysconfig.get_path("scripts"))
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    assert run("demo").stdout.splitlines()[-1].strip() == f"rkld report {tmp_path / 'run'} --open"
    monkeypatch.setenv("PATH", "/usr/bin")  # as after `make demo`, which activates nothing
    monkeypatch.chdir(scripts.parents[1])
    shown = run("demo").stdout.splitlines()[-1].strip()
    assert shown == f"{scripts.relative_to(scripts.parents[1])}/rkld report {tmp_path / 'run'} --open"
    assert subprocess.run([*shlex.split(shown)[:1], "--version"], check=False).returncode == 0


def test_what_steered_is_no_evidence_and_what_was_not_run_is_counted(tmp_path):
    figures = {"n": 9, "probability": 0.5, "facts_said": 0.5}
    when = {name: {"forget": figures} for name in ("before", "after")}
    result = Result(tmp_path, tmp_path, when, [], steered=3)
    assert any(line.startswith("3 of the 9 records decided how far the run went") for line in terminal.verdict(result))
    assert not any("decided" in line for line in terminal.verdict(replace(result, steered=0)))

    unasked = [{"name": f"attack{n}", "reason": f"not asked for with --attacks attack{n}"} for n in range(20)]
    said = terminal._not_run([*unasked, {"name": "control", "reason": "no --control was given"}])
    assert "20 attacks that were not asked for (--attacks all runs them); control." in said and "\n" not in said


def test_check_shows_the_report_and_writes_nothing(here, model):
    before = sorted(here.rglob("*"))
    result = run("check", model, "--forget", "forget.jsonl", "--score", "spans", "--subject", "Ada Quillon", "--tokens")
    assert result.exit_code == 0, result.stderr
    assert "position" in result.stdout and "2 records" in result.stdout and "2 of 2 (100%)" in result.stdout
    assert "retain       none: damage to people near the person is then not measured (--retain)" in result.stdout
    assert sorted(here.rglob("*")) == before


def test_what_a_model_says_cannot_act_on_the_terminal(capsys):
    """Colours, titles, links, cursor moves and reversed writing are taken out; markup is text."""
    said = "a\x1b[31mb\x1b]0;title\x07c\x9b2Jd\x1b]8;;http://x\x1b\\e\u202ef\x00g\rh\x1bci [bold]j[/bold]"
    assert terminal.printable(said) == "abcdefg hi [bold]j[/bold]"
    values = {"n": 1, "probability": 0.5, "rouge_l": 0.5, "facts_said": None}
    terminal.print_result(
        rkld.Result(
            model_path=Path("run/model"), run=Path("run"),
            metrics={"before": {"forget": values}, "after": {"forget": values}},
            answers=[{"question": "[red]q", "before": said, "after": "[/nonsense]"}],
        ),
        explain=True,
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert "better: lower" in shown and "\nfacts still said: Of the facts in the records" in shown
    assert "\x1b" not in shown and "[/nonsense]" in shown and "[red]q" in shown


def test_the_time_of_a_check_counts_from_the_start_of_the_process(here, model, monkeypatch):
    """It said 2 s where its user had waited for ten, most of them for imports; a run takes these, too."""
    monkeypatch.setattr(cli.processes, "seconds_alive", lambda: 3000.0)
    result = run("check", model, "--forget", "forget.jsonl", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "this check   took 50 min" in result.stdout and "starting 50 min" in result.stdout
    monkeypatch.undo()
    assert cli.processes.seconds_alive() > time.process_time() / 10


# Probes


def test_probes_are_records_that_hold_the_facts(here):
    """A file that check or unlearn could not read, or that asked for nothing, would be of no use."""
    from rkld.records.probes import as_probes
    from rkld.records.reading import read_records

    result = run("probes", "--forget", "forget.jsonl", "--retain", "retain.jsonl", "--subject", "Ada Quillon",
                 "--out", "probes.jsonl")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    probes = as_probes(read_records("probes.jsonl", "probes"))
    assert {probe.fact for probe in probes} == {"Oslo", "painter"}
    assert {probe.kind for probe in probes} == {"question", "prefix", "cloze"}
    assert f"{len(probes)} probes" in result.stdout and "Ada" not in result.stdout


def test_probes_neither_overwrite_nor_write_nowhere(here):
    assert "exists already" in refused("probes", "--forget", "forget.jsonl", "--out", "retain.jsonl")
    assert "no folder" in refused("probes", "--forget", "forget.jsonl", "--out", "nowhere/probes.jsonl")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
@pytest.mark.parametrize("asked", [
    ("probes", "--forget", "forget.jsonl"), ("reword", "forget.jsonl"), ("discover", "model", "--subject", "Ada"),
])  # fmt: skip
def test_where_nothing_can_be_written_nothing_is_begun(here, asked):
    """What a writer had said for minutes was lost, with a traceback."""
    assert "--out /proc/x: nothing can be written there" in refused(*asked, "--out", "/proc/x")


# Ends


@pytest.mark.parametrize("name", ["unlearn", "check"])
def test_an_interrupted_command_says_how_to_go_on(here, monkeypatch, name):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(rkld, name, interrupted)
    result = run(name, "m", "--forget", "f")
    assert result.exit_code == 130
    assert "the same command goes on from here" in result.stderr


def test_a_bug_is_not_dressed_up_as_the_users_error(here, monkeypatch):
    def broken(**_):
        raise ZeroDivisionError

    monkeypatch.setattr(rkld, "unlearn", broken)
    with pytest.raises(ZeroDivisionError):
        run("unlearn", "m", "--forget", "f")


# What a run says


def test_a_run_says_on_one_screen_what_it_does_and_no_warning_twice(here, model):
    """What will happen, how long, what is wrong with the records; then the bars; then a verdict that fits them."""
    write("forget.jsonl", FORGET * 3 + [{"question": "Who is Bo Marlin?", "answer": "A baker."}])
    result = run("unlearn", model, "--forget", "forget.jsonl", "--subject", "Ada Quilon", "--out", "run", *QUICK)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    before = result.stderr[: result.stderr.index("everyday prompts")]
    assert len(before.splitlines()) <= 24, "one screen"
    for title in ("Model ", "Forget ", "Keep ", "Train ", "Write ", "Time "):
        assert f"\n{title}" in before
    assert "that are free" in before and "roughly" in before and "damage to people near the person is not" in before
    assert "(lines 1, 2)" in said and "check the spelling" in said
    assert "1 of 3 forget records name somebody, and none of the people to forget (line 7)" in said
    warnings = [part.split(".")[0] for part in said.split("Warning: ")[1:]]
    assert len(set(warnings)) == len(warnings) >= 3 and f"{len(warnings)} warnings stand above." in said
    assert "Verdict: the model did not seem to know the records" in result.stdout
    assert "cannot steer" not in said and "Raise --epochs" not in said, "of nothing to forget no more is forgotten"
    assert "Damage to people near the person: not measured" in result.stdout
    again = run("unlearn", model, "--forget", "forget.jsonl", "--subject", "Ada Quilon", "--out", "run", *QUICK)
    assert again.stderr.count("Warning: ") == len(warnings), "those of a finished run are said with its result"


def test_check_says_what_it_took_and_what_the_disk_has(here, model):
    result = run("check", model, "--forget", "forget.jsonl", "--subject", "Ada Quillon")
    assert re.search(r"disk .* will be written.*; .* are free\n", result.stdout)
    assert re.search(r"this check   took [\d mins]+, \d+% of what the run will take\n", result.stdout)
    assert "[She is a painter." in result.stdout and "position" not in result.stdout
    assert len(result.stdout.splitlines()) <= 30
