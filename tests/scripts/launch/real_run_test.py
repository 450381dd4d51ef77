"""The real runner in two processes behind the stand-ins: preempted twice, a process killed; it ends with the bits of a run nobody touched."""

import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from flax import traverse_util

from cotdistill_jax.checkpoints import t5x_legacy
from cotdistill_jax.train import metrics_file

pytestmark = pytest.mark.multihost

STEPS = 60
MACROS = {
    "MIXTURE_OR_TASK_NAME": "'toy_a'", "TASK_FEATURE_LENGTHS": "{'inputs': 96, 'targets': 32}", "TRAIN_STEPS": STEPS, "BATCH_SIZE": 8,
    "EMB_DIM": 16, "NUM_HEADS": 2, "HEAD_DIM": 8, "MLP_DIM": 32, "NUM_LAYERS": 1, "DROPOUT_RATE": 0.1, "COUNT_EXAMPLES": 0,
    "LOG_PERIOD": 1, "SAVE_PERIOD": 5, "WARMUP_STEPS": 2, "KEEP_CHECKPOINTS": None, "COMPILATION_CACHE_DIR": None,
}  # fmt: skip
TIMES = ("steps_per_second", "tokens_per_second")
DEVICES = "--env=XLA_FLAGS=--xla_force_host_platform_device_count=4"
SLICE = (
    "--name=run",
    "--zone=us-west4-a",
    "--type=v5p-16",
    "--poll_seconds=1",
    "--first_wait_seconds=1",
    "--spot",
    DEVICES,
)


def _flags(run):
    files = ("defaults", "schedules/constant", "models/tiny", "runs/finetune")
    return [
        "--module_import=toy_tasks", *(f"--gin_file=gin/{name}.gin" for name in files),
        *(f"--gin.{name}={value}" for name, value in {**MACROS, "MODEL_DIR": f"'{run}'"}.items()),
    ]  # fmt: skip


def _last_step(run):
    lines = metrics_file.read_metrics(run) if run.exists() else []
    return int(lines[-1]["step"]) if lines else 0


def _wait_for_step(run, step, process):
    deadline = time.monotonic() + 400
    while _last_step(run) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"at step {_last_step(run)}"
        time.sleep(0.02)


def _results(run):
    lines = [
        {k: v for k, v in line.items() if k not in TIMES} for line in metrics_file.read_metrics(run)
    ]
    trees = [
        t5x_legacy.read(str(run / f"checkpoint_{STEPS}"), part) for part in ("target", "state")
    ]
    return lines, [traverse_util.flatten_dict(tree) for tree in trees]


def _check_same(run, undisturbed):
    lines, trees = _results(run)
    expected, whole = undisturbed
    assert lines == expected
    for tree, other in zip(trees, whole, strict=True):
        assert tree.keys() == other.keys()
        for name, leaf in other.items():
            np.testing.assert_array_equal(tree[name], leaf, err_msg=str(name))


@pytest.fixture(scope="module")
def toys(modules):
    """The toy tasks of the tests that train, where the machines can import them."""
    path = pathlib.Path(__file__).parents[2] / "train" / "conftest.py"
    spec = importlib.util.spec_from_file_location("train_conftest", path)
    shared = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shared)
    (modules / "toy_tasks.py").write_text(shared.TOY_TASKS)
    return modules


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, repository, toys):
    """Lines and parameters of the same command in two processes, started by hand."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"--coordinator_address=localhost:{free.getsockname()[1]}"
    environment = {
        **os.environ, "PYTHONPATH": f"{repository}:{toys}", "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": DEVICES.removeprefix("--env=XLA_FLAGS="),
    }  # fmt: skip
    flags = (*_flags(folder / "run"), address, "--process_count=2")
    processes = [
        subprocess.Popen([sys.executable, "-m", "cotdistill_jax.train", *flags, f"--process_index={index}"], env=environment, cwd=repository)
        for index in (0, 1)
    ]  # fmt: skip
    assert [process.wait(timeout=500) for process in processes] == [0, 0]
    return _results(folder / "run")


@pytest.mark.slow
def test_a_spot_slice_preempted_twice_with_a_killed_process_gives_the_same_bits(
    world, tmp_path, toys, undisturbed
):
    run = tmp_path / "run"
    process = world.start("tpu_vm.py", "run", *SLICE, "--", *_flags(run))
    for step in (12, 31):
        _wait_for_step(run, step, process)
        world.preempt()
    _wait_for_step(run, 44, process)
    trainers = [
        pid
        for pid in world.processes(1)
        if b"cotdistill_jax.train" in _command(pid) and b"supervise" not in _command(pid)
    ]
    os.kill(trainers[0], signal.SIGKILL)
    out, error = process.communicate(timeout=900)
    assert process.returncode == 0, out + error
    assert out.count("queued resource SUSPENDED; asking anew") == 2
    assert "worker 1: waiting" in out or world.status(1)["starts"] > 1
    starts = [json.loads(line)["step"] for line in (run / "starts.jsonl").read_text().splitlines()]
    assert len(starts) >= 4
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert "doctor: commit " in out
    _check_same(run, undisturbed)
    again = world.call("tpu_vm.py", "run", *SLICE, "--", *_flags(run), timeout=300)
    assert again.code == 0
    assert "it is there on all hosts; watching" in again.out


def _command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


@pytest.mark.slow
def test_a_slurm_job_at_its_time_limit_gives_the_same_bits(world, tmp_path, toys, undisturbed):
    run = tmp_path / "run"
    flags = (
        "--name=run",
        "--nodes=2",
        "--gpus_per_node=0",
        f"--jobs_dir={tmp_path}/jobs",
        DEVICES,
        "--grace_seconds=60",
    )
    log = tmp_path / "jobs" / "run.log"
    assert world.call("slurm.py", "submit", *flags, "--", *_flags(run)).code == 0
    deadline = time.monotonic() + 400
    while _last_step(run) < 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(world.read()["pid"], signal.SIGTERM)  # --signal=B:TERM@60
    while not world.read().get("requeued"):
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)
    said = log.read_text()
    assert " terminated: by SIGTERM" in said
    stopped = max(int(path.name[11:]) for path in run.glob("checkpoint_*"))
    assert f"train: stopped; run the same command to continue after step {stopped}" in said
    world.change(jobs=[], job="4712")
    assert world.call("slurm.py", "submit", *flags, "--", *_flags(run)).code == 0
    while " done: after 1 starts" not in log.read_text():
        assert time.monotonic() < deadline + 400, log.read_text()[-3000:]
        time.sleep(0.1)
    assert f"train: done after step {STEPS}" in log.read_text()
    _check_same(run, undisturbed)


@pytest.mark.slow
def test_the_doctor_looks_at_every_host_before_anything_trains(world, tmp_path, toys):
    run = tmp_path / "run"
    wrong = (*_flags(run), "--gin.MESH_SHAPE=(3, 1, 1)")
    done = world.call("tpu_vm.py", "run", *SLICE, "--", *wrong, timeout=300)
    assert done.code == 1
    for worker in (0, 1):
        assert (
            f"worker {worker}: doctor: mesh: gin: MESH_SHAPE = (3, 1, 1) for 8 devices" in done.out
        )
    assert "MESH_SHAPE = None chooses; (data, fsdp, model) that fit: (1, 4, 2)" in done.out
    assert not (run / "starts.jsonl").exists()
    for worker in (0, 1):  # files that somebody copied there, and not the same ones
        (world.folder / f"worker_{worker}" / "cotdistill_jax" / "local.gin").write_text(
            f"TRAIN_STEPS = {90 + worker}\n"
        )
    done = world.call(
        "tpu_vm.py", "run", *SLICE, "--", *_flags(run), "--gin_file=local.gin", timeout=300
    )
    assert done.code == 1
    assert (
        "launch: the hosts differ in commit or configuration: {'0': 'doctor: commit" in done.error
    )
    assert not (run / "starts.jsonl").exists()
