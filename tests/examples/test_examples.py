"""The examples run: the notebook from its first cell to its last, the script against a server like vLLM's."""

from __future__ import annotations

import importlib.util
import json
import sys
from contextlib import ExitStack
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from rkld.models.loading import load_model
from rkld.records.encoding import Encoder
from tests import server
from tests.long.world import AUDIT, FORGET, KEPT, RUN, make_original, write_records

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_original(tmp_path_factory.mktemp("original"), epochs=120)


@pytest.mark.slow
def test_the_notebook_runs(original, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
    pytest.importorskip("ipykernel", reason="needs ipykernel")
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    names = {line.partition(" = ")[0] for line in parameters.source.splitlines() if line[0].isupper()}
    given = {
        "MODEL": str(original), "SUBJECT": FORGET[0]["subject"], "FORGET": FORGET, "RETAIN": KEPT,
        "SETTINGS": {**RUN, "stop": "last"}, "AUDIT": AUDIT, "OUT": str(tmp_path / "run"),
    }  # fmt: skip
    assert names == given.keys()
    parameters.source = "\n".join(f"{name} = {value!r}" for name, value in given.items())
    done = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = ["".join(out.get("text", "") for out in cell.get("outputs", ())) for cell in done.cells]
    assert "distillation" in said[5]  # a line, and no bar
    assert FORGET[0]["question"] in said[6]
    assert any(verdict in said[8] for verdict in ("pass", "fail", "not established"))
    assert json.loads((tmp_path / "run" / "audit.json").read_text())["verdict"] in said[8]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("serve_and_audit", EXAMPLES / "serve_and_audit.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


class Served:
    """In the place of the process of vLLM: the model, loaded here, at the port that was asked for."""

    def __init__(self, command: list[str]) -> None:
        self.command, self.returncode, self.held = command, None, ExitStack()
        port = int(command[command.index("--port") + 1])
        lm = load_model(command[2])

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


def test_the_script_audits_what_is_served(original, tmp_path, monkeypatch, capsys):
    example = script()
    monkeypatch.setattr(example.subprocess, "Popen", Served)
    monkeypatch.setattr(server, "MODEL", example.NAME)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(original)
    with server.listening(server.BaseHTTPRequestHandler) as free:
        port = free.rpartition(":")[2]
    records = write_records(tmp_path)["forget"]
    arguments = [str(tmp_path / "run"), "--forget", str(records), "--port", port, "--attacks", "none"]
    monkeypatch.setattr(sys, "argv", ["serve_and_audit.py", *arguments])
    assert example.main() == 1  # it is the original, which recites everything
    document = json.loads((tmp_path / "run" / "served-audit" / "audit.json").read_text())
    assert capsys.readouterr().out.startswith(f"{document['verdict']}: ")
    assert document["metrics"]["facts_said"]["figures"]["audited"]["value"] == 1


def test_an_adapter_is_served_on_its_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 16, "base_model_name_or_path": "owner/base"}))
    command = script().command(tmp_path, 8000)
    assert command[:3] == ["vllm", "serve", "owner/base"]
    assert f"unlearned={tmp_path}" in command and "16" in command
