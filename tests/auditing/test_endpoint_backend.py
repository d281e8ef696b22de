"""A served model is measured as the same model loaded here; what goes wrong on the way is said clearly."""

import json
import time
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from rkld.benching.worlds.tiny import CHAT_TEMPLATE
from rkld.errors import UserError
from rkld.evaluation import endpoint_backend
from rkld.evaluation.backends import LocalBackend
from rkld.evaluation.endpoint_backend import EndpointBackend
from rkld.records.encoding import Encoder
from tests.helpers import texts
from tests.server import MODEL, listening, serve


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(endpoint_backend, "BACKOFF", 0.001)
    monkeypatch.setattr(endpoint_backend, "LONGEST_WAIT", 0.001)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def served(backend):
    with serve(backend.lm, backend.encoder) as url:
        yield url


def canned(*replies, seen=None):
    """A server that gives these replies, (status, content, headers), one after the other and then the last again."""
    waiting = list(replies)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if seen is not None:
                seen.append((self.path, body, dict(self.headers)))
            status, content, headers = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": len(content), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    return listening(Handler)


def saying(text):
    return 200, {"choices": [{"message": {"content": text}, "text": text}]}, {}


# The same as here


def test_answers_and_samples_are_those_of_the_model_loaded_here(backend, served, records):
    """Another prompt, an answer cut short or given to another record would audit another model."""
    there, done = EndpointBackend(served, MODEL, encoder=backend.encoder), []
    expected = texts(backend.answers(records, max_new_tokens=9))
    assert texts(there.answers(records, max_new_tokens=9, progress=done.append)) == expected
    assert done == [1] * len(records) and not there.own_settings
    starts = ["Ada Quill was", "Of", " in", ""]
    begun = texts(backend.answers(records, max_new_tokens=7, prefills=starts))
    assert texts(there.answers(records, max_new_tokens=7, prefills=starts)) == begun
    without = EndpointBackend(served, MODEL)  # no tokenizer: what needs none
    assert texts(without.answers(records[:3], max_new_tokens=9)) == expected[:3]
    samples = there.samples(records, 2, seed=1, max_new_tokens=3)
    assert [len(some) for some in samples] == [2] * 4 and len({text for some in samples for text in some}) > 5
    assert samples == there.samples(records, 2, seed=1, max_new_tokens=3)
    assert samples != there.samples(records, 2, seed=2, max_new_tokens=3)


@pytest.mark.parametrize("likelihood", ["echo", "vllm"])
def test_losses_are_those_of_the_model_loaded_here(backend, likelihood, records):
    """A shift by one, a second start token or another mask would show as other losses."""
    expected = backend.losses(records)
    with serve(backend.lm, backend.encoder, likelihood=likelihood, standard_only=likelihood == "echo") as url:
        there = EndpointBackend(url, MODEL, encoder=backend.encoder)
        for found, right in zip(there.losses(records), expected, strict=True):
            np.testing.assert_allclose(found, right, atol=1e-5)
        assert there.losses([]) == [] and EndpointBackend(url, MODEL).losses(records) is None


def test_the_system_prompt_and_the_context_go_along(backend, records):
    """Without them the served model is asked something else, or refuses what the local one answers."""
    encoder, seen = Encoder(backend.lm.tokenizer, system_prompt="Be kind.", context_length=60), []
    here = LocalBackend(backend.lm, encoder)
    with serve(backend.lm, Encoder(backend.lm.tokenizer)) as url:
        there = EndpointBackend(url, MODEL, encoder=encoder)
        found = there.answers(records[:2], max_new_tokens=6)
        assert texts(found) == texts(here.answers(records[:2], max_new_tokens=6))
        assert not any(answer.finished for own in found for answer in own)
    with canned(saying("x"), seen=seen) as url:
        EndpointBackend(url, MODEL, encoder=encoder).answers(records[:2], max_new_tokens=200)
    assert [body["messages"][0]["content"] for _, body, _ in sorted(seen, key=str)] == ["Be brief.", "Be kind."]
    rooms = [60 - len(encoder.prompt(record)) for record in records[:2]]
    assert sorted(body["max_tokens"] for _, body, _ in seen) == sorted(rooms)


def test_a_prompt_is_the_text_that_a_server_makes_the_same_tokens_of(backend, records):
    """Servers put the start token before a prompt: a template's own would come twice. Where no text will do, ids go."""
    made = Tokenizer.from_str(backend.lm.tokenizer.backend_tokenizer.to_str())
    made.post_processor = processors.TemplateProcessing(single="<|pad|> $A", special_tokens=[("<|pad|>", 0)])
    adding = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|pad|>", eos_token="<|im_end|>")
    bare, chat = records[2], records[0]
    for template, starts in (("<|pad|>" + CHAT_TEMPLATE, True), (CHAT_TEMPLATE, False)):
        adding.chat_template = template
        encoder = Encoder(adding)
        there = EndpointBackend("http://127.0.0.1:9", MODEL, encoder=encoder)
        ids = encoder.encode(chat).ids
        assert (ids[0] == 0) == starts
        text = there._text(ids)
        assert text == (encoder.render(chat).removeprefix("<|pad|>") if starts else list(ids))
        assert there._text(encoder.prompt(bare)) == "Ada Quill lives"


# What cannot be


def test_what_needs_a_tokenizer_says_so(served, records):
    with pytest.raises(UserError, match=r"A plain text cannot be cut .* without the tokenizer"):
        EndpointBackend(served, MODEL).answers(records, max_new_tokens=3)
    with pytest.raises(UserError, match="served cannot be prefilled without the tokenizer"):
        EndpointBackend(served, MODEL).answers(records[:1], max_new_tokens=3, prefills=["Ada"])


def test_losses_that_are_not_surely_the_records_are_none(backend, records):
    """Log-probabilities of another tokenization, of the answer alone, or none at all would pass for the model's."""
    encoder, record = backend.encoder, records[:1]
    ids = encoder.encode(records[0]).ids
    tokens = [backend.lm.tokenizer.decode([t]) for t in ids]
    good = {"tokens": tokens, "token_logprobs": [None] + [-1.0] * (len(ids) - 1)}
    variants = {
        "right": good,
        "with what was generated": {"tokens": [*tokens, "x"], "token_logprobs": [*good["token_logprobs"], -2.0]},
        "as ids": {**good, "tokens": [f"token_id:{t}" for t in ids]},
        "other tokens": {**good, "tokens": [*tokens[:-3], "Rome", *tokens[-2:]]},
        "other ids": {**good, "tokens": [f"token_id:{t + 1}" for t in ids]},
        "new ones only": {"tokens": ["x"], "token_logprobs": [-1.0]},
        "above 0": {**good, "token_logprobs": [1.0] * len(ids)},
        "missing": {**good, "token_logprobs": [None] * len(ids)},
        "not a number": {**good, "token_logprobs": [float("nan")] * len(ids)},
        "nothing": None,
    }
    found = {}
    for name, logprobs in variants.items():
        with canned((200, {"choices": [{"text": "x", "logprobs": logprobs}]}, {})) as url:
            found[name] = EndpointBackend(url, MODEL, encoder=encoder).losses(record)
    given = [name for name, losses in found.items() if losses is not None]
    assert given == ["right", "with what was generated", "as ids"]
    assert all((found[name][0] == 1.0).all() for name in given)
    with serve(backend.lm, encoder, likelihood=None) as url:
        assert EndpointBackend(url, MODEL, encoder=encoder).losses(record) is None


def test_servers_that_know_only_openai_are_asked_so(backend, records):
    """They refuse unknown fields; and it must be known that their own sampling settings were left on."""
    with serve(backend.lm, backend.encoder, standard_only=True) as url:
        there = EndpointBackend(url, MODEL)
        found = there.answers(records[:3], max_new_tokens=5)
        assert texts(found) == texts(backend.answers(records[:3], max_new_tokens=5))
        assert there.own_settings


def test_what_is_thought_aloud_counts_as_said(records):
    """A leak in the reasoning is a leak; an answer without any text is not a clean one."""

    def said(**message):
        with canned((200, {"choices": [{"message": message}]}, {})) as url:
            return texts(EndpointBackend(url, MODEL).answers(records[:1], max_new_tokens=3))[0]

    assert said(content="") == ""
    assert said(content="I can't say.", reasoning_content="Oslo.") == "Oslo.\nI can't say."
    assert said(content=None, reasoning="Oslo.") == "Oslo."
    call = {"id": "1", "function": {"name": "look_up", "arguments": '{"city": "Oslo"}'}}
    assert "Oslo" in said(content=None, tool_calls=[call])
    with pytest.raises(UserError, match="answered without a text"):
        said(content=None)


def test_an_answer_can_be_written_to_a_file(records):
    """Half of a surrogate pair, which a cut answer can end with, would end an audit when its evidence is written."""
    with canned((200, b'{"choices": [{"message": {"content": "Oslo \\ud83d"}}]}', {})) as url:
        assert texts(EndpointBackend(url, MODEL).answers(records[:1], max_new_tokens=3)) == ["Oslo ?"]


def test_a_begun_completion_is_the_same_with_a_tokenizer_and_without(backend, records):
    """Glued to the prompt ("livesin") it would ask for something else."""
    seen = []
    for encoder in (None, backend.encoder):
        with canned(saying("x"), seen=seen) as url:
            there = EndpointBackend(url, MODEL, encoder=encoder)
            for prefill in ("in a", " in a ", " "):
                there.answers(records[2:3], max_new_tokens=3, prefills=[prefill])
    prompts = [body["prompt"] for _, body, _ in seen]
    assert prompts[:3] == ["Ada Quill lives in a", "Ada Quill lives in a", "Ada Quill lives"]
    assert prompts[3:] == prompts[:3]


# What goes wrong


def test_errors_name_url_and_status_and_keep_secrets(monkeypatch, records):
    """A message with record or key in it ends in logs and tickets."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    echoing = b"Ada Quill was born in Oslo. sk-secret"
    cases = [
        ((401, echoing, {}), "status 401. Set OPENAI_API_KEY"),
        ((404, echoing, {}), "status 404. Check the URL"),
        ((400, echoing, {}), "status 400. The prompt with --max-new-tokens"),
        ((418, echoing, {}), "status 418. Look at its log"),
        ((503, echoing, {"Retry-After": "9"}), "status 503"),
        ((307, echoing, {"Location": "http://127.0.0.1:9/v1"}), "status 307. It redirects"),
        ((200, echoing, {}), "something else than JSON"),
        ((200, b"[" * 100_000, {}), "something else than JSON"),
        ((200, {"error": "Ada Quill"}, {}), "no choices"),
        ((200, ["Ada Quill"], {}), "no choices"),
        ((200, {"choices": [{"message": "Ada Quill"}]}, {}), "without a text"),
    ]
    for reply, expected in cases:
        with canned(reply) as url, pytest.raises(UserError) as caught:
            EndpointBackend(url, MODEL).answers(records[:1], max_new_tokens=3)
        message = str(caught.value)
        assert expected in message and url in message
        assert not any(secret in message for secret in ("Quill", "Oslo", "sk-secret"))
        assert caught.value.__cause__ is None
    with canned((200, b"", {"Content-Length": 9})) as url, pytest.raises(UserError, match="cannot be reached"):
        EndpointBackend(url, MODEL).answers(records[:1], max_new_tokens=3)
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/v1/chat/completions cannot be reached \(ConnectError"):
        EndpointBackend("http://127.0.0.1:9/v1", MODEL).answers(records[:1], max_new_tokens=3)


def test_passing_failures_are_tried_again_and_lasting_ones_not(records):
    """A busy server would end an audit of hours; a wrong key would be tried again and again."""
    for failures, tries in (([503, 429], 3), ([500] * 9, endpoint_backend.ATTEMPTS), ([401], 1)):
        seen, ok = [], len(failures) < endpoint_backend.ATTEMPTS and 401 not in failures
        with canned(*((status, b"", {}) for status in failures), saying("yes"), seen=seen) as url:
            there = EndpointBackend(url, MODEL)
            if ok:
                assert texts(there.answers(records[:1], max_new_tokens=3)) == ["yes"]
            else:
                with pytest.raises(UserError, match=f"status {failures[0]}"):
                    there.answers(records[:1], max_new_tokens=3)
        assert len(seen) == tries


def test_a_server_that_does_not_answer_is_not_waited_for_again(records):
    asked = []

    class Silent(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            time.sleep(0.4)

        def log_message(self, *_):
            pass

    with listening(Silent) as url, pytest.raises(UserError, match=r"took more than 0\.1 s"):
        EndpointBackend(url, MODEL, timeout=0.1).answers(records[:1], max_new_tokens=3)
    assert len(asked) == 1


def test_the_key_is_sent_and_stands_nowhere_else(backend, monkeypatch, records):
    with serve(backend.lm, backend.encoder, key="sk-secret") as url:
        with pytest.raises(UserError, match="401"):
            EndpointBackend(url, MODEL).answers(records[:1], max_new_tokens=3)
        there = EndpointBackend(url, MODEL, api_key="sk-secret")
        assert len(there.answers(records[:1], max_new_tokens=3)) == 1 and "secret" not in repr(there)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
        assert len(EndpointBackend(url, MODEL).answers(records[:1], max_new_tokens=3)) == 1
    with pytest.raises(UserError, match="characters that no key has") as caught:
        EndpointBackend(url, MODEL, api_key="sk-sécret")
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host/v1", "http://", "http://me:pass@host/v1", "http://h?k=s"]
)
def test_urls_with_secrets_or_without_a_server_are_refused(url):
    """User and password of a URL would stand in every message."""
    with pytest.raises(UserError, match="not a plain URL") as caught:
        EndpointBackend(url, MODEL)
    assert "pass" not in str(caught.value)
