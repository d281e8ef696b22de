"""A small OpenAI-compatible server of a model loaded here, for tests: chat, completions, prompt log-probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import SimpleNamespace
from typing import Literal

from rkld.evaluation.generation import greedy
from rkld.evaluation.likelihood import answer_losses
from rkld.evaluation.sampling import sample
from rkld.models.language_model import LanguageModel
from rkld.records.encoding import Encoder
from rkld.records.record import Record, Turn

MODEL = "served"
STANDARD = {
    "model", "messages", "prompt", "max_tokens", "temperature", "top_p", "seed", "n", "echo", "logprobs", "stop",
    "frequency_penalty", "presence_penalty",
}  # fmt: skip


@contextmanager
def serve(
    lm: LanguageModel,
    encoder: Encoder,
    *,
    likelihood: Literal["echo", "vllm"] | None = "echo",
    standard_only: bool = False,
    key: str | None = None,
) -> Iterator[str]:
    """The URL of ``lm``, served as ``MODEL`` with the encoder's template while the block runs.

    ``likelihood``: prompt log-probabilities as OpenAI's old ``echo`` gives them, as vLLM does, or none (status 400).
    ``standard_only``: fields that OpenAI does not know are refused, as OpenAI refuses them. ``key``: is asked for.
    """
    lock = Lock()

    def generated(ids: list[int], body: dict) -> tuple[str, int, str]:
        cap = body["max_tokens"]
        with lock:
            if body["temperature"] == 0:
                (said,) = greedy(lm, [ids], max_new_tokens=cap)
            else:
                ((said,),) = sample(
                    lm, [ids], 1, seed=body["seed"], temperature=body["temperature"], max_new_tokens=cap
                )
        return said.text, len(said.ids), "stop" if said.finished else "length"

    def chat(body: dict) -> tuple[dict, list[int], int]:
        turns = tuple(Turn(message["role"], message["content"]) for message in body["messages"])
        ids = list(encoder.prompt(Record("0", "chat", turns, unanswered=True)))
        text, new, reason = generated(ids, body)
        return {"message": {"role": "assistant", "content": text}, "finish_reason": reason}, ids, new

    def completion(body: dict) -> tuple[dict, list[int], int]:
        prompt = body["prompt"]
        ids = prompt if isinstance(prompt, list) else lm.tokenizer(prompt)["input_ids"]
        text, new, reason = generated(ids, body)
        choice = {"text": text, "finish_reason": reason}
        if body.get("echo"):
            everywhere = SimpleNamespace(ids=tuple(ids), answer=(False,) + (True,) * (len(ids) - 1))
            with lock:
                (losses,) = answer_losses(lm, [everywhere])
            values = [None, *(-losses).tolist()]
            if body.get("prompt_logprobs") is not None and likelihood == "vllm":
                choice["prompt_logprobs"] = [
                    None if v is None else {str(t): {"logprob": v}} for t, v in zip(ids, values, strict=True)
                ]
            else:
                tokens = [lm.tokenizer.decode([t]) for t in ids]
                offsets = [sum(map(len, tokens[:t])) for t in range(len(tokens))]
                choice["logprobs"] = {"tokens": tokens, "token_logprobs": values, "text_offset": offsets}
        return choice, ids, new

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            route = {"/v1/chat/completions": chat, "/v1/completions": completion}.get(self.path)
            if key is not None and self.headers["Authorization"] != f"Bearer {key}":
                return self.reply(401, {})
            if route is None or body["model"] != MODEL:
                return self.reply(404, {})
            unknown = standard_only and not body.keys() <= STANDARD
            if unknown or (body.get("echo") and likelihood is None):
                return self.reply(400, {})
            choice, ids, new = route(body)
            usage = {"prompt_tokens": len(ids), "completion_tokens": new, "total_tokens": len(ids) + new}
            self.reply(200, {"choices": [{"index": 0, **choice}], "usage": usage})

        def reply(self, status: int, answer: dict) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with listening(Handler) as url:
        yield f"{url}/v1"


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The URL under which ``handler`` answers while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
