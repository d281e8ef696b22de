"""The examples run on the tiny model: the notebook from first to last cell, the scripts as their users call them."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import socket
import sys
from contextlib import ExitStack, redirect_stdout
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from rkld.files import write_jsonl
from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from tests import server
from tests.long.world import AUDIT, FORGET, KEPT, RUN, WORLD, make_original, write_records

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = {"epochs": 1, "strengthen_epochs": 1, "stop": "last", "replay": "none", "max_new_tokens": 8, "batch_size": 8}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_original(tmp_path_factory.mktemp("original"), epochs=120)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found  # dataclasses look there for what annotations name
    spec.loader.exec_module(found)
    return found


def call(monkeypatch: pytest.MonkeyPatch, example: ModuleType, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", [f"{example.__name__}.py", *map(str, arguments)])
    return example.main()


def test_every_example_says_how_it_is_called():
    """In its docstring, by its own name; and it has a test here."""
    tests = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f"python examples/{path.name} " in (script(path.stem).__doc__ or "")
        assert f'"{path.stem}"' in tests


# The notebook


def cells(original: Path, out: Path) -> dict:
    """The notebook with the tiny model and its records in the cell that is tagged as parameters."""
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    parameters = next(cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", ()))
    names = {line.partition(" = ")[0] for line in "".join(parameters["source"]).splitlines() if line[0].isupper()}
    given = {
        "MODEL": str(original), "SUBJECT": FORGET[0]["subject"], "FORGET": FORGET, "RETAIN": KEPT,
        "SETTINGS": {**RUN, "stop": "last"}, "AUDIT": AUDIT, "OUT": str(out),
    }  # fmt: skip
    assert names == given.keys()
    parameters["source"] = "\n".join(f"{name} = {value!r}" for name, value in given.items())
    return notebook


def says(outputs: list[str], run: Path) -> None:
    """What the code cells printed, one text each."""
    assert FORGET[0]["question"] in "".join(outputs)
    assert json.loads((run / "audit.json").read_text())["verdict"] in outputs[-1]


@pytest.mark.slow
def test_the_notebook_runs_cell_by_cell(original, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    outputs = []
    for cell in cells(original, tmp_path / "run")["cells"]:
        if cell["cell_type"] == "code":
            with redirect_stdout(io.StringIO()) as said:
                exec("".join(cell["source"]), names)
            outputs.append(said.getvalue())
    says(outputs, tmp_path / "run")
    assert "distillation" in capsys.readouterr().err  # a line, and no bar


@pytest.mark.slow
def test_the_notebook_runs_in_jupyter(original, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
    pytest.importorskip("ipykernel", reason="needs ipykernel")
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
    notebook = nbformat.reads(json.dumps(cells(original, tmp_path / "run")), as_version=4)
    nbformat.validate(notebook)
    done = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    says(["".join(out.get("text", "") for out in cell["outputs"]) for cell in code], tmp_path / "run")


# A server


class Served:
    """In the place of the server's process: the model, loaded here, at the port that was asked for."""

    model: Path

    def __init__(self, command: list[str]) -> None:
        self.command, self.returncode, self.held = command, None, ExitStack()
        port = int(command[command.index("--port") + 1])
        lm = load_model(self.model)

        class At(ThreadingHTTPServer):
            def __init__(self, address: tuple[str, int], handler: type) -> None:
                def health(self) -> None:
                    self.send_response(200)
                    self.end_headers()

                super().__init__((address[0], port), type("Handler", (handler,), {"do_GET": health}))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server, "ThreadingHTTPServer", At)
            self.held.enter_context(server.serve(lm, Encoder(lm.tokenizer), likelihood="vllm"))

    def poll(self) -> None:
        return None

    def terminate(self) -> None:
        self.held.close()

    def wait(self) -> None:
        pass


@pytest.fixture
def run_of_original(original, tmp_path, monkeypatch):
    """A run folder whose model is the original, and a port that is free for its server."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(original)
    monkeypatch.setattr(Served, "model", original, raising=False)
    with server.listening(server.BaseHTTPRequestHandler) as free:
        port = free.rpartition(":")[2]
    return tmp_path / "run", port


def test_what_is_served_is_audited(run_of_original, tmp_path, monkeypatch, capsys):
    example = script("serve_and_audit")
    run, port = run_of_original
    monkeypatch.setattr(example.subprocess, "Popen", Served)
    monkeypatch.setattr(example, "is_taken", lambda port: False)  # what answers is there before
    monkeypatch.setattr(server, "MODEL", example.NAME)
    records = write_records(tmp_path)["forget"]
    arguments = ("--forget", records, "--port", port, "--attacks", "none", "--server", "vllm")
    assert call(monkeypatch, example, run, *arguments) == 1, "it is the original, which recites everything"
    document = json.loads((run / "served-audit" / "audit.json").read_text())
    assert capsys.readouterr().out.startswith(f"{document['verdict']}: ")
    assert document["metrics"]["facts_said"]["figures"]["audited"]["value"] == 1


def test_what_serves_on_the_port_already_is_not_audited_in_the_place_of_the_run(monkeypatch):
    example = script("serve_and_audit")
    started = []
    monkeypatch.setattr(example.subprocess, "Popen", started.append)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = example.served(["vllm"], other.getsockname()[1], 1)
        with pytest.raises(SystemExit, match="is taken"), taken:
            pass
    assert not started


def test_vllm_serves_an_adapter_on_its_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 16, "base_model_name_or_path": "owner/base"}))
    command = script("serve_and_audit").vllm(tmp_path, 8000)
    assert command[:3] == ["vllm", "serve", "owner/base"]
    assert f"unlearned={tmp_path}" in command and "16" in command


def test_llama_cpp_serves_a_file_that_is_exported_once(tmp_path, monkeypatch):
    example, exported = script("serve_and_audit"), []
    weights = tmp_path / "run" / "model" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"one")

    def export(command: list[str], check: bool) -> None:
        exported.append(command[1:])
        Path(command[-1]).write_text("GGUF")

    monkeypatch.setattr(example.subprocess, "run", export)
    commands = [example.llama_cpp(tmp_path / "run", 8000) for _ in range(2)]
    file = exported[0][-1]
    assert Path(file).parent == tmp_path and Path(file).name.startswith("run-")
    assert exported == [["-m", "rkld", "export", str(tmp_path / "run"), "--gguf", "--out", file]]
    assert commands[0] == commands[1] and commands[0][:3] == ["llama-server", "--model", file]
    weights.write_bytes(b"another run's")
    assert example.llama_cpp(tmp_path / "run", 8000) != commands[0], "the file of an earlier run is served"


def test_the_server_that_is_installed_is_taken(monkeypatch, tmp_path):
    example = script("serve_and_audit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="No server is installed"):
        example.installed()
    (tmp_path / "llama-server").touch(mode=0o755)
    assert example.installed() == "llama.cpp"


# A trainer


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_a_trainers_user_forgets_with_the_names_they_know(original, lora, tmp_path, monkeypatch, capsys):
    records = write_records(tmp_path)["forget"]
    arguments = ["--forget", records, "--out", tmp_path / "out", "--epochs", 2, "--lr", 1e-2, *["--lora"] * lora]
    assert call(monkeypatch, script("trainer_style"), original, *arguments) == 0
    said = capsys.readouterr().out
    assert "step 1: loss " in said and "not yet measured" in said
    assert (tmp_path / "out" / "adapter_config.json").exists() == lora
    lm, before = load_model(tmp_path / "out"), load_model(original)
    ids = Encoder(lm.tokenizer).tokenizer("x", return_tensors="pt").input_ids
    assert not lm.model(ids).logits.allclose(before.model(ids).logits)


# A gate


def test_a_gate_passes_for_those_who_passed_alone(tmp_path, monkeypatch, capsys):
    """Without a model that is asked anything: what is said of verdicts, whoever found them."""
    example = script("ci_gate")
    for number, name in (("2026-001", "records.jsonl"), ("2026-002", "records.yaml"), ("2026-003", "other.txt")):
        (tmp_path / "requests" / number).mkdir(parents=True)
        (tmp_path / "requests" / number / name).write_text("[]")
    asked = []

    class Audit:
        def __init__(self, verdict: str) -> None:
            self.document = {"verdict": verdict, "reasons": ["facts_said is .5 | above .25"] * (verdict != "pass")}

    def audit(model, forget, **given):
        asked.append((forget, given["retain"], given["redact"]))
        return Audit("pass" if "001" in forget else "fail")

    monkeypatch.setattr(example.rkld, "audit", audit)
    files = ["--summary", tmp_path / "summary.md", "--junit", tmp_path / "gate.xml"]
    assert call(monkeypatch, example, "./m", "--requests", tmp_path / "requests", *files) == 1
    assert capsys.readouterr().out.splitlines() == ["2026-001: pass", "2026-002: fail", "2026-003: not audited"]
    assert len(asked) == 2 and all(redact for *_, redact in asked)
    table = (tmp_path / "summary.md").read_text().splitlines()
    assert table[2:4] == ["| 2026-001 | pass |  |", "| 2026-002 | **fail** | facts_said is .5 \\| above .25 |"]
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    assert [case.find("failure") is None for case in suite] == [True, False, False]

    (tmp_path / "requests" / "2026-002" / "records.yaml").unlink()
    (tmp_path / "none").mkdir()
    with pytest.raises(SystemExit, match="must not pass"):
        call(monkeypatch, example, "./m", "--requests", tmp_path / "none")


@pytest.mark.slow
def test_a_gate_asks_the_model_and_names_nobody(original, tmp_path, monkeypatch, capsys):
    example = script("ci_gate")
    request = tmp_path / "requests" / "2026-001"
    request.mkdir(parents=True)
    write_jsonl(request / "records.jsonl", FORGET)
    write_jsonl(request / "others.jsonl", KEPT)
    (tmp_path / "requests" / "2026-002").mkdir()
    (tmp_path / "requests" / "2026-002" / "records.jsonl").write_text('{"question": "Who is Jane Doe?"}\n')
    arguments = ["--requests", tmp_path / "requests", "--original", original, "--attacks", "none"]
    files = ["--out", tmp_path / "gate", "--summary", tmp_path / "summary.md"]
    assert call(monkeypatch, example, original, *arguments, *files) == 1, "it is the original, which recites everything"
    said = capsys.readouterr().out + (tmp_path / "summary.md").read_text()
    assert "2026-001: fail" in said and "2026-002: not audited" in said and "'answer' is missing" in said
    assert "Jane" not in said and FORGET[0]["subject"] not in said
    assert FORGET[0]["subject"] not in (tmp_path / "gate" / "2026-001" / "audit.json").read_text()


# A batch


def test_a_batch_is_refused_where_it_does_not_say_whose_a_line_is(tmp_path):
    example, table = script("batch_from_csv"), tmp_path / "requests.csv"
    head = "request,subject,question,answer\n"
    for rows, said in (
        ("", "holds no request"),
        ("1,,Who?,Ada.\n", "line 2: 'request' and 'subject' must not be empty"),
        ("1,Ada,Who?,Ada.\n2,Ada,Where?,Oslo.\n", "line 3: the person of this line stands in request 1 already"),
    ):
        table.write_text(head + rows)
        with pytest.raises(SystemExit, match=said) as refused:
            example.read_requests(table)
        assert "Ada" not in str(refused.value)


@pytest.mark.slow
def test_a_batch_of_requests_is_erased_in_one_run_and_judged_apart(original, tmp_path, monkeypatch, capsys):
    example, people = script("batch_from_csv"), WORLD.forget([0])[:4] + WORLD.forget([1])[:4]
    with (tmp_path / "requests.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["request", "subject", "question", "answer", "spans"])
        numbers = {name: f"2026-{n}" for n, name in enumerate(dict.fromkeys(row["subject"] for row in people), 14)}
        for row in people:
            spans = json.dumps(row["spans"])
            table.writerow([numbers[row["subject"]], row["subject"], row["question"], row["answer"], spans])
    write_jsonl(tmp_path / "retain.jsonl", WORLD.forget([2])[:2])
    monkeypatch.setattr(example, "UNLEARN", QUICK)
    monkeypatch.setattr(example, "AUDIT", AUDIT)
    arguments = [tmp_path / "requests.csv", "--retain", tmp_path / "retain.jsonl", "--out", tmp_path / "run"]
    assert call(monkeypatch, example, original, *arguments) == 1, "one epoch is not enough"
    said = capsys.readouterr().out
    with (tmp_path / "run" / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["request"] for row in rows] == ["2026-14", "2026-15"]
    assert all(row["verdict"] in ("fail", "not established") and row["reasons"] for row in rows)
    assert all(f"{row['request']}: {row['verdict']}" in said for row in rows)
    results = (tmp_path / "run" / "results.csv").read_text()
    assert not any(name in results + said for name in numbers)
