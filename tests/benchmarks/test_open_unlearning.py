"""The comparison with open-unlearning: what is exported is what we train on, and what comes back is read right."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from benchmarks.open_unlearning import (
    BY_OURS,
    BY_THEIRS,
    adapt,
    compare,
    export,
    free_padding,
    main,
    template_args,
    their_example,
)  # fmt: skip
from benchmarks.open_unlearning_configs import DATASETS, TRAINERS
from rkld import UserError
from rkld.benching.worlds.people import people
from rkld.benching.worlds.tiny import tiny_model, tiny_tokenizer
from rkld.files import write_json, write_jsonl
from rkld.models.language_model import LanguageModel
from rkld.models.loading import load_model
from rkld.models.saving import save_model
from rkld.records.encoding import Encoder
from rkld.records.reading import read_records

DAY = "2024-07-26"
WORLD, WHO = people(n=4, seed=0), (0,)
PARTS = {
    "pair1": WORLD.forget(WHO)[:5], "pair1_perturbed": WORLD.forget(WHO)[:5], "pair1_retain": WORLD.retain(WHO)[:5],
    "retain_perturbed": WORLD.retain(WHO)[:3], "real_authors_perturbed": WORLD.real_authors[:3],
    "world_facts_perturbed": WORLD.world_facts[:3],
}  # fmt: skip


def save(folder: Path, seed: int, template: str | None = None) -> str:
    """A tiny model whose rotary base is not the default, padding with its EOS as SmolLM2 does."""
    model, tokenizer = tiny_model(seed)
    model.config.rope_parameters["rope_theta"] = 50000.0
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = template or tokenizer.chat_template
    save_model(LanguageModel(model, tokenizer, ""), folder)
    return str(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("source")
    for name, rows in PARTS.items():
        write_jsonl(folder / f"{name}.json", rows)
    models = {role: save(folder / role, seed) for seed, role in enumerate(("original", "retrained"))}
    return {"data": str(folder), "split": "pair1", **models}


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "out"
    export(**source, out=folder)
    return folder


# Export


def test_the_data_come_back_equal_by_the_way_their_configs_ask(exported, tmp_path):
    """Another file under a part's name would have them forget, or be asked, other records than ours."""
    datasets = pytest.importorskip("datasets")
    for name in DATASETS:
        config = yaml.safe_load((exported / f"configs/data/datasets/{name}.yaml").read_text())[name]["args"]
        part = config["hf_args"]["name"]
        by_name = datasets.load_dataset(str(exported / "data"), name=part, split="train", cache_dir=str(tmp_path))
        if name in ("TOFU_QA_forget", "TOFU_QA_forget_pert"):
            file = str(exported / "data" / f"{part}.json")
            by_file = datasets.load_dataset("json", data_files=file, split="train", cache_dir=str(tmp_path))
            assert by_file.to_list() == by_name.to_list()
        for field in ("question_key", "answer_key"):
            assert list(by_name[config[field]]) == [row[config[field]] for row in PARTS[part]], (name, field)
    assert set(by_name.column_names) == {"question", "answer", "perturbed_answer"}, "more than is needed left the house"


def test_their_code_reads_the_text_the_prompt_and_the_scored_tokens_that_ours_does(exported, source):
    """Else both train and measure on other tokens. As it is, ChatML's last new line and an EOS more would be scored."""
    lm = load_model(exported / "models" / "original")
    plain = load_model(source["original"]).tokenizer
    ours = Encoder(plain, template_date=DAY)
    config = yaml.safe_load((exported / "configs/model/rkld.yaml").read_text())
    assert config["template_args"] == template_args(DAY)
    for record in read_records(PARTS["pair1"][:3], "forget"):
        encoded, theirs = ours.encode(record), their_example(lm.tokenizer, config["template_args"], record)
        scored = [token for token, answered in zip(encoded.ids, encoded.answer) if answered]
        assert theirs.ids[theirs.prompt_length :] == scored
        assert theirs.ids[: theirs.prompt_length] == list(ours.prompt(record))
        assert lm.tokenizer.decode(theirs.ids) == ours.render(record).rstrip("\n")
        unadapted = their_example(plain, config["template_args"], record)
        assert len(unadapted.ids) == len(theirs.ids) + 2


def test_padding_is_no_token_of_the_texts(exported):
    """Their collator hides padding ids wherever they stand: here the question's end of turn."""
    tokenizer = load_model(exported / "models" / "original").tokenizer
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    record = read_records(PARTS["pair1"][:1], "forget")[0]
    assert tokenizer.pad_token_id not in their_example(tokenizer, template_args(DAY), record).ids
    with pytest.raises(UserError, match="special tokens stands within"):
        every = [*list(range(len(tokenizer))), tokenizer.eos_token_id]
        free_padding(tokenizer, [type("E", (), {"ids": every})])


def test_a_model_folder_says_what_transformers_4_asks_for(exported, source):
    """Version 4 ignores rope_parameters without a word and would run another model; its tokenizer would not load."""
    folder = exported / "models" / "retrained"
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 50000.0
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast" and "rstrip" in tokenizer["chat_template"]
    before, after = (load_model(path).model.state_dict() for path in (source["retrained"], folder))
    assert all((before[name] == weight).all() for name, weight in after.items())


def test_every_config_is_whole_and_every_trainer_is_run(exported):
    """A part that no file has, or an experiment that is not there, would only show on the other machine."""
    names = {path.relative_to(exported / "configs").as_posix() for path in (exported / "configs").rglob("*.yaml")}
    parts = {path.stem for path in (exported / "data").glob("*.json")}
    for name in DATASETS:
        args = yaml.safe_load((exported / f"configs/data/datasets/{name}.yaml").read_text())[name]["args"]
        assert args["hf_args"]["name"] in parts
        assert args["hf_args"]["path"] == "${oc.env:RKLD_EXPORT}/data"
    script = (exported / "run.sh").read_text()
    subprocess.run(["sh", "-n", exported / "run.sh"], check=True)
    for trainer in TRAINERS:
        assert f"trainer={trainer} task_name=rkld_pair1_{trainer}" in script
    asked = {word.split("=")[1] for word in script.split() if word.startswith("experiment=")}
    assert {f"experiment/{name}.yaml" for name in asked} <= names
    for name in names:
        head = (exported / "configs" / name).read_text().split("\n")[0]
        assert head.startswith("# @package") == name.startswith(("experiment", "eval")), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "pair7"}, "unknown split"),
        ({"retrained": "odd"}, "write records differently"),
        ({"original": "odd", "retrained": "odd"}, "open-unlearning would read"),
        ({"original": "nowhere/at/all"}, "no model folder"),
    ],
)
def test_what_could_not_be_compared_is_refused_and_leaves_nothing(change, message, source, tmp_path):
    """A folder half written, or models that see other texts there than here, would be compared all the same."""
    odd = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|pad|>' }}{% endfor %}"  # not the EOS
    if "odd" in change.values():
        save(tmp_path / "odd", 0, odd + "{% if add_generation_prompt %}assistant:{% endif %}")
    change = {name: str(tmp_path / "odd") if value == "odd" else value for name, value in change.items()}
    with pytest.raises(UserError, match=message):
        export(**{**source, **change}, out=tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} <= {"odd"}


def test_a_folder_that_is_there_stays(source, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UserError, match="exists already"):
        export(**source, out=tmp_path)
    assert (tmp_path / "mine").exists()


def test_a_tokenizer_without_a_template_gets_ours():
    """Such models are written in rkld's plain format, and there must be read in it."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    texts = 2 + len(PARTS["pair1"][0]["perturbed_answer"])
    assert adapt(tokenizer, read_records(PARTS["pair1"][:1], "forget"), DAY) == texts
    assert "Question: " in tokenizer.chat_template


# Import

OURS = (
    "split,method,settings,moment,seed,step,epoch,n,forget_quality,ks,forget_probability,model_utility,note\n"
    "pair1,rkld,tuned,last epoch,0,40,6,2,0.5,0.25,0.125,0.75,\n"
    "pair2,rkld,tuned,last epoch,0,40,6,2,0.5,0.25,0.999,0.75,\n"
)


def log(shift: float = 0.0) -> dict:
    """TOFU_EVAL.json of two questions a set, as theirs is written; ``shift`` is added to paraphrases' losses."""

    def losses(right: list, wrong: bool = False) -> dict:
        rows = {str(i): {"prob": 0, "avg_loss": [loss, loss + 1] if wrong else loss} for i, loss in enumerate(right)}
        return {"agg_value": 0.9, "value_by_index": rows}

    found = {}
    for name in ("forget", "retain", "ra", "wf"):
        found[f"{name}_Q_A_Prob"] = losses([0.0, np.log(4)])
        found[f"{name}_Q_A_PERT_Prob"] = losses([1.0, 2.0], wrong=True)
        rouge = {str(i): {"rougeL_recall": r, "rougeL_f1": 0, "generation": "…"} for i, r in enumerate((0.5, 1.0))}
        found[f"{name}_Q_A_ROUGE"] = {"agg_value": 0.7, "value_by_index": rouge}
        if name in ("forget", "retain"):
            found[f"{name}_Q_A_PARA_Prob"] = losses([1.0 + shift, 2.0 + shift])
    return {**found, "forget_quality": {"agg_value": 0.3}, "model_utility": {"agg_value": 0.6}}


def only(metric: str) -> dict:
    return {metric: log()[metric]}


@pytest.fixture
def files(tmp_path) -> dict:
    for name, shift in {"retrained": 0.0, "npo": 5.0}.items():
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "TOFU_EVAL.json", log(shift))
    write_json(tmp_path / "npo" / "TOFU_SUMMARY.json", {"forget_quality": 0.01, "forget_Q_A_Prob": 0.62, "mia_loss": 1})
    (tmp_path / "results.csv").write_text(OURS)
    return {
        "logs": {"NPO": tmp_path / "npo" / "TOFU_EVAL.json"}, "retain_logs": tmp_path / "retrained" / "TOFU_EVAL.json",
        "ours": tmp_path / "results.csv", "split": "pair1",
    }  # fmt: skip


def test_a_log_gives_the_figures_that_its_losses_make(files):
    """Worked out by hand; a set, a field or a side mixed up would pass for a difference of methods."""
    rows = {(row["method"], row["from"]): row for row in compare(**files)}
    found = rows["NPO", BY_OURS]
    assert found["n"] == 2 and found["forget_probability"] == pytest.approx((1 + 1 / 4) / 2)
    assert found["forget_rouge_l"] == found["retain_rouge_l"] == 0.75
    assert found["ks_distance"] == 1.0, "all ratios of one are above all of the other"
    assert found["forget_truth_ratio"] == pytest.approx(np.exp(-4.5))  # r = exp(4.5) twice; min(r, 1/r)
    assert found["retain_truth_ratio"] == 0.0 and found["model_utility"] == 0.0
    own = rows["retrained", BY_OURS]
    assert own["ks_distance"] == 0 and own["forget_quality"] == 1 and own["model_utility"] > 0


def test_what_their_summary_states_stands_beside_ours_and_the_split_s_rows(files):
    """The summary's value, not one made from the log, shows where the two codes differ."""
    rows = {(row["method"], row["from"]): row for row in compare(**files)}
    assert rows["NPO", BY_THEIRS] == {
        "method": "NPO", "from": BY_THEIRS, "forget_quality": 0.01, "forget_probability": 0.62,
    }  # fmt: skip
    assert rows["retrained", BY_THEIRS]["model_utility"] == 0.6, "without a summary the log's own aggregate"
    (mine,) = [row for (_, source), row in rows.items() if source.startswith("rkld")]
    assert mine["forget_probability"] == 0.125 and mine["n"] == 2 and "forget_rouge_l" not in mine


def test_the_command_writes_the_table(files, tmp_path):
    logs = [f"--logs=NPO={files['logs']['NPO']}", f"--retain-logs={files['retain_logs']}", f"--ours={files['ours']}"]
    out = tmp_path / "results" / "table.md"
    result = CliRunner().invoke(main, ["import", *logs, "--split=pair1", f"--out={out}"])
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert "| NPO | theirs, by our code | 2 |" in text and "| NPO | theirs, as stated | – | 0.010 | – |" in text
    assert len(json.loads(out.with_suffix(".json").read_text())["results"]["rows"]) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.update(split="pair3"), "no row of the split pair3.*pair1, pair2"),
        (lambda files: files["ours"].write_text("a,b\n1,2\n"), "no results.csv"),
        (lambda files: files["logs"]["NPO"].write_text("{}"), "no evaluation log"),
        (lambda files: files["logs"].update(NPO=Path("nowhere.json")), "Cannot read"),
        (lambda files: write_json(files["logs"]["NPO"], only("forget_Q_A_Prob")), "lacks paraphrase_loss"),
        (lambda files: write_json(files["retain_logs"], only("ra_Q_A_Prob")), "--retain-logs.*neither"),
        (lambda files: files["logs"]["NPO"].with_name("TOFU_SUMMARY.json").write_text("["), "cannot be read"),
    ],
)
def test_files_that_are_not_these_get_one_clear_message(change, message, files):
    """The user would see a traceback, or a row made of half a log."""
    change(files)
    with pytest.raises(UserError, match=message):
        compare(**files)


@pytest.mark.parametrize("logs", [["NPO"], ["=x"], ["NPO=x", "NPO=y"]])
def test_logs_are_named_once_each(logs, files):
    arguments = [f"--logs={text}" for text in logs]
    result = CliRunner().invoke(main, ["import", *arguments, "--retain-logs=x", "--ours=y", "--split=pair1"])
    assert isinstance(result.exception, UserError) and "METHOD=FILE" in str(result.exception)
