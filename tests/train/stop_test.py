"""SIGTERM to one process of two or to both: while the step is compiled, in an evaluation, in a save, while one waits for data, between steps;
and while a start prepares.

One run is stopped again and again, and ends as the run that nobody touched, to the bit. COTDISTILL_STOPS=24 for the long version, four of
each: to either process, to both, and twice to the second; half an hour on two free cores.
"""

import os
import pathlib
import random
import re
import shutil
import signal
import socket
import time

import numpy as np
import pytest
from flax import traverse_util

from cotdistill_jax import checkpoints
from cotdistill_jax.checkpoints import t5x_legacy
from cotdistill_jax.train import metrics_file, run_time

pytestmark = [pytest.mark.multihost, pytest.mark.slow]

GRACE_SECONDS = 30  # what clouds and clusters give at least
NEVER = 1_000_000
# Lines of many files, and a metric, so that SeqIO evaluates.
TASKS = """\
import faulthandler, os, signal
import jax, seqio, tensorflow as tf
from cotdistill_jax import corpus, features

jax.config.update("jax_log_compiles", True)
faulthandler.register(signal.SIGUSR1)  # says where a process is that does not end

def examples(split, shuffle_files, seed=None):
    folder = os.environ["STOP_TEST_DATA"]
    names = sorted(os.listdir(folder)) if split == "train" else ["part_000"]
    lines = tf.data.Dataset.from_tensor_slices([os.path.join(folder, name) for name in names]).flat_map(tf.data.TextLineDataset)
    return lines.map(lambda line: {"inputs": line, "targets": line})

vocabulary = seqio.SentencePieceVocabulary(str(corpus.arith_vocabulary()), extra_ids=0)
seqio.TaskRegistry.add(
    "stop_test", source=seqio.FunctionDataSource(examples, splits=["train", "validation"]),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos, features.guard_lengths],
    output_features=features.text_features(vocabulary), metric_fns=[lambda targets, predictions: {"seen": len(targets)}])
"""
MACROS = {
    "MIXTURE_OR_TASK_NAME": "'stop_test'", "BATCH_SIZE": 64, "DROPOUT_RATE": 0.1, "LOG_PERIOD": 1, "SAVE_PERIOD": NEVER,
    "TRAIN_STEPS": NEVER, "MESH_SHAPE": "(1, 2, 1)", "EVAL_FEATURE_LENGTHS": "{'inputs': 64, 'targets': 64}",
    "EVAL_NUM_EXAMPLES": 128, "EVAL_BATCH_SIZE": 8, "EVAL_PERIOD": None,
}  # fmt: skip
# What a start is asked for, so that its moment comes.
AT = {
    "compilation": {"COMPILATION_CACHE_DIR": None},
    "evaluation": {"EVAL_PERIOD": 1},
    "save": {"SAVE_PERIOD": 2},
    "data": {},
    "between": {},
    "start": {},
}
TO = ("0", "1", "01", "11")


class Pair:
    """Two processes of one device, each with a folder of the same data."""

    def __init__(self, runner, run, folders, macros):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        self._runner = runner
        self.logs = [pathlib.Path(f"{run}.{index}") for index in (0, 1)]
        self.begun = time.monotonic()
        self.pids = []
        for index in (0, 1):
            flags = (
                "--module_import=stop_tasks", "--allow_config_changes", f"--coordinator_address={address}",
                "--process_count=2", f"--process_index={index}",
            )  # fmt: skip
            environment = {
                "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
                "STOP_TEST_DATA": os.fspath(folders[index]),
            }
            macros = {**MACROS, "MODEL_DIR": f"'{run}'", **macros}
            pid = runner.start_toy(self.logs[index], flags, environment, "constant", **macros)
            self.pids.append(pid)

    def said(self, index):
        return self._runner.said(self.logs[index])

    def finish(self, status=0):
        """Waits until both have ended, each with this exit status; returns the seconds until each had."""
        ended, asked = {}, set()
        since = time.monotonic()
        while len(ended) < 2:
            assert time.monotonic() < since + 300, [self.said(index)[-3000:] for index in (0, 1)]
            for pid in self.pids:
                state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                if state == "Z":
                    ended.setdefault(pid, time.monotonic() - since)
                elif pid not in asked and time.monotonic() > since + GRACE_SECONDS / 2:
                    asked.add(pid)
                    os.kill(pid, signal.SIGUSR1)
            time.sleep(0.01)
        for index, pid in enumerate(self.pids):
            assert self._runner.status(pid) == status, self.said(index)[-4000:]
        return [ended[pid] for pid in self.pids]


def _wait_for(condition, what):
    deadline = time.monotonic() + 500
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.001)


def _lines(run):
    return [line for line in metrics_file.read_metrics(run) if "loss" in line]


def _step(run):
    lines = _lines(run)
    return int(lines[-1]["step"]) if lines else 0


def _reach(moment, pair, run, folder, rng):
    """Waits for a moment of a start."""
    first = max(checkpoints.list_steps(run), default=0) if run.exists() else 0
    begun = len(run_time.read(run))
    if moment == "start":
        _wait_for(lambda: len(run_time.read(run)) > begun, "the start is written down")
        time.sleep(rng.uniform(0, 0.2))
        return
    bar = re.compile(rf"\| {first}/{NEVER}")
    _wait_for(lambda: bar.search(pair.said(0)), "the loop begins")
    if moment == "compilation":
        offset = bar.search(pair.said(0)).end()
        compiled = "Finished XLA compilation of jit(step)"
        _wait_for(lambda: "Compiling jit(step)" in pair.said(0)[offset:], "a compilation")
        time.sleep(rng.uniform(0, 0.5))
        assert compiled not in pair.said(0)[offset:]
        return
    if moment == "evaluation":
        _wait_for(lambda: _step(run) > first, "a step to evaluate after")
        time.sleep(rng.uniform(1, 8))
        return
    _wait_for(lambda: first + 1 < _step(run), "two steps")
    if moment == "save":
        _wait_for(lambda: list(run.glob("checkpoint_*-tmp*")), "half a checkpoint")
    if moment == "data":
        for path in folder.iterdir():
            path.unlink()
            os.mkfifo(path)
        before = -1
        while before < _step(run):
            before = _step(run)
            time.sleep(1.5)
    time.sleep(rng.uniform(0, 0.05))


def _stop(moment, to, runner, run, folders, data, rng):
    """Starts the run and stops it; returns a line that says how long its end took."""
    pair = Pair(runner, run, folders, AT[moment])
    stalled = folders[int(to[0])]
    _reach(moment, pair, run, stalled, rng)
    for index in to:
        os.kill(pair.pids[int(index)], signal.SIGTERM)
    step = _step(run)
    seconds = pair.finish(os.EX_TEMPFAIL)
    if moment == "data":
        shutil.rmtree(stalled)
        shutil.copytree(data, stalled)
    stopped = max(checkpoints.list_steps(run), default=0)
    for index in (0, 1):
        said = f"stopped; run the same command to continue after step {stopped}:"
        if moment == "start":
            said = "stopped by SIGTERM before the first step of this start"
        assert said in pair.said(index)
    said = f"stopped by SIGTERM after step {stopped} of {NEVER}; its checkpoint is saved"
    if not stopped:
        said = f"stopped by SIGTERM before the first of {NEVER} steps"
    assert moment == "start" or said in pair.said(0)
    assert max(seconds) < GRACE_SECONDS
    assert step <= stopped <= step + 3
    if moment == "data":
        assert stopped == step
    if moment == "compilation":
        assert stopped - step <= 1
    if moment == "evaluation":
        assert not any(
            line["step"] == stopped and "loss" not in line
            for line in metrics_file.read_metrics(run)
        )
    return f"{moment:11} SIGTERM to {to:2}: {seconds[0]:5.2f} {seconds[1]:5.2f} s, {stopped - step} steps after it"


def _arrays(run, step):
    folder = str(run / f"checkpoint_{step}")
    trees = [
        traverse_util.flatten_dict(t5x_legacy.read(folder, part)) for part in ("target", "state")
    ]
    return {(part, *name): leaf for part, tree in enumerate(trees) for name, leaf in tree.items()}


def test_a_run_of_two_processes_ends_well_wherever_a_signal_comes(runner, toy_tasks, tmp_path):
    (toy_tasks / "stop_tasks.py").write_text(TASKS)
    rng = random.Random(0)
    data = tmp_path / "data"
    data.mkdir()
    for number in range(60):
        lines = [f"{rng.randrange(10**6)} + {rng.randrange(10**6)}" for _ in range(50)]
        (data / f"part_{number:03}").write_text("\n".join(lines) + "\n")
    folders = [tmp_path / "data_0", tmp_path / "data_1"]
    for folder in folders:
        shutil.copytree(data, folder)
    run, whole = tmp_path / "run", tmp_path / "whole"
    count = int(os.environ.get("COTDISTILL_STOPS", "6"))
    trials = [
        (moment, TO[(first + number) % 4]) for first in range(4) for number, moment in enumerate(AT)
    ]
    trials = trials[:count]
    for moment, to in trials:
        print(_stop(moment, to, runner, run, folders, data, rng), flush=True)
    steps = max(checkpoints.list_steps(run), default=0) + 3
    Pair(runner, run, folders, {"TRAIN_STEPS": steps}).finish()
    Pair(runner, whole, folders, {"TRAIN_STEPS": steps}).finish()
    ours, theirs = _arrays(run, steps), _arrays(whole, steps)
    assert ours.keys() == theirs.keys()
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=str(name))
    assert [(line["step"], line["loss"]) for line in _lines(run)] == [
        (line["step"], line["loss"]) for line in _lines(whole)
    ]
    print(run_time.in_words(run_time.read(run)))
    starts = run_time.read(run)
    ended = [None if moment == "start" else "stopped" for moment, _ in trials]
    assert [start.ended for start in starts] == [*ended, "done"]
    assert sum(start.lost_steps for start in starts) == 0
