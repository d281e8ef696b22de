"""Settings from loose values: names, types, and what YAML makes of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rkld.errors import UserError
from rkld.records.reading import read_subjects
from rkld.runfolder.folder import Run
from rkld.settings.config_file import read_config
from rkld.settings.specification import fields, kind, make
from rkld.settings.unlearning import Settings

GIVEN = {"model": "m", "forget": "f.jsonl"}


def config(tmp_path, text: str) -> Settings:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return make({**GIVEN, **read_config(path)}, "config.yaml", Settings)


@pytest.mark.parametrize("line, name, value", [
    ("lr: 5e-5", "lr", 5e-5),
    ("alpha: 4", "alpha", 4.0),
    ("own_words: no", "own_words", "no"),
    ("template_date: 2024-07-26", "template_date", "2024-07-26"),
    ("subject: Ada Quill", "subject", ("Ada Quill",)),
    ("subject: [Ada Quill, Quill]", "subject", ("Ada Quill", "Quill")),
    ("replay: none", "replay", "none"),
    ("retain: null", "retain", None),
    ("bf16: false", "bf16", False),
    ("base_model: b", "base", "b"),  # the name that it had before
])  # fmt: skip
def test_yaml_values_mean_what_they_look_like(tmp_path, line, name, value):
    """YAML reads 5e-5 as text, no as false and a date as a date."""
    found = getattr(config(tmp_path, line), name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("values, message", [
    ({"alhpa": 8}, r"here: unknown setting 'alhpa'. Did you mean 'alpha'\?"),
    ({7: 8}, "unknown setting 7"),
    ({None: 8}, "unknown setting None"),
    ({"base": "b", "base_model": "c"}, "here: 'base' stands there twice"),
    ({"alpha": "much"}, "'alpha' is 'much'; expected a number"),
    ({"alpha": float("nan")}, "--alpha is nan; it must be a finite number"),
    ({"lr": "inf"}, "--lr is inf"),
    ({"epochs": 2.5}, "'epochs' is 2.5; expected a whole number"),
    ({"epochs": True}, "'epochs' is True; expected a whole number"),
    ({"epochs": 0}, "--epochs is 0; it must be at least 1"),
    ({"lora": "yes"}, "'lora' is 'yes'; expected true or false"),
    ({"model": None}, "'model' is None; expected text"),
    ({"score": "span"}, r"choose one of answer, all, spans, added. Did you mean 'spans'\?"),
    ({"subject": 7}, "expected text or a list of texts"),
    ({"batch_size": 8, "accumulation": 3}, "cannot be split"),
    ({"lr": 0}, "must be above 0"),
    ({"max_length": 1}, "at least 2"),
])  # fmt: skip
def test_what_is_wrong_is_named_with_its_value_and_remedy(values, message):
    with pytest.raises(UserError, match=message):
        make({**GIVEN, **values}, "here", Settings)


def test_messages_show_no_names():
    with pytest.raises(UserError) as error:
        make({**GIVEN, "subject": ["Ada Quill", 1815]}, "here", Settings)
    assert "Ada" not in str(error.value) and "1815" not in str(error.value)


def test_paths_may_be_path_objects():
    assert make(
        {"model": Path("a/m"), "forget": Path("f.jsonl"), "out": Path("o")}, "here", Settings
    ).run_folder == Path("o")


@pytest.mark.parametrize("text, message", [
    ("alpha: 8\nlr: [1", "line 2|line 3"), ("- alpha", "found list"), ("", "found NoneType"), ("d: 2024-13-45", "YAML"),
])  # fmt: skip
def test_a_broken_file_is_one_message(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        config(tmp_path, text)
    with pytest.raises(UserError, match="cannot be read"):
        read_config(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes("model: Łódź".encode("utf-16"))
    with pytest.raises(UserError, match=r"latin\.yaml"):
        read_config(tmp_path / "latin.yaml")
    (tmp_path / "twice.yaml").write_text("model: one\nlr: 1e-4\nmodel: other\n")
    with pytest.raises(UserError, match=r"it has a name twice \(line 1\): keep one"):  # YAML takes the last
        read_config(tmp_path / "twice.yaml")


def test_run_yaml_is_a_config_that_gives_the_same_settings(tmp_path):
    """Another person repeats a run with --config run.yaml: every setting must survive the way through the file."""
    asked = make({
        **GIVEN, "out": str(tmp_path / "run"), "subject": ["Jürgen Ö.", "yes"], "lr": 5e-5, "strengthen_lr": 3e-7,
        "own_words": "no", "system_prompt": "Be brief:\n\n no #comment", "template_date": "2025-01-01", "bf16": False,
        "max_length": 100, "replay": "none",
    }, "here", Settings)  # fmt: skip
    Run(asked).start()
    assert make(read_config(tmp_path / "run" / "run.yaml"), "run.yaml", Settings) == asked
    assert read_config(tmp_path / "run" / "run.yaml").keys() == fields(Settings).keys(), "defaults are settings too"


def test_every_setting_has_a_kind_and_help():
    """The command line is made from these: an unknown type would only be seen when it is used."""
    for name, field in fields(Settings).items():
        assert kind(name, Settings)[0] in (str, int, float, bool, tuple) and field.metadata["help"].endswith(".")


def test_the_run_folder_is_named_after_the_model():
    assert Settings(model="a/b/").run_folder == Path("runs/b") and Settings().run_folder == Path("runs/model")


@pytest.mark.parametrize("text, message", [
    ("a: &a [x, x]\nb: &b [*a, *a]\nalpha: *b\n", "an alias"),
    ("subject: " + "[" * 15_000, "more than 8 lists or mappings within each other"),
    ("{" * 15_000, "more than 8 lists or mappings within each other"),
    ("- " * 15_000, "more than 8 lists or mappings within each other"),
    ("alpha: 8\n" * 10_000, "longer than 32768 bytes"),
    ("alpha: " + "9" * 30_000, "not valid YAML"),
    ("alpha: !!bool what", "not valid YAML"),
    ("alpha: !!timestamp x", "not valid YAML"),
    ("alpha: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ("alpha: " + "1:" * 5000 + "1", "expected a number"),
    ("seed: " + "1:" * 5000 + "1", "--seed is a number of over 100 digits"),
    ("x" * 1000 + ": 1", "unknown setting"),
    ("alpha: [[[[[[1]]]]]]", "'alpha' is"),
])  # fmt: skip
def test_a_hostile_file_is_a_short_message_at_once(tmp_path, text, message):
    """Nine lines of aliases stood for a billion values; fifteen thousand brackets took minutes."""
    started = time.process_time()
    with pytest.raises(UserError, match=message) as error:
        config(tmp_path, text)
    assert len(str(error.value)) < 400
    assert time.process_time() - started < 2


def test_a_subject_may_be_longer_than_the_name_of_a_file():
    """Asked whether it is a file, the system answers with an error, not with no."""
    assert read_subjects(["A" * 300]) == ("A" * 300,)
    with pytest.raises(UserError, match="no path of a file"):
        read_subjects(["A" * 300 + ".txt"])
