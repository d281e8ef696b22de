"""The page says what was measured, claims no more, and shows nobody what is not theirs."""

import dataclasses
import json
import re
import subprocess
import sys
import unicodedata

import pytest
from click.testing import CliRunner

from rkld.cli import main
from rkld.errors import UserError
from rkld.reporting.bom import bill_of_materials
from rkld.reporting.drawings import trajectory
from rkld.reporting.page import _options_whole, page
from rkld.reporting.records import records_of
from rkld.reporting.room import LARGEST, Room, fair
from rkld.reporting.run import Run, read_run
from rkld.reporting.sections import chosen, sections
from rkld.reporting.words import FORBIDDEN, VERDICTS
from rkld.reporting.writing import write_report
from rkld.runfolder.checksums import write_sealed
from rkld.runfolder.manifest import read_manifest, write_manifest
from rkld.runfolder.request import RequestForm
from tests.reporting.made import HOSTILE, document, write_audit, write_run

SAYS_SO = "The opinion asks whether a <em>model</em> is anonymous, for everybody whose data it was trained on."
"""The one sentence that may use the word."""


def text_of(html: str) -> str:
    """What is read of a page, without its script and style."""
    return re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", html, flags=re.S)


@pytest.mark.parametrize("verdict", ["pass", "fail", "not established"])
def test_no_report_claims_more_than_a_test_can_show(verdict, tmp_path):
    html = page(read_run(write_run(tmp_path / "run", verdict=verdict)))
    assert html.count(SAYS_SO) == 1
    said = text_of(html.replace(SAYS_SO, "")).lower()
    assert not [word for word in FORBIDDEN if re.search(rf"\b{word}\b", said)]
    assert VERDICTS[verdict][1] in html


def test_no_explanation_of_a_metric_claims_more_either():
    from rkld.auditing.metrics import audit_metrics
    from rkld.settings.auditing import AuditSettings

    for name, metric in audit_metrics(AuditSettings(attacks=("all",))).items():
        said = f"{metric.title} {metric.explanation}".lower()
        assert metric.explanation and not [word for word in FORBIDDEN if re.search(rf"\b{word}\b", said)], name


def test_what_was_not_measured_is_never_passed(tmp_path):
    """Of a model that nobody audited, and of every figure that is missing."""
    html = page(read_run(write_run(tmp_path / "run", audit=False)))
    assert "Not audited" in html and "Passed" not in html and html.count("not measured") >= 5
    bare = {**document(), "metrics": {}, "gates": [], "verdict": "not established"}
    write_sealed(write_audit(tmp_path / "bare") / "audit.json", bare)
    html = page(read_run(tmp_path / "bare"))
    assert html.count("not tested") >= 6 and "✓" not in text_of(html)


def test_an_audit_without_its_checksum_is_said_to_be_unsure(tmp_path):
    """Whoever took it out could write "pass" in the place of "fail", and the page said passed and no more."""
    run = write_run(tmp_path / "run", verdict="fail")
    assert "holds no checksum" not in page(read_run(run))
    found = json.loads((run / "audit.json").read_text()) | {"verdict": "pass"}
    (run / "audit.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match="is damaged"):
        read_run(run)
    del found["checksum"]
    (run / "audit.json").write_text(json.dumps(found))
    assert "audit.json holds no checksum" in page(read_run(run))


def test_a_difference_from_another_model_is_no_share(tmp_path):
    """ "4 %" beside "at most 25 % more than the original" was taken for what the model says, and for a quarter more."""
    said = " ".join(text_of(page(read_run(write_run(tmp_path / "run")))).split())
    assert "at most 25 percentage points more than the original" in said
    assert "4 points more" in said and "0–14 points" in said


@pytest.mark.parametrize(
    ("recorded", "other", "shown"),
    [(0.25, 0.0, "asked as recorded"), (0.0, 0.25, "in the worst of two other wordings"), (0.25, None, "as recorded")],
)
def test_without_an_audit_the_wordings_that_bring_out_more_are_shown(recorded, other, shown, tmp_path):
    """A run that still said a quarter of the facts had 0 % on its first screen."""
    run = write_run(tmp_path / "run", audit=False)
    manifest = json.loads((run / "manifest.json").read_text())
    said = {"facts_said": recorded} | ({} if other is None else {"worst_kind_facts_said": other})
    manifest["phases"]["after"]["metrics"]["forget"] |= said
    write_sealed(run / "manifest.json", {key: value for key, value in manifest.items() if key != "checksum"})
    first = text_of(page(read_run(run))).split("What was not tested")[0]
    assert shown in first and "25 %" in first.replace("\u202f", " ").replace("\xa0", " ")


def test_a_run_without_an_audit_says_what_it_warned_of_and_noted(tmp_path):
    """The warnings stood at the end, everyday answers were called what should be kept, what was noted was denied."""
    run = write_run(tmp_path / "run", audit=False)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["warnings"] = ["Little <b>was</b> forgotten."]
    manifest["fixed"] = {"at": "2026-02-03T04:05:06Z", "questions": "0", "gates": None}
    for phase, share in (("before", 1.0), ("after", 0.4)):
        manifest["phases"][phase]["metrics"]["everyday"]["rouge_l"] = share
    write_sealed(run / "manifest.json", {key: value for key, value in manifest.items() if key != "checksum"})
    html, said = page(read_run(run)), text_of(page(read_run(run)))
    assert "Little &lt;b&gt;was&lt;/b&gt; forgotten." in html
    assert said.index("Little") < said.index("What is stated of the request")
    assert "Words of its everyday answers" in said and "Probability of what should be kept" not in said
    assert "noted before the training (2026-02-03)" in said and "no run of rkld noted them" in said
    manifest["fixed"] = ["odd"]
    write_sealed(run / "manifest.json", {key: value for key, value in manifest.items() if key != "checksum"})
    assert "noted before the training" not in page(read_run(run))


@pytest.mark.parametrize("people", [(), ("Ada", "Bo")])
def test_what_became_of_everyday_answers_stays_on_the_page_once_there_is_an_audit(tmp_path, people):
    """It was gone: of a model that had lost half of them the page showed that others' probability had risen."""
    run = write_run(tmp_path / "run", people=people)
    assert "Everyday prompts" not in text_of(page(read_run(run)))
    manifest = json.loads((run / "manifest.json").read_text())
    for phase, share in (("before", 1.0), ("after", 0.4)):
        manifest["phases"][phase]["metrics"]["everyday"]["rouge_l"] = share
    write_sealed(run / "manifest.json", {key: value for key, value in manifest.items() if key != "checksum"})
    said = text_of(page(read_run(run))).replace("\u202f", " ").replace("\xa0", " ")
    assert "Everyday prompts: words of the original" in said
    assert "40 %" in said[said.index("Everyday prompts: words") :][:200]


def test_the_foot_shows_the_commands_and_no_name_that_was_given(tmp_path):
    """What made the run and the audit; a file, a model or a prompt may be called by the person."""
    run = write_run(tmp_path / "run")
    manifest = {**read_manifest(run)}
    manifest["settings"] |= {
        "model": "models/Tolvik", "forget": "Tolvik.jsonl", "retain": "Tolvik-others.jsonl", "replay": "none",
        "out": "runs/Tolvik", "alpha": 8.0, "lora": True, "method": "Tolvik.py:Mine", "method_arg": ["beta=0.2"],
        "system_prompt": "Never speak of Tolvik.", "hub_private": False, "push_to_hub": "me/Tolvik",
        "stop": "of/Tolvik_stop.py:Tolvik",
    }  # fmt: skip
    manifest["warnings"] = ["--stop of/Tolvik_stop.py:Tolvik was not reached."]
    write_manifest(run, manifest)
    audit = {"original": "models/Tolvik", "samples": 3, "max": ["facts_said=0.1"], "endpoint": "http://tolvik:80",
             "attacks": ["standard", "Tolvik.py:Mine"], "metric": ["Tolvik's.py:Mine"]}  # fmt: skip
    write_audit(run, settings=audit)
    html = re.sub('<span class="option">([^<]*)</span>', r"\1", page(read_run(run), command="rkld report RUN --pdf"))
    foot = html[html.index("<footer>") :]
    write_report(run)
    for shown in (html, (run / "model.cdx.json").read_text(), (run / "report.json").read_text()):
        assert "tolvik" not in shown.lower() and ("user" not in shown or "of the user" in shown)
    bill = {
        one["name"]: one["value"] for one in bill_of_materials(run)["metadata"]["component"]["modelCard"]["properties"]
    }
    assert (
        bill["rkld:method"] == "a method of the user's own" and bill["rkld:stop"] == "a stopping rule of the user's own"
    )
    said = html.replace("&#39;", "'")
    assert "from the aim of a stopping rule of the user's own." in said and "method a method of the user's own" in said
    assert "--stop a stopping rule of the user's own was not reached" in said
    unlearned, audited, reported = re.search("<pre[^>]*>(.*?)</pre>", foot, re.S)[1].split("\n")
    assert unlearned.startswith("rkld unlearn MODEL --forget DATA ") and reported == "rkld report RUN --pdf"
    for option in ("--retain DATA", "--replay none", "--alpha 8", "--lora", "--method FILE.py:NAME",
                   "--stop FILE.py:NAME",
                   "--method-arg beta=0.2", "--system-prompt TEXT", "--no-hub-private", "--out FOLDER"):  # fmt: skip
        assert option in unlearned, option
    assert "--epochs" not in unlearned, "it is the default"
    assert audited == (
        "rkld audit MODEL --forget DATA --original MODEL --endpoint URL --attacks standard --attacks FILE.py:NAME "
        "--metric FILE.py:NAME --samples 3 --max facts_said=0.1"
    )
    bare = page(read_run(write_audit(tmp_path / "audit")))
    assert "rkld unlearn MODEL" not in bare and "rkld audit MODEL" in bare


def test_a_limit_on_what_was_not_measured_is_said_in_words(tmp_path):
    doubt = "facts_said is 0.2, n = 8; the limit is max 0.25: without an interval it establishes nothing"
    html = page(read_run(write_audit(tmp_path / "audit", verdict="not established", reasons=[doubt])))
    assert "distance of the AUC of the loss" in html and "loss auc distance" not in html
    assert "“facts that the model&#39;s own answers say” is 0.2" in html and "facts_said is" not in html


def test_texts_are_shown_only_where_asked_for(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    redacted, shown = page(run), page(run, show_records=True)
    assert "Words of record" not in redacted and "secret/path" not in redacted
    assert "Words of record 3" in shown and "Holds personal data" in shown and "secret/path" not in shown


def test_whoever_gets_their_section_sees_nothing_of_the_others(tmp_path):
    folder = write_audit(tmp_path / "audit", people=["Ada Quill", "Ben Ochre"], n=40)
    both, mine = page(read_run(folder)), page(read_run(folder), subject="Ada Quill", show_records=True)
    assert "2 people" in both and "Ada Quill" not in both
    assert "Ada Quill" in mine and "Ben" not in mine and "person 2" not in mine
    assert "Words of record 2," in mine and "Words of record 1," not in mine and 'data-key="1"' not in mine
    assert page(read_run(folder), subject="person 1") and "Ada Quill" not in page(read_run(folder), subject="ada quill")
    with pytest.raises(UserError, match="nobody of this name"):
        page(read_run(folder), subject="Somebody Else")


@pytest.mark.parametrize(
    "typed", ["zoë  o'brón", unicodedata.normalize("NFD", "Zoë O’Brón"), " Zoë O'Brón ", "Person 2"]
)
def test_a_name_is_found_however_it_is_typed(typed, tmp_path):
    """The last: a person of a name that stands for another's is asked for by name."""
    people = ["Ada Quill", "Zoë O'Brón"] if typed != "Person 2" else ["Person 2", "Ben Ochre"]
    wanted = people[0] if typed == "Person 2" else people[1]
    run = read_run(write_audit(tmp_path / "audit", people=people, n=40))
    assert chosen(run, typed).title == wanted


def test_the_request_is_shown_as_stated_and_the_rest_as_not_stated(tmp_path):
    html = page(read_run(write_run(tmp_path / "run")))
    assert "2026-014" in html and "Jane Doe" in html and "2026-02-28" in html  # a month after the 31st of January
    assert html.count("not stated") > 10


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_text(text, tmp_path):
    """Of tags there are as many as without it, whatever it is; and the page stays small."""
    folder = write_audit(tmp_path / "audit", texts=[text], n=4)
    plain = page(read_run(write_audit(tmp_path / "plain", texts=["plain"], n=4)), show_records=True)
    html = page(read_run(folder), show_records=True)
    tags = r"</?(script|style|iframe|svg|img|form|meta|base|link|a|table|td|tr|body|html|main)\b"
    assert len(re.findall(tags, html)) == len(re.findall(tags, plain))
    assert len(html.encode()) < LARGEST and not re.search(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html
    )
    assert "'ran'\"" not in html.replace("&#39;", "") or "onerror=&#34;" in html


def test_names_and_titles_in_a_foreign_audit_are_text_too(tmp_path):
    found = json.loads(json.dumps(document()).replace("asked as quiz", "<b onclick=x>").replace("float32", "<i>"))
    found["metrics"]["facts_said"]["figures"]["audited"]["value"] = "<script>"
    write_sealed(write_audit(tmp_path / "audit") / "audit.json", found)
    html = page(read_run(tmp_path / "audit"))
    assert "<b onclick" not in html and "<i>" not in html and html.count("<script>") == 1


def test_what_is_not_an_audit_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        read_run(tmp_path)
    write_audit(tmp_path)
    (tmp_path / "audit.json").write_text((tmp_path / "audit.json").read_text().replace("0.04", "0.03"))
    with pytest.raises(UserError, match="damaged"):
        read_run(tmp_path)
    write_sealed(tmp_path / "audit.json", {**document(), "metrics": {"facts_said": {}}})
    with pytest.raises(UserError, match="not as rkld writes it"):
        page(read_run(tmp_path))


def test_reports_import_no_torch(tmp_path):
    folder = write_run(tmp_path / "run")
    code = (
        "import sys; from rkld.reporting.writing import write_report; "
        f"write_report({str(folder)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_decides_nothing_does_not_begin_as_good_news(tmp_path):
    """Whoever reads one sentence reads the first; and what is open was not missed."""
    html = page(read_run(write_audit(tmp_path / "audit", verdict="not established")))
    assert "20 records, this audit does not show that anything was forgotten" in html
    assert "Limits that were missed or left open" in html and "1 limit that was kept to" in html


@pytest.mark.parametrize(
    ("same", "said"), [(True, "nobody chose them by what came out"), (False, "may have been chosen by what came out"),
                       (None, "no run of rkld noted them beforehand")],
)  # fmt: skip
def test_what_it_means_that_questions_were_fixed_is_said(same, said, tmp_path):
    folder = write_audit(tmp_path / "audit")
    audit = json.loads((folder / "audit.json").read_text())
    write_sealed(folder / "audit.json", {**audit, "fixed": {"at": None, "questions": same, "gates": same}})
    assert page(read_run(folder)).count(said) == 2


def test_of_a_run_alone_it_is_said_how_many_records_steered_the_stop(tmp_path):
    """What decided when to stop must come out well: by it alone nothing is judged."""
    folder = write_run(tmp_path / "run", audit=False)
    manifest = read_manifest(folder)
    assert manifest is not None
    manifest["phases"].setdefault("stop", {})["steering"] = {"n": 7}
    write_manifest(folder, manifest)
    assert "7 records decided how far the run went, so of them the figures are no evidence" in page(read_run(folder))


def test_the_way_of_a_vector_is_drawn_from_the_one_that_was_trained(tmp_path):
    """Would break if every β that was tried stood as another step 0, or if the run were said to have ended there."""
    tried = [{"step": 0, "beta": 1.0, "gap": 0.2}, {"step": 0, "beta": 1.3, "gap": -0.01}]
    manifest = {"phases": {"distillation": {"stop": {"step": 10}}}, "settings": {"stop": "placebo"}}
    found = trajectory(Run(tmp_path, None, manifest, [*tried, {"step": 5, "beta": 1.4, "gap": 0.05},
                                                      {"step": 10, "beta": 1.5, "gap": 0.01}]))  # fmt: skip
    assert list(found.head) == ["Step", "0", "5", "10"] and found.rows == [["Distance", "-0.01", "0.05", "0.01"]]
    assert "more of what the records changed in the base is subtracted" in found.words
    assert "step 10 was taken, at 0.01" in found.alternative
    assert trajectory(Run(tmp_path, None, manifest, tried)) is None, "nothing was trained"
    plain = [{"step": 1, "gap": 0.2}, {"step": 2, "gap": 0.01}]
    assert "Training ends where it has reached the aim" in trajectory(Run(tmp_path, None, manifest, plain)).words


def test_a_check_that_the_run_did_not_write_is_not_drawn(tmp_path):
    """Whoever adds a line to metrics.jsonl does not change what its manifest holds of it."""
    run = write_run(tmp_path / "run")
    assert "On the way to the stop" in page(read_run(run))
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"phase": "stop", "rule": "placebo", "step": 5, "gap": -9.75}\n')
    html = page(read_run(run))
    assert "On the way to the stop" not in html and "-9.75" not in html
    assert "metrics.jsonl is not as the run wrote it" in html
    (run / "metrics.jsonl").unlink()
    assert "On the way to the stop" not in page(read_run(run))


def test_what_is_stated_of_the_whole_request_is_in_no_one_persons_section(tmp_path):
    """Any field of the form may name another of its people; dates and the request's number name nobody."""
    named = {"copies": [{"what": "adapter of Benjamin O.", "fingerprint": "", "replaced": ""}]}
    free = {field.name for field in dataclasses.fields(RequestForm)} - {"id", "received", "copies", "in_use_since"}
    form = {"id": "2026-014", "received": "2026-01-31", "in_use_since": "2026-02-11"}
    form |= {name: f"Benjamin's {name}" for name in free} | named
    folder = write_run(tmp_path / "run", people=["Ada Quill", "Ben Ochre"], n=40, request=form)
    html = page(read_run(folder), subject="Ada Quill")
    assert "Benjamin" not in html and "stated in the whole report" in html
    assert {"2026-014", "2026-01-31", "2026-02-11"} <= set(re.findall(r"2026-[0-9-]+", html))
    assert "2026-02-28" in html, "the month that the law gives"
    assert page(read_run(folder)).count("Benjamin") >= len(free)
    bare = page(read_run(write_run(tmp_path / "bare", people=["Ada Quill", "Ben Ochre"], n=40)), subject="person 1")
    assert "Adapters, merged, quantised and served copies: not stated" in bare


def test_the_way_to_the_stop_is_shown_once_whoever_the_records_are_about(tmp_path):
    one = read_run(write_run(tmp_path / "one"))
    both = read_run(write_run(tmp_path / "both", people=["Ada Quill", "Ben Ochre"], n=40))
    for run in (one, both):
        assert text_of(page(run)).count("On the way to the stop") == 1
    assert "On the way to the stop" not in page(both, subject="person 1"), "it is of the others' records, too"


def of_a_run(folder, **after):
    """The folder of a run that nobody audited, with these figures of the forget records after it."""
    run = write_run(folder, audit=False)
    manifest = {**read_manifest(run)}
    manifest["phases"]["after"]["metrics"]["forget"] |= after
    write_manifest(run, manifest)
    return run


@pytest.mark.parametrize(
    ("after", "shown", "counted"),
    [
        ({"facts_said": 0.0, "facts": 4, "facts_unseen": 4}, "0–100 %", "4 of 4 are unknown: answers were cut"),
        ({"facts_said": 0.25, "facts": 8, "facts_unseen": 1}, "25–38 %", "1 of 8 is unknown: answers were cut"),
        ({"facts_said": 0.0, "facts_unseen": 4}, "0–100 %", "4 are unknown: answers were cut"),  # of an earlier version
        ({"facts_said": 0.1, "facts_unseen": 0, "worst_kind_facts_said": 0.0, "worst_kind_facts": 10,
          "worst_kind_facts_unseen": 3}, "0–30 %", "3 of 10 are unknown: answers were cut"),
        ({"facts_said": 0.0, "facts": 4, "facts_unseen": 1, "worst_kind_facts_said": 0.0}, "0–100 %",
         "some are unknown"),
    ],
)  # fmt: skip
def test_what_an_unaudited_run_did_not_see_is_not_shown_as_forgotten(after, shown, counted, tmp_path):
    """Of answers that were all cut the first screen said 0 %, and nothing of the cut."""
    html = page(read_run(of_a_run(tmp_path / "run", **after)))
    numbers, untested = html[html.index("Five numbers") :].split("Not tested", 1)
    row = next(row for row in numbers.split("<tr") if ">Facts said" in row)
    assert f'<span class="value">{shown}</span>' in row and counted in row
    assert "mark audited" not in row, "only the ends are known"
    sentence = re.search('<p class="sentence">(.*?)</p>', html, re.S)[1]
    assert f"Of the facts asked for, {counted.split(': ')[0].split('are')[0]}".rstrip() in sentence
    assert counted in untested.split("</ul>")[0] and "facts in answers that were cut" in untested.split("</ul>")[0]
    whole = page(read_run(of_a_run(tmp_path / "whole", facts_said=0.0, facts=4, facts_unseen=0)))
    assert "unknown" not in text_of(whole) and "answers were cut" not in whole


def test_what_an_audit_did_not_see_is_not_shown_as_forgotten(tmp_path):
    """Its intervals hold it; a record of which a fact is unknown is in no bucket and in no test."""
    found = document(n=20)
    figures = found["metrics"]["facts_said"]["figures"]
    figures["audited"] |= {"unmeasured": 7, "high": 0.5}
    records = found["metrics"]["facts_said"]["records"]
    for role in records:
        records[role] = {f"{i}/{fact}": float(role == "original") for i in range(20) for fact in (0, 1)}
    del records["audited"]["3/1"], records["audited"]["4/0"]
    write_sealed(write_audit(tmp_path / "audit") / "audit.json", found)
    html = page(read_run(tmp_path / "audit"))
    assert "7 of 20 are unknown: answers were cut" in html[: html.index("What was tested")]
    assert "facts in answers that were cut" in html[: html.index("What was tested")]
    buckets = dict(re.findall(r'data-key="(\d+)" data-bucket="([^"]*)"', html))
    assert buckets["3"] == buckets["4"] == "" and buckets["5"] == "forgotten"
    assert "0 of 2 facts, 1 is unknown: answers were cut" in html and "Of 18 records" in html


@pytest.mark.parametrize(("n", "people", "listed"), [(600, 30, True), (1500, 50, False), (3000, 0, True)])
def test_many_people_and_many_records_still_make_a_page(n, people, listed, tmp_path):
    """A run of that size ended with a warning, and without a page: what is large gives way, verdicts and tests stay."""
    folder = write_audit(tmp_path / "audit", n=n, people=[f"Nobody {i}" for i in range(people)])
    html = page(read_run(folder))
    sections = max(people, 1)
    assert len(html.encode()) < LARGEST
    assert html.count("Five numbers") == html.count('role="group" aria-labelledby="untested-') == sections
    assert html.count("McNemar&#39;s exact test") == html.count("Kinds of attack in Opinion 28/2024") == sections
    assert ("Every figure" in html) == listed
    assert "no room on this page" in html and ("rkld report --subject NAME" in html) == (people > 0)
    if people:
        alone = page(read_run(folder), subject="Nobody 3", show_records=True)
        assert "no room on this page" not in alone and "leaves out" not in alone and "Every figure" in alone
        assert alone.count("<tr") > n // people


@pytest.mark.parametrize(("largest", "said"), [(700_000, "all charts"), (250_000, " of 20 sections")])
def test_what_there_is_no_room_for_is_said_and_everybody_stays_on_the_list(largest, said, tmp_path, monkeypatch):
    monkeypatch.setattr("rkld.reporting.page.LARGEST", largest)
    html = page(read_run(write_audit(tmp_path / "audit", n=60, people=[f"Nobody {i}" for i in range(20)])))
    (line,) = re.findall("To stay below 2 MiB this page leaves out [^<]*", html)
    assert said in line and "the tables of records" in line and "--subject NAME" in line
    names = re.search('<ul class="people">.*?</ul>', html, re.S)[0]
    linked = html.count("<article id=")
    assert (
        names.count('class="name"') == 20
        and names.count("<a href=") == linked
        and (linked == 20) == (said == "all charts")
    )


def test_what_went_wrong_is_shown_before_what_went_right(tmp_path, monkeypatch):
    """Of records for which there is no room those go that were forgotten; texts go to those that are shown."""
    folder = write_audit(tmp_path / "audit", n=100, verdict="fail")
    (section,) = sections(read_run(folder))
    texts = read_run(folder).audit["texts"]
    found = records_of(section, texts, forget=True, kept=False, show=True, budget=2000, most=8)
    assert [row.bucket for row in found.rows].count("still said") == 5 == found.counts["still said"]
    assert len(found.rows) == 8 and found.left_out == 92 and found.rows[-1].question is not None and not found.cut
    assert [int(row.key) for row in found.rows] == sorted(int(row.key) for row in found.rows)
    monkeypatch.setattr("rkld.reporting.room.ROOMS", (Room(0, 8, 0),))
    html = page(read_run(folder))
    buttons = dict(re.findall(r'<button[^>]*data-bucket="([^"]*)"[^>]*>[^<]*?([0-9]+)</button>', html))
    assert sum(int(n) for bucket, n in buttons.items() if bucket) == int(buttons[""]) == 8, "of what can be shown"


def test_room_is_given_out_fairly():
    assert fair(10, [1, 100, 3]) == [1, 6, 3] and fair(10, [20, 20]) == [5, 5] and fair(10, [2, 2]) == [2, 2]
    assert fair(0, [3]) == [0] and fair(5, []) == []


def test_no_line_is_broken_within_an_option():
    """Copied from two lines "--own-" and "words" are no option; and what else stands in a reason stays escaped."""
    said = _options_whole("raise --own-words, <b>not --x</b>; once--only")
    option = '<span class="option">{}</span>'.format
    assert str(said) == f"raise {option('--own-words')}, &lt;b&gt;not {option('--x')}&lt;/b&gt;; once--only"


@pytest.mark.parametrize("screen", [True, False])
def test_a_page_is_opened_where_there_is_a_screen_and_else_said(tmp_path, monkeypatch, screen):
    """xdg-open named seven browsers that were not there."""
    opened = []
    monkeypatch.setattr("rkld.calling.has_screen", lambda: screen)
    monkeypatch.setattr("click.launch", opened.append)
    found = CliRunner().invoke(main, ["report", str(write_run(tmp_path / "run")), "--open"])
    assert found.exit_code == 0 and len(opened) == screen
    assert ("There is no screen here" in found.output) is not screen
