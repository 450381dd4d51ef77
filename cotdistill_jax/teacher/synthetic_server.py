"""An OpenAI-compatible endpoint on this machine, behind which the synthetic teacher answers: decoding without a key or money.

Speaks `/v1/completions`, `/v1/chat/completions` and `/v1/models`, with `n`, `max_tokens`, `stop`, `seed`, `temperature` (which changes
nothing) and log-probabilities of up to five candidates. The question is what follows the last `Q: ` or `Question: ` of the prompt; a
question that the teacher was not told is answered with 404, by name.

An answer depends on the question and the number of its sample alone: 0, 1, ... in the order in which a question's samples are asked
for; with `seed`, on the question, the seed and the choice's number.
"""

import collections
import http.server
import json
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cotdistill_jax.teacher.records import TeacherRecord

MODEL = "synthetic"
_QUESTION = re.compile(r"(?:\A|\n)Q(?:uestion)?: ")
_ENDINGS = re.compile(r"\n?(?:A:\s*)?(?:Let's think step by step\.?\s*)?\Z| A:\s*\Z")
_MOST_CANDIDATES = 5

Answer = Callable[[str, int], TeacherRecord]
"""(question, number of the sample) -> the sample; KeyError for a question that it does not know."""


class UnknownQuestionError(ValueError):
    """A question that the teacher was not told."""


class SyntheticEndpoint(http.server.ThreadingHTTPServer):
    """The server; `serve_forever` runs it, `url` is what a client takes as its base.

    Attributes:
        rate_limit: Every so many requests one is answered with 429 and `Retry-After: 0`; 0: none is.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Answer, port: int = 0, rate_limit: int = 0) -> None:
        """Binds to 127.0.0.1.

        Args:
            answer: What the teacher says.
            port: 0 takes a free one.
            rate_limit: See the class.
        """
        self.rate_limit = rate_limit
        self._answer = answer
        self._lock = threading.Lock()
        self._asked: collections.Counter[str] = collections.Counter()
        self._requests = 0
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        """Such as `http://127.0.0.1:8000/v1`."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a client that went away, as one does that is interrupted; else as in the base class."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def is_over_the_limit(self) -> bool:
        """Counts a request; returns whether it is one that is refused."""
        with self._lock:
            self._requests += 1
            return self.rate_limit > 0 and self._requests % self.rate_limit == 0

    def samples(self, prompt: str, number: int, seed: int | None) -> list[TeacherRecord]:
        """Returns so many samples of the question that a prompt asks.

        Raises:
            UnknownQuestionError: The teacher does not know the question.
        """
        question = question_of(prompt)
        with self._lock:
            first = self._asked[question] if seed is None else 0
            self._asked[question] += number
        offset = first if seed is None else seed * 1000
        try:
            return [self._answer(question, offset + choice) for choice in range(number)]
        except KeyError:
            raise UnknownQuestionError(
                f"the synthetic teacher was not told the question {question!r}"
            ) from None


def question_of(prompt: str) -> str:
    r"""Returns the question that a prompt asks last.

    Example: `question_of("Q: 1?\nA: 1\n\nQ: 2 + 2?\nLet's think step by step")` is `"2 + 2?"`.
    """
    last = _QUESTION.split(prompt)[-1]
    return _ENDINGS.sub("", last).strip()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: SyntheticEndpoint
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path.rstrip("/").endswith("/models"):
            self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        else:
            self._refuse(404, f"no such address {self.path}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.is_over_the_limit():
            self._refuse(429, "slow down", {"Retry-After": "0"})
            return
        try:
            asked = json.loads(body)
            is_chat = self.path.rstrip("/").endswith("/chat/completions")
            if not is_chat and not self.path.rstrip("/").endswith("/completions"):
                self._refuse(404, f"no such address {self.path}")
                return
            self._send(200, _response(self.server, asked, is_chat))
        except UnknownQuestionError as error:
            self._refuse(404, str(error))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._refuse(400, f"not a request that is understood here: {error!r}")

    def _refuse(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, {"error": {"message": message, "code": status}}, headers)

    def _send(
        self, status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a line per request would be most of the work."""


def _response(server: SyntheticEndpoint, asked: Mapping[str, Any], is_chat: bool) -> dict[str, Any]:
    """Returns the body of an answer."""
    prompt = (
        "\n".join(str(message["content"]) for message in asked["messages"])
        if is_chat
        else str(asked["prompt"])
    )
    wanted = asked.get("top_logprobs") if is_chat else asked.get("logprobs")
    candidates = min(int(wanted or 0), _MOST_CANDIDATES)
    limit = int(asked.get("max_completion_tokens") or asked.get("max_tokens") or 256)
    stops = asked.get("stop") or []
    stops = [stops] if isinstance(stops, str) else list(stops)
    choices, completion_tokens = [], 0
    for index, record in enumerate(
        server.samples(prompt, int(asked.get("n") or 1), asked.get("seed"))
    ):
        kept, reason = _cut(record.tokens, limit, stops)
        completion_tokens += kept
        rows = record.top_k[:kept] if candidates else ()
        make = _chat_choice if is_chat else _completion_choice
        choice = make("".join(record.tokens[:kept]), record.tokens[:kept], rows, candidates)
        choices.append({"index": index, "finish_reason": reason, **choice})
    prompt_tokens = len(prompt) // 4
    return {
        "id": "synthetic",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": asked.get("model", MODEL),
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def _cut(tokens: tuple[str, ...], limit: int, stops: list[str]) -> tuple[int, str]:
    """Returns how many tokens stand before the first stop text and inside the limit, and why they end there."""
    text, kept = "", 0
    for token in tokens:
        if kept == limit:
            return kept, "length"
        text += token
        if any(stop in text for stop in stops):
            return kept, "stop"
        kept += 1
    return kept, "stop"


def _shown(
    token: str, row: Iterable[tuple[str, float]], candidates: int
) -> list[tuple[str, float]]:
    """Returns a row's first candidates and their log-probabilities, and the sampled token's wherever it stands, as OpenAI does."""
    return [
        (other, math.log(prob))
        for place, (other, prob) in enumerate(row)
        if prob > 0 and (place < candidates or other == token)
    ]


def _completion_choice(
    text: str, tokens: tuple[str, ...], rows: Any, candidates: int
) -> dict[str, Any]:
    if not candidates:
        return {"text": text, "logprobs": None}
    top = [dict(_shown(*pair, candidates)) for pair in zip(tokens, rows, strict=True)]
    return {
        "text": text,
        "logprobs": {
            "tokens": tokens,
            "token_logprobs": [row[token] for row, token in zip(top, tokens, strict=True)],
            "top_logprobs": top,
        },
    }


def _chat_choice(text: str, tokens: tuple[str, ...], rows: Any, candidates: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    if not candidates:
        return {"message": message, "logprobs": None}
    content = []
    for token, row in zip(tokens, rows, strict=True):
        top = [
            {"token": other, "logprob": logprob, "bytes": list(other.encode())}
            for other, logprob in _shown(token, row, candidates)
        ]
        own = next(entry for entry in top if entry["token"] == token)
        content.append({**own, "top_logprobs": top})
    return {"message": message, "logprobs": {"content": content}}
