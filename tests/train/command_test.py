"""`python -m cotdistill_jax.train` as a user types it: embedded corpus, shipped leaf, kill, resume, errors."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from cotdistill_jax import checkpoints
from cotdistill_jax.corpus import arith
from cotdistill_jax.train import metrics_file

ROOT = pathlib.Path(__file__).parents[2]
FILES = ("--gin_file=gin/experiments/arith_quickstart.gin", "--gin_file=gin/runs/finetune.gin")
TINY = {
    "EMB_DIM": 16, "NUM_HEADS": 2, "HEAD_DIM": 8, "MLP_DIM": 32, "NUM_LAYERS": 1,
    "WARMUP_STEPS": 1, "COUNT_EXAMPLES": 10, "LOG_PERIOD": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    arith.Arith(data_dir=folder).download_and_prepare()
    return folder


def _start(model_dir, corpora, **bindings):
    macros = {**TINY, "MODEL_DIR": f"'{model_dir}'", **bindings}
    arguments = [*FILES, *(f"--gin.{name}={value}" for name, value in macros.items())]
    return subprocess.Popen(
        [sys.executable, "-m", "cotdistill_jax.train", *arguments],
        cwd=ROOT,
        env={**os.environ, "COTDISTILL_TFDS_DIR": str(corpora)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _run(model_dir, corpora, **bindings):
    process = _start(model_dir, corpora, **bindings)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


@pytest.mark.slow
def test_killed_run_is_continued_by_the_same_command(tmp_path, corpora):
    run = tmp_path / "run"
    settings = {
        **{"TRAIN_STEPS": 60, "SAVE_PERIOD": 5, "EVAL_PERIOD": 60, "EVAL_NUM_EXAMPLES": 4},
        **{"EVAL_MIXTURE_OR_TASK_NAME": "'arith_zero_shot_cot_v1'", "EVAL_BATCH_SIZE": 4},
    }
    process = _start(run, corpora, **settings)
    while process.poll() is None and not (run / "checkpoint_10").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    status, output = _run(run, corpora, **settings)
    assert status == 0, output[-2000:]
    assert "continuing" in output
    assert "done after step 60" in output
    lines = metrics_file.read_metrics(run)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 61))
    (evaluated,) = (line for line in lines if "loss" not in line)
    assert evaluated["step"] == 60
    assert 0 <= evaluated["eval/arith_zero_shot_cot_v1/accuracy"] <= 100
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["packages"]["jax"]
    assert "TRAIN_STEPS = 60" in (run / "config.gin").read_text()
    assert checkpoints.load_model(run).step == 60


@pytest.mark.slow
def test_errors_of_the_command_line_name_the_mistake(tmp_path, corpora):
    status, output = _run(tmp_path / "a", corpora, TRAIN_STPES=5)
    assert status != 0
    assert "did you mean TRAIN_STEPS" in output
    status, output = _run(tmp_path / "b", tmp_path / "no_corpora", TRAIN_STEPS=2)
    assert status != 0
    assert "scripts/build_corpus.py --corpus=arith" in output
