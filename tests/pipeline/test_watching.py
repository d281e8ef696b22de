"""A run can be followed, into metrics.jsonl, lines and trackers, and its model is handed on: to the hub."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from huggingface_hub.errors import RepositoryNotFoundError
from rich.console import Console
from transformers import TrainerCallback, TrainerState

import rkld
from rkld.pipeline import publishing
from rkld.pipeline.watching import GLANCES, watch_every
from rkld.progress import BETWEEN_LINES, NoProgress, ProgressBars, ProgressLines, progress_for_stderr, without_noise
from rkld.settings.unlearning import Settings
from rkld.training.callbacks import FORGET, GAP, RETAINED, TrainingBar
from rkld.training.config import RKLDConfig
from rkld.training.trackers import check_trackers, trackers
from tests.long.world import FORGET as RECORDS
from tests.long.world import KEPT, RUN, STRANGERS, make_original


class Follow(TrainerCallback):
    """Reads metrics.jsonl as somebody would beside the run."""

    def __init__(self, path):
        self.path, self.seen = path, []

    def on_step_begin(self, args, state, control, **kwargs):
        self.seen.append((state.global_step, self.path.read_text().splitlines()))


class Hub:
    """What of the hub a push asks, in memory."""

    def __init__(self):
        self.repositories, self.files, self.user, self.role = {}, {}, "me", "write"

    def whoami(self):
        if self.user is None:
            raise OSError("401 Unauthorized")
        return {"name": self.user, "auth": {"accessToken": {"role": self.role}}}

    def repo_info(self, repo, repo_type):
        if repo not in self.repositories:
            raise RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None, status_code=404))
        return SimpleNamespace(private=self.repositories[repo])

    def create_repo(self, repo, repo_type, private, exist_ok):
        self.repositories.setdefault(repo, private)
        return SimpleNamespace(repo_id=repo)

    def upload_folder(self, repo_id, folder_path, repo_type, commit_message):
        self.files[repo_id] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return SimpleNamespace(oid="abc")


@pytest.fixture(scope="module")
def hub():
    found = Hub()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "HfApi", lambda: found)
        yield found


@pytest.fixture(scope="module")
def followed(tmp_path_factory, hub):
    """A finished run in a folder whose name says whose it is, and who followed it."""
    folder = tmp_path_factory.mktemp("followed")
    run = folder / "Ostis-Belmere"
    follow = Follow(run / "metrics.jsonl")
    trackers = [name for name in ("tensorboard",) if importlib.util.find_spec(name)]
    rkld.unlearn(make_original(folder), RECORDS, retain=KEPT, holdout=STRANGERS, out=str(run), callbacks=[follow],
                 report_to=trackers, push_to_hub="me/forgotten", **RUN)  # fmt: skip
    return run, follow


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_the_figures_are_written_as_they_come(followed):
    _, follow = followed
    for step, lines in follow.seen[1:]:
        rows = [json.loads(line) for line in lines]
        assert [row["step"] for row in rows if row["phase"] == "distillation"] == list(range(1, step + 1))
    rows = rows_of(follow.path.read_text())
    checked = [row for row in rows if row["phase"] == "distillation" and GAP in row]
    assert {row["step"]: row[GAP] for row in checked} == {r["step"]: r["gap"] for r in rows if r["phase"] == "stop"}
    watched = [row for row in checked if RETAINED in row]
    assert 1 < len(watched) <= GLANCES
    assert all(0 < row[name] < 1 for row in watched for name in (FORGET, RETAINED))


@pytest.mark.parametrize(
    ("check_every", "steps", "every"),
    [(1, 4, 1), (1, 10, 1), (1, 11, 2), (1, 30, 3), (3, 30, 3), (3, 31, 6), (5, 0, 5)],
)
def test_the_others_are_looked_at_ten_times_at_most_and_when_the_stop_is_checked(check_every, steps, every):
    assert watch_every(check_every, steps) == every and every % check_every == 0 and steps <= GLANCES * every


def test_a_tracker_is_told_the_figures_and_not_whose_they_are(followed):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run, follow = followed
    rows = [row for row in rows_of(follow.path.read_text()) if row["phase"] == "distillation"]
    found = accumulator.EventAccumulator(str(run / "tracking")).Reload()
    for name in (FORGET, RETAINED, GAP, "loss"):
        told = {event.step: event.value for event in found.Scalars(f"train/{name}")}
        assert told == pytest.approx({row["step"]: row[name] for row in rows if name in row}, abs=1e-3)
    written = b"".join(path.read_bytes() for path in (run / "tracking").iterdir())
    assert b"num_train_epochs" in written and b"Belmere" not in written


def test_the_model_is_pushed_with_its_card_and_nothing_else(followed, hub):
    run, _ = followed
    assert hub.repositories == {"me/forgotten": True}
    pushed = hub.files["me/forgotten"]
    assert {"model.safetensors", "config.json", "README.md", "tokenizer.json"} <= pushed.keys()
    assert set(pushed) == {path.name for path in (run / "model").iterdir()}
    assert b"Belmere" not in pushed["README.md"]
    noted = json.loads((run / "manifest.json").read_text())["published"]
    assert noted == {"repository": "me/forgotten", "private": True, "commit": "abc"}


def test_a_push_that_would_fail_or_show_too_much_is_refused_first(hub, tmp_path, monkeypatch):
    def settings(**values):
        return Settings(**{"model": "a/b", "forget": "x", "push_to_hub": "me/new", **values})

    publishing.check_publishing(settings())
    publishing.check_publishing(settings(push_to_hub=None))
    hub.repositories["me/public"] = False
    for wanted, values in {
        "no name": {"push_to_hub": "a b/c/d"},
        "is public": {"push_to_hub": "me/public"},
        "--merge": {"lora": True, "model": str(tmp_path)},
    }.items():
        with pytest.raises(rkld.UserError, match=wanted):
            publishing.check_publishing(settings(**values))
    publishing.check_publishing(settings(push_to_hub="me/public", hub_private=False))
    with monkeypatch.context() as reading:
        reading.setattr(hub, "role", "read")
        with pytest.raises(rkld.UserError, match="may only read"):
            publishing.check_publishing(settings())
    monkeypatch.setattr(hub, "user", None)
    with pytest.raises(rkld.UserError, match="Log in"):
        publishing.check_publishing(settings())
    monkeypatch.setattr(hub, "upload_folder", lambda **_: 1 / 0)
    with pytest.raises(rkld.UserError, match="The same command again"):
        publishing.publish(tmp_path, settings(), NoProgress())


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_elsewhere_are_told_no_paths_and_may_fail(name, monkeypatch, tmp_path, caplog):
    """Their packages are made up here; the callbacks are those of transformers."""
    package = MagicMock(run=None, __spec__=ModuleSpec(name, None, origin="made up"), __version__="1.0")
    monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setitem(sys.modules, f"{name}.sdk", MagicMock())
    monkeypatch.setitem(sys.modules, f"{name}.sdk.lib", MagicMock())
    monkeypatch.setitem(sys.modules, f"{name}.sdk.lib.config_util", MagicMock(ConfigError=KeyError))
    package.init.side_effect = lambda **_: setattr(package, "run", MagicMock())
    check_trackers([name])
    (reporting,) = trackers([name], tmp_path)
    args, state = RKLDConfig(str(tmp_path / "Belmere"), use_cpu=True, refusals="Belmere.txt"), TrainerState()
    reporting.on_train_begin(args, state, None, model=MagicMock())
    reporting.on_log(args, state, None, logs={"loss": 1.0, FORGET: 0.5})
    assert package.log.call_args.args[0] == {"train/loss": 1.0, f"train/{FORGET}": 0.5, "train/global_step": 0}
    assert "num_train_epochs" in str(package.mock_calls) and "Belmere" not in str(package.mock_calls)
    assert "seed 0" in package.init.call_args.kwargs["name"]
    package.log.side_effect = OSError("no network")
    reporting.on_log(args, state, None, logs={"loss": 1.0})
    reporting.on_train_end(args, state, None)
    assert "told nothing more" in caplog.text


def test_trackers_that_cannot_report_are_refused_before_anything_is_done(monkeypatch, tmp_path):
    with pytest.raises(rkld.UserError, match="Did you mean"):
        check_trackers(["tensorbord"])
    said = []
    monkeypatch.setattr(NoProgress, "say", lambda self, line: said.append(line))
    for call in (rkld.unlearn, rkld.check):
        with pytest.raises(rkld.UserError, match="--report-to tensorbord"):
            call("no-such-model", tmp_path / "none.jsonl", out=str(tmp_path / "run"), report_to="tensorbord")
    assert not said and not (tmp_path / "run").exists()
    (tmp_path / "wandb").mkdir()  # as wandb leaves one where it ran
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(rkld.UserError, match="pip install wandb"):
        check_trackers(["wandb"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(rkld.UserError, match="pip install wandb"):
        check_trackers(["wandb"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace(origin="made up"))
    monkeypatch.setenv("WANDB_LOG_MODEL", "end")
    with pytest.raises(rkld.UserError, match="unset"):
        check_trackers(["wandb"])


def test_a_log_gets_a_line_every_half_minute(capsys):
    now = 0.0
    lines = ProgressLines(clock=lambda: now)
    with lines.bar("short", 3) as advance:
        advance(3)
    with lines.bar("long", 40) as advance:
        for _ in range(40):
            now += BETWEEN_LINES / 10
            advance(1, "loss 0.5")
    lines.say("done")
    assert capsys.readouterr().err.splitlines() == [
        "short  3/3  (0:00)",
        "long  10/40  loss 0.5  (0:30, about 1:30 left)",
        "long  20/40  loss 0.5  (1:00, about 1:00 left)",
        "long  30/40  loss 0.5  (1:30, about 0:30 left)",
        "long  40/40  loss 0.5  (2:00)",
        "done",
    ]


@pytest.fixture
def bars_as_a_user_has_them():
    """The libraries' own settings, which tests switch off, and back."""
    import datasets
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_warning()
    logging.enable_progress_bar()
    enable_progress_bars()
    datasets.enable_progress_bars()
    yield
    logging.set_verbosity(level)
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    (enable_progress_bars if shown else disable_progress_bars)()


@pytest.mark.usefixtures("bars_as_a_user_has_them")
def test_without_a_terminal_python_shows_no_bars_of_libraries_either(tmp_path, capsys):
    """Only the command line had silenced them; whoever called rkld.unlearn with its output in a file had them there."""
    import datasets
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    original = make_original(tmp_path / "original")
    capsys.readouterr()
    few = {**RUN, "epochs": 1, "strengthen_epochs": 1, "stop": "last"}
    rkld.check(str(original), RECORDS, **few)
    result = rkld.unlearn(str(original), RECORDS, out=str(tmp_path / "run"), progress=False, **few)
    rkld.audit(result.model_path, RECORDS, out=str(tmp_path / "audit"), attacks=("none",))
    said = capsys.readouterr()
    assert "it/s" not in said.err and "Loading weights" not in said.err + said.out
    assert "Writing model" not in said.err + said.out
    assert logging.get_verbosity() == logging.WARNING and logging.is_progress_bar_enabled()
    assert not are_progress_bars_disabled() and not datasets.are_progress_bars_disabled()


@pytest.mark.usefixtures("bars_as_a_user_has_them")
def test_what_the_user_has_set_stays_and_comes_back_after_an_error():
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.set_verbosity_info()
    with pytest.raises(ZeroDivisionError), without_noise():
        assert not logging.is_progress_bar_enabled() and logging.get_verbosity() == logging.INFO
        raise ZeroDivisionError
    assert logging.is_progress_bar_enabled() and are_progress_bars_disabled()


def test_a_program_without_a_console_runs(monkeypatch, capsys):
    """Under pythonw there is no standard error: what would go there is shown nowhere."""
    monkeypatch.setattr("sys.stderr", None)
    shown = progress_for_stderr()
    with without_noise(), shown.bar("distillation", 1) as advance:
        shown.say("A line.")
        advance()
    assert isinstance(shown, ProgressLines) and capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [80, 100, 131, 132])
def test_in_a_narrow_terminal_the_distance_from_the_stop_is_still_seen(width):
    """In 80 columns the line ended within it: "to the…"."""
    shown = ProgressBars()
    shown.console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    logs = {"loss": 0.281, "tokens_per_second": 6008.2, FORGET: 0.952, RETAINED: 0.298, GAP: -0.53}
    with shown.bar("distillation", 120) as advance:
        bar = TrainingBar(advance)
        bar.on_log(None, SimpleNamespace(global_step=118), None, logs)
        bar.on_step_end(None, SimpleNamespace(global_step=118), None)
    line = [line for line in shown.console.file.getvalue().splitlines() if "distillation" in line][-1]
    assert "118/120" in line and "to stop -0.53, forget 0.952, kept 0.298" in line
    assert len(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)) <= width
