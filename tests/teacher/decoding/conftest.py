"""A local OpenAI-compatible endpoint that goes wrong on demand."""

import collections
import http.server
import json
import math
import threading
import time

import pytest

TOKENS = ("\n", "It", " is", " 4", "\n")
TEXT = "".join(TOKENS)


def legacy_choice(index):
    """A choice of the completions API; the sampled token is not the likeliest one at step 3."""
    tops = [{token: math.log(0.75), "?": math.log(0.125)} for token in TOKENS]
    tops[3] = {" 5": math.log(0.5), " 4": math.log(0.25)}
    logs = [math.log(0.75)] * 5
    logs[3] = math.log(0.25)
    logprobs = {"tokens": list(TOKENS), "token_logprobs": logs, "top_logprobs": tops}
    return {"index": index, "text": TEXT, "logprobs": logprobs, "finish_reason": "stop"}


def chat_choice(index):
    """The same of the chat API."""
    old = legacy_choice(index)["logprobs"]
    content = [
        {
            "token": token,
            "logprob": log,
            "top_logprobs": [{"token": t, "logprob": lp} for t, lp in top.items()],
        }
        for token, log, top in zip(*old.values(), strict=True)
    ]
    message = {"role": "assistant", "content": TEXT}
    return {
        "index": index,
        "message": message,
        "logprobs": {"content": content},
        "finish_reason": "stop",
    }


class FaultyEndpoint(http.server.ThreadingHTTPServer):
    """Answers every request with as many choices as asked, except for the faults that it is given.

    `faults` go wrong one after another, `broken` maps a prompt to what always goes wrong with it. `requests` holds what came in.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults = collections.deque()
        self.broken = {}
        self.requests = []
        self.times = []
        self.num_answered = 0
        self.running = 0
        self.most_running = 0
        self.delay = 0.0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """A client that went away is part of the tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Keeps quiet."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body.get("prompt") or body["messages"][0]["content"]
        with self.server.lock:
            key = self.headers["Authorization"]
            self.server.requests.append({"path": self.path, "authorization": key, **body})
            self.server.times.append(time.monotonic())
            fault = self.server.broken.get(prompt)
            if fault is None and self.server.faults:
                fault = self.server.faults.popleft()
            self.server.running += 1
            self.server.most_running = max(self.server.most_running, self.server.running)
        time.sleep(self.server.delay)
        with self.server.lock:
            self.server.running -= 1
        getattr(self, f"answer_{fault or 'well'}")(body)

    def send(self, status, text, headers=None):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def send_error_object(self, status, message, code=None, headers=None):
        error = {"message": message, "type": "error", "param": None, "code": code}
        self.send(status, json.dumps({"error": error}), headers)

    def choices(self, body, number):
        make = chat_choice if self.path.endswith("/chat/completions") else legacy_choice
        return [make(index) for index in range(number)]

    def answer(self, choices, **changes):
        with self.server.lock:
            self.server.num_answered += len(choices)
        usage = {"prompt_tokens": 7, "completion_tokens": 5 * len(choices), "total_tokens": 0}
        self.send(200, json.dumps({"choices": choices, "usage": usage, **changes}))

    def answer_well(self, body):
        self.answer(self.choices(body, body["n"]))

    def answer_fewer(self, body):
        self.answer(self.choices(body, 1))

    def answer_more(self, body):
        self.answer(self.choices(body, body["n"] + 1))

    def answer_without_usage(self, body):
        self.answer(self.choices(body, body["n"]), usage=None)

    def answer_without_logprobs(self, body):
        self.answer([{**choice, "logprobs": None} for choice in self.choices(body, body["n"])])

    def answer_one_without_logprobs(self, body):
        choices = self.choices(body, body["n"])
        self.answer([{**choices[0], "logprobs": None}, *choices[1:]])

    def answer_429(self, body):
        self.send_error_object(429, "slow down")

    def answer_429_with_retry_after(self, body):
        self.send_error_object(429, "slow down", headers={"Retry-After": "0.3"})

    def answer_429_for_an_hour(self, body):
        self.send_error_object(429, "come back later", headers={"Retry-After": "3600"})

    def answer_no_money(self, body):
        self.send_error_object(429, "you exceeded your quota", code="insufficient_quota")

    def answer_500(self, body):
        self.send_error_object(500, "oops")

    def answer_400(self, body):
        self.send_error_object(400, "this prompt is too long")

    def answer_401(self, body):
        self.send_error_object(401, f"incorrect key: {self.headers['Authorization']}")

    def answer_400_with_key(self, body):
        self.send_error_object(400, f"bad request of {self.headers['Authorization']}")

    def answer_slowly(self, body):
        time.sleep(0.8)
        self.answer_well(body)

    def answer_cut(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')
        self.close_connection = True

    def answer_malformed(self, body):
        self.send(200, '{"choices": [')

    def answer_html(self, body):
        self.send(200, "<html>Bad gateway</html>")

    def answer_error_in_200(self, body):
        self.send(200, '{"error": {"message": "upstream failed"}}')

    def answer_broken_off(self, body):
        changes = {"finish_reason": "error", "text": "\nIt", "message": {"content": "\nIt"}}
        self.answer([{**choice, **changes} for choice in self.choices(body, body["n"])])

    def answer_token_ids(self, body):
        choices = self.choices(body, body["n"])
        for choice in choices:
            names = [f"token_id:{number}" for number in range(len(TOKENS))]
            tops = [{name: -0.5, "token_id:9": -1.5} for name in names]
            choice["logprobs"] |= {"tokens": names, "top_logprobs": tops}
        self.answer(choices)

    def answer_no_numbers(self, body):
        choices = self.choices(body, body["n"])
        for choice in choices:
            nothing = [None] * len(TOKENS)
            tops = [{token: None, "?": None} for token in TOKENS]
            choice["logprobs"] |= {"token_logprobs": nothing, "top_logprobs": tops}
        self.answer(choices)

    def answer_filtered(self, body):
        self.send_error_object(400, "the content management policy", code="content_filter")

    def answer_max_completion_tokens(self, body):
        if "max_tokens" in body:
            self.send_error_object(
                400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            )
        else:
            self.answer_well(body)

    def answer_no_choices(self, body):
        self.answer([])


@pytest.fixture
def server():
    endpoint = FaultyEndpoint()
    thread = threading.Thread(
        target=endpoint.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    yield endpoint
    endpoint.shutdown()
    endpoint.server_close()
