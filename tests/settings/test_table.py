"""The table of settings: what stands beside it agrees with it, and bounds hold."""

from __future__ import annotations

import math

import pytest

from rkld.benching.benchmarks.book import BookSettings
from rkld.benching.benchmarks.people import PeopleSettings
from rkld.benching.benchmarks.tofu import TofuSettings
from rkld.errors import UserError
from rkld.settings.auditing import AuditSettings
from rkld.settings.benching import BenchSettings
from rkld.settings.comparing import CompareSettings
from rkld.settings.discovering import DiscoverSettings
from rkld.settings.specification import fields, kind, make
from rkld.settings.table import SHARED, TABLE, specs, without_effect
from rkld.settings.unlearning import Settings

CLASSES = (Settings, AuditSettings, CompareSettings, BenchSettings, BookSettings, DiscoverSettings)


@pytest.mark.parametrize("cls", [Settings, AuditSettings])
def test_annotations_are_the_tables_types(cls):
    """Type checkers read the annotation, everything else the table."""
    for name in fields(cls):
        spec = TABLE[name]
        assert kind(name, cls) == (spec.type, tuple(spec.choices) if spec.choices else None, spec.optional), name


@pytest.mark.parametrize("cls", CLASSES)
def test_every_setting_is_described_and_its_default_is_a_value(cls):
    for name, spec in specs(cls).items():
        assert spec.name == name
        assert spec.help.endswith(".")
        assert spec.group
        assert spec.default is None or isinstance(spec.default, spec.type)
        assert spec.default is not None or spec.optional
        assert fields(cls)[name].default == spec.default
        spec.check(spec.default, name)
        if spec.choices and cls in (Settings, AuditSettings):
            assert spec.default in spec.choices
            assert all(spec.choices.values())


@pytest.mark.parametrize(("cls", "own"), [
    (Settings, {}),
    (AuditSettings, {}),
    (CompareSettings, {"forget": None}),
    (BenchSettings, {"out": "runs/bench", "lr": 1e-5, "batch_size": 32, "alpha": 8.0}),
    (TofuSettings, {"out": "runs/bench", "model": None, "batch_size": 32, "max_new_tokens": 64, "alpha": 8.0}),
    (PeopleSettings, {"out": "runs/bench_people", "strengthen_epochs": 10, "lr": 5e-4, "questions": 40,
                      "max_new_tokens": 32, "alpha": 8.0}),
    (DiscoverSettings, {"out": "records.jsonl", "subject": "", "samples": 1}),
    (BookSettings, {"out": "runs/book", "lr": 1e-5, "batch_size": 32, "alpha": 4.0}),
])  # fmt: skip
def test_a_setting_has_one_default_but_where_a_class_is_known_to_have_its_own(cls, own):
    """There were two of bf16 and six of alpha: who read one of them was told another than what a run does."""
    assert {n: s.default for n, s in specs(cls).items() if n in TABLE and s.default != TABLE[n].default} == own


def test_every_entry_is_used():
    used = {name for cls in CLASSES for name in fields(cls)}
    assert set(TABLE) <= used
    numbers = [spec for spec in TABLE.values() if spec.type in (int, float)]
    assert all(spec.low is not None and spec.high is not None for spec in numbers), "no bounds"


@pytest.mark.parametrize(("cls", "name", "value", "message"), [
    (Settings, "seed", 2**40, "--seed is 1099511627776; it must be at most 4294967295."),
    (Settings, "seed", -1, "--seed is -1; it must be at least 0."),
    (Settings, "batch_size", 10**12, "--batch-size is 1000000000000; it must be at most 100000."),
    (Settings, "lr", 1e3, "--lr is 1000.0; it must be at most 1."),
    (Settings, "lr", -1.0, "--lr is -1.0; it must be above 0."),
    (Settings, "alpha", 1e300, "--alpha is 1e+300; it must be at most 10000."),
    (Settings, "alpha", 10**400, "expected a number"),
    (Settings, "alpha", math.inf, "--alpha is inf; it must be a finite number."),
    (Settings, "strengthen_lr", math.nan, "--strengthen-lr is nan; it must be a finite number."),
    (Settings, "checkpoint_minutes", math.nan, "--checkpoint-minutes is nan"),
    (Settings, "accumulation", 0, "--accumulation is 0; it must be at least 1."),
    (Settings, "seed", 10**4000, "--seed is a number of over 100 digits; it must be at most 4294967295."),
    (Settings, "model", "x" * 300, "--model is no path: a name in it is too long"),
    (Settings, "out", "~nobody-of-this-name/run", "--out is no path"),
    (Settings, "forget", "a\0b", "--forget holds a NUL character"),
    (Settings, "subject", ["Ada \ud83d"], "--subject holds a NUL character or bytes that are not UTF-8"),
    (Settings, "system_prompt", "x" * 100_001, "--system-prompt has 100001 characters"),
    (Settings, "optim", 10**4000, "'optim' is a number of over 100 digits; expected text"),
    (AuditSettings, "timeout", 0.0, "--timeout is 0.0; it must be above 0."),
    (AuditSettings, "margin", 1.0, "--margin is 1.0; it must lie between 0 and 1."),
    (AuditSettings, "relearn_share", 0.0, "--relearn-share is 0.0; it must lie between 0 and 1."),
    (AuditSettings, "relearn_lr", 0.0, "--relearn-lr is 0.0; it must be above 0."),
    (AuditSettings, "max_new_tokens", 0, "--max-new-tokens is 0; it must be at least 1."),
    (BookSettings, "alpha", -1.0, "--alpha is -1.0; it must be at least 0."),
    (BookSettings, "chunk_tokens", 1, "--chunk-tokens is 1; it must be at least 2."),
])  # fmt: skip
def test_numbers_out_of_bounds_are_named_with_the_bound(cls, name, value, message):
    with pytest.raises(UserError) as error:
        make({"model": "m", name: value} | ({"book": "b"} if cls is BookSettings else {}), "here", cls)
    assert message in str(error.value)


def test_infinity_is_a_value_where_the_table_says_so():
    assert Settings(checkpoint_minutes=math.inf).checkpoint_minutes == math.inf


def test_what_may_differ_between_two_starts_of_a_run():
    """Whatever else is changed would make a model of two settings."""
    assert without_effect(Settings) == {
        "report_to", "push_to_hub", "hub_private",
        "out", "teacher", "checkpoint_minutes", "keep_files", "keep_replay", "share_model", "gradient_checkpointing",
        "shard", "method_file", "base", "trust_remote_code", "allow_pickle", "request", "note", "ledger", "ledger_key",
        "seal_to",
    }  # fmt: skip


def test_the_teachers_cache_serves_any_value_of_the_students_settings():
    students = {name for name, spec in SHARED.items() if spec.affects == "student"}
    assert students >= {"alpha", "method", "method_arg", "retain_loss", "retain_weight", "replay_weight", "keep_weight"}
    assert {spec.name for spec in SHARED.values() if spec.affects == "teacher"} >= {"seed", "lr", "optim", "score"}


def test_a_field_of_one_class_takes_what_the_table_has_of_its_name():
    """Help and default are the benchmark's own; bounds and kind are those of every face."""
    own, table = specs(BookSettings)["alpha"], TABLE["alpha"]
    assert own.default == 4.0
    assert own.help != table.help
    assert (own.low, own.high, own.affects, own.group) == (table.low, table.high, table.affects, table.group)
