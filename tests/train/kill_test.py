"""kill -9 at random moments, also while a checkpoint is written: the end is that of a run nobody touched, to the bit.

The real command line runs, in forked processes.
"""

import os
import random
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from flax import traverse_util
from tensorboard.compat.proto import event_pb2

from cotdistill_jax.checkpoints import t5x_legacy
from cotdistill_jax.train import metrics_file, metrics_log, run_time

MACROS = {
    "BATCH_SIZE": 4, "DROPOUT_RATE": 0.1, "LOG_PERIOD": 3, "SAVE_PERIOD": 4, "KEEP_CHECKPOINTS": 2, "WARMUP_STEPS": 4,
}  # fmt: skip
TIMES = ("steps_per_second", "tokens_per_second")


def _last_line(run):
    lines = metrics_file.read_metrics(run)
    return int(lines[-1]["step"]) if lines else 0


def _half_written(run):
    return list(run.glob("checkpoint_*-tmp*"))


def _kill_at_random(runner, run, rng, during_write, **macros):
    """Returns whether a checkpoint was half written when the run was killed."""
    before = _last_line(run)
    pid = runner.start_toy(run, **macros)
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
    assert runner.status(pid) == -signal.SIGKILL, runner.said(run)[-3000:]
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
    macros = {**MACROS, "TRAIN_STEPS": steps, **macros}
    whole, killed = folder / "whole", folder / "killed"
    runner.finish(runner.start_toy(whole, **macros), whole)
    rng = random.Random(seed)
    half_written = sum(
        _kill_at_random(runner, killed, rng, number % 2 == 1, **macros) for number in range(kills)
    )
    runner.finish(runner.start_toy(killed, **macros), killed)
    _check_equal(whole, killed, steps)
    starts = (killed / "starts.jsonl").read_text().splitlines()
    assert len(starts) == kills + 1
    times = run_time.read(killed)
    assert [start.ended for start in times] == [None] * kills + ["done"]
    assert all("lost" in start.seconds for start in times[:-1])
    assert 0 < sum(start.lost_steps for start in times) <= kills * 12
    assert "compiled again" not in runner.said(whole) + runner.said(killed)
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
