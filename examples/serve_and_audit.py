"""Serve the unlearned model with vLLM or llama.cpp, and audit what is served.

    pip install vllm rkld
    python examples/serve_and_audit.py runs/jane --forget records.jsonl --subject "Jane Doe"
    python examples/serve_and_audit.py runs/jane --forget records.jsonl --subject "Jane Doe" --server llama.cpp

For llama.cpp its `llama-server` must be on the PATH, and LLAMA_CPP name its folder, whose converter writes the model.

What a server answers is what people get: its own chat template, sampling and quantisation may differ from the model's
folder. The audit asks it as anybody would, by its address. The exit code is 0 where the verdict is a pass.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rkld
from rkld.runfolder.checksums import weights_hash

NAME = "unlearned"


PROGRAMS = {"vllm": "vllm", "llama.cpp": "llama-server"}
"""Server → the program that must be installed."""


def installed() -> str:
    """The first server whose program is there."""
    for server, program in PROGRAMS.items():
        if shutil.which(program):
            return server
    sys.exit(f"No server is installed: neither of {' and '.join(PROGRAMS.values())} is on the PATH.")


def vllm(model: Path, port: int) -> list[str]:
    """What starts vLLM: with a whole model, or with the base of an adapter and the adapter on it."""
    at = ["--host", "127.0.0.1", "--port", str(port)]
    config = model / "adapter_config.json"
    if not config.exists():
        return ["vllm", "serve", str(model), "--served-model-name", NAME, *at]
    adapter = json.loads(config.read_text(encoding="utf-8"))
    lora = ["--enable-lora", "--max-lora-rank", str(adapter["r"]), "--lora-modules", f"{NAME}={model}"]
    return ["vllm", "serve", adapter["base_model_name_or_path"], *lora, *at]


def llama_cpp(run: Path, port: int) -> list[str]:
    """What starts llama.cpp: with the model as one file, which is written beside the run where it is not there."""
    file = run.with_name(f"{run.name}-{weights_hash(run / 'model')[:8]}.gguf")  # another run may have had this folder
    if not file.exists():
        subprocess.run([sys.executable, "-m", "rkld", "export", str(run), "--gguf", "--out", str(file)], check=True)
    return ["llama-server", "--model", str(file), "--alias", NAME, "--host", "127.0.0.1", "--port", str(port)]


@contextmanager
def served(command: list[str], port: int, minutes: float) -> Iterator[str]:
    """The address of the API while the block runs."""
    if is_taken(port):
        sys.exit(
            f"Port {port} is taken: what serves there would be audited in the place of the run. Give another --port."
        )
    server = subprocess.Popen(command)
    try:
        end = time.monotonic() + 60 * minutes
        while not is_up(port):
            if server.poll() is not None:
                sys.exit(f"{command[0]} ended with code {server.returncode}; what it said stands above.")
            if time.monotonic() > end:
                sys.exit(f"{command[0]} did not answer within {minutes:g} minutes (--minutes).")
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


def is_taken(port: int) -> bool:
    """Whether somebody listens there already, whatever they would answer."""
    with socket.socket() as asked:
        asked.settimeout(5)
        return asked.connect_ex(("127.0.0.1", port)) == 0


def is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--forget", required=True, help="the records that should be forgotten")
    parser.add_argument("--subject", action="append", default=[], help="a name of the person; repeatable")
    parser.add_argument("--retain", help="records that should have been kept")
    parser.add_argument("--original", help="the model before unlearning, to stand beside")
    parser.add_argument("--attacks", default="standard", help="attacks, with commas between them")
    parser.add_argument("--server", choices=list(PROGRAMS), help="by default the one that is installed")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--minutes", type=float, default=15, help="how long the server may take to start")
    given = parser.parse_args()
    model = given.run / "model"
    of_vllm = (given.server or installed()) == "vllm"
    command = vllm(model, given.port) if of_vllm else llama_cpp(given.run, given.port)
    with served(command, given.port, given.minutes) as address:
        audit = rkld.audit(
            NAME,
            given.forget,
            subject=given.subject,
            endpoint=address,
            tokenizer=str(model),
            retain=given.retain,
            original=given.original,
            attacks=given.attacks,
            out=str(given.run / "served-audit"),
        )
    print(f"{audit.document['verdict']}: {audit.path}")
    return 0 if audit.passed else 1


if __name__ == "__main__":
    sys.exit(main())
