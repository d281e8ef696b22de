"""The leaderboard: values by hand from a made-up table, what is refused, and a page in which nothing acts."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from rkld import UserError, cli
from rkld.benching.benchmarks.wmdp import WmdpSettings
from rkld.benching.leaderboard import read_groups
from rkld.benching.leaderboard_page import leaderboard, write_leaderboard
from rkld.benching.provenance import command
from tests.reporting.made import HOSTILE

HEAD = "split,method,settings,moment,seed,step,epoch,n,left,kept,over,note\n"
ROWS = (
    "s,retrained,,as it is,0,,,5,0.1,0.9,0.30,\n"
    "s,retrained,,as it is,1,,,5,0.1,0.9,0.30,\n"
    "s,npo,default,last epoch,0,4,2,5,0.2,0.8,0.10,\n"
    "s,npo,default,last epoch,1,4,2,5,0.4,0.6,0.20,\n"
    "s,npo,default,calibrated stop,0,2,1,5,0.3,0.7,0.40,not reached: the nearest check\n"
    "s,npo,default,calibrated stop,1,2,1,5,,,,diverged\n"
)
TIMINGS = "split,method,seed,seconds,device\ns,npo,0,10,CPU\ns,npo,1,30,CPU\n"
MADE = {
    "benchmark": "mine",
    "command": ["rkld", "bench", "mine", "--data", "my data"],
    "model": "small",
    "date": "2026-01-02",
    "machine": "one core",
    "titles": {"left": "what is left"},
    "forgotten": ["none", "left"],
    "utility": ["kept"],
    "remaining": "over",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "results.csv").write_text(HEAD + ROWS, encoding="utf-8")
    (tmp_path / "timings.csv").write_text(TIMINGS, encoding="utf-8")
    (tmp_path / "bench.json").write_text(json.dumps(MADE), encoding="utf-8")
    return tmp_path


def test_seeds_are_put_together_with_an_interval(folder):
    (group,) = read_groups(str(folder))
    assert (group.benchmark, group.split, group.model, group.forgotten, group.utility) == (
        "mine",
        "s",
        "small",
        "left",
        "kept",
    )
    retrained, last, stop = group.entries
    left = last.values["left"]
    half = 12.706204736 * math.sqrt(2) * 0.1 / math.sqrt(2)  # t of one degree of freedom times s / √n, s = .1·√2
    assert (left.mean, left.n) == (pytest.approx(0.3), 2)
    assert (left.low, left.high) == (pytest.approx(0.3 - half), pytest.approx(0.3 + half))
    assert last.over_forgetting == pytest.approx(0.3 - 0.15)
    assert last.seconds == 20
    assert stop.values["left"].n == 1
    assert stop.values["left"].low is None, "one seed has no interval"
    assert stop.over_forgetting == 0, "above the retrained model's"
    assert (stop.measured, stop.seeds, last.measured) == (1, 2, 2), "a seed that diverged is not measured"
    assert stop.notes == ("not reached: the nearest check", "diverged")
    assert retrained.over_forgetting == 0
    assert last.command == "rkld bench mine --data 'my data' --methods npo"
    assert retrained.command == "rkld bench mine --data 'my data'"
    assert retrained.seconds is None, "not timed"


def test_a_table_under_another_name_takes_what_lies_beside_it_under_that_name(folder):
    (folder / "mine_results.csv").write_text(HEAD + ROWS, encoding="utf-8")
    (folder / "mine.json").write_text(json.dumps({"command": "python -m mine", "date": "then"}), encoding="utf-8")
    (group,) = read_groups(str(folder / "mine_results.csv"))
    assert (group.benchmark, group.date, group.model) == ("mine", "then", "not stated")
    assert {entry.command for entry in group.entries} == {"python -m mine"}
    assert {entry.seconds for entry in group.entries} == {None}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("results.csv", "", "is empty"),
        ("results.csv", "a,b\n1,2\n", "lacks the columns split, method"),
        ("results.csv", HEAD, "has no rows"),
        ("results.csv", HEAD + "s,npo,default,last,0,4,2,5,0.2,0.8,0.1,,more\n", "rows of another length"),
        ("results.csv", HEAD + "s,npo,default,last,0,4,2,5,secret,0.8,0.1,\n", "the column 'left' is no number"),
        ("results.csv", HEAD + f"s,{'npo' * 100_000},,last,0,4,2,5,0.2,0.8,0.1,\n", "broken CSV"),
        ("timings.csv", "split,method\ns,npo\n", "lacks the columns seed, seconds"),
        ("bench.json", "{", "broken JSON"),
        ("bench.json", "[" * 100_000, "broken JSON"),
    ],
)
def test_what_is_no_table_of_ours_is_refused(folder, name, text, message):
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        read_groups(str(folder))
    assert "secret" not in str(error.value)
    with pytest.raises(UserError, match="whose name ends in"):
        read_groups(str(folder / "bench.json"))


def test_a_benchmark_that_is_not_finished_is_to_be_gone_on_with(folder):
    (folder / "results.csv").unlink()
    with pytest.raises(UserError, match="Give its rkld bench command again"):
        read_groups(str(folder))


def test_a_note_that_holds_anything_is_read_as_far_as_it_can_be(folder):
    (folder / "bench.json").write_text(json.dumps({"benchmark": 7, "titles": [], "command": {}, "forgotten": "x"}))
    (group,) = read_groups(str(folder))
    assert (group.benchmark, group.forgotten, group.entries[0].command) == (folder.name, "", "")
    assert "npo" in leaderboard([group], "x"), "without figures to compare there is no chart, but a table"


def test_the_page_shows_rows_numbers_and_commands_and_nothing_in_it_acts(folder, tmp_path):
    hostile = {
        text for text in HOSTILE if text.isprintable() and len(text) < 1000
    }  # half a character cannot stand in a file
    with open(folder / "results.csv", "a", encoding="utf-8", newline="") as file:
        for text in sorted(hostile):
            csv.writer(file).writerow(["s", text, "", "last epoch", 0, 1, 1, 5, 0.2, 0.5, 0.2, text])
    out = write_leaderboard([str(folder)], tmp_path / "page.html")
    page = out.read_text(encoding="utf-8")
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert "default-src &#39;none&#39;" in page
    assert "--methods npo</pre>" in page
    assert ">1 of 2</td>" in page
    assert str(tmp_path) not in page, "where it lies names people, and the page is handed on"
    assert "what is left (lower is better) against kept (higher is better)" in page
    assert page.count("data-point=") == 2 + len(hostile), "one point for each method"
    result = CliRunner().invoke(cli.main, ["bench", "report", str(folder), "--out", str(tmp_path / "again.html")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again.html").is_file()


def test_figures_without_bounds_are_no_numbers_to_reckon_with(folder):
    """A perplexity of a ruined model; the sum of two such figures is none."""
    with open(folder / "results.csv", "a", encoding="utf-8", newline="") as file:
        for seed, left in enumerate(("1e308", "1e308", "-1e308")):
            csv.writer(file).writerow(["s", "wild", "", "last epoch", seed, 1, 1, 5, left, left, left, ""])
        csv.writer(file).writerow(["s", "wilder", "", "last epoch", 0, 1, 1, 5, "9e99", "-9e99", "9e99", ""])
    (group,) = read_groups(str(folder))
    wild = next(entry for entry in group.entries if entry.method == "wild")
    assert (wild.measured, wild.seeds) == (0, 3)
    assert "wild" in leaderboard([group], "x")


def test_the_command_of_a_benchmark_leaves_out_defaults_and_names_of_people():
    settings = WmdpSettings(model="m", forget_corpus="f f", lora=True, methods="npo", limit=5)
    benchmark = SimpleNamespace(settings=settings, origin=object, name="wmdp")
    words = command(benchmark)
    assert words == ["rkld", "bench", "wmdp", "--lora", "--model", "m", "--forget-corpus", "f f", "--limit", "5"]


def test_it_can_be_filtered_and_sorted_in_a_browser(browser, folder, tmp_path):
    out = write_leaderboard([str(folder)], tmp_path / "page.html")
    tab, said = browser.new_page(), []
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(out.as_uri())
    assert tab.inner_text("[data-count]") == "3 of 3 rows shown"
    tab.select_option("[data-sort]", "utility")
    assert tab.locator("tbody tr").nth(0).get_attribute("data-method") == "retrained"
    tab.select_option("[data-filter=moment]", "calibrated stop")
    assert tab.inner_text("[data-count]") == "1 of 3 rows shown"
    tab.fill("[data-search]", "rkld")
    assert not tab.is_visible("section[data-benchmark]")
    assert said == []
    tab.close()
