"""`python -m cotdistill_jax.train` as a user types it: embedded corpus, shipped leaf, kill, resume, errors."""

import json
import os
import re
import signal
import time

import jax
import pytest

import cotdistill_jax
from cotdistill_jax import checkpoints
from cotdistill_jax.corpus import arith
from cotdistill_jax.train import metrics_file

FILES = ("experiments/arith_quickstart", "runs/finetune")
MACROS = {
    "EMB_DIM": 16, "NUM_HEADS": 2, "HEAD_DIM": 8, "MLP_DIM": 32, "NUM_LAYERS": 1, "WARMUP_STEPS": 1,
    "COUNT_EXAMPLES": 10, "LOG_PERIOD": 1, "SAVE_PERIOD": 5, "TRAIN_STEPS": 30, "EVAL_PERIOD": 30, "EVAL_NUM_EXAMPLES": 4,
    "EVAL_MIXTURE_OR_TASK_NAME": "'arith_zero_shot_cot_v1'", "EVAL_BATCH_SIZE": 4, "COMPILATION_CACHE_DIR": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    arith.Arith(data_dir=folder).download_and_prepare()
    return folder


def _start(runner, run, corpora, flags=(), **macros):
    environment = {"COTDISTILL_TFDS_DIR": str(corpora)}
    return runner.start(run, FILES, {**MACROS, **macros}, flags, environment)


@pytest.mark.slow
def test_killed_run_is_continued_by_the_same_command_and_by_no_other(tmp_path, runner, corpora):
    run = tmp_path / "run"
    pid = _start(runner, run, corpora)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (run / "checkpoint_5").exists():
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    assert runner.status(pid) == -signal.SIGKILL, runner.said(run)
    assert runner.status(_start(runner, run, corpora, LEARNING_RATE=0.5, LOG_PERIOD=2)) == 1
    refusal = runner.said(run).rsplit("ConfigChangedError", 1)[1]
    assert re.search(r"steps of another configuration: LEARNING_RATE: \S+ -> 0\.5\. Use", refusal)
    said = runner.finish(_start(runner, run, corpora), run)
    assert "continuing" in said
    assert "done after step 30" in said
    lines = metrics_file.read_metrics(run)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 31))
    (evaluated,) = (line for line in lines if "loss" not in line)
    assert evaluated["step"] == 30
    assert 0 <= evaluated["eval/arith_zero_shot_cot_v1/accuracy"] <= 100
    assert checkpoints.load_model(run).step == 30
    _check_description(run)


def _check_description(run):
    """Checks what the folder says about its run: configuration, code, packages, devices, data, starts."""
    config = (run / "config.gin").read_text()
    assert "TRAIN_STEPS = 30" in config
    assert "loop.train.total_steps = %TRAIN_STEPS" in config.replace("\\\n    ", "")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["code"].keys() == {"version", "commit", "dirty"}
    assert manifest["code"]["version"] == cotdistill_jax.__version__
    assert manifest["packages"]["jax"] == jax.__version__
    topology = manifest["topology"]
    assert (topology["platform"], topology["num_hosts"]) == ("cpu", 1)
    assert len(topology["devices"]) == topology["num_devices"] == topology["mesh"]["data"]
    data = manifest["data"]["arith_zero_shot_cot_v1"]
    assert data["examples"] > 0
    ((name, checksum),) = data["sha256"].items()
    assert name.startswith("arith-train.tfrecord")
    assert re.fullmatch(r"[0-9a-f]{64}", checksum)
    starts = [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]
    assert len(starts) == 2
    assert starts[0]["step"] == 0
    assert starts[1]["step"] >= 5


@pytest.mark.slow
def test_errors_of_the_command_line_name_the_mistake(tmp_path, runner, corpora):
    assert runner.status(_start(runner, tmp_path / "a", corpora, TRAIN_STPES=5)) == 1
    assert "did you mean TRAIN_STEPS" in runner.said(tmp_path / "a")
    assert runner.status(_start(runner, tmp_path / "b", tmp_path / "no_corpora")) == 1
    assert "scripts/build_corpus.py --corpus=arith" in runner.said(tmp_path / "b")
