"""`inference --multihost`: two processes of four simulated devices write what one device of one process writes."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from cotdistill_jax import checkpoints, corpus, network
from cotdistill_jax.checkpoints import huggingface
from cotdistill_jax.inference import predictions

pytestmark = pytest.mark.multihost

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = network.T5Config(
    vocab_size=512, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=2, num_decoder_layers=2,
)  # fmt: skip
NAME = "arith.zero_shot_cot"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Hugging Face folder of a random network."""
    params = checkpoints.init_variables(CONFIG, jax.random.key(3))["params"]
    folder = tmp_path_factory.mktemp("models") / "model"
    huggingface.write(folder, CONFIG, params, corpus.arith_vocabulary(), extra_ids=0)
    return folder


def _start(model, folder, devices, *flags):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "cotdistill_jax.inference",
            f"--checkpoint={model}",
            "--benchmarks=arith",
            "--prompt=zero_shot_cot",
            f"--output_dir={folder}",
            "--num_examples=24",
            "--max_new_tokens=12",
            "--batch_size=8",
            *flags,
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _two(model, folder, *flags, only=((), ())):
    """Returns exit statuses and what two processes print, JAX's own lines left out; `only` are flags of one of them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = (*flags, f"--coordinator_address=localhost:{port}", "--process_count=2")
    started = [
        _start(model, folder, 4, *together, f"--process_index={index}", *only[index])
        for index in (0, 1)
    ]
    ended = [process.communicate(timeout=300) for process in started]
    return [
        (process.returncode, re.sub(r"\[Gloo\].*\n", "", said), errors)
        for process, (said, errors) in zip(started, ended, strict=True)
    ]


def _one(model, folder, *flags):
    process = _start(model, folder, 1, *flags)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]


def _assert_same(folder, expected, name=NAME):
    """Asserts the same files, but for the rounding of log-probabilities, which depends on how many rows a device has."""
    for file in ("results.json", "manifest.json"):
        assert (folder / file).read_bytes() == (expected / file).read_bytes()
    found, wanted = (
        (at / "predictions" / f"{name}.jsonl").read_text() for at in (folder, expected)
    )
    number = re.compile(r'"log_prob": ([-\d.e]+)')
    assert number.sub("", found) == number.sub("", wanted)
    np.testing.assert_allclose(
        [float(n) for n in number.findall(found)],
        [float(n) for n in number.findall(wanted)],
        rtol=1e-6,
    )


@pytest.mark.slow
def test_two_processes_write_the_files_of_one_device_and_go_on_where_they_were_interrupted(
    model, tmp_path
):
    _one(model, tmp_path / "one")
    folder = tmp_path / "two"
    (status, said, errors), (other_status, other_said, _) = _two(model, folder)
    assert status == other_status == 0, errors[-3000:]
    assert "--mesh=8,1,1 (data, fsdp, model) of 8 devices of 2 processes: parameters take" in said
    assert f"{model}: done, see {folder}" in said and other_said == ""
    _assert_same(folder, tmp_path / "one")
    texts = {p.text for p in predictions.read(folder / "predictions" / f"{NAME}.jsonl")}
    assert len(texts) > 12
    # Interrupted after five questions: the counts come last.
    file = folder / "predictions" / f"{NAME}.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["predictions"][NAME]["counts"] = {}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for (status, said, errors), note in (
        (_two(model, folder, "--mesh=2,2,2")[0], "done"),
        (_two(model, folder)[0], "finished before"),
    ):
        assert status == 0, errors[-3000:]
        assert f"{model}: {note}" in said
        _assert_same(folder, tmp_path / "one")
    assert file.read_bytes().splitlines(keepends=True)[:5] == lines[:5]


@pytest.mark.slow
def test_two_processes_draw_the_texts_of_one_device_and_decode_8_bits(model, tmp_path):
    for number, flags in enumerate(
        (("--num_samples=3", "--top_p=0.9", "--seed=5"), ("--weights=int8",))
    ):
        expected, folder = tmp_path / f"one{number}", tmp_path / f"two{number}"
        _one(model, expected, *flags)
        for status, _, errors in _two(model, folder, *flags, "--mesh=2,2,2"):
            assert status == 0, errors[-3000:]
        _assert_same(folder, expected, NAME + ("" if number else ".samples"))


@pytest.mark.slow
def test_all_processes_end_where_one_fails(model, tmp_path):
    folder = tmp_path / "out"
    (first, _, said), (second, _, other) = _two(model, folder, only=((), ("--num_examples=23",)))
    assert (first, second) == (1, 1), said + other
    assert "num_examples" in said and "num_examples" in other and not folder.exists()
    missing = tmp_path / "none"
    (first, _, said), (second, _, other) = _two(model, folder, only=((), (f"--vocab={missing}",)))
    assert (first, second) == (1, 1), said + other
    assert "process 0 ends, as process(es) [1] failed" in said and str(missing) in other
    _one(model, folder)
    (first, _, said), (second, _, other) = _two(model, folder, "--max_new_tokens=11")
    assert (first, second) == (1, 1), said + other
    assert "was made with other settings: max_new_tokens is 12, now 11" in said
    assert "process 1 ends, as process(es) [0] failed; see what they print" in other
