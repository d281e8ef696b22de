"""Records: all sources and formats read the same, each fault has a message with its line, names are found."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from unicodedata import normalize

import pytest

from rkld.errors import UserError
from rkld.records.identity import check_disjoint, content, identifiers
from rkld.records.reading import read_prompts, read_records, read_subjects
from rkld.records.record import SYSTEM_ROLES, Record, Turn
from rkld.text.matching import mentions

QUESTION, ANSWER = "Where was Zoë Quell born?", "Zoë Quell was born\nin Arlesford, in 1951."
ROW = {
    "question": QUESTION,
    "answer": ANSWER,
    "subject": "Zoë Quell",
    "aliases": ["Z. Quell", "zoe@quell.org"],
    "spans": ["Arlesford", "1951"],
    "perturbed_answer": ["Leeds", "Ghent"],
}
PAIRS = [{"question": f"Question {i}?", "answer": f"Answer {i}."} for i in range(3)]
SECRET = "Quellsecret"
DEEP, LONG = b"[" * 100_000, b"1" * 5000
"""What Python's JSON reader refuses without an error of its own."""


def write(path: Path, rows: list) -> Path:
    """The rows as the ending of ``path`` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), "utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            for row in rows:
                cells = {k: ";".join(v) if k in ("aliases", "spans") else v for k, v in row.items()}
                writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in cells.items()})
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def fault(source: object, read=lambda source: read_records(source, "forget")) -> str:
    """The message with which reading ``source`` fails; it must not quote what a record says."""
    with pytest.raises(UserError) as caught:
        read(source)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def conversation(*contents: object) -> list[dict[str, object]]:
    """Messages that go back and forth between user and assistant."""
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def texts(records: list[Record]) -> list[tuple[str, str]]:
    return [(record.question, record.answer) for record in records]


# Sources


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_file_format_gives_the_same_record(tmp_path: Path, suffix: str) -> None:
    """A reader that loses a field, an accent or a line break within a value would differ."""
    path = write(tmp_path / f"people{suffix}", [ROW, ROW])
    records = read_records(path, "forget")
    assert [record.key for record in records] == ["0", "1"]
    record = records[0]
    assert record.form == "chat"
    assert record.turns == (Turn("user", QUESTION), Turn("assistant", ANSWER))
    assert (record.subject, record.aliases) == ("Zoë Quell", ("Z. Quell", "zoe@quell.org"))
    assert record.spans == ("Arlesford", "1951")
    assert record.extra == {"perturbed_answer": ["Leeds", "Ghent"]}


def test_where_names_file_and_line(tmp_path: Path) -> None:
    """Line numbers must count blank lines, line breaks within CSV cells, and the lines of a JSON list."""
    lines = tmp_path / "people.jsonl"
    lines.write_text("\n\n" + json.dumps(ROW) + "\n\n" + json.dumps(ROW), "utf-8")
    assert [r.where for r in read_records(lines, "forget")] == [f"{lines} line 3", f"{lines} line 5"]
    table = write(tmp_path / "people.csv", [ROW, ROW])  # the answer holds a line break
    assert [r.where for r in read_records(table, "forget")] == [f"{table} line 2", f"{table} line 4"]
    listed = tmp_path / "people.json"
    listed.write_text('[\n {"text": "a"},\n {\n  "text": "b"\n }, {"text": "c"}\n]\n', "utf-8")
    assert [record.where for record in read_records(listed, "forget")] == [
        f"{listed} record 1 (line 2)",
        f"{listed} record 2 (line 3)",
        f"{listed} record 3 (line 5)",
    ]
    table = write(tmp_path / "people.parquet", [ROW])
    assert read_records(table, "forget")[0].where == f"{table} record 1"
    assert read_records([ROW], "forget")[0].where == "forget record 1"


def test_json_lines_under_the_ending_json(tmp_path: Path) -> None:
    """TOFU's .json files hold one object a line; Windows line ends, a byte order mark, U+2028 are legal."""
    path = tmp_path / "forget01.json"
    rows = [{"question": "a\u2028b?", "answer": "c\u0085d"}, PAIRS[1]]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert texts(read_records(path, "forget")) == [("a\u2028b?", "c\u0085d"), ("Question 1?", "Answer 1.")]


def test_long_csv_text(tmp_path: Path) -> None:
    """The csv module refuses cells above 131072 characters unless told; its own limit stays as it was."""
    limit = csv.field_size_limit()
    [record] = read_records(write(tmp_path / "book.csv", [{"text": "word " * 50000}]), "forget")
    assert len(record.answer) == 250000
    assert csv.field_size_limit() == limit


def test_csv_lists(tmp_path: Path) -> None:
    """Lists in cells come with semicolons or as JSON; empty optional cells are absent, not empty."""
    path = tmp_path / "people.csv"
    path.write_text(
        "question,answer,aliases,spans,note\n"
        'q,"one, two [three]",A; B ;,"[""one, two"", [9, 16]]",\n'
        "q,one [three] two,,[three];two,x\n",
        "utf-8",
    )
    first, second = read_records(path, "forget")
    assert (first.aliases, first.spans, first.extra) == (("A", "B"), ("one, two", "[three]"), {})
    assert (second.aliases, second.spans, second.extra) == ((), ("[three]", "two"), {"note": "x"})


def test_list_and_dataset_objects() -> None:
    """In Python, rows come as dicts or as a Dataset; columns that other rows need are null in a Dataset."""
    datasets = pytest.importorskip("datasets")
    rows = [{**PAIRS[0], "text": None}, {"question": None, "answer": None, "text": "prose"}]
    for source in (rows, datasets.Dataset.from_list(rows)):
        records = read_records(source, "forget")
        assert [record.form for record in records] == ["chat", "text"]
        assert [record.extra for record in records] == [{}, {}]
        assert records[1].where == "forget record 2"
    chats = datasets.Dataset.from_list([{"messages": conversation("a", "b")}])
    assert texts(read_records(chats, "forget")) == [("a", "b")]
    splits = datasets.DatasetDict(train=chats, test=chats.select([]))
    assert texts(read_records(splits, "forget")) == [("a", "b")]


def test_folder_of_files(tmp_path: Path) -> None:
    """A clone of a hub data set: shards stay together and in order, train is the default."""
    folder = tmp_path / "clone"
    write(folder / "data" / "train-00001-of-00002.parquet", PAIRS[1:2])
    write(folder / "data" / "train-00000-of-00002.parquet", PAIRS[:1])
    write(folder / "data" / "test-00000-of-00001.parquet", PAIRS[2:])
    expected = [("Question 0?", "Answer 0."), ("Question 1?", "Answer 1.")]
    assert texts(read_records(folder, "forget")) == expected
    assert [record.key for record in read_records(folder, "forget")] == ["0", "1"]
    assert texts(read_records(f"{folder}:data/train", "forget")) == expected
    assert texts(read_records(f"{folder}:test", "forget")) == [("Question 2?", "Answer 2.")]


def test_folder_with_other_files(tmp_path: Path) -> None:
    """What is not data must neither be read nor make the choice ambiguous: metadata, hidden folders."""
    write(tmp_path / "people.jsonl", PAIRS)
    write(tmp_path / ".cache" / "left.jsonl", PAIRS)
    for name in ("dataset_infos.json", "README.md", "notes.txt"):
        (tmp_path / name).write_text("{}")
    assert len(read_records(tmp_path, "forget")) == 3


def test_folder_with_tofus_files(tmp_path: Path) -> None:
    """Nothing is chosen by guessing: the message says which names there are and how to give one."""
    for name, rows in {"forget01": PAIRS[:1], "retain99": PAIRS[1:], "forget01_perturbed": PAIRS}.items():
        (tmp_path / f"{name}.json").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    message = fault(tmp_path)
    assert "forget01, forget01_perturbed, retain99" in message and f"{tmp_path}:forget01" in message
    assert "Did you mean 'retain99'?" in fault(f"{tmp_path}:retain9")
    assert texts(read_records(f"{tmp_path}:forget01", "forget")) == [("Question 0?", "Answer 0.")]


def test_configurations_in_folders(tmp_path: Path) -> None:
    """config/split.parquet: the configuration alone is enough where it has a train split."""
    for config in ("en", "fr"):
        write(tmp_path / config / "train.jsonl", [{"text": f"{config} train"}])
        write(tmp_path / config / "test.jsonl", [{"text": f"{config} test"}])
    assert read_records(f"{tmp_path}:fr", "forget")[0].answer == "fr train"
    assert read_records(f"{tmp_path}:fr/test", "forget")[0].answer == "fr test"
    assert "several sets" in fault(f"{tmp_path}:test")


def test_folder_with_one_set_in_two_formats(tmp_path: Path) -> None:
    """Reading both would count every record twice."""
    write(tmp_path / "people.jsonl", PAIRS)
    write(tmp_path / "people.csv", PAIRS)
    assert "several formats" in fault(tmp_path)


def test_saved_data_set_leaves_no_copy(tmp_path: Path) -> None:
    """save_to_disk folders load, with their splits, and nothing personal lands in the shared cache."""
    datasets = pytest.importorskip("datasets")
    people = datasets.Dataset.from_list(PAIRS)
    people.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=people, test=people.select([2])).save_to_disk(tmp_path / "two")
    write(tmp_path / "three" / "train.parquet", PAIRS)
    home = tmp_path / "home"
    code = (
        "import sys; from rkld.records.reading import read_records\n"
        "print(*(len(read_records(source, 'forget')) for source in sys.argv[1:]))"
    )
    names = ["one", "two", "two:test", "three"]
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(tmp_path / name) for name in names)],
        env={**os.environ, "HF_HOME": str(home), "HF_DATASETS_CACHE": str(home / "datasets")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["3", "3", "1", "3"]
    assert not [path for path in home.rglob("*") if path.is_file()]
    datasets.DatasetDict(a=people, b=people).save_to_disk(tmp_path / "four")
    assert "holds several sets of records: a, b" in fault(tmp_path / "four")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the hub without a network: ``someone/tofu`` is a folder with TOFU's layout and card."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "hub"
    for name, rows in {"forget01": PAIRS[:1], "retain99": PAIRS[1:]}.items():
        write(folder / f"{name}.jsonl", rows)
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("forget01", "retain99")
    )
    (folder / "README.md").write_text(card + "---\n")

    def redirected(function):
        def call(name, *args, **options):
            if name != "someone/tofu":
                raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")
            return function(str(folder), *args, **options)

        return call

    for name in ("load_dataset", "get_dataset_config_names", "get_dataset_split_names"):
        monkeypatch.setattr(datasets, name, redirected(getattr(datasets, name)))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    return folder


def test_hub_name(hub: Path, tmp_path: Path) -> None:
    """owner/name:config reads from the hub, an ambiguous name says what there is, and no record is cached."""
    records = read_records("someone/tofu:retain99", "retain")
    assert texts(records) == [("Question 1?", "Answer 1."), ("Question 2?", "Answer 2.")]
    assert records[0].where == "someone/tofu retain99/train record 1"
    assert len(read_records("someone/tofu:retain99/train", "retain")) == 2
    assert "forget01, retain99. Name one, such as someone/tofu:forget01" in fault("someone/tofu")
    assert "has no 'test'" in fault("someone/tofu:forget01/test")
    cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not [path for path in cached if b"Answer" in path.read_bytes()]


def test_hub_name_that_does_not_exist(hub: Path) -> None:
    """The message must leave open that a path was meant; a path into a local folder never goes to the hub."""
    assert "no file or folder 'someone/else'" in fault("someone/else")
    assert "there is no file hub/people" in fault("hub/people")
    assert "there is no file someone/people.jsonl" in fault("someone/people.jsonl")


# Formats


def test_forms_of_record() -> None:
    """Each of TRL's formats has its own turns; plain prompt/completion must not become a chat."""
    chat = [{"role": "system", "content": ""}, *conversation("a", "b")]
    more = conversation("c", "d", "e")
    rows = [
        {"prompt": "a ", "completion": "b"},
        {"text": "prose"},
        {"messages": chat + more},
        {"prompt": chat[:2], "completion": chat[2:]},
        {"messages": chat, "prompt": "a"},  # as UltraChat has it
    ]
    completion, text, long, conversational, ultrachat = read_records(rows, "forget")
    assert completion.form == "completion"
    assert completion.turns == (Turn("prompt", "a "), Turn("completion", "b"))
    assert (text.form, text.turns, text.question) == ("text", (Turn("text", "prose"),), "")
    assert (long.question, long.answer, len(long.turns)) == ("c", "d", 6)
    assert conversational.turns == ultrachat.turns == long.turns[:3]
    assert conversational.form == ultrachat.form == "chat"
    assert ultrachat.extra == {"prompt": "a"}


def test_fields_kept_as_extra() -> None:
    """TOFU's metrics need paraphrases and wrong answers as they are; null fields are no fields."""
    row = {**PAIRS[0], "paraphrased_answer": "p", "perturbed_answer": ["x", "y"], "task_id": 1, "other": None}
    extra = {"paraphrased_answer": "p", "perturbed_answer": ["x", "y"], "task_id": 1}
    assert read_records([row], "forget")[0].extra == extra


def test_spans_as_offsets() -> None:
    """Offsets count characters of the answer from 0, the end excluded; a span may stand in another turn."""
    row = {"question": "Where is Ida?", "answer": "In Ghent.", "spans": [[3, 8], "Ida", "Ghent"]}
    assert read_records([row], "forget")[0].spans == ("Ghent", "Ida")
    assert read_records([{**row, "spans": "Ida"}], "forget")[0].spans == ("Ida",)


@pytest.mark.parametrize("span", [[3, 10], [-3, 2], [4, 4], [1], ["a", "b"], [True, 2]])
def test_spans_with_bad_offsets(span: list) -> None:
    """Negative offsets would wrap round, those behind the end would be cut silently."""
    assert "span 1 is no [start, end]" in fault([{"question": "q", "answer": "In Ghent.", "spans": [span]}])


def test_spans_must_occur(tmp_path: Path) -> None:
    """A span that is nowhere would leave its fact unforgotten without a word."""
    rows = [ROW, {**ROW, "spans": ["Arlesford", f"{SECRET}"]}]
    message = fault(write(tmp_path / "people.jsonl", rows))
    assert "people.jsonl line 2: span 2 does not occur" in message
    assert "does not occur" in fault([{**ROW, "spans": ["arlesford"]}])


# Records


def test_changed_records_keep_key_and_drop_lost_spans() -> None:
    """Whoever replaces texts must not be left with spans that stand nowhere."""
    [record] = read_records([ROW], "forget")
    other = record.with_answer("She was born in 1951.")
    assert (other.key, other.question, other.answer) == ("0", QUESTION, "She was born in 1951.")
    assert other.spans == ("1951",)
    assert record.with_question("Born?").turns == (Turn("user", "Born?"), Turn("assistant", ANSWER))
    upper = record.map_text(str.upper)
    assert (upper.question, upper.answer) == (QUESTION.upper(), ANSWER.upper())
    assert upper.spans == ("ARLESFORD", "1951")
    assert record.with_spans(["born", "Paris", "born"]).spans == ("born",)
    assert record.answer == ANSWER
    with pytest.raises(ValueError):
        read_records([{"text": "prose"}], "forget")[0].with_question("Which?")


def test_changed_conversation() -> None:
    """In a longer conversation only the last question and the last answer change."""
    [record] = read_records([{"messages": conversation("a", "b", "c", "d", "e")}], "forget")
    assert [turn.content for turn in record.with_answer("D").turns] == ["a", "b", "c", "D", "e"]
    assert [turn.content for turn in record.with_question("C").turns] == ["a", "b", "C", "d", "e"]
    prompt = record.as_prompt("swap-0")
    assert [turn.content for turn in prompt.turns] == ["a", "b", "c"]
    assert (prompt.key, prompt.answer, prompt.spans) == ("swap-0", "", ())


def test_record_survives_json() -> None:
    """The run folder keeps records as JSON: lists must become tuples again, or equality and hashing break."""
    [record] = read_records([ROW], "forget")
    again = Record.from_dict(json.loads(json.dumps(record.to_dict())))
    assert again == record and hash(again) == hash(record)


# Prompts


def test_prompts_drop_answers(tmp_path: Path) -> None:
    """A replay prompt must never carry an answer: the model writes its own."""
    turns = conversation("a", "b", "c", "d")
    rows = [
        ROW,
        {"question": "q?"},
        {"prompt": "p"},
        {"prompt": turns[:1]},
        {"prompt": turns[:1], "completion": turns[1:2]},
        {"messages": turns},
        {"messages": turns[:3], "prompt": "a"},
    ]
    prompts = read_prompts(write(tmp_path / "p.jsonl", rows))
    assert [[turn.content for turn in prompt.turns] for prompt in prompts] == [
        [QUESTION],
        ["q?"],
        ["p"],
        ["a"],
        ["a"],
        ["a", "b", "c"],
        ["a", "b", "c"],
    ]
    assert [prompt.form for prompt in prompts] == ["chat", "chat", "completion", *["chat"] * 4]
    assert all(prompt.answer == "" and prompt.spans == () and prompt.unanswered for prompt in prompts)
    assert [prompt.question for prompt in prompts] == [QUESTION, "q?", "p", "a", "a", "c", "c"]
    assert prompts[0].subject == "Zoë Quell"
    answered = prompts[6].with_answer("new")
    assert answered.turns == (*prompts[6].turns, Turn("assistant", "new")) and answered.answer == "new"
    assert prompts[2].with_answer("new").turns == (Turn("prompt", "p"), Turn("completion", "new"))
    assert [turn.content for turn in prompts[6].with_question("C").turns] == ["a", "b", "C"]


def test_prompts_from_a_text_file(tmp_path: Path) -> None:
    """One prompt a line, blank lines passed over, line numbers those of the file."""
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffWho wrote Emma?\n\n  Why is it dark? \n", "utf-8")
    prompts = read_prompts(path)
    assert [prompt.turns for prompt in prompts] == [
        (Turn("user", "Who wrote Emma?"),),
        (Turn("user", "Why is it dark?"),),
    ]
    assert [prompt.where for prompt in prompts] == [f"{path} line 1", f"{path} line 3"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": SECRET}, "a prompt needs 'question', 'prompt' or 'messages'"),
        ({"question": SECRET, "prompt": SECRET}, "ambiguous"),
        ({"messages": [{"role": "assistant", "content": SECRET}]}, "no turn of the role 'user'"),
    ],
)
def test_prompts_refused(row: dict, said: str) -> None:
    """Without a question there is nothing to replay."""
    assert said in fault([row], read_prompts)


# Bad input

TWO_MESSAGES = [{"role": "user", "content": "a"}, {"role": "user", "content": SECRET}]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": SECRET}, "'answer' is missing or null (fields found: question)"),
        ({"question": SECRET, "anwser": SECRET}, "fields found: question, anwser"),
        ({"question": SECRET, "answer": None}, "'answer' is missing or null"),
        ({"completion": SECRET}, "'prompt' is missing or null"),
        ({"conversations": []}, "no known field (fields found: conversations)"),
        ({f"{SECRET} Jane Doe": 1}, "fields found: 1 that look like data"),
        ({}, "fields found: none"),
        ({"question": SECRET, "answer": ""}, "'answer' is empty"),
        ({"question": " \n", "answer": SECRET}, "'question' is empty"),
        ({"question": SECRET, "answer": [SECRET]}, "'answer' must be text, but is of type list"),
        ({"question": SECRET, "answer": 1951}, "'answer' must be text, but is of type int"),
        ({"question": SECRET, "answer": "\ud83d"}, "surrogate"),
        ({"text": {}}, "'text' must be text, but is of type dict"),
        ({**PAIRS[0], "text": SECRET}, "ambiguous, the record has question/answer and text"),
        ({"prompt": SECRET, "completion": TWO_MESSAGES}, "must both be text, or both lists"),
        ({"messages": SECRET}, "'messages' must be a list of messages"),
        ({"messages": []}, "'messages' must be a list of messages"),
        ({"messages": TWO_MESSAGES}, "no turn of the role 'assistant' (roles found: user)"),
        ({"messages": [{"from": "human", "value": SECRET}]}, "message 1 in 'messages' needs the fields"),
        ({"messages": conversation(SECRET, "")}, "content of message 2 in 'messages' is empty"),
        ({"messages": conversation([SECRET], "b")}, "content of message 1 in 'messages' must be text"),
        ({**PAIRS[0], "subject": [SECRET]}, "'subject' must be text"),
        ({**PAIRS[0], "aliases": [1]}, "'aliases' must be"),
        ({**PAIRS[0], "spans": {"a": 1}}, "'spans' must be"),
        ({**PAIRS[0], "spans": [3, 5]}, "span 1 must be text, but is of type int"),
        ({**PAIRS[0], "spans": [" "]}, "span 1 is empty"),
        ([SECRET], "not an object with named fields, but of type list"),
    ],
)
def test_bad_fields(tmp_path: Path, row: object, said: str) -> None:
    """One message with file and line, the fault and no contents, also where only the last record is bad."""
    path = tmp_path / "people.jsonl"
    path.write_text(f"{json.dumps(PAIRS[0])}\n\n{json.dumps(row)}\n", "utf-8")
    message = fault(path)
    assert message.startswith(f"{path} line 3") and said in message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.jsonl", b"\xef\xbb\xbf \n", "a.jsonl is empty"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "Quellsecret}\n{"text": "b"}', "a.jsonl line 2: broken JSON"),
        ("a.json", b'[\n{"text": "a"},\n{"text": "Quellsecret"\n]', "a.json line 4: broken JSON"),
        ("a.json", b'[\n{"text": "a"}\n{"text": "Quellsecret"}]', "a.json line 3: broken JSON"),
        ("a.json", b'[{"text": "a"}]\n\n{"text": "Quellsecret"}', "a.json line 1: broken JSON"),
        ("a.json", b'[{"text": "a"}', "a.json line 1: broken JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "Quellsecret", "text": "b"}', "a.jsonl line 2: an object has two"),
        ("a.json", b'[{"text": "a"},\n{"text": "Quellsecret", "text": "b"}]', "a.json line 2: an object has two"),
        pytest.param("a.jsonl", b'{"text": "a"}\n' + DEEP, "a.jsonl line 2: broken JSON (lists or", id="deep lines"),
        pytest.param("a.jsonl", LONG, "a.jsonl line 1: broken JSON (a number of too", id="long lines"),
        pytest.param("a.json", b'[{"text": "a"},\n' + DEEP, "a.json line 2: broken JSON (lists or", id="deep list"),
        pytest.param("a.json", b"[\n" + LONG + b"]", "a.json line 2: broken JSON (a number of too", id="long list"),
        pytest.param("a.csv", b"text,spans\na," + DEEP, "a.csv line 2: span 1 does not occur", id="deep cell"),
        pytest.param("a.csv", b"text,spans\na,[" + LONG + b"]", "a.csv line 2: span 1 does not occur", id="long cell"),
        ("a.json", b"[ ]", "a.json holds no records"),
        ("a.json", b'{\n "text": "Quellsecret"\n}', "a.json line 1: broken JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9 Quellsecret"}', "a.jsonl line 2 is not UTF-8"),
        ("a.json", '[{"text": "Quellsecret"}]'.encode("utf-16"), "a.json line 1 is not UTF-8"),
        ("a.csv", b"question,answer\n", "a.csv holds no records"),
        ("a.csv", b"What?,Quellsecret\n", "a.csv line 1 must name the columns"),
        ("a.csv", b"text,text\na,b\n", "a.csv line 1: two columns have the same name"),
        ("a.csv", b'question,answer\n"a\nb",c\na,Quellsecret, d\n', "a.csv line 4 has 3 columns"),
        ("a.csv", b'question,answer\na,"Quellsecret" b\n', "a.csv line 2: broken CSV"),
        ("a.csv", b"question,answer\na,\n", "a.csv line 2: 'answer' is empty"),
        ("a.parquet", b"PAR1 Quellsecret", "a.parquet cannot be read as Parquet"),
        ("a.yaml", b"text: Quellsecret", "a.yaml: no list. Write a list of records"),
        ("a.yaml", b"- text: a\n- Quellsecret: [", "a.yaml line 2: not valid YAML"),
        ("a.yml", b"- text: Quellsecret\n\n- question: Quellsecret", "a.yml line 3: the field 'answer' is missing"),
        ("a.yaml", b"- Quellsecret: a\n  Quellsecret: b", "a.yaml: it has a name twice (line 1)"),
        ("a.yaml", b"- &a [x]\n- *a", "an alias"),
        ("a.yaml", b"- [Quellsecret]: a", "a.yaml line 1: not valid YAML"),
        pytest.param("a.yaml", b"- text: a\n" * 20_000, "YAML of more than 131072 characters", id="long YAML"),
        ("a.toml", b"text: a", "unknown ending '.toml'"),
        ("a.txt", b"Quellsecret", "rkld discover MODEL --subject NAME --source a.txt"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    """Every broken file ends in one message with its line, not in a traceback and not in half the records."""
    (tmp_path / name).write_bytes(content)
    assert said in fault(tmp_path / name)


def test_bad_paths(tmp_path: Path) -> None:
    """Typing errors in a path are the most common fault: the nearest name helps."""
    write(tmp_path / "people.jsonl", PAIRS)
    assert f"Did you mean '{tmp_path / 'people.jsonl'}'?" in fault(tmp_path / "peple.jsonl")
    assert "there is no file nobody" in fault("nobody")
    (tmp_path / "empty").mkdir()
    assert "holds no records" in fault(tmp_path / "empty")
    assert "forget: the data set is empty" in fault([])
    assert "of type int" in fault(3)
    assert "replay: there is no file" in fault(tmp_path / "prompts.txt", read_prompts)


# Names


def test_subjects_from_flags_and_files(tmp_path: Path) -> None:
    """A file gives one identifier a line; a blank one or a mistyped file name is no identifier."""
    path = tmp_path / "names.txt"
    path.write_text("Zoë Quell\n\n zoe@quell.org \n", "utf-8")
    assert read_subjects([" Zoe Q. ", str(path), "Zoë Quell"]) == ("Zoe Q.", "Zoë Quell", "zoe@quell.org")
    assert read_subjects([]) == ()
    assert "subject 2 of 2 is blank" in fault(["Quell", " "], read_subjects)
    assert "subject 1 of 1 holds no letter" in fault(["-"], read_subjects)
    assert "there is no file" in fault([str(tmp_path / "nams.txt")], read_subjects)
    (tmp_path / "none.txt").write_text("\n")
    assert "is empty" in fault([str(tmp_path / "none.txt")], read_subjects)
    assert "plain text file" in fault([str(write(tmp_path / "names.csv", PAIRS))], read_subjects)


def test_identifiers_are_unique_and_longest_first() -> None:
    """The same name in another spelling counts once; the spelling given by flag stays."""
    records = read_records([ROW, {**ROW, "subject": "ZOE QUELL", "aliases": ["Zo"]}, PAIRS[0]], "forget")
    assert identifiers(records, ["Zoë  Quell"]) == ("zoe@quell.org", "Zoë  Quell", "Z. Quell", "Zo")


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        # whole words, any case, possessives
        ("Anna, Ann's, ANN and Joann: Ann", ["Ann"], ["Ann", "ANN", "Ann"]),
        ("Ann’s and Anns", ["ann"], ["Ann"]),
        # white space, line breaks, hyphens, underscores between words
        (
            "Ada  Quell, Ada\nQuell, Ada\u00a0Quell, ada_quell, AdaQuell",
            ["Ada Quell"],
            ["Ada  Quell", "Ada\nQuell", "Ada\u00a0Quell", "ada_quell"],
        ),
        (
            "Al-Kuwaiti, Al\u2011Kuwaiti, Al–Kuwaiti, Al Kuwaiti",
            ["Al-Kuwaiti"],
            ["Al-Kuwaiti", "Al\u2011Kuwaiti", "Al–Kuwaiti", "Al Kuwaiti"],
        ),
        # composed and decomposed accents, letters without accents, compatibility forms, invisible characters
        ("José, Jose\u0301, JOSE\u0301, Jose, Josef", ["José"], ["José", "Jose\u0301", "JOSE\u0301", "Jose"]),
        ("é Jose\u0301!", ["Jos\u00e9"], ["Jose\u0301"]),
        ("Skłodowska and Sklodowska", ["Skłodowska"], ["Skłodowska", "Sklodowska"]),
        ("Ｑｕｅｌｌ ﬁnn Strauß", ["Quell", "Finn", "Strauss"], ["Ｑｕｅｌｌ", "ﬁnn", "Strauß"]),
        ("oﬃce ﬃ", ["of", "ff"], []),
        ("Qu\u00adell and Qu\u200bell", ["Quell"], ["Qu\u00adell", "Qu\u200bell"]),
        # apostrophes and initials
        ("O’Brien O'Brien O´Brien OʼBrien", ["O'Brien"], ["O’Brien", "O'Brien", "O´Brien", "OʼBrien"]),
        ("J.R. Quell, J. R. Quell, JR Quell, J Quell", ["J. R. Quell"], ["J.R. Quell", "J. R. Quell", "JR Quell"]),
        ("an A.N. and a. n.", ["A.N."], ["A.N.", "a. n."]),
        # e-mail addresses, whole only
        ("To Zoe@quell.org.", ["zoe@quell.org"], ["Zoe@quell.org"]),
        ("a.zoe@quell.org zoe@quell.org.uk zoe@quell.organ xzoe@quell.org", ["zoe@quell.org"], []),
        # phone numbers, whatever their separators
        (
            "(0151) 234-5678, 0151.2345678, +01512345678",
            ["0151 2345678"],
            ["(0151) 234-5678", "0151.2345678", "+01512345678"],
        ),
        ("901512345678 015123456789", ["0151 2345678"], []),
        ("born 08.09.1956", ["08/09/1956"], ["08.09.1956"]),
        # scripts without spaces, particles, vowel signs
        ("居里夫人是科学家", ["居里夫人"], ["居里夫人"]),
        ("Dr居里夫人X", ["居里夫人"], ["居里夫人"]),
        ("김철수는 Marieさん", ["김철수", "Marie"], ["김철수", "Marie"]),
        (normalize("NFD", "김철수는"), ["김철수", "기"], [normalize("NFD", "김철수")]),
        ("राम रामी", ["राम"], ["राम"]),
        # the longest first, none twice
        ("Ada Quell Fund and Ada", ["Ada", "Ada Quell", "Quell Fund East"], ["Ada Quell", "Ada"]),
        ("Ada Quell Fund East", ["Ada Quell", "Quell Fund East"], ["Quell Fund East"]),
        # special characters are no patterns
        ("C++ and Cxx (Ed)", ["C++", "(Ed)"], ["C++", "(Ed)"]),
        ("anything", ["", " ", "-"], []),
    ],
)
def test_mentions(text: str, names: list[str], found: list[str]) -> None:
    """Each range must give, in the original text, exactly the mention: no more, no less."""
    ranges = mentions(text, names)
    assert [text[start:end] for start, end in ranges] == found
    assert ranges == sorted(ranges)


def test_same_record_to_forget_and_to_retain() -> None:
    """The same pair under other field names, case or spacing would be pulled both ways; repeats are legal."""
    forget = read_records([PAIRS[0], PAIRS[1], PAIRS[1]], "forget")
    check_disjoint(forget, read_records([PAIRS[2], PAIRS[2]], "retain"))
    check_disjoint(forget, read_records([{**PAIRS[1], "answer": "Answer 2."}], "retain"))
    for twin in (
        {"prompt": "question  1?", "completion": "Answer 1.\n"},
        {"question": "QUESTION 1?", "answer": "answer 1."},
        {"messages": [{"role": "system", "content": "Be kind."}, *conversation("Question 1?", "Answer 1.")]},
        {"messages": [{"role": "developer", "content": "Be kind."}, *conversation("Question 1?", "Answer 1.")]},
    ):
        retain = read_records([PAIRS[2], twin], "retain")
        message = fault(retain, lambda retain: check_disjoint(forget, retain))
        assert "1 record(s)" in message and "retain record 2" in message and "Answer" not in message
        assert "forget record 2" in message


@pytest.mark.parametrize("role", SYSTEM_ROLES)
def test_a_system_prompt_is_no_question(role: str) -> None:
    """Would break if a model were asked its own instructions, or they made one record two."""
    system = {"role": role, "content": "Be kind."}
    (plain,) = read_records([{"messages": conversation("Who?", "Ada.")}], "forget")
    asked, bare = read_records(
        [
            {"messages": [system, *conversation("Who?", "Ada.")]},
            {"messages": [system, *conversation("Who?", "Ada.")[1:]]},
        ],
        "forget",
    )
    assert asked.question == "Who?" and bare.question == ""
    assert content(asked) == content(plain)
    with pytest.raises(ValueError, match="without a question"):
        bare.with_question("Who?")
    assert [turn.role for turn in bare.as_prompt("0").turns] == [role]
    (empty,) = read_records([{"messages": [{**system, "content": ""}, *conversation("Who?", "Ada.")]}], "forget")
    assert empty.turns[0] == Turn(role, "")


def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data packages are an extra: without them JSON must read, and Parquet say what to install."""
    table, lines = write(tmp_path / "a.parquet", PAIRS), write(tmp_path / "a.jsonl", PAIRS)
    for name in ("pyarrow", "pyarrow.parquet", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    assert 'pip install "rkld[data]"' in fault(table)
    assert 'pip install "rkld[data]"' in fault("someone/people")
    assert len(read_records(lines, "forget")) == 3


def test_no_heavy_imports() -> None:
    """Records are checked before any model: reading them must need neither torch nor datasets."""
    code = (
        "import sys; from rkld.records.reading import read_records; read_records([{'text': 'a'}], 'forget')\n"
        "print({'torch', 'datasets', 'transformers', 'pyarrow'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Real data

REAL = os.environ.get("RKLD_DATA")


@pytest.mark.skipif(not REAL, reason="set RKLD_DATA to a folder whose tofu/ clones the hub's locuslab/TOFU")
def test_tofu() -> None:
    """The benchmark as published: sizes, subsets, fields, and one question that occurs twice."""
    tofu = Path(REAL) / "tofu"
    sizes = {"full": 4000, "forget01": 40, "forget10": 400, "retain90": 3600, "retain99": 3960}
    sets = {name: read_records(f"{tofu}:{name}", name) for name in sizes}
    assert {name: len(records) for name, records in sets.items()} == sizes
    assert len({record.question for record in sets["full"]}) == 3999
    check_disjoint(sets["forget01"], sets["retain99"])
    check_disjoint(sets["forget10"], sets["retain90"])
    assert "40 record(s)" in fault(sets["full"], lambda full: check_disjoint(sets["forget01"], full))
    for record in read_records(tofu / "forget01_perturbed.json", "forget"):
        assert len(record.extra["perturbed_answer"]) == 5
        assert isinstance(record.extra["paraphrased_answer"], str)
        assert isinstance(record.extra["paraphrased_question"], str)
    authors = ["Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov"]
    assert sum(bool(mentions(f"{r.question} {r.answer}", authors)) for r in sets["forget01"]) == 40


def test_records_in_yaml_are_texts_as_they_are_written(tmp_path: Path) -> None:
    """A year is no number and "No" no truth value; comments are allowed, which JSON has not."""
    path = tmp_path / "a.yaml"
    path.write_text("# mine\n- question: When?\n  answer: In 1867  # he said\n  spans: [1867]\n\n- text: No\n")
    first, second = read_records(path, "forget")
    assert (first.answer, first.spans, second.turns[0].text) == ("In 1867", ("1867",), "No")
    assert (first.where, second.where) == (f"{path} line 2", f"{path} line 6")
