"""kill -9 at random moments, also while a checkpoint is written: the end is that of a run nobody touched, to the bit.

The real command line runs in processes forked from one that has imported it, which saves the seconds that importing takes.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import tensorflow as tf
from flax import traverse_util
from tensorboard.compat.proto import event_pb2

from cotdistill_jax.checkpoints import t5x_legacy
from cotdistill_jax.train import metrics_file, metrics_log

ROOT = pathlib.Path(__file__).parents[2]
FORKING = """
    import json, os, sys
    from cotdistill_jax.train import __main__ as command
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.argv = request["argv"]
            command.main()
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)
"""
FILES = ("gin/defaults.gin", "gin/models/tiny.gin", "gin/runs/finetune.gin")
MACROS = {
    "MIXTURE_OR_TASK_NAME": "'toy_mixture'", "TASK_FEATURE_LENGTHS": "{'inputs': 96, 'targets': 32}",
    "EMB_DIM": 16, "NUM_HEADS": 2, "HEAD_DIM": 8, "MLP_DIM": 32, "NUM_LAYERS": 1, "BATCH_SIZE": 4,
    "DROPOUT_RATE": 0.1, "LOG_PERIOD": 3, "SAVE_PERIOD": 4, "KEEP_CHECKPOINTS": 2, "WARMUP_STEPS": 4,
    "COUNT_EXAMPLES": 0,
}  # fmt: skip
TIMES = ("steps_per_second", "tokens_per_second")


class Runner:
    """Starts the command in forked processes."""

    def __init__(self, folder, modules):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(FORKING)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{modules}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, model_dir, **macros):
        """Returns the process id of a started run."""
        macros = {
            **MACROS,
            "MODEL_DIR": f"'{model_dir}'",
            "COMPILATION_CACHE_DIR": f"'{self.folder / 'compiled'}'",
            **macros,
        }
        arguments = [
            "train",
            "--module_import=toy_tasks",
            *(f"--gin_file={file}" for file in FILES),
            *(f"--gin.{name}={value}" for name, value in macros.items()),
        ]
        request = {"argv": arguments, "output": f"{model_dir}.log"}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def status(self):
        """Waits for the run and returns its exit status, negative for a signal."""
        return os.waitstatus_to_exitcode(int(self.process.stdout.readline()))


@pytest.fixture(scope="module")
def runner(tmp_path_factory, toy_tasks):
    runner = Runner(tmp_path_factory.mktemp("kill"), toy_tasks)
    yield runner
    runner.process.stdin.close()
    runner.process.wait(timeout=60)


def _last_line(run):
    lines = metrics_file.read_metrics(run) if (run / metrics_file.METRICS_FILE).exists() else []
    return int(lines[-1]["step"]) if lines else 0


def _half_written(run):
    return list(run.glob("checkpoint_*-tmp*"))


def _kill_at_random(runner, run, rng, during_write, **macros):
    """Returns whether a checkpoint was half written when the run was killed."""
    before = _last_line(run)
    pid = runner.start(run, **macros)
    # A continued run first takes back the lines after its checkpoint.
    target = max(before - MACROS["SAVE_PERIOD"], 0) + rng.randint(1, 12)
    deadline = time.monotonic() + 300
    started = (run / "starts.jsonl").stat().st_size if (run / "starts.jsonl").exists() else 0
    while time.monotonic() < deadline:
        starts = run / "starts.jsonl"
        if starts.exists() and starts.stat().st_size > started and _last_line(run) >= target:
            break
        time.sleep(0.002)
    while during_write and not _half_written(run) and time.monotonic() < deadline:
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.02 if during_write else 0.15))
    half_written = bool(_half_written(run))
    os.kill(pid, signal.SIGKILL)
    assert runner.status() == -signal.SIGKILL, pathlib.Path(f"{run}.log").read_text()[-3000:]
    return half_written


def _events(run):
    found = []
    for path in (run / metrics_log.EVENTS_FOLDER).glob("events*"):
        for record in tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator():
            event = event_pb2.Event.FromString(record)
            found += [(event.step, value.tag) for value in event.summary.value]
    return sorted(found)


def _lines(run):
    lines = metrics_file.read_metrics(run)
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def _check_equal(whole, killed, steps):
    for part in ("target", "state"):
        trees = [
            traverse_util.flatten_dict(t5x_legacy.read(str(run / f"checkpoint_{steps}"), part))
            for run in (whole, killed)
        ]
        assert trees[0].keys() == trees[1].keys()
        for name, leaf in trees[0].items():
            np.testing.assert_array_equal(leaf, trees[1][name], err_msg=str(name))
    assert _lines(whole) == _lines(killed)
    assert _events(whole) == _events(killed)
    assert len(_events(whole)) == len(set(_events(whole)))
    assert sorted(path.name for path in whole.glob("checkpoint_*")) == sorted(
        path.name for path in killed.glob("checkpoint_*")
    )


def _kill_many(runner, folder, kills, seed, **macros):
    steps = kills * 12 + 12
    macros = {"TRAIN_STEPS": steps, **macros}
    whole, killed = folder / "whole", folder / "killed"
    runner.start(whole, **macros)
    assert runner.status() == 0, pathlib.Path(f"{whole}.log").read_text()[-3000:]
    rng = random.Random(seed)
    half_written = sum(
        _kill_at_random(runner, killed, rng, number % 2 == 1, **macros) for number in range(kills)
    )
    runner.start(killed, **macros)
    assert runner.status() == 0, pathlib.Path(f"{killed}.log").read_text()[-3000:]
    _check_equal(whole, killed, steps)
    starts = (killed / "starts.jsonl").read_text().splitlines()
    assert len(starts) == kills + 1
    return half_written


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(runner, tmp_path):
    # COTDISTILL_KILLS=20 for the long version, a quarter of an hour on two busy cores.
    kills = int(os.environ.get("COTDISTILL_KILLS", "3"))
    half_written = _kill_many(
        runner, tmp_path, kills, seed=int(os.environ.get("COTDISTILL_KILL_SEED", "0"))
    )
    print(f"{kills} kills, {half_written} of them while a checkpoint was half written")
    assert half_written >= 1
