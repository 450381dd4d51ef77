"""The command against a local endpoint behind which the synthetic teacher of `arith` answers."""

import collections
import dataclasses
import hashlib
import http.server
import json
import math
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("openai", reason="teacher.decoding needs the extra `teacher`")

from cotdistill_jax import answers, teacher
from cotdistill_jax.alignment import corpus_records, pipeline
from cotdistill_jax.benchmarks import arith
from cotdistill_jax.teacher import decoding, synthetic

ROOT = pathlib.Path(__file__).parents[2]
VOCABULARY = ROOT / "cotdistill_jax" / "corpus" / "arith.spiece.model"
KEY = "sk-this-key-must-stay-secret"
# One demonstration, far from the first questions.
ARITH = ("--benchmark=arith", "--demonstration_rows=100")


class Teacher(http.server.ThreadingHTTPServer):
    """Answers the first problems of `arith`; the n-th sample of a question is the synthetic teacher's n-th."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.questions = {q.question: q for q in arith.load("train", num_examples=60)}
        self.teacher = synthetic.SyntheticTeacher()
        self.delay = 0.0
        self.refused = ""
        self.status = 400
        self.requests = []
        self.keys = []
        self.num_delivered = collections.Counter()
        self.lock = threading.Lock()

    def handle_error(self, request, client_address):
        """A killed client is part of the tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Keeps quiet."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = re.findall(r"Question: (.*)\nLet's think step by step", body["prompt"])[-1]
        time.sleep(self.server.delay)
        with self.server.lock:
            self.server.requests.append(body)
            self.server.keys.append(self.headers["Authorization"])
            first = self.server.num_delivered[question]
            if question != self.server.refused:
                self.server.num_delivered[question] += body["n"]
        if question == self.server.refused:
            key = self.headers["Authorization"]
            return self.send(self.server.status, {"error": {"message": f"no, {key}", "code": None}})
        q = self.server.questions[question]
        samples = [
            self.server.teacher.answer(q.id, q.question, q.rationale, q.gold, first + number)
            for number in range(body["n"])
        ]
        usage = {"prompt_tokens": 100, "completion_tokens": sum(len(s.tokens) for s in samples)}
        return self.send(200, {"choices": list(map(choice, samples)), "usage": usage})

    def send(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def choice(record):
    """A record as the completions API says it."""
    tops = [{token: math.log(p) if p else -9999.0 for token, p in row} for row in record.top_k]
    logs = [top[token] for token, top in zip(record.tokens, tops, strict=True)]
    logprobs = {"tokens": record.tokens, "token_logprobs": logs, "top_logprobs": tops}
    return {"text": record.text, "logprobs": logprobs, "finish_reason": "stop"}


@pytest.fixture
def server():
    endpoint = Teacher()
    threading.Thread(
        target=endpoint.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    yield endpoint
    endpoint.shutdown()
    endpoint.server_close()


def command(script, *flags):
    return [sys.executable, str(ROOT / "scripts" / script), *flags]


def start(server, folder, *flags, **environment):
    arguments = (f"--base_url={server.url}", "--model=synthetic", f"--output_dir={folder}", *flags)
    return subprocess.Popen(
        command("decode_teacher.py", "--first_backoff_seconds=0.01", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={
            "PYTHONPATH": str(ROOT),
            "PATH": "/usr/bin:/bin",
            "OPENAI_API_KEY": KEY,
            **environment,
        },
    )


def finish(process):
    """Returns exit status, standard output and standard error."""
    stdout, stderr = process.communicate(timeout=600)
    return process.returncode, stdout, stderr


def on_disk(folder):
    found = decoding.Finished(folder)
    return {q.question: found.num_samples(q.id, q.question) for q in arith.load("train", 60)}


def test_decoded_records_become_the_corpus_that_the_teacher_itself_gives(server, tmp_path):
    status, stdout, stderr = finish(
        start(
            server,
            tmp_path / "said",
            *ARITH,
            "--limit=6",
            "--num_samples=3",
            "--samples_per_request=2",
            "--yes",
        )
    )
    assert status == 0, stderr
    assert "18 samples of 6 questions are missing: 12 requests" in stdout
    assert "HTTP Request" not in stderr, "no line per request between the progress bars"
    assert "18/18" in stderr and "sample/s" in stderr and "spent=" in stderr
    problems = arith.load("train", num_examples=6)
    itself = {
        (q.id, n): server.teacher.answer(q.id, q.question, q.rationale, q.gold, n)
        for q in problems
        for n in range(3)
    }
    said = {record.key: record for record in teacher.read_records(tmp_path / "said")}
    assert said.keys() == itself.keys()
    for key, record in said.items():
        assert (record.text, record.tokens, record.gold) == (
            itself[key].text,
            itself[key].tokens,
            itself[key].gold,
        )
        for row, expected in zip(record.top_k, itself[key].top_k, strict=True):
            assert dict(row) == pytest.approx(dict(expected), abs=1e-12)
    for name, records in (("said", said), ("itself", itself)):
        labelled = [
            dataclasses.replace(record, label=answers.is_correct(record.text, record.gold))
            for _, record in sorted(records.items())
        ]
        teacher.write_records(tmp_path / f"{name}_labelled", labelled)
    done = subprocess.run(
        command(
            "align_teacher.py",
            f"--records={tmp_path / 'said_labelled'}",
            f"--vocab={VOCABULARY}",
            "--correct_only",
            f"--output_dir={tmp_path / 'said_aligned'}",
        ),
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    paths = (tmp_path / "itself_labelled", VOCABULARY, tmp_path / "itself_aligned")
    job = pipeline.Job(*map(str, paths), correct_only=True)
    for number in pipeline.start(job):
        pipeline.align_shard(job, number)
    pipeline.finish(job)
    corpora = [
        list(corpus_records.read_corpus(tmp_path / f"{name}_aligned", VOCABULARY))
        for name in ("said", "itself")
    ]
    assert 0 < len(corpora[0]) == len(corpora[1]) == sum(record.label for record in labelled)
    for one, other in zip(*corpora, strict=True):
        for name in ("pieces", "teacher_ids", "teacher_probs", "how"):
            assert (getattr(one, name) == getattr(other, name)).all()


def test_terminated_killed_and_resumed_nothing_is_lost_or_doubled(server, tmp_path):
    flags = (
        *ARITH,
        "--limit=60",
        "--num_samples=4",
        "--samples_per_request=2",
        "--concurrency=4",
        "--yes",
    )
    server.delay = 0.05

    def wait_for(number):
        deadline = time.monotonic() + 600
        while server.num_delivered.total() < number:
            assert time.monotonic() < deadline, "the command asks nothing"
            time.sleep(0.005)

    process = start(server, tmp_path, *flags)
    wait_for(40)
    process.send_signal(signal.SIGTERM)
    status, _, stderr = finish(process)
    assert status == 128 + signal.SIGTERM, stderr
    assert "waiting for the requests under way" in stderr
    delivered = server.num_delivered.copy()
    assert 40 <= delivered.total() < 240
    assert +collections.Counter(on_disk(tmp_path)) == delivered, "what was paid for is there"

    process = start(server, tmp_path, *flags)
    wait_for(delivered.total() + 60)
    process.kill()
    finish(process)
    time.sleep(0.2)  # requests under way end
    kept = on_disk(tmp_path)
    lost = server.num_delivered.total() - sum(kept.values())
    assert 0 <= lost <= 4 * 2, "only what was under way may be lost to a kill"
    assert sum(kept.values()) >= delivered.total() + 60 - 4 * 2

    server.delay = 0.0
    before = server.num_delivered.copy()
    status, stdout, stderr = finish(start(server, tmp_path, *flags))
    assert status == 0, stderr
    assert f"{240 - sum(kept.values())} samples of" in stdout
    assert {q: server.num_delivered[q] - before[q] for q in kept} == {
        q: 4 - n for q, n in kept.items()
    }
    keys = [record.key for record in teacher.read_records(tmp_path)]
    assert sorted(keys) == sorted((f"arith/train/{q}", n) for q in range(60) for n in range(4))
    assert json.loads((tmp_path / "manifest.json").read_text())["counts"] == {
        "in": 240,
        "out": 240,
        "dropped": {},
    }


def test_failures_are_told_without_the_key(server, tmp_path):
    server.refused = arith.load("train", 3)[1].question
    prices = ("--price_per_million_prompt_tokens=1000", "--price_per_million_completion_tokens=0")
    status, stdout, stderr = finish(
        start(
            server, tmp_path, *ARITH, *prices, "--limit=3", "--seed=1", "--yes", OPENAI_LOG="debug"
        )
    )
    assert status == 1
    assert "spend cap" in stdout and "spent 0.2000" in stdout
    assert "samples missing or left out: http_400 1" in stderr
    assert "arith/train/1: http_400" in stderr and "Bearer [key]" in stderr
    report = json.loads((tmp_path / "decode_report.json").read_text())
    assert report["failed"]["arith/train/1"]["reason"] == "http_400"
    assert (report["missing"], report["spent"], report["stopped"]) == ({"http_400": 1}, 0.2, None)
    assert json.loads((tmp_path / "manifest.json").read_text())["complete"] is True
    assert "HTTP Request" in stderr, "the client's own log must have been on"
    assert KEY not in stdout + stderr
    for path in tmp_path.iterdir():
        assert KEY.encode() not in path.read_bytes(), path
    assert {request["stop"][0] for request in server.requests} == {"\nQuestion:"}
    assert len({request["seed"] for request in server.requests}) == 3
    server.status = 401
    status, _, stderr = finish(start(server, tmp_path, *ARITH, "--limit=3", "--seed=1", "--yes"))
    assert status == 1
    assert "Check --base_url, --model, the key and the account." in stderr
    assert len(server.requests) == 4
    assert len(list(teacher.read_records(tmp_path))) == 2, "complete before, and still"


def test_nothing_is_asked_without_consent(server, tmp_path):
    path = tmp_path / "questions.jsonl"
    lines = [{"id": f"mine/{n}", "question": f"{n} + 1?", "gold": str(n + 1)} for n in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = (f"--questions={path}", "--prompt=zero_shot_cot", "--num_samples=2", "--max_tokens=10")
    status, stdout, stderr = finish(start(server, tmp_path / "out", *flags))
    assert status == 1
    assert "6 samples of 3 questions are missing: 3 requests, at most" in stdout
    assert "60 completion tokens" in stdout
    assert "Pass --yes to start" in stderr
    status, stdout, _ = finish(start(server, tmp_path / "out", *flags, "--dry_run"))
    assert status == 0
    assert "The first prompt:\nQ: 0 + 1?\nLet's think step by step\n" in stdout
    assert server.requests == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "flag", "message"),
    [
        (b" \n\r\n", "--limit=1", "questions.jsonl holds no question"),
        (b'{"id": "a", "question": "1 + 1?", "gold": "2"}\n', "--extra_body={min_p: 1}", "no JSON"),
        (b'{"id": "a", "question": "1 + 1?", "gold": "2"}\n', "--extra_body=[1]", "got a list"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(server, tmp_path, content, flag, message):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(content)
    flags = (f"--questions={path}", "--prompt=zero_shot_cot", "--yes", flag)
    status, _, stderr = finish(start(server, tmp_path / "out", *flags))
    assert status == 1
    assert message in stderr and "Traceback" not in stderr
    assert server.requests == []


def test_halves_of_surrogate_pairs_in_a_question_are_replaced_and_said(server, tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text(r'{"id": "a\ud83d", "question": "\ude00 1 + 1?", "gold": "2"}' + "\n\n")
    flags = (f"--questions={path}", "--prompt=zero_shot_cot", "--dry_run")
    status, stdout, stderr = finish(start(server, tmp_path / "out", *flags))
    assert status == 0, stderr
    assert "Q: \ufffd 1 + 1?" in stdout
    assert "line 1: halves of surrogate pairs" in stderr


def test_the_key_is_refused_where_it_would_be_written(server, tmp_path):
    status, stdout, stderr = finish(
        start(server, tmp_path / "out", *ARITH, "--yes", f"--teacher={KEY}")
    )
    assert status == 1
    assert "--teacher holds the key" in stderr
    assert KEY not in stdout + stderr
    assert server.requests == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("around", ["{}\r", " {}\n", "\ufeff{}", "{}\u200b", "\u00a0{}\t"])
def test_a_key_loses_the_invisible_characters_around_it(server, tmp_path, around):
    flags = ("--limit=1", "--yes", f"--api_key={around.format(KEY)}")
    status, _, stderr = finish(start(server, tmp_path, *ARITH, *flags))
    assert status == 0, stderr
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize("wrong", [f"'{KEY}'", f"{KEY[:5]}\u200b{KEY[5:]}", f"{KEY[:5]} {KEY[5:]}"])
def test_a_key_with_other_characters_inside_is_refused_without_showing_it(server, tmp_path, wrong):
    flags = ("--limit=1", "--yes", f"--api_key={wrong}")
    status, stdout, stderr = finish(start(server, tmp_path / "out", *ARITH, *flags))
    assert status == 1
    assert "the key in --api_key holds" in stderr and KEY not in stdout + stderr
    assert server.requests == []


@pytest.mark.real_data
def test_the_complex_prompt_is_the_published_one(server, tmp_path, data_dir):
    # SHA-256 of lib_prompt/prompt_complex.txt of the paper's repository.
    status, stdout, stderr = finish(
        start(
            server,
            tmp_path / "out",
            "--benchmark=gsm8k",
            "--limit=1",
            f"--data_dir={data_dir}",
            "--dry_run",
        )
    )
    assert status == 0, stderr
    prompt = stdout.partition("The first prompt:\n")[2]
    published, _, asked = prompt.rpartition("Question: ")
    assert asked.startswith("Natalia sold clips")
    assert asked.endswith("\nLet's think step by step\n")
    digest = hashlib.sha256(published.removesuffix("\n").encode()).hexdigest()
    assert digest == "d20a8061b484da2d93d10152727c5c137f7bec76f5f4f9e1c94f17cf33051aee"
