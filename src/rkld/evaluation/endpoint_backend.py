"""A model behind an OpenAI-compatible server (vLLM, llama.cpp, TGI, SGLang, Ollama, …): what is served can be audited.

Conversations go to ``/chat/completions``, so that the server's own chat template is tested too. Everything else goes
to ``/completions`` as the text that the model here would be given: plain texts and completions, prefilled answers (no
server documents whether it continues an assistant turn or starts another one), and records whose losses are wanted.

Whoever serves the model may be whom the audit is about: an answer has a time and a size, and what lies beyond them, or
is compressed though nobody asked for that, ends the audit with a message.

The contents of records and of the server's answers, and the API key, are in no message.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
import numpy as np
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from rkld.errors import UserError
from rkld.evaluation.answering import MARGIN, SHORTEST, THOUGHTS, answer_cap
from rkld.evaluation.generation import Generated
from rkld.evaluation.prefilling import generation_prompts, set_off
from rkld.records.record import TEMPLATE_ARGUMENTS, TEMPLATE_FIELDS, TOOL_CALLS, Turn
from rkld.settings.table import TIMEOUT

if TYPE_CHECKING:
    from rkld.evaluation.backends import Progress
    from rkld.records.encoding import Encoded, Encoder
    from rkld.records.record import Record


T = TypeVar("T")

R = TypeVar("R")

Prompt = str | list[int]

ATTEMPTS = 4
"""Tries of a request that meets a busy, failing or unreachable server."""

BACKOFF = 0.5
"""Seconds before the second try; twice as many before each one after it."""

LONGEST_WAIT = 30.0
"""Seconds that a server's Retry-After is heeded at most."""

LARGEST = 16 * 2**20
"""Bytes of an answer. Log-probabilities of 100 000 tokens have about as many."""

LONGEST_TOKEN = 128
"""Characters of a token; hardly a vocabulary has a longer one. Tells answers of more tokens than asked."""

ROUNDING = 1e-3
"""A log-probability so little above 0 is one of 0."""

_NOTHING_CUT = {
    # By the names of OpenAI, vLLM and llama.cpp: a served generation config would make answers incomparable.
    "top_p": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "repeat_penalty": 1.0,
}

_HINTS = {
    400: "The prompt with --max-new-tokens may be longer than the context it serves, or it requires other parameters",
    401: "Set OPENAI_API_KEY to a key it accepts",
    403: "Set OPENAI_API_KEY to a key that may use this model",
    404: "Check the URL (many end with /v1) and the model's name; not every server has this route",
    429: "It is busy: try again later",
}

_TEMPORARY = (429, 500, 502, 503, 504)


class _Refused(UserError):
    """An answer of the server with an HTTP status that is an error."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _Temporary(Exception):
    """A failure that may pass: the request is worth another try."""

    def __init__(self, problem: UserError, wait: float = 0.0) -> None:
        self.problem = problem
        self.wait = wait  # seconds that the server asks for


class EndpointBackend:
    """A :class:`rkld.evaluation.backends.GenerationBackend` behind a URL.

    Args:
        url: where the routes begin, often ending with ``/v1``.
        model: the name it is served under.
        api_key: sent as a bearer token; by default that of the environment's ``OPENAI_API_KEY``.
        encoder: of the model's own tokenizer and template. Plain texts, prefilled answers and losses need it.
        timeout: seconds for one answer, from the connection to its last byte.
        concurrency: requests at a time.

    Attributes:
        own_settings: the server has refused the fields that switch off whatever cuts or bends its distribution (top-k,
            penalties), and the requests went without; its own settings may have shaped the answers.

    Every method raises UserError, with URL and status, where the server cannot be reached or refuses.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        encoder: Encoder | None = None,
        timeout: float = TIMEOUT,
        concurrency: int = 4,
    ) -> None:
        if not _is_plain(url):
            raise UserError(
                "The endpoint is not a plain URL. Write it as http://HOST:PORT/v1, and a key into OPENAI_API_KEY."
            )
        self.url = url.rstrip("/")
        self.model = model
        self.encoder = encoder
        self.timeout = timeout
        self.concurrency = concurrency
        self.own_settings = False
        key = (os.environ.get("OPENAI_API_KEY", "") if api_key is None else api_key).strip()
        if not (key.isascii() and key.isprintable()):
            raise UserError("The API key has characters that no key has. Set OPENAI_API_KEY anew.")
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._headers = headers
        self._certificates = httpx2.create_ssl_context()

    def answers(
        self,
        records: Sequence[Record],
        *,
        max_new_tokens: int | None,
        prefills: Sequence[str] | None = None,
        progress: Progress = None,
    ) -> list[list[Generated]]:
        """Greedy answers; see :meth:`rkld.evaluation.backends.GenerationBackend.answers`.

        Reasoning and tool calls that a server returns beside the answer count as part of it. Where the template has
        several modes and they are known, the server is asked in each, beside the one that it chooses. UserError where a
        prefill or a plain text is given and there is no encoder.
        """

        def ask(body: dict[str, Any]) -> Generated:
            return self._generated({**body, "temperature": 0.0, "seed": 0})

        found = [[answer] for answer in self._each(ask, self._bodies(records, prefills, max_new_tokens), progress)]
        if prefills is None and self.encoder is not None:
            modes = [
                (i, {"max_tokens": self._room(record, prompt, max_new_tokens), "prompt": self._text(prompt)})
                for i, record in enumerate(records)
                if len(prompts := self.encoder.prompts(record)) > 1
                for prompt in prompts
            ]
            for (i, _), answer in zip(modes, self._each(ask, [body for _, body in modes]), strict=True):
                found[i].append(answer)
        return found

    def samples(
        self, records: Sequence[Record], n: int, *, seed: int, max_new_tokens: int | None, progress: Progress = None
    ) -> list[list[Generated]]:
        """n sampled answers to each record; as repeatable as the server's own seeds make them."""
        if n < 1:
            raise ValueError(f"n is {n}; it must be positive")
        bodies = [
            # Many servers read only 31 bits of a seed; and one request per answer, as not all know ``n``.
            {**body, "temperature": 1.0, "seed": int(np.random.SeedSequence((seed, i, j)).generate_state(1)[0] >> 1)}
            for i, body in enumerate(self._bodies(records, None, max_new_tokens))
            for j in range(n)
        ]
        generated = self._each(self._generated, bodies, progress)
        return [generated[at : at + n] for at in range(0, len(generated), n)]

    def continuations(
        self, prompts: Sequence[Sequence[int]], caps: Sequence[int], *, progress: Progress = None
    ) -> list[Generated]:
        """What comes greedily behind each prompt. Only with an encoder."""

        def ask(body: dict[str, Any]) -> Generated:
            return self._generated({**body, "temperature": 0.0, "seed": 0})

        room = self.encoder.context_length if self.encoder is not None else None
        bodies = [
            {"max_tokens": cap if room is None else max(1, min(cap, room - len(ids))), "prompt": self._text(ids)}
            for ids, cap in zip(prompts, caps, strict=True)
        ]
        return self._each(ask, bodies, progress)

    def losses(self, records: Sequence[Record]) -> list[np.ndarray] | None:
        """Losses of the records' answer tokens, of the echoed prompt's log-probabilities.

        None without an encoder; where the server refuses, or returns none (vLLM and llama-cpp-python return them); and
        where what it returns is not about this very tokenization of the records.
        """
        if self.encoder is None:
            return None
        encoded = [self.encoder.encode(record) for record in records]
        requests = [(record, self._text(record.ids)) for record in encoded]
        found: list[np.ndarray] = []
        for some in (requests[:1], requests[1:]):  # where the first has none, the others need not be tried
            for losses in self._each(lambda one: self._echoed(*one), some):
                if losses is None:
                    return None
                found.append(losses)
        return found

    # Requests

    def _bodies(
        self, records: Sequence[Record], prefills: Sequence[str] | None, max_new_tokens: int | None
    ) -> list[dict[str, Any]]:
        prefills = [""] * len(records) if prefills is None else prefills
        return [self._body(r, prefill, max_new_tokens) for r, prefill in zip(records, prefills, strict=True)]

    def _room(self, record: Record, prompt: Sequence[int], max_new_tokens: int | None) -> int:
        """New tokens an answer may have, kept within the context, if it is known."""
        encoder = self.encoder
        assert encoder is not None
        modes = len(encoder.prompts(record))
        cap = answer_cap(encoder, record, max_new_tokens=max_new_tokens, modes=modes)
        return cap if encoder.context_length is None else max(1, min(cap, encoder.context_length - len(prompt)))

    def _body(self, record: Record, prefill: str, max_new_tokens: int | None) -> dict[str, Any]:
        """The body of a request, but for what chooses tokens."""
        encoder = self.encoder
        if encoder is None and (record.form == "text" or (record.form == "chat" and prefill.strip())):
            text = record.form == "text"
            what = "A plain text cannot be cut into prompt and rest" if text else f"{self.model} cannot be prefilled"
            raise UserError(f"{what} without the tokenizer of the served model. Give its folder with --tokenizer.")
        # Without the tokenizer a token is taken to be a character at least, and a thought to be possible.
        cap = max(SHORTEST, len(record.answer) + MARGIN) + THOUGHTS
        body: dict[str, Any] = {"max_tokens": cap if max_new_tokens is None else max_new_tokens}
        if encoder is not None:
            (ids,) = generation_prompts(encoder, [record], [prefill])
            body["max_tokens"] = self._room(record, ids, max_new_tokens)
        if record.form == "chat" and not prefill.strip():
            prompt = record.as_prompt(record.key)
            turns = prompt.turns if encoder is None else encoder.conversation(prompt)
            given = dict(record.template_variables)
            body |= {name: given.pop(name) for name in TEMPLATE_FIELDS if name in given}
            body |= {TEMPLATE_ARGUMENTS: given} if given else {}
            return {**body, "messages": [_message(turn) for turn in turns]}
        begun = record.turns[0].content + set_off(record, prefill)
        return {**body, "prompt": begun if encoder is None else self._text(ids)}

    def _text(self, ids: Sequence[int]) -> Prompt:
        """The text of which a server with this tokenizer makes ``ids``; these themselves where there is none.

        Servers put the tokenizer's start token before a prompt, so a template's own must not come twice.
        """
        assert self.encoder is not None  # a prompt of ids was made by it
        tokenizer = self.encoder.tokenizer
        text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for candidate in (text.removeprefix(tokenizer.bos_token or ""), text):
            if tokenizer(candidate, verbose=False)["input_ids"] == list(ids):
                return candidate
        return list(ids)

    # Answers

    def _generated(self, body: dict[str, Any]) -> Generated:
        choice, neutral = self._choice(body, {} if self.own_settings else _NOTHING_CUT)
        self.own_settings |= not neutral
        if "prompt" in body:
            parts = [choice.get("text")]
        else:
            found = choice.get("message")
            said_in: dict[str, Any] = found if isinstance(found, dict) else {}
            parts = [said_in.get("reasoning_content") or said_in.get("reasoning"), said_in.get("content")]
            if said_in.get(TOOL_CALLS):
                parts.append(Turn("", "", {TOOL_CALLS: said_in[TOOL_CALLS]}).text)
        if not any(isinstance(part, str) for part in parts):
            raise UserError(f"{self.url} answered without a text: is {self.model} a model that writes text?")
        said = "\n".join(part for part in parts if isinstance(part, str) and part)
        if len(said) > LONGEST_TOKEN * (body["max_tokens"] + 1):
            raise UserError(
                f"{self.url} answered with {len(said)} characters, which are more than the {body['max_tokens']} tokens "
                "it was asked for. A server that does not heed max_tokens cannot be audited."
            )
        said = said.encode("utf-8", "replace").decode()  # JSON can hold halves of a letter, which no file can
        return Generated((), said, finished=choice.get("finish_reason") in ("stop", "tool_calls", "function_call"))

    def _choice(self, body: dict[str, Any], extras: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """The one choice of the answer, and whether the server took ``extras``; if not, it goes without them."""
        route = "/completions" if "prompt" in body else "/chat/completions"
        taken = bool(extras)
        try:
            answer = self._post(route, {"model": self.model, **body, **extras})
        except _Refused as refused:
            if refused.status not in (400, 422) or not extras:
                raise
            answer, taken = self._post(route, {"model": self.model, **body}), False
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise UserError(f"{self.url}{route} does not answer as an OpenAI-compatible server does: no choices.")
        return choices[0], taken

    def _echoed(self, record: Encoded, prompt: Prompt) -> np.ndarray | None:
        # One new token is requested, as for some servers 0 means no limit.
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
        try:
            choice, _ = self._choice(body, {"prompt_logprobs": 0, "return_tokens_as_token_ids": True})  # vLLM's
        except _Refused as refused:
            if refused.status in (400, 404, 405, 422, 501):
                return None
            raise
        places = [t for t, marked in enumerate(record.answer) if marked]
        found = _by_id(choice.get("prompt_logprobs"), record.ids, places)
        if found is None:
            found = self._by_text(choice.get("logprobs"), record.ids, places)
        if found is None or not all(isinstance(v, float | int) and -math.inf < v <= ROUNDING for v in found):
            return None
        return np.array([max(-value, 0.0) for value in found], dtype=np.float64)

    def _by_text(self, echo: Any, ids: Sequence[int], places: Sequence[int]) -> list[Any] | None:
        """Log-probabilities of the echoed tokens, if these are the prompt's: as many, and the answer's as here."""
        if not isinstance(echo, dict):
            return None
        tokens, values = echo.get("tokens"), echo.get("token_logprobs")
        if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
            return None
        if len(tokens) not in (len(ids), len(ids) + 1):  # with the token that was generated, or without
            return None
        same = all(tokens[t] == f"token_id:{ids[t]}" or self._same_text(tokens[t], ids[t]) for t in places)
        return [values[t] for t in places] if same else None

    def _same_text(self, token: Any, token_id: int) -> bool:
        assert self.encoder is not None
        here = self.encoder.tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
        # Servers write special tokens and parts of a letter in ways of their own.
        alike = token_id in self.encoder.tokenizer.all_special_ids or "\ufffd" in here
        return isinstance(token, str) and (alike or token.strip() == here.strip())

    # HTTP

    def _each(self, ask: Callable[[T], R], items: Sequence[T], progress: Progress = None) -> list[R]:
        """``ask`` of every item, a few at a time, in their order; the first error ends it."""
        found = []
        with ThreadPoolExecutor(self.concurrency) as pool:
            for answer in pool.map(ask, items):
                found.append(answer)
                if progress is not None:
                    progress(1)
        return found

    def _post(self, route: str, body: dict[str, Any]) -> Any:
        """The answer's JSON; a busy, failing or unreachable server is tried again."""
        where = self.url + route
        attempts = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=_wait,
            retry=retry_if_exception_type(_Temporary),
            reraise=True,
        )
        try:
            content = attempts(self._send, where, json.dumps(body).encode())
        except _Temporary as error:
            raise error.problem from None
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise UserError(f"{where} answered with something else than JSON. Check the URL.") from None

    def _send(self, where: str, content: bytes) -> bytes:
        try:
            status, headers, answer = asyncio.run(self._exchange(where, content))
        except TimeoutError:
            raise UserError(
                f"{where} took more than {self.timeout:g} s for an answer. Allow more with --timeout, or ask for fewer "
                "new tokens with --max-new-tokens."
            ) from None
        except httpx2.RequestError as error:
            raise _Temporary(
                UserError(
                    f"{where} cannot be reached ({type(error).__name__}). Check the URL and that the server runs."
                )
            ) from None
        if 200 <= status < 300:
            return answer
        problem = _Refused(f"{where} answered with HTTP status {status}. {_hint(status)}.", status)
        if status in _TEMPORARY:
            raise _Temporary(problem, _seconds(headers.get("Retry-After")))
        raise problem

    async def _exchange(self, where: str, content: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and, of a success, the body. TimeoutError after :attr:`timeout` seconds, whatever came.

        In an event loop, as a blocking read can only be given a time of its own: a byte a second would never end.
        """
        async with (
            asyncio.timeout(self.timeout),
            # Redirects are not followed: they would carry records and key to another place.
            httpx2.AsyncClient(
                headers=self._headers, verify=self._certificates, timeout=None, follow_redirects=False
            ) as client,
            client.stream("POST", where, content=content) as response,
        ):
            answer = bytearray()
            if response.is_success:
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise UserError(f"{where} answered in a compressed form, which was not asked for.")
                async for piece in response.aiter_raw():
                    answer += piece
                    if len(answer) > LARGEST:
                        raise UserError(
                            f"{where} answered with more than {LARGEST} bytes. Ask for fewer new tokens, if the server "
                            "is to be trusted."
                        )
            return response.status_code, response.headers, bytes(answer)


def _message(turn: Turn) -> dict[str, Any]:
    """A turn as servers take it: arguments of tool calls are JSON in a string there."""
    found = turn.message()
    if TOOL_CALLS in found:
        found[TOOL_CALLS] = [
            {**call, "function": {**function, "arguments": given if isinstance(given, str) else json.dumps(given)}}
            for call in found[TOOL_CALLS]
            for function in [call.get("function", call)]
            for given in [function.get("arguments", {})]
        ]
    return found


def _is_plain(url: str) -> bool:
    """Whether a URL names a server and a path alone: user, password and query would stand in every message."""
    try:
        parts = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        return False
    return parts.scheme in ("http", "https") and bool(parts.host) and not parts.userinfo and not parts.query


def _wait(state: RetryCallState) -> float:
    """Seconds before the next try: :data:`BACKOFF`, doubled every time, or as long as the server asks for."""
    error = state.outcome.exception() if state.outcome else None
    least = error.wait if isinstance(error, _Temporary) else 0.0
    return max(wait_exponential(multiplier=BACKOFF)(state), least)


def _hint(status: int) -> str:
    return "It redirects: give the URL it leads to" if 300 <= status < 400 else _HINTS.get(status, "Look at its log")


def _by_id(given: Any, ids: Sequence[int], places: Sequence[int]) -> list[Any] | None:
    """Log-probabilities as vLLM's ``prompt_logprobs`` give them: per position, by token id."""
    if not isinstance(given, list) or len(given) != len(ids):
        return None
    try:
        return [given[t][str(ids[t])]["logprob"] for t in places]
    except (KeyError, TypeError):
        return None


def _seconds(header: str | None) -> float:
    """Of a Retry-After, which may be a date too."""
    return min(float(header), LONGEST_WAIT) if header and header.isdigit() else 0.0
