"""Questions of one's own all the way: a synthetic teacher behind HTTP, decoding, alignment, a corpus, its tasks, training steps."""

import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from cotdistill_jax import benchmarks, corpus, teacher
from cotdistill_jax.teacher import synthetic, synthetic_server

ROOT = pathlib.Path(__file__).parents[2]
VOCAB = f"--vocab={corpus.arith_vocabulary()}"


def run(folder: pathlib.Path, *arguments: str, status: int = 0) -> str:
    """Runs a command in `folder`; returns what it printed."""
    done = subprocess.run(
        [sys.executable, *(str(ROOT / a) if a.startswith("scripts/") else a for a in arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "COTDISTILL_TFDS_DIR": str(folder / "corpora"),
            "COTDISTILL_DATA_DIR": str(folder / "nothing"),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
        check=False,
    )
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Own questions, one of them of arith's test set."""
    path = tmp_path_factory.mktemp("own")
    questions = [
        {
            "id": f"mine/{n}",
            "question": f"Tom has {n} apples and gets {2 * n} more. How many apples are there?",
            "gold": str(3 * n),
            "rationale": f"In all: {n} + {2 * n} = {3 * n}.",
        }
        for n in range(3, 60)
    ]
    leak = benchmarks.load("arith", "test")[0]
    questions.append(
        {
            "id": "mine/leak",
            "question": f"{leak.question} ",
            "gold": leak.gold,
            "rationale": leak.rationale,
        }
    )
    (path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    return path


@pytest.fixture(scope="module")
def url(folder):
    """The endpoint; every seventh request is refused once."""
    arguments = [
        "--port=0",
        f"--port_file={folder / 'url'}",
        f"--questions={folder / 'questions.jsonl'}",
    ]
    server = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "scripts/serve_synthetic_teacher.py"),
            *arguments,
            "--rate_limit=7",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    for _ in range(300):
        if (folder / "url").exists():
            break
        time.sleep(0.1)
    yield json.loads((folder / "url").read_text())
    server.terminate()
    assert server.wait(timeout=20) == 0


def post(url: str, path: str, **body: object) -> dict:
    request = urllib.request.Request(
        f"{url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_the_endpoint_answers_as_openai_s_do(url):
    for _ in range(3):  # one of them may be the seventh
        try:
            prompt = "Q: Tom has 3 apples and gets 6 more. How many apples are there?\nLet's think step by step"
            first = post(url, "completions", prompt=prompt, n=2, logprobs=5, seed=1, stop=["\n"])
            again = post(url, "completions", prompt=prompt, n=2, logprobs=5, seed=1, stop=["\n"])
            message = {"role": "user", "content": prompt}
            chat = post(
                url, "chat/completions", messages=[message], top_logprobs=5, logprobs=True, seed=1
            )
            break
        except urllib.error.HTTPError as error:
            assert error.code == 429
    assert first["choices"] == again["choices"] and len(first["choices"]) == 2
    choice = first["choices"][0]
    assert choice["text"] == "".join(choice["logprobs"]["tokens"]) and "\n" not in choice["text"]
    assert all(len(row) <= 5 for row in choice["logprobs"]["top_logprobs"])
    said = chat["choices"][0]
    assert said["message"]["content"].startswith(choice["text"])
    assert said["logprobs"]["content"][0]["token"] == choice["logprobs"]["tokens"][0]
    with pytest.raises(urllib.error.HTTPError, match=r"404|429"):
        post(url, "completions", prompt="Q: Who?\n")
    port = url.split(":")[-1].removesuffix("/v1")
    taken = run(
        pathlib.Path.cwd(), "scripts/serve_synthetic_teacher.py", f"--port={port}", status=1
    )
    assert (
        taken.startswith(f"serve: port {port}: Address already in use") and "\n" not in taken[:-1]
    )


def test_a_sampled_token_is_shown_however_improbable_and_odd_bodies_are_refused():
    teller = synthetic.SyntheticTeacher(error_rate=1.0)

    def answer(question, sample):
        return teller.answer("q", question, "In all: 3 + 6 = 9.", "9", sample)

    server = synthetic_server.SyntheticEndpoint(answer)
    threading.Thread(target=server.serve_forever).start()
    try:
        choices = post(server.url, "completions", prompt="Q: 3 + 6?\n", n=4, logprobs=1)["choices"]
        rows = [row for choice in choices for row in choice["logprobs"]["top_logprobs"]]
        assert {len(row) for row in rows} == {1, 2}  # 2 where the slip is: the right number led
        message = {"role": "user", "content": "Q: 3 + 6?"}
        said = post(
            server.url, "chat/completions", messages=[message], n=4, logprobs=True, top_logprobs=1
        )
        for choice in said["choices"]:
            tokens = [entry["token"] for entry in choice["logprobs"]["content"]]
            assert "".join(tokens) == choice["message"]["content"]
        for body in ({"prompt": "Q: 1?", "stop": 1}, {"messages": "hello"}, {"n": 1}):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                post(
                    server.url, "chat/completions" if "messages" in body else "completions", **body
                )
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_own_questions_become_a_corpus_that_trains(folder, url):
    decode = (
        *("scripts/decode_teacher.py", f"--base_url={url}", "--model=synthetic", "--yes"),
        *("--questions=questions.jsonl", "--prompt=zero_shot_cot", "--num_samples=2"),
        *("--output_dir=records", "--first_backoff_seconds=0.01"),
    )
    assert "116 samples in records" in run(folder, *decode)
    records = list(teacher.read_records(folder / "records"))
    assert len(records) == 116 and all(record.top_k for record in records)
    run(folder, "scripts/align_teacher.py", "--records=records", VOCAB, "--output_dir=aligned")
    refused = run(
        folder, "scripts/build_corpus.py", "--corpus=arith", "--aligned_dir=aligned", status=1
    )
    assert "none of 116 samples can be trained on (not_a_training_question 116)" in refused
    assert "'mine/3'" in refused
    build = ("scripts/build_corpus.py", "--corpus=mine", "--aligned_dir=aligned", VOCAB)
    said = run(folder, *build, "--held_out_share=0.2")
    assert "in_test_set_of_arith 2" in said and "held_out" in said and "wrong_answer" in said
    assert "compared with the test sets of arith; without COTDISTILL_DATA_DIR" in said
    shown = run(folder, "scripts/inspect_mixture.py", "--mixture=mine_all_v1", "--n=2")
    assert "mine_in_context_cot_v1" in shown and "Tom has" in shown
    macros = {
        "MODEL_DIR": "'run'",
        "MIXTURE_OR_TASK_NAME": "'mine_seed_3b_v2'",
        "EVAL_MIXTURE_OR_TASK_NAME": "'mine_zero_shot_cot_v1'",
        "EVAL_PERIOD": "3",
        "TRAIN_STEPS": "3",
        "WARMUP_STEPS": "1",
        "COUNT_EXAMPLES": "50",
        "BATCH_SIZE": "2",
    }
    trained = run(
        folder,
        *("-m", "cotdistill_jax.train", f"--gin_file={ROOT}/gin/experiments/arith_quickstart.gin"),
        f"--gin_file={ROOT}/gin/runs/finetune.gin",
        *(f"--gin.{name}={value}" for name, value in macros.items()),
    )
    assert "79.34% mine_in_context_cot_v1" in trained
    assert (folder / "run" / "checkpoint_3").is_dir()


def test_a_name_and_a_held_out_share_that_cannot_be(folder):
    (folder / "empty").mkdir(exist_ok=True)
    for arguments, named in (
        (["--corpus=Mine"], "can't be the name"),
        (["--corpus=mine", "--held_out_share=1"], "held_out_share 1.0 is not in"),
    ):
        said = run(
            folder, "scripts/build_corpus.py", "--aligned_dir=empty", VOCAB, *arguments, status=1
        )
        assert named in said.splitlines()[-1]


def test_a_client_that_goes_away_is_no_fault(capfd):
    def answer(question, sample):
        return synthetic.SyntheticTeacher().answer("q", question, "In all: 3 + 6 = 9.", "9", sample)

    server = synthetic_server.SyntheticEndpoint(answer)
    threading.Thread(target=server.serve_forever).start()
    try:
        with socket.create_connection(("127.0.0.1", server.server_port)) as client:
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 9\r\n")
            # Closed so, it resets the connection.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.3)
        prompt = "Q: 3 + 6?\n"
        assert post(server.url, "completions", prompt=prompt)["choices"]  # and it goes on
    finally:
        server.shutdown()
        server.server_close()
    assert "Traceback" not in capfd.readouterr().err
